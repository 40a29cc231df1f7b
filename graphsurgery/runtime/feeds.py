"""What to feed an encoder: inputs drawn deterministically from its interface and its embedding tables.

A *mask* ``m [batch, seq]`` bool is drawn first; ids lie within the vocabulary, lengths within the position table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from graphsurgery.encoder.roles import Roles, is_mask_like
from graphsurgery.encoder.tables import Tables, find_tables
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.interface import Dim, Value
from graphsurgery.model.dtypes import FLOATS, numpy_dtype
from graphsurgery.model.model import Model
from graphsurgery.runtime.masks import LONG, SHORT, Mask, Sizes, longest_masks, masks_of
from graphsurgery.runtime.texts import Encoded

DEFAULT_VOCABULARY = 20
"""Ids stay below this where no embedding table was found."""
LONGEST_TEXT = 128


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
    reach: tuple[int, int] | None = None
    """How many tokens the longest text of a whole proof has, and how many positions the longest one with padding in front; None
    where it has none longer than `longest`."""

    @classmethod
    def of(cls, model: Model, roles: Roles, pad_id: int | None = None) -> Drawer:
        return cls(roles, find_tables(model, roles), pad_id)

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
    def sizes(self) -> Sizes:
        """What the model takes: sizes that are baked in, and the longest sequence to draw (`LONG` at most)."""
        return Sizes(self.fixed_batch, self.fixed_sequence, self._within(LONG))

    @property
    def longest(self) -> int:
        """The longest sequence of the usual feeds."""
        return self.fixed_sequence or self._within(LONG)

    @property
    def longest_text(self) -> int:
        """As `longest`, for real text."""
        return self.fixed_sequence or self._within(LONGEST_TEXT)

    def _within(self, tokens: int) -> int:
        return min(tokens, self.tables.longest or tokens, self.most or tokens)

    def kinds(self) -> Iterator[tuple[str, list[Mask]]]:
        """The masks of every kind of feed that this encoder's dims admit."""
        yield from masks_of(self.sizes)

    def every_kind(self) -> Iterator[tuple[str, list[Mask]]]:
        """As `kinds`, and the longest texts where they have been found."""
        yield from self.kinds()
        if self.reach is not None:
            yield from longest_masks(self.sizes, *self.reach)

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

    @property
    def left_out(self) -> list[str]:
        """Inputs that are fed nothing but zeros, in words: a fault in what they do is not seen."""
        integers = [value for value in self.roles.others if value.dtype not in FLOATS and value.name != self.prompt]
        types = [self.roles.types] if self.roles.types is not None and self.tables.types is None else []
        return [f"input {value.name}: its use is not known, so only zeros were fed" for value in (*integers, *types)]

    def mask_of(self, feed: Mapping[str, np.ndarray]) -> Mask | None:
        """Where a feed has tokens, ``[batch, seq]`` bool; None where the model takes no mask of that shape."""
        mask = None if self.roles.mask is None else feed[self.roles.mask.name] != 0
        return mask if mask is not None and mask.ndim == 2 else None

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


def text_feeds(drawer: Drawer, texts: Encoded) -> list[dict[str, np.ndarray]]:
    """The arrays for tokenised texts: each is padded on the tokenizer's side to a sequence size that is baked in; where the
    batch size is, there are several feeds."""
    fitted = texts if drawer.fixed_sequence is None else texts.as_wide_as(drawer.fixed_sequence)
    rows = drawer.sizes.batches(np.arange(len(fitted.ids)))
    return [_text_feed(drawer, fitted.rows(chosen)) for chosen in rows]


def _text_feed(drawer: Drawer, texts: Encoded) -> dict[str, np.ndarray]:
    feed = drawer.feed(texts.mask, seed=0)
    for value, array in ((drawer.roles.ids, texts.ids), (drawer.roles.types, texts.types)):
        if value is not None:
            feed[value.name] = array.astype(feed[value.name].dtype)
    return feed


def blank_mask(drawer: Drawer) -> Mask:
    """One short row of tokens, in the sizes that the model takes."""
    return np.ones((drawer.fixed_batch or 1, drawer.fixed_sequence or SHORT), dtype=np.bool_)


def prompt_lengths(mask: Mask) -> list[int]:
    """None, a few tokens, whole rows and more."""
    return [1, 0, 2, mask.shape[1] - 1, mask.shape[1], mask.shape[1] + 3]


def _numpy(value: Value) -> np.dtype[np.generic]:
    return numpy_dtype(value.dtype)
