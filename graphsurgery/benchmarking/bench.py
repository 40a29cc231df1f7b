"""The function ``bench``: run models side by side, and report latency, throughput and memory."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx

from graphsurgery.argument_types import check_argument_types
from graphsurgery.benchmarking.plot import draw_plot
from graphsurgery.benchmarking.racing import Racing, make_contender, name_apart
from graphsurgery.benchmarking.results import Benchmark
from graphsurgery.benchmarking.work import PLANNED, STRATEGIES, USUAL, list_shapes
from graphsurgery.compare.figures import check_plot
from graphsurgery.deferred import SurgeonGraph, onnxruntime
from graphsurgery.errors import RequestError
from graphsurgery.model.loading import Loadable, load
from graphsurgery.model.model import Model
from graphsurgery.progress import Progress, ignore_progress
from graphsurgery.remarks import select_warnings

BATCHES, LENGTHS = (1, 8, 32), (16, 64, 256)
"""The numbers of texts, and the tokens of each, that are run if no text file is given."""
LONGEST = 512
"""The texts of a file are cut at this many tokens, unless the model takes fewer."""
SECONDS = 3.0
"""How long each kind of work is repeated, all contenders in turns; or five rounds if these take longer."""


@check_argument_types()
def bench(
    models: Loadable | Sequence[Loadable],
    *,
    texts: str | os.PathLike[str] | None = None,
    strategies: Sequence[str] | None = None,
    budget: int | None = None,
    longest: int | None = None,
    batches: Sequence[int] | None = None,
    lengths: Sequence[int] | None = None,
    threads: int = 0,
    seconds: float = SECONDS,
    plot: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: Progress = ignore_progress,
) -> Benchmark:
    """Measure models side by side on this machine: latency, throughput, and peak memory.

    All models do the same work with the same number of threads, in turns, round after round. Memory is measured in a process of
    its own for each model and each kind of work.

    Args:
        models: one model, or several. All are compared with the first one.
        texts: a UTF-8 file, one text a line. It is run with each of ``strategies``. Needs a tokenizer.json beside each model,
            or beside the first one. Without it, batches of equal texts are drawn: each of ``batches`` with each of ``lengths``.
        strategies: how a client puts the texts into batches: ``arrival`` (32 at a time, as they come), ``single`` (one at a
            time), ``budget`` (sorted by length, and cut into runs of at most ``budget`` positions, as `plan` does) and
            ``tokens`` (the same with at most ``budget`` tokens, for files that compute no padding). The first three if it is
            None.
        budget: the most positions or tokens of one run, for ``budget`` and ``tokens``. If it is None, it is measured on the
            first model.
        longest: the number of tokens at which texts are cut: 512 if it is None, and never more than a model takes.
        batches: numbers of texts: 1, 8 and 32 if it is None.
        lengths: numbers of tokens: 16, 64 and 256 if it is None. More than a model takes becomes as many as it takes.
        threads: the threads of every session. 0 lets ONNX Runtime choose.
        seconds: how long each kind of work is repeated, in seconds. It takes at least five rounds.
        plot: a .png or .svg file to draw the result in. Needs matplotlib (the extra ``plot``).
        force: replace an existing plot.

    Raises:
        RequestError: an option makes no sense for these models. OutputExistsError: the plot exists. MissingPackageError: there
            is no matplotlib. UnsupportedModelError: a model cannot be fed or run. And the errors of `load`.
    """
    several = [models] if isinstance(models, str | os.PathLike | onnx.ModelProto | SurgeonGraph | Model) else list(models)
    if not several:
        raise RequestError("there is no model to measure", "give one or several")
    _check_used(
        has_texts=texts is not None,
        for_texts={"--strategy": strategies, "--budget": budget, "--longest": longest},
        for_shapes={"--batches": batches, "--lengths": lengths},
    )
    _check_numbers({"--budget": (budget, 1), "--longest": (longest, 1), "--threads": (threads, 0), "--seconds": (seconds, 0)})
    loaded = [load(one) for one in several]
    if plot is not None:
        check_plot(Path(plot), loaded, force=force)
    with tempfile.TemporaryDirectory(prefix="graphsurgery-") as folder:
        contenders = [make_contender(one, place, Path(folder)) for place, one in enumerate(loaded)]
        name_apart(contenders)
        racing = Racing(contenders, threads, seconds, progress)
        if texts is not None:
            contests = [racing.run_texts(texts, _list_strategies(strategies, budget), budget, longest or LONGEST)]
        else:
            batches, lengths = BATCHES if batches is None else batches, LENGTHS if lengths is None else lengths
            shapes = list_shapes([one.generator for one in contenders], batches, lengths)
            contests = [racing.run_shape(*shape) for shape in shapes]
    result = Benchmark(
        tuple(contests), threads, os.cpu_count() or 1, onnxruntime.__version__, racing.budget, racing.has_measured_budget,
        None if plot is None else os.fspath(plot), select_warnings(remark for one in loaded for remark in one.remarks),
    )  # fmt: skip
    if plot is not None:
        draw_plot(result, Path(plot), force=force)
    return result


def _check_used(has_texts: bool, for_texts: Mapping[str, object], for_shapes: Mapping[str, object]) -> None:
    """Raise RequestError for options that would have no effect."""
    unused = [option for option, value in (for_shapes if has_texts else for_texts).items() if value is not None]
    if unused:
        listed = " and ".join(unused)
        why, how = ("a text file has lengths of its own", "leave out") if has_texts else ("there is no text file", "give")
        raise RequestError(f"{listed} cannot be used, because {why}", f"leave out {listed}, or {how} --texts")


def _check_numbers(numbers: Mapping[str, tuple[float | None, int]]) -> None:
    """Raise RequestError for an option below its minimum. The options are given with their numbers and minima."""
    for option, (number, least) in numbers.items():
        if number is not None and not number >= least:
            raise RequestError(f"{option} must be {least} or more, got {number}", "give another number")


def _list_strategies(strategies: Sequence[str] | None, budget: int | None) -> tuple[str, ...]:
    """Return the strategies that are asked for, each once. Raise RequestError for a name that is none, or a useless budget."""
    unknown = [one for one in strategies or () if one not in STRATEGIES]
    if unknown:
        raise RequestError(f"there is no strategy {unknown[0]!r}", f"choose from {', '.join(STRATEGIES)}")
    used = tuple(dict.fromkeys(strategies or USUAL))
    if budget is not None and not set(used) & set(PLANNED):
        raise RequestError(f"--budget cannot be used by {' and '.join(used)}", f"leave it out, or add {' or '.join(PLANNED)}")
    return used
