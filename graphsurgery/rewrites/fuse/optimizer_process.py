"""What runs in the optimizer's own process, and how a model gets there and back.

The optimizer prints, logs, adds to the search path and leaves files in the current folder. Nothing here may be called in the
user's process, except `store` and `read`.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from graphsurgery.model.dtypes import FLOATS, compute_payload_size, count_elements

VENDOR = "com.microsoft"
MOST_RUNS = 4
LARGE = 1 << 20
"""Weights with more bytes than this are stored in a file beside the model, which protobuf limits to 2 GiB."""
FEW_NUMBERS = 4096
"""Shapes may be computed from the numbers of a weight with at most this many floats. Of a larger one only the dims count."""


def store(model: onnx.ModelProto, path: Path) -> None:
    """Write ``model`` to ``path``, and its large weights to a file beside it. This takes the large weights out of ``model``."""
    with _beside(path).open("wb") as weights:
        for tensor in model.graph.initializer:
            if len(tensor.raw_data) > LARGE and len(tensor.raw_data) == compute_payload_size(tensor.data_type, tensor.dims):
                weights.write(tensor.raw_data)
                tensor.raw_data = b""
    path.write_bytes(model.SerializeToString())


def read(path: Path) -> onnx.ModelProto:
    """Read a model that `store` wrote."""
    model = onnx.ModelProto.FromString(path.read_bytes())
    with _beside(path).open("rb") as weights:
        for tensor in model.graph.initializer:
            if tensor.HasField("raw_data") and not tensor.raw_data:
                tensor.raw_data = weights.read(compute_payload_size(tensor.data_type, tensor.dims) or 0)
    return model


def _beside(path: Path) -> Path:
    return path.with_suffix(".weights")


def list_model_types() -> list[str]:
    """Return the model types that the optimizer knows."""
    from onnxruntime.transformers.optimizer import MODEL_TYPES

    return sorted(MODEL_TYPES)


def optimize_file(source: str, output: str, model_type: str, heads: int, hidden: int, off: Sequence[str]) -> dict[str, Any]:
    """Run the optimizer's fusions on ``source`` until nothing changes any more, and write the result to ``output``.

    One run is often not enough: what it clears away may have hidden a pattern.

    Args:
        source, output: files of `store`.
        off: the options of `FusionOptions` that are switched off.

    Returns:
        The optimizer's warnings, and the node at which symbolic shape inference fails, if it does.
    """
    from onnxruntime.transformers.fusion_options import AttentionMaskFormat, FusionOptions

    options = FusionOptions(model_type)
    options.attention_mask_format = AttentionMaskFormat.AttentionMask
    for option in off:
        setattr(options, option, False)
    model = read(Path(source))
    shape_failure = find_shape_failure(model)
    warnings = _collect_warnings()
    for _ in range(MOST_RUNS):
        before = _sorted_nodes(model)
        model = _fuse_once(model, model_type, heads, hidden, options)
        gc.collect()  # the copies that shape inference holds refer to each other
        if _sorted_nodes(model) == before:
            break
    store(model, Path(output))
    return {"warnings": list(dict.fromkeys(warnings)), "shape_failure": shape_failure}


def _fuse_once(model: onnx.ModelProto, model_type: str, heads: int, hidden: int, options: Any) -> onnx.ModelProto:
    """Run the optimizer once on ``model``, which it changes."""
    from onnxruntime.transformers.optimizer import optimize_model

    optimized = optimize_model(model, model_type, heads, hidden, optimization_options=options, opt_level=0)
    optimized.topological_sort()
    _import_vendor(optimized.model)
    changed: onnx.ModelProto = optimized.model
    return changed


def _import_vendor(model: onnx.ModelProto) -> None:
    """Import the vendor's opset if its operators are used. The optimizer does so only when it saves a file."""
    used = any(node.domain == VENDOR for node in model.graph.node)
    if used and not any(one.domain == VENDOR for one in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(VENDOR, 1))


def _sorted_nodes(model: onnx.ModelProto) -> list[bytes]:
    return sorted(node.SerializeToString(deterministic=True) for node in model.graph.node)


def _collect_warnings() -> list[str]:
    """Return a list that gets every warning that is logged from now on."""
    warnings: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warnings.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().handlers = [handler]
    return warnings


def find_shape_failure(model: onnx.ModelProto) -> str | None:
    """Return the node at which the optimizer's symbolic shape inference fails, or None if it does not fail.

    The inference does not say where it fails. It is run on the first half of the nodes, then on a quarter more or less, and so
    on, until one node is found with which it fails and without which it does not. The cause may be an earlier node: the first
    one with an output of unknown shape.
    """
    light = copy_without_large_weights(model)
    nodes = list(light.graph.node)
    if not nodes or _infer_shapes(light, len(nodes)) is not None:
        return None
    passing, failing = 0, len(nodes)
    while failing - passing > 1:
        middle = (passing + failing) // 2
        passing, failing = (middle, failing) if _infer_shapes(light, middle) is not None else (passing, middle)
    node = _find_unknown(_infer_shapes(light, passing), nodes[:passing]) or nodes[passing]
    return f"{node.name or node.output[0]}: {node.op_type}"


def copy_without_large_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which large weights are inputs: enough for shapes."""
    graph = model.graph
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    for field in ("node", "input", "output", "value_info", "sparse_initializer"):
        getattr(light.graph, field).extend(getattr(graph, field))
    inputs = {info.name for info in graph.input}
    for tensor in graph.initializer:
        if tensor.data_type not in FLOATS or count_elements(tensor.dims) <= FEW_NUMBERS:
            light.graph.initializer.append(tensor)
        elif tensor.name not in inputs:
            light.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return light


def _infer_shapes(model: onnx.ModelProto, count: int) -> Any:
    """Infer the shapes of the first ``count`` nodes as the optimizer does. Return the inference, or None if it fails."""
    from onnxruntime.transformers.shape_infer_helper import SymbolicShapeInferenceHelper

    part = onnx.ModelProto()
    part.CopyFrom(model)
    if count < len(model.graph.node):
        del part.graph.node[count:], part.graph.output[:]
        part.graph.output.extend(onnx.ValueInfoProto(name=name) for node in part.graph.node for name in node.output if name)
    inference = SymbolicShapeInferenceHelper(part)
    try:
        return inference if inference.infer({}) else None
    except Exception:  # it raises whatever it stumbles over
        return None


def _find_unknown(inference: Any, nodes: Sequence[onnx.NodeProto]) -> onnx.NodeProto | None:
    """Return the first node with an output whose shape was not inferred."""
    for node in nodes:
        if any(inference.get_edge_shape(name) is None for name in node.output if name):
            return node
    return None
