"""One graph, one answer: what reads graphs agrees on constants, readers, order and operators, however odd the graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from conftest import FIXTURES
from encoders import tiny_encoder
from onnx import TensorProto, helper, numpy_helper

import graphsurgery
from graphsurgery.encoder.attention import find_attentions
from graphsurgery.encoder.blocks import find_blocks
from graphsurgery.encoder.flow import Flow, infer_last_dim, is_lookup
from graphsurgery.encoder.limits import find_largest_window, find_tables
from graphsurgery.encoder.roles import find_roles
from graphsurgery.errors import MalformedModelError
from graphsurgery.graph.graph import Graph

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
node, info = helper.make_node, helper.make_tensor_value_info
X, Y, CONDITION = info("x", FLOAT, ["n", 4]), info("y", FLOAT, ["n", 4]), info("c", TensorProto.BOOL, [])


def tensor(name: str, *values: float) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values or (0, 1, 2, 3), np.float32), name)


def model(nodes: Sequence[onnx.NodeProto], inputs=(X,), outputs=(Y,), weights=(), functions=()) -> onnx.ModelProto:
    opsets = [helper.make_opsetid(domain, version) for domain, version in (("", 18), ("custom", 1), ("com.microsoft", 1))]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=functions)


def branch(nodes: Sequence[onnx.NodeProto], output: str) -> onnx.GraphProto:
    return helper.make_graph(nodes, "branch", [], [info(output, FLOAT, None)])


def choice(then: onnx.GraphProto, output: str = "y") -> onnx.NodeProto:
    """An If; its else-branch gives x."""
    other = branch([node("Identity", ["x"], ["e"])], "e")
    return node("If", ["c"], [output], then_branch=then, else_branch=other)


def graph_of(*given, **more) -> Graph:
    return Graph.of(graphsurgery.load(model(*given, **more)))


def flow_of(*given, **more) -> Flow:
    return Flow.of(graphsurgery.load(model(*given, **more)))


def operators(nodes) -> list[str]:
    return [one.op_type for one in nodes]


def named(values) -> list[str]:
    return sorted(value.name for value in values)


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ({"value": tensor("", 1, 2)}, [1, 2]), ({"value_ints": [1, 2]}, [1, 2]), ({"value_int": 3}, 3),
        ({"value_floats": [0.5]}, [0.5]), ({"value_float": 2.0}, 2.0),
    ],
)  # fmt: skip
def test_every_constant_is_one(held, expected):
    graph = graph_of([node("Constant", [], ["k"], **held), node("Add", ["x", "k"], ["y"])])
    assert graph.array(graph.value("k")).tolist() == expected


def test_what_is_no_constant():
    """A Constant of another domain, one that the model's own function gives, a sparse one."""
    sparse = onnx.SparseTensorProto(values=tensor("s", 1), indices=numpy_helper.from_array(np.array([2])), dims=[4])
    own = helper.make_function(
        "", "Constant", [], ["o"], [node("RandomNormal", [], ["o"], shape=[4])], [helper.make_opsetid("", 18)], ["value"]
    )
    for given, functions in (
        (node("Constant", [], ["k"], domain="custom", value=tensor("v")), []),
        (node("Constant", [], ["k"], value=tensor("v")), [own]),
        (node("Constant", [], ["k"], sparse_value=sparse), []),
    ):
        graph = graph_of([given, node("Add", ["x", "k"], ["y"])], functions=functions)
        assert graph.value("k").producer().op_type == "Constant"
        assert graph.tensor(graph.value("k")) is None and graph.constant(graph.value("k")) is None


def test_a_constant_in_the_standards_other_spelling():
    graph = graph_of([node("Constant", [], ["k"], domain="ai.onnx", value=tensor("v")), node("Add", ["x", "k"], ["y"])])
    assert graph.array(graph.value("k")).tolist() == [0, 1, 2, 3]


