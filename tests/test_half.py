"""Encoders in half precision: their types, what stays float32, and their numbers in two engines."""

from __future__ import annotations

import contextlib
import functools
import json
import tempfile
from collections import Counter
from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from conftest import FIXTURES
from encoders import tiny_encoder
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, parser

import graphsurgery
from graphsurgery.compare.loss import measure_by_both_engines, measure_loss
from graphsurgery.compare.reference_ops import make_evaluator
from graphsurgery.errors import MalformedModelError, MissingDataError, NameNotFoundError, RequestError, UnsupportedModelError
from graphsurgery.graph.editor import Editor
from graphsurgery.graph.element_types import ElementTypes
from graphsurgery.proof.source_feeds import make_feed_generator
from graphsurgery.rewrites.half.block_list import BlockList
from graphsurgery.rewrites.half.constants import (
    MaskConstants,
    cast_values,
    clip_infinities,
    explain_unfit,
    largest,
    lowest_mask,
)
from graphsurgery.rewrites.half.convert import to_half
from graphsurgery.rewrites.half.measure import find_float32_nodes
from graphsurgery.runtime.feeds import FeedGenerator
from graphsurgery.runtime.session import Session

Array = np.ndarray
FLOAT, FLOAT16, BFLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16
KINDS = (FLOAT16, BFLOAT16)
ENCODERS = ("bert", "xlmr", "t5", "qwen3", "modernbert")
LEAST_COSINE = {FLOAT16: 0.995, BFLOAT16: 0.85}
"""Of any token, for tiny encoders with random weights; T5's is the worst by far."""
LOWEST = float(np.finfo(np.float32).min)
ZERO = np.array(0, np.float32)


def plain(name: str) -> onnx.ModelProto:
    return onnx.load(FIXTURES / name / "model.onnx")


@functools.cache
def fused(name: str) -> onnx.ModelProto:
    """What ONNX Runtime's transformer optimizer makes of a fixture, masks as they are. Not to be changed."""
    pytest.importorskip("sympy", reason="the optimizer's symbolic shape inference needs sympy")
    optimizer = pytest.importorskip("onnxruntime.transformers.optimizer")
    options = pytest.importorskip("onnxruntime.transformers.fusion_options")
    chosen = options.FusionOptions("bert")
    chosen.attention_mask_format = options.AttentionMaskFormat.AttentionMask
    path = FIXTURES / name / "model.onnx"
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # where it fails, it leaves a file behind
        return optimizer.optimize_model(str(path), "bert", 0, 0, optimization_options=chosen, opt_level=0).model


def feeds_of(name: str) -> list[dict[str, Array]]:
    """Every kind of padding, but rows without a token, on which no two encoders need to agree."""
    generator: FeedGenerator = make_feed_generator(graphsurgery.load(FIXTURES / name / "model.onnx"))
    return [
        generator.generate(mask, seed=1) for kind, masks in generator.generate_masks() for mask in masks if kind != "empty row"
    ]


def run(model: onnx.ModelProto, feed: dict[str, Array]) -> list[Array]:
    return list(Session(model.SerializeToString(), plain=True).run(feed).values())


def made(text: str, **initializers: Array) -> onnx.ModelProto:
    """A model from ONNX text; its body in braces, initializers by name."""
    model = parser.parse_model('<ir_version: 8, opset_import: ["" : 18, "com.microsoft" : 1]>\n' + text)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in initializers.items())
    return model


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    types = types_in(model)
    return {value.name: types[value] for value in types.graph.values if types[value]}


def types_in(model: onnx.ModelProto) -> ElementTypes:
    return ElementTypes(Editor(model))


def key_of(node: onnx.NodeProto) -> str:
    """What to_half calls a node."""
    return next((name for name in node.output if name), "")


def casts(model: onnx.ModelProto) -> Counter[tuple[str, int]]:
    """The Casts that the conversion added."""
    own = [node for node in model.graph.node if node.op_type == "Cast" and "/to_" in node.name]
    return Counter((node.input[0], node.attribute[0].i) for node in own)


def checked(model: onnx.ModelProto) -> onnx.ModelProto:
    """Valid with strict type inference; its own operators of the standard domain aside, which onnx does not know."""
    if not any(node.op_type == "SimplifiedLayerNormalization" for node in model.graph.node):
        onnx.checker.check_model(model, full_check=True)
    return model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fusing", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("name", ENCODERS)
def test_encoders(name, fusing, kind):
    source = fused(name) if fusing else plain(name)
    before = source.SerializeToString()
    half = checked(to_half(source, kind))
    assert source.SerializeToString() == before
    assert half.graph.input == source.graph.input and half.graph.output == source.graph.output
    embeddings = {name for node in half.graph.node if node.op_type == "EmbedLayerNormalization" for name in node.input}
    wide = {one.name for one in half.graph.initializer if one.data_type == FLOAT}
    assert wide <= (embeddings if kind == BFLOAT16 else set()), "its schema has no bfloat16"
    assert max(casts(half).values()) == 1
    by_runtime, by_reference = measure_by_both_engines(source, half, feeds_of(name))
    assert by_reference.loss is not None and by_reference.loss.relative > 0 and not by_reference.loss.not_finite
    assert by_reference.loss.min_cosine > LEAST_COSINE[kind]
    assert (by_runtime.loss is None) == (kind == BFLOAT16)
    assert by_runtime.loss is None or by_runtime.loss.min_cosine > LEAST_COSINE[kind]


