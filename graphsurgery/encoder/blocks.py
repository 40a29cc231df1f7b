"""The parts of an encoder, each with the layer that it is in: attentions, normalisations, activations.

A layer begins with its attention and contains what is computed from it, up to the next attention. A sum and its norm are in the
layer that adds to the sum, also in pre-norm encoders. Whatever comes before every attention belongs to the embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from graphsurgery.deferred import ir
from graphsurgery.encoder.activations import Activation, find_activations
from graphsurgery.encoder.attention import Attention, find_attentions
from graphsurgery.encoder.flow import Flow, is_lookup
from graphsurgery.encoder.hidden_state import KNOWN_NAMES, find_hidden_state
from graphsurgery.encoder.norms import Norm, find_norms
from graphsurgery.errors import GraphSurgeryError
from graphsurgery.model.model import Model

Layers: TypeAlias = "dict[ir.Value, int]"


@dataclass(frozen=True, eq=False)
class Blocks:
    """An encoder's parts in the order in which they run.

    Layers are numbered by their attention, from 0. The layer of a part before the first attention is None.
    """

    flow: Flow
    nodes: frozenset[ir.Node]
    """The nodes of the encoder."""
    attentions: tuple[Attention, ...]

    @cached_property
    def norms(self) -> tuple[tuple[int | None, Norm], ...]:
        """Each normalisation with its layer."""
        norms = [norm for norm in find_norms(self.flow) if norm.output.producer() in self.nodes]
        streams = {self.flow.graph.origin(one.sum.stream) for one in self.attentions if one.sum is not None}
        return tuple((self._find_norm_layer(norm, streams), norm) for norm in norms)

    @cached_property
    def activations(self) -> tuple[tuple[int | None, Activation], ...]:
        """Each activation with its layer."""
        activations = [one for one in find_activations(self.flow) if one.output.producer() in self.nodes]
        return tuple((self._layers[0].get(one.output), one) for one in activations)

    def find_norm(self, value: ir.Value) -> Norm | None:
        """Return the norm of ``value``. It may be a fused norm that computes the sum ``value`` itself."""
        origin = self.flow.graph.origin
        for _, norm in self.norms:
            if (norm.source is not None and origin(norm.source) is origin(value)) or (
                norm.fused and value in norm.node.outputs
            ):
                return norm
        return None

    @cached_property
    def _layers(self) -> tuple[Layers, Layers]:
        """By value: the last attention that it is computed from, and the first attention that is computed from it."""
        indices = {one.node: index for index, one in enumerate(self.attentions)}
        before: Layers = {}
        after: Layers = {}
        graph = self.flow.graph
        nodes = [(node, graph.all_inputs(node), indices.get(node)) for node in graph.nodes]
        for node, inputs, own in nodes:
            known = [index for index in (own, *map(before.get, inputs)) if index is not None]
            before.update(dict.fromkeys(node.outputs, max(known)) if known else {})
        for node, inputs, own in reversed(nodes):
            known = [index for index in (own, *map(after.get, node.outputs)) if index is not None]
            for value in inputs if known else ():
                after[value] = min(*known, after.get(value, known[0]))
        return before, after

    def _find_norm_layer(self, norm: Norm, streams: set[ir.Value]) -> int | None:
        """Return the layer of a norm. For a norm of a sum or of embeddings, it is the layer that computes the sum.

        For any other norm, such as the first one of a pre-norm layer, it is the layer whose attention reads its output.
        """
        before, after = self._layers
        source = None if norm.source is None else self.flow.graph.origin(norm.source)
        producer = None if source is None else source.producer()
        embeds = producer is not None and is_lookup(self.flow.graph, producer) and source not in streams
        if norm.summands or norm.lookups or embeds:
            return before.get(norm.output)
        return after.get(norm.output, before.get(norm.output))


def find_blocks(model: Model) -> Blocks:
    """Find the parts of the encoder among the nodes that compute the hidden state, or in the whole graph if none is known."""
    flow = Flow.of(model)
    nodes = _find_encoder_nodes(flow)
    return Blocks(flow, nodes, tuple(one for one in find_attentions(flow) if one.node in nodes))


def _find_encoder_nodes(flow: Flow) -> frozenset[ir.Node]:
    """Return the nodes that compute the hidden state, or every node if it is not known."""
    name = next((known for known in KNOWN_NAMES if flow.graph.value(known) is not None), None)
    if name is None:
        try:
            name = find_hidden_state(flow.model).name
        except GraphSurgeryError:
            return frozenset(flow.graph.nodes)
    value = flow.graph.value(name)
    ancestors = flow.graph.ancestors([value]) if value is not None else ()
    return frozenset(node for one in ancestors if (node := one.producer()) is not None)
