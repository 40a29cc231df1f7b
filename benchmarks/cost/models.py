"""Write the models that are measured: BERT encoders of any size, whose weights are never all in memory.

The graph is that of `fixtures/bert/model.onnx`, a real export by Optimum: its embeddings as they are, its second layer as
often as there are layers, its sizes replaced. A process of its own (``python models.py SIZE PATH``): what measures stays small.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto
from size import Size

TEMPLATE = Path(__file__).resolve().parents[2] / "fixtures" / "bert" / "model.onnx"
TEMPLATE_HIDDEN, TEMPLATE_INNER, TEMPLATE_HEADS, TEMPLATE_POSITIONS, TEMPLATE_VOCABULARY = 32, 64, 4, 64, 308
REPEATED_LAYER = 1
HIDDEN_STATE = "last_hidden_state"
BLOCK = 1 << 20
"""Elements drawn and written at a time."""
SMALLEST_EXTERNAL = 1024
"""Bytes from which a tensor goes into the data file, as in onnx.save."""


def write(size: Size, path: Path) -> None:
    """Write the encoder to ``path``; external weights go into ``<path>_data``."""
    template = onnx.load(TEMPLATE)
    graph = GraphProto(name=template.graph.name, node=_nodes(template.graph, size))
    interface = GraphProto(input=template.graph.input, output=template.graph.output)
    interface.output[0].type.tensor_type.shape.dim[2].dim_value = size.hidden
    tensors = list(_initializers(template.graph, size))
    if size.sparse or size.external:
        _refer_to(tensors, path.with_name(path.name + "_data"), holes=size.sparse)
    before = onnx.ModelProto(ir_version=template.ir_version, producer_name=template.producer_name)
    after = onnx.ModelProto(opset_import=template.opset_import)
    fields = [_tensor_head(tensor) for tensor in tensors]
    held = [0 if _is_external(tensor) else _size(tensor) for tensor in tensors]
    head, tail = graph.SerializeToString(), interface.SerializeToString()
    length = len(head) + len(tail) + sum(map(len, fields)) + sum(held)
    with path.open("wb") as file:
        file.write(before.SerializeToString() + _tag(7) + _varint(length) + head)
        for index, tensor in enumerate(tensors):
            file.write(fields[index])
            if held[index]:
                file.writelines(_weights(tensor, seed=index))
        file.write(tail + after.SerializeToString())


def _nodes(template: GraphProto, size: Size) -> list[NodeProto]:
    """The template's nodes, one layer of them repeated."""
    ends = [_last_node(template, layer) for layer in range(REPEATED_LAYER + 1)]
    start = next(i for i, node in enumerate(template.node) if node.name.startswith("/encoder/"))
    layer = template.node[ends[-2] + 1 : ends[-1] + 1]
    inner = {name for node in layer for name in node.output} | {tensor.name for tensor in template.initializer}
    source = template.node[ends[-2]].output[0]
    previous = next(node.output[0] for node in template.node[:start] if node.op_type == "LayerNormalization")
    nodes = [_resized(node, size) for node in template.node[:start]]
    for number in range(size.layers):
        for node in layer:
            copy = _resized(node, size)
            copy.name = _in_layer(node.name, number)
            del copy.input[:], copy.output[:]
            copy.input.extend(previous if n == source else _in_layer(n, number) if n in inner else n for n in node.input)
            copy.output.extend(_in_layer(name, number) for name in node.output)
            nodes.append(copy)
        previous = nodes[-1].output[0]
    nodes[-1].output[0] = HIDDEN_STATE
    return nodes


def _initializers(template: GraphProto, size: Size) -> Iterator[TensorProto]:
    """The template's initializers with their new dims and without values, the repeated layer's once per layer."""
    start, end = _last_node(template, REPEATED_LAYER - 1), _last_node(template, REPEATED_LAYER)
    used = {name for node in template.node[start + 1 : end + 1] for name in node.input}
    for tensor in template.initializer:
        if tensor.name.startswith("embeddings."):
            yield TensorProto(name=tensor.name, dims=_dims(tensor, size), data_type=tensor.data_type)
    for number in range(size.layers):
        for tensor in template.initializer:
            if tensor.name in used:
                name = _in_layer(tensor.name, number)
                yield TensorProto(name=name, dims=_dims(tensor, size), data_type=tensor.data_type)


