"""add-activation: y = activation(x). The activations of torch.nn in numpy and float64, ``[..., dim]`` -> ``[..., dim]``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx

from graphsurgery.interface import Dim, Value
from graphsurgery.references.reference import (
    Array,
    Expected,
    Known,
    Parameters,
    Reference,
    compute_tolerance,
    find_value,
    replace_target,
    require_known,
    resize,
)
from graphsurgery.references.rounding import EPSILON, expect_rounded, magnitude

STEEPEST = {"logsoftmax": 2.0, "selu": 1.76, "hardswish": 1.5, "gelu": 1.13, "silu": 1.1, "mish": 1.09}
"""The steepest slope of each activation whose slope exceeds 1 somewhere. GLU and jumps are not counted."""
JUMPS = {"hardshrink": 0.5}
"""Activations that jump, and |x| at the jump."""
OVER_ALL = ("softmax", "softmin", "logsoftmax")
"""Activations in which every dim depends on every other dim."""


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1 + np.tanh(0.5 * x))


def _softplus(x: Array) -> Array:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _expm1_below_zero(x: Array) -> Array:
    """Return exp(x) - 1 where x is negative, else 0."""
    return np.expm1(np.minimum(x, 0))


def _erf(x: Array) -> Array:
    return np.array([math.erf(one) for one in x.ravel()]).reshape(x.shape)


def _softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _log_softmax(x: Array) -> Array:
    shifted = x - x.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def glu(x: Array) -> Array:
    """Return a * sigmoid(b), where a and b are the halves of the last dim."""
    return x[..., : x.shape[-1] // 2] * _sigmoid(x[..., x.shape[-1] // 2 :])


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "identity": lambda x: x,
    "relu": lambda x: np.where(x > 0, x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "leakyrelu": lambda x: np.where(x < 0, 0.01 * x, x),
    "rrelu": lambda x: np.where(x < 0, 11 / 48 * x, x),
    "elu": lambda x: np.where(x > 0, x, _expm1_below_zero(x)),
    "celu": lambda x: np.maximum(x, 0) + _expm1_below_zero(x),
    "selu": lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * _expm1_below_zero(x)),
    "gelu": lambda x: x * 0.5 * (1 + _erf(x / math.sqrt(2))),
    "silu": lambda x: x * _sigmoid(x),
    "mish": lambda x: x * np.tanh(_softplus(x)),
    "sigmoid": _sigmoid,
    "logsigmoid": lambda x: -_softplus(-x),
    "hardsigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
    "hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "tanh": np.tanh,
    "hardtanh": lambda x: np.clip(x, -1, 1),
    "tanhshrink": lambda x: x - np.tanh(x),
    "hardshrink": lambda x: np.where(np.abs(x) > 0.5, x, 0),
    "softshrink": lambda x: np.sign(x) * np.maximum(np.abs(x) - 0.5, 0),
    "softplus": _softplus,
    "softsign": lambda x: x / (1 + np.abs(x)),
    "softmax": _softmax,
    "softmin": lambda x: _softmax(-x),
    "logsoftmax": _log_softmax,
    "glu": glu,
}


def propagate_errors(activation: str, z: Array, errors: Array) -> Array:
    """Return the errors that ``errors`` in z cause in ``activation(z)``, as if it did not jump."""
    if activation in OVER_ALL:
        errors = np.broadcast_to(np.max(errors, axis=-1, keepdims=True, initial=0), errors.shape)
    if activation == "glu":
        half = z.shape[-1] // 2
        return errors[..., :half] + magnitude(z[..., :half]) / 4 * errors[..., half:]  # a sigmoid rises by 1/4 at most
    return STEEPEST.get(activation, 1.0) * errors


def expect_activated(activation: str, z: Array, y: Array, promised: Array, own: Array, grown: Array) -> Expected:
    """Expect ``y``, made of ``activation(z)``, as `expect_rounded` does.

    If the activation jumps, every tolerance is widened by the jump where z is within that tolerance of it.
    """
    expected = expect_rounded(y, promised, own, grown)
    jump = JUMPS.get(activation)
    if jump is None:
        return expected
    distance = np.abs(np.abs(z) - jump)
    tolerance, promised, rounding = (
        np.where(distance <= one, jump + one, one) for one in (expected.tolerance, promised, own + grown)
    )
    return Expected(y, tolerance, rounding, promised=promised)


def _read(parameters: Parameters) -> Parameters:
    require_known("activation", parameters["activation"], ACTIVATIONS)
    return parameters


def _compute(parameters: Parameters, known: Known) -> list[Expected]:
    x, activation = known[parameters["target"]], parameters["activation"]
    y = ACTIVATIONS[activation](x)
    own = EPSILON * np.maximum(1, magnitude(y))
    grown = propagate_errors(activation, x, known.get_rounding(parameters["target"]))
    return [expect_activated(activation, x, y, compute_tolerance(y), own, grown)]


def _declare_outputs(parameters: Parameters, before: Sequence[Value], batch: Dim) -> list[Value]:
    declared = find_value(before, parameters["target"])
    last = declared.dims[-1] if declared is not None and declared.dims else None
    return replace_target(parameters, before, resize(declared, parameters["output_name"], onnx.TensorProto.FLOAT, last))


REFERENCE = Reference(
    reads=lambda p: [p["target"]],
    makes=lambda p: [p["output_name"]],
    value=_compute,
    outputs=_declare_outputs,
    read=_read,
)
