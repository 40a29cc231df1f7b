"""Convert a float32 model to float16 or bfloat16, except for some nodes, with a Cast only where the two types meet."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import onnx
from onnx import helper, inliner, numpy_helper

from graphsurgery.deferred import ir
from graphsurgery.errors import MissingDataError, NameNotFoundError, UnsupportedModelError
from graphsurgery.graph.attributes import list_subgraphs, to_tensor_proto
from graphsurgery.graph.editor import Editor
from graphsurgery.graph.element_types import FLOAT, HALVES, TYPE_ATTRIBUTES, ElementTypes, get_node_key
from graphsurgery.graph.operators import get_operator
from graphsurgery.model.dtypes import NAMES
from graphsurgery.model.external import is_external
from graphsurgery.model.names import Namer
from graphsurgery.model.schema import walk_tensors
from graphsurgery.rewrites.half.block_list import BlockList
from graphsurgery.rewrites.half.constants import Array, MaskConstants, clip_infinities, lowest_mask, make_tensor, read_constant
from graphsurgery.rewrites.half.plan import ConversionPlan

MASK_FILL = "mask_filter_value"
"""The attribute of com.microsoft's attentions that is added to masked scores."""
OLDEST_IR_VERSION = 4
"""The IR version from which an initializer need not be an input."""


def to_half(model: onnx.ModelProto, kind: int, keep: Collection[str] = (), outside: int = FLOAT) -> onnx.ModelProto:
    """Return a new model that computes in ``kind`` (FLOAT16 or BFLOAT16). ``model`` itself is not changed.

    A node computes in ``kind`` if the schema of its operator allows it. Its float32 weights, inputs and outputs get that type,
    except inputs that are float32 by schema. Nodes in ``keep`` and in the `BlockList` stay float32. If a value is needed in
    both types, one Cast serves all its readers. A constant is stored in both types instead, each rounded once.

    Inputs and outputs of the model keep their names and types: a float32 output is cast to float32 last. Numbers that stand for
    minus infinity in masks are brought into the range of ``kind``, also in float32 parts, so that no mask becomes -inf at a
    Cast (see `MaskConstants`). The model's own functions are inlined. IR versions below 4 become 4.

    Args:
        model: with its weights in memory.
        keep: nodes that stay float32, by the name of their first output. Nodes themselves may have no names.
        outside: the type of float32 inputs and outputs: FLOAT, or ``kind``.

    Raises:
        UnsupportedModelError: ``kind`` is not a half type, the model computes in half precision already, it has no float32
            values, or its opset has no Cast to ``kind``.
        NameNotFoundError: ``keep`` has a name that is not the first output of any node.
        MissingDataError: weights are external data.
    """
    types = read_element_types(model, kind)
    unknown = sorted(set(keep) - {get_node_key(node) for node in types.graph.nodes})
    if unknown:
        others = f", and {len(unknown) - 1} other names fit no node either" if len(unknown) > 1 else ""
        raise NameNotFoundError(f"no node has {unknown[0]!r} as its first output{others}", "name nodes by their first output")
    kept = set(keep) | BlockList(types, kind).reasons.keys()
    new, weights = _convert(types, ConversionPlan(types, kind, kept, outside), lowest_mask(kind))
    new.graph.initializer.extend(weights)
    return new


@dataclass(frozen=True)
class Float32Baseline:
    """The model that `to_half` makes if every node stays float32. Half precision is measured against it."""

    graph: onnx.ModelProto
    """Without initializers."""
    weights: Sequence[onnx.TensorProto]
    """Its initializers. Those that did not change are the source's own tensors."""

    def make_namer(self) -> Namer:
        """Return a new namer that knows every name of the model."""
        namer = Namer.of(self.graph)
        for one in self.weights:
            namer.new(one.name)
        return namer


def make_float32_baseline(model: onnx.ModelProto, kind: int, mask: float | None = None) -> Float32Baseline:
    """Return ``model`` in float32, with ``mask`` for minus infinity in masks (default `lowest_mask`). Raises as `to_half`."""
    types = read_element_types(model, kind)
    every = {get_node_key(node) for node in types.graph.nodes}
    new, weights = _convert(types, ConversionPlan(types, kind, every), lowest_mask(kind) if mask is None else mask)
    del new.graph.value_info[:]
    return Float32Baseline(new, weights)


