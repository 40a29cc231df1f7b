"""Prove the prover against faults of code that an edit uses: broken wherever it is bound, the wrong file still does not pass.

Each fault replaces a function in every module of graphsurgery that has it, proof included. Were a reference to use it, too, the
reference would expect the wrong file.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from conftest import FIXTURES, fixture_names
from encoders import FLOAT, FLOAT16, HIDDEN, IDS, MASK, TYPE_IDS, tiny_encoder
from interface_faults import Baked
from onnx import TensorProto, helper

import graphsurgery
from graphsurgery import (
    AddPooling,
    AddSpladePooling,
    AddWordWeights,
    DropInput,
    DynamicDim,
    KeepOutputs,
    OptionalInput,
    Rename,
    run,
)
from graphsurgery.edits import inputs, token_mask
from graphsurgery.edits.edit import Edit
from graphsurgery.encoder import flow, hidden_state, limits, roles
from graphsurgery.errors import GraphSurgeryError, RequestError, VerificationFailed
from graphsurgery.graph.graph import Graph
from graphsurgery.interface import Interface, Value
from graphsurgery.model.names import list_subgraphs
from graphsurgery.proof.inference import infer_types
from graphsurgery.proof.interface_check import count_embedding_rows
from graphsurgery.references.nested import find_dependents, list_all_nodes
from graphsurgery.report import Verdict

pytestmark = pytest.mark.usefixtures("all_feeds")


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, Any], None]:
    """Puts another function in the place of one, wherever graphsurgery has bound it."""

    def put(function: Any, other: Any) -> None:
        for name, module in list(sys.modules.items()):
            if name.split(".")[0] == "graphsurgery":
                for bound, value in list(vars(module).items()):
                    if value is function:
                        monkeypatch.setattr(module, bound, other)

    return put


def failed(edits: Edit | list[Edit], source: onnx.ModelProto, folder: Path, where: str) -> None:
    """Both the whole proof and that of a dry run, without the encoder's weights, say FAILED; ``where`` is the check."""
    for dry_run in (False, True):
        steps = edits if isinstance(edits, list) else [edits]
        with pytest.raises(VerificationFailed) as caught:
            run(steps, source, output=folder / "out.onnx", dry_run=dry_run)
        report = caught.value.outcome.report
        assert report.verdict is Verdict.FAILED
        assert {check.name: check.verdict for check in report.checks}[where] is Verdict.FAILED, report.to_json()
    assert not (folder / "out.onnx").exists()


def told(**more: Any) -> onnx.ModelProto:
    """An encoder that declares the values behind its token types."""
    model = tiny_encoder(inputs=[TYPE_IDS], **more)
    dims = ["batch", "sequence", 8]
    model.graph.value_info.extend(helper.make_tensor_value_info(name, FLOAT, dims) for name in ("token", "words"))
    return model


def branching() -> onnx.ModelProto:
    """An encoder in which only the branches of an If take the token types."""
    model = tiny_encoder(inputs=[TYPE_IDS])
    place, old = next((at, node) for at, node in enumerate(model.graph.node) if node.name == "types")
    branches = {
        f"{which}_branch": helper.make_graph(
            [helper.make_node("Gather", list(old.input), [which], which)], which, [],
            [helper.make_tensor_value_info(which, FLOAT, None)],
        )
        for which in ("then", "else")
    }  # fmt: skip
    always = helper.make_node("Constant", [], ["always"], "always", value=helper.make_tensor("t", TensorProto.BOOL, [], [True]))
    model.graph.node.remove(old)
    model.graph.node.insert(place, helper.make_node("If", ["always"], ["types"], "branch", **branches))
    model.graph.node.insert(place, always)
    return model


@pytest.mark.parametrize(
    "fewer", [lambda found: set(), lambda found: found - {"token"}, lambda found: found | {"words"}],
    ids=["nothing", "one too few", "one too many"],
)  # fmt: skip
def test_downstream(monkeypatch, tmp_path: Path, fewer: Callable[[set[str]], set[str]]) -> None:
    right = Graph.descendants

    def descendants(graph: Graph, values: Any) -> set[Any]:
        named = {value.name for value in right(graph, values)}
        return {graph.value(name) for name in fewer(named)}

    monkeypatch.setattr(Graph, "descendants", descendants)
    failed(OptionalInput(TYPE_IDS), told(), tmp_path, "encoder untouched")


@pytest.mark.parametrize("name", ["token", "bent", "biased"])
def test_another_hidden_state(broken, tmp_path: Path, name: str) -> None:
    right = hidden_state.find_hidden_state
    broken(right, lambda model, asked=None, ids=None, **more: right(model, asked or name, ids, **more))
    failed(AddPooling("mean"), tiny_encoder(), tmp_path, "as asked")


