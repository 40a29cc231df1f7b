"""Put one operator in the place of a rotation by position.

    com.microsoft.RotaryEmbedding (ONNX Runtime): x [batch, positions, heads x size] or [batch, heads, positions, size],
                                                  positions [batch, positions], tables [rows, r/2]
    RotaryEmbedding (ONNX, opset 23):             x in the same dims, tables [batch, positions, r/2]

The tables are the cosines and sines as the graph computes them in each run: nothing is stored, and no position is too large.
For ONNX Runtime's operator, the positions say which rows of the tables belong to which token. They count up from 0, whatever
positions the angles are computed from.
"""

from __future__ import annotations

from math import prod

import numpy as np
import onnx

from graphsurgery.deferred import ir
from graphsurgery.encoder.flow import Flow
from graphsurgery.encoder.rotations import Rotation
from graphsurgery.errors import require_value
from graphsurgery.graph.attributes import get_ints
from graphsurgery.graph.editor import Editor
from graphsurgery.graph.facts import Facts
from graphsurgery.graph.operators import FUSED_ROTATION, STANDARD_ROTATION, VENDOR, get_operator
from graphsurgery.rewrites.attention.bias import Draft
from graphsurgery.rewrites.attention.heads import JOINABLE, Heads, find_joined
from graphsurgery.rewrites.attention.reading import NotConvertibleError
from graphsurgery.rewrites.rotary.reading import Reading, Waves, read_rotation

OPERATORS = {"vendor": FUSED_ROTATION, "standard": STANDARD_ROTATION}
"""The operators that a rotation can become, by the parameter that asks for them."""


def convert_rotation(work: Editor, flow: Flow, facts: Facts, rotation: Rotation, operator: str) -> None:
    """Replace ``rotation`` by one ``operator`` of `OPERATORS`. The old nodes stay until nothing reads them.

    Raises NotConvertibleError if it must stay as it is. Then the graph is unchanged.
    """
    reading = read_rotation(flow, facts, rotation)
    dtype = facts[reading.source].dtype
    if dtype not in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16):
        raise NotConvertibleError("what is rotated is neither float32 nor float16")
    if any(facts[one.value].dtype != dtype for one in (reading.cosines, reading.sines)):
        raise NotConvertibleError("its cosines and sines have another type than what is rotated")
    heads, attributes = _count_heads(reading), {"interleaved": int(reading.paired)}
    if reading.rotated < (reading.dims[-1] if isinstance(reading.dims[-1], int) else 0):
        attributes |= {"rotary_embedding_dim": reading.rotated, "num_heads": _require_heads(heads)}
    place = (rotation.node.name or rotation.value.name or "").rpartition("/")[0]
    draft = Draft(work, f"{place}/rotary" if place else "rotary", dtype)
    source, is_joined = _join(draft, facts, reading, heads)
    sizes = _add_sizes(draft, flow, facts, reading)
    if operator == "standard":
        tables = [_spread_by_text(draft, reading, _add_rows(draft, one), sizes) for one in _list_waves(reading)]
        attributes |= {"num_heads": _require_heads(heads)} if is_joined else {}
        rotated = draft.add("RotaryEmbedding", [source, *tables], attributes)
    else:
        rows = [_add_rows(draft, one) for one in _list_waves(reading)]
        rotated = draft.add("RotaryEmbedding", [source, _add_places(draft, reading, sizes), *rows], attributes, VENDOR)
    result = _part(draft, reading, rotated, heads) if is_joined else rotated
    work.insert(reading.end, draft.nodes)
    work.replace_node(reading.end, [result])


def _list_waves(reading: Reading) -> tuple[Waves, Waves]:
    return reading.cosines, reading.sines


def _count_heads(reading: Reading) -> int | None:
    """Return how many vectors each token has, or None if that is not known."""
    sizes = reading.dims[1:2] if reading.axis == 2 else reading.dims[2:-1]
    literal = [size for size in sizes if isinstance(size, int)]
    return prod(literal) if len(literal) == len(sizes) else None


def _require_heads(heads: int | None) -> int:
    if heads is None:
        raise NotConvertibleError("the number of heads is not known, which the operator has to be told")
    return heads


