"""bake: a model folder into one verified file, in a folder ready to publish."""

from __future__ import annotations

from typing import Any

import click

from graphsurgery.baking.bake import Baked, bake
from graphsurgery.cli.console import out, print_json, progress
from graphsurgery.cli.editing import show_failed
from graphsurgery.cli.options import PROVING, SHOWN, with_options
from graphsurgery.errors import VerificationFailed

FOLDER = click.argument("folder", type=click.Path())
OPTIONS = (
    click.option("--onnx", metavar="NAME", help="The encoder's file. [default: onnx/model.onnx, else model.onnx]"),
    click.option("--export", is_flag=True, help="Make that file with Optimum first (extra `export`)."),
    click.option("--route", metavar="NAME", help="The route of a Router module; a file holds one."),
    click.option("--truncate-dim", metavar="N[,N...]", help="Keep the first dims, normalised again; several become outputs."),
    click.option(
        "--output-precision", "precision", metavar="int8|uint8|binary|ubinary", help="Give the embedding as bytes or bits."
    ),
    click.option("--ranges", type=click.Path(), help="For int8 and uint8: as in output-precision."),
    click.option("--keep-output", multiple=True, metavar="NAME", help="token_embeddings: keep the hidden state as an output."),
    click.option(
        "--skip-prompt", metavar="N|input", help="Tokens of the prompt to leave out of pooling, where the folder leaves it out."
    ),
)
OUTPUT = click.option("-o", "--output", type=click.Path(), help="The folder to make. [default: beside FOLDER, FOLDER-baked]")


def bake_command(verb: str) -> click.Command:
    def callback(
        folder: str, as_json: bool, quiet: bool, output: str | None, no_verify: bool, **options: Any,
    ) -> int:  # fmt: skip
        """Bake FOLDER, a model folder of sentence-transformers with its transformer-only ONNX file, into one ONNX file with
        everything inside (encoder, pooling, dense layers, normalisation), proven, in a folder ready to publish."""
        with progress(quiet or as_json) as tell:
            try:
                baked = bake(folder, output, verify=not no_verify, progress=tell, **options)
            except VerificationFailed as error:
                show_failed(error, as_json, quiet)
                raise
        if as_json:
            print_json(baked.to_json())
        elif not quiet:
            _print(baked)
        return 0

    return click.command(verb)(with_options(callback, (FOLDER,), OPTIONS, (OUTPUT,), PROVING, SHOWN))


def _print(baked: Baked) -> None:
    from rich.text import Text  # rich is not needed for --json

    from graphsurgery.cli.render import section
    from graphsurgery.cli.render_outcome import print_outcome

    print_outcome(out, baked.outcome)
    if baked.files:
        out.print(section(f"In {baked.folder.name}", Text("\n".join(baked.files))))
