"""run and recipe: recipe files, run and shown."""

from __future__ import annotations

from typing import Any

import click

from graphsurgery.cli.console import out, print_json, progress
from graphsurgery.cli.editing import show, show_failed
from graphsurgery.cli.options import MODEL, SHOWN, WRITING, with_options
from graphsurgery.errors import VerificationFailed
from graphsurgery.model.loading import load
from graphsurgery.recipe import entry_of, recipe_of, to_toml
from graphsurgery.recipe_run import run_recipe

RECIPE = click.argument("recipe", type=click.Path())


def run_command(verb: str) -> click.Command:
    def callback(recipe: str, model: str, as_json: bool, quiet: bool, no_verify: bool, **options: Any) -> int:
        """Run RECIPE, a TOML file of edits, rewrites and checks (see recipes/), on MODEL, an ONNX file or a model folder."""
        with progress(quiet or as_json) as tell:
            try:
                outcome = run_recipe(recipe, model, verify=not no_verify, progress=tell, **options)
            except VerificationFailed as error:
                show_failed(error, as_json, quiet)
                raise
        show(outcome, as_json, quiet)
        return 0

    return click.command(verb)(with_options(callback, (RECIPE, MODEL), WRITING, SHOWN))


def recipe_command(verb: str) -> click.Command:
    def callback(action: str, model: str, as_json: bool, quiet: bool) -> int:
        """show: print the recipe that MODEL was made with. Running it on the original source gives the same bytes."""
        found = recipe_of(load(model))
        if as_json:
            shown = {"about": found.about, "goldens": found.goldens, "sources": found.sources}
            print_json({"model": model, "recipe": {**shown, "steps": [entry_of(step) for step in found.steps]}})
        elif not quiet:
            out.print(to_toml(found), markup=False, highlight=False, soft_wrap=True, end="")
        return 0

    action = click.argument("action", type=click.Choice(["show"]))
    return click.command(verb)(with_options(callback, (action, MODEL), SHOWN))
