"""A Router module: several sequences of modules (routes). The task or the modality of a text selects one.

Its config has ``types`` (class path by module id), ``structure`` (module ids by route) and ``parameters``: ``default_route``,
``allow_empty_key`` (whether the first route is the default if none is named) and ``route_mappings``, whose keys are printed
Python tuples ``(task, modality)``.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from graphsurgery.errors import FolderError
from graphsurgery.folders.files import DOWNLOAD, describe_value, read_setting
from graphsurgery.folders.modules import MOST_MODULES, Module, read_module
from graphsurgery.model.parsing import shorten

LONGEST_KEY = 200
Mapped = tuple[str | None, str | tuple[str, ...] | None]
"""``(task, modality)``; None matches any."""


def read_routes(module: Module) -> dict[str, tuple[Module, ...]]:
    """Return the modules of each route by its name. Raise FolderError if the config is malformed or one of its modules cannot
    be read."""
    path = _require_router(module)
    types, structure = (read_setting(module.config, key, dict, path, {}) for key in ("types", "structure"))
    if not structure:
        raise FolderError(f"{path} names no routes", DOWNLOAD)
    if len(types) > MOST_MODULES:
        raise FolderError(f"{path} lists {len(types)} modules", DOWNLOAD)
    found: dict[str, Module] = {}
    for route, ids in structure.items():
        if not isinstance(ids, list) or not ids:
            raise FolderError(f"{path}: the route {shorten(route)!r} lists no modules", DOWNLOAD)
        for one in ids:
            if not isinstance(one, str) or not isinstance(types.get(one), str):
                raise FolderError(
                    f"{path}: the route {shorten(route)!r} names {describe_value(one)}, which has no type", DOWNLOAD
                )
            if one not in found:
                found[one] = read_module(module.path, one, types[one], one, path)
    return {route: tuple(found[one] for one in ids) for route, ids in structure.items()}


def read_default_route(module: Module) -> str | None:
    """Return the route of a text that names neither task nor modality, or None if there is no default."""
    path, names = _require_router(module), list(read_setting(module.config, "structure", dict, _require_router(module), {}))
    parameters = _read_parameters(module)
    named = read_setting(parameters, "default_route", str, path)
    if named is not None and named not in names:
        raise FolderError(
            f"{path}: the default route {shorten(named)!r} is not one of its routes: {', '.join(map(shorten, names))}", DOWNLOAD
        )
    if named is None and names and read_setting(parameters, "allow_empty_key", bool, path, True):
        return names[0]
    return named


def read_route_mappings(module: Module) -> dict[Mapped, str]:
    """Return the route of each (task, modality) that the config maps. A route's own name is always a task as well."""
    path, names = _require_router(module), read_setting(module.config, "structure", dict, _require_router(module), {})
    mapped = read_setting(_read_parameters(module), "route_mappings", dict, path, {})
    for key, route in mapped.items():
        if not isinstance(route, str) or route not in names:
            raise FolderError(
                f"{path}: {shorten(key)!r} is mapped to {describe_value(route)}, which is not one of its routes", DOWNLOAD
            )
    return {_parse_mapping_key(key, path): route for key, route in mapped.items()}


def _parse_mapping_key(key: str, path: Path) -> Mapped:
    try:
        found = ast.literal_eval(key) if len(key) <= LONGEST_KEY else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        found = None
    match found:
        case (str() | None as task, str() | None as modality):
            return task, modality
        case (str() | None as task, tuple(modalities)) if all(isinstance(one, str) for one in modalities):
            return task, tuple(sorted(modalities))
    raise FolderError(f"{path}: the route mapping {shorten(key)!r} is not a pair (task, modality)", DOWNLOAD)


def _read_parameters(module: Module) -> dict[str, Any]:
    found: dict[str, Any] = read_setting(module.config, "parameters", dict, _require_router(module), {})
    return found


def _require_router(module: Module) -> Path:
    """Return the router's folder, which messages name. Raise FolderError if ``module`` is no Router."""
    if module.kind != "Router":
        raise FolderError(f"{module.path} is a {module.kind}, not a Router", "ask for the routes of a Router")
    return module.path