@pytest.mark.parametrize("fusing", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("name", ENCODERS)
def test_every_node_kept_is_the_float32_model(name, fusing):
    source = fused(name) if fusing else plain(name)
    same = to_half(source, FLOAT16, [key_of(node) for node in source.graph.node])
    assert len(same.graph.node) == len(source.graph.node) and FLOAT16 not in types_of(same).values()
    for feed in feeds_of(name)[:3]:
        tokens = feed["attention_mask"] != 0
        np.testing.assert_allclose(run(same, feed)[0][tokens], run(source, feed)[0][tokens], atol=1e-5)


def test_fused_bert_keeps_nothing_and_casts_once():
    source = fused("bert")
    assert not BlockList(types_in(source), FLOAT16).reasons
    assert len(to_half(source, FLOAT16).graph.node) == len(source.graph.node) + 1
    assert to_half(source, FLOAT16).opset_import[-1].domain == "com.microsoft"


CHAIN = """g (float[n, 4] x) => (float[n, 4] y) {
    a = MatMul(x, w)
    b = MatMul(a, w)
    c = Add(a, b)
    d = Tanh(b)
    y = Mul(c, d)
}"""
WEIGHT = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)


def test_casts_stand_at_the_border_alone():
    half = checked(to_half(made(CHAIN, w=WEIGHT), FLOAT16, ["b"]))
    types = types_of(half)
    assert types["a"] == FLOAT16 and types["b"] == FLOAT and types["c"] == types["d"] == FLOAT16
    assert casts(half) == {("x", FLOAT16): 1, ("a", FLOAT): 1, ("b", FLOAT16): 1, ("y/float16", FLOAT): 1}
    weights = {one.name: one for one in half.graph.initializer}
    assert weights["w"].data_type == FLOAT and (numpy_helper.to_array(weights["w"]) == WEIGHT).all()
    assert (numpy_helper.to_array(weights["w/float16"]) == WEIGHT.astype(np.float16)).all()


@settings(max_examples=30, deadline=None)
@given(keep=st.sets(st.sampled_from("abcdy")), kind=st.sampled_from(KINDS), output=st.sampled_from("abcd"))
def test_any_nodes_can_be_kept(keep, kind, output):
    source = made(CHAIN, w=WEIGHT)
    source.graph.output.append(helper.make_tensor_value_info(output, FLOAT, ["n", 4]))
    half = checked(to_half(source, kind, keep))
    assert max(casts(half).values(), default=1) == 1
    makers = {name: node.op_type for node in half.graph.node for name in node.output}
    assert not any(node.op_type == makers.get(node.input[0]) == "Cast" for node in half.graph.node)
    feed = {"x": np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)}
    found, wanted = make_evaluator(half).run(None, feed), run(source, feed)
    assert [one.dtype for one in found] == [np.float32] * 2
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=0.15 if kind == BFLOAT16 else 0.02)
        assert len(keep) < 5 or np.abs(one - other).max() < 1e-5


def test_what_is_kept_is_named_by_first_outputs():
    with pytest.raises(NameNotFoundError, match="nobody"):
        to_half(made(CHAIN, w=WEIGHT), FLOAT16, ["nobody"])
    source = made(CHAIN, w=WEIGHT)
    assert not any(node.name for node in source.graph.node)
    assert to_half(source, FLOAT16, ["c"]).graph.node[-2].op_type == "Mul"


@pytest.mark.parametrize("kind", KINDS)
def test_unsorted_nodes(kind):
    source = made(CHAIN, w=WEIGHT)
    nodes = list(source.graph.node)
    del source.graph.node[:]
    source.graph.node.extend(reversed(nodes))
    types = types_of(to_half(source, kind, ["b"]))
    assert types["a"] == kind and types["b"] == FLOAT


MASKED = """g (float[n, s] x, int64[n, s] mask) => (float[n, s] y) {
    given = Cast<to = 1>(mask)
    one = Constant<value_float = 1.0>()
    hidden = Sub(one, given)
    added = Mul(hidden, lowest)
    scores = Add(x, added)
    more = Add(scores, added)
    y = Softmax(more)
}"""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lowest", [LOWEST, -1e9, -1e5])
def test_masks_stay_finite(kind, lowest):
    """Two masks added, a row without a token: infinities would be NaN in its softmax."""
    source = made(MASKED, lowest=np.array(lowest, np.float32))
    feed = {"x": np.array([[1, -50, 3]] * 3, np.float32), "mask": np.array([[1, 1, 0], [0, 1, 1], [0, 0, 0]])}
    found, wanted = make_evaluator(checked(to_half(source, kind))).run(None, feed)[0], run(source, feed)[0]
    assert np.isfinite(found).all() and (found[:2][wanted[:2] == 0] == 0).all()
    np.testing.assert_allclose(found[:2], wanted[:2], atol=0.01)
    if kind == FLOAT16 or lowest == LOWEST:
        naive = cast_values(np.array(lowest, np.float32), kind)
        assert np.isinf(naive), "were it converted as it is, the mask would be infinite"


