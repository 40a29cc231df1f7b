"""Checks of a loaded file that come before all other work: tensors hold as much data as they claim, and their shapes can
exist."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Iterator, Sequence

import onnx

from graphsurgery.errors import ExternalDataError, MalformedModelError, TensorDataError
from graphsurgery.interface import type_name
from graphsurgery.model.dtypes import BITS, NAMES, compute_payload_size, count_elements
from graphsurgery.model.parsing import shorten
from graphsurgery.model.records import Payloads, Span
from graphsurgery.model.schema import RAW_DATA, TENSOR

LARGEST_DECLARED = 1 << 36
"""Upper limit on the elements of a tensor, a declared value or a node with a constant shape: 256 GiB of float32."""
MOST_DIMS = 64
"""The highest rank of numpy's arrays. Products of thousands of dims take long to compute and longer to print."""
MOST_COUNTED = 16 << 20
"""Bytes of packed varints that one load counts. Beyond that, only the range of their possible number is checked."""
TYPED_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
PACKED_BYTES = {"float_data": 4, "double_data": 8}
VARINT_CONTINUES = bytes(range(0x80, 0x100))
SHAPE_INPUT = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1}
SHAPED_BY_INPUT = frozenset({*SHAPE_INPUT, "Range", "RandomNormal", "RandomUniform"})

Scope = onnx.GraphProto | onnx.FunctionProto
Constants = ChainMap[str, list[int]]


def check_shape(tensor: onnx.TensorProto, name: str) -> None:
    """Check that the dims can exist and the element type is known. Raise TensorDataError otherwise."""
    check_dims(tensor.dims, f"tensor {name!r}")
    if tensor.data_type not in NAMES or tensor.data_type == onnx.TensorProto.UNDEFINED:
        raise TensorDataError(
            f"tensor {name!r} has the unknown element type {tensor.data_type}", "a newer onnx package may know it"
        )
    if tensor.HasField("segment"):
        raise TensorDataError(f"tensor {name!r} comes in segments, which nothing reads", "export the model again")


def check_rank(rank: int, what: str) -> None:
    if rank > MOST_DIMS:
        raise TensorDataError(f"{what} has {rank} dims", f"no runtime takes more than {MOST_DIMS}")


def check_dims(dims: Sequence[int], what: str) -> None:
    """Check that there are at most `MOST_DIMS` dims, none negative, and at most `LARGEST_DECLARED` elements, dims of 0 left
    out."""
    check_rank(len(dims), what)
    if any(dim < 0 for dim in dims):
        raise TensorDataError(f"{what} has a negative dim: {list(dims)}", "export the model again")
    count = count_elements([dim for dim in dims if dim])
    if count > LARGEST_DECLARED:
        raise TensorDataError(f"{what} asks for {count} elements: dims {list(dims)}", "export the model again")


def check_tensor(tensor: onnx.TensorProto, name: str, payloads: Payloads, may_read: int = MOST_COUNTED) -> int:
    """Check that the data inside the file are exactly as long as dims and element type require. Raise TensorDataError
    otherwise.

    Returns the number of payload bytes that were read, at most ``may_read``. Only packed varints are read, to count them.
    """
    check_shape(tensor, name)
    span = payloads.find(tensor)
    field = _find_data_field(tensor, name, span)
    if field == "raw_data":
        _check_size(tensor, name, span.length if span is not None else len(tensor.raw_data))
    elif span is None:
        _check_typed_elements(tensor, name)
    elif field in PACKED_BYTES:
        if span.length != _count_typed_entries(tensor) * PACKED_BYTES[field]:
            raise _make_size_error(tensor, name, f"{span.length} bytes of {field}")
    else:
        return _check_varints(tensor, name, span, may_read)
    return 0


def check_no_inline_data(tensor: onnx.TensorProto, name: str) -> None:
    """Check that a tensor with external data holds no data of its own: readers would disagree on which data count."""
    held = [field for field in ("raw_data", *TYPED_FIELDS) if len(getattr(tensor, field))]
    if held:
        raise ExternalDataError(
            f"tensor {name!r} has external data and holds data of its own in {' and '.join(held)}", "export the model again"
        )


