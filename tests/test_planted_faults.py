"""Prove the prover: faults planted in heads, encoders, metadata and comparisons are caught, but for what nothing could tell.

The faults are in `head_faults` and `file_faults`; what follows plants them one by one, in files that `graphsurgery` made.
"""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import FIXTURES
from encoders import BFLOAT16, HIDDEN, POOLER, tiny_encoder
from faults import Fault
from file_faults import FILE_FAULTS, UNREADABLE, WEIGHTS_AFAR
from head_faults import EQUIVALENT
from head_faults import HEAD_FAULTS as POOLING_FAULTS
from onnx import helper
from planting import Plant
from prompt_faults import PROMPT_FAULTS

import graphsurgery
from graphsurgery.compare.tally import ABSENT, Tally
from graphsurgery.compare.vectors import compute_cosines
from graphsurgery.edits import draft_operators
from graphsurgery.errors import RequestError, UnsupportedModelError, VerificationFailed
from graphsurgery.interface import Value
from graphsurgery.proof.judging import judge
from graphsurgery.references.reference import Expected
from graphsurgery.report import Check, Comparison, Report, Verdict, combine_verdicts

pytestmark = pytest.mark.usefixtures("all_feeds")
PASSED, FAILED, NOT_CHECKED = Verdict.PASSED, Verdict.FAILED, Verdict.NOT_CHECKED
HEAD_FAULTS = [*POOLING_FAULTS, *PROMPT_FAULTS]
CASES = list(dict.fromkeys(fault.case for fault in (*HEAD_FAULTS, *EQUIVALENT, *FILE_FAULTS)))
NAN, INF = np.nan, np.inf


def verdict(fault: Fault, *, head_only: bool = False) -> Verdict:
    report = graphsurgery.verify(fault.spoilt(), against=fault.case.loaded, head_only=head_only)
    assert bool(report) == (report.verdict is PASSED)
    return report.verdict


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{dict(case.pooling)}")
def test_what_is_spoilt_was_right(case) -> None:
    output = graphsurgery.load(case.output)
    for head_only in (False, True):
        assert graphsurgery.verify(output, against=case.loaded, head_only=head_only).verdict is PASSED


@pytest.mark.parametrize("fault", HEAD_FAULTS, ids=str)
def test_faults_of_the_head(fault: Fault) -> None:
    """Caught, and by the head proof alone."""
    report = graphsurgery.verify(fault.spoilt(), against=fault.case.loaded, head_only=True)
    assert report.verdict is FAILED
    assert {check.name: check.verdict for check in report.checks} == {"encoder untouched": PASSED, "head proof": FAILED}


@pytest.mark.parametrize("fault", FILE_FAULTS, ids=str)
def test_faults_around_the_head(fault: Fault) -> None:
    assert verdict(fault) is FAILED
    assert verdict(fault, head_only=True) is (PASSED if str(fault) in WEIGHTS_AFAR else FAILED)


@pytest.mark.parametrize("fault", EQUIVALENT, ids=str)
def test_equivalents_pass(fault: Fault) -> None:
    assert fault.why
    assert verdict(fault) is PASSED


@pytest.mark.parametrize("fault", UNREADABLE, ids=str)
def test_what_nobody_can_read_is_not_checked(fault: Fault) -> None:
    assert verdict(fault) is NOT_CHECKED


def test_there_are_enough() -> None:
    names = [str(fault) for fault in (*HEAD_FAULTS, *FILE_FAULTS)]
    assert len(set(names)) == len(names) >= 250
    assert len(EQUIVALENT) <= 12


def test_what_the_head_proof_leaves_out_is_said() -> None:
    fault = next(fault for fault in FILE_FAULTS if str(fault) in WEIGHTS_AFAR)
    report = graphsurgery.verify(fault.spoilt(), against=fault.case.loaded, head_only=True)
    assert any("weights' bytes" in line for line in report.not_checked)


