"""The client of benchmarks/serve.py notices every answer that is wrong, refused or missing, or its zeros would mean nothing."""

from __future__ import annotations

import asyncio
import itertools
import sys
import threading
from collections.abc import Iterator

import numpy as np
import orjson
import pytest
from conftest import ROOT

sys.path.append(str(ROOT / "benchmarks"))
from load.client import Load, make_request, run_load
from load.reports import Measured, list_wrong

VECTOR = np.array([[0.25, -0.5, 1 / 3]], np.float32)
BODIES = {
    "right": VECTOR, "last bit": np.nextafter(VECTOR, np.float32(1)), "wrong": -VECTOR, "not a number": VECTOR * np.nan,
    "another shape": VECTOR[:, :2],
}  # fmt: skip


def write(status: str, body: bytes, *headers: str) -> bytes:
    return "\r\n".join((f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", "")).encode() + body


ANSWERS: dict[str, bytes | None] = {name: write("200 OK", orjson.dumps(one.tolist())) for name, one in BODIES.items()}
ANSWERS["refused"] = write("429 Too Many Requests", b"{}", "Retry-After: 0")
ANSWERS["refused without a word"] = write("429 Too Many Requests", b"{}")
ANSWERS["error"] = write("500 Internal Server Error", b"oh")
ANSWERS["half"] = ANSWERS["right"][:-3]
ANSWERS["nothing"] = None


@pytest.fixture
def port() -> Iterator[int]:
    """The port of a server that gives each answer in turn, and closes the connection behind those that are not whole."""
    loop, turn = asyncio.new_event_loop(), itertools.cycle(ANSWERS.items())

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65_536):
            name, answer = next(turn)
            writer.write(answer or b"")
            if name in ("half", "nothing"):
                break
        writer.close()

    server = loop.run_until_complete(asyncio.start_server(talk, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield server.sockets[0].getsockname()[1]
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


def test_every_answer_is_judged(port: int) -> None:
    load = run_load(port, [make_request(["text"], VECTOR)], connections=1, seconds=1.2, warm_up=0)
    turns = load.refused // 2
    assert turns > 1 and load.sent == load.answered + load.refused + load.other + load.lost
    for count, share in (
        (load.answered, 5),
        (load.wrong, 3),
        (load.inexact, 1),
        (load.other, 1),
        (load.lost, 2),
        (load.told, 1),
    ):
        assert share * (turns - 1) <= count <= share * (turns + 1)  # the last turn may end anywhere
    assert 0 < len(load.latencies) <= load.answered


def test_what_went_wrong_is_told() -> None:
    good = Load(seconds=1, latencies=[0.1], texts=1, sent=3, answered=2, refused=1, told=1)
    assert list_wrong([Measured.of("block", "good", [good])]) == []
    for fault in ({"wrong": 1}, {"lost": 1}, {"other": 1}, {"sent": 4}, {"told": 0}, {"answered": 0, "refused": 3, "told": 3}):
        assert list_wrong([Measured.of("block", "bad", [Load(**vars(good) | fault)])]), fault
