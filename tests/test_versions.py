"""The versions that a certificate names are those of the modules that ran, whatever their distributions are called."""

from __future__ import annotations

import importlib.metadata
import platform
import sys

import numpy
import onnx
import onnx_graphsurgeon
import onnxruntime
import pytest
import safetensors
import tokenizers

from graphsurgery.model.certificate import list_versions


def test_versions_are_those_of_the_modules() -> None:
    modules = (onnx, onnxruntime, onnx_graphsurgeon, numpy, tokenizers, safetensors)
    wanted = {module.__name__.replace("_", "-"): module.__version__ for module in modules}
    assert list_versions() == {"python": platform.python_version()} | wanted


def test_another_distribution_of_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where onnxruntime-gpu alone is installed there is a module onnxruntime, and no distribution of that name."""

    def unknown(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", unknown)
    monkeypatch.setattr("graphsurgery.model.certificate.version", unknown, raising=False)
    monkeypatch.setattr(onnxruntime, "__version__", "1.99.0+gpu")
    assert list_versions()["onnxruntime"] == "1.99.0+gpu"


def test_a_package_that_is_not_there_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """As tokenizers, which only real text needs."""
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert "tokenizers" not in list_versions() and "onnx" in list_versions()