def test_a_default_is_a_weight_but_no_constant():
    graph = graph_of([node("Add", ["x", "w"], ["y"])], inputs=(X, info("w", FLOAT, [4])), weights=[tensor("w")])
    assert graph.tensor(graph.value("w")) is not None and graph.constant(graph.value("w")) is None
    assert graph.is_fed(graph.value("x")) and not graph.is_fed(graph.value("w"))


def test_a_copy_of_a_weight_is_weights_where_the_operator_is_known():
    for domain, is_known in (("", True), ("custom", False)):
        copy = node("Identity", ["w"], ["k"], domain=domain)
        flow = flow_of([copy, node("Add", ["x", "k"], ["y"])], weights=[tensor("w")])
        assert (flow.weights(flow.graph.value("k")) is not None) == is_known
        assert flow.graph.constant(flow.graph.value("k")) is None


def test_the_last_of_two_weights_of_one_name_counts():
    graph = graph_of([node("Add", ["x", "w"], ["y"])], weights=[tensor("w"), tensor("w", 1, 1, 1, 1)])
    assert graph.array(graph.value("w")).tolist() == [1, 1, 1, 1]


def test_a_branch_reads_for_its_node():
    nodes = [node("Relu", ["x"], ["a"]), choice(branch([node("Identity", ["a"], ["t"])], "t")), node("Neg", ["a"], ["z"])]
    graph = graph_of(nodes, (X, CONDITION), (Y, info("z", FLOAT, None)))
    a = graph.value("a")
    assert sorted(operators(graph.all_consumers(a))) == ["If", "Neg"] and operators(graph.consumers(a)) == ["Neg"]
    assert named(graph.descendants([a])) == ["y", "z"] and named(graph.ancestors([graph.value("y")])) == ["a", "c", "x", "y"]


def test_a_branch_that_gives_an_outer_value_reads_it():
    graph = graph_of([node("Relu", ["x"], ["a"]), choice(branch([], "a"))], (X, CONDITION))
    (both,) = (one for one in graph.nodes if one.op_type == "If")
    assert named(graph.implicit_inputs(both)) == ["a", "x"]
    assert named(graph.ancestors([graph.value("y")])) == ["a", "c", "x", "y"]


def test_a_name_of_a_branchs_own_is_another_value():
    """The branch makes an a; the a outside is made later, of what the branch gives. That is no circle."""
    own = branch([node("Neg", ["x"], ["a"]), node("Add", ["a", "x"], ["t"])], "t")
    nodes = [choice(own, "b"), node("Relu", ["b"], ["a"]), node("Neg", ["a"], ["y"])]
    graph = graph_of(nodes, (X, CONDITION))
    assert operators(graph.nodes) == ["If", "Relu", "Neg"]
    assert operators(graph.all_consumers(graph.value("a"))) == ["Neg"] and named(graph.descendants([graph.value("a")])) == ["y"]


def test_what_is_left_out_is_no_value():
    """Inputs without a name, and a first output without one."""
    graph = graph_of([node("Clip", ["x", "", ""], ["y"])])
    assert graph.value("") is None and named(graph.all_inputs(next(graph.nodes))) == ["x"]
    nodes = [node("GRU", ["x", "w", "w"], ["", "y"], hidden_size=4)]
    graph = graph_of(nodes, weights=[tensor("w")])
    assert graph.value("") is None and named(graph.descendants([graph.value("x")])) == ["y"]


def test_a_node_reads_a_value_once():
    graph = graph_of([node("Mul", ["x", "x"], ["y"])])
    assert operators(graph.consumers(graph.value("x"))) == ["Mul"]


def test_nodes_keep_their_order_where_they_can():
    """A node without any output stays."""
    nodes = [node("Abs", ["b"], ["y"]), node("Print", ["x"], [], domain="custom"), node("Relu", ["x"], ["a"])]
    nodes += [node("Neg", ["a"], ["q"]), node("Add", ["q", "a"], ["b"])]
    assert operators(graph_of(nodes).nodes) == ["Print", "Relu", "Neg", "Add", "Abs"]


