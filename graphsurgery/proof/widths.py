"""The widths of the values that a head starts from, for drawing them."""

from __future__ import annotations

from collections.abc import Sequence

from graphsurgery.interface import Value
from graphsurgery.model.model import Model
from graphsurgery.proof.inference import values_of
from graphsurgery.references.chain import Chain

UNKNOWN = 16
WIDEST = 1 << 20
"""A vocabulary's size at most: what a forged record says beyond it is not drawn."""


def start_widths(source: Model, chain: Chain) -> dict[str, int]:
    """Return the last dim of every value of the source that ``chain`` reads.

    It comes from the weights, else from the record of an edit, else from the source's declaration, which may be wrong. If none
    of these tells, it is 16.
    """
    names = chain.starts
    known, recorded = known_widths(source, names), _recorded(chain)
    return {name: known.get(name) or recorded.get(name) or _declared(source, name) or UNKNOWN for name in names}


def known_widths(source: Model, names: Sequence[str]) -> dict[str, int]:
    """Return the last dims of these values, as far as the weights tell them."""
    told = values_of(source) if names else {}
    widths = {name: _last(told.get(name)) or _normalised(source, name) for name in names}
    return {name: width for name, width in widths.items() if width is not None}


def _last(value: Value | None) -> int | None:
    """Return the last dim of a value, if it is a number."""
    last = value.dims[-1] if value is not None and value.dims else None
    return last if isinstance(last, int) else None


def _normalised(source: Model, name: str) -> int | None:
    """Return the width of the scale and shift of the normalisation that makes the value. onnx does not know all of these."""
    makers = [node for node in source.proto.graph.node if name in node.output and node.op_type.endswith("Normalization")]
    weights = [source.initializers[one] for node in makers for one in node.input if one in source.initializers]
    widths = {int(tensor.dims[0]) for tensor in weights if len(tensor.dims) == 1}
    return widths.pop() if len(widths) == 1 else None


def _recorded(chain: Chain) -> dict[str, int]:
    """Return the widths that edits record of the values they work on."""
    found: dict[str, int] = {}
    made: set[str] = set()
    for link in chain:
        width = link.parameters.get("width")
        if width is not None and 0 < width <= WIDEST:
            found |= {name: width for name in link.reads if name not in made | found.keys()}
        made.update(link.makes)  # in the place of what was read, often: of another width
    return found


def _declared(source: Model, name: str) -> int | None:
    return _last(source.interface.output(name))
