"""Compute an encoder on the tokens of a batch alone, without its padding."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from graphsurgery.deferred import ir
from graphsurgery.encoder.flow import Flow
from graphsurgery.errors import UnsupportedModelError, require_value
from graphsurgery.graph.attributes import get_int
from graphsurgery.graph.editor import Editor
from graphsurgery.graph.operators import FUSED_ROTATIONS, ROTATIONS, SHAPED, get_operator
from graphsurgery.model.model import Model
from graphsurgery.rewrites.padding_free.layout import Layout
from graphsurgery.rewrites.padding_free.packing import Packing
from graphsurgery.rewrites.padding_free.regions import Division, Region, divide
from graphsurgery.rewrites.padding_free.rows import explain_why_not, make_loop
from graphsurgery.runtime.observed_dims import observe_dims

GATHER, ROW_BY_ROW = "gather", "rows"


def pack_tokens(model: Model, editor: Editor, form: str, ids: str, mask: str, mask_form: str) -> tuple[int, int]:
    """Let ``editor``, the graph of ``model``, compute on tokens alone.

    Returns how many attentions run row by row, and how many as they were.

    Args:
        form: `GATHER`, or `ROW_BY_ROW` for all attentions that can run so.
        ids: the input of token ids ``[batch, seq]``.
        mask: the input that says which positions are tokens, in ``mask_form`` (see `mask_forms`).

    Raises UnsupportedModelError if the graph mixes tokens outside of attention, or if no attention can run in this ``form``.
    """
    layout, flow = Layout(editor, observe_dims(model, ids, mask, mask_form)), Flow.of(model)
    packing = _start_packing(editor, layout, ids, mask, mask_form)
    tokens = {value.name for value in flow.tokens}
    for made in [value for node in editor.nodes for value in node.outputs if value.name in tokens]:
        _measure_shapes(editor, made, layout, packing)
    division = divide(flow, editor, layout, mask)
    looped = _choose_loops(division, layout) if form == ROW_BY_ROW else []
    loops = {value: region for region in looped for value in region.made}
    for node in division.token_wise:
        _attend(node.inputs, loops, packing, layout)
        _pack_node(node, packing, layout)
    _attend(editor.main.outputs, loops, packing, layout)
    _let_others_read(editor, division, packing, looped)
    editor.insert(None, packing.builder.nodes)
    editor.main.extend(editor.sort_nodes(editor.main))
    editor.update_pinned()
    editor.remove_unread()
    counts = [sum(len(one.attentions) for one in regions) for regions in (looped, division.regions)]
    return counts[0], counts[1] - counts[0]


def add_full_check(model: Model, editor: Editor, ids: str, mask: str, mask_form: str) -> str:
    """Let ``editor`` compute whether every position of the batch is a token, and return the name of this boolean.

    The arguments are those of `pack_tokens`.
    """
    packing = _start_packing(editor, Layout(editor, observe_dims(model, ids, mask, mask_form)), ids, mask, mask_form)
    is_full = packing.is_full
    editor.insert(None, packing.builder.nodes)
    return require_value(is_full.name, "its name")


def _start_packing(editor: Editor, layout: Layout, ids: str, mask: str, mask_form: str) -> Packing:
    said, like = (require_value(editor.value(name), f"the input {name}") for name in (mask, ids))
    return Packing(editor, layout, said, mask_form, like)


def _choose_loops(division: Division, layout: Layout) -> list[Region]:
    """Return the attentions that can run row by row. Raises UnsupportedModelError if there are others alone."""
    reasons = [(region, explain_why_not(region, layout)) for region in division.regions]
    looped = [region for region, why_not in reasons if why_not is None]
    if reasons and not looped:
        raise UnsupportedModelError(str(reasons[0][1]), 'choose form = "gather", which leaves attention as it is')
    return looped


def _attend(values: Iterable[ir.Value | None], loops: Mapping[ir.Value, Region], packing: Packing, layout: Layout) -> None:
    """Make those loops of ``loops`` that give ``values``."""
    for value in values:
        if value is not None and value in loops and packing.get(value) is None:
            make_loop(loops[value], packing, layout)


def _pack_node(node: ir.Node, packing: Packing, layout: Layout) -> None:
    """Make a copy of a token-wise node that computes on packed tokens."""
    build, operator, rank = packing.builder, get_operator(node), layout.rank(node.outputs[0])
    if operator in SHAPED:
        leading = layout.count_leading(node.outputs[0])
        rest = [size.number for size in (layout.dims(node.outputs[0]) or ())[leading:] if size is not None]
        lead = [1, -1][-leading:] if operator == "Reshape" else [1, 1]
        shape = build.integers([*lead, *rest])
        source = require_value(node.inputs[0], "what is reshaped")
        inputs: list[ir.Value | None] = [packing.take(source, layout.rank(source)), shape]
    elif operator in FUSED_ROTATIONS:
        inputs = _place_rotation(node, packing, layout)
    elif operator in ROTATIONS:  # its tables may have rows for all positions
        inputs = [
            packing.take(one, layout.rank(one)) if one is not None and layout.has_tokens(one) else one for one in node.inputs
        ]
    else:
        inputs = [None if one is None else packing.take(one, _rank_beside(layout, one, rank)) for one in node.inputs]
    made = build.copy(node, inputs)
    for old, new in zip(node.outputs, made.outputs, strict=True):
        packing.note(old, new)


def _place_rotation(node: ir.Node, packing: Packing, layout: Layout) -> list[ir.Value | None]:
    """Return the inputs of a rotation on packed tokens: the tables have one row for each token, and are read from the first."""
    build = packing.builder
    source, told, *tables = (require_value(one, "an input of a rotation") for one in node.inputs)
    if layout.counts_on(node):
        places = build.node("Add", [packing.positions, told], "places")
    else:
        places = build.node("Reshape", [packing.take(told, layout.rank(told)), build.integers([-1])], "places")
    rows = [build.gather(table, places, 0, f"{table.name}/tokens") for table in tables]
    return [packing.take(source, layout.rank(source)), build.integers([0]), *rows]


def _rank_beside(layout: Layout, value: ir.Value, rank: int) -> int:
    """Return the rank of the value that ``value`` stands beside: its own if it is one of tokens."""
    return layout.rank(value) if layout.count_leading(value) else rank


def _let_others_read(editor: Editor, division: Division, packing: Packing, looped: Collection[Region]) -> None:
    """Let attention, where it stays as it was, and the graph's outputs read what was restored from tokens."""
    inside = {node for region in division.regions if region not in looped for node in region.nodes}
    for value in [value for node in division.token_wise for value in node.outputs]:
        for node, place in list(value.uses()):
            if node in inside:
                node.replace_input_with(place, packing.restore(value))
    for value in list(editor.main.outputs):
        if packing.get(value) is not None:
            editor.swap_output(value, packing.restore(value))


def _measure_shapes(editor: Editor, value: ir.Value, layout: Layout, packing: Packing) -> None:
    """Let each Shape of ``value`` be computed from the sizes of the batch, if the dims are known.

    Then no node needs the value for its shape alone.
    """
    dims = layout.dims(value)
    if dims is None or None in dims:
        return
    for node in editor.consumers(value):
        if get_operator(node) == "Shape":
            sizes = [size for size in dims if size is not None]
            sizes = sizes[get_int(node, "start", 0) : get_int(node, "end", len(dims))]
            editor.replace_uses(node.outputs[0], packing.builder.measure(sizes, packing.batch, packing.width, "shape"))
