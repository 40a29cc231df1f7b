"""The library calls: what they take, what they leave alone, what they record."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
import pytest
from conftest import FIXTURES

import graphsurgery
from graphsurgery.edits import pooling_graph
from graphsurgery.errors import (
    AlreadyAppliedError,
    NameNotFoundError,
    NoHeadError,
    RequestError,
    SurroundingsError,
    UnsupportedModelError,
    VerificationFailed,
)

BERT = FIXTURES / "bert" / "model.onnx"


def entries(model: graphsurgery.Model) -> list[dict]:
    """The recorded edits of a model."""
    return [json.loads(entry.value) for entry in model.proto.metadata_props if entry.key.startswith("graphsurgery.step.")]


def embed(model: onnx.ModelProto) -> np.ndarray:
    ids = np.array([[2, 17, 30, 3], [2, 5, 3, 0]])
    feeds = {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64), "token_type_ids": np.zeros_like(ids)}
    return onnxruntime.InferenceSession(model.SerializeToString()).run(["sentence_embedding"], feeds)[0]


def test_a_path_a_proto_and_a_graph_give_the_same() -> None:
    proto = onnx.load(BERT)
    sources = (BERT, str(BERT), proto, gs.import_onnx(proto), graphsurgery.load(BERT))
    vectors = [embed(graphsurgery.add_pooling(source, mode="mean", normalize=True).to_proto()) for source in sources]
    for vector in vectors[1:]:
        np.testing.assert_array_equal(vector, vectors[0])


def test_edits_leave_their_model_alone() -> None:
    model = graphsurgery.load(BERT)
    before = model.proto.SerializeToString()
    pooled = graphsurgery.add_pooling(model, mode="mean")
    again = pooled.proto.SerializeToString()
    graphsurgery.add_normalize(pooled)
    assert model.proto.SerializeToString() == before and pooled.proto.SerializeToString() == again
    assert model.interface.output("last_hidden_state") and not pooled.interface.output("last_hidden_state")


def test_modes_as_text_or_sequence_are_the_same() -> None:
    one, other = (graphsurgery.add_pooling(BERT, mode) for mode in ("cls,mean", ("cls", "mean")))
    assert one.fingerprint == other.fingerprint


def test_what_is_recorded(tmp_path: Path) -> None:
    """The edit, its resolved parameters, the version and the source's fingerprint; weights only when asked for."""
    source = graphsurgery.load(BERT)
    (entry,) = entries(graphsurgery.add_pooling(source))
    assert (entry["edit"], entry["version"], entry["source"]) == ("add-pooling", graphsurgery.__version__, source.fingerprint)
    assert entry["parameters"]["mode"] == "mean" and entry["parameters"]["mask"] == "attention_mask"
    assert "weights" not in entry
    done = graphsurgery.run(
        [graphsurgery.AddPooling("cls"), graphsurgery.AddNormalize()], BERT, output=tmp_path / "o.onnx", hash_weights=True
    )
    first, second = entries(graphsurgery.load(done.output))
    assert first["weights"] == second["weights"] == source.weights_fingerprint()
    assert second["edit"] == "add-normalize" and second["source"] != first["source"]


def test_the_fingerprint_follows_the_graph_and_not_the_weights() -> None:
    """Other weights, same fingerprint; another small constant, node or name, another fingerprint."""
    proto = onnx.load(BERT)
    large = next(tensor for tensor in proto.graph.initializer if len(tensor.raw_data) >= 1024)
    large.raw_data = bytes(len(large.raw_data))
    base = graphsurgery.load(BERT)
    assert graphsurgery.load(proto).fingerprint == graphsurgery.load(onnx.load(BERT)).fingerprint
    assert graphsurgery.load(proto).weights_fingerprint() != base.weights_fingerprint()
    proto.graph.node[0].name += "x"
    assert graphsurgery.load(proto).fingerprint != graphsurgery.load(onnx.load(BERT)).fingerprint


