"""Where and how things are printed: reports on stdout, progress and errors on stderr."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from rich.console import Console

from graphsurgery.cli.main import OK
from graphsurgery.errors import VerificationFailed
from graphsurgery.progress import Progress, ignore_progress

out = Console(highlight=False, soft_wrap=False)
err = Console(stderr=True, highlight=False)
PATIENCE = 2.0
"""Work that takes fewer seconds shows no progress."""


class Reportable(Protocol):
    """The result of a verb."""

    @property
    def warnings(self) -> Sequence[str]: ...

    def to_json(self) -> dict[str, Any]: ...


Result = TypeVar("Result", bound=Reportable)


def run_verb(
    call: Callable[[Progress], Result],
    show: Callable[[Result], None],
    *,
    as_json: bool,
    quiet: bool,
    brief: bool = False,
) -> int:
    """Run ``call`` and print its result: as JSON, in a few lines if ``brief``, else with ``show``. Return the exit code.

    ``call`` gets a function that shows what is being done. If a proof fails, its details are printed; `main` prints the error.
    """
    start = time.monotonic()
    with show_progress(quiet or as_json) as progress:
        try:
            result = call(progress)
        except VerificationFailed as error:
            if not as_json and not quiet:
                from graphsurgery.cli.render_outcome import print_failure  # rich's tables are not needed otherwise

                print_failure(error)
            raise
    if as_json:
        print_json(result.to_json())
    elif quiet:
        print_warnings(result.warnings)
    elif brief:
        from graphsurgery.cli.display import render  # rich's tables are not needed otherwise

        out.print(render(result, time.monotonic() - start), crop=False)
    else:
        show(result)
    return OK


def print_warnings(warnings: Sequence[str]) -> None:
    """Print warnings on stderr, one a line. Nothing switches them off."""
    from graphsurgery.cli.render import render_warning  # most runs print none

    for one in warnings:
        err.print(render_warning(one), soft_wrap=True)


@contextmanager
def show_progress(quiet: bool) -> Iterator[Progress]:
    """Show on stderr what is being done, the time since the start, and a bar if the number of parts is known.

    Nothing is shown for work of less than `PATIENCE` seconds, if ``quiet``, or if stderr is not a terminal.
    """
    if quiet or not err.is_terminal:
        yield ignore_progress
        return
    from graphsurgery.cli.progress_display import ProgressDisplay  # rich's bars are not needed otherwise

    with ProgressDisplay(err, PATIENCE) as display:
        yield display.show


def print_json(content: dict[str, Any]) -> None:
    """Print one JSON document on stdout, without any colour."""
    print(json.dumps(content, indent=2, ensure_ascii=False))
