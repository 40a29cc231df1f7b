"""Functions for tests to call in a process of its own. Each does there what a test must survive."""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any


def tell(*modules: str) -> dict[str, Any]:
    """Print on all channels, and return where the process is and which files it imports the modules from."""
    print("printed on stdout")
    print("printed on stderr", file=sys.stderr)
    os.write(1, b"written to file 1\n")
    found = {name: importlib.import_module(name).__file__ for name in modules}
    return {"folder": str(Path.cwd()), "files": found, "path": sys.path, "id": os.getpid(), "parent": os.getppid()}


def tell_environment(name: str) -> str | None:
    return os.environ.get(name)


def fail(*_: Any) -> None:
    raise KeyError("first line\nsecond line")


def crash(*_: Any) -> None:
    ctypes.string_at(0)


def be_killed(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave(*_: Any) -> None:
    os.write(2, b"out of luck\n")
    os._exit(7)


def lack_a_package(*_: Any) -> None:
    importlib.import_module("no_such_package")


def fill_the_disk(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def hang(started: str, *_: Any) -> None:
    """Write the id of the process to the file ``started``, and go on for a minute."""
    Path(started).write_text(f"{os.getpid()}\n", encoding="utf-8")
    time.sleep(60)


def wait(*_: Any) -> None:
    time.sleep(60)


def read_number(path: Path) -> int:
    """Return the number in a file that another process is about to write."""
    limit = time.monotonic() + 30
    while not (path.exists() and path.read_text(encoding="utf-8").endswith("\n")) and time.monotonic() < limit:
        time.sleep(0.01)
    return int(path.read_text(encoding="utf-8"))
