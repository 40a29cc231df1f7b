"""The reference of every edit that a file can record, by its verb, imported when somebody looks it up."""

from __future__ import annotations

from importlib import import_module

from graphsurgery.edit_list import RECORDED_EDITS, ByVerb, Listed
from graphsurgery.references.reference import Meaning

POOLING, NORMALIZE, OPTIONAL = "add-pooling", "add-normalize", "optional-input"


def _reference_of(listed: Listed) -> Meaning:
    meaning: Meaning = import_module(f"graphsurgery.references.{listed.reference}").MEANING
    return meaning


MEANINGS: ByVerb[Meaning] = ByVerb(RECORDED_EDITS, _reference_of)
