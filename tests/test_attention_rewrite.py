"""The rewrite ``attention``: small attentions of many forms against numpy, exports in both forms, and what must be refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from conftest import FIXTURES
from fusions import require_optimizer
from onnx import TensorProto, numpy_helper, parser

import graphsurgery
from graphsurgery import AddPooling, Fuse, FuseAttention
from graphsurgery.cli.main import OK, run
from graphsurgery.encoder.flow import Flow
from graphsurgery.errors import NothingToOptimizeError, RequestError, UnsupportedModelError, VerificationFailed
from graphsurgery.graph.editor import Editor
from graphsurgery.graph.facts import Facts
from graphsurgery.rewrites.attention import convert
from graphsurgery.rewrites.attention.bias import Bias, Draft
from graphsurgery.rewrites.attention.key_masks import KeyMask, KeyMasks
from graphsurgery.rewrites.attention.reading import Kind, Step
from graphsurgery.rewrites.fuse.position_sizes import spell_out_position_sizes
from graphsurgery.runtime.session import Session

HEADS, SIZE, WIDTH = 2, 4, 8
LOWEST = np.finfo(np.float32).min
SCALE = np.float32(0.5)
SLOPES = np.array([-0.3, -0.7], np.float32)
"""What each head adds to a score for each position of the key."""
MASK = np.array([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [1, 1, 0, 1, 0], [0, 0, 0, 0, 0]], np.int64)
"""No padding, padding on the left, holes, an empty row."""
IDS = np.array([[1, 2, 3, 4, 5], [0, 0, 6, 7, 8], [9, 8, 7, 6, 5], [1, 2, 3, 0, 0]], np.int64)

TURN = "kt = Transpose<perm = [0, 1, 3, 2]>(k)"
SCALED = f"{TURN} s = MatMul(q, kt) d = Mul(s, half)"
END = "w = Softmax<axis = -1>(a) context = MatMul(w, v)"
JOINED = """
    three = Concat<axis = 0>(minus, seq, size) q3 = Reshape(q, three) k3 = Reshape(k, three) v3 = Reshape(v, three)
    kt = Transpose<perm = [0, 2, 1]>(k3) scaled = Div(kt, two) s = MatMul(q3, scaled)
"""
MASK_JOINED = """
    per_row = Concat<axis = 0>(batch, heads, one_int, seq) spread = Expand(masked, per_row)
    rows = Concat<axis = 0>(minus, one_int, seq) masked3 = Reshape(spread, rows) is_hidden3 = Less(masked3, zero)
"""
END_JOINED = """
    w = Softmax<axis = -1>(s3) c3 = MatMul(w, v3) last = Concat<axis = 0>(batch, heads, seq, size) context = Reshape(c3, last)
