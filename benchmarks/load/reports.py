"""What was measured under load: as a table, and held against what is promised."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median

from load.client import Load

OURS, TUTORIAL = "graphsurgery serve", "tutorial's service"


@dataclass(frozen=True)
class Measured:
    """One service under one load: medians of the rounds, and sums of what went wrong."""

    block: str
    name: str
    rate: float
    """Answered requests a second."""
    text_rate: float
    latencies: tuple[float, float, float]
    """p50, p95 and p99 in milliseconds."""
    sent: int
    answered: int
    refused: int
    told: int
    failed: int
    """Requests without an answer, or with a status that is neither 200 nor 429."""
    wrong: int
    inexact: int
    cpu: float | None = None
    """How many processors the service took."""
    share: float | None = None
    """Of the texts a second of `Embedder`, or of the requests a second with fewer connections."""
    slower: float | None = None
    """The p99 beside that with fewer connections."""
    grown: float | None = None
    """The most memory beside that after the first part."""
    note: str = ""

    @classmethod
    def of(
        cls,
        block: str,
        name: str,
        loads: Sequence[Load],
        *,
        cpu: float | None = None,
        share: float | None = None,
        slower: float | None = None,
        grown: float | None = None,
        note: str = "",
    ) -> Measured:
        """Sum up the rounds."""

        def typical(read: Callable[[Load], float]) -> float:
            return median(map(read, loads))

        return cls(
            block, name, typical(lambda one: one.rate), typical(lambda one: one.text_rate),
            (typical(lambda one: one.percentile(50)), typical(lambda one: one.percentile(95)),
             typical(lambda one: one.percentile(99))),
            *(sum(getattr(one, name) for one in loads) for name in ("sent", "answered", "refused", "told")),
            sum(one.lost + one.other for one in loads), sum(one.wrong for one in loads), sum(one.inexact for one in loads),
            cpu, share, slower, grown, note,
        )  # fmt: skip


def render(measured: Sequence[Measured]) -> str:
    """Return a table for each block."""
    parts = []
    for block, rows in groupby(measured, lambda one: one.block):
        lines = [
            f"**{block[:1].upper()}{block[1:]}**",
            "",
            "| load | requests/s | texts/s | p50 / p95 / p99 ms | processors | beside it |",
        ]
        lines.append("| --- | ---: | ---: | ---: | ---: | --- |")
        for one in rows:
            latencies = " / ".join(f"{latency:.0f}" if latency >= 10 else f"{latency:.1f}" for latency in one.latencies)
            cpu = "" if one.cpu is None else f"{one.cpu:.2f}"
            told = "; ".join(_describe(one))
            lines.append(f"| {one.name} | {one.rate:,.0f} | {one.text_rate:,.0f} | {latencies} | {cpu} | {told} |")
        parts.append("\n".join(lines))
    compared = sum(one.answered for one in measured)
    wrong, inexact = sum(one.wrong for one in measured), sum(one.inexact for one in measured if one.name != TUTORIAL)
    ours = sum(one.answered for one in measured if one.name != TUTORIAL)
    parts.append(
        f"{compared:,} answers, {wrong} of them wrong; {sum(one.failed for one in measured)} requests without an answer. Of "
        f"the {ours:,} answers of `graphsurgery serve`, {ours - inexact:,} have the same bits as `Embedder`'s vectors."
    )
    return "\n\n".join(parts)


def _describe(one: Measured) -> Iterator[str]:
    if one.share is not None:
        yield f"{one.share:.0%}"
    if one.slower is not None:
        yield f"p99 {one.slower:.2f}x"
    if one.grown is not None:
        yield f"memory {one.grown:.2f}x"
    if one.refused:
        yield f"{one.refused:,} of {one.sent:,} refused with 429, {one.told:,} of them told when to come again"
    if one.note:
        yield one.note


def list_wrong(measured: Sequence[Measured]) -> list[str]:
    """Return what must not happen on any machine, in sentences."""
    found = []
    for one in measured:
        where = f"{one.block}, {one.name}"
        if one.wrong or one.failed or one.answered == 0:
            found.append(f"{where}: {one.wrong} answers are wrong, {one.failed} requests failed, {one.answered} were answered")
        if one.sent != one.answered + one.refused + one.failed:
            found.append(f"{where}: {one.sent} requests were sent, and {one.answered + one.refused + one.failed} are known of")
        if one.told != one.refused:
            found.append(f"{where}: {one.refused - one.told} refused requests were not told when to come again")
    return found


def describe_misses(measured: Sequence[Measured]) -> Iterator[str]:
    """Yield which of the goals for speed and memory were not reached on this machine, in sentences."""
    by_name = {(one.block, one.name): one for one in measured}
    for block, goal in (("short texts", 10.0), ("mixed texts", 2.3)):
        naive, ours = by_name.get((block, TUTORIAL)), by_name.get((block, OURS))
        if naive and ours and ours.rate < goal * naive.rate:
            yield f"{block}: {ours.rate / naive.rate:.1f} times the tutorial's service; the goal is {goal}"
    quiet = next((one for one in measured if one.name == "no cache"), None)
    for one in measured:
        where = f"{one.block}, {one.name}"
        goal = 0.85 if one.slower is None else 0.8
        if one.share is not None and one.share < goal:
            yield f"{where}: {one.share:.0%}; the goal is {goal:.0%}"
        if one.slower is not None and one.slower > 2:
            yield f"{where}: the p99 is {one.slower:.2f} times as long; the goal is 2"
        if one.grown is not None and one.grown > 1.05:
            yield f"{where}: memory grew to {one.grown:.2f} times what it was; the goal is 1.05"
        if quiet and one.block == quiet.block and one.latencies[2] > quiet.latencies[2] + 50:
            yield f"{where}: the p99 is {one.latencies[2] - quiet.latencies[2]:.0f} ms longer than without; the goal is 50"
