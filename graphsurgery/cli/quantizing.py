"""quantize: the products of an encoder in 8-bit integers, as fast as a budget of quality allows."""

from __future__ import annotations

from typing import Any

import click

from graphsurgery.cli.console import run_verb
from graphsurgery.cli.help import VerbCommand
from graphsurgery.cli.optimizing import show_outcome
from graphsurgery.cli.options import MODEL, SHORTLY, WHOLE_PROOF, with_options
from graphsurgery.optimizer.quantize import BUDGET, quantize
from graphsurgery.rewrites.quantize.targets import TARGETS
from graphsurgery.rewrites.quantize_encoder import INT8, SCHEMES

OPTIONS = (
    click.option(
        "--min-cosine", type=float, metavar="X", default=BUDGET, show_default=True,
        help="The budget: the least cosine between a vector and the float32 file's, over all texts.",
    ),
    click.option(
        "--calibrate", type=click.Path(), metavar="TEXTS",
        help="A UTF-8 file with one text per line to calibrate on. [default: 350 texts of our own in many languages]",
    ),
    click.option(
        "--texts", type=click.Path(), metavar="TEXTS",
        help="A UTF-8 file with one text per line to judge by. [default: 1,000 other texts of our own]",
    ),
    click.option(
        "--for", "target", type=click.Choice(TARGETS),
        help="The processors and runtimes that the file is for. [default: this machine's, with ONNX Runtime]",
    ),
    click.option(
        "--plot", type=click.Path(), metavar="FILE.png|svg",
        help="Draw quality against speed of all that was tried, with matplotlib.",
    ),
    click.option(
        "--scheme", type=click.Choice(SCHEMES), default=INT8, show_default=True,
        help="int8 finds the fastest mixture within the budget. The others make one file, which is judged: plain dynamic "
        "integers, QDQ with calibrated ranges, or weights alone in fewer bits.",
    ),
    click.option(
        "--batch-invariant/--no-batch-invariant", default=True,
        help="Whether a text's vector must not depend on the texts it is batched with. [default: it must not]",
    ),
    click.option("--no-timing", is_flag=True, help="Do not time the files."),
)  # fmt: skip
OUTPUT = click.option(
    "-o", "--output", type=click.Path(), help="Where to write. [default: beside MODEL, with .int8 in its name]"
)


def make_quantize_command(verb: str) -> click.Command:
    def callback(
        model: str, as_json: bool, quiet: bool, verbose: bool, output: str | None, no_verify: bool, no_timing: bool, full: bool,
        **options: Any,
    ) -> int:  # fmt: skip
        """Quantise the encoder of the pooled file MODEL to 8-bit integers, as fast as a budget of quality allows.

        Files are judged on real text against the float32 file. The vector of a text does not depend on the texts it is batched
        with. The result is proven."""
        return run_verb(
            lambda progress: quantize(
                model, output=output, verify=not no_verify, time=not no_timing, progress=progress, **options
            ),
            show_outcome, as_json=as_json, quiet=quiet, brief=not verbose,
        )  # fmt: skip

    return click.command(verb, cls=VerbCommand)(with_options(callback, (MODEL,), OPTIONS, (OUTPUT,), WHOLE_PROOF, SHORTLY))
