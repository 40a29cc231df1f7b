"""A session on a graph in memory whose weights are lent to ONNX Runtime, never serialised: together they may exceed 2 GiB."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx
from onnx import numpy_helper

from graphsurgery.errors import UnsupportedModelError
from graphsurgery.model.dtypes import payload_size
from graphsurgery.model.external import is_external
from graphsurgery.model.saving import LARGEST_PROTOBUF
from graphsurgery.runtime.session import FATAL, Session, first_line

LENT = 1 << 16
"""Bytes from which an initializer is lent; smaller ones are copied with the graph."""

ROOM = 1 << 26
"""Bytes kept free in a protobuf for all that is no initializer."""
LENDABLE = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)


def opened(model: onnx.ModelProto) -> Session:
    """A session on a model in memory as a user would have it, with graph optimisations; where it is too large to serialise,
    without, its weights lent. UnsupportedModelError when ONNX Runtime cannot load it."""
    weights = sum(payload_size(one.data_type, one.dims) or 0 for one in model.graph.initializer)
    if weights <= LARGEST_PROTOBUF - ROOM:
        return Session(model.SerializeToString())
    graph = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    for field in ("node", "input", "output", "sparse_initializer"):
        getattr(graph.graph, field).extend(getattr(model.graph, field))
    graph.graph.name = model.graph.name
    return LentSession(graph, list(model.graph.initializer))


class LentSession(Session):
    """As `Session`, with ONNX Runtime's graph optimisations off: what a node computes is what its graph says."""

    def __init__(self, graph: onnx.ModelProto, weights: Sequence[onnx.TensorProto], threads: int = 0) -> None:
        """``graph``: a model, and ``weights`` initializers that it has besides its own.

        Raises UnsupportedModelError, with ONNX Runtime's own reason, when it cannot load the model.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = FATAL
        options.intra_op_num_threads = threads
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        lent = [one for one in weights if _is_lent(one)]
        self._values = [onnxruntime.OrtValue.ortvalue_from_numpy(numpy_helper.to_array(one)) for one in lent]
        if lent:
            options.add_external_initializers([one.name for one in lent], self._values)
        try:
            whole = _with(graph, (_stub(one) if _is_lent(one) else one for one in weights)).SerializeToString()
            self._session = onnxruntime.InferenceSession(whole, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises a type per status code, all plain Exceptions
            raise UnsupportedModelError(f"ONNX Runtime cannot load the model: {first_line(error)}") from error
        self._read_interface()


def _is_lent(one: onnx.TensorProto) -> bool:
    size = payload_size(one.data_type, one.dims)
    return one.data_type in LENDABLE and size is not None and size >= LENT and not is_external(one)


def _stub(one: onnx.TensorProto) -> onnx.TensorProto:
    """``one`` as external data, which nobody reads."""
    place = {"location": "lent", "offset": "0", "length": str(payload_size(one.data_type, one.dims))}
    entries = [onnx.StringStringEntryProto(key=key, value=value) for key, value in place.items()]
    return onnx.TensorProto(
        name=one.name, data_type=one.data_type, dims=one.dims, external_data=entries, data_location=onnx.TensorProto.EXTERNAL
    )


def _with(graph: onnx.ModelProto, weights: Iterable[onnx.TensorProto]) -> onnx.ModelProto:
    whole = onnx.ModelProto()
    whole.CopyFrom(graph)
    whole.graph.initializer.extend(weights)
    return whole
