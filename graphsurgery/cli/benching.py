"""bench: models side by side, by latency, throughput and memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from graphsurgery.benchmarking.bench import BATCHES, LENGTHS, LONGEST, SECONDS, bench
from graphsurgery.benchmarking.results import Benchmark
from graphsurgery.benchmarking.work import STRATEGIES
from graphsurgery.cli.console import out, print_warnings, run_verb
from graphsurgery.cli.help import VerbCommand
from graphsurgery.cli.options import SHOWN, with_options

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
MODELS = click.argument("models", nargs=-1, required=True, type=click.Path(), metavar="MODEL...")


def _read_numbers(_: click.Context, option: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    """Return whole numbers that are given with commas between them."""
    try:
        return None if text is None else tuple(int(one) for one in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of whole numbers, such as 1,8,32", param=option) from None


def _make_numbers_option(name: str, help_text: str, default: tuple[int, ...]) -> Decorator:
    return click.option(
        name, metavar="N,N,...", callback=_read_numbers, help=f"{help_text}. [default: {','.join(map(str, default))}]"
    )


OPTIONS = (
    _make_numbers_option("--batches", "Numbers of texts in a batch", BATCHES),
    _make_numbers_option("--lengths", "Numbers of tokens of each text", LENGTHS),
    click.option("--texts", type=click.Path(), help="A UTF-8 file with one text per line, to run in place of equal texts."),
    click.option(
        "--strategy", "strategies", multiple=True, type=click.Choice(tuple(STRATEGIES)),
        help="How the client puts texts into batches: 32 as they come, one at a time, or sorted and cut by positions or, for a "
        "file that computes no padding, by tokens. May be repeated. [default: the first three]",
    ),
    click.option("--budget", type=int, metavar="N", help="Positions or tokens of one run, if sorted. [default: measured]"),
    click.option("--longest", type=int, metavar="N", help=f"Cut texts to at most N tokens. [default: {LONGEST}]"),
    click.option(
        "--threads", type=int, metavar="N", default=0, help="Threads of every session. [default: ONNX Runtime chooses]"
    ),
    click.option(
        "--seconds", type=float, metavar="S", default=SECONDS, show_default=True,
        help="How long each kind of work is repeated, five rounds at least.",
    ),
    click.option("--plot", type=click.Path(), metavar="FILE.png|svg", help="Draw the result, with matplotlib."),
    click.option("--force", is_flag=True, help="Replace an existing plot."),
)  # fmt: skip


def make_bench_command(verb: str) -> click.Command:
    def callback(models: tuple[str, ...], strategies: tuple[str, ...], as_json: bool, quiet: bool, **options: Any) -> int:
        """Measure each MODEL on this machine: latency, throughput and peak memory, on batches of several sizes or on the lines
        of a text file. All models run in turns, with as many threads, and are compared with the first one."""
        return run_verb(
            lambda progress: bench(models, strategies=strategies or None, progress=progress, **options),
            _show, as_json=as_json, quiet=quiet,
        )  # fmt: skip

    return click.command(verb, cls=VerbCommand)(with_options(callback, (MODELS,), OPTIONS, SHOWN))


def _show(result: Benchmark) -> None:
    from graphsurgery.cli.render_benchmark import render_benchmark  # rich's tables are not needed for --json

    print_warnings(result.warnings)
    out.print(render_benchmark(result))
