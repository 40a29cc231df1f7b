"""What real values keep in float32: overflows and roundings that are planted are found, and nothing else is kept."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from conftest import FIXTURES
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper
from test_half import KINDS, feeds_of, fused, made, plain, run

import graphsurgery
from graphsurgery.compare.loss import measure_by_both_engines
from graphsurgery.errors import RequestError, UnsupportedModelError
from graphsurgery.proof.source_feeds import make_feed_generator
from graphsurgery.rewrites.half.convert import make_float32_baseline, to_half
from graphsurgery.rewrites.half.measure import Float32Nodes, find_float32_nodes
from graphsurgery.rewrites.half.probes import RangeProbe, RoundingProbe, find_worst
from graphsurgery.runtime.feeds import generate_text_feeds
from graphsurgery.runtime.session import LentSession
from graphsurgery.runtime.texts import SENTENCES, tokenize

Array = np.ndarray
FLOAT16, BFLOAT16 = TensorProto.FLOAT16, TensorProto.BFLOAT16
WEIGHT = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
X = {"x": np.random.default_rng(1).standard_normal((5, 8)).astype(np.float32)}
TOO_LARGE, LOSES = "a value too large", "rounding a value loses most"


def text_of(name: str) -> dict[str, Array]:
    """Real sentences, tokenised as the fixture's folder says."""
    generator = make_feed_generator(graphsurgery.load(FIXTURES / name / "model.onnx"))
    return generate_text_feeds(
        generator, tokenize(FIXTURES / name / "tokenizer.json", SENTENCES, min(generator.longest_text, 64))
    )[0]


def by_sort(found: Float32Nodes, sort: str) -> set[str]:
    return {node for node in found.nodes if found.reasons[node].startswith(sort)}


LARGE = """g (float[n, 8] x) => (float[n, 8] y) {
    a = MatMul(x, w)
    up = Constant<value_float = 16384.0>()
    down = Constant<value_float = 0.00006103515625>()
    large = Mul(a, up)
    moved = Transpose<perm = [0, 1]>(large)
    back = Mul(moved, down)
    y = Add(back, x)
}"""


def test_an_overflow_is_found_and_kept():
    source = made(LARGE, w=WEIGHT)
    assert 65504 < np.abs(X["x"] @ WEIGHT).max() * 16384 < 2e5
    found = find_float32_nodes(source, [X], FLOAT16)
    assert by_sort(found, TOO_LARGE) == set(found.nodes) == {"large", "moved", "back"} and found.others == 2
    unseen, seen = measure_by_both_engines(source, to_half(source, FLOAT16), [X])
    assert seen.loss is not None and seen.loss.not_finite, "without it, it is wrong"
    assert unseen.loss is not None and not unseen.loss.not_finite, "the CPU provider computes in float32 here"
    right, right_too = measure_by_both_engines(source, to_half(source, FLOAT16, found.nodes), [X])
    assert all(one.loss is not None and one.loss.max_abs < 0.01 for one in (right, right_too))


def test_bfloat16_reaches_as_far_as_float32():
    assert not find_float32_nodes(made(LARGE, w=WEIGHT), [X], BFLOAT16).nodes


