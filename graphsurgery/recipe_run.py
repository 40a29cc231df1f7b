"""Run a recipe file on a model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from graphsurgery.argument_types import check_argument_types
from graphsurgery.folders.files import find_model_folder, find_onnx, hash_file, resolve_inside
from graphsurgery.folders.home import place_in_folder
from graphsurgery.folders.modules import MODULES
from graphsurgery.model.loading import load
from graphsurgery.outcome import Outcome
from graphsurgery.recipe import Recipe, find_recipe, read_recipe
from graphsurgery.recipe_facts import check_facts
from graphsurgery.remarks import Warn
from graphsurgery.runner import run


@check_argument_types()
def run_recipe(
    recipe: str | os.PathLike[str], model: str | os.PathLike[str], *, force_recipe: bool = False, **options: Any
) -> Outcome:
    """Apply the steps of a recipe to ``model``, prove the result with the recipe's checks, and save it.

    Args:
        recipe: the name of one of graphsurgery's own recipes, or a TOML file; see `graphsurgery.recipe`.
        model: an ONNX file, or a model folder with onnx/model.onnx or model.onnx.
        force_recipe: run a recipe whose architecture, padding side or prompts contradict the graph or the folder. Each
            contradiction is a warning then.
        options: those of `run`: output, verify, full, force, dry_run, keep_failed, strict, hash_weights, progress.

    Raises:
        RecipeError with the path to the bad key, or with the facts that contradict the graph or the folder; what `run` raises.
    """
    place = Path(model).absolute()
    path = find_onnx(place)[0] if place.is_dir() else place
    content = read_recipe(find_recipe(recipe), path)
    sources = _hash_sources(content.sources, place if place.is_dir() else _find_model_folder(path))
    missing = [
        Warn(f"{source} does not exist, so the certificate does not list it")
        for source in content.sources if source not in sources
    ]  # fmt: skip
    before = load(path)
    like = options.get("like")
    mismatches = check_facts(content, before if like is None else place_in_folder(before, Path(like)), force=force_recipe)
    before = replace(before, remarks=(*list_recipe_notes(content), *mismatches, *missing, *before.remarks))
    return run(
        content.steps, before, atol=content.checks.atol, min_cosine=content.checks.min_cosine, goldens=content.goldens,
        sources=sources,
        **options,
    )  # fmt: skip


def _hash_sources(places: Sequence[str], folder: Path) -> dict[str, str]:
    """Return the sha256 (hex) of the files at ``places`` in the model's ``folder``, as far as they exist.

    Raises FolderError for a place outside the folder.
    """
    paths = {place: resolve_inside(folder, place, "sources") for place in places}
    return {place: hash_file(path) for place, path in paths.items() if path.is_file()}


def _find_model_folder(model: Path) -> Path:
    """Return the model folder of an ONNX file: the one with modules.json, else the parent of a folder ``onnx``."""
    own = model.parent.parent if model.parent.name == "onnx" else model.parent
    return find_model_folder(model, MODULES) or own


def list_recipe_notes(recipe: Recipe) -> list[str]:
    """Return notes on what the graph cannot hold: prompts, and unchecked facts."""
    notes = [f"prompt {name}: {text!r}" for name, text in recipe.prompts.items()]
    return notes + [f"not checked by the recipe's authors: {fact}" for fact in recipe.unchecked]
