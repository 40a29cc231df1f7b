"""What the edits mean, in numpy and float64.

``x [batch, seq, dim]`` token embeddings, ``m [batch, seq]`` bool, true at tokens. Written row by row, from the definitions:
slow, plain and with nothing in common with the graph builders.
"""

from __future__ import annotations

import math

import numpy as np

Array = np.ndarray
MODES = ("cls", "lasttoken", "max", "mean", "mean_sqrt_len_tokens", "weightedmean")


def pool_row(x: Array, m: Array, mode: str) -> Array:
    """One row pooled, as sentence-transformers' Pooling: ``x [seq, dim]``, ``m [seq]`` -> ``[dim]``; zeros without tokens."""
    tokens = [position for position in range(len(m)) if m[position]]
    if not tokens:
        return np.zeros(x.shape[1])
    if mode == "cls":
        return x[tokens[0]]
    if mode == "lasttoken":
        return x[tokens[-1]]
    if mode == "max":
        return np.max([x[position] for position in tokens], axis=0)
    total = np.sum([x[position] for position in tokens], axis=0)
    if mode == "mean":
        return total / max(len(tokens), 1e-9)
    if mode == "mean_sqrt_len_tokens":
        return total / math.sqrt(max(len(tokens), 1e-9))
    if mode == "weightedmean":
        weighted = np.sum([x[position] * (position + 1) for position in tokens], axis=0)
        return weighted / max(sum(position + 1 for position in tokens), 1e-9)
    raise ValueError(f"there is no reference for pooling mode {mode!r}")


def pool(x: Array, m: Array, modes: list[str]) -> Array:
    """``[batch, len(modes) * dim]`` float64: the modes' values side by side."""
    x = np.asarray(x, dtype=np.float64)
    rows = [np.concatenate([pool_row(x[row], m[row], mode) for mode in modes]) for row in range(len(x))]
    return np.array(rows).reshape(len(x), len(modes) * x.shape[2])


def normalize(x: Array) -> Array:
    """x / max(norm2(x), 1e-12) over the last dim, float64. Source: torch.nn.functional.normalize."""
    x = np.asarray(x, dtype=np.float64)
    return x / np.maximum(np.sqrt(np.sum(np.square(x), axis=-1, keepdims=True)), 1e-12)


def mask_from(spec: str, values: dict[str, Array], ids: str | None, shape: tuple[int, int]) -> Array:
    """``m`` as a recorded mask parameter means it: an input != 0, ``ones``, or ``pad:<id>`` (ids other than that one)."""
    if spec == "ones":
        return np.full(shape, True)
    if spec.startswith("pad:") and ids is not None:
        return values[ids] != int(spec[4:])
    return values[spec].astype(np.float64) != 0
