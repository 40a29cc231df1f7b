"""Find the values of a model that are needed at one token of each text only.

The search is over the encoder with its head, because the head says which token it takes. It is made once for each file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

from graphsurgery.deferred import ir
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.graph.editor import Editor
from graphsurgery.graph.flops import COUNTERS
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import get_operator
from graphsurgery.graph.sizes import BATCH, TOKENS, Dim, Dims, Layout
from graphsurgery.graph.write_back import to_document
from graphsurgery.model.model import Model
from graphsurgery.model.once import Store, find_once
from graphsurgery.rewrites.head_parts import Parts, split_head
from graphsurgery.rewrites.narrow.building import is_shape
from graphsurgery.rewrites.narrow.demand import Demand, find_demand
from graphsurgery.rewrites.narrow.positions import Position, Taking, find_takings
from graphsurgery.rewrites.narrow.unpacking import find_parts, unpack

ADVICE = (
    "leave the rewrite pooled-token out for this file: it is for heads that take one token of each text, such as cls, "
    "lasttoken or a class token, and for files without other outputs"
)
FIRST_OPSET_OF_ROWS = 12
"""The first opset in which GatherND takes one position of each row of a batch."""


@dataclass(frozen=True)
class Target:
    """An encoder that can be narrowed."""

    encoder: Model
    """The encoder. Products are computed in parts if that lets some of the parts be computed at one position."""
    demand: Demand
    """The values of the encoder, with its head, that are needed at one position only."""


def find_target(model: Model) -> Target:
    """Return the encoder of ``model``, and the values in it that are needed at one position only. The search is made once for a
    model.

    Raises UnsupportedModelError if no product of the encoder can do with one position.
    """
    found = find_once(_FOUND, model, (), lambda: _search_or_refuse(model))
    if isinstance(found, UnsupportedModelError):
        raise UnsupportedModelError(found.message, found.advice)
    return found


_FOUND: Store[Target | UnsupportedModelError] = WeakKeyDictionary()


def _search_or_refuse(model: Model) -> Target | UnsupportedModelError:
    """Return the error instead of raising it, so that the search is not made again to refuse once more."""
    try:
        return _search(split_head(model))
    except UnsupportedModelError as error:
        return error


def _search(parts: Parts) -> Target:
    """Return the target with the most products at one position. Raises UnsupportedModelError if there is none."""
    demand = _find_best(parts)
    packed = find_parts(demand)
    if not packed:
        return Target(parts.encoder, demand)
    given = parts.encoder.proto
    work = Editor(given)
    unpack(work, demand.layout, packed)
    work.remove_unread()
    encoder = replace(parts.encoder, document=to_document(parts.encoder, given, work.finish()), loaded=None)
    return Target(encoder, _find_best(replace(parts, encoder=encoder)))


def _find_best(parts: Parts) -> Demand:
    """Return the demand that narrows the most products of the encoder. Raises UnsupportedModelError if there is none."""
    graph = Graph.of(parts.join_first())
    layout = Layout(graph)
    own = {value.name for node in Graph.of(parts.encoder).nodes for value in node.outputs}
    ends = [value.name for value in parts.encoder.interface.outputs]
    readable = _list_readable(parts.encoder, graph, layout)
    groups: dict[tuple[Position, Dim], list[Taking]] = {}
    takings = find_takings(graph, layout)
    for taking in takings:
        size = (layout.dims(taking.value) or ())[taking.axis]
        if size is not None and (size[0] == size[1] or size in readable):
            groups.setdefault((taking.position, size), []).append(taking)
    demands = [find_demand(graph, layout, one, readable, ends) for one in groups.values()]
    demands = [one for one in demands if _is_known(parts.encoder, one)]
    best = max(demands, key=lambda one: _count_products(one, own), default=None)
    if best is not None and _count_products(best, own):
        _require_opset(graph, best)
        return best
    raise UnsupportedModelError(_explain(graph, layout, takings, readable), ADVICE)


def _require_opset(graph: Graph, demand: Demand) -> None:
    if demand.position.number is None and graph.opset < FIRST_OPSET_OF_ROWS:
        raise UnsupportedModelError(
            f"the head takes another position in each text, and opset {graph.opset} cannot take it before the head",
            f"export the encoder with opset {FIRST_OPSET_OF_ROWS} or newer, or leave the rewrite pooled-token out",
        )


def _list_readable(encoder: Model, graph: Graph, layout: Layout) -> set[Dim]:
    """Return the dims of the encoder's inputs."""
    values = [graph.value(one.name) for one in encoder.interface.inputs]
    found = [layout.dims(value) for value in values if value is not None and graph.is_fed(value)]
    return {dim for dims in found for dim in dims or () if dim is not None}


