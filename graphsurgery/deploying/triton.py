"""Triton Inference Server: the config.pbtxt of a model, in protobuf's text format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from google.protobuf.text_encoding import CEscape

from graphsurgery.deploying.facts import Facts, list_numbers
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.interface import Value, type_name

TYPES: Mapping[int, str] = {
    onnx.TensorProto.BOOL: "TYPE_BOOL", onnx.TensorProto.UINT8: "TYPE_UINT8", onnx.TensorProto.INT8: "TYPE_INT8",
    onnx.TensorProto.INT16: "TYPE_INT16", onnx.TensorProto.INT32: "TYPE_INT32", onnx.TensorProto.INT64: "TYPE_INT64",
    onnx.TensorProto.FLOAT16: "TYPE_FP16", onnx.TensorProto.FLOAT: "TYPE_FP32", onnx.TensorProto.DOUBLE: "TYPE_FP64",
    onnx.TensorProto.BFLOAT16: "TYPE_BF16", onnx.TensorProto.STRING: "TYPE_STRING",
}  # fmt: skip
"""Triton's names of ONNX's element types."""
USUAL_FILE = "model.onnx"
BATCHING = """\
# Requests that wait are run together the moment an instance is free: no request waits for others to come. Triton joins only
# requests whose inputs have the same lengths, so send several texts in one request, padded to the longest of them.
dynamic_batching {{
  max_queue_delay_microseconds: 0
  default_queue_policy {{
    timeout_action: REJECT
    max_queue_size: {queue}
  }}
}}
"""
NO_BATCHING = """\
# The first dims of these inputs and outputs are not all one batch of any size, so that Triton must not join requests.
"""


def make_config(facts: Facts, file: str, max_batch: int, queue: int) -> str:
    """Return the config.pbtxt of a model.

    Args:
        file: the name of the ONNX file in the version's folder.
        max_batch: the most rows of one run. Not used if the file does not take batches of any size.
        queue: the most requests that wait. Further ones are refused at once.

    Raises UnsupportedModelError for a type that Triton does not have.
    """
    batched = facts.is_batched
    lines = [
        f"# The interface of {facts.file}, as the file declares it.",
        f"name: {_quote(facts.name)}",
        'backend: "onnxruntime"',
        *([] if file == USUAL_FILE else [f"default_model_filename: {_quote(file)}"]),
        f"max_batch_size: {max_batch if batched else 0}",
    ]
    for kind, values in (("input", facts.interface.inputs), ("output", facts.interface.outputs)):
        lines += [_describe(kind, values, batched)]
    return "\n".join(lines) + "\n" + (BATCHING.format(queue=queue) if batched else NO_BATCHING)


def _describe(kind: str, values: Sequence[Value], batched: bool) -> str:
    return f"{kind} [\n" + ",\n".join(_describe_value(one, batched) for one in values) + "\n]"


def _describe_value(value: Value, batched: bool) -> str:
    """Return one input or output. With batches, Triton adds the first dim by itself, and calls a number a vector of one."""
    dtype = TYPES.get(value.dtype)
    if dtype is None:
        what = f"{value.name} has the type {type_name(value.dtype)}, which Triton does not have"
        raise UnsupportedModelError(what, "serve the folder with `graphsurgery serve`")
    dims = list_numbers(value.dims or ())[1 if batched else 0 :]
    lines = [f"name: {_quote(value.name)}", f"data_type: {dtype}", f"dims: [ {', '.join(map(str, dims or [1]))} ]"]
    if not dims:
        lines.append("reshape: { shape: [ ] }")
    return "  {\n" + "".join(f"    {line}\n" for line in lines) + "  }"


def _quote(text: str) -> str:
    return f'"{CEscape(text, as_utf8=True)}"'
