"""The conversion itself: every float32 value of a graph in the types that its readers want, under a name for each."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import cached_property

import onnx
import onnx_ir as ir
from onnx import numpy_helper

from graphsurgery.graph.attributes import graphs_of, tensor_proto
from graphsurgery.graph.editor import Editor
from graphsurgery.graph.element_types import FLOAT, TYPE_ATTRIBUTES, ElementTypes, key_of
from graphsurgery.graph.operators import MEASURING, operator
from graphsurgery.model.dtypes import NAMES
from graphsurgery.rewrites.half.mask_constants import Masks
from graphsurgery.rewrites.half.values import Array, held, tamed, tensor

MASK_FILL = "mask_filter_value"
"""com.microsoft's attribute for what is added to masked scores."""


class Conversion:
    """What a conversion makes of each value of a graph, which it leaves as it is.

    ``kept``: the nodes that stay float32, by `key_of`. ``outside``: the type that float32 inputs and outputs get.
    """

    def __init__(self, types: ElementTypes, kind: int, kept: Collection[str], outside: int = FLOAT) -> None:
        self.types, self.graph, self.kind, self.outside = types, types.graph, kind, outside
        self._changes = {node: frozenset() if key_of(node) in kept else types.changes(node, kind) for node in types.graph.nodes}
        self.constants = {value for value, one in types.graph.constants.items() if one.data_type == FLOAT}

    @property
    def rounded(self) -> list[str]:
        """The values, constants left out, that are rounded: made in the half type, or cast to it for who reads them."""
        return [value.name or "" for value in self.made if self.kind in self.wanted[value]]

    def read_types(self, node: ir.Node) -> list[int]:
        """The type that each input of ``node`` has to be, where it is float32 in the source; of a shape any will do."""
        if operator(node) in MEASURING:
            return [self.kind if value is None else self.made.get(value, self.kind) for value in node.inputs]
        known = self.types.operator(node)
        return self._slots(node, node.inputs, known.inputs if known is not None else ())

    def given_types(self, node: ir.Node) -> list[int]:
        """The type that each output of ``node`` is made in, where it is float32 in the source."""
        known = self.types.operator(node)
        return self._slots(node, node.outputs, known.outputs if known is not None else ())

    def _slots(self, node: ir.Node, values: Sequence[ir.Value | None], formals: tuple[str, ...]) -> list[int]:
        known, changes = self.types.operator(node), self._changes[node]
        if known is None or not changes:
            return [FLOAT] * len(values)
        return [self.kind if variable in changes else FLOAT for _, variable in known.variables(values, formals)]

    @cached_property
    def made(self) -> dict[ir.Value, int]:
        """The type in which each float32 value that is no constant is made."""
        sparse = (self.graph.value(one.values.name) for one in self.graph.source.graph.sparse_initializer)
        found: dict[ir.Value, int] = dict.fromkeys(self.types.floats(sparse), FLOAT)
        found |= {
            value: FLOAT if self.graph.tensor(value) is not None else self.outside
            for value in self.types.floats(self.graph.main.inputs)
        }
        for node in self.graph.nodes:
            given = zip(node.outputs, self.given_types(node), strict=True)
            found |= {value: kind for value, kind in given if self.types[value] == FLOAT and value not in self.constants}
        return found

    @cached_property
    def wanted(self) -> dict[ir.Value, set[int]]:
        """The types in which each float32 value is read or made; constants are made in those in which they are read."""
        found = {value: {kind} for value, kind in self.made.items()}
        for value, kind in self._readings():
            if self.types[value] == FLOAT:
                found.setdefault(value, set()).add(kind)
        return found

    def _readings(self) -> Iterator[tuple[ir.Value, int]]:
        yield from ((value, self.outside) for value in self.graph.main.outputs)
        for node in self.graph.nodes:
            yield from ((value, FLOAT) for value in self.graph.captured(node))
            pairs = zip(node.inputs, self.read_types(node), strict=True)
            yield from ((value, kind) for value, kind in pairs if value is not None)


def convert(editor: Editor, plan: Conversion, mask: float) -> set[str]:
    """Convert the graph of ``editor``, which ``plan`` was made of, and return the names of the values in the half type.

    ``mask``: what stand-ins for minus infinity become.
    """
    return _Converter(editor, plan, mask).convert()


