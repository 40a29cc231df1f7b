"""output-precision: bytes and bits. Source: sentence-transformers' quantize_embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from graphsurgery.errors import WeightsDifferError
from graphsurgery.interface import Dim, Value
from graphsurgery.references.reference import (
    UNIT,
    Array,
    Expected,
    Known,
    Parameters,
    Reference,
    compute_tolerance,
    declare_wide_target,
    require_known,
)

SIGNED = {"int8": True, "uint8": False, "binary": True, "ubinary": False}


def _read(parameters: Parameters) -> Parameters:
    require_known("precision", parameters["to"], SIGNED)
    return parameters


def quantize_by_ranges(x: Array, slack: Array, ranges: Array) -> Expected:
    """Expect floor((x - min) / step) in 0..255, or any bucket that is within ``slack``, the possible error of x.

    If no edge of a bucket is that near, only x's own bucket is allowed.
    """
    low, high = ranges
    step = (high - low) / 255
    step = np.where(step == 0, 1, step)
    place = (x - low) / step
    bucket = np.clip(np.floor(place), 0, 255)
    reach = slack / step + np.abs(place) * 1e-6
    lowest, highest = (np.clip(np.floor(place + end * reach), 0, 255) for end in (-1, 1))
    return Expected(bucket, np.maximum(bucket - lowest, highest - bucket))


def quantize_by_signs(x: Array, slack: Array) -> Expected:
    """Expect the signs of x as bits packed into bytes. A bit may be either if its x is within ``slack`` of 0, but not 0."""
    shaky = (np.abs(x) <= slack) & (x != 0)
    tolerance = np.array([_pack_bits(row) for row in shaky])
    return Expected(np.array([_pack_bits(row) for row in x > 0]), tolerance)


def _pack_bits(row: Array) -> list[float]:
    """Return the bytes of a row of bits. The first bit is the highest of the first byte."""
    return [
        float(sum(1 << (7 - place) for place, bit in enumerate(row[start : start + 8]) if bit))
        for start in range(0, len(row), 8)
    ]


def _compute(parameters: Parameters, known: Known) -> list[Expected]:
    x = known[parameters["target"]]
    slack = np.maximum(known.get_tolerance(parameters["target"]), compute_tolerance(x, share=UNIT))
    if parameters["to"] in ("binary", "ubinary"):
        unsigned = quantize_by_signs(x, slack)
    else:
        ranges = known.weights.find_all(parameters["digests"]).get("ranges")
        if ranges is None or ranges.shape != (2, x.shape[-1]):
            raise WeightsDifferError("the file records no ranges that fit its target", "make the output again")
        unsigned = quantize_by_ranges(x, slack, ranges)
    return [Expected(unsigned.values - (128 if SIGNED[parameters["to"]] else 0), unsigned.tolerance)]


def _declare_outputs(parameters: Parameters, before: Sequence[Value], batch: Dim) -> list[Value]:
    dtype = onnx.TensorProto.INT8 if SIGNED[parameters["to"]] else onnx.TensorProto.UINT8
    return declare_wide_target(parameters, before, batch, dtype)


REFERENCE = Reference(
    reads=lambda p: [p["target"]],
    makes=lambda p: [p["target"]],
    value=_compute,
    outputs=_declare_outputs,
    read=_read,
)
