"""Where and how things are printed: reports on stdout, progress and errors on stderr."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console

out = Console(highlight=False, soft_wrap=False)
err = Console(stderr=True, highlight=False)


@contextmanager
def progress(quiet: bool) -> Iterator[Callable[[str], None]]:
    """A line on stderr that says what is being done, where stderr is a terminal and silence was not asked for."""
    if quiet or not err.is_terminal:
        yield lambda _: None
        return
    with err.status("loading") as status:
        yield lambda text: status.update(text)


def print_json(content: dict[str, Any]) -> None:
    """One JSON document on stdout, without any colour."""
    print(json.dumps(content, indent=2, ensure_ascii=False))
