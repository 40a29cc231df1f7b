"""What float32 leaves open in chains: promised tolerances stay where float32 can meet them, and give way where it cannot."""

from __future__ import annotations

import module_folders
import numpy as np
import onnx
import pytest
from encoders import tiny_encoder

import graphsurgery
from graphsurgery import AddLayerNorm
from graphsurgery.edits.edit import Edit
from graphsurgery.model.model import Model
from graphsurgery.proof.difference import find_difference
from graphsurgery.references.chain import Chain
from graphsurgery.references.recorded_weights import RecordedWeights
from graphsurgery.references.reference import RELATIVE, UNIT, Array, Expected, expect_exactly

GATHERED = """
<ir_version: 8, opset_import: ["" : 17]>
looked_up (int64[batch, seq] input_ids, int64[batch, seq] attention_mask) => (float[batch, seq, %(width)d] last_hidden_state) {
    last_hidden_state = Gather <axis = 0> (table, input_ids)
}
"""
WIDTH, UNITS = 384, graphsurgery.AddNormalize()


def chain(*steps: Edit) -> tuple[Model, Model]:
    source = output = graphsurgery.load(tiny_encoder(hidden=WIDTH))
    for step in steps:
        output = step.apply(output)
    return source, output


def expected(hidden: Array, *steps: Edit) -> Expected:
    """What the reference makes of ``hidden [batch, seq, 384]``."""
    source, output = chain(*steps)
    recorded = Chain.between(source, output)
    weights = RecordedWeights.of(output, find_difference(source, output).added)
    mask = np.ones(hidden.shape[:2], dtype=np.int64)
    before = lambda feed: expect_exactly(feed) | expect_exactly({"last_hidden_state": hidden})  # noqa: E731
    return recorded.compose(before, weights)({"attention_mask": mask})["sentence_embedding"]


def drawn(scale: float = 1.0, offset: float = 0.0) -> Array:
    """Tokens of a text have as much in common with each other as they have of their own."""
    rng = np.random.default_rng(3)
    tokens = rng.standard_normal((4, 1, WIDTH)) + rng.standard_normal((4, 32, WIDTH))
    return (tokens * scale + offset).astype(np.float32)


def mean() -> Edit:
    return graphsurgery.AddPooling("mean")


def dense(rows: int = 256) -> Edit:
    """Of weights as training leaves them: their products with a vector are of its size."""
    weight = module_folders.drawn({"linear.weight": (rows, WIDTH)})["linear.weight"] / np.sqrt(WIDTH, dtype=np.float32)
    return graphsurgery.AddDense(module_folders.saved({"linear.weight": weight}), "tanh")


def layer_norm() -> Edit:
    return graphsurgery.AddLayerNorm(module_folders.layer_norm(WIDTH, 1))


@pytest.mark.parametrize(
    "steps", [(mean(), UNITS), (mean(), dense(), UNITS), (mean(), layer_norm(), UNITS), (mean(), layer_norm(), dense(), UNITS)],
    ids=lambda steps: " ".join(step.verb for step in steps),
)  # fmt: skip
def test_unit_vectors_of_usual_size_keep_their_tolerance(steps: tuple[Edit, ...]) -> None:
    assert np.all(expected(drawn(), *steps).tolerance == UNIT)


def test_values_of_usual_size_keep_their_tolerance() -> None:
    one = expected(drawn(), mean(), layer_norm())
    largest = np.abs(one.values).max(axis=1, keepdims=True)
    assert np.allclose(one.tolerance, RELATIVE * np.maximum(1, largest), rtol=1e-12)


def test_what_float32_cannot_meet_is_allowed_for() -> None:
    """A mean near 1000 with a spread of 0.01: layer norm brings its rounding up to some 1e-2."""
    one = expected(drawn(0.01, 1000.0), mean(), layer_norm(), UNITS)
    assert np.median(one.tolerance) > 100 * UNIT


