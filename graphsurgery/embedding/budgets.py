"""The best budget of a run, measured once for a file on a machine and kept in the user's cache."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from contextlib import suppress
from pathlib import Path

from graphsurgery.compare.budget import measure_budget
from graphsurgery.deferred import onnxruntime
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.model.atomic import make_temporary_name
from graphsurgery.model.model import Model
from graphsurgery.runtime.batches import BUDGET
from graphsurgery.runtime.devices import Device
from graphsurgery.runtime.feeds import FeedGenerator
from graphsurgery.runtime.session import Session

CACHE = "GRAPHSURGERY_CACHE"
"""The environment variable that names the folder of what was measured."""


def find_budget(model: Model, session: Session, generator: FeedGenerator, threads: int, device: Device, padded: bool) -> int:
    """Return the most positions of one run: what was measured before on this machine, or what is measured now, in seconds.

    ``padded`` is false for a file that computes no padding.
    """
    place = find_cache() / "budgets" / f"{_identify(model, threads, device)}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads(place.read_text(encoding="utf-8"))["positions"]
        if isinstance(found, int) and found > 0:
            return found
    try:
        budget = measure_budget(session, generator, padded=padded)
    except UnsupportedModelError:
        return BUDGET
    with suppress(OSError):  # a cache that cannot be written is done without
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = make_temporary_name(place)
        temporary.write_text(json.dumps({"positions": budget}), encoding="utf-8")
        temporary.replace(place)
    return budget


def find_cache() -> Path:
    """Return the folder of what was measured: `CACHE`, or ``graphsurgery`` in the user's cache folder."""
    given = os.environ.get(CACHE)
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "graphsurgery"


def _identify(model: Model, threads: int, device: Device) -> str:
    """Return a name for this file on this machine: a budget that was measured for one says nothing of another."""
    facts = (model.fingerprint, threads, device.providers, onnxruntime.__version__, platform.node(), platform.processor())
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
