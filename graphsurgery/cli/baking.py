"""bake: a model folder into one verified file, in a folder ready to publish."""

from __future__ import annotations

from typing import Any

import click

from graphsurgery.baking.bake import Baked, bake
from graphsurgery.baking.targets import TARGETS
from graphsurgery.cli.console import out, run_verb
from graphsurgery.cli.help import VerbCommand
from graphsurgery.cli.options import PROVING, SHORTLY, with_options

FOLDER = click.argument("folder", type=click.Path(), metavar="FOLDER|OWNER/NAME")
OPTIONS = (
    click.option(
        "--onnx",
        metavar="PATH",
        help="The encoder's file or an export's folder, in FOLDER or elsewhere. [default: onnx/model.onnx, else model.onnx]",
    ),
    click.option("--export", is_flag=True, help="Make the encoder's file from the folder's weights first (extra `export`)."),
    click.option("--route", metavar="NAME", help="The route of a Router module. A file holds one route."),
    click.option(
        "--truncate-dim",
        metavar="N[,N...]",
        help="Keep the first N dims, normalised again. Several numbers give several outputs.",
    ),
    click.option(
        "--output-precision", "precision", metavar="int8|uint8|binary|ubinary", help="Give the embedding as bytes or bits."
    ),
    click.option("--ranges", type=click.Path(), help="For int8 and uint8: the ranges, as in output-precision."),
    click.option(
        "--keep-output",
        multiple=True,
        metavar="NAME",
        help="Keep an output: token_embeddings, sparse_weights or colbert_vectors (bge-m3), or another one of the file.",
    ),
    click.option(
        "--skip-prompt",
        metavar="N|input",
        help="How many tokens of the prompt to leave out of pooling, if the folder leaves it out.",
    ),
    click.option(
        "--for",
        "target",
        type=click.Choice(list(TARGETS)),
        help="Make outputs and file names as this program wants them, and write its setting into the README.",
    ),
)
OUTPUT = click.option(
    "-o", "--output", type=click.Path(), help="The folder to make. [default: FOLDER-baked beside FOLDER, or NAME-baked here]"
)


def make_bake_command(verb: str) -> click.Command:
    def callback(
        folder: str, as_json: bool, quiet: bool, verbose: bool, output: str | None, no_verify: bool, **options: Any,
    ) -> int:  # fmt: skip
        """Bake FOLDER, a sentence-transformers model folder with its transformer-only ONNX file, into one ONNX file that holds
        everything: encoder, pooling, dense layers, normalisation. The file is proven, in a folder ready to publish. OWNER/NAME
        is a model of the Hugging Face hub: it is taken from the hub's cache, or downloaded into it."""
        return run_verb(
            lambda progress: bake(folder, output, verify=not no_verify, progress=progress, **options),
            _show, as_json=as_json, quiet=quiet, brief=not verbose,
        )  # fmt: skip

    return click.command(verb, cls=VerbCommand)(with_options(callback, (FOLDER,), OPTIONS, (OUTPUT,), PROVING, SHORTLY))


def _show(baked: Baked) -> None:
    from rich.text import Text  # rich is not needed for --json

    from graphsurgery.cli.render import render_section
    from graphsurgery.cli.render_outcome import print_outcome

    print_outcome(baked.outcome)
    if baked.files:
        out.print(render_section(f"Files in {baked.folder.name}", Text("\n".join(baked.files))))