"""
GROUPED = "".join(
    f"{one}a = MatMul(x, w{one}_single) {one}b = Reshape({one}a, split_single) {one}c = Transpose<perm = [0, 2, 1, 3]>({one}b) "
    f"{one}d = Unsqueeze({one}c, second_axis) {one}e = Expand({one}d, to_groups) {one}f = Reshape({one}e, all_heads) "
    for one in "kv"
)
"""Keys and values of a single head, repeated."""
SEE_NONE = "guard = IsNaN(w) w0 = Where(guard, zero, w)"


@dataclass(frozen=True)
class Form:
    """One way to write an attention: the nodes from q, k, v [batch, heads, seq, size] to ``context``."""

    nodes: str
    scale: float = float(SCALE)
    slopes: bool = False
    empty: str = "average"
    """What a query that sees no key gets: the average of the values, or zeros."""
    value_size: int = SIZE
    lowered: bool = False
    """Whether masked scores are so high that a query which sees no key gets other numbers once they are a bias."""
    grouped: bool = False
    """Whether all heads have the same keys and values."""


FORMS = {
    "the scores are divided": Form(f"{TURN} s = MatMul(q, kt) d = Div(s, two) a = Add(d, masked) {END}"),
    "no scale": Form(f"{TURN} s = MatMul(q, kt) a = Add(masked, s) {END}", scale=1.0),
    "queries and keys are multiplied": Form(
        f"root = Sqrt(half) q5 = Mul(q, root) {TURN} k5 = Mul(root, kt) s = MatMul(q5, k5) a = Add(s, masked) {END}"
    ),
    "keys are turned in one step with the split": Form(
        f"kt = Transpose<perm = [0, 2, 3, 1]>(k1) s = MatMul(q, kt) d = Mul(s, half) a = Add(d, masked) {END}"
    ),
    "keys are turned by three dims": Form(
        f"three = Concat<axis = 0>(minus, seq, size) k3 = Reshape(k, three) kt3 = Transpose<perm = [0, 2, 1]>(k3) "
        f"four = Concat<axis = 0>(batch, heads, size, seq) kt = Reshape(kt3, four) kh = Mul(kt, half) s = MatMul(q, kh) "
        f"a = Add(s, masked) {END}"
    ),
    "the mask is scaled, too": Form(f"{TURN} s = MatMul(q, kt) m = Add(s, masked) a = Mul(m, half) {END}"),
    "the mask is subtracted": Form(f"{SCALED} p = Neg(masked) a = Sub(d, p) {END}"),
    "masked scores are replaced": Form(f"{SCALED} a = Where(is_hidden, lowest, d) {END}"),
    "shown scores are kept": Form(f"{SCALED} n = Not(is_hidden) a = Where(n, d, lowest) {END}"),
    "a condition in the shape of the scores": Form(
        f"{TURN} s = MatMul(q, kt) shape = Shape(s) spread = Expand(is_hidden, shape) d = Mul(s, half) "
        f"a = Where(spread, lowest, d) {END}"
    ),
    "a position bias": Form(f"{SCALED} p = Add(d, slopes) a = Add(p, masked) {END}", slopes=True),
    "position bias and mask are one": Form(
        f"{TURN} both = Add(slopes, masked) s = MatMul(q, kt) d = Mul(s, half) a = Add(d, both) {END}", slopes=True
    ),
    "position bias before the mask replaces": Form(
        f"{SCALED} p = Add(d, slopes) a = Where(is_hidden, lowest, p) {END}", slopes=True
    ),
    "a floor under the scores": Form(
        f"{SCALED} m = Add(d, infinite) a = Max(m, lowest) {END}"
    ),
    "queries that see nothing": Form(
        f"{SCALED} a = Add(d, infinite) w = Softmax<axis = -1>(a) {SEE_NONE} "
        "context = MatMul(w0, v)", empty="zeros",
    ),
    "the output of queries that see nothing": Form(
        f"{SCALED} a = Add(d, masked) w = Softmax<axis = -1>(a) c = MatMul(w, v) "
        "context = Where(sees_nothing, zero, c)", empty="zeros",
    ),
    "values of another size": Form(f"{SCALED} a = Add(d, masked) {END}", value_size=6),
    "batch and heads are one dim": Form(
        f"{JOINED} four = Concat<axis = 0>(batch, heads, seq, seq) s4 = Reshape(s, four) a = Where(is_hidden, lowest, s4) "
        "w = Softmax<axis = -1>(a) joined = Concat<axis = 0>(minus, seq, seq) w3 = Reshape(w, joined) c3 = MatMul(w3, v3) "
        "last = Concat<axis = 0>(batch, heads, seq, size) context = Reshape(c3, last)"
    ),
    "a bias while batch and heads are one dim": Form(
        f"{JOINED} joined = Concat<axis = 0>(minus, seq, seq) four = Concat<axis = 0>(batch, heads, seq, seq) "
        "spread = Expand(slopes, four) slopes3 = Reshape(spread, joined) p = Add(s, slopes3) s4 = Reshape(p, four) "
        "a = Add(s4, masked) w = Softmax<axis = -1>(a) w3 = Reshape(w, joined) c3 = MatMul(w3, v3) "
        "last = Concat<axis = 0>(batch, heads, seq, size) context = Reshape(c3, last)", slopes=True,
    ),
    "the softmax is taken while batch and heads are one dim": Form(
        f"{JOINED} four = Concat<axis = 0>(batch, heads, seq, seq) s4 = Reshape(s, four) a = Add(s4, masked) "
        f"joined = Concat<axis = 0>(minus, seq, seq) s3 = Reshape(a, joined) {END_JOINED}"
    ),
    "batch and heads are one dim throughout": Form(f"{JOINED} {MASK_JOINED} s3 = Add(s, masked3) {END_JOINED}"),
    "masked scores are replaced while batch and heads are one dim": Form(
        f"{JOINED} {MASK_JOINED} s3 = Where(is_hidden3, lowest, s) {END_JOINED}"
    ),
    "batch and heads are one dim, and nothing turns the keys": Form(
        "pairs = Concat<axis = 0>(seq, minus, size) "
        "q5 = Transpose<perm = [2, 0, 1, 3]>(q) q6 = Reshape(q5, pairs) q3 = Transpose<perm = [1, 0, 2]>(q6) "
        "k5 = Transpose<perm = [2, 0, 1, 3]>(k) k6 = Reshape(k5, pairs) kt = Transpose<perm = [1, 2, 0]>(k6) "
        "v5 = Transpose<perm = [2, 0, 1, 3]>(v) v6 = Reshape(v5, pairs) v3 = Transpose<perm = [1, 0, 2]>(v6) "
        f"{MASK_JOINED} s = MatMul(q3, kt) d = Mul(s, half) s3 = Add(d, masked3) {END_JOINED}"
    ),
    "Einsums": Form(
        's = Einsum<equation = "bnid,bnjd->bnij">(q, k) d = Mul(s, half) a = Add(d, masked) w = Softmax<axis = -1>(a) '
        'context = Einsum<equation = "bnij,bnjd->bnid">(w, v)'
    ),
    "Einsums of values that nothing has turned round, in another order": Form(
        's = Einsum<equation = "bjnd, bind -> bnij">(k1, q1) d = Mul(s, half) a = Add(d, masked) w = Softmax<axis = -1>(a) '
        'c = Einsum<equation = "bjnd,bnij->ibnd">(v1, w) context = Transpose<perm = [1, 2, 0, 3]>(c)'
    ),
    "Einsums with dots": Form(
        's = Einsum<equation = "...id,...jd->...ij">(q, k) d = Mul(s, half) a = Add(d, masked) w = Softmax<axis = -1>(a) '
        'context = Einsum<equation = "...ij,...jd->...id">(w, v)'
    ),
    "masked scores are multiplied by 0 and lowered": Form(
        f"{SCALED} p = Mul(d, mf) l = Mul(hides, thousands) a = Sub(p, l) {END}", lowered=True
    ),
    "masked scores are multiplied by 0 and lowered without end": Form(f"{SCALED} p = Mul(mf, d) a = Add(masked, p) {END}"),
    "masked scores are multiplied by a truth value": Form(
        f"{SCALED} n = Not(is_hidden) t = Cast<to = 1>(n) p = Mul(d, t) h = Sub(t, one) l = Mul(thousands, h) a = Add(p, l) "
        f"{END}", lowered=True,
    ),
    "masked scores become a number that is low": Form(f"{SCALED} a = Where(is_hidden, low, d) {END}", lowered=True),
    "all heads have the same keys and values": Form(
        f"{GROUPED} kt = Transpose<perm = [0, 1, 3, 2]>(kf) s = MatMul(q, kt) d = Mul(s, half) a = Add(d, masked) "
        "w = Softmax<axis = -1>(a) context = MatMul(w, vf)", grouped=True,
    ),
}  # fmt: skip


def weights(value_size: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(7)
    shapes = {
        "table": (10, WIDTH), "wq": (WIDTH, WIDTH), "wk": (WIDTH, WIDTH), "wv": (WIDTH, HEADS * value_size),
        "wo": (HEADS * value_size, WIDTH),
    }  # fmt: skip
    made = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return made | {f"{name}_single": made[name][:, :SIZE] for name in ("wk", "wv")}


def attention_model(form: Form, opset: int = 18) -> onnx.ModelProto:
    """An encoder of one attention: x + attention(x) wo."""
    text = f"""
    <ir_version: {11 if opset > 22 else 9}, opset_import: ["" : {opset}]>
    encoder (int64[batch, seq] input_ids, int64[batch, seq] attention_mask) => (float[batch, seq, {WIDTH}] last_hidden_state) {{
        x = Gather(table, input_ids)
        q0 = MatMul(x, wq) k0 = MatMul(x, wk) v0 = MatMul(x, wv)
        q1 = Reshape(q0, split) k1 = Reshape(k0, split) v1 = Reshape(v0, split_values)
        q = Transpose<perm = [0, 2, 1, 3]>(q1) k = Transpose<perm = [0, 2, 1, 3]>(k1) v = Transpose<perm = [0, 2, 1, 3]>(v1)
        m = Unsqueeze(attention_mask, middle) is_hidden = Equal(m, none)
        mf = Cast<to = 1>(m) hides = Sub(one, mf) masked = Mul(hides, lowest) infinite = Where(is_hidden, below, zero)
        tokens = ReduceSum<keepdims = 1>(m, last_axis) sees_nothing = Equal(tokens, none)
        dims = Shape(input_ids) batch = Gather(dims, first) seq = Gather(dims, second)
        count = Gather(dims, third) positions = Range(none, count, step) pf = Cast<to = 1>(positions) slopes = Mul(pf, per_head)
        {form.nodes.replace(" m = ", " m5 = ").replace("(m, lowest)", "(m5, lowest)").replace("(m, half)", "(m5, half)")}
        c1 = Transpose<perm = [0, 2, 1, 3]>(context) c2 = Reshape(c1, join)
        o = MatMul(c2, wo) last_hidden_state = Add(x, o)
    }}
    """
    model = parser.parse_model(text)
    numbers: dict[str, Any] = {
        "split": [0, 0, HEADS, SIZE], "split_values": [0, 0, HEADS, form.value_size], "join": [0, 0, HEADS * form.value_size],
        "middle": [1, 2], "last_axis": [3], "none": 0, "first": [0], "second": [1], "third": 1, "step": 1, "minus": [-1],
        "one_int": [1], "heads": [HEADS], "size": [SIZE], "split_single": [0, 0, 1, SIZE], "second_axis": [2],
        "to_groups": [1, 1, HEADS, 1, 1], "all_heads": [0, HEADS, -1, SIZE],
    }  # fmt: skip
    arrays = {name: np.array(value, np.int64) for name, value in numbers.items()}
    floats = {
        "one": 1.0,
        "lowest": LOWEST,
        "zero": 0.0,
        "below": -np.inf,
        "half": SCALE,
        "two": 1 / SCALE,
        "thousands": 1e4,
        "low": -1e4,
    }
    arrays |= {name: np.array(value, np.float32) for name, value in floats.items()}
    arrays |= {"per_head": SLOPES.reshape(1, HEADS, 1, 1)} | weights(form.value_size)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    return model


def expected(form: Form) -> np.ndarray:
    """x + softmax(scale q k^T + slopes + mask) v wo in numpy float64."""
    own = {name: array.astype(np.float64) for name, array in weights(form.value_size).items()}
    if form.grouped:
        own |= {name: np.tile(own[f"{name}_single"], HEADS) for name in ("wk", "wv")}
    x = own["table"][IDS]
    q, k, v = ((x @ own[name]).reshape(*IDS.shape, HEADS, -1).transpose(0, 2, 1, 3) for name in ("wq", "wk", "wv"))
    scores = form.scale * q @ k.transpose(0, 1, 3, 2)
    if form.slopes:
        scores = scores + SLOPES.reshape(1, HEADS, 1, 1).astype(np.float64) * np.arange(IDS.shape[1])
    shown = MASK[:, None, None, :] == 1
    exp = np.exp(scores - scores.max(-1, keepdims=True)) * shown
    total = exp.sum(-1, keepdims=True)
    nothing = np.full(scores.shape, 0.0 if form.empty == "zeros" else 1 / IDS.shape[1])
    w = np.where(total == 0, nothing, exp / np.where(total == 0, 1, total))
    return x + (w @ v).transpose(0, 2, 1, 3).reshape(*IDS.shape, -1) @ own["wo"]


def count(model: onnx.ModelProto, operator: str) -> int:
    return sum(node.op_type == operator for node in model.graph.node)


def hidden(model: onnx.ModelProto) -> np.ndarray:
    feed = {"input_ids": IDS, "attention_mask": MASK}
    return Session(model.SerializeToString()).run(feed, ["last_hidden_state"])["last_hidden_state"]


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    onnx.save(model, folder / "source.onnx")
    return folder / "source.onnx"


# --- every form, both operators ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operator", ["vendor", "standard"])
@pytest.mark.parametrize("name", FORMS)
def test_a_form_against_numpy(name: str, operator: str, tmp_path: Path) -> None:
    form = FORMS[name]
    source = attention_model(form, 23 if operator == "standard" else 18)
    np.testing.assert_allclose(hidden(source), expected(form), atol=2e-5)
    made = graphsurgery.run([FuseAttention(operator)], saved(source, tmp_path), output=tmp_path / "made.onnx")
    assert made.report and made.notes[0].startswith("1 of 1 attentions became ")
    written = onnx.load(tmp_path / "made.onnx")
    assert count(written, "MultiHeadAttention" if operator == "vendor" else "Attention") == 1
    assert count(written, "Softmax") == 0 and count(written, "MatMul") == 4, "nothing of the old attention is left"
    assert count(written, "Einsum") == 0
    node = next(one for one in written.graph.node if one.op_type == "Attention" or one.domain == "com.microsoft")
    assert (node.input[1] == "kc") == (form.grouped and operator == "standard"), "it repeats keys for groups of heads itself"
    rows = slice(0, -1 if form.lowered else None)
    np.testing.assert_allclose(hidden(written)[rows], expected(form)[rows], atol=2e-5)


def test_no_node_turns_the_operands_round(tmp_path: Path) -> None:
    """The vendor's operator takes what the projections give, so that no Reshape and no Transpose is left."""
    graphsurgery.run(
        [FuseAttention()],
        saved(attention_model(FORMS["queries and keys are multiplied"]), tmp_path),
        output=tmp_path / "made.onnx",
    )
    written = onnx.load(tmp_path / "made.onnx")
    assert count(written, "Transpose") == count(written, "Reshape") == 0
    node = next(one for one in written.graph.node if one.op_type == "MultiHeadAttention")
    assert list(node.input[:3]) == ["q0", "k0", "v0"] and node.output[0] in written.graph.node[-2].input
    attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    assert attributes["num_heads"] == HEADS and attributes["scale"] == pytest.approx(0.5, abs=1e-7)
    mask = next(one for one in written.graph.node if one.output[0] == node.input[4])
    assert len(node.input) == 5 and node.input[3] == "" and mask.op_type == "Cast" and mask.input == ["attention_mask"]
    assert attributes["mask_filter_value"] == LOWEST, "what is added is a mask of keys and nothing else"


