"""Tools for planting faults: small changes of a ModelProto, by the ends of node names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property, reduce
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from graphsurgery import Model, load
from graphsurgery.edits.edit import Edit


class Spoilable:
    """A right output to be spoilt: ``edits`` on a ``source``."""

    source: onnx.ModelProto
    edits: Sequence[Edit]

    @cached_property
    def loaded(self) -> Model:
        """The source, loaded once for all faults."""
        return load(self.source)

    @cached_property
    def output(self) -> onnx.ModelProto:
        return reduce(lambda model, edit: edit.apply(model), self.edits, self.loaded).to_proto()

    def __str__(self) -> str:
        return ", ".join(edit.verb for edit in self.edits)


class Plant:
    """A model to be spoilt. Nodes are named by the end of their name: ``mean/sum`` is ``graphsurgery/pooling/mean/sum``."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = proto
        self.graph = proto.graph
        self._count = 0

    def node(self, end: str) -> onnx.NodeProto:
        """The node of that name; there must be exactly one, or the fault would be planted nowhere."""
        found = [node for node in self.graph.node if node.name == end or node.name.endswith(f"/{end}")]
        assert len(found) == 1, f"{end!r} names {len(found)} nodes"
        return found[0]

    def out(self, end: str) -> str:
        return self.node(end).output[0]

    def taken(self, end: str, place: int = 0) -> str:
        return self.node(end).input[place]

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """A new constant, at the start of the graph; gives its name."""
        name = self._new("constant")
        tensor = numpy_helper.from_array(np.asarray(value, dtype=dtype), name)
        self.graph.node.insert(0, helper.make_node("Constant", [], [name], name, value=tensor))
        return name

    def set(self, end: str, value: Any) -> None:
        """Another value for a Constant node, of the same type."""
        tensor = self.node(end).attribute[0].t
        dtype = numpy_helper.to_array(tensor).dtype
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(value, dtype=dtype), tensor.name))

    def attribute(self, end: str, **attributes: Any) -> None:
        """Other values for attributes of a node."""
        node = self.node(end)
        kept = [one for one in node.attribute if one.name not in attributes]
        del node.attribute[:]
        node.attribute.extend([*kept, *(helper.make_attribute(name, value) for name, value in attributes.items())])

    def become(self, end: str, op: str, *inputs: str, **attributes: Any) -> None:
        """Another operator in a node's place, on ``inputs`` (or its own) and with these attributes alone."""
        node = self.node(end)
        node.op_type = op
        if inputs:
            node.input[:] = inputs
        del node.attribute[:]
        self.attribute(end, **attributes)

    def wire(self, end: str, place: int, value: str) -> None:
        """Another value for one input of a node."""
        self.node(end).input[place] = value

    def append(self, op: str, *inputs: str, behind: str | None = None, gives: str = "", **attributes: Any) -> str:
        """A new node, behind a node or at the end; gives its output."""
        name = self._new(op)
        node = helper.make_node(op, inputs, [gives or name], name, **attributes)
        if behind is None:
            self.graph.node.append(node)
        else:
            self.graph.node.insert(list(self.graph.node).index(self.node(behind)) + 1, node)
        return node.output[0]

    def before(self, end: str, place: int, op: str, *more: str, **attributes: Any) -> None:
        """``op`` on one input of a node."""
        node = self.node(end)
        name = self._new(op)
        new = helper.make_node(op, [node.input[place], *more], [name], name, **attributes)
        index = list(self.graph.node).index(node)
        node.input[place] = name
        self.graph.node.insert(index, new)

    def after(self, end: str, op: str, *more: str, **attributes: Any) -> None:
        """``op`` on what a node gives, for all that use it."""
        node = self.node(end)
        index = list(self.graph.node).index(node) + 1
        given, node.output[0] = node.output[0], self._new("raw")
        self.graph.node.insert(index, helper.make_node(op, [node.output[0], *more], [given], self._new(op), **attributes))

    def through(self, end: str, dtype: int) -> None:
        """What a node gives, rounded to ``dtype`` and back to float32."""
        self.after(end, "Cast", to=onnx.TensorProto.FLOAT)
        self.after(end, "Cast", to=dtype)

    def without(self, end: str) -> None:
        """A node taken out: its users get its first input."""
        gone = self.node(end)
        self.use_instead(gone.output[0], gone.input[0])
        self.graph.node.remove(gone)

    def use_instead(self, old: str, new: str) -> None:
        """Nodes take ``new`` where they took ``old``."""
        for node in self.graph.node:
            node.input[:] = [new if name == old else name for name in node.input]

    def rename(self, old: str, new: str) -> None:
        """Another name for a value, but in the graph's outputs."""
        self.use_instead(old, new)
        for node in self.graph.node:
            node.output[:] = [new if name == old else name for name in node.output]

    def output(self, name: str) -> onnx.ValueInfoProto:
        return next(info for info in self.graph.output if info.name == name)

    def set_dim(self, name: str, axis: int, dim: int | str) -> None:
        """Another declared dim of an input or output."""
        info = next(info for info in (*self.graph.input, *self.graph.output) if info.name == name)
        one = info.type.tensor_type.shape.dim[axis]
        one.Clear()
        setattr(one, "dim_value" if isinstance(dim, int) else "dim_param", dim)

    def claimed(self, name: str) -> Any:
        """A parameter in the newest metadata entry."""
        return self._newest()[1]["parameters"][name]

    def claim(self, **parameters: Any) -> None:
        """Other parameters in the newest metadata entry."""
        entry, content = self._newest()
        content["parameters"] |= parameters
        entry.value = json.dumps(content)

    def rewrite(self, **fields: Any) -> None:
        """Other fields of the newest metadata entry."""
        entry, content = self._newest()
        entry.value = json.dumps(content | fields)

    def forget(self) -> None:
        """The newest metadata entry gone."""
        self.proto.metadata_props.remove(self._newest()[0])

    def _newest(self) -> tuple[onnx.StringStringEntryProto, dict[str, Any]]:
        entry = next(entry for entry in reversed(self.proto.metadata_props) if entry.key.startswith("graphsurgery.step."))
        return entry, json.loads(entry.value)

    def weight(self, name: str) -> onnx.TensorProto:
        return next(tensor for tensor in self.graph.initializer if tensor.name == name)

    def flip(self, name: str, place: int) -> None:
        """One bit of one byte of a weight."""
        tensor = self.weight(name)
        data = bytearray(tensor.raw_data)
        data[place] ^= 1
        tensor.raw_data = bytes(data)

    def _new(self, what: str) -> str:
        self._count += 1
        return f"planted/{what}.{self._count}"

    def ints(self, *values: int) -> str:
        """A constant vector of int64."""
        return self.constant(list(values), np.int64)

    def swap(self, end: str, one: int, other: int) -> None:
        """Two inputs of a node in each other's place."""
        inputs = self.node(end).input
        inputs[one], inputs[other] = inputs[other], inputs[one]

    def floats(self, end: str) -> str:
        """What a node gives, as float32."""
        return self.append("Cast", self.out(end), behind=end, to=onnx.TensorProto.FLOAT)

    def count(self) -> str:
        """``[batch, 1]``: how many tokens a row has."""
        return self.append("ReduceSum", self.floats("pooling/mask"), self.ints(1), keepdims=1)

    def sum_over(self, end: str, x: str, *axes: int, keepdims: int = 0) -> None:
        """The plain sum of ``x`` over ``axes`` in the place of a node that sums over tokens."""
        self.become(end, "ReduceSum", x, self.ints(*axes), keepdims=keepdims)
