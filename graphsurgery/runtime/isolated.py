"""A first run of a rewritten file in a process of its own: a kernel that brings its process down must not bring down ours."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from graphsurgery.errors import UnsupportedModelError
from graphsurgery.runtime.own_process import OwnProcessError, call_in_own_process
from graphsurgery.runtime.session import Session

SECONDS = 600
Feed = Mapping[str, np.ndarray]


def crash(model: Path, feeds: Sequence[Feed]) -> str | None:
    """Run ``model`` on ``feeds`` in a process of its own. Return what went wrong, or None if nothing did."""
    with tempfile.TemporaryDirectory(prefix="graphsurgery-") as folder:
        paths = [str(_store(feed, Path(folder) / f"{number}.npz")) for number, feed in enumerate(feeds)]
        try:
            failure: str | None = call_in_own_process(
                run_stored_feeds, str(model.absolute()), paths, folder=Path(folder), seconds=SECONDS
            )
        except OwnProcessError as error:
            return f"ONNX Runtime {error}"
    return failure and failure.replace(str(model.absolute()), "the file")


def run_stored_feeds(model: str, paths: Sequence[str]) -> str | None:
    """Run ``model`` on each of the stored feeds. Return ONNX Runtime's error, or None if there was none."""
    try:
        session = Session(model)
        for path in paths:
            session.run(_read(path))
    except UnsupportedModelError as error:
        return str(error)
    return None


def _store(feed: Feed, path: Path) -> Path:
    """Store a feed. Inputs may have any name, also those that `np.savez` gives to its own parameters."""
    arrays = {f"array{place}": array for place, array in enumerate(feed.values())}
    np.savez(path, allow_pickle=False, names=np.array(list(feed)), **arrays)
    return path


def _read(path: str) -> dict[str, np.ndarray]:
    with np.load(path) as stored:
        return {str(name): stored[f"array{place}"] for place, name in enumerate(stored["names"])}
