"""What the reference tests share: the real all-MiniLM-L6-v2, and the worst differences they saw, printed at the end."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import exports
import numpy as np
import pytest
from exports import OPSETS, export_bert, export_folder, make_on_request
from filelock import FileLock
from installed import HAS_OPTIMUM, LEFT_OUT, SAMPLED, choose_pairs

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "demo"))
collect_ignore = [] if HAS_OPTIMUM else [*LEFT_OUT]


@pytest.fixture(scope="session", autouse=True)
def usual_texts() -> None:
    """Replace the fixture of the torch-free tests: the proofs of reference tests go to the full length."""


@pytest.fixture
def short_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proofs go to 128 tokens where the model sets no limit and has no window, for tests that are not about long texts."""
    monkeypatch.setattr("graphsurgery.runtime.reach.UNLIMITED", 128)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what repeats pairs of parameters, and put the tests that take longest first."""
    if not HAS_OPTIMUM:
        leave_out_repeated_pairs(config, items)
    long = [item for item in items if "sentences" in getattr(item, "fixturenames", ())]
    items[:] = put_first(long, [item for item in items if item not in long])


def leave_out_repeated_pairs(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out of the files in `SAMPLED` the tests that repeat pairs of parameters."""
    tests: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.path.name in SAMPLED and hasattr(item, "callspec"):
            tests[f"{item.path}::{item.originalname}"].append(item)
    left_out = set(itertools.chain.from_iterable(tests.values()))
    for same in tests.values():
        left_out -= {same[place] for place in choose_pairs([one.callspec.params for one in same])}
    config.hook.pytest_deselected(items=[item for item in items if item in left_out])
    items[:] = [item for item in items if item not in left_out]


