"""The documentation is executed: every command and every Python block of the README and of docs/."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from conftest import FIXTURES, ROOT
from golden import CASES
from joints import joint
from speech import make_speech_encoder

from graphsurgery.cli import main as cli

sys.path.append(str(ROOT / "scripts"))
from generate import generated

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
IDS = [path.name for path in PAGES]
GENERATED = generated()


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def run(command: list[str], folder: Path) -> None:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Console blocks, line by line, then Python blocks, in a folder that holds a fixture as model.onnx and as the model folder
    my-model, a joint model of texts and pictures as clip.onnx with the config of its processor, and small speech encoders."""
    shutil.copytree(FIXTURES / "bert", tmp_path, dirs_exist_ok=True)
    shutil.copytree(FIXTURES / "bert", tmp_path / "my-model")
    onnx.save(joint(bias=True), tmp_path / "clip.onnx")
    shutil.copy(CASES / "add_image_input" / "clip.json", tmp_path / "preprocessor_config.json")
    onnx.save(make_speech_encoder(), tmp_path / "speech.onnx")
    onnx.save(make_speech_encoder(mask="mask"), tmp_path / "masked-speech.onnx")
    onnx.save(make_speech_encoder("layer", misaligned=True, sizes=(1, 430)), tmp_path / "exported-speech.onnx")
    monkeypatch.chdir(tmp_path)
    for block in blocks(page, "console"):
        for line in block.splitlines():
            if line.startswith("$ graphsurgery "):
                assert cli.run(shlex.split(line)[2:]) == cli.OK, line
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), {"__name__": "__main__"})


def test_demo_runs() -> None:
    """`make demo`, in the environment of the tests."""
    run([sys.executable, "demo/demo.py"], ROOT)


def test_readme_shows_every_verb() -> None:
    text = PAGES[0].read_text(encoding="utf-8")
    assert all(f"graphsurgery {verb}" in text for verb in cli.VERBS)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=[*IDS, "CONTRIBUTING.md"])
def test_make_targets_and_links_exist(page: Path) -> None:
    """Every `make target` that a page names is in the Makefile, and every relative link leads somewhere."""
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert set(re.findall(r"(?:`|^    |^\$ )make ([a-z-]+)", text, flags=re.MULTILINE)) <= targets
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("http") or (page.parent / link).exists(), link


@pytest.mark.parametrize("path", GENERATED, ids=lambda path: path.name)
def test_generated_files_are_fresh(path: Path) -> None:
    """`make generated` would change nothing: the tables of edits and the library's stub are those of the declarations."""
    assert path.read_text(encoding="utf-8") == GENERATED[path]


def test_no_page_names_a_machine() -> None:
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]:
        assert not re.search(r"/(work|root|home|tmp)/", page.read_text(encoding="utf-8")), page
