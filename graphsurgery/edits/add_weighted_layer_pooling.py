"""add-weighted-layer-pooling: a weighted mean of the encoder's hidden layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import onnx

from graphsurgery.deferred import gs
from graphsurgery.edits.draft_operators import FLOAT, Operators
from graphsurgery.edits.edit import PATH, Resolved, parameter, require_opset, resolved_parameter
from graphsurgery.edits.module_weights import ModuleWeights
from graphsurgery.edits.outputs import (
    TOKENS,
    OutputEdit,
    TokenTarget,
    build_output,
    check_not_repeated,
    choose_name,
    find_tokens,
    keep_target_parameter,
    output_name_parameter,
    tokens_parameter,
)
from graphsurgery.encoder.hidden_layers import find_last_sum, find_layers_by_name, find_layers_by_structure
from graphsurgery.encoder.hidden_state import infer_values, make_missing_value_error
from graphsurgery.errors import FolderError, RequestError, UnsupportedModelError, WeightsError
from graphsurgery.folders.files import DOWNLOAD, read_setting
from graphsurgery.folders.module_configs import read_module_config
from graphsurgery.graph.graph import Graph
from graphsurgery.interface import Value
from graphsurgery.model.draft import Draft
from graphsurgery.model.dtypes import FLOATS
from graphsurgery.model.model import Model

CONFIG, WEIGHTS = "config.json", "layer_weights"
BEFORE_NORM = "--before-norm takes it before the final normalisation, as transformers 4 does for ModernBERT"


def weighted_mean(ops: Operators, layers: Sequence[gs.Tensor], weights: np.ndarray) -> gs.Variable:
    """Build sum(w_i x_i) / sum w: every ``x_i [batch, seq, dim]`` float32, ``weights [layers]``."""
    w = ops.constant(weights, np.float32, "weights")
    shares = ops.node("Div", w, ops.reduce_sum(w, 0, "total", keepdims=True), name="shares")
    parts = []
    for place, x in enumerate(layers):
        share = ops.node("Gather", shares, ops.constant([place], np.int64, "place"), name="share", axis=0)
        parts.append(ops.node("Mul", x, share, name="part"))
    return ops.node("Sum", *parts, name="tokens")


def split_names(text: str) -> tuple[str, ...]:
    """Split names that are separated by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def find_layers(
    model: Model, target: TokenTarget, asked: str | None, wanted: int, unnormalised: bool
) -> tuple[tuple[str, ...], list[str]]:
    """Return the names of ``wanted`` hidden layers, the embeddings' output first, and notes on them.

    They are the ``asked`` ones, else the model's numbered outputs, else those found by structure before ``target``, the last
    hidden state. Raises NameNotFoundError if the graph has no value of a name; UnsupportedModelError, which lists the layers,
    if there are more or fewer.
    """
    graph, notes = Graph.of(model), []
    given = split_names(asked) if asked is not None else find_layers_by_name(model.interface)
    end = graph.value(target.name)
    layers = find_layers_by_structure(graph, end) if end is not None and not given else ()
    found = given or tuple(value.name or "" for value in layers)
    stream = find_last_sum(graph, layers) if layers else None
    last = None if stream is None or stream.value is None else stream.value.name
    if last is not None:
        notes.append(f"the last hidden layer is taken {'before' if unnormalised else 'after'} the final normalisation")
        notes += [] if unnormalised else [BEFORE_NORM]
    if unnormalised:
        found = (*found[:-1], _require_before_norm(last, found))
    missing = [name for name in found if graph.value(name) is None]
    if missing:
        raise make_missing_value_error(graph, missing[0], "name hidden layers with --layers")
    if len(found) != wanted:
        what = f"the config asks for {wanted} hidden layers (num_hidden_layers + 1), and {len(found)} were found"
        raise UnsupportedModelError(
            f"{what}: {', '.join(found)}", "name them all with --layers, the embeddings' output first, separated by commas"
        )
    return found, notes


def _require_before_norm(last: str | None, found: tuple[str, ...]) -> str:
    if last is None:
        what = f"there is no final normalisation after {found[-1]!r}, or the layers were named"
        raise RequestError(what, "leave out --before-norm")
    return last


def _check_hidden_layers(known: Mapping[str, Value], names: tuple[str, ...]) -> None:
    """Raise RequestError if a layer is known not to be floats of rank 3."""
    for value in (known[name] for name in names if name in known):
        if value.rank not in (3, None) or value.dtype not in (*FLOATS, onnx.TensorProto.UNDEFINED):
            what = f"{value} is not a hidden layer: floats [batch, seq, hidden] are needed"
            raise RequestError(what, "name others with --layers")


