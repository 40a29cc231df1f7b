"""embed: a file of texts to a file of vectors."""

from __future__ import annotations

from typing import Any

import click

from graphsurgery.cli.console import out, print_warnings, run_verb
from graphsurgery.cli.help import VerbCommand
from graphsurgery.cli.options import SHOWN, with_options
from graphsurgery.embedding.embed_file import ENGINES, PROCESS, EmbeddedFile, embed_file
from graphsurgery.embedding.embedder import RAISE, SKIP
from graphsurgery.embedding.rows import FORMATS, TEXT
from graphsurgery.embedding.tokenizer import CUT, LONG
from graphsurgery.embedding.vectors import PRECISIONS
from graphsurgery.runtime.devices import AUTO, PROVIDERS

TEXTS = click.argument("texts", type=click.Path(allow_dash=True), metavar="INPUT")
OPTIONS = (
    click.option("--model", type=click.Path(), required=True, metavar="FOLDER", help="A baked folder, or a pooled ONNX file."),
    click.option(
        "-o", "--output", type=click.Path(), required=True, metavar="OUT", help="Where to write: .parquet, .jsonl or .npy."
    ),
    click.option(
        "--format", type=click.Choice(tuple(dict.fromkeys(FORMATS.values()))), help="What INPUT is, if its name does not tell."
    ),
    click.option("--column", default=TEXT, show_default=True, metavar="NAME", help="The column of the texts."),
    click.option("--id-column", metavar="NAME", help="The column that names a row in messages."),
    click.option("--prompt-name", metavar="NAME", help="One of the folder's prompts, to go before each text."),
    click.option("--prompt", metavar="TEXT", help="A text to go before each text, in place of a named prompt."),
    click.option("--dims", type=int, metavar="N", help="Keep the first N dims of each vector (Matryoshka)."),
    click.option("--precision", type=click.Choice(tuple(PRECISIONS)), help="The numbers of the vectors. [default: the file's]"),
    click.option("--ranges", type=click.Path(), metavar="PATH", help="The ranges [2, dims] of the dims, for int8 and uint8."),
    click.option(
        "--on-long", type=click.Choice(LONG), default=CUT, show_default=True,
        help="What becomes of texts that are longer than the model takes.",
    ),
    click.option(
        "--on-error", type=click.Choice((RAISE, SKIP)), default=RAISE, show_default=True,
        help="Whether to stop at a row that cannot be embedded, or to leave its vector out.",
    ),
    click.option(
        "--provider", "providers", default=AUTO, show_default=True, metavar="|".join((AUTO, *PROVIDERS)), help="What to run on."
    ),
    click.option(
        "--threads", type=int, metavar="N",
        help="Threads of a run. [default: the processors of this process, or 1 for each worker of Ray]",
    ),
    click.option(
        "--max-batch-tokens", type=int, metavar="N", help="Positions of one run. [default: measured once on this machine]"
    ),
    click.option(
        "--engine", type=click.Choice(ENGINES), default=PROCESS, show_default=True,
        help="Embed in this process, or on workers of Ray, here or on a cluster.",
    ),
    click.option("--workers", type=int, metavar="N", help="Workers of Ray. [default: as many as the processors allow]"),
    click.option("--force", is_flag=True, help="Replace an existing output, and drop parts of another run."),
)  # fmt: skip


def make_embed_command(verb: str) -> click.Command:
    def callback(as_json: bool, quiet: bool, **options: Any) -> int:
        """Embed the texts of INPUT, a file with a text a line, JSON lines, CSV or Parquet, or - for stdin, and write their
        vectors with all columns beside them. A run that is killed leaves its parts beside OUT; the same command goes on with
        them, and ends with the same bytes as a run in one go."""
        return run_verb(lambda progress: embed_file(progress=progress, **options), _show, as_json=as_json, quiet=quiet)

    return click.command(verb, cls=VerbCommand)(with_options(callback, (TEXTS,), OPTIONS, SHOWN))


def _show(result: EmbeddedFile) -> None:
    print_warnings(result.warnings)
    resumed = f", {result.resumed} of them from an earlier run" if result.resumed else ""
    precision = result.identity["precision"]
    out.print(f"{result.output}: {result.rows} rows{resumed}, {result.dims} dims each ({precision}), in {result.seconds:.1f} s")
