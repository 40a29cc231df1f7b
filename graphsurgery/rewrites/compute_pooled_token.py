"""The rewrite ``pooled-token``: an encoder that computes no more than the one token of each text that is pooled.

The layers before the last attention have to compute every token, because that attention reads keys and values of all of them.
From there on, the token that the head takes is enough: one query a text instead of one for each token, and so is the output
projection and the feed-forward part of the last layer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import onnx_ir as ir

from graphsurgery.compare.tolerance import FLOAT32
from graphsurgery.errors import NothingToOptimizeError, UnsupportedModelError
from graphsurgery.graph.editor import Editor
from graphsurgery.graph.flops import COUNTERS, count_flops
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import get_operator
from graphsurgery.graph.sizes import BATCH, TOKENS, Dim, Dims, Layout
from graphsurgery.graph.write_back import to_document
from graphsurgery.model.model import Model
from graphsurgery.rewrites.closed_branches import require_open_encoder
from graphsurgery.rewrites.detect_architecture import detect_architecture
from graphsurgery.rewrites.head_parts import Parts, split_head
from graphsurgery.rewrites.narrow.demand import Demand, find_demand
from graphsurgery.rewrites.narrow.narrowing import Narrowing
from graphsurgery.rewrites.narrow.positions import Position, Taking, find_takings
from graphsurgery.rewrites.rewrite import Context, Rewrite, Rewritten

RECORDED = "pooled_token"
ADVICE = (
    "leave the rewrite pooled-token out for this file: it is for heads that take one token of each text, such as cls, "
    "lasttoken or a class token, and for files without other outputs"
)
FIRST_OPSET_OF_ROWS = 12
"""The first opset in which GatherND takes one position of each row of a batch."""
COUNTED_AT = (128, 32)
"""The lengths of text at which operations are counted: the first one at which the sizes of all products are known."""


@dataclass(frozen=True)
class PooledToken(Rewrite):
    """Compute in the last layer the one token of each text that the head takes, and no other."""

    name: ClassVar[str] = "pooled-token"
    summary: ClassVar[str] = "compute no more of the last layer than the one token of each text that the head takes"
    exactness: ClassVar[str] = FLOAT32
    doing: ClassVar[str] = "finding out what the pooled token needs"

    def check(self, model: Model) -> None:
        if any(step.given.get(RECORDED) for step in model.rewrites):
            raise NothingToOptimizeError("the file computes the pooled token alone already", "use it as it is")
        require_open_encoder(model)
        _find_best(split_head(model))

    def apply(self, encoder: Model, context: Context) -> Rewritten:
        parts = split_head(context.whole) if context.whole is not None else Parts(encoder)
        given = encoder.proto
        work = Editor(given)
        Narrowing(work, _find_best(parts)).run()
        work.remove_unread()
        after = replace(encoder, document=to_document(encoder, given, work.finish()), loaded=None)
        notes = tuple(_describe_saving(encoder, after))
        return Rewritten(after, {RECORDED: True}, notes, architecture=detect_architecture(encoder))

    @classmethod
    def from_record(cls, parameters: Mapping[str, Any]) -> Self | None:
        return cls() if parameters.get(RECORDED) else None


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
        if size is not None and (size[0] == size[1] or size in readable) and _is_known(parts.encoder, graph, taking.position):
            groups.setdefault((taking.position, size), []).append(taking)
    demands = [find_demand(graph, layout, one, readable, ends) for one in groups.values()]
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


def _is_known(encoder: Model, graph: Graph, position: Position) -> bool:
    """Return whether the encoder has the inputs from which a position is computed."""
    if position.index is None:
        return True
    given = {one.name for one in encoder.interface.inputs}
    return all(not graph.is_fed(value) or value.name in given for value in graph.ancestors([position.index]))


def _count_products(demand: Demand, names: Iterable[str | None]) -> int:
    """Count the products with weights that are computed at one position. ``names`` are the encoder's values."""
    own = set(names)
    products = (node for node in demand.axes if get_operator(node) in COUNTERS and node.outputs[0].name in own)
    return sum(any(_is_fixed(demand.layout.dims(value)) for value in node.inputs) for node in products)


def _is_fixed(dims: Dims | None) -> bool:
    """Return whether ``dims`` are those of weights: numbers, whatever the batch and the tokens are."""
    return bool(dims) and all(dim is not None and dim[0] == dim[1] for dim in dims or ())


def _explain(graph: Graph, layout: Layout, takings: list[Taking], readable: Collection[Dim]) -> str:
    """Return why nothing of the encoder can be left out."""
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


def _describe_saving(before: Model, after: Model) -> Iterable[str]:
    """Yield how many operations the rewrite saves."""
    for tokens in COUNTED_AT:
        counts = [count_flops(Graph.of(one), 1, tokens) for one in (before, after)]
        if counts[0] and counts[1] is not None:
            saved = 100 * (1 - counts[1] / counts[0])
            has_tokens = any(one.rank == 2 for one in before.interface.inputs)
            where = f"for a text of {tokens} tokens" if has_tokens else "in each row of the batch"
            yield f"the matrix products take {saved:.1f} % fewer operations {where}"
            return