@dataclass(frozen=True)
class WeightedLayers:
    """The hidden layers that have a weight, and these weights."""

    target: TokenTarget
    weights: np.ndarray
    names: tuple[str, ...]
    in_float32: frozenset[str]
    """The layers that are known to be float32."""


@dataclass(frozen=True)
class AddWeightedLayerPooling(OutputEdit[WeightedLayers]):
    """Take a weighted mean of the hidden layers: ``x_i [batch, seq, dim]`` -> ``token_embeddings [batch, seq, dim]`` float32.

    ``y = sum(w_i x_i) / sum w`` over the hidden layers from ``layer_start`` on; layer 0 is the embeddings' output. w is
    ``layer_weights`` of a model folder's WeightedLayerPooling module. The result equals that of sentence-transformers' module
    on transformers' hidden states. The layers are the outputs named ``hidden_states.<n>`` if the export has them, else they are
    found by the graph's structure.
    """

    weights: str = parameter(
        "The WeightedLayerPooling module's folder: its config.json and layer_weights [layers].", "", PATH, required=True
    )
    layers: str | None = parameter(
        "The names of all hidden layers, the output of the embeddings first.",
        None,
        "NAME[,NAME...]",
        takes=str | Sequence[str] | None,
        otherwise="the hidden layers found in the graph",
    )
    before_norm: bool = parameter("Take the last hidden layer before the encoder's final normalisation.", False)
    target: str | None = tokens_parameter("The last hidden state, an output.")
    output_name: str = output_name_parameter(TOKENS)
    keep_target: bool = keep_target_parameter()
    layer_start: int = resolved_parameter(0)
    width: int = resolved_parameter(0)
    digests: tuple[str, ...] = resolved_parameter(())

    def resolve(self, model: Model) -> Resolved[Self, WeightedLayers]:
        """Find target, layers and weights.

        Raises WeightsError, FolderError, NothingToPoolError, NameNotFoundError, RequestError, WeightsDifferError, and
        UnsupportedModelError if the number of layers differs from the config's.
        """
        require_opset(model, self.verb)
        target = find_tokens(model, self.target)
        weights, start = self._read_weights(model)
        check_not_repeated(model, self.verb, weights.digests)
        tensor = weights.tensors[WEIGHTS]
        names, notes = find_layers(model, target, self.layers, start + len(tensor), self.before_norm)
        values = (*infer_values(model).outputs, *model.interface.outputs, *model.interface.inputs)
        known = {value.name: value for value in values}
        _check_hidden_layers(known, names)
        edit = replace(
            self, weights=weights.place, layers=",".join(names), before_norm=False, target=target.name, width=target.width,
            output_name=choose_name(model, self.output_name, target.name, self.keep_target), layer_start=start,
            digests=weights.digests,
        )  # fmt: skip
        float32 = frozenset(name for name in names if name in known and known[name].dtype == FLOAT)
        found = WeightedLayers(target, tensor, names[start:], float32)
        return Resolved(edit, found, (f"a weighted mean of {', '.join(names[start:])}", *notes))

    def _read_weights(self, model: Model) -> tuple[ModuleWeights, int]:
        """Return the weights, one for each layer from the config's layer_start on, and layer_start."""
        weights = ModuleWeights(model, self.weights, self.verb)
        path, config = read_module_config(weights.path, CONFIG)
        if config is None:
            raise FolderError(f"the file {path} does not exist", "give the module's folder, with its config.json")
        defaults = (("num_hidden_layers", 12), ("layer_start", 4))
        layers, start = (read_setting(config, key, int, path, default) for key, default in defaults)
        if not 0 <= start <= layers:
            raise FolderError(f"{path} has num_hidden_layers: {layers} and layer_start: {start}", DOWNLOAD)
        found = weights.take(WEIGHTS, (layers + 1 - start,))
        if not abs(float(np.sum(found, dtype=np.float64))) > 1e-3 * float(np.sum(np.abs(found), dtype=np.float64)):
            raise WeightsError(f"{weights.path}: {WEIGHTS} add up to about 0, so their mean cannot be computed", DOWNLOAD)
        weights.check(self.digests)
        return weights, start

    def change(self, draft: Draft, found: WeightedLayers) -> None:
        ops = Operators(draft, "graphsurgery/layer_pooling")
        layers = [(name, draft.tensor(name)) for name in found.names]
        cast = [x if name in found.in_float32 else ops.cast(x, FLOAT, "float32") for name, x in layers]
        build_output(
            draft, found.target.value, self.output_name, ops, lambda _: weighted_mean(ops, cast, found.weights),
            last=self.width, keep=self.keep_target,
        )  # fmt: skip
