"""Each dim's smallest and largest value over a calibration set, as sentence-transformers' ``quantize_embeddings`` takes
them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from graphsurgery.errors import SurroundingsError, WeightsError
from graphsurgery.folders.files import read_json

NEEDED = "save numpy.vstack((x.min(0), x.max(0))) of your own embeddings x as .npy, or its tolist() as .json"


def read_ranges(path: Path, width: int) -> np.ndarray:
    """``[2, width]`` float32, mins above maxs, from a .npy or .json file. WeightsError where the file holds anything else."""
    try:
        found = np.asarray(read_json(path, list) if path.suffix == ".json" else np.load(path, allow_pickle=False))
        values = found.astype(np.float32)
    except OSError as error:
        raise SurroundingsError(f"cannot read {path}: {error.strerror or error}", NEEDED) from error
    except (ValueError, TypeError, EOFError) as error:
        raise WeightsError(f"{path} holds no ranges: {error}", NEEDED) from error
    if values.shape != (2, width):
        raise WeightsError(f"{path} is {list(values.shape)}; the embedding needs ranges of [2, {width}]", NEEDED)
    if not np.isfinite(values).all() or (values[0] > values[1]).any():
        raise WeightsError(f"{path}: some mins are above their maxs, or not finite", NEEDED)
    return values
