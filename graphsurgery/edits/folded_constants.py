"""The constants of a graph: stored tensors, and small values that nodes compute from constants alone."""

from __future__ import annotations

import logging
import math

import numpy as np
import onnx

from graphsurgery.deferred import ir
from graphsurgery.graph.graph import Graph
from graphsurgery.model.dtypes import FLOATS
from graphsurgery.model.model import Model

LOG = logging.getLogger(__name__)
MOST_FLOATS, MOST_INTEGERS = 1 << 16, 1 << 20
"""The most elements that a constant may have to be an input of constant folding. Larger ones are weights and are not read."""


def find_first_position(values: np.ndarray) -> int | None:
    """Return n if a constant is n, n + 1, ...; else None."""
    flat = values.ravel()
    if len(flat) < 2 or values.dtype.kind not in "if" or not float(flat[0]).is_integer():
        return None
    return int(flat[0]) if (flat == flat[0] + np.arange(len(flat))).all() else None


class Constants:
    """The values of the main graph that depend on constants alone: stored tensors of any size, and small folded values.

    A value that is computed from positions of ``length`` is left out: it follows the positions, which are replaced.
    """

    def __init__(self, model: Model, graph: Graph, length: int | None) -> None:
        self._model, self._graph, self._length = model, graph, length
        self._folded: dict[ir.Value, np.ndarray] = {}
        for node in graph.nodes:
            if len(node.outputs) == 1 and node.inputs and all(map(self._is_foldable, node.inputs)):
                self._fold(node)

    def __contains__(self, value: ir.Value) -> bool:
        return value in self._folded or self._graph.tensor(value) is not None

    def __getitem__(self, value: ir.Value) -> np.ndarray:
        return self._folded[value] if value in self._folded else self._model.values(self._tensor(value))

    def dims(self, value: ir.Value) -> tuple[int, ...]:
        """Return the dims of a constant, without reading its elements."""
        return self._folded[value].shape if value in self._folded else tuple(int(dim) for dim in self._tensor(value).dims)

    def dtype(self, value: ir.Value) -> int:
        """Return the element type of a constant."""
        if value in self._folded:
            return int(onnx.helper.np_dtype_to_tensor_dtype(self._folded[value].dtype))
        return int(self._tensor(value).data_type)

    def is_float(self, value: ir.Value) -> bool:
        return self._folded[value].dtype.kind == "f" if value in self._folded else self.dtype(value) in FLOATS

    def is_positions(self, value: ir.Value) -> bool:
        """Return whether a constant is n, n + 1, ..., has the length in question, and has no other dims than 1."""
        dims = self.dims(value)
        return bool(dims) and dims[-1] == self._length == math.prod(dims) and find_first_position(self[value]) is not None

    def _tensor(self, value: ir.Value) -> onnx.TensorProto:
        tensor = self._graph.tensor(value)
        if tensor is None:
            raise KeyError(value.name)
        return tensor

    def _is_foldable(self, value: ir.Value | None) -> bool:
        if value is None:
            return True
        return value in self and self._is_small(value) and not self.is_positions(value)

    def _is_small(self, value: ir.Value) -> bool:
        return math.prod(self.dims(value)) <= (MOST_FLOATS if self.is_float(value) else MOST_INTEGERS)

    def _fold(self, node: ir.Node) -> None:
        """Compute the output of ``node`` with onnx's own evaluator and keep it, if that succeeds and the output is small."""
        from onnx.reference import ReferenceEvaluator  # takes long to import

        inputs = [value for value in dict.fromkeys(node.inputs) if value is not None]
        tensors = [onnx.numpy_helper.from_array(np.asarray(self[value]), value.name) for value in inputs]
        output = node.outputs[0]
        declared = [onnx.ValueInfoProto(name=output.name or "")]
        graph = onnx.helper.make_graph([ir.serde.serialize_node(node)], "constant", [], declared, tensors)
        model = onnx.helper.make_model(graph, opset_imports=self._model.proto.opset_import)
        try:
            with np.errstate(all="ignore"):
                folded = np.asarray(next(iter(ReferenceEvaluator(model).run(None, {}))))
        except Exception as error:  # the evaluator does not know the operator: the output does not count as a constant
            LOG.debug("onnx's evaluator cannot run %s %s on constants: %s", node.op_type, node.name, error)
            return
        self._folded[output] = folded
        if not self._is_small(output):
            del self._folded[output]
