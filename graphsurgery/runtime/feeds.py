"""What to feed an encoder: inputs drawn deterministically from its interface and its embedding tables.

A *mask* ``m [batch, seq]`` bool is drawn first; ids lie within the vocabulary, lengths within the position table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from graphsurgery.anatomy.roles import Roles, is_mask_like
from graphsurgery.anatomy.tables import Tables, tables_of
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.interface import Dim, Value
from graphsurgery.model.dtypes import FLOATS, numpy_dtype
from graphsurgery.model.model import Model
from graphsurgery.runtime.texts import Encoded

Mask = np.ndarray
DEFAULT_VOCABULARY = 20
"""Ids stay below this where no embedding table was found."""
BATCH, SHORT, MIDDLE, LONG, LONGEST_TEXT = 4, 3, 9, 64, 128
EMPTY_ROW = "empty row"


@dataclass(frozen=True)
class Drawer:
    """Draws feeds for one encoder. ``pad_id``: ids that mean padding, where the pooling mask is read from the ids.
    ``prompt``: the input that says how many tokens of each row are a prompt's."""

    roles: Roles
    tables: Tables
    pad_id: int | None = None
    prompt: str | None = None
    fed: Drawer | None = None
    """As this one, and draws for inputs that have a default, too."""
    most: int | None = None
    """The longest sequence to draw where no table limits it."""

    @classmethod
    def of(cls, model: Model, roles: Roles, pad_id: int | None = None) -> Drawer:
        return cls(roles, tables_of(model, roles), pad_id)

    @property
    def has_mask(self) -> bool:
        """Whether feeds say which positions are padding."""
        return self.roles.mask is not None or self.pad_id is not None

    @property
    def fixed_batch(self) -> int | None:
        return self._fixed(0)

    @property
    def fixed_sequence(self) -> int | None:
        return self._fixed(1)

    @property
    def longest(self) -> int:
        """The longest sequence to draw: within the position table, and `LONG` at most."""
        return min(LONG, self.tables.longest or LONG, self.most or LONG)

    @property
    def longest_text(self) -> int:
        """As `longest`, for real text."""
        return min(LONGEST_TEXT, self.tables.longest or LONGEST_TEXT, self.most or LONGEST_TEXT)

    def kinds(self) -> Iterator[tuple[str, list[Mask]]]:
        """The masks of every kind of feed that this encoder's dims admit."""
        for name, draw in KINDS.items():
            rng = np.random.default_rng([ord(letter) for letter in name])
            masks = [self.fitted(mask) for mask in draw(rng, self.longest)]
            distinct = {(mask.shape, mask.tobytes()): mask for mask in masks}
            yield name, list(distinct.values())

    def feed(self, mask: Mask, seed: int) -> dict[str, np.ndarray]:
        """Arrays for every input, for one mask. The same seed gives the same ids at the same places."""
        rng = np.random.default_rng(seed)
        arrays: dict[str, np.ndarray] = {}
        if self.roles.ids is not None:
            arrays[self.roles.ids.name] = self._ids(rng, mask).astype(_numpy(self.roles.ids))
        if self.roles.mask is not None:
            drawn = is_mask_like(self.roles.mask)
            arrays[self.roles.mask.name] = (
                mask.astype(_numpy(self.roles.mask)) if drawn else self._other(rng, self.roles.mask, mask)
            )
        if self.roles.types is not None:
            types = rng.integers(0, self.tables.types or 1, size=mask.shape)
            arrays[self.roles.types.name] = np.where(mask, types, 0).astype(_numpy(self.roles.types))
        if self.roles.positions is not None:
            positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
            arrays[self.roles.positions.name] = positions.astype(_numpy(self.roles.positions))
        for value in self.roles.others:
            arrays[value.name] = self._other(rng, value, mask)
        if self.prompt is not None:
            lengths = prompt_lengths(mask)
            arrays[self.prompt] = np.full_like(arrays[self.prompt], lengths[(seed + int(mask.sum())) % len(lengths)])
        return arrays

    def mask_of(self, feed: Mapping[str, np.ndarray]) -> Mask | None:
        """Where a feed has tokens, ``[batch, seq]`` bool; None where the model takes no mask."""
        return None if self.roles.mask is None else feed[self.roles.mask.name] != 0

    def _ids(self, rng: np.random.Generator, mask: Mask) -> np.ndarray:
        size = self.tables.vocabulary or DEFAULT_VOCABULARY
        ids = rng.integers(0, size, size=mask.shape)
        if self.pad_id is None:
            return ids
        return np.where(mask, np.where(ids == self.pad_id, (ids + 1) % size, ids), self.pad_id)

    def _other(self, rng: np.random.Generator, value: Value, mask: Mask) -> np.ndarray:
        """An input of unknown role: batch and sequence by the names of their dims, other symbolic dims 1."""
        if value.dims is None or value.dtype in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING):
            raise UnsupportedModelError(f"there is no way to draw a value for the input {value}", "verify it with --texts")
        sizes = {dim: size for dim, size in zip(self._leading_dims(), mask.shape, strict=True) if isinstance(dim, str)}
        past = "past" in value.name
        shape = [dim if isinstance(dim, int) else sizes.get(dim, 0 if past else 1) if dim else 1 for dim in value.dims]
        if value.dims and not isinstance(value.dims[0], int) and not past and value.dims[0] not in sizes:
            shape[: min(2, len(shape))] = mask.shape[: min(2, len(shape))]
        if value.dtype in FLOATS:
            return rng.standard_normal(shape).astype(_numpy(value))
        return np.zeros(shape, dtype=_numpy(value))

    def _leading_dims(self) -> tuple[Dim, Dim]:
        for value in (self.roles.ids, self.roles.mask, *self.roles.others):
            if value is not None and value.dims is not None and len(value.dims) >= 2:
                return value.dims[0], value.dims[1]
        return None, None

    def _fixed(self, axis: int) -> int | None:
        dim = self._leading_dims()[axis]
        return dim if isinstance(dim, int) else None

    def fitted(self, mask: Mask) -> Mask:
        """``mask`` cut or repeated to the batch and sequence sizes that are baked into the model."""
        batch, sequence = self.fixed_batch or mask.shape[0], self.fixed_sequence or mask.shape[1]
        return np.resize(mask, (batch, sequence)) if mask.shape != (batch, sequence) else mask


