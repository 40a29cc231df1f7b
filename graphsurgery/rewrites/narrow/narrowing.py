"""Change an encoder so that it computes one position of each value of which no other position is read.

The nodes keep their operators. The axis along which one position is computed keeps its place, and its size becomes one. If a
value is computed whole and one position of it is read, that position is taken from it. If a reader takes the position itself,
as heads do, the one position is repeated along the axis, so that the reader gets it whichever position it takes.
"""

from __future__ import annotations

from graphsurgery.deferred import ir
from graphsurgery.graph.attributes import get_input, get_ints
from graphsurgery.graph.editor import Editor
from graphsurgery.graph.operators import ALIGNING, VENDOR, get_operator
from graphsurgery.graph.sizes import Dim, Dims
from graphsurgery.rewrites.narrow.building import Builder
from graphsurgery.rewrites.narrow.demand import Demand, plan_shape, shrink

ATTENTION, QUERIES_KEYS_VALUES = f"{VENDOR}.Attention", "MultiHeadAttention"
OWN_ATTRIBUTES = ("qkv_hidden_sizes", "unidirectional", "do_rotary", "rotary_embedding_dim", "past_present_share_buffer")
"""Attributes of an attention that computes queries, keys and values itself. An attention that gets them as inputs has no such
attributes."""


class Narrowing:
    """Applies a demand to an encoder. The demand is of the encoder with its head."""

    def __init__(self, work: Editor, demand: Demand) -> None:
        self._work, self._demand = work, demand
        self._build = Builder(work, demand.graph, demand.layout, demand.position)
        own = ((work.value(_get_name(node) or ""), node) for node in demand.axes)
        pairs = ((value.producer(), node) for value, node in own if value is not None)
        self._narrow: dict[ir.Node, ir.Node] = {node: old for node, old in pairs if node is not None}
        """The encoder's nodes that compute one position, and the same nodes in the graph of the demand."""

    def run(self) -> None:
        """Change the graph. Nodes that are not needed may be left without readers."""
        for node in list(self._work.nodes):
            if get_operator(node) == "Shape":
                self._state_shape(node)
        for node, old in self._narrow.items():
            self._narrow_node(node, old)
        for node, old in self._narrow.items():
            for value, was in zip(node.outputs, old.outputs, strict=True):
                if value.name and was in self._demand.needs:
                    self._give_back(value, was)
        self._work.main.extend(self._work.sort_nodes(self._work.main))

    def _dims(self, value: ir.Value | None) -> Dims:
        return self._demand.layout.dims(value) or ()

    def _narrow_node(self, node: ir.Node, old: ir.Node) -> None:
        """Let ``node``, which is ``old`` in the graph of the demand, read one position of its inputs and compute one."""
        axes, out = self._demand.axes[old], self._dims(old.outputs[0])
        for index, axis in axes.items():
            value = node.inputs[index]
            if value is not None and value.producer() not in self._narrow:
                dims = self._dims(old.inputs[index])
                rank = max(len(dims), len(out)) if get_operator(node) in ALIGNING else len(dims)
                node.replace_input_with(index, self._build.take(value, dims, axis, rank))
        axis = self._demand.find_axis(old)
        if get_operator(node) == "Reshape":
            given = shrink(self._dims(old.inputs[0]), axes[0], self._demand.size)
            node.replace_input_with(1, self._add_target(plan_shape(given, shrink(out, axis, self._demand.size)) or []))
            node.attributes.pop("allowzero", None)
        elif get_operator(node) == "Expand":
            node.replace_input_with(1, self._add_target(list(shrink(out, axis, self._demand.size))))
        elif get_operator(node) == ATTENTION:
            self._split_attention(node, old)

    def _add_target(self, plan: list[Dim | None] | list[int]) -> ir.Value:
        if all(isinstance(size, int) for size in plan):
            return self._build.add_integers(size for size in plan if isinstance(size, int))
        return self._build.add_shape(size for size in plan if isinstance(size, tuple))

    def _split_attention(self, node: ir.Node, old: ir.Node) -> None:
        """Let an attention that makes queries, keys and values of one input be given them: ``x W = [q, k, v]``.

        Runtimes slice constant weights once, when they load the model.
        """
        given, weights = node.inputs[0], node.inputs[1]
        width = self._dims(old.inputs[1])[1]
        sizes = get_ints(node, "qkv_hidden_sizes") or [(width or (0,))[0] // 3] * 3
        if given is None:
            return
        one = self._build.take(given, self._dims(old.inputs[0]), 1, 3)
        parts, start = [], 0
        for what, value, size in zip(("queries", "keys", "values"), (one, given, given), sizes, strict=True):
            bounds = [self._build.add_integers([number]) for number in (start, start + size, 1)]
            part = self._build.add("Slice", [weights, *bounds], f"{what}_weights")
            parts.append(self._build.add("MatMul", [value, part], what))
            start += size
        self._work.set_inputs(node, [*parts, get_input(node, 2), get_input(node, 3), get_input(node, 5)])
        node.op_type = QUERIES_KEYS_VALUES
        for name in OWN_ATTRIBUTES:
            node.attributes.pop(name, None)

    def _state_shape(self, node: ir.Node) -> None:
        """Let what reads the shape of a value that is not computed whole read the dims themselves."""
        old = self._demand.graph.value(_get_name(node) or "")
        reader = None if old is None else old.producer()
        if reader is None or not reader.inputs or self._demand.is_whole(reader.inputs[0]):
            return
        self._work.replace_uses(node.outputs[0], self._build.add_shape_of(reader))

    def _give_back(self, value: ir.Value, was: ir.Value) -> None:
        """Repeat the one position of ``value`` for those of its readers that take it by themselves, and rename it."""
        axis, name = self._demand.needs[was], value.name or ""
        readers = [(node, index) for node, index in value.uses() if node not in self._narrow]
        if readers or value.is_graph_output():
            repeated = self._build.repeat(value, axis, len(self._dims(was)), self._demand.size)
            for node, index in readers:
                node.replace_input_with(index, repeated)
            if value.is_graph_output():
                self._work.rename(repeated, self._work.namer.new(f"{name}/one"))
                self._work.swap_output(value, repeated)
                return
        if name not in self._work.pinned:
            self._work.rename(value, self._work.namer.new(f"{name}/one"))


def _get_name(node: ir.Node) -> str | None:
    return next((value.name for value in node.outputs if value.name), None)
