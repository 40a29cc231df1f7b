"""add-weighted-layer-pooling: a weighted mean of the encoder's hidden layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.contracts import present
from graphsurgery.edits.edit import PATH, GraphEdit, parameter, require_opset, settled
from graphsurgery.edits.hidden_layers import find_layers, layers_in_float32, named_layers
from graphsurgery.edits.module_weights import ModuleWeights
from graphsurgery.edits.operators import Operators
from graphsurgery.edits.targets import ensure_only, put_in_place
from graphsurgery.edits.token_targets import TOKENS, check_not_repeated, settled_tokens_name, token_target
from graphsurgery.errors import FolderError, WeightsError
from graphsurgery.folders.files import DOWNLOAD, setting
from graphsurgery.folders.module_config import module_config
from graphsurgery.interface import Interface
from graphsurgery.model.draft import Draft
from graphsurgery.model.model import Model

CONFIG, WEIGHTS = "config.json", "layer_weights"


def weighted_mean(ops: Operators, layers: Sequence[gs.Tensor], weights: np.ndarray) -> gs.Variable:
    """sum(w_i x_i) / sum w: every ``x_i [batch, seq, dim]`` float32, ``weights [layers]``."""
    w = ops.constant(weights, np.float32, "weights")
    shares = ops.node("Div", w, ops.reduce_sum(w, 0, "total", keepdims=True), name="shares")
    parts = []
    for place, x in enumerate(layers):
        share = ops.node("Gather", shares, ops.constant([place], np.int64, "place"), name="share", axis=0)
        parts.append(ops.node("Mul", x, share, name="part"))
    return ops.node("Sum", *parts, name="tokens")


@dataclass(frozen=True)
class AddWeightedLayerPooling(GraphEdit):
    """Take a weighted mean of the hidden layers: ``x_i [batch, seq, dim]`` -> ``token_embeddings [batch, seq, dim]`` float32.

    ``y = sum(w_i x_i) / sum w`` over the hidden layers from ``layer_start`` on, 0 being the embeddings' output; w is
    ``layer_weights`` of a model folder's WeightedLayerPooling module. As sentence-transformers' module on transformers' hidden
    states: outputs named ``hidden_states.<n>`` where the export has them, else found by the graph's structure.
    """

    weights: str = parameter(
        "The WeightedLayerPooling module's folder: its config.json and layer_weights [layers].", "", PATH, required=True
    )
    layers: str | None = parameter(
        "The names of all hidden layers, the output of the embeddings first.",
        None,
        "NAME[,NAME...]",
        takes=str | Sequence[str] | None,
        otherwise="the hidden layers that the graph shows",
    )
    before_norm: bool = parameter("Take the last hidden layer before the encoder's final normalisation.", False)
    target: str | None = parameter(
        "The last hidden state, an output.", None, "NAME", otherwise="the hidden state that the graph shows"
    )
    output_name: str = parameter("The name of the result.", TOKENS, "NAME")
    keep_target: bool = parameter("Keep the target as an output as well.", False)
    layer_start: int = settled(0)
    width: int = settled(0)
    digests: tuple[str, ...] = settled(())

    def resolve(self, model: Model) -> tuple[AddWeightedLayerPooling, tuple[str, ...]]:
        """Settle target, layers and weights.

        Raises WeightsError, FolderError, NothingToPoolError, NameNotFoundError, RequestError, WeightsDifferError, and
        UnsupportedModelError where other layers are found than the config counts.
        """
        require_opset(model, self.verb)
        target = token_target(model, self.target)
        weights, start = self._weights(model)
        check_not_repeated(model, self.verb, weights.digests)
        count = start + len(weights.tensors[WEIGHTS])
        layers, notes = find_layers(model, target, self.layers, count, self.before_norm)
        resolved = replace(
            self, weights=weights.place, layers=",".join(layers), before_norm=False, target=target.name, width=target.width,
            output_name=settled_tokens_name(model, self.output_name, target, self.keep_target), layer_start=start,
            digests=weights.digests,
        )  # fmt: skip
        return resolved, (f"a weighted mean of {', '.join(layers[start:])}", *notes)

    def _weights(self, model: Model) -> tuple[ModuleWeights, int]:
        """(one weight for every layer from the config's layer_start on, that start)"""
        weights = ModuleWeights(model, self.weights, self.verb)
        path, config = module_config(weights.path, CONFIG)
        if config is None:
            raise FolderError(f"{path} is not there", "give the module's folder, with its config.json")
        defaults = (("num_hidden_layers", 12), ("layer_start", 4))
        layers, start = (setting(config, key, int, path, default) for key, default in defaults)
        if not 0 <= start <= layers:
            raise FolderError(f"{path} has num_hidden_layers: {layers} and layer_start: {start}", DOWNLOAD)
        found = weights.take(WEIGHTS, (layers + 1 - start,))
        if not abs(float(np.sum(found, dtype=np.float64))) > 1e-3 * float(np.sum(np.abs(found), dtype=np.float64)):
            raise WeightsError(f"{weights.path}: {WEIGHTS} cancel each other: nothing can be divided by their sum", DOWNLOAD)
        weights.check(self.digests)
        return weights, start

    def change(self, draft: Draft, model: Model) -> None:
        target = token_target(model, self.target)
        weights, _ = self._weights(model)
        ops = Operators(draft, "graphsurgery/layer_pooling")
        layers = layers_in_float32(ops, model, named_layers(present(self.layers, "layers"))[self.layer_start :])
        put_in_place(
            draft, target.value, self.output_name, ops,
            lambda _: weighted_mean(ops, layers, weights.tensors[WEIGHTS]), last=self.width, keep=self.keep_target,
        )  # fmt: skip

    def ensure(self, before: Interface, after: Interface) -> None:
        super().ensure(before, after)
        ensure_only(self.verb, before, after, present(self.target, "target"), [self.output_name])
