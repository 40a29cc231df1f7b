"""Whether a file already has a head, and how that is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphsurgery.model.model import Model
from graphsurgery.model.provenance import HOUSEKEEPING, Step

EMBEDDING = "sentence_embedding"
POOLING = "add-pooling"
SPLADE = "add-splade-pooling"
LOGIT_SCORE = "add-logit-score"
WORD_WEIGHTS = "add-word-weights"
"""Verbs of edits that other edits ask about."""


PADDING_FREE = "padding_free"
"""The parameter that a file records of the rewrite `padding-free`."""
KEEP_PADDED = "keep_padded"
"""The parameter that a file records if it has the padded encoder, too, in the other branch of an If."""
POOLINGS = {POOLING: "mode", SPLADE: "strategy", LOGIT_SCORE: ""}
"""Edits that make one vector, or one score, of the tokens, and the parameter that says how."""


def read_head_steps(model: Model) -> list[Step]:
    """Return the edits that the file records, oldest first. Housekeeping steps, such as moving weights, are left out."""
    return [step for step in model.recorded if step.edit not in HOUSEKEEPING]


def list_recorded_edits(model: Model) -> list[Mapping[str, Any]]:
    """Return the parameters of every edit that the file records, with its verb as ``edit``, those below rewrites included.

    A rewrite records the edits whose own entries it replaced (``before``).
    """
    below = (edit for step in model.rewrites for edit in step.given.get("before") or ())
    return [*below, *({"edit": step.edit, **step.given} for step in read_head_steps(model))]


def has_own_head(model: Model) -> bool:
    """Return whether the file records pooling by graphsurgery."""
    return any(step.edit in POOLINGS for step in read_head_steps(model))


def read_padding_free_form(model: Model) -> str | None:
    """Return how attention runs in an encoder that the file records to compute on tokens alone, or None for any other."""
    return next((form for step in model.rewrites if (form := step.given.get(PADDING_FREE))), None)


def keeps_padded_encoder(model: Model) -> bool:
    """Return whether the file records that it holds an encoder twice: padded, and padding-free."""
    return any(step.given.get(KEEP_PADDED) for step in model.rewrites)


def explain_pooling(model: Model) -> str | None:
    """Return how it is known that the file already pools, or None if it does not."""
    for step in read_head_steps(model):
        if step.edit in POOLINGS:
            parameter = POOLINGS[step.edit]
            how = f" with {step.given.get(parameter, 'unreadable')} pooling" if parameter else ""
            return f"its metadata record {step.edit}{how}"
    if model.interface.output(EMBEDDING) is not None:
        return f"it has an output named {EMBEDDING!r}"
    return None