class _Converter:
    """Carries a `Conversion` out."""

    def __init__(self, editor: Editor, plan: Conversion, mask: float) -> None:
        self._editor, self._plan, self._mask = editor, plan, mask
        self._masks = Masks(plan.types)
        self._versions: dict[tuple[ir.Value, int], ir.Value] = {}

    def convert(self) -> set[str]:
        plan, nodes = self._plan, list(self._editor.nodes)
        reads = {node: plan.read_types(node) for node in nodes}
        gives = {node: plan.given_types(node) for node in nodes}
        wanted = dict(plan.wanted)
        for constant in (*self._editor.main.initializers.values(), *(one for node in nodes for one in node.outputs)):
            if constant in plan.constants:
                self._store(constant, wanted.get(constant, {FLOAT}))
        for made, kind in plan.made.items():
            self._versions[made, kind] = made
            self._cast(made, kind, wanted[made])
        for node in nodes:
            for graph in graphs_of(node):
                self._enter(graph)
            self._set_attributes(node, gives[node])
            self._read(node, reads[node])
        self._name_outputs()
        return {value.name or "" for (_, kind), value in self._versions.items() if kind == plan.kind}

    def _store(self, value: ir.Value, kinds: set[int]) -> None:
        """Store a constant in each type in which it is read."""
        source = self._editor.tensor(value)
        if source is None:
            return
        numbers, node = numpy_helper.to_array(source), value.producer()
        own = self._plan.outside if value.is_graph_output() else min(kinds)
        for kind in sorted(kinds):
            calmed = self._masks.stored(value, numbers, kind, self._plan.kind, self._mask)
            if kind == own:
                if kind != FLOAT or calmed is not numbers:
                    self._editor.restore(value, tensor(calmed, kind, value.name or ""))
                self._versions[value, kind] = value
            else:
                name = self._editor.namer.new(f"{value.name}/{NAMES[kind].lower()}")
                self._versions[value, kind] = self._editor.store(tensor(calmed, kind, name), node)

    def _cast(self, value: ir.Value, made: int, kinds: set[int]) -> None:
        """Put a Cast behind ``value`` for each type that is wanted and that it is not made in."""
        place = value.producer()
        for kind in sorted(kinds - {made}):
            swapped = value.is_graph_output() and kind == self._plan.outside  # see `_name_outputs`
            name = self._editor.namer.new(f"{value.name}/{NAMES[made if swapped else kind].lower()}")
            called = self._editor.namer.new(f"{value.name}/to_{NAMES[kind].lower()}")
            node = self._editor.make_node("Cast", [value], [name], {"to": kind}, called)
            self._editor.insert(place, [node])
            place = node
            self._versions[value, kind] = node.outputs[0]

    def _set_attributes(self, node: ir.Node, gives: list[int]) -> None:
        """Set the attributes that say a type or hold a tensor."""
        kind = self._plan.kind if self._plan.kind in gives else FLOAT
        numbers = held(node) if operator(node) == "ConstantOfShape" else None
        if numbers is not None:
            calmed = self._masks.stored(node.outputs[0], numbers, kind, self._plan.kind, self._mask)
            _set_tensor(node, tensor(calmed, kind, ""))
        elif kind != FLOAT and operator(node) in TYPE_ATTRIBUTES:
            name = TYPE_ATTRIBUTES[operator(node)]
            node.attributes[name] = ir.AttrInt64(name, kind)
        if MASK_FILL in node.attributes:
            node.attributes[MASK_FILL] = ir.AttrFloat32(MASK_FILL, max(node.attributes[MASK_FILL].as_float(), self._mask))

    def _enter(self, graph: ir.Graph) -> None:
        """Convert a graph within a node: it reads the outer values in float32, and its stand-ins for infinity are tamed."""
        for value in graph.initializers.values():
            self._tame_initializer(value)
        for value in graph.outputs:
            outer = self._editor.value(value.name or "") if value.producer() is None and value not in graph.inputs else None
            if outer is not None and (outer, FLOAT) in self._versions:
                value.name = self._versions[outer, FLOAT].name
        for node in graph:
            self._read(node, [FLOAT] * len(node.inputs))
            numbers = held(node)
            calmed = None if numbers is None else self._tame(numbers)
            if calmed is not None:
                _set_tensor(node, tensor(calmed, FLOAT, ""))
            for inner in graphs_of(node):
                self._enter(inner)

    def _read(self, node: ir.Node, kinds: Sequence[int]) -> None:
        """Let a node read its inputs in these types."""
        for place, (value, kind) in enumerate(zip(node.inputs, kinds, strict=True)):
            if value is not None and (value, kind) in self._versions:
                node.replace_input_with(place, self._versions[value, kind])

    def _tame_initializer(self, value: ir.Value) -> None:
        source = None if value.const_value is None else tensor_proto(value.const_value)
        if source is not None and source.data_type == FLOAT:
            calmed = self._tame(numpy_helper.to_array(source))
            if calmed is not None:
                value.const_value = ir.serde.deserialize_tensor(tensor(calmed, FLOAT, value.name or ""))

    def _tame(self, numbers: Array) -> Array | None:
        """Return the numbers of a constant within a node as they are to be stored; None where they stay as they are."""
        calmed = tamed(numbers, self._plan.kind, self._mask, numbers=False)
        return None if calmed is numbers else calmed

    def _name_outputs(self) -> None:
        """Let the graph's outputs be of the type that is wanted outside, under the names they had."""
        for value in list(dict.fromkeys(self._editor.main.outputs)):
            other = self._versions.get((value, self._plan.outside))
            if other is not None and other is not value:
                self._editor.swap_output(value, other)


def _set_tensor(node: ir.Node, held_tensor: onnx.TensorProto) -> None:
    for name in [name for name in node.attributes if name.startswith("value")]:
        del node.attributes[name]
    node.attributes["value"] = ir.AttrTensor("value", ir.serde.deserialize_tensor(held_tensor))
