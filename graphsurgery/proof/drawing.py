"""Who draws the feeds of a proof, told from the source and from what the recorded edits say of its inputs."""

from __future__ import annotations

from collections.abc import Sequence

from graphsurgery.anatomy.roles import Roles, roles_of
from graphsurgery.model.model import Model
from graphsurgery.model.provenance import Step
from graphsurgery.proof.meanings.pooling import pad_id
from graphsurgery.runtime.feeds import Drawer


def drawer_of(source: Model, chain: Sequence[Step]) -> Drawer:
    """Draws feeds for ``source``; its ids and mask are those that ``chain`` names."""
    pad = next((found for step in chain if (found := pad_id(step.parameters)) is not None), None)
    return Drawer.of(source, _roles(source, chain), pad)


def _roles(source: Model, chain: Sequence[Step]) -> Roles:
    for step in chain:
        mask, ids = step.parameters.get("mask"), step.parameters.get("ids")
        if isinstance(mask, str) or isinstance(ids, str):
            named = mask if isinstance(mask, str) and source.interface.input(mask) is not None else None
            return roles_of(source.interface, ids=ids if isinstance(ids, str) else None, mask=named)
    return roles_of(source.interface)
