"""Whether an edit kept what it did not touch, and whether it can be taken back: what the tests of both share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import exotic
import onnx
from exotic import GRAPH, METADATA, NODE, OUTPUT
from onnx import TensorProto
from protobuf_fields import content, differences, records

import graphsurgery
from graphsurgery.model import external
from graphsurgery.model.draft import Draft
from graphsurgery.model.loading import load
from graphsurgery.model.model import Model
from graphsurgery.model.provenance import record_edit
from graphsurgery.model.records import Document
from graphsurgery.model.saving import save
from graphsurgery.model.schema import walk_tensors

Records = Sequence[tuple[int, bytes]]


def proto_of(path: Path) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(path.read_bytes())


def appended(model: Model) -> Model:
    """``model`` with one Identity node more and no other change, the edit recorded."""
    draft = Draft(model)
    draft.add("Identity", [draft.graph.outputs[0]], "appended")
    return finished(draft)


def finished(draft: Draft) -> Model:
    """The draft's model as the draft left it, recorded as the edit ``draft``."""
    return replace(draft.model, document=record_edit(draft.model.document, draft.finish(), "draft", {}))


def written(document: Document) -> bytes:
    """A document's bytes, weights included."""
    return b"".join(chunk if isinstance(chunk, bytes) else chunk.read() for chunk in document.chunks())


def weights(model: Model) -> list[tuple[str, bytes]]:
    """Every external tensor's bytes, read from the file that its location names and nothing else."""
    found = []
    for path, tensor in walk_tensors(model.proto):
        if external.is_external(tensor):
            location, offset, length = external.read_place(tensor, path)
            found.append((path, (model.folder / location).read_bytes()[offset : offset + length]))
    return found


def make_external(tensor: TensorProto, place: dict[str, str]) -> None:
    """Let the tensor's data be where ``place`` says."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in place.items():
        tensor.external_data.add(key=key, value=text)


def without_places(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that does not say where external data lie, nor that they were moved."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for _, tensor in walk_tensors(copy):
        del tensor.external_data[:]
    for entry in [entry for entry in copy.metadata_props if "move-weights" in entry.value]:
        copy.metadata_props.remove(entry)
    return copy


def graph_records(data: bytes) -> list[tuple[int, bytes]]:
    (graph,) = (content(record) for number, record in records(data) if number == GRAPH)
    return records(graph)


def new_records(before: Records, after: Records) -> list[tuple[int, bytes]]:
    """What ``after`` has beside all of ``before``, byte for byte and in its order."""
    left = list(before)
    new = []
    for record in after:
        if left and record == left[0]:
            del left[0]
        else:
            new.append(record)
    assert not left, f"field {left[0][0]} is gone or changed: {left[0][1][:80]!r}"
    return new


def check_kept(before: bytes, after: bytes, *, outputs: bool = True) -> None:
    """``after`` is ``before`` and one edit: new nodes, a new metadata entry, and other outputs unless ``outputs`` are kept."""
    old, new = ([one for one in graph_records(data) if outputs or one[0] != OUTPUT] for data in (before, after))
    assert {number for number, _ in new_records(old, new)} == {NODE}
    old, new = ([one for one in records(data) if one[0] != GRAPH] for data in (before, after))
    ((number, entry),) = new_records(old, new)
    assert number == METADATA and b"graphsurgery.step." in entry
    assert [one[0] for one in records(before)] == [one[0] for one in records(after) if one != (METADATA, entry)]
    _check_fields(*map(onnx.ModelProto.FromString, (before, after, content(entry))), outputs)


def _check_fields(before: onnx.ModelProto, after: onnx.ModelProto, entry: onnx.ModelProto, outputs: bool) -> None:
    """The same of the parsed messages: no field, known or unknown, differs but for what is new."""
    del after.graph.node[len(before.graph.node) :]
    after.metadata_props.remove(onnx.StringStringEntryProto.FromString(entry.SerializeToString()))
    for model in () if outputs else (before, after):
        del model.graph.output[:]
    assert list(differences(before, after)) == []


def check_way_back(model: Model, source: bytes, folder: Path) -> None:
    """strip-head gives ``source`` byte for byte: from the model in memory, and from its file."""
    made = save(model, folder / "edited.onnx").path
    for edited in (model, load(made)):
        save(graphsurgery.strip_head(edited), folder / "restored.onnx", force=True)
        assert (folder / "restored.onnx").read_bytes() == source


def add_two_data_files(model: onnx.ModelProto, folder: Path) -> None:
    """Give ``model`` a large tensor in each of two data files in ``folder``."""
    for name in ("a", "b"):
        held = exotic.tensor(name, 600)
        (folder / f"{name}.bin").write_bytes(held.raw_data)
        make_external(held, {"location": f"{name}.bin"})
        model.graph.initializer.append(held)
