"""The way back that a file records: exact wherever the weights went meanwhile, and refused where it does not fit the file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import exotic
import onnx
import pytest
from effort import at_most_calls
from keeping import (
    appended,
    check_kept,
    check_way_back,
    graph_records,
    make_external,
    proto_of,
    weights,
    without_places,
    written,
)
from onnx import AttributeProto, helper
from protobuf_fields import content, differences, field, records

import graphsurgery
from graphsurgery.edits.strip_head import restore_source
from graphsurgery.errors import NoHeadError
from graphsurgery.model.loading import load
from graphsurgery.model.model import Model
from graphsurgery.model.provenance import MOVE, PREFIX, read_steps, record_edit
from graphsurgery.model.saving import save

pytestmark = pytest.mark.usefixtures("loaded_anew")
Files = dict[str, tuple[int, ...]]
ARRANGEMENTS: dict[str, tuple[Files, dict[str, bool]]] = {
    "one file": ({"weights.bin": (400, 3, 500)}, {}),
    "several files": ({"a.bin": (1024, 1024), "b.bin": (400,), "c.bin": (7, 2048)}, {}),
    "a file per tensor, no offsets": ({"a.bin": (400,), "b.bin": (400,), "c.bin": (5,)}, {"offsets": False}),
    "subfolders": ({"sub/a.bin": (400,), "sub/deeper/b.bin": (400,), "./c.bin": (3,)}, {}),
    "named like the output's": ({"a.bin": (400,), "edited.onnx.data": (300,), "z.bin": (20,)}, {}),
    "empty tensors": ({"a.bin": (0,), "b.bin": (1024, 0), "c.bin": (0, 4)}, {}),
    "encoded oddly": ({"a.bin": (400, 2), "b.bin": (400, 5)}, {"odd": True}),
}


def with_data(folder: Path, files: Files, *, offsets: bool = True, odd: bool = False) -> Path:
    """A model with tensors of so many elements in each file; ``odd``: as no library would encode them."""
    model = exotic.plain()
    for location, sizes in files.items():
        (folder / location).parent.mkdir(parents=True, exist_ok=True)
        with (folder / location).open("wb") as data:
            for index, size in enumerate(sizes):
                held = exotic.tensor(f"{location}/{index}", size, seed=len(location) + index)
                offset = f"{'00' if odd else ''}{data.tell()}"
                place = {"location": location, "offset": offset, "length": str(4 * size)}
                data.write(held.raw_data)
                make_external(held, place if offsets else {"location": location})
                model.graph.initializer.append(held)
    made = model.SerializeToString()
    if odd:
        made = exotic.with_graph(made, lambda graph: b"".join(backwards(*record) for record in records(graph)))
    (folder / "model.onnx").write_bytes(made)
    return folder / "model.onnx"


def backwards(number: int, record: bytes, only: int = exotic.INITIALIZER) -> bytes:
    """A record with its fields in the other order and longer lengths than need be; records of another number as they are."""
    if number != only:
        return record
    inner = [field(n, content(r), 2) if r[0] & 7 == 2 else r for n, r in reversed(records(content(record)))]
    return field(number, b"".join(inner), 3)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_external_data_beside_the_output_stay(name: str, tmp_path: Path) -> None:
    files, how = ARRANGEMENTS[name]
    path = with_data(tmp_path, files, **how)
    edited = appended(load(path))
    saved = save(edited, tmp_path / "saved.onnx")
    assert saved.data is None
    check_kept(path.read_bytes(), saved.path.read_bytes())
    check_way_back(edited, path.read_bytes(), tmp_path)


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_external_data_move_and_come_back(name: str, tmp_path: Path) -> None:
    """Edited and saved elsewhere, twice: weights bit for bit, and what the undone file was is known to the last byte."""
    files, how = ARRANGEMENTS[name]
    source = load(with_data(tmp_path / "source", files, **how))
    model = source
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        model = load(save(appended(model), folder / "edited.onnx").path)
        assert names_in(folder) == ["edited.onnx", "edited.onnx.data"]
        assert weights(model) == weights(source)
    assert [step.edit for step in read_steps(model.proto)] == ["draft", MOVE] * 2
    assert restore_source(model).fingerprint == source.fingerprint
    assert written(restore_source(model)) == source.path.read_bytes()
    stripped = load(save(graphsurgery.strip_head(model), tmp_path / "two" / "stripped.onnx").path)
    assert weights(stripped) == weights(source)
    assert list(differences(without_places(proto_of(stripped.path)), without_places(proto_of(source.path)))) == []
    assert names_in(tmp_path / "two") == ["edited.onnx", "edited.onnx.data", "stripped.onnx"]


def test_what_moves_beside_a_large_payload_comes_back(tmp_path: Path) -> None:
    """Of a node with data both outside and inside, encoded oddly, the way back takes the payloads from the file itself."""
    path = with_data(tmp_path / "source", {"a.bin": (400,)})
    model = proto_of(path)
    made = model.graph.node.add(op_type="Make", domain="custom", output=["made"])
    tensors = made.attribute.add(name="values", type=AttributeProto.TENSORS).tensors
    tensors.extend([exotic.tensor("large", 4000), model.graph.initializer[1], exotic.tensor("other", 500)])
    odd = [backwards(*record, only=exotic.NODE) for record in graph_records(model.SerializeToString())]
    path.write_bytes(exotic.with_graph(model.SerializeToString(), lambda _: b"".join(odd)))
    moved = load(save(appended(load(path)), tmp_path / "edited.onnx").path)
    assert moved.path.stat().st_size < path.stat().st_size + 4000
    assert written(restore_source(moved)) == path.read_bytes()


def test_a_number_that_is_taken_is_not_given_again() -> None:
    """Keys of metadata must differ: an entry of ours that cannot be read still has its number."""
    proto = exotic.plain()
    for key, text in (("graphsurgery.step.7", "not JSON"), ("graphsurgery.step.x", "{}"), ("graphsurgery.step.", "{}")):
        proto.metadata_props.add(key=key, value=text)
    edited = appended(load(proto))
    assert edited.proto.metadata_props[-1].key == "graphsurgery.step.8"
    assert len(read_steps(edited.proto)) == 1
    check = onnx.ModelProto.FromString(written(restore_source(edited)))
    assert list(differences(proto, check)) == []


@pytest.mark.parametrize("digits", [10, 5000])
def test_numbers_beyond_reason_are_not_ours(digits: int) -> None:
    proto = exotic.plain()
    entry = {"edit": "e", "parameters": {}, "version": "0", "source": "", "undo": {}}
    proto.metadata_props.add(key=PREFIX + "9" * digits, value=json.dumps(entry))
    assert read_steps(load(proto).proto) == []
    assert len(read_steps(appended(load(proto)).proto)) == 1


# What does not fit is refused


def edited_entry(undo: dict[str, Any], nodes: Iterable[onnx.NodeProto] = ()) -> Model:
    """A model the way back of whose one entry was written by somebody else."""
    proto = appended(load(exotic.plain(nodes))).to_proto()
    entry = proto.metadata_props[0]
    told = json.loads(entry.value)
    entry.value = json.dumps(told | {"undo": told["undo"] | undo})
    return load(proto)


@pytest.mark.parametrize(
    "undo",
    [
        {"graph": [[0, 99]]},
        {"graph": [[-1, 1]]},
        {"graph": [[0, 0]]},
        {"graph": [[0, 1], [0, 1]]},
        {"graph": [["0", 1]]},
        {"graph": [[0.0, 1.0]]},
        {"graph": [[0, 1, 2]]},
        {"graph": [None]},
        {"graph": {"place": 0}},
        {"graph": [{"place": 0}]},
        {"graph": [{"place": 99, "chunks": [], "skeleton": []}]},
        {"graph": [{"place": 0, "chunks": [0], "skeleton": []}]},
        {"graph": ["not base64!"]},
        {"graph": ["/w=="]},
        {"graph": None},
        {"model": []},
        {"model": [[0, 1]]},
        {"model": [[0, 4], "OgA="]},
        {"header": "/////w=="},
        {"header": 5},
    ],
    ids=json.dumps,
)
def test_recipes_that_do_not_fit_are_refused(undo: dict[str, Any]) -> None:
    with pytest.raises(NoHeadError, match="another program"):
        graphsurgery.strip_head(edited_entry(undo))


def test_a_recipe_cannot_ask_for_more_than_there_is() -> None:
    """A hundred kilobytes of metadata that stand for forty million records."""
    nodes = [helper.make_node("Relu", ["x"], [f"r{index}"]) for index in range(2000)]
    with at_most_calls(), pytest.raises(NoHeadError):
        graphsurgery.strip_head(edited_entry({"graph": [[0, 2000]] * 20_000}, nodes))


@pytest.mark.parametrize(
    "parameters",
    [
        {"data": "b.bin", "bases": {}},
        {"data": "b.bin", "bases": {"other.bin": 0}},
        {"data": "b.bin", "bases": {"a.bin": "0"}},
        {"data": "../b.bin", "bases": {"a.bin": 0}},
        {"data": 5, "bases": {"a.bin": 0}},
        {"bases": {"a.bin": 0}},
        {},
    ],
    ids=str,
)
def test_moves_that_do_not_fit_are_refused(parameters: dict[str, Any], tmp_path: Path) -> None:
    """The fingerprints are right: whoever wrote this knew how."""
    source = load(with_data(tmp_path, {"a.bin": (400,)}))
    document = record_edit(source.document, source.document, MOVE, parameters)
    with pytest.raises(NoHeadError, match="another program"):
        graphsurgery.strip_head(appended(replace(source, document=document)))


def test_a_file_that_another_program_changed_is_refused() -> None:
    for change in ("ir_version", "name", "node"):
        proto = appended(load(exotic.plain())).to_proto()
        if change == "ir_version":
            proto.ir_version += 1
        elif change == "name":
            proto.graph.node[0].name = "changed"
        else:
            del proto.graph.node[1]
        with pytest.raises(NoHeadError, match="another program"):
            graphsurgery.strip_head(proto)
