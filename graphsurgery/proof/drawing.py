"""Who draws the feeds of a proof, told from the source and from what the recorded edits say of its inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import Any

from graphsurgery.anatomy.head import head_steps
from graphsurgery.anatomy.roles import IDS_NAMES, MASK_NAMES, Roles, roles_of
from graphsurgery.anatomy.tables import tables_of
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.interface import Value, value_of
from graphsurgery.model.model import Model
from graphsurgery.model.provenance import Step
from graphsurgery.proof.chain import declared, input_destiny, meanings, origin
from graphsurgery.proof.meanings.pooling import pad_id, prompt_input
from graphsurgery.proof.meanings.registry import OPTIONAL
from graphsurgery.runtime.feeds import Drawer

ROLES = ("ids", "mask", "types", "positions")


def drawer_of(source: Model, chain: Sequence[Step]) -> Drawer:
    """Draws feeds for what ``chain`` makes of ``source``: for its inputs, which may not be the source's.

    Which of them are ids and mask is what ``chain``, or the edits that the source records itself, say. The embedding tables are
    the source's.
    """
    known = list(_told(source, chain))
    ids, mask, prompt = (next((one[place] for one in known if one[place] is not None), None) for place in range(3))
    roles = roles_of(source.interface, ids=ids, mask=mask)
    after = declared(source, chain)
    inputs = {value.name: value for value in after.interface.inputs}
    pad = _pad(source, chain)
    tables = tables_of(source, roles)
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


def _pad(source: Model, chain: Sequence[Step]) -> int | None:
    """The id that means padding, where a pooling mask is read from the ids."""
    return next((pad for step in (*chain, *head_steps(source)) if (pad := pad_id(step.parameters)) is not None), None)


def _told(source: Model, chain: Sequence[Step]) -> Iterator[tuple[str | None, ...]]:
    """What recorded edits call ids, mask and prompt length, by the source's names."""
    for place, step in enumerate(chain):
        yield _named(source, _asked(step), partial(origin, chain[:place]))
    own = head_steps(source)
    try:
        for place, step in enumerate(own):
            yield _named(source, _asked(step), partial(input_destiny, own[place + 1 :]))
        for ids, mask in product(IDS_NAMES, MASK_NAMES):  # what a recorded edit gave another name
            yield _named(source, (ids, mask, None), partial(input_destiny, own)) if own else (None, None, None)
    except UnsupportedModelError:  # an edit that this version does not know
        return


def _asked(step: Step) -> tuple[Any, ...]:
    return step.parameters.get("ids"), step.parameters.get("mask"), prompt_input(step.parameters)


def _named(source: Model, names: Sequence[Any], called: Callable[[str], str | None]) -> tuple[str | None, ...]:
    found = [called(name) if isinstance(name, str) else None for name in names]
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
