"""Activations as ONNX operators: every class of ``torch.nn`` that can be named without arguments, with torch's defaults.

``x [..., dim]`` float32 -> ``[..., dim]`` float32; `glu` halves dim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from graphsurgery.deferred import gs
from graphsurgery.edits.draft_operators import Operators
from graphsurgery.errors import RequestError
from graphsurgery.interface import Value

Activation: TypeAlias = "Callable[[Operators, gs.Tensor], gs.Variable]"
RRELU_SLOPE = (1 / 8 + 1 / 3) / 2
"""RReLU's slope in evaluation. In training it is random."""


def _single(op: str, **attributes: Any) -> Activation:
    return lambda ops, x: ops.node(op, x, name=op.lower(), **attributes)


def _clip(low: float, high: float) -> Activation:
    def build(ops: Operators, x: gs.Tensor) -> gs.Variable:
        return ops.node("Clip", x, ops.constant(low, np.float32, "low"), ops.constant(high, np.float32, "high"), name="clip")

    return build


def _multiply_by(gate: Activation) -> Activation:
    """x * gate(x)"""
    return lambda ops, x: ops.node("Mul", x, gate(ops, x), name="gated")


def gelu(ops: Operators, x: gs.Tensor) -> gs.Variable:
    """x * (1 + erf(x / sqrt 2)) / 2"""
    erf = ops.node("Erf", ops.node("Div", x, ops.constant(np.sqrt(2.0), np.float32, "sqrt2"), name="scaled"), name="erf")
    gate = ops.node("Add", erf, ops.constant(1.0, np.float32, "one"), name="plus_one")
    return ops.node("Mul", ops.node("Mul", x, gate, name="gated"), ops.constant(0.5, np.float32, "half"), name="gelu")


def logsigmoid(ops: Operators, x: gs.Tensor) -> gs.Variable:
    """-log(1 + exp(-x))"""
    return ops.node("Neg", ops.node("Softplus", ops.node("Neg", x, name="negated"), name="softplus"), name="logsigmoid")


def mish(ops: Operators, x: gs.Tensor) -> gs.Variable:
    """x * tanh(log(1 + exp(x)))"""
    return ops.node("Mul", x, ops.node("Tanh", ops.node("Softplus", x, name="softplus"), name="tanh"), name="mish")


def tanhshrink(ops: Operators, x: gs.Tensor) -> gs.Variable:
    """x - tanh(x)"""
    return ops.node("Sub", x, ops.node("Tanh", x, name="tanh"), name="tanhshrink")


def glu(ops: Operators, x: gs.Tensor, half: int) -> gs.Variable:
    """a * sigmoid(b); a and b are the halves of the last dim, ``half`` values each."""
    ends = [ops.constant([place], np.int64, f"at_{place}") for place in (0, half, 2 * half)]
    axis = ops.constant([-1], np.int64, "axis")
    first = ops.node("Slice", x, ends[0], ends[1], axis, name="first_half")
    second = ops.node("Slice", x, ends[1], ends[2], axis, name="second_half")
    return ops.node("Mul", first, ops.node("Sigmoid", second, name="sigmoid"), name="glu")


def softmin(ops: Operators, x: gs.Tensor) -> gs.Variable:
    """softmax(-x) over the last dim"""
    return ops.node("Softmax", ops.node("Neg", x, name="negated"), name="softmin", axis=-1)


ACTIVATIONS: dict[str, Activation] = {
    "identity": _single("Identity"),
    "relu": _single("Relu"),
    "relu6": _clip(0, 6),
    "leakyrelu": _single("LeakyRelu", alpha=0.01),
    "rrelu": _single("LeakyRelu", alpha=RRELU_SLOPE),
    "elu": _single("Elu", alpha=1.0),
    "celu": _single("Elu", alpha=1.0),
    "selu": _single("Selu"),
    "gelu": gelu,
    "silu": _multiply_by(_single("Sigmoid")),
    "mish": mish,
    "sigmoid": _single("Sigmoid"),
    "logsigmoid": logsigmoid,
    "hardsigmoid": _single("HardSigmoid", alpha=1 / 6, beta=0.5),
    "hardswish": _multiply_by(_single("HardSigmoid", alpha=1 / 6, beta=0.5)),
    "tanh": _single("Tanh"),
    "hardtanh": _clip(-1, 1),
    "tanhshrink": tanhshrink,
    "hardshrink": _single("Shrink", lambd=0.5, bias=0.0),
    "softshrink": _single("Shrink", lambd=0.5, bias=0.5),
    "softplus": _single("Softplus"),
    "softsign": _single("Softsign"),
    "softmax": _single("Softmax", axis=-1),
    "softmin": softmin,
    "logsoftmax": _single("LogSoftmax", axis=-1),
}
"""Every activation by the lower-case name of its class in ``torch.nn``."""
OVER_LAST_DIM = frozenset({"softmax", "softmin", "logsoftmax"})
"""Activations over the last dim. For a vector per token, torch computes them over the batch."""


def parse_activation(spec: str, others: Sequence[str] = ()) -> str:
    """Return the canonical name of an activation: ``tanh`` for ``Tanh``, ``nn.Tanh`` and ``torch.nn.modules.activation.Tanh``.

    ``others`` are accepted besides `ACTIVATIONS`. Raises RequestError for any other name.
    """
    path = spec.strip()
    name, known = path.rpartition(".")[2], {*ACTIVATIONS, *others}
    if name.lower() not in known or not (path == name or path.startswith(("nn.", "torch.nn."))):
        raise RequestError(
            f"the activation {spec!r} is not known",
            f"choose one of torch.nn that needs no arguments: {', '.join(sorted(known))}",
        )
    return name.lower()


def check_rank(activation: str, target: Value) -> None:
    """Raise RequestError for an activation over the last dim of anything but ``[batch, dim]``."""
    if activation in OVER_LAST_DIM and target.rank != 2:
        raise RequestError(f"torch would compute {activation} of {target} over the batch", "choose another activation")
