"""Models with content that few exporters write and every tool loses some of: a builder per kind, giving a file's bytes.

All but those named in `NOT_EDITABLE` can be edited. What no library would write is put together by `field` and `varint`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper
from protobuf_fields import content, field, records, varint

FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
NODE, GRAPH_NAME, INITIALIZER, GRAPH_DOC, INPUT, OUTPUT = 1, 2, 5, 10, 11, 12
IR_VERSION, GRAPH, OPSET, METADATA, FUNCTIONS = 1, 7, 8, 14, 25
LARGE = 400
"""Elements of a float tensor that is too large to be kept in memory with the graph."""


def tensor(name: str, size: int = LARGE, seed: int = 0) -> TensorProto:
    """A float vector in raw_data."""
    values = np.random.default_rng(seed).standard_normal(size).astype("<f4")
    return TensorProto(name=name, data_type=FLOAT, dims=[size], raw_data=values.tobytes())


def value(name: str, size: int = LARGE) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, FLOAT, [size])


def plain(nodes: Iterable[onnx.NodeProto] = ()) -> onnx.ModelProto:
    """y = x + w, with ``nodes`` before the Add."""
    add = helper.make_node("Add", ["x", "w"], ["y"], name="add")
    graph = helper.make_graph([*nodes, add], "plain", [value("x")], [value("y")], [tensor("w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10, producer_name="tests")


def constant(name: str, of: TensorProto) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], name=f"make_{name}", value=of)


def branch(name: str, nodes: Iterable[onnx.NodeProto], weights: Iterable[TensorProto] = ()) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), name, [], [value(f"{name}_out")], list(weights))


def with_graph(model: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """``model`` with the bytes of its graph changed."""
    return b"".join(field(GRAPH, change(content(record))) if number == GRAPH else record for number, record in records(model))


def training_info() -> bytes:
    model = plain()
    training = model.training_info.add()
    training.initialization.CopyFrom(branch("start", [constant("start_out", tensor("t", seed=1))]))
    training.algorithm.CopyFrom(branch("step", [constant("step_out", tensor("t", seed=2))], [tensor("rate", seed=3)]))
    training.initialization_binding.add(key="w", value="start_out")
    training.update_binding.add(key="w", value="step_out")
    return model.SerializeToString()


def function(name: str, overload: str = "", seed: int = 0) -> onnx.FunctionProto:
    """f(a) = a + c with a default for everything that can have one."""
    nodes = [constant("c", tensor("c", seed=seed)), helper.make_node("Add", ["a", "c"], ["b"], doc_string="inner")]
    made = helper.make_function("local", name, ["a"], ["b"], nodes, [helper.make_opsetid("", 18)], ["alpha", "beta"])
    made.attribute_proto.append(helper.make_attribute("gamma", 0.5, "a default"))
    made.attribute_proto.append(helper.make_attribute("delta", tensor("delta", seed=seed + 1)))
    made.value_info.append(value("c"))
    made.metadata_props.add(key="from", value="tests")
    made.doc_string, made.overload = "a function", overload
    return made


def functions() -> bytes:
    """Attribute defaults, two overloads, a function that calls another."""
    model = plain([helper.make_node("g", ["x"], ["f_of_x"], domain="local", overload="two", name="call")])
    model.functions.extend([function("f"), function("g", "one", 2), function("g", "two", 4)])
    model.functions[2].node.append(helper.make_node("f", ["b"], ["bb"], domain="local"))
    model.opset_import.append(helper.make_opsetid("local", 1))
    model.graph.node[0].device_configurations.add(configuration_id="gpu").pipeline_stage = 3
    model.configuration.add(name="gpu", num_devices=2)
    return model.SerializeToString()


def sparse() -> bytes:
    model = plain()
    indices = TensorProto(name="places", data_type=INT64, dims=[LARGE], raw_data=np.arange(LARGE, dtype="<i8").tobytes())
    made = onnx.SparseTensorProto(values=tensor("s"), indices=indices, dims=[4 * LARGE])
    model.graph.sparse_initializer.append(made)
    node = model.graph.node.add(op_type="Constant", output=["sc"], name="sparse_constant")
    node.attribute.add(name="sparse_value", type=AttributeProto.SPARSE_TENSOR).sparse_tensor.CopyFrom(made)
    return model.SerializeToString()


def attributes() -> bytes:
    """Types, lists of everything, a reference, texts that are no UTF-8, a NaN; in the graph, a subgraph and a function."""
    node = onnx.NodeProto(op_type="Anything", domain="custom", name="odd", input=["x", "", "w", ""], output=["z", ""])
    of_type = node.attribute.add(name="type", type=AttributeProto.TYPE_PROTO)
    of_type.tp.CopyFrom(helper.make_tensor_type_proto(FLOAT, ["n", 3]))
    node.attribute.add(name="types", type=AttributeProto.TYPE_PROTOS).type_protos.add().CopyFrom(of_type.tp)
    node.attribute.add(name="tensors", type=AttributeProto.TENSORS).tensors.extend([tensor("a"), tensor("b", 3)])
    node.attribute.add(name="bytes", type=AttributeProto.STRING, s=b"\xff\xfe\x00", doc_string="no UTF-8")
    node.attribute.add(name="more", type=AttributeProto.STRINGS, strings=[b"\xc3", b"fine"])
    node.attribute.add(name="nan", type=AttributeProto.FLOATS, floats=[float("nan"), -0.0])
    node.attribute.add(name="empty", type=AttributeProto.INTS)
    model = plain([node])
    inner = branch("then", [onnx.NodeProto(op_type="Anything", domain="custom", output=["then_out"], attribute=node.attribute)])
    holder = model.graph.node.add(op_type="Choose", domain="custom", name="holder", output=["chosen"])
    holder.attribute.add(name="graphs", type=AttributeProto.GRAPHS).graphs.extend([inner, inner])
    holder.attribute.add(name="one", type=AttributeProto.GRAPH).g.CopyFrom(inner)
    made = function("f")
    made.node[1].attribute.extend(node.attribute)
    made.node[1].attribute.add(name="beta", type=AttributeProto.FLOAT, ref_attr_name="beta")
    model.functions.append(made)
    model.opset_import.extend([helper.make_opsetid("local", 1), helper.make_opsetid("custom", 7)])
    return model.SerializeToString()


def metadata() -> bytes:
    """metadata_props, doc strings and denotations wherever there is a place for them; a quantisation annotation."""
    model = plain([constant("c", tensor("c", 3))])
    graph = model.graph
    for holder in (model, graph, graph.node[0], graph.initializer[0], graph.input[0], graph.value_info.add(name="c")):
        holder.metadata_props.add(key="who", value=type(holder).__name__)
        holder.metadata_props.add(key="who", value="twice")
        holder.doc_string = f"of a {type(holder).__name__}"
    graph.node[0].attribute[0].doc_string = "of an attribute"
    graph.input[0].type.denotation = "TENSOR"
    graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_FEATURE"
    annotation = graph.quantization_annotation.add(tensor_name="w")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="w_scale")
    model.domain, model.model_version, model.producer_version = "org.example", 12, "1.2"
    return model.SerializeToString()


def typed_outputs() -> bytes:
    """Optional, sequence, map and sparse outputs, and one without any type."""
    model = plain()
    of_tensor = helper.make_tensor_type_proto(FLOAT, [2])
    kinds = {
        "optional": helper.make_optional_type_proto(of_tensor),
        "sequence": helper.make_sequence_type_proto(of_tensor),
        "map": helper.make_map_type_proto(INT64, of_tensor),
        "sparse": helper.make_sparse_tensor_type_proto(FLOAT, [2]),
        "untyped": onnx.TypeProto(),
    }
    model.graph.node.add(op_type="Make", domain="custom", output=list(kinds), name="make")
    for name, kind in kinds.items():
        model.graph.output.add(name=name, doc_string=name).type.CopyFrom(kind)
    return model.SerializeToString()


def typed_data() -> bytes:
    """Elements in every field but raw_data, packed and not, text, scalars, nothing at all, int4."""
    model = plain()
    add = model.graph.initializer.append
    add(TensorProto(name="f", data_type=FLOAT, dims=[LARGE], float_data=range(LARGE)))
    add(TensorProto(name="i", data_type=TensorProto.INT8, dims=[2 * LARGE], int32_data=[-1] * 2 * LARGE))
    add(TensorProto(name="l", data_type=INT64, dims=[LARGE], int64_data=[-(2**40)] * LARGE))
    add(TensorProto(name="d", data_type=TensorProto.DOUBLE, dims=[LARGE], double_data=[float("nan")] * LARGE))
    add(TensorProto(name="c", data_type=TensorProto.COMPLEX64, dims=[LARGE], float_data=range(2 * LARGE)))
    add(TensorProto(name="u", data_type=TensorProto.UINT64, dims=[LARGE], uint64_data=[2**63] * LARGE))
    add(TensorProto(name="s", data_type=STRING, dims=[2], string_data=[b"\xff" * 2000, b""]))
    add(TensorProto(name="four", data_type=TensorProto.INT4, dims=[4097], raw_data=bytes(2049)))
    add(TensorProto(name="scalar", data_type=FLOAT, float_data=[1.0]))
    add(TensorProto(name="none", data_type=FLOAT, dims=[0, 3], raw_data=b""))
    one_by_one = b"".join(varint(4 << 3 | 5) + bytes(4) for _ in range(LARGE))
    unpacked = TensorProto(name="unpacked", data_type=FLOAT, dims=[LARGE]).SerializeToString() + one_by_one
    return with_graph(model.SerializeToString(), lambda graph: graph + field(INITIALIZER, unpacked))


def subgraphs() -> bytes:
    """If within If, with weights of their own, and a branch that uses the outer graph's."""
    deep = branch("deep", [helper.make_node("Add", ["w", "dw"], ["deep_out"])], [tensor("dw", seed=5)])
    inner = helper.make_node("If", ["inner_cond"], ["then_out"], name="inner", then_branch=deep, else_branch=deep)
    then = branch("then", [inner], [tensor("unused", 3)])
    other = branch("other", [constant("other_out", tensor("oc", seed=6))])
    model = plain([helper.make_node("If", ["cond"], ["chosen"], name="outer", then_branch=then, else_branch=other)])
    model.graph.input.extend(helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("cond", "inner_cond"))
    model.graph.input.append(value("w"))
    return model.SerializeToString()