MALFORMED = {
    "made twice": ([node("Relu", ["x"], ["a"]), node("Neg", ["x"], ["a"]), node("Neg", ["a"], ["y"])], "defines 'a' twice"),
    "made and stored": ([node("Relu", ["x"], ["w"]), node("Add", ["w", "x"], ["y"])], "defines 'w' twice"),
    "a circle": ([node("Neg", ["y"], ["a"]), node("Relu", ["a"], ["y"])], "depends on its own output"),
    "a node of itself": ([node("Add", ["x", "a"], ["a"]), node("Neg", ["x"], ["y"])], "'a' depends on its own output"),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_graph_is_refused_and_inspected(name):
    """All that looks into it says so; an inspection tells the rest."""
    nodes, reason = MALFORMED[name]
    loaded = graphsurgery.load(model(nodes, weights=[tensor("w")]))
    for ask in (Graph.of, Flow.of, find_blocks, lambda one: graphsurgery.add_pooling(one, mode="mean", mask="ones")):
        with pytest.raises(MalformedModelError, match=reason):
            ask(loaded)
    found = graphsurgery.inspect(loaded)
    assert found.hidden is None and reason in found.why_not and found.candidates == ()
    assert found.nodes == len(nodes) and found.interface == loaded.interface
    assert find_largest_window(loaded) is None and find_tables(loaded, find_roles(loaded.interface)).vocabulary is None


def test_operators_of_another_domain_are_others():
    """Nothing is looked through, looked up or widened by an operator that is only called like a known one."""
    custom = {"domain": "custom"}
    graph = graph_of([node("Identity", ["x"], ["y"], **custom)])
    assert graph.origin(graph.value("y")) is graph.value("y")
    table = numpy_helper.from_array(np.zeros((9, 4), np.float32), "w")
    graph = graph_of([node("Gather", ["w", "i"], ["y"], **custom)], (info("i", INT64, ["n"]),), weights=[table])
    assert not is_lookup(graph, next(graph.nodes))
    assert (
        find_tables(graphsurgery.load(graph.source), find_roles(graphsurgery.load(graph.source).interface)).vocabulary is None
    )
    graph = graph_of([node("MatMul", ["x", "w"], ["y"], **custom)], weights=[table])
    assert infer_last_dim(graph, graph.value("y")) is None


@pytest.mark.parametrize(("domain", "is_one"), [("", True), ("ai.onnx", True), ("com.microsoft", True), ("custom", False)])
def test_whose_attention_is_one(domain, is_one):
    """com.microsoft's Attention projects by itself, the standard's is given queries, keys and values."""
    names = ["input_ids", "table", "weight", "bias"]
    table, weight = (
        numpy_helper.from_array(np.zeros((8, 4 * times), np.float32), name) for name, times in (("table", 1), ("weight", 3))
    )
    given = ["token", "token", "token"] if domain in ("", "ai.onnx") else ["token", "weight", "bias"]
    heads = {"q_num_heads": 2, "kv_num_heads": 2} if domain in ("", "ai.onnx") else {"num_heads": 2}
    nodes = [node("Gather", names[1::-1], ["token"]), node("Attention", given, ["y"], domain=domain, **heads)]
    inputs = (info("input_ids", INT64, ["b", "s"]),)
    flow = flow_of(nodes, inputs, (info("y", FLOAT, ["b", "s", 4]),), [table, weight, tensor("bias", *[0] * 12)])
    found = find_attentions(flow)
    assert [one.heads for one in found] == [2] * is_one
    assert all(one.node.op_type == "Attention" and one.head_size == (2 if domain == "com.microsoft" else None) for one in found)


def windowed(*nodes: onnx.NodeProto, inputs=(X,), weights=()) -> int | None:
    return find_largest_window(graphsurgery.load(model([*nodes, node("Identity", ["x"], ["y"])], inputs, weights=weights)))


@pytest.mark.parametrize("held", [{"value": tensor("", 64)}, {"value_float": 64.0}, {"value_floats": [64.0]}])
def test_a_window_of_any_constant(held):
    limit = node("Constant", [], ["k"], **held)
    assert windowed(limit, node("Neg", ["k"], ["m"]), node("Less", ["x", "m"], ["l"])) == 64
    assert windowed(limit, node("Less", ["x", "k"], ["l"], domain="custom")) is None


def test_a_window_within_a_branch():
    limit = node("Constant", [], ["k"], value=tensor("", 99))
    inside = branch([limit, node("Less", ["x", "k"], ["l"]), node("Cast", ["l"], ["t"], to=FLOAT)], "t")
    assert windowed(choice(inside, "z"), inputs=(X, CONDITION)) == 99


def test_a_name_within_a_branch_is_no_window_outside():
    """The k that is compared with is an input; a branch calls a constant of its own k, too."""
    inside = branch([node("Constant", [], ["k"], value=tensor("", 99)), node("Add", ["x", "k"], ["t"])], "t")
    inputs = (X, CONDITION, info("k", FLOAT, []))
    assert windowed(node("Less", ["x", "k"], ["l"]), choice(inside, "z"), inputs=inputs) is None


def test_weights_that_are_inputs_are_weights():
    """Below IR version 4 every weight is an input, too."""
    for version in (3, 8):
        loaded = graphsurgery.load(tiny_encoder(opset=13, ir_version=version))
        tables = find_tables(loaded, find_roles(loaded.interface))
        assert (tables.vocabulary, tables.positions) == (50, 64)
        graph = Graph.of(loaded)
        assert infer_last_dim(graph, graph.value("last_hidden_state")) == 8


def test_tables_that_branches_look_up_in():
    """The table and the ids are the outer graph's; an input of the branch's own would be none of the model's."""
    proto = tiny_encoder(inputs=["token_type_ids"])
    place, old = next((at, one) for at, one in enumerate(proto.graph.node) if one.name == "types")
    body = branch([node("Gather", list(old.input), ["t"])], "t")
    always = node("Constant", [], ["always"], value=helper.make_tensor("", TensorProto.BOOL, [], [True]))
    both = node("If", ["always"], list(old.output), then_branch=body, else_branch=body)
    del proto.graph.node[place]
    for one in (both, always):
        proto.graph.node.insert(place, one)
    loaded = graphsurgery.load(proto)
    assert find_tables(loaded, find_roles(loaded.interface)).types == 2


def test_shapes_and_scales_held_as_attributes_of_constants():
    """Targets of Reshapes as value_ints and numbers as value_float: the same heads and the same kinds of parts are found."""
    proto = onnx.load(FIXTURES / "bert" / "model.onnx")
    held = {one.output[0]: one for one in proto.graph.node if one.op_type == "Constant"}
    held |= {one.name: one for one in proto.graph.initializer}
    changed = 0
    for name, one in held.items():
        value = numpy_helper.to_array(one.attribute[0].t if isinstance(one, onnx.NodeProto) else one)
        field = {("i", 1): "value_ints", ("i", 0): "value_int", ("f", 0): "value_float", ("f", 1): "value_floats"}.get(
            (value.dtype.kind, value.ndim)
        )
        if field is None or value.size > 8 or value.dtype not in (np.int64, np.float32):
            continue
        (proto.graph.node if isinstance(one, onnx.NodeProto) else proto.graph.initializer).remove(one)
        proto.graph.node.insert(0, node("Constant", [], [name], **{field: value.tolist()}))
        changed += 1
    assert changed > 4
    found, usual = (find_blocks(graphsurgery.load(one)) for one in (proto, FIXTURES / "bert" / "model.onnx"))
    assert [(one.heads, one.head_size, one.added) for one in found.attentions] == [
        (one.heads, one.head_size, one.added) for one in usual.attentions
    ]
    assert [(layer, one.kind) for layer, one in found.activations] == [(layer, one.kind) for layer, one in usual.activations]
    assert all(one.scores.scale is not None or one.queries.scale is not None for one in found.attentions)
