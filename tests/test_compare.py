"""Two models on the same feeds: what is close enough, row by row, and what a verdict may never come to."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import FIXTURES
from encoders import HIDDEN, IDS, MASK, tiny_encoder
from fusions import require_optimizer, with_head
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import graphsurgery
from graphsurgery.compare.models import Feed, SourceOutputs, compare_models
from graphsurgery.compare.tally import MOST_BEYOND, Tally
from graphsurgery.compare.tolerance import Limits, allow_loss, allow_rounding, compute_float32_tolerance, compute_stretch_limit
from graphsurgery.compare.vectors import select_vectors
from graphsurgery.edits.trials import count_agreeing, explain_lack_of_evidence
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.report import Check, Comparison, Verdict
from graphsurgery.runtime.session import Session

PASSED, FAILED, NOT_CHECKED = Verdict.PASSED, Verdict.FAILED, Verdict.NOT_CHECKED
INF, NAN = np.inf, np.nan
COSINE = 0.999
NUMBERS = st.floats(-100, 100, width=32)


# --- rows -----------------------------------------------------------------------------------------------------------------


def tallied(found: Any, wanted: Any, tolerance: Any, promised: Any = None, **asked: float) -> Comparison:
    tally = Tally("kind", **asked)
    tally.add(np.array(found, float), np.array(wanted, float), np.array(tolerance, float), promised)
    return tally.summarize()


def test_what_has_no_limit_is_no_case() -> None:
    assert tallied([[1e9]], [[0]], INF).verdict is NOT_CHECKED
    one = tallied([[1e9, 1], [1e9, 2]], [[0, 1], [0, 2]], [[INF, 0.1], [INF, INF]])
    assert (one.verdict, one.cases, one.worst) == (PASSED, 1, 0)
    assert tallied([[1e9, 2]], [[0, 1]], [[INF, 0.1]]).verdict is FAILED


def test_rows_at_the_cap_are_no_cases() -> None:
    """They may fail, by their own tolerance, and never pass."""
    loose = (MOST_BEYOND + 1) * 1e-6
    one = tallied([[5e-5], [0]], [[0], [0]], [[loose], [1e-6]], 1e-6)
    assert (one.verdict, one.cases, one.too_loose) == (PASSED, 1, 1)
    assert tallied([[5e-5]], [[0]], [[loose]], 1e-6).verdict is NOT_CHECKED
    assert tallied([[2e-4]], [[0]], [[loose]], 1e-6).verdict is FAILED
    assert tallied([[5e-5]], [[0]], [[MOST_BEYOND * 1e-6]], 1e-6).beyond == pytest.approx(MOST_BEYOND)
    check = Check("name", "detail", (one,))
    assert check.verdict is PASSED and "1 row(s)" in check.left_out[0]


def test_a_kind_that_compared_nothing_is_told() -> None:
    check = Check("name", "detail", (Comparison("one", 1, 0.0, 0.0, None), Comparison("other", 0, 0.0, 0.0, None)))
    assert check.verdict is PASSED and check.left_out == ["name: nothing could be compared on 'other'"]


@given(st.lists(NUMBERS, min_size=3, max_size=6), st.floats(1.1, 5))
def test_the_length_counts_where_it_is_asked_for(vector: list[float], factor: float) -> None:
    wanted = np.array([vector]) + np.sign(np.array([vector]) + 0.5)
    one = tallied(wanted * factor, wanted, 1e9, least_cosine=COSINE, most_stretch=0.05)
    assert one.verdict is FAILED and one.stretch == pytest.approx(factor - 1) and one.cosine == pytest.approx(1)
    assert tallied(wanted, wanted, 1e9, least_cosine=COSINE, most_stretch=0.05).verdict is PASSED


def test_nothing_where_there_was_something_is_found_by_length_too() -> None:
    assert tallied([[0, 0, 0]], [[1, 0, 0]], 1e9, most_stretch=0.5).verdict is FAILED
    assert tallied([[0, 0, 0]], [[0, 0, 0]], 1e9, most_stretch=0.5).verdict is PASSED


# --- tolerances -----------------------------------------------------------------------------------------------------------


def test_each_row_has_its_own_noise() -> None:
    """One that rounds much leaves no room to the others."""
    values, noise = np.array([[1.0, 0], [0, 1], [3, 4]]), np.array([[1e-4], [0], [0]])
    allowed = allow_rounding(values, noise, Limits()).elements[:, 0]
    assert allowed == pytest.approx([4.01e-4, 1e-6, 4e-5])
    found = Tally("kind")
    found.add(values + np.array([[0, 0], [9e-5, 0], [0, 0]]), values, allowed[:, None], compute_float32_tolerance(values))
    assert found.summarize().verdict is FAILED


def test_integers_are_equal() -> None:
    assert np.all(compute_float32_tolerance(np.array([[1 << 40], [0]])) == 0) and np.all(
        compute_float32_tolerance(np.array([[True]])) == 0
    )


def test_narrow_vectors_are_compared_number_by_number() -> None:
    values, spread = np.array([[5.0], [5.1]]), np.array([0.05])
    allowed = allow_loss(values, spread, Limits(min_cosine=COSINE))
    assert allowed.least_cosine is None and np.all(allowed.elements == 2 * compute_stretch_limit(COSINE) * 0.05)
    pairs = allow_loss(np.ones((2, 2)), np.array([0.1, 0]), Limits(min_cosine=COSINE))
    assert pairs.least_cosine is None and np.all(pairs.elements[:, 0] < pairs.elements[:, 1])
    assert allow_loss(np.ones((2, 3)), np.zeros(1), Limits(min_cosine=COSINE)).least_cosine == COSINE


# --- models ---------------------------------------------------------------------------------------------------------------


class Sham(Session):
    """A session that gives what it is told to, one answer after the other."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    def run(self, feeds: Any, outputs: Any = None) -> dict[str, np.ndarray]:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return {"y": np.array(answer, np.float32)}


