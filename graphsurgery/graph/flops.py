"""Count the multiplications and additions of a model's matrix products, convolutions and attentions.

All else takes a few operations for each number and is left out. A product of ``[m, k]`` and ``[k, n]`` takes ``2 m k n``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from graphsurgery.deferred import ir
from graphsurgery.graph.attributes import get_input, get_int, get_string, walk_subgraphs
from graphsurgery.graph.facts import Facts
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import VENDOR, get_operator
from graphsurgery.graph.sizes import infer_at

Shape = tuple[int, ...]


def count_flops(graph: Graph, batch: int, tokens: int) -> int | None:
    """Return the number of operations for ``batch`` texts of ``tokens`` tokens, or None if the size of a product is unknown.

    It is also unknown if a loop or a branch computes products, because nothing says how often. Nodes that no output needs are
    not counted, because no runtime computes them.
    """
    facts = infer_at(graph, batch, tokens)
    needed = graph.ancestors(graph.main.outputs)
    total = 0
    for node in graph.nodes:
        if needed.isdisjoint(node.outputs):
            continue
        if any(get_operator(inner) in COUNTERS for body in walk_subgraphs(node) for inner in body):
            return None
        count = COUNTERS.get(get_operator(node))
        if count is None:
            continue
        flops = count(node, facts)
        if flops is None:
            return None
        total += flops
    return total


def _read_shape(facts: Facts, value: ir.Value | None) -> Shape | None:
    return None if value is None else facts[value].literal


def _count_product(node: ir.Node, facts: Facts) -> int | None:
    """Count ``A B``: each number of the result is a sum over the last dim of A."""
    first, out = _read_shape(facts, node.inputs[0]), _read_shape(facts, node.outputs[0])
    if first is None or out is None:
        first, second = _read_shape(facts, node.inputs[0]), _read_shape(facts, node.inputs[1])
        if first is None or second is None or len(first) < 2 or len(second) < 2:
            return None
        rows, inner = first[-2:][:: -1 if get_int(node, "transA", 0) else 1]
        columns = second[-2 if get_int(node, "transB", 0) else -1]
        return 2 * max(math.prod(first[:-2]), math.prod(second[:-2])) * rows * inner * columns
    inner = first[-2 if get_int(node, "transA", 0) and len(first) > 1 else -1]
    return 2 * math.prod(out) * inner


def _count_einsum(node: ir.Node, facts: Facts) -> int | None:
    """Count one multiplication and one addition for each combination of the letters."""
    equation = (get_string(node, "equation") or "").replace(" ", "").split("->")[0]
    sizes: dict[str, int] = {}
    for letters, value in zip(equation.split(","), node.inputs, strict=False):
        shape = _read_shape(facts, value)
        if shape is None or "." in letters:
            return None
        sizes |= {letter: max(size, sizes.get(letter, 1)) for letter, size in zip(letters, shape, strict=False)}
    return 2 * math.prod(sizes.values())


def _count_convolution(node: ir.Node, facts: Facts) -> int | None:
    """Count a product with the kernel ``[out, in / groups, *window]`` at each place of the output."""
    kernel, out = _read_shape(facts, node.inputs[1]), _read_shape(facts, node.outputs[0])
    return None if kernel is None or out is None else 2 * math.prod(out) * math.prod(kernel[1:])


def _count_attention(node: ir.Node, facts: Facts) -> int | None:
    """Count the scores and the sum of the values of an attention that is given queries, keys and values."""
    queries, keys, values = (_read_shape(facts, get_input(node, index)) for index in range(3))
    if queries is None or keys is None or values is None or len({len(queries), len(keys), len(values)}) > 1:
        return None
    if len(queries) == 4:  # [batch, heads, tokens, size]
        batch, heads, rows, size = queries
        return 2 * batch * heads * rows * keys[2] * (size + values[3])
    batch, rows, width = queries
    groups = (get_int(node, "q_num_heads", 1) // get_int(node, "kv_num_heads", 0)) if get_int(node, "kv_num_heads", 0) else 1
    return 2 * batch * rows * keys[1] * (width + values[2] * groups)


def _count_packed_attention(node: ir.Node, facts: Facts) -> int | None:
    """Count an attention that also computes queries, keys and values from its input."""
    given, weights = _read_shape(facts, node.inputs[0]), _read_shape(facts, node.inputs[1])
    if given is None or weights is None or len(given) != 3:
        return None
    batch, tokens, width = given
    return 2 * batch * tokens * weights[1] * width + 2 * batch * tokens * tokens * (weights[1] // 3) * 2


COUNTERS: dict[str, Callable[[ir.Node, Facts], int | None]] = {
    "MatMul": _count_product, "MatMulInteger": _count_product, "Gemm": _count_product, "Einsum": _count_einsum,
    f"{VENDOR}.FusedMatMul": _count_product, "Conv": _count_convolution, "Attention": _count_attention,
    f"{VENDOR}.MultiHeadAttention": _count_attention, f"{VENDOR}.Attention": _count_packed_attention,
}  # fmt: skip
"""By operator: the function that counts a node."""