@pytest.mark.parametrize("kind", KINDS)
def test_scalars_stay_scalars(kind):
    half = to_half(made(MASKED, lowest=np.array(LOWEST, np.float32)), kind)
    assert [list(one.dims) for one in half.graph.initializer] == [[]]
    assert not any(one.t.dims for node in half.graph.node for one in node.attribute)


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_for_infinity(kind):
    mask = np.array([[0, LOWEST], [0, 0]], np.float32)
    assert set(clip_infinities(mask, kind).ravel()) == {0, lowest_mask(kind)}
    assert np.isfinite(cast_values(clip_infinities(mask, kind), kind) * 2).all()
    assert clip_infinities(np.array([np.finfo(np.float32).max], np.float32), kind) == np.float32(min(largest(kind), 3.5e38))
    assert clip_infinities(np.array([-np.inf], np.float32), kind) == -np.inf
    for weights in (np.array([1.0, -2.0, 30000.0]), np.array([-40000.0]), np.array([1.0, 2.0, -1e5]), np.array([1e5])):
        kept = weights.astype(np.float32)
        assert clip_infinities(kept, kind) is kept or (clip_infinities(kept, kind) == kept).all()


def test_what_a_type_cannot_hold():
    assert explain_unfit(np.array([1e5, 1], np.float32), FLOAT16) and not explain_unfit(
        np.array([1e5, 1], np.float32), BFLOAT16
    )
    assert explain_unfit(np.array([1e-12], np.float32), FLOAT16) and not explain_unfit(np.array([1e-12], np.float32), BFLOAT16)
    assert explain_unfit(np.array([1e-9, 2e-9], np.float32), FLOAT16)
    assert explain_unfit(np.array([[2e-5, 3e-5]], np.float32), FLOAT16) and not explain_unfit(
        np.array([[2e-5, 1e-4]], np.float32), FLOAT16
    )
    for fine in ([0.0], [1e-9, 1.0], [2e-5, 3e-5], [np.inf, -np.inf], []):
        assert explain_unfit(np.array(fine, np.float32), FLOAT16) is None


NORMALISED = """g (float[n, 4] x) => (float[n, 4] y) {
    squares = Mul(x, x)
    axes = Constant<value_ints = [-1]>()
    sum = ReduceSum<keepdims = 1>(squares, axes)
    tiny = Constant<value_float = 1.0e-12>()
    safe = Add(sum, tiny)
    norm = Sqrt(safe)
    y = Div(x, norm)
}"""


def test_an_epsilon_that_float16_lacks_keeps_its_division():
    source = made(NORMALISED)
    reasons = BlockList(types_in(source), FLOAT16).reasons
    assert set(reasons) == {"safe", "norm", "y"} and not BlockList(types_in(source), BFLOAT16).reasons
    half = checked(to_half(source, FLOAT16))
    feed = {"x": np.array([[0, 0, 0, 0], [3, 4, 0, 0]], np.float32)}
    np.testing.assert_allclose(run(half, feed)[0], [[0, 0, 0, 0], [0.6, 0.8, 0, 0]], atol=1e-3)


def test_a_weight_beyond_float16_keeps_its_node():
    source = made(CHAIN, w=WEIGHT * np.float32(1e5))
    half = to_half(source, FLOAT16)
    assert set(BlockList(types_in(source), FLOAT16).reasons) == {"a", "b"}
    assert next(one for one in half.graph.initializer if one.name == "w").data_type == FLOAT
    assert BFLOAT16 in types_of(to_half(source, BFLOAT16)).values()


def test_a_constant_beyond_float16_is_followed_through_what_moves_it():
    text = """g (float[n, 4] x) => (float[n, 4] y) {
        large = Constant<value_floats = [100000.0, 2.0, 3.0, 4.0]>()
        axes = Constant<value_ints = [0]>()
        row = Unsqueeze(large, axes)
        y = Div(x, row)
    }"""
    half = checked(to_half(made(text), FLOAT16))
    assert types_of(half)["row"] == FLOAT
    np.testing.assert_allclose(run(half, {"x": np.full((1, 4), 1e5, np.float32)})[0][0, 0], 1)


ANGLES = """g (int64[n, s] positions, float[n, s, 2] x) => (float[n, s, 2] y) {
    where = Cast<to = 1>(positions)
    axes = Constant<value_ints = [-1]>()
    column = Unsqueeze(where, axes)
    angles = MatMul(column, frequencies)
    turned = Cos(angles)
    y = Mul(x, turned)
}"""


