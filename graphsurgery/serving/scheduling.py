"""Choose which inputs run next: the one that has waited longest, and those whose length is nearest to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np

RUN_COST = 8
"""The fixed cost of a run, in positions. If an input would add more padding than this to a batch, it runs in a later batch."""


class Schedulable(Protocol):
    """An input that waits."""

    @property
    def size(self) -> int: ...
    @property
    def group(self) -> Hashable: ...
    @property
    def arrival(self) -> float: ...


Item = TypeVar("Item", bound=Schedulable)


def choose_batch(sizes: Sequence[int], budget: int, *, padded: bool = True) -> list[int]:
    """Return the indexes of the inputs that run next. ``sizes`` are the lengths of all that wait, in the order of arrival.

    Index 0, the oldest input, always runs, so that no input waits for ever. The others follow by how near their length is to
    that of the oldest (of equally near ones, the older first), while

        rows x longest <= budget                                   (padded; otherwise the sum of the lengths)
        (longest - length) <= RUN_COST                             for an input that is shorter than the longest one
        rows x (length - longest) <= RUN_COST                      for an input that is longer than all of them

    The oldest runs alone if it is longer than the budget.
    """
    lengths = np.asarray(sizes)
    chosen, longest, total = [0], int(lengths[0]), int(lengths[0])
    order = np.argsort(np.abs(lengths[1:] - lengths[0]), kind="stable") + 1
    for place, size in zip(order.tolist(), lengths[order].tolist(), strict=True):
        rows, width = len(chosen), max(longest, size)
        if not padded:
            if total + size <= budget:
                chosen.append(place)
                total += size
            continue
        if (rows + 1) * longest > budget:
            break
        if (rows + 1) * width <= budget and longest - size <= RUN_COST and rows * (size - longest) <= RUN_COST:
            chosen.append(place)
            longest = width
    return chosen


class WaitingLine(Generic[Item]):
    """The waiting inputs, in the order of arrival, by group. Only inputs of the same group share a run."""

    def __init__(self) -> None:
        self._groups: dict[Hashable, list[Item]] = {}
        self.sizes: Counter[Hashable] = Counter()
        """The sum of the lengths of waiting inputs, by group."""

    def __len__(self) -> int:
        return sum(map(len, self._groups.values()))

    def add(self, item: Item) -> None:
        self._groups.setdefault(item.group, []).append(item)
        self.sizes[item.group] += item.size

    def find_oldest(self) -> Item | None:
        """Return the input that has waited longest, or None if none waits."""
        return min((items[0] for items in self._groups.values()), key=lambda one: one.arrival, default=None)

    def take(self, group: Hashable, budget: int, *, padded: bool = True) -> list[Item]:
        """Take the next batch of a group out of the line, as `choose_batch` chooses it."""
        items = self._groups[group]
        chosen = choose_batch([one.size for one in items], budget, padded=padded)
        return self._remove(group, set(chosen))

    def drop(self, is_unwanted: Callable[[Item], bool]) -> list[Item]:
        """Remove all inputs for which ``is_unwanted`` is true, and return them."""
        found = []
        for group, items in list(self._groups.items()):
            places = {place for place, one in enumerate(items) if is_unwanted(one)}
            if places:
                found += self._remove(group, places)
        return found

    def _remove(self, group: Hashable, places: set[int]) -> list[Item]:
        items = self._groups[group]
        removed = [items[place] for place in sorted(places)]
        left = [one for place, one in enumerate(items) if place not in places]
        if left:
            self._groups[group] = left
            self.sizes[group] -= sum(one.size for one in removed)
        else:
            del self._groups[group], self.sizes[group]
        return removed