BROKEN = UnsupportedModelError("ONNX Runtime cannot run the model: no")
FEEDS = [Feed(kind, {}, None) for kind in ("one", "two", "three")]


def held(source: list[Any], output: list[Any], plain: list[Any] | None = None, **options: Any) -> Check:
    given = SourceOutputs.of(lambda plainly: Sham(*(plain or source)) if plainly else Sham(*source), ["y"], FEEDS)
    return compare_models(given, lambda _: Sham(*output), Limits(), **options)


def test_failures_before_a_run_that_fails_are_kept() -> None:
    """What cannot be run where the source can has failed, whatever came before."""
    check = held([[[1.0]], [[2.0]], [[3.0]]], [[[5.0]], BROKEN, BROKEN])
    assert check.verdict is FAILED and check.comparisons[0].verdict is FAILED and "two" in check.detail
    assert held([[[1.0]], [[2.0]], [[3.0]]], [[[1.0]], BROKEN, BROKEN]).verdict is FAILED


def test_what_the_source_cannot_run_is_left_out() -> None:
    given = SourceOutputs.of(lambda _: Sham([[1.0]], BROKEN, [[3.0]]), ["y"], FEEDS)
    assert [feed.kind for feed in given.feeds] == ["one", "three"] and given.failed.keys() == {"two"}
    with pytest.raises(UnsupportedModelError, match="cannot run"):
        SourceOutputs.of(lambda _: Sham(BROKEN, BROKEN, BROKEN), ["y"], FEEDS)


def test_an_output_that_cannot_be_loaded_has_failed() -> None:
    given = SourceOutputs.of(lambda _: Sham([[1.0]], [[1.0]], [[1.0]]), ["y"], FEEDS)

    def opened(_: bool) -> Session:
        raise UnsupportedModelError("ONNX Runtime cannot load the model: no")

    check = compare_models(given, opened, Limits())
    assert check.verdict is FAILED and "cannot" in check.detail


