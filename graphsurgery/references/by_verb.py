"""The reference of every edit that a file can record, by its verb, imported when somebody looks it up."""

from __future__ import annotations

from importlib import import_module

from graphsurgery.edit_list import RECORDED_EDITS, ByVerb, Listed
from graphsurgery.references.reference import Reference

POOLING, NORMALIZE, OPTIONAL = "add-pooling", "add-normalize", "optional-input"


def _reference_of(listed: Listed) -> Reference:
    reference: Reference = import_module(f"graphsurgery.references.{listed.reference}").REFERENCE
    return reference


REFERENCES: ByVerb[Reference] = ByVerb(RECORDED_EDITS, _reference_of)
