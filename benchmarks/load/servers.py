"""Services as child processes, and what they take: processors and memory. Linux only."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TICKS = os.sysconf("SC_CLK_TCK")
STARTING = 120.0
CACHE = "graphsurgery_cache_"


class Server:
    """A process that answers on a port."""

    def __init__(self, port: int, process: subprocess.Popen[bytes]) -> None:
        self.port, self.process = port, process

    @property
    def seconds(self) -> float:
        """The processor time that the service has taken, in seconds."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    @property
    def memory(self) -> int:
        """The memory that the service holds, in bytes."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def read_cache(self) -> dict[str, int]:
        """Return what the service's cache has counted."""
        lines = self.get("/metrics").decode().splitlines()
        found = (line.removeprefix(CACHE).split() for line in lines if line.startswith(CACHE) and "_created" not in line)
        return {name.removesuffix("_total"): int(float(number)) for name, number in found}

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
            return answer.read()


@contextmanager
def start_naive(folder: Path) -> Iterator[Server]:
    port = find_port()
    with _start(port, ["-m", "load.naive", str(folder), str(port)]) as server:
        yield server


@contextmanager
def start_service(folder: Path, *options: str) -> Iterator[Server]:
    """`graphsurgery serve` with these options."""
    port = find_port()
    with _start(port, ["-m", "graphsurgery", "serve", str(folder), "--port", str(port), *options]) as server:
        yield server


@contextmanager
def start_redis(folder: Path) -> Iterator[Server]:
    port = find_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--maxmemory", "256mb"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    try:
        _wait(process, lambda: socket.create_connection(("127.0.0.1", port), 1).close())
        yield Server(port, process)
    finally:
        process.kill()
        process.wait()


@contextmanager
def _start(port: int, arguments: list[str]) -> Iterator[Server]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT / "benchmarks"), str(ROOT)))}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([sys.executable, *arguments], env=environment, stdout=log, stderr=log)
        server = Server(port, process)
        try:
            _wait(process, lambda: server.get("/ready"))
            yield server
        except RuntimeError as error:
            log.seek(0)
            error.add_note(log.read()[-2000:].decode(errors="replace"))
            raise
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen[bytes], ask: Callable[[], object]) -> None:
    """Ask until it does not fail. Raises RuntimeError if the process ends, or takes too long."""
    end = time.monotonic() + STARTING
    while time.monotonic() < end and process.poll() is None:
        try:
            ask()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"{process.args} did not start")


def find_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
