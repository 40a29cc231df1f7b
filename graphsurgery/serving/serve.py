"""`serve`: run a model folder as a service until the process is told to end."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphsurgery.errors import MissingPackageError, SurroundingsError
from graphsurgery.serving.settings import ServeSettings

OTHER_FILES = 256
"""How many files the model and the libraries may open besides the connections."""
PACKAGES = ("fastapi", "httptools", "orjson", "prometheus_client", "uvicorn")


@dataclass(frozen=True)
class Served:
    """How a service ended."""

    folder: Path
    address: str
    code: int
    """The exit code of its process: see `server`."""
    requests: int
    """The requests that were answered."""
    unanswered: int
    """The inputs that were still in flight when ``settings.drain`` was over."""
    seconds: float

    @property
    def warnings(self) -> tuple[str, ...]:
        return (f"{self.unanswered} inputs were not answered before the end",) if self.unanswered else ()

    def to_json(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder), "address": self.address, "requests": self.requests, "unanswered": self.unanswered,
            "seconds": self.seconds, "warnings": list(self.warnings),
        }  # fmt: skip


def serve(folder: str | os.PathLike[str], settings: ServeSettings, *, is_quiet: bool = False) -> Served:
    """Serve a model folder until the process gets SIGTERM or SIGINT.

    The port is taken before the model is read. `/ready` answers 503 until the towers are warm, and again after the first
    signal. The requests in flight are then answered within ``settings.drain`` seconds. A second signal ends the process
    at once.

    Args:
        folder: a folder that `bake` made, or a pooled ONNX file.
        settings: the address, the limits and the cache.
        is_quiet: log only warnings and errors.

    Raises:
        MissingPackageError: a package of the extra `serve`, or the provider, is not installed.
        RequestError: the address of the cache is not valid.
        SurroundingsError: the port is taken.
        FolderError, ModelError, UnsupportedModelError: as `open_towers` raises them.
    """
    _require_packages()
    from graphsurgery.serving.logs import set_up_logs
    from graphsurgery.serving.server import Process

    set_up_logs(settings.json_logs, is_quiet=is_quiet)
    _allow_connections(settings.max_connections)
    start, path = time.perf_counter(), Path(os.fspath(folder))
    with _listen(settings) as listener:
        process = Process(path, settings, listener)
        code = asyncio.run(process.run())
    return Served(path, process.address, code, process.service.answered, process.unanswered, time.perf_counter() - start)


def _require_packages() -> None:
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingPackageError(
            f"serving needs packages that are not installed: {', '.join(missing)}", "pip install 'graphsurgery[serve]'"
        )


def _allow_connections(most: int) -> None:
    """Raise the process's limit of open files for ``most`` connections, as far as the system allows. Many begin at 1,024."""
    with suppress(ImportError, OSError, ValueError):  # Windows has no such limit
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = most + OTHER_FILES
        if soft != resource.RLIM_INFINITY and soft < wanted:
            most_allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (most_allowed, hard))


@contextmanager
def _listen(settings: ServeSettings) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio sets TCP_NODELAY only where the protocol is named, and without it each answer waits 40 ms for the client's
    # delayed acknowledgement of its head.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
        except OSError as error:
            what = f"cannot listen at {settings.host}, port {settings.port}: {error.strerror or error}"
            raise SurroundingsError(what, "choose another --port or --host, or end the program that has it") from error
        yield listener
