"""inspect, who can read a file, the folder's pooling config, and what a graph tells about itself."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import onnx
import pytest
from branches import with_branches
from conftest import FIXTURES, corpus_params, fixture_names
from encoders import HIDDEN, tiny_encoder

import graphsurgery
from graphsurgery.cli.main import run
from graphsurgery.consumers import check_consumers
from graphsurgery.encoder.flow import infer_last_dim
from graphsurgery.encoder.hidden_state import find_hidden_state, infer_values
from graphsurgery.encoder.limits import find_tables
from graphsurgery.encoder.roles import find_roles
from graphsurgery.errors import NothingToPoolError, RequestError
from graphsurgery.folders.pooling_config import BOOLEANS, find_pooling_config
from graphsurgery.graph.graph import Graph
from graphsurgery.interface import Interface, Value
from graphsurgery.proof.inference import infer_types


@pytest.mark.parametrize("name", fixture_names())
def test_fixtures_are_read_right(name: str) -> None:
    """Vocabulary, positions, layers and width as the folder's own config.json has them."""
    folder = FIXTURES / name
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    found = graphsurgery.inspect(folder / "model.onnx")
    assert found.tables.vocabulary == config["vocab_size"]
    assert found.layers == config.get("num_hidden_layers", config.get("num_layers"))
    assert found.hidden is not None and found.hidden.width == config.get("hidden_size", config.get("d_model"))
    rotary = name.removesuffix("-dynamo") in ("modernbert", "qwen3", "t5")
    assert found.tables.positions == (None if rotary else config["max_position_embeddings"])
    assert found.pools is None and not found.warnings
    json.dumps(found.to_json())


def test_operators_are_counted_with_their_weights(capsys: pytest.CaptureFixture[str]) -> None:
    """All nodes are counted, those of branches too. An operator's weights are those that it reads."""
    path = FIXTURES / "bert" / "model.onnx"
    found = graphsurgery.inspect(path)
    counts = {one.name: one for one in found.operators}
    assert sum(one.nodes for one in found.operators) == found.nodes
    assert [one.nodes for one in found.operators] == sorted((one.nodes for one in found.operators), reverse=True)
    sizes = {one.name: len(one.raw_data) for one in onnx.load(path).graph.initializer}
    gathers = {name for node in onnx.load(path).graph.node if node.op_type == "Gather" for name in node.input}
    assert counts["Gather"].weight_bytes == sum(size for name, size in sizes.items() if name in gathers) > 0
    assert counts["MatMul"].weight_bytes > 0 and counts["Softmax"].weight_bytes == 0
    branched = graphsurgery.inspect(with_branches(path, HIDDEN, "local"))
    assert sum(one.nodes for one in branched.operators) > branched.nodes
    assert run(["inspect", str(path), "--ops"]) == 0
    (line,) = (one for one in capsys.readouterr().out.splitlines() if one.split()[:1] == ["Softmax"])
    assert line.split() == ["Softmax", str(counts["Softmax"].nodes), "-"]


@pytest.mark.parametrize("path", corpus_params())
def test_corpus_is_inspected(path: Path) -> None:
    """Every third-party model can be looked at, and what cannot be pooled says why."""
    found = graphsurgery.inspect(path)
    assert (found.hidden is None) == (found.why_not is not None)
    assert found.interface.outputs
    json.dumps(found.to_json())


def test_the_head_is_found() -> None:
    pooled = graphsurgery.add_pooling(FIXTURES / "bert" / "model.onnx", mode="cls", normalize=True)
    found = graphsurgery.inspect(pooled)
    assert found.pools is not None and "cls" in found.pools
    assert found.head[0]["parameters"]["normalize"] is True


def test_width_comes_from_the_weights_and_not_from_the_declaration() -> None:
    proto = onnx.load(FIXTURES / "bert" / "model.onnx")
    proto.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 768
    model = graphsurgery.load(proto)
    graph = Graph.of(model)
    assert infer_last_dim(graph, graph.value("last_hidden_state")) == 32
    assert any("declared 768 wide" in warning for warning in graphsurgery.inspect(model).warnings)
    assert graphsurgery.add_pooling(model, mode="mean").interface.outputs[0].dims == ("batch_size", 32)


