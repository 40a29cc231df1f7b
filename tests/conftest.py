"""What the tests share: where fixtures and the third-party corpus are, and copies of them to work on."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "fixtures"
CORPUS = ROOT.parent / "shared" / "corpus"
NO_CORPUS = "the third-party models (../shared/corpus) are not on this machine"


def fixture_names() -> list[str]:
    """The committed fixtures."""
    return sorted(path.parent.name for path in FIXTURES.glob("*/model.onnx"))


def corpus_models() -> list[Path]:
    """Every third-party model, or none where the corpus is absent."""
    return sorted(CORPUS.glob("*/*.onnx"))


def corpus_params() -> list[object]:
    """The third-party models as parameters; one skipped parameter that says why where the corpus is absent."""
    found = [pytest.param(path, id=f"{path.parent.name}/{path.name}") for path in corpus_models()]
    return found or [pytest.param(None, marks=pytest.mark.skip(reason=NO_CORPUS))]


@pytest.fixture
def fixture_copy(tmp_path: Path):
    """Copies a committed fixture's folder to a temporary one; gives the path of its model."""

    def copy(name: str) -> Path:
        folder = tmp_path / name
        shutil.copytree(FIXTURES / name, folder)
        return folder / "model.onnx"

    return copy


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-cases", action="store_true", help="write what the golden cases give now into their files")
