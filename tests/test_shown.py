"""Results in a session of Python: one line as a repr, the command line's text when printed, HTML in a notebook."""

from __future__ import annotations

import traceback
from pathlib import Path

import onnx
import pytest
from conftest import FIXTURES
from encoders import tiny_encoder

import graphsurgery as gs
from graphsurgery.cli.main import WRONG, run
from graphsurgery.errors import RequestError

BERT = FIXTURES / "bert" / "model.onnx"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("shown")
    done = gs.run([gs.AddPooling("mean")], BERT, output=folder / "o.onnx", dry_run=True)
    optimized = gs.optimize(BERT, output=folder / "p.onnx", time=False, verify=False)
    return {
        "model": gs.load(BERT), "edited": gs.add_pooling(BERT, "cls"), "inspection": gs.inspect(BERT), "outcome": done,
        "report": done.report, "optimized": optimized, "fusions": optimized.fusions,
        "baked": gs.bake(FIXTURES / "bert", folder / "baked", verify=False),
        "bench": gs.bench(BERT, batches=(1,), lengths=(8,), seconds=0.01),
    }  # fmt: skip


def test_a_repr_is_one_short_line(results: dict[str, object]) -> None:
    for name, one in results.items():
        assert len(repr(one)) < 600 and "\n" not in repr(one), name


def test_a_printed_result_is_what_the_command_line_prints(results: dict[str, object]) -> None:
    """A model and a report are one line."""
    assert str(results["model"]) == repr(results["model"])
    assert str(results["report"]).startswith("PASSED, ") and "\n" not in str(results["report"])
    assert "Programs that read this file" in str(results["inspection"])
    for name in ("outcome", "optimized", "baked"):
        assert {"done:", "interface:", "proof:"} <= {line.split()[0] for line in str(results[name]).splitlines()}, name
    assert "p50 ms" in str(results["bench"])
    assert all(len(str(one)) < 4000 for one in results.values())


def test_a_notebook_shows_html(results: dict[str, object]) -> None:
    for name, one in results.items():
        if name != "fusions":
            html = one._repr_html_()
            assert html.startswith("<pre") and html.rstrip().endswith("</pre>") and "<span" in html, name
    assert "sentence_embedding" in results["outcome"]._repr_html_()


def test_many_inputs_are_counted() -> None:
    model = tiny_encoder()
    for number in range(60):
        model.graph.input.append(onnx.helper.make_tensor_value_info(f"past.{number}", onnx.TensorProto.FLOAT, ["batch", 4]))
    shown = repr(gs.load(model))
    assert len(shown) < 600 and f"and {len(model.graph.input) - 5} more" in shown


def test_advice_travels_with_the_traceback() -> None:
    with pytest.raises(gs.GraphSurgeryError) as refused:
        gs.load("no-such.onnx")
    lines = "".join(traceback.format_exception(refused.value)).splitlines()
    assert lines[-1] == f"what to do: {refused.value.advice}"
    assert sum(line.startswith("what to do: ") for line in lines) == 1


def test_changed_advice_is_told_once() -> None:
    error = RequestError("a", "first")
    error.advice = "second"
    assert error.__notes__ == ["what to do: second"]
    error.advice = ""
    assert error.__notes__ == []


def test_the_command_line_prints_advice_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["inspect", str(tmp_path / "no-such.onnx")]) == WRONG
    assert capsys.readouterr().err.count("what to do: ") == 1