def test_noise_is_each_vectors_own() -> None:
    """The second vector of the first feed rounds, and that is room for it alone."""
    source = [[[1.0, 0], [0, 1.0]]] * 3
    plain = [[[1.0, 0], [1e-4, 1.0]], *source[1:]]
    assert held(source, [[[1.0, 0], [9e-5, 1.0]], *source[1:]], plain).verdict is PASSED
    assert held(source, [[[1.0, 9e-5], [0, 1.0]], *source[1:]], plain).verdict is FAILED
    assert held(source, [source[0], [[1.0, 0], [9e-5, 1.0]], source[2]], plain).verdict is FAILED


def test_nothing_but_noise_is_not_checked() -> None:
    source, plain = [[[1.0, 0]]] * 3, [[[1.0, 1.0]]] * 3
    check = held(source, [[[1.0, 0.5]]] * 3, plain)
    assert check.verdict is NOT_CHECKED and len(check.left_out) == 3


def test_positions_that_count() -> None:
    """Hidden states at tokens; vectors of rows without a token where those count."""
    mask = np.array([[1, 1, 0], [0, 0, 0]], bool)
    state = np.arange(12.0).reshape(2, 3, 2)
    assert np.array_equal(select_vectors(state, mask), state[0, :2])
    assert len(select_vectors(np.ones((2, 5)), mask)) == 2
    assert len(select_vectors(np.ones((2, 5)), mask, empty_rows=False)) == 1
    assert np.array_equal(select_vectors(np.arange(6.0).reshape(2, 3), mask, per_token=True), [[0], [1]])
    assert select_vectors(state, None).shape == (6, 2)
    assert select_vectors(np.ones(4), mask).shape == (4, 1)


# --- verify ---------------------------------------------------------------------------------------------------------------


def with_nodes(model: onnx.ModelProto, output: str, *nodes: onnx.NodeProto, **weights: Any) -> onnx.ModelProto:
    """``model`` whose ``output`` is called ``right``, and nodes that make another of it."""
    made = copy.deepcopy(model)
    for node in made.graph.node:
        node.output[:] = ["right" if name == output else name for name in node.output]
        node.input[:] = ["right" if name == output else name for name in node.input]
    made.graph.node.extend(nodes)
    made.graph.initializer.extend(numpy_helper.from_array(np.float32(value), name) for name, value in weights.items())
    return made


def scored(width: int) -> onnx.ModelProto:
    """Scores ``[batch, width]``: a few numbers of the first token, around 3."""
    model = tiny_encoder()
    nodes = [
        helper.make_node("ReduceMean", [HIDDEN], ["mean"], axes=[1], keepdims=0),
        helper.make_node("Slice", ["mean", "start", "end", "axis"], ["few"]),
        helper.make_node("Add", ["few", "three"], ["scores"]),
    ]
    model.graph.node.extend(nodes)
    numbers = {"start": [0], "end": [width], "axis": [1]}
    model.graph.initializer.extend(numpy_helper.from_array(np.array(value), name) for name, value in numbers.items())
    model.graph.initializer.append(numpy_helper.from_array(np.float32(3), "three"))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", width]))
    return model


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize(("factor", "shift"), [(1000, 500), (1, 0.5), (2, 0), (0, 3), (-1, 0)])
def test_a_cosine_alone_is_no_proof_of_scores(width: int, factor: float, shift: float) -> None:
    source = scored(width)
    nodes = [helper.make_node("Mul", ["right", "factor"], ["grown"]), helper.make_node("Add", ["grown", "shift"], ["scores"])]
    made = with_nodes(source, "scores", *nodes, factor=factor, shift=shift)
    assert graphsurgery.verify(made, against=source, min_cosine=0.999999).verdict is FAILED
    assert graphsurgery.verify(made, against=source, min_cosine=0.99).verdict is FAILED
    same = with_nodes(source, "scores", *nodes, factor=1, shift=0)
    assert graphsurgery.verify(same, against=source, min_cosine=0.999999).verdict is PASSED


