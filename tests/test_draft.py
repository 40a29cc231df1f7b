"""What a draft promises to edits: reading changes nothing, every change is written, and new names are new everywhere."""

from __future__ import annotations

from collections.abc import Iterator

import exotic
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from conftest import corpus_params
from hypothesis import given
from hypothesis import strategies as st
from keeping import finished, proto_of, written
from onnx import helper

from graphsurgery.edits.strip_head import restore_source
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.model.draft import Draft
from graphsurgery.model.loading import load
from graphsurgery.model.names import Namer
from graphsurgery.model.records import Record, splice_records


def drafted(*nodes: onnx.NodeProto) -> Draft:
    return Draft(load(exotic.plain(nodes)))


def names_in(message: object) -> Iterator[str]:
    """Every name of a value, node or function in a message, found by walking all of it; an attribute's tensors have none."""
    if isinstance(message, onnx.AttributeProto):
        for graph in (message.g, *message.graphs):
            yield from names_in(graph)
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for one in value if field.is_repeated else [value]:
                yield from names_in(one)
        elif field.name in ("name", "input", "output") and not isinstance(message, onnx.GraphProto):
            yield from value if field.is_repeated else [value]


def check_names(model: onnx.ModelProto) -> None:
    taken = {name for part in (model.graph, *model.functions, *model.training_info) for name in names_in(part)}
    namer = Namer.of(model)
    assert taken and not [name for name in taken if name and not namer.has(name)]
    given = [namer.new(wish) for wish in sorted(taken) * 2]
    assert len({*given, *taken}) == len(given) + len(taken)


@pytest.mark.parametrize("kind", sorted(set(exotic.KINDS) - {"bare"}))
def test_names_never_collide(kind: str) -> None:
    check_names(onnx.ModelProto.FromString(exotic.KINDS[kind]()))


@pytest.mark.parametrize("path", corpus_params())
def test_names_never_collide_in_third_party_models(path) -> None:
    check_names(proto_of(path))


def test_names_are_numbered_from_two() -> None:
    namer = Namer(["a", "a.2", "b"])
    assert [namer.new(wish) for wish in ("a", "a", "b", "c", "c")] == ["a.3", "a.4", "b.2", "c", "c.2"]


def test_a_name_that_is_not_there_is_a_key_error() -> None:
    assert drafted().tensor("x").name == "x"
    with pytest.raises(KeyError, match="nope"):
        drafted().tensor("nope")


def test_reading_changes_nothing() -> None:
    """onnx-graphsurgeon puts an array where a constant's elements were as soon as they are looked at."""
    small = helper.make_tensor("odd name", onnx.TensorProto.FLOAT, [2], [1.0, float("nan")])
    draft = drafted(exotic.constant("c", small))
    assert draft.graph.nodes[0].attrs["value"].values.shape == (2,)
    assert written(draft.finish()) == exotic.plain([exotic.constant("c", small)]).SerializeToString()


def changed_in_place(value: gs.Constant) -> None:
    value.values[1] = 5.0


def changed_by_assignment(value: gs.Constant) -> None:
    value.values = np.array([1.0, 5.0], np.float32)


@pytest.mark.parametrize("change", [changed_in_place, changed_by_assignment])
def test_a_changed_constant_is_written(change) -> None:
    draft = drafted(exotic.constant("c", helper.make_tensor("t", onnx.TensorProto.FLOAT, [2], [1.0, 2.0])))
    change(draft.graph.nodes[0].attrs["value"])
    edited = finished(draft)
    (attribute,) = edited.proto.graph.node[0].attribute
    assert onnx.numpy_helper.to_array(attribute.t).tolist() == [1.0, 5.0]
    assert restore_source(edited).fingerprint == draft.model.fingerprint


def test_replaced_constants_are_written() -> None:
    """Each constant is replaced by a new one, so that the old ones are gone and their addresses free."""
    draft = drafted(*(exotic.constant(f"c{n}", helper.make_tensor("t", 1, [2], [1.0, 2.0])) for n in range(50)))
    for node in draft.graph.nodes[:50]:
        node.attrs["value"] = gs.Constant("t", values=node.attrs["value"].values + 4)
    for node in draft.finish().proto.graph.node[:50]:
        assert onnx.numpy_helper.to_array(node.attribute[0].t).tolist() == [5.0, 6.0]


def test_nodes_and_outputs_in_another_order_come_back() -> None:
    draft = Draft(load(onnx.ModelProto.FromString(exotic.typed_outputs())))
    draft.graph.nodes.reverse()
    draft.graph.outputs.reverse()
    edited = finished(draft)
    assert [node.op_type for node in edited.proto.graph.node] == ["Make", "Add"]
    assert [value.name for value in edited.proto.graph.output][-1] == "y"
    assert written(restore_source(edited)) == exotic.typed_outputs()


def test_a_renamed_value_with_a_large_payload_comes_back() -> None:
    """The payload stays in the file; the metadata say only what was around it."""
    model = exotic.plain([exotic.constant("c", exotic.tensor("c", 4000))])
    draft = Draft(load(model))
    draft.rename("c", "renamed")
    edited = finished(draft)
    assert edited.proto.graph.node[0].output == ["renamed"]
    assert edited.document.size < model.ByteSize() + 2000
    assert written(restore_source(edited)) == model.SerializeToString()


def test_a_removed_node_comes_back() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["unused"], doc_string="to be removed")]
    draft = drafted(*nodes)
    del draft.graph.nodes[0]
    edited = finished(draft)
    assert [node.op_type for node in edited.proto.graph.node] == ["Add"]
    assert written(restore_source(edited)) == exotic.plain(nodes).SerializeToString()


def test_removed_weights_cannot_come_back() -> None:
    draft = drafted(exotic.constant("c", exotic.tensor("c")))
    del draft.graph.nodes[0]
    with pytest.raises(ValueError, match="drops weights"):
        finished(draft)


def test_a_change_inside_a_subgraph_is_refused() -> None:
    draft = Draft(load(onnx.ModelProto.FromString(exotic.subgraphs())))
    draft.rename("w", "renamed")
    with pytest.raises(UnsupportedModelError, match="subgraph"):
        draft.finish()


@given(st.lists(st.integers(1, 4), max_size=12), st.lists(st.integers(0, 15), max_size=12, unique=True), st.integers(1, 5))
def test_splicing_changes_one_field_only(fields: list[int], wanted: list[int], field: int) -> None:
    """Whatever is wanted of one field stands there in that order, and the rest is what it was."""
    before = [Record.literal(number, bytes([index])) for index, number in enumerate(fields)]
    own = [record for record in before if record.field == field]
    new = [own[index] if index < len(own) else Record.literal(field, b"new") for index in wanted]
    after = splice_records(before, field, new)
    assert [record for record in after if record.field == field] == new
    assert [record for record in after if record.field != field] == [record for record in before if record.field != field]
