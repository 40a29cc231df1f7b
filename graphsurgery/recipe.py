"""Recipes: ordered edits and the checks that their result must pass, as a TOML file. Text to steps and back.

    name = "all-MiniLM"
    padding_side = "right"
    [prompts]
    query = "query: "
    [[steps]]
    edit = "add-pooling"
    mode = "mean"
    [checks]
    atol = 1e-6

Paths within steps start at the folder of the ONNX file, or where there is nothing at the folder above it.
"""

from __future__ import annotations

import os
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any

from graphsurgery.compare.limits import NO_LIMITS, Limits
from graphsurgery.edits.edit import Edit
from graphsurgery.edits.registry import EDITS
from graphsurgery.encoder.head import head_steps
from graphsurgery.errors import NoHeadError, RecipeError
from graphsurgery.folders.files import open_file
from graphsurgery.model.certificate import ELSEWHERE, certificate_of
from graphsurgery.model.locations import why_misspelt
from graphsurgery.model.model import Model
from graphsurgery.model.provenance import CERTIFICATE, GOLDEN, rewrites, since_edited

LARGEST = 1 << 20
OF_REWRITTEN = "on the encoder that optimize made, which strip-head gives back"
SIDES = ("left", "right")


@dataclass(frozen=True)
class Recipe:
    """Steps on an encoder, and the facts about the model that they are for."""

    steps: tuple[Edit, ...]
    name: str = ""
    about: str = ""
    models: tuple[str, ...] = ()
    architecture: str = ""
    """transformers' model_type."""
    unchecked: tuple[str, ...] = ()
    """Facts that were taken from memory of the model card and could not be looked up."""
    padding_side: str | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    checks: Limits = NO_LIMITS
    """What the result must pass besides the proofs' own tolerances."""
    goldens: bool = False
    """Whether golden inputs and vectors, and a certificate, are recorded in the file."""
    sources: tuple[str, ...] = ()
    """The files of the model folder whose sha256 the certificate records."""


