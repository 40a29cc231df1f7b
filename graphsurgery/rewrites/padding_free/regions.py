"""What mixes the tokens of a text: the nodes of each attention. Everything else has to be token-wise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graphsurgery.deferred import ir
from graphsurgery.encoder.attention import COUNTED, Attention, counts_tokens, find_attentions
from graphsurgery.encoder.flow import Flow
from graphsurgery.encoder.scores import PADDING
from graphsurgery.errors import UnsupportedModelError, require_value
from graphsurgery.graph.editor import Editor
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import INSIDE_ATTENTION, MOVING, NORMALISING, PRODUCTS, REDUCTIONS, get_operator
from graphsurgery.rewrites.padding_free.layout import Layout

ADVICE = "run the encoder as it is; `graphsurgery optimize` makes it faster in other ways"


@dataclass(frozen=True)
class Region:
    """The nodes of one attention: from queries, keys and values of each token to what each token attends to."""

    nodes: tuple[ir.Node, ...]
    attentions: tuple[Attention, ...]
    """Found in a graph of their own; their values have the same names."""
    masks: frozenset[str]
    """The values that mask padding and do nothing else."""

    @property
    def made(self) -> set[ir.Value]:
        return {value for node in self.nodes for value in node.outputs}


@dataclass(frozen=True)
class Division:
    """The nodes of an encoder that compute with tokens."""

    token_wise: tuple[ir.Node, ...]
    regions: tuple[Region, ...]


def divide(flow: Flow, editor: Editor, layout: Layout, mask: str) -> Division:
    """Divide the nodes of ``editor`` that compute with tokens and are needed for its outputs.

    ``flow`` is the flow of the same graph, whose values have the same names. ``mask`` is the input that tells tokens from
    padding.

    Raises UnsupportedModelError if a node mixes tokens and belongs to no attention, or if an attention does not mask padding.
    """
    tokens = {value.name for value in flow.tokens}
    needed = editor.ancestors(editor.main.outputs)
    nodes = [node for node in editor.nodes if any(one.name in tokens for one in node.outputs) and needed & {*node.outputs}]
    token_wise = [node for node in nodes if layout.is_token_wise(node)]
    if not token_wise:
        raise UnsupportedModelError("no node of this graph computes with tokens [batch, seq, ...]", ADVICE)
    attentions = find_attentions(flow)
    masks = _find_masks(flow, attentions, mask)
    cores = {one.node.outputs[0].name or "": one for one in attentions}
    front = _find_front(nodes, set(token_wise), cores, editor)
    nodes, token_wise = ([node for node in those if node not in front] for those in (nodes, token_wise))
    groups = _group_mixing(nodes, token_wise, cores)
    return Division(
        tuple(node for node in token_wise if node not in {one for group in groups for one in group}),
        tuple(_make_region(group, cores, masks, layout) for group in groups),
    )


def _find_front(nodes: list[ir.Node], token_wise: set[ir.Node], cores: Mapping[str, Attention], graph: Graph) -> set[ir.Node]:
    """Return the nodes that put looked-up rows together before anything is multiplied, as MobileBERT does with neighbours.

    They stay as they are, on the padded batch: what they give is then packed.
    """
    front: set[ir.Node] = set()
    for group in _group([node for node in nodes if node not in token_wise]):
        before = graph.ancestors([value for node in group for value in node.outputs])
        those = {node for node in nodes if not before.isdisjoint(node.outputs)}
        if not any(_mixes(node, cores) for node in those):
            front |= those
    return front


def _group_mixing(nodes: list[ir.Node], token_wise: list[ir.Node], cores: Mapping[str, Attention]) -> list[list[ir.Node]]:
    """Return the groups of ``nodes`` that read each other's values and are not ``token_wise``.

    A group without an attention may turn queries or keys round and rotate them. Nodes that bring these back to
    ``[batch, seq, ...]`` for an attention of one operator then join the group, so that it is that attention's. A group with a
    product may mix tokens, and stays alone.
    """
    mixing = {node for node in nodes if node not in set(token_wise)}
    while True:
        groups = _group([node for node in nodes if node in mixing])
        alone = [group for group in groups if not any(_mixes(node, cores) for node in group)]
        readers = {reader for group in alone for node in group for value in node.outputs for reader, _ in value.uses()}
        more = {node for node in readers & set(token_wise) if get_operator(node) in MOVING} - mixing
        if not more:
            return groups
        mixing |= more


def _find_masks(flow: Flow, attentions: tuple[Attention, ...], mask: str) -> frozenset[str]:
    """Return the values that change scores by the input ``mask`` and by nothing else.

    Raises UnsupportedModelError if an attention does not mask padding by that input.
    """
    found = {term.value.name or "": term for one in attentions for term in one.terms}
    sources = {name: _find_inputs(flow, term.value) for name, term in found.items()}
    for one in attentions:
        if counts_tokens(flow, one):
            raise UnsupportedModelError(COUNTED, ADVICE)
        if not any(mask in sources[term.value.name or ""] for term in one.terms):
            what = (
                f"the attention {one.node.name!r} does not mask padding by the input {mask}, so that vectors depend on padding"
            )
            raise UnsupportedModelError(what, f"export the encoder so that its attention uses {mask}")
    return frozenset(name for name, term in found.items() if term.kinds == (PADDING,) and sources[name] == {mask})


def _find_inputs(flow: Flow, value: ir.Value) -> set[str]:
    """Return the inputs whose numbers ``value`` is computed from."""
    read = {value, *(one for node in flow.graph.upstream_nodes(value) for one in flow.graph.all_inputs(node))}
    return {one.name or "" for one in read if flow.graph.is_fed(one)}


def _group(nodes: list[ir.Node]) -> list[list[ir.Node]]:
    """Return the groups of nodes that read each other's values, each in the order of ``nodes``."""
    groups: dict[ir.Node, list[ir.Node]] = {}
    for node in nodes:
        group = [node]
        for value in node.inputs:
            other = groups.get(producer) if value is not None and (producer := value.producer()) is not None else None
            if other is not None and other is not group:
                small, large = sorted((group, other), key=len)
                large += small
                groups.update(dict.fromkeys(small, large))
                group = large
        groups[node] = group
    places = {node: place for place, node in enumerate(nodes)}
    return [sorted(group, key=places.__getitem__) for group in {id(group): group for group in groups.values()}.values()]