@pytest.mark.parametrize(("rows", "width", "found"), [(64, 6, 64), (64, 5, None), (3, 6, None)])
def test_word_vectors_may_be_narrower_than_positions(rows: int, width: int, found: int | None) -> None:
    """Positions are as wide as token types where the words' vectors are widened first, as in MobileBERT."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
    e (int64[b, s] input_ids, int64[b, s] token_type_ids) => (float[b, s, 2] words, float t, float p)
    <int64[1] place = {0}>
    { words = Gather (table, input_ids) t = Gather (kinds, token_type_ids) p = Gather (places, place) }"""
    proto = onnx.parser.parse_model(text)
    for name, dims in (("table", (20, 2)), ("kinds", (2, 6)), ("places", (rows, width))):
        proto.graph.initializer.append(onnx.helper.make_tensor(name, 1, dims, [0.0] * (dims[0] * dims[1])))
    model = graphsurgery.load(proto)
    assert find_tables(model, find_roles(model.interface)).positions == found


def test_tables_of_ids_that_are_added_up() -> None:
    """Where the sum of ids and types is looked up, there is room for the types in the table."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
    e (int64[b, s] input_ids, int64[b, s] token_type_ids) => (float[b, s, 2] last_hidden_state)
    { sum = Add (input_ids, token_type_ids)
       last_hidden_state = Gather (table, sum) }"""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(onnx.helper.make_tensor("table", 1, [20, 2], [0.0] * 40))
    model = graphsurgery.load(proto)
    assert find_tables(model, find_roles(model.interface)).vocabulary == 19


def reads(model: graphsurgery.Model) -> set[str]:
    return {reading.consumer for reading in check_consumers(model.interface) if reading.reads}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"input_ids": ("ids", 7, ("batch", "seq"))}, "feeds no ids"),
        ({"input_ids": ("input_ids", 6, ("batch", "seq"))}, "int64"),
        ({"task_id": ("task_id", 7, ())}, "[batch, seq] only"),
        ({"past": ("past", 1, ("batch", 2, "past", 16))}, "[batch, seq] only"),
        ({"input_ids": ("input_ids", 7, (1, 128))}, "dynamic-dim"),
    ],
)  # fmt: skip
def test_inputs_that_nobody_feeds(change: dict[str, tuple[str, int, tuple]], word: str) -> None:
    """A file is read by those that feed its inputs: their names, types, ranks and sizes decide as well."""
    usual = {name: (name, 7, ("batch", "seq")) for name in ("input_ids", "attention_mask")}
    outputs = (Value("last_hidden_state", 1, ("batch", "seq", 32)),)
    readings = check_consumers(Interface(tuple(Value(*one) for one in (usual | change).values()), outputs))
    unfed = [one for one in readings if word in one.detail]
    assert len(unfed) >= len(readings) - 1 and not any(one.reads for one in unfed)
    readings = check_consumers(Interface(tuple(Value(*one) for one in usual.values()), outputs))
    assert [one.consumer for one in readings if not one.reads] == ["txtai"]  # it does not pool


def test_who_reads_what() -> None:
    """As the table of consumers has it: token embeddings for those that pool, vectors for those that do not have to."""
    encoder = graphsurgery.load(FIXTURES / "bert" / "model.onnx")
    pooled = graphsurgery.add_pooling(encoder, mode="mean")
    both = graphsurgery.add_pooling(encoder, mode="mean", keep_output=["last_hidden_state"])
    pools_itself = {"sentence-transformers (ONNX backend)", "transformers.js", "langchain4j", "Spring AI", "infinity"}
    takes_vectors = {"text-embeddings-inference", "Vespa", "OpenSearch ml-commons", "fastembed"}
    assert reads(encoder) == pools_itself | takes_vectors
    assert reads(pooled) == takes_vectors | {"txtai"}  # it does not pool, and takes one output
    # langchain4j takes the first output alone; OpenSearch takes the second of several where it does not pool
    assert reads(both) == (pools_itself | takes_vectors) - {"langchain4j", "OpenSearch ml-commons"}
    half = graphsurgery.load(FIXTURES / "bert-fp16" / "model.onnx")
    assert reads(half) == set()


