"""Sizes as a run decides them: literals, and products of symbols, so that what is the same size can be told without a run.

A *symbol* is one unknown integer, the same wherever it stands. What is computed of symbols and is no product is a symbol
itself, named by how it is computed: two that are computed alike are one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from itertools import count
from typing import TypeAlias

Size: TypeAlias = int | str
Sizes: TypeAlias = tuple[Size, ...]
LONGEST = 200
"""Letters of what a symbol is called; beyond, it is a new one."""
LARGEST = 1 << 62
"""Literals stay below this: what overflows is not for us to tell."""


class Symbols:
    """The symbols of one graph."""

    def __init__(self) -> None:
        self._fresh = count()
        self._factors: dict[str, tuple[int, tuple[str, ...]]] = {}
        self._signed: set[str] = set()

    def new(self) -> str:
        """A size that nothing else is known to be: 0 or more."""
        return f"n{next(self._fresh)}"

    def computed(self, text: str, signed: bool = True) -> str:
        """The symbol for what is computed so. ``signed``: it may be negative."""
        name = text if len(text) <= LONGEST else f"x{next(self._fresh)}"
        if signed:
            self._signed.add(name)
        return name

    def is_count(self, size: Size) -> bool:
        """Whether a size is 0 or more for sure."""
        number, symbols = self._parts(size)
        return number >= 0 and not self._signed.intersection(symbols)

    def product(self, sizes: Iterable[Size]) -> Size:
        """What ``sizes`` make, multiplied."""
        parts = [self._parts(size) for size in sizes]
        return self._named(math.prod(number for number, _ in parts), (one for _, symbols in parts for one in symbols))

    def quotient(self, size: Size, by: Size) -> Size | None:
        """``size / by`` where that is a product again; None where it is not, or where a negative number is in it."""
        if not self.is_count(size) or not self.is_count(by):
            return None
        (number, symbols), (least, divisors) = self._parts(size), self._parts(by)
        left = Counter(symbols)
        left.subtract(divisors)
        if least == 0 or number % least or min(left.values(), default=0) < 0:
            return None
        return self._named(number // least, left.elements())

    def _parts(self, size: Size) -> tuple[int, tuple[str, ...]]:
        """(number, symbols) whose product ``size`` is."""
        return (size, ()) if isinstance(size, int) else self._factors.get(size, (1, (size,)))

    def _named(self, number: int, symbols: Iterable[str]) -> Size:
        factors = tuple(sorted(symbols))
        name = "*".join((*([] if number == 1 and factors else [str(number)]), *factors))
        if len(name) > LONGEST or abs(number) >= LARGEST:
            return self.computed(f"({name})")
        if number == 0 or not factors:
            return number
        if number == 1 and len(factors) == 1:
            return name
        self._factors[name] = (number, factors)
        return name
