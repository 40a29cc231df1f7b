"""Apply a rewrite to a whole model: take the recorded head off, rewrite the encoder, put the head back, record the rewrite."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from graphsurgery.errors import UnsupportedModelError
from graphsurgery.model.model import Model
from graphsurgery.model.provenance import record_rewrite
from graphsurgery.proof.golden import copy_goldens, read_goldens
from graphsurgery.remarks import Warn
from graphsurgery.rewrites.head_parts import Parts, split_head
from graphsurgery.rewrites.rewrite import Context, Rewrite, Rewritten

NOT_TAKEN_OFF = (
    "cannot be taken off, because the encoder below was changed since: the graph is optimized as it is, and its record of "
    "them is lost"
)


@dataclass(frozen=True)
class Applied:
    """A model before and after one rewrite."""

    rewrite: Rewrite
    """The rewrite with every parameter filled in."""
    before: Model
    after: Model
    """The same as ``before`` if the rewrite changed nothing."""
    parts: Parts
    """The encoder before the rewrite, and the head on it."""
    result: Rewritten
    notes: tuple[str, ...]


def apply_rewrite(rewrite: Rewrite, model: Model, context: Context, parts: Parts | None = None) -> Applied:
    """Return ``model`` after ``rewrite``. ``model`` itself is not changed, and passes `Rewrite.check`.

    Args:
        parts: the model's encoder and head, if they are known already.

    Raises what `Rewrite.apply` raises.
    """
    model.require_data("a rewrite")
    parts = parts or split_head(model)
    context.progress(rewrite.doing)
    resolved = rewrite.resolve(parts.encoder)
    result = resolved.apply(parts.encoder, replace(context, whole=model))
    notes = (*_warn_about_records(model, parts), *result.notes)
    if result.unchanged is not None:
        return Applied(resolved, model, model, parts, result, notes)
    document = record_rewrite(result.encoder.document, result.recorded | _describe_edits(parts), model.fingerprint)
    after = parts.join(replace(result.encoder, document=document, loaded=None))
    for edit in result.head:
        after = edit.apply(after)
    if result.keeps_goldens:
        after = copy_goldens(model, after, result.golden_limits)
    return Applied(resolved, model, replace(after, remarks=(*model.remarks, *notes)), parts, result, notes)


def _describe_edits(parts: Parts) -> dict[str, Any]:
    """Return the file's edits at this time, for the record: how many are in the head, and those that lose their own record."""
    before = [{"edit": step.edit, **step.given} for step in parts.before]
    return ({"edits": len(parts.head)} if parts.head else {}) | ({"before": before} if before else {})


def _warn_about_records(model: Model, parts: Parts) -> Iterator[str]:
    """Yield warnings about records that the rewritten model will not have."""
    if parts.lost:
        yield Warn(f"{', '.join(parts.lost)} {NOT_TAKEN_OFF}")
    try:
        read_goldens(model)
    except UnsupportedModelError as error:
        yield Warn(f"{error}; the output has none")