def test_a_wrong_builder_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault is in the edit itself: `run` refuses its own work."""
    monkeypatch.setattr(draft_operators, "SMALLEST_NORM", 1e-3)
    with pytest.raises(VerificationFailed):
        graphsurgery.run([graphsurgery.AddPooling("mean", normalize=True)], tiny_encoder(), output=tmp_path / "out.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", [0, 70_000, -1], ids=["first", "middle", "last"])
def test_one_byte_of_external_data(tmp_path: Path, place: int) -> None:
    """Moved to another folder, and one bit flipped there."""
    source, output = FIXTURES / "bert-external" / "model.onnx", tmp_path / "out.onnx"
    done = graphsurgery.run([graphsurgery.AddPooling("mean")], source, output=output, verify=False)
    data = bytearray(done.saved.data.read_bytes())
    assert graphsurgery.verify(output, against=source)
    data[place] ^= 1
    done.saved.data.write_bytes(data)
    assert graphsurgery.verify(output, against=source).verdict is FAILED


def test_the_data_of_another_model(tmp_path: Path) -> None:
    """Beside the source, with the data file of another export."""
    folder = tmp_path / "model"
    shutil.copytree(FIXTURES / "bert-external", folder)
    pooled = graphsurgery.run([graphsurgery.AddPooling("mean")], folder / "model.onnx").output
    data = next(folder.glob("*data"))
    data.write_bytes(data.read_bytes()[::-1])
    assert graphsurgery.verify(pooled, against=FIXTURES / "bert-external" / "model.onnx").verdict is FAILED


def test_bfloat16_has_the_head_proof_alone() -> None:
    source = tiny_encoder(dtype=BFLOAT16)
    pooled = graphsurgery.add_pooling(source, "mean").to_proto()
    report = graphsurgery.verify(pooled, against=source)
    assert {check.name: check.verdict for check in report.checks}["whole proof"] is NOT_CHECKED
    assert report
    plant = Plant(pooled)
    plant.sum_over("mean/sum", plant.out("masked"), 2)
    assert graphsurgery.verify(pooled, against=source).verdict is FAILED


def test_an_opset_that_this_runtime_does_not_know_is_not_checked() -> None:
    source = tiny_encoder(opset=onnx.defs.onnx_opset_version())
    source.opset_import[0].version = 99
    assert graphsurgery.verify(graphsurgery.add_pooling(source, "mean"), against=source).verdict is NOT_CHECKED


def nothing_but_nan() -> onnx.ModelProto:
    """An encoder whose hidden state is NaN everywhere."""
    model = tiny_encoder()
    Plant(model).weight("bias").CopyFrom(onnx.numpy_helper.from_array(np.full(8, NAN, dtype=np.float32), "bias"))
    return model


def test_nan_does_not_agree_with_nan() -> None:
    report = graphsurgery.verify(nothing_but_nan(), against=nothing_but_nan())
    assert report.verdict is NOT_CHECKED
    assert report.cases == 0


def test_nan_in_the_source_is_reported() -> None:
    """The head is proven; the whole proof compared nothing and says so."""
    report = graphsurgery.verify(graphsurgery.add_pooling(nothing_but_nan(), "mean"), against=nothing_but_nan())
    verdicts = {check.name: check.verdict for check in report.checks}
    assert (verdicts["head proof"], verdicts["whole proof"]) == (PASSED, NOT_CHECKED)
    assert any("not finite" in line for line in report.not_checked)


def test_outputs_that_only_one_model_has_are_named() -> None:
    small, large = tiny_encoder(), tiny_encoder(outputs=[POOLER])
    assert any(POOLER in line for line in graphsurgery.verify(small, against=large).not_checked)
    assert any(POOLER in line for line in graphsurgery.verify(large, against=small).not_checked)
    assert graphsurgery.verify(graphsurgery.add_pooling(small, "mean"), against=small)
    other = tiny_encoder(names={HIDDEN: "other"})
    assert graphsurgery.verify(other, against=small).verdict is NOT_CHECKED


def test_a_plain_difference_is_caught() -> None:
    """Two encoders: compared output by output."""
    assert graphsurgery.verify(tiny_encoder(), against=tiny_encoder())
    assert graphsurgery.verify(tiny_encoder(seed=1), against=tiny_encoder()).verdict is FAILED
    assert graphsurgery.verify(tiny_encoder(seed=1), against=tiny_encoder(), min_cosine=0.99).verdict is FAILED
    assert graphsurgery.verify(tiny_encoder(seed=1), against=tiny_encoder(), atol=1e-9).verdict is FAILED


@pytest.mark.parametrize(
    "limits", [{"atol": -1.0}, {"atol": np.nan}, {"atol": np.inf}, {"min_cosine": 2.0}, {"min_cosine": np.nan}]
)
def test_limits_that_admit_all_or_nothing_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(RequestError):
        graphsurgery.verify(tiny_encoder(), against=tiny_encoder(), **limits)


def test_limits_hold_where_edits_are_recorded_too() -> None:
    """``atol`` takes the place of the proofs' own tolerance, ``min_cosine`` comes besides it."""
    source = tiny_encoder()
    pooled = graphsurgery.add_pooling(source, "mean")
    assert graphsurgery.verify(pooled, against=source, min_cosine=0.999999)
    assert graphsurgery.verify(pooled, against=source, atol=0.0).verdict is FAILED