@pytest.mark.parametrize("kind", KINDS)
def test_angles_stay_float32(kind):
    """At position 3001 an angle has steps of 2 radians in float16, of 16 in bfloat16; no short text would show it."""
    source = made(ANGLES, frequencies=np.array([[1, 0.1]], np.float32))
    half = checked(to_half(source, kind))
    types = types_of(half)
    assert types["where"] == types["angles"] == types["turned"] == FLOAT
    assert casts(half)["turned", kind] == casts(half)["x", kind] == 1
    feed = {"positions": np.array([[3001, 7]]), "x": np.ones((1, 2, 2), np.float32)}
    np.testing.assert_allclose(make_evaluator(half).run(None, feed)[0], run(source, feed)[0], atol=5e-3)


BUCKETS = """g (float[n, s, 4] x) => (float[s, 4] y) {
    shape = Shape<start = 1, end = 2>(x)
    scalar = Squeeze(shape)
    zero = Constant<value_int = 0>()
    one = Constant<value_int = 1>()
    steps = Range(zero, scalar, one)
    distance = Cast<to = 1>(steps)
    half = Constant<value_float = 0.37>()
    scaled = Mul(distance, half)
    bucket = Cast<to = 7>(scaled)
    y = Gather(table, bucket)
}"""


def test_bucket_numbers_stay_float32():
    """Where an integer is made of a float, a small error is a wrong row."""
    source = made(BUCKETS, table=np.random.default_rng(0).standard_normal((2000, 4)).astype(np.float32))
    half = checked(to_half(source, FLOAT16))
    assert types_of(half)["scaled"] == FLOAT
    feed = {"x": np.zeros((1, 4500, 4), np.float32)}
    np.testing.assert_allclose(run(half, feed)[0], run(source, feed)[0], atol=5e-3)
    assert not [node for node in half.graph.node if node.op_type == "Cast" and node.input[0] == "x"], "a shape needs no Cast"


TYPED_ATTRIBUTES = """g (float[n, 4] x, int64[2] shape, int64[n, 4] ids) => (float[n, 4] y, float[2, 2] z) {
    cast = Cast<to = 1>(ids)
    like = CastLike(ids, x)
    none = ConstantOfShape(shape)
    some = ConstantOfShape<value = float[1] {-3.4e38}>(shape)
    noise = RandomUniformLike<low = 0.0, high = 0.0>(none)
    more = RandomNormal<shape = [2, 2], scale = 0.0>()
    two = Constant<value = float {2.0}>()
    list = Constant<value_floats = [1.0, 2.0, 3.0, 4.0]>()
    a = Add(cast, like)
    b = Mul(a, two)
    c = Add(b, list)
    y = Add(c, x)
    d = Add(none, noise)
    e = Add(d, more)
    z = Max(e, some)
}"""


@pytest.mark.parametrize("kind", KINDS)
def test_attributes_that_hold_types_and_tensors(kind):
    half = checked(to_half(made(TYPED_ATTRIBUTES), kind)) if kind == FLOAT16 else to_half(made(TYPED_ATTRIBUTES), kind)
    types = types_of(half)
    assert types["cast"] == types["like"] == types["two"] == types["list"] == types["b"] == kind
    assert kind == BFLOAT16 or types["none"] == types["some"] == types["noise"] == types["more"] == FLOAT16
    feed = {"x": np.ones((1, 4), np.float32), "shape": np.array([2, 2]), "ids": np.array([[1, 2, 3, 4]])}
    y, z = make_evaluator(half).run(None, feed)
    np.testing.assert_array_equal(y, [[6, 11, 16, 21]])
    assert (z == 0).all()


IN_A_SEQUENCE = """g (float[n, 4] x) => (float[n, 2] z) {
    doubled = Add(x, x)
    two = Constant<value_int = 2>()
    parts = SplitToSequence<axis = 1>(doubled, two)
    last = Constant<value_int = 1>()
    part = SequenceAt(parts, last)
    z = Mul(part, part)
}"""


@pytest.mark.parametrize("kind", KINDS)
def test_sequences_of_tensors_stay_float32(kind):
    """As torch exports a split that is not optimised away: no Cast changes the type of a sequence."""
    model = made(IN_A_SEQUENCE)
    model.graph.value_info.append(helper.make_tensor_value_info("part", FLOAT, ["n", 2]))
    half = checked(to_half(model, kind))
    types = types_of(half)
    assert types["doubled"] == kind and types["part"] == FLOAT
    if kind == FLOAT16:
        [found] = run(half, {"x": np.array([[1, 2, 3, 4]], np.float32)})
        np.testing.assert_array_equal(found, [[36, 64]])


