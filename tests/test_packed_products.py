"""The rewrite pooled-token where one product makes queries, keys and values: the queries of one token alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import FIXTURES
from onnx import numpy_helper, parser

import graphsurgery
from graphsurgery import AddPooling, PooledToken
from graphsurgery.errors import VerificationFailed
from graphsurgery.graph.flops import count_flops
from graphsurgery.graph.graph import Graph
from graphsurgery.rewrites.narrow import building, unpacking
from graphsurgery.runtime.session import Session

pytestmark = pytest.mark.usefixtures("loaded_anew")
BATCH, TOKENS, WIDTH, HEADS, SIZE = 3, 7, 4, 2, 2
BY_HEADS = "{0} = Transpose<perm = [0, 2, 1, 3]>({0}4)"
TURNED = " ".join(BY_HEADS.format(one) for one in "qkv")
SPLIT_HEADS = " ".join(f"{one}4 = Reshape({one}3, heads)" for one in "qkv")
CUTS = {
    "a Split": f"q3, k3, v3 = Split<axis = -1>(p, widths) {SPLIT_HEADS} {TURNED}",
    "a Split behind a bias": f"b = Add(bias, p) q3, k3, v3 = Split<axis = 2>(b, widths) {SPLIT_HEADS} {TURNED}",
    "Slices": (
        "q3 = Slice(p, at0, at4, last) k3 = Slice(p, at4, minus4, last) v3 = Slice(p, minus4, end, last) "
        f"{SPLIT_HEADS} {TURNED}"
    ),
    "a Split of five dims": (
        "p5 = Reshape(p, three) t = Transpose<perm = [0, 3, 2, 1, 4]>(p5) q5, k5, v5 = Split<axis = 2>(t, ones) "
        "q = Squeeze(q5, at2) k = Squeeze(k5, at2) v = Squeeze(v5, at2)"
    ),
    "a Gather of each behind a bias": (
        "b = Add(p, bias) p5 = Reshape(b, three) t = Transpose<perm = [2, 0, 3, 1, 4]>(p5) "
        "q = Gather(t, zero) k = Gather(t, one) v = Gather(t, minus1)"
    ),
    "queries, keys and values of each head side by side": (
        f"p4 = Reshape(p, of_heads) q4, k4, v4 = Split<axis = 3>(p4, sizes) {TURNED}"
    ),
    "Gathers of a vector": (
        "p5 = Reshape(p, three) q5 = Gather<axis = 2>(p5, at0) k5 = Gather<axis = 2>(p5, at1) v5 = Gather<axis = 2>(p5, at2) "
        f"q4 = Squeeze(q5, at2) k4 = Squeeze(k5, at2) v4 = Squeeze(v5, at2) {TURNED}"
    ),
}  # fmt: skip
"""How queries, keys and values [batch, heads, seq, size] are cut out of the product p [batch, seq, 3 x 4]."""


def packed_layer(cut: str, more: str = "") -> onnx.ModelProto:
    """An attention of two heads on x [batch, seq, 4], of which the first token ``y [batch, 4]`` is taken."""
    model = parser.parse_model(f"""
    <ir_version: 8, opset_import: ["" : 17]>
    layer (float[batch, seq, {WIDTH}] x) => (float[batch, {WIDTH}] y) {{
        p = MatMul(x, w) {cut}
        kt = Transpose<perm = [0, 1, 3, 2]>(k) s = MatMul(q, kt) a = Softmax<axis = -1>(s) c = MatMul(a, v)
        c4 = Transpose<perm = [0, 2, 1, 3]>(c) c3 = Reshape(c4, join) o = MatMul(c3, wo) h = Add(x, o)
        {more or "y = Gather<axis = 1>(h, zero)"}
    }}
    """)
    integers: dict[str, Any] = {
        "widths": [4, 4, 4], "heads": [0, 0, HEADS, SIZE], "three": [0, 0, 3, HEADS, SIZE], "join": [0, 0, WIDTH],
        "of_heads": [0, 0, HEADS, 3 * SIZE], "sizes": [SIZE] * 3, "ones": [1, 1, 1], "at0": [0], "at1": [1], "at2": [2],
        "at4": [4], "minus4": [-4], "end": [2**31], "last": [-1], "zero": 0, "one": 1, "minus1": -1,
    }  # fmt: skip
    rng = np.random.default_rng(5)
    shapes = {"w": (WIDTH, 3 * WIDTH), "wo": (WIDTH, WIDTH), "bias": (3 * WIDTH,)}
    arrays = {name: (rng.standard_normal(shape) / 2).astype(np.float32) for name, shape in shapes.items()}
    arrays |= {name: np.array(value, np.int64) for name, value in integers.items()}
    read = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items() if name in read)
    return model


def compute(model: onnx.ModelProto) -> np.ndarray:
    x = np.random.default_rng(6).standard_normal((BATCH, TOKENS, WIDTH)).astype(np.float32)
    return Session(model.SerializeToString(), threads=1, plain=True).run({"x": x}, ["y"])["y"]


def narrow(model: onnx.ModelProto) -> onnx.ModelProto:
    return graphsurgery.run([PooledToken()], model, output="unused.onnx", dry_run=True, verify=False).model.to_proto()


@pytest.mark.parametrize("name", CUTS)
def test_queries_are_computed_for_one_token(name: str) -> None:
    model = packed_layer(CUTS[name])
    made = narrow(model)
    np.testing.assert_allclose(compute(made), compute(model), atol=1e-6)
    before, after = (count_flops(Graph(one), BATCH, TOKENS) for one in (model, made))
    one_token = 2 * WIDTH * WIDTH + 2 * 2 * TOKENS * WIDTH + 2 * WIDTH * WIDTH
    keys_and_values = 2 * TOKENS * WIDTH * 2 * WIDTH
    assert after == BATCH * (one_token + keys_and_values)
    assert before == BATCH * (TOKENS * one_token + keys_and_values)


def test_a_product_that_is_read_whole_stays() -> None:
    """Its parts would be computed twice."""
    cut = f"q3, k3, v3 = Split<axis = -1>(p, widths) {SPLIT_HEADS} {TURNED} largest = ReduceMax<axes = [1, 2], keepdims = 0>(p)"
    model = packed_layer(cut, "first = Gather<axis = 1>(h, zero) column = Unsqueeze(largest, at1) y = Add(first, column)")
    made = narrow(model)
    np.testing.assert_allclose(compute(made), compute(model), atol=1e-6)
    assert [node.op_type for node in made.graph.node].count("MatMul") == 4


def _take_next(columns: unpacking.Columns) -> unpacking.Columns:
    return replace(columns, numbers=np.roll(columns.numbers, 1))


def _take_no_bias(columns: unpacking.Columns) -> unpacking.Columns:
    return replace(columns, bias=None)


def _swap_heads(columns: unpacking.Columns) -> unpacking.Columns:
    return replace(columns, numbers=np.flip(columns.numbers, columns.places.index(None)))


@pytest.mark.parametrize("fault", [_take_next, _take_no_bias, _swap_heads])
def test_wrong_columns_are_found(fault: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compute_part = unpacking._compute_part

    def compute_wrong(work: Any, layout: Any, part: unpacking.Part) -> Any:
        wrong = part.value.name == "q"
        return compute_part(work, layout, replace(part, columns=fault(part.columns)) if wrong else part)

    monkeypatch.setattr(unpacking, "_compute_part", compute_wrong)
    model = packed_layer(CUTS["a Gather of each behind a bias"])
    with pytest.raises(VerificationFailed):
        graphsurgery.run([PooledToken()], model, output=tmp_path / "made.onnx")
    assert not (tmp_path / "made.onnx").exists()


def fused_layer() -> onnx.ModelProto:
    """The same with ONNX Runtime's Attention, which makes queries, keys and values itself."""
    attention = f"c3 = com.microsoft.Attention<num_heads = {HEADS}>(x, w, bias)"
    model = parser.parse_model(f"""
    <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
    layer (float[batch, seq, {WIDTH}] x) => (float[batch, {WIDTH}] y) {{
        {attention} o = MatMul(c3, wo) h = Add(x, o) y = Gather<axis = 1>(h, zero)
    }}
    """)
    stored = packed_layer(CUTS["a Gather of each behind a bias"]).graph.initializer
    model.graph.initializer.extend(one for one in stored if one.name in ("w", "bias", "wo", "zero"))
    return model


