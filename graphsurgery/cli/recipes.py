"""run and recipe: recipe files, run and shown."""

from __future__ import annotations

from typing import Any

import click

from graphsurgery.cli.console import out, print_json, print_warnings, run_verb
from graphsurgery.cli.editing import show_outcome
from graphsurgery.cli.help import VerbCommand
from graphsurgery.cli.main import OK
from graphsurgery.cli.options import MODEL, SHORTLY, SHOWN, WRITING, with_options
from graphsurgery.model.loading import load
from graphsurgery.recipe import read_recorded_recipe, to_entry, to_toml
from graphsurgery.recipe_run import run_recipe

RECIPE = click.argument("recipe", type=click.Path())
ACTION = click.argument("action", type=click.Choice(["show"]))


def make_run_command(verb: str) -> click.Command:
    def callback(recipe: str, model: str, as_json: bool, quiet: bool, verbose: bool, no_verify: bool, **options: Any) -> int:
        """Run RECIPE, a TOML file of edits, rewrites and checks (see recipes/), on MODEL, an ONNX file or a model folder."""
        return run_verb(
            lambda progress: run_recipe(recipe, model, verify=not no_verify, progress=progress, **options),
            show_outcome, as_json=as_json, quiet=quiet, brief=not verbose,
        )  # fmt: skip

    return click.command(verb, cls=VerbCommand)(with_options(callback, (RECIPE, MODEL), WRITING, SHORTLY))


def make_recipe_command(verb: str) -> click.Command:
    def callback(action: str, model: str, as_json: bool, quiet: bool) -> int:
        """show: print the recipe that made MODEL. Running it on the original source gives the same bytes."""
        loaded = load(model)
        recipe = read_recorded_recipe(loaded)
        if as_json:
            facts = {"about": recipe.about, "goldens": recipe.goldens, "sources": recipe.sources}
            steps = [to_entry(step) for step in recipe.steps]
            print_json({"model": model, "recipe": {**facts, "steps": steps}, "warnings": list(loaded.warnings)})
            return OK
        print_warnings(loaded.warnings)
        if not quiet:
            out.print(to_toml(recipe), markup=False, highlight=False, soft_wrap=True, end="")
        return OK

    return click.command(verb, cls=VerbCommand)(with_options(callback, (ACTION, MODEL), SHOWN))