def test_a_cosine_alone_is_no_proof_of_vectors() -> None:
    source = tiny_encoder()
    made = with_nodes(source, HIDDEN, helper.make_node("Mul", ["right", "factor"], [HIDDEN]), factor=3)
    report = graphsurgery.verify(made, against=source, min_cosine=COSINE)
    assert report.verdict is FAILED and all(one.cosine == pytest.approx(1) for one in report.checks[0].comparisons)
    assert graphsurgery.verify(made, against=source, min_cosine=COSINE, atol=100).verdict is PASSED


def test_an_output_that_is_wrong_and_then_cannot_run_has_failed() -> None:
    """The failures found so far were thrown away with it once."""
    source = tiny_encoder()
    nodes = [
        helper.make_node("Expand", ["half", "shape_of_four"], ["four"]),
        helper.make_node("Add", ["right", "four"], [HIDDEN]),
    ]
    made = with_nodes(source, HIDDEN, *nodes, half=0.5)
    made.graph.initializer.append(numpy_helper.from_array(np.array([4, 1, 1]), "shape_of_four"))
    report = graphsurgery.verify(made, against=source)
    assert report.verdict is FAILED and report.cases


def test_an_output_that_does_not_load_has_failed() -> None:
    source = tiny_encoder()
    made = with_nodes(source, HIDDEN, helper.make_node("NoSuchOperator", ["right"], [HIDDEN], domain="com.microsoft"))
    made.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert graphsurgery.verify(made, against=source).verdict is FAILED
    assert graphsurgery.verify(source, against=made).verdict is NOT_CHECKED


def test_other_inputs_are_another_question() -> None:
    """Said before anything is run."""
    source = tiny_encoder()
    for made in (tiny_encoder(dims=(2, 5)), tiny_encoder(names={IDS: "ids"}), tiny_encoder(mask_dtype=TensorProto.INT32)):
        report = graphsurgery.verify(made, against=source)
        assert report.verdict is NOT_CHECKED and "different inputs" in report.checks[0].detail
    assert graphsurgery.verify(source, against=tiny_encoder(dims=(2, 5))), "it takes whatever the other takes"
    assert graphsurgery.verify(source, against=source) and MASK in {one.name for one in source.graph.input}


def bert(headed: bool, folder: Path) -> Path:
    """The fixture, or a copy of it in ``folder`` that pools."""
    model = FIXTURES / "bert" / "model.onnx"
    return with_head(model, folder, "mean", normalize=False) if headed else model


@pytest.mark.parametrize("headed", [False, True])
def test_optimize_and_verify_say_the_same(headed: bool, tmp_path: Path) -> None:
    """Of a file in half precision: neither what stands at padding nor what masks rows without a token is its fault."""
    require_optimizer()
    source = bert(headed, tmp_path)
    done = graphsurgery.optimize(source, output=tmp_path / "half.onnx", fp16=True, time=False)
    report = graphsurgery.verify(tmp_path / "half.onnx", against=source)
    assert done.report is not None and report.verdict is done.report.verdict is PASSED
    told = {check.name: [one.to_json() for one in check.comparisons] for check in report.checks}
    again = {check.name: [one.to_json() for one in check.comparisons] for check in done.report.checks}
    assert told == {name: again[name] for name in told} and told.keys() == {"same outputs", "second opinion"}


@pytest.mark.parametrize("headed", [False, True])
def test_half_precision_of_another_length(headed: bool, tmp_path: Path) -> None:
    """Three times too long, written into the file that optimize made."""
    require_optimizer()
    source = bert(headed, tmp_path)
    graphsurgery.optimize(source, output=tmp_path / "half.onnx", fp16=True, time=False)
    name = "sentence_embedding" if headed else HIDDEN
    wrong = with_nodes(onnx.load(tmp_path / "half.onnx"), name, helper.make_node("Mul", ["right", "factor"], [name]), factor=3)
    assert graphsurgery.verify(wrong, against=source).verdict is FAILED


