"""quantize: rounding and plans against numpy, every scheme product by product, planted faults, the search, what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import FIXTURES
from onnx import TensorProto, helper
from safetensors.numpy import save_file

import graphsurgery
from graphsurgery import AddDense, AddPooling, Fuse, PaddingFree, PooledToken, Quantize
from graphsurgery.cli.main import OK, VERDICT, WRONG, run
from graphsurgery.encoder.flow import Flow
from graphsurgery.errors import (
    AlreadyAppliedError,
    NothingToOptimizeError,
    RequestError,
    UnsupportedModelError,
    VerificationFailed,
)
from graphsurgery.model.model import Model
from graphsurgery.optimizer.quantize_search import FLOAT, STATIC, QuantizeSearch
from graphsurgery.proof.integer_products import NAME as PRODUCTS
from graphsurgery.proof.quantized import BATCH, REAL_TEXT
from graphsurgery.proof.rewrite_proof import HEAD, Claim, RewriteProof
from graphsurgery.remarks import select_warnings
from graphsurgery.report import Check, Verdict
from graphsurgery.rewrites.apply import apply_rewrite
from graphsurgery.rewrites.head_parts import Parts, split_head
from graphsurgery.rewrites.quantize import products
from graphsurgery.rewrites.quantize.calibration import Sample
from graphsurgery.rewrites.quantize.lowering import Lowering
from graphsurgery.rewrites.quantize.plans import Plan, make_plan
from graphsurgery.rewrites.quantize.products import find_groups
from graphsurgery.rewrites.quantize.rounding import compensate_weights, round_blocks, round_weights
from graphsurgery.rewrites.quantize.targets import AVX2, PORTABLE, TARGETS, VNNI, detect_target, overflows
from graphsurgery.rewrites.quantize_encoder import SCHEMES, list_groups
from graphsurgery.rewrites.rewrite import Context
from graphsurgery.runtime.session import open_in_memory
from graphsurgery.runtime.texts import CALIBRATE, JUDGE, bundled_texts

FEW, LONGEST = 14, 60
"""The texts of a list, and their characters at most."""
OPERATORS = {
    "int8": "MatMulIntegerToFloat", "dynamic": "DynamicQuantizeLinear", "qdq": "DequantizeLinear",
    "weights-8bit": "MatMulNBits", "weights-4bit": "MatMulNBits",
}  # fmt: skip
"""An operator that each scheme makes."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pooled fixtures, their tokenizers, and two short lists of texts."""
    place = tmp_path_factory.mktemp("quantize")
    for use in (CALIBRATE, JUDGE):
        texts = [one for one in bundled_texts(use) if len(one) <= LONGEST]
        (place / f"{use}.txt").write_text("\n".join(texts[:: len(texts) // FEW][:FEW]), encoding="utf-8")
    for name in ("bert", "bert-dynamo", "modernbert", "qwen3", "xlmr"):
        shutil.copytree(FIXTURES / name, place / name)
        pooled = AddPooling("lasttoken" if name == "qwen3" else "mean", normalize=True).apply(
            graphsurgery.load(place / name / "model.onnx")
        )
        graphsurgery.save(pooled, place / name / "pooled.onnx")
    return place


@pytest.fixture(scope="module")
def bert(folder: Path) -> Model:
    return graphsurgery.load(folder / "bert" / "pooled.onnx")


def make(folder: Path, **given: Any) -> Quantize:
    """Return the rewrite with few texts."""
    texts = {"calibrate": str(folder / "calibrate.txt"), "texts": str(folder / "judge.txt")}
    return Quantize(**(texts | {"target": AVX2} | given))


def quantise(model: Model, rewrite: Quantize) -> Model:
    return apply_rewrite(rewrite, model, Context(lambda _: [])).after


def check(model: Model, rewrite: Quantize, written: Model) -> dict[str, Check]:
    """Return the checks that the rewrite asks for, by name."""
    return {one.name: one for ask in rewrite.list_checks(model) for one in ask(written)}


def list_operators(model: Model) -> set[str]:
    return {f"{node.domain}.{node.op_type}".lstrip(".") for node in model.proto.graph.node}


# --- rounding and plans ----------------------------------------------------------------------------------------------------


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("largest", [63, 127])
def test_columns_are_rounded_to_the_nearest_integer(rng: np.random.Generator, largest: int) -> None:
    weights = rng.standard_normal((40, 12)).astype(np.float32)
    weights[:, 3] = 0
    integers, scales = round_weights(weights, largest)
    assert integers.dtype == np.int8 and np.abs(integers).max() == largest
    assert np.abs(integers * scales - weights).max() <= scales.max() / 2 * (1 + 1e-5)
    assert not integers[:, 3].any() and np.isfinite(scales).all()


def test_compensated_rounding_is_nearer_on_the_data(rng: np.random.Generator) -> None:
    """Correlated channels, as an encoder's are: the products are several times nearer than with plain rounding."""
    mixed = rng.standard_normal((400, 48)) @ rng.standard_normal((48, 160)) + 0.1 * rng.standard_normal((400, 160))
    rows, weights = mixed.astype(np.float32), rng.standard_normal((160, 24)).astype(np.float32)
    wanted = rows @ weights

    def measure(pair: tuple[np.ndarray, np.ndarray]) -> float:
        return float(np.square(rows @ (pair[0] * pair[1]).astype(np.float32) - wanted).mean())

    plain, compensated = (
        measure(one) for one in (round_weights(weights, 63), compensate_weights(weights, rows.T @ rows.astype(np.float64), 63))
    )
    assert compensated < plain / 2


def test_compensation_without_moments_is_plain_rounding(rng: np.random.Generator) -> None:
    weights = rng.standard_normal((8, 5)).astype(np.float32)
    broken = np.full((8, 8), np.nan)
    assert all(map(np.array_equal, compensate_weights(weights, broken, 127), round_weights(weights, 127)))


@pytest.mark.parametrize(("bits", "block"), [(8, 16), (4, 16)])
def test_blocks_are_what_the_operator_reads(rng: np.random.Generator, bits: int, block: int) -> None:
    """MatMulNBits of the identity gives back the weights, to half a step of their block."""
    weights = rng.standard_normal((40, 16)).astype(np.float32)
    integers, scales = round_blocks(weights, bits, block)
    node = helper.make_node(
        "MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", K=40, N=16, bits=bits, block_size=block
    )
    graph = helper.make_graph(
        [node], "blocks", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 40])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 16])],
        [onnx.numpy_helper.from_array(one, name) for name, one in (("w", integers), ("s", scales))],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    found = open_in_memory(model).run({"x": np.eye(40, dtype=np.float32)})["y"]
    steps = np.repeat(scales.T, block, axis=0)[:40]
    assert np.all(np.abs(found - weights) <= steps / 2 + 1e-5)


