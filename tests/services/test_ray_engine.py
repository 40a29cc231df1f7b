"""embed --engine ray: the bytes of one process, on any number of workers; what stops it is told, and it never hangs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from conftest import FIXTURES, ROOT

import graphsurgery
from graphsurgery import embed_file
from graphsurgery.embedding import embed_file as module
from graphsurgery.embedding import ray_engine
from graphsurgery.errors import RequestError, SurroundingsError

PART, ROWS, BAD = 16, 200, 150
PROCESSORS = 3
"""As Ray counts them: two workers of one thread, and one for Ray's own tasks."""


@pytest.fixture(scope="module")
def baked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ray") / "bert"
    shutil.copytree(FIXTURES / "bert", folder)
    return graphsurgery.bake(folder, verify=False).folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One Ray for all tests, because starting it takes some seconds."""
    ray_engine.import_ray()
    ray.init(address="local", num_cpus=PROCESSORS, include_dashboard=False, object_store_memory=200 << 20, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART_ROWS", PART)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Rows with ids, and one without a text."""
    path = tmp_path / "in.jsonl"
    rows = [{"id": f"r{place}", "text": "" if place == BAD else f"text {place} " * (1 + place % 5)} for place in range(ROWS)]
    path.write_text("".join(f"{json.dumps(one)}\n" for one in rows), encoding="utf-8")
    return path


def embed(texts: Path, baked: Path, name: str, **given: Any) -> Any:
    return embed_file(texts, baked, output=texts.with_name(name), **{"on_error": "skip", "id_column": "id"} | given)


def test_nothing_goes_on_after_an_error(baked: Path, texts: Path) -> None:
    """Ray Data's threads would start a new Ray as soon as they ask for something, if they outlived the one of the run.

    It comes first: the other tests share a Ray that is not the run's own.
    """
    assert not ray.is_initialized()
    with pytest.raises(RequestError, match=f"row {BAD}"):
        embed(texts, baked, "out.parquet", engine="ray", workers=1, on_error="raise")
    for _ in range(30):
        assert not ray.is_initialized()
        time.sleep(0.1)
    assert not [one for one in threading.enumerate() if one.name == ray_engine.READER]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_bytes_of_one_process(workers: int, cluster: None, baked: Path, texts: Path) -> None:
    before = ray.data.DataContext.get_current().execution_options.preserve_order
    alone = embed(texts, baked, "alone.parquet")
    done = embed(texts, baked, "ray.parquet", engine="ray", workers=workers)
    assert texts.with_name("ray.parquet").read_bytes() == texts.with_name("alone.parquet").read_bytes()
    assert done.errors == alone.errors and list(done.errors) == [BAD]
    assert (done.rows, done.dims, done.tokens, done.cut, done.resumed) == (ROWS, 32, alone.tokens, alone.cut, 0)
    assert ray.data.DataContext.get_current().execution_options.preserve_order == before
    assert ray.is_initialized()  # it was not ours to end


def test_it_goes_on_with_the_parts_of_one_process(cluster: None, baked: Path, texts: Path) -> None:
    with pytest.raises(RequestError) as alone:
        embed(texts, baked, "out.parquet", on_error="raise")
    kept = BAD // PART * PART
    with pytest.raises(RequestError, match=f"row {BAD} .id 'r{BAD}'.: the text is empty") as on_ray:
        embed(texts, baked, "out.parquet", on_error="raise", engine="ray", workers=2)
    assert str(on_ray.value) == str(alone.value) and on_ray.value.advice == alone.value.advice
    done = embed(texts, baked, "out.parquet", engine="ray")  # skips the row
    assert done.resumed >= kept and done.rows == ROWS
    embed(texts, baked, "whole.parquet")
    assert texts.with_name("out.parquet").read_bytes() == texts.with_name("whole.parquet").read_bytes()


def test_what_does_not_fit_is_refused(cluster: None, baked: Path, texts: Path) -> None:
    with pytest.raises(RequestError, match=r"3 workers of 1 threads do not fit into the Ray cluster, which has 3 processors"):
        embed(texts, baked, "out.parquet", engine="ray", workers=3)
    with pytest.raises(RequestError, match="1 workers of 3 threads do not fit"):
        embed(texts, baked, "out.parquet", engine="ray", threads=3)


def test_workers_that_get_no_processor_are_noticed(cluster: None, baked: Path, texts: Path, monkeypatch) -> None:
    """Others hold all processors: Ray itself would wait for them for ever."""

    @ray.remote(num_cpus=PROCESSORS)
    class Greedy:
        def is_there(self) -> bool:
            return True

    greedy = Greedy.remote()
    assert ray.get(greedy.is_there.remote())
    monkeypatch.setattr(ray_engine, "PATIENCE", 2.0)
    try:
        with pytest.raises(SurroundingsError, match="no worker of Ray has done anything for 2 seconds") as caught:
            embed(texts, baked, "out.parquet", engine="ray", workers=1)
        assert "ray status" in caught.value.advice
    finally:
        ray.kill(greedy)


def test_workers_that_die_again_and_again(cluster: None, baked: Path, texts: Path, monkeypatch) -> None:
    class Dying(ray_engine._Worker):
        def __call__(self, block: Any) -> Any:
            os._exit(1)

    monkeypatch.setattr(ray_engine, "_Worker", Dying)
    with pytest.raises(SurroundingsError, match=r"Ray's workers die: they were started \d+ times|Ray could not go on"):
        embed(texts, baked, "out.parquet", engine="ray", workers=1)


def test_a_worker_with_another_model(cluster: None, baked: Path, texts: Path, monkeypatch) -> None:
    """As on another machine, where other files or packages lie at the same path."""
    make = ray_engine._Plan.of

    def of(*given: Any) -> Any:
        plan = make(*given)
        plan.identity["tokenizer_sha256"] = "0"
        return plan

    monkeypatch.setattr(ray_engine._Plan, "of", of)
    with pytest.raises(SurroundingsError, match="a worker would make other vectors: tokenizer_sha256 is '"):
        embed(texts, baked, "out.parquet", engine="ray", workers=1)


PROGRAM = f"""
import sys
from graphsurgery.cli.main import main
from graphsurgery.embedding import embed_file
embed_file.PART_ROWS = {PART}
main(["embed", *sys.argv[1:], "--engine", "ray", "--workers", "2", "--json"])
"""


def test_a_killed_run_of_the_command_line(baked: Path, tmp_path: Path) -> None:
    """It starts a Ray of its own. SIGKILL while the parts are made, then the same command to its end."""
    path, out = tmp_path / "in.txt", tmp_path / "out.npy"
    path.write_text("".join(f"number {place} of many\n" for place in range(2000)), encoding="utf-8")
    embed_file(path, baked, output=tmp_path / "whole.npy")
    command = [sys.executable, "-c", PROGRAM, str(path), "--model", str(baked), "-o", str(out)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        first = tmp_path / "out.npy.parts" / "000000.parquet"
        while not first.exists() and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL and not out.exists()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["resumed"] >= PART
    assert out.read_bytes() == (tmp_path / "whole.npy").read_bytes()