def _dims(tensor: TensorProto, size: Size) -> list[int]:
    sizes = {TEMPLATE_HIDDEN: size.hidden, TEMPLATE_INNER: 4 * size.hidden, TEMPLATE_VOCABULARY: size.vocabulary, 2: 2}
    if "position_embeddings" in tensor.name:
        sizes[TEMPLATE_POSITIONS] = size.positions
    return [sizes[dim] for dim in tensor.dims]


def _resized(node: NodeProto, size: Size) -> NodeProto:
    """A copy of a node, the sizes in a Constant replaced: heads, elements per head, hidden, positions."""
    copy = NodeProto()
    copy.CopyFrom(node)
    if node.op_type != "Constant" or node.attribute[0].t.data_type != TensorProto.INT64:
        return copy
    sizes = {
        TEMPLATE_HEADS: size.heads, TEMPLATE_HIDDEN // TEMPLATE_HEADS: size.hidden // size.heads, TEMPLATE_HIDDEN: size.hidden,
    }  # fmt: skip
    value = onnx.numpy_helper.to_array(node.attribute[0].t)
    if value.shape == (1, TEMPLATE_POSITIONS):
        value = np.arange(size.positions, dtype=np.int64)[None]
    elif value.size == 1 and int(value.reshape(-1)[0]) in sizes:
        value = np.full(value.shape, sizes[int(value.reshape(-1)[0])], np.int64)
    copy.attribute[0].t.CopyFrom(onnx.numpy_helper.from_array(value, node.attribute[0].t.name))
    return copy


def _last_node(graph: GraphProto, layer: int) -> int:
    """Where the layer ends: exporters write nodes in order."""
    return max(i for i, node in enumerate(graph.node) if node.name.startswith(f"/encoder/layer.{layer}/"))


def _in_layer(name: str, number: int) -> str:
    """A name of the repeated layer in layer ``number``."""
    renamed = name.replace(f"layer.{REPEATED_LAYER}", f"layer.{number}")
    return renamed if renamed != name or f"layer.{REPEATED_LAYER}" in name else f"{name}_{number}"


def _refer_to(tensors: list[TensorProto], data: Path, holes: bool) -> None:
    """Put the tensors, one after the other, into ``data``: a file of holes, or of their values."""
    place = 0
    with data.open("wb") as file:
        for index, tensor in enumerate(tensors):
            if _size(tensor) >= SMALLEST_EXTERNAL:
                tensor.data_location = TensorProto.EXTERNAL
                for key, value in (("location", data.name), ("offset", place), ("length", _size(tensor))):
                    tensor.external_data.add(key=key, value=str(value))
                if not holes:
                    file.writelines(_weights(tensor, seed=index))
                place += _size(tensor)
        file.truncate(place)


def _weights(tensor: TensorProto, seed: int) -> Iterator[bytes]:
    """Values in blocks: norms' scales are 1, biases 0, everything else normal with standard deviation 0.02."""
    generator = np.random.default_rng(seed)
    left = _size(tensor) // 4
    while left:
        count = min(left, BLOCK)
        if len(tensor.dims) == 1:
            yield np.full(count, float("LayerNorm.weight" in tensor.name), np.float32).tobytes()
        else:
            yield (generator.standard_normal(count, np.float32) * np.float32(0.02)).tobytes()
        left -= count


def _tensor_head(tensor: TensorProto) -> bytes:
    """The initializer's field up to where its values begin."""
    content = tensor.SerializeToString()
    if _is_external(tensor):
        return _tag(5) + _varint(len(content)) + content
    raw = _tag(9) + _varint(_size(tensor))
    return _tag(5) + _varint(len(content) + len(raw) + _size(tensor)) + content + raw


def _is_external(tensor: TensorProto) -> bool:
    return len(tensor.external_data) > 0


def _size(tensor: TensorProto) -> int:
    count = 4
    for dim in tensor.dims:
        count *= dim
    return count


def _tag(number: int) -> bytes:
    return _varint(number << 3 | 2)


def _varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


if __name__ == "__main__":
    write(Size(**json.loads(sys.argv[1])), Path(sys.argv[2]))
