"""A model folder's ``modules.json``: what is applied to a text, in which order, and with which settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphsurgery.errors import FolderError
from graphsurgery.folders.files import (
    DOWNLOAD,
    LARGEST_CONFIG,
    LARGEST_VOCABULARY,
    inside,
    is_folder,
    is_there,
    read_json,
    setting,
)
from graphsurgery.folders.module_kinds import ALWAYS, KINDS, UNLESS_SAID, Kind, class_of, kind_of
from graphsurgery.model.parsing import shown

MODULES = "modules.json"
MOST_MODULES = 1000


@dataclass(frozen=True)
class Module:
    """One step of a model. ``kind`` is one of `KINDS`; ``config`` has the keys that sentence-transformers 5.7 writes, whatever
    version wrote them, and is empty where there is none."""

    kind: str
    name: str
    path: Path
    config: dict[str, Any]
    type: str
    """The class path as the folder gives it."""


def read_modules(folder: Path) -> tuple[Module, ...]:
    """The modules of a model folder, in the order in which they are applied.

    FolderError when modules.json is missing or malformed, names a class that is not known, a path outside of the folder or one
    that is not there, or when a module's config is missing or malformed.
    """
    path = folder / MODULES
    if not is_there(path):
        raise FolderError(
            f"{folder} has no {MODULES}", "give the folder of a sentence-transformers model, the one with modules.json"
        )
    entries = read_json(inside(folder, MODULES, str(folder)), list)
    if not 0 < len(entries) <= MOST_MODULES:
        raise FolderError(f"{path} lists {len(entries)} modules", DOWNLOAD)
    found = tuple(_read(folder, path, position, entry) for position, entry in enumerate(entries))
    _check_distinct(folder, path, found, [entry.get("idx", position) for position, entry in enumerate(entries)])
    return found


def read_module(folder: Path, place: str, type_name: str, name: str, source: Path) -> Module:
    """The module of class ``type_name`` in ``folder / place``, both as ``source`` gives them."""
    class_name = class_of(type_name)
    if class_name is None:
        known = ", ".join(sorted(KINDS))
        raise FolderError(
            f"{source}: the module {shown(name)!r} is of the class {shown(type_name)!r}, which is not known; known are {known}",
            "nothing is left out in silence: bake the encoder alone with add-pooling, and apply this module yourself",
        )
    kind = KINDS[kind_of(class_name)]
    path = folder if place in ("", ".", "./") else inside(folder, place.removesuffix("/"), str(source))
    if kind.needs_folder and not is_folder(path):
        raise FolderError(f"{source}: the module {shown(name)!r} is not there: {path} is no folder", DOWNLOAD)
    config = {**UNLESS_SAID.get(class_name, {}), **_config(path, kind), **ALWAYS.get(class_name, {})}
    return Module(kind_of(class_name), name, path, config, type_name)


def _read(folder: Path, path: Path, position: int, entry: object) -> Module:
    what = f"{path}: entry {position}"
    if not isinstance(entry, dict):
        raise FolderError(f"{what} is no JSON object", DOWNLOAD)
    place, type_name = setting(entry, "path", str, path), setting(entry, "type", str, path)
    if place is None or not type_name:
        raise FolderError(f"{what} has no {'type' if place is not None else 'path'}", DOWNLOAD)
    setting(entry, "idx", int, path)
    return read_module(folder, place, type_name, str(setting(entry, "name", (str, int), path, position)), path)


def _check_distinct(folder: Path, path: Path, modules: tuple[Module, ...], numbers: list[object]) -> None:
    """No two entries with one idx, name or folder; the model's own folder holds the first module, and Normalize needs none."""
    folders = [str(module.path) for module in modules if module.path != folder or KINDS[module.kind].needs_folder]
    listed: dict[str, list[Any]] = {"idx": numbers, "name": [module.name for module in modules], "path": folders}
    for what, values in listed.items():
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            raise FolderError(f"{path}: two modules have the {what} {shown(str(twice[0]))!r}", DOWNLOAD)


def _config(path: Path, kind: Kind) -> dict[str, Any]:
    """The config of a module in ``path``, its keys renamed to the current ones."""
    name = next((name for name in kind.configs if is_there(path / name)), None)
    if name is None:
        if kind.needs_config:
            raise FolderError(f"{path} has no {' and no '.join(kind.configs)}", DOWNLOAD)
        return {}
    largest = LARGEST_VOCABULARY if kind.has_vocabulary else LARGEST_CONFIG
    config: dict[str, Any] = read_json(inside(path, name, str(path)), largest=largest)
    for old, new in kind.renamed.items():
        if old in config and new not in config:
            config[new] = config.pop(old)
    return config
