"""Call a Python function, or run a model, in a process of its own, where it may crash, hang, print and change folders.

`multiprocessing` would run the caller's main script once more in the new process and share our terminal with it. Here the new
process imports the function alone, from the very package and search path that this process uses. On Linux it is forked by a
server that has imported the heavy packages already; elsewhere, and where there is no such server, it is a fresh interpreter.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import graphsurgery
from graphsurgery.errors import SurroundingsError, UnsupportedModelError
from graphsurgery.runtime.forking import Ended, call_forked
from graphsurgery.runtime.session import Session

SECONDS = 600
"""How many seconds a run of a model may take."""

PROGRAM = """
import json, os, sys
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # whatever is printed goes with the errors, and never between the answer
call = json.load(sys.stdin)
sys.path[:] = [call["root"], *call["path"]]
import graphsurgery
del sys.path[0]
from graphsurgery.runtime.fork_server import answer_call
json.dump(answer_call(call), answers)
answers.close()
"""
KILLED = frozenset({signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)})
"""Signals that other programs send. All others mean that the process crashed."""
Feed = Mapping[str, np.ndarray]


class OwnProcessError(Exception):
    """A call in a process of its own gave no answer. The message says what happened to the process: "crashed (signal 11)"."""

    def __init__(self, message: str, raised: str | None = None) -> None:
        super().__init__(message)
        self.raised = raised
        """The type of the exception that the function raised, if it raised one."""


def call_in_own_process(function: Callable[..., Any], *arguments: Any, folder: Path, seconds: int) -> Any:
    """Call ``function(*arguments)`` in a new Python process and return its answer.

    Args:
        function: a function at the top level of a module that can be imported. What it prints is not shown.
        arguments: JSON-ready data. The answer must be JSON-ready, too.
        folder: the current folder of the new process.
        seconds: how long the call may take. The process is killed after this time, and if this thread is interrupted.

    Raises:
        OwnProcessError: the function raised an exception, or the process crashed, was killed, or took too long.
        SurroundingsError: no process could be started.
    """
    call = {
        "root": str(Path(graphsurgery.__file__).parent.parent), "path": [str(Path(place).absolute()) for place in sys.path],
        "module": function.__module__, "function": function.__name__, "arguments": arguments,
        "folder": str(folder), "environment": dict(os.environ),
    }  # fmt: skip
    try:
        ended = call_forked(call, seconds) or _call_fresh(call, seconds)
    except (TimeoutError, subprocess.TimeoutExpired):
        raise OwnProcessError(f"did not end within {seconds} s") from None
    except OSError as error:
        raise SurroundingsError(f"cannot start Python ({sys.executable}): {error.strerror}") from error
    if ended.code < 0:
        raise OwnProcessError(_describe_signal(-ended.code))
    if ended.code:
        raise OwnProcessError(f"ended with exit code {ended.code}{_last_line(ended.errors)}")
    answer = json.loads(ended.answer)
    if "raised" in answer:
        raise OwnProcessError(f"failed ({answer['raised']}: {answer['message']})", answer["raised"])
    return answer["answer"]


def _call_fresh(call: Mapping[str, Any], seconds: float) -> Ended:
    """Answer ``call`` in a fresh interpreter. Raises OSError if it does not start, TimeoutExpired if it does not end."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM],
        cwd=call["folder"], input=json.dumps(call).encode(), capture_output=True, timeout=seconds, check=False,
    )  # fmt: skip
    return Ended(done.returncode, done.stdout, done.stderr)


def find_crash(model: Path, feeds: Sequence[Feed]) -> str | None:
    """Run ``model`` on ``feeds`` in a process of its own. Return what went wrong, or None if nothing did.

    So a kernel that crashes its process does not crash ours.
    """
    with tempfile.TemporaryDirectory(prefix="graphsurgery-") as folder:
        paths = [str(store_feed(feed, Path(folder) / f"{number}.npz")) for number, feed in enumerate(feeds)]
        try:
            failure: str | None = call_in_own_process(
                run_stored_feeds, str(model.absolute()), paths, folder=Path(folder), seconds=SECONDS
            )
        except OwnProcessError as error:
            return f"ONNX Runtime {error}"
    return failure and failure.replace(str(model.absolute()), "the file")


def run_stored_feeds(model: str, paths: Sequence[str]) -> str | None:
    """Run ``model`` on each of the stored feeds. Return ONNX Runtime's error, or None if there was none."""
    return run_feeds(model, map(read_feed, paths))


def run_feeds(model: str, feeds: Iterable[Feed]) -> str | None:
    """Run ``model`` on each feed in this process. Return ONNX Runtime's error, or None if there was none."""
    try:
        session = Session(model)
        for feed in feeds:
            session.run(feed)
    except UnsupportedModelError as error:
        return str(error)
    return None


def store_feed(feed: Feed, path: Path) -> Path:
    """Store a feed. Inputs may have any name, even one of a parameter of `np.savez`."""
    arrays = {f"array{place}": array for place, array in enumerate(feed.values())}
    np.savez(path, allow_pickle=False, names=np.array(list(feed)), **arrays)
    return path


def read_feed(path: str) -> dict[str, np.ndarray]:
    """Return a feed that `store_feed` stored."""
    with np.load(path) as stored:
        return {str(name): stored[f"array{place}"] for place, name in enumerate(stored["names"])}


def _describe_signal(number: int) -> str:
    if number in KILLED:
        return f"was killed (signal {number}), perhaps because memory ran out"
    return f"crashed (signal {number})"


def _last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return f": {lines[-1][:400]}" if lines else ""
