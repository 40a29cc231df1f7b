"""Safetensors files: where their tensors lie.

A file is the length of its header (8 bytes, little-endian), the header (a JSON object of ``{name: {dtype, shape,
data_offsets}}``) and the tensors, one after the other. The safetensors library checks the header. The bytes are read here, not
by the library, because numpy has no bfloat16 of its own and mapped pages count as memory.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from graphsurgery.errors import WeightsError
from graphsurgery.folders.stored_tensor import SAFETENSORS_DTYPES, StoredTensor, compute_strides, explain_impossible, to_dtype
from graphsurgery.model.parsing import shorten
from graphsurgery.model.sources import FileBytes

LARGEST_HEADER = 16 << 20
"""Upper limit on the bytes of the header. Each tensor takes about 100 and its name."""
DAMAGED = "the file is damaged: download it again"


def looks_like_safetensors(start: bytes, size: int) -> bool:
    """Return whether a file of ``size`` bytes that begins with ``start`` can be a safetensors file."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") + 8 <= size


def read_safetensors(file: FileBytes) -> dict[str, StoredTensor]:
    """Return the tensors of a safetensors file. Raise WeightsError for any other file."""
    length = int.from_bytes(file.read(0, 8), "little") if file.size >= 8 else 0
    if length > min(LARGEST_HEADER, file.size - 8):
        what = (
            f"{file.path}: its header claims {length} bytes, more than the file has or more than the limit of {LARGEST_HEADER}"
        )
        raise WeightsError(what, DAMAGED)
    _check_with_library(file)
    header = json.loads(file.read(8, length))
    header.pop("__metadata__", None)
    return {name: _locate_tensor(file, name, entry, 8 + length) for name, entry in header.items()}


def _check_with_library(file: FileBytes) -> None:
    """Let the library check that sizes fit the shapes and that tensors lie within the file without overlap or gap."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file.path), framework="numpy"):
            pass
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{file.path} is not a readable safetensors file: {shorten(str(error))}", DAMAGED) from error
    file.check_unchanged()


def _locate_tensor(file: FileBytes, name: str, entry: dict[str, Any], data: int) -> StoredTensor:
    what = f"{file.path}: the tensor {shorten(name)!r}"
    if entry["dtype"] not in SAFETENSORS_DTYPES:
        known = ", ".join(SAFETENSORS_DTYPES)
        raise WeightsError(f"{what} is of type {entry['dtype']}", f"convert it to one of {known}")
    shape = tuple(entry["shape"])
    wrong = explain_impossible(shape, compute_strides(shape))
    if wrong is not None:
        raise WeightsError(f"{what} has {wrong}", DAMAGED)
    swapped = sys.byteorder != "little"
    found = StoredTensor(
        to_dtype(SAFETENSORS_DTYPES[entry["dtype"]]), shape, compute_strides(shape), data + entry["data_offsets"][0], swapped
    )
    if found.start + found.nbytes > file.size:
        raise WeightsError(f"{what} lies beyond the end of the file", DAMAGED)
    return found
