"""The feeds of a head alone: every kind of mask, and values that no encoder would give."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import onnx

from graphsurgery.errors import require_value
from graphsurgery.interface import Value
from graphsurgery.model.dtypes import FLOATS, to_numpy_dtype
from graphsurgery.proof.pictures import ImageFeed, draw_images
from graphsurgery.references.reference import Values
from graphsurgery.runtime.feeds import FeedGenerator, list_prompt_lengths, make_short_mask
from graphsurgery.runtime.mask_forms import ADDITIVE, LENGTHS, can_say
from graphsurgery.runtime.masks import EMPTY_ROW, HOLES, LEFT, RIGHT, Mask, make_mask

SEEDS = 2
LARGE = 3e4
"""The scale of hidden states near the end of float16's range, where a sum of a few in float16 overflows."""
LOWEST, LOWEST_MULTIPLIED = -1e36, -1e10
"""Lower than any number that a head might take for the lowest; for a head that multiplies, still small enough to be squared in
float32."""
BENT = 8.0
"""The largest values for a head that saturates, and the negative of the lowest ones."""
SMALL = 3e-3
"""Values whose squares are about as large as the epsilon of layer normalisation; and values near 0 have signs, too."""
TINY = 1e-13
"""Values whose vectors are shorter than the smallest divisor of a normalisation."""
SOUNDS = {
    "quiet sound": (1e-3, 0.0), "loud sound": (3e4, 0.0), "sound with an offset": (1.0, 5.0),
    "quiet sound with an offset": (0.01, 0.3), "constant sound": (0.0, 0.3), "silence": (0.0, 0.0),
}  # fmt: skip
"""The scale and the offset of sounds."""
BEHIND = {"NaN behind a clip": np.float32(np.nan), "1e9 behind a clip": np.float32(1e9)}
MANY = 256
"""The number of rows. Bytes and signs jump at a value, and only the few rows near the jump show a fault."""
VERY_LONG, SHORTER, MOST_NUMBERS = 2817, 257, 1 << 20
"""Numbers of tokens that float16 and bfloat16 cannot count, and an upper limit on the numbers that are drawn."""
ALTERNATING = np.array([[1, 0, 1, 0, 1, 0, 1], [0, 0, 1, 0, 0, 1, 1], [1, 0, 0, 0, 1, 1, 0]], dtype=np.bool_)
"""Masks with holes within any prompt."""
ODD_INTEGERS = (2, -1, 256, 1 << 32, 100, 3)
ODD_FLOATS = (2.0, -1.0, 0.5, 1e-6, 256.0, 1e-30)
ODD_ADDED = (-np.inf, -100.0, -1e9, -65504.0, -3.4e38)
"""True values of a mask other than 1, and numbers that an additive mask adds at padding. Those that an element type cannot hold
are left out."""