def read_element_types(model: onnx.ModelProto, kind: int) -> ElementTypes:
    """Return the element types of a model that can be converted to ``kind``. Raises as `to_half`."""
    if kind not in HALVES:
        raise UnsupportedModelError(f"{NAMES.get(kind, kind)} is no half precision type", "ask for FLOAT16 or BFLOAT16")
    if any(is_external(one) for _, one in walk_tensors(model)):
        raise MissingDataError("half precision needs the values of the weights, which are external data", "load them first")
    types = ElementTypes(Editor(_inline_functions(model)))
    halves = sorted(NAMES[one].lower() for one in types.present & set(HALVES))
    if halves:
        raise UnsupportedModelError(
            f"the model, or a part of it, computes in {' and '.join(halves)} already", "start from the float32 model"
        )
    if FLOAT not in types.present:
        raise UnsupportedModelError("the model has no float32 values", "start from the float32 model")
    cast = types.signature(ir.Node("", "Cast", []))
    opset = types.opsets.get("", 0)
    if cast is None or not cast.allows("T2", kind) or opset < 9:  # ConstantOfShape and Where are of opset 9
        what = f"opset {opset} is too old for {NAMES[kind].lower()}"
        raise UnsupportedModelError(what, "export the model at opset 13 or higher")
    return types


def _convert(types: ElementTypes, plan: ConversionPlan, mask: float) -> tuple[onnx.ModelProto, list[onnx.TensorProto]]:
    """Convert the graph. Return the new model without its initializers, and these."""
    editor = types.graph
    if not isinstance(editor, Editor):
        raise TypeError("a conversion needs a graph that can be changed")
    defaults = {value.name for value in editor.main.inputs if editor.tensor(value) is not None}
    halves = _Converter(editor, plan, mask).convert()
    new = editor.finish(weights=False)
    new.ir_version = max(new.ir_version, OLDEST_IR_VERSION)
    domains = {node.domain: 1 for node in editor.nodes if node.domain not in {*types.opsets, "ai.onnx"}}
    new.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in domains.items())
    for info in (*(one for one in new.graph.input if one.name not in defaults), *new.graph.output):
        if info.type.tensor_type.elem_type == FLOAT:
            info.type.tensor_type.elem_type = plan.outside
    for info in new.graph.value_info:
        if info.name in halves:
            info.type.tensor_type.elem_type = plan.kind
    return new, editor.initializers