def test_a_plan_is_exact_before_rounding(rng: np.random.Generator) -> None:
    """x W + b = ((x - c) / s) (s W) + (c W + b): nearer than the steps of the weights allow, with an outlying channel."""
    rows = rng.standard_normal((300, 32)).astype(np.float32)
    rows[:, 5] = 20 + 0.5 * rows[:, 5]
    weights, bias = rng.standard_normal((32, 8)).astype(np.float32), rng.standard_normal(8).astype(np.float32)
    sample = Sample.of(32)
    sample.add(rows)
    plan = make_plan([weights], [bias], sample, 127, equalise=True)
    assert plan.center is not None and plan.divisors is not None and plan.range is not None
    equalised = (rows - plan.center) / plan.divisors
    assert plan.range[0] <= equalised.min() and equalised.max() <= plan.range[1] + 1e-5
    matrix = plan.matrices[0]
    found = equalised @ (matrix.integers * matrix.scales) + matrix.bias
    assert np.abs(found - (rows @ weights + bias)).max() < 0.1
    assert np.abs(plan.center[5] - 20) < 1


def test_moments_about_a_centre(rng: np.random.Generator) -> None:
    rows, center = rng.standard_normal((50, 6)).astype(np.float32), rng.standard_normal(6)
    sample = Sample.of(6)
    sample.add(rows[:20])
    sample.add(rows[20:])
    wanted = (rows - center).T @ (rows - center)
    assert np.allclose(sample.center_moments(center), wanted, atol=1e-4)


