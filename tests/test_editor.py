"""Editing a graph: what is not touched is written from the source's own messages, whatever onnx-ir makes of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import exotic
import numpy as np
import onnx
import pytest
from conftest import FIXTURES, corpus_params, fixture_names
from onnx import TensorProto, helper

from graphsurgery.errors import MalformedModelError
from graphsurgery.graph.editor import Editor
from graphsurgery.graph.write_back import to_document
from graphsurgery.model.changes import NODE
from graphsurgery.model.loading import load
from graphsurgery.model.model import Model

FIXED = [pytest.param(FIXTURES / name / "model.onnx", id=name) for name in fixture_names()]


def copied(path: Path, folder: Path) -> Model:
    """The model at ``path``, loaded from a copy."""
    for beside in path.parent.iterdir():
        if beside.is_file():
            shutil.copyfile(beside, folder / beside.name)
    return load(folder / path.name)


def check_untouched(model: Model) -> None:
    """Nothing is lost without an edit, nodes are only brought into an order that runs; with one node put in the middle every
    other record is the source's own."""
    editor = Editor(model.proto)
    document = to_document(model, model.proto, editor.finish())
    assert document.model == model.document.model
    assert sorted(map(id, document.graph)) == sorted(map(id, model.document.graph))
    if is_in_order(model.proto.graph):
        assert editor.finish().SerializeToString(deterministic=True) == model.proto.SerializeToString(deterministic=True)
        assert document.graph == model.document.graph
    nodes = [node for node in editor.nodes if any(value.name for value in node.outputs)]
    if not nodes:
        return
    node = nodes[len(nodes) // 2]
    value = next(one for one in node.outputs if one.name)
    readers = editor.consumers(value)
    copy = editor.make_node("Identity", [value], [editor.namer.new("copy")])
    editor.insert(node, [copy])
    for reader in readers:
        editor.set_inputs(reader, [copy.outputs[0] if one is value else one for one in reader.inputs])
    before = {id(one) for one in model.document.graph}
    new = [one for one in to_document(model, model.proto, editor.finish()).graph if id(one) not in before]
    assert all(one.field == NODE for one in new)
    changed = [onnx.NodeProto.FromString(one.content) for one in new]
    assert [one.op_type for one in changed].count("Identity") >= 1
    assert len(changed) == 1 + len(readers), "the new node, and those that read it now"
    by_outputs = {tuple(one.output): one for one in model.proto.graph.node}
    for one in changed:
        source = by_outputs.get(tuple(one.output))
        if source is not None:
            assert without_inputs(one) == without_inputs(source), "of a changed node only its inputs are others"


def is_in_order(graph: onnx.GraphProto) -> bool:
    """Whether every node comes after those whose values it reads itself."""
    made = {name: place for place, node in enumerate(graph.node) for name in node.output if name}
    return all(made.get(name, -1) < place for place, node in enumerate(graph.node) for name in node.input)


def source_copy(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


def without_inputs(node: onnx.NodeProto) -> bytes:
    copy = source_copy(node)
    del copy.input[:]
    return copy.SerializeToString(deterministic=True)


@pytest.mark.parametrize("path", [*corpus_params(), *FIXED])
def test_nothing_is_lost(path: Path, tmp_path: Path) -> None:
    check_untouched(copied(path, tmp_path))


@pytest.mark.parametrize("kind", sorted(exotic.KINDS))
def test_nothing_is_lost_of_exotic_files(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(exotic.KINDS[kind]())
    check_untouched(load(path))


def nested(depth: int) -> onnx.ModelProto:
    """``y = x + depth`` by Ifs within Ifs, each of which reads x of the main graph."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "one"], ["sum0"])], "innermost", [], [helper.make_tensor_value_info("sum0", 1, None)]
    )
    for level in range(1, depth):
        inside = helper.make_node("If", ["yes"], [f"inner{level}"], then_branch=graph, else_branch=graph)
        added = helper.make_node("Add", [f"inner{level}", "one"], [f"sum{level}"])
        outputs = [helper.make_tensor_value_info(f"sum{level}", 1, None)]
        graph = helper.make_graph([inside, added], f"level{level}", [], outputs)
    ends = [helper.make_node("If", ["yes"], ["y"], then_branch=graph, else_branch=graph)]
    one = helper.make_tensor("one", TensorProto.FLOAT, [], [1])
    inputs = [helper.make_tensor_value_info("x", 1, [2]), helper.make_tensor_value_info("yes", TensorProto.BOOL, [])]
    outputs = [helper.make_tensor_value_info("y", 1, None)]
    return helper.make_model(helper.make_graph(ends, "g", inputs, outputs, [one]))


def test_deep_control_flow(tmp_path: Path) -> None:
    """A value that graphs at every depth read is another one everywhere, and all else of those graphs is as it was."""
    source = nested(6)
    editor = Editor(source)
    value, (node,) = editor.value("x"), editor.nodes
    assert editor.all_consumers(value) == [node] and editor.implicit_inputs(node).count(value) == 2**6
    double = editor.make_node("Add", [value, value], ["double"])
    editor.insert(None, [double])
    for reader, place in list(value.uses()):
        if reader is not double:
            reader.replace_input_with(place, double.outputs[0])
    made = editor.finish()
    text = str(made).replace('input: "double"', 'input: "x"')
    assert made.graph.node[0].output == ["double"] and text.count('input: "x"') == str(source).count('input: "x"') + 2
    del made.graph.node[0]
    assert str(made).replace('"double"', '"x"') == str(source)


def test_what_onnx_ir_does_not_hold_of_a_changed_node_is_kept() -> None:
    """Unknown fields, outputs without a name at the end, and an attribute whose bytes are no text."""
    node = helper.make_node("Dropout", ["x"], ["y", ""], "drop")
    node.attribute.add(name="odd", type=onnx.AttributeProto.STRING, s=b"\xff\xfe")
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", 1, [2])], [helper.make_tensor_value_info("y", 1, [2])]
    )
    source = helper.make_model(graph)
    data = source.graph.node[0].SerializeToString() + b"\xc2\x3e\x03new"  # field 1000, which no version of onnx has
    source.graph.node[0].ParseFromString(data)
    editor = Editor(source)
    (found,) = editor.nodes
    copy = editor.make_node("Identity", [editor.value("x")], ["copy"])
    editor.insert(None, [copy])
    editor.set_inputs(found, [copy.outputs[0]])
    changed = editor.finish().graph.node[1]
    assert list(changed.input) == ["copy"] and list(changed.output) == ["y", ""]
    assert changed.attribute[0].s == b"\xff\xfe" and changed.SerializeToString().endswith(b"\xc2\x3e\x03new")


def test_many_nodes() -> None:
    """A long chain is imported and written in a time that grows with its length alone, and its order is mended."""
    count = 20_000
    nodes = [helper.make_node("Relu", [f"v{place}"], [f"v{place + 1}"]) for place in range(count)]
    graph = helper.make_graph(
        nodes[::-1], "g", [helper.make_tensor_value_info("v0", 1, [2])], [helper.make_tensor_value_info(f"v{count}", 1, [2])]
    )
    editor = Editor(helper.make_model(graph))
    assert [node.outputs[0].name for node in editor.nodes] == [f"v{place + 1}" for place in range(count)]
    assert len(editor.ancestors([editor.value(f"v{count}")])) == count + 1
    assert len(editor.finish().graph.node) == count


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ([("Relu", ["x"], ["a"]), ("Neg", ["x"], ["a"]), ("Abs", ["a"], ["y"])], "defines 'a' twice"),
        ([("Relu", ["b"], ["a"]), ("Neg", ["a"], ["b"]), ("Abs", ["a"], ["y"])], "depends on its own output"),
    ],
    ids=["two values of one name", "a circle"],
)
def test_what_is_no_graph_is_refused(nodes: list, said: str) -> None:
    made = [helper.make_node(*one) for one in nodes]
    inputs, outputs = ([helper.make_tensor_value_info(name, 1, [2])] for name in ("x", "y"))
    with pytest.raises(MalformedModelError, match=said):
        Editor(helper.make_model(helper.make_graph(made, "g", inputs, outputs)))


def test_a_name_that_others_know_stays() -> None:
    """Annotations and outputs name values: whatever gives them takes over the name."""
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Identity", ["a"], ["y"])]
    inputs, outputs = ([helper.make_tensor_value_info(name, 1, [2])] for name in ("x", "y"))
    editor = Editor(helper.make_model(helper.make_graph(nodes, "g", inputs, outputs)))
    relu, identity = editor.nodes
    assert editor.replace_node(identity, [relu.outputs[0]])
    assert [(one.op_type, one.output) for one in editor.finish().graph.node] == [("Relu", ["y"])]
    assert not editor.replace_node(relu, [editor.value("x")]), "an input cannot be called y"


def test_constants_in_every_form_are_constants() -> None:
    """A Constant node of any attribute, an initializer; but no default of an input, which may be given another value."""
    attributes = {"value_int": 3, "value_ints": [3, 4], "value_float": 0.5, "value_floats": [0.5, 1.5]}
    nodes = [helper.make_node("Constant", [], [name], **{name: value}) for name, value in attributes.items()]
    nodes += [helper.make_node("Constant", [], ["value"], value=helper.make_tensor("t", TensorProto.INT64, [], [7]))]
    weights = [helper.make_tensor(name, TensorProto.FLOAT, [], [1]) for name in ("weight", "default")]
    inputs = [helper.make_tensor_value_info("default", TensorProto.FLOAT, [])]
    editor = Editor(helper.make_model(helper.make_graph(nodes, "g", inputs, [], weights)))
    arrays = {name: editor.array(editor.value(name)) for name in (*attributes, "value", "weight", "default")}
    for name, value in {**attributes, "value": 7, "weight": 1}.items():
        assert np.array_equal(arrays[name], value), name
    assert arrays["default"] is None and editor.tensor(editor.value("default")) is not None


@pytest.mark.parametrize("opset", [12, 13])
def test_axes_are_an_attribute_or_an_input(opset: int) -> None:
    given, out = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y"))
    graph = helper.make_graph([helper.make_node("Abs", ["x"], ["y"])], "one", [given], [out])
    editor = Editor(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8))
    node = editor.make_with_axes("Unsqueeze", editor.value("x"), [0, 1], "turned")
    assert ("axes" in node.attributes) == (opset == 12) and len(node.inputs) == (1 if opset == 12 else 2)
    editor.insert(None, [node])
    onnx.checker.check_model(editor.finish(), full_check=True)
