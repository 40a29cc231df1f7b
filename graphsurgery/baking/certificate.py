"""``graphsurgery.json``: from what a folder was made, by which steps, and what was proven of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from graphsurgery.baking.encoder import TABLES
from graphsurgery.baking.folder import FILES
from graphsurgery.baking.plan import BakePlan
from graphsurgery.baking.published import copied_files
from graphsurgery.folders.files import sha256_of
from graphsurgery.folders.modules import MODULES
from graphsurgery.folders.transformer_config import FOLDER_CONFIG
from graphsurgery.folders.weights import NAMES, weights_file
from graphsurgery.model.certificate import ELSEWHERE, versions
from graphsurgery.model.model import Model
from graphsurgery.outcome import Outcome
from graphsurgery.version import __version__

READ_BY_STEPS = ("weights", "ranges")
"""Parameters of edits that are paths."""


def source_digests(plan: BakePlan) -> dict[str, str]:
    """sha256 (hex) of every file that is baked, by its place in the model folder; of a file from elsewhere, such as ranges, by
    its name behind ``elsewhere:``. An export counts as lying where it would have been."""
    return {_place(_at_home(path, plan.encoder), plan.folder): sha256_of(path) for path in dict.fromkeys(sources_of(plan))}


def certificate(plan: BakePlan, sources: Mapping[str, str], outcome: Outcome, stage: Path) -> dict[str, Any]:
    """The facts of a bake as JSON-ready data. Paths are relative to the model folder and to the baked one."""
    return {
        "graphsurgery": __version__,
        "versions": versions(),
        "model": plan.repository or plan.name,
        "sources": dict(sources),
        "modules": [{"name": module.name, "kind": module.kind, "type": module.type} for module in plan.modules],
        "steps": list(outcome.steps),
        "notes": list(outcome.notes),
        "interface": outcome.interface.to_json(),
        "report": outcome.report.to_json() if outcome.report is not None else None,
        FILES: {_place(path, stage): sha256_of(path) for path in sorted(stage.rglob("*")) if path.is_file()},
    }


def _at_home(path: Path, encoder: Model) -> Path:
    """Where a file of an encoder that was made elsewhere would lie."""
    if encoder.home is None or encoder.folder is None or not path.is_relative_to(encoder.folder):
        return path
    return encoder.home / path.relative_to(encoder.folder)


def sources_of(plan: BakePlan) -> Iterator[Path]:
    """The files that the baked folder was made from: the encoder's, those of the modules, what was copied."""
    yield from _encoder_files(plan)
    for name in (MODULES, FOLDER_CONFIG):
        if (plan.folder / name).is_file():
            yield plan.folder / name
    for module in plan.modules:
        yield from sorted(path for path in module.path.glob("*.json") if path.is_file())
    for step in plan.steps:
        given = (getattr(step, name, None) for name in READ_BY_STEPS)
        yield from (_read(Path(path)) for path in given if isinstance(path, str))
    yield from (file.path for file in copied_files(plan).values())


def _encoder_files(plan: BakePlan) -> Iterator[Path]:
    """The ONNX file with its data, and the weights where it was built or exported from those."""
    first, path = plan.modules[0], plan.encoder.path
    if path is not None:
        yield path
    yield from (file.path for file in plan.encoder.files.values() if file.identity is not None)
    if first.kind in TABLES:
        yield weights_file(first.path)
    elif path is not None and not path.is_relative_to(plan.folder):
        yield from (one for name in NAMES for one in sorted(first.path.glob(f"{Path(name).stem}*{Path(name).suffix}")))


def _read(path: Path) -> Path:
    """The file that an edit reads at ``path``: of a module folder its weights, or its config where it has none."""
    if not path.is_dir():
        return path
    there = any((path / name).is_file() for name in NAMES)
    return weights_file(path) if there else path / "config.json"


def _place(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else f"{ELSEWHERE}{path.name}"
