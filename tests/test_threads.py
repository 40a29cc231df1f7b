"""One model, many threads: what they read and make is what one thread alone would."""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event, Thread
from time import sleep

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
from graphsurgery.runtime import parallel
from graphsurgery.runtime.devices import CPU, Device
from graphsurgery.runtime.parallel import MANY, ParallelSession
from graphsurgery.runtime.session import Runner, Session

pytestmark = pytest.mark.usefixtures("loaded_anew")
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


@pytest.mark.usefixtures("optimizer_each_time")
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


# --- runs on all threads, and many runs at once -----------------------------------------------------------------------------


@pytest.fixture
def feeds() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    lengths = [3, 17, 5, 9] * 5
    return [
        {"input_ids": rng.integers(0, 50, (4, length)), "attention_mask": np.ones((4, length), np.int64),
         "token_type_ids": np.zeros((4, length), np.int64)}
        for length in lengths
    ]  # fmt: skip


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The threads of each session that a `ParallelSession` opens."""
    noted: list[int] = []
    open_session = parallel.open_session

    def open_and_note(model: graphsurgery.Model, *, threads: int, **options: object) -> Session:
        noted.append(threads)
        return open_session(model, threads=threads, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(parallel, "open_session", open_and_note)
    return noted


def test_many_runs_have_a_thread_each_and_the_bits_of_runs_on_all_threads(feeds, opened: list[int]) -> None:
    session = ParallelSession(graphsurgery.load(BERT), 2)
    first, running, most = session.run(feeds[0]), [0], [0]
    used = set()

    def run(one: Runner, feed: dict[str, np.ndarray]) -> np.ndarray:
        running[0] += 1
        most[0] = max(most[0], running[0])
        used.add(one)
        found = one.run(feed)["last_hidden_state"]
        running[0] -= 1
        return found

    few = list(session.run_each(run, feeds[: MANY * 2 - 1]))
    assert (opened, most, len(used)) == ([2], [1], 1)
    many = list(session.run_each(run, feeds))
    assert opened == [2, 1] and most[0] <= session.most == 2 and len(used) == 2
    assert [one.tobytes() for one in many[: len(few)]] == [one.tobytes() for one in few]
    assert [one.shape[1] for one in many] == [one["input_ids"].shape[1] for one in feeds]
    assert many[0].tobytes() == first["last_hidden_state"].tobytes()
    assert [one["last_hidden_state"].tobytes() for one in session.run_all(feeds)] == [one.tobytes() for one in many]
    assert opened == [2, 1]


def test_a_run_beside_another_has_one_thread_once_that_is_prepared(feeds, opened: list[int], monkeypatch) -> None:
    """Two runs at once: the second finds that the first goes on."""
    gate, entered, used = Event(), Event(), []
    run = Session.run

    def run_slowly(one: Session, feed: dict[str, np.ndarray], outputs: list[str] | None = None) -> dict[str, np.ndarray]:
        used.append(one)
        entered.set()
        gate.wait(20)
        return run(one, feed, outputs)

    monkeypatch.setattr(Session, "run", run_slowly)
    session = ParallelSession(graphsurgery.load(BERT), 2)

    def run_two() -> list[Session]:
        gate.clear()
        entered.clear()
        used.clear()
        with ThreadPoolExecutor(2) as pool:
            found = [pool.submit(session.run, feeds[0])]
            entered.wait(20)
            found.append(pool.submit(session.run, feeds[1]))
            while len(used) < 2:
                sleep(0.001)
            gate.set()
            for one in found:
                one.result()
        return list(used)

    wide, other = run_two()
    assert wide is other and opened == [2]
    session.prepare_for_many()
    assert opened == [2, 1]
    first, second = run_two()
    assert first is wide and second is not wide
    session.run(feeds[0])
    assert used[-1] is wide, "the runs before have ended"


@pytest.mark.parametrize(("threads", "limit", "device"), [(1, 1 << 29, CPU), (2, 10, CPU), (2, 1 << 29, Device(("CUDA",)))])
def test_a_model_is_opened_once_if_a_second_session_does_not_help(threads, limit, device, feeds, monkeypatch) -> None:
    """With one thread there is nothing to divide, a large model would take its memory twice, and a GPU has its own threads."""
    monkeypatch.setattr(parallel, "LARGEST_TWICE", limit)
    monkeypatch.setattr(parallel, "open_session", lambda model, *, threads, device: Session(BERT, threads=threads))
    session = ParallelSession(graphsurgery.load(BERT), threads, device)
    assert session.most == 1
    used = set(session.run_each(lambda one, _: one, feeds))
    session.prepare_for_many()
    assert len(used | set(session.run_each(lambda one, _: one, feeds))) == 1


def test_a_run_of_many_that_fails_is_told_and_ends_the_others(feeds) -> None:
    session, done = ParallelSession(graphsurgery.load(BERT), 2), []

    def run(one: Runner, feed: dict[str, np.ndarray]) -> None:
        if feed is feeds[1]:
            raise graphsurgery.errors.UnsupportedModelError("this one")
        sleep(0.005)
        done.append(feed)

    with pytest.raises(graphsurgery.errors.UnsupportedModelError, match="this one"):
        list(session.run_each(run, feeds))
    sleep(0.02)
    assert len(done) < len(feeds) - 1
