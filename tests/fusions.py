"""What ONNX Runtime's transformer optimizer makes of a file, and its symbolic shape inference. Needs sympy, not torch."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections import Counter
from pathlib import Path

import onnx
import pytest

import graphsurgery
from graphsurgery.edits.pooling_graph import MODES

WITHOUT_SYMPY = "the optimizer's symbolic shape inference needs sympy"
WITHOUT_OPTIMIZER = "this build of ONNX Runtime comes without onnxruntime.transformers"
NORMS = ("LayerNormalization", "SimplifiedLayerNormalization")
"""Fused operators that the optimizer puts into the standard domain."""
EVERY_MODE = ",".join(MODES)
"""All modes side by side in one head."""
HEADS = tuple((mode, normalize) for mode in (*MODES, "cls,mean", "mean,max,lasttoken") for normalize in (False, True))


def require_optimizer() -> None:
    """Skip the calling module, saying why, where the optimizer or sympy is missing."""
    pytest.importorskip("sympy", reason=WITHOUT_SYMPY)
    pytest.importorskip("onnxruntime.transformers.optimizer", reason=WITHOUT_OPTIMIZER)


def fused(path: Path, model_type: str = "bert") -> Counter[str]:
    """The operators that the optimizer's fusions left in the file, by their number."""
    from onnxruntime.transformers.optimizer import optimize_model

    model = optimize_model(str(path), model_type=model_type, num_heads=0, hidden_size=0, opt_level=0)
    return Counter(node.op_type for node in model.model.graph.node if node.domain == "com.microsoft" or node.op_type in NORMS)


@functools.cache
def fused_without_head(path: Path, model_type: str = "bert") -> dict[str, int]:
    """The same of a file without a head, of which there is something."""
    found = fused(path, model_type)
    assert found, "the optimizer fuses nothing in this encoder: the test would compare nothing"
    return found


def inferred_dims(model: onnx.ModelProto, auto_merge: bool = True) -> list[int | str]:
    """The dims of the first output according to symbolic shape inference; raises what that raises.

    ``auto_merge``: dims of different names that are added or multiplied are taken to be one; the optimizer does so.
    """
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # where it fails, it leaves a file behind
        done = SymbolicShapeInference.infer_shapes(model, auto_merge=auto_merge, guess_output_rank=False)
    return [dim.dim_value or dim.dim_param for dim in done.graph.output[0].type.tensor_type.shape.dim]


def with_head(source: Path, folder: Path, mode: str, normalize: bool, **parameters: object) -> Path:
    """``source`` with a pooling head, saved as a file of its own in ``folder``."""
    path = folder / f"{mode.replace(',', '-')}{'-normalized' * normalize}.onnx"
    graphsurgery.save(graphsurgery.add_pooling(source, mode=mode, normalize=normalize, **parameters), path)
    return path
