"""Quantised files of the real all-MiniLM-L6-v2, ours and other programs': quality, size, speed, independence of the batch.

    quantize.py                print it; about two hours. It needs the environment that `make bench-quantize` makes
    quantize.py --quick        two layers, few texts and rounds, one budget: does it run?
    quantize.py --write        put the tables and the plot into docs/
    quantize.py --json FILE    every figure and every time that was measured
    quantize.py --only PART    rows whose names contain one of these; the float32 file always runs

Every program that calibrates gets the package's calibration texts. All files are judged by its judging texts, which are others.
All run in turns in one process, each with two threads, on the same batches, and speeds are ratios within a round to the pooled
file in float32. A file that cannot be made is listed, and the benchmark fails.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from page import put  # noqa: E402
from peers import describe_machine, describe_ratios, tell  # noqa: E402
from quantized.given import Given, Made, Runner, open_onnx, prepare  # noqa: E402
from quantized.others import MAKERS  # noqa: E402
from quantized.ours import INVARIANT, list_makers  # noqa: E402
from quantized.random_encoders import BUDGET, Adapted, adapt  # noqa: E402

from graphsurgery.compare.figures import COLOURS, import_figure, save_figure  # noqa: E402
from graphsurgery.compare.quality import Quality, measure_quality  # noqa: E402
from graphsurgery.compare.timing import race  # noqa: E402
from graphsurgery.proof.same_bits import BatchDependence, measure_batch_dependence  # noqa: E402
from graphsurgery.runtime.embedding import embed_texts  # noqa: E402
from graphsurgery.runtime.feeds import generate_text_feeds  # noqa: E402

PAGE, PLOT = ROOT / "docs" / "quantization.md", ROOT / "docs" / "quantization.svg"
SOURCE = "float32, pooled"
PACKAGES = (
    "onnxruntime", "sentence-transformers", "transformers", "torch", "optimum-onnx", "openvino", "nncf",
)  # fmt: skip
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
"""The abilities of a processor that decide how fast its products of integers are, and whether they are right."""
VNNI = {"avx512_vnni", "avx_vnni", "amx_int8"}
TOGETHER = 32
MILLION = 1_000_000
LEAST_ERROR = 1e-6
"""The least 1 - cosine that is drawn: files in float32 stand there."""


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    texts: int
    """The texts that run together, a whole number of batches."""
    singles: int
    """The texts that run one at a time."""
    seconds: float
    """How long the files take turns on each kind of batch."""
    tried: int
    """The texts whose vectors are compared alone and in random batches."""
    promised: int
    """The same for files whose vectors are promised not to depend on their batch, and for their source."""
    rounds: int
    """The number of random batches of each."""


WHOLE, QUICK = Effort(96, 32, 360.0, 128, 1000, 5), Effort(8, 2, 0.0, 12, 24, 1)


@dataclass(frozen=True)
class Row:
    """What was measured of one file."""

    name: str
    size: int
    note: str
    quality: Quality
    dependence: BatchDependence
    together: tuple[float, ...] = ()
    """The seconds of each round, for batches."""
    alone: tuple[float, ...] = ()
    """The same for texts one at a time."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two layers, few texts and rounds, one budget")
    parser.add_argument("--write", action="store_true", help="put the tables and the plot into docs/")
    parser.add_argument("--json", type=Path, help="write every figure and every time")
    parser.add_argument("--only", nargs="*", help="rows whose names contain one of these; the float32 file always runs")
    arguments = parser.parse_args()
    if arguments.write and (arguments.quick or arguments.only):
        parser.error("the page has the table of the whole benchmark: leave out --quick, --only or --write")
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        given = prepare(Path(folder), quick=arguments.quick)
        rows, failed = measure(given, QUICK if arguments.quick else WHOLE, arguments.only)
        adapted = adapt(given) if not arguments.only else []
    table, second = render(rows, failed), render_adapted(adapted)
    print(table, *([second] if adapted else []), sep="\n\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(list_figures(rows, failed, adapted), indent=1), encoding="utf-8")
    if arguments.write:
        put(PAGE, "quantize", f"{describe_processor()}.\n\n![Quality against speed](quantization.svg)\n\n{table}")
        put(PAGE, "adapted", second)
        draw(rows)
    if failed:
        sys.exit("\n".join(f"{name} could not be made: {why}" for name, why in failed.items()))


def measure(given: Given, effort: Effort, only: Sequence[str] | None) -> tuple[list[Row], dict[str, str]]:
    """Make all files, measure each, and time them in turns. Return the rows, and why the others could not be made."""
    made, failed = {SOURCE: open_onnx(given.baked)}, {}
    makers = {**list_makers(given.quick), **MAKERS}
    for name, make in makers.items():
        if only and not any(part in name for part in only):
            continue
        tell(f"making {name}")
        try:
            made[name] = make(given)
        except Exception as error:  # of ours, or of another program: the others are measured all the same
            failed[name] = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
    rows = [judge(given, effort, name, one) for name, one in made.items()]
    runners = [one.runner for one in made.values()]
    together = time_batches(given, runners, effort.texts, TOGETHER, effort.seconds)
    alone = time_batches(given, runners, effort.singles, 1, effort.seconds / 3)
    return [
        replace(row, together=first, alone=second) for row, first, second in zip(rows, together, alone, strict=True)
    ], failed


def judge(given: Given, effort: Effort, name: str, made: Made) -> Row:
    """Measure the quality of a file, and how far a text's vector depends on its batch."""
    tell(f"judging {name}")
    known = given.judge
    found = embed_texts(made.runner, known.generator, known.encoded, [known.output])[known.output]
    quality = measure_quality(known.wanted, found)
    is_promised = name == SOURCE or name.startswith(INVARIANT)
    texts = known.spread(effort.promised if is_promised else effort.tried)
    dependence = measure_batch_dependence(made.runner, known.generator, texts, known.output, effort.rounds)
    return Row(name, made.size, made.note, quality, dependence)


def time_batches(given: Given, runners: Sequence[Runner], count: int, size: int, seconds: float) -> Iterator[tuple[float, ...]]:
    """Run ``count`` texts, ``size`` at a time as they come, by all runners in turns. Yield the seconds of each."""
    tell(f"timing {count} texts, {size} at a time")
    texts = given.judge.spread(count)
    batches = [texts.take(list(range(start, min(start + size, count)))) for start in range(0, count, size)]
    feeds = [feed for batch in batches for feed in generate_text_feeds(given.judge.generator, batch)]

    def run(runner: Runner) -> None:
        for feed in feeds:
            runner.run(feed, [given.judge.output])

    runs: list[Callable[[], object]] = [partial(run, one) for one in runners]
    yield from zip(*race(runs, seconds), strict=True)


def render(rows: Sequence[Row], failed: Mapping[str, str]) -> str:
    """Return one line for each file, and the reasons for those that could not be made."""
    header = (
        "file", "worst cosine", "first percentile", "mean", "top 10", "rank", "apart in batches", "MB", "32 at a time",
        "one at a time", "levels",
    )  # fmt: skip
    lines = [f"| {' | '.join(header)} |", f"| --- |{' ---: |' * (len(header) - 2)} --- |"]
    first = rows[0]
    for row in rows:
        quality = row.quality
        cells = (
            row.name, *(f"{one:.4f}" for one in (quality.worst, quality.first_percentile, quality.mean)),
            f"{quality.neighbours:.1%}", f"{quality.rank:.4f}", f"{row.dependence.largest:.0e}", f"{row.size / MILLION:.0f}",
            describe_ratios(first.together, row.together), describe_ratios(first.alone, row.alone), row.note,
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"{name}: not made. {why}" for name, why in failed.items())] if failed else []
    return "\n".join(lines)


