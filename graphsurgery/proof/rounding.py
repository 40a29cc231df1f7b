"""What float32 leaves open in a chain of edits, row by row: what one edit rounds, the next one may magnify.

Measured in absolute terms, ``[batch]``. It adds to the tolerance of what is made from it, and is 0 for the source's own values:
an edit by itself is held to the promised tolerance alone.
"""

from __future__ import annotations

import numpy as np

from graphsurgery.proof.meaning import Array

EPSILON = 2.0**-23
"""The distance of 1 to the next float32."""


def largest(values: Array, least: float = 0.0) -> Array:
    """The largest finite |x| in each row, ``[batch]``, and at least ``least``."""
    finite = np.where(np.isfinite(values), np.abs(values), 0)
    return finite.max(axis=tuple(range(1, finite.ndim)), initial=least)


def beside(rows: Array, values: Array) -> Array:
    """``rows [batch]``, or ``[1]`` for all, shaped to broadcast against ``values [batch, ...]``."""
    return rows.reshape(-1, *[1] * (values.ndim - 1))