def check_names(graph: onnx.GraphProto) -> None:
    """Check that names are UTF-8 (protobuf returns bytes otherwise) and that no two inputs share one."""
    for kind, named in (("input", graph.input), ("output", graph.output), ("initializer", graph.initializer)):
        for one in named:
            if isinstance(one.name, bytes):
                raise MalformedModelError(
                    f"{kind} name {shorten(one.name)!r} is not UTF-8", "rename it and write the file again"
                )
    for node in graph.node:
        texts = (node.op_type, node.domain, *node.input, *node.output)
        if any(isinstance(text, bytes) for text in texts):
            what = f"a node with the output {shorten(', '.join(map(str, node.output)))}"
            raise MalformedModelError(f"{what} holds names that are not UTF-8", "rename them and write the file again")
    repeated = _list_repeated(info.name for info in graph.input)
    if repeated:
        raise MalformedModelError(f"two inputs are named {shorten(repeated[0])!r}", "rename one and write the file again")


def list_repeated_initializers(graph: onnx.GraphProto) -> list[str]:
    """Return the names that several initializers share. ONNX Runtime warns and uses the last one, as `Model.initializers`
    does."""
    return _list_repeated(tensor.name for tensor in graph.initializer if tensor.name)


def check_declared_shapes(model: onnx.ModelProto) -> None:
    """Check that no declared value and no node with a constant shape asks for more than `LARGEST_DECLARED` elements.

    This covers inputs, outputs, value_info, sparse tensors and the nodes of `SHAPED_BY_INPUT` whose shape is constant, in the
    graph, its subgraphs and its functions. Computed shapes and shapes in external data are not checked.
    """
    graphs = [model.graph]
    graphs += [graph for training in model.training_info for graph in (training.initialization, training.algorithm)]
    for scope in (*graphs, *model.functions):
        _check_scope(scope, ChainMap())


def _check_scope(scope: Scope, outer: Constants) -> None:
    constants = outer.new_child(dict(_list_constants(scope)))
    infos = list(scope.value_info)
    if isinstance(scope, onnx.GraphProto):
        infos += [*scope.input, *scope.output]
        for sparse in scope.sparse_initializer:
            check_dims(sparse.dims, f"sparse tensor {shorten(sparse.values.name)!r}")
    for info in infos:
        _check_declared(info)
    for node in scope.node:
        if node.op_type in SHAPED_BY_INPUT:
            check_dims(
                _read_constant_shape(node, constants), f"node {shorten(node.name or ', '.join(node.output))!r} ({node.op_type})"
            )
        for attribute in node.attribute:
            _check_attribute(attribute, node, constants)


def _check_attribute(attribute: onnx.AttributeProto, node: onnx.NodeProto, constants: Constants) -> None:
    """Check the subgraphs and sparse tensors of one attribute, whatever type the attribute claims."""
    sparse_tensors = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
    for sparse in (*sparse_tensors, *attribute.sparse_tensors):
        check_dims(sparse.dims, f"sparse tensor {shorten(sparse.values.name)!r} of node {shorten(node.name)!r}")
    graphs = [attribute.g] if attribute.HasField("g") else []
    for graph in (*graphs, *attribute.graphs):
        _check_scope(graph, constants)


def _check_declared(info: onnx.ValueInfoProto) -> None:
    """Check the positive dims of a declared value. Exporters write symbolic and unknown dims in many ways, 0 and -1 among
    them."""
    dims = info.type.tensor_type.shape.dim
    what = f"value {shorten(info.name)!r}"
    check_rank(len(dims), what)
    check_dims([dim.dim_value for dim in dims if dim.dim_value > 0], what)


