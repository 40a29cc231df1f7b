"""Feeds for an encoder: arrays for its inputs, drawn deterministically from its interface and its embedding tables.

A *mask* ``m [batch, seq]`` bool comes first. Ids lie within the vocabulary, lengths within the position table.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

import numpy as np
import onnx

from graphsurgery.encoder.limits import Tables, find_tables
from graphsurgery.encoder.roles import Roles, is_cache
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.interface import Dim, Value
from graphsurgery.model.dtypes import FLOATS, INTEGERS, to_numpy_dtype
from graphsurgery.model.model import Model
from graphsurgery.report import list_few
from graphsurgery.runtime.mask_forms import LENGTHS, NONZERO, can_say, decode_mask, encode_mask, list_possible_forms
from graphsurgery.runtime.masks import LONG, SHORT, Mask, Sizes, generate_longest_masks, generate_masks
from graphsurgery.runtime.media import Medium
from graphsurgery.runtime.texts import Encoded

DEFAULT_VOCABULARY = 20
"""The number of ids if no embedding table was found."""
LONGEST_TEXT = 128
"""The longest real text of the usual feeds, in tokens."""

WITHOUT_PADDING = "without padding"
MOST_UNREAD = 100
"""The upper limit of the integers that are drawn for inputs that possibly no node reads."""
UNUSED_COLUMNS = 3
"""The columns of the masks of pictures, which have no sequence: only the number of rows varies."""
MOST_LEADING, MOST_ELEMENTS = 1 << 22, 1 << 26
"""Limits on the product of an input's first two literal sizes, and on that of all. A larger input is not drawn."""

Size = TypeVar("Size")


