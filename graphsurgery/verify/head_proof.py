"""The head proof: the appended subgraph alone, on drawn hidden states, against the float64 reference. No weights are loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx

from graphsurgery.interface import Value
from graphsurgery.model.dtypes import FLOATS, numpy_dtype
from graphsurgery.model.provenance import Step
from graphsurgery.report import Check
from graphsurgery.runtime.feeds import Drawer, Mask
from graphsurgery.runtime.session import Session
from graphsurgery.verify.compare import Tally
from graphsurgery.verify.expectation import Values, expected_outputs
from graphsurgery.verify.head import Head

SEEDS = 2
LARGE = 3e4
"""Hidden states near the end of float16's range: a sum of a few in float16 overflows."""


def head_proof(head: Head, steps: Sequence[Step], drawer: Drawer, width: int, renamed: dict[str, str]) -> Check:
    """Run ``head`` on hidden states ``[batch, seq, width]`` and compare its outputs with what ``steps`` mean.

    ``renamed`` maps values of the source to the names they have in the output.
    """
    session = Session(head.proto.SerializeToString())
    comparisons = []
    for kind, cases in head_cases(head, drawer, width):
        tally = Tally(kind)
        for feed in cases:
            values = _as_source_names(feed, renamed)
            expected = expected_outputs(steps, values)
            found = session.run({value.name: feed[value.name] for value in head.inputs})
            for name in head.outputs:
                tally.add(found[name], expected[name].values, expected[name].tolerance)
        comparisons.append(tally.result())
    what = ", ".join(step.edit for step in steps)
    detail = f"{what}: the appended subgraph alone on drawn values, against the float64 reference"
    return Check("head proof", detail, tuple(comparisons))


def head_cases(head: Head, drawer: Drawer, width: int) -> Iterator[tuple[str, list[Values]]]:
    """Feeds of every kind of mask, then kinds that only a head can be given: odd mask values, NaN at padding, large values."""
    for kind, masks in drawer.kinds():
        yield kind, [_feed(head, drawer, mask, width, seed) for mask in masks for seed in range(SEEDS)]
    masks = next(masks for kind, masks in drawer.kinds() if kind == "holes")
    if drawer.roles.mask is not None and any(value.name == drawer.roles.mask.name for value in head.inputs):
        yield "mask values other than 1", [_feed(head, drawer, mask, width, 0, odd_mask=True) for mask in masks]
        yield "NaN at padding", [_feed(head, drawer, mask, width, 0, padding=np.nan) for mask in masks]
        yield "infinity at padding", [_feed(head, drawer, mask, width, 0, padding=np.inf) for mask in masks]
    yield "large values", [_feed(head, drawer, mask, width, 0, scale=LARGE) for mask in masks]
    yield "zeros", [_feed(head, drawer, mask, width, 0, scale=0.0) for mask in masks]
    yield "all negative", [_feed(head, drawer, mask, width, 0, shift=-8.0) for mask in masks]


def _feed(
    head: Head, drawer: Drawer, mask: Mask, width: int, seed: int, *, scale: float = 1.0, shift: float = 0.0,
    padding: float | None = None, odd_mask: bool = False,
) -> Values:  # fmt: skip
    """Values for everything the head takes; the model's inputs from ``drawer``, inner values drawn from a normal distribution."""
    rng = np.random.default_rng(seed + 1)
    inputs = drawer.feed(mask, seed)
    if odd_mask and drawer.roles.mask is not None:
        name = drawer.roles.mask.name
        inputs[name] = _odd(inputs[name])
    values: Values = {}
    for value in head.inputs:
        if value.name in inputs:
            values[value.name] = inputs[value.name]
            continue
        drawn = rng.standard_normal((*mask.shape, width) if _has_sequence(value) else (len(mask), width)) * scale + shift
        if padding is not None and drawn.ndim == 3:
            drawn[~mask] = padding
        values[value.name] = _within(drawn, _float_dtype(value))
    return values | {name: array for name, array in inputs.items() if name not in values}


def _within(drawn: np.ndarray, dtype: Any) -> np.ndarray:
    """``drawn`` as ``dtype``, finite values cut to its range."""
    largest = float(ml_dtypes.finfo(dtype).max)
    return np.where(np.isfinite(drawn), np.clip(drawn, -largest, largest), drawn).astype(dtype)


def _odd(mask: np.ndarray) -> np.ndarray:
    """The same mask in other words: true values 2, 3, ... and, in floats, 0.5."""
    if mask.dtype == np.bool_:
        return mask
    odd = np.arange(2, 2 + mask.size).reshape(mask.shape) % 7 + 1
    return (mask * (odd / 2 if np.issubdtype(mask.dtype, np.floating) else odd)).astype(mask.dtype)


def _has_sequence(value: Value) -> bool:
    return value.rank != 2


def _float_dtype(value: Value) -> Any:
    if value.dtype == onnx.TensorProto.BFLOAT16:
        return ml_dtypes.bfloat16
    return numpy_dtype(value.dtype) if value.dtype in FLOATS else np.dtype(np.float32)


def _as_source_names(feed: Values, renamed: dict[str, str]) -> Values:
    return feed | {old: feed[new] for old, new in renamed.items() if new in feed}
