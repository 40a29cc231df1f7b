"""Run a recipe file on a model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from graphsurgery.folders.files import find_onnx, hash_file, is_there, read_json, resolve_inside
from graphsurgery.folders.modules import MODULES
from graphsurgery.outcome import Outcome
from graphsurgery.recipe import Recipe, read_recipe
from graphsurgery.runner import run

TOKENIZER_CONFIG = "tokenizer_config.json"


def run_recipe(recipe: str | os.PathLike[str], model: str | os.PathLike[str], **options: Any) -> Outcome:
    """Apply the steps of a recipe file to ``model``, prove the result by the recipe's checks and save it.

    Args:
        recipe: a TOML file; see `graphsurgery.recipe` and the folder recipes/.
        model: an ONNX file, or a model folder with onnx/model.onnx or model.onnx.
        options: those of `run`: output, verify, full, force, dry_run, keep_failed, hash_weights, progress.

    Raises:
        RecipeError with the path to the bad key; what `run` raises.
    """
    given = Path(model).absolute()
    path = find_onnx(given)[0] if given.is_dir() else given
    found = read_recipe(Path(recipe), path)
    sources = _hash_sources(found.sources, given if given.is_dir() else _find_model_folder(path))
    outcome = run(
        found.steps, path, atol=found.checks.atol, min_cosine=found.checks.min_cosine, goldens=found.goldens, sources=sources,
        **options,
    )  # fmt: skip
    missing = [f"warning: {place} is not there, and not in the certificate" for place in found.sources if place not in sources]
    return replace(outcome, notes=(*list_recipe_notes(found, path), *missing, *outcome.notes))


def _hash_sources(places: Sequence[str], folder: Path) -> dict[str, str]:
    """sha256 (hex) of the files at ``places`` in the model's ``folder``, those that are there. FolderError for a place that
    leads out of it."""
    paths = {place: resolve_inside(folder, place, "sources") for place in places}
    return {place: hash_file(path) for place, path in paths.items() if path.is_file()}


def _find_model_folder(model: Path) -> Path:
    """The model folder that an ONNX file belongs to: the one with modules.json, else the one above a folder ``onnx``."""
    folders = (model.parent, model.parent.parent)
    own = model.parent.parent if model.parent.name == "onnx" else model.parent
    return next((folder for folder in folders if is_there(folder / MODULES)), own)


def list_recipe_notes(recipe: Recipe, model: Path) -> list[str]:
    """What a recipe says that the graph cannot hold: prompts, padding side, facts that nobody checked."""
    notes = [f"prompt {name}: {text!r}" for name, text in recipe.prompts.items()]
    notes += [f"not checked by the recipe's authors: {fact}" for fact in recipe.unchecked]
    side = _read_padding_side(model)
    if recipe.padding_side is not None and side not in (recipe.padding_side, None):
        notes.append(
            f"warning: the recipe is for padding on the {recipe.padding_side}, and {TOKENIZER_CONFIG} pads on the {side}"
        )
    return notes


def _read_padding_side(model: Path) -> str | None:
    """The side that the tokenizer beside a model, or one folder above it, pads on."""
    for folder in (model.parent, model.parent.parent):
        if is_there(folder / TOKENIZER_CONFIG):
            side = read_json(folder / TOKENIZER_CONFIG).get("padding_side", "right")
            return side if isinstance(side, str) else None
    return None