@dataclass(frozen=True)
class FeedGenerator:
    """Generates feeds for one encoder."""

    roles: Roles
    tables: Tables
    pad_id: int | None = None
    """The id of padding, if the graph makes its pooling mask from the ids."""
    prompt: str | None = None
    """The name of the input that says how many tokens of each row belong to the prompt."""
    with_defaults: FeedGenerator | None = None
    """The same generator, which also feeds the inputs that have a default."""
    max_length: int | None = None
    """An upper limit on sequence lengths besides the tables'."""
    form: str = NONZERO
    """How the mask input says which positions are tokens: one of `mask_forms`."""
    unread: frozenset[str] = frozenset()
    """The inputs that possibly no node reads. They get arbitrary numbers."""
    ones: frozenset[str] = frozenset()
    """Inputs of unknown use that get ones: while they are zeros, they hide every token."""
    reach: tuple[int, int] | None = None
    """Tokens of the longest text of a whole proof, and positions of its longest text with padding in front. None if it has no
    text longer than `longest`."""
    baked: tuple[int | None, int | None] = (None, None)
    """The only batch size and the only sequence size at which the model runs although it declares them free; None for any."""
    media: tuple[Medium, ...] = ()
    """How the inputs of pictures and sound are drawn."""
    zeros: frozenset[str] = frozenset()
    """Inputs that get zeros, because another file that takes the same feeds has no such input."""
    without_padding: bool = False
    """Whether every position is a token, because another file that takes the same feeds cannot recognise padding."""

    @classmethod
    def for_model(cls, model: Model, roles: Roles, form: str = NONZERO) -> FeedGenerator:
        """Return a generator for the inputs of ``model``. Raises UnsupportedModelError if one is too large to be drawn."""
        require_drawable(model.interface.inputs)
        return cls(roles, find_tables(model, roles), form=form)

    @property
    def has_mask(self) -> bool:
        """Whether feeds say which positions are padding."""
        return not self.without_padding and (self.roles.mask is not None or self.pad_id is not None)

    @property
    def fixed_batch(self) -> int | None:
        return self._fixed(0)

    @property
    def fixed_sequence(self) -> int | None:
        return self._fixed(1)

    @property
    def sizes(self) -> Sizes:
        """The sizes that the model takes: those that are fixed, and the longest sequence to draw (`LONG` at most)."""
        return Sizes(self.fixed_batch, self.fixed_sequence, self._limited(LONG))

    @property
    def longest(self) -> int:
        """The longest sequence of the usual feeds."""
        return self.limit_length(LONG)

    @property
    def longest_text(self) -> int:
        """The longest sequence of the usual feeds from real text."""
        return self.limit_length(LONGEST_TEXT)

    def limit_length(self, tokens: int) -> int:
        """Return the sequence length to draw if ``tokens`` are wanted: the fixed one, or the longest that the model takes."""
        return self.fixed_sequence or self._limited(tokens)

    def _limited(self, tokens: int) -> int:
        return min(tokens, self.tables.longest or tokens, self.max_length or tokens)

    def generate_masks(self, longest: bool = False) -> Iterator[tuple[str, list[Mask]]]:
        """Yield every kind of feed that the encoder's sizes admit, with its masks. ``longest`` adds the kinds of `reach`."""
        kinds = [generate_masks(self.sizes)]
        if longest and self.reach is not None:
            kinds.append(generate_longest_masks(self.sizes, *self.reach))
        if self.without_padding:
            shapes = dict.fromkeys(mask.shape for _, masks in chain.from_iterable(kinds) for mask in masks)
            yield WITHOUT_PADDING, [np.ones(shape, dtype=np.bool_) for shape in shapes]
            return
        form = self.form if self.waveform is None else LENGTHS  # clips are padded at the end
        for kind, masks in chain.from_iterable(kinds):
            said = [mask for mask in masks if self.roles.mask is None or can_say(mask, form)]
            if said:
                yield kind, said

    def generate(self, mask: Mask, seed: int) -> dict[str, np.ndarray]:
        """Return arrays for every input, for one mask. The same seed gives the same ids at the same places."""
        rng = np.random.default_rng(seed)
        arrays: dict[str, np.ndarray] = {}
        if self.roles.ids is not None:
            arrays[self.roles.ids.name] = self._draw_ids(rng, mask).astype(_numpy(self.roles.ids))
        if self.roles.mask is not None:
            is_usual = self.form in list_possible_forms(self.roles.mask)
            arrays[self.roles.mask.name] = (
                encode_mask(self._widen(mask), self.form, self.roles.mask)
                if is_usual
                else self._draw_other(rng, self.roles.mask, mask)
            )
        if self.roles.types is not None:
            types = rng.integers(0, self.tables.types or 1, size=mask.shape)
            arrays[self.roles.types.name] = np.where(mask, types, 0).astype(_numpy(self.roles.types))
        if self.roles.positions is not None:
            positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
            arrays[self.roles.positions.name] = positions.astype(_numpy(self.roles.positions))
        for value in self.roles.others:
            arrays[value.name] = self._draw_other(rng, value, mask)
        if self.prompt is not None:
            lengths = list_prompt_lengths(mask)
            arrays[self.prompt] = np.full_like(arrays[self.prompt], lengths[(seed + int(mask.sum())) % len(lengths)])
        return arrays | {name: np.zeros_like(arrays[name]) for name in self.zeros}

    @property
    def has_rows(self) -> bool:
        """Return whether some input has a text in each row, so that `cut_feed` can take one text."""
        batch, _ = self._leading_dims()
        return isinstance(batch, str) or bool(self.roles.known)

    @property
    def has_texts(self) -> bool:
        """Return whether some input may have a text or a clip in each row, ``[batch, seq]`` or ``[batch, seq, dim]``.

        Pictures and spectrograms have no sequence, and a flat list of ids has one dim.
        """
        still = {medium.name for medium in self.media if not medium.has_columns}
        inputs = (*self.roles.known, *self.roles.others)
        return any(value.rank in (2, 3, None) for value in inputs if value.name not in still)

    @property
    def waveform(self) -> Medium | None:
        """The waveform whose frames are the columns of masks; None for a model of texts."""
        return next((one for one in self.media if one.has_columns), None) if self.roles.ids is None else None

    def count_columns(self, size: int) -> int:
        """Return how many columns of a mask an input of ``size`` positions has: frames of a waveform, tokens of a text."""
        return size if self.waveform is None else self.waveform.count_frames(size)

    @property
    def unit(self) -> str:
        """The word for what a row of a feed holds: a text, a clip, or what its medium is called."""
        if self.roles.ids is not None or not self.media:
            return "text"
        return "clip" if self.waveform is not None else self.media[0].kind

    def cut_feed(self, feed: Mapping[str, np.ndarray], row: int, positions: slice) -> dict[str, np.ndarray]:
        """Return a feed for one row of ``feed`` and, in texts, some of its positions. Other inputs stay as they are."""
        part = dict(feed)
        by_role = {value.name for value in self.roles.known}
        values = {value.name: value for value in (*self.roles.known, *self.roles.others)}
        batch, sequence = self._leading_dims()
        has_positions = isinstance(sequence, str) and self.has_texts
        for name, value in values.items():
            dims = value.dims or ()
            if name == self.prompt or part[name].ndim == 0:
                continue
            if name in by_role or (dims[:1] == (batch,) and isinstance(batch, str)):
                part[name] = part[name][row : row + 1]
            if part[name].ndim > 1 and self.waveform is not None:
                columns = self.count_columns(part[name].shape[-1])
                part[name] = part[name][..., self.waveform.find_samples(positions, columns)] if has_positions else part[name]
            elif part[name].ndim > 1 and (name in by_role or (has_positions and dims[1:2] == (sequence,))):
                part[name] = part[name][:, positions]
        return part

    @property
    def baked_in(self) -> list[str]:
        """A sentence about the only sizes at which the model runs, if it declares others."""
        where = [] if self.baked == (None, None) else [describe_texts(*self.baked)]
        where += [f"on {one.kind}s of {' x '.join(map(str, one.sizes))}" for one in self.media if one.only]
        return [f"the model runs only {one}, although the file declares that any size will do" for one in where]

    @property
    def left_out(self) -> list[str]:
        """A sentence about the inputs that always get the same numbers. The proof cannot find faults that depend on them."""
        known = {self.prompt, *self.unread, *(medium.name for medium in self.media)}
        integers = [value for value in self.roles.others if value.dtype not in FLOATS and value.name not in known]
        types = [self.roles.types] if self.roles.types is not None and self.tables.types is None else []
        fed: dict[str, list[str]] = {}
        for value in (*integers, *types):
            fed.setdefault(self._describe_numbers(value), []).append(value.name)
        return [f"input {list_few(names)}: its use is not known, so only {fill} were fed" for fill, names in fed.items()]

    def _describe_numbers(self, value: Value) -> str:
        if value.name in self.ones:
            return "ones"
        return "0, 1, 2, ..." if self.is_counted(value) else "zeros"

    def find_mask(self, feed: Mapping[str, np.ndarray]) -> Mask | None:
        """Return where a feed has tokens, ``[batch, seq]`` bool, or None if the model takes no mask of that shape."""
        if self.roles.mask is None or self.form not in list_possible_forms(self.roles.mask):
            return None
        length = feed[self.roles.ids.name].shape[1] if self.roles.ids is not None else self.fixed_sequence or 0
        mask = decode_mask(feed[self.roles.mask.name], self.form, length)
        return mask if mask.ndim == 2 else None

    def _draw_ids(self, rng: np.random.Generator, mask: Mask) -> np.ndarray:
        size = self.tables.vocabulary or DEFAULT_VOCABULARY
        ids = rng.integers(0, size, size=mask.shape)
        end = self.tables.end_id
        for special in {self.pad_id, end} - {None}:
            ids = np.where(ids == special, (ids + 1) % size, ids)
        if end is not None:  # the last token ends the text: the graph takes the vector of its position
            is_last = mask & (np.cumsum(mask, axis=1) == mask.sum(axis=1, keepdims=True))
            ids = np.where(is_last, end, ids)
        return ids if self.pad_id is None else np.where(mask, ids, self.pad_id)

    def _draw_other(self, rng: np.random.Generator, value: Value, mask: Mask) -> np.ndarray:
        """Draw an input of unknown role. Dims named as batch and sequence get those sizes, other symbolic ones 1."""
        if value.dims is None or value.dtype in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING):
            raise UnsupportedModelError(f"there is no way to draw a value for the input {value}", "verify it with --texts")
        shape = self.list_sizes(value, *mask.shape)
        medium = self.find_medium(value)
        if medium is not None:
            return medium.draw(rng, value, tuple(shape), mask, silent=self.roles.mask is None)
        if value.dtype in FLOATS:
            return rng.standard_normal(shape).astype(_numpy(value))
        if value.name in self.unread:
            return rng.integers(0, MOST_UNREAD, size=shape).astype(_numpy(value))
        if self.is_counted(value):
            return np.arange(shape[0]).astype(_numpy(value))
        return np.full(shape, value.name in self.ones, dtype=_numpy(value))

    def list_sizes(self, value: Value, rows: Size, columns: Size) -> list[int | Size]:
        """Return the sizes of an input of unknown role, for ``rows`` texts of ``columns`` tokens. The names of its dims tell
        which is which. A key-value cache is empty, and other symbolic dims are 1."""
        dims, medium = value.dims or (), self.find_medium(value)
        if medium is not None:
            length = [medium.count_samples(columns) if isinstance(columns, int) else columns] * medium.has_columns
            drawn = (rows, *medium.sizes, *length)
            return [dim if isinstance(dim, int) else size for dim, size in zip(dims, drawn, strict=True)]
        sounds = self.waveform  # a dim with the name of the dim of samples counts samples as well
        many = columns if sounds is None or not isinstance(columns, int) else sounds.count_samples(columns)
        leading = zip(self._leading_dims(), (rows, many), strict=True)
        sizes: dict[Dim, int | Size] = {dim: size for dim, size in leading if isinstance(dim, str)}
        is_past = "past" in value.name or is_cache(value)
        found = [dim if isinstance(dim, int) else sizes.get(dim, 0 if is_past else 1) if dim else 1 for dim in dims]
        if dims and not isinstance(dims[0], int) and not is_past and dims[0] not in sizes:
            usual = zip(dims, (rows, columns), strict=False)
            found[:2] = [dim if isinstance(dim, int) else size for dim, size in usual]
        return found

    def is_counted(self, value: Value) -> bool:
        """Return whether an input is fed 0, 1, 2, ...: integers ``[n]`` of a model without ids ``[batch, seq]``.

        They are valid token ids, and valid offsets at which the texts of a flat list of ids begin: one token in each text.
        """
        return self.roles.ids is None and value.dtype in INTEGERS and value.rank == 1 and value.name != self.prompt

    def find_medium(self, value: Value) -> Medium | None:
        """Return how an input of pictures or sound is drawn; None for any other input."""
        return next((one for one in self.media if one.name == value.name), None)

    def _widen(self, mask: Mask) -> Mask:
        """Return the mask of the samples of a waveform for the mask of its frames, and that of a text as it is."""
        medium = self.waveform
        value = next((one for one in self.roles.others if medium is not None and one.name == medium.name), None)
        if medium is None or value is None:
            return mask
        (*_, samples) = self.list_sizes(value, 1, mask.shape[1])
        return mask[:, medium.list_places(samples, mask.shape[1])]

    def _leading_dims(self) -> tuple[Dim, Dim]:
        """Return the dims of the batch and of the sequence. That of pictures is None, because they have no sequence."""
        for value in (self.roles.ids, self.roles.mask, *self.roles.others):
            if value is not None and value.dims is not None and len(value.dims) >= 2:
                medium = self.find_medium(value)
                sequence = value.dims[1] if medium is None else value.dims[-1] if medium.has_columns else None
                return value.dims[0], sequence
        return None, None

    def _fixed(self, axis: int) -> int | None:
        dim = self._leading_dims()[axis]
        if axis == 1 and not self.has_texts and self.media:
            return UNUSED_COLUMNS
        return self.baked[axis] if not isinstance(dim, int) else self.count_columns(dim) if axis == 1 else dim


