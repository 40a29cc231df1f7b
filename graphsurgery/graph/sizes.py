"""The dims of every value for a given number of texts and tokens, and how each dim grows with these two numbers.

Shape inference runs twice, with two different numbers of texts and of tokens. A dim is recognised by how it changes, and not by
its name: a dim that is 3 with three texts and 2 with two is the batch. The model is not run.
"""

from __future__ import annotations

from typing import TypeAlias

from graphsurgery.deferred import ir
from graphsurgery.graph.facts import Facts
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.symbolic import Sizes

Dim: TypeAlias = tuple[int, ...]
"""The size of a dim at each of `PROBES`."""
Dims: TypeAlias = tuple[Dim | None, ...]
"""The dims of a value, with None for one that inference does not find."""
PROBES = ((3, 11), (2, 17))
"""Numbers of texts and of tokens. No usual size of an encoder is a small multiple of them in both."""
BATCH, TOKENS = zip(*PROBES, strict=True)
"""The batch and the number of tokens, as dims."""


def infer_at(graph: Graph, batch: int, tokens: int) -> Facts:
    """Infer the dims of every value of ``graph`` for ``batch`` texts of ``tokens`` tokens."""
    return Facts(graph, assign_sizes(graph, batch, tokens))


def assign_sizes(graph: Graph, batch: int, tokens: int) -> dict[str, Sizes]:
    """Return the dims of the inputs: ``batch`` for an open first dim, and ``tokens`` for the second dim of two or three.

    Dims with the same names as these are of the same sizes. Inputs with other open dims are left out.
    """
    infos = [info for info in graph.source.graph.input if info.type.tensor_type.HasField("shape")]
    shapes = {info.name: info.type.tensor_type.shape.dim for info in infos}
    shapes = {name: dims for name, dims in shapes.items() if graph.tensor(graph.value(name)) is None}
    texts = [dims for dims in shapes.values() if len(dims) in (2, 3) and dims[1].dim_value == 0]
    batches = {dims[0].dim_param for dims in texts} - {""}
    names = {dims[1].dim_param for dims in texts} - batches - {""}
    found: dict[str, Sizes] = {}
    for name, dims in shapes.items():
        sizes: list[int | None] = []
        for place, dim in enumerate(dims):
            is_tokens = dim.dim_param in names or (len(dims) in (2, 3) and place == 1)
            is_batch = dim.dim_param in batches or place == 0
            open_size = tokens if is_tokens else batch if is_batch else None
            sizes.append(int(dim.dim_value) if dim.dim_value > 0 else open_size)
        known = tuple(size for size in sizes if size is not None)
        if len(known) == len(sizes):
            found[name] = known
    return found


class Layout:
    """How the dims of each value of a graph depend on the number of texts and tokens."""

    def __init__(self, graph: Graph) -> None:
        self._facts = [infer_at(graph, batch, tokens) for batch, tokens in PROBES]

    def dims(self, value: ir.Value | None) -> Dims | None:
        """Return the dims of ``value``, or None if not even their number is known."""
        found = [facts[value].dims for facts in self._facts]
        if any(one is None or len(one) != len(found[0] or ()) for one in found):
            return None
        pairs = zip(*(one or () for one in found), strict=True)
        return tuple(_join(sizes) for sizes in pairs)

    def dtype(self, value: ir.Value | None) -> int:
        """Return the element type of ``value``, or 0 if it is unknown."""
        return self._facts[0][value].dtype

    def numbers(self, value: ir.Value | None) -> list[list[int] | None]:
        """Return the integers in ``value`` at each of `PROBES`, with None where they are unknown."""
        return [facts.literals(value) for facts in self._facts]

    def literals(self, value: ir.Value | None) -> list[int] | None:
        """Return the integers in ``value`` if they are the same at every size, else None."""
        found = self.numbers(value)
        return found[0] if all(one == found[0] for one in found) else None


def multiply(dims: Dims) -> Dim | None:
    """Return the product of ``dims``, or None if one of them is unknown."""
    found = [1, 1]
    for dim in dims:
        if dim is None:
            return None
        found = [size * one for size, one in zip(found, dim, strict=True)]
    return found[0], found[1]


def _join(sizes: tuple[int | str, ...]) -> Dim | None:
    known = tuple(size for size in sizes if isinstance(size, int))
    return known if len(known) == len(sizes) else None