# --- what is found ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "groups", "count"), [("bert", 12, 18), ("bert-dynamo", 8, 12), ("modernbert", 12, 12), ("qwen3", 8, 14)]
)
def test_groups_are_the_products_of_tokens(folder: Path, name: str, groups: int, count: int) -> None:
    """The queries, keys and values of a layer read one value. No pooler and no head is among them."""
    encoder = split_head(graphsurgery.load(folder / name / "pooled.onnx")).encoder
    found = find_groups(Flow.of(encoder))
    assert (len(found), sum(len(one.products) for one in found)) == (groups, count)
    assert len(list_groups(encoder)) == groups


def test_a_gelu_bounds_what_it_gives(bert: Model) -> None:
    found = find_groups(Flow.of(split_head(bert).encoder))
    assert [one.lowest is not None for one in found] == [False, False, False, True] * 3


# --- every scheme, product by product --------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("target", [AVX2, PORTABLE])
def test_every_scheme_is_right(folder: Path, bert: Model, scheme: str, target: str) -> None:
    if (scheme, target) == ("weights-4bit", PORTABLE):
        with pytest.raises(RequestError, match="4-bit"):
            make(folder, scheme=scheme, target=target)
        return
    rewrite = make(folder, scheme=scheme, target=target)
    written = quantise(bert, rewrite)
    assert {one: found.verdict for one, found in check(bert, rewrite, written).items()} == dict.fromkeys(
        (PRODUCTS, REAL_TEXT, BATCH), Verdict.PASSED
    )
    operators = list_operators(written)
    if target == PORTABLE:
        assert not any("." in one for one in operators)
    elif scheme in OPERATORS:
        assert any(one.endswith(OPERATORS[scheme]) for one in operators)


@pytest.mark.parametrize("name", ["bert-dynamo", "modernbert", "qwen3", "xlmr"])
def test_every_form_is_right(folder: Path, name: str) -> None:
    model = graphsurgery.load(folder / name / "pooled.onnx")
    names = [one.name for one in list_groups(split_head(model).encoder)]
    rewrite = make(folder, static=tuple(names[::2]), tables=True, texts=str(folder / "calibrate.txt"))
    found = check(model, rewrite, quantise(model, rewrite))
    assert all(one.verdict is Verdict.PASSED for one in found.values()), found


@pytest.mark.parametrize("before", [Fuse(), PaddingFree(), PaddingFree("gather")], ids=str)
def test_it_follows_other_rewrites(folder: Path, bert: Model, before: Any) -> None:
    whole = apply_rewrite(before, bert, Context(lambda _: [])).after
    rewrite = make(folder, calibrate="none")
    found = check(whole, rewrite, quantise(whole, rewrite))
    assert all(one.verdict is Verdict.PASSED for one in found.values()), found


def test_it_follows_the_pooled_token(folder: Path) -> None:
    model = graphsurgery.load(folder / "qwen3" / "pooled.onnx")
    whole = apply_rewrite(PooledToken(), model, Context(lambda _: [])).after
    rewrite = make(folder, calibrate="none")
    found = check(whole, rewrite, quantise(whole, rewrite))
    assert all(one.verdict is Verdict.PASSED for one in found.values()), found


def test_tables_are_a_quarter(folder: Path, bert: Model) -> None:
    plain, small = (quantise(bert, make(folder, calibrate="none", tables=tables)) for tables in (False, True))
    tables = [one for one in plain.proto.graph.initializer if one.data_type == TensorProto.FLOAT and len(one.dims) == 2]
    left = [one for one in small.proto.graph.initializer if one.data_type == TensorProto.FLOAT and len(one.dims) == 2]
    assert tables and not [one for one in left if one.dims[1] > 1]


# --- planted faults --------------------------------------------------------------------------------------------------------


def _shift_rows(lowering: Lowering, *given: Any) -> Any:
    """Let each row have the scale of another."""
    builder, product, matrix, integers, scale, zero, rows = given
    ends = [builder.integers(one) for one in ([-1], [-(1 << 40)], [-2], [-1])]
    return REPLACE(lowering, builder, product, matrix, integers, scale, zero, builder.node("Slice", [rows, *ends], "wrong"))


