"""split-towers: one file for each tower of a joint model."""

from __future__ import annotations

from typing import Any

import click

from graphsurgery.baking.split_towers import SplitTowers, split_towers
from graphsurgery.cli.console import out, run_verb
from graphsurgery.cli.help import VerbCommand
from graphsurgery.cli.options import FULL, MODEL, SHORTLY, make_proof_options, with_options

OUTPUT = click.option(
    "-o", "--output", type=click.Path(), required=True, help="The folder of the two files. It is made if it does not exist."
)
PROVING = make_proof_options("Do everything except writing. The towers are proven in memory.", FULL, keeps_failed=False)
OPTIONS = (
    click.option("--text", metavar="NAME", help="The output that is the embedding of texts. [default: found in the graph]"),
    click.option("--image", metavar="NAME", help="The output that is the embedding of pictures. [default: found in the graph]"),
    click.option("--raw", is_flag=True, help="Leave the vectors as they are before any normalisation."),
    click.option("--separate", is_flag=True, help="One data file for each tower, with its own weights alone."),
)


def make_split_command(verb: str) -> click.Command:
    def callback(
        model: str, output: str, as_json: bool, quiet: bool, verbose: bool, no_verify: bool, **options: Any,
    ) -> int:  # fmt: skip
        """Write the two towers of MODEL, a joint model of texts and pictures (CLIP, Chinese-CLIP, SigLIP), as `text.onnx` and
        `image.onnx`: each with one output, its embedding of length one, and the inputs, nodes and weights that it needs. Both
        are proven, and their similarities are compared with the joint model's logits. Beside MODEL both files use its data
        file; in another folder they share one."""
        return run_verb(
            lambda progress: split_towers(model, output, verify=not no_verify, progress=progress, **options),
            _show, as_json=as_json, quiet=quiet, brief=not verbose,
        )  # fmt: skip

    return click.command(verb, cls=VerbCommand)(with_options(callback, (MODEL, OUTPUT), OPTIONS, PROVING, SHORTLY))


def _show(split: SplitTowers) -> None:
    from graphsurgery.cli.render import render_report  # rich's tables are not needed for --json
    from graphsurgery.cli.render_outcome import print_outcome

    for outcome in split.towers.values():
        print_outcome(outcome)
    if split.report is not None:
        out.print(render_report(split.report))
