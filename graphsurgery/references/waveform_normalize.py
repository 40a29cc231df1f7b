"""add-waveform-normalize: zero mean and unit variance of each clip. Source: transformers' Wav2Vec2FeatureExtractor."""

from __future__ import annotations

import numpy as np

from graphsurgery.interface import Interface
from graphsurgery.references.fields import Fields
from graphsurgery.references.input_edits import compute_nothing, keep_outputs
from graphsurgery.references.recorded_mask import read_mask
from graphsurgery.references.reference import (
    Array,
    Expected,
    Known,
    Parameters,
    Reference,
    RunModel,
    Values,
    compute_tolerance,
    expect_exactly,
)


def normalize_clips(x: Array, m: Array) -> Array:
    """Normalise the samples of each row where m is true: ``x [batch, samples]``, ``m [batch, samples]``. Others become 0."""
    y = np.zeros(x.shape)
    for row, own in zip(range(len(x)), m, strict=True):
        clip = x[row, own].astype(np.float64)
        if clip.size:
            y[row, own] = (clip - clip.mean()) / np.sqrt(clip.var() + 1e-7)
    return y


def _compute_after(parameters: Parameters, feed: Values, before: RunModel) -> dict[str, Expected]:
    name, given = parameters["input"], feed[parameters["input"]]
    samples = given.reshape(len(given), -1)
    own = parameters["mask"].find_tokens(Known(expect_exactly(feed)), samples.shape)
    with np.errstate(all="ignore"):  # samples may be NaN
        normal = normalize_clips(samples, own.astype(np.bool_)).reshape(given.shape)
    inner = Expected(normal, compute_tolerance(normal))
    return before(feed | {name: normal.astype(given.dtype)}) | expect_exactly(feed) | {parameters["inside"]: inner}


def _explain_misfit(parameters: Parameters, before: Interface) -> str | None:
    value = before.input(parameters["input"])
    if value is None:
        return f"there is no input {parameters['input']!r}"
    return None if value.rank in (2, 3) else f"{value} is no waveform"


REFERENCE = Reference(
    reads=lambda p: [p["input"], *p["mask"].reads],
    makes=lambda _: [],
    value=compute_nothing,
    outputs=keep_outputs,
    read=read_mask,
    fields=Fields(names=lambda p: {p["input"]: p["inside"]}),
    values_after=_compute_after,
    misfit=_explain_misfit,
    stand_ins=lambda p: {p["inside"]: p["input"]},
)
