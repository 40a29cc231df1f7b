"""The conversion itself: every float32 value of a graph in the types that are wanted of it, under a name for each."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain

import onnx
from onnx import helper, numpy_helper

from graphsurgery.contracts import present
from graphsurgery.graph.element_types import FLOAT, TYPE_ATTRIBUTES, Typed, captured, key_of
from graphsurgery.model.dtypes import NAMES
from graphsurgery.model.namer import Namer
from graphsurgery.model.nodes import subgraphs
from graphsurgery.rewrites.half.block_list import SHAPES, constants
from graphsurgery.rewrites.half.mask_constants import Masks
from graphsurgery.rewrites.half.values import Array, held, tamed, tensor

MASK_FILL = "mask_filter_value"
"""com.microsoft's attribute for what is added to masked scores."""


class Conversion:
    """One conversion of a graph.

    ``kept``: the nodes that stay float32, by `key_of`. ``mask``: what stand-ins for minus infinity become. ``outside``: the
    type that float32 inputs and outputs get.
    """

    def __init__(self, typed: Typed, kind: int, kept: Collection[str], namer: Namer, mask: float, outside: int = FLOAT) -> None:
        self._typed, self._kind, self._namer, self._mask = typed, kind, namer, mask
        self._masks, self._outside = Masks(typed), outside
        self._changes = {
            key_of(node): frozenset() if key_of(node) in kept else typed.changes(node, kind) for node in typed.graph.node
        }
        self._constants = {name for name, _ in constants(typed.graph)}
        self._names: dict[tuple[str, int], str] = {}
        wanted = self._wanted
        for name, kinds in wanted.items():
            self._give_names(name, kinds)

    def write(self, new: onnx.GraphProto) -> None:
        """Write the converted graph into an empty one, without its initializers."""
        source = self._typed.graph
        new.name, new.doc_string = source.name, source.doc_string
        for field in ("input", "output", "sparse_initializer", "quantization_annotation", "metadata_props"):
            getattr(new, field).extend(getattr(source, field))
        for info in (*(one for one in new.input if one.name not in self._defaults), *new.output):
            if info.type.tensor_type.elem_type == FLOAT:
                info.type.tensor_type.elem_type = self._outside
        new.node.extend(self._casts(source.input))
        new.node.extend(self._casts(one.values for one in source.sparse_initializer))
        for node in source.node:
            new.node.extend(self._converted(node))
        new.value_info.extend(self._value_infos())

    def initializers(self) -> Iterator[onnx.TensorProto]:
        """The converted graph's initializers; the source's own tensors where they stay as they are."""
        for one in self._typed.graph.initializer:
            if one.name not in self._constants or one.name not in self._wanted:
                yield one
                continue
            values = numpy_helper.to_array(one)
            for kind in sorted(self._wanted[one.name]):
                yield self._stored(values, kind, one.name, self._names[one.name, kind], one)

    @property
    def rounded(self) -> list[str]:
        """The values, constants left out, that are rounded: made in the half type, or cast to it for who takes them."""
        return [name for name in self._produced if self._kind in self._wanted[name]]

    def _takes(self, node: onnx.NodeProto) -> list[int]:
        """The type that each input of ``node`` has to be, where it is float32 in the source; for a shape any will do."""
        if node.op_type in SHAPES:
            return [self._produced.get(name, self._kind) for name in node.input]
        operator = self._typed.operator(node)
        return self._slots(node, node.input, operator.inputs if operator is not None else ())

    def _gives(self, node: onnx.NodeProto) -> list[int]:
        operator = self._typed.operator(node)
        return self._slots(node, node.output, operator.outputs if operator is not None else ())

    def _slots(self, node: onnx.NodeProto, names: Sequence[str], formals: tuple[str, ...]) -> list[int]:
        operator, changes = self._typed.operator(node), self._changes[key_of(node)]
        if operator is None or not changes:
            return [FLOAT] * len(names)
        return [self._kind if variable in changes else FLOAT for _, variable in operator.variables(names, formals)]

    @cached_property
    def _produced(self) -> dict[str, int]:
        """The type in which each float32 value that is no constant is made."""
        made: dict[str, int] = {}
        for node in self._typed.graph.node:
            given = zip(node.output, self._gives(node), strict=True)
            made |= {name: kind for name, kind in given if self._typed.types.get(name) == FLOAT and name not in self._constants}
        graph = self._typed.graph
        begin = dict.fromkeys((one.values.name for one in graph.sparse_initializer), FLOAT)
        begin |= {one.name: FLOAT if one.name in self._defaults else self._outside for one in graph.input}
        return {name: begin[name] for name in self._typed.floats(begin)} | made

    @cached_property
    def _defaults(self) -> set[str]:
        """Inputs that have a default, whose type is that of their initializer."""
        return {one.name for one in self._typed.graph.input} & {one.name for one in self._typed.graph.initializer}

    @cached_property
    def _wanted(self) -> dict[str, set[int]]:
        """The types in which each float32 value is taken or made; constants are made in those in which they are taken."""
        wanted = {name: {kind} for name, kind in self._produced.items()}
        outputs = ((value.name, self._outside) for value in self._typed.graph.output)
        inside = ((name, FLOAT) for node in self._typed.graph.node for name in captured(node))
        taken = (pair for node in self._typed.graph.node for pair in zip(node.input, self._takes(node), strict=True))
        for name, kind in chain(outputs, inside, taken):
            if self._typed.types.get(name) == FLOAT:
                wanted.setdefault(name, set()).add(kind)
        return wanted

    def _give_names(self, name: str, kinds: set[int]) -> None:
        """The source's name stays with an output, a constant in float32, and else with what makes the value."""
        is_output = any(value.name == name for value in self._typed.graph.output)
        own = self._outside if is_output else self._produced.get(name, min(kinds))
        for kind in kinds:
            self._names[name, kind] = name if kind == own else self._namer.new(f"{name}/{NAMES[kind].lower()}")

    def _stored(
        self, values: Array, kind: int, of: str, name: str = "", source: onnx.TensorProto | None = None
    ) -> onnx.TensorProto:
        """``values``, the source's constant ``of``, as a tensor; the source's own bytes where they stay."""
        calmed = self._masks.stored(of, values, kind, self._kind, self._mask)
        if kind == FLOAT and calmed is values and source is not None and source.name == name:
            return source
        return tensor(calmed, kind, name)

    def _converted(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        """The node in the types it got, and the Casts behind it."""
        if node.op_type == "Constant" and node.output and node.output[0] in self._constants:
            yield from self._constant(node)
            return
        new = onnx.NodeProto()
        new.CopyFrom(node)
        new.input[:] = [self._names.get(pair, pair[0]) for pair in zip(node.input, self._takes(node), strict=True)]
        new.output[:] = [self._names.get(pair, pair[0]) for pair in zip(node.output, self._gives(node), strict=True)]
        self._set_attributes(new, node)
        for graph in subgraphs(new):
            self._enter(graph)
        yield new
        yield from self._casts(helper.make_tensor_value_info(name, FLOAT, None) for name in node.output)

    def _constant(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        name = node.output[0]
        values = present(held(node), f"the numbers of {name}")
        for number, kind in enumerate(sorted(self._wanted.get(name, {FLOAT}))):
            new = onnx.NodeProto()
            new.CopyFrom(node)
            new.name = self._namer.new(node.name) if number and node.name else node.name
            new.output[0] = self._names.get((name, kind), name)
            del new.attribute[:]
            new.attribute.append(helper.make_attribute("value", self._stored(values, kind, name)))
            yield new

    def _set_attributes(self, new: onnx.NodeProto, node: onnx.NodeProto) -> None:
        """The attributes that say a type or hold a tensor."""
        gives = self._kind if self._kind in self._gives(node) else FLOAT
        values = held(node)
        if values is not None:
            _set(new, helper.make_attribute("value", self._stored(values, gives, node.output[0])))
        elif gives != FLOAT and node.op_type in TYPE_ATTRIBUTES:
            _set(new, helper.make_attribute(TYPE_ATTRIBUTES[node.op_type], gives))
        for one in new.attribute:
            if one.name == MASK_FILL:
                one.f = max(one.f, self._mask)

    def _enter(self, graph: onnx.GraphProto) -> None:
        """A graph within a node: it takes the outer float32 values under their float32 names; its stand-ins for infinity are
        tamed."""
        for one in graph.initializer:
            if one.data_type == FLOAT:
                one.CopyFrom(self._inner(numpy_helper.to_array(one), one))
        for value in graph.output:
            value.name = self._names.get((value.name, FLOAT), value.name)
        for node in graph.node:
            node.input[:] = [self._names.get((name, FLOAT), name) for name in node.input]
            values = held(node)
            if values is not None:
                _set(node, helper.make_attribute("value", self._inner(values)))
            for inner in subgraphs(node):
                self._enter(inner)

    def _inner(self, values: Array, source: onnx.TensorProto | None = None) -> onnx.TensorProto:
        """A constant of a graph within a node: ``source`` itself where it stays as it is."""
        calmed = tamed(values, self._kind, self._mask, numbers=False)
        if source is not None and calmed is values:
            return source
        return tensor(calmed, FLOAT, source.name if source is not None else "")

    def _casts(self, values: Iterable[onnx.ValueInfoProto | onnx.TensorProto]) -> Iterator[onnx.NodeProto]:
        """A Cast for each of the values (anything with a name) that is wanted in the type that it is not made in."""
        for name in (value.name for value in values):
            for kind in sorted(self._wanted.get(name, set()) - {self._produced.get(name, -1)}):
                target = self._names[name, kind]
                called = self._namer.new(f"{name}/to_{NAMES[kind].lower()}")
                yield helper.make_node("Cast", [self._names[name, self._produced[name]]], [target], called, to=kind)

    def _value_infos(self) -> Iterator[onnx.ValueInfoProto]:
        """What the source says of inner values, under the names and types that they have now."""
        for info in self._typed.graph.value_info:
            kinds = self._wanted.get(info.name, {FLOAT}) if self._typed.types.get(info.name) == FLOAT else {-1}
            kind = self._produced.get(info.name, min(kinds))
            new = onnx.ValueInfoProto()
            new.CopyFrom(info)
            new.name = self._names.get((info.name, kind), info.name)
            if kind == self._kind:
                new.type.tensor_type.elem_type = kind
            yield new


def _set(node: onnx.NodeProto, attribute: onnx.AttributeProto) -> None:
    """Give ``node`` the attribute in place of what it has under that name."""
    rest = [one for one in node.attribute if one.name != attribute.name and not one.name.startswith("value_")]
    del node.attribute[:]
    node.attribute.extend([*rest, attribute])
