"""Calls that a server answers, each in a process that it forks (`fork_server`). The server is started with the first call.

The server ends when this process ends, for whatever reason, and after half a minute without a call. A process that is forked
from this one does not use this server, but starts its own. Any number of threads may call at once.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from threading import Lock, Thread
from typing import Any, BinaryIO, NamedTuple

from graphsurgery.runtime.fork_server import ENVIRONMENT, STARTED

PROGRAM = """
import json, sys
root, path, control, caller = json.loads(sys.argv[1])
sys.path[:] = [root, *path]
import graphsurgery
del sys.path[0]
from graphsurgery.runtime.fork_server import serve
serve(control, caller)
"""
ENDING_SECONDS = 5
"""How many seconds to wait, at most, until the server has ended a process."""


class Ended(NamedTuple):
    """What a process left behind: its exit code (negative: the signal that ended it), its answer, and what it printed."""

    code: int
    answer: bytes
    errors: bytes


@dataclass
class Server:
    """A running server: what it was started with, the socket that takes its calls, and whether it has taken one."""

    start: tuple[str, ...]
    control: socket.socket
    useful: bool = False


class _Shared:
    """What all threads share: the server, and the start commands of servers that took no call and are not started again."""

    def __init__(self) -> None:
        self.server: Server | None = None
        self.begin()

    def begin(self) -> None:
        """Begin without a server. A process that was just forked calls this: the server and the lock belong to its parent."""
        if self.server:
            self.server.control.close()
        self.lock = Lock()
        self.server = None
        self.useless: set[tuple[str, ...]] = set()


_shared = _Shared()


def call_forked(call: Mapping[str, Any], seconds: float) -> Ended | None:
    """Answer ``call`` in a forked process, and return what it leaves. None if no server took the call, so that it never began.

    Args:
        call: ``root``, ``path``, ``folder``, ``environment``, ``module``, ``function`` and ``arguments``, ready for JSON.
        seconds: the process is killed after this time, and if this thread is interrupted.

    Raises:
        TimeoutError: the process did not end in time.
        OSError: there are no descriptors left.
    """
    if sys.platform != "linux" or not hasattr(os, "pidfd_open"):
        return None
    limit = time.monotonic() + seconds
    with ExitStack() as stack:
        asked, answer, errors = (_open_memory(stack, name) for name in ("call", "answer", "errors"))
        asked.write(json.dumps(call).encode())
        asked.seek(0)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stack.enter_context(ours)
        stack.callback(_end_process, ours)
        stack.enter_context(theirs)
        server = _send([theirs.fileno(), *(file.fileno() for file in (asked, answer, errors))], call)
        theirs.close()
        if server is None:
            return None
        if _receive(ours, limit) != STARTED:
            _forget(server)
            return None
        server.useful = True
        code = int(_receive(ours, limit) or -signal.SIGKILL)  # nothing comes if the server was killed, and the process with it
        for file in (answer, errors):
            file.seek(0)
        return Ended(code, answer.read(), errors.read())


def _open_memory(stack: ExitStack, name: str) -> BinaryIO:
    return stack.enter_context(os.fdopen(os.memfd_create(f"graphsurgery {name}"), "w+b"))


def _send(files: Sequence[int], call: Mapping[str, Any]) -> Server | None:
    """Send the descriptors of a call to the server, and start it if necessary. Return the server, or None if there is none."""
    start = (sys.executable, call["root"], *call["path"])
    with _shared.lock:
        for _ in range(2):  # a server that had nothing to do may have ended
            server = _shared.server
            if server is None or server.start != start:
                server = _start(start)
            if server is None:
                return None
            with suppress(OSError):
                socket.send_fds(server.control, [b"call"], files)
                return server
            _drop(server)
    return None


def _start(start: tuple[str, ...]) -> Server | None:
    """Start a server in place of the current one. Return None if it does not start, or if such a server took no call before."""
    if start in _shared.useless:
        return None
    if _shared.server:
        _drop(_shared.server)
    executable, root, *path = start
    control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        parameters = json.dumps([root, path, theirs.fileno(), os.getpid()])
        try:
            process = subprocess.Popen(
                [executable, "-P", "-c", PROGRAM, parameters], cwd="/", env=os.environ | ENVIRONMENT,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
            )  # fmt: skip
        except OSError:
            control.close()
            return None
    Thread(target=process.wait, name="graphsurgery server", daemon=True).start()  # so that it leaves no zombie
    _shared.server = Server(start, control)
    return _shared.server


def _drop(server: Server) -> None:
    """Close the socket of a server. That ends the server and its processes."""
    server.control.close()
    if _shared.server is server:
        _shared.server = None


def _forget(server: Server) -> None:
    """Drop a server that has ended. One that never took a call is not started again."""
    with _shared.lock:
        if not server.useful:
            _shared.useless.add(server.start)
        _drop(server)


def _receive(ours: socket.socket, limit: float) -> bytes:
    """Return the server's next message, or nothing if it has closed its end. Raises TimeoutError after ``limit``."""
    ours.settimeout(max(limit - time.monotonic(), 0.001))
    try:
        return ours.recv(64)
    except ConnectionError:
        return b""


def _end_process(ours: socket.socket) -> None:
    """Make the server kill the process of a call, if it still runs, and wait until that is done."""
    with suppress(OSError):
        ours.shutdown(socket.SHUT_WR)
        ours.settimeout(ENDING_SECONDS)
        while ours.recv(64):
            pass


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_shared.begin)
