"""Who draws the feeds of a proof, told from the source and from what the recorded edits say of its inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product

from graphsurgery.encoder.head import head_steps
from graphsurgery.encoder.roles import IDS_NAMES, MASK_NAMES, Roles, roles_of
from graphsurgery.encoder.tables import find_tables
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.interface import Value, value_of
from graphsurgery.model.model import Model
from graphsurgery.model.provenance import Step
from graphsurgery.references.chain import declared, input_destiny, meanings, origin
from graphsurgery.references.pooling import pad_id, prompt_input
from graphsurgery.references.reference import Parameters
from graphsurgery.references.registry import OPTIONAL
from graphsurgery.runtime.feeds import Drawer

ROLES = ("ids", "mask", "types", "positions")
MOST_LEADING, MOST_ELEMENTS = 1 << 22, 1 << 26
"""The first two literal sizes of an input, multiplied, and all of them: what a file declares beyond that is not drawn."""


def drawer_of(source: Model, chain: Sequence[Step]) -> Drawer:
    """Draws feeds for what ``chain`` makes of ``source``: for its inputs, which may not be the source's.

    Which of them are ids and mask is what ``chain``, or the edits that the source records itself, say. The embedding tables are
    the source's. UnsupportedModelError where one of these edits cannot be read, for then nobody knows what its inputs mean, and
    where an input is too large to be drawn.
    """
    own = head_steps(source)
    known = list(_told(source, chain, own))
    ids, mask, prompt = (next((one[place] for one in known if one[place] is not None), None) for place in range(3))
    roles = roles_of(source.interface, ids=ids, mask=mask)
    after = declared(source, chain)
    inputs = {value.name: value for value in after.interface.inputs}
    _require_drawable(after.interface.inputs)
    pad = next((pad for step in (*chain, *own) if (pad := pad_id(step.parameters)) is not None), None)
    tables = find_tables(source, roles)
    limits = [means.longest(step.parameters) for step, means in meanings(chain)]
    most = min((limit for limit in limits if limit is not None), default=None)

    def drawer(inputs: dict[str, Value], fed: Drawer | None = None) -> Drawer:
        still = {role: inputs.get(_still(chain, getattr(roles, role)) or "") for role in ROLES}
        taken = {value.name for value in still.values() if value is not None}
        others = tuple(value for value in inputs.values() if value.name not in taken)
        called = _prompt(chain) or prompt
        return Drawer(
            Roles(**still, others=others), tables, pad if still["ids"] is not None else None,
            called if called in inputs else None, fed, most,
        )  # fmt: skip

    optional = {name: value for name, value in _declared(after).items() if name in _optional(chain)}
    return drawer(inputs, drawer(inputs | optional) if optional else None)


def _declared(model: Model) -> dict[str, Value]:
    """Every input that the graph lists, those with a default as well."""
    return {info.name: value_of(info) for info in model.proto.graph.input}


def _optional(chain: Sequence[Step]) -> set[str]:
    """The inputs that ``chain`` gave a default."""
    found = {step.parameters["input"]: place for place, step in enumerate(chain) if step.edit == OPTIONAL}
    return {input_destiny(chain[place + 1 :], name) for name, place in found.items()}


def _require_drawable(inputs: Sequence[Value]) -> None:
    """UnsupportedModelError for an input that would take all of the memory."""
    for value in inputs:
        sizes = [dim if isinstance(dim, int) else 1 for dim in value.dims or ()]
        if math.prod(sizes[:2]) > MOST_LEADING or math.prod(sizes) > MOST_ELEMENTS:
            raise UnsupportedModelError(f"the input {value} is too large to be drawn", "compare the files by other means")


def _told(source: Model, chain: Sequence[Step], own: Sequence[Step]) -> Iterator[tuple[str | None, ...]]:
    """What recorded edits call ids, mask and prompt length, by the source's names; ``own``: those that the source records."""
    for place, (step, _) in enumerate(meanings(chain)):
        yield _named(source, _asked(step.parameters), partial(origin, chain[:place]))
    for place, (step, _) in enumerate(meanings(own)):
        yield _named(source, _asked(step.parameters), partial(input_destiny, own[place + 1 :]))
    for ids, mask in product(IDS_NAMES, MASK_NAMES) if own else ():  # what a recorded edit gave another name
        yield _named(source, (ids, mask, None), partial(input_destiny, own))


def _asked(parameters: Parameters) -> tuple[str | None, ...]:
    return parameters.get("ids"), parameters.get("mask"), prompt_input(parameters)


def _named(source: Model, names: Sequence[str | None], called: Callable[[str], str | None]) -> tuple[str | None, ...]:
    found = [None if name is None else called(name) for name in names]
    return tuple(name if name is not None and source.interface.input(name) is not None else None for name in found)


def _still(chain: Sequence[Step], value: Value | None) -> str | None:
    """What the source's input ``value`` is called afterwards."""
    return None if value is None else input_destiny(chain, value.name)


def _prompt(chain: Sequence[Step]) -> str | None:
    """The input that says how long the prompt is, where ``chain`` added one."""
    for place, step in enumerate(chain):
        name = prompt_input(step.parameters)
        if name is not None:
            return input_destiny(chain[place + 1 :], name)
    return None
