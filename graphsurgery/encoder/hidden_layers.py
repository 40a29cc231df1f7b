"""The hidden layers of an encoder, which transformers returns as ``hidden_states``, found by the structure of its graph.

A layer adds to the stream that flows through it: ``x + attention(x)``, then ``x + feed_forward(x)``, with a norm before the
branch (pre-norm) or after the sum (post-norm). The search goes backwards from the last hidden state, from sum to sum. The
stream that an attention is added to is the input of a layer. These inputs and the last hidden state are the hidden layers: the
embeddings' output first, then the output of each layer. In pre-norm encoders they are the stream between the layers, and the
last one is normalised once more. transformers has the same values, except for ModernBERT in transformers 4: its last one is not
normalised (`find_stream_before_norm`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from graphsurgery.deferred import ir
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import ATTENTIONS, BETWEEN_LAYERS, SUMS, get_operator
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


def find_stream_before_norm(graph: Graph, layers: tuple[ir.Value, ...]) -> ir.Value | None:
    """Return the stream before the final normalisation of a pre-norm encoder with these `find_layers_by_structure`.

    None if the last layer is no more normalised than the others.
    """
    producers = [graph.origin(value).producer() for value in layers[1:]]
    is_sum = [node is not None and get_operator(node) == "Add" for node in producers]
    if len(is_sum) < 2 or not all(is_sum[:-1]) or is_sum[-1]:
        return None
    return next((node.outputs[0] for node, _, _ in _find_sums(graph, layers[-1])), None)


def _find_sums(graph: Graph, value: ir.Value) -> Iterator[tuple[ir.Node, ir.Value, ir.Value]]:
    """Yield (sum, stream, branch) for the sums before ``value`` of which one side, the branch, is computed from the other."""
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
