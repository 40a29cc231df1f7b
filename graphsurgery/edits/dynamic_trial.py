"""Trying out whether a graph takes other batch and sequence sizes than those that were baked into it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from graphsurgery.edits.agreement import agreement, nothing_compared
from graphsurgery.edits.baked_dims import BATCH, SEQUENCE
from graphsurgery.encoder.roles import Roles
from graphsurgery.errors import GraphSurgeryError
from graphsurgery.model.model import Model
from graphsurgery.runtime.feeds import Drawer
from graphsurgery.runtime.session import Session, open_session

FAR = 1e-3
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Trial:
    """What came of it: ``reason`` says why the sizes are still baked in, None where they are not; ``follows`` has the outputs'
    dims that are the batch or the sequence, as ``output``, axis and which."""

    reason: str | None
    follows: tuple[tuple[str, int, str], ...] = ()


def tried(source: Model, after: Model, roles: Roles, sizes: Mapping[str, int]) -> Trial:
    """Run both, ``source`` at its own sizes on rows that are padded with the mask, and compare tokens."""
    try:
        before = open_session(source)
    except GraphSurgeryError as error:
        return Trial(f"that has to be tried, and the model itself does not run: {error}")
    try:
        made = open_session(after)
    except GraphSurgeryError as error:
        return Trial(str(error))
    drawer = Drawer.of(source, roles)
    follows: dict[tuple[str, int], set[str]] = {}
    agreed: Counter[str] = Counter()
    for seed, (rows, columns) in enumerate(_shapes(drawer, sizes)):
        mask = _mask(rows, columns)
        feed = drawer.feed(mask, seed)
        try:
            found = made.run(feed)
        except GraphSurgeryError as error:
            return Trial(f"at {rows} x {columns}: {error}")
        wanted = _at_own_size(before, feed, roles, sizes)
        for name, array in found.items():
            for axis, size in enumerate(array.shape):
                fits = {which for which, own in ((BATCH, rows), (SEQUENCE, columns)) if which in sizes and own == size}
                follows[name, axis] = follows.get((name, axis), fits) & fits
            same = _same(array, wanted[name], mask, columns)
            if same is None:
                return Trial(f"at {rows} x {columns}, {name} is not what the model gives at its own size")
            agreed[name] += same
    return Trial(
        nothing_compared(agreed), tuple((name, axis, which.pop()) for (name, axis), which in follows.items() if len(which) == 1)
    )


def _shapes(drawer: Drawer, sizes: Mapping[str, int]) -> list[tuple[int, int]]:
    """Batch and sequence sizes to try, all different from each other where both are free."""
    length = sizes.get(SEQUENCE, drawer.fixed_sequence or 6)
    columns = sorted({1, max(length // 2, 1), max(length - 1, 1), length}) if SEQUENCE in sizes else [length]
    batch = sizes.get(BATCH, drawer.fixed_batch or 3)
    rows = [batch, batch + 1, 2 * batch + 1, 1] if BATCH in sizes else [batch]
    return [(row, column) for row in rows for column in columns if row != column or len(sizes) == 1 or 1 in (row, column)]


def _mask(rows: int, columns: int) -> np.ndarray:
    """Rows of ever fewer tokens, one less than there are positions at first; every other row is padded in front."""
    lengths = np.maximum(columns - 1 - np.arange(rows), 1)
    mask = np.arange(columns)[None, :] < lengths[:, None]
    mask[1::2] = mask[1::2, ::-1].copy()
    return mask


def _at_own_size(session: Session, feed: Arrays, roles: Roles, sizes: Mapping[str, int]) -> Arrays:
    named = [value.name for value in (roles.ids, roles.mask, roles.types, roles.positions) if value is not None]
    rows, columns = feed[named[0]].shape
    length, batch = sizes.get(SEQUENCE, columns), sizes.get(BATCH, rows)
    padded = {name: np.pad(feed[name], ((0, 0), (0, length - columns))) if name in named else feed[name] for name in feed}
    parts = []
    for start in range(0, rows, batch):
        chosen = np.minimum(np.arange(start, start + batch), rows - 1)
        parts.append(session.run({name: array[chosen] if name in named else array for name, array in padded.items()}))
    return {name: np.concatenate([part[name] for part in parts])[:rows] if parts[0][name].ndim else parts[0][name]
            for name in parts[0]}  # fmt: skip


def _same(found: np.ndarray, wanted: np.ndarray, mask: np.ndarray, columns: int) -> int | None:
    """How many numbers agree at tokens, None where one differs; what is not one value per token has to agree as it is."""
    if found.ndim > 1 and found.shape != wanted.shape and found.shape[:2] == mask.shape:
        found, wanted = found[mask], wanted[:, :columns][mask]
    if found.ndim > 1 and found.shape == wanted.shape and found.shape[:2] == mask.shape:
        found, wanted = found[mask], wanted[mask]
    return agreement(found, wanted, FAR)
