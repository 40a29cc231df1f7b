"""A seal over what a file records of itself: it tells when any of it was changed. It keeps out accidents, not forgers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from graphsurgery.model.provenance import Step


def seal(content: Mapping[str, Any], version: str, source: str) -> str:
    """sha256 (hex) over recorded content, the version that recorded it, and the fingerprint of what it was recorded for."""
    everything = [{key: value for key, value in content.items() if key != "seal"}, version, source]
    return hashlib.sha256(json.dumps(everything, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def is_sealed(step: Step) -> bool:
    """Whether an entry's content is what was recorded, and can be read."""
    return step.unreadable is None and seal(step.given, step.version, step.source) == step.given.get("seal")
