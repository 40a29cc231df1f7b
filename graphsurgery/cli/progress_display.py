"""What a terminal shows during long work: a spinner, a few words, a bar with figures, and the time since the start."""

from __future__ import annotations

from threading import Lock, Timer
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

STARTING = "loading"


class _Figures(ProgressColumn):
    """How many of how many parts are done: "12/48". Empty if the number of parts is not known."""

    def render(self, task: Task) -> Text:
        return Text("" if task.total is None else f"{task.completed:.0f}/{task.total:.0f}", style="progress.download")


class ProgressDisplay:
    """Shows one line that changes, on ``console``, once the work takes longer than ``patience`` seconds."""

    def __init__(self, console: Console, patience: float) -> None:
        self._bars = Bars(
            SpinnerColumn(), TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=20), _Figures(), TimeElapsedColumn(), console=console, transient=True,
        )  # fmt: skip
        self._task = self._bars.add_task(STARTING, total=None)
        self._lock = Lock()
        self._is_over = False
        self._timer = Timer(patience, self._start)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._timer.cancel()
        with self._lock:
            self._is_over = True
            self._bars.stop()

    def show(self, doing: str, done: int = 0, total: int = 0, /) -> None:
        """Show what is being done. See `graphsurgery.progress.Progress`."""
        self._bars.tasks[0].total = total or None  # `update` takes None for "as before"
        self._bars.update(self._task, description=doing, completed=done)

    def _start(self) -> None:
        with self._lock:
            if not self._is_over:
                self._bars.start()