def duplicates() -> bytes:
    """Opset imports, metadata keys, outputs and node names that are there twice."""
    model = plain([constant("c", tensor("c", 3)), constant("d", tensor("d", 3))])
    model.opset_import.extend([helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)] * 2)
    model.metadata_props.add(key="k", value="1")
    model.metadata_props.add(key="k", value="2")
    model.graph.node[1].name = model.graph.node[0].name
    model.graph.output.add().CopyFrom(model.graph.output[0])
    model.graph.output[1].doc_string = "the same once more"
    return model.SerializeToString()


def unknown_fields() -> bytes:
    """Fields of a later ONNX in the model, graph, node, attribute, initializer and input, before and after known ones."""
    later = varint(900 << 3) + varint(5) + field(901, b"later" * 300) + varint(902 << 3 | 5) + b"abcd"
    model = plain([constant("c", tensor("c"))]).SerializeToString()

    def graph_with(graph: bytes) -> bytes:
        held = ((number, content(record) if number != GRAPH_NAME else record) for number, record in records(graph))
        return later + b"".join(r if n == GRAPH_NAME else field(n, later + r + later) for n, r in held) + later

    return later + with_graph(model, graph_with) + later


def long_varints() -> bytes:
    """Tags and lengths longer than they need be, at every level."""

    def stretched(number: int, record: bytes) -> bytes:
        return record if number in (GRAPH_NAME, IR_VERSION) else field(number, content(record), width=5)

    def graph_with(graph: bytes) -> bytes:
        inner = []
        for number, record in records(graph):
            nested = number in (NODE, INITIALIZER)
            parts = (
                [field(n, content(r), width=4) if r[0] & 7 == 2 else r for n, r in records(content(record))] if nested else []
            )
            inner.append(field(number, b"".join(parts), width=3) if nested else record)
        return b"".join(inner)

    stretched_graph = with_graph(plain([constant("c", tensor("c"))]).SerializeToString(), graph_with)
    return b"".join(stretched(number, record) for number, record in records(stretched_graph))


