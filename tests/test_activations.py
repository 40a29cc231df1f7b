"""Every activation over a grid: zeros of both signs, where it bends and jumps and right beside that, up to float32's end."""

from __future__ import annotations

import functools
import math

import numpy as np
import onnx
import pytest
from module_folders import saved
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import graphsurgery
from graphsurgery.edits.activation_graph import ACTIVATIONS, OVER_LAST_DIM, parse_activation
from graphsurgery.errors import RequestError
from graphsurgery.references import activation as reference
from graphsurgery.runtime.session import Session

OPSETS = (11, 13, 18, 21)
BENDS = (0.0, 0.5, 1.0, 3.0, 6.0, 20.0)
"""Where activations bend or jump, or where torch goes over to another formula."""
SIZES = (*10.0 ** np.arange(-38, 38), *np.linspace(0.05, 30, 400), float(np.finfo(np.float32).max))
ELEMENTWISE = sorted(set(ACTIVATIONS) - OVER_LAST_DIM)
Array = np.ndarray


def grid() -> Array:
    """``[n, 1]`` float32: every size and both neighbours of every bend, of both signs."""
    bends = np.array(BENDS, dtype=np.float32)
    beside = [np.nextafter(bends, np.float32(end)) for end in (-np.inf, np.inf)]
    found = np.concatenate([bends, *beside, np.array(SIZES, dtype=np.float32)])
    return np.concatenate([found, -found])[:, None]


def logits(seed: int = 0) -> Array:
    """``[n, 7]`` float32: rows of all sizes and shifts, equal ones, and one value above all others."""
    rng = np.random.default_rng(seed)
    rows = [rng.standard_normal((8, 7)) * size + shift for size in (0, 1e-6, 1, 30, 1e4, 1e30) for shift in (0, -50, 50, 1e4)]
    rows.append(np.where(np.eye(7), 100, 0))
    return np.concatenate(rows).astype(np.float32)


@functools.cache
def with_activation(name: str, opset: int, width: int) -> onnx.ModelProto:
    """``y = name(x)``, ``[batch, width]``."""
    infos = [helper.make_tensor_value_info(one, TensorProto.FLOAT, ["batch", width]) for one in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "nothing", infos[:1], infos[1:])
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets))
    return graphsurgery.add_activation(model, name).to_proto()


def expected(name: str, x: Array) -> Array:
    """The reference's value; what float32 cannot hold is its largest, and infinite there."""
    with np.errstate(all="ignore"):
        return reference.ACTIVATIONS[name](x.astype(np.float64))


def check(name: str, x: Array, found: Array) -> None:
    """Within 1e-5 max(1, max|y|) of a row, finite wherever the reference is one of float32's numbers."""
    wanted = expected(name, x)
    held = np.abs(wanted).max(axis=1) <= np.finfo(np.float32).max
    assert held.sum() >= 0.9 * len(held)
    found, wanted = found[held], wanted[held]
    assert found.dtype == np.float32 and np.isfinite(wanted).all() and np.isfinite(found).all()
    apart = np.abs(found - wanted) / np.maximum(np.abs(wanted).max(axis=1, keepdims=True), 1)
    assert apart.max() <= 1e-5, f"{apart.max():.1e} apart at {x[held][np.unravel_index(apart.argmax(), apart.shape)[0]]}"


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_every_activation(name: str, opset: int) -> None:
    x = grid()
    check(name, x, Session(with_activation(name, opset, 1).SerializeToString()).run({"x": x})["y"])


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("name", sorted(OVER_LAST_DIM))
def test_those_over_the_last_dim(name: str, opset: int) -> None:
    x = logits()
    check(name, x, Session(with_activation(name, opset, 7).SerializeToString()).run({"x": x})["y"])


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_a_second_runtime(name: str, opset: int) -> None:
    """onnx's own reference evaluator, which takes exp(x) as it comes: not on numbers that overflow there."""
    x = grid() if name in ELEMENTWISE else logits()
    x = x[(np.abs(x).max(axis=1) < 80) & (np.ptp(x, axis=1) < 80)]
    with np.errstate(all="ignore"):
        found = ReferenceEvaluator(with_activation(name, opset, x.shape[1])).run(None, {"x": x})[0]
    check(name, x, found)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_the_reference_by_the_book(name: str) -> None:
    """The reference is itself right, number by number, by Python's own mathematics."""
    for x in (-30.0, -7.0, -3.5, -1.0, -0.5, -0.3, -1e-9, 0.0, 1e-9, 0.3, 0.5, 1.0, 2.0, 3.5, 6.0, 7.0, 30.0):
        assert float(expected(name, np.array([[x]]))[0, 0]) == pytest.approx(BY_THE_BOOK[name](x), rel=1e-9, abs=1e-12)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


