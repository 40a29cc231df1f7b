"""Put one operator in the place of a decomposed attention.

    com.microsoft.MultiHeadAttention (ONNX Runtime): queries, keys, values [batch, positions, heads x size], and attention_bias
                                                     or, if nothing but padding is hidden, key_padding_mask [batch, keys]
    Attention (ONNX, opset 23):                      queries, keys, values [batch, heads, positions, size], attn_mask

Both compute softmax(scale q k^T + bias) v. The factors that an export multiplies into queries, keys or scores become ``scale``.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from graphsurgery.deferred import ir
from graphsurgery.encoder.attention import Attention
from graphsurgery.encoder.flow import Flow
from graphsurgery.graph.attributes import get_ints
from graphsurgery.graph.editor import Editor
from graphsurgery.graph.facts import Facts
from graphsurgery.graph.operators import FUSED_ATTENTION, NOT_A_NUMBER, STANDARD_ATTENTION, VENDOR, get_operator
from graphsurgery.graph.symbolic import Size, Sizes
from graphsurgery.rewrites.attention.bias import Bias, Draft, add_bias, spread_bias
from graphsurgery.rewrites.attention.heads import JOINABLE, MERGED, SPLIT, Heads, find_heads, find_joined, splits
from graphsurgery.rewrites.attention.key_masks import KeyMask, KeyMasks
from graphsurgery.rewrites.attention.reading import NotConvertibleError, Reading, read_attention

LOWEST = -1e30
"""ONNX Runtime's Attention gives zeros to a query whose scores are all the lowest float, and Softmax an average. From this
number on, both give an average."""
OPERATORS = {"vendor": FUSED_ATTENTION, "standard": STANDARD_ATTENTION}
"""The operators that an attention can become, by the parameter that asks for them."""


@dataclass(frozen=True, eq=False)
class Parts:
    """An attention in the form that the operators take."""

    queries: Heads
    keys: Heads
    values: Heads
    heads: int
    size: int
    value_size: int
    scale: float
    bias: Bias | None
    key_mask: KeyMask | None
    """The mask that the bias was made of, if the bias does nothing but hide padding."""
    reading: Reading


def convert_attention(work: Editor, masks: KeyMasks, attention: Attention, operator: str) -> None:
    """Replace ``attention`` by one ``operator`` of `OPERATORS`. The old nodes stay until nothing reads them.

    Raises NotConvertibleError if it must stay as it is. Then the graph is unchanged.
    """
    flow, facts = masks.flow, masks.facts
    name = (attention.node.name or attention.node.outputs[0].name or "").rpartition("/")[0]
    dtype = facts[attention.node.inputs[0]].dtype
    if dtype != onnx.TensorProto.FLOAT and (operator == "standard" or dtype != onnx.TensorProto.FLOAT16):
        raise NotConvertibleError("its scores are not float32")
    draft = Draft(work, f"{name}/attention" if name else "attention", dtype)
    try:
        parts = _read_parts(draft, masks, attention, operator)
        end, result = (_add_standard if operator == "standard" else _add_vendor)(draft, flow, facts, attention, parts)
    except NotConvertibleError:
        for node in draft.nodes:
            work.set_inputs(node, [None] * len(node.inputs))
        raise
    work.insert(end, draft.nodes)
    work.replace_node(end, [result])
    for node in parts.reading.shapes:
        _replace_shape(Draft(work, draft.name, dtype), parts, node)


def _read_parts(draft: Draft, masks: KeyMasks, attention: Attention, operator: str) -> Parts:
    flow, facts = masks.flow, masks.facts
    reading = read_attention(flow, facts, attention)
    dims = reading.dims
    scores, weighting = attention.scores, attention.weighting
    if scores is None or weighting is None:
        raise NotConvertibleError("its products are not known")
    operands = (*scores.product.inputs, weighting.product.inputs[1])
    query, key, value = (one for one in operands if one is not None)
    outer = dims[:-2] if len(dims) == 4 else ()
    queries = find_heads(flow, facts, query, False, outer)
    keys = find_heads(flow, facts, key, True, outer)
    values = find_heads(flow, facts, value, False, outer, scaled=False)
    heads = _count_heads(attention, dims)
    if heads is None:
        raise NotConvertibleError("the number of its heads is not known")
    for one in (queries, keys, values) if outer else ():
        own = _get_dim(facts, one, 1)
        if isinstance(own, int) and own != heads:
            raise NotConvertibleError(f"{own} heads of keys or values serve {heads} heads of queries without being repeated")
    if operator == "standard" and outer:
        keys, values = _take_single(facts, keys, values)
    size, value_size = (_get_dim(facts, one, len(dims) - 1) for one in (queries, values))
    if not isinstance(size, int) or not isinstance(value_size, int):
        raise NotConvertibleError("the size of its heads is not known")
    scale, bias = add_bias(draft, facts, reading.steps, scores.product)
    scale *= queries.factor * keys.factor
    can_mask = operator == "vendor" and bias is not None and len(dims) == 4
    key_mask = masks.find(bias, reading.steps) if can_mask and bias is not None else None
    return Parts(queries, keys, values, heads, size, value_size, scale, bias, key_mask, reading)


def _take_single(facts: Facts, keys: Heads, values: Heads) -> tuple[Heads, Heads]:
    """Return keys and values before they are repeated for groups of heads, which ONNX's Attention does itself."""
    if keys.single is None or values.single is None:
        return keys, values
    groups = {_get_dim(facts, one, 1) for one in (keys.single, values.single)}
    return (keys.single, values.single) if len(groups) == 1 else (keys, values)


