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
"""The environment variable that names the folder of what was measured."""
PATIENCE = 4.0
"""Measuring may take so many seconds, however little there is to embed."""
SHARE = 0.1
"""It may take this share of the time that the texts at hand take."""
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
    """Return the most positions of one run: what was measured before on this machine, or what is measured now.

    Args:
        padded: false for a file that computes no padding.
        tokens: about how many tokens are at hand. If measuring would take long beside them, as for a large model and few texts,
            nothing is measured, and None is returned.
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
    with suppress(OSError):  # a cache that cannot be written is done without
        place.parent.mkdir(parents=True, exist_ok=True)
        replace_file(place, json.dumps({"positions": budget}).encode())
    return budget


def _time_run(session: Runner, generator: FeedGenerator) -> float:
    """Return the seconds of one run of about `BUDGET` positions: texts of an eighth of that, the second time."""
    length = generator.limit_length(BUDGET // 8)
    (mask, *_) = generator.sizes.split_into_batches(make_mask([length] * max(BUDGET // length, 1)))
    feed = generator.generate(mask, seed=0)
    session.run(feed)
    start = time.perf_counter()
    session.run(feed)
    return (time.perf_counter() - start) * BUDGET / mask.size


def find_cache() -> Path:
    """Return the folder of what was measured: `CACHE`, or ``graphsurgery`` in the user's cache folder."""
    given = os.environ.get(CACHE)
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "graphsurgery"


def choose_cached_device(providers: str | Sequence[str]) -> Device:
    """Return the device as `choose_device` does. TensorRT keeps its engines in the cache folder."""
    return choose_device(providers, find_cache() / "tensorrt")


def _identify(model: Model, threads: int, most: int, device: Device) -> str:
    """Return a name for this file on this machine: a budget that was measured for one says nothing of another."""
    facts = (model.fingerprint, threads, most, device.providers, onnxruntime.__version__, platform.node(), platform.processor())
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