@dataclass(frozen=True)
class HeadFeeds:
    """Draws feeds for a head that starts from ``values``. Those that are inputs of the model come from ``generator``."""

    values: Sequence[Value]
    generator: FeedGenerator
    widths: Mapping[str, int]
    """The last dim of each of them."""
    masked: bool
    """Whether the mask makes a difference."""
    padded: bool
    """Whether the values at padding must make no difference."""
    multiplies: bool
    """Whether the head multiplies values with each other or with weights, so that the largest floats would overflow."""
    saturates: bool = False
    """Whether the head saturates after that, so that for large values only rounding would be compared."""
    per_token: Collection[str] = ()
    """Those of ``values`` that hold one number of 0 or more per token, 0 at padding: ``[batch, seq]``."""
    any_integers: bool = False
    """Whether integers that no encoder would take are fed as well, because a conversion must hold for all of them."""
    images: ImageFeed | None = None
    """The input of pictures that the head processes, if any."""
    only_images: bool = False
    """Whether the head starts from pictures alone, so that masks and hidden states make no difference."""
    pooled: Callable[[Values, Mask], Mask] | None = None
    """Finds the tokens that are pooled, if not all are. The values at the others must make no difference either."""
    sounds: Mapping[str, Callable[[Values], Mask]] = field(default_factory=dict)
    """The inputs of waveforms that the head normalises. Each function finds a clip's own samples, ``[batch, samples]``."""

    def generate_cases(self) -> Iterator[tuple[str, list[Values]]]:
        """Yield feeds by kind: pictures, masks of every kind on normally distributed values, then unusual values and masks."""
        yield from self._generate_images()
        if self.only_images:
            return
        masks = dict(self.generator.generate_masks())
        for kind, some in masks.items():
            yield kind, [self._generate(mask, seed) for mask in some for seed in range(SEEDS)]
        ragged = masks.get(HOLES) or masks.get(LEFT) or masks.get(RIGHT) or [make_short_mask(self.generator)]
        yield from self._generate_around_padding([*ragged, *masks[EMPTY_ROW]])
        if self.any_integers:
            yield "any integers", [self._generate_any_integers(mask, seed) for seed, mask in enumerate(ragged * SEEDS)]
        padded = [*ragged, *masks.get(LEFT, [])]
        if self.generator.prompt is not None:
            prompts = [(mask, length) for mask in (*padded, *masks[EMPTY_ROW]) for length in list_prompt_lengths(mask)]
            yield "prompt lengths", [self._generate_with_prompt(mask, length) for mask, length in prompts]
        if self.pooled is not None:
            some = [*padded, *self._make_alternating_masks()]
            yield (
                "NaN in the prompt",
                [self._generate(mask, seed, padding=np.nan) for mask in some for seed in range(3 * SEEDS)],
            )
        yield from self._generate_sounds([*ragged, *masks[EMPTY_ROW]])
        lowest = -BENT if self.saturates else LOWEST_MULTIPLIED if self.multiplies else LOWEST
        for kind, scale, shift in (
            ("large values", BENT if self.saturates else LARGE, 0.0),
            ("zeros", 0.0, 0.0),
            ("all negative", 1.0, -8.0),
            ("lowest values", lowest / -10, lowest),
            ("small values", SMALL, 0.0),
            ("tiny values", TINY, 0.0),
        ):
            yield kind, [self._generate(mask, scale=scale, shift=shift) for mask in ragged]
        images = self.images
        largest = max([*self.widths.values(), 1 if images is None else 3 * math.prod(images.processed)])
        most = max(MOST_NUMBERS // largest, 1)
        sizes = self.generator.sizes
        many = make_mask([1] * min(MANY, most), self.generator.fixed_sequence)
        yield "many rows", [self._generate(mask) for mask in sizes.split_into_batches(many)]
        if self.generator.fixed_sequence is None:
            lengths = [min(length, most) for length in (VERY_LONG, SHORTER)]
            some = [mask for length in lengths for mask in sizes.split_into_batches(make_mask([length]))]
            yield "very long", [self._generate(mask, shift=3.0, waves=True) for mask in some]

    def _generate_images(self) -> Iterator[tuple[str, list[Values]]]:
        """Yield pictures of many sizes, two in a batch, if the head processes any."""
        images = self.images
        if images is None:
            return
        mask = make_mask([1] * (self.generator.fixed_batch or 2), self.generator.fixed_sequence)
        for kind, sizes in images.list_sizes():
            feeds = [self._generate(mask, seed) for seed in range(len(sizes))]
            rows = [len(feed[images.name]) for feed in feeds]
            drawn = [draw_images(np.random.default_rng(seed), rows[seed], *size) for seed, size in enumerate(sizes)]
            yield f"pictures: {kind}", [feed | {images.name: some} for feed, some in zip(feeds, drawn, strict=True)]

    def _make_alternating_masks(self) -> list[Mask]:
        """Return `ALTERNATING` with padding behind it; an empty list if the sequence is too short for it."""
        missing = (self.generator.fixed_sequence or ALTERNATING.shape[1]) - ALTERNATING.shape[1]
        if missing < 0:
            return []
        masks = self.generator.sizes.split_into_batches(np.pad(ALTERNATING, ((0, 0), (0, missing))))
        return [mask for mask in masks if can_say(mask, self.generator.form)]

    def _generate_any_integers(self, mask: Mask, seed: int) -> Values:
        """Return a feed with integers over the whole range of int32 in every input of ids, types and positions."""
        rng = np.random.default_rng(seed)
        feed, roles = self._generate(mask, seed), self.generator.roles
        for value in (roles.ids, roles.types, roles.positions):
            if value is not None:
                bounds = np.iinfo(np.int32)
                feed[value.name] = rng.integers(bounds.min, bounds.max, mask.shape).astype(feed[value.name].dtype)
        return feed

    def _generate_with_prompt(self, mask: Mask, length: int) -> Values:
        feed, prompt = self._generate(mask), require_value(self.generator.prompt, "the input of prompt lengths")
        return feed | {prompt: np.full_like(feed[prompt], length)}

    def _generate_sounds(self, masks: Sequence[Mask]) -> Iterator[tuple[str, list[Values]]]:
        """Yield quiet and loud sounds, with and without an offset, and what may lie behind a clip."""
        drawn = [self._generate(mask, seed) for seed, mask in enumerate(masks)]
        for name, find_own in self.sounds.items():
            for kind, (scale, offset) in SOUNDS.items():
                yield kind, [feed | {name: (feed[name] * scale + offset).astype(feed[name].dtype)} for feed in drawn]
            own = [find_own(feed).reshape(feed[name].shape) for feed in drawn]
            for kind, behind in BEHIND.items():
                yield kind, [feed | {name: np.where(m, feed[name], behind)} for feed, m in zip(drawn, own, strict=True)]

    def _generate_around_padding(self, masks: Sequence[Mask]) -> Iterator[tuple[str, list[Values]]]:
        if self.masked:
            some = [self._generate(mask, odd_mask=turn) for mask in masks for turn in range(len(ODD_INTEGERS))]
            yield "mask values other than 1", some
        if self.padded:
            yield "NaN at padding", [self._generate(mask, padding=np.nan) for mask in masks]
            yield "infinity at padding", [self._generate(mask, padding=np.inf) for mask in masks]

    def _generate(
        self, mask: Mask, seed: int = 0, *, scale: float = 1.0, shift: float = 0.0, padding: float | None = None,
        odd_mask: int | None = None, waves: bool = False,
    ) -> Values:  # fmt: skip
        rng = np.random.default_rng(seed + 1)
        inputs = self.generator.generate(mask, seed)
        role = self.generator.roles.mask
        if odd_mask is not None and role is not None:
            inputs[role.name] = _vary_mask(inputs[role.name], role, odd_mask, self.generator.form)
        drawn: Values = {}
        for value in self.values:
            if value.name in inputs:
                continue
            if value.name in self.per_token:
                drawn[value.name] = _draw_token_weights(rng, mask)
                continue
            kind, width = _choose_float_dtype(value), self.widths[value.name]
            numbers = rng.standard_normal((*mask.shape, width) if value.rank != 2 else (len(mask), width))
            numbers = numbers * (max(scale, _find_smallest_size(kind)) if scale else 0.0) + shift
            if waves and numbers.ndim == 3:
                numbers[..., ::2] = _make_square_waves(mask.shape[1], width)[:, ::2]
            if padding is not None and numbers.ndim == 3:
                numbers[~(mask if self.pooled is None else self.pooled(inputs, mask))] = padding
            drawn[value.name] = _cut_to_range(numbers, kind)
        return inputs | drawn


def _draw_token_weights(rng: np.random.Generator, mask: Mask) -> np.ndarray:
    """Return a weight for each token, 0 at padding and for one token in eight: ``[batch, seq]`` float32."""
    weights = rng.uniform(0.1, 4, size=mask.shape) * (rng.random(mask.shape) < 7 / 8)
    return np.where(mask, weights, 0).astype(np.float32)


def _make_square_waves(length: int, width: int) -> np.ndarray:
    """Return 1 and -1 in turns, ``[length, width]``. Over these, the rounding of positions does not average out."""
    periods = 4 << (np.arange(width) // 2 % 4)
    return np.where(np.arange(length)[:, None] % periods < periods // 2, 1.0, -1.0)


def _find_smallest_size(kind: Any) -> float:
    """Return a small size at which values of this type still have a few digits."""
    return 16 * float(_finfo(kind).smallest_subnormal)


def _cut_to_range(drawn: np.ndarray, kind: Any) -> np.ndarray:
    """Return ``drawn`` as ``kind``, with finite values cut to its range."""
    largest = float(_finfo(kind).max)
    return np.where(np.isfinite(drawn), np.clip(drawn, -largest, largest), drawn).astype(kind)


def _finfo(kind: Any) -> Any:
    """Return ``np.finfo``, also for bfloat16."""
    finfo: Any = ml_dtypes.finfo
    return finfo(kind)


def _vary_mask(mask: np.ndarray, role: Value, turn: int, form: str) -> np.ndarray:
    """Return the same mask with true values other than 1, as far as its type has them, the first at place ``turn``."""
    if mask.dtype == np.bool_ or form == LENGTHS:
        return mask
    if form == ADDITIVE:
        words = [word for word in ODD_ADDED if np.asarray(word, dtype=mask.dtype) != 0]
    elif role.dtype in FLOATS:
        words = [word for word in ODD_FLOATS if np.asarray(word, dtype=mask.dtype) != 0]
    else:
        bounds = np.iinfo(mask.dtype)
        words = [word for word in ODD_INTEGERS if bounds.min <= word <= bounds.max]
    placed = np.resize(np.roll(np.array(words, dtype=mask.dtype), turn), mask.shape)
    return np.where(mask != 0, placed, np.zeros_like(mask))


def _choose_float_dtype(value: Value) -> Any:
    if value.dtype == onnx.TensorProto.BFLOAT16:
        return ml_dtypes.bfloat16
    return to_numpy_dtype(value.dtype) if value.dtype in FLOATS else np.dtype(np.float32)
