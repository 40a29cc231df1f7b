"""The golden values that a file records: inputs, the vectors they must give, and how far from those another runtime may be.

A byte or a bit is made by rounding, and near an edge the smallest difference decides which way. So the file records by how many
buckets each byte may be off, and which bits may be either. This follows from how far another runtime may be off in the value
that they are made of. Every other byte and bit must be as recorded.
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
"""The kinds of element types that inputs may have, as numpy's letters; bfloat16 as well."""
WRITTEN = ("float32", "int8", "uint8")
NARROWEST = 8
"""The smallest number of dims with which a vector's angle is judged. With fewer, the rounding of each one turns the vector."""
EXACT, HALF, COARSE = (1e-4, 0.99999), (1e-2, 0.999), (5e-2, 0.99)
"""How far off another runtime may be: the difference, times max(1, max|x|), and the smallest cosine. For encoders that compute
in float32, in float16 or bfloat16, and in integers, whose products saturate on some processors and not on others."""
MOST_OPEN, MOST_BUCKETS = 0.1, 25
"""The largest error that float32 may make, as a share of a vector's root mean square, and in buckets of a byte. Values that may
be off by more are not compared."""
Values = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class GoldenOutput:
    """The golden values of one output."""

    values: np.ndarray
    """float32, int8 or uint8."""
    open: np.ndarray | None = None
    """For bytes: by how many buckets each may be off. For ``packed`` bits: which of them may be either."""
    packed: bool = False
    rounding: np.ndarray | None = None
    """For floats: how far off float32 may be in each row, ``[rows, 1, ...]``."""

    @property
    def share_open(self) -> float:
        """The share of packed bits that may be either, or of bytes that may be off by more than one bucket."""
        if self.open is None:
            return 0.0
        return float(np.mean(_unpack_bits(self.open) if self.packed else self.open > 1))

    def compare(self, name: str, found: np.ndarray, allowed: float, least_cosine: float) -> Comparison:
        """Compare ``found``, an output of the file, with the recorded values."""
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
        """Compare floats. Rows in which float32 may be off by more than `MOST_OPEN` do not count as cases."""
        if self.rounding is None:
            tally.add(found, self.values, own)
            return
        finite = np.where(np.isfinite(self.values), self.values, 0).astype(np.float64)
        size = np.sqrt(np.mean(np.square(finite), axis=tuple(range(1, finite.ndim)), keepdims=True))
        loose = (self.rounding > own) & (self.rounding > MOST_OPEN * size)
        tally.add(found, self.values, np.maximum(own, self.rounding), np.where(loose, 0, np.maximum(own, self.rounding)))

    def _least_cosine(self, asked: float, allowed: float) -> float | None:
        """Return the cosine that was asked for, if vectors are wide and their values larger than the allowed difference."""
        if self.open is not None or self.values.ndim < 2 or self.values.shape[-1] < NARROWEST:
            return None
        finite = np.where(np.isfinite(self.values), self.values, 0).astype(np.float64)
        rows, largest = np.sqrt(np.mean(np.square(finite), axis=-1)), max(1.0, float(np.abs(finite).max(initial=0)))
        asked = asked if self.rounding is None else min(asked, COARSE[1])
        return asked if np.all((rows == 0) | (rows > allowed * largest)) else None


@dataclass(frozen=True)
class Goldens:
    """Golden inputs and the golden values of the outputs."""

    inputs: Values
    outputs: Mapping[str, GoldenOutput]
    allowed: float
    """The allowed difference of a float, as a multiple of max(1, max|x|)."""
    least_cosine: float
    runtime: str
    """The version of ONNX Runtime that made the record."""

    def to_json(self) -> dict[str, Any]:
        return {
            "inputs": {name: _encode(array) for name, array in self.inputs.items()},
            "outputs": {name: _write(output) for name, output in self.outputs.items()},
            "allowed": self.allowed, "min_cosine": self.least_cosine, "onnxruntime": self.runtime,
        }  # fmt: skip

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Goldens:
        """Read what `to_json` gives. Raise KeyError, TypeError, ValueError or AttributeError for any other content."""
        outputs = {name: _read(entry) for name, entry in content["outputs"].items()}
        inputs = {name: _decode(entry) for name, entry in content["inputs"].items()}
        allowed, least_cosine = float(content["allowed"]), float(content["min_cosine"])
        if not (outputs and inputs and 0 < allowed <= COARSE[0] and COARSE[1] <= least_cosine < 1):
            raise ValueError("there are none, or they allow too much")
        return cls(inputs, outputs, allowed, least_cosine, str(content["onnxruntime"]))


def find_largest(values: np.ndarray) -> np.ndarray:
    """Return max(1, max|x|) over each row's finite values, shaped to broadcast against ``values``."""
    finite = np.abs(np.where(np.isfinite(values), values, 0).astype(np.float64))
    return finite.max(axis=tuple(range(1, finite.ndim)), keepdims=True, initial=1.0)


def _unpack_bits(values: np.ndarray) -> np.ndarray:
    """Return the bits of packed bytes, each 0 or 1; for signed bytes, those of the byte plus 128."""
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
        raise ValueError(f"golden vectors cannot be {values.dtype.name}")
    if values.dtype == np.float32:
        rounding = _decode(entry["rounding"]) if "rounding" in entry else None
        if rounding is not None and rounding.shape != (len(values), *[1] * (values.ndim - 1)):
            raise ValueError("the recorded rounding does not fit the vectors")
        return GoldenOutput(values, rounding=rounding)
    open_ = _decode(entry["open"])
    if open_.dtype != np.uint8 or open_.shape != values.shape:
        raise ValueError("the recorded slack of the bytes does not fit them")
    return GoldenOutput(values, open_, bool(entry["packed"]))


def _encode(array: np.ndarray) -> dict[str, Any]:
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"dtype": array.dtype.name, "shape": list(array.shape), "data": data}


def _decode(entry: Mapping[str, Any]) -> np.ndarray:
    name = str(entry["dtype"])
    dtype = np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)
    if dtype.kind not in KINDS and dtype != ml_dtypes.bfloat16:
        raise ValueError(f"arrays of {dtype.name} do not hold numbers")
    array = np.frombuffer(base64.b64decode(entry["data"], validate=True), dtype=dtype)
    return array.reshape([int(size) for size in entry["shape"]])
