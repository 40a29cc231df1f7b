"""add-normalize: vectors of length one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from graphsurgery.interface import Dim, Value
from graphsurgery.proof.meaning import UNIT, Array, Expected, Known, Meaning, Parameters


def normalize(x: Array) -> Array:
    """x / max(norm2(x), 1e-12) over the last dim, float64. Source: torch.nn.functional.normalize."""
    x = np.asarray(x, dtype=np.float64)
    return x / np.maximum(np.sqrt(np.sum(np.square(x), axis=-1, keepdims=True)), 1e-12)


def _value(parameters: Parameters, known: Known) -> list[Expected]:
    return [Expected(normalize(known[parameters["target"]]), np.array(UNIT))]


def _outputs(parameters: Parameters, before: Sequence[Value], batch: Dim) -> list[Value]:
    made = parameters["target"]
    return [Value(made, onnx.TensorProto.FLOAT, one.dims) if one.name == made else one for one in before]


MEANING = Meaning({"target": str}, lambda p: [p["target"]], lambda p: [p["target"]], _value, _outputs)
