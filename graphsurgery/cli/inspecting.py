"""inspect: describe a file."""

from __future__ import annotations

import click

from graphsurgery.cli.console import out, print_json, print_warnings, show_progress
from graphsurgery.cli.help import VerbCommand
from graphsurgery.cli.main import OK
from graphsurgery.cli.options import MODEL, SHOWN, with_options
from graphsurgery.inspection import Inspection, inspect

OPTIONS = (
    click.option("--ops", "operators", is_flag=True, help="List the operators, with their weights."),
)  # fmt: skip


def make_inspect_command(verb: str) -> click.Command:
    def callback(model: str, operators: bool, as_json: bool, quiet: bool) -> int:
        """Describe MODEL: its interface, encoder, head, layers and precision, warnings, and which programs can read it. Runs
        nothing and reads no weights."""
        with show_progress(quiet or as_json):
            inspection = inspect(model)
        if as_json:
            print_json(inspection.to_json())
        elif quiet:
            print_warnings(inspection.warnings)
        else:
            _show(inspection, operators)
        return OK

    return click.command(verb, cls=VerbCommand)(with_options(callback, (MODEL,), OPTIONS, SHOWN))


def _show(inspection: Inspection, operators: bool) -> None:
    from graphsurgery.cli.render_inspection import render_inspection  # rich's tables are not needed for --json

    out.print(render_inspection(inspection, operators))
