"""Call a Python function in a process of its own, where it can crash, hang, print and change folders without harm to ours.

`multiprocessing` would run the caller's main script once more in the new process and share our terminal with it. Here the new
process imports the function alone, from the very package and search path that this process uses.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import graphsurgery
from graphsurgery.errors import SurroundingsError

PROGRAM = """
import json, os, sys
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # whatever is printed goes with the errors, and never between the answer
call = json.load(sys.stdin)
sys.path[:] = [call["root"], *call["path"]]
import graphsurgery
del sys.path[0]
from importlib import import_module
function = getattr(import_module(call["module"]), call["function"])
try:
    answer = {"answer": function(*call["arguments"])}
except Exception as error:
    answer = {"raised": type(error).__name__, "message": str(error).partition("\\n")[0]}
json.dump(answer, answers)
answers.close()
"""
KILLED = frozenset({signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)})
"""Signals that someone else sends; all others mean that the process crashed by itself."""


class OwnProcessError(Exception):
    """A call in a process of its own gave no answer. The message says what the process did: "crashed (signal 11)"."""

    def __init__(self, message: str, raised: str | None = None) -> None:
        super().__init__(message)
        self.raised = raised
        """The type of the exception that the function raised, if it did."""


def call_in_own_process(function: Callable[..., Any], *arguments: Any, folder: Path, seconds: int) -> Any:
    """Return what ``function(*arguments)`` returns in a new Python process.

    Args:
        function: a function at the top level of a module that can be imported. It may print; nobody sees it.
        arguments: JSON-ready data, as the answer must be.
        folder: the current folder of the new process.
        seconds: how long the call may take. The process is killed after that, and when this thread is interrupted.

    Raises:
        OwnProcessError: the function raised an exception, or the process crashed, was killed, or took too long.
        SurroundingsError: no process could be started.
    """
    call = {
        "root": str(Path(graphsurgery.__file__).parent.parent), "path": [str(Path(place).absolute()) for place in sys.path],
        "module": function.__module__, "function": function.__name__, "arguments": arguments,
    }  # fmt: skip
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", PROGRAM],
            cwd=folder, input=json.dumps(call).encode(), capture_output=True, timeout=seconds, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise OwnProcessError(f"did not end within {seconds} s") from None
    except OSError as error:
        raise SurroundingsError(f"cannot start Python ({sys.executable}): {error.strerror}") from error
    if done.returncode < 0:
        raise OwnProcessError(_describe_signal(-done.returncode))
    if done.returncode:
        raise OwnProcessError(f"ended with exit code {done.returncode}{_last_line(done.stderr)}")
    answer = json.loads(done.stdout)
    if "raised" in answer:
        raise OwnProcessError(f"failed ({answer['raised']}: {answer['message']})", answer["raised"])
    return answer["answer"]


def _describe_signal(number: int) -> str:
    if number in KILLED:
        return f"was killed (signal {number}), perhaps because memory ran out"
    return f"crashed (signal {number})"


def _last_line(said: bytes) -> str:
    lines = said.decode(errors="replace").strip().splitlines()
    return f": {lines[-1][:400]}" if lines else ""
