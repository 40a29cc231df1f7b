"""The parts of an encoder, each with the layer that it is in: attentions, normalisations, activations.

A layer begins with its attention. What that goes into is in its layer, up to the next attention: a sum, and the norm of it, are
in the layer that adds to it, in pre-norm encoders, too. What comes before every attention is the embeddings'.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphsurgery.encoder.activations import Activation, activations
from graphsurgery.encoder.attention import Attention, attentions
from graphsurgery.encoder.flow import Flow, is_lookup
from graphsurgery.encoder.hidden_state import KNOWN_NAMES, find_hidden_state
from graphsurgery.encoder.norms import Norm, norms
from graphsurgery.errors import GraphSurgeryError
from graphsurgery.model.model import Model
from graphsurgery.model.nodes import reads


@dataclass(frozen=True)
class Blocks:
    """An encoder's parts in the order in which they run; attentions are numbered by their place, from 0. A layer is None for
    what comes before the first attention."""

    flow: Flow
    attentions: tuple[Attention, ...]
    norms: tuple[tuple[int | None, Norm], ...]
    activations: tuple[tuple[int | None, Activation], ...]

    def norm_of(self, value: str) -> Norm | None:
        """The norm of ``value``, or the one whose own sum it is."""
        origin = self.flow.wiring.origin
        for _, norm in self.norms:
            made = self.flow.maker(norm.output)
            if origin(norm.of) == origin(value) or (norm.whole and made is not None and value in made.output):
                return norm
        return None


def blocks_of(model: Model) -> Blocks:
    """The parts of the encoder: of what the hidden state is computed by, where there is one, else of the whole graph."""
    flow = Flow.of(model)
    within = _encoder(flow)
    found = tuple(one for one in attentions(flow) if one.value in within)
    before, after = _layers(flow, found)
    streams = {flow.wiring.origin(one.sum.stream) for one in found if one.sum is not None}
    return Blocks(
        flow,
        found,
        tuple((_layer_of(flow, norm, before, after, streams), norm) for norm in norms(flow) if norm.output in within),
        tuple((before.get(one.output), one) for one in activations(flow) if one.output in within),
    )


def _encoder(flow: Flow) -> set[str]:
    """The values that the hidden state is computed by, itself too; every value where it is not known."""
    name = next((known for known in KNOWN_NAMES if flow.wiring.has(known)), None)
    if name is None:
        try:
            name = find_hidden_state(flow.model).name
        except GraphSurgeryError:
            return {name for node in flow.nodes for name in node.output}
    found: set[str] = set()
    todo = [name]
    while todo:
        current = todo.pop()
        node = flow.maker(current)
        if current in found or node is None:
            continue
        found.update(one for one in node.output if one)
        todo += reads(node)
    return found


def _layers(flow: Flow, found: tuple[Attention, ...]) -> tuple[dict[str, int], dict[str, int]]:
    """By value: the last attention that it is computed by, and the first one that it goes into."""
    places = {one.value: place for place, one in enumerate(found)}
    before: dict[str, int] = {}
    after: dict[str, int] = {}
    for node in flow.nodes:
        upstream = [before[name] for name in reads(node) if name in before]
        upstream += [places[name] for name in node.output if name in places]
        before.update({name: max(upstream) for name in node.output if upstream})
    for node in reversed(flow.nodes):
        downstream = [places.get(name, after.get(name)) for name in node.output]
        known = [place for place in downstream if place is not None]
        for name in reads(node) if known else ():
            after[name] = min(known[0], after.get(name, known[0]), *known)
    return before, after


def _layer_of(flow: Flow, norm: Norm, before: dict[str, int], after: dict[str, int], streams: set[str]) -> int | None:
    """The layer of a norm: of a sum, the one that adds; else the one whose attention it goes into."""
    made = flow.behind(norm.of)
    embeds = made is not None and is_lookup(flow.wiring, made) and flow.wiring.origin(norm.of) not in streams
    if norm.summands or norm.lookups or embeds:
        return before.get(norm.output)
    return after.get(norm.output, before.get(norm.output))