FIXED = """g (float[1, 1, n, m] x, float start) => (float[1, 1, p, q] y, float[k] z) {
    roi = Constant<value_floats = [0.0]>()
    scales = Constant<value_floats = [1.0, 1.0, 2.0, 2.0]>()
    tripled = Add(x, x)
    none = Identity(roi)
    y = Resize<mode = "nearest">(tripled, , scales)
    limit = Constant<value_float = 3.0>()
    step = Constant<value_float = 1.0>()
    counted = Range(start, limit, step)
    z = Mul(counted, counted)
}"""


def test_inputs_that_are_float32_by_schema():
    half = checked(to_half(made(FIXED), FLOAT16))
    types = types_of(half)
    assert types["scales"] == FLOAT and types["tripled"] == FLOAT16 and types["counted"] == FLOAT
    assert BlockList(types_in(made(FIXED)), FLOAT16).reasons["counted"] == "the operator does not take float16"
    found = run(half, {"x": np.ones((1, 1, 1, 2), np.float32), "start": np.array(0, np.float32)})
    assert found[0].shape == (1, 1, 2, 4) and (found[1] == [0, 1, 4]).all()


BRANCHES = """g (float[n, 4] x, bool which) => (float[n, 4] y) {
    a = MatMul(x, w)
    b = If (which) <
        then_branch = t () => (float[n, 4] c) { c = Add(a, w2) },
        else_branch = e () => (float[n, 4] d) { low = Constant<value_float = -3.4e38>() m = Max(a, low) d = Mul(m, w2) }
    >
    y = MatMul(b, w2)
}"""


@pytest.mark.parametrize("kind", KINDS)
def test_graphs_within_nodes_stay_float32(kind):
    source = made(BRANCHES, w=WEIGHT, w2=WEIGHT)
    half = checked(to_half(source, kind))
    types = types_of(half)
    assert types["a"] == kind and types["b"] == FLOAT and types["w2"] == FLOAT
    for which in (True, False):
        feed = {"x": np.ones((4, 4), np.float32), "which": np.array(which)}
        np.testing.assert_allclose(make_evaluator(half).run(None, feed)[0], run(source, feed)[0], atol=0.2, rtol=0.05)


def test_functions_are_inlined_and_unknown_operators_left_alone():
    text = """<ir_version: 8, opset_import: ["" : 18, "own" : 1, "other" : 1]>
    g (float[n, 4] x) => (float[n, 4] y, float[n, 4] z) {
        a = own.twice(x)
        b = other.unknown(a)
        y = Tanh(a)
        z = Tanh(b)
    }
    <domain: "own", opset_import: ["" : 18]>
    twice (p) => (q) { q = Add(p, p) }"""
    half = to_half(parser.parse_model(text), FLOAT16)
    assert not half.functions and not any(node.op_type == "twice" for node in half.graph.node)
    unknown = next(node for node in half.graph.node if node.op_type == "unknown")
    assert types_of(half)[unknown.input[0]] == FLOAT and "y/float16" in types_of(half)


def test_a_quantised_part_is_left_alone(tmp_path):
    quantization = pytest.importorskip("onnxruntime.quantization")
    quantization.quantize_dynamic(FIXTURES / "bert" / "model.onnx", tmp_path / "int8.onnx")
    source = onnx.load(tmp_path / "int8.onnx")
    half = to_half(source, FLOAT16)
    types = types_of(half)
    for node in half.graph.node:
        assert "Integer" not in node.op_type or types[node.output[0]] == TensorProto.INT32
        assert node.op_type != "DynamicQuantizeLinear" or types[node.input[0]] == FLOAT
    by_runtime, _ = measure_by_both_engines(source, half, feeds_of("bert"))
    assert by_runtime.loss is not None and by_runtime.loss.min_cosine > 0.99


INTEGERS = """g (float[n, 512] x) => (float[n, 4] y) {
    q, scale, zero = DynamicQuantizeLinear(x)
    sums = MatMulInteger(q, w, zero)
    wide = Cast<to = 1>(sums)
    both = Mul(scale, wscale)
    scaled = Mul(wide, both)
    moved = Add(scaled, b)
    y = Tanh(moved)
}"""


def test_integer_sums_are_scaled_in_float32():
    """They reach into the millions."""
    w, b = np.full((512, 4), 63, np.int8), np.full(4, -5, np.float32)  # larger ones overflow on processors without VNNI
    source = made(INTEGERS, w=w, wscale=np.array(127e-3 / 63, np.float32), b=b)
    half = checked(to_half(source, FLOAT16))
    types = types_of(half)
    assert types["wide"] == types["both"] == types["scaled"] == FLOAT and "y/float16" in types
    feed = {"x": np.linspace(0, 0.2, 512, dtype=np.float32)[None]}
    found, wanted = make_evaluator(half).run(None, feed)[0], run(source, feed)[0]
    assert 0.1 < np.abs(wanted).max() < 1
    np.testing.assert_allclose(found, wanted, atol=5e-3)


def test_value_infos_tell_the_new_types():
    source = onnx.shape_inference.infer_shapes(made(CHAIN, w=WEIGHT))
    half = checked(to_half(source, FLOAT16, ["b"]))
    told = {info.name: info.type.tensor_type.elem_type for info in half.graph.value_info}
    assert told["a"] == told["c"] == FLOAT16 and told["b"] == FLOAT


