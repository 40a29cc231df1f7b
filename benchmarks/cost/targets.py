"""The targets of DESIGN.md's promise "Light", and whether figures reach them."""

from __future__ import annotations

from dataclasses import dataclass

from cost.measure import Row, middle
from cost.scenarios import COMMAND, COPY, LIBRARY

COPIES, SECONDS_BESIDE_COPY = 1.5, 0.5
MOST_RESIDENT = 200e6
EXTERNAL_SECONDS = 1.0
HELP_SECONDS, IMPORT_SECONDS, IMPORT_RESIDENT = 0.2, 0.3, 60e6
ONNX_IMPORTS = 2.7
"""IMPORT_SECONDS as a multiple of what ``import onnx`` took on the machine where that bound was set, 0.11 s."""
BESIDE_OUTPUT = 1 << 16
"""Bytes beside the output that a process may write: its report."""


@dataclass(frozen=True)
class Target:
    """``met`` is None where nothing was measured, which is not met either."""

    what: str
    bound: str
    figures: str
    met: bool | None


def judged(results: dict[str, dict[str, Row]]) -> list[Target]:
    """Every target that the measured scenarios concern."""
    targets: list[Target] = []
    if "single" in results:
        targets += [_copying(results["single"], LIBRARY, "work_s"), _copying(results["single"], COMMAND, "process_s")]
        targets += [_resident(f"one file, {_shortly(name)}", results["single"], name) for name in (LIBRARY, COMMAND)]
    if "external" in results:
        rows = results["external"]
        targets += [
            _seconds("external data, library, without imports", rows[LIBRARY], "work_s", EXTERNAL_SECONDS),
            _seconds("external data, command, whole process", rows[COMMAND], "process_s", EXTERNAL_SECONDS),
            *(_unmoved(rows, name) for name in (LIBRARY, COMMAND)),
            *(_resident(f"external data, {_shortly(name)}", rows, name) for name in (LIBRARY, COMMAND)),
        ]
    if "starts" in results:
        targets.append(_seconds("graphsurgery --help, whole process", results["starts"]["help"], "process_s", HELP_SECONDS))
        targets.append(
            _seconds("from graphsurgery import *, whole process", results["starts"]["import"], "process_s", IMPORT_SECONDS)
        )
        targets.append(_beside_onnx(results["starts"]))
        targets.append(_resident("from graphsurgery import *", results["starts"], "import", IMPORT_RESIDENT))
    return targets


def _copying(rows: dict[str, Row], name: str, figure: str) -> Target:
    """Judged by the median over the rounds of time / (1.5 cp + 0.5 s), each round with its own cp."""
    copies = {run.round: run.process_s for run in rows[COPY].done}
    shares, times = [], []
    for run in rows[name].done:
        seconds = getattr(run, figure)
        if run.round in copies and seconds is not None:
            shares.append(seconds / (COPIES * copies[run.round] + SECONDS_BESIDE_COPY))
            times.append(seconds)
    what = "one file, library, without imports" if name == LIBRARY else "one file, command, whole process"
    bound = f"{COPIES} x cp + {SECONDS_BESIDE_COPY} s"
    if rows[name].stopped or not shares:
        return _unmeasured(what, bound, rows[name])
    figures = f"{middle(times):.2f} s with cp {middle(copies.values()):.2f} s: {_spread(shares)} of the bound"
    return Target(what, bound, figures, middle(shares) <= 1)


def _resident(whose: str, rows: dict[str, Row], name: str, most: float = MOST_RESIDENT) -> Target:
    peak = rows[name].most("peak_bytes")
    what, bound = f"{whose}, resident at most", f"{most / 1e6:.0f} MB"
    if rows[name].stopped or peak is None:
        return _unmeasured(what, bound, rows[name])
    return Target(what, bound, f"{peak / 1e6:.0f} MB", peak <= most)


def _seconds(what: str, row: Row, figure: str, bound: float) -> Target:
    times = [value for run in row.done if (value := getattr(run, figure)) is not None]
    if row.stopped or not times:
        return _unmeasured(what, f"{bound} s", row)
    return Target(what, f"{bound} s", f"{_spread(times)} s", middle(times) < bound)


def _beside_onnx(rows: dict[str, Row]) -> Target:
    """Judged by the median over the rounds of time / `import onnx`, which says the same on slower machines."""
    what, bound = "from graphsurgery import *, against `import onnx`", f"{ONNX_IMPORTS} x"
    onnx = {run.round: run.process_s for run in rows["import_onnx"].done}
    ratios = [run.process_s / onnx[run.round] for run in rows["import"].done if run.round in onnx]
    if rows["import"].stopped or not ratios:
        return _unmeasured(what, bound, rows["import"])
    return Target(what, bound, f"{_spread(ratios)} x", middle(ratios) <= ONNX_IMPORTS)


def _unmoved(rows: dict[str, Row], name: str) -> Target:
    """The data file is as it was, and the process wrote no more than its output and its report."""
    runs = rows[name].done
    what, bound = f"external data, {_shortly(name)}, weight bytes moved", "0"
    if rows[name].stopped or not runs:
        return _unmeasured(what, bound, rows[name])
    beside = max(run.handed_bytes - run.output_bytes for run in runs)
    met = all(run.data_untouched for run in runs) and beside <= BESIDE_OUTPUT
    if not met:
        return Target(what, bound, f"{beside} bytes beside the output, or the data file changed", False)
    return Target(what, bound, f"0; written {runs[0].handed_bytes / 1e6:.2f} MB", True)


def _unmeasured(what: str, bound: str, row: Row) -> Target:
    """A contender that was stopped in any round has reached no target, whatever it did before."""
    return Target(what, bound, f"stopped: {row.stopped}" if row.stopped else "not measured", None)


def _shortly(name: str) -> str:
    return "library" if name == LIBRARY else "command"


def _spread(values: list[float]) -> str:
    """Median (least to most)."""
    return f"{middle(values):.2f} ({min(values):.2f} to {max(values):.2f})"
