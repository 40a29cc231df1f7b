"""Pooling row by row, from the definitions: ``x [seq, dim]``, ``m [seq]`` true at tokens -> ``[dim]``, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from graphsurgery.references.reference import Array

MODES = ("cls", "lasttoken", "max", "mean", "mean_sqrt_len_tokens", "weightedmean")
"""The modes of sentence-transformers."""
WEIGHTED = "weightedmean"
STATISTICS, AVERAGE, DEVIATION = "statistics", "average", "deviation"
"""Statistics are the mean, whatever the tokens weigh, and the deviation with n - 1, side by side. A single token has none."""
DIVIDING = ("mean", "mean_sqrt_len_tokens", "weightedmean")
"""The modes that divide by a number of tokens, or by the sum of their weights."""


def list_parts(modes: Sequence[str]) -> list[str]:
    """Return the modes with those of a single width in place of `STATISTICS`."""
    return [part for mode in modes for part in ((AVERAGE, DEVIATION) if mode == STATISTICS else (mode,))]


UNWEIGHTED: Mapping[str, Callable[[Array], Array]] = {
    "cls": lambda tokens: tokens[0],
    "lasttoken": lambda tokens: tokens[-1],
    "max": lambda tokens: np.max(tokens, axis=0),
    AVERAGE: lambda tokens: np.mean(tokens, axis=0),
    DEVIATION: lambda tokens: np.std(tokens, axis=0, ddof=1) if len(tokens) > 1 else np.zeros(tokens.shape[1]),
}
"""The modes that need no weights: what they make of the tokens, ``[n, dim]`` -> ``[dim]``."""


def pool_row(x: Array, m: Array, mode: str, w: Array | None = None, first: int = 0) -> Array:
    """Pool one row as sentence-transformers' Pooling does: ``x [seq, dim]``, ``m [seq]`` -> ``[dim]``; zeros without tokens.

    If x was multiplied with token weights ``w [seq]``, the sum of all of them (its ``token_weights_sum``) is the divisor.
    The positions of weightedmean count from ``first``.
    """
    tokens = np.flatnonzero(m)
    if not len(tokens):
        return np.zeros(x.shape[1])
    if mode in UNWEIGHTED:
        return UNWEIGHTED[mode](x[tokens])
    total = np.sum(x[tokens], axis=0)
    if mode == "mean":
        return total / compute_divisor(m, mode, w)
    if mode == "mean_sqrt_len_tokens":
        return total / math.sqrt(compute_divisor(m, mode, w))
    if mode == WEIGHTED:
        weighted = np.sum(x[tokens] * (tokens + 1 - first)[:, None], axis=0)
        return weighted / compute_divisor(m, mode, w, first)
    raise ValueError(f"there is no reference for pooling mode {mode!r}")


def compute_divisor(m: Array, mode: str, w: Array | None, first: int = 0) -> float:
    """Return the divisor of a mean: the number of tokens, or the sum of their positions, 1 at ``first``.

    If there are token weights, their sum takes the place of both.
    """
    if w is not None:
        return max(float(np.sum(w)), 1e-9)
    tokens = np.flatnonzero(m)
    return max(float(np.sum(tokens + 1 - first)) if mode == WEIGHTED else len(tokens), 1e-9)


def pool(x: Array, m: Array, modes: list[str], w: Array | None = None, first: Sequence[int] | None = None) -> Array:
    """Return the modes' values side by side, ``[batch, len(modes) * dim]`` float64.

    ``first`` holds the position from which each row's positions count; None stands for the first one.
    """
    x = np.asarray(x, dtype=np.float64)
    weights, starts = [None] * len(x) if w is None else w, [0] * len(x) if first is None else first
    rows = [
        np.concatenate([pool_row(x[row], m[row], mode, weights[row], starts[row]) for mode in modes]) for row in range(len(x))
    ]
    return np.array(rows).reshape(len(x), len(modes) * x.shape[2])


def find_first_tokens(m: Array) -> list[int]:
    """Return the position of each row's first token, 0 for a row without any. Source: Pooling._forward_padded, pad_lengths."""
    return [next((position for position in range(len(row)) if row[position]), 0) for row in m]
