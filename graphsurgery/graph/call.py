"""One node with all that is known of what it reads: what the rules for dims and for integers look at."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphsurgery.graph.attributes import integer, integers
from graphsurgery.graph.sizes import Sizes, Symbols


@dataclass(frozen=True)
class Fact:
    """The element type of a value (0 where it is not known) and its dims (None where not even their number is)."""

    dtype: int = 0
    dims: Sizes | None = None

    @property
    def literal(self) -> tuple[int, ...] | None:
        """The dims where all of them are literals."""
        if self.dims is None:
            return None
        found = tuple(dim for dim in self.dims if isinstance(dim, int))
        return found if len(found) == len(self.dims) else None


UNKNOWN = Fact()


@dataclass(frozen=True)
class Call:
    """A node, the facts of its inputs, and the integers in them where they are few: scalars and vectors, row by row."""

    node: ir.Node
    facts: tuple[Fact, ...]
    numbers: tuple[Sizes | None, ...]
    symbols: Symbols

    def dims(self, place: int = 0) -> Sizes | None:
        """The dims of an input."""
        return self.facts[place].dims if place < len(self.facts) else None

    def dtype(self, place: int = 0) -> int:
        """The element type of an input, 0 where it is not known."""
        return self.facts[place].dtype if place < len(self.facts) else 0

    def values(self, place: int) -> Sizes | None:
        """The integers in an input."""
        return self.numbers[place] if place < len(self.numbers) else None

    def literals(self, place: int) -> list[int] | None:
        """The integers in an input where all of them are literals."""
        values = self.values(place)
        found = [value for value in values or () if isinstance(value, int)]
        return found if values is not None and len(found) == len(values) else None

    def gives(self, place: int) -> bool:
        """Whether the node reads something at that place."""
        return place < len(self.node.inputs) and self.node.inputs[place] is not None

    def integer(self, name: str, default: int) -> int:
        """An integer attribute."""
        return integer(self.node, name, default)

    def listed(self, name: str, place: int) -> list[int] | None:
        """A list of integers that is an attribute at older opsets and an input at newer ones; None where it is not known."""
        return integers(self.node, name) if not self.gives(place) else self.literals(place)