def _mixes(node: ir.Node, cores: Mapping[str, Attention]) -> bool:
    return node.outputs[0].name in cores or get_operator(node) in PRODUCTS


def _make_region(nodes: list[ir.Node], cores: Mapping[str, Attention], masks: frozenset[str], layout: Layout) -> Region:
    """Return the region of connected ``nodes``. Raises UnsupportedModelError if they are not an attention, or do more than
    that."""
    found = tuple(cores[name] for node in nodes if (name := node.outputs[0].name or "") in cores)
    others = [node for node in nodes if node.outputs[0].name not in cores]
    odd = [node for node in others if get_operator(node) not in INSIDE_ATTENTION or _joins_tokens(node, layout)]
    if not found:
        odd = odd or [node for node in nodes if get_operator(node) not in MOVING] or nodes
    if odd:
        what = f"the operator {get_operator(odd[0])} ({odd[0].name or odd[0].outputs[0].name!r}) mixes the tokens of a text"
        raise UnsupportedModelError(
            f"{what}, or does not have them as [batch, seq, ...], and it belongs to no attention", ADVICE
        )
    return Region(tuple(nodes), found, masks)


def _joins_tokens(node: ir.Node, layout: Layout) -> bool:
    """Return whether a reduction or a norm goes along the sequence or the batch, padding included."""
    if get_operator(node) not in REDUCTIONS | NORMALISING:
        return False
    axes, dims = layout.list_axes(node), layout.dims(require_value(node.inputs[0], "what is reduced")) or ()
    return axes is None or not all(size is not None and size.is_literal for size in (dims[axis] for axis in axes))
