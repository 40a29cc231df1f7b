"""Run one command in a fresh process and say what it cost. Linux only; imports little, so that its own memory stays small.

A child's ``ru_maxrss`` starts from what its parent held when it was forked, so that it says nothing below that.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MOST_OF_STDERR = 2000


@dataclass(frozen=True)
class Usage:
    """What a process and all that it waited for cost. ``stopped`` says why it did not finish."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int | None
    """Most memory resident at once; None where it was less than this process itself has."""
    handed_bytes: int
    """What it gave to write(2), copy_file_range(2) and the like."""
    dirtied_bytes: int
    """What the kernel charged it with having to write to the disk."""
    stopped: str | None


def run(command: Sequence[str], environment: dict[str, str], log: Path, timeout: float) -> Usage:
    """Run ``command`` to its end, its output going to the file ``log``."""
    actions = [
        (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    start = time.perf_counter()
    child = os.posix_spawnp(command[0], list(command), environment, file_actions=actions, setpgroup=0)
    try:
        late = not _ended(child, timeout)
    except BaseException:
        _kill(child)
        os.wait4(child, 0)
        raise
    if late:
        _kill(child)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # ended, and its accounts still there to be read
    seconds = time.perf_counter() - start
    handed, dirtied = _written(child)
    _, status, usage = os.wait4(child, 0)
    peak, own = usage.ru_maxrss * 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Usage(
        seconds, usage.ru_utime + usage.ru_stime, peak if peak > own else None, handed, dirtied,
        f"longer than {timeout:g} s" if late else _why(os.waitstatus_to_exitcode(status), log),
    )  # fmt: skip


def _ended(child: int, timeout: float) -> bool:
    """Wait for the child; False when the time is over."""
    descriptor = os.pidfd_open(child)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(timeout * 1000))
    finally:
        os.close(descriptor)


def _kill(child: int) -> None:
    """The child and whatever it started: it leads a process group of its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)


def _written(child: int) -> tuple[int, int]:
    accounts = dict(line.split(": ") for line in Path(f"/proc/{child}/io").read_text().splitlines())
    return int(accounts["wchar"]), int(accounts["write_bytes"])


def _why(code: int, log: Path) -> str | None:
    """Why a process failed, from its last line; None when it did not."""
    if code == 0:
        return None
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    said = log.read_text(errors="replace").strip()[-MOST_OF_STDERR:].splitlines()
    return f"exit code {code}: {said[-1] if said else 'it said nothing'}"
