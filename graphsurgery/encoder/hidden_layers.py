"""The hidden layers of an encoder, by the structure of its graph: what transformers gives as ``hidden_states``.

A layer adds to what flows through it: ``x + attention(x)``, then ``x + feed_forward(x)``, normalised before (pre-norm) or after
(post-norm). Backwards from the last hidden state, through normalisations, there is such a sum before every sum; what an
attention is added to is what a layer was given. These values, and the last hidden state, are the hidden layers: the embeddings'
output first, then each layer's; of pre-norm encoders the stream between the layers, the last one normalised once more. So it is
in transformers, but for ModernBERT in transformers 4, whose last one is not (`before_norm`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import ATTENTIONS, BETWEEN_LAYERS, SUMS, operator
from graphsurgery.interface import Interface

NUMBERED = re.compile(r"(?:all_)?(?:hidden_states|layer_embeddings)[._](\d{1,4})")
"""Outputs of exports that give the hidden layers: ``hidden_states.0``, ``hidden_states_0``, ``all_layer_embeddings.0``."""


def layers_by_name(interface: Interface) -> tuple[str, ...]:
    """Return the outputs that are numbered from 0 on as hidden layers, in order; none where a number is missing."""
    found = {int(match[1]): value.name for value in interface.outputs if (match := NUMBERED.fullmatch(value.name))}
    return tuple(found[number] for number in range(len(found))) if set(found) == set(range(len(found))) else ()


def layers_by_structure(graph: Graph, last: ir.Value) -> tuple[ir.Value, ...]:
    """Return the hidden layers, the last hidden state ``last`` at their end; ``last`` alone where no layer is recognised."""
    return _Stream(graph).layers(last)


def before_norm(graph: Graph, layers: tuple[ir.Value, ...]) -> ir.Value | None:
    """Return the stream before the final normalisation of a pre-norm encoder, whose ``layers`` `layers_by_structure` gives.

    None where the last layer is no less normalised than the others.
    """
    between = [graph.origin(value).producer() for value in layers[1:]]
    is_sum = [node is not None and operator(node) == "Add" for node in between]
    return _Stream(graph).sum_before(layers[-1]) if len(is_sum) > 1 and all(is_sum[:-1]) and not is_sum[-1] else None


@dataclass(frozen=True)
class _Stream:
    """What flows through an encoder's layers."""

    graph: Graph

    def layers(self, last: ir.Value) -> tuple[ir.Value, ...]:
        found, value = [last], last
        while (step := next(self._sums(value), None)) is not None:
            _, value, added = step
            if any(_attends(node) for node in self.graph.nodes_behind(added, self._moment(value))):
                found.append(value)
        return tuple(reversed(found))

    def sum_before(self, value: ir.Value) -> ir.Value | None:
        """Return the first sum before ``value``."""
        return next((node.outputs[0] for node, _, _ in self._sums(value)), None)

    def _sums(self, value: ir.Value) -> Iterator[tuple[ir.Node, ir.Value, ir.Value]]:
        """(sum, what flows, what is added to it) of the sums before ``value`` whose one side comes from the other."""
        for node in self.graph.nodes_behind(value, through=BETWEEN_LAYERS):
            first, second = (*node.inputs, None, None)[:2]
            if operator(node) not in SUMS or first is None or second is None:
                continue
            for one, other in ((first, second), (second, first)):
                if self._comes_from(other, self._moment(one)):
                    yield node, one, other

    def _moment(self, value: ir.Value) -> frozenset[ir.Value]:
        """Return what ``value`` is a copy of, and what else that node gives: a fused sum gives its normalised form, too."""
        origin = self.graph.origin(value)
        node = origin.producer()
        return frozenset([origin] if node is None else node.outputs)

    def _comes_from(self, value: ir.Value, source: frozenset[ir.Value]) -> bool:
        """Return whether the numbers of ``value`` are computed from those of ``source``, which is no weight: layers share
        zeros."""
        if value in source or any(self.graph.tensor(one) is not None for one in source):
            return False
        return any(not source.isdisjoint(self.graph.reads(node)) for node in self.graph.nodes_behind(value, source))


def _attends(node: ir.Node) -> bool:
    """Return whether a node is an attention, or the Softmax within one."""
    return operator(node) == "Softmax" or operator(node) in ATTENTIONS
