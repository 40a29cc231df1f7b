"""Tell whether values of a graph can differ in shape, from the graph alone.

The optimizer fuses a sum or an embedding only if it infers the same shape for all operands.
"""

from __future__ import annotations

from graphsurgery.graph.facts import Facts
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.sizes import Size, Sizes

UNNAMED = "?"


class Shapes:
    """The shapes of the values of ``graph``, in terms of the dims of its inputs."""

    def __init__(self, graph: Graph) -> None:
        """Infer the shapes."""
        self._graph = graph
        self._facts = Facts(graph)
        self._names: dict[Size, str] = {}
        for info in graph.source.graph.input:
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
