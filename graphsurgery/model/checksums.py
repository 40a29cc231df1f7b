"""Checksums of weights and of the content that a file records about itself.

They reveal accidental changes. They do not protect against forgery.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from graphsurgery.model.provenance import Step


def hash_tensor(tensor: np.ndarray) -> str:
    """Return the sha256 (hex) of a tensor's element type, shape and little-endian bytes in row-major order."""
    little = tensor.astype(tensor.dtype.newbyteorder("<"), copy=False) if tensor.dtype.byteorder == ">" else tensor
    header = f"{tensor.dtype.name}{list(tensor.shape)}".encode()
    return hashlib.sha256(header + np.ascontiguousarray(little).tobytes()).hexdigest()


def compute_checksum(content: Mapping[str, Any], version: str, source: str) -> str:
    """Return the sha256 (hex) of recorded content, the version that recorded it, and the fingerprint of the file it was
    recorded for."""
    everything = [{key: value for key, value in content.items() if key != "seal"}, version, source]
    return hashlib.sha256(json.dumps(everything, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def has_valid_checksum(step: Step) -> bool:
    """Return whether an entry is readable and its content is unchanged since it was recorded."""
    return step.unreadable is None and compute_checksum(step.given, step.version, step.source) == step.given.get("seal")
