"""Services in the tests' own process: towers behind the real routes, asked without a socket."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from baked_folders import put_json
from conftest import FIXTURES
from starlette.testclient import TestClient

import graphsurgery
from graphsurgery import Embedder
from graphsurgery.serving.app import ShortWay, make_app
from graphsurgery.serving.guards import guard
from graphsurgery.serving.service import Service
from graphsurgery.serving.settings import ServeSettings
from graphsurgery.serving.text_tower import TextTower
from graphsurgery.serving.towers import Facts, Prepared, TextOptions, Tower

BUDGET = 256
PROMPTS = {"query": "find: ", "passage": ""}


def bake_fixture(folder: Path) -> Path:
    """Return the baked fixture of BERT, with prompts."""
    shutil.copytree(FIXTURES / "bert", folder)
    put_json(folder / "config_sentence_transformers.json", {"prompts": PROMPTS})
    return graphsurgery.bake(folder, verify=False).folder


@dataclass
class MadeTower:
    """A tower whose rows a function computes from the input itself."""

    kind: str
    compute: Callable[[Any], Sequence[float]]
    facts: Facts
    budget: int = BUDGET
    is_padded: bool = False
    most_at_once: int = 1

    @property
    def width(self) -> int:
        return self.facts.dims

    @property
    def identity(self) -> str:
        return f"made {self.kind}"

    def prepare(self, inputs: Sequence[Any], options: TextOptions) -> list[Prepared | graphsurgery.GraphSurgeryError]:
        return [Prepared(one, 1, tokens=1) for one in inputs]

    def run(self, inputs: Sequence[Prepared]) -> np.ndarray:
        return np.array([self.compute(one.content) for one in inputs], dtype=np.float32)

    def warm_up(self) -> None:
        return None


def make_tower(kind: str, compute: Callable[[Any], Sequence[float]], dims: int, **facts: Any) -> MadeTower:
    return MadeTower(kind, compute, Facts(f"/models/made-{kind}/onnx/model.onnx", "0" * 64, dims, **facts))


@contextmanager
def serve(*towers: Tower, **settings: Any) -> Iterator[TestClient]:
    """Serve towers to a client that sees what a socket would carry."""
    chosen = ServeSettings(**settings)
    service = Service({one.kind: one for one in towers}, chosen)
    with TestClient(ShortWay(make_app(service, chosen), chosen), raise_server_exceptions=False) as client:
        client.portal.call(service.start)
        yield client
        client.portal.call(service.stop)


@contextmanager
def listen(*towers: Tower, **settings: Any) -> Iterator[str]:
    """Serve towers behind their guards on a free port of this machine, and yield the address."""
    chosen = ServeSettings(**settings)
    service = Service({one.kind: one for one in towers}, chosen)
    app = guard(ShortWay(make_app(service, chosen), chosen), service, chosen)
    config = uvicorn.Config(app, port=0, http="httptools", log_level="warning", lifespan="off")
    server = uvicorn.Server(config)

    async def run() -> None:
        await service.start()
        await server.serve()
        await service.stop()

    thread = threading.Thread(target=asyncio.run, args=(run(),), daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
        assert thread.is_alive()
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def open_text_tower(folder: Path) -> TextTower:
    return TextTower(Embedder(folder, max_batch_tokens=BUDGET))
