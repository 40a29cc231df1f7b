"""What the tests share: where fixtures and the third-party corpus are, and copies of them to work on."""

from __future__ import annotations

import gc
import hashlib
import importlib
import logging
import os
import pickle
import shutil
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
SIDE_BY_SIDE = "PYTEST_XDIST_WORKER" in os.environ
"""Whether these tests run beside those of another worker."""
if SIDE_BY_SIDE:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before PyTorch is imported
os.environ.pop("COLUMNS", None)
importlib.import_module("graphsurgery.cli.console")  # rich reads COLUMNS here once, so a test that sets it comes later
gc.set_threshold(100_000, 10, 10)  # graphs are many small objects: the usual 700 cost a tenth of all time
ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "fixtures"
CORPUS = ROOT.parent / "shared" / "corpus"
LARGEST_KEPT, MOST_KEPT = 4 << 20, 64
"""Models of up to so many bytes, and so many of them, are kept by `loaded_once`."""
NO_CORPUS = "the third-party models (../shared/corpus) are not on this machine"


def fixture_names() -> list[str]:
    """The committed fixtures."""
    return sorted(path.parent.name for path in FIXTURES.glob("*/model.onnx"))


def corpus_models() -> list[Path]:
    """Every third-party model, or none where the corpus is absent."""
    return sorted(CORPUS.glob("*/*.onnx"))


def corpus_params() -> list[object]:
    """The third-party models as parameters; one skipped parameter that says why where the corpus is absent."""
    found = [pytest.param(path, id=f"{path.parent.name}/{path.name}") for path in corpus_models()]
    return found or [pytest.param(None, marks=pytest.mark.skip(reason=NO_CORPUS))]


@pytest.fixture(scope="session", autouse=True)
def one_thread_each() -> Iterator[None]:
    """Sessions have one thread where tests run side by side. With a thread for each core, half the time went into waiting."""
    with pytest.MonkeyPatch.context() as patch:
        if SIDE_BY_SIDE:
            patch.setattr("graphsurgery.runtime.session.THREADS", 1)
        yield


@pytest.fixture(scope="session", autouse=True)
def usual_texts() -> Iterator[None]:
    """Proofs go to 128 tokens where the model sets no limit and has no window. tests/peers go as far as a user's proof."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("graphsurgery.runtime.reach.UNLIMITED", 128)
        yield


@pytest.fixture(scope="session", autouse=True)
def no_wait_for_the_disk() -> Iterator[None]:
    """Files need not survive a crash of the machine. tests/test_atomic_save.py looks at fsync in processes of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def loaded_once() -> Iterator[Callable[..., Any]]:
    """A small model is loaded once in each process, and what is found of it is kept with it.

    A file counts as the same as long as the system says so. Of models with data files, only committed and third-party ones are
    kept: the system does not say whether such a file has changed.
    """
    from graphsurgery.model import loading
    from graphsurgery.model.sources import FileBytes

    load_source, kept = loading._load_source, OrderedDict[Any, Any]()

    def load_once(source: Any, path: Path | None, folder: Path | None) -> Any:
        if source.size > LARGEST_KEPT:
            return load_source(source, path, folder)
        content = source.identity if isinstance(source, FileBytes) else source.read(0, source.size)
        key = (path, folder, content)
        if key in kept:
            kept.move_to_end(key)
            return kept[key]
        model = load_source(source, path, folder)
        if not model.files or (path is not None and (path.is_relative_to(FIXTURES) or path.is_relative_to(CORPUS))):
            kept[key] = model
        while len(kept) > MOST_KEPT:
            kept.popitem(last=False)
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "_load_source", load_once)
        yield load_source


@pytest.fixture(scope="module")
def loaded_anew(loaded_once: Callable[..., Any]) -> Iterator[None]:
    """Models are loaded whenever they are asked for: for a module about loading, finding, or how much is done."""
    from graphsurgery.model import loading

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "_load_source", loaded_once)
        yield


FEW = {"SEEDS": 1, "MANY": 32}
"""Numbers of feeds in graphsurgery/proof/head_cases.py, smaller than there."""


@pytest.fixture(scope="session", autouse=True)
def few_feeds() -> Iterator[dict[str, int]]:
    """Heads are proven on fewer feeds than a user's. `all_feeds` is for tests of what these find. Gives the user's numbers."""
    from graphsurgery.proof import head_cases

    usual = {name: getattr(head_cases, name) for name in FEW}
    with pytest.MonkeyPatch.context() as patch:
        for name, number in FEW.items():
            patch.setattr(head_cases, name, number)
        yield usual


