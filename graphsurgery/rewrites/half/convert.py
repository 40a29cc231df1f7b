"""A float32 encoder in float16 or bfloat16, some of its nodes left in float32, with Casts only where the two meet."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir
from onnx import helper, inliner

from graphsurgery.errors import MissingDataError, NameNotFoundError, UnsupportedModelError
from graphsurgery.graph.editor import Editor
from graphsurgery.graph.element_types import FLOAT, HALVES, ElementTypes, key_of
from graphsurgery.model.dtypes import NAMES
from graphsurgery.model.external import is_external
from graphsurgery.model.namer import Namer
from graphsurgery.model.schema import tensors
from graphsurgery.rewrites.half.block_list import BlockList
from graphsurgery.rewrites.half.conversion import Conversion, convert
from graphsurgery.rewrites.half.values import lowest_mask

DEFAULTS_APART = 4
"""The IR version from which an initializer need not be an input."""


def to_half(model: onnx.ModelProto, kind: int, keep: Collection[str] = (), outside: int = FLOAT) -> onnx.ModelProto:
    """A new model that computes in ``kind`` (FLOAT16 or BFLOAT16); ``model`` is left as it is. Weights lie in memory.

    A node becomes ``kind`` where its operator's schema admits it: its float32 weights, what it takes and what it gives. In
    float32 stay the nodes that ``keep`` names by their first output (nodes' own names may be missing), those that
    `BlockList` gives a reason for, and inputs that are float32 by schema. Where a value is wanted in both types one Cast
    serves all who want it; a constant is there in both instead, each rounded once. Inputs and outputs keep their names and
    types, a float32 output is cast to float32 last; with ``outside`` as ``kind`` those of float32 become that, too. Stand-ins
    for minus infinity in masks are brought within ``kind``'s range, in what stays float32, too, so that no mask becomes -inf at
    a Cast (see `Masks`). Functions of the model's own are inlined; IR versions below 4 become 4.

    Raises:
        UnsupportedModelError: ``kind`` is no half type, the model has half precision parts already or no float32 ones, or
            its opset has no Cast to ``kind``.
        NameNotFoundError: ``keep`` names what no node has as its first output.
        MissingDataError: weights are external.
    """
    types = prepare(model, kind)
    unknown = sorted(set(keep) - {key_of(node) for node in types.graph.nodes})
    if unknown:
        others = f", nor do {len(unknown) - 1} others fit one" if len(unknown) > 1 else ""
        raise NameNotFoundError(f"no node has {unknown[0]!r} as its first output{others}", "name nodes by their first output")
    kept = set(keep) | BlockList(types, kind).reasons.keys()
    new, weights = _convert(types, Conversion(types, kind, kept, outside), lowest_mask(kind))
    new.graph.initializer.extend(weights)
    return new


@dataclass(frozen=True)
class InFloat32:
    """What half precision is measured against: `to_half`'s model were every node kept. ``graph`` has no initializers; those are
    the ``weights``, the source's own tensors wherever they are the same."""

    graph: onnx.ModelProto
    weights: Sequence[onnx.TensorProto]

    def namer(self) -> Namer:
        """A new namer that knows every name of the model."""
        namer = Namer.of(self.graph)
        for one in self.weights:
            namer.new(one.name)
        return namer


def in_float32(model: onnx.ModelProto, kind: int, mask: float | None = None) -> InFloat32:
    """``model`` in float32 with stand-ins for minus infinity as ``mask``, `lowest_mask` when None. Raises as `to_half`."""
    types = prepare(model, kind)
    every = {key_of(node) for node in types.graph.nodes}
    new, weights = _convert(types, Conversion(types, kind, every), lowest_mask(kind) if mask is None else mask)
    del new.graph.value_info[:]
    return InFloat32(new, weights)


def prepare(model: onnx.ModelProto, kind: int) -> ElementTypes:
    """Return the types of a model that can be converted to ``kind``. Raises as `to_half`."""
    if kind not in HALVES:
        raise UnsupportedModelError(f"{NAMES.get(kind, kind)} is no half precision type", "ask for FLOAT16 or BFLOAT16")
    if any(is_external(one) for _, one in tensors(model)):
        raise MissingDataError("half precision needs the weights' values, and they are external data", "load them first")
    types = ElementTypes(Editor(_plain(model)))
    halves = sorted(NAMES[one].lower() for one in types.present & set(HALVES))
    if halves:
        raise UnsupportedModelError(
            f"the model computes in {' and '.join(halves)} already, at least in part", "start from the float32 model"
        )
    if FLOAT not in types.present:
        raise UnsupportedModelError("the model has no float32 values", "start from the float32 model")
    cast = types.operator(ir.Node("", "Cast", []))
    opset = types.opsets.get("", 0)
    if cast is None or not cast.admits("T2", kind) or opset < 9:  # ConstantOfShape and Where are of opset 9
        what = f"opset {opset} is too old for {NAMES[kind].lower()}"
        raise UnsupportedModelError(what, "export the model at opset 13 or higher")
    return types


def _convert(types: ElementTypes, plan: Conversion, mask: float) -> tuple[onnx.ModelProto, list[onnx.TensorProto]]:
    """Return (the converted model without its initializers, these)."""
    editor = types.graph
    if not isinstance(editor, Editor):
        raise TypeError("a conversion needs a graph that can be changed")
    defaults = {value.name for value in editor.main.inputs if editor.tensor(value) is not None}
    halves = convert(editor, plan, mask)
    new = editor.finish(weights=False)
    new.ir_version = max(new.ir_version, DEFAULTS_APART)
    domains = {node.domain: 1 for node in editor.nodes if node.domain not in {*types.opsets, "ai.onnx"}}
    new.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in domains.items())
    for info in (*(one for one in new.graph.input if one.name not in defaults), *new.graph.output):
        if info.type.tensor_type.elem_type == FLOAT:
            info.type.tensor_type.elem_type = plan.outside
    for info in new.graph.value_info:
        if info.name in halves:
            info.type.tensor_type.elem_type = plan.kind
    return new, editor.initializers


def _plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` without functions of its own; below IR version 4, where weights have to be inputs, without those inputs."""
    plain = inliner.inline_local_functions(model) if model.functions else model
    if plain.ir_version >= DEFAULTS_APART:
        return plain
    copy = onnx.ModelProto()
    copy.CopyFrom(plain)
    copy.ir_version = DEFAULTS_APART
    weights = {one.name for one in copy.graph.initializer}
    inputs = [value for value in copy.graph.input if value.name not in weights]
    del copy.graph.input[:]
    copy.graph.input.extend(inputs)
    return copy
