"""Module folders with drawn weights, laid out as sentence-transformers does, in a folder that goes with the process."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

_KEPT = tempfile.TemporaryDirectory(prefix="graphsurgery-tests-")
"""Goes when the process does."""
Shapes = Mapping[str, tuple[int, ...]]


def drawn(shapes: Shapes, seed: int = 0) -> dict[str, np.ndarray]:
    """Tensors of these shapes, normally distributed, float32; none of their values is one of float16's."""
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def saved(tensors: Mapping[str, np.ndarray], config: Mapping[str, Any] | None = None) -> str:
    """A new module folder with these tensors and this config."""
    folder = Path(tempfile.mkdtemp(dir=_KEPT.name))
    save_file(dict(tensors), folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(folder)


def dense(rows: int, columns: int, *, bias: bool = True, residual: bool = False, slope: bool = False, seed: int = 0) -> str:
    """The folder of a Dense module ``columns`` -> ``rows``."""
    shapes: dict[str, tuple[int, ...]] = {"linear.weight": (rows, columns)}
    shapes |= {"linear.bias": (rows,)} if bias else {}
    shapes |= {"residual.weight": (rows, columns)} if residual else {}
    shapes |= {"activation_function.weight": (1,)} if slope else {}
    return saved(drawn(shapes, seed))


def layer_norm(width: int, seed: int = 0) -> str:
    """The folder of a LayerNorm module."""
    return saved(drawn({"norm.weight": (width,), "norm.bias": (width,)}, seed))


def ranges(width: int, seed: int = 0) -> str:
    """A file of ranges ``[2, width]``, of which the second dim's is empty."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(-2, -0.5, width).astype(np.float32)
    high = rng.uniform(0.5, 2, width).astype(np.float32)
    low[1 : width - 1 : width] = high[1 : width - 1 : width]
    path = Path(tempfile.mkdtemp(dir=_KEPT.name)) / "ranges.npy"
    np.save(path, np.vstack((low, high)))
    return str(path)
