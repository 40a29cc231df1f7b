"""What a weight is, whatever file it lies in."""

from __future__ import annotations

import hashlib

import numpy as np


def digest(tensor: np.ndarray) -> str:
    """sha256 (hex) of a tensor's element type, shape and little-endian bytes in row-major order."""
    little = tensor.astype(tensor.dtype.newbyteorder("<"), copy=False) if tensor.dtype.byteorder == ">" else tensor
    header = f"{tensor.dtype.name}{list(tensor.shape)}".encode()
    return hashlib.sha256(header + np.ascontiguousarray(little).tobytes()).hexdigest()
