"""Establish how an encoder uses its inputs, whatever their names: the meaning of its mask, and which dim is the batch.

`attention_mask` may be additive, and the ``src_key_padding_mask`` of torch.nn.TransformerEncoder is true at padding.
torch.nn.TransformerEncoder and fairseq put the sequence before the batch unless asked otherwise. Such a file runs on any feed
and gives numbers that look right. The graph decides (`mask_in_graph`). If it shows nothing, a run decides (`probing`), and
the names of dims decide only if neither shows anything.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from graphsurgery.encoder.roles import Roles, find_roles
from graphsurgery.errors import GraphSurgeryError, LayoutError
from graphsurgery.interface import Value
from graphsurgery.model.model import Model
from graphsurgery.model.once import Store, find_once
from graphsurgery.runtime.baked_sizes import make_feed_generator_for
from graphsurgery.runtime.feeds import FeedGenerator
from graphsurgery.runtime.mask_forms import NONZERO, list_possible_forms
from graphsurgery.runtime.mask_in_graph import find_meaning_in_graph
from graphsurgery.runtime.probing import BATCH_FIRST, SEQUENCE_FIRST, MaskMeaning, find_layout_by_run, find_meaning_by_run
from graphsurgery.runtime.session import open_session

LOG = logging.getLogger(__name__)
SEQUENCE_WORDS = re.compile(r"seq|length|len\b|time|tokens?\b|(?<![a-z])[st]$", re.IGNORECASE)
BATCH_WORDS = re.compile(r"batch|\bbs\b|(?<![a-z])[bn]$", re.IGNORECASE)
ADVICE = "export the encoder with the batch first ([batch, seq]): batch_first=True in torch.nn, or a transpose around the model"


@dataclass(frozen=True)
class Layout:
    """The layout of an encoder (None if nothing shows it), and what shows it."""

    name: str | None
    why: str = ""


def establish_mask(model: Model, name: str, ids: str | None = None, *, may_run: bool = True) -> MaskMeaning:
    """Return what the mask input ``name`` means; ``ids`` names the input of token ids. The result is kept with the model.

    ``may_run``: whether the model may be run if its graph does not show it.
    """
    roles = find_roles(model.interface, ids, name)
    return find_once(_MEANINGS, model, (name, ids, may_run), lambda: _establish(model, roles, may_run))


def _establish(model: Model, roles: Roles, may_run: bool) -> MaskMeaning:
    if roles.mask is None or not list_possible_forms(roles.mask):
        return MaskMeaning(None)
    for find in (find_meaning_in_graph, _run_for_meaning) if may_run else (find_meaning_in_graph,):
        try:
            meaning = find(model, make_feed_generator_for(model, roles))
        except (GraphSurgeryError, MemoryError) as error:
            LOG.debug("what %s means cannot be established: %s", roles.mask.name, error)
        else:
            if meaning.shown_by:
                return meaning
    return MaskMeaning(None)


def _run_for_meaning(model: Model, generator: FeedGenerator) -> MaskMeaning:
    return find_meaning_by_run(open_session(model).run, generator)


def require_batch_first(model: Model, roles: Roles, pooled: str) -> None:
    """Raise LayoutError if ``model`` takes ``[seq, batch]``, or if its value ``pooled`` is ``[seq, batch, hidden]``.

    The layout is kept with the model.
    """
    key = (pooled, *(value.name for value in (roles.ids, roles.mask) if value is not None))
    layout = find_once(_LAYOUTS, model, key, lambda: _find_layout(model, roles, pooled))
    if layout.name == SEQUENCE_FIRST:
        raise LayoutError(f"{layout.why}; what is pooled is [batch, seq, hidden]", ADVICE)


def _find_layout(model: Model, roles: Roles, pooled: str) -> Layout:
    """Return the layout by the graph or a run, and by names of dims only if neither shows anything."""
    fed = [value for value in (roles.ids, roles.mask, *roles.others) if value is not None and value.rank in (2, 3)]
    output = model.interface.output(pooled)
    if output is not None and fed and _is_turned(output, fed[0]):
        return Layout(SEQUENCE_FIRST, f"{output} has the dims of {fed[0]} the other way round")
    meaning = MaskMeaning(None)
    if roles.mask is not None:
        meaning = establish_mask(model, roles.mask.name, roles.ids.name if roles.ids is not None else None)
    if meaning.sequence_first:
        return Layout(SEQUENCE_FIRST, f"the attention of this encoder runs along the first dim of {roles.mask}")
    if meaning.form is not None and output is not None:
        return Layout(BATCH_FIRST)
    try:
        session = open_session(model, extra_outputs=[pooled])
        generator = make_feed_generator_for(model, roles, meaning.form or NONZERO)
        tried = find_layout_by_run(session.run, generator, [pooled])
    except GraphSurgeryError as error:
        LOG.debug("the layout of the model cannot be tried: %s", error)
        tried = None
    if tried == SEQUENCE_FIRST:
        return Layout(
            tried, f"another token changes what {fed[0]} gives along its first dim: the sequence stands before the batch"
        )
    named = next((value for value in fed if _names_sequence_first(value)), None)
    if tried is None and named is not None:
        return Layout(SEQUENCE_FIRST, f"{named} has the sequence before the batch")
    return Layout(tried)


def _names_sequence_first(value: Value) -> bool:
    first, second = (str(dim) if isinstance(dim, str) else "" for dim in (value.dims or (None, None))[:2])
    return SEQUENCE_WORDS.search(first) is not None and BATCH_WORDS.search(second) is not None


def _is_turned(output: Value, fed: Value) -> bool:
    """Return whether an output's first two dims are those of an input in the opposite order."""
    if output.rank != 3 or fed.dims is None or output.dims is None:
        return False
    batch, sequence = fed.dims[:2]
    return isinstance(batch, str) and isinstance(sequence, str) and batch != sequence and output.dims[:2] == (sequence, batch)


_MEANINGS: Store[MaskMeaning] = WeakKeyDictionary()
_LAYOUTS: Store[Layout] = WeakKeyDictionary()
