"""Warnings are data: every verb gives them apart from notes, --strict makes them failures, and --quiet does not hide them."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from baked_folders import put_json, write_folder
from conftest import FIXTURES, ROOT

import graphsurgery
from graphsurgery.benchmarking.results import Benchmark
from graphsurgery.cli.main import OK, VERBS, VERDICT, cli, run
from graphsurgery.errors import StrictError
from graphsurgery.exporting.export_folder import Exported
from graphsurgery.remarks import HasRemarks, Warn
from graphsurgery.report import Report

READS = {"inspect", "verify", "bench", "deploy", "embed", "recipe", "serve"}
"""The verbs that write no model."""
SAYS = "cls, but mean was requested: the vectors will differ"


@pytest.fixture
def xlmr(fixture_copy: Any) -> Path:
    """A model whose folder asks for cls."""
    path: Path = fixture_copy("xlmr")
    return path


def call(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = run([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def told(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    code, out, _ = call(*arguments, "--json", capsys=capsys)
    return code, json.loads(out)


def test_every_remark_is_a_warning_or_a_note() -> None:
    class Some(HasRemarks):
        remarks = ("one", Warn("two"), "three", Warn("two"))

    assert (Some().warnings, Some().notes) == (("two",), ("one", "three"))
    report = Report((), Some.remarks)
    assert (report.warnings, report.observations) == (("two",), ("one", "three"))
    assert (report.to_json()["warnings"], report.to_json()["observations"]) == (["two"], ["one", "three"])


def test_no_text_of_the_package_begins_as_a_warning() -> None:
    """A warning is a `Warn`. Only what prints one writes the word before it."""
    found = {
        f"{path.relative_to(ROOT)}: {node.value}"
        for path in (ROOT / "graphsurgery").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("warning:")
    }
    assert found == {"graphsurgery/cli/render.py: warning: "}


@pytest.mark.parametrize("verb", sorted(set(VERBS) - READS))
def test_every_verb_that_writes_takes_strict(verb: str) -> None:
    command = cli.get_command(None, verb)  # type: ignore[arg-type]
    assert "strict" in {option.name for option in command.params}


def test_the_json_of_every_verb_has_warnings(xlmr: Path, tmp_path: Path, capsys) -> None:
    """Edits, `run`, `optimize` and `quantize` give an `Outcome`, which the first verb stands for."""
    pooled = tmp_path / "pooled.onnx"
    code, done = told("add-pooling", xlmr, "--mode", "mean", "-o", pooled, capsys=capsys)
    assert code == OK and SAYS in done["warnings"][0] and not any(SAYS in note for note in done["notes"])
    for arguments in (("inspect", pooled), ("recipe", "show", pooled), ("verify", pooled, "--against", xlmr)):
        code, done = told(*arguments, capsys=capsys)
        assert code == OK and done["warnings"] == [], arguments
    folder = write_folder(tmp_path / "model")
    assert told("bake", folder, "--dry-run", "--no-verify", capsys=capsys)[1]["warnings"] == []
    for result in (Exported(pooled, "", 0.0, warnings=("one",)), Benchmark((), 0, 1, "", None, False, None, ("one",))):
        assert result.to_json()["warnings"] == ["one"]


def test_warnings_of_the_file_and_of_the_proof_count(tmp_path: Path, capsys) -> None:
    source = onnx.load(FIXTURES / "bert" / "model.onnx")
    source.graph.initializer.append(source.graph.initializer[0])
    onnx.save(source, tmp_path / "twice.onnx")
    code, done = told("add-pooling", tmp_path / "twice.onnx", "--mode", "mean", "--strict", capsys=capsys)
    assert code == VERDICT and "more than one initializer" in done["outcome"]["warnings"][0]
    outcome = graphsurgery.Outcome(
        graphsurgery.load(FIXTURES / "bert" / "model.onnx"), (), ("note", Warn("own")), Report((), (Warn("own"), Warn("its")))
    )
    assert outcome.warnings == ("own", "its") and outcome.notes == ("note",)


def test_strict_refuses_and_writes_nothing(xlmr: Path, tmp_path: Path, capsys) -> None:
    before = sorted(xlmr.parent.rglob("*"))
    code, done = told("add-pooling", xlmr, "--mode", "mean", "--strict", capsys=capsys)
    assert (code, done["error"]["type"]) == (VERDICT, "StrictError") and SAYS in done["error"]["message"]
    assert SAYS in done["outcome"]["warnings"][0] and sorted(xlmr.parent.rglob("*")) == before
    assert call("add-pooling", xlmr, "--mode", "mean", "--strict", "--dry-run", capsys=capsys)[0] == VERDICT
    recipe = tmp_path / "mean.toml"
    recipe.write_text('[[steps]]\nedit = "add-pooling"\nmode = "mean"\n', encoding="utf-8")
    assert call("run", recipe, xlmr, "--strict", capsys=capsys)[0] == VERDICT
    assert sorted(xlmr.parent.rglob("*")) == before
    kept = tmp_path / "kept.onnx"
    assert call("add-pooling", xlmr, "--mode", "mean", "--strict", "--keep-failed", "-o", kept, capsys=capsys)[0] == VERDICT
    assert kept.exists()
    assert call("add-pooling", xlmr, "--mode", "cls", "--normalize", "--strict", capsys=capsys)[0] == OK


def test_strict_recipes_hear_their_own_warnings(xlmr: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "cls.toml"
    recipe.write_text(
        'goldens = true\nsources = ["none.json"]\n[[steps]]\nedit = "add-pooling"\nmode = "cls"\n', encoding="utf-8"
    )
    with pytest.raises(StrictError, match=r"none\.json does not exist"):
        graphsurgery.run_recipe(recipe, xlmr, output=tmp_path / "made.onnx", strict=True, verify=False)
    assert not (tmp_path / "made.onnx").exists()


def test_strict_bake(tmp_path: Path, monkeypatch) -> None:
    folder = write_folder(tmp_path / "model")
    put_json(folder / "unused.json", {})
    graphsurgery.bake(folder, tmp_path / "fine", strict=True, verify=False)
    monkeypatch.setattr("graphsurgery.baking.plan.describe_own_class", lambda *_: [Warn("something of the plan")])
    with pytest.raises(StrictError, match="something of the plan; nothing was written"):
        graphsurgery.bake(folder, tmp_path / "refused", strict=True, verify=False)
    assert not (tmp_path / "refused").exists()
    with pytest.raises(StrictError, match="it was kept as"):
        graphsurgery.bake(folder, tmp_path / "kept", strict=True, verify=False, keep_failed=True)
    assert (tmp_path / "kept" / "onnx" / "model.onnx").exists()


@pytest.mark.parametrize("options", [{}, {"portable": True}])
def test_strict_optimize(options: dict[str, Any], tmp_path: Path) -> None:
    """The second initializer of a name is a warning of loading, which optimize passes on."""
    model = graphsurgery.load(FIXTURES / "bert" / "model.onnx")
    output = tmp_path / "made.onnx"
    assert graphsurgery.optimize(model, output=output, strict=True, verify=False, time=False, **options).warnings == ()
    source = onnx.load(FIXTURES / "bert" / "model.onnx")
    source.graph.initializer.append(source.graph.initializer[0])
    with pytest.raises(StrictError, match="more than one initializer"):
        graphsurgery.optimize(source, output=output, force=True, strict=True, verify=False, time=False, **options)


def test_quiet_prints_warnings_alone(xlmr: Path, capsys) -> None:
    code, out, err = call("add-pooling", xlmr, "--mode", "mean", "--normalize", "-q", capsys=capsys)
    assert (code, out) == (OK, "") and err.startswith("warning: ") and err.endswith(f"{SAYS}\n") and err.count("\n") == 1
    assert call("add-pooling", xlmr, "--mode", "cls", "--normalize", "--force", "-q", capsys=capsys) == (OK, "", "")