def _join(draft: Draft, facts: Facts, reading: Reading, heads: int | None) -> tuple[ir.Value, bool]:
    """Return (what is rotated, whether its heads are joined to ``[batch, positions, heads x size]``).

    Heads stay before the positions if no Transpose brought them there: joining them would cost two more.
    """
    value, node = reading.source, reading.source.producer()
    if reading.axis == 2:
        if node is None or get_operator(node) != "Transpose" or get_ints(node, "perm") != list(JOINABLE):
            return value, False
        value = require_value(node.inputs[0], "what a Transpose turns")
    size = reading.dims[-1]
    if len(reading.dims) == 3:
        return value, True
    if len(reading.dims) == 4 and heads is not None:
        joined = find_joined(facts, Heads(value, JOINABLE), (heads, size))
        if joined is not None:
            return joined, True
    width = heads * size if heads is not None and isinstance(size, int) else -1
    return draft.add("Reshape", [value, draft.add_integers(0, 0, width)]), True


def _part(draft: Draft, reading: Reading, joined: ir.Value, heads: int | None) -> ir.Value:
    """Return a value with joined heads in the dims that the rotated value has in the graph."""
    if len(reading.dims) == 3:
        return joined
    outer = (heads,) if reading.axis == 2 else reading.dims[2:-1]
    sizes = [size if isinstance(size, int) else -1 for size in (*outer, reading.dims[-1])]
    if sizes.count(-1) > 1:
        raise NotConvertibleError("the sizes of what is rotated are not known")
    parted = draft.add("Reshape", [joined, draft.add_integers(0, 0, *sizes)])
    return draft.add("Transpose", [parted], {"perm": list(JOINABLE)}) if reading.axis == 2 else parted


def _add_sizes(draft: Draft, flow: Flow, facts: Facts, reading: Reading) -> ir.Value:
    """Return the vector [batch, positions], of an input if one has these dims: then no token is waited for."""
    wanted = (reading.dims[0], reading.dims[reading.axis])
    fed = (one for one in flow.graph.main.inputs if flow.graph.tensor(one) is None)
    like = next((one for one in fed if facts[one].dims == wanted), None)
    if like is not None:
        return draft.add("Shape", [like])
    return draft.add("Concat", [draft.get_size(reading.source, axis) for axis in (0, reading.axis)], {"axis": 0})


def _is_for_all_texts(reading: Reading) -> bool:
    return reading.cosines.rows[0] == 1


def _add_rows(draft: Draft, waves: Waves) -> ir.Value:
    """Return the cosines or sines ``[rows, r/2]``, a row for each position, or for each position of each text."""
    value, used = waves.value, waves.places
    value = draft.add("Reshape", [value, draft.add_integers(-1, waves.lanes)])
    if len(used) != waves.lanes:
        bounds = (used.start, min(used.stop, waves.lanes), 1, used.step)
        value = draft.add("Slice", [value, *(draft.add_integers(number) for number in bounds)])
    return draft.add("Neg", [value]) if waves.negated else value


def _spread_by_text(draft: Draft, reading: Reading, rows: ir.Value, sizes: ir.Value) -> ir.Value:
    """Return rows of cosines or sines as ``[batch, positions, r/2]``."""
    half = reading.rotated // 2
    if not _is_for_all_texts(reading):
        return draft.add("Reshape", [rows, draft.add("Concat", [sizes, draft.add_integers(half)], {"axis": 0})])
    single = draft.add("Reshape", [rows, draft.add_integers(1, -1, half)])
    batch = draft.add("Gather", [sizes, draft.add_integers(0)])
    return draft.add("Expand", [single, draft.add("Concat", [batch, draft.add_integers(1, 1)], {"axis": 0})])


def _add_places(draft: Draft, reading: Reading, sizes: ir.Value) -> ir.Value:
    """Return the row of the tables for each token, ``[batch, positions]``."""
    zero, one = (draft.work.add_constant(f"{draft.name}/integer", np.array(number, np.int64)) for number in (0, 1))
    if _is_for_all_texts(reading):
        count = draft.add("Gather", [sizes, one])
        return draft.add("Expand", [draft.add("Range", [zero, count, one]), sizes])
    count = draft.add("ReduceProd", [sizes], {"keepdims": 0})
    return draft.add("Reshape", [draft.add("Range", [zero, count, one]), sizes])
