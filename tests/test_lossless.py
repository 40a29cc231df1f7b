"""Loading and saving a file loses nothing; an edit changes what it says and nothing else; taking it back gives the source."""

from __future__ import annotations

import shutil
from pathlib import Path

import exotic
import onnx
import onnx_graphsurgeon as gs
import pytest
from conftest import FIXTURES, corpus_models, corpus_params, fixture_names
from keeping import appended, check_kept, check_way_back, finished, make_external, proto_of, weights, without_places
from onnx import helper
from protobuf_fields import differences

import graphsurgery
from graphsurgery.edits import token_mask
from graphsurgery.edits.strip_head import restore_source
from graphsurgery.errors import MissingDataError
from graphsurgery.model.draft import Draft
from graphsurgery.model.loading import load
from graphsurgery.model.provenance import read_steps
from graphsurgery.model.saving import save

FIXED = [pytest.param(FIXTURES / name / "model.onnx", id=name) for name in fixture_names()]
FILES = [*corpus_params(), *FIXED]
POOLED = {
    "egeria-minilm-dynamo-noweights", "encoderfile-embedding", "ort-gpt2-nopast-pt14", "vespa-dummy-transformer",
    "vespa-dummy-transformer-notype", "vespa-sample-transformer-ranker", "vespa-t5-random-encoder",
}  # fmt: skip
"""The third-party models that have a hidden state to pool without further ado."""
EDITABLE = sorted(set(exotic.KINDS) - set(exotic.NOT_EDITABLE))


@pytest.fixture
def source(path: Path, tmp_path: Path) -> Path:
    """A copy of the model at ``path``, with the data files beside it, in a folder of its own."""
    folder = tmp_path / "source"
    folder.mkdir()
    for beside in path.parent.iterdir():
        if beside.suffix != ".json" and beside.is_file():
            shutil.copyfile(beside, folder / beside.name)
    return folder / path.name


@pytest.fixture
def odd(kind: str, tmp_path: Path) -> Path:
    """A file with exotic content of that kind."""
    path = tmp_path / "model.onnx"
    path.write_bytes(exotic.KINDS[kind]())
    return path


# Nothing is lost without an edit


@pytest.mark.parametrize("path", FILES)
def test_saved_beside_the_source_it_is_the_same_file(path: Path, source: Path) -> None:
    before = {beside: beside.read_bytes() for beside in source.parent.iterdir()}
    saved = save(load(source), source.with_name("saved.onnx"))
    assert list(differences(proto_of(source), proto_of(saved.path))) == []
    assert saved.path.read_bytes() == path.read_bytes()
    assert saved.data is None and saved.bytes_written == path.stat().st_size
    saved.path.unlink()
    assert {beside: beside.read_bytes() for beside in source.parent.iterdir()} == before


@pytest.mark.parametrize("path", FILES)
def test_saved_elsewhere_only_the_place_of_data_differs(path: Path, source: Path, tmp_path: Path) -> None:
    model = load(source)
    if model.missing_data:
        with pytest.raises(MissingDataError):
            save(model, tmp_path / "saved.onnx")
        assert list(tmp_path.iterdir()) == [source.parent]
        return
    saved = load(save(model, tmp_path / "saved.onnx").path)
    assert list(differences(without_places(proto_of(source)), without_places(proto_of(saved.path)))) == []
    assert weights(saved) == weights(model)
    assert (saved.path.read_bytes() == path.read_bytes()) == (not model.files)
    assert restore_source(saved).fingerprint == model.fingerprint


@pytest.mark.parametrize("kind", exotic.KINDS)
def test_exotic_content_is_kept(kind: str, odd: Path) -> None:
    saved = save(load(odd), odd.with_name("saved.onnx")).path
    assert list(differences(proto_of(odd), proto_of(saved))) == []
    assert saved.read_bytes() == odd.read_bytes() == exotic.KINDS[kind]()


def test_the_comparison_sees_every_difference() -> None:
    """What these tests rest on: a field that is dropped, at any depth, known or not, is named."""
    before, after = (onnx.ModelProto.FromString(exotic.metadata()) for _ in range(2))
    after.graph.input[0].type.tensor_type.shape.dim[0].ClearField("denotation")
    assert list(differences(before, after)) == ["ModelProto.graph.input[0].type.tensor_type.shape.dim[0].denotation (lost)"]
    before, after = (onnx.ModelProto.FromString(exotic.unknown_fields()) for _ in range(2))
    after.graph.node[1].DiscardUnknownFields()
    assert list(differences(before, after)) == ["ModelProto.graph.node[1] (unknown fields)"]


# An edit changes what it says, and can be taken back