@pytest.mark.parametrize("name", ["bert", "bert-dynamo", "bert-fp16", "modernbert", "modernbert-dynamo", "qwen3-dynamo", "t5"])
def test_an_export(name: str, tmp_path: Path) -> None:
    source = FIXTURES / name / "model.onnx"
    layers = count(graphsurgery.load(source).proto, "Softmax")
    made = graphsurgery.run([FuseAttention()], source, output=tmp_path / "made.onnx")
    written = graphsurgery.load(tmp_path / "made.onnx")
    assert made.report and count(written.proto, "MultiHeadAttention") == layers and not count(written.proto, "Softmax")


def test_the_standard_operator_in_an_export(tmp_path: Path) -> None:
    model = onnx.load(FIXTURES / "modernbert" / "model.onnx")
    model.opset_import[0].version, model.ir_version = 23, 11
    source = saved(model, tmp_path)
    made = graphsurgery.run([FuseAttention("standard"), AddPooling("mean")], source, output=tmp_path / "made.onnx")
    written = graphsurgery.load(tmp_path / "made.onnx").proto
    assert made.report and count(written, "Attention") == 3 and all(not node.domain for node in written.graph.node)


def test_its_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = saved(attention_model(FORMS["no scale"], 23), tmp_path)
    made = graphsurgery.run([AddPooling("mean"), FuseAttention("standard")], source, output=tmp_path / "made.onnx")
    capsys.readouterr()
    assert run(["recipe", "show", str(made.output)]) == OK
    text = capsys.readouterr().out
    assert 'rewrite = "attention"\noperator = "standard"' in text
    (tmp_path / "shown.toml").write_text(text, encoding="utf-8")
    again = graphsurgery.run_recipe(tmp_path / "shown.toml", source, output=tmp_path / "again.onnx")
    assert again.output.read_bytes() == made.output.read_bytes()


