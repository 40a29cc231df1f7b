"""Every edit by its verb."""

from __future__ import annotations

from graphsurgery.edits.add_normalize import AddNormalize
from graphsurgery.edits.add_pooling import AddPooling
from graphsurgery.edits.edit import Edit
from graphsurgery.edits.strip_head import StripHead

EDITS: dict[str, type[Edit]] = {edit.verb: edit for edit in (AddPooling, AddNormalize, StripHead)}
