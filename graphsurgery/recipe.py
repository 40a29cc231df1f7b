"""Recipes: TOML files with ordered edits and rewrites, and the checks that the result has to pass.

    name = "all-MiniLM"
    padding_side = "right"
    [prompts]
    query = "query: "
    [[steps]]
    edit = "add-pooling"
    mode = "mean"
    [[steps]]
    rewrite = "fuse"
    [checks]
    atol = 1e-6

Paths in steps start at the folder of the ONNX file, or at its parent folder if nothing is found there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

from graphsurgery.compare.tolerance import NO_LIMITS, Limits
from graphsurgery.edits.edit import EDITS, Edit
from graphsurgery.edits.parameters import make_edit, require_known
from graphsurgery.encoder.head import read_head_steps
from graphsurgery.errors import NoHeadError, RecipeError
from graphsurgery.folders.files import open_file
from graphsurgery.model.certificate import ELSEWHERE, read_certificate
from graphsurgery.model.external import explain_bad_location
from graphsurgery.model.model import Model
from graphsurgery.model.provenance import CERTIFICATE, GOLDEN, Step, list_steps_since_edit
from graphsurgery.rewrites.registry import REWRITES, make_rewrite, read_recorded_rewrites
from graphsurgery.rewrites.rewrite import Rewrite
from graphsurgery.suggestions import suggest

LARGEST = 1 << 20
EDIT, REWRITE = "edit", "rewrite"
"""The key of a step that says which edit or rewrite it is."""
RECORD = "the file's record"
SIDES = ("left", "right")
SUFFIX = ".toml"
BUNDLED = Path(__file__).parent / "data" / "recipes"
"""The folder of the package's own recipes, one for each well-known family."""


@dataclass(frozen=True)
class Recipe:
    """Steps on an encoder, and facts about the model that they are for."""

    steps: tuple[Edit | Rewrite, ...]
    """The edits and rewrites, in the order in which they are applied."""
    name: str = ""
    """The name of the recipe, for reports."""
    about: str = ""
    """A few words on what the recipe is for."""
    models: tuple[str, ...] = ()
    """The models that it is for, by their names on the Hugging Face hub."""
    architecture: str = ""
    """transformers' model_type of the encoder, such as ``bert``."""
    unchecked: tuple[str, ...] = ()
    """Facts that the recipe's authors remember from the model card but did not look up."""
    padding_side: str | None = None
    """The side on which the model's tokenizer pads: right or left. None if the recipe does not say."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    """The texts that go before a text, by their names, such as ``query``. No graph can hold them."""
    checks: Limits = NO_LIMITS
    """The limits of the result, besides the proofs' own tolerances."""
    goldens: bool = False
    """Whether the file records golden inputs and vectors, and a certificate."""
    sources: tuple[str, ...] = ()
    """The files of the model folder whose sha256 the certificate records."""


def list_recipes() -> dict[str, Path]:
    """Return the files of the package's own recipes by their names."""
    return {path.stem: path for path in sorted(BUNDLED.glob(f"*{SUFFIX}"))}


def find_recipe(recipe: str | os.PathLike[str]) -> Path:
    """Return the file of a recipe: the one at that path, or the package's own recipe of that name.

    Raise RecipeError if there is neither.
    """
    path, bundled = Path(recipe), list_recipes()
    if path.exists():
        return path
    if os.fspath(recipe) in bundled:
        return bundled[os.fspath(recipe)]
    near = suggest(os.fspath(recipe), bundled)
    raise RecipeError(
        f"there is no file {recipe}, and graphsurgery has no recipe of that name",
        f"{near}its recipes are {', '.join(bundled)}; graphsurgery recipe list says what they are for",
    )