# --- planted faults ---------------------------------------------------------------------------------------------------------


def swap(inputs: list[ir.Value | None], attributes: dict[str, Any]) -> None:
    inputs[1], inputs[2] = inputs[2], inputs[1]


def scale_twice(inputs: list[ir.Value | None], attributes: dict[str, Any]) -> None:
    attributes["scale"] *= attributes["scale"]


def drop_the_mask(inputs: list[ir.Value | None], attributes: dict[str, Any]) -> None:
    del inputs[3:]


def take_other_heads(inputs: list[ir.Value | None], attributes: dict[str, Any]) -> None:
    attributes["num_heads"] *= 2


@pytest.mark.parametrize("fault", [swap, scale_twice, drop_the_mask, take_other_heads])
def test_a_wrong_operator_is_found(fault: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add = Draft.add

    def wrong(
        self: Draft,
        operator: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
        domain: str = "",
    ) -> ir.Value:
        given, values = dict(attributes or {}), list(inputs)
        if operator == "MultiHeadAttention":
            fault(values, given)
        return add(self, operator, values, given, domain)

    monkeypatch.setattr(Draft, "add", wrong)
    source = saved(attention_model(FORMS["the scores are divided"]), tmp_path)
    with pytest.raises(VerificationFailed):
        graphsurgery.run([FuseAttention()], source, output=tmp_path / "made.onnx")
    assert not (tmp_path / "made.onnx").exists()


MASKS = {
    "hidden by a sum": ("mf = Cast<to = 1>(m) h = Sub(one, mf) bias = Mul(h, low)", -1e4),
    "hidden by a choice": ("i = Equal(m, none) bias = Where(i, lowest, nought)", LOWEST),
    "spread over queries": ("i = Equal(m, none) b = Where(i, lowest, nought) bias = Expand(b, square)", LOWEST),
    "the other way round": ("mf = Cast<to = 1>(m) bias = Mul(mf, low)", None),
    "by queries, too": ("mf = Cast<to = 1>(m) mt = Transpose<perm = [0, 1, 3, 2]>(mf) p = Mul(mf, mt) h = Sub(one, p) "
                        "bias = Mul(h, low)", None),
    "without end": ("i = Equal(m, none) bias = Where(i, below, nought)", None),
    "in the long texts alone": ("i = Equal(m, none) b = Where(i, lowest, nought) r = Range(none, count, step) "
                                "far = Greater(r, window) w = Where(far, lowest, nought) bias = Add(b, w)", None),
    "by the ids, too": ("i = Equal(m, none) e = Equal(ids4, none) o = Or(i, e) bias = Where(o, lowest, nought)", None),
    "by the ids": ("o = Equal(ids4, none) bias = Where(o, lowest, nought)", None),
}  # fmt: skip


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_of_keys_is_known_by_what_it_does(name: str) -> None:
    """Found by runs of the nodes that compute it: 0 at tokens, one finite number at padding, whichever query asks."""
    nodes, number = MASKS[name]
    text = f"""
    <ir_version: 9, opset_import: ["" : 18]>
    g (int64[b, s] attention_mask, int64[b, s] input_ids) => (float[b, n, t, u] bias, float[b, s, z] x) {{
        x = Gather(table, input_ids)
        m = Unsqueeze(attention_mask, middle) ids4 = Unsqueeze(input_ids, middle) dims = Shape(attention_mask)
        batch = Gather(dims, first) seq = Gather(dims, second) square = Concat<axis = 0>(batch, second, seq, seq)
        count = Gather(dims, third) {nodes}
    }}
    """
    model = parser.parse_model(text)
    arrays = {"middle": [1, 2], "first": [0], "second": [1], "none": 0, "step": 1, "third": 1, "window": 500}
    made = [numpy_helper.from_array(np.array(value, np.int64), key) for key, value in arrays.items()]
    floats = {"one": 1.0, "low": -1e4, "lowest": LOWEST, "nought": 0.0, "below": -np.inf}
    made += [numpy_helper.from_array(np.array(value, np.float32), key) for key, value in floats.items()]
    made.append(numpy_helper.from_array(np.ones((4, 2), np.float32), "table"))
    model.graph.initializer.extend(made)
    graph = Editor(model)
    flow, facts = Flow.of(graphsurgery.load(model), graph), Facts(graph)
    value = graph.value("bias")
    assert value is not None
    found = KeyMasks(flow, facts).find(Bias(value, facts[value].dims), [Step(Kind.ADD, value)])
    assert (found is not None) == (number is not None)
    assert found is None or (found.value.name, found.number) == ("attention_mask", number)


@pytest.mark.parametrize("number", [-1.0, 0.0])
def test_a_wrong_mask_of_keys_is_found(number: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = KeyMasks.find

    def wrong(self: KeyMasks, *arguments: Any) -> KeyMask:
        found = find(self, *arguments)
        assert found is not None
        return KeyMask(found.value, number)

    monkeypatch.setattr(KeyMasks, "find", wrong)
    source = saved(attention_model(FORMS["the scores are divided"]), tmp_path)
    with pytest.raises(VerificationFailed):
        graphsurgery.run([FuseAttention()], source, output=tmp_path / "made.onnx")


def test_the_bias_of_another_head_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spread = convert.spread_bias

    def wrong(draft: Draft, *arguments: Any, **named: Any) -> ir.Value:
        return draft.add("Gather", [spread(draft, *arguments, **named), draft.add_integers(1, 0)], {"axis": 1})

    monkeypatch.setattr(convert, "spread_bias", wrong)
    source = saved(attention_model(FORMS["a position bias"]), tmp_path)
    with pytest.raises(VerificationFailed):
        graphsurgery.run([FuseAttention()], source, output=tmp_path / "made.onnx")


# --- what stays as it is ----------------------------------------------------------------------------------------------------

LEFT = {
    "scores are multiplied by computed numbers": (
        f"{TURN} s = MatMul(q, kt) d = Mul(s, slopes) a = Add(d, masked) {END}", "multiplied by something else than one"
    ),
    "scores are multiplied by a mask, and the others are lowered a little": (
        f"{TURN} s = MatMul(q, kt) d = Mul(s, mf) l = Mul(hides, two) a = Sub(d, l) {END}", "or a mask whose zeros are hidden"
    ),
    "scores are multiplied by a mask, and the others are raised": (
        f"{TURN} s = MatMul(q, kt) d = Mul(s, mf) l = Mul(hides, thousands) a = Add(d, l) {END}",
        "or a mask whose zeros are hidden",
    ),
    "scores are multiplied by one mask and lowered by another": (
        f"{TURN} s = MatMul(q, kt) t = Cast<to = 1>(is_hidden) h = Sub(one, t) d = Mul(s, mf) l = Mul(h, thousands) "
        f"a = Sub(d, l) {END}", "or a mask whose zeros are hidden",
    ),
    "an Einsum that is no product of two matrices": (
        f's = Einsum<equation = "bnid,bmjd->bnij">(q, k) a = Add(s, masked) {END}',
        "queries and keys are not multiplied as two matrices",
    ),
    "masked scores become a number that does not hide": (
        f"{TURN} s = MatMul(q, kt) a = Where(is_hidden, one, s) {END}", "it puts 1 in place of masked scores"
    ),
    "another function of the scores": (f"{TURN} s = MatMul(q, kt) t = Tanh(s) a = Add(t, masked) {END}", ""),
    "something is added behind the dims that the operator takes": (
        f"{JOINED} {MASK_JOINED} four = Concat<axis = 0>(batch, heads, seq, seq) s4 = Reshape(s, four) a = Add(s4, masked) "
        f"joined = Concat<axis = 0>(minus, seq, seq) s5 = Reshape(a, joined) s3 = Add(s5, masked3) {END_JOINED}",
        "something is added to its scores where batch and heads are one dim",
    ),
    "weights are multiplied": (
        f"{TURN} s = MatMul(q, kt) a = Add(s, masked) w = Softmax<axis = -1>(a) w0 = Mul(w, half) context = MatMul(w0, v)",
        "a Mul changes its weights",
    ),
    "scores are read elsewhere": (
        f"{TURN} s = MatMul(q, kt) a = Add(s, masked) w = Softmax<axis = -1>(a) c = MatMul(w, v) e = ReduceMax(s, last_axis) "
        "context = Add(c, e)", "something else reads its scores or its weights",
    ),
    "the softmax is over the queries": (
        f"{TURN} s = MatMul(q, kt) a = Add(s, masked) w = Softmax<axis = 2>(a) context = MatMul(w, v)",
        "its softmax is taken over axis 2, not over the keys",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT)
def test_what_stays_as_it_is(name: str, tmp_path: Path) -> None:
    nodes, reason = LEFT[name]
    source = saved(attention_model(Form(nodes)), tmp_path)
    with pytest.raises(NothingToOptimizeError, match="no attention can become one operator") as caught:
        graphsurgery.run([FuseAttention()], source, output=tmp_path / "made.onnx")
    assert reason in caught.value.message and not (tmp_path / "made.onnx").exists()


def test_one_of_two_is_converted(tmp_path: Path) -> None:
    """A second attention whose weights are an output stays; the first does not wait for it."""
    model = onnx.load(FIXTURES / "bert" / "model.onnx")
    weights = [node.output[0] for node in model.graph.node if node.op_type == "Softmax"]
    model.graph.output.append(onnx.helper.make_tensor_value_info(weights[1], TensorProto.FLOAT, ["b", 4, "s", "t"]))
    made = graphsurgery.run([FuseAttention()], saved(model, tmp_path), output=tmp_path / "made.onnx")
    assert made.report and "2 of 3 attentions became MultiHeadAttention" in made.notes
    assert "attention 1 stays as it is: something else reads its scores or its weights" in made.notes


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="there is no operator 'elephant'"):
        FuseAttention("elephant")
    source = saved(attention_model(FORMS["no scale"]), tmp_path)
    with pytest.raises(
        UnsupportedModelError, match="the model has opset 18, and ONNX has an Attention since opset 23"
    ) as caught:
        graphsurgery.run([FuseAttention("standard")], source, output=tmp_path / "made.onnx")
    assert 'export the model with opset 23, or choose the operator "vendor"' in caught.value.advice
    graphsurgery.run([FuseAttention()], source, output=tmp_path / "made.onnx")
    with pytest.raises(NothingToOptimizeError, match="it is one operator already, MultiHeadAttention"):
        graphsurgery.run([FuseAttention()], tmp_path / "made.onnx", output=tmp_path / "again.onnx")


# --- with the optimizer behind it -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bert", "bert-dynamo"])
def test_everything_fuses_behind_it(name: str, tmp_path: Path) -> None:
    require_optimizer()
    made = graphsurgery.run([FuseAttention(), Fuse()], FIXTURES / name / "model.onnx", output=tmp_path / "made.onnx")
    assert made.report and made.fusions is not None and made.fusions.complete
    assert set(made.fusions.counts) == {"attention", "skip norm", "gelu", "embedding norm"}


def test_the_length_of_positions_is_read_from_ids_of_that_length() -> None:
    """Where it is another input's, the nodes stay as they are, and so they do in a graph that has none of them."""
    text = """
    <ir_version: 9, opset_import: ["" : 18]>
    g (int64[b, s] ids, int64[b, OTHER] types) => (float[b, t, 4] out) {
        end = Shape<start = 1, end = 2>(types) positions = Slice(stored, zero, end, one)
        word = Gather(table, ids) place = Gather(table, positions) out = Add(word, place)
    }
    """
    arrays = {"stored": np.arange(8).reshape(1, 8), "zero": np.array([0]), "one": np.array([1])}
    for other, changes in (("s", True), ("t", False)):
        model = parser.parse_model(text.replace("OTHER", other))
        model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
        model.graph.initializer.append(numpy_helper.from_array(np.ones((8, 4), np.float32), "table"))
        made = spell_out_position_sizes(model)
        assert (made is not model) == changes
        if changes:
            nodes = {node.output[0]: node for node in made.graph.node}
            path = [nodes["positions"].input[2]]
            for _ in range(3):
                path.append(nodes[path[-1]].input[0])
            assert [nodes[name].op_type for name in path[:3]] == ["Unsqueeze", "Gather", "Shape"] and path[3] == "ids"
