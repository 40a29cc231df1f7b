"""optimize: run ONNX Runtime's transformer optimizer, report what it did and prove the result."""

from __future__ import annotations

from typing import Any

import click

from graphsurgery.cli.console import run_verb
from graphsurgery.cli.help import VerbCommand
from graphsurgery.cli.options import MODEL, SHORTLY, WHOLE, make_proof_options, with_options
from graphsurgery.optimizer.optimize import optimize
from graphsurgery.outcome import Outcome
from graphsurgery.rewrites.fuse.adjustments import TARGETS

OPTIONS = (
    click.option(
        "--for",
        "target",
        type=click.Choice(TARGETS),
        default="cpu",
        help="Leave out fused operators that have no kernel on this device.",
    ),
    click.option(
        "--fp16", is_flag=True, help="Compute the encoder in float16. Nodes that overflow or lose most precision stay float32."
    ),
    click.option("--bf16", is_flag=True, help="The same in bfloat16."),
    click.option(
        "--half-io",
        is_flag=True,
        help="Also convert float inputs and outputs to half precision. Only for an encoder without a head.",
    ),
    click.option("--portable", is_flag=True, help="Simplify the graph with standard operators only, instead of fusing."),
    click.option(
        "--speed", is_flag=True, help="Time many combinations of rewrites on this machine, and take the fastest that is right."
    ),
    click.option(
        "--workload",
        metavar="online|offline|FILE",
        help="What --speed times: single texts, full batches, or a UTF-8 file with one text per line. [default: the first two]",
    ),
    click.option("--plot", type=click.Path(), metavar="FILE.png|svg", help="Draw the candidates of --speed, with matplotlib."),
    click.option(
        "--rehead", is_flag=True, help="Replace a pooled export's own head by graphsurgery's, so that the encoder fuses."
    ),
    click.option("--model-type", metavar="NAME", help="The optimizer's model type. [default: found in the graph]"),
    click.option("--heads", type=int, metavar="N", help="The number of attention heads. [default: found in the graph]"),
    click.option(
        "--hidden-size", type=int, metavar="N", help="The number of dims of the hidden state. [default: found in the graph]"
    ),
    click.option(
        "--texts", type=click.Path(), help="A UTF-8 file with one text per line, to compare on besides the generated feeds."
    ),
    click.option(
        "--atol", type=float, metavar="X", help="The allowed absolute difference, in place of the proof's own tolerances."
    ),
    click.option("--min-cosine", type=float, metavar="X", help="The smallest allowed cosine, an additional limit."),
    click.option("--no-timing", is_flag=True, help="Do not time the two files."),
)
PROOF = make_proof_options(
    *WHOLE, "Fail, with exit code 1 and no file, if anything that should fuse did not, or if there is any warning."
)
OUTPUT = click.option(
    "-o",
    "--output",
    type=click.Path(),
    help="Where to write. [default: beside MODEL, with .optimized in its name, or _fp16 or _bf16]",
)


def make_optimize_command(verb: str) -> click.Command:
    def callback(
        model: str, as_json: bool, quiet: bool, verbose: bool, output: str | None, no_verify: bool, no_timing: bool, full: bool,
        **options: Any,
    ) -> int:  # fmt: skip
        """Run ONNX Runtime's transformer optimizer on MODEL, without PyTorch. Report what it fused, what it did not fuse and
        why, and prove that the result gives the same vectors."""
        return run_verb(
            lambda progress: optimize(
                model, output=output, verify=not no_verify, time=not no_timing, progress=progress, **options
            ),
            show_outcome, as_json=as_json, quiet=quiet, brief=not verbose,
        )  # fmt: skip

    return click.command(verb, cls=VerbCommand)(with_options(callback, (MODEL,), OPTIONS, (OUTPUT,), PROOF, SHORTLY))


def show_outcome(outcome: Outcome) -> None:
    """Print what was made, its proof, and the times."""
    from graphsurgery.cli.render_outcome import print_optimized  # rich's tables are not needed for --json

    print_optimized(outcome)
