"""What a file records of itself: golden inputs, the vectors they must give, and how far from those another runtime may be.

A byte or a bit is made by rounding, and near an edge the smallest difference decides which way. So it is recorded how many
buckets each byte may be off, and which bits may be either, where the value that they were made from may be off by as much as
another runtime makes it; every other one must be what it was.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from graphsurgery.compare.tally import ABSENT, Tally
from graphsurgery.report import Comparison

KINDS = "biuf"
"""Element types that are recorded, as numpy's letters; bfloat16 besides."""
WRITTEN = ("float32", "int8", "uint8")
NARROWEST = 8
"""Dims of a vector at least, where its angle to the recorded one is judged: that of fewer turns on the rounding of each."""
EXACT, HALF, COARSE = (1e-4, 0.99999), (1e-2, 0.999), (5e-2, 0.99)
"""How far another runtime may be: the difference, times max(1, max|x|), and the least cosine. For encoders that compute in
float32, in float16 or bfloat16, and in integers, whose products saturate on some processors and not on others."""
MOST_OPEN, MOST_BUCKETS = 0.1, 25
"""What float32 may leave open at most, as a share of a vector's root mean square, and in buckets of a byte: what is compared
beyond that says nothing."""
Values = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class GoldenOutput:
    """``values`` float32, int8 or uint8. ``open``, of bytes: by how many buckets each may be off or, where they are ``packed``,
    which bits of it may be either. ``rounding [rows, 1, ...]``, of floats: how far float32 may be off in each row."""

    values: np.ndarray
    open: np.ndarray | None = None
    packed: bool = False
    rounding: np.ndarray | None = None

    @property
    def share_open(self) -> float:
        """The share of bits that may be either, of packed ones; else of values that may be off by more than one bucket."""
        if self.open is None:
            return 0.0
        return float(np.mean(_unpack_bits(self.open) if self.packed else self.open > 1))

    def compare(self, name: str, found: np.ndarray, allowed: float, least_cosine: float) -> Comparison:
        """``found``, an output of the file, against what was recorded."""
        tally = Tally(name, self._least_cosine(least_cosine, allowed))
        if self.open is None:
            self._add_floats(tally, found, allowed * find_largest(self.values))
        elif found.dtype != self.values.dtype:
            tally.add(ABSENT, self.values, np.array(0.0))
        elif self.packed:
            tally.add(_unpack_bits(found), _unpack_bits(self.values), np.where(_unpack_bits(self.open) > 0, np.inf, 0))
        else:
            tally.add(found, self.values, np.where(self.open > MOST_BUCKETS, np.inf, self.open))
        return tally.summarize()

    def _add_floats(self, tally: Tally, found: np.ndarray, own: np.ndarray) -> None:
        """Rows in which float32 leaves more open than `MOST_OPEN` are no cases."""
        if self.rounding is None:
            tally.add(found, self.values, own)
            return
        finite = np.where(np.isfinite(self.values), self.values, 0).astype(np.float64)
        size = np.sqrt(np.mean(np.square(finite), axis=tuple(range(1, finite.ndim)), keepdims=True))
        loose = (self.rounding > own) & (self.rounding > MOST_OPEN * size)
        tally.add(found, self.values, np.maximum(own, self.rounding), np.where(loose, 0, np.maximum(own, self.rounding)))

    def _least_cosine(self, asked: float, allowed: float) -> float | None:
        """The cosine asked for, of wide vectors whose values are more than they may be off by."""
        if self.open is not None or self.values.ndim < 2 or self.values.shape[-1] < NARROWEST:
            return None
        finite = np.where(np.isfinite(self.values), self.values, 0).astype(np.float64)
        rows, largest = np.sqrt(np.mean(np.square(finite), axis=-1)), max(1.0, float(np.abs(finite).max(initial=0)))
        asked = asked if self.rounding is None else min(asked, COARSE[1])
        return asked if np.all((rows == 0) | (rows > allowed * largest)) else None


@dataclass(frozen=True)
class Goldens:
    """``allowed``, times max(1, max|x|): how far a float may be from what was recorded. ``runtime``: the version of ONNX
    Runtime that they were recorded with."""

    inputs: Values
    outputs: Mapping[str, GoldenOutput]
    allowed: float
    least_cosine: float
    runtime: str

    def to_json(self) -> dict[str, Any]:
        return {
            "inputs": {name: _encode(array) for name, array in self.inputs.items()},
            "outputs": {name: _write(output) for name, output in self.outputs.items()},
            "allowed": self.allowed, "min_cosine": self.least_cosine, "onnxruntime": self.runtime,
        }  # fmt: skip

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Goldens:
        """KeyError, TypeError, ValueError or AttributeError where the content is not what `to_json` gives."""
        outputs = {name: _read(entry) for name, entry in content["outputs"].items()}
        inputs = {name: _decode(entry) for name, entry in content["inputs"].items()}
        allowed, least_cosine = float(content["allowed"]), float(content["min_cosine"])
        if not (outputs and inputs and 0 < allowed <= COARSE[0] and COARSE[1] <= least_cosine < 1):
            raise ValueError("they say nothing, or allow too much")
        return cls(inputs, outputs, allowed, least_cosine, str(content["onnxruntime"]))


def find_largest(values: np.ndarray) -> np.ndarray:
    """max(1, max|x|) over each row's finite values, shaped to broadcast against ``values``."""
    finite = np.abs(np.where(np.isfinite(values), values, 0).astype(np.float64))
    return finite.max(axis=tuple(range(1, finite.ndim)), keepdims=True, initial=1.0)


def _unpack_bits(values: np.ndarray) -> np.ndarray:
    """The bits of packed bytes, each 0 or 1; of signed ones those of the byte plus 128."""
    octets = values if values.dtype == np.uint8 else (values.astype(np.int16) + 128).astype(np.uint8)
    return np.unpackbits(octets, axis=-1)


def _write(output: GoldenOutput) -> dict[str, Any]:
    entry = _encode(output.values)
    if output.rounding is not None:
        entry |= {"rounding": _encode(output.rounding)}
    return entry if output.open is None else entry | {"open": _encode(output.open), "packed": output.packed}


def _read(entry: Mapping[str, Any]) -> GoldenOutput:
    values = _decode(entry)
    if values.dtype.name not in WRITTEN or not values.ndim:
        raise ValueError(f"vectors of {values.dtype.name} are none that are recorded")
    if values.dtype == np.float32:
        rounding = _decode(entry["rounding"]) if "rounding" in entry else None
        if rounding is not None and rounding.shape != (len(values), *[1] * (values.ndim - 1)):
            raise ValueError("what float32 leaves open does not fit the vectors")
        return GoldenOutput(values, rounding=rounding)
    left = _decode(entry["open"])
    if left.dtype != np.uint8 or left.shape != values.shape:
        raise ValueError("what is left open does not fit the bytes")
    return GoldenOutput(values, left, bool(entry["packed"]))


def _encode(array: np.ndarray) -> dict[str, Any]:
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"dtype": array.dtype.name, "shape": list(array.shape), "data": data}


def _decode(entry: Mapping[str, Any]) -> np.ndarray:
    name = str(entry["dtype"])
    dtype = np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)
    if dtype.kind not in KINDS and dtype != ml_dtypes.bfloat16:
        raise ValueError(f"{dtype.name} holds no numbers")
    array = np.frombuffer(base64.b64decode(entry["data"], validate=True), dtype=dtype)
    return array.reshape([int(size) for size in entry["shape"]])
