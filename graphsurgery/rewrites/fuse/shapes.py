"""What symbolic shape inference makes of a model, and the node that it fails at.

The optimizer asks it first. Where it fails, the optimizer goes on without shapes and says nothing: skip norms are left as they
are, casts that change nothing stay in the way of other patterns.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import onnx

from graphsurgery.interface import value_of
from graphsurgery.model.dtypes import FLOATS, element_count

MOST_RUNS = 200
"""How often shapes are gone through at most, as the optimizer does."""
LARGEST_READ = 4096
"""Floats of an initializer; of more only the dims count for shapes."""
Shape = tuple[int | str | None, ...]


@dataclass(frozen=True)
class Shapes:
    """The dims of each value, and what the inference failed at (None: at nothing)."""

    known: dict[str, Shape] = field(default_factory=dict)
    failed: str | None = None

    def differ(self, one: str, other: str) -> bool:
        """Whether two values are known to be of different shapes."""
        return one in self.known and other in self.known and self.known[one] != self.known[other]


def shapes_of(model: onnx.ModelProto) -> Shapes:
    """The shapes that the optimizer sees; none, and no failure, where sympy is not there. ``model`` is left as it is."""
    try:
        from onnxruntime.tools import symbolic_shape_infer
    except ImportError:
        return Shapes()
    inference = symbolic_shape_infer.SymbolicShapeInference(2**31 - 1, True, False, 0)
    with _quiet(symbolic_shape_infer.__name__):
        try:
            complete = _infer(inference, _without_weights(model))
        except Exception as error:  # it raises whatever it stumbles over
            return Shapes(failed=_first_unknown(inference) or _place(error.__traceback__) or type(error).__name__)
    found = {name: value.dims for name, info in inference.known_vi_.items() if (value := value_of(info)).dims is not None}
    return Shapes(found, None if complete else _first_unknown(inference) or "its end")


def _infer(inference: Any, model: onnx.ModelProto) -> bool:
    inference._preprocess(model)
    complete = False
    for _ in range(MOST_RUNS):
        if not inference.run_:
            break
        complete = bool(inference._infer_impl())
    return complete


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose large tensors of floats have dims alone."""
    graph = model.graph
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    light.graph.name = graph.name
    for part in ("node", "input", "output", "value_info"):
        getattr(light.graph, part).extend(getattr(graph, part))
    for tensor in graph.initializer:
        if tensor.data_type in FLOATS and element_count(tensor.dims) > LARGEST_READ:
            light.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        else:
            light.graph.initializer.append(tensor)
    return light


def _place(trace: TracebackType | None) -> str | None:
    """The node that was looked at when an error was raised."""
    found = None
    while trace is not None:
        node = trace.tb_frame.f_locals.get("node")
        found = _shown(node) if isinstance(node, onnx.NodeProto) and found is None else found
        trace = trace.tb_next
    return found


def _first_unknown(inference: Any) -> str | None:
    """The first node whose output is left unknown; None where there is none."""
    for node in inference.out_mp_.graph.node:
        infos = [inference.known_vi_.get(name) for name in node.output if name]
        if any(info is None or value_of(info).dims is None for info in infos):
            return _shown(node)
    return None


def _shown(node: onnx.NodeProto) -> str:
    return f"{node.name or node.output[0]}: {node.op_type}"


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Without what the inference prints and logs."""
    logger = logging.getLogger(name)
    disabled, logger.disabled = logger.disabled, True
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.disabled = disabled