def with_weights(model: onnx.ModelProto, scaled: dict[str, float]) -> onnx.ModelProto:
    """A copy with initializers multiplied."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for one in copy.graph.initializer:
        if one.name in scaled:
            one.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(one) * np.float32(scaled[one.name]), one.name))
    return copy


def test_an_overflow_in_a_real_encoder():
    """A bias of 1e5 before a layer norm that takes it away again: as the residual stream of large T5 encoders does."""
    source = with_weights(fused("bert"), {})
    norm = next(node for node in source.graph.node if node.op_type == "SkipLayerNormalization")
    bias = next(one for one in source.graph.initializer if one.name == norm.input[4])
    bias.CopyFrom(numpy_helper.from_array(np.full(32, 6e4, np.float32), bias.name))
    gamma = next(one for one in source.graph.initializer if one.name == norm.input[2])
    gamma.CopyFrom(numpy_helper.from_array(np.ones(32, np.float32), gamma.name))
    feeds = feeds_of("bert")[:2]
    found = find_float32_nodes(source, feeds, FLOAT16)
    assert set(found.nodes) == {norm.output[0]} and found.reasons[norm.output[0]].startswith(TOO_LARGE)
    without = measure_by_both_engines(source, to_half(source, FLOAT16), feeds)[1].loss
    within = measure_by_both_engines(source, to_half(source, FLOAT16, found.nodes), feeds)[1].loss
    assert without is not None and within is not None
    assert within.min_cosine > 0.9999 and without.min_cosine < 0.9


def test_an_overflow_inside_a_fused_attention():
    """Its scores are no value of the graph."""
    source = fused("bert")
    attention = next(node for node in source.graph.node if node.op_type == "Attention")
    large = with_weights(source, {attention.input[1]: 300, attention.input[2]: 300})
    found = find_float32_nodes(large, feeds_of("bert")[:2], FLOAT16)
    assert attention.output[0] in by_sort(found, TOO_LARGE)
    assert not find_float32_nodes(source, feeds_of("bert")[:2], FLOAT16).nodes


def test_an_overflow_inside_attention_with_sizes_of_their_own():
    """Queries and keys of 8 numbers, values of 12."""
    text = """g (float[1, s, 8] x) => (float[1, s, 12] y) {
        y = com.microsoft.Attention<num_heads = 2, qkv_hidden_sizes = [8, 8, 12]>(x, w, b)
    }"""
    weights = np.random.default_rng(2).standard_normal((8, 28)).astype(np.float32)
    feed = {"x": X["x"][None]}
    for scale, nodes in ((1, ()), (100, ("y",))):
        source = made(text, w=weights * np.float32(scale), b=np.zeros(28, np.float32))
        assert find_float32_nodes(source, [feed], FLOAT16).nodes == nodes


def test_an_overflow_inside_multi_head_attention():
    text = """g (float[1, s, 8] x) => (float[1, s, 8] y) {
        q = MatMul(x, w)
        k = MatMul(x, w)
        y = com.microsoft.MultiHeadAttention<num_heads = 2>(q, k, q, b)
    }"""
    for scale, nodes in ((1, ()), (200, ("y",))):
        source = made(text, w=WEIGHT, b=np.full(24, scale, np.float32))
        assert find_float32_nodes(source, [{"x": X["x"][None]}], FLOAT16).nodes == nodes


CANCELLING = """g (float[n, 8] x) => (float[n, 8] y) {
    a = Tanh(x)
    much = Constant<value_float = 4000.0>()
    away = Add(a, much)
    again = Sub(away, much)
    b = MatMul(again, w)
    y = Tanh(b)
}"""


@pytest.mark.parametrize("kind", KINDS)
def test_digits_that_cancel_are_found_and_kept(kind):
    """At 4000 float16 has steps of 2: nothing is left of a number below 1."""
    source = made(CANCELLING, w=WEIGHT)
    found = find_float32_nodes(source, [X], kind)
    assert by_sort(found, LOSES) == set(found.nodes) == {"away", "again"} and "100%" in found.reasons["away"]
    for keep, least, most in (((), 0.3, 3), (found.nodes, 0, 0.1)):
        by_reference = measure_by_both_engines(source, to_half(source, kind, keep), [X])[1]
        assert by_reference.loss is not None and least <= by_reference.loss.relative <= most
    assert found.loss < 0.1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fusing", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("name", ["bert", "xlmr", "modernbert"])
def test_encoders_keep_nothing_for_their_values(name, fusing, kind):
    """Their masks reach to float32's lowest number, which is no overflow."""
    found = find_float32_nodes(fused(name) if fusing else plain(name), feeds_of(name)[:2], kind)
    assert not by_sort(found, TOO_LARGE) and not by_sort(found, LOSES)
    assert 0 < found.loss < 0.05 and found.others > len(found.nodes)