@pytest.mark.parametrize(
    ("model", "kind", "message"),
    [
        (lambda: tiny_encoder(dtype=FLOAT16), FLOAT16, "float16 already"),
        (lambda: tiny_encoder(dtype=BFLOAT16), FLOAT16, "bfloat16 already"),
        (lambda: tiny_encoder(opset=11), BFLOAT16, "too old"),
        (lambda: tiny_encoder(), FLOAT, "no half precision type"),
        (lambda: made("g (int64[n] x) => (int64[n] y) { y = Add(x, x) }"), FLOAT16, "no float32"),
    ],
)
def test_refused(model, kind, message):
    with pytest.raises(UnsupportedModelError, match=message):
        to_half(model(), kind)


def test_external_weights_are_refused():
    with pytest.raises(MissingDataError):
        to_half(onnx.load(FIXTURES / "bert-external" / "model.onnx", load_external_data=False), FLOAT16)


@pytest.mark.parametrize("opset", [11, 13, 17, 21])
@pytest.mark.parametrize("outputs", [(), ("pooler_output",)])
def test_opsets(opset, outputs):
    source = tiny_encoder(opset=opset, outputs=outputs)
    half = checked(to_half(source, FLOAT16))
    feed = {"input_ids": np.array([[1, 2, 3]]), "attention_mask": np.ones((1, 3), np.int64)}
    for found, wanted in zip(run(half, feed), run(source, feed), strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted, atol=0.02)


def test_weights_that_have_to_be_inputs():
    """Below IR version 4 they are; an input with a default that may be given is one from then on."""
    old, new = tiny_encoder(opset=9, ir_version=3), tiny_encoder(opset=9, ir_version=4)
    half = to_half(old, FLOAT16)
    assert len(old.graph.input) > 2 == len(half.graph.input) and half.ir_version == 4
    assert half.graph == to_half(new, FLOAT16).graph
    given = made(CHAIN, w=WEIGHT)
    given.graph.input.append(helper.make_tensor_value_info("w", FLOAT, [4, 4]))
    half = checked(to_half(given, FLOAT16))
    assert half.graph.input == given.graph.input and casts(half)["w", FLOAT16] == 1


def test_a_circle_is_refused():
    with pytest.raises(MalformedModelError, match="depends on its own output"):
        to_half(made(CHAIN.replace("MatMul(x, w)", "MatMul(d, w)"), w=WEIGHT), FLOAT16)


def vectors(*rows: Sequence[float]) -> Array:
    return np.array([rows], np.float32)


def test_a_loss_says_what_differs():
    wanted = vectors([1, 0], [0, 2], [0, 0])
    loss = measure_loss([wanted], [vectors([1, 0], [0, 2.5], [0, 0])])
    assert loss.vectors == 3 and loss.max_abs == 0.5 and loss.min_cosine == 1
    assert measure_loss([wanted], [vectors([0, 1], [0, 2], [0, 0])]).min_cosine == 0
    assert measure_loss([wanted], [vectors([9, 9], [0, 2], [0, 0])], [np.array([[False, True, True]])]).max_abs == 0
    assert measure_loss([vectors([0, 0])], [vectors([1, 0])]).min_cosine == 0


def test_an_engine_that_cannot_run_it_measures_nothing():
    """The CPU provider has no bfloat16; no engine knows an operator of another domain."""
    source, feeds = made(CHAIN, w=WEIGHT), [{"x": WEIGHT}]
    runtime, reference = measure_by_both_engines(source, to_half(source, BFLOAT16), feeds)
    assert runtime.loss is None and "cannot load" in runtime.why and "not measured" in str(runtime)
    assert reference.loss is not None and reference.to_json()["loss"]["vectors"] == 4
    unknown = made(CHAIN.replace("Tanh", "other.Tanh"), w=WEIGHT)
    assert [one.loss for one in measure_by_both_engines(source, unknown, feeds)] == [None, None]


def test_numbers_per_token_count_at_tokens():
    """An output ``[batch, seq]``, such as a weight for each token: what stands at padding is no loss."""
    text = "g (float[a,b] x, int64[a,b] attention_mask) => (float[a,b] y) { y = Mul(x, factor) }"
    source, half = (made(text, factor=np.array(one, np.float32)) for one in (1, 2))
    feed = {"x": np.array([[1, 3, 0], [2, 0, 0]], np.float32), "attention_mask": np.array([[1, 1, 1], [1, 0, 0]])}
    padded = feed | {"x": np.array([[1, 3, 0], [2, 9, 9]], np.float32)}
    losses = [measure_by_both_engines(source, half, [one], per_token=["y"])[0].loss for one in (feed, padded)]
    assert losses[0] is not None and losses[1] is not None
    assert losses[0].max_abs == losses[1].max_abs == 3 and losses[0].vectors == losses[1].vectors == 1


