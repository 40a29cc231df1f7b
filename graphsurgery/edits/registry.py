"""Every edit's class by its verb, imported when somebody looks it up."""

from __future__ import annotations

from importlib import import_module

from graphsurgery.edit_list import LISTED, ByVerb, Listed
from graphsurgery.edits.edit import Edit


def _class_of(listed: Listed) -> type[Edit]:
    edit: type[Edit] = getattr(import_module(f"graphsurgery.edits.{listed.function}"), listed.class_name)
    return edit


EDITS: ByVerb[type[Edit]] = ByVerb(LISTED, _class_of)