def test_attention_scores_that_are_not_scaled_down():
    """T5's: rounding them loses more than all else together, and they are kept for as long as it pays."""
    source, feeds = fused("t5"), [text_of("t5")]
    found = find_float32_nodes(source, feeds, FLOAT16)
    losing = by_sort(found, LOSES)
    assert losing and len(losing) < 20
    before, after = (
        measure_by_both_engines(source, to_half(source, FLOAT16, keep), feeds)[0].loss for keep in ((), found.nodes)
    )
    assert before is not None and after is not None and after.relative < before.relative


def test_what_is_kept_is_told():
    found = find_float32_nodes(made(LARGE, w=WEIGHT), [X], FLOAT16)
    assert found.counts == {TOO_LARGE: {"Mul": 2, "Transpose": 1}}
    assert found.summarise() == ["2 nodes in float16, 3 in float32", "float32, a value too large: 2 Mul, 1 Transpose"]
    told = found.to_json()
    assert told["float32_nodes"] == 3 and set(told["nodes"]) == set(found.nodes)


def test_nothing_to_measure_on():
    with pytest.raises(RequestError, match="nothing to measure"):
        find_float32_nodes(made(LARGE, w=WEIGHT), [], FLOAT16)


VALUES = """g (float[n, 8] x, float[e, 8] none) => (float[n, 8] y) {
    a = MatMul(x, w)
    empty = Tanh(none)
    ratio = Div(a, zero)
    low = Sub(zero, a)
    y = Identity(a)
}"""


def test_ranges_are_the_values_own():
    """Of what is finite; an empty value's is 0; what is watched comes as it is."""
    source = make_float32_baseline(made(VALUES, w=WEIGHT, zero=np.zeros(8, np.float32)), FLOAT16)
    names = ["a", "empty", "ratio", "low", "y"]
    sizes, watched = RangeProbe(source, names, ["a"]).measure({**X, "none": np.zeros((0, 8), np.float32)})
    size = float(np.abs(X["x"] @ WEIGHT).max())
    assert sizes == pytest.approx({"a": size, "empty": 0, "ratio": 0, "low": size, "y": size})
    np.testing.assert_allclose(watched["a"], X["x"] @ WEIGHT, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_rounding_on_demand(kind):
    source = make_float32_baseline(made(CANCELLING, w=WEIGHT), kind)
    rounding = RoundingProbe(source, ["away", "y"], kind)
    exact = run(made(CANCELLING, w=WEIGHT), X)[0]
    np.testing.assert_array_equal(rounding.run(X, [])["y"], exact)
    assert 0 < np.abs(rounding.run(X, ["y"])["y"] - exact).max() < 1e-2
    assert np.abs(rounding.run(X, ["away"])["y"] - exact).max() > 0.1


@settings(max_examples=50, deadline=None)
@given(losses=st.lists(st.floats(0, 1), max_size=40), least=st.floats(0.01, 1))
def test_the_worst_are_found_by_halving(losses, least):
    """All of them where losses add up, in far fewer runs than there are values."""
    names, runs = [str(place) for place in range(len(losses))], []

    def loss(some):
        runs.append(some)
        return sum(losses[int(name)] for name in some)

    assert find_worst(loss, names, least) == {name: losses[int(name)] for name in names if losses[int(name)] >= least}
    few = sum(losses) / least + 1
    assert len(runs) <= 1 + 2 * few * (np.ceil(np.log2(max(len(losses), 2))) + 1)


def test_weights_are_lent():
    """Large ones are not in the graph that is handed over; the numbers are the same."""
    model = plain("bert")
    graph = onnx.ModelProto()
    graph.CopyFrom(model)
    weights = list(model.graph.initializer)
    del graph.graph.initializer[:]
    feed = feeds_of("bert")[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("graphsurgery.runtime.session.LENT", 16)
        np.testing.assert_array_equal(LentSession(graph, weights).run(feed)["last_hidden_state"], run(model, feed)[0])
    with pytest.raises(UnsupportedModelError, match="cannot load"):
        LentSession(graph, weights[1:])