@pytest.mark.parametrize("asked", [None, "bent"], ids=["an output", "inside"])
@pytest.mark.parametrize("dim", ["sequence", "other", 4])
def test_another_batch_dim(broken, tmp_path: Path, asked: str | None, dim: str | int) -> None:
    right = hidden_state.find_hidden_state
    broken(right, lambda *given, **more: replace(right(*given, **more), batch=dim))
    failed(AddPooling("mean", hidden_state=asked), tiny_encoder(), tmp_path, "encoder untouched")


def test_a_wrong_inferred_type(broken, tmp_path: Path) -> None:
    """No cast is put before a head that needs one."""
    right = hidden_state.infer_values

    def inferred(model: graphsurgery.Model) -> Interface:
        return Interface((), tuple(Value(one.name, FLOAT, one.dims) for one in right(model).outputs))

    broken(right, inferred)
    failed(AddPooling("mean", hidden_state="bent"), tiny_encoder(dtype=FLOAT16), tmp_path, "head proof")


def test_nothing_inferred(broken, tmp_path: Path) -> None:
    """A cast too many changes no number; sizes that are baked in are followed through the graph without inference."""
    broken(hidden_state.infer_values, lambda _: Interface((), ()))
    steps = [AddPooling("mean", hidden_state="bent")]
    assert run(steps, tiny_encoder(dtype=FLOAT16), output=tmp_path / "out.onnx").report
    freed = run([DynamicDim(("batch", "sequence"))], Baked([]).source, output=tmp_path / "dynamic.onnx")
    assert freed.report and freed.report.verdict is Verdict.PASSED


@pytest.mark.parametrize("size", [4, 9, 1])
@pytest.mark.parametrize("edit", [AddPooling("mean"), AddSpladePooling(target=HIDDEN)], ids=lambda edit: edit.verb)
def test_a_wrong_width(broken, tmp_path: Path, edit: Edit, size: int) -> None:
    broken(flow.infer_last_dim, lambda *_: size)
    failed(edit, tiny_encoder(), tmp_path, "recorded edits")


def exchanged(interface: Interface, ids: str | None = None, mask: str | None = None) -> roles.Roles:
    """Ids and mask taken for each other."""
    found = RIGHT_ROLES(interface, ids, mask)
    return replace(found, ids=found.mask, mask=found.ids)


def types_for_mask(interface: Interface, ids: str | None = None, mask: str | None = None) -> roles.Roles:
    """Token types and mask taken for each other."""
    found = RIGHT_ROLES(interface, ids, mask)
    return replace(found, types=found.mask, mask=found.types)


def without_mask(interface: Interface, ids: str | None = None, mask: str | None = None) -> roles.Roles:
    """The mask is an input like any other."""
    found = RIGHT_ROLES(interface, ids, mask)
    return replace(found, mask=None, others=(*found.others, *([found.mask] if found.mask else [])))


RIGHT_ROLES = roles.find_roles


@pytest.mark.parametrize("roles_of", [exchanged, types_for_mask])
@pytest.mark.parametrize("edit", [AddPooling("mean"), AddSpladePooling(target=HIDDEN)], ids=lambda edit: edit.verb)
def test_another_mask(broken, tmp_path: Path, edit: Edit, roles_of: Any) -> None:
    broken(RIGHT_ROLES, roles_of)
    failed(edit, told(), tmp_path, "as asked")


def test_another_mask_than_asked_for(broken, tmp_path: Path) -> None:
    broken(token_mask.find_mask, lambda *_, **__: token_mask.Mask(token_mask.MaskSpec.parse(IDS), IDS))
    failed(AddPooling("mean", mask=MASK), tiny_encoder(), tmp_path, "as asked")


def test_a_mask_that_is_not_seen(broken, tmp_path: Path) -> None:
    """Nothing is pooled without one: no edit takes every position for a token by itself."""
    broken(RIGHT_ROLES, without_mask)
    with pytest.raises(RequestError, match="no attention mask"):
        run([AddPooling("mean")], told(), output=tmp_path / "out.onnx")


def test_another_fill(broken, tmp_path: Path) -> None:
    """A mask that nobody gives is zeros, as token types would be."""
    broken(RIGHT_ROLES, types_for_mask)
    failed([AddPooling("mean", mask=MASK), DropInput(MASK)], told(), tmp_path, "as asked")


def test_other_outputs_than_asked_for(broken, tmp_path: Path) -> None:
    broken(inputs.match_names, lambda names, asked: [*names][-1:])
    failed([AddPooling("mean", keep_output=(HIDDEN,)), KeepOutputs(("sentence_*",))], tiny_encoder(), tmp_path, "as asked")


