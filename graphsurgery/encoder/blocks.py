"""The parts of an encoder, each with the layer that it is in: attentions, normalisations, activations.

A layer begins with its attention. What that goes into is in its layer, up to the next attention: a sum, and the norm of it, are
in the layer that adds to it, in pre-norm encoders, too. What comes before every attention is the embeddings'.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from graphsurgery.encoder.activations import Activation, find_activations
from graphsurgery.encoder.attention import Attention, find_attentions
from graphsurgery.encoder.flow import Flow, is_lookup
from graphsurgery.encoder.hidden_state import KNOWN_NAMES, find_hidden_state
from graphsurgery.encoder.norms import Norm, find_norms
from graphsurgery.errors import GraphSurgeryError
from graphsurgery.model.model import Model

Layers = dict[ir.Value, int]


@dataclass(frozen=True, eq=False)
class Blocks:
    """An encoder's parts in the order in which they run; attentions are numbered by their place, from 0. A layer is None for
    what comes before the first attention."""

    flow: Flow
    attentions: tuple[Attention, ...]
    norms: tuple[tuple[int | None, Norm], ...]
    activations: tuple[tuple[int | None, Activation], ...]

    def norm_of(self, value: ir.Value) -> Norm | None:
        """Return the norm of ``value``, or the one whose own sum it is."""
        origin = self.flow.graph.origin
        for _, norm in self.norms:
            if (norm.of is not None and origin(norm.of) is origin(value)) or (norm.whole and value in norm.node.outputs):
                return norm
        return None


def find_blocks(model: Model) -> Blocks:
    """Return the parts of the encoder: of what the hidden state is computed by, where there is one, else of the whole graph."""
    flow = Flow.of(model)
    within = _encoder(flow)
    found = tuple(one for one in find_attentions(flow) if one.node in within)
    before, after = _layers(flow, found)
    streams = {flow.graph.origin(one.sum.stream) for one in found if one.sum is not None}
    norms = [norm for norm in find_norms(flow) if norm.output.producer() in within]
    activations = [one for one in find_activations(flow) if one.output.producer() in within]
    return Blocks(
        flow,
        found,
        tuple((_layer_of(flow, norm, before, after, streams), norm) for norm in norms),
        tuple((before.get(one.output), one) for one in activations),
    )


def _encoder(flow: Flow) -> set[ir.Node | None]:
    """Return the nodes that the hidden state is computed by; every node where it is not known."""
    name = next((known for known in KNOWN_NAMES if flow.graph.value(known) is not None), None)
    if name is None:
        try:
            name = find_hidden_state(flow.model).name
        except GraphSurgeryError:
            return set(flow.graph.nodes)
    value = flow.graph.value(name)
    return {one.producer() for one in flow.graph.ancestors([value])} if value is not None else set()


def _layers(flow: Flow, found: tuple[Attention, ...]) -> tuple[Layers, Layers]:
    """Return by value the last attention that it is computed by, and the first one that it goes into."""
    places = {one.node: place for place, one in enumerate(found)}
    before: Layers = {}
    after: Layers = {}
    nodes = [(node, flow.graph.reads(node), places.get(node)) for node in flow.graph.nodes]
    for node, reads, own in nodes:
        known = [place for place in (own, *map(before.get, reads)) if place is not None]
        before.update(dict.fromkeys(node.outputs, max(known)) if known else {})
    for node, reads, own in reversed(nodes):
        known = [place for place in (own, *map(after.get, node.outputs)) if place is not None]
        for value in reads if known else ():
            after[value] = min(*known, after.get(value, known[0]))
    return before, after


def _layer_of(flow: Flow, norm: Norm, before: Layers, after: Layers, streams: set[ir.Value]) -> int | None:
    """Return the layer of a norm: of a sum, the one that adds; else the one whose attention it goes into."""
    of = None if norm.of is None else flow.graph.origin(norm.of)
    made = None if of is None else of.producer()
    embeds = made is not None and is_lookup(flow.graph, made) and of not in streams
    if norm.summands or norm.lookups or embeds:
        return before.get(norm.output)
    return after.get(norm.output, before.get(norm.output))
