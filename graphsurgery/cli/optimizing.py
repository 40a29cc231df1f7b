"""optimize: the transformer optimizer run, watched and proven."""

from __future__ import annotations

from typing import Any

import click

from graphsurgery.cli.console import out, print_json, progress
from graphsurgery.cli.editing import show_failed
from graphsurgery.cli.options import MODEL, SHOWN, proving, with_options
from graphsurgery.errors import VerificationFailed
from graphsurgery.optimizer.optimize import optimize
from graphsurgery.rewrites.fuse.kernels import TARGETS

OPTIONS = (
    click.option(
        "--for", "target", type=click.Choice(TARGETS), default="cpu", help="Avoid operators that have no kernel there."
    ),
    click.option("--fp16", is_flag=True, help="Compute the encoder in float16, but for what overflows or loses most."),
    click.option("--bf16", is_flag=True, help="The same in bfloat16."),
    click.option(
        "--half-io", is_flag=True, help="Float inputs and outputs in half precision, too; of an encoder without a head."
    ),
    click.option("--portable", is_flag=True, help="Simplify with standard operators only, instead of fusing."),
    click.option("--rehead", is_flag=True, help="Put our head in place of a pooled export's own, so that its encoder fuses."),
    click.option("--strict", is_flag=True, help="Fail where anything that should fuse did not."),
    click.option("--model-type", metavar="NAME", help="The optimizer's model type. [default: found in the graph]"),
    click.option("--heads", type=int, metavar="N", help="Attention heads. [default: found in the graph]"),
    click.option("--hidden-size", type=int, metavar="N", help="Dims of the hidden state. [default: found in the graph]"),
    click.option("--texts", type=click.Path(), help="One text a line, to compare on besides the drawn feeds."),
    click.option("--atol", type=float, metavar="X", help="Allowed absolute difference, in place of the proof's own."),
    click.option("--min-cosine", type=float, metavar="X", help="Smallest allowed cosine, besides that."),
    click.option("--no-timing", is_flag=True, help="Do not time the two files."),
)
PROVING = proving("Do everything but write, the whole proof too.", "The proof is always the whole one: no difference here.")
OUTPUT = click.option("-o", "--output", type=click.Path(), help="Where to. [default: beside MODEL, .optimized in its name]")


def optimize_command(verb: str) -> click.Command:
    def callback(
        model: str, as_json: bool, quiet: bool, output: str | None, no_verify: bool, no_timing: bool, full: bool,
        **options: Any,
    ) -> int:  # fmt: skip
        """Run the ONNX Runtime transformer optimizer on MODEL, torch-free; say what it fused, what it did not and why, and
        prove that the result gives the same vectors."""
        with progress(quiet or as_json) as tell:
            try:
                done = optimize(model, output=output, verify=not no_verify, time=not no_timing, progress=tell, **options)
            except VerificationFailed as error:
                show_failed(error, as_json, quiet)
                raise
        if as_json:
            print_json(done.to_json())
        elif not quiet:
            from graphsurgery.cli.render_outcome import print_optimized  # rich's tables are not needed for --json

            print_optimized(out, done)
        return 0

    return click.command(verb)(with_options(callback, (MODEL,), OPTIONS, (OUTPUT,), PROVING, SHOWN))