AGREEING = (np.ones((2, 3)), np.ones((2, 3)), 1e-5)
TALLIES = {
    "equal": (*AGREEING, PASSED),
    "no rows": (np.empty((0, 3)), np.empty((0, 3)), 1e-5, NOT_CHECKED),
    "no columns": (np.empty((2, 0)), np.empty((2, 0)), 1e-5, NOT_CHECKED),
    "nothing where something is expected": (ABSENT, np.ones((2, 3)), 1e-5, FAILED),
    "absent where nothing is expected": (ABSENT, np.empty((2, 0)), 1e-5, FAILED),
    "something where nothing is expected": (np.ones((2, 3)), np.empty((0, 3)), 1e-5, FAILED),
    "a shape that broadcasts": (np.ones((1, 3)), np.ones((2, 3)), 1e-5, FAILED),
    "a scalar that broadcasts": (np.ones(()), np.ones((2, 3)), 1e-5, FAILED),
    "transposed": (np.ones((3, 2)), np.ones((2, 3)), 1e-5, FAILED),
    "one dim more": (np.ones((2, 3, 1)), np.ones((2, 3)), 1e-5, FAILED),
    "equal scalars": (np.ones(()), np.ones(()), 1e-5, PASSED),
    "different scalars": (np.ones(()), np.zeros(()), 1e-5, FAILED),
    "NaN for NaN": (np.full((2, 3), NAN), np.full((2, 3), NAN), 1e-5, NOT_CHECKED),
    "infinity for infinity": (np.full((2, 3), INF), np.full((2, 3), INF), 1e-5, NOT_CHECKED),
    "a number for NaN": (np.ones((2, 3)), np.full((2, 3), NAN), 1e-5, NOT_CHECKED),
    "NaN for a number": (np.full((2, 3), NAN), np.ones((2, 3)), 1e-5, FAILED),
    "infinity for a number": (np.full((2, 3), INF), np.ones((2, 3)), INF, FAILED),
    "one NaN among numbers": (np.array([[1.0, NAN, 1.0]]), np.ones((1, 3)), INF, FAILED),
    "too far": (np.ones((2, 3)) + 2e-5, np.ones((2, 3)), 1e-5, FAILED),
    "too far in one place": (np.array([[1.0, 1.0, 1.1]]), np.ones((1, 3)), 1e-5, FAILED),
    "a tolerance of 0": (np.ones((2, 3)) + 1e-15, np.ones((2, 3)), 0.0, FAILED),
    "equal with a tolerance of 0": (np.ones((2, 3)), np.ones((2, 3)), 0.0, PASSED),
    "a tolerance that is NaN": (np.ones((2, 3)) + 1e-9, np.ones((2, 3)), NAN, FAILED),
    "a negative tolerance": (np.ones((2, 3)) + 1e-9, np.ones((2, 3)), -1.0, FAILED),
    "numbers at the end of float64": (np.full((2, 3), 1.7e308), np.full((2, 3), -1.7e308), 1.0, FAILED),
}