def render_adapted(adapted: Sequence[Adapted]) -> str:
    lines = [f"| encoder | chosen at `--min-cosine {BUDGET}` | worst cosine |", "| --- | --- | ---: |"]
    worst = ("none" if one.worst is None else f"{one.worst:.4f}" for one in adapted)
    return "\n".join(
        [*lines, *(f"| {one.encoder} | {one.levels} | {cosine} |" for one, cosine in zip(adapted, worst, strict=True))]
    )


def describe_processor() -> str:
    """Return the machine, with what its processor has for integers, and the versions."""
    words = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    having = [one for one in FLAGS if one in words]
    vnni = "with VNNI" if VNNI & set(having) else "without VNNI"
    return f"{describe_machine(PACKAGES)}. The processor is {vnni} ({', '.join(having)})"


def list_figures(rows: Sequence[Row], failed: Mapping[str, str], adapted: Sequence[Adapted]) -> dict[str, Any]:
    """Return everything that was measured, JSON-ready."""
    found = [
        {
            "name": row.name, "bytes": row.size, "note": row.note, "quality": row.quality.to_json(),
            "dependence": row.dependence.to_json(), "together": row.together, "alone": row.alone,
        }
        for row in rows
    ]  # fmt: skip
    return {"machine": describe_processor(), "rows": found, "not made": failed, "adapted": [asdict(one) for one in adapted]}


def draw(rows: Sequence[Row]) -> None:
    """Draw 1 - the first percentile of the cosines against the speed in batches, ours and the others in two colours."""
    figure = import_figure()(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    base, *others = rows
    for ours in (True, False):
        shown = [row for row in others if row.name.startswith("ours") is ours]
        speeds = [median(one / other for one, other in zip(base.together, row.together, strict=True)) for row in shown]
        errors = [max(1 - row.quality.first_percentile, LEAST_ERROR) for row in shown]
        axes.scatter(speeds, errors, color=COLOURS[not ours], label="ours" if ours else "other programs")
        for row, speed, error in zip(shown, speeds, errors, strict=True):
            name = row.name.removeprefix("ours: ").replace("`", "")
            axes.annotate(name, (speed, error), xytext=(4, 4), textcoords="offset points", fontsize=6)
    axes.set_yscale("log")
    axes.set_xlabel("times faster than the pooled file in float32, 32 texts at a time (median)")
    axes.set_ylabel("1 - first percentile of the cosines")
    axes.legend(fontsize=8)
    save_figure(figure, PLOT, force=True)


if __name__ == "__main__":
    main()
