"""Find what has to be computed at one position only: one sweep over the nodes, from the outputs back.

Every output of the graph is needed whole. An operator that takes one position of a value needs only that position. If one
position of a node's outputs is needed, the rule of its operator says which position of its inputs is needed. Without such a
rule, its inputs are needed whole. A value that is needed both ways is computed whole, and the position is taken from it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from graphsurgery.deferred import ir
from graphsurgery.graph.attributes import list_subgraphs
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import ALIGNING, get_operator
from graphsurgery.graph.sizes import BATCH, Dim, Dims, Layout
from graphsurgery.rewrites.narrow.positions import ONE, Position, Taking
from graphsurgery.rewrites.narrow.rules import Axes, Step, find_axes

WHOLE = -1
"""The need of a value that is needed whole. The need of any other value is the axis along which one position is needed."""


@dataclass
class Demand:
    """Which values of a graph its outputs need, and which of them at one position only."""

    graph: Graph
    layout: Layout
    position: Position
    size: Dim
    """The size of the axis at which the position is."""
    readable: Collection[Dim]
    """The dims that the encoder can read from its inputs."""
    ends: Collection[str]
    """The names of the encoder's outputs."""
    needs: dict[ir.Value, int] = field(default_factory=dict)
    axes: dict[ir.Node, Axes] = field(default_factory=dict)
    """The nodes that compute one position alone, and the axes along which they need one position of their inputs."""

    def is_narrow(self, value: ir.Value | None) -> bool:
        """Return whether ``value`` is computed at one position alone."""
        return value is not None and value.producer() in self.axes

    def is_whole(self, value: ir.Value | None) -> bool:
        """Return whether ``value`` is computed, at all positions."""
        return value is not None and value in self.needs and not self.is_narrow(value)

    def find_axis(self, node: ir.Node) -> int:
        """Return the axis along which one position of the outputs of ``node`` is computed."""
        return next(self.needs[value] for value in node.outputs if value in self.needs)

    def can_read(self, dims: Sequence[Dim | None]) -> bool:
        """Return whether all of ``dims`` are numbers, or can be read from the encoder's inputs."""
        return all(dim is not None and (dim[0] == dim[1] or dim in self.readable) for dim in dims)


def find_demand(
    graph: Graph, layout: Layout, takings: Sequence[Taking], readable: Collection[Dim], ends: Collection[str]
) -> Demand:
    """Return what the outputs of ``graph`` need if ``takings`` need no more than one position each, which all of them share."""
    first = takings[0]
    size = (layout.dims(first.value) or ())[first.axis] or ONE
    taken = {one.node: one for one in takings}
    blocked: set[ir.Node] = set()
    while True:
        demand = Demand(graph, layout, first.position, size, readable, ends)
        _sweep(demand, taken, blocked)
        wrong = {node for node in demand.axes if not (_can_take(demand, node) and _can_shape(demand, node))}
        if not wrong:
            return demand
        blocked |= wrong


def shrink(dims: Dims, axis: int, size: Dim) -> Dims:
    """Return ``dims`` with one position in place of ``size`` in the dim ``axis``, which may be joined with others before it."""
    own = dims[axis]
    left = None if own is None else (own[0] // size[0], own[1] // size[1])
    return (*dims[:axis], left, *dims[axis + 1 :])


def plan_shape(given: Dims, wanted: Dims) -> list[int] | None:
    """Return ``wanted`` as Reshape takes it: numbers, 0 for a dim that is that of ``given`` at the same place, and one -1."""
    plan = []
    for place, dim in enumerate(wanted):
        if dim is not None and dim[0] == dim[1]:
            plan.append(dim[0])
        else:
            plan.append(0 if dim is not None and place < len(given) and given[place] == dim else -1)
    return plan if plan.count(-1) <= 1 else None


def _sweep(demand: Demand, taken: dict[ir.Node, Taking], blocked: set[ir.Node]) -> None:
    """Fill ``demand``. The nodes ``blocked`` are computed whole."""
    graph, needs = demand.graph, demand.needs
    for value in graph.main.outputs:
        needs[value] = WHOLE
    for node in reversed(list(graph.nodes)):
        own = {value: needs[value] for value in node.outputs if value in needs}
        if not own or (get_operator(node) == "Shape" and _can_state(demand, node)):
            continue
        axes = {0: taken[node].axis} if node in taken else None
        if axes is None and node not in blocked:
            axes = _find_axes(demand, node, set(own.values()))
            demand.axes |= {} if axes is None else {node: axes}
        if axes is None:
            needs |= dict.fromkeys(own, WHOLE)
        for index, given in enumerate(node.inputs):
            _need(needs, given, (axes or {}).get(index, WHOLE))
        for one in graph.implicit_inputs(node):
            _need(needs, one, WHOLE)


def _need(needs: dict[ir.Value, int], value: ir.Value | None, need: int) -> None:
    if value is not None:
        needs[value] = need if needs.get(value, need) == need else WHOLE


def _find_axes(demand: Demand, node: ir.Node, needs: set[int]) -> Axes | None:
    """Return the axes of a node's inputs if one position of all its outputs is enough."""
    if len(needs) != 1 or WHOLE in needs or list_subgraphs(node) or demand.graph.has_function(node):
        return None
    out, axis = demand.layout.dims(node.outputs[0]), next(iter(needs))
    if out is None or axis >= len(out) or (demand.position.number is None and not is_batched(out)):
        return None
    return find_axes(Step(node, demand.layout, demand.graph.opset, out, demand.size), axis)


def is_batched(dims: Dims) -> bool:
    """Return whether the number of elements grows with the batch."""
    return any(
        dim is None or (dim[0] != dim[1] and all(one % b == 0 for one, b in zip(dim, BATCH, strict=True))) for dim in dims
    )


def _can_state(demand: Demand, node: ir.Node) -> bool:
    """Return whether the shape that a node reads can be had without the value."""
    dims = demand.layout.dims(node.inputs[0])
    return dims is not None and demand.can_read(dims) and not node.outputs[0].is_graph_output()


def _can_shape(demand: Demand, node: ir.Node) -> bool:
    """Return whether the new shape of a node, and the old shape for the head, can be stated."""
    out, axis = demand.layout.dims(node.outputs[0]) or (), demand.find_axis(node)
    new = shrink(out, axis, demand.size)
    if get_operator(node) == "Reshape":
        given = shrink(demand.layout.dims(node.inputs[0]) or (), demand.axes[node][0], demand.size)
        if plan_shape(given, new) is None:
            return False
    if get_operator(node) == "Expand" and not demand.can_read(new):
        return False
    at_end = any(value.name in demand.ends for value in node.outputs)
    return not at_end or (out[axis] == demand.size and demand.can_read([demand.size]))


def _can_take(demand: Demand, node: ir.Node) -> bool:
    """Return whether the position can be taken from each input that is computed whole."""
    out = demand.layout.dims(node.outputs[0]) or ()
    for index, axis in demand.axes[node].items():
        value = node.inputs[index]
        dims = demand.layout.dims(value)
        if demand.is_narrow(value):
            continue
        if dims is None or dims[axis] != demand.size:
            return False
        if demand.position.number is not None:
            continue
        if BATCH in dims:
            if dims.index(BATCH) == axis:
                return False
        elif is_batched(dims) or out[:1] != (BATCH,) or not _has_room(node, dims, len(out)):
            return False
    return True


def _has_room(node: ir.Node, dims: Dims, rank: int) -> bool:
    """Return whether an input without a batch can get one where that of the output is."""
    return dims[0] == ONE if len(dims) >= rank else get_operator(node) in ALIGNING
