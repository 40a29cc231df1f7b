"""Runs of a batch in groups of the rows that the source takes, and the outputs of all groups as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from graphsurgery.references.reference import Array, Expected


def list_groups(rows: int, group: int) -> list[list[int]]:
    """Return the rows of each group. The last row fills up the last group."""
    return [[min(row, rows - 1) for row in range(start, start + group)] for start in range(0, rows, group)]


def join_groups(parts: Sequence[Expected], rows: int, group: int) -> Expected:
    """Return the rows of all groups, one group after the other. A value without rows is the first group's."""
    first = parts[0]
    if np.ndim(first.values) == 0 or len(first.values) != group:
        return first

    def join(arrays: Sequence[Array]) -> Array:
        return np.concatenate(arrays)[:rows]

    known = [one.rounding for one in parts if one.rounding is not None]
    outputs = [one.output for one in parts if one.output is not None]
    return replace(
        first,
        values=join([one.values for one in parts]),
        tolerance=join([np.broadcast_to(one.tolerance, one.values.shape) for one in parts]),
        rounding=join([np.broadcast_to(one, first.values.shape) for one in known]) if known else None,
        output=join(outputs) if outputs else None,
        promised=None,
    )
