"""``graphsurgery.json``: from what a folder was made, by which steps, and what was proven of it."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from graphsurgery.baking.plan import BakePlan
from graphsurgery.folders.files import open_file
from graphsurgery.runner import Outcome
from graphsurgery.version import __version__

BLOCK = 1 << 24
PACKAGES = ("onnx", "onnxruntime", "onnx-graphsurgeon", "numpy", "tokenizers", "safetensors")


def sha256_of(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    file, digest = open_file(path), hashlib.sha256()
    for start in range(0, file.size, BLOCK):
        digest.update(file.read(start, min(BLOCK, file.size - start)))
    return digest.hexdigest()


def certificate(plan: BakePlan, outcome: Outcome, stage: Path) -> dict[str, Any]:
    """The facts of a bake as JSON-ready data. Paths are relative to the model folder and to the baked one."""
    return {
        "graphsurgery": __version__,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "model": plan.folder.resolve().name,
        "sources": {_place(path, plan.folder): sha256_of(path) for path in sources_of(plan)},
        "modules": [{"name": module.name, "kind": module.kind, "type": module.type} for module in plan.modules],
        "steps": list(outcome.steps),
        "notes": list(outcome.notes),
        "interface": outcome.interface.to_json(),
        "report": outcome.report.to_json() if outcome.report is not None else None,
        "files": {_place(path, stage): sha256_of(path) for path in sorted(stage.rglob("*")) if path.is_file()},
    }


def sources_of(plan: BakePlan) -> list[Path]:
    """The files of the model folder that the baked one was made from."""
    encoder = [plan.encoder.path, *(file.path for file in plan.encoder.files.values() if file.identity is not None)]
    modules = (path for module in plan.modules for path in _module_files(module.path, plan.folder))
    top = (path for path in (plan.folder / "modules.json", plan.folder / "config_sentence_transformers.json") if path.is_file())
    return list(dict.fromkeys([*(path for path in encoder if path is not None), *top, *modules]))


def _module_files(folder: Path, root: Path) -> Iterable[Path]:
    """Configs and weights of a module; of the root, which holds everything, the configs alone."""
    if not folder.is_dir():
        return []
    kinds = {".json"} if folder == root else {".json", ".safetensors", ".bin"}
    return sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in kinds)


def _place(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
