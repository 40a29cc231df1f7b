"""Symbolic sizes, and what shape inference knows of the inputs of a node.

A size is an integer, or a product of *symbols*. A symbol is one unknown integer, the same wherever it occurs, so that two sizes
can be compared without running the model. An expression of symbols that is not a product is a symbol of its own, named by the
expression: two equal expressions have the same name.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from typing import TypeAlias

from graphsurgery.deferred import ir
from graphsurgery.graph.attributes import get_int, get_ints

Size: TypeAlias = int | str
Sizes: TypeAlias = tuple[Size, ...]
LONGEST_NAME = 200
"""The most characters of a symbol's name. A longer expression becomes a fresh symbol."""
LARGEST = 1 << 62
"""Literals stay below this, so that none overflows int64."""


class Symbols:
    """The symbols of one graph."""

    def __init__(self) -> None:
        self._fresh = count()
        self._factors: dict[str, tuple[int, tuple[str, ...]]] = {}
        self._signed: set[str] = set()

    def new(self) -> str:
        """Return a symbol for a size that is known to be 0 or more, and nothing else."""
        return f"n{next(self._fresh)}"

    def name_expression(self, expression: str, signed: bool = True) -> str:
        """Return the symbol for the value of ``expression``, which may be negative if it is ``signed``."""
        name = expression if len(expression) <= LONGEST_NAME else f"x{next(self._fresh)}"
        if signed:
            self._signed.add(name)
        return name

    def is_nonnegative(self, *sizes: Size) -> bool:
        """Return whether all ``sizes`` are certainly 0 or more."""
        parts = map(self.split, sizes)
        return all(number >= 0 and not self._signed.intersection(symbols) for number, symbols in parts)

    def multiply(self, sizes: Iterable[Size]) -> Size:
        """Return the product of ``sizes``."""
        parts = [self.split(size) for size in sizes]
        return self._join(math.prod(number for number, _ in parts), (one for _, symbols in parts for one in symbols))

    def divide(self, size: Size, divisor: Size) -> Size | None:
        """Return ``size / divisor`` if that is a product again. None if it is not, or if either may be negative."""
        if not self.is_nonnegative(size, divisor):
            return None
        (number, symbols), (least, divisors) = self.split(size), self.split(divisor)
        left = Counter(symbols)
        left.subtract(divisors)
        if least == 0 or number % least or min(left.values(), default=0) < 0:
            return None
        return self._join(number // least, left.elements())

    def split(self, size: Size) -> tuple[int, tuple[str, ...]]:
        """Return (number, symbols), whose product is ``size``."""
        return (size, ()) if isinstance(size, int) else self._factors.get(size, (1, (size,)))

    def _join(self, number: int, symbols: Iterable[str]) -> Size:
        """Return the product of ``number`` and ``symbols``."""
        factors = tuple(sorted(symbols))
        name = "*".join((*([] if number == 1 and factors else [str(number)]), *factors))
        if len(name) > LONGEST_NAME or abs(number) >= LARGEST:
            return self.name_expression(f"({name})")
        if number == 0 or not factors:
            return number
        if number == 1 and len(factors) == 1:
            return name
        self._factors[name] = (number, factors)
        return name


def read_literals(sizes: Sizes | None) -> tuple[int, ...] | None:
    """Return ``sizes`` if all of them are integers, else None."""
    if sizes is None:
        return None
    literals = tuple(size for size in sizes if isinstance(size, int))
    return literals if len(literals) == len(sizes) else None


@dataclass(frozen=True)
class Fact:
    """What is known of a value: its element type (0 if unknown) and its dims (None if not even their number is known)."""

    dtype: int = 0
    dims: Sizes | None = None

    @property
    def literal(self) -> tuple[int, ...] | None:
        """The dims if all of them are integers, else None."""
        return read_literals(self.dims)


UNKNOWN = Fact()


@dataclass(frozen=True)
class InferenceContext:
    """A node and what is known of its inputs: their facts, and the integers in short vectors and scalars."""

    node: ir.Node
    facts: tuple[Fact, ...]
    numbers: tuple[Sizes | None, ...]
    symbols: Symbols

    def dims(self, index: int = 0) -> Sizes | None:
        """The dims of an input, or None if they are unknown."""
        return self.facts[index].dims if index < len(self.facts) else None

    def dtype(self, index: int = 0) -> int:
        """The element type of an input, or 0 if it is unknown."""
        return self.facts[index].dtype if index < len(self.facts) else 0

    def values(self, index: int) -> Sizes | None:
        """The integers in an input, or None if they are unknown."""
        return self.numbers[index] if index < len(self.numbers) else None

    def literals(self, index: int) -> tuple[int, ...] | None:
        """The integers in an input if all of them are literals, else None."""
        return read_literals(self.values(index))

    def has_input(self, index: int) -> bool:
        """Return whether the node has an input at ``index``."""
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def get_int(self, name: str, default: int) -> int:
        """Return an integer attribute of the node."""
        return get_int(self.node, name, default)

    def get_ints(self, name: str, index: int) -> tuple[int, ...] | None:
        """Return integers that older opsets have as an attribute and newer ones as an input; None if they are unknown."""
        if self.has_input(index):
            return self.literals(index)
        numbers = get_ints(self.node, name)
        return None if numbers is None else tuple(numbers)
