"""The hidden layers that an edit asks for: named, found by name, or found by the structure of the graph."""

from __future__ import annotations

import onnx
import onnx_graphsurgeon as gs

from graphsurgery.edits.operators import FLOAT, Operators
from graphsurgery.edits.token_targets import TokenTarget
from graphsurgery.encoder.hidden_layers import before_norm, layers_by_name, layers_by_structure
from graphsurgery.encoder.hidden_state import infer_values
from graphsurgery.errors import NameNotFoundError, RequestError, UnsupportedModelError
from graphsurgery.graph.graph import Graph
from graphsurgery.interface import Value
from graphsurgery.model.dtypes import FLOATS
from graphsurgery.model.model import Model

BEFORE_NORM = "--before-norm takes the last one before the final normalisation, as transformers 4 gives it for ModernBERT"


def named_layers(text: str) -> tuple[str, ...]:
    """Values separated by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def find_layers(
    model: Model, target: TokenTarget, names: str | None, wanted: int, unnormalised: bool
) -> tuple[tuple[str, ...], list[str]]:
    """(``wanted`` hidden layers, the embeddings' output first, all float ``[batch, seq, hidden]``; notes): those of ``names``,
    else the model's numbered outputs, else those found behind ``target``, the last hidden state.

    NameNotFoundError for a name that is no value of the graph, RequestError for one that is no hidden layer,
    UnsupportedModelError, listing what was found, where there are more or fewer.
    """
    graph, notes = Graph.of(model), []
    given = named_layers(names) if names is not None else layers_by_name(model.interface)
    end = graph.value(target.name)
    layers = layers_by_structure(graph, end) if end is not None and not given else ()
    found = given or tuple(value.name or "" for value in layers)
    stream = before_norm(graph, layers)
    last = None if stream is None else stream.name
    if last is not None:
        notes.append(f"the last hidden layer is taken {'before' if unnormalised else 'after'} the final normalisation")
        notes += [] if unnormalised else [BEFORE_NORM]
    if unnormalised:
        found = (*found[:-1], _require(last, found))
    missing = [name for name in found if graph.value(name) is None]
    if missing:
        raise NameNotFoundError(f"there is no value {missing[0]!r} in the graph", "name hidden layers with --layers")
    if len(found) != wanted:
        what = f"the config asks for {wanted} hidden layers (num_hidden_layers + 1), and {len(found)} were found"
        raise UnsupportedModelError(
            f"{what}: {', '.join(found)}", "name them all with --layers, the embeddings' output first, separated by commas"
        )
    _check_types(model, found)
    return found, notes


def _require(last: str | None, found: tuple[str, ...]) -> str:
    if last is None:
        what = f"{found[-1]!r} is not normalised once more behind the last layer"
        raise RequestError(f"{what}, or was named", "leave out --before-norm")
    return last


def _check_types(model: Model, names: tuple[str, ...]) -> None:
    """RequestError where a layer is known to be anything but floats of rank 3."""
    known = _known(model)
    for value in (known[name] for name in names if name in known):
        if value.rank not in (3, None) or value.dtype not in (*FLOATS, onnx.TensorProto.UNDEFINED):
            what = f"{value} is no hidden layer: floats [batch, seq, hidden] are needed"
            raise RequestError(what, "name others with --layers")


def layers_in_float32(ops: Operators, model: Model, names: tuple[str, ...]) -> list[gs.Tensor]:
    """The values ``names``, cast where they are not known to be float32."""
    known = {name for name, value in _known(model).items() if value.dtype == FLOAT}
    tensors = [ops.draft.tensor(name) for name in names]
    return [x if name in known else ops.cast(x, FLOAT, "float32") for name, x in zip(names, tensors, strict=True)]


def _known(model: Model) -> dict[str, Value]:
    """The values whose type is declared or inferred, by name."""
    values = (*infer_values(model).outputs, *model.interface.outputs, *model.interface.inputs)
    return {value.name: value for value in values}