def _read_constant_shape(node: onnx.NodeProto, constants: Constants) -> list[int]:
    """Return the shape that a node's constant inputs or attributes ask for, or an empty list if they are not constant."""
    if node.op_type in ("RandomNormal", "RandomUniform"):
        return [dim for attribute in node.attribute if attribute.name == "shape" for dim in attribute.ints if dim > 0]
    if node.op_type == "Range":
        start, limit, delta = (constants.get(name, [])[:1] for name in (*node.input[:3], "", "", "")[:3])
        return [max((limit[0] - start[0]) // delta[0], 0)] if start and limit and delta and delta[0] else []
    shape = node.input[SHAPE_INPUT[node.op_type]] if len(node.input) > SHAPE_INPUT[node.op_type] else ""
    return [dim for dim in constants.get(shape, []) if dim > 0]


def _list_constants(scope: Scope) -> Iterator[tuple[str, list[int]]]:
    """Yield the name and values of each short integer vector or scalar that is an initializer or a Constant node of the
    scope."""
    for tensor in scope.initializer if isinstance(scope, onnx.GraphProto) else ():
        if _is_short(tensor):
            yield tensor.name, _read_integers(tensor)
    for node in scope.node:
        if node.op_type == "Constant" and node.output:
            for attribute in node.attribute:
                if attribute.name == "value" and _is_short(attribute.t):
                    yield node.output[0], _read_integers(attribute.t)
                elif attribute.name in ("value_ints", "value_int"):
                    yield node.output[0], [*attribute.ints] or [attribute.i]


def _is_short(tensor: onnx.TensorProto) -> bool:
    integer = tensor.data_type in (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
    inside = tensor.data_location != onnx.TensorProto.EXTERNAL
    return integer and inside and len(tensor.dims) <= 1 and count_elements(tensor.dims) <= MOST_DIMS


def _read_integers(tensor: onnx.TensorProto) -> list[int]:
    return [int(value) for value in onnx.numpy_helper.to_array(tensor).reshape(-1)]


def _list_repeated(names: Iterable[str]) -> list[str]:
    seen: set[str] = set()
    again: dict[str, None] = {}
    for name in names:
        if name in seen:
            again[name] = None
        seen.add(name)
    return list(again)


def _find_data_field(tensor: onnx.TensorProto, name: str, span: Span | None) -> str:
    """Return the one field that holds the tensor's data. Raise TensorDataError if it does not suit the element type."""
    typed = onnx.helper.tensor_dtype_to_field(tensor.data_type)
    held = [field for field in TYPED_FIELDS if len(getattr(tensor, field))]
    if tensor.HasField("raw_data"):
        held.append(TENSOR.fields_by_number[RAW_DATA if span is None else span.wire_field].name)
    if len(held) > 1:
        raise TensorDataError(f"tensor {name!r} has its data twice, in {' and '.join(held)}", "export the model again")
    field = held[0] if held else typed
    if field != typed and (field != "raw_data" or tensor.data_type == onnx.TensorProto.STRING):
        raise TensorDataError(
            f"tensor {name!r}: {field} cannot hold elements of type {type_name(tensor.data_type)}", f"they belong in {typed}"
        )
    return field


def _check_varints(tensor: onnx.TensorProto, name: str, span: Span, may_read: int) -> int:
    """Check the number of packed varints (1 to 10 bytes each, the last byte below 0x80), by counting them if ``may_read``
    allows it."""
    needed = _count_typed_entries(tensor)
    if span.length > may_read:
        if not needed <= span.length <= 10 * needed:
            raise _make_size_error(tensor, name, f"{span.length} bytes of varints")
        return 0
    data = span.read()
    held = len(data.translate(None, VARINT_CONTINUES))
    if held != needed or data[-1] >= 0x80:
        raise _make_size_error(tensor, name, f"{held} elements")
    return span.length


def _check_typed_elements(tensor: onnx.TensorProto, name: str) -> None:
    held = sum(len(getattr(tensor, field)) for field in TYPED_FIELDS)
    if held != _count_typed_entries(tensor):
        raise _make_size_error(tensor, name, f"{held} elements")


def _count_typed_entries(tensor: onnx.TensorProto) -> int:
    """Return how many entries the typed field must hold. A complex number takes two; elements of 2 and 4 bits share one (those
    of 6 bits do not)."""
    count = count_elements(tensor.dims)
    kind = NAMES[tensor.data_type]
    if kind.startswith("COMPLEX"):
        return 2 * count
    bits = BITS.get(kind, 8)
    return (count * bits + 7) // 8 if bits in (2, 4) else count


def _check_size(tensor: onnx.TensorProto, name: str, held: int) -> None:
    size = compute_payload_size(tensor.data_type, tensor.dims)
    if size != held:
        raise _make_size_error(tensor, name, f"{held} bytes of raw data")


def _make_size_error(tensor: onnx.TensorProto, name: str, held: str) -> TensorDataError:
    needed = compute_payload_size(tensor.data_type, tensor.dims)
    in_bytes = needed is not None and "bytes" in held
    return TensorDataError(
        f"tensor {name!r}, {type_name(tensor.data_type)} of dims {list(tensor.dims)}: {held} where "
        f"{needed if in_bytes else _count_typed_entries(tensor)} {'bytes' if in_bytes else 'elements'} are needed",
        "the file is truncated or was written wrongly: download or export it again",
    )
