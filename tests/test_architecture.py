"""The direction of the imports, the public surface, and what importing costs, enforced."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import graphsurgery
from graphsurgery.cli.main import VERBS
from graphsurgery.edits.registry import EDITS

PACKAGE = ROOT / "graphsurgery"
LAYERS = (
    ("version", "errors"),
    ("contracts", "interface"),
    ("report",),
    ("model",),
    ("anatomy",),
    ("consumers", "folders", "runtime"),
    ("compare", "simplifying", "halving"),
    ("edits", "proof", "inspection", "snippet", "exporting"),
    ("api", "api_interface", "recipe"),
    ("api_tokens", "runner"),
    ("recipe_run", "optimizing"),
    ("baking",),
    ("cli",),
)
"""Each layer imports only from layers above it, and from itself; but edits and proof, side by side, know nothing of each
other."""


def imported(path: Path) -> set[str]:
    """The graphsurgery modules that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("graphsurgery."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found.update(alias.name.split(".")[1] for alias in node.names if alias.name.startswith("graphsurgery."))
    return found


def modules() -> list[Path]:
    top_level = ("__init__.py", "__main__.py")
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path.relative_to(PACKAGE).parts[0] not in top_level]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    layer_of = {name: index for index, names in enumerate(LAYERS) for name in names}
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for other in imported(path):
        assert other == own or layer_of[other] < layer_of[own], f"{own} must not import {other}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_are_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 260


def test_public_surface() -> None:
    """Everything public has a docstring, and every edit is a class, a function and a verb of the same name."""
    for name in graphsurgery.__all__:
        assert name == "__version__" or getattr(graphsurgery, name).__doc__, name
    for verb, edit in EDITS.items():
        assert callable(getattr(graphsurgery, verb.replace("-", "_")))
        assert getattr(graphsurgery, edit.__name__) is edit
        assert VERBS[verb].summary == edit.summary


def test_neither_torch_nor_transformers_is_imported() -> None:
    """The package and every module of it import without PyTorch, transformers and Optimum."""
    names = [".".join(("graphsurgery", *path.relative_to(PACKAGE).with_suffix("").parts)) for path in modules()]
    code = "import sys, importlib\n" + "\n".join(f"importlib.import_module({name!r})" for name in names)
    code += "\nassert not {'torch', 'transformers', 'optimum', 'sentence_transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_help_imports_nothing_heavy() -> None:
    """The command line's --help must not wait for numpy, onnx or onnxruntime."""
    code = (
        "import sys\nfrom graphsurgery.cli.main import run\nrun(['--help'])\n"
        "assert not {'numpy', 'onnx', 'onnxruntime', 'onnx_graphsurgeon', 'rich'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