@pytest.mark.parametrize("roles_of", [exchanged, types_for_mask, without_mask])
def test_freed_dims_by_wrong_roles(broken, tmp_path: Path, roles_of: Any) -> None:
    broken(RIGHT_ROLES, roles_of)
    with pytest.raises(GraphSurgeryError):
        run([DynamicDim(("batch", "sequence"))], Baked([]).source, output=tmp_path / "out.onnx")


def test_inner_nodes_that_are_not_seen(monkeypatch, tmp_path: Path) -> None:
    """An input that branches alone take is gone, and nothing stands in its place."""
    monkeypatch.setattr(Graph, "all_consumers", Graph.consumers)
    failed(DropInput(TYPE_IDS), branching(), tmp_path, "head proof")


def test_branches_that_are_not_seen(broken, tmp_path: Path) -> None:
    """The branches of an If go on taking an input by its old name."""
    broken(list_subgraphs, lambda _: [])
    failed(Rename((f"{TYPE_IDS}=kinds",)), branching(), tmp_path, "encoder untouched")


@pytest.mark.parametrize("rows", [None, 20], ids=["no table", "a smaller one"])
def test_a_smaller_vocabulary(broken, tmp_path: Path, rows: int | None) -> None:
    """Word weights for a part of the words: the drawn ids are of that part, too."""
    (tmp_path / "config.json").write_text(
        json.dumps({"vocab": ["a", "b"], "word_weights": {"a": 2.0}, "unknown_word_weight": 1})
    )
    right = limits.find_tables
    broken(right, lambda *given: replace(right(*given), vocabulary=rows))
    failed(AddWordWeights(str(tmp_path / "config.json")), tiny_encoder(), tmp_path, "encoder untouched")


def reached_in(graph: onnx.GraphProto, name: str) -> set[str]:
    """The names of what the edits know that ``name`` goes into."""
    read = Graph(onnx.ModelProto(graph=graph))
    return {value.name for value in read.descendants([read.value(name)])}


def outline(node: onnx.NodeProto) -> tuple[str, ...]:
    return (node.op_type, *node.input, "->", *node.output)


def names(inputs: Any, outputs: Any) -> tuple[str, ...]:
    return (*("" if value is None else value.name for value in inputs), "->", *(value.name for value in outputs))


@pytest.mark.parametrize("name", fixture_names())
def test_both_readings_agree(name: str) -> None:
    """What the proof reads by itself is what the edits read, as long as neither is broken."""
    model = graphsurgery.load(FIXTURES / name / "model.onnx")
    graph = model.proto.graph
    for value in model.interface.inputs:
        assert find_dependents(graph, value.name) == reached_in(graph, value.name) != set()
    read = [(node.op_type, *names(node.inputs, node.outputs)) for node in Graph.of(model).main.all_nodes()]
    assert sorted(map(outline, list_all_nodes(graph))) == sorted(read)
    found = hidden_state.find_hidden_state(model)
    assert infer_types(model)[found.name].dims[-1] == found.width
    assert count_embedding_rows(model, IDS) == limits.find_tables(model, roles.find_roles(model.interface)).vocabulary


@pytest.mark.parametrize("order", [1, -1], ids=["in order", "out of order"])
@pytest.mark.parametrize("reached", [reached_in, find_dependents], ids=["edits", "proof"])
def test_what_an_input_goes_into(reached: Any, order: int) -> None:
    """By way of a branch too, never by way of an input that is left out, and whatever the order of the nodes."""
    branch = helper.make_graph(
        [helper.make_node("Neg", ["b"], ["c"])], "then", [], [helper.make_tensor_value_info("c", FLOAT, None)]
    )
    chain = [
        helper.make_node("Abs", ["a"], ["b", ""]),
        helper.make_node("If", ["always"], ["d"], then_branch=branch, else_branch=branch),
        helper.make_node("Clip", ["other", "", ""], ["e"]),
        helper.make_node("Add", ["d", "other"], ["f"]),
    ]
    assert reached(onnx.GraphProto(node=chain[::order]), "a") == {"b", "d", "f"}
    long = [helper.make_node("Abs", [f"v{place}"], [f"v{place + 1}"]) for place in range(300)]
    assert len(reached(onnx.GraphProto(node=long[::order]), "v0")) == 300


def test_names_that_a_branch_has_for_itself() -> None:
    """What a branch makes is its own, whatever has the same name outside; what it only gives on is taken from outside."""
    value = helper.make_tensor_value_info("a", FLOAT, None)
    local = helper.make_graph(
        [helper.make_node("Relu", ["other"], ["a"]), helper.make_node("Neg", ["a"], ["c"])], "then", [], [value]
    )
    given = helper.make_graph([], "else", [], [value])
    for branch, wanted in ((local, set()), (given, {"d"})):
        node = helper.make_node("If", ["always"], ["d"], then_branch=branch, else_branch=branch)
        assert find_dependents(onnx.GraphProto(node=[node]), "a") == wanted