BY_THE_BOOK = {
    "identity": lambda x: x,
    "relu": lambda x: max(x, 0),
    "relu6": lambda x: min(max(x, 0), 6),
    "leakyrelu": lambda x: max(x, 0) + 0.01 * min(x, 0),
    "rrelu": lambda x: max(x, 0) + (1 / 8 + 1 / 3) / 2 * min(x, 0),
    "elu": lambda x: x if x > 0 else math.exp(x) - 1,
    "celu": lambda x: max(x, 0) + min(math.exp(x) - 1, 0),
    "selu": lambda x: (
        1.0507009873554804934193349852946 * (max(x, 0) + min(1.6732632423543772848170429916717 * math.expm1(x), 0))
    ),
    "gelu": lambda x: x * 0.5 * math.erfc(-x / math.sqrt(2)),
    "silu": lambda x: x * sigmoid(x),
    "mish": lambda x: x * math.tanh(math.log(1 + math.exp(x))),
    "sigmoid": sigmoid,
    "logsigmoid": lambda x: math.log(sigmoid(x)),
    "hardsigmoid": lambda x: 0 if x <= -3 else 1 if x >= 3 else x / 6 + 1 / 2,
    "hardswish": lambda x: 0 if x <= -3 else x if x >= 3 else x * (x + 3) / 6,
    "tanh": math.tanh,
    "hardtanh": lambda x: 1 if x > 1 else -1 if x < -1 else x,
    "tanhshrink": lambda x: x - math.tanh(x),
    "hardshrink": lambda x: x if x > 0.5 or x < -0.5 else 0,
    "softshrink": lambda x: x - 0.5 if x > 0.5 else x + 0.5 if x < -0.5 else 0,
    "softplus": lambda x: math.log(1 + math.exp(x)),
    "softsign": lambda x: x / (1 + abs(x)),
}


@pytest.mark.parametrize("name", sorted(OVER_LAST_DIM))
def test_the_reference_of_those_over_the_last_dim(name: str) -> None:
    x = np.random.default_rng(3).standard_normal((5, 7))
    powers = np.exp(-x if name == "softmin" else x)
    shares = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(expected(name, x), np.log(shares) if name == "logsoftmax" else shares, rtol=1e-12)


def test_both_know_the_same() -> None:
    assert set(reference.ACTIVATIONS) == {*ACTIVATIONS, "glu"}
    assert set(BY_THE_BOOK) == set(ELEMENTWISE)


@pytest.mark.parametrize("name", ["glu", "prelu"])
def test_those_that_a_dense_layer_alone_can_have(name: str) -> None:
    """GLU halves the dims, PReLU has a weight: through a layer that changes nothing."""
    infos = [helper.make_tensor_value_info(one, TensorProto.FLOAT, ["batch", 2]) for one in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "nothing", infos[:1], infos[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    slope = np.array([0.3], dtype=np.float32)
    weights = saved({"linear.weight": np.eye(2, dtype=np.float32), "activation_function.weight": slope})
    x = np.concatenate([grid()[np.abs(grid()) < 1e30][:, None]] * 2, axis=1)
    x[:, 1] = x[::-1, 1]
    found = Session(graphsurgery.add_dense(model, weights, activation=name).to_proto().SerializeToString()).run({"x": x})["y"]
    x64 = x.astype(np.float64)
    gate = 0.5 * (1 + np.tanh(0.5 * x64[:, 1:]))
    wanted = x64[:, :1] * gate if name == "glu" else np.where(x64 < 0, slope.astype(np.float64) * x64, x64)
    assert (np.abs(found - wanted) <= 1e-5 * np.maximum(1, np.abs(x64).max(axis=1, keepdims=True))).all()


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("tanh", "tanh"), ("Tanh", "tanh"), ("TANH", "tanh"), (" Tanh ", "tanh"), ("nn.Tanh", "tanh"),
        ("torch.nn.Tanh", "tanh"),
        ("torch.nn.modules.activation.Tanh", "tanh"), ("torch.nn.modules.linear.Identity", "identity"), ("ReLU6", "relu6"),
    ],
)  # fmt: skip
def test_names(spec: str, name: str) -> None:
    assert parse_activation(spec) == name


@pytest.mark.parametrize(
    "spec",
    ["", ".", "tan", "torch.Tanh", "torch.nnx.Tanh", "mynn.Tanh", ".Tanh", "torch.nn.Tanh()", "torch.nn.", "os.system", "GLU"],
)
def test_names_of_nothing(spec: str) -> None:
    with pytest.raises(RequestError, match=r"the activation .* is not known"):
        parse_activation(spec)
