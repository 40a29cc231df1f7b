"""How wide the values are that a head starts from, for drawing them."""

from __future__ import annotations

from collections.abc import Sequence

from graphsurgery.anatomy.width import last_dim
from graphsurgery.anatomy.wiring import Wiring
from graphsurgery.model.model import Model
from graphsurgery.model.provenance import Step
from graphsurgery.proof.chain import meanings, starts
from graphsurgery.proof.meaning import Parameters
from graphsurgery.proof.meanings.pooling import mode_names
from graphsurgery.proof.meanings.registry import POOLING

UNKNOWN = 16


def start_widths(source: Model, output: Model, chain: Sequence[Step]) -> dict[str, int]:
    """The last dim of every value of the source that ``chain`` reads: from the weights, what an edit of tokens recorded, what
    the source declares, what pooling made of it, else 16."""
    wiring = Wiring.of(source)
    recorded = _recorded(chain)
    pooled = {step.parameters["hidden_state"]: step.parameters for step in chain if step.edit == POOLING}
    return {
        name: last_dim(wiring, name)
        or recorded.get(name)
        or _declared(source, name)
        or _pooled(output, pooled.get(name))
        or UNKNOWN
        for name in starts(chain)
    }


def _recorded(chain: Sequence[Step]) -> dict[str, int]:
    """The widths of the token embeddings that edits of tokens work on, as they record them."""
    found: dict[str, int] = {}
    made: set[str] = set()
    for step, means in meanings(chain):
        width = step.parameters.get("width")
        if isinstance(width, int):
            found |= {name: width for name in means.reads(step.parameters) if name not in made | found.keys()}
        made.update(means.makes(step.parameters))  # in the place of what was read, often: of another width
    return found


def _declared(model: Model, name: str) -> int | None:
    value = model.interface.output(name)
    last = value.dims[-1] if value is not None and value.dims else None
    return last if isinstance(last, int) else None


def _pooled(output: Model, parameters: Parameters | None) -> int | None:
    """The width that pooling with ``parameters`` found, from that of its output."""
    if parameters is None:
        return None
    width = _declared(output, parameters["output_name"])
    return width // len(mode_names(parameters)) if width else None
