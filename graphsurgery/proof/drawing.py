"""Who draws the feeds of a proof, told from the source and from what the recorded edits say of its inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from graphsurgery.anatomy.roles import Roles, roles_of
from graphsurgery.anatomy.tables import tables_of
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.interface import Value
from graphsurgery.model.model import Model
from graphsurgery.model.provenance import HOUSEKEEPING, Step
from graphsurgery.model.provenance import steps as recorded_steps
from graphsurgery.proof.chain import declared, destiny, origin
from graphsurgery.proof.meanings.pooling import pad_id, prompt_input
from graphsurgery.runtime.feeds import Drawer


def drawer_of(source: Model, chain: Sequence[Step]) -> Drawer:
    """Draws feeds for what ``chain`` makes of ``source``: for its inputs, which may not be the source's.

    Which of them are ids and mask is what ``chain``, or the edits that the source records itself, say. The embedding tables are
    the source's.
    """
    known = list(_told(source, chain))
    ids, mask, prompt = (next((one[place] for one in known if one[place] is not None), None) for place in range(3))
    roles = roles_of(source.interface, ids=ids, mask=mask)
    inputs = {value.name: value for value in declared(source, chain).interface.inputs}
    still = {role: _still(inputs, chain, getattr(roles, role)) for role in ("ids", "mask", "types", "positions")}
    taken = {value.name for value in still.values() if value is not None}
    others = tuple(value for value in inputs.values() if value.name not in taken)
    pad = next(
        (found for step in (*chain, *recorded_steps(source.proto)) if (found := pad_id(step.parameters)) is not None), None
    )
    return Drawer(
        Roles(**still, others=others), tables_of(source, roles), pad if still["ids"] is not None else None,
        _prompt(inputs, chain) or (prompt if prompt in inputs else None),
    )  # fmt: skip


def _told(source: Model, chain: Sequence[Step]) -> Iterator[tuple[str | None, str | None, str | None]]:
    """What recorded edits call ids, mask and prompt length, by the source's names."""
    own = [step for step in recorded_steps(source.proto) if step.edit not in HOUSEKEEPING]
    for place, step in enumerate(chain):
        yield _inputs_of(source, step, lambda name, before=chain[:place]: (origin(before, name),))
    for place, step in enumerate(own):
        try:
            yield _inputs_of(source, step, lambda name, rest=own[place + 1 :]: (destiny(rest, name), name))
        except UnsupportedModelError:  # an edit that this version does not know
            continue


def _inputs_of(source: Model, step: Step, called: object) -> tuple[str | None, str | None, str | None]:
    found = []
    for name in (step.parameters.get("ids"), step.parameters.get("mask"), prompt_input(step.parameters)):
        names = called(name) if isinstance(name, str) else ()  # type: ignore[operator]
        found.append(next((one for one in names if one is not None and source.interface.input(one) is not None), None))
    return found[0], found[1], found[2]


def _still(inputs: dict[str, Value], chain: Sequence[Step], value: Value | None) -> Value | None:
    """The input that was ``value`` in the source."""
    if value is None:
        return None
    return inputs.get(destiny(chain, value.name)) or inputs.get(value.name)


def _prompt(inputs: dict[str, Value], chain: Sequence[Step]) -> str | None:
    """The input that says how long the prompt is, where ``chain`` added one."""
    for place, step in enumerate(chain):
        name = prompt_input(step.parameters)
        if name is not None:
            return next((one for one in (destiny(chain[place + 1 :], name), name) if one in inputs), None)
    return None
