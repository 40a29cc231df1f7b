"""Feeds for the proof of a mending edit: at the sizes that it frees, with the masks that it lets hide frames, and louder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain as join

import numpy as np
import onnx

from graphsurgery.interface import Value
from graphsurgery.model.dtypes import INTEGERS, to_numpy_dtype
from graphsurgery.references.chain import Chain
from graphsurgery.references.reference import Values
from graphsurgery.runtime.feeds import FeedGenerator
from graphsurgery.runtime.masks import make_mask

OF_MASKS = INTEGERS | {onnx.TensorProto.BOOL}
SHAPES = ((1, 1), (1, 8), (3, 8), (4, 7))
"""Rows and columns of the feeds with masks. In a batch of one with a single frame, the source itself is right."""
LOUDER = 8.0
"""Pixels and sounds are fed this many times as large as usual, which half precision still holds."""
RETYPED, TO_FLOATS = "input-type", "float32"
Sizes = Mapping[tuple[str, int], int]
"""Sizes of inputs, by name and axis."""


def list_mended_cases(generator: FeedGenerator, chain: Chain) -> list[tuple[str, list[Values]]]:
    """Return the feeds for the mending edits of ``chain``, by kind; none without such an edit."""
    kinds = (_list_mask_cases(generator, chain), _list_size_cases(generator, chain), _list_loud_cases(generator, chain))
    return list(join.from_iterable(kinds))


def _list_mask_cases(generator: FeedGenerator, chain: Chain) -> Iterator[tuple[str, list[Values]]]:
    """Yield feeds whose marks are ones in front, behind, and anywhere, because nothing says which of them means padding."""
    if not any(link.reference.substitutes(link.parameters) for link in chain):
        return
    marks = _list_marks(generator)
    if not marks:
        return
    for kind, place in (("marks in front", 0), ("marks behind", 1), ("marks anywhere", 2)):
        feeds = []
        for seed, (rows, columns) in enumerate(SHAPES):
            mask = np.ones((generator.fixed_batch or rows, generator.fixed_sequence or columns), dtype=np.bool_)
            feed: Values = generator.generate(mask, seed)
            feed |= {one.name: _mark(one, feed[one.name].shape, place, seed) for one in marks}
            feeds.append(feed)
        yield kind, feeds


def _list_marks(generator: FeedGenerator) -> list[Value]:
    """Return the inputs that may say which samples or frames are padding."""
    values = (*generator.roles.others, *([generator.roles.mask] if generator.roles.mask is not None else []))
    return [one for one in values if one.dtype in OF_MASKS and one.rank == 2]


def list_left_out(generator: FeedGenerator, chain: Chain) -> list[str]:
    """Return a sentence about the inputs that get the same numbers in every feed, those of `list_mended_cases` too."""
    if not any(link.reference.substitutes(link.parameters) for link in chain):
        return generator.left_out
    fed = {one.name for one in _list_marks(generator)}
    others = tuple(one for one in generator.roles.others if one.name not in fed)
    return replace(generator, roles=replace(generator.roles, others=others)).left_out


def _mark(value: Value, shape: tuple[int, ...], place: int, seed: int) -> np.ndarray:
    """Return 0 and 1 in a ``shape [batch, seq]``: ones in front, behind, or anywhere."""
    rows, columns = shape
    first = make_mask([max(columns - row * columns // 3, 1) for row in range(rows)], columns)
    anywhere = np.random.default_rng(seed).random(shape) < 0.5
    return (first, ~first, anywhere)[place].astype(to_numpy_dtype(value.dtype))


def _list_size_cases(generator: FeedGenerator, chain: Chain) -> Iterator[tuple[str, list[Values]]]:
    """Yield feeds at the sizes that the source declares, and at those at which the edit has tried it."""
    for link, behind in chain.walk_inputs_from_output():
        if not link.reference.lifts(link.parameters):
            continue
        sizes = [(behind(one.name), one.axis, (one.own, *one.others)) for one in link.parameters["sizes"]]
        own, *others = [{(name, axis): numbers[place] for name, axis, numbers in sizes} for place in range(3)]
        yield "at the declared sizes", [_draw(generator, own)]
        yield "at other sizes", [_draw(generator, one) for one in others]


def _draw(generator: FeedGenerator, sizes: Sizes) -> Values:
    """Draw a feed of these ``sizes``."""

    def fix(value: Value) -> Value:
        dims = tuple(sizes.get((value.name, axis), dim) for axis, dim in enumerate(value.dims or ()))
        return value if value.dims is None else replace(value, dims=dims)

    roles = generator.roles
    known = {name: fix(one) for name in ("ids", "mask", "types", "positions") if (one := getattr(roles, name)) is not None}
    fixed = replace(generator, roles=replace(roles, others=tuple(map(fix, roles.others)), **known))
    rows = next((size for (_, axis), size in sizes.items() if axis == 0), fixed.fixed_batch or 2)
    sounds = generator.waveform
    samples = next((size for (name, axis), size in sizes.items() if sounds and name == sounds.name and axis > 0), None)
    columns = fixed.count_columns(samples) if samples else fixed.fixed_sequence or SHAPES[-1][1]
    return fixed.generate(np.ones((rows, columns), dtype=np.bool_), seed=len(sizes))


def _list_loud_cases(generator: FeedGenerator, chain: Chain) -> Iterator[tuple[str, list[Values]]]:
    """Yield a feed of large numbers for each edit that takes floats of another type: it must not cut them."""
    for link, behind in chain.walk_inputs_from_output():
        if link.edit == RETYPED and link.parameters["to"] == TO_FLOATS:
            shape = generator.fixed_batch or 2, generator.fixed_sequence or SHAPES[-1][1]
            feed = generator.generate(np.ones(shape, dtype=np.bool_), seed=0)
            names = {behind(name) for name in link.parameters["input"]} & set(feed)
            yield "large numbers", [feed | {name: feed[name] * np.float32(LOUDER) for name in names}]