def test_a_record_alone_loosens_nothing(tmp_path: Path) -> None:
    """A file that claims to compute in half precision, and does not, is held to float32."""
    require_optimizer()
    source = FIXTURES / "bert" / "model.onnx"
    graphsurgery.optimize(source, output=tmp_path / "made.onnx", time=False)
    made = onnx.load(tmp_path / "made.onnx")
    (entry,) = made.metadata_props
    entry.value = entry.value.replace('"parameters":{', '"parameters":{"precision":"float16",')
    wrong = with_nodes(made, HIDDEN, helper.make_node("Mul", ["right", "factor"], [HIDDEN]), factor=1.001)
    assert graphsurgery.verify(made, against=source).verdict is PASSED
    assert graphsurgery.verify(wrong, against=source).verdict is FAILED


@pytest.mark.parametrize("dims", [["batch", 1, 1, "sequence"], ["batch", "sequence", 1], ["sequence"]], ids=str)
def test_masks_of_other_ranks(dims: list[int | str]) -> None:
    """They do not tell which positions count."""
    model = tiny_encoder()
    (mask,) = [info for info in model.graph.input if info.name == MASK]
    mask.CopyFrom(helper.make_tensor_value_info(MASK, TensorProto.INT64, dims))
    assert graphsurgery.verify(model, against=model, min_cosine=COSINE).verdict is PASSED


def test_one_number_per_token_is_compared_at_tokens() -> None:
    """``[batch, seq]`` scores: padding of another value is no fault, and a fault at tokens of padded rows is one."""
    source = tiny_encoder()
    source.graph.node.append(helper.make_node("ReduceMean", [HIDDEN], ["scores"], axes=[2], keepdims=0))
    source.graph.output[0].CopyFrom(helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", "sequence"]))
    cast = helper.make_node("Cast", [MASK], ["m"], to=TensorProto.FLOAT)
    elsewhere = with_nodes(source, "scores", cast, helper.make_node("Where", ["is", "right", "other"], ["scores"]), other=7)
    elsewhere.graph.node.insert(0, helper.make_node("Cast", [MASK], ["is"], to=TensorProto.BOOL))
    assert graphsurgery.verify(elsewhere, against=source).verdict is PASSED
    nodes = [
        helper.make_node("ReduceMin", ["m"], ["padded"], axes=[1]),
        helper.make_node("Add", ["right", "padded"], ["scores"]),
    ]
    assert graphsurgery.verify(with_nodes(source, "scores", cast, *nodes), against=source).verdict is FAILED


def test_an_output_of_nothing_but_nan_is_told() -> None:
    source = tiny_encoder()
    source.graph.node.append(helper.make_node("Div", ["none", "none"], ["nan"]))
    source.graph.node.append(helper.make_node("Mul", [HIDDEN, "nan"], ["lost"]))
    source.graph.initializer.append(numpy_helper.from_array(np.float32(0), "none"))
    source.graph.output.append(helper.make_tensor_value_info("lost", TensorProto.FLOAT, ["batch", "sequence", 8]))
    report = graphsurgery.verify(source, against=source)
    assert report and "output lost: the source gives no finite vector" in report.not_checked


def test_integers_are_equal_whatever_cosine_is_asked_for() -> None:
    source = scored(2)
    source.graph.node.append(helper.make_node("ArgMax", ["scores"], ["kind"], axis=1, keepdims=0))
    source.graph.output.append(helper.make_tensor_value_info("kind", TensorProto.INT64, ["batch"]))
    made = with_nodes(source, "kind", helper.make_node("Add", ["right", "more"], ["kind"]))
    made.graph.initializer.append(numpy_helper.from_array(np.array(1), "more"))
    assert graphsurgery.verify(source, against=source, min_cosine=COSINE).verdict is PASSED
    assert graphsurgery.verify(made, against=source, min_cosine=COSINE).verdict is FAILED


def test_outputs_without_any_numbers() -> None:
    source = tiny_encoder()
    source.graph.node.append(helper.make_node("Slice", [HIDDEN, "at", "at", "axis"], ["empty"]))
    source.graph.initializer.extend(
        numpy_helper.from_array(np.array([value]), name) for name, value in (("at", 0), ("axis", 2))
    )
    source.graph.output[0].CopyFrom(helper.make_tensor_value_info("empty", TensorProto.FLOAT, ["batch", "sequence", 0]))
    assert graphsurgery.verify(source, against=source).verdict is NOT_CHECKED


def test_a_source_that_cannot_run_a_row_without_tokens() -> None:
    """All other kinds are proven, and the one is told."""
    source = tiny_encoder()
    source.graph.node.extend(
        [
            helper.make_node("ReduceSum", [MASK, "axis"], ["tokens"], keepdims=0),
            helper.make_node("ReduceMin", ["tokens"], ["fewest"], keepdims=1, axes=[0]),
            helper.make_node("Sub", ["fewest", "axis"], ["missing"]),
            helper.make_node("Mul", ["missing", "five"], ["place"]),
            helper.make_node("Clip", ["place", "", "most"], ["checked"]),
            helper.make_node("Gather", ["table", "checked"], ["nothing"]),
            helper.make_node("Add", [HIDDEN, "nothing"], ["last"]),
        ]
    )
    numbers = {"axis": np.array([1]), "most": np.array(0), "five": np.array(5), "table": np.zeros((1, 8), np.float32)}
    source.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in numbers.items())
    source.graph.output[0].name = "last"
    made = graphsurgery.add_pooling(source, mode="mean", hidden_state="last")
    report = graphsurgery.verify(made, against=source)
    whole = report.checks[-1]
    assert whole.name == "whole proof" and whole.verdict is PASSED and any("empty row" in one for one in report.not_checked)


