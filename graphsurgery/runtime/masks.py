"""The masks of every kind of feed, ``m [batch, seq]`` bool, true at tokens, within the sizes that a model takes.

Every kind is what its name says at every size: a row is padded on its own side up to the sequence size that is baked in, and
where the batch size is, rows become several masks of that many rows. A kind that a size rules out (there is no padding in a
sequence of one) is not drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

Mask = np.ndarray
BATCH, SHORT, MIDDLE, LONG = 4, 3, 9, 64
EMPTY_ROW, RIGHT, LEFT, HOLES = "empty row", "right padding", "left padding", "holes"
LONGEST, LONG_LEFT = "longest", "long, left padding"
TOKEN_SHARE = 0.6


@dataclass(frozen=True)
class Sizes:
    """``batch`` and ``sequence`` are sizes that are baked into the model, None where it takes any. ``longest``: the longest
    sequence to draw where it takes any."""

    batch: int | None = None
    sequence: int | None = None
    longest: int = LONG

    def width(self, preferred: int) -> int:
        """The sequence size of a mask that would best be ``preferred`` wide."""
        return self.sequence or min(preferred, self.longest)

    def batches(self, mask: Mask) -> list[Mask]:
        """``mask`` in parts of the batch size that is baked in; its rows repeat where the last part is short of some."""
        if self.batch is None:
            return [mask]
        parts = -(-len(mask) // self.batch)
        rows = mask[np.arange(parts * self.batch) % len(mask)]
        return [rows[start : start + self.batch] for start in range(0, len(rows), self.batch)]


def masks_of(sizes: Sizes) -> Iterator[tuple[str, list[Mask]]]:
    """Every kind that ``sizes`` admit, with its masks. The same sizes always give the same masks."""
    for kind, draw in KINDS.items():
        rng = np.random.default_rng([ord(letter) for letter in kind])
        masks = [part for mask in draw(rng, sizes) for part in sizes.batches(mask)]
        distinct = {(mask.shape, mask.tobytes()): mask for mask in masks}
        if distinct:
            yield kind, list(distinct.values())


def longest_masks(sizes: Sizes, tokens: int, padded: int) -> Iterator[tuple[str, list[Mask]]]:
    """The kinds beyond the usual ones: a row of as many ``tokens``, and one of ``padded`` positions, a quarter of which are
    padding in front."""
    yield LONGEST, sizes.batches(padded_right([tokens]))
    yield LONG_LEFT, sizes.batches(padded_right([padded - padded // 4], padded)[:, ::-1].copy())


def padded_right(lengths: list[int], width: int | None = None) -> Mask:
    """Rows of these many tokens, then padding."""
    return np.arange(width or max(lengths))[None, :] < np.array(lengths)[:, None]


def _ragged(rng: np.random.Generator, most: int) -> list[int]:
    """Lengths of rows: the first is ``most``, the second is less where that is possible."""
    lengths = [int(length) for length in rng.integers(1, most + 1, size=BATCH)]
    lengths[:2] = most, max(min(lengths[1], most - 1), 1)
    return lengths


def _right(rng: np.random.Generator, sizes: Sizes) -> list[Mask]:
    width = sizes.width(MIDDLE)
    return [padded_right(_ragged(rng, width), width)] if width > 1 else []


def _left(rng: np.random.Generator, sizes: Sizes) -> list[Mask]:
    return [mask[:, ::-1].copy() for mask in _right(rng, sizes)]


def _mixed(rng: np.random.Generator, sizes: Sizes) -> list[Mask]:
    """Rows with padding in front, behind, or both: the first is padded behind, the second in front."""
    width = sizes.width(MIDDLE + 1)
    if width < 2:
        return []
    lengths = _ragged(rng, width - 1)
    offsets = [int(rng.integers(0, width - length + 1)) for length in lengths]
    offsets[:2] = 0, width - lengths[1]
    return [np.array([np.roll(row, offset) for row, offset in zip(padded_right(lengths, width), offsets, strict=True)])]


def _holes(rng: np.random.Generator, sizes: Sizes) -> list[Mask]:
    """Tokens at random; every row has padding between two of them."""
    width = sizes.width(MIDDLE)
    if width < 3:
        return []
    mask = rng.random((BATCH, width)) < TOKEN_SHARE
    for row in mask:
        hole = int(rng.integers(1, width - 1))
        row[hole], row[rng.integers(0, hole)], row[rng.integers(hole + 1, width)] = False, True, True
    return [mask]


def _single(_: np.random.Generator, sizes: Sizes) -> list[Mask]:
    first = padded_right([1, 1], sizes.width(SHORT))
    return [first, first[:, ::-1].copy()]


def _sequence_of_one(_: np.random.Generator, sizes: Sizes) -> list[Mask]:
    return [np.ones((BATCH, 1), dtype=np.bool_)] if sizes.sequence in (None, 1) else []


def _batch_of_one(_: np.random.Generator, sizes: Sizes) -> list[Mask]:
    if sizes.batch not in (None, 1):
        return []
    width = sizes.width(MIDDLE)
    return [np.ones((1, width), dtype=np.bool_), padded_right([max(width - 3, 1)], width)]


def _empty_row(_: np.random.Generator, sizes: Sizes) -> list[Mask]:
    width = sizes.width(SHORT)
    return [padded_right([width, 0, 1], width), np.zeros((1, width), dtype=np.bool_)]


def _long(_: np.random.Generator, sizes: Sizes) -> list[Mask]:
    width = sizes.width(sizes.longest)
    return [padded_right([width, max(width // 2, 1)], width)]


KINDS: dict[str, Callable[[np.random.Generator, Sizes], list[Mask]]] = {
    RIGHT: _right,
    LEFT: _left,
    "mixed padding": _mixed,
    HOLES: _holes,
    "single token": _single,
    "sequence of one": _sequence_of_one,
    "batch of one": _batch_of_one,
    EMPTY_ROW: _empty_row,
    "long": _long,
}
"""Every kind of mask; each draws none where the sizes rule it out."""