@pytest.mark.parametrize(
    ("config", "modes"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False, "word_embedding_dimension": 4}, ("mean",)),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, ("cls", "mean")),
        ({"pooling_mode": "lasttoken", "embedding_dimension": 4}, ("lasttoken",)),
        ({"pooling_mode": ["mean", "cls"], "embedding_dimension": 4}, ("mean", "cls")),
        ({"pooling_mode": "max", "pooling_mode_mean_tokens": False}, ("max",)),
    ],
)
@pytest.mark.parametrize("model", ["model.onnx", "onnx/model.onnx"])
def test_both_forms_of_the_pooling_config(config: dict, modes: tuple[str, ...], model: str, tmp_path: Path) -> None:
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    found = find_pooling_config(tmp_path / model)
    assert found is not None and found.modes == modes


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "{}", '{"pooling_mode": "median"}', '{"pooling_mode": 3}', '{"pooling_mode": []}']
)
def test_a_broken_pooling_config_is_a_typed_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(RequestError) as refused:
        find_pooling_config(tmp_path / "model.onnx")
    assert "--mode" in refused.value.advice
    model = tmp_path / "model.onnx"
    model.write_bytes((FIXTURES / "t5" / "model.onnx").read_bytes())
    with pytest.raises(RequestError):
        graphsurgery.add_pooling(model)
    assert graphsurgery.add_pooling(model, mode="mean").warnings


def test_pooling_modes_have_one_list() -> None:
    from graphsurgery.edits.pooling_graph import MODES

    assert set(MODES) == {*BOOLEANS.values(), "statistics"}  # no sentence-transformers config names statistics


def test_a_softmax_of_the_head_is_no_attention() -> None:
    pooled = graphsurgery.add_pooling(FIXTURES / "bert" / "model.onnx", mode="mean")
    assert graphsurgery.inspect(graphsurgery.add_activation(pooled, "softmax")).layers == 3
    assert graphsurgery.inspect(tiny_encoder()).layers == 0  # its Softmax weighs nothing


@pytest.mark.parametrize(
    ("name", "is_scores"),
    [
        ("logits", True), ("start_logits", True), ("startLogits", True), ("lmlogits", True), ("end_positions", True),
        ("scores.1", True), ("tokenScores", True), ("START", True), ("class-probs", True), ("end", True),
        ("blended", False), ("attended_states", False), ("appended_output", False), ("hidden_extended", False),
        ("restarted", False), ("underscores", False), ("backend_states", False), ("Endpoint", False),
    ],
)  # fmt: skip
def test_names_of_scores(name: str, is_scores: bool) -> None:
    """An output with a score's name is not pooled unless it is asked for; other outputs of the right shape are."""
    model = graphsurgery.load(tiny_encoder(names={HIDDEN: name}))
    if not is_scores:
        assert find_hidden_state(model).name == name
        return
    with pytest.raises(NothingToPoolError):
        find_hidden_state(model)
    assert find_hidden_state(model, name).name == name


def test_what_inference_refuses_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Without inference the types are unknown. Why that is so can be read at debug level."""
    proto = tiny_encoder()
    proto.graph.node.append(onnx.helper.make_node("Reshape", [], ["broken"]))
    model = graphsurgery.load(proto)
    with caplog.at_level(logging.DEBUG, logger="graphsurgery"):
        assert infer_values(model).outputs == () and infer_types(model) == {}
    said = [record.name for record in caplog.records if "onnx cannot infer" in record.message]
    assert said == ["graphsurgery.encoder.hidden_state", "graphsurgery.proof.inference"]


UNSORTED = "nodes are not topologically sorted"
EMBEDDED = "/embeddings/LayerNorm/LayerNormalization_output_0"


def unsorted(model: onnx.ModelProto) -> bool:
    return any(UNSORTED in warning for warning in graphsurgery.inspect(model).warnings)


def test_nodes_that_stand_before_what_their_subgraphs_take() -> None:
    """What a branch takes from around it has to be there before; a name of its own has not; within it the same holds."""
    model = with_branches(FIXTURES / "bert" / "model.onnx", EMBEDDED, "/encoder/layer.0/attention/self/query/MatMul_output_0")
    assert not unsorted(model)
    place = next(place for place, node in enumerate(model.graph.node) if node.op_type == "If")
    early, late = onnx.ModelProto(), onnx.ModelProto()
    early.CopyFrom(model)
    branches = early.graph.node.pop(place)
    early.graph.node.insert(0, branches)
    assert unsorted(early)
    late.CopyFrom(model)
    inner = late.graph.node[place].attribute[0].g.node
    inner.append(inner.pop(0))
    assert unsorted(late)
    for wrong in (early, late):
        with pytest.raises(onnx.checker.ValidationError):
            onnx.checker.check_model(wrong)
