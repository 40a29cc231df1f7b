"""Find the hidden state to pool: the encoder's token embeddings ``[batch, seq, hidden]``."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from graphsurgery.encoder.head import head_steps
from graphsurgery.encoder.roles import IDS_NAMES, is_ids_like, roles_of
from graphsurgery.encoder.tables import find_tables
from graphsurgery.encoder.width import last_dim
from graphsurgery.errors import NameNotFoundError, NothingToPoolError
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import NORMS, SCALING, operator
from graphsurgery.interface import Dim, Interface, Value, interface_of, value_of
from graphsurgery.model.dtypes import FLOATS
from graphsurgery.model.model import Model

LOG = logging.getLogger(__name__)
KNOWN_NAMES = ("last_hidden_state", "token_embeddings", "hidden_states")
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
"""A word in a name: ``start_logits``, ``startLogits``."""
SCORES = re.compile(r"\w*(?:logits|probs)|scores|start|end")
"""Words in the names of outputs that are predictions, not embeddings."""


@dataclass(frozen=True)
class HiddenState:
    """A value of the graph to pool. ``dtype`` is 0 and ``width`` None where only a run can tell."""

    name: str
    dtype: int
    batch: Dim
    sequence: Dim
    width: int | None


@dataclass(frozen=True)
class Sought:
    """The value that is looked for, as messages speak of it."""

    option: str = "--hidden-state"
    """The option of the command line that names it."""
    dims: str = "[batch, seq, hidden]"
    advice: str = ""
    """The advice if it is not found; empty: the option, and the values that it could name."""


HIDDEN = Sought()


def find_hidden_state(model: Model, name: str | None = None, ids: str | None = None, *, sought: Sought = HIDDEN) -> HiddenState:
    """Find the value to pool.

    It is looked for in this order: ``name``; an output of a well-known name that a recorded edit of tokens made; an output of a
    well-known name; the only rank-3 float output whose sequence dim is the ids' and whose width is not the vocabulary. ``ids``
    names the input of token ids.

    Raises NameNotFoundError if ``name`` is not in the graph, NothingToPoolError, which lists the candidates, if nothing fits.
    """
    graph = Graph.of(model)
    outputs = {value.name: value for value in model.interface.outputs}
    if name is None:
        made = [step.parameters.get("output_name") for step in reversed(head_steps(model))]
        name = next((one for one in made if one in KNOWN_NAMES and one in outputs and _fits(outputs[one])), None)
        name = name or next((known for known in KNOWN_NAMES if known in outputs and _fits(outputs[known])), None)
        name = name or _only_candidate(model, graph, ids, sought)
    elif graph.value(name) is None:
        raise NameNotFoundError(f"there is no value {name!r} in the graph", *_advice(model, graph, ids, sought))
    if graph.tensor(graph.value(name)) is not None:
        raise NothingToPoolError(f"{name!r} is a constant, the same for every text", *_advice(model, graph, ids, sought))
    declared = outputs.get(name) or _declared(model, name)
    if declared is not None and declared.rank not in (3, None):
        what = f"{declared} has rank {declared.rank}; what is pooled is {sought.dims}"
        raise NothingToPoolError(what, *_advice(model, graph, ids, sought))
    if declared is not None and declared.dtype and declared.dtype not in FLOATS:
        raise NothingToPoolError(f"{declared} holds no floats", *_advice(model, graph, ids, sought))
    dims = declared.dims if declared is not None and declared.dims is not None else (None, None, None)
    dtype = declared.dtype if declared is not None else onnx.TensorProto.UNDEFINED
    batch = dims[0] if name in outputs and dims[0] is not None else _batch_dim(model.interface)
    return HiddenState(name, dtype, batch, dims[1], last_dim(graph, graph.value(name)))


def names_scores(name: str) -> bool:
    """Whether a word of ``name`` says that the value is a prediction."""
    return any(SCORES.fullmatch(word.lower()) for word in WORD.findall(name))


def hidden_candidates(model: Model, ids: str | None = None) -> list[str]:
    """Outputs that could be pooled by the third rule, and values inside the graph that normalise over the hidden dim."""
    graph = Graph.of(model)
    return _output_candidates(model, graph, ids) or _inner_candidates(graph)


def _only_candidate(model: Model, graph: Graph, ids: str | None, sought: Sought) -> str:
    candidates = _output_candidates(model, graph, ids)
    if len(candidates) == 1:
        return candidates[0]
    found = ", ".join(map(str, model.interface.outputs)) or "no output"
    what = "more than one output could be pooled" if candidates else f"no output is {sought.dims}"
    raise NothingToPoolError(f"{what}; the model gives {found}", *_advice(model, graph, ids, sought))


def _output_candidates(model: Model, graph: Graph, ids: str | None) -> list[str]:
    sequence = _sequence_dim(model.interface, ids)
    vocabulary = find_tables(model, roles_of(model.interface, ids)).vocabulary
    return [
        value.name
        for value in model.interface.outputs
        if _fits(value)
        and value.rank == 3
        and not names_scores(value.name)
        and (sequence is None or value.dims is None or value.dims[1] in (sequence, None))
        and (vocabulary is None or last_dim(graph, graph.value(value.name)) != vocabulary)
    ]


def _inner_candidates(graph: Graph) -> list[str]:
    """Outputs of the last normalisations in the graph: where a model with a head still has its hidden state."""
    found = [node.outputs[0].name or "" for node in graph.nodes if _normalises(graph, node)]
    return found[:-4:-1]


def _normalises(graph: Graph, node: ir.Node) -> bool:
    """Return whether a node is a norm, or the last step of one that was exported in pieces (times scale, plus bias)."""
    if operator(node) in NORMS:
        return True
    sources = [graph.origin(value) for value in node.inputs if value is not None]
    tensors = [tensor for value in sources if (tensor := graph.tensor(value)) is not None]
    before = [made for value in sources if (made := value.producer()) is not None]
    has_vector = any(len(tensor.dims) == 1 for tensor in tensors)
    return operator(node) == "Add" and has_vector and any(operator(one) in SCALING for one in before)


def _advice(model: Model, graph: Graph, ids: str | None, sought: Sought) -> tuple[str, tuple[str, ...]]:
    """Return the advice of an error, and the options that it names."""
    if sought.advice:
        return sought.advice, (sought.option,)
    could = _output_candidates(model, graph, ids) or _inner_candidates(graph)
    named = f"name the hidden state with {sought.option}"
    if could:
        return f"{named}; it could be {', '.join(could)}", (sought.option,)
    return f"{named} (inspect shows the graph's outputs), or export the encoder without its head", (sought.option,)


def _fits(value: Value) -> bool:
    return value.dtype in FLOATS and value.rank in (3, None)


def _sequence_dim(interface: Interface, ids: str | None) -> Dim:
    named = [ids] if ids else list(IDS_NAMES)
    for value in interface.inputs:
        if value.name in named and is_ids_like(value) and value.dims is not None:
            return value.dims[1]
    return next((value.dims[1] for value in interface.inputs if is_ids_like(value) and value.dims is not None), None)


def _batch_dim(interface: Interface) -> Dim:
    """Return the inputs' name for the batch dim, because shape inference makes up names."""
    return next((value.dims[0] for value in interface.inputs if value.dims and value.dims[0] is not None), None)


def _declared(model: Model, name: str) -> Value | None:
    """Return an inner value as the graph, or else onnx's type inference, declares it."""
    for info in (*model.proto.graph.value_info, *model.proto.graph.input):
        if info.name == name:
            return value_of(info)
    return infer_values(model).output(name)


def infer_values(model: Model) -> Interface:
    """Return the graph's values as onnx's shape inference sees them, as outputs of an interface; none where it fails."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model.proto)
    for tensor in copy.graph.initializer:
        if model.document.payloads.find(tensor) is not None:
            tensor.ClearField("raw_data")
    try:
        done = onnx.shape_inference.infer_shapes(copy)
    except Exception as error:  # inference raises several types; without it a run has to tell
        LOG.debug("onnx cannot infer the types and dims of the graph: %s", error)
        return Interface((), ())
    graph = onnx.GraphProto(output=done.graph.value_info)
    return interface_of(graph)