def read_recipe(path: Path, model: Path | None = None) -> Recipe:
    """The recipe at ``path``; paths within it are looked for from ``model``, the ONNX file it is for.

    RecipeError for what is no recipe: not TOML, a key or an edit that is not known (the valid ones are listed), a value of the
    wrong type; the message has the path to the bad key.
    """
    file = open_file(path)
    if file.size > LARGEST:
        raise RecipeError(f"{path} has {file.size} bytes, more than a recipe has", "give a recipe file")
    try:
        content = tomllib.loads(file.read(0, file.size).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{path} is not TOML: {error}", "see recipes/ for examples") from error
    return parsed(content, path.name, model)


def parsed(content: Mapping[str, Any], where: str, model: Path | None = None) -> Recipe:
    """A recipe's content as a `Recipe`. Raises as `read_recipe`."""
    _known(content, [one.name for one in fields(Recipe)], where)
    entries = _typed(content, "steps", list, where, [])
    if not entries:
        raise RecipeError(f"{where} has no steps", "write at least one [[steps]] with an edit")
    side = _typed(content, "padding_side", str, where)
    if side not in (*SIDES, None):
        raise RecipeError(f"{where}: padding_side is {side!r}", f"choose from {', '.join(SIDES)}")
    prompts = _typed(content, "prompts", dict, where, {})
    for name in prompts:
        _typed(prompts, name, str, f"{where}: prompts")
    checks = _typed(content, "checks", dict, where, {})
    _known(checks, [one.name for one in fields(Limits)], f"{where}: checks")
    goldens = _typed(content, "goldens", bool, where, False)
    if content.get("sources") and not goldens:
        raise RecipeError(f"{where}: sources are for the certificate, which comes with golden vectors", "write goldens = true")
    limits = {one.name: _typed(checks, one.name, (int, float), f"{where}: checks") for one in fields(Limits)}
    return Recipe(
        steps=tuple(_step(entry, f"{where}: steps[{index}]", model) for index, entry in enumerate(entries)),
        name=_typed(content, "name", str, where, ""),
        about=_typed(content, "about", str, where, ""),
        models=_strings(content, "models", where),
        architecture=_typed(content, "architecture", str, where, ""),
        unchecked=_strings(content, "unchecked", where),
        padding_side=side,
        prompts=prompts,
        checks=Limits(**limits),
        goldens=goldens,
        sources=_places(content, where),
    )


def recipe_of(model: Model) -> Recipe:
    """The recipe that a file records: the same edits, with the parameters that they settled on.

    Running it on the file's source gives the same bytes, unless the file records a rewrite: that of `optimize` is not in the
    recipe. NoHeadError without any edit.
    """
    recorded = head_steps(model)
    if not recorded:
        raise NoHeadError("the file records no edit of graphsurgery", "only files made by graphsurgery tell how they were made")
    entries = [{"edit": step.edit, **step.parameters} for step in recorded]
    goldens = any(step.edit in (GOLDEN, CERTIFICATE) for step in since_edited(model.proto))
    certified = certificate_of(model)
    named = () if certified is None else certified.sources
    sources = [place for place in named if _why_no_place(place) is None and not place.startswith(ELSEWHERE)]
    if rewrites(model.proto):  # goldens and sources are of the file before the rewrite
        return parsed({"about": OF_REWRITTEN, "steps": entries}, "the file's record")
    return parsed({"steps": entries, "goldens": goldens, "sources": sources}, "the file's record")


def to_toml(recipe: Recipe) -> str:
    """The recipe as text; parameters that have their default are left out."""
    lines = [f"{key} = {_value(value)}" for key in ("name", "about", "architecture") if (value := getattr(recipe, key))]
    lines += [f"{key} = {_value(list(value))}" for key in ("models", "unchecked", "sources") if (value := getattr(recipe, key))]
    lines += [f"padding_side = {_value(recipe.padding_side)}"] if recipe.padding_side else []
    lines += ["goldens = true"] if recipe.goldens else []
    lines += (
        ["", "[prompts]", *(f"{_value(key)} = {_value(text)}" for key, text in recipe.prompts.items())]
        if recipe.prompts
        else []
    )
    for step in recipe.steps:
        lines += ["", "[[steps]]", f"edit = {_value(step.verb)}"]
        given = ((one.name, getattr(step, one.name), one.default) for one in step.known())
        lines += [f"{name} = {_value(value)}" for name, value, default in given if value != default]
    limits = [(one.name, value) for one in fields(Limits) if (value := getattr(recipe.checks, one.name)) is not None]
    lines += ["", "[checks]", *(f"{name} = {value!r}" for name, value in limits)] if limits else []
    return "\n".join(lines).strip() + "\n"


def _step(entry: object, where: str, model: Path | None) -> Edit:
    if not isinstance(entry, dict):
        raise RecipeError(f"{where} is no table", "write [[steps]] and, below it, edit = ...")
    verb = _typed(entry, "edit", str, where)
    if verb not in EDITS:
        raise RecipeError(f"{where}: there is no edit {verb!r}", f"the edits are {', '.join(EDITS)}")
    edit = EDITS[verb]
    kinds = typing.get_type_hints(edit)
    declared = {one.name: one for one in edit.known()}
    _known(entry, ["edit", *declared], where)
    values: dict[str, Any] = {}
    for name, value in entry.items():
        if name == "edit":
            continue
        values[name] = _fitted(value, kinds[name], f"{where}: {name}")
        if declared[name].metadata.get("metavar") == "PATH" and model is not None and value:
            values[name] = str(_found(Path(value), model))
    return edit(**values)


def _fitted(value: Any, kind: Any, where: str) -> Any:
    """``value`` where it is of a parameter's type; a list of texts for a tuple, and a number for a text of numbers."""
    arguments = typing.get_args(kind)
    if value is None and type(None) in arguments:
        return None
    if any(typing.get_origin(one) is tuple for one in (kind, *arguments)):
        if isinstance(value, list) and all(isinstance(one, str) for one in value):
            return tuple(value)
        raise RecipeError(f"{where} is {value!r}", "write a list of texts")
    wanted = [one for one in (arguments or (kind,)) if one is not type(None)]
    if isinstance(value, int) and not isinstance(value, bool) and str in wanted:
        return str(value)
    if not any(isinstance(value, one) for one in wanted) or (isinstance(value, bool) and bool not in wanted):
        raise RecipeError(f"{where} is {value!r}", f"write a value of type {' or '.join(one.__name__ for one in wanted)}")
    return value


def _found(path: Path, model: Path) -> Path:
    """A path of a recipe: from the ONNX file's folder, or where there is nothing from the folder above."""
    bases = (model.parent, model.parent.parent)
    return next((found for base in bases if os.path.exists(found := base / path)), model.parent / path)  # noqa: PTH110


def _known(content: Mapping[str, Any], valid: list[str], where: str) -> None:
    unknown = [key for key in content if key not in valid]
    if unknown:
        raise RecipeError(f"{where}: there is no key {unknown[0]!r}", f"the keys are {', '.join(valid)}")


def _typed(content: Mapping[str, Any], key: str, kind: Any, where: str, default: Any = None) -> Any:
    value = content.get(key, default)
    if value is default or (isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool)):
        return value
    names = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
    raise RecipeError(f"{where}: {key} is {value!r}", f"write a value of type {names}")


def _strings(content: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    found = _typed(content, key, list, where, [])
    if not all(isinstance(one, str) for one in found):
        raise RecipeError(f"{where}: {key} is {found!r}", "write a list of texts")
    return tuple(found)


def _places(content: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """The files that a recipe names: of the model folder, and of nowhere else."""
    found = _strings(content, "sources", where)
    for place in found:
        why = _why_no_place(place)
        if why is not None:
            raise RecipeError(f"{where}: sources: the path {place!r} {why}", "name files of the model folder")
    return found


def _why_no_place(place: str) -> str | None:
    """What is wrong with how a file of the model folder is named, or None."""
    return why_misspelt(place) or (None if PurePosixPath(place).as_posix() == place else "is not spelt as short as it can be")


def _value(value: Any) -> str:
    """A value in TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_value, value)) + "]"
    if not isinstance(value, str):
        return repr(value)
    escaped = "".join(ESCAPES.get(letter, letter if letter.isprintable() else f"\\U{ord(letter):08x}") for letter in value)
    return f'"{escaped}"'


ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
