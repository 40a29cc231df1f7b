"""The best budget of a run, measured once for a file on a machine and kept in the user's cache."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from graphsurgery.compare.budget import BUDGETS, LENGTHS, measure_budget
from graphsurgery.compare.timing import LEAST
from graphsurgery.deferred import onnxruntime
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.model.atomic import replace_file
from graphsurgery.model.model import Model
from graphsurgery.runtime.batches import BUDGET
from graphsurgery.runtime.devices import Device, choose_device
from graphsurgery.runtime.feeds import FeedGenerator
from graphsurgery.runtime.masks import make_mask
from graphsurgery.runtime.parallel import ParallelSession
from graphsurgery.runtime.session import Runner

CACHE = "GRAPHSURGERY_CACHE"
"""The environment variable that names the folder in which measured budgets are kept."""
PATIENCE = 4.0
"""Measuring may always take this many seconds, however little there is to embed."""
SHARE = 0.1
"""Measuring may also take this share of the time that embedding the texts at hand takes."""
RUNS = (LEAST + 1) * len(BUDGETS) * sum(LENGTHS) / BUDGET
"""About how many runs of `BUDGET` positions measuring takes."""


def find_budget(
    model: Model,
    session: ParallelSession,
    generator: FeedGenerator,
    threads: int,
    device: Device,
    padded: bool,
    tokens: float,
) -> int | None:
    """Return the largest number of positions of one run: as measured before on this machine, or else as measured now.

    Args:
        padded: false for a file that computes no padding.
        tokens: about how many tokens are to be embedded. If measuring would take long compared with embedding them, as for a
            large model and few texts, nothing is measured, and None is returned.

    Returns None, too, if a run of the model fails.
    """
    place = find_cache() / "budgets" / f"{_identify(model, threads, session.most, device)}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads(place.read_text(encoding="utf-8"))["positions"]
        if isinstance(found, int) and found > 0:
            return found
    try:
        seconds = _time_run(session, generator)
        if seconds * RUNS > max(PATIENCE, SHARE * seconds * tokens / BUDGET):
            return None
        budget = measure_budget(session.run_all, generator, padded=padded)
    except UnsupportedModelError:
        return None
    with suppress(OSError):  # the budget is used all the same if the cache cannot be written
        place.parent.mkdir(parents=True, exist_ok=True)
        replace_file(place, json.dumps({"positions": budget}).encode())
    return budget


def _time_run(session: Runner, generator: FeedGenerator) -> float:
    """Return the seconds of a run of `BUDGET` positions, timed on texts of an eighth of that length, after a first run."""
    length = generator.limit_length(BUDGET // 8)
    (mask, *_) = generator.sizes.split_into_batches(make_mask([length] * max(BUDGET // length, 1)))
    feed = generator.generate(mask, seed=0)
    session.run(feed)
    start = time.perf_counter()
    session.run(feed)
    return (time.perf_counter() - start) * BUDGET / mask.size


def find_cache() -> Path:
    """Return the folder of measured budgets: the one that `CACHE` names, or ``graphsurgery`` in the user's cache folder."""
    given = os.environ.get(CACHE)
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "graphsurgery"


def choose_cached_device(providers: str | Sequence[str]) -> Device:
    """Return the device as `choose_device` does, and raise what it raises. TensorRT keeps its engines in the cache folder."""
    return choose_device(providers, find_cache() / "tensorrt")


def _identify(model: Model, threads: int, most: int, device: Device) -> str:
    """Return a name for this file on this machine. A budget that was measured for one pair says nothing about another."""
    facts = (model.fingerprint, threads, most, device.providers, onnxruntime.__version__, platform.node(), platform.processor())
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