def _inline_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return ``model`` with its own functions inlined, and without the inputs that weights must be below IR version 4."""
    plain = inliner.inline_local_functions(model) if model.functions else model
    if plain.ir_version >= OLDEST_IR_VERSION:
        return plain
    copy = onnx.ModelProto()
    copy.CopyFrom(plain)
    copy.ir_version = OLDEST_IR_VERSION
    weights = {one.name for one in copy.graph.initializer}
    inputs = [value for value in copy.graph.input if value.name not in weights]
    del copy.graph.input[:]
    copy.graph.input.extend(inputs)
    return copy


class _Converter:
    """Carries a `ConversionPlan` out on the graph that it was made for."""

    def __init__(self, editor: Editor, plan: ConversionPlan, mask: float) -> None:
        self._editor, self._plan, self._mask = editor, plan, mask
        self._masks = MaskConstants(plan.types)
        self._versions: dict[tuple[ir.Value, int], ir.Value] = {}

    def convert(self) -> set[str]:
        """Convert the graph, and return the names of the values in the half type."""
        plan, nodes = self._plan, list(self._editor.nodes)
        reads = {node: plan.find_input_types(node) for node in nodes}
        gives = {node: plan.find_output_types(node) for node in nodes}
        wanted = dict(plan.wanted)
        for constant in (*self._editor.main.initializers.values(), *(one for node in nodes for one in node.outputs)):
            if constant in plan.constants:
                self._store(constant, wanted.get(constant, {FLOAT}))
        for made, kind in plan.made.items():
            self._versions[made, kind] = made
            self._cast(made, kind, wanted[made])
        for node in nodes:
            for graph in list_subgraphs(node):
                self._convert_inner(graph)
            self._set_attributes(node, gives[node])
            self._set_inputs(node, reads[node])
        self._name_outputs()
        return {value.name or "" for (_, kind), value in self._versions.items() if kind == plan.kind}

    def _store(self, value: ir.Value, kinds: set[int]) -> None:
        """Store a constant in each of the types in which it is read."""
        source = self._editor.tensor(value)
        if source is None:
            return
        numbers, node = numpy_helper.to_array(source), value.producer()
        own = self._plan.outside if value.is_graph_output() else min(kinds)
        for kind in sorted(kinds):
            clipped = self._masks.fit(value, numbers, kind, self._plan.kind, self._mask)
            if kind == own:
                if kind != FLOAT or clipped is not numbers:
                    self._editor.replace_tensor(value, make_tensor(clipped, kind, value.name or ""))
                self._versions[value, kind] = value
            else:
                name = self._editor.namer.new(f"{value.name}/{NAMES[kind].lower()}")
                self._versions[value, kind] = self._editor.add_tensor(make_tensor(clipped, kind, name), node)

    def _cast(self, value: ir.Value, made: int, kinds: set[int]) -> None:
        """Put a Cast after ``value`` for each of the types ``kinds`` in which it is not made."""
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
        """Set the attributes that name a type or hold a tensor."""
        kind = self._plan.kind if self._plan.kind in gives else FLOAT
        numbers = read_constant(node) if get_operator(node) == "ConstantOfShape" else None
        if numbers is not None:
            clipped = self._masks.fit(node.outputs[0], numbers, kind, self._plan.kind, self._mask)
            _set_tensor(node, make_tensor(clipped, kind, ""))
        elif kind != FLOAT and get_operator(node) in TYPE_ATTRIBUTES:
            name = TYPE_ATTRIBUTES[get_operator(node)]
            node.attributes[name] = ir.AttrInt64(name, kind)
        if MASK_FILL in node.attributes:
            node.attributes[MASK_FILL] = ir.AttrFloat32(MASK_FILL, max(node.attributes[MASK_FILL].as_float(), self._mask))

    def _convert_inner(self, graph: ir.Graph) -> None:
        """Convert a graph within a node: it reads outer values in float32, and its constants are clipped as masks are."""
        for value in graph.initializers.values():
            self._clip_initializer(value)
        for value in graph.outputs:
            outer = self._editor.value(value.name or "") if value.producer() is None and value not in graph.inputs else None
            if outer is not None and (outer, FLOAT) in self._versions:
                value.name = self._versions[outer, FLOAT].name
        for node in graph:
            self._set_inputs(node, [FLOAT] * len(node.inputs))
            numbers = read_constant(node)
            clipped = None if numbers is None else self._clip(numbers)
            if clipped is not None:
                _set_tensor(node, make_tensor(clipped, FLOAT, ""))
            for inner in list_subgraphs(node):
                self._convert_inner(inner)

    def _set_inputs(self, node: ir.Node, kinds: Sequence[int]) -> None:
        """Let a node read its inputs in these types."""
        for place, (value, kind) in enumerate(zip(node.inputs, kinds, strict=True)):
            if value is not None and (value, kind) in self._versions:
                node.replace_input_with(place, self._versions[value, kind])

    def _clip_initializer(self, value: ir.Value) -> None:
        source = None if value.const_value is None else to_tensor_proto(value.const_value)
        if source is not None and source.data_type == FLOAT:
            clipped = self._clip(numpy_helper.to_array(source))
            if clipped is not None:
                value.const_value = ir.serde.deserialize_tensor(make_tensor(clipped, FLOAT, value.name or ""))

    def _clip(self, numbers: Array) -> Array | None:
        """Return the numbers to store for a constant within a node, or None if they stay as they are."""
        clipped = clip_infinities(numbers, self._plan.kind, self._mask, numbers=False)
        return None if clipped is numbers else clipped

    def _name_outputs(self) -> None:
        """Give the graph's outputs the type that is wanted outside, under the names that they had."""
        for value in list(dict.fromkeys(self._editor.main.outputs)):
            other = self._versions.get((value, self._plan.outside))
            if other is not None and other is not value:
                self._editor.swap_output(value, other)


def _set_tensor(node: ir.Node, held_tensor: onnx.TensorProto) -> None:
    for name in [name for name in node.attributes if name.startswith("value")]:
        del node.attributes[name]
    node.attributes["value"] = ir.AttrTensor("value", ir.serde.deserialize_tensor(held_tensor))
