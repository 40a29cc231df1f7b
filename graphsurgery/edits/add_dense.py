"""add-dense: a linear layer with an activation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import onnx

from graphsurgery.deferred import gs
from graphsurgery.edits.activation_graph import ACTIVATIONS, check_rank, glu, parse_activation
from graphsurgery.edits.draft_operators import Operators
from graphsurgery.edits.edit import PATH, Resolved, parameter, require_opset, resolved_parameter
from graphsurgery.edits.module_weights import ModuleWeights, layer_parameter
from graphsurgery.edits.outputs import (
    OutputEdit,
    build_output,
    choose_name,
    find_target,
    keep_target_parameter,
    output_name_parameter,
    target_parameter,
    warn_of_pooling,
)
from graphsurgery.encoder.hidden_state import SearchTarget, find_hidden_state
from graphsurgery.encoder.roles import find_roles
from graphsurgery.errors import WeightsError, require_value
from graphsurgery.folders.module_configs import IDENTITY, DenseConfig, read_dense_config
from graphsurgery.interface import Value
from graphsurgery.model.draft import Draft
from graphsurgery.model.model import Model
from graphsurgery.remarks import Warn

WEIGHT, BIAS, RESIDUAL, SLOPE = "linear.weight", "linear.bias", "residual.weight", "activation_function.weight"
GLU, PRELU = "glu", "prelu"


def linear(ops: Operators, x: gs.Tensor, weight: np.ndarray, bias: np.ndarray | None) -> gs.Variable:
    """Build x Wt + b: ``x [..., in]``, ``weight [out, in]``, ``bias [out]`` -> ``[..., out]``."""
    product = ops.node("MatMul", x, ops.constant(weight.T, np.float32, "weight"), name="product")
    return product if bias is None else ops.node("Add", product, ops.constant(bias, np.float32, "bias"), name="sum")


def dense(ops: Operators, x: gs.Tensor, weights: ModuleWeights, activation: str, residual: bool) -> gs.Variable:
    """Build activation(x Wt + b). With a residual, add x, or x Rt if the file has a residual weight R."""
    tensors = weights.tensors
    y = linear(ops, x, tensors[WEIGHT], tensors.get(BIAS))
    if activation != IDENTITY:
        y = _activate(ops.within(activation), y, activation, weights)
    if not residual:
        return y
    bypass = linear(ops.within("residual"), x, tensors[RESIDUAL], None) if RESIDUAL in tensors else x
    return ops.node("Add", y, bypass, name="with_residual")


def _activate(ops: Operators, y: gs.Tensor, activation: str, weights: ModuleWeights) -> gs.Variable:
    if activation == PRELU:
        return ops.node("PRelu", y, ops.constant(weights.tensors[SLOPE], np.float32, "slope"), name="prelu")
    if activation == GLU:
        return glu(ops, y, len(weights.tensors[WEIGHT]) // 2)
    return ACTIVATIONS[activation](ops, y)


@dataclass(frozen=True)
class Layer:
    """A linear layer, and the output that it is applied to."""

    target: Value
    weights: ModuleWeights
    activation: str

    @property
    def width(self) -> int:
        """The last dim of the result."""
        return len(self.weights.tensors[WEIGHT]) // (2 if self.activation == GLU else 1)


@dataclass(frozen=True)
class AddDense(OutputEdit[Layer]):
    """Append a linear layer with an activation: ``y = activation(x Wt + b)``, ``[..., in]`` -> ``[..., out]`` float32.

    W ``[out, in]`` and b ``[out]`` are ``linear.weight`` and ``linear.bias`` of a model folder's Dense module, read without
    PyTorch; with a layer they are its ``weight`` and ``bias`` in the weights of a whole model. The result equals that of
    sentence-transformers' Dense module; with a residual, that of PyLate's: ``y = activation(x Wt + b) + x``, or ``+ x Rt`` if
    the file has R ``[out, in]``, ``residual.weight``.
    """

    weights: str = parameter(
        "The Dense module's folder, or its model.safetensors or pytorch_model.bin: linear.weight [out, in] and, if there is "
        "one, linear.bias [out].",
        "",
        PATH,
        required=True,
    )
    activation: str | None = parameter(
        "The activation, as torch.nn names it: tanh, gelu, ...",
        None,
        "NAME",
        otherwise="the one in the config.json beside the weights, else none",
    )
    residual: bool = parameter(
        "Add the input to the result, multiplied by residual.weight if the file has one.",
        False,
        otherwise="as the config.json says",
    )
    target: str | None = target_parameter(
        "The output to work on. With --keep-target it may be a value inside the graph, [batch, seq, dim]."
    )
    output_name: str | None = output_name_parameter()
    keep_target: bool = keep_target_parameter()
    layer: str | None = layer_parameter()
    width: int = resolved_parameter(0)
    digests: tuple[str, ...] = resolved_parameter(())

    def resolve(self, model: Model) -> Resolved[Self, Layer]:
        """Find target, activation, residual and weights.

        Raises RequestError (target, activation, names), FolderError and WeightsError (missing, misshapen or unreadable files),
        NameNotFoundError, UnsupportedModelError, WeightsDifferError.
        """
        require_opset(model, self.verb)
        target = self._find_target(model)
        weights = ModuleWeights(model, self.weights, self.verb, self.layer)
        edit, warnings = self._apply_config(weights)
        activation = require_value(edit.activation, "activation")
        check_rank(activation, target)
        edit._take_tensors(weights)
        weights.check_width(target, WEIGHT)
        rows, columns = weights.tensors[WEIGHT].shape
        edit = replace(
            edit, weights=weights.place, target=target.name, width=columns, digests=weights.digests,
            output_name=choose_name(model, self.output_name, target.name, self.keep_target),
        )  # fmt: skip
        plus = ", plus its input" if edit.residual else ""
        note = f"{activation} of a linear layer {columns} -> {rows} on {target.name}{plus}"
        return Resolved(edit, Layer(target, weights, activation), (*warnings, note, *warn_of_pooling(model, target.name)))

    def _find_target(self, model: Model) -> Value:
        """Return the target: an output, or with ``keep_target`` a named value inside the graph, ``[batch, seq, dim]``."""
        if self.target is None or not self.keep_target or model.interface.output(self.target) is not None:
            return find_target(model, self.target, "the input of a dense layer")
        hidden = find_hidden_state(model, self.target, target=SearchTarget(option="--target", dims="[batch, seq, dim]"))
        ids = find_roles(model.interface).ids
        sequence = ids.dims[1] if ids is not None and ids.dims else None  # names of dims inside are invented
        return Value(hidden.name, hidden.dtype or onnx.TensorProto.FLOAT, (hidden.batch, sequence, hidden.width))

    def _apply_config(self, weights: ModuleWeights) -> tuple[Self, list[str]]:
        """Return this edit with the requested activation and residual, or else the config's, and warnings."""
        config = read_dense_config(weights.path) if self.layer is None else DenseConfig()
        activation = parse_activation(self.activation or config.activation, (GLU, PRELU))
        edit = replace(self, activation=activation, residual=self.residual or config.residual)
        warnings: list[str] = []
        if config.named and self.activation and config.activation.rpartition(".")[2].lower() != activation:
            what = f"the module's config says {config.activation}, but {activation} was requested"
            warnings.append(Warn(f"{what}: the vectors will differ"))
        if RESIDUAL in weights and not edit.residual:
            warnings.append(Warn(f"{weights.path} has {RESIDUAL}, which is used only with --residual"))
        return edit, warnings

    def _take_tensors(self, weights: ModuleWeights) -> None:
        """Take the tensors that the edit needs, and check that their shapes fit each other."""
        rows, columns = weights.take(WEIGHT, (None, None)).shape
        weights.take_optional(BIAS, (rows,))
        made = rows // 2 if self.activation == GLU else rows
        if self.activation == GLU and rows % 2:
            raise WeightsError(f"{weights.path}: glu cannot halve {rows} values", "choose another activation")
        if self.residual and weights.take_optional(RESIDUAL, (made, columns)) is None and made != columns:
            what = f"{weights.path}: a residual of {columns} -> {made} needs {RESIDUAL}"
            raise WeightsError(what, "leave out --residual, or give the file that PyLate saved")
        if self.activation == PRELU:
            weights.take(SLOPE, (1,))
        weights.check(self.digests)

    def change(self, draft: Draft, found: Layer) -> None:
        ops = Operators(draft, "graphsurgery/dense")
        build_output(
            draft, found.target, require_value(self.output_name, "output_name"), ops,
            lambda x: dense(ops, x, found.weights, found.activation, self.residual), last=found.width, keep=self.keep_target,
        )  # fmt: skip