@pytest.fixture(scope="module")
def all_feeds(few_feeds: dict[str, int]) -> Iterator[None]:
    """For a module about what proofs find: every feed of a user's proof of a head, and texts of up to 512 tokens."""
    from graphsurgery.proof import head_cases

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("graphsurgery.runtime.reach.UNLIMITED", 512)
        for name, number in few_feeds.items():
            patch.setattr(head_cases, name, number)
        yield


@pytest.fixture
def medium_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proofs go to 512 tokens where the model sets no limit."""
    monkeypatch.setattr("graphsurgery.runtime.reach.UNLIMITED", 512)


@pytest.fixture
def full_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts are as long as in a user's proof."""
    monkeypatch.setattr("graphsurgery.runtime.reach.UNLIMITED", 2048)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of a run of tests share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if SIDE_BY_SIDE else base


@pytest.fixture(scope="session", autouse=True)
def remembered_optimizer(shared_folder: Path) -> Iterator[None]:
    """The optimizer runs once for each graph, for all workers: most tests are about what is done with its result."""
    import onnx

    from graphsurgery.rewrites import fuse_encoder
    from graphsurgery.rewrites.fuse.runner import Fused, Fusing, run_optimizer

    results = shared_folder / "optimized-once"
    results.mkdir(exist_ok=True)

    def run_once(model: onnx.ModelProto, fusing: Fusing) -> Fused:
        source = model.SerializeToString(deterministic=True)
        asked = (source, fusing.model_type, fusing.heads, fusing.hidden, sorted(fusing.off))
        path = results / hashlib.sha256(pickle.dumps(asked)).hexdigest()
        if not path.exists():
            result = run_optimizer(model, fusing)
            own = path.with_suffix(f".{os.getpid()}")
            own.write_bytes(pickle.dumps((result.model.SerializeToString(), result.warnings, result.shape_failure)))
            own.replace(path)  # another worker may have been as quick
            return result
        made, *others = pickle.loads(path.read_bytes())
        return Fused(onnx.ModelProto.FromString(made), *others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fuse_encoder, "run_optimizer", run_once)
        yield


@pytest.fixture(scope="session", autouse=True)
def first_runs_here() -> Iterator[None]:
    """A new file first runs in this process, where a user's runs in a process of its own, in case it crashes."""
    from graphsurgery.proof import rewrite_proof
    from graphsurgery.runtime.own_process import run_feeds

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rewrite_proof, "find_crash", lambda model, feeds: run_feeds(str(model), feeds))
        yield


@pytest.fixture
def optimizer_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The optimizer runs whenever it is asked to, and a new file in a process of its own, for tests that are about this."""
    from graphsurgery.proof import rewrite_proof
    from graphsurgery.rewrites import fuse_encoder
    from graphsurgery.rewrites.fuse.runner import run_optimizer
    from graphsurgery.runtime.own_process import find_crash

    monkeypatch.setattr(fuse_encoder, "run_optimizer", run_optimizer)
    monkeypatch.setattr(rewrite_proof, "find_crash", find_crash)


@pytest.fixture
def own_logs() -> Iterator[None]:
    """Gives the loggers back as they were: a service in the tests' process takes them."""
    from graphsurgery.serving.logs import LIBRARIES, NAME

    loggers = [logging.getLogger(name) for name in (NAME, *LIBRARIES)]
    before = [(list(one.handlers), one.propagate, one.level) for one in loggers]
    yield
    for one, state in zip(loggers, before, strict=True):
        one.handlers, one.propagate, one.level = state


@pytest.fixture
def short_services(monkeypatch: pytest.MonkeyPatch, own_logs: None) -> None:
    """Services end as soon as they are ready."""
    from graphsurgery.serving.server import Process

    async def warm_up_and_end(process: Process) -> None:
        await warm_up(process)
        process._end()

    warm_up = Process._warm_up
    monkeypatch.setattr(Process, "_warm_up", warm_up_and_end)


@pytest.fixture
def fixture_copy(tmp_path: Path):
    """Copies a committed fixture's folder to a temporary one; gives the path of its model."""

    def copy(name: str) -> Path:
        folder = tmp_path / name
        shutil.copytree(FIXTURES / name, folder)
        return folder / "model.onnx"

    return copy


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-cases", action="store_true", help="write what the golden cases give now into their files")
