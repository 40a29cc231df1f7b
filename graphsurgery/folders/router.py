"""A Router module: several sequences of modules, of which the task or the modality of a text picks one.

Its config has ``types`` (class path by module id), ``structure`` (module ids by route) and ``parameters``: ``default_route``,
``allow_empty_key`` (whether the first route is the default where none is named) and ``route_mappings``, whose keys are printed
Python tuples ``(task, modality)``.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from graphsurgery.errors import FolderError
from graphsurgery.folders.files import DOWNLOAD, described, setting
from graphsurgery.folders.modules import MOST_MODULES, Module, read_module
from graphsurgery.model.parsing import shown

LONGEST_KEY = 200
Mapped = tuple[str | None, str | tuple[str, ...] | None]
"""``(task, modality)``; None stands for any."""


def routes(module: Module) -> dict[str, tuple[Module, ...]]:
    """The modules of each route, by its name; FolderError when the config is malformed or a module of it cannot be read."""
    path = _source(module)
    types, structure = (setting(module.config, key, dict, path, {}) for key in ("types", "structure"))
    if not structure:
        raise FolderError(f"{path} names no route", DOWNLOAD)
    if len(types) > MOST_MODULES:
        raise FolderError(f"{path} lists {len(types)} modules", DOWNLOAD)
    found: dict[str, Module] = {}
    for route, ids in structure.items():
        if not isinstance(ids, list) or not ids:
            raise FolderError(f"{path}: the route {shown(route)!r} lists no modules", DOWNLOAD)
        for one in ids:
            if not isinstance(one, str) or not isinstance(types.get(one), str):
                raise FolderError(f"{path}: the route {shown(route)!r} names {described(one)}, which has no type", DOWNLOAD)
            if one not in found:
                found[one] = read_module(module.path, one, types[one], one, path)
    return {route: tuple(found[one] for one in ids) for route, ids in structure.items()}


def default_route(module: Module) -> str | None:
    """The route of a text that names neither task nor modality; None when there is no default."""
    path, names = _source(module), list(setting(module.config, "structure", dict, _source(module), {}))
    parameters = _parameters(module)
    named = setting(parameters, "default_route", str, path)
    if named is not None and named not in names:
        raise FolderError(
            f"{path}: the default route {shown(named)!r} is none of its routes: {', '.join(map(shown, names))}", DOWNLOAD
        )
    if named is None and names and setting(parameters, "allow_empty_key", bool, path, True):
        return names[0]
    return named


def route_mappings(module: Module) -> dict[Mapped, str]:
    """The route of each (task, modality) that the config maps; the route's own name is always a task of its own, too."""
    path, names = _source(module), setting(module.config, "structure", dict, _source(module), {})
    mapped = setting(_parameters(module), "route_mappings", dict, path, {})
    for key, route in mapped.items():
        if not isinstance(route, str) or route not in names:
            raise FolderError(f"{path}: {shown(key)!r} is mapped to {described(route)}, which is none of its routes", DOWNLOAD)
    return {_mapped(key, path): route for key, route in mapped.items()}


def _mapped(key: str, path: Path) -> Mapped:
    try:
        found = ast.literal_eval(key) if len(key) <= LONGEST_KEY else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        found = None
    match found:
        case (str() | None as task, str() | None as modality):
            return task, modality
        case (str() | None as task, tuple(modalities)) if all(isinstance(one, str) for one in modalities):
            return task, tuple(sorted(modalities))
    raise FolderError(f"{path}: the route mapping {shown(key)!r} is no (task, modality)", DOWNLOAD)


def _parameters(module: Module) -> dict[str, Any]:
    found: dict[str, Any] = setting(module.config, "parameters", dict, _source(module), {})
    return found


def _source(module: Module) -> Path:
    """What messages name: the folder of the router."""
    if module.kind != "Router":
        raise FolderError(f"{module.path} is a {module.kind}, not a Router", "ask for the routes of a Router")
    return module.path