def test_a_loss_is_never_vacuous():
    wanted = vectors([1, 0])
    for broken in (np.nan, np.inf):
        loss = measure_loss([wanted], [vectors([broken, 0])])
        assert loss.not_finite == 1 and loss.max_abs == np.inf and loss.min_cosine == -1 and "not finite" in str(loss)
        assert loss.to_json()["max_abs_diff"] is None
    for nothing in ([], [np.zeros((0, 3, 2), np.float32)], [vectors([np.nan, 1])]):
        with pytest.raises(RequestError, match="nothing to compare"):
            measure_loss(nothing, nothing)
    with pytest.raises(RequestError, match="nothing to compare"):
        measure_loss([wanted], [wanted], [np.array([[False]])])
    with pytest.raises(RequestError, match="shapes differ"):
        measure_loss([wanted], [vectors([1, 0], [1, 0])])
    with pytest.raises(RequestError, match="nothing to measure"):
        measure_by_both_engines(made(CHAIN, w=WEIGHT), made(CHAIN, w=WEIGHT), [])


# --- what stands for infinity, and where -----------------------------------------------------------------------------------

SCALED = "g (float[a,4] x) => (float[a,4] y) { h = MatMul(x, w) \n s = Mul(h, factor) \n y = Add(s, s) }"
"""A factor that is no mask, however large."""
MASKING = """g (float[a,4] x, float[a,4] m) => (float[a,4] y) { h = MatMul(x, w) \n n = Sub(one, m) \n p = Mul(n, factor)
    s = Add(h, p) \n y = Softmax(s) }"""
"""As exporters mask scores: ``(1 - m) * lowest`` is added."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_large_factor_is_no_mask(kind):
    """Where it is not added to scores it stays what it is: in float32, for float16 has no such number."""
    weight = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    source = made(SCALED, w=weight, factor=np.array(-1e5, np.float32))
    half = checked(to_half(source, kind))
    factor = next(numpy_helper.to_array(one) for one in half.graph.initializer if one.name.startswith("factor"))
    assert float(factor) == pytest.approx(-1e5, rel=2**-8)
    feed = {"x": np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32) / 100}
    wanted = run(source, feed)[0]
    found = make_evaluator(half).run(None, feed)[0]
    np.testing.assert_allclose(found, wanted, rtol=0.05, atol=0.02 * np.abs(wanted).max())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lowest", [-1e5, -1e9, LOWEST])
def test_what_masks_scores_is_brought_within_reach(kind, lowest):
    weight = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    source = made(MASKING, w=weight, one=np.array(1, np.float32), factor=np.array(lowest, np.float32))
    half = checked(to_half(source, kind))
    mask = np.array([[1, 1, 0, 0], [0, 0, 0, 0]], np.float32)
    feed = {"x": np.random.default_rng(1).standard_normal((2, 4)).astype(np.float32), "m": mask}
    wanted, found = run(source, feed)[0], make_evaluator(half).run(None, feed)[0]
    assert np.isfinite(found).all() and (found[0, 2:] == 0).all()
    np.testing.assert_allclose(found[0], wanted[0], atol=0.02)


def test_an_output_that_is_a_constant_stays():
    """Whatever else takes it."""
    text = "g (float[a,4] x) => (float[a,4] y, float lowest) { s = Add(x, lowest) \n y = Softmax(s) }"
    half = to_half(made(text, lowest=np.array(LOWEST, np.float32)), FLOAT16)
    assert run(half, {"x": np.ones((1, 4), np.float32)})[1] == np.float32(LOWEST)


def test_a_limit_that_stays_in_float32_stays():
    """Of Clip, with a stand-in for minus infinity: of float32 numbers it cuts none off."""
    text = """g (float[a,4] x) => (float[a,4] y)
        { h = MatMul(x, w) \n c = Clip(h, lowest) \n e = Mul(c, tiny) \n y = Mul(e, huge) }"""
    constants = {"lowest": np.float32(LOWEST), "tiny": np.float32(1e-12), "huge": np.float32(1e12)}
    source = made(text, w=np.eye(4, dtype=np.float32) * 5e4, **{name: np.array(one) for name, one in constants.items()})
    kept = [key_of(node) for node in source.graph.node if node.op_type == "Clip"]
    feed = {"x": np.array([[-3, -1, 0, 2]], np.float32)}
    wanted = run(source, feed)[0]
    np.testing.assert_allclose(run(to_half(source, BFLOAT16, [key_of(node) for node in source.graph.node]), feed)[0], wanted)
    low = next(one for one in to_half(source, FLOAT16, kept).graph.initializer if one.name == "lowest")
    assert numpy_helper.to_array(low) == np.float32(LOWEST)


def test_a_sparse_constant_keeps_its_type():
    values = helper.make_tensor("v", FLOAT, [1], [2.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [1])
    sparse = helper.make_sparse_tensor(values, indices, [4])
    source = made("g (float[a,4] x) => (float[a,4] y) { h = MatMul(x, w) \n y = Add(h, c) }", w=WEIGHT)
    source.graph.node.insert(0, helper.make_node("Constant", [], ["c"], sparse_value=sparse))
    half = to_half(source, FLOAT16)
    feed = {"x": np.ones((2, 4), np.float32)}
    np.testing.assert_allclose(run(half, feed)[0], run(source, feed)[0], rtol=1e-2)


def test_an_evaluator_that_is_off_in_float32_measures_nothing():
    """onnx's reference reads a Loop without a condition as one that never starts; what it says of float16 is then no loss."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Add", ["i", "i"], ["o"])], "body",
        [helper.make_tensor_value_info("n", TensorProto.INT64, []), helper.make_tensor_value_info("c", TensorProto.BOOL, []),
         helper.make_tensor_value_info("i", FLOAT, None)],
        [helper.make_tensor_value_info("d", TensorProto.BOOL, None), helper.make_tensor_value_info("o", FLOAT, None)],
    )  # fmt: skip
    source = made("g (float[a,4] x) => (float[a,4] y) { h = MatMul(x, w) \n y = Add(l, h) }", w=WEIGHT)
    source.graph.initializer.append(numpy_helper.from_array(np.array(3, np.int64), "times"))
    source.graph.node.insert(0, helper.make_node("Loop", ["times", "", "x"], ["l"], body=body))
    feeds = [{"x": np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)}]
    runtime, reference = measure_by_both_engines(source, to_half(source, FLOAT16), feeds)
    assert runtime.loss is not None and runtime.loss.min_cosine > 0.999
    assert reference.loss is None and "in float32 already" in reference.why


