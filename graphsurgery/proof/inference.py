"""Types and dims of the values of a graph, for the proof, by onnx's shape inference."""

from __future__ import annotations

import logging
from weakref import WeakKeyDictionary

import onnx

from graphsurgery.interface import Value, value_of
from graphsurgery.model.model import Model
from graphsurgery.model.schema import tensors

LOG = logging.getLogger(__name__)
KNOWN: WeakKeyDictionary[Model, dict[str, Value]] = WeakKeyDictionary()
"""The values of models that were asked for. Models are never changed."""


def values_of(model: Model) -> dict[str, Value]:
    """Return type and dims of the main graph's values by name, derived from the inputs and the weights alone.

    The file's own declarations of inner values and of the dims of outputs are left out beforehand, because they may be wrong. A
    value behind an operator that onnx does not know is absent. Inferred once for each model.
    """
    found = KNOWN.get(model)
    if found is None:
        found = KNOWN[model] = _inferred(model)
    return found


def _inferred(model: Model) -> dict[str, Value]:
    bare = onnx.ModelProto()
    bare.CopyFrom(model.proto)
    del bare.graph.value_info[:]
    for info in bare.graph.output:
        info.type.tensor_type.ClearField("shape")
    for _, tensor in tensors(bare):
        if model.document.payloads.find(tensor) is not None:
            tensor.ClearField("raw_data")
    try:
        graph = onnx.shape_inference.infer_shapes(bare).graph
    except Exception as error:  # it raises several types; what it cannot tell is unknown
        LOG.debug("onnx cannot infer the types and dims of the graph: %s", error)
        return {}
    return {info.name: value_of(info) for info in (*graph.value_info, *graph.output)}


def value_in(model: Model, name: str) -> Value | None:
    """Return the value ``name`` with its element type: an input as declared, else from `values_of`, else as declared."""
    told = model.interface.input(name) or values_of(model).get(name)
    if told is not None and told.dtype:
        return told
    declared = (*model.interface.outputs, *map(value_of, model.proto.graph.value_info))
    return next((value for value in declared if value.name == name and value.dtype), None)
