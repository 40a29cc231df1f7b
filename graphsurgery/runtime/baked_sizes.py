"""Find sizes that the export fixed inside a graph, although the file declares its dims free.

Such a file fails at every other size, or gives numbers for other rows and tokens than it was fed. If its graph makes that
likely (`suspected_sizes`), it is run at usual sizes, and if that fails, at the sizes that its constants hold.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain, product
from weakref import WeakKeyDictionary

import numpy as np

from graphsurgery.encoder.limits import find_tables
from graphsurgery.encoder.modalities import list_modalities
from graphsurgery.encoder.roles import Roles, find_roles
from graphsurgery.encoder.suspected_sizes import list_suspected_sizes
from graphsurgery.errors import GraphSurgeryError, UnsupportedModelError
from graphsurgery.interface import Dim, Interface, Value
from graphsurgery.model.model import Model
from graphsurgery.model.once import Store, find_once
from graphsurgery.runtime.feeds import FeedGenerator
from graphsurgery.runtime.mask_forms import NONZERO
from graphsurgery.runtime.media_sizes import MOST_WEIGHTS, find_media
from graphsurgery.runtime.second_masks import feed_second_masks
from graphsurgery.runtime.session import Session, open_session

ROWS, COLUMNS = (3, 2), (5, 6)
"""The usual sizes to try: two of each. One of them may happen to be the size that the export fixed."""
MOST_SIZES = 12
"""At most this many numbers from constants are tried as sizes."""
BakedSizes = tuple[int | None, int | None]
FREE: BakedSizes = (None, None)
LOG = logging.getLogger(__name__)
_FOUND: Store[BakedSizes] = WeakKeyDictionary()


def make_feed_generator_for(model: Model, roles: Roles, form: str = NONZERO) -> FeedGenerator:
    """Return a generator of feeds on which ``model`` runs and sees its tokens. Raises what `FeedGenerator.for_model` raises."""
    return feed_second_masks(model, restrict_to_baked_sizes(model, FeedGenerator.for_model(model, roles, form)))


def restrict_to_baked_sizes(model: Model, generator: FeedGenerator) -> FeedGenerator:
    """Return ``generator``, which draws feeds for ``model``, limited to the only sizes at which the model runs."""
    generator = replace(generator, media=find_media(model, generator))
    return replace(generator, baked=find_baked_sizes(model, generator))


def find_baked_sizes(model: Model, generator: FeedGenerator) -> BakedSizes:
    """Return the only batch size and the only sequence size at which ``model`` runs; None in place of one that may vary."""
    ids = generator.roles.ids
    if ids is None or ids.rank != 2 or (generator.fixed_batch and generator.fixed_sequence):
        return FREE
    key = (ids.name, generator.roles.mask.name if generator.roles.mask is not None else None, generator.form)
    return find_once(_FOUND, model, key, lambda: _find(model, generator))


def declare_baked_sizes(model: Model, source: Model | None = None) -> tuple[Interface, list[str]]:
    """Return (the interface of ``model`` with its only sizes in place of symbolic dims, sentences about them).

    ``source`` is the model that ``model`` was made from. Edits and rewrites do not fix sizes, so if the source runs at any
    size, ``model`` is not tried.
    """
    roles, interface = find_roles(model.interface), model.interface
    if source is not None and _runs_at_any_size(source):
        return interface, []
    generator = restrict_to_baked_sizes(model, FeedGenerator(roles, find_tables(model, roles)))
    named = zip(roles.ids.dims or () if roles.ids is not None else (), generator.baked, strict=False)
    sizes: dict[Dim, int] = {dim: size for dim, size in named if size is not None and isinstance(dim, str)}
    by_name = {value.name: value for value in roles.others}
    for medium in generator.media:
        free = zip((by_name[medium.name].dims or ())[1:], medium.sizes, strict=False)
        sizes |= {dim: size for dim, size in free if medium.only and isinstance(dim, str)}

    def declare(value: Value) -> Value:
        return value if value.dims is None else replace(value, dims=tuple(sizes.get(dim, dim) for dim in value.dims))

    sides = (interface.inputs, interface.outputs, interface.optional)
    return Interface(*(tuple(map(declare, side)) for side in sides)), generator.baked_in


def _runs_at_any_size(model: Model) -> bool:
    """Return whether a model of texts declares its batch and sequence sizes free, and runs at any size."""
    roles = find_roles(model.interface)
    generator = FeedGenerator(roles, find_tables(model, roles))
    is_fixed = generator.fixed_batch is not None or generator.fixed_sequence is not None
    if roles.ids is None or roles.ids.rank != 2 or is_fixed or any(one.stem for one in list_modalities(model)):
        return False
    return find_baked_sizes(model, generator) == FREE


def _find(model: Model, generator: FeedGenerator) -> BakedSizes:
    suspected = list_suspected_sizes(model)[:MOST_SIZES] if model.weight_bytes <= MOST_WEIGHTS else []
    if not suspected:
        return FREE
    try:
        trial = _Trial(open_session(model), generator, {value.name: value for value in model.interface.outputs})
        return trial.find(suspected)
    except (GraphSurgeryError, MemoryError) as error:
        LOG.debug("it cannot be tried at which sizes the model runs: %s", error)
        return FREE


class _Trial:
    """Runs a model at given sizes."""

    def __init__(self, session: Session, generator: FeedGenerator, declared: Mapping[str, Value]) -> None:
        self._session, self._generator, self._declared = session, generator, declared
        self._rows = (generator.fixed_batch,) if generator.fixed_batch else ROWS
        self._columns = (generator.fixed_sequence,) if generator.fixed_sequence else COLUMNS

    def find(self, suspected: list[int]) -> BakedSizes:
        """Return the first of the ``suspected`` sizes at which the model runs. `FREE` if it runs at usual ones, or never."""
        rows = list(dict.fromkeys([1, *suspected])) if len(self._rows) > 1 else []
        columns = [size for size in suspected if size > 1] if len(self._columns) > 1 else []
        usual: BakedSizes = (None, None)
        sizes = ((None, size) for size in columns), ((size, None) for size in rows), product(rows, columns)
        return next((found for found in chain([usual], *sizes) if self._runs(*found)), FREE)

    def _runs(self, batch: int | None, sequence: int | None) -> bool:
        """Return whether the model runs at these sizes. None stands for all usual sizes."""
        rows = self._rows if batch is None else (batch,)
        columns = self._columns if sequence is None else (sequence,)
        return self._runs_at(rows[0], columns[0]) and self._runs_at(rows[-1], columns[-1])

    def _runs_at(self, rows: int, columns: int) -> bool:
        """Return whether the model runs, and gives as many rows and tokens as it is fed."""
        try:
            outputs = self._session.run(self._generator.generate(np.ones((rows, columns), dtype=np.bool_), seed=0))
        except UnsupportedModelError:
            return False
        ids = self._generator.roles.ids
        dims = dict(zip(ids.dims or (), (rows, columns), strict=False)) if ids is not None else {}
        return all(self._fits(name, np.shape(array), dims) for name, array in outputs.items())

    def _fits(self, name: str, shape: tuple[int, ...], dims: Mapping[int | str | None, int]) -> bool:
        """Return whether an output has the sizes that it declares by the names of the ids' dims."""
        declared = self._declared[name].dims
        if declared is None or len(declared) != len(shape):
            return True
        return all(dims.get(dim, size) == size for dim, size in zip(declared, shape, strict=True) if isinstance(dim, str))