@pytest.mark.parametrize(("found", "expected", "tolerance", "wanted"), TALLIES.values(), ids=TALLIES)
def test_tally(found: np.ndarray, expected: np.ndarray, tolerance: float, wanted: Verdict) -> None:
    tally = Tally("kind")
    tally.add(found, expected, np.array(tolerance))
    assert tally.summarize().verdict is wanted
    tally.add(*AGREEING[:2], np.array(AGREEING[2]))
    assert (tally.summarize().verdict is FAILED) == (wanted is FAILED), "what agrees does not make up for what does not"


def test_an_empty_tally_passes_nothing() -> None:
    assert Tally("kind").summarize().verdict is NOT_CHECKED
    assert Tally("kind", least_cosine=0.0).summarize().verdict is NOT_CHECKED


def test_the_cosine_counts_where_it_is_asked_for() -> None:
    tally = Tally("kind", least_cosine=0.9)
    tally.add(np.array([[1.0, 0.0], [0.0, 0.0]]), np.array([[0.0, 1.0], [0.0, 0.0]]), np.array(10.0))
    assert tally.summarize().verdict is FAILED
    tally = Tally("kind", least_cosine=0.9)
    tally.add(np.zeros((1, 2)), np.ones((1, 2)), np.array(10.0))
    assert tally.summarize().verdict is FAILED


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [
        ([3, 4], [6, 8], 1), ([1, 0], [0, 1], 0), ([1, 0], [-2, 0], -1), ([0, 0], [0, 0], None), ([0, 0], [0, 1], 0),
        ([1e300, 1e300], [1e300, -1e300], 0), ([1e-300, 0], [1e-300, 0], 1),
    ],
)  # fmt: skip
def test_cosine(one: list[float], other: list[float], wanted: float | None) -> None:
    (found,) = compute_cosines(np.array([one], dtype=np.float64), np.array([other], dtype=np.float64))
    assert np.isnan(found) if wanted is None else found == pytest.approx(wanted)


def expecting(value: float = 1.0) -> tuple[dict, dict[str, Expected]]:
    return {"x": np.ones(1)}, {"y": Expected(np.full((2, 3), value), np.array(1e-5))}


def ones(_: dict) -> dict[str, np.ndarray]:
    return {"y": np.ones((2, 3), dtype=np.float32)}


def refused(_: dict) -> dict[str, np.ndarray]:
    raise UnsupportedModelError("cannot run")


@pytest.mark.parametrize(
    ("run", "cases", "wanted"),
    [
        (ones, [("a", [expecting()])], PASSED),
        (ones, [], NOT_CHECKED),
        (ones, [("a", [])], NOT_CHECKED),
        (ones, [("a", [({}, {})])], NOT_CHECKED),
        (ones, [("a", [expecting(2)]), ("b", [expecting()])], FAILED),
        (lambda _: {}, [("a", [expecting()])], FAILED),
        (lambda _: {"z": np.ones((2, 3))}, [("a", [expecting()])], FAILED),
        (refused, [("a", [expecting()])], FAILED),
    ],
    ids=["right", "no kinds", "no cases", "nothing expected", "wrong once", "no output", "another output", "does not run"],
)
def test_judging(run, cases, wanted: Verdict) -> None:
    assert judge("check", "", run, (), cases).verdict is wanted


