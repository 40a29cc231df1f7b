"""The measured figures as tables: for the terminal, for Markdown, and as JSON-ready data."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cost.measure import Row, middle, ratios
from cost.scenarios import CONTENDERS, STARTS, Scenario
from cost.targets import Target

MARKS = ("<!-- surgery-cost: generated, do not edit -->", "<!-- /surgery-cost -->")
WIDTH_OF_FILES = 200


@dataclass(frozen=True)
class Table:
    """Headings and cells, all text."""

    title: str
    heads: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]


def scenario_table(scenario: Scenario, rows: dict[str, Row]) -> Table:
    """One line per contender."""
    bases = [name for name in scenario.baselines if rows[name].done]
    heads = (
        "contender", "process s", "imports s", "work s", "fsync s", *(f"x {CONTENDERS[base].label}" for base in bases),
        "peak MB", "written MB", "on disk MB", "what it does",
    )  # fmt: skip
    lines = []
    for name, row in rows.items():
        label, does = CONTENDERS[name]
        if not row.done:
            lines.append((label, *["-"] * (len(heads) - 2), f"STOPPED: {row.stopped}; {does}"))
            continue
        times = [_number(row.median(figure)) for figure in ("process_s", "import_s", "work_s", "fsync_s")]
        compared = [_ratio(ratios(row, rows[base])) for base in bases]
        sizes = [_megabytes(row.most(figure)) for figure in ("peak_bytes", "handed_bytes", "allocated_bytes")]
        cut_short = f"STOPPED in round {len(row.runs)}: {row.stopped}; " if row.stopped else ""
        lines.append((label, *times, *compared, *sizes, cut_short + does))
    return Table(scenario.title, heads, tuple(lines))


def starts_table(rows: dict[str, Row]) -> Table:
    """One line per start."""
    lines = []
    for name, row in rows.items():
        times = [run.process_s for run in row.done]
        if not times:
            lines.append((STARTS[name][0], f"failed: {row.stopped}", "-", "-"))
            continue
        spread = f"{min(times):.3f} to {max(times):.3f}"
        lines.append((STARTS[name][0], f"{middle(times):.3f}", spread, _megabytes(row.most("peak_bytes"))))
    return Table("starting", ("command", "process s", "least to most", "peak MB"), tuple(lines))


def targets_table(targets: Sequence[Target]) -> Table:
    """One line per target."""
    words = {True: "met", False: "MISSED", None: "NOT MEASURED"}
    return Table(
        "targets",
        ("target", "bound", "measured", ""),
        tuple((one.what, one.bound, one.figures, words[one.met]) for one in targets),
    )


def print_tables(tables: Sequence[Table], notes: Sequence[str]) -> None:
    """On stdout. Imports rich only now that everything is measured: see process.py."""
    from rich.console import Console
    from rich.table import Table as RichTable

    console = Console(width=None if sys.stdout.isatty() else WIDTH_OF_FILES)
    for table in tables:
        shown = RichTable(title=table.title, title_justify="left")
        for index, head in enumerate(table.heads):
            shown.add_column(head, justify="right" if _is_figures(table, index) else "left", overflow="fold")
        for line in table.cells:
            shown.add_row(*line)
        console.print(shown)
    for note in notes:
        console.print(f"- {note}", highlight=False)


def write_markdown(tables: Sequence[Table], notes: Sequence[str], path: Path) -> None:
    """Between the marks of ``path`` where it has them, as the whole file where it does not exist."""
    parts = [_markdown(table) for table in tables] + ["\n".join(f"- {note}" for note in notes)]
    block = f"{MARKS[0]}\n\n" + "\n\n".join(parts) + f"\n\n{MARKS[1]}"
    if not path.exists():
        path.write_text(block + "\n")
        return
    text, found = re.subn(f"{re.escape(MARKS[0])}.*?{re.escape(MARKS[1])}", lambda _: block, path.read_text(), flags=re.DOTALL)
    if not found:
        raise ValueError(f"{path} has no {MARKS[0]} ... {MARKS[1]}: add these lines where the tables shall stand")
    path.write_text(text)


def as_json(results: dict[str, dict[str, Row]], targets: Sequence[Target], surroundings: dict[str, Any]) -> dict[str, Any]:
    """Every single run."""
    return {
        "surroundings": surroundings,
        "scenarios": {
            name: {row.name: [asdict(run) for run in row.runs] for row in rows.values()} for name, rows in results.items()
        },
        "targets": [asdict(target) for target in targets],
    }


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _ratio(values: list[float]) -> str:
    if not values:
        return "-"
    return f"{_figures(middle(values))} ({_figures(min(values))}..{_figures(max(values))})"


def _figures(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2f}"


def _megabytes(value: int | None) -> str:
    if value is None:
        return "-"
    return f"{value / 1e6:.0f}" if value >= 1e7 else f"{value / 1e6:.1f}"


def _is_figures(table: Table, index: int) -> bool:
    return table.title != "targets" and index > 0 and table.heads[index] != "what it does"


def _markdown(table: Table) -> str:
    rule = ["---:" if _is_figures(table, index) else "---" for index in range(len(table.heads))]
    lines = [table.heads, rule, *table.cells]
    return f"### {table.title}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)
