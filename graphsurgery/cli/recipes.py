"""run and recipe: recipes, run, listed and shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from graphsurgery.cli.console import out, print_json, print_warnings, run_verb
from graphsurgery.cli.editing import show_outcome
from graphsurgery.cli.help import VerbCommand
from graphsurgery.cli.main import OK
from graphsurgery.cli.options import MODEL, SHORTLY, SHOWN, WRITING, with_options
from graphsurgery.model.loading import load
from graphsurgery.recipe import SUFFIX, Recipe, find_recipe, list_recipes, read_recipe, read_recorded_recipe, to_entry, to_toml
from graphsurgery.recipe_run import run_recipe

RECIPE = click.argument("recipe", type=click.Path())
FORCE_RECIPE = click.option(
    "--force-recipe", is_flag=True, help="Run a recipe whose architecture, padding side or prompts are not this model's."
)
SHOW, LIST = "show", "list"
ACTION = click.argument("action", type=click.Choice([SHOW, LIST]))
SHOWN_ONE = click.argument("shown", type=click.Path(), metavar="[MODEL|RECIPE]", required=False)


def make_run_command(verb: str) -> click.Command:
    def callback(recipe: str, model: str, as_json: bool, quiet: bool, verbose: bool, no_verify: bool, **options: Any) -> int:
        """Run RECIPE, a list of edits, rewrites and checks, on MODEL, an ONNX file or a model folder. RECIPE is a name that
        `graphsurgery recipe list` shows, such as e5, or a TOML file."""
        return run_verb(
            lambda progress: run_recipe(recipe, model, verify=not no_verify, progress=progress, **options),
            show_outcome, as_json=as_json, quiet=quiet, brief=not verbose,
        )  # fmt: skip

    return click.command(verb, cls=VerbCommand)(with_options(callback, (RECIPE, MODEL), (FORCE_RECIPE,), WRITING, SHORTLY))


def make_recipe_command(verb: str) -> click.Command:
    def callback(action: str, shown: str | None, as_json: bool, quiet: bool) -> int:
        """list: the recipes that come with graphsurgery. show: print one of them, or the recipe that made a MODEL. Running that
        one on the original source gives the same bytes."""
        if action == LIST:
            return _list(as_json=as_json, quiet=quiet)
        if shown is None:
            raise click.UsageError("show needs the name of a recipe, or a model: graphsurgery recipe show e5")
        recipe, warnings = _read(shown)
        if as_json:
            facts = {"about": recipe.about, "goldens": recipe.goldens, "sources": recipe.sources}
            steps = [to_entry(step) for step in recipe.steps]
            print_json({"model": shown, "recipe": {**facts, "steps": steps}, "warnings": list(warnings)})
            return OK
        print_warnings(warnings)
        if not quiet:
            out.print(to_toml(recipe), markup=False, highlight=False, soft_wrap=True, end="")
        return OK

    return click.command(verb, cls=VerbCommand)(with_options(callback, (ACTION, SHOWN_ONE), SHOWN))


def _read(shown: str) -> tuple[Recipe, Sequence[str]]:
    """Return the recipe of that name or file, or the one that a model records, and the warnings about the model."""
    if not Path(shown).exists() or shown.endswith(SUFFIX):
        return read_recipe(find_recipe(shown)), ()
    model = load(shown)
    return read_recorded_recipe(model), model.warnings


def _list(*, as_json: bool, quiet: bool) -> int:
    found = {name: read_recipe(path) for name, path in list_recipes().items()}
    if as_json:
        print_json({"recipes": [_to_json(name, recipe) for name, recipe in found.items()], "warnings": []})
    elif not quiet:
        from graphsurgery.cli.render import render_facts  # rich's tables are not needed for --json

        out.print(render_facts([(name, f"{', '.join(recipe.models)}\n{recipe.about}") for name, recipe in found.items()]))
    return OK


def _to_json(name: str, recipe: Recipe) -> dict[str, Any]:
    facts = {"about": recipe.about, "architecture": recipe.architecture, "models": list(recipe.models)}
    return {"name": name, **facts, "prompts": dict(recipe.prompts)}
