"""The memory that a model needs, measured in a process of its own.

The kernel keeps the high-water mark of each process (VmHWM of /proc/self/status). It is reset once the model is loaded. The
``ru_maxrss`` of a child process would not do, because it starts at its parent's peak. Linux only.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from graphsurgery.errors import UnsupportedModelError
from graphsurgery.model.loading import load
from graphsurgery.runtime.own_process import Feed, OwnProcessError, call_in_own_process, read_feed, store_feed
from graphsurgery.runtime.session import open_session

SECONDS = 3600
"""How many seconds the runs may take."""
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESTART_PEAK = "5"
"""Written to `CLEAR`, it makes the high-water mark start from what the process holds now (proc(5))."""


class Memory(NamedTuple):
    """Bytes of a process: with the model loaded, and at the peak of its runs."""

    loaded: int
    peak: int


def measure_memory(model: Path, feeds: Sequence[Feed], threads: int) -> Memory | None:
    """Run the model at ``model`` on ``feeds``, one after the other, in a process of its own. Return the memory that it took.

    None if the system does not report it. Raises UnsupportedModelError if the model cannot be run, or its process is killed.
    """
    with tempfile.TemporaryDirectory(prefix="graphsurgery-") as folder:
        paths = [str(store_feed(feed, Path(folder) / f"{number}.npz")) for number, feed in enumerate(feeds)]
        try:
            found = call_in_own_process(
                run_and_measure, str(model.absolute()), paths, threads, folder=Path(folder), seconds=SECONDS
            )
        except OwnProcessError as error:
            found = f"the process that ran it {error}"
    if isinstance(found, str):
        raise UnsupportedModelError(f"{model} cannot be measured: {found}")
    return Memory(*found) if found is not None else None


def run_and_measure(model: str, paths: Sequence[str], threads: int) -> list[int] | str | None:
    """Run ``model`` on each of the stored feeds. Return this process's bytes before and at the peak, or an error message."""
    try:
        return _run_and_measure(model, paths, threads)
    except UnsupportedModelError as error:
        return str(error)


def _run_and_measure(model: str, paths: Sequence[str], threads: int) -> list[int] | None:
    session = open_session(load(model), threads=threads)
    with suppress(OSError):  # if that is not allowed, the peak may be that of loading the model
        CLEAR.write_text(RESTART_PEAK, encoding="ascii")
    loaded = _read_status("VmRSS")
    for path in paths:
        session.run(read_feed(path))
    peak = _read_status("VmHWM")
    return [loaded, peak] if loaded is not None and peak is not None else None


def _read_status(field: str) -> int | None:
    """Return a field of /proc/self/status in bytes, or None if the system does not have it."""
    with suppress(OSError):
        for line in STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            name, _, rest = line.partition(":")
            if name == field:
                return 1024 * int(rest.split()[0])
    return None
