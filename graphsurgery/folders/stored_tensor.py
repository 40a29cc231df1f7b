"""A tensor's place in a weights file, and reading it from there.

Element ``(i, j, ...)`` lies ``start + itemsize * (i * strides[0] + j * strides[1] + ...)`` bytes into the file. Strides count
elements; a transposed view has them in another order, a repeated one has zeros. Nothing is read before `read`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from graphsurgery.model.sources import FileBytes

MOST_DIMS = 32
MOST_ELEMENTS = 1 << 48
SAFETENSORS_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32", "I16": "int16",
    "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
STORAGE_DTYPES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8",
    "BoolStorage": "bool", "UntypedStorage": "uint8",
}  # fmt: skip
TORCH_DTYPES = tuple(SAFETENSORS_DTYPES.values())
"""Dtype names that PyTorch and numpy share. bfloat16 is ml_dtypes' own."""


def to_dtype(name: str) -> np.dtype[np.generic]:
    """Return the numpy dtype (ml_dtypes' for bfloat16) of that name."""
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a file. ``start`` is the position of its first element in bytes; ``strides`` count elements."""

    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    start: int
    swapped: bool = False
    """Whether the file's byte order differs from this machine's."""

    @property
    def nbytes(self) -> int:
        """The tensor's size in memory, in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self, file: FileBytes) -> np.ndarray:
        """Return the tensor, C-contiguous and read-only."""
        found = self._elements(file)
        found.flags.writeable = False
        return found

    def _elements(self, file: FileBytes) -> np.ndarray:
        length = count_span(self.shape, self.strides)
        if length == 0:
            return np.zeros(self.shape, self.dtype)
        size = self.dtype.itemsize
        flat = np.frombuffer(file.read(self.start, length * size), f"u{size}")
        flat = flat.byteswap() if self.swapped else flat
        steps = [0 if dim == 1 else size * stride for dim, stride in zip(self.shape, self.strides, strict=True)]
        found = np.lib.stride_tricks.as_strided(flat, self.shape, steps, writeable=False)
        found = np.ascontiguousarray(found).reshape(self.shape)  # ascontiguousarray makes scalars vectors
        return np.asarray(found != 0) if self.dtype == np.bool_ else found.view(self.dtype)


def compute_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of a C-contiguous tensor."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def count_span(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Return the number of elements from the first to the last, both counted; 0 for an empty tensor."""
    if 0 in shape:
        return 0
    return 1 + sum((dim - 1) * stride for dim, stride in zip(shape, strides, strict=True))


def explain_impossible(shape: tuple[int, ...], strides: tuple[int, ...]) -> str | None:
    """Return why no tensor can have this shape and these strides, or None."""
    if len(shape) != len(strides):
        return f"{len(shape)} dims, but {len(strides)} strides"
    if len(shape) > MOST_DIMS:
        return f"{len(shape)} dims"
    if any(type(number) is not int or number < 0 for number in (*shape, *strides)):
        return "a dim or stride that is not a whole number, or is negative"
    if math.prod(max(dim, 1) for dim in shape) > MOST_ELEMENTS:
        return "more elements than any file holds"
    return None