@pytest.mark.parametrize("path", FILES)
def test_an_appended_node_is_all_that_differs(path: Path, source: Path) -> None:
    edited = appended(load(source))
    saved = save(edited, source.with_name("saved.onnx"))
    check_kept(path.read_bytes(), saved.path.read_bytes())
    check_way_back(edited, path.read_bytes(), source.parent)


@pytest.mark.parametrize(
    "path", [*(path for path in corpus_models() if path.parent.name in POOLED), *FIXED], ids=lambda path: path.parent.name
)
def test_pooling_touches_nothing_but_the_outputs(path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_mask, "require_batch_first", lambda *_: None)  # three of them attend along the batch
    edited = graphsurgery.add_pooling(source, mode="mean", mask="ones", normalize=True)
    saved = save(edited, source.with_name("saved.onnx"))
    check_kept(path.read_bytes(), saved.path.read_bytes(), outputs=False)
    check_way_back(edited, path.read_bytes(), source.parent)


@pytest.mark.parametrize("kind", EDITABLE)
def test_exotic_content_survives_an_edit(kind: str, odd: Path) -> None:
    edited = appended(load(odd))
    saved = save(edited, odd.with_name("saved.onnx"))
    check_kept(odd.read_bytes(), saved.path.read_bytes())
    check_way_back(edited, odd.read_bytes(), odd.parent)


@pytest.mark.parametrize("kind", EDITABLE)
def test_two_edits_are_taken_back(kind: str, odd: Path) -> None:
    """The second one made on the saved file of the first; or both before anything is saved."""
    first = save(appended(load(odd)), odd.with_name("first.onnx"))
    second = appended(load(first.path))
    assert len(read_steps(second.proto)) == 2
    check_way_back(second, odd.read_bytes(), odd.parent)
    assert restore_source(appended(appended(load(odd)))).fingerprint == load(odd).fingerprint


@pytest.mark.parametrize("kind", EDITABLE)
def test_a_changed_node_keeps_its_other_fields(kind: str, odd: Path) -> None:
    """Each node in turn gets another name: all else in it stays, and the way back is exact."""
    for index in range(len(proto_of(odd).graph.node)):
        draft = Draft(load(odd))
        draft.graph.nodes[index].name = "renamed"
        edited = finished(draft)
        before, after = proto_of(odd), edited.to_proto()
        after.metadata_props.pop()
        before.graph.node[index].name = "renamed"
        assert list(differences(before, after)) == []
        assert restore_source(edited).fingerprint == load(odd).fingerprint


# Models from memory


@pytest.mark.parametrize("kind", exotic.KINDS)
def test_a_proto_is_kept(kind: str, odd: Path) -> None:
    proto = proto_of(odd)
    before = proto.SerializeToString()
    saved = save(load(proto), odd.with_name("saved.onnx")).path
    assert saved.read_bytes() == before == proto.SerializeToString()
    assert list(differences(load(proto).to_proto(), proto)) == []


def external(folder: Path) -> onnx.ModelProto:
    """y = x + w + e, with e in a data file."""
    model = exotic.plain([helper.make_node("Add", ["x", "e"], ["x_e"])])
    model.graph.node[1].input[0] = "x_e"
    held = exotic.tensor("e", seed=9)
    folder.mkdir()
    (folder / "e.bin").write_bytes(held.raw_data)
    make_external(held, {"location": "e.bin"})
    model.graph.initializer.append(held)
    return model


@pytest.mark.parametrize("kind", ["ModelProto", "gs.Graph"])
def test_external_data_of_a_model_in_memory(kind: str, tmp_path: Path) -> None:
    proto = external(tmp_path / "data")
    given = proto if kind == "ModelProto" else gs.import_onnx(proto)
    model = load(given, folder=tmp_path / "data")
    assert {"w", "e"} == set(model.initializers)
    edited = appended(model)
    beside = load(save(edited, tmp_path / "data" / "beside.onnx").path)
    elsewhere = load(save(edited, tmp_path / "elsewhere.onnx").path)
    for saved in (beside, elsewhere):
        for name in ("w", "e"):
            assert saved.values(saved.initializers[name]).tobytes() == exotic.tensor(name, seed=9 * (name == "e")).raw_data
        assert restore_source(saved).fingerprint == model.fingerprint
    assert graphsurgery.strip_head(beside).to_proto() == model.to_proto()
    assert saved.folder == tmp_path and weights(elsewhere) == weights(beside)


def test_external_data_in_memory_without_a_folder(tmp_path: Path) -> None:
    """Nobody said where they lie: not beside the output, by chance."""
    model = load(external(tmp_path / "data"))
    with pytest.raises(MissingDataError):
        save(model, tmp_path / "data" / "saved.onnx")
    assert list((tmp_path / "data").iterdir()) == [tmp_path / "data" / "e.bin"]
