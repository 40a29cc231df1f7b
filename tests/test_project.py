"""The project's own data: its metadata, its Makefile, the files that go with it, and what leaves the machine."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import FIXTURES, ROOT

from graphsurgery.version import __version__

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_version_and_changelog_agree() -> None:
    """The newest section of the changelog is that of the version, released or not."""
    newest = re.search(r"^## \[(.+?)\] - (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert newest is not None and newest[1] == __version__
    assert newest[2] == "not released yet" or re.fullmatch(r"\d{4}-\d{2}-\d{2}", newest[2])


def test_metadata() -> None:
    assert PROJECT["authors"] == [{"name": "graphsurgery contributors"}] and PROJECT["license"] == "Apache-2.0"
    assert PROJECT["requires-python"] == ">=3.11" and "version" in PROJECT["dynamic"]
    assert all((ROOT / name).is_file() for name in (PROJECT["readme"], *PROJECT["license-files"]))


def test_the_readmes_links_survive_in_the_source_distribution() -> None:
    """setuptools takes the package, README, licence and pyproject.toml by itself, and the rest from MANIFEST.in."""
    kept = {"README.md", "LICENSE", "pyproject.toml"}
    for line in (ROOT / "MANIFEST.in").read_text(encoding="utf-8").splitlines():
        word, *names = line.split()
        kept.update(names if word in ("include", "graft") else ())
    links = re.findall(r"\]\(([^)#]+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert links and {Path(link).parts[0] for link in links if not link.startswith("http")} <= kept


@pytest.mark.parametrize("version", ["3.9", "3.10"])
def test_make_refuses_an_old_python_before_it_makes_an_environment(version: str, tmp_path: Path) -> None:
    old = tmp_path / f"python{version}"
    patch = f"import sys; sys.version_info = ({version.replace('.', ', ')}, 1); exec(sys.argv[1])"
    old.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c {shlex.quote(patch)} "$2"\n', encoding="utf-8")
    old.chmod(0o755)
    made = tmp_path / "environment"
    done = subprocess.run(
        ["make", "--no-print-directory", f"PYTHON={old}", f"VENV={made}", f"{made}/bin/python"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode and f"needs Python 3.11 or newer, and {old} is {version}" in done.stderr and not made.exists()


def test_the_telemetry_of_onnx_runtime_is_off_before_the_first_session() -> None:
    code = (
        "import onnxruntime\ncalls = []\n"
        "real, off = onnxruntime.InferenceSession, onnxruntime.disable_telemetry_events\n"
        "onnxruntime.disable_telemetry_events = lambda: (calls.append('off'), off())\n"
        "onnxruntime.InferenceSession = lambda *given, **named: (calls.append('session'), real(*given, **named))[1]\n"
        "import graphsurgery\nfrom graphsurgery.runtime.session import open_session\n"
        f"open_session(graphsurgery.load({str(FIXTURES / 'bert' / 'model.onnx')!r}))\nassert calls == ['off', 'session'], calls"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