def read_recipe(path: Path, model: Path | None = None) -> Recipe:
    """Read the recipe at ``path`` for the ONNX file ``model``, where its paths start.

    Raises RecipeError if the file is not TOML, or has an unknown key, edit or rewrite, or a value of the wrong type. The
    message gives the path to the bad key and lists the valid ones.
    """
    import tomllib

    file = open_file(path)
    if file.size > LARGEST:
        raise RecipeError(f"{path} has {file.size} bytes, too many for a recipe", "give a recipe file")
    try:
        content = tomllib.loads(file.read(0, file.size).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{path} is not TOML: {error}", "graphsurgery recipe show e5 prints an example") from error
    return parse_recipe(content, path.name, model)


def parse_recipe(content: Mapping[str, Any], where: str, model: Path | None = None) -> Recipe:
    """Return the content of a recipe file as a `Recipe`. Raises as `read_recipe` does."""
    require_known(content, [one.name for one in fields(Recipe)], where)
    entries = _get(content, "steps", list, where, [])
    if not entries:
        raise RecipeError(f"{where} has no steps", "write at least one [[steps]] with an edit or a rewrite")
    side = _get(content, "padding_side", str, where)
    if side not in (*SIDES, None):
        raise RecipeError(f"{where}: padding_side is {side!r}", f"choose from {', '.join(SIDES)}")
    prompts = _get(content, "prompts", dict, where, {})
    for name in prompts:
        _get(prompts, name, str, f"{where}: prompts")
    checks = _get(content, "checks", dict, where, {})
    require_known(checks, [one.name for one in fields(Limits)], f"{where}: checks")
    goldens = _get(content, "goldens", bool, where, False)
    if content.get("sources") and not goldens:
        raise RecipeError(
            f"{where}: sources belong to the certificate, which is recorded with golden vectors", "write goldens = true"
        )
    limits = {one.name: _get(checks, one.name, (int, float), f"{where}: checks") for one in fields(Limits)}
    return Recipe(
        steps=tuple(_parse_step(entry, f"{where}: steps[{index}]", model) for index, entry in enumerate(entries)),
        name=_get(content, "name", str, where, ""),
        about=_get(content, "about", str, where, ""),
        models=_get_strings(content, "models", where),
        architecture=_get(content, "architecture", str, where, ""),
        unchecked=_get_strings(content, "unchecked", where),
        padding_side=side,
        prompts=prompts,
        checks=Limits(**limits),
        goldens=goldens,
        sources=_get_sources(content, where),
    )


def read_recorded_recipe(model: Model) -> Recipe:
    """Return the recipe that a file records. Raises NoHeadError if it records no edit and no rewrite.

    Running the recipe on the file's source gives the same bytes. If the file was rewritten, this needs the same package
    versions and the same feeds. `optimize` counts the golden vectors of its source as part of that source.
    """
    edits, rewritten = [_entry(step) for step in read_head_steps(model)], model.rewrites
    if not edits and not rewritten:
        raise NoHeadError(
            "the file records no edit of graphsurgery", "only files made by graphsurgery record how they were made"
        )
    entries = _merge_in_order(edits, rewritten) if rewritten else edits
    goldens = any(step.edit in (GOLDEN, CERTIFICATE) for step in list_steps_since_edit(model.proto))
    certified = read_certificate(model)
    named = () if certified is None else certified.sources
    sources = [place for place in named if _why_bad_source(place) is None and not place.startswith(ELSEWHERE)]
    about = {"about": _describe_reservations(rewritten)} if rewritten else {}
    return parse_recipe({"steps": entries, "goldens": goldens, "sources": sources, **about}, RECORD)


def to_entry(step: Edit | Rewrite) -> dict[str, Any]:
    """Return ``step`` as a table of a recipe, with all its parameters."""
    name = {EDIT: step.verb} if isinstance(step, Edit) else {REWRITE: step.name}
    return {**name, **step.parameters()}


def _entry(step: Step) -> dict[str, Any]:
    return {EDIT: step.edit, **step.parameters}


def _merge_in_order(edits: Sequence[dict[str, Any]], rewritten: Sequence[Step]) -> list[dict[str, Any]]:
    """Put the recorded edits and rewrites in the order in which they were made.

    The entry of a rewrite records how many edits the head had at that time (``edits``), and the edits whose own entries it
    replaced (``before``). Old files record neither; there the rewrites come first.
    """
    histories = [list(edits)]  # the edits that the file recorded before each rewrite, and now
    for step in reversed(rewritten):
        histories.insert(0, [*(step.parameters["before"] or []), *histories[0][: step.parameters["edits"] or 0]])
    entries: list[dict[str, Any]] = []
    placed = 0
    for step, recorded in zip(rewritten, histories, strict=False):
        entries += recorded[placed:]
        entries += map(to_entry, read_recorded_rewrites(step.parameters))
        placed = (step.parameters["edits"] or 0) + (step.parameters["head"] is not None)  # the rewrite added that edit itself
    return [*entries, *edits[placed:]]


def _describe_reservations(rewritten: Sequence[Step]) -> str:
    """Say what the steps do not record but the result depends on."""
    versions = sorted({str(step.parameters["onnxruntime"]) for step in rewritten if step.parameters["onnxruntime"]})
    notes = [f"fused with ONNX Runtime {' and '.join(versions)}: another version may fuse differently"] if versions else []
    if any(step.parameters["precision"] for step in rewritten):
        notes.append("half precision was measured on texts and inputs that the file does not record")
    return "; ".join(notes)


def to_toml(recipe: Recipe) -> str:
    """Return ``recipe`` as text, without the parameters that have their default."""
    lines = [f"{key} = {_to_toml_value(value)}" for key in ("name", "about", "architecture") if (value := getattr(recipe, key))]
    lines += [
        f"{key} = {_to_toml_value(list(value))}"
        for key in ("models", "unchecked", "sources")
        if (value := getattr(recipe, key))
    ]
    lines += [f"padding_side = {_to_toml_value(recipe.padding_side)}"] if recipe.padding_side else []
    lines += ["goldens = true"] if recipe.goldens else []
    lines += (
        ["", "[prompts]", *(f"{_to_toml_value(key)} = {_to_toml_value(text)}" for key, text in recipe.prompts.items())]
        if recipe.prompts
        else []
    )
    for step in recipe.steps:
        kind, name = (EDIT, step.verb) if isinstance(step, Edit) else (REWRITE, step.name)
        lines += ["", "[[steps]]", f"{kind} = {_to_toml_value(name)}"]
        given = ((one.name, getattr(step, one.name), one.default) for one in step.known())
        lines += [f"{name} = {_to_toml_value(value)}" for name, value, default in given if value != default]
    limits = [(one.name, value) for one in fields(Limits) if (value := getattr(recipe.checks, one.name)) is not None]
    lines += ["", "[checks]", *(f"{name} = {value!r}" for name, value in limits)] if limits else []
    return "\n".join(lines).strip() + "\n"


def _parse_step(entry: object, where: str, model: Path | None) -> Edit | Rewrite:
    if not isinstance(entry, dict):
        raise RecipeError(f"{where} is not a table", "write [[steps]] and, below it, edit = ... or rewrite = ...")
    if EDIT in entry and REWRITE in entry:
        raise RecipeError(f"{where} has both an edit and a rewrite", "write a step for each")
    kind = REWRITE if REWRITE in entry else EDIT
    name = _get(entry, kind, str, where)
    given = {key: value for key, value in entry.items() if key != kind}
    if kind == REWRITE:
        return make_rewrite(name, given, where)
    if name is None:
        edits = f"the edits are {', '.join(EDITS)}; the rewrites are {', '.join(REWRITES)}"
        raise RecipeError(f"{where} names no edit and no rewrite", edits)
    edit = make_edit(name, given, where)
    paths = [one.name for one in edit.known() if one.metadata.get("metavar") == "PATH" and getattr(edit, one.name)]
    if model is None or not paths:
        return edit
    return replace(edit, **{one: str(_find_path(Path(getattr(edit, one)), model)) for one in paths})


def _find_path(path: Path, model: Path) -> Path:
    """Return ``path`` in the folder of the ONNX file ``model``, or in its parent folder if it exists only there."""
    bases = (model.parent, model.parent.parent)
    return next((found for base in bases if os.path.exists(found := base / path)), model.parent / path)  # noqa: PTH110


def _get(content: Mapping[str, Any], key: str, kind: Any, where: str, default: Any = None) -> Any:
    value = content.get(key, default)
    if value is default or (isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool)):
        return value
    names = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
    raise RecipeError(f"{where}: {key} is {value!r}", f"write a value of type {names}")


def _get_strings(content: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    found = _get(content, key, list, where, [])
    if not all(isinstance(one, str) for one in found):
        raise RecipeError(f"{where}: {key} is {found!r}", "write a list of texts")
    return tuple(found)


def _get_sources(content: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """Return the sources. Raises RecipeError for a path outside the model folder."""
    found = _get_strings(content, "sources", where)
    for place in found:
        why = _why_bad_source(place)
        if why is not None:
            raise RecipeError(f"{where}: sources: the path {place!r} {why}", "name files of the model folder")
    return found


def _why_bad_source(place: str) -> str | None:
    """Say what is wrong with the path of a file of the model folder. Return None if nothing is."""
    return explain_bad_location(place) or (None if PurePosixPath(place).as_posix() == place else "can be written shorter")


def _to_toml_value(value: Any) -> str:
    """Return a value in TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_to_toml_value, value)) + "]"
    if not isinstance(value, str):
        return repr(value)
    escaped = "".join(ESCAPES.get(letter, letter if letter.isprintable() else f"\\U{ord(letter):08x}") for letter in value)
    return f'"{escaped}"'


ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
