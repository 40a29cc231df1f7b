"""One model, many threads: what they read and make is what one thread alone would."""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event, Thread

import numpy as np
import onnx
import pytest
from conftest import FIXTURES
from encoders import tiny_encoder
from fusions import WITHOUT_OPTIMIZER, WITHOUT_SYMPY
from onnx import numpy_helper
from onnx_graphsurgeon.logger import G_LOGGER

import graphsurgery
from graphsurgery.encoder.flow import Flow
from graphsurgery.errors import SurroundingsError
from graphsurgery.graph.graph import Graph
from graphsurgery.model.draft import Draft
from graphsurgery.model.records import Document
from graphsurgery.model.sources import WINDOW, FileBytes

THREADS = 8
BERT = FIXTURES / "bert" / "model.onnx"


@pytest.fixture(autouse=True)
def switching_often() -> Iterator[None]:
    """Threads take turns a thousand times as often as usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(work: Callable[[int], object]) -> list[object]:
    """What ``work`` gives for 0, 1, ..., each in a thread of its own, all started at once."""
    start = Barrier(THREADS)

    def started(number: int) -> object:
        start.wait()
        return work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(started, range(THREADS)))


def test_reads_of_one_file(tmp_path: Path) -> None:
    """Small reads all over a file of several windows: each gives the bytes that are there."""
    data = random.Random(0).randbytes(8 * WINDOW)
    (tmp_path / "data").write_bytes(data)
    source = FileBytes(tmp_path / "data")

    def wrong(seed: int) -> int:
        drawn = random.Random(seed)
        places = [(drawn.randrange(len(data) - 64), drawn.randrange(64)) for _ in range(50_000)]
        return sum(source.read(start, length) != data[start : start + length] for start, length in places)

    assert in_threads(wrong) == [0] * THREADS


def test_one_model_inspected_and_read() -> None:
    """Interface, fingerprints, findings and every weight are the same in each thread."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(BERT).graph.initializer}
    wanted = graphsurgery.load(BERT)
    model = graphsurgery.load(BERT)

    def same(seed: int) -> bool:
        names = random.Random(seed).sample(sorted(stored), len(stored))
        kept = all(np.array_equal(model.values(model.initializers[name]), stored[name]) for name in names)
        prints = (model.fingerprint, model.weights_fingerprint()) == (wanted.fingerprint, wanted.weights_fingerprint())
        found = graphsurgery.inspect(model).to_json() == graphsurgery.inspect(BERT).to_json()
        return kept and prints and found and model.interface == wanted.interface

    assert all(in_threads(same))


def test_one_graph_for_all_threads() -> None:
    """What is kept about the values of a graph must be about the graph that everybody gets."""
    for _ in range(10):
        model = graphsurgery.load(BERT)
        assert all(in_threads(lambda _, model=model: Flow.of(model).graph is Graph.of(model)))  # type: ignore[misc]


def with_constants(model: graphsurgery.Model, seed: int) -> Document:
    """The model with constants of different lengths and types as further outputs, each large enough to be a payload."""
    draft = Draft(model)
    for number in range(20):
        kind = (np.float32, np.int64, np.float64)[(seed + number) % 3]
        made = draft.constant(np.full(400 + 10 * seed + number, seed, dtype=kind), f"constant_{number}")
        draft.graph.outputs.append(made)
        made.dtype, made.shape = kind, None
    return draft.finish()


def test_one_model_edited() -> None:
    """Threads that edit one model get the file that each would alone: no payload of one ends up in the other's."""
    wanted = [b"".join(content(with_constants(graphsurgery.load(tiny_encoder()), seed))) for seed in range(THREADS)]
    model = graphsurgery.load(tiny_encoder())
    for _ in range(5):
        documents = in_threads(lambda seed: with_constants(model, seed))
        for made, alone in zip(documents, wanted, strict=True):
            assert b"".join(content(made)) == alone
            tensors = [node.attribute[0].t for node in made.proto.graph.node[-20:]]
            spans = [made.payloads.find(tensor) for tensor in tensors]
            assert [span and span.data_type for span in spans] == [tensor.data_type for tensor in tensors]
            stored = [node.attribute[0].t.raw_data for node in onnx.load_from_string(alone).graph.node[-20:]]
            assert [span and span.read() for span in spans] == stored


def content(document: Document) -> Iterator[bytes]:
    """The document's bytes, payloads read from where they lie."""
    for chunk in document.chunks():
        yield chunk if isinstance(chunk, bytes) else chunk.read()


def test_the_logger_of_onnx_graphsurgeon_is_as_before() -> None:
    """It is silenced while a graph is imported, for the whole process: threads must not leave it so."""
    before = G_LOGGER.severity
    model = graphsurgery.load(tiny_encoder())
    in_threads(lambda _: [Draft(model) for _ in range(20)])
    assert G_LOGGER.severity == before


def test_a_read_that_the_system_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails while a model is read is a known error, with the file's name."""

    def failing(*_: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("graphsurgery.model.sources.os.pread", failing)
    with pytest.raises(SurroundingsError, match=r"cannot read .*model\.onnx at byte 0: Input/output error"):
        graphsurgery.load(BERT)


def surroundings() -> tuple[object, ...]:
    """What the whole process shares."""
    root = logging.getLogger()
    return Path.cwd(), sys.stdout, sys.stderr, sys.path[:], root.handlers[:], root.level


@pytest.mark.usefixtures("short_texts", "optimizer_each_time")
def test_eight_models_optimized_at_once(tmp_path: Path) -> None:
    """The files are those that are made one after the other, and nobody else in the process notices."""
    pytest.importorskip("sympy", reason=WITHOUT_SYMPY)
    pytest.importorskip("onnxruntime.transformers", reason=WITHOUT_OPTIMIZER)
    pooled = graphsurgery.add_pooling(BERT, mode="mean", normalize=True)
    graphsurgery.save(pooled, tmp_path / "pooled.onnx")
    names = ("bert", "bert-external", "bert-fp16", "modernbert", "qwen3", "t5", "xlmr")
    sources = [tmp_path / "pooled.onnx", *(FIXTURES / name / "model.onnx" for name in names)]

    def optimize(number: int, folder: Path, verify: bool) -> tuple[bytes, dict[str, object]]:
        done = graphsurgery.optimize(sources[number], output=folder / f"{number}.onnx", time=False, verify=verify)
        assert done.report or not verify
        assert done.fusions is not None
        return done.output.read_bytes(), done.fusions.to_json()

    for folder in ("alone", "at once"):
        (tmp_path / folder).mkdir()
    wanted = [optimize(number, tmp_path / "alone", verify=False) for number in range(THREADS)]
    before, seen, finished = surroundings(), [], Event()

    def watch() -> None:
        while not finished.wait(0.001):
            seen.append(surroundings() == before)

    watcher = Thread(target=watch)
    watcher.start()
    try:
        made = in_threads(lambda number: optimize(number, tmp_path / "at once", verify=True))
    finally:
        finished.set()
        watcher.join()
    assert made == wanted and len({content for content, _ in wanted}) == THREADS
    assert len(seen) > 100 and all(seen)
