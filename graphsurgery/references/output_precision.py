"""output-precision: bytes and bits. Source: sentence-transformers' quantize_embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from graphsurgery.errors import UnsupportedModelError, WeightsDifferError
from graphsurgery.interface import Dim, Value
from graphsurgery.references.dense import recorded
from graphsurgery.references.reference import (
    RELATIVE,
    UNIT,
    Array,
    Expected,
    Known,
    Parameters,
    Reference,
    compute_tolerance,
    find_value,
    resize,
)

SIGNED = {"int8": True, "uint8": False, "binary": True, "ubinary": False}


def _read(parameters: Parameters) -> Parameters:
    if parameters["to"] not in SIGNED:
        raise UnsupportedModelError(
            f"there is no reference for precision {parameters['to']!r}", "a newer graphsurgery may have one"
        )
    return parameters


def quantize_by_ranges(x: Array, slack: Array, ranges: Array) -> Expected:
    """floor((x - min) / step) in 0..255, or any bucket that ``slack``, what x may be off by, reaches: none but its own where no
    edge is near."""
    low, high = ranges
    step = (high - low) / 255
    step = np.where(step == 0, 1, step)
    place = (x - low) / step
    bucket = np.clip(np.floor(place), 0, 255)
    reach = slack / step + np.abs(place) * 1e-6
    lowest, highest = (np.clip(np.floor(place + end * reach), 0, 255) for end in (-1, 1))
    return Expected(bucket, np.maximum(bucket - lowest, highest - bucket))


def quantize_by_signs(x: Array, slack: Array) -> Expected:
    """Bits packed into bytes. A bit whose x is within ``slack`` of 0, but not 0, may be either."""
    shaky = (np.abs(x) <= slack) & (x != 0)
    tolerance = np.array([_pack_bits(row) for row in shaky])
    return Expected(np.array([_pack_bits(row) for row in x > 0]), tolerance)


def _pack_bits(row: Array) -> list[float]:
    """The bytes of a row of bits, the first bit the highest of the first byte."""
    return [
        float(sum(1 << (7 - place) for place, bit in enumerate(row[start : start + 8]) if bit))
        for start in range(0, len(row), 8)
    ]


def _compute(parameters: Parameters, known: Known) -> list[Expected]:
    x = known[parameters["target"]]
    slack = np.maximum(known.get_tolerance(parameters["target"]), compute_tolerance(x) * UNIT / RELATIVE)
    if parameters["to"] in ("binary", "ubinary"):
        found = quantize_by_signs(x, slack)
    else:
        ranges = recorded(parameters, known.weights).get("ranges")
        if ranges is None or ranges.shape != (2, x.shape[-1]):
            raise WeightsDifferError("the file records no ranges that fit its target", "make the output again")
        found = quantize_by_ranges(x, slack, ranges)
    return [Expected(found.values - (128 if SIGNED[parameters["to"]] else 0), found.tolerance)]


def _declare_outputs(parameters: Parameters, before: Sequence[Value], batch: Dim) -> list[Value]:
    dtype = onnx.TensorProto.INT8 if SIGNED[parameters["to"]] else onnx.TensorProto.UINT8
    made = resize(find_value(before, parameters["target"]), parameters["target"], dtype)
    return [made if value.name == made.name else value for value in before]


REFERENCE = Reference(
    reads=lambda p: [p["target"]],
    makes=lambda p: [p["target"]],
    value=_compute,
    outputs=_declare_outputs,
    read=_read,
)
