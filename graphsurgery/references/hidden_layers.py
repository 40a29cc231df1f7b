"""The hidden layers of an encoder, counted forwards from its embeddings, on plain protobuf. The edits count backwards.

All information about the tokens, the pixels or the samples flows through the embeddings first. Between two layers it flows
through one node alone, because a residual adds everything that a layer computes to what it got. Such a node is a *gate*: every
way from the embeddings to the last hidden state leads through it. A node is a gate if the number of ways that lead to it, times
the number of ways that lead on from it, is the number of all ways.

Layer N begins at the last gate before the (N + 1)th stretch between two gates that contains an attention.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import onnx

from graphsurgery.references.nested import find_needed, list_read_values, sort_nodes

SHAPES = ("Shape", "Size")
"""Operators that read no numbers."""
COPIES = ("Cast", "Dropout", "Identity")
STORING = (*COPIES, "DequantizeLinear", "Reshape", "Transpose")
"""Operators that give stored weights in another form."""
SUM = "Add"
SKIP_SUM = 3
"""The index of the sum among the outputs of a fused norm of a sum."""
SKIP_BIAS = {"SkipLayerNormalization": 4, "SkipSimplifiedLayerNormalization": 3}
"""The index of the bias among the inputs of a fused norm of a sum, by operator."""


@dataclass(frozen=True)
class Stretch:
    """The embeddings' way to the last hidden state."""

    gates: tuple[onnx.NodeProto, ...]
    """The nodes through which every way leads, in order. The first one makes the embeddings, the last one the hidden state."""
    starts: tuple[int, ...]
    """The indices of the gates that are followed by an attention before the next gate."""
    made: frozenset[str]
    """The values that are computed from the embeddings."""
    read: frozenset[str]
    """The values among them that lead on to the hidden state."""


def find_stretch(graph: onnx.GraphProto, end: str) -> Stretch | None:
    """Return the way to the value ``end``, or to all that nothing reads if no node makes ``end``. None if it has no start."""
    ends = [end] if any(end in node.output for node in graph.node) else _list_unread(graph)
    needed = find_needed(graph, ends)
    nodes = [node for node in sort_nodes(graph) if needed.intersection(node.output)]
    first = _find_embeddings(graph, nodes)
    if first is None:
        return None
    ways: Counter[str] = Counter()
    counted = []
    for node in nodes:
        count = 1 if node is first else 0 if node.op_type in SHAPES else sum(ways[name] for name in list_read_values(node))
        if count:
            ways.update(dict.fromkeys(node.output, count))
            counted.append((node, count))
    onwards = Counter(dict.fromkeys(ends, 1))
    total = sum(ways[name] for name in ends)
    flow: list[tuple[onnx.NodeProto, bool]] = []
    for node, count in reversed(counted):
        left = sum(onwards[name] for name in node.output)
        if left:
            onwards.update(dict.fromkeys(list_read_values(node), left))
            flow.insert(0, (node, count * left == total))
    gates = [place for place, (_, is_gate) in enumerate(flow) if is_gate]
    between = [flow[one + 1 : other] for one, other in pairwise(gates)]
    return Stretch(
        gates=tuple(flow[place][0] for place in gates),
        starts=tuple(index for index, some in enumerate(between) if any(_is_attention(node) for node, _ in some)),
        made=frozenset(ways),
        read=frozenset(name for node, _ in flow for name in node.input),
    )


def find_layer(graph: onnx.GraphProto, stretch: Stretch, number: int) -> list[str]:
    """Return the names of the values whose sum is the hidden layer ``number``, below the last one."""
    node = stretch.gates[stretch.starts[number]]
    names = [name for name in node.output if name in stretch.read]
    return [skip_copies(graph, names[-1])] if names else []


def find_sum_before_end(stretch: Stretch) -> list[str]:
    """Return the names of the values whose sum is what the last layer computes, before any norm."""
    for node in reversed(stretch.gates):
        if node.op_type in SKIP_BIAS:
            if len(node.output) > SKIP_SUM and node.output[SKIP_SUM]:
                return [node.output[SKIP_SUM]]
            places = (0, 1, SKIP_BIAS[node.op_type])
            return [node.input[place] for place in places if place < len(node.input) and node.input[place]]
        if node.op_type == SUM and stretch.made.issuperset(node.input):
            return list(node.output)
    return []


def skip_copies(graph: onnx.GraphProto, name: str) -> str:
    """Return the value that ``name`` is a copy of, or ``name`` itself."""
    makers = {made: node for node in graph.node for made in node.output}
    while name in makers and makers[name].op_type in COPIES:
        name = makers[name].input[0]
    return name


def _find_embeddings(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> onnx.NodeProto | None:
    """Return the node that makes embeddings of an input: of the first ones that take weights, the one that takes most."""
    weights = _count_weights(graph)
    made = {name for node in graph.node for name in node.output} | {one.name for one in graph.initializer}
    fed = {name for node in nodes for name in node.input} - made  # inputs, and what earlier edits make in their place
    embedded = set[str]()
    found: list[tuple[int, onnx.NodeProto]] = []
    for node in nodes:
        read = list_read_values(node) if node.op_type not in SHAPES else set()
        taken = [weights[name] for name in node.input if name in weights]
        if not embedded.isdisjoint(read):
            embedded.update(node.output)
        elif not fed.isdisjoint(read) and taken:
            found.append((max(taken), node))
            embedded.update(node.output)
        elif not fed.isdisjoint(read):
            fed.update(node.output)
    return max(found, key=lambda pair: pair[0], default=(0, None))[1]


def _count_weights(graph: onnx.GraphProto) -> dict[str, int]:
    """Return the elements of each stored tensor with two or more dims above 1, also after nodes that give it another form."""
    tensors = {one.name: one for one in graph.initializer}
    tensors |= {node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant" and node.attribute}
    counts = {name: math.prod(one.dims) for name, one in tensors.items() if sum(size > 1 for size in one.dims) > 1}
    for node in graph.node:
        if node.op_type in STORING and node.input and node.input[0] in counts:
            counts[node.output[0]] = counts[node.input[0]]
    return counts


def _list_unread(graph: onnx.GraphProto) -> list[str]:
    """Return the values that no node reads."""
    read = {name for node in graph.node for name in list_read_values(node)}
    return [name for node in graph.node for name in node.output if name and name not in read]


def _is_attention(node: onnx.NodeProto) -> bool:
    return node.op_type == "Softmax" or "Attention" in node.op_type