def _is_known(encoder: Model, demand: Demand) -> bool:
    """Return whether the encoder can compute the position: from its inputs, from shapes, and from values that stay whole."""
    if demand.position.index is None:
        return True
    given, graph = {one.name for one in encoder.interface.inputs}, demand.graph
    shapes = [value for value in graph.ancestors([demand.position.index]) if is_shape(value)]
    shaped = [node.inputs[0] for value in shapes if (node := value.producer()) is not None]
    if not all(demand.can_read(demand.layout.dims(value) or (None,)) for value in shaped):
        return False
    sources = graph.ancestors([demand.position.index], until=shapes)
    return all(value.name in given if graph.is_fed(value) else not demand.is_narrow(value) for value in sources)


def _count_products(demand: Demand, names: Iterable[str | None]) -> int:
    """Count the products with weights that are computed at one position. ``names`` are the encoder's values."""
    own = set(names)
    products = (node for node in demand.axes if get_operator(node) in COUNTERS and node.outputs[0].name in own)
    return sum(any(_is_fixed(demand.layout.dims(value)) for value in node.inputs) for node in products)


def _is_fixed(dims: Dims | None) -> bool:
    """Return whether ``dims`` are those of weights: numbers, whatever the batch and the tokens are."""
    return bool(dims) and all(dim is not None and dim[0] == dim[1] for dim in dims or ())


def _explain(graph: Graph, layout: Layout, takings: list[Taking], readable: Collection[Dim]) -> str:
    """Return why the encoder has to be computed at every position."""
    taken = []
    for one in takings:
        dims = layout.dims(one.value) or ()
        if len(dims) == 3 and dims[0] == BATCH and (dims[one.axis] == TOKENS or TOKENS not in readable):
            taken.append(one)
    if not taken:
        return f"no output takes one token of each text: {_list_names(graph.main.outputs)} needs every token"
    value = taken[-1].value
    positions = {one.position for one in taken if one.value is value}
    if len(positions) > 1:
        return f"the head takes {len(positions)} different tokens of each text from {value.name}"
    readers = _list_whole_readers(graph, value, {one.node for one in taken})
    if readers:
        return (
            f"the head takes one token of each text from {value.name}, but the output {_list_names(readers)} needs every token"
        )
    return (
        f"the head takes one token of each text from {value.name}, but no product of matrices before it can do with one token"
    )


def _list_names(values: Iterable[ir.Value]) -> str:
    return ", ".join(sorted(value.name or "" for value in values))


def _list_whole_readers(graph: Graph, value: ir.Value, takings: set[ir.Node]) -> list[ir.Value]:
    """Return the outputs of the graph that are computed from ``value`` without ``takings``."""
    todo, seen = [value], set[ir.Value]()
    while todo:
        current = todo.pop()
        if current in seen:
            continue
        seen.add(current)
        readers = (node for node in graph.all_consumers(current) if node not in takings and get_operator(node) != "Shape")
        todo += (one for node in readers for one in node.outputs)
    return [one for one in graph.main.outputs if one in seen]