def test_the_same_request_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        graphsurgery.run([graphsurgery.AddPooling("mean", normalize=True)], BERT, output=tmp_path / name)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_a_second_time_is_refused() -> None:
    pooled = graphsurgery.add_pooling(BERT, mode="mean", normalize=True)
    with pytest.raises(AlreadyAppliedError, match="record add-pooling"):
        graphsurgery.add_pooling(pooled, mode="mean")
    with pytest.raises(AlreadyAppliedError, match="already normalised"):
        graphsurgery.add_normalize(pooled)
    with pytest.raises(NoHeadError):
        graphsurgery.strip_head(graphsurgery.strip_head(pooled))


def test_a_renamed_head_is_still_known_by_its_metadata() -> None:
    pooled = graphsurgery.add_pooling(BERT, mode="mean", output_name="vector", keep_output=["last_hidden_state"])
    with pytest.raises(AlreadyAppliedError):
        graphsurgery.add_pooling(pooled, mode="cls")


def test_refusals_say_what_there_is() -> None:
    for arguments, error, words in (
        ({"hidden_state": "nope"}, NameNotFoundError, "last_hidden_state"),
        ({"keep_output": ["pooler_output"]}, NameNotFoundError, "last_hidden_state"),
        ({"mask": "nope"}, NameNotFoundError, "attention_mask"),
        ({"ids": "nope"}, NameNotFoundError, "input_ids"),
        ({"mask": "pad:x"}, RequestError, "pad:0"),
        ({"mode": "median"}, RequestError, "weightedmean"),
        ({"mode": ""}, RequestError, "weightedmean"),
        ({"output_name": "input_ids"}, RequestError, "--output-name"),
    ):
        with pytest.raises(error) as refused:
            graphsurgery.add_pooling(BERT, **({"mode": "mean"} | arguments))
        assert words in refused.value.advice, (arguments, refused.value.advice)


def test_run_raises_with_the_report_when_the_proof_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pooling_graph.MODES, "cls", pooling_graph.MODES["lasttoken"])
    with pytest.raises(VerificationFailed) as failed:
        graphsurgery.run([graphsurgery.AddPooling("cls")], BERT, output=tmp_path / "o.onnx")
    assert isinstance(failed.value.outcome, graphsurgery.Outcome)
    assert failed.value.outcome.report is not None and failed.value.outcome.report.verdict is graphsurgery.Verdict.FAILED
    assert not list(tmp_path.iterdir())


def test_run_needs_steps_and_a_place(tmp_path: Path) -> None:
    with pytest.raises(RequestError):
        graphsurgery.run([], BERT)
    with pytest.raises(RequestError, match="from memory"):
        graphsurgery.run([graphsurgery.AddPooling("mean")], onnx.load(BERT))
    with pytest.raises(SurroundingsError, match="does not exist"):
        graphsurgery.run([graphsurgery.AddPooling("mean")], BERT, output=tmp_path / "no" / "where.onnx")
    done = graphsurgery.run([graphsurgery.AddPooling("mean")], onnx.load(BERT), output=tmp_path / "o.onnx")
    assert done.report and done.saved is not None and done.saved.bytes_written == done.output.stat().st_size


def test_load_refuses_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(RequestError):
        graphsurgery.load(42)
    with pytest.raises(SurroundingsError, match="folder"):
        graphsurgery.load(tmp_path)
    with pytest.raises(SurroundingsError):
        graphsurgery.load(tmp_path / "no.onnx")


def test_opset_below_eleven_is_refused() -> None:
    proto = onnx.load(BERT)
    proto.opset_import[0].version = 10
    with pytest.raises(UnsupportedModelError, match="opset 10"):
        graphsurgery.add_pooling(proto, mode="mean")


def test_values_and_complete_protos() -> None:
    """`Model.values` reads a weight where it lies, `to_proto` and `to_graph` give everything."""
    for name in ("bert", "bert-external", "bert-fp16"):
        path = FIXTURES / name / "model.onnx"
        model, complete = graphsurgery.load(path), onnx.load(path)
        for tensor in complete.graph.initializer:
            expected = onnx.numpy_helper.to_array(tensor)
            np.testing.assert_array_equal(model.values(model.initializers[tensor.name]), expected)
    assert graphsurgery.load(BERT).to_proto() == onnx.load(BERT)
    assert len(graphsurgery.load(BERT).to_graph().nodes) == len(onnx.load(BERT).graph.node)
