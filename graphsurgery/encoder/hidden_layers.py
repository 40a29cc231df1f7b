"""The hidden layers of an encoder, which transformers returns as ``hidden_states``, found by the structure of its graph.

A layer adds to the stream that flows through it: ``x + attention(x)``, then ``x + feed_forward(x)``, with a norm before the
branch (pre-norm) or after the sum (post-norm). The search goes backwards from the last hidden state, from sum to sum. The
stream that an attention is added to is the input of a layer. These inputs and the last hidden state are the hidden layers: the
embeddings' output first, then the output of each layer. In pre-norm encoders they are the stream between the layers, and the
last one is normalised once more (`find_last_sum` finds it before that).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from graphsurgery.deferred import ir
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.graph.attributes import get_input
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import ATTENTIONS, BETWEEN_LAYERS, SKIP_BIASES, SKIP_NORMS, SKIP_SUM, SUMS, get_operator
from graphsurgery.interface import Interface

NUMBERED = re.compile(r"(?:all_)?(?:hidden_states|layer_embeddings)[._](\d{1,4})")
"""Outputs of exports that give the hidden layers: ``hidden_states.0``, ``hidden_states_0``, ``all_layer_embeddings.0``."""


def find_layers_by_name(interface: Interface) -> tuple[str, ...]:
    """Return the outputs that are numbered as hidden layers, in order from 0. Empty if a number is missing."""
    found = {int(match[1]): value.name for value in interface.outputs if (match := NUMBERED.fullmatch(value.name))}
    return tuple(found[number] for number in range(len(found))) if set(found) == set(range(len(found))) else ()


def find_layers_by_structure(graph: Graph, last: ir.Value) -> tuple[ir.Value, ...]:
    """Return the hidden layers, ending with the last hidden state ``last``. It is the only one if no layer is recognised."""
    layers, stream = [last], last
    while (step := next(_find_sums(graph, stream), None)) is not None:
        _, stream, branch = step
        if any(_is_attention(node) for node in graph.upstream_nodes(branch, _find_moment(graph, stream))):
            layers.append(stream)
    return tuple(reversed(layers))


def list_hidden_layers(graph: Graph, last: str) -> tuple[ir.Value, ...]:
    """Return the hidden layers that lead to the last hidden state, the value ``last``, which is the last one of them.

    Raises UnsupportedModelError if there are none, or if attention comes before the first of them: then only some are known.
    """
    value = graph.value(last)
    layers = () if value is None else find_layers_by_structure(graph, value)
    if len(layers) < 2:
        raise UnsupportedModelError(
            f"no hidden layers lead to {last!r}: a layer adds an attention to the values that flow through it, and {last!r} is "
            "not the sum that ends one, nor that sum normalised",
            "export the encoder without what follows its last layer, such as an upsampling (SEW) or an adapter",
        )
    if any(_is_attention(node) for node in graph.upstream_nodes(layers[0])):
        raise UnsupportedModelError(
            f"only {len(layers) - 1} layers lead straight to {last!r}: other attention comes before {layers[0].name!r}",
            "the layers of encoders that change their width or their number of positions, such as Swin, cannot be counted",
        )
    return layers


@dataclass(frozen=True)
class LastSum:
    """The output of the last layer of a pre-norm encoder, before its final normalisation."""

    value: ir.Value | None
    """None if the graph does not give it, because a fused norm computes it and keeps it to itself."""
    terms: tuple[ir.Value, ...]
    """The values whose sum it is: the stream, the branch, and the bias of a fused norm if there is one."""


def find_last_sum(graph: Graph, layers: tuple[ir.Value, ...]) -> LastSum | None:
    """Return the sum that the final normalisation of a pre-norm encoder with these `find_layers_by_structure` normalises.

    None for post-norm encoders, and if the last layer is normalised as often as the others.
    """
    step = next(_find_sums(graph, layers[-1]), None)
    if step is None or len(layers) < 2:
        return None
    node, stream, _ = step
    value = _get_sum(node)
    if value is not None and graph.origin(layers[-1]) is value:
        return None
    origin = graph.origin(stream)
    maker = origin.producer()
    if maker is None or get_operator(maker) not in SUMS or _get_sum(maker) is not origin or _adds_weights(graph, maker):
        return None
    bias = get_input(node, SKIP_BIASES[get_operator(node)]) if get_operator(node) in SKIP_NORMS else None
    return LastSum(value, tuple(one for one in (*node.inputs[:2], bias) if one is not None))


def _get_sum(node: ir.Node) -> ir.Value | None:
    """Return the output of a sum, or of a norm of a sum, that is the sum itself. None if the norm does not give it."""
    place = SKIP_SUM if get_operator(node) in SKIP_NORMS else 0
    value = node.outputs[place] if place < len(node.outputs) else None
    return value if value is not None and value.name else None


def _adds_weights(graph: Graph, node: ir.Node) -> bool:
    """Return whether a sum adds stored weights, such as the bias of a norm, and not what a layer computes."""
    return get_operator(node) not in SKIP_NORMS and any(
        graph.tensor(graph.origin(one)) is not None for one in node.inputs if one is not None
    )


def _find_sums(graph: Graph, value: ir.Value) -> Iterator[tuple[ir.Node, ir.Value, ir.Value]]:
    """Yield (sum, stream, branch) for the sums before ``value`` in which one side, the branch, is computed from the other."""
    for node in graph.upstream_nodes(value, through=BETWEEN_LAYERS):
        first, second = (*node.inputs, None, None)[:2]
        if get_operator(node) not in SUMS or first is None or second is None:
            continue
        for stream, branch in ((first, second), (second, first)):
            if _is_computed_from(graph, branch, _find_moment(graph, stream)):
                yield node, stream, branch


def _find_moment(graph: Graph, value: ir.Value) -> frozenset[ir.Value]:
    """Return the outputs of the node that makes ``value`` or its original: a fused sum also gives the normalised sum."""
    origin = graph.origin(value)
    node = origin.producer()
    return frozenset([origin] if node is None else node.outputs)


def _is_computed_from(graph: Graph, value: ir.Value, source: frozenset[ir.Value]) -> bool:
    """Return whether the numbers of ``value`` are computed from ``source``. Not if that is a weight: layers share zeros."""
    if value in source or any(graph.tensor(one) is not None for one in source):
        return False
    return any(not source.isdisjoint(graph.all_inputs(node)) for node in graph.upstream_nodes(value, source))


def _is_attention(node: ir.Node) -> bool:
    """Return whether a node is an attention, or the Softmax within one."""
    return get_operator(node) == "Softmax" or get_operator(node) in ATTENTIONS
