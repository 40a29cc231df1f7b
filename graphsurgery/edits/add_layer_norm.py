"""add-layer-norm: layer normalisation of an embedding."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from graphsurgery.deferred import gs
from graphsurgery.edits.draft_operators import Operators
from graphsurgery.edits.edit import PATH, Resolved, parameter, require_opset, resolved_parameter
from graphsurgery.edits.module_weights import ModuleWeights, layer_parameter
from graphsurgery.edits.outputs import OutputEdit, build_output, find_target, target_parameter, warn_of_pooling
from graphsurgery.interface import Value
from graphsurgery.model.draft import Draft
from graphsurgery.model.model import Model

SCALE, SHIFT = "norm.weight", "norm.bias"
EPSILON = 1e-5
"""Added to the variance, as torch.nn.LayerNorm's default."""


def layer_norm(ops: Operators, x: gs.Tensor, scale: np.ndarray, shift: np.ndarray) -> gs.Variable:
    """Build (x - mean) / sqrt(var + 1e-5) * scale + shift over the last dim; var is the mean of squares of x - mean.

    The mean is subtracted twice. Its rounding error in float32 is the same in every dim. If all values of x are nearly equal,
    that error is large compared with x - mean. The second subtraction removes it.
    """
    size = ops.constant(len(scale), np.float32, "size")
    mean = ops.node("Div", ops.reduce_sum(x, -1, "sum", keepdims=True), size, name="mean")
    nearly = ops.node("Sub", x, mean, name="nearly_centred")
    rest = ops.node("Div", ops.reduce_sum(nearly, -1, "rest_sum", keepdims=True), size, name="rest")
    centred = ops.node("Sub", nearly, rest, name="centred")
    squares = ops.reduce_sum(ops.node("Mul", centred, centred, name="squares"), -1, "sum_of_squares", keepdims=True)
    variance = ops.node("Div", squares, size, name="variance")
    deviation = ops.node(
        "Sqrt", ops.node("Add", variance, ops.constant(EPSILON, np.float32, "epsilon"), name="raised"), name="deviation"
    )
    scaled = ops.node(
        "Mul", ops.node("Div", centred, deviation, name="normal"), ops.constant(scale, np.float32, "scale"), name="scaled"
    )
    return ops.node("Add", scaled, ops.constant(shift, np.float32, "shift"), name="layer_norm")


@dataclass(frozen=True)
class Norm:
    """A layer normalisation, and the output that it is applied to. ``scale`` and ``shift`` are ``[dim]``."""

    target: Value
    scale: np.ndarray
    shift: np.ndarray


@dataclass(frozen=True)
class AddLayerNorm(OutputEdit[Norm]):
    """Append layer normalisation: ``y = (x - mean) / sqrt(var + 1e-5) * scale + shift`` over the last dim, float32.

    scale and shift ``[dim]`` are ``norm.weight`` and ``norm.bias`` of a model folder's LayerNorm module. With a layer they are
    its ``weight`` and ``bias`` in the weights of a whole model; without a bias the shift is 0. The result equals that of
    sentence-transformers' LayerNorm module and of torch.nn.LayerNorm (arXiv 1607.06450).
    """

    weights: str = parameter(
        "The LayerNorm module's folder, or its weights file: norm.weight and norm.bias, [dim] each.", "", PATH, required=True
    )
    target: str | None = target_parameter()
    layer: str | None = layer_parameter()
    width: int = resolved_parameter(0)
    digests: tuple[str, ...] = resolved_parameter(())

    def resolve(self, model: Model) -> Resolved[Self, Norm]:
        """Find target and weights. Raises RequestError, WeightsError, NameNotFoundError, UnsupportedModelError."""
        require_opset(model, self.verb)
        target = find_target(model, self.target, "normalised")
        weights = ModuleWeights(model, self.weights, self.verb, self.layer)
        scale = weights.take(SCALE, (None,))
        is_alone = self.layer is None  # sentence-transformers' module always has a shift
        shift = weights.take(SHIFT, scale.shape) if is_alone else weights.take_optional(SHIFT, scale.shape)
        weights.check(self.digests)
        weights.check_width(target, SCALE)
        edit = replace(self, weights=weights.place, target=target.name, width=len(scale), digests=weights.digests)
        norm = Norm(target, scale, np.zeros_like(scale) if shift is None else shift)
        return Resolved(edit, norm, (f"layer normalisation of {target.name}", *warn_of_pooling(model, target.name)))

    def change(self, draft: Draft, found: Norm) -> None:
        ops = Operators(draft, "graphsurgery/layer_norm")
        build_output(
            draft, found.target, found.target.name, ops, lambda x: layer_norm(ops, x, found.scale, found.shift),
            last=len(found.scale),
        )  # fmt: skip
