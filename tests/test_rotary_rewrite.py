"""The rewrite ``rotary``: rotations of many forms against numpy, exports in both forms, other rewrites, planted faults."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from conftest import FIXTURES
from onnx import numpy_helper, parser

import graphsurgery
from graphsurgery import AddPooling, FuseAttention, FuseRotary, PaddingFree, PooledToken
from graphsurgery.cli.main import OK, run
from graphsurgery.errors import NothingToOptimizeError, RequestError, UnsupportedModelError, VerificationFailed
from graphsurgery.rewrites.attention.bias import Draft
from graphsurgery.runtime.session import Session

HEADS, SIZE = 2, 8
WIDTH = HEADS * SIZE
MASK = np.array([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [1, 1, 0, 1, 0], [0, 0, 0, 0, 0]], np.int64)
"""No padding, padding on the left, holes, an empty row."""
IDS = np.array([[1, 2, 3, 4, 5], [0, 0, 6, 7, 8], [9, 8, 7, 6, 5], [1, 2, 3, 0, 0]], np.int64)
COUNTED = np.broadcast_to(np.arange(5), IDS.shape)
FREQUENCIES = np.array([1.0, 0.3, 0.1, 0.03], np.float32)

RANGE = "range = Range(none, length, step) p = Unsqueeze(range, first)"
BY_MASK = "tokens = CumSum(attention_mask, step) p = Sub(tokens, step)"
GIVEN = "p = Identity(position_ids)"
ANGLES = "pf = Cast<to = 1>(p) p3 = Unsqueeze(pf, last) angle = Mul(p3, frequencies)"
TWICE = "both = Concat<axis = -1>(angle, angle) c0 = Cos(both) s0 = Sin(both)"
WAVES = "both = Reshape(pairs, width_of_angles) c0 = Cos(both) s0 = Sin(both)"
STACKED = f"one_more = Unsqueeze(angle, last) pairs = Concat<axis = -1>(one_more, one_more) {WAVES}"
TILED = f"one_more = Unsqueeze(angle, last) pairs = Tile(one_more, twice) {WAVES}"
SPREAD = f"one_more = Unsqueeze(angle, last) pairs = Expand(one_more, two_of_each) {WAVES}"
HALF = "c0 = Cos(angle) s0 = Sin(angle)"
STORED = "c0 = Gather<axis = 0>(stored_cos, p) s0 = Gather<axis = 0>(stored_sin, p)"
AXIS_2 = "cos = Unsqueeze(c0, second) sin = Unsqueeze(s0, second)"
AXIS_1 = "cos = Unsqueeze(c0, third) sin = Unsqueeze(s0, third)"

WHOLE = "Qa = Mul(Q, cos) {halves} Qn = Neg(Qu) Qc = Concat<axis = -1>(Qn, Ql) Qb = Mul(Qc, sin) Qr = Add(Qa, Qb)"
SLICED = "Ql = Slice(Q, start, half, last, one_step) Qu = Slice(Q, half, end, last, one_step)"
SPLIT = "Ql, Qu = Split<axis = -1>(Q, halves)"
BY_HALVES = """{halves} Q1 = Mul(Ql, cos) Q2 = Mul(Qu, sin) Q3 = Mul(Qu, cos) Q4 = Mul(Ql, sin)
    Q5 = Sub(Q1, Q2) Q6 = Add(Q3, Q4) Qr = Concat<axis = -1>(Q5, Q6)"""
NEGATED_SUM = """{halves} Q1 = Mul(Ql, cos) Q0 = Neg(Qu) Q2 = Mul(Q0, sin) Q3 = Mul(Qu, cos) Q4 = Mul(Ql, sin)
    Q5 = Add(Q1, Q2) Q6 = Add(Q4, Q3) Qr = Concat<axis = -1>(Q5, Q6)"""
PAIRS = """Qa = Mul(Q, cos) Ql = Slice(Q, start, end, last, two_steps) Qu = Slice(Q, one, end, last, two_steps) Qn = Neg(Qu)
    Qn1 = Unsqueeze(Qn, last) Ql1 = Unsqueeze(Ql, last) Qc = Concat<axis = -1>(Qn1, Ql1) Qt = Reshape(Qc, back)
    Qb = Mul(Qt, sin) Qr = Add(Qb, Qa)"""
PAIRS_BY_HALVES = """Q0 = Reshape(Q, in_pairs)
    Ql1, Qu1 = Split<axis = -1>(Q0, ones) Ql = Squeeze(Ql1, last) Qu = Squeeze(Qu1, last)
    Q1 = Mul(Ql, cos) Q2 = Mul(Qu, sin) Q3 = Mul(Qu, cos) Q4 = Mul(Ql, sin) Q5 = Sub(Q1, Q2) Q6 = Add(Q3, Q4)
    Q7 = Unsqueeze(Q5, last) Q8 = Unsqueeze(Q6, last) Q9 = Concat<axis = -1>(Q7, Q8) Qr = Reshape(Q9, back)"""
PICKED = PAIRS_BY_HALVES.replace(
    "Ql1, Qu1 = Split<axis = -1>(Q0, ones) Ql = Squeeze(Ql1, last) Qu = Squeeze(Qu1, last)",
    "Ql = Gather<axis = -1>(Q0, none) Qu = Gather<axis = -1>(Q0, step)",
)
BACKWARDS = "Qa = Mul(Q, cos) {halves} Qn = Neg(Ql) Qc = Concat<axis = -1>(Qu, Qn) Qb = Mul(Qc, sin) Qr = Add(Qa, Qb)"


def partly(form: str) -> str:
    """A form that rotates the first half of each head."""
    inner = form.replace("Q, ", "Qx, ").replace("Qr =", "Qy =").replace("(Q,", "(Qx,")
    parts = "Qx = Slice(Q, start, four, last, one_step) Qp = Slice(Q, four, end, last, one_step)"
    return f"{parts} {inner} Qr = Concat<axis = -1>(Qy, Qp)"


@dataclass(frozen=True)
class Form:
    """One way to write rotary positions: the nodes from positions to ``cos`` and ``sin``, and those from Q to ``Qr``."""

    rotation: str
    tables: str
    positions: str = RANGE
    paired: bool = False
    rotated: int = SIZE
    heads_last: bool = False
    """Whether Q is [batch, positions, heads, size] and not [batch, heads, positions, size]."""
    sign: int = 1
    """The direction in which numbers are turned."""


FORMS = {
    "halves, swapped as a whole": Form(WHOLE.format(halves=SLICED), TWICE),
    "halves by a Split": Form(WHOLE.format(halves=SPLIT), TWICE),
    "positions of each text": Form(WHOLE.format(halves=SLICED), TWICE, BY_MASK),
    "positions are an input": Form(WHOLE.format(halves=SLICED), TWICE, GIVEN),
    "tables are stored": Form(WHOLE.format(halves=SLICED), STORED),
    "half by half": Form(BY_HALVES.format(halves=SPLIT), HALF),
    "half by half, from a sum": Form(NEGATED_SUM.format(halves=SLICED), HALF, BY_MASK),
    "pairs, swapped as a whole": Form(PAIRS, STACKED, paired=True),
    "pairs, tables by Tile": Form(PAIRS, TILED, BY_MASK, paired=True),
    "pairs, tables by Expand": Form(PAIRS, SPREAD, paired=True),
    "pairs, number by number": Form(PAIRS_BY_HALVES, HALF, paired=True),
    "pairs, picked by Gather": Form(PICKED, HALF, BY_MASK, paired=True),
    "a part of each head": Form(partly(WHOLE.format(halves=SLICED)), TWICE, rotated=4),
    "pairs in a part of each head": Form(partly(PAIRS), STACKED, BY_MASK, paired=True, rotated=4),
    "before heads and positions are exchanged": Form(WHOLE.format(halves=SLICED), TWICE, BY_MASK, heads_last=True),
    "a part, before they are exchanged": Form(partly(BY_HALVES.format(halves=SPLIT)), HALF, rotated=4, heads_last=True),
    "the other way round": Form(BACKWARDS.format(halves=SLICED), TWICE, sign=-1),
}  # fmt: skip


PLAIN = FORMS["halves, swapped as a whole"]


def rotary_model(form: Form, opset: int = 18) -> onnx.ModelProto:
    """An encoder of one attention with rotary positions: x + attention(x) wo."""
    turn = "Transpose<perm = [0, 2, 1, 3]>"
    rotations = " ".join(form.rotation.replace("Q", one) for one in ("q", "k"))
    before, after = ("Identity", turn) if form.heads_last else (turn, "Identity")
    text = f"""
    <ir_version: {11 if opset > 22 else 9}, opset_import: ["" : {opset}]>
    encoder (int64[batch, seq] input_ids, int64[batch, seq] attention_mask{
        (GIVEN in form.positions and ", int64[batch, seq] position_ids") or ""
    }) => (float[batch, seq, {WIDTH}] last_hidden_state) {{
        dims = Shape(input_ids) length = Gather(dims, step)
        {form.positions} {ANGLES} {form.tables} {AXIS_1 if form.heads_last else AXIS_2}
        x = Gather(table, input_ids) yq = MatMul(x, wq) yk = MatMul(x, wk) yv = MatMul(x, wv)
        zq = Reshape(yq, split) zk = Reshape(yk, split) zv = Reshape(yv, split) v = {turn}(zv)
        q = {before}(zq) k = {before}(zk) {rotations}
        tq = {after}(qr) tk = {after}(kr) columns = Transpose<perm = [0, 1, 3, 2]>(tk) s = MatMul(tq, columns)
        m = Unsqueeze(attention_mask, middle) is_hidden = Equal(m, none) masked = Where(is_hidden, lowest, zero)
        a = Add(s, masked) w = Softmax<axis = -1>(a) c = MatMul(w, v)
        c1 = {turn}(c) c2 = Reshape(c1, join) o = MatMul(c2, wo) last_hidden_state = Add(x, o)
    }}
    """
    model = parser.parse_model(text)
    half = form.rotated // 2
    outer = [0, 0, HEADS] if form.heads_last else [0, HEADS, -1]
    numbers: dict[str, Any] = {
        "none": 0, "step": 1, "first": [0], "second": [1], "third": [2], "last": [-1], "start": [0], "end": [2**31],
        "one": [1], "four": [4], "half": [half], "one_step": [1], "two_steps": [2], "halves": [half, half], "ones": [1, 1],
        "middle": [1, 2], "split": [0, 0, HEADS, SIZE], "join": [0, 0, WIDTH], "width_of_angles": [0, 0, form.rotated],
        "twice": [1, 1, 1, 2], "two_of_each": [1, 1, 1, 2], "back": [*outer, form.rotated], "in_pairs": [*outer, half, 2],
    }  # fmt: skip
    arrays = {name: np.array(value, np.int64) for name, value in numbers.items()}
    angles = np.outer(np.arange(700), np.tile(FREQUENCIES, 2))
    floats = {
        "lowest": np.finfo(np.float32).min, "zero": 0.0, "frequencies": FREQUENCIES[:half], "stored_cos": np.cos(angles),
        "stored_sin": np.sin(angles), "other": FREQUENCIES[half - 1 :: -1] * 2, "by_head": [[[1.0]], [[2.0]]],
    }  # fmt: skip
    arrays |= {name: np.asarray(value, np.float32) for name, value in floats.items()} | weights()
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    return model


def weights() -> dict[str, np.ndarray]:
    random = np.random.default_rng(5)
    shapes = {"table": (10, WIDTH), "wq": (WIDTH, WIDTH), "wk": (WIDTH, WIDTH), "wv": (WIDTH, WIDTH), "wo": (WIDTH, WIDTH)}
    return {name: random.normal(size=shape, scale=0.4).astype(np.float32) for name, shape in shapes.items()}


def places(form: Form) -> np.ndarray:
    """The position of each token."""
    return COUNTED if form.positions == RANGE else COUNTED + 2 if form.positions == GIVEN else MASK.cumsum(1) - 1


def expected(form: Form) -> np.ndarray:
    """x + softmax(rotated(q) rotated(k)^T + mask) v wo in numpy float64."""
    own = {name: array.astype(np.float64) for name, array in weights().items()}
    x = own["table"][IDS]
    q, k, v = ((x @ own[name]).reshape(*IDS.shape, HEADS, SIZE) for name in ("wq", "wk", "wv"))
    angles = form.sign * places(form)[:, :, None, None] * FREQUENCIES[: form.rotated // 2].astype(np.float64)
    q, k = (rotate(one, angles, form) for one in (q, k))
    scores = np.einsum("bqhd,bkhd->bhqk", q, k) + np.where(MASK == 1, 0.0, -1e30)[:, None, None]
    exp = np.exp(scores - scores.max(-1, keepdims=True))
    attended = np.einsum("bhqk,bkhd->bqhd", exp / exp.sum(-1, keepdims=True), v)
    return x + attended.reshape(*IDS.shape, WIDTH) @ own["wo"]


def rotate(x: np.ndarray, angles: np.ndarray, form: Form) -> np.ndarray:
    """Multiply pairs of numbers, as complex numbers, with those of the angles."""
    half, turned = form.rotated // 2, x.copy()
    one, other = (slice(0, form.rotated, 2), slice(1, form.rotated, 2)) if form.paired else (slice(half), slice(half, 2 * half))
    product = (x[..., one] + 1j * x[..., other]) * np.exp(1j * angles)
    turned[..., one], turned[..., other] = product.real, product.imag
    return turned


def feed(form: Form, ids: np.ndarray = IDS, mask: np.ndarray = MASK) -> dict[str, np.ndarray]:
    given = {"position_ids": places(form)} if form.positions == GIVEN else {}
    return {"input_ids": ids, "attention_mask": mask, **given}


def hidden(model: onnx.ModelProto, given: Mapping[str, np.ndarray]) -> np.ndarray:
    return Session(model.SerializeToString()).run(dict(given), ["last_hidden_state"])["last_hidden_state"]


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    onnx.save(model, folder / "source.onnx")
    return folder / "source.onnx"


def count(model: onnx.ModelProto, operator: str) -> int:
    return sum(node.op_type == operator for node in model.graph.node)


def rewritten(source: onnx.ModelProto, folder: Path, *steps: Any, verify: bool = False) -> onnx.ModelProto:
    made = graphsurgery.run(list(steps), saved(source, folder), output=folder / "made.onnx", verify=verify, force=True)
    return onnx.load(made.output)


def pooled(model: onnx.ModelProto, given: Mapping[str, np.ndarray]) -> np.ndarray:
    """The vectors, but that of the row without tokens."""
    return Session(model.SerializeToString()).run(dict(given), ["sentence_embedding"])["sentence_embedding"][:-1]


# --- every form, both operators ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operator", ["vendor", "standard"])
@pytest.mark.parametrize("name", FORMS)
def test_a_form_against_numpy(name: str, operator: str, tmp_path: Path) -> None:
    form = FORMS[name]
    source = rotary_model(form, 23 if operator == "standard" else 18)
    np.testing.assert_allclose(hidden(source, feed(form)), expected(form), atol=1e-5)
    written = rewritten(source, tmp_path, FuseRotary(operator))
    np.testing.assert_allclose(hidden(written, feed(form)), expected(form), atol=1e-5)
    nodes = [one for one in written.graph.node if one.op_type == "RotaryEmbedding"]
    attributes = {one.name: onnx.helper.get_attribute_value(one) for one in nodes[0].attribute}
    assert [one.domain for one in nodes] == ["com.microsoft" if operator == "vendor" else ""] * 2
    assert attributes["interleaved"] == form.paired
    assert attributes.get("rotary_embedding_dim", SIZE) == form.rotated
    assert not any(count(written, one) for one in ("Neg", "Concat", "Split") if form.sign > 0 and form.rotated == SIZE
                   and "Concat" not in form.tables and operator == "vendor"), "nothing of the old rotation is left"  # fmt: skip


def test_the_sizes_of_a_batch_do_not_matter(tmp_path: Path) -> None:
    """One text, one token, and positions that differ by text."""
    for name in ("positions of each text", "halves, swapped as a whole", "positions are an input"):
        form = FORMS[name]
        source = rotary_model(form)
        written = rewritten(source, tmp_path, FuseRotary())
        for rows, length in ((1, 5), (1, 1), (3, 1), (2, 4)):
            given = {key: array[:rows, :length] for key, array in feed(form).items()}
            np.testing.assert_allclose(hidden(written, given), hidden(source, given), atol=1e-5)
    given["position_ids"] = np.array([[4, 3, 2, 1], [0, 7, 7, 900]])
    np.testing.assert_allclose(hidden(written, given), hidden(source, given), atol=1e-5)


@pytest.mark.parametrize("name", ["modernbert", "modernbert-dynamo", "qwen3", "qwen3-dynamo"])
def test_an_export(name: str, tmp_path: Path) -> None:
    """Every rotation of queries and keys, in both forms of export. Cosines and sines are computed once for all layers."""
    source = FIXTURES / name / "model.onnx"
    made = graphsurgery.run([FuseRotary()], source, output=tmp_path / "made.onnx", verify=name == "qwen3-dynamo")
    rotations = 2 * count(graphsurgery.load(source).proto, "Softmax")
    assert made.notes[0] == f"{rotations} of {rotations} rotations became RotaryEmbedding"
    written = graphsurgery.load(tmp_path / "made.onnx").proto
    assert count(written, "Cos") == (2 if name.startswith("modernbert") else 1)
    stored = {one.name for one in written.graph.initializer}
    tables = [one.input[2] for one in written.graph.node if one.op_type == "RotaryEmbedding"]
    assert tables and stored.isdisjoint(tables), "no table is stored"


# --- its order with other rewrites ------------------------------------------------------------------------------------------


def test_attention_before_or_behind_it(tmp_path: Path) -> None:
    """Queries and keys go from the rotation to the attention without a node in between, whichever came first."""
    source = rotary_model(FORMS["positions of each text"])
    for steps in ((FuseRotary(), FuseAttention()), (FuseAttention(), FuseRotary())):
        written = rewritten(source, tmp_path, *steps)
        np.testing.assert_allclose(hidden(written, feed(PLAIN)), hidden(source, feed(PLAIN)), atol=1e-5)
        attention = next(one for one in written.graph.node if one.op_type == "MultiHeadAttention")
        made = {one.output[0]: one for one in written.graph.node}
        assert [made[name].op_type for name in attention.input[:3]] == ["RotaryEmbedding", "RotaryEmbedding", "MatMul"]
        assert [made[name].input[0] for name in attention.input[:2]] == ["yq", "yk"]


@pytest.mark.parametrize("form", ["rows", "gather"])
@pytest.mark.parametrize("name", ["halves, swapped as a whole", "positions of each text", "in the attention"])
def test_padding_free_behind_it(name: str, form: str, tmp_path: Path) -> None:
    """The tables then have a row for each token. In the attention: heads come before positions, without a Transpose."""
    model = rotary_model(FORMS.get(name, FORMS["positions of each text"]))
    if name == "in the attention":
        for node in model.graph.node:
            if node.output[0] in ("q", "k"):
                node.CopyFrom(onnx.helper.make_node("Add", [f"{node.output[0]}2", "zero"], [node.output[0]]))
        for place, one in enumerate(("q", "k")):
            turned = onnx.helper.make_node("Transpose", [f"z{one}"], [f"{one}2"], perm=[0, 2, 1, 3])
            model.graph.node.insert(next(i for i, x in enumerate(model.graph.node) if x.output[0] == "v") + 1 + place, turned)
    steps = (AddPooling("mean"), FuseRotary(), PaddingFree(form))
    plain, written = (
        rewritten(model, tmp_path, steps[0]),
        rewritten(model, tmp_path, *steps, verify=(name, form) == ("in the attention", "rows")),
    )
    assert count(written, "Loop") == (form == "rows")
    for rows in (slice(0, 4), slice(1, 2)):
        given = {key: array[rows] for key, array in feed(PLAIN).items()}
        np.testing.assert_allclose(pooled(written, given), pooled(plain, given), atol=1e-5)


def test_rows_come_behind_it(tmp_path: Path) -> None:
    source = saved(rotary_model(FORMS["positions of each text"]), tmp_path)
    steps = [AddPooling("mean"), PaddingFree(), FuseRotary()]
    with pytest.raises(UnsupportedModelError, match="inside of its loops over rows") as caught:
        graphsurgery.run(steps, source, output=tmp_path / "made.onnx", verify=False)
    assert "before" in caught.value.advice


def test_one_token_of_each_text_before_or_behind_it(tmp_path: Path) -> None:
    source, pooling = rotary_model(PLAIN), AddPooling("cls")
    plain = rewritten(source, tmp_path, pooling)
    for steps in ((FuseRotary(), PooledToken()), (PooledToken(), FuseRotary())):
        written = rewritten(source, tmp_path, pooling, *steps)
        assert count(written, "RotaryEmbedding") >= 1
        np.testing.assert_allclose(pooled(written, feed(PLAIN)), pooled(plain, feed(PLAIN)), atol=1e-5)


def test_its_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = saved(rotary_model(FORMS["half by half"], 23), tmp_path)
    made = graphsurgery.run([AddPooling("mean"), FuseRotary("standard")], source, output=tmp_path / "made.onnx")
    capsys.readouterr()
    assert made.report and run(["recipe", "show", str(made.output)]) == OK
    text = capsys.readouterr().out
    assert 'rewrite = "rotary"\noperator = "standard"' in text
    (tmp_path / "shown.toml").write_text(text, encoding="utf-8")
    again = graphsurgery.run_recipe(tmp_path / "shown.toml", source, output=tmp_path / "again.onnx", verify=False)
    assert again.output.read_bytes() == made.output.read_bytes()


# --- planted faults ---------------------------------------------------------------------------------------------------------

Add = Callable[..., ir.Value]


def earlier_position(add: Add, inputs: list[Any], attributes: dict[str, Any]) -> None:
    """Queries alone: angles count by the distance of queries and keys."""
    if not inputs[0].name.startswith("yq"):
        return
    one = add("Sign", [add("Abs", [inputs[1]])])
    inputs[1] = add("Sub", [inputs[1], one])


def swap_tables(add: Add, inputs: list[Any], attributes: dict[str, Any]) -> None:
    inputs[2:] = inputs[:1:-1]


def swap_halves(add: Add, inputs: list[Any], attributes: dict[str, Any]) -> None:
    inputs[3] = add("Neg", [inputs[3]])


def take_pairs_for_halves(add: Add, inputs: list[Any], attributes: dict[str, Any]) -> None:
    attributes["interleaved"] = 1 - attributes["interleaved"]


def scale_twice(add: Add, inputs: list[Any], attributes: dict[str, Any]) -> None:
    inputs[2:] = [add("Add", [one, one]) for one in inputs[2:]]


FAULTS = [earlier_position, swap_tables, swap_halves, take_pairs_for_halves, scale_twice]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_rotation_is_found(fault: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add = Draft.add

    def wrong(
        self: Draft,
        operator: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
        domain: str = "",
    ) -> ir.Value:
        given, values = dict(attributes or {}), list(inputs)
        if operator == "RotaryEmbedding":
            fault(lambda *arguments: add(self, *arguments), values, given)
        return add(self, operator, values, given, domain)

    monkeypatch.setattr(Draft, "add", wrong)
    source = saved(rotary_model(FORMS["positions of each text"]), tmp_path)
    with pytest.raises(VerificationFailed):
        graphsurgery.run([FuseRotary()], source, output=tmp_path / "made.onnx")
    assert not (tmp_path / "made.onnx").exists()


# --- what stays as it is ----------------------------------------------------------------------------------------------------

LEFT = {
    "two numbers of a pair have different angles": (
        PLAIN.rotation, TWICE.replace("(angle, angle)", "(angle, wrong)").replace("both =", "wrong = Mul(p3, other) both ="),
        "the two numbers of a pair are not turned by one angle",
    ),
    "each head has angles of its own": (
        PLAIN.rotation.replace("Mul(Q, cos)", "Mul(Q, hc)").replace("Mul(Qc, sin)", "Mul(Qc, hs)"),
        f"{TWICE} h0 = Mul(both, by_head) hc0 = Cos(h0) hs0 = Sin(h0) hc = Unsqueeze(hc0, first) hs = Unsqueeze(hs0, first)",
        "its angles do not differ by position alone",
    ),
    "halves are swapped and none is negated": (
        BY_HALVES.format(halves=SPLIT).replace("Sub(", "Add("), HALF, "the two numbers of a pair are not turned by one angle",
    ),
    "an exponential in between": (
        PLAIN.rotation.replace("Qb = Mul(Qc, sin)", "Qe = Exp(Qc) Qb = Mul(Qe, sin)"), TWICE, ""
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT)
def test_what_stays_as_it_is(name: str, tmp_path: Path) -> None:
    rotation, tables, reason = LEFT[name]
    source = saved(rotary_model(Form(rotation, tables)), tmp_path)
    with pytest.raises(NothingToOptimizeError, match="no rotary positions can become one operator") as caught:
        graphsurgery.run([FuseRotary()], source, output=tmp_path / "made.onnx")
    assert reason in caught.value.message and not (tmp_path / "made.onnx").exists()


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="there is no operator 'elephant'"):
        FuseRotary("elephant")
    source = saved(rotary_model(PLAIN), tmp_path)
    with pytest.raises(UnsupportedModelError, match="and ONNX has a RotaryEmbedding since opset 23") as caught:
        graphsurgery.run([FuseRotary("standard")], source, output=tmp_path / "made.onnx")
    assert 'export the model with opset 23, or choose the operator "vendor"' in caught.value.advice
    graphsurgery.run([FuseRotary()], source, output=tmp_path / "made.onnx", verify=False)
    with pytest.raises(NothingToOptimizeError, match="it is one operator already, RotaryEmbedding"):
        graphsurgery.run([FuseRotary()], tmp_path / "made.onnx", output=tmp_path / "again.onnx")
    with pytest.raises(NothingToOptimizeError, match="no rotation was recognised in the graph"):
        graphsurgery.run([FuseRotary()], FIXTURES / "bert" / "model.onnx", output=tmp_path / "again.onnx")