def any_order() -> bytes:
    """Functions and metadata before the graph; outputs, initializers and nodes of the graph mixed, its name last."""
    model = onnx.ModelProto.FromString(functions())
    model.graph.doc_string = "of the graph"
    model.metadata_props.add(key="where", value="first")
    order = (OUTPUT, INITIALIZER, NODE, GRAPH_DOC, INPUT, GRAPH_NAME)
    mixed = with_graph(model.SerializeToString(), lambda graph: b"".join(_sorted(graph, order)))
    first = _sorted(mixed, (METADATA, FUNCTIONS, GRAPH, OPSET, IR_VERSION))
    return b"".join([*first, field(METADATA, onnx.StringStringEntryProto(key="where", value="last").SerializeToString())])


def no_utf8_texts() -> bytes:
    """Doc strings and metadata that are no UTF-8: in memory they are bytes, not text."""
    model = plain()
    model.doc_string = model.graph.doc_string = model.graph.node[0].doc_string = "DOC"
    model.metadata_props.add(key="graphsurgery.step.KEY", value="VALUE")
    data = model.SerializeToString()
    return data.replace(b"DOC", b"\xff\xfe\xfd").replace(b"KEY", b"\xc0\xc1\xff").replace(b"VALUE", b"\xff" * 5)


def bare() -> bytes:
    """A graph with nothing in it, not even a name."""
    return field(GRAPH, b"")


KINDS: dict[str, Callable[[], bytes]] = {
    made.__name__: made
    for made in (
        training_info, functions, sparse, attributes, metadata, typed_outputs, typed_data, subgraphs, duplicates,
        unknown_fields, long_varints, any_order, no_utf8_texts, bare,
    )
}  # fmt: skip
NOT_EDITABLE = {"bare": "it has nothing to append to"}


def _sorted(message: bytes, order: tuple[int, ...]) -> list[bytes]:
    """The message's records in ``order``, those of other numbers last."""
    return [record for _, record in sorted(records(message), key=lambda one: (*order, one[0]).index(one[0]))]
