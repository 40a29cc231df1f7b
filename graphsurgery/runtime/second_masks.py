"""Find second masks: inputs of unknown use that hide every token if they are fed zeros.

An encoder may take two masks, and see a token only where both mark it. While one of them is all zeros, no run shows what the
other means. So the second mask is fed ones.
"""

from __future__ import annotations

from dataclasses import replace
from weakref import WeakKeyDictionary

from graphsurgery.errors import GraphSurgeryError
from graphsurgery.interface import Value
from graphsurgery.model.dtypes import FLOATS
from graphsurgery.model.model import Model
from graphsurgery.model.once import Store, find_once
from graphsurgery.runtime.feeds import FeedGenerator
from graphsurgery.runtime.mask_forms import NONZERO, list_possible_forms
from graphsurgery.runtime.media_sizes import MOST_WEIGHTS
from graphsurgery.runtime.probing import find_meaning_by_run
from graphsurgery.runtime.session import open_session

_FOUND: Store[frozenset[str]] = WeakKeyDictionary()


def feed_second_masks(model: Model, generator: FeedGenerator) -> FeedGenerator:
    """Return ``generator``, which draws feeds for ``model``, with ones for inputs that hide the tokens while they are zero."""
    roles = generator.roles
    names = frozenset(value.name for value in roles.others if _may_be_mask(value) and value.name != generator.prompt)
    if roles.mask is None or not names or model.weight_bytes > MOST_WEIGHTS:
        return generator
    key = (roles.mask.name, None if roles.ids is None else roles.ids.name)
    return replace(generator, ones=find_once(_FOUND, model, key, lambda: _find(model, generator, names)))


def _may_be_mask(value: Value) -> bool:
    return value.rank == 2 and value.dtype not in FLOATS and NONZERO in list_possible_forms(value)


def _find(model: Model, generator: FeedGenerator, names: frozenset[str]) -> frozenset[str]:
    """Return ``names`` if a run shows what the mask means while they are ones, and none does while they are zeros."""
    try:
        run = open_session(model).run
        with_zeros, with_ones = (find_meaning_by_run(run, replace(generator, ones=ones)) for ones in (frozenset[str](), names))
    except (GraphSurgeryError, MemoryError):
        return frozenset()
    return names if with_zeros.form is None and with_ones.form is not None else frozenset()