@pytest.mark.parametrize("width", [64, 768, 4096])
@pytest.mark.parametrize(("mean_of", "spread"), [(1, 0.001), (2, 0.01), (100, 0.1)])
def test_what_onnxruntime_makes_of_it_is_within_that(width: int, mean_of: float, spread: float) -> None:
    """Wide rows whose mean is far above their spread: the mean's own rounding grows with the width. And it is told."""
    table = (mean_of + spread * np.random.default_rng(width).standard_normal((50, width))).astype(np.float32)
    proto = onnx.parser.parse_model(GATHERED % {"width": width})
    proto.graph.initializer.append(onnx.numpy_helper.from_array(table, "table"))
    output = AddLayerNorm(module_folders.layer_norm(width, 1)).apply(graphsurgery.add_pooling(proto, "mean"))
    for model in (output, UNITS.apply(output)):
        report = graphsurgery.verify(model, against=proto)
        assert report
        whole = next(check for check in report.checks if check.name == "whole proof")
        assert max(one.margin for one in whole.comparisons) < 0.8
        assert max(one.beyond for one in whole.comparisons) > 1 or all(one.too_loose for one in whole.comparisons)
        first = report.to_json()["checks"][-1]["comparisons"][0]
        assert first["beyond_promised"] > 1 or first["too_loose"] > 0
        assert bool(whole.left_out) == any(one.too_loose for one in whole.comparisons)


def test_an_edit_by_itself_is_held_to_its_tolerance() -> None:
    """However the values cancel each other."""
    hidden = drawn()
    hidden[:, 1::2] = -hidden[:, ::2] + 1e-3
    one = expected(hidden, graphsurgery.AddPooling("mean", normalize=True))
    assert np.all(one.tolerance == UNIT)


SHIFTED = """
<ir_version: 8, opset_import: ["" : 17]>
shifted (int64[batch, seq] input_ids, int64[batch, seq] attention_mask) => (float[batch, seq, 8] last_hidden_state) {
    x = Gather <axis = 0> (table, input_ids)
    mean = ReduceMean <axes = [1], keepdims = 1> (x)
    last_hidden_state = Add (x, mean)
}
"""


@pytest.mark.usefixtures("full_length")
def test_the_sum_of_a_long_text_is_rounded_before_it_is_normalised() -> None:
    """x + mean(x): 2,048 tokens that have much in common. One edit is held to what two edits one after the other are held to,
    and a text of a few tokens to the promise; a fault above rounding is found at any length."""
    source = onnx.parser.parse_model(SHIFTED)
    table = np.random.default_rng(0).standard_normal((30, 8)).astype(np.float32)
    source.graph.initializer.append(onnx.numpy_helper.from_array(table, "table"))
    made = graphsurgery.add_pooling(source, mode="mean", normalize=True)
    report = graphsurgery.verify(made, against=source)
    assert report, report.to_json()
    whole = {one.kind: one for check in report.checks for one in check.comparisons if check.name == "whole proof"}
    assert whole["longest"].worst > UNIT and 1 < whole["longest"].beyond < 50
    assert all(one.beyond == 1 for kind, one in whole.items() if "long" not in kind)
    rng = np.random.default_rng(1)
    hidden = (rng.standard_normal((2, 2048, WIDTH)) + rng.standard_normal((2, 1, WIDTH))).astype(np.float32)
    at_once, after = expected(hidden, graphsurgery.AddPooling("mean", normalize=True)), expected(hidden, mean(), UNITS)
    assert np.all(at_once.tolerance <= after.tolerance) and np.max(at_once.tolerance) < 20 * UNIT
    proto = made.to_proto()
    divisor = next(node for node in proto.graph.node if node.op_type == "Max" and "smallest" in "".join(node.input))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1.0001).reshape(()), "planted"))
    divisor.input.append("planted_product")
    place = list(proto.graph.node).index(divisor)
    proto.graph.node.insert(place, onnx.helper.make_node("Mul", [divisor.input[0], "planted"], ["planted_product"], "planted"))
    assert not graphsurgery.verify(proto, against=source)
