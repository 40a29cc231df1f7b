"""Work out what a baked-in shape has to become, so that it fits a batch or sequence of any size.

A shape holds as many elements as its input. So the place of a size in a shape is not guessed from the number alone: the dims of
the input and the entries of the shape are split into groups with equal products, and each group keeps its batch and sequence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from graphsurgery.graph.symbolic import Size, Sizes, Symbols

BATCH, SEQUENCE = "batch", "sequence"
Entry = int | str
Entries = tuple[Entry, ...]
STAND_IN = 1 << 40
"""Stands for a size that was never baked in, and is equal to no other size nor to a multiple of one."""


class FreeSizes:
    """The sizes that become free. Each is a symbol whose baked-in number is known."""

    def __init__(self, symbols: Symbols, sizes: Mapping[str, int]) -> None:
        self._symbols, self.sizes = symbols, sizes
        self.freed = {which: symbols.new() for which in sizes}
        self._baked = {symbol: sizes[which] for which, symbol in self.freed.items()}

    def bake(self, size: Size) -> int:
        """Return the number that ``size`` has in the export."""
        number, symbols = self._symbols.split(size)
        return number * math.prod(self._baked.setdefault(one, STAND_IN + len(self._baked)) for one in symbols)

    def guess(self, dims: Sequence[Size | None]) -> Sizes:
        """Return literal ``dims`` with the batch in front and the sequence wherever else their numbers stand."""
        batch, sequence = self.sizes.get(BATCH), self.sizes.get(SEQUENCE)
        guessed = [self.freed[SEQUENCE] if size == sequence else size for size in dims]
        if dims and dims[0] == batch:
            guessed[0] = self.freed[BATCH]
        return tuple(self._symbols.new() if size is None else size for size in guessed)

    def name(self, size: Size) -> Entry | None:
        """Return ``size`` as an entry of a shape: a number, or the size of the batch or the sequence. None for a product."""
        if isinstance(size, int):
            return size
        return next((which for which, symbol in self.freed.items() if symbol == size), None)

    def count_rows(self, size: Size) -> int | None:
        """Return n for ``size`` = n times the batch, else None."""
        rows = self._symbols.divide(size, self.freed[BATCH]) if BATCH in self.freed else None
        return rows if isinstance(rows, int) else None

    def regroup(self, dims: Sizes, wanted: Sequence[int]) -> Sizes | None:
        """Return what the baked shape ``wanted`` is at free sizes if it holds the elements of ``dims``. None if it does not."""
        left, right = [size for size in dims if size != 1], list(wanted)
        found: list[Size] = []
        while left or right:
            inner, outer = left[:1], right[:1]
            del left[:1], right[:1]
            while (have := math.prod(map(self.bake, inner))) != (need := math.prod(outer)):
                if have < need and left:
                    inner.append(left.pop(0))
                elif have > need and right:
                    outer.append(right.pop(0))
                else:
                    return None
            group = self._share(inner, outer)
            if group is None:
                return None
            found += group
        return tuple(found)

    def _share(self, inner: Sequence[Size], outer: Sequence[int]) -> Sizes | None:
        """Share the free sizes of ``inner`` among the entries ``outer``, both of the same product."""
        _, symbols = self._symbols.split(self._symbols.multiply(inner))
        numbers = list(outer)
        shares: list[list[Size]] = [[] for _ in outer]
        order = list(self.freed.values())
        for symbol in sorted(symbols, key=lambda one: order.index(one) if one in order else len(order)):
            size = self.bake(symbol)
            fitting = [place for place, number in enumerate(numbers) if number % size == 0]
            equal = [place for place in fitting if numbers[place] == size]
            if not fitting:
                return None
            place = (equal or fitting)[0] if size > 1 else fitting[0]
            numbers[place] //= size
            shares[place].append(symbol)
        return tuple(self._symbols.multiply([number, *share]) for number, share in zip(numbers, shares, strict=True))

    def choose_reshape(self, dims: Sizes, wanted: Sequence[int], copies_zero: bool) -> tuple[Entries, Sizes] | None:
        """Return a target for Reshape at free sizes, and the dims that it gives; None if there is none.

        0 copies the input's dim if the target means that, and one entry may be -1, for a size that is a product or the first to
        be computed. The others are numbers or computed.
        """
        full = [dims[place] if size == 0 and copies_zero and place < len(dims) else size for place, size in enumerate(wanted)]
        own = [self.bake(size) for size in full]
        if own.count(-1) == 1:
            rest, elements = -math.prod(own), math.prod(map(self.bake, dims))
            own[own.index(-1)] = elements // rest if rest else 0
        found = self.regroup(dims, own)
        if found is None:
            return None
        entries: list[Entry | None] = []
        for place, size in enumerate(found):
            is_copied = copies_zero and not isinstance(size, int) and place < len(dims) and dims[place] == size
            entries.append(0 if is_copied else self.name(size))
        if None not in entries:
            computed = [place for place, entry in enumerate(entries) if isinstance(entry, str)]
            open_place = wanted.index(-1) if -1 in wanted else computed[0] if computed else None
        else:
            open_place = entries.index(None)
        if open_place is not None:
            entries[open_place] = -1
        known = tuple(entry for entry in entries if entry is not None)
        return (known, found) if len(known) == len(entries) else None

    def choose_expand(self, dims: Sizes, wanted: Sequence[int]) -> tuple[Entries, Sizes]:
        """Return a target for Expand at free sizes, and the dims that it gives. 1 keeps a dim of the input."""
        target = [*[1] * (len(dims) - len(wanted)), *wanted]
        own: Sizes = (*[1] * (len(wanted) - len(dims)), *dims)
        entries, found = list[Entry](target), list[Size](own)
        for place, size in enumerate(target):
            which = BATCH if place == 0 else SEQUENCE
            if size > 1 and self.bake(own[place]) == size:
                entries[place] = size if isinstance(own[place], int) else 1
            elif size > 1:
                entries[place] = which if size == self.sizes.get(which) else size
                found[place] = self.freed.get(which, size) if entries[place] == which else size
        return tuple(entries[-len(wanted) :]), tuple(found)
