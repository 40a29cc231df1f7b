"""add-normalize: vectors of length one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from graphsurgery.interface import Dim, Value
from graphsurgery.proof.meaning import UNIT, Array, Expected, Known, Meaning, Parameters
from graphsurgery.proof.rounding import EPSILON, beside, largest


def normalize(x: Array) -> Array:
    """x / max(norm2(x), 1e-12) over the last dim, float64. Source: torch.nn.functional.normalize."""
    x = np.asarray(x, dtype=np.float64)
    return x / np.maximum(np.sqrt(np.sum(np.square(x), axis=-1, keepdims=True)), 1e-12)


def unit(x: Array, rounding: Array) -> Expected:
    """x normalised, to be met to 1e-6 and what ``rounding [batch]`` becomes when the vectors are brought to length one."""
    norm = np.sqrt(np.sum(np.square(x), axis=-1, keepdims=True))
    rows = beside(rounding, x)
    grown = np.divide(rows, norm, out=np.zeros_like(norm), where=(rows > 0) & (norm > 0))
    return Expected(normalize(x), UNIT + grown, largest(grown) + EPSILON)


def _value(parameters: Parameters, known: Known) -> list[Expected]:
    return [unit(known[parameters["target"]], known.rounding(parameters["target"]))]


def _outputs(parameters: Parameters, before: Sequence[Value], batch: Dim) -> list[Value]:
    made = parameters["target"]
    return [Value(made, onnx.TensorProto.FLOAT, one.dims) if one.name == made else one for one in before]


MEANING = Meaning({"target": str}, lambda p: [p["target"]], lambda p: [p["target"]], _value, _outputs)
