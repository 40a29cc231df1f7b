"""Tell whether values of a graph can differ in shape, from the graph alone.

The optimizer fuses a sum or an embedding only if it infers the same shape for all operands.
"""

from __future__ import annotations

import onnx

from graphsurgery.graph.facts import Facts
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.sizes import Size, Sizes

UNNAMED = "?"


class Shapes:
    """The shapes of the values of ``model``, in terms of the dims of its inputs."""

    def __init__(self, model: onnx.ModelProto) -> None:
        """Infer the shapes. Raises as `Graph` does."""
        self._graph = Graph(model)
        self._facts = Facts(self._graph)
        self._names: dict[Size, str] = {}
        for info in model.graph.input:
            declared = info.type.tensor_type.shape.dim
            for size, dim in zip(self._dims(info.name) or (), declared, strict=False):
                self._names.setdefault(size, dim.dim_param or UNNAMED)

    def can_differ(self, one: str, other: str) -> bool:
        """Whether inputs of some size give two values different shapes. False if that is not known."""
        shapes = [self._dims(name) for name in (one, other)]
        return shapes[0] != shapes[1] and all(self._is_known(size) for dims in shapes for size in dims or (None,))

    def show(self, name: str) -> str:
        """Return a shape as text, for example ``[batch_size, 32]``."""
        return f"[{', '.join(self._names.get(size, str(size)) for size in self._dims(name) or ())}]"

    def _dims(self, name: str) -> Sizes | None:
        return self._facts[self._graph.value(name)].dims

    def _is_known(self, size: Size | None) -> bool:
        """Whether a size is a number or a dim of an input. Any other size may still equal one of these."""
        return isinstance(size, int) or size in self._names
