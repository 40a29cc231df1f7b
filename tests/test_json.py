"""What `--json` prints, held against docs/schema.json: real outputs of every verb, and of every way to end with an error."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import jsonschema
import onnx
import pytest
from conftest import FIXTURES, ROOT
from fusions import require_optimizer
from joints import joint
from speech import make_speech_encoder

import graphsurgery
from graphsurgery.cli.main import OK, VERBS, VERDICT, WRONG, run
from graphsurgery.compare.timing import Timing, Timings
from graphsurgery.exporting.export_folder import Exported
from graphsurgery.optimizer import optimize as optimize_module
from graphsurgery.runtime.texts import JUDGE, bundled_texts

sys.path.append(str(ROOT / "scripts"))
from reference import PRINTED

SCHEMA = json.loads((ROOT / "docs" / "schema.json").read_text(encoding="utf-8"))
BERT = FIXTURES / "bert"


def require_valid(printed: dict[str, Any], kind: str) -> None:
    """Fail unless ``printed`` is what the schema says of ``kind``, and of no other kind."""
    definitions = SCHEMA["$defs"]
    checked = {name: jsonschema.Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": definitions}) for name in (kind,)}
    faults = [f"{one.json_path}: {one.message[:300]}" for one in checked[kind].iter_errors(printed)]
    assert not faults, faults
    assert jsonschema.Draft202012Validator(SCHEMA).is_valid(printed)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a fixture's folder, as the working directory."""
    shutil.copytree(BERT, tmp_path / "bert")
    graphsurgery.save(graphsurgery.add_pooling(BERT / "model.onnx", "mean"), tmp_path / "bert" / "pooled.onnx")
    monkeypatch.chdir(tmp_path / "bert")
    return tmp_path / "bert"


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = run([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_the_schema_is_valid_and_knows_every_verb() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert {verb.split()[0] for verb in PRINTED} == VERBS.keys() and set(PRINTED.values()) < set(SCHEMA["$defs"])
    described = [one for definition in SCHEMA["$defs"].values() for one in definition["properties"].values()]
    assert described and all("description" in one or "$ref" in one or one["type"] == "array" for one in described)


def test_the_schema_refuses_what_it_does_not_describe(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, printed = call(capsys, "inspect", "model.onnx")
    for wrong in (printed | {"unknown": 1}, printed | {"nodes": "many"}, {key: printed[key] for key in [*printed][1:]}):
        with pytest.raises(AssertionError):
            require_valid(wrong, "inspection")


@pytest.mark.parametrize("fixture", ["bert", "bert-fp16", "bert-external", "modernbert", "qwen3-dynamo", "t5", "xlmr"])
def test_inspections(fixture: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, printed = call(capsys, "inspect", str(FIXTURES / fixture / "model.onnx"))
    assert code == OK
    require_valid(printed, PRINTED["inspect"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["add-pooling", "model.onnx", "-o", "made.onnx"],
        ["add-pooling", "model.onnx", "-o", "made.onnx", "--no-verify", "--hash-weights"],
        ["add-normalize", "pooled.onnx", "--dry-run"],
        ["rename", "model.onnx", "--name", "last_hidden_state=tokens", "-o", "made.onnx", "--no-verify"],
        ["fix-dim", "model.onnx", "--dim", "batch_size=1", "-o", "made.onnx", "--no-verify"],
        ["run", "recipe.toml", "model.onnx", "-o", "made.onnx", "--no-verify"],
    ],
    ids=lambda one: one[0],
)
def test_outcomes_of_edits(arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "recipe.toml").write_text('[[steps]]\nedit = "add-pooling"\nmode = "mean"\n', encoding="utf-8")
    code, printed = call(capsys, *arguments)
    assert code == OK
    require_valid(printed, PRINTED[arguments[0]])


@pytest.mark.parametrize("options", [[], ["--fp16"], ["--speed", "--workload", "online"]], ids=str)
def test_outcomes_of_optimize(
    options: list[str], folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    require_optimizer()
    timed = Timings((Timing(1, 16, ((0.02, 0.01), (0.02, 0.01), (0.03, 0.01))),), others=0.5)
    monkeypatch.setattr("graphsurgery.optimizer.search.measure_times", lambda *_: timed)
    monkeypatch.setattr("graphsurgery.optimizer.speed.race", lambda runs, seconds: [[0.02] + [0.01] * (len(runs) - 1)] * 3)
    monkeypatch.setattr(optimize_module, "list_candidates", lambda portable, rotary: [(graphsurgery.Simplify(),)])
    code, printed = call(capsys, "optimize", "pooled.onnx", "-o", "made.onnx", *options)
    assert code == OK and (printed["choice"] is not None) is ("--speed" in options)
    assert (printed["timings"] is None) is ("--speed" in options) and (printed["loss"] is not None) is ("--fp16" in options)
    require_valid(printed, PRINTED["optimize"])


def test_outcomes_of_quantize(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "texts.txt").write_text("\n".join(bundled_texts(JUDGE)[:40]), encoding="utf-8")
    (folder / "others.txt").write_text("\n".join(bundled_texts(JUDGE)[40:80]), encoding="utf-8")
    options = ["--min-cosine", "0.9", "--no-timing", "--no-verify", "--texts", "texts.txt", "--calibrate", "others.txt"]
    code, printed = call(capsys, "quantize", "pooled.onnx", "-o", "made.onnx", *options)
    assert code == OK and printed["choice"]["candidates"][0]["quality"] is not None
    require_valid(printed, PRINTED["quantize"])


def test_two_towers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(joint(), folder / "joint.onnx")
    code, printed = call(capsys, "split-towers", "joint.onnx", "-o", "towers")
    assert code == OK and printed["files"]
    require_valid(printed, PRINTED["split-towers"])


def test_mended_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(make_speech_encoder(sizes=(1, 430)), folder / "speech.onnx")
    code, printed = call(capsys, "fix", "speech.onnx", "--no-verify")
    assert code == OK and len(printed["faults"]) == 2
    require_valid(printed, PRINTED["fix"])


def test_baked_folders(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, printed = call(capsys, "bake", ".", "-o", "../baked", "--no-verify")
    assert code == OK and printed["files"]
    require_valid(printed, PRINTED["bake"])


@pytest.mark.parametrize(
    "options",
    [["--against", "model.onnx"], ["--against", "pooled.onnx", "--outputs"], ["--against", "pooled.onnx", "--rank", "0.9"]],
    ids=str,
)
def test_verifications(options: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "texts.txt").write_text("\n".join(bundled_texts(JUDGE)[:40]), encoding="utf-8")
    texts = ["--texts", "texts.txt"] if "--rank" in options else []
    code, printed = call(capsys, "verify", "pooled.onnx", *options, *texts)
    assert code == OK
    require_valid(printed, PRINTED["verify"])


def test_embedded_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "texts.txt").write_text("one\n\n" + "long " * 60, encoding="utf-8")
    given = ["--model", "pooled.onnx", "-o", "vectors.npy", "--on-error", "skip", "--force"]
    code, printed = call(capsys, "embed", "texts.txt", *given)
    assert code == OK and printed["errors"] and printed["cut"]
    require_valid(printed, PRINTED["embed"])


@pytest.mark.usefixtures("short_services")
def test_services(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, printed = call(capsys, "serve", "pooled.onnx", "--port", "0", "--max-batch-tokens", "64")
    assert code == OK and printed["unanswered"] == 0 and printed["address"].startswith("http://127.0.0.1:")
    require_valid(printed, PRINTED["serve"])


def test_deployments(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, printed = call(capsys, "deploy", ".", "--for", "triton", "--file", "pooled.onnx", "-o", "repository", "--name", "m")
    assert code == OK and printed["steps"] and printed["files"] == ["m/config.pbtxt"]
    require_valid(printed, PRINTED["deploy"])


def test_benchmarks_recipes_and_exports(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An export needs PyTorch, so that its result is made here without one."""
    code, printed = call(capsys, "bench", "pooled.onnx", "model.onnx", "--batches", "1", "--lengths", "8", "--seconds", "0")
    assert code == OK
    require_valid(printed, PRINTED["bench"])
    for arguments in (["show", "pooled.onnx"], ["show", "e5"], ["list"]):
        code, printed = call(capsys, "recipe", *arguments)
        assert code == OK
        require_valid(printed, PRINTED[f"recipe {arguments[0]}"])
    require_valid(Exported(Path("model.onnx"), "feature-extraction", 1e-6).to_json(), PRINTED["export"])


def test_errors(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong command, a file that is not there, and a proof that failed, whose outcome is what the verb prints otherwise."""
    for arguments in (["inspect"], ["inspect", "nothing.onnx"], ["add-pooling", "model.onnx", "--mode", "median"]):
        code, printed = call(capsys, *arguments)
        assert code == WRONG
        require_valid(printed, "failure")
    code, printed = call(capsys, "verify", "model.onnx", "--against", "pooled.onnx")
    assert code == VERDICT
    require_valid(printed, PRINTED["verify"])