def _shift_zero(lowering: Lowering, builder: Any, value: Any, scale: Any, zero: int) -> Any:
    return QUANTISE(lowering, builder, value, scale, zero + 1)


def _reduce_all(lowering: Lowering, builder: Any, value: Any) -> Any:
    return builder.node("ReduceMax", [value], "row_maximum", {"keepdims": 1})


REPLACE, QUANTISE = Lowering._replace, Lowering._quantise
FAULTS: dict[str, tuple[str, Callable[..., Any], str]] = {
    "scale of the wrong row": ("_replace", _shift_rows, PRODUCTS),
    "zero point off by one": ("_quantise", _shift_zero, PRODUCTS),
    "one scale for the whole batch left in": ("_reduce_max", _reduce_all, BATCH),
}
"""By fault: the method to replace, by what, and the check that must fail."""


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_in_nodes_are_caught(folder: Path, bert: Model, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, wrong, caught_by = FAULTS[fault]
    rewrite = make(folder, calibrate="none")
    monkeypatch.setattr(Lowering, method, wrong)
    assert check(bert, rewrite, quantise(bert, rewrite))[caught_by].verdict is Verdict.FAILED


def _narrow_range(plan: Plan) -> Plan:
    assert plan.range is not None
    return replace(plan, range=(plan.range[0] / 4, plan.range[1] / 4))


def _clip_weights(plan: Plan) -> Plan:
    """Let the largest weights be too small, as sums are that do not fit in 16 bits."""
    matrices = tuple(replace(one, integers=np.clip(one.integers, -30, 30)) for one in plan.matrices)
    return replace(plan, matrices=matrices)


@pytest.mark.parametrize("spoil", [_narrow_range, _clip_weights], ids=["ranges of other texts", "sums that overflow"])
def test_faults_in_plans_are_caught(
    folder: Path, bert: Model, spoil: Callable[[Plan], Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = tuple(one.name for one in list_groups(split_head(bert).encoder))
    rewrite = make(folder, static=names)
    made = Quantize._make_plans

    def make_plans(self: Quantize, *given: Any) -> dict[str, Plan]:
        return {name: spoil(plan) for name, plan in made(self, *given).items()}

    monkeypatch.setattr(Quantize, "_make_plans", make_plans)
    assert check(bert, rewrite, quantise(bert, rewrite))[PRODUCTS].verdict is Verdict.FAILED


def test_overflowing_sums_of_this_machine_are_caught(folder: Path, bert: Model) -> None:
    """A file for processors with VNNI passes where sums fit, and fails where they overflow."""
    rewrite = make(folder, target=VNNI)
    found = check(bert, rewrite, quantise(bert, rewrite))[PRODUCTS]
    assert found.verdict is (Verdict.FAILED if overflows() else Verdict.PASSED)
    assert detect_target() in TARGETS and (detect_target() == AVX2) == overflows()


def test_a_quantised_head_is_caught(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dense layer of the head in integers is not the head's own node any more."""
    model = graphsurgery.load(folder / "bert" / "pooled.onnx")
    weights = np.random.default_rng(1).standard_normal((16, 32)).astype(np.float32)
    save_file({"linear.weight": weights}, folder / "dense.safetensors")
    model = AddDense(str(folder / "dense.safetensors")).apply(model)
    graphsurgery.save(model, folder / "bert" / "dense.onnx", force=True)
    model = graphsurgery.load(folder / "bert" / "dense.onnx")
    monkeypatch.setattr(products, "_has_many_rows", lambda *_: True)
    made = apply_rewrite(make(folder, calibrate="none"), model, Context(lambda _: []), Parts(model)).after
    graphsurgery.save(made, folder / "bert" / "wrong.onnx", force=True)
    written = graphsurgery.load(folder / "bert" / "wrong.onnx")
    parts = split_head(model)
    claim = Claim("lossy", model.interface, [one.step.edit for one in parts.head], parts.own)
    found = {one.name: one.verdict for one in RewriteProof.of(model).compare(written, claim).report.checks}
    assert found[HEAD] is Verdict.FAILED


def test_a_product_that_is_not_quantised_does_not_count(folder: Path, bert: Model) -> None:
    names = [one.name for one in list_groups(split_head(bert).encoder)]
    rewrite = make(folder, calibrate="none")
    written = quantise(bert, make(folder, calibrate="none", float32=tuple(names[:1])))
    counted = next(one for one in rewrite.list_checks(bert))
    assert {one.name: one.verdict for one in counted(written)}[PRODUCTS] is Verdict.PASSED
    whole = quantise(bert, rewrite)
    entry = whole.rewrites[-1]
    entry.given["quantized"]["products"] += 1
    assert {one.name: one.verdict for one in counted(whole)}[PRODUCTS] is Verdict.FAILED


def test_verify_says_where_sums_overflow(folder: Path, tmp_path: Path) -> None:
    """A file for processors with VNNI, verified on this one."""
    source = folder / "bert" / "pooled.onnx"
    graphsurgery.run([make(folder, target=VNNI)], source, output=tmp_path / "vnni.onnx", verify=False)
    found = {one.name: one.verdict for one in graphsurgery.verify(tmp_path / "vnni.onnx", against=source).checks}
    assert found[PRODUCTS] is (Verdict.FAILED if overflows() else Verdict.PASSED)


# --- the verb --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick_race(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Time nothing for long."""
    monkeypatch.setattr("graphsurgery.optimizer.quantize_search.SECONDS", 0.0)
    yield


@pytest.mark.usefixtures("quick_race")
def test_the_fastest_file_within_the_budget_is_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.onnx"
    given = ["--calibrate", str(folder / "calibrate.txt"), "--texts", str(folder / "judge.txt"), "--for", AVX2, "--no-timing"]
    code = run(["quantize", str(folder / "bert" / "pooled.onnx"), "-o", str(output), "--min-cosine", "0.97", *given, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert code == OK, found
    assert found["report"]["verdict"] == "PASSED" and output.exists()
    chosen = next(one for one in found["choice"]["candidates"] if one["name"] == found["choice"]["chosen"])
    assert chosen["quality"]["worst"] >= 0.97 and not chosen["why_not"]
    recorded = Quantize.from_record(graphsurgery.load(output).rewrites[-1].parameters)
    assert recorded is not None and recorded.calibrate == "calibrate.txt" and len(recorded.float32) < 12
    assert run(["quantize", str(output), "--json"]) == WRONG
    assert "quantised already" in json.loads(capsys.readouterr().out)["error"]["message"]


@pytest.mark.usefixtures("quick_race")
def test_a_budget_that_cannot_be_kept_shows_what_was_tried(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(VerificationFailed, match="no quantised file keeps the cosine") as caught:
        graphsurgery.quantize(
            folder / "bert" / "pooled.onnx", output=tmp_path / "out.onnx", min_cosine=0.9999999, target=AVX2,
            calibrate=folder / "calibrate.txt", texts=folder / "judge.txt", plot=tmp_path / "tried.svg",
        )  # fmt: skip
    outcome = caught.value.outcome
    assert outcome is not None and outcome.choice is not None and outcome.choice.chosen == ""
    assert len(outcome.choice.candidates) >= 2 and all(one.quality is not None for one in outcome.choice.candidates)
    assert not (tmp_path / "out.onnx").exists()
    assert (tmp_path / "tried.svg").exists()


def test_the_way_raises_the_groups_that_gain_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two groups that cost the same: the one with the larger error becomes float32 first. Measuring each is one step."""
    told: list[tuple[int, int]] = []
    search = QuantizeSearch.__new__(QuantizeSearch)
    search.__dict__["search"] = SimpleNamespace(progress=lambda _, done, total: told.append((done, total)))
    search.__dict__["groups"] = tuple(products.GroupSize(name, 8, 100, 10) for name in "ab")
    errors = {"a": 0.01, "b": 0.04, "embedding tables": 0.001}
    monkeypatch.setattr(
        QuantizeSearch, "_measure_errors", lambda _, name: [(STATIC, errors[name]), ("by row", errors[name]), (FLOAT, 0.0)]
    )
    costs = {STATIC: 0.0, "by row": 0.5, FLOAT: 1.0}
    monkeypatch.setattr(QuantizeSearch, "_estimate_costs", lambda _: dict.fromkeys(errors, costs))
    way = list(search._make_way())
    assert way[0]["b"] == STATIC and way[1]["b"] == FLOAT and way[1]["a"] == STATIC and way[2]["a"] == FLOAT
    assert way[2]["embedding tables"] == "by row"
    assert told == [(0, 3), (1, 3), (2, 3)]


def test_a_recipe_quantises(folder: Path, tmp_path: Path) -> None:
    outcome = graphsurgery.run([make(folder, min_cosine=0.9)], folder / "bert" / "pooled.onnx", output=tmp_path / "out.onnx")
    assert outcome.report is not None and outcome.report
    again = graphsurgery.verify(tmp_path / "out.onnx", against=folder / "bert" / "pooled.onnx")
    assert again.verdict is Verdict.PASSED and PRODUCTS in {one.name for one in again.checks}
    with pytest.raises(VerificationFailed, match="cosine"):
        graphsurgery.run([make(folder, min_cosine=0.99999)], folder / "bert" / "pooled.onnx", output=tmp_path / "no.onnx")
    assert not (tmp_path / "no.onnx").exists()


def test_a_small_budget_leaves_drawn_feeds_a_limit(folder: Path, tmp_path: Path) -> None:
    assert make(folder, min_cosine=0.96).least_cosine == pytest.approx(0.88)
    rewrite = make(folder, min_cosine=0.01)
    assert rewrite.least_cosine == 0
    outcome = graphsurgery.run([rewrite], folder / "bert" / "pooled.onnx", output=tmp_path / "out.onnx")
    assert outcome.report is not None and outcome.report


def test_the_dynamic_kind_says_what_its_vectors_depend_on(folder: Path, bert: Model) -> None:
    rewrite = make(folder, scheme="dynamic")
    notes = apply_rewrite(rewrite, bert, Context(lambda _: [])).notes
    assert any("changes with the texts it is batched with" in one for one in select_warnings(notes))
    found = check(bert, rewrite, quantise(bert, rewrite))[BATCH]
    assert found.verdict is Verdict.PASSED and "one range for the whole batch" in found.detail


# --- what is refused -------------------------------------------------------------------------------------------------------


def test_it_asks_for_what_it_needs(folder: Path, bert: Model, tmp_path: Path) -> None:
    for given, what in (
        ({"scheme": "int3"}, "no scheme"), ({"target": "abacus"}, "no target"),
        ({"static": ("x",), "calibrate": "none"}, "ranges"),
        ({"scheme": "qdq", "static": ("x",)}, "static"),
    ):  # fmt: skip
        with pytest.raises(RequestError, match=what):
            Quantize(**given)
    with pytest.raises(RequestError, match="no products of tokens with weights read nothing"):
        quantise(bert, make(folder, static=("nothing",)))
    bare = tmp_path / "bare.onnx"
    shutil.copy(folder / "bert" / "pooled.onnx", bare)
    with pytest.raises(RequestError, match=r"tokenizer\.json"):
        graphsurgery.quantize(bare)
    with pytest.raises(RequestError, match="one vector per text"):
        graphsurgery.quantize(folder / "bert" / "model.onnx")
    with pytest.raises(RequestError, match="depends on its batch"):
        graphsurgery.quantize(folder / "bert" / "pooled.onnx", scheme="dynamic")
    with pytest.raises(RequestError, match="between 0 and 1"):
        graphsurgery.quantize(folder / "bert" / "pooled.onnx", min_cosine=1.0)


def test_other_rewrites_come_first(folder: Path, bert: Model) -> None:
    written = quantise(bert, make(folder, calibrate="none"))
    for rewrite in (PaddingFree(), PooledToken()):
        with pytest.raises(UnsupportedModelError, match="quantised"):
            rewrite.check(written)
    with pytest.raises(AlreadyAppliedError):
        make(folder).check(written)


def test_an_encoder_without_products_is_refused(folder: Path, bert: Model) -> None:
    names = tuple(one.name for one in list_groups(split_head(bert).encoder))
    with pytest.raises(NothingToOptimizeError, match="can be quantised"):
        quantise(bert, make(folder, float32=names))
    assert VERDICT == 1
