"""How wide the values are that a head starts from, for drawing them."""

from __future__ import annotations

from collections.abc import Sequence

from graphsurgery.anatomy.width import last_dim
from graphsurgery.anatomy.wiring import Wiring
from graphsurgery.model.model import Model
from graphsurgery.model.provenance import Step
from graphsurgery.proof.chain import meanings, starts

UNKNOWN = 16
WIDEST = 1 << 20
"""A vocabulary's size at most: what a forged record says beyond it is not drawn."""


def start_widths(source: Model, chain: Sequence[Step]) -> dict[str, int]:
    """The last dim of every value of the source that ``chain`` reads: from the weights, what an edit recorded, what the source
    declares (which may be wrong), else 16."""
    wiring, recorded = Wiring.of(source), _recorded(chain)
    return {name: last_dim(wiring, name) or recorded.get(name) or _declared(source, name) or UNKNOWN for name in starts(chain)}


def _recorded(chain: Sequence[Step]) -> dict[str, int]:
    """The widths of the values that edits work on, as they record them."""
    found: dict[str, int] = {}
    made: set[str] = set()
    for step, means in meanings(chain):
        width = step.parameters.get("width")
        if isinstance(width, int) and 0 < width <= WIDEST:
            found |= {name: width for name in means.reads(step.parameters) if name not in made | found.keys()}
        made.update(means.makes(step.parameters))  # in the place of what was read, often: of another width
    return found


def _declared(model: Model, name: str) -> int | None:
    value = model.interface.output(name)
    last = value.dims[-1] if value is not None and value.dims else None
    return last if isinstance(last, int) else None