def text_feed(drawer: Drawer, texts: Encoded) -> dict[str, np.ndarray]:
    """The arrays for tokenised texts, cut, padded and repeated to the sizes that the model takes."""
    feed = drawer.feed(_fitted(texts.mask, drawer), seed=0)
    roles = drawer.roles
    for value, array in ((roles.ids, texts.ids), (roles.types, texts.types)):
        if value is not None:
            feed[value.name] = _fitted(array, drawer).astype(feed[value.name].dtype)
    return feed


def _fitted(array: np.ndarray, drawer: Drawer) -> np.ndarray:
    """``[batch, seq]`` cut or filled up with zeros to a sequence size that is fixed, rows repeated to a batch size that is."""
    batch, sequence = drawer.fixed_batch or len(array), drawer.fixed_sequence or array.shape[1]
    filled = np.pad(array, ((0, 0), (0, max(sequence - array.shape[1], 0))))[:, :sequence]
    return np.resize(filled, (batch, sequence))


def blank_mask(drawer: Drawer) -> Mask:
    """One short row of tokens, in the sizes that the model takes."""
    return np.ones((drawer.fixed_batch or 1, drawer.fixed_sequence or SHORT), dtype=np.bool_)


def prompt_lengths(mask: Mask) -> list[int]:
    """None, a few tokens, whole rows and more."""
    return [1, 0, 2, mask.shape[1] - 1, mask.shape[1], mask.shape[1] + 3]


def padded_right(lengths: list[int], width: int | None = None) -> Mask:
    """Rows of these many tokens, then padding."""
    return np.arange(width or max(lengths))[None, :] < np.array(lengths)[:, None]


def _ragged(rng: np.random.Generator, most: int) -> list[int]:
    lengths = [int(length) for length in rng.integers(1, most + 1, size=BATCH)]
    lengths[0] = most
    return lengths


def _right(rng: np.random.Generator, longest: int) -> list[Mask]:
    return [padded_right(_ragged(rng, min(MIDDLE, longest)))]


def _left(rng: np.random.Generator, longest: int) -> list[Mask]:
    return [_right(rng, longest)[0][:, ::-1].copy()]


def _mixed(rng: np.random.Generator, longest: int) -> list[Mask]:
    mask = padded_right(_ragged(rng, min(MIDDLE, longest)), min(MIDDLE, longest) + (longest > MIDDLE))
    return [np.array([np.roll(row, rng.integers(0, max(len(row) - row.sum(), 0) + 1)) for row in mask])]


def _holes(rng: np.random.Generator, longest: int) -> list[Mask]:
    mask = rng.random((BATCH, min(MIDDLE, longest))) < 0.6
    mask[np.arange(BATCH), rng.integers(0, mask.shape[1], size=BATCH)] = True
    return [mask]


def _single(_: np.random.Generator, longest: int) -> list[Mask]:
    first = padded_right([1, 1], min(SHORT, longest))
    return [first, first[:, ::-1].copy()]


def _sequence_of_one(_: np.random.Generator, longest: int) -> list[Mask]:
    return [np.ones((BATCH, 1), dtype=np.bool_)]


def _batch_of_one(_: np.random.Generator, longest: int) -> list[Mask]:
    length = min(MIDDLE, longest)
    return [np.ones((1, length), dtype=np.bool_), padded_right([max(length - 3, 1)], length)]


def _empty_row(_: np.random.Generator, longest: int) -> list[Mask]:
    length = min(SHORT, longest)
    return [padded_right([length, 0, 1], length), np.zeros((1, length), dtype=np.bool_)]


def _long(_: np.random.Generator, longest: int) -> list[Mask]:
    return [padded_right([longest, max(longest // 2, 1)])]


KINDS: dict[str, Callable[[np.random.Generator, int], list[Mask]]] = {
    "right padding": _right,
    "left padding": _left,
    "mixed padding": _mixed,
    "holes": _holes,
    "single token": _single,
    "sequence of one": _sequence_of_one,
    "batch of one": _batch_of_one,
    EMPTY_ROW: _empty_row,
    "long": _long,
}
"""Every kind of feed: from a generator and the longest admissible sequence to masks."""


def _numpy(value: Value) -> np.dtype[np.generic]:
    return numpy_dtype(value.dtype)
