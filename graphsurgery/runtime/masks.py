"""The masks of every kind of feed, ``m [batch, seq]`` bool, true at tokens, within the sizes that a model takes.

Every kind is what its name says at every size. A row is padded on its own side up to a fixed sequence size. With a fixed batch
size, rows become several masks of that many rows. A kind that a size rules out is not drawn: a sequence of one has no padding.
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
    """The batch and sequence sizes that a model takes."""

    batch: int | None = None
    """The fixed batch size, or None if the model takes any."""
    sequence: int | None = None
    """The fixed sequence size, or None if the model takes any."""
    longest: int = LONG
    """The longest sequence to draw if the model takes any."""

    def fit_width(self, preferred: int) -> int:
        """Return the sequence size of a mask that would best be ``preferred`` wide."""
        return self.sequence or min(preferred, self.longest)

    def split_into_batches(self, mask: Mask) -> list[Mask]:
        """Split ``mask`` into parts of the fixed batch size, if there is one. If the last part lacks rows, rows repeat."""
        if self.batch is None:
            return [mask]
        parts = -(-len(mask) // self.batch)
        rows = mask[np.arange(parts * self.batch) % len(mask)]
        return [rows[start : start + self.batch] for start in range(0, len(rows), self.batch)]


def generate_masks(sizes: Sizes) -> Iterator[tuple[str, list[Mask]]]:
    """Yield every kind that ``sizes`` admit, with its masks. The same sizes always give the same masks."""
    for kind, draw in KINDS.items():
        rng = np.random.default_rng([ord(letter) for letter in kind])
        masks = [part for mask in draw(rng, sizes) for part in sizes.split_into_batches(mask)]
        distinct = {(mask.shape, mask.tobytes()): mask for mask in masks}
        if distinct:
            yield kind, list(distinct.values())


def generate_longest_masks(sizes: Sizes, tokens: int, padded: int) -> Iterator[tuple[str, list[Mask]]]:
    """Yield two kinds beyond the usual ones: a row of ``tokens`` tokens, and a row of ``padded`` positions that starts with a
    quarter of padding."""
    yield LONGEST, sizes.split_into_batches(make_mask([tokens]))
    yield LONG_LEFT, sizes.split_into_batches(make_mask([padded - padded // 4], padded)[:, ::-1].copy())


def make_mask(lengths: list[int], width: int | None = None) -> Mask:
    """Return a mask with one row per length: that many tokens, then padding."""
    return np.arange(width or max(lengths))[None, :] < np.array(lengths)[:, None]


def _draw_lengths(rng: np.random.Generator, most: int) -> list[int]:
    """Draw lengths of rows. The first is ``most``, the second is shorter if that is possible."""
    lengths = [int(length) for length in rng.integers(1, most + 1, size=BATCH)]
    lengths[:2] = most, max(min(lengths[1], most - 1), 1)
    return lengths


def _draw_right(rng: np.random.Generator, sizes: Sizes) -> list[Mask]:
    width = sizes.fit_width(MIDDLE)
    return [make_mask(_draw_lengths(rng, width), width)] if width > 1 else []


def _draw_left(rng: np.random.Generator, sizes: Sizes) -> list[Mask]:
    return [mask[:, ::-1].copy() for mask in _draw_right(rng, sizes)]


def _draw_mixed(rng: np.random.Generator, sizes: Sizes) -> list[Mask]:
    """Draw rows with padding before the tokens, after them, or both. The first row has it after, the second before them."""
    width = sizes.fit_width(MIDDLE + 1)
    if width < 2:
        return []
    lengths = _draw_lengths(rng, width - 1)
    offsets = [int(rng.integers(0, width - length + 1)) for length in lengths]
    offsets[:2] = 0, width - lengths[1]
    return [np.array([np.roll(row, offset) for row, offset in zip(make_mask(lengths, width), offsets, strict=True)])]


def _draw_holes(rng: np.random.Generator, sizes: Sizes) -> list[Mask]:
    """Draw tokens at random positions. Every row has padding between two tokens."""
    width = sizes.fit_width(MIDDLE)
    if width < 3:
        return []
    mask = rng.random((BATCH, width)) < TOKEN_SHARE
    for row in mask:
        hole = int(rng.integers(1, width - 1))
        row[hole], row[rng.integers(0, hole)], row[rng.integers(hole + 1, width)] = False, True, True
    return [mask]


def _draw_single(_: np.random.Generator, sizes: Sizes) -> list[Mask]:
    first = make_mask([1, 1], sizes.fit_width(SHORT))
    return [first, first[:, ::-1].copy()]


def _draw_sequence_of_one(_: np.random.Generator, sizes: Sizes) -> list[Mask]:
    return [np.ones((BATCH, 1), dtype=np.bool_)] if sizes.sequence in (None, 1) else []


def _draw_batch_of_one(_: np.random.Generator, sizes: Sizes) -> list[Mask]:
    if sizes.batch not in (None, 1):
        return []
    width = sizes.fit_width(MIDDLE)
    return [np.ones((1, width), dtype=np.bool_), make_mask([max(width - 3, 1)], width)]


def _draw_empty_row(_: np.random.Generator, sizes: Sizes) -> list[Mask]:
    width = sizes.fit_width(SHORT)
    return [make_mask([width, 0, 1], width), np.zeros((1, width), dtype=np.bool_)]


def _draw_long(_: np.random.Generator, sizes: Sizes) -> list[Mask]:
    width = sizes.fit_width(sizes.longest)
    return [make_mask([width, max(width // 2, 1)], width)]


KINDS: dict[str, Callable[[np.random.Generator, Sizes], list[Mask]]] = {
    RIGHT: _draw_right,
    LEFT: _draw_left,
    "mixed padding": _draw_mixed,
    HOLES: _draw_holes,
    "single token": _draw_single,
    "sequence of one": _draw_sequence_of_one,
    "batch of one": _draw_batch_of_one,
    EMPTY_ROW: _draw_empty_row,
    "long": _draw_long,
}
"""Every kind of mask, with its function. A function returns no masks if the sizes rule its kind out."""
