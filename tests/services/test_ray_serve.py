"""deploy --for ray: Ray Serve runs the program that is written, with the routes and the vectors of the service."""

from __future__ import annotations

import runpy
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import ray
from conftest import FIXTURES
from ray import serve

import graphsurgery
from graphsurgery.deploying.deploy import deploy
from graphsurgery.embedding.ray_engine import import_ray

TEXTS = ["the cat sat", "a vector of length one", "zebra"]
CLOSE = 1e-6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("ray-serve") / "my-model"
    shutil.copytree(FIXTURES / "bert", source)
    return graphsurgery.bake(source, verify=False).folder


@pytest.fixture(scope="module")
def address(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    done = deploy(folder, "ray", output=tmp_path_factory.mktemp("ray-program"), processors=1)
    program = runpy.run_path(str(done.folder / "my_model_baked_service.py"))
    import_ray()
    ray.init(address="local", num_cpus=3, include_dashboard=False, object_store_memory=100 << 20, log_to_driver=False)
    try:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(program["app"], name="tested")
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()


def test_the_vectors_are_those_of_the_embedder(address: str, folder: Path) -> None:
    found = httpx.post(f"{address}/embed", json={"inputs": TEXTS})
    assert found.status_code == 200, found.text
    np.testing.assert_allclose(found.json(), graphsurgery.Embedder(folder).encode(TEXTS), atol=CLOSE)


def test_the_guards_are_there(address: str) -> None:
    refused = httpx.post(f"{address}/embed", content=b"{")
    assert 400 <= refused.status_code < 500 and refused.headers["x-request-id"]
    assert httpx.get(f"{address}/ready").status_code == 200
    assert "te_request_count" in httpx.get(f"{address}/metrics").text