def put_first(long: Sequence[pytest.Item], others: Sequence[pytest.Item]) -> list[pytest.Item]:
    """Return all tests, with the ``long`` ones where two workers begin: at the start of either half of the list.

    A worker that meets a long one at the end lets the other wait.
    """
    files = [list(tests) for _, tests in itertools.groupby(long, key=lambda item: item.path)]
    first, second = (list(itertools.chain.from_iterable(files[start::2])) for start in (0, 1))
    split = max((len(long) + len(others)) // 2 - len(first), 0)
    return [*first, *others[:split], *second, *others[split:]]


@dataclass
class Worst:
    """The worst difference of every kind of comparison: (absolute, in units of what is allowed, how many vectors, where)."""

    rows: dict[str, tuple[float, float, int, str]] = field(default_factory=dict)

    def within(self, what: str, found: np.ndarray, expected: np.ndarray, allowed: np.ndarray | float, where: str = "") -> None:
        """Note how far ``found`` is from ``expected``, element by element, and fail where that is more than ``allowed``."""
        assert found.shape == expected.shape and found.size and np.isfinite(expected).all() and np.isfinite(found).all(), where
        difference = np.abs(found.astype(np.float64) - expected.astype(np.float64))
        share = float((difference / allowed).max())
        self.add(what, float(difference.max()), share, len(found), where)
        assert share <= 1, f"{what} {where}: {difference.max():.1e} apart, {share:.2f} of what is allowed"

    def add(self, what: str, difference: float, share: float, vectors: int, where: str) -> None:
        """Note a comparison of this many vectors in the row of its kind."""
        worst, worst_share, count, at = self.rows.get(what, (0.0, -1.0, 0, ""))
        at, worst_share = (where, share) if share > worst_share else (at, worst_share)
        self.rows[what] = (max(worst, difference), worst_share, count + vectors, at)


WORST = pytest.StashKey[Worst]()
FIGURES = pytest.StashKey[list[tuple[str, float, float]]]()
"""What processes took: (what, seconds, MiB resident at most)."""


@pytest.fixture(scope="session")
def worst(pytestconfig: pytest.Config) -> Worst:
    """Compares, and keeps the worst differences for the table at the end."""
    return pytestconfig.stash.setdefault(WORST, Worst())


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand what this process saw to the process that prints the tables, where tests run in several processes."""
    config = session.config
    if hasattr(config, "workeroutput"):
        config.workeroutput["worst"] = config.stash.get(WORST, Worst()).rows
        config.workeroutput["figures"] = config.stash.get(FIGURES, [])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add up what a process of tests saw."""
    seen = getattr(node, "workeroutput", {})  # a process that crashed hands nothing over; the run fails then
    worst = node.config.stash.setdefault(WORST, Worst())
    for what, row in seen.get("worst", {}).items():
        worst.add(what, *row)
    node.config.stash.setdefault(FIGURES, []).extend(seen.get("figures", []))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    figures = config.stash.get(FIGURES, [])
    if figures:
        terminalreporter.section("what it took")
        terminalreporter.write_line(f"{'all-MiniLM-L6-v2, one process each':<58} {'seconds':>8} {'MiB':>6}")
    for what, seconds, mebibytes in figures:
        terminalreporter.write_line(f"{what:<58} {seconds:>8.1f} {mebibytes:>6.0f}")
    for title, told in () if HAS_OPTIMUM else (("left out", LEFT_OUT), ("sampled", SAMPLED)):
        terminalreporter.section(f"{title} where there is no Optimum")
        for name, why in told.items():
            terminalreporter.write_line(f"{name:<58} {why}")
    found = config.stash.get(WORST, Worst()).rows
    if not found:
        return
    terminalreporter.section("worst differences")
    terminalreporter.write_line(f"{'compared':<58} {'vectors':>8} {'absolute':>9} {'of allowed':>11}  at")
    for what, (difference, share, count, where) in found.items():
        terminalreporter.write_line(f"{what:<58} {count:>8} {difference:>9.1e} {share:>11.1%}  {where}")


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The model folder of the real all-MiniLM-L6-v2."""
    from minilm import MiniLMUnavailableError, model_folder

    try:
        return model_folder()
    except MiniLMUnavailableError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="session")
def make_once(shared_folder: Path) -> Callable[[str, Callable[[Path], object]], Path]:
    """Gives a folder of some name. The first process of tests that asks for it fills it by a function, others wait."""

    def make(name: str, fill: Callable[[Path], object]) -> Path:
        folder, unfinished = shared_folder / name, shared_folder / f"{name}.unfinished"
        with FileLock(shared_folder / f"{name}.lock"):
            if not folder.is_dir():
                unfinished.mkdir()
                fill(unfinished)
                unfinished.rename(folder)
        return folder

    return make


@pytest.fixture(scope="session", autouse=True)
def remembered_exports(make_once) -> Iterator[None]:
    """The same model is exported once for all processes of tests: many tests start from the same one."""

    def export_once(source: Path, path: Path, task: str) -> None:
        files = sorted(one for one in source.iterdir() if one.is_file() and one.suffix != ".onnx")
        digest = hashlib.sha256(task.encode())
        for file in files:
            digest.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
        made = make_once(digest.hexdigest(), lambda folder: export(source, folder / path.name, task))
        shutil.copytree(made, path.parent, dirs_exist_ok=True)

    export = exports.export
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exports, "export", export_once)
        yield


@pytest.fixture(scope="session")
def minilm_export(minilm: Path, make_once) -> Path:
    """all-MiniLM-L6-v2 exported: the transformer alone. The model file; the tokenizer is beside it."""

    def fill(folder: Path) -> None:
        shutil.copyfile(minilm / "tokenizer.json", folder / "tokenizer.json")
        export_folder(minilm, folder / "model.onnx")

    return make_once("minilm", fill) / "model.onnx"


@pytest.fixture(scope="session")
def on_request(make_once) -> Path:
    """The architectures that are not in the repository, exported now."""
    return make_once("architectures", make_on_request)


@pytest.fixture(scope="session")
def bert_exports(tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[Path, object]]:
    """A small BERT at each of the older opsets: (model file, PyTorch model)."""
    folders = {opset: tmp_path_factory.mktemp(f"opset {opset}", numbered=False) for opset in OPSETS}
    return {opset: (folder / "model.onnx", export_bert(folder, opset)) for opset, folder in folders.items()}


@pytest.fixture(scope="session")
def command_line() -> Callable[..., tuple[int, dict]]:
    """Runs ``graphsurgery`` with --json in a process of its own: (exit code, report)."""

    def call(*arguments: object) -> tuple[int, dict]:
        command = [sys.executable, "-m", "graphsurgery", *map(str, arguments), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    return call