@pytest.mark.parametrize("dims", [("batch", 4), (3, 3), ("batch", 3, 1), ("batch",), ()], ids=str)
def test_declared_dims_are_held_against_the_run(dims: tuple) -> None:
    declared = [Value("y", onnx.TensorProto.FLOAT, dims)]
    assert judge("check", "", ones, declared, [("a", [expecting()])]).verdict is FAILED


def test_the_declared_type_is_held_against_the_run() -> None:
    for dtype, wanted in ((onnx.TensorProto.FLOAT, PASSED), (onnx.TensorProto.FLOAT16, FAILED), (0, PASSED)):
        declared = [Value("y", dtype, ("batch", 3))]
        assert judge("check", "", ones, declared, [("a", [expecting()])]).verdict is wanted


def failing_later(first: float):
    yield "a", [expecting(first)]
    raise UnsupportedModelError("the source cannot run")


def test_a_source_that_cannot_run_hides_no_failure() -> None:
    with pytest.raises(UnsupportedModelError):
        judge("check", "", ones, (), failing_later(1))
    assert judge("check", "", ones, (), failing_later(2)).verdict is FAILED


def test_combined_verdicts() -> None:
    assert combine_verdicts([]) is NOT_CHECKED
    for some in itertools.product(Verdict, repeat=3):
        wanted = next(one for one in (FAILED, PASSED, NOT_CHECKED) if one in some)
        assert combine_verdicts(some) is wanted


def a_comparison(**changed: object) -> Comparison:
    return Comparison(**{"kind": "kind", "cases": 1, "worst": 0.0, "margin": 0.0, "cosine": 1.0} | changed)


@pytest.mark.parametrize(
    ("comparison", "wanted"),
    [
        (a_comparison(), PASSED),
        (a_comparison(cases=0), NOT_CHECKED),
        (a_comparison(cases=0, skipped=9), NOT_CHECKED),
        (a_comparison(margin=1.5), FAILED),
        (a_comparison(margin=NAN), FAILED),
        (a_comparison(margin=INF), FAILED),
        (a_comparison(not_finite=1), FAILED),
        (a_comparison(cosine=0.5, least_cosine=0.9), FAILED),
        (a_comparison(cosine=NAN, least_cosine=0.9), FAILED),
    ],
)
def test_a_comparison_does_not_pass_by_accident(comparison: Comparison, wanted: Verdict) -> None:
    assert comparison.verdict is wanted
    assert Report((Check("check", "", (comparison,)),)).verdict is wanted


def test_a_report_without_numbers_is_not_checked() -> None:
    stated = Check("structure", "", stated=PASSED)
    empty = Check("numbers", "", (a_comparison(cases=0),))
    assert Report(()).verdict is NOT_CHECKED
    assert Report((stated,)).verdict is NOT_CHECKED
    assert Report((stated, empty)).verdict is NOT_CHECKED
    assert Report((Check("nothing", "", conclusive=True),)).verdict is NOT_CHECKED
    assert Report((Check("bytes", "", stated=PASSED, conclusive=True),)).verdict is PASSED
    assert Report((stated, Check("numbers", "", (a_comparison(),)))).verdict is PASSED
    assert Report((Check("structure", "", stated=FAILED), Check("numbers", "", (a_comparison(),)))).verdict is FAILED


def test_json_of_what_is_not_finite() -> None:
    report = Report((Check("numbers", "", (a_comparison(worst=INF, margin=NAN, cosine=NAN),)),))
    [found] = report.to_json()["checks"][0]["comparisons"]
    assert (found["verdict"], found["max_abs_diff"], found["margin"]) == ("FAILED", "inf", "nan")


def test_more_inputs_than_the_proof_can_draw_are_no_pass() -> None:
    """An input of strings: nothing can be fed, nothing is proven."""
    source = tiny_encoder()
    source.graph.input.append(helper.make_tensor_value_info("text", onnx.TensorProto.STRING, ["batch"]))
    assert graphsurgery.verify(graphsurgery.add_pooling(source, "mean"), against=source).verdict is NOT_CHECKED