def _count_heads(attention: Attention, dims: Sizes) -> int | None:
    """Return the number of heads that the operator is told. It is one if batch and heads are one dim."""
    if len(dims) == 3:
        return 1
    return dims[1] if isinstance(dims[1], int) else attention.heads


def _get_dim(facts: Facts, heads: Heads, axis: int) -> Size | None:
    """Return a dim of ``heads`` by its place in `SPLIT` or in `MERGED`."""
    dims = facts[heads.value].dims
    return None if dims is None else dims[heads.order.index(axis)]


def _replace_shape(draft: Draft, parts: Parts, node: ir.Node) -> None:
    """Let the readers of the shape of scores read the same numbers from queries and keys."""
    outer, last = parts.queries, len(parts.reading.dims) - 2
    sizes = [draft.get_size(outer.value, outer.order.index(axis)) for axis in range(last + 1)]
    sizes.append(draft.get_size(parts.keys.value, parts.keys.order.index(last)))
    shape = draft.add("Concat", sizes, {"axis": 0})
    draft.work.insert(node, draft.nodes)
    draft.work.replace_node(node, [shape])


def _add_vendor(draft: Draft, flow: Flow, facts: Facts, attention: Attention, parts: Parts) -> tuple[ir.Node, ir.Value]:
    """Add a MultiHeadAttention. Return (the last node that it replaces, the value in place of that node's output)."""
    sizes = ((parts.queries, parts.size), (parts.keys, parts.size), (parts.values, parts.value_size))
    queries, keys, values = (_join(draft, facts, one, parts.heads, size) for one, size in sizes)
    inputs: list[ir.Value | None] = [queries, keys, values]
    attributes = {"num_heads": parts.heads, "scale": parts.scale}
    if parts.key_mask is not None:
        inputs += [None, draft.add("Cast", [parts.key_mask.value], {"to": onnx.TensorProto.INT32})]
        attributes["mask_filter_value"] = parts.key_mask.number
    elif parts.bias is not None:
        inputs += [None, None, spread_bias(draft, parts.bias, parts.reading.dims, queries, keys, axis=1)]
    result = draft.add("MultiHeadAttention", inputs, attributes, domain=VENDOR)
    result = _zero_unseen(draft, result) if parts.reading.zeroes else result
    end, shape = _find_end(flow, facts, attention, parts)
    if len(shape) == 3:
        return end, result
    split_sizes: Sizes = (parts.heads, parts.value_size)
    joined = _find_joining(flow, facts, end, (shape[0], shape[2], *split_sizes), split_sizes)
    if joined is None:
        split = draft.add("Reshape", [result, draft.add_integers(0, 0, parts.heads, parts.value_size)])
        return end, draft.add("Transpose", [split], {"perm": list(JOINABLE)})
    reshape, unseen = joined
    if unseen is not None:
        condition = draft.add_axis("Squeeze", unseen.inputs[0], 1)  # [batch, 1, queries, 1]
        inputs = [condition, *(result if one is end.outputs[0] else one for one in unseen.inputs[1:])]
        result = draft.add("Where", inputs)
    return reshape, result


