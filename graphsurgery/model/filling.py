"""A model's graph with the weights read into it."""

from __future__ import annotations

from collections.abc import Callable

import onnx

from graphsurgery.model.model import Model
from graphsurgery.model.schema import tensors


def filled(
    proto: onnx.ModelProto, model: Model, wanted: Callable[[onnx.TensorProto], bool] = lambda _: True
) -> onnx.ModelProto:
    """A copy of ``proto``, the graph of ``model`` or a rewrite of it, with the weights that are ``wanted`` in place of their
    marks."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for _, tensor in tensors(copy):
        if _is_elsewhere(model, tensor) and wanted(tensor):
            tensor.CopyFrom(onnx.numpy_helper.from_array(model.values(tensor), tensor.name))
    return copy


def _is_elsewhere(model: Model, tensor: onnx.TensorProto) -> bool:
    return tensor.data_location == onnx.TensorProto.EXTERNAL or model.document.payloads.find(tensor) is not None
