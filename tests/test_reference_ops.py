"""The reference's fused operators against ONNX Runtime's in float32, and what half precision may change of them."""

from __future__ import annotations

from collections.abc import Sequence

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from graphsurgery.compare.reference_ops import OPERATORS, make_evaluator
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.runtime.session import Session

Array = np.ndarray
QUICK = settings(max_examples=12, deadline=None)
VENDOR, FLOAT = "com.microsoft", onnx.TensorProto.FLOAT


def value_of(name: str, array: Array) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


def one_node(
    operator: str, inputs: Sequence[Array | None], outputs: Sequence[str] = ("y",), domain: str = VENDOR, **options: object
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """A model of one node, and its feed; an input that is None is left out."""
    names = ["" if one is None else f"x{place}" for place, one in enumerate(inputs)]
    while names and not names[-1]:
        names.pop()
    feed = {name: one for name, one in zip(names, inputs, strict=False) if one is not None}
    graph = helper.make_graph(
        [helper.make_node(operator, names, outputs, domain=domain, **options)], operator,
        [value_of(name, one) for name, one in feed.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs if name],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(VENDOR, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9), feed


EXACT, AT_THE_MASK = 1e-5, 0.02
"""Of the largest number. Where a whole row is masked its scores lie at -10000 and below, in float32's steps of 1e-3 and more
there, and show in what order they were added."""


def agree(
    operator: str,
    inputs: Sequence[Array | None],
    outputs: Sequence[str] = ("y",),
    *,
    tolerance: float = EXACT,
    **options: object,
) -> None:
    """ONNX Runtime and the reference give the same."""
    model, feed = one_node(operator, inputs, outputs, **options)
    wanted = Session(model.SerializeToString()).run(feed)
    found = dict(zip(wanted, make_evaluator(model).run(list(wanted), feed), strict=True))
    assert wanted
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype and found[name].shape == value.shape
        assert np.isfinite(value).all()
        np.testing.assert_allclose(found[name], value, rtol=0, atol=tolerance * max(1.0, np.abs(value).max()))


def drawn(seed: int, *shape: int) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def mask_of(kind: str, batch: int, length: int) -> Array | None:
    """Right and left padding, holes, a row without a token; int32 ``[batch, seq]``."""
    if kind == "none":
        return None
    lengths = np.arange(batch) % length + 1
    right = np.arange(length)[None, :] < lengths[:, None]
    holes = np.random.default_rng(batch * length).random((batch, length)) < 0.6
    holes[:, 0] = True
    empty = right.copy()
    empty[0] = False
    return {"right": right, "left": right[:, ::-1], "holes": holes, "empty row": empty}[kind].astype(np.int32)


MASKS = st.sampled_from(["none", "right", "left", "holes", "empty row"])
SIZES = {
    "batch": st.integers(1, 3),
    "length": st.integers(1, 6),
    "heads": st.integers(1, 3),
    "size": st.sampled_from([2, 4, 8]),
}


@QUICK
@given(**SIZES, mask=MASKS, biased=st.booleans(), fill=st.sampled_from([None, -32752.0, float(np.finfo(np.float32).min)]))
def test_attention(batch, length, heads, size, mask, biased, fill):
    hidden = heads * size
    options = {"num_heads": heads} | ({} if fill is None else {"mask_filter_value": fill})
    inputs = [
        drawn(1, batch, length, hidden), drawn(2, hidden, 3 * hidden), drawn(3, 3 * hidden), mask_of(mask, batch, length), None,
        drawn(4, 1, heads, length, length) if biased else None,
    ]  # fmt: skip
    agree("Attention", inputs, tolerance=AT_THE_MASK if mask == "empty row" else EXACT, **options)


@pytest.mark.parametrize("options", [{"unidirectional": 1}, {"scale": 0.3}, {"qkv_hidden_sizes": [8, 8, 12]}])
@pytest.mark.parametrize("mask", ["none", "left"])
def test_attention_with_options(options, mask):
    width = sum(options.get("qkv_hidden_sizes", [8, 8, 8]))
    inputs = [drawn(1, 2, 5, 8), drawn(2, 8, width), drawn(3, width), mask_of(mask, 2, 5)]
    agree("Attention", inputs, num_heads=2, **options)


def test_attention_with_a_mask_per_query_and_with_lengths():
    mask = (np.random.default_rng(0).random((2, 5, 5)) < 0.7).astype(np.int32)
    mask[:, :, 0] = 1
    agree("Attention", [drawn(1, 2, 5, 8), drawn(2, 8, 24), drawn(3, 24), mask], num_heads=2)
    agree("Attention", [drawn(1, 2, 5, 8), drawn(2, 8, 24), drawn(3, 24), np.array([3, 5], np.int32)], num_heads=2)


@QUICK
@given(**SIZES, mask=MASKS, biased=st.booleans(), shifted=st.booleans(), total=st.integers(1, 5))
def test_multi_head_attention(batch, length, heads, size, mask, biased, shifted, total):
    hidden = heads * size
    inputs = [
        drawn(1, batch, length, hidden), drawn(2, batch, total, hidden), drawn(3, batch, total, hidden),
        drawn(4, 3 * hidden) if shifted else None, mask_of(mask, batch, total),
        drawn(5, batch, heads, length, total) if biased else None,
    ]  # fmt: skip
    agree("MultiHeadAttention", inputs, tolerance=AT_THE_MASK if mask == "empty row" else EXACT, num_heads=heads)


@QUICK
@given(batch=st.integers(1, 3), length=st.integers(1, 5), width=st.integers(1, 9), beta=st.booleans(), bias=st.booleans())
def test_skip_layer_norms(batch, length, width, beta, bias):
    x, skip, gamma = drawn(1, batch, length, width), drawn(2, batch, length, width), drawn(3, width)
    shift = drawn(4, width) if bias else None
    outputs = ("y", "", "", "sum")
    agree("SkipLayerNormalization", [x, skip, gamma, drawn(5, width) if beta else None, shift], outputs, epsilon=1e-3)
    agree("SkipSimplifiedLayerNormalization", [x, skip, gamma, shift], outputs, epsilon=1e-3)
    agree("SimplifiedLayerNormalization", [x, gamma], ("y", "inverse"), domain="", epsilon=1e-3, axis=-1)


@QUICK
@given(batch=st.integers(1, 3), length=st.integers(1, 6), types=st.booleans(), placed=st.booleans(), mask=MASKS)
def test_embeddings(batch, length, types, placed, mask):
    rng = np.random.default_rng(length)
    ids = rng.integers(0, 11, (batch, length), dtype=np.int32)
    inputs = [
        ids, rng.integers(0, 2, ids.shape, dtype=np.int32) if types else None, drawn(1, 11, 8), drawn(2, 9, 8),
        drawn(3, 2, 8) if types else None, drawn(4, 8), drawn(5, 8), mask_of(mask, batch, length),
        rng.integers(0, 9, ids.shape, dtype=np.int32) if placed else None,
    ]  # fmt: skip
    outputs = ("y", "lengths", "sum") if mask != "left" else ("y", "", "sum")  # lengths mean something for right padding
    if mask == "holes":
        outputs = ("y", "", "sum")
    agree("EmbedLayerNormalization", inputs, outputs, epsilon=1e-5)


@QUICK
@given(batch=st.integers(1, 3), length=st.integers(1, 5), heads=st.integers(1, 3), four=st.booleans(), paired=st.booleans())
def test_rotary_embedding(batch, length, heads, four, paired):
    x = drawn(1, batch, heads, length, 8) if four else drawn(1, batch, length, heads * 8)
    where = np.random.default_rng(0).integers(0, 16, (batch, length))
    for position in (where, np.array([3])):
        agree("RotaryEmbedding", [x, position, drawn(2, 16, 4), drawn(3, 16, 4)], interleaved=int(paired))


def test_rotary_embedding_of_a_part():
    inputs = [drawn(1, 2, 3, 24), np.array([[0, 1, 2]] * 2), drawn(2, 9, 2), drawn(3, 9, 2)]
    agree("RotaryEmbedding", inputs, num_heads=3, rotary_embedding_dim=4)


@pytest.mark.parametrize(
    ("operator", "biased"), [("Gelu", False), ("BiasGelu", True), ("FastGelu", False), ("FastGelu", True), ("QuickGelu", False)]
)
def test_activations(operator, biased):
    x = np.concatenate((drawn(1, 3, 40) * 3, np.linspace(-30, 30, 40, dtype=np.float32)[None]))
    agree(operator, [x, drawn(2, 40)] if biased else [x])


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gather_elements_of_fewer_rows(axis):
    indices = np.array([[0, -1], [1, 0]])
    agree("GatherElements", [drawn(1, 3, 4), indices], domain="", axis=axis)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_stays_and_sums_in_float32(dtype):
    """A sum of 4096 ones is 4096 only where it is not kept in the type: bfloat16 ends at 256, float16 at 2048."""
    ones = np.ones((1, 4096), dtype=dtype)
    model, feed = one_node("MatMul", [ones, ones.T.copy()], domain="")
    assert make_evaluator(model).run(None, feed)[0] == 4096 and make_evaluator(model).run(None, feed)[0].dtype == dtype
    model, feed = one_node("ReduceSum", [ones, np.array([1])], domain="")
    assert make_evaluator(model).run(None, feed)[0] == 4096
    model, feed = one_node("Softmax", [ones], domain="")
    assert make_evaluator(model).run(None, feed)[0][0, 0] == np.array(1 / 4096, dtype=dtype)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_fused_operators_in_half_precision(dtype):
    """Rounded, and close to float32."""
    inputs = [drawn(1, 2, 5, 8), drawn(2, 8, 24), drawn(3, 24), mask_of("left", 2, 5)]
    wide, feed = one_node("Attention", inputs, num_heads=2)
    narrow, half_feed = one_node("Attention", [*(one.astype(dtype) for one in inputs[:3]), inputs[3]], num_heads=2)
    found, wanted = make_evaluator(narrow).run(None, half_feed)[0], make_evaluator(wide).run(None, feed)[0]
    assert found.dtype == dtype
    apart = np.abs(found.astype(np.float32) - wanted).max()
    assert 0 < apart < 0.2


def test_nodes_in_any_order_and_layer_norms_of_any_opset():
    """ONNX Runtime runs both."""
    model, feed = one_node("LayerNormalization", [drawn(1, 2, 8), drawn(2, 8), drawn(3, 8)], ("mid",), domain="", epsilon=1e-5)
    model.opset_import[0].version = 12
    model.graph.node.insert(0, helper.make_node("Tanh", ["mid"], ["y"]))
    model.graph.output[0].name = "y"
    wanted = Session(model.SerializeToString()).run(feed)["y"]
    np.testing.assert_allclose(make_evaluator(model).run(None, feed)[0], wanted, atol=1e-5)


def test_outputs_without_a_name_are_nobodys_input():
    """onnx's evaluator would take the norm's mean for the lower limit that Clip is not given."""
    model, feed = one_node(
        "SkipLayerNormalization", [drawn(1, 1, 2, 8) + 9, drawn(2, 1, 2, 8), drawn(3, 8)], ("mid", "", "", "sum")
    )
    model.graph.node.append(helper.make_node("Clip", ["mid", "", "most"], ["y"]))
    model.graph.initializer.append(helper.make_tensor("most", FLOAT, [], [0.5]))
    del model.graph.output[:]
    model.graph.output.append(onnx.ValueInfoProto(name="y"))
    np.testing.assert_allclose(
        make_evaluator(model).run(None, feed)[0], Session(model.SerializeToString()).run(feed)["y"], atol=1e-5
    )


def test_an_overflow_is_seen():
    large = np.full((1, 4), 60000, dtype=np.float16)
    model, feed = one_node("SkipLayerNormalization", [large[None], large[None], large[0], large[0]], ("y", "", "", "sum"))
    assert np.isinf(make_evaluator(model).run(["sum"], feed)[0]).all()


def test_what_the_reference_lacks_is_refused():
    inputs = [drawn(1, 1, 1, 8), drawn(2, 8, 24), drawn(3, 24), None, drawn(4, 2, 1, 2, 3, 4)]
    model, feed = one_node("Attention", inputs, ("y", "present"), num_heads=2)
    with pytest.raises(UnsupportedModelError, match="past"):
        make_evaluator(model).run(["y"], feed)


def test_every_operator_is_tested():
    assert {one.__name__ for one in OPERATORS} == {
        "Attention", "BiasGelu", "EmbedLayerNormalization", "FastGelu", "GatherElements", "Gelu", "MultiHeadAttention",
        "QuickGelu", "RotaryEmbedding", "SimplifiedLayerNormalization", "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
    }  # fmt: skip