def test_inputs_that_get_nothing_but_zeros_are_told() -> None:
    source = tiny_encoder()
    source.graph.input.append(helper.make_tensor_value_info("task_id", TensorProto.INT64, ["batch"]))
    source.graph.node.append(helper.make_node("Identity", ["task_id"], ["unused"]))
    made = graphsurgery.add_pooling(source, mode="mean")
    for report in (graphsurgery.verify(source, against=source), graphsurgery.verify(made, against=source)):
        assert report and any("task_id" in one and "only zeros" in one for one in report.not_checked)


# --- trials ---------------------------------------------------------------------------------------------------------------


def test_nan_agrees_with_nothing() -> None:
    one, nothing = np.array([1.0, NAN]), np.array([NAN, NAN])
    assert count_agreeing(one, one, 1e-3) == 1 and count_agreeing(nothing, nothing, 1e-3) == 0
    assert count_agreeing(nothing, one, 1e-3) is None and count_agreeing(one[:1], one, 1e-3) is None
    assert count_agreeing(np.array([1.01]), np.array([1.0]), 1e-3) is None
    assert explain_lack_of_evidence({"y": 3}) is None and "y" in (explain_lack_of_evidence({"x": 1, "y": 0}) or "")


def test_a_model_that_gives_nothing_but_nan_has_no_optional_input() -> None:
    """The trial compared NaN with NaN once, and passed."""
    source = tiny_encoder(inputs=["token_type_ids"])
    broken = with_nodes(source, HIDDEN, helper.make_node("Mul", ["right", "nan"], [HIDDEN]), nan=NAN)
    assert graphsurgery.optional_input(source, input="token_type_ids")
    with pytest.raises(UnsupportedModelError, match="no finite number"):
        graphsurgery.optional_input(broken, input="token_type_ids")