def _add_standard(draft: Draft, flow: Flow, facts: Facts, attention: Attention, parts: Parts) -> tuple[ir.Node, ir.Value]:
    """Add an Attention of the ONNX standard. Return (the last node that it replaces, the value in place of its output)."""
    order, one_head = (SPLIT, {}) if len(parts.reading.dims) == 4 else (MERGED, {"q_num_heads": 1, "kv_num_heads": 1})
    queries, keys, values = (_turn(draft, one, order) for one in (parts.queries, parts.keys, parts.values))
    inputs: list[ir.Value | None] = [queries, keys, values]
    if parts.bias is not None:
        bias = spread_bias(draft, parts.bias, parts.reading.dims, queries, keys, order.index(len(order) - 2))
        floored = draft.add("Max", [bias, draft.add_number(LOWEST)])
        if parts.reading.zeroes:  # a query that sees no key gets zeros from this operator, too
            floored = draft.add("Where", [draft.add("IsInf", [bias]), bias, floored])
        inputs.append(floored)
    result = draft.add("Attention", inputs, {"scale": parts.scale, **one_head})
    result = _zero_unseen(draft, result) if parts.reading.zeroes else result
    return _find_end(flow, facts, attention, parts)[0], result


def _zero_unseen(draft: Draft, result: ir.Value) -> ir.Value:
    """Return ``result`` with zeros for a query that sees no key."""
    return draft.add("Where", [draft.add(NOT_A_NUMBER, [result]), draft.add_number(0.0), result])


def _turn(draft: Draft, heads: Heads, order: tuple[int, ...]) -> ir.Value:
    """Return the value with its axes in the given order."""
    perm = heads.turn(order)
    return heads.value if perm == sorted(perm) else draft.add("Transpose", [heads.value], {"perm": perm})


def _join(draft: Draft, facts: Facts, heads: Heads, count: int, size: int) -> ir.Value:
    """Return the value ``[batch, positions, heads x size]``, or ``[batch x heads, positions, size]`` for a single head."""
    if len(heads.order) == 3:
        return _turn(draft, heads, MERGED)
    joined = find_joined(facts, heads, (count, size))
    if joined is not None:
        return joined
    return draft.add("Reshape", [_turn(draft, heads, JOINABLE), draft.add_integers(0, 0, count * size)])


def _find_end(flow: Flow, facts: Facts, attention: Attention, parts: Parts) -> tuple[ir.Node, Sizes]:
    """Return (the node that gives the attended values, their dims [batch, heads, queries, size], or without the heads)."""
    node = attention.weighting.product if attention.weighting is not None else attention.node
    dims = facts[node.outputs[0]].dims
    if dims is not None and len(dims) == len(parts.reading.dims):
        return node, dims
    wanted = (*parts.reading.dims[:3], parts.value_size)
    readers = flow.graph.consumers(node.outputs[0])
    if len(readers) == 1 and get_operator(readers[0]) == "Reshape" and facts[readers[0].outputs[0]].dims == wanted:
        return readers[0], wanted
    raise NotConvertibleError("batch and heads are one dim of its output, and the shapes do not tell how they are split")


def _find_joining(flow: Flow, facts: Facts, end: ir.Node, split: Sizes, sizes: Sizes) -> tuple[ir.Node, ir.Node | None] | None:
    """Return the Reshape that joins the heads of the attended values, and a Where before it that zeroes queries, if any.

    None if the heads are not joined at once. The Where's condition has a single head and a single size.
    """
    node, unseen = _find_only_reader(flow, end), None
    if node is not None and get_operator(node) == "Where" and node.inputs[0] is not end.outputs[0]:
        dims = facts[node.inputs[0]].dims
        others = [one for one in node.inputs[1:] if one is not end.outputs[0]]
        if dims is None or len(dims) != 4 or dims[1] != 1 or dims[3] != 1 or len(others) != 1:
            return None
        if flow.scalar(others[0]) != 0:
            return None
        node, unseen = _find_only_reader(flow, node), node
    if node is None or get_operator(node) != "Transpose" or get_ints(node, "perm") != list(JOINABLE):
        return None
    node = _find_only_reader(flow, node)
    if node is None or get_operator(node) != "Reshape":
        return None
    return (node, unseen) if splits(facts[node.outputs[0]].dims, split, sizes) else None


def _find_only_reader(flow: Flow, node: ir.Node) -> ir.Node | None:
    """Return the node that reads the first output of ``node``, if it is the only reader."""
    value = node.outputs[0]
    readers = flow.graph.consumers(value)
    return readers[0] if len(value.uses()) == 1 and len(readers) == 1 and not value.is_graph_output() else None
