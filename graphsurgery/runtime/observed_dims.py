"""The dims of every value of an encoder, as runs on batches of several sizes show them.

Shape inference knows neither the operators of ONNX Runtime nor how much a Slice cuts from a table. A run knows both. Each dim
is read as ``number x batch^rows x seq^positions``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from graphsurgery.encoder.roles import find_roles
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.graph.graph import Graph
from graphsurgery.model.model import Model
from graphsurgery.model.once import Store, find_once
from graphsurgery.runtime.baked_sizes import make_feed_generator_for
from graphsurgery.runtime.masks import make_mask
from graphsurgery.runtime.session import open_session

TRIALS = (((2, 9), (3, 14), (5, 11)), ((2, 3), (3, 5), (5, 4)))
"""The batches that are run: rows and positions. The shorter ones are for encoders that take short texts only."""
POWERS = tuple((rows, positions) for rows in range(3) for positions in range(3))


class Size(NamedTuple):
    """The size ``number x batch^rows x seq^positions``."""

    number: int
    rows: int = 0
    positions: int = 0

    @property
    def is_literal(self) -> bool:
        """Whether the size is the same for every batch."""
        return not self.rows and not self.positions


ROWS, POSITIONS = Size(1, 1, 0), Size(1, 0, 1)
Dims = tuple[Size | None, ...]
"""The sizes of a value. None for a size of another form."""


class Observed(NamedTuple):
    """The type and dims of a value."""

    dtype: np.dtype[np.generic]
    dims: Dims


def observe_dims(model: Model, ids: str | None, mask: str, form: str) -> Mapping[str, Observed]:
    """Return the observed dims of every value that depends on an input. They are kept with the model.

    Args:
        ids: the input of token ids.
        mask: the input that says which positions are tokens, in ``form`` (see `mask_forms`).

    Raises UnsupportedModelError if the model does not run, or runs at only one batch or sequence size.
    """
    return find_once(_OBSERVED, model, (ids, mask, form), lambda: _observe(model, ids, mask, form))


def _observe(model: Model, ids: str | None, mask: str, form: str) -> Mapping[str, Observed]:
    generator = make_feed_generator_for(model, find_roles(model.interface, ids, mask), form)
    trials = next((sizes for sizes in TRIALS if max(width for _, width in sizes) <= generator.longest), None)
    if trials is None or generator.fixed_batch is not None or generator.fixed_sequence is not None:
        raise UnsupportedModelError(
            f"the encoder takes batches of {generator.fixed_batch or 'any number of'} rows and "
            f"{generator.fixed_sequence or f'up to {generator.longest}'} positions, and both have to vary",
            "export it with a dynamic batch and a dynamic sequence length",
        )
    names = _list_computed(Graph.of(model))
    session = open_session(model, extra_outputs=names, plain=True)
    feeds = [generator.generate(make_mask([max(width - row, 1) for row in range(rows)], width), 0) for rows, width in trials]
    runs = [feed | session.run(feed) for feed in feeds]
    arrays = {name: [run[name] for run in runs] for name in runs[0] if isinstance(runs[0][name], np.ndarray)}
    return {name: Observed(seen[0].dtype, tuple(_read_dims(seen, trials))) for name, seen in arrays.items()}


def _list_computed(graph: Graph) -> list[str]:
    """Return the values that nodes compute from inputs, or from their shapes."""
    found = {value for value in graph.main.inputs if graph.is_fed(value)}
    names = []
    for node in graph.nodes:
        if not found.isdisjoint(graph.all_inputs(node)):
            found.update(node.outputs)
            names += [value.name for value in node.outputs if value.name]
    return names


def _read_dims(arrays: Sequence[np.ndarray], trials: Sequence[tuple[int, int]]) -> Iterator[Size | None]:
    for sizes in zip(*(array.shape for array in arrays), strict=True):
        yield next((found for powers in POWERS if (found := _fit(sizes, trials, *powers)) is not None), None)


def _fit(sizes: Sequence[int], trials: Sequence[tuple[int, int]], rows: int, positions: int) -> Size | None:
    """Return the size if it is a multiple of these powers in every trial."""
    units = [batch**rows * width**positions for batch, width in trials]
    number = sizes[0] // units[0]
    return Size(number, rows, positions) if all(number * one == size for one, size in zip(units, sizes, strict=True)) else None


_OBSERVED: Store[Mapping[str, Observed]] = WeakKeyDictionary()