def test_scores_are_one_vector():
    """One number per row has no direction; a shift of all of them, and a few that are off, count."""
    wanted = [np.array([[1.0], [1.1], [0.9]]), np.array([[1.05]])]
    assert measure_loss(wanted, wanted).vectors == 1 and measure_loss(wanted, wanted).min_cosine == pytest.approx(1)
    assert measure_loss(wanted, [-one for one in wanted]).relative > 10
    turned = [2 - one for one in wanted]
    assert measure_loss(wanted, turned).min_cosine < 0
    assert measure_loss(wanted, [one + 0.05 for one in wanted]).relative > 0.5
    assert measure_loss([np.ones((3, 1))], [np.ones((3, 1))]).relative == 0


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_lost_of_zeros(kind):
    """A model that gives nothing but zeros loses nothing, and nothing is kept for it."""
    source = made("g (float[a,4] x) => (float[a,4] y) { h = MatMul(x, w) \n y = Mul(h, nought) }", w=WEIGHT, nought=ZERO)
    found = find_float32_nodes(source, [{"x": np.ones((2, 4), np.float32)}], kind)
    assert found.loss == 0 and not found.nodes and json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.parametrize("kind", KINDS)
def test_attention_of_the_standard_is_measured_as_such(kind):
    """Its heads are called otherwise than those of com.microsoft.Attention, and keys may be shared by several heads."""
    text = """<ir_version: 11, opset_import: ["" : 23]>
    g (float[b, s, 8] x) => (float[b, s, 8] y) {
        q = MatMul(x, w)
        k = MatMul(x, v)
        y = Attention<q_num_heads = 4, kv_num_heads = 2>(q, k, k)
    }"""
    model = parser.parse_model(text)
    random = np.random.default_rng(0)
    for name, width in (("w", 8), ("v", 4)):
        held = random.standard_normal((8, width)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(held, name))
    feed = {"x": random.standard_normal((2, 3, 8)).astype(np.float32)}
    assert not find_float32_nodes(model, [feed], kind).nodes
    hot = {"x": feed["x"] * np.float32(200)}  # the scores are too large, queries and keys are not
    assert find_float32_nodes(model, [hot], FLOAT16).nodes == ("y",)


@pytest.mark.parametrize(
    ("operator", "inputs", "masks"),
    [
        ("Attention", ("x", "far", "x", "mask"), {"mask"}),
        ("com.microsoft.MultiHeadAttention", ("x", "x", "x", "", "", "mask"), {"mask"}),
        ("com.microsoft.MultiHeadAttention", ("x", "far", "x"), set()),
        ("com.microsoft.Attention", ("x", "far", "mask"), set()),
    ],
)  # fmt: skip
def test_only_what_an_attention_takes_as_a_mask_is_one(operator, inputs, masks):
    """Keys, weights and biases are numbers like any others, however large."""
    domain, _, name = operator.rpartition(".")
    node = helper.make_node(name, inputs, ["y"], domain=domain, num_heads=2)
    held = [numpy_helper.from_array(np.full((1, 3, 8), -1e9, np.float32), name) for name in ("far", "mask")]
    values = [helper.make_tensor_value_info(name, FLOAT, [1, 3, 8]) for name in ("x", "y")]
    graph = helper.make_graph([node], "g", values[:1], values[1:], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)])
    assert {value.name for value in MaskConstants(types_in(model)).masking} == masks
