"""Undo the fusions of ONNX Runtime that do more than one thing: a norm of a sum, of looked-up rows, an attention that projects.

    SkipLayerNormalization(x, skip, scale, offset, bias) = LayerNormalization(x + bias + skip)
    EmbedLayerNormalization(ids, ...) = LayerNormalization(words[ids] + positions[p] + types[t])
    Attention(x, W, b) = MultiHeadAttention(q, k, v), where q, k, v = split(x W + b)

The first is slower on the CPU than its parts; the others mix token-wise work with work that is not. SkipLayerNormalization,
EmbedLayerNormalization and Attention are documented in ONNX Runtime's docs/ContribOperators.md.
"""

from __future__ import annotations

from graphsurgery.deferred import ir
from graphsurgery.errors import UnsupportedModelError, require_value
from graphsurgery.graph.attributes import get_input, get_int, get_ints
from graphsurgery.graph.editor import Editor
from graphsurgery.graph.operators import EMBEDDING_NORM, SKIP_NORMS, VENDOR, get_operator
from graphsurgery.rewrites.padding_free.building import Builder

ATTENTION = f"{VENDOR}.Attention"
SKIP_SUM = 3
"""The output of a skip norm that is the sum."""
KEPT = ("num_heads", "scale", "unidirectional", "mask_filter_value")
"""Attributes that Attention and MultiHeadAttention have in common."""
ADVICE = "apply it to the file before it was fused"


def unfuse(editor: Editor) -> None:
    """Undo these fusions in ``editor``. Raises UnsupportedModelError for one with a cache or rotary positions in it."""
    for node in list(editor.nodes):
        rule = RULES.get(get_operator(node))
        if rule is None:
            continue
        builder = Builder(editor, node.name or "unfused")
        values = rule(builder, node)
        editor.insert(node, builder.nodes)
        for old, new in zip(node.outputs, values, strict=False):
            if new is not None:
                editor.replace_value(old, new)
        editor.remove(node)


def _split_skip_norm(builder: Builder, node: ir.Node) -> list[ir.Value | None]:
    is_rms = "Simplified" in get_operator(node)
    scale, others = get_input(node, 2), [get_input(node, index) for index in ((3,) if is_rms else (3, 4))]
    offset, bias = (None, others[0]) if is_rms else others
    added = require_value(get_input(node, 0), "an input")
    if bias is not None:
        added = builder.node("Add", [added, bias], "biased")
    total = builder.node("Add", [added, get_input(node, 1)], "sum")
    values: list[ir.Value | None] = [_make_norm(builder, node, total, scale, offset, is_rms)]
    return [*values, None, None, total][: SKIP_SUM + 1]


def _split_embedding_norm(builder: Builder, node: ir.Node) -> list[ir.Value | None]:
    ids, types, words, positions, table, scale, offset = (get_input(node, index) for index in range(7))
    given = get_input(node, 8)
    _forbid(len(node.outputs) > 1 and builder.editor.is_read(node.outputs[1]), node, "counts the tokens of each row")
    if given is None:
        length = builder.gather(builder.node("Shape", [ids], "shape"), builder.integers([1]), 0, "length")
        cut = builder.slice(require_value(positions, "an input"), builder.integers([0]), length, 0, "position_rows")
    else:
        cut = builder.gather(require_value(positions, "an input"), given, 0, "position_rows")
    rows = builder.gather(require_value(words, "an input"), require_value(ids, "an input"), 0, "word_rows")
    total = builder.node("Add", [rows, cut], "sum")
    if types is not None and table is not None:
        total = builder.node("Add", [total, builder.gather(table, types, 0, "type_rows")], "sum")
    return [_make_norm(builder, node, total, scale, offset, False), None, total]


def _split_attention(builder: Builder, node: ir.Node) -> list[ir.Value | None]:
    source, weights, bias, mask, past, added = (get_input(node, index) for index in range(6))
    _forbid(past is not None or len(node.outputs) > 1, node, "has a cache")
    _forbid(bool(get_int(node, "do_rotary", 0)), node, "applies rotary positions itself")
    product = builder.node("MatMul", [source, weights], "product")
    if bias is not None:
        product = builder.node("Add", [product, bias], "projection")
    sizes = get_ints(node, "qkv_hidden_sizes")
    width = int(require_value(builder.editor.tensor(weights), "the weights").dims[-1])
    names = [builder.editor.namer.new(f"{node.name}/{part}") for part in ("query", "key", "value")]
    cuts = sizes or [width // 3] * 3
    split = builder.editor.make_node("Split", [product, builder.integers(cuts)], names, {"axis": 2}, f"{node.name}/split")
    builder.nodes.append(split)
    inputs = [*split.outputs, None, mask, added]
    while inputs[-1] is None:
        inputs.pop()
    attributes = {name: node.attributes[name].value for name in KEPT if name in node.attributes}
    return [builder.node("MultiHeadAttention", inputs, "attention", attributes, VENDOR)]


def _make_norm(
    builder: Builder, node: ir.Node, value: ir.Value, scale: ir.Value | None, offset: ir.Value | None, is_rms: bool
) -> ir.Value:
    """Return the norm of ``value`` with the scale, offset and epsilon of a fused norm."""
    epsilon = node.attributes.get("epsilon")
    attributes = {"axis": -1, "epsilon": float(epsilon.value) if epsilon is not None else 1e-12}
    inputs = [value, scale] if offset is None else [value, scale, offset]
    return builder.node("SimplifiedLayerNormalization" if is_rms else "LayerNormalization", inputs, "norm", attributes)


def _forbid(is_so: bool, node: ir.Node, what: str) -> None:
    if is_so:
        raise UnsupportedModelError(f"the operator {node.op_type} {node.name!r} {what}, and cannot be taken apart", ADVICE)


RULES = {
    **dict.fromkeys(SKIP_NORMS, _split_skip_norm), EMBEDDING_NORM: _split_embedding_norm, ATTENTION: _split_attention,
}  # fmt: skip
"""By operator: the function that builds its parts and returns them for its outputs."""
