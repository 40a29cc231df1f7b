"""The smallest and largest value of each dim over a calibration set, as sentence-transformers' ``quantize_embeddings`` takes
them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from graphsurgery.errors import WeightsError
from graphsurgery.folders.files import open_file, read_json
from graphsurgery.model.parsing import shorten

NEEDED = "save numpy.vstack((x.min(0), x.max(0))) of your own embeddings x as .npy, or its tolist() as .json"
MAGIC = b"\x93NUMPY"
LARGEST_HEADER = 1 << 16
LARGEST_ELEMENT = 16
"""Bytes of the widest element type."""


def read_ranges(path: Path, width: int) -> np.ndarray:
    """Return ``[2, width]`` float32, the mins above the maxs, from a .npy or .json file. Raise WeightsError for any other
    content, FolderError if the file cannot be read."""
    found = _read_json_array(path) if path.suffix == ".json" else _read_npy_array(path, width)
    if found.dtype.kind not in "fiu":
        raise WeightsError(f"{path} holds {found.dtype}, not numbers", NEEDED)
    if found.shape != (2, width):
        raise _make_shape_error(path, found.shape, width)
    with np.errstate(over="ignore"):
        values = found.astype(np.float32)
    if not np.isfinite(values).all() or (values[0] > values[1]).any():
        raise WeightsError(f"{path}: some mins are above their maxs, or not finite", NEEDED)
    return values


def _read_json_array(path: Path) -> np.ndarray:
    try:
        return np.asarray(read_json(path, list))
    except ValueError as error:
        raise WeightsError(f"{path} does not hold two lists of numbers of equal length", NEEDED) from error


def _read_npy_array(path: Path, width: int) -> np.ndarray:
    """Return the array of a .npy file. The header is checked before anything is read that it could make large."""
    file = open_file(path)
    stream = io.BytesIO(file.read(0, min(file.size, LARGEST_HEADER + 2 * width * LARGEST_ELEMENT)))
    if not stream.getvalue().startswith(MAGIC):
        raise WeightsError(f"{path} is not a .npy file", NEEDED)
    try:
        header = npy.read_array_header_1_0 if npy.read_magic(stream) == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = header(stream)
        if dtype.hasobject:
            raise WeightsError(f"{path} holds Python objects, which are never loaded", NEEDED)
        if shape != (2, width):
            raise _make_shape_error(path, shape, width)
        stream.seek(0)
        return npy.read_array(stream, allow_pickle=False)
    except WeightsError:  # a ValueError as well
        raise
    except (ValueError, EOFError) as error:
        raise WeightsError(f"{path} is damaged: {shorten(str(error))}", NEEDED) from error


def _make_shape_error(path: Path, shape: tuple[int, ...], width: int) -> WeightsError:
    return WeightsError(f"{path} is {list(shape)}; the embedding needs ranges of [2, {width}]", NEEDED)
