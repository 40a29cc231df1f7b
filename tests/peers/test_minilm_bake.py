"""The real all-MiniLM-L6-v2 from its folder to a verified file in one command, beside what Optimum makes of the same folder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from conftest import FIGURES
from installed import needs_optimum
from test_minilm import UNIT, embed, encoded, reference, sentences, tokenizer  # noqa: F401 -- fixtures

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def measured(pytestconfig: pytest.Config) -> list[tuple[str, float, float]]:
    """(what, seconds, MiB resident at most), printed at the end."""
    return pytestconfig.stash.setdefault(FIGURES, [])


MEASURE = """
import json, os, subprocess, sys, time
start = time.perf_counter()
process = subprocess.Popen(sys.argv[2:])
_, status, usage = os.wait4(process.pid, 0)
with open(sys.argv[1], "w") as file:
    json.dump([time.perf_counter() - start, usage.ru_maxrss / 1024], file)
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""Runs a command from a small process: a child's peak memory starts from what its parent holds, and pytest holds PyTorch."""


def run(command: list[object], what: str, rows: list, folder: Path) -> str:
    """A command in a process of its own, its time and peak memory noted; its output."""
    figures = folder / "figures.json"
    call = [sys.executable, "-S", "-c", MEASURE, figures, *command]
    done = subprocess.run(list(map(str, call)), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    rows.append((what, *json.loads(figures.read_text(encoding="utf-8"))))
    return done.stdout


@pytest.fixture(scope="module")
def folder(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder, as it was downloaded."""
    return Path(shutil.copytree(minilm, tmp_path_factory.mktemp("bake") / "all-MiniLM-L6-v2", symlinks=False))


def bake(folder: Path, output: Path, *options: object, what: str, rows: list) -> dict:
    command = [sys.executable, "-m", "graphsurgery", "bake", folder, "-o", output, *options, "--json"]
    told = json.loads(run(command, what, rows, output.parent))
    assert told["report"]["verdict"] == "PASSED"
    assert {"Transformer", "Pooling", "Normalize"} == {module["kind"] for module in told["modules"]}
    return told


def test_one_command(folder, minilm_export, encoded, tokenizer, sentences, worst, measured, tmp_path) -> None:  # noqa: F811
    """bake --export: everything from PyTorch's weights on; and bake of a folder that has its ONNX file."""
    bake(folder, tmp_path / "exported", "--export", what="graphsurgery bake --export (with its proof)", rows=measured)
    (folder / "onnx").mkdir()
    shutil.copyfile(minilm_export, folder / "onnx" / "model.onnx")
    bake(folder, tmp_path / "baked", what="graphsurgery bake (with its proof)", rows=measured)
    for name in ("exported", "baked"):
        found = embed(tmp_path / name / "onnx" / "model.onnx", tokenizer, sentences, 32, True)
        assert len(found) >= 300
        worst.within(f"all-MiniLM-L6-v2, {name}, against encode", found, encoded(32), UNIT)
    command = [sys.executable, "-m", "graphsurgery", "verify", tmp_path / "baked" / "onnx" / "model.onnx", "--self", "--json"]
    told = run(command, "graphsurgery verify --self", measured, tmp_path)
    assert json.loads(told)["report"]["verdict"] == "PASSED"


@needs_optimum
def test_beside_optimum(folder, tokenizer, sentences, encoded, worst, measured, tmp_path) -> None:  # noqa: F811
    """Optimum's own export of the folder with its pooling inside: what it costs, and that both give the same."""
    code = (
        "import sys; from optimum.exporters.onnx import main_export; main_export(sys.argv[1], sys.argv[2], "
        "task='feature-extraction', library_name='sentence_transformers', do_validation=False)"
    )
    command = [sys.executable, "-c", code, folder, tmp_path / "optimum"]
    run(command, "Optimum, --library-name sentence_transformers (no proof)", measured, tmp_path)
    path = tmp_path / "optimum" / "model.onnx"
    inputs = [value.name for value in onnx.load(path, load_external_data=False).graph.input]
    assert "token_type_ids" not in inputs, "Optimum drops them"
    found = embed(path, tokenizer, sentences, 32, False)
    worst.within("all-MiniLM-L6-v2, Optimum's pooled export, against encode", found, encoded(32), UNIT)
