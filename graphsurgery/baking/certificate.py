"""``graphsurgery.json``: the sources of a baked folder, its steps and its proof."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from graphsurgery.baking.companion_files import find_copied_files
from graphsurgery.baking.encoder import TABLES
from graphsurgery.baking.output_folder import FILES
from graphsurgery.baking.plan import BakePlan
from graphsurgery.folders.files import hash_file
from graphsurgery.folders.modules import MODULES
from graphsurgery.folders.transformer_config import FOLDER_CONFIG
from graphsurgery.folders.weights import NAMES, find_weights_file
from graphsurgery.model.certificate import ELSEWHERE, list_versions
from graphsurgery.outcome import Outcome
from graphsurgery.version import __version__

READ_BY_STEPS = ("weights", "ranges")
"""Parameters of edits that are paths of files to read."""


def hash_sources(plan: BakePlan) -> dict[str, str]:
    """Return the sha256 (hex) of every source file by its place in the model folder.

    A file from elsewhere, such as one of ranges or an encoder that the user named, has the key ``elsewhere:<name>``. An
    exported file has the place that it would have in the folder.
    """
    return {_locate(_find_home(path, plan), plan.folder): hash_file(path) for path in dict.fromkeys(_list_sources(plan))}


def make_certificate(plan: BakePlan, sources: Mapping[str, str], outcome: Outcome, stage: Path) -> dict[str, Any]:
    """Return the facts of a bake as JSON-ready data. Paths are relative to the model folder and to the baked one."""
    return {
        "graphsurgery": __version__,
        "versions": list_versions(),
        "model": plan.repository or plan.name,
        "sources": dict(sources),
        "modules": [{"name": module.name, "kind": module.kind, "type": module.type} for module in plan.modules],
        "steps": list(outcome.steps),
        "notes": list(outcome.notes),
        "warnings": list(outcome.warnings),
        "interface": outcome.interface.to_json(),
        "report": outcome.report.to_json() if outcome.report is not None else None,
        FILES: {_locate(path, stage): hash_file(path) for path in sorted(stage.rglob("*")) if path.is_file()},
    }


def _find_home(path: Path, plan: BakePlan) -> Path:
    """Return the path that a file of an exported encoder would have in the model folder."""
    home, made_in = plan.encoder.home, plan.encoder.folder
    if not plan.is_exported or home is None or made_in is None or not path.is_relative_to(made_in):
        return path
    return home / path.relative_to(made_in)


def _list_sources(plan: BakePlan) -> Iterator[Path]:
    """Yield the files that the baked folder was made from: the encoder's, the modules' and the copied ones."""
    yield from _list_encoder_files(plan)
    for name in (MODULES, FOLDER_CONFIG):
        if (plan.folder / name).is_file():
            yield plan.folder / name
    for module in plan.modules:
        yield from sorted(path for path in module.path.glob("*.json") if path.is_file())
    for step in plan.steps:
        paths = (getattr(step, name, None) for name in READ_BY_STEPS)
        yield from (_find_read_file(Path(path)) for path in paths if isinstance(path, str))
    yield from (file.path for file in find_copied_files(plan).values())


def _list_encoder_files(plan: BakePlan) -> Iterator[Path]:
    """Yield the ONNX file with its data, and the weights if it was built or exported from them."""
    first, path = plan.modules[0], plan.encoder.path
    if path is not None:
        yield path
    yield from (file.path for file in plan.encoder.files.values() if file.identity is not None)
    if first.kind in TABLES:
        yield find_weights_file(first.path)
    elif plan.is_exported:
        yield from (one for name in NAMES for one in sorted(first.path.glob(f"{Path(name).stem}*{Path(name).suffix}")))


def _find_read_file(path: Path) -> Path:
    """Return the file that an edit reads at ``path``. Of a module folder it reads the weights, or else the config."""
    if not path.is_dir():
        return path
    has_weights = any((path / name).is_file() for name in NAMES)
    return find_weights_file(path) if has_weights else path / "config.json"


def _locate(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else f"{ELSEWHERE}{path.name}"
