"""ONNX element types: their names, their sizes and how numpy reads them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx

BITS = {
    "FLOAT": 32, "UINT8": 8, "INT8": 8, "UINT16": 16, "INT16": 16, "INT32": 32, "INT64": 64, "BOOL": 8, "FLOAT16": 16,
    "DOUBLE": 64, "UINT32": 32, "UINT64": 64, "COMPLEX64": 64, "COMPLEX128": 128, "BFLOAT16": 16, "FLOAT8E4M3FN": 8,
    "FLOAT8E4M3FNUZ": 8, "FLOAT8E5M2": 8, "FLOAT8E5M2FNUZ": 8, "FLOAT8E8M0": 8, "UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4,
    "UINT2": 2, "INT2": 2, "FLOAT6E2M3": 6, "FLOAT6E3M2": 6,
}  # fmt: skip
"""Bits of one element in raw_data, by name. STRING has none: its elements are of any length."""

NAMES = {number: name for name, number in onnx.TensorProto.DataType.items()}
FLOATS = frozenset({onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE})
INTEGERS = frozenset({onnx.TensorProto.INT32, onnx.TensorProto.INT64})


def count_elements(dims: Sequence[int]) -> int:
    """Return the number of elements of a tensor with these dims."""
    return math.prod(dims)


def compute_payload_size(data_type: int, dims: Sequence[int]) -> int | None:
    """Return the bytes of raw_data for this type and shape, or None for types without a fixed size."""
    bits = BITS.get(NAMES.get(data_type, ""))
    return None if bits is None else (count_elements(dims) * bits + 7) // 8


def to_numpy_dtype(data_type: int) -> np.dtype[np.generic]:
    """Return the numpy dtype (ml_dtypes' for bfloat16 and the small floats) of an ONNX element type."""
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(data_type))
