"""fix: mend the known faults of an export, or name them."""

from __future__ import annotations

from typing import Any

import click

from graphsurgery.cli.console import out, run_verb
from graphsurgery.cli.help import VerbCommand
from graphsurgery.cli.options import MODEL, PROVING, SHORTLY, with_options
from graphsurgery.fixing.fix import Fixed, fix

OUTPUT = (
    click.option("-o", "--output", type=click.Path(), help="Where to write. [default: beside MODEL, with .mended in the name]"),
)
HASH = (click.option("--hash-weights", is_flag=True, help="Also record the sha256 of the weights."),)


def make_fix_command(verb: str) -> click.Command:
    def callback(
        model: str, as_json: bool, quiet: bool, verbose: bool, output: str | None, no_verify: bool, **options: Any,
    ) -> int:  # fmt: skip
        """Look for the known faults of exports of texts, pictures and sound in MODEL. Mend those that can be mended, prove the
        result, and name the others with the node that has them: a mask of frames that hides channels, sizes that are declared
        fixed although the nodes take others, sizes inside the graph, and inputs of half precision. Write nothing if nothing can
        be mended, with exit code 2."""
        return run_verb(
            lambda progress: fix(model, output=output, verify=not no_verify, progress=progress, **options),
            _show, as_json=as_json, quiet=quiet, brief=not verbose,
        )  # fmt: skip

    return click.command(verb, cls=VerbCommand)(with_options(callback, (MODEL,), OUTPUT, PROVING, HASH, SHORTLY))


def _show(fixed: Fixed) -> None:
    from graphsurgery.cli.render import render_paragraphs  # rich's tables are not needed for --json
    from graphsurgery.cli.render_outcome import print_outcome

    out.print(render_paragraphs([f"mended by {one.mended_by}: {one}" for one in fixed.mended]))
    out.print(render_paragraphs([f"not mended: {one}" for one in fixed.named]))
    print_outcome(fixed.outcome)