def test_a_fused_attention_asks_with_one_token() -> None:
    model = fused_layer()
    made = narrow(model)
    np.testing.assert_allclose(compute(made), compute(model), atol=1e-6)
    assert count_flops(Graph(made), BATCH, TOKENS) == count_flops(
        Graph(narrow(packed_layer(CUTS["a Gather of each behind a bias"]))), BATCH, TOKENS
    )


@pytest.mark.parametrize(("taken", "instead"), [("queries_weights", "keys_weights"), ("values_weights", "keys_weights")])
def test_the_wrong_columns_of_a_fused_attention_are_found(
    taken: str, instead: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = building.Builder.add
    start = {"queries_weights": 0, "keys_weights": WIDTH, "values_weights": 2 * WIDTH}[instead]

    def wrong(self: building.Builder, op_type: str, inputs: Any, what: str, **more: Any) -> Any:
        if what == taken:
            inputs = [inputs[0], *(self.add_integers([one]) for one in (start, start + WIDTH)), inputs[3]]
        return right(self, op_type, inputs, what, **more)

    monkeypatch.setattr(building.Builder, "add", wrong)
    with pytest.raises(VerificationFailed):
        graphsurgery.run([PooledToken()], fused_layer(), output=tmp_path / "made.onnx")
    assert not (tmp_path / "made.onnx").exists()


def test_the_search_is_made_once_for_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it finds something or has a reason to refuse."""
    from graphsurgery.rewrites.narrow import search

    made = []
    split = search.split_head
    monkeypatch.setattr(search, "split_head", lambda model: made.append(model) or split(model))
    for mode, times in (("cls", 1), ("mean", 2)):
        model = graphsurgery.load(graphsurgery.add_pooling(FIXTURES / "modernbert" / "model.onnx", mode=mode))
        for _ in range(2):
            try:
                PooledToken().check(model)
                graphsurgery.run([PooledToken()], model, output="unused.onnx", dry_run=True, verify=False)
            except graphsurgery.errors.UnsupportedModelError:
                assert mode == "mean"
        assert len(made) == times


def test_external_weights_stay_where_they_are(tmp_path: Path) -> None:
    """The columns are picked in the graph, so that no weight is read or copied."""
    source = FIXTURES / "modernbert-dynamo" / "model.onnx"
    made = graphsurgery.run([AddPooling("cls"), PooledToken()], source, output=tmp_path / "made.onnx", verify=False)
    before, after = graphsurgery.load(source).proto, made.model.proto
    kept = {one.name: one for one in after.graph.initializer}
    large = [one for one in before.graph.initializer if len(one.dims) == 2]
    assert large and all(kept[one.name] == one for one in large if one.name in kept)
    picked = [node.input[0] for node in after.graph.node if node.op_type == "Gather" and node.output[0].endswith("/weights")]
    assert len(picked) == 3 and set(picked) <= {one.name for one in large}
