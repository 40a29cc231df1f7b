"""The types, dims and widths of the values of a graph, for the proof, by onnx's shape inference."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import onnx

from graphsurgery.interface import Value, read_value
from graphsurgery.model.model import Model
from graphsurgery.model.schema import walk_tensors
from graphsurgery.references.chain import Chain

LOG = logging.getLogger(__name__)
KNOWN: WeakKeyDictionary[Model, dict[str, Value]] = WeakKeyDictionary()
"""The inferred values of models. Models are never changed."""


def infer_types(model: Model) -> dict[str, Value]:
    """Return the types and dims of the main graph's values by name, inferred from the inputs and the weights only.

    The file's own declarations of inner values and of the dims of outputs are not used, because they may be wrong. A value
    after an operator that onnx does not know is absent. Inferred once for each model.
    """
    values = KNOWN.get(model)
    if values is None:
        values = KNOWN[model] = _infer(model)
    return values


def _infer(model: Model) -> dict[str, Value]:
    bare = onnx.ModelProto()
    bare.CopyFrom(model.proto)
    del bare.graph.value_info[:]
    for info in bare.graph.output:
        info.type.tensor_type.ClearField("shape")
    for _, tensor in walk_tensors(bare):
        if model.document.payloads.find(tensor) is not None:
            tensor.ClearField("raw_data")
    try:
        graph = onnx.shape_inference.infer_shapes(bare).graph
    except Exception as error:  # it raises several types; the values are unknown then
        LOG.debug("onnx cannot infer the types and dims of the graph: %s", error)
        return {}
    return {info.name: read_value(info) for info in (*graph.value_info, *graph.output)}


def find_typed_value(model: Model, name: str) -> Value | None:
    """Return the value ``name`` with its element type: an input as declared, else from `infer_types`, else as declared."""
    value = model.interface.input(name) or infer_types(model).get(name)
    if value is not None and value.dtype:
        return value
    declared = (*model.interface.outputs, *map(read_value, model.proto.graph.value_info))
    return next((value for value in declared if value.name == name and value.dtype), None)


UNKNOWN = 16
WIDEST = 1 << 20
"""Upper limit on a recorded width, larger than any vocabulary. A forged record that exceeds it is ignored."""


def find_start_widths(source: Model, chain: Chain) -> dict[str, int]:
    """Return the last dim of every value of the source that ``chain`` reads.

    It comes from the weights, else from the record of an edit, else from the source's declaration, which may be wrong. If it is
    unknown, it is 16.
    """
    names = chain.starts
    known, recorded = infer_widths(source, names), _read_recorded_widths(chain)
    declared = {name: _read_width(source.interface.output(name)) for name in names}
    return {name: known.get(name) or recorded.get(name) or declared[name] or UNKNOWN for name in names}


def infer_widths(source: Model, names: Sequence[str]) -> dict[str, int]:
    """Return the last dims of these values, as far as they follow from the weights."""
    types = infer_types(source) if names else {}
    widths = {name: _read_width(types.get(name)) or _infer_norm_width(source, name) for name in names}
    return {name: width for name, width in widths.items() if width is not None}


def _read_width(value: Value | None) -> int | None:
    """Return the last dim of a value if it is a number."""
    last = value.dims[-1] if value is not None and value.dims else None
    return last if isinstance(last, int) else None


def _infer_norm_width(source: Model, name: str) -> int | None:
    """Return the width of the scale and shift of the normalisation that makes the value. onnx does not know all of these."""
    makers = [node for node in source.proto.graph.node if name in node.output and node.op_type.endswith("Normalization")]
    weights = [source.initializers[one] for node in makers for one in node.input if one in source.initializers]
    widths = {int(tensor.dims[0]) for tensor in weights if len(tensor.dims) == 1}
    return widths.pop() if len(widths) == 1 else None


def _read_recorded_widths(chain: Chain) -> dict[str, int]:
    """Return the widths that edits record of the values that they read."""
    widths: dict[str, int] = {}
    made: set[str] = set()
    for link in chain:
        width = link.parameters.get("width")
        if width is not None and 0 < width <= WIDEST:
            widths |= {name: width for name in link.reads if name not in made | widths.keys()}
        made.update(link.makes)  # often under the name of the value that was read, and of another width
    return widths
