"""`graphsurgery serve` as a process: it answers, refuses hostile senders, and ends without losing a request."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from served_folders import bake_fixture

import graphsurgery
from graphsurgery.cli.main import WRONG, run
from graphsurgery.embedding import budgets
from graphsurgery.errors import SurroundingsError
from graphsurgery.serving import server
from graphsurgery.serving.serve import Served, serve
from graphsurgery.serving.serve import _listen as listen
from graphsurgery.serving.settings import ServeSettings
from graphsurgery.serving.text_tower import TextTower

READ_TIMEOUT = 1.0
BEGIN = b"POST /embed HTTP/1.1\r\nHost: a\r\n"
MAX_BODY = 10_000


@dataclass
class Running:
    """A service in a process of its own."""

    process: subprocess.Popen[str]
    folder: Path
    port: int = 0
    lines: list[dict[str, Any]] = field(default_factory=list)

    def read_log(self, until: str) -> None:
        """Read the log up to a line with this message."""
        for line in self.process.stderr or ():
            self.lines.append(json.loads(line))
            if until in self.lines[-1]["message"]:
                return
        raise AssertionError(self.lines)

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def ask(self, method: str, path: str, content: Any = None, **headers: str) -> tuple[int, Any]:
        with closing(self.connect()) as connection:
            connection.request(method, path, None if content is None else json.dumps(content), headers)
            answer = connection.getresponse()
            body = answer.read()
            return answer.status, json.loads(body) if answer.headers["content-type"] == "application/json" else body

    def send(self, content: bytes) -> bytes:
        """Send bytes as they are, and return all that comes until the service closes the connection."""
        with closing(socket.create_connection(("127.0.0.1", self.port), timeout=30)) as connection:
            connection.sendall(content)
            return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bake_fixture(tmp_path_factory.mktemp("process") / "bert")


@contextmanager
def start(folder: Path, read_timeout: float = 30) -> Iterator[Running]:
    arguments = ["serve", str(folder), "--port", "0", "--json-logs", "--json", "--max-batch-tokens", "64", "--cache", "none"]
    limits = ["--read-timeout", str(read_timeout), "--max-body", str(MAX_BODY), "--max-queue", "100000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "graphsurgery", *arguments, *limits], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), budgets.CACHE: str(folder.parent / "cache")},
    )  # fmt: skip
    made = Running(process, folder)
    try:
        made.read_log("listening at")
        made.port = int(made.lines[-1]["message"].split(",")[0].rpartition(":")[2])
        made.read_log("ready at")
        yield made
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Running]:
    with start(folder, READ_TIMEOUT) as made:
        yield made


@pytest.fixture
def ending(folder: Path) -> Iterator[Running]:
    """A process of its own for a test that ends it: the other tests may run before it, after it, or elsewhere."""
    with start(folder) as made:
        yield made


# --- a process -------------------------------------------------------------------------------------------------------------


def test_it_answers(running: Running) -> None:
    texts = ["the cat sat", "a vector of length one"]
    status, vectors = running.ask("POST", "/embed", {"inputs": texts})
    assert status == 200 and np.array_equal(np.float32(vectors), graphsurgery.Embedder(running.folder).encode(texts))
    assert [running.ask("GET", path)[0] for path in ("/ready", "/health", "/info", "/docs", "/nothing")] == [200] * 4 + [404]
    assert b'te_request_success{method="batch"} 1.0' in running.ask("GET", "/metrics")[1]
    running.read_log("request")
    assert running.lines[-1]["path"] == "/embed" and running.lines[-1]["status"] == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", b""),
        (b"POST /embed HTTP/1.1\r\nHost: a\r\nConte", b"408"),
        (b"GET /health HTTP/1.1\r\nHost: a\r\n\r\nGET /he", b"200"),
        (b"GET /health HTTP/1.1\r\nHost: " + b"a" * 70_000, b"431"),
        (b"GET /health HTTP/1.1\r\n" + b"Name: value\r\n" * 10_000 + b"\r\n", b"431"),
        (BEGIN + b"Content-Length: 50\r\n\r\n{", b"408"),
        (BEGIN + b"Content-Length: 50000\r\n\r\n" + b"x" * 50_000, b"413"),
        (BEGIN + b"Transfer-Encoding: chunked\r\n\r\n4000\r\n" + b"x" * 0x4000 + b"\r\n0\r\n\r\n", b"413"),
        (BEGIN + b"Content-Length: -1\r\n\r\n", b"400"),
        (b"nothing that HTTP knows\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", b"200"),
    ],
    ids=["nothing", "half a head", "half a second head", "a long header", "many headers", "half a body", "too large", "chunked",
         "negative", "garbage", "fine"],
)  # fmt: skip
def test_hostile_senders_are_answered_and_closed(running: Running, sent: bytes, status: bytes) -> None:
    assert running.send(sent).split()[1:2] == [status] * bool(status)
    assert running.ask("GET", "/health")[0] == 200


def load(running: Running, number: int, found: list[int]) -> None:
    """Ask without a pause, until the service closes the connection or refuses."""
    connection = running.connect()
    for turn in range(100_000):
        texts = [f"cat {number} {turn} {one}" for one in range(20)]
        try:
            connection.request("POST", "/embed", json.dumps({"inputs": texts}))
            answer = connection.getresponse()
        except (ConnectionError, http.client.RemoteDisconnected):
            return
        content = json.loads(answer.read())
        found.append(answer.status if answer.status != 200 or len(content) == len(texts) else 0)
        if answer.status != 200 or answer.headers.get("connection") == "close":
            return


def test_it_ends_when_what_is_in_flight_is_answered(ending: Running) -> None:
    """After SIGTERM a connection may be closed between two requests. What the service has answered has reached its client."""
    found: list[int] = []
    clients = [threading.Thread(target=load, args=(ending, number, found)) for number in range(16)]
    for one in clients:
        one.start()
    while len(found) < 50:
        time.sleep(0.01)
    ending.process.send_signal(signal.SIGTERM)
    printed, log = ending.process.communicate(timeout=60)
    for one in clients:
        one.join()
    ended = json.loads(printed)
    assert ending.process.returncode == 0 and '"ended"' in log, log
    assert set(found) <= {200, 503} and found.count(503) <= len(clients)
    assert ended["unanswered"] == 0 and ended["requests"] == found.count(200)


# --- how it starts and ends, in the tests' own process ---------------------------------------------------------------------


@pytest.mark.usefixtures("own_logs")
def test_a_port_that_is_taken_is_told_before_the_model_is_read() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken, pytest.raises(SurroundingsError, match="cannot listen"):
        serve("there is no such folder", ServeSettings(port=taken.getsockname()[1]))


def test_an_answer_does_not_wait_for_the_acknowledgement_of_its_head() -> None:
    """Connections to the service have TCP_NODELAY."""

    async def accept() -> int:
        option: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def read_option(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            option.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with listen(ServeSettings(port=0)) as listener:
            async with await asyncio.start_server(read_option, sock=listener):
                with closing(socket.create_connection(listener.getsockname())):
                    return await asyncio.wait_for(option, 10)

    assert asyncio.run(accept())


def test_several_workers_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", "folder", "--workers", "4"]) == WRONG
    assert "one process" in capsys.readouterr().err


class Death(BaseException):
    pass


@pytest.mark.usefixtures("own_logs")
@pytest.mark.parametrize("dies", ["warm_up", "run"])
def test_it_ends_with_a_code_of_its_own_if_the_engine_dies(dies: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise RuntimeError if dies == "warm_up" else Death

    async def ask_and_die(process: server.Process) -> None:
        await warm_up(process)
        if dies == "run":
            monkeypatch.setattr(TextTower, "run", die)
            assert (await process.service.answer("text", ["a"])).answers[0].error is not None

    warm_up = server.Process._warm_up
    monkeypatch.setattr(server.Process, "_warm_up", ask_and_die)
    if dies == "warm_up":
        monkeypatch.setattr(TextTower, "warm_up", die)
    ended = serve(folder, ServeSettings(port=0, max_batch_tokens=64))
    assert ended.code == server.DIED and isinstance(ended, Served)


@pytest.mark.usefixtures("own_logs")
@pytest.mark.parametrize("signals", [1, 2])
def test_an_input_that_hangs_is_not_waited_for_longer_than_stated(
    signals: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one signal for as long as `drain`, with a second one not at all."""
    gate = threading.Event()

    async def hang_and_end(process: server.Process) -> None:
        await warm_up(process)
        monkeypatch.setattr(TextTower, "run", lambda *_: gate.wait(30))
        tasks.append(asyncio.create_task(process.service.answer("text", ["a"])))
        await asyncio.sleep(0.05)
        for _ in range(signals):
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(0.01)

    def exit_here(process: server.Process, code: int) -> None:
        exits.append((code, process.service.inside))
        process.server.force_exit = True

    tasks: list[asyncio.Task[Any]] = []
    exits: list[tuple[int, int]] = []
    warm_up = server.Process._warm_up
    monkeypatch.setattr(server.Process, "_warm_up", hang_and_end)
    monkeypatch.setattr(server.Process, "_exit", exit_here)
    monkeypatch.setattr(server, "LAST", 0.05)
    ended = serve(folder, ServeSettings(port=0, max_batch_tokens=64, drain=0.1 if signals == 1 else 1000))
    gate.set()
    assert exits[0] == (server.UNANSWERED, 1) and ended.unanswered == 1 and ended.warnings