def describe_texts(batch: int | None, sequence: int | None) -> str:
    """Describe texts in batches of ``batch``, if that is given, of ``sequence`` tokens, if that is given."""
    length = [f"of {sequence} token{'s' * (sequence != 1)}"] if sequence is not None else []
    rows = "on texts" if batch is None else f"in batches of {batch} text{'s' * (batch != 1)}"
    return " ".join((rows, *length))


def require_drawable(inputs: Sequence[Value]) -> None:
    """Raise UnsupportedModelError for an input that would fill the memory."""
    for value in inputs:
        sizes = [dim if isinstance(dim, int) else 1 for dim in value.dims or ()]
        if math.prod(sizes[:2]) > MOST_LEADING or math.prod(sizes) > MOST_ELEMENTS:
            raise UnsupportedModelError(f"the input {value} is too large to be drawn", "compare the files by other means")


def generate_text_feeds(generator: FeedGenerator, texts: Encoded) -> list[dict[str, np.ndarray]]:
    """Return the arrays for tokenised texts.

    Each text is padded on the tokenizer's side up to a fixed sequence size. A fixed batch size gives several feeds, and so do
    texts of several lengths if the generator makes feeds without padding.
    """
    if generator.without_padding and not texts.mask.all():
        return [feed for row in range(len(texts.ids)) for feed in generate_text_feeds(generator, texts.take([row]))]
    padded = texts if generator.fixed_sequence is None else texts.pad_to(generator.fixed_sequence)
    batches = generator.sizes.split_into_batches(np.arange(len(padded.ids)))
    return [_feed_texts(generator, padded.select(rows)) for rows in batches]


def _feed_texts(generator: FeedGenerator, texts: Encoded) -> dict[str, np.ndarray]:
    feed = generator.generate(texts.mask, seed=0)
    for value, array in ((generator.roles.ids, texts.ids), (generator.roles.types, texts.types)):
        if value is not None and value.name not in generator.zeros:
            feed[value.name] = array.astype(feed[value.name].dtype)
    return feed


def make_short_mask(generator: FeedGenerator) -> Mask:
    """Return a mask of tokens alone, one short row unless the model has fixed sizes."""
    return np.ones((generator.fixed_batch or 1, generator.fixed_sequence or SHORT), dtype=np.bool_)


def list_prompt_lengths(mask: Mask) -> list[int]:
    """Return the prompt lengths to feed with ``mask``: 0, a few tokens, whole rows, and more than a row has."""
    return [1, 0, 2, mask.shape[1] - 1, mask.shape[1], mask.shape[1] + 3]


def _numpy(value: Value) -> np.dtype[np.generic]:
    return to_numpy_dtype(value.dtype)
