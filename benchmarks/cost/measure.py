"""Rounds of fresh processes: every contender in turn, each output measured and removed before the next process starts.

A contender runs twice in a row and its second run counts. A virtual machine has to get memory from its host when it is first
touched, so that whoever runs first, or takes more than those before it, would pay for all that follow.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cost import process
from cost.scenarios import COMMAND, STARTS, Scenario, command

Tell = Callable[[str], None]
GENERATION_TIMEOUT = 600
ALL_BUT = 0.8
"""Share of the allowed memory from which a failure is put down to it."""


@dataclass(frozen=True)
class Settings:
    """How everything is run. ``warm``: each run follows one that does not count; ``limit``: bytes a contender may allocate."""

    rounds: int
    start_rounds: int
    warm: bool
    limit: int
    timeout: float
    environment: dict[str, str]


@dataclass(frozen=True)
class Run:
    """One process. Times are seconds without fsync, which ``fsync_s`` has; None where a process does not tell them apart."""

    round: int
    process_s: float
    import_s: float | None
    work_s: float | None
    fsync_s: float | None
    cpu_s: float
    peak_bytes: int | None
    handed_bytes: int
    dirtied_bytes: int
    output_bytes: int
    allocated_bytes: int
    data_untouched: bool | None
    stopped: str | None


@dataclass
class Row:
    """All runs of one contender."""

    name: str
    runs: list[Run] = field(default_factory=list)

    @property
    def done(self) -> list[Run]:
        return [run for run in self.runs if run.stopped is None]

    @property
    def stopped(self) -> str | None:
        return next((run.stopped for run in self.runs if run.stopped), None)

    def median(self, figure: str) -> float | None:
        return middle(getattr(run, figure) for run in self.done)

    def most(self, figure: str) -> int | None:
        return max((value for run in self.done if (value := getattr(run, figure)) is not None), default=None)


def middle(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def ratios(row: Row, base: Row, figure: str = "process_s") -> list[float]:
    """``row``'s figure divided by ``base``'s, round by round, where both were done."""
    below = {run.round: getattr(run, figure) for run in base.done}
    pairs = [(getattr(run, figure), below.get(run.round)) for run in row.done]
    return [one / other for one, other in pairs if one is not None and other]


def measure(scenario: Scenario, folder: Path, settings: Settings, tell: Tell) -> dict[str, Row]:
    """Write the scenario's model into ``folder`` and let every contender work on it; who was stopped is not tried again."""
    folder.mkdir()
    source = folder / "model.onnx"
    tell(f"{scenario.name}: writing the model")
    made = process.run(scenario.size.command(source), settings.environment, folder / "log", GENERATION_TIMEOUT)
    if made.stopped:
        raise RuntimeError(f"the model {scenario.name!r} could not be written: {made.stopped}")
    _settle(source)
    rows = {name: Row(name) for name in scenario.contenders}
    for number in range(settings.rounds):
        for name, row in rows.items():
            if row.stopped is None:
                tell(f"{scenario.name}: round {number + 1} of {settings.rounds}, {name}")
                row.runs.append(_warmed_up(name, number, source, settings))
    for path in folder.iterdir():
        path.unlink()
    return rows


def measure_starts(folder: Path, settings: Settings, tell: Tell) -> dict[str, Row]:
    """Time how long commands take that do nothing but start; the first round, which may compile modules, is not counted."""
    rows = {name: Row(name) for name in STARTS}
    for number in range(-1, settings.start_rounds):
        tell(f"starts: round {number + 1} of {settings.start_rounds}")
        for name, (_, argv) in STARTS.items():
            used = process.run(argv, settings.environment, folder / "start.log", settings.timeout)
            if number >= 0:
                rows[name].runs.append(_started(number, used))
    return rows


def _started(number: int, used: process.Usage) -> Run:
    return Run(
        number, used.seconds, None, None, None, used.cpu_seconds, used.peak_bytes, used.handed_bytes, used.dirtied_bytes,
        0, 0, None, used.stopped,
    )  # fmt: skip


def _warmed_up(name: str, number: int, source: Path, settings: Settings) -> Run:
    """A run after one that does not count, unless that was stopped."""
    first = _once(name, number, source, settings)
    return first if first.stopped or not settings.warm else _once(name, number, source, settings)


def _once(name: str, number: int, source: Path, settings: Settings) -> Run:
    folder, report = source.parent, source.with_name("report.json")
    report.unlink(missing_ok=True)
    kept = set(folder.iterdir()) | {report, folder / "log"}
    before = _states(folder)
    argv = command(name, source, source.with_name("output.onnx"), report, settings.limit)
    used = process.run(argv, settings.environment, folder / "log", settings.timeout)
    told = json.loads(report.read_text()) if report.exists() else {}
    if name == COMMAND:  # it imports as it goes: its work cannot be told from its imports
        told = {key: value for key, value in told.items() if key not in ("import_s", "work_s")}
    new = [path for path in folder.iterdir() if path not in kept]
    sizes = [(status.st_size, status.st_blocks * 512) for status in map(Path.stat, new)]
    output = (sum(size for size, _ in sizes), sum(allocated for _, allocated in sizes))
    data_untouched = _states(folder) == before if before else None
    for path in new:
        path.unlink()
    os.sync()  # so that the disk is idle when the next process starts
    if used.stopped is None and not sizes:
        raise RuntimeError(f"{name} ended well and wrote nothing")
    return Run(
        number, used.seconds - told.get("fsync_s", 0.0), told.get("import_s"), told.get("work_s"), told.get("fsync_s"),
        used.cpu_seconds, used.peak_bytes, used.handed_bytes, used.dirtied_bytes, *output, data_untouched,
        _stopped(used, settings.limit),
    )  # fmt: skip


def _stopped(used: process.Usage, limit: int) -> str | None:
    """Why a process ended early; one that had nearly all the memory it may have ends in many ways."""
    if used.stopped and used.peak_bytes and used.peak_bytes > ALL_BUT * limit:
        return f"it may have {limit / 2**30:g} GiB of memory and needs more ({used.stopped})"
    return used.stopped


def _states(folder: Path) -> Sequence[tuple[int, ...]]:
    """What would differ if a byte of the model's data file had been written."""
    found = [path.stat() for path in sorted(folder.glob("model.onnx_data"))]
    return [(one.st_ino, one.st_size, one.st_mtime_ns, one.st_blocks) for one in found]


def _settle(source: Path) -> None:
    """Have the model written to the disk, so that no contender pays for it; it stays in the page cache."""
    for path in source.parent.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
