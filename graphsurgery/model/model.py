"""The model that edits take and give: a document, where its external data lie, and the folder it came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphsurgery.errors import MissingDataError, SourceChangedError, TensorDataError, UnsupportedModelError
from graphsurgery.interface import Interface, read_interface
from graphsurgery.model import external
from graphsurgery.model.dtypes import count_elements
from graphsurgery.model.external import ExternalFile, ExternalTensor
from graphsurgery.model.parsing import parse
from graphsurgery.model.provenance import Step, read_steps
from graphsurgery.model.records import Document, Span, hash_payloads
from graphsurgery.model.schema import walk_tensors
from graphsurgery.model.sources import FileBytes
from graphsurgery.model.wire import encode_header


@dataclass(frozen=True, eq=False)
class Model:
    """An ONNX model, its weights left where they are. Never changed: an edit gives a new one.

    Get one from `graphsurgery.load`.
    """

    document: Document
    path: Path | None = None
    """The file it was loaded from, None for a model from memory."""
    folder: Path | None = None
    """The folder that external data locations are relative to."""
    files: dict[str, ExternalFile] = field(default_factory=dict)
    """Its data files by location."""
    notes: tuple[str, ...] = ()
    """What the user should know about how it was loaded or edited."""
    loaded: Document | None = None
    """The document as it was loaded, to tell whether it is still the file's."""
    home: Path | None = None
    """The folder that the model belongs to, where it was made in another one: paths that edits take start there."""

    @property
    def is_as_loaded(self) -> bool:
        """Whether no edit was applied since the model was loaded."""
        return self.loaded is self.document

    @property
    def proto(self) -> onnx.ModelProto:
        """The model with large payloads replaced by marks. Not to be changed; for a complete one see `to_proto`."""
        return self.document.proto

    @cached_property
    def interface(self) -> Interface:
        """What the model takes and gives."""
        return read_interface(self.proto.graph)

    @cached_property
    def recorded(self) -> tuple[Step, ...]:
        """Every step that the file records, oldest first. Read from the metadata once."""
        return tuple(read_steps(self.proto))

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of the skeleton: all bytes but tensor payloads, and each payload's place, length and element type."""
        return self.document.fingerprint

    @property
    def opset(self) -> int:
        """The ai.onnx opset; UnsupportedModelError when the model imports none."""
        for imported in self.proto.opset_import:
            if imported.domain in ("", "ai.onnx"):
                return int(imported.version)
        raise UnsupportedModelError(
            "the model imports no ai.onnx opset", "add one with onnx.helper.make_opsetid and save again"
        )

    @cached_property
    def initializers(self) -> dict[str, onnx.TensorProto]:
        """The main graph's initializers by name; large ones hold a mark, read them with `values`."""
        return {tensor.name: tensor for tensor in self.proto.graph.initializer}

    def weights_fingerprint(self) -> str:
        """sha256 (hex) of every large tensor's bytes: those inside the file in its order, then external ones. Reads them
        all."""
        inside = [chunk for chunk in self.document.chunks() if isinstance(chunk, Span)]
        self.require_data("hashing the weights")
        outside = [Span(open_data(one.file), one.offset, one.length) for one in self.externals]
        return hash_payloads([*inside, *outside])

    @cached_property
    def externals(self) -> tuple[ExternalTensor, ...]:
        """Every tensor with external data."""
        found = []
        for path, tensor in walk_tensors(self.proto):
            if external.is_external(tensor):
                location, offset, length = external.read_place(tensor, tensor.name or path)
                found.append(ExternalTensor(tensor.name or path, self.files[location], offset, length))
        return tuple(found)

    @property
    def weight_bytes(self) -> int:
        """Bytes of tensor payloads inside the file and in its data files."""
        return self.document.payload_bytes + sum(one.length for one in self.externals)

    @property
    def missing_data(self) -> tuple[str, ...]:
        """Locations of data files that are not there."""
        return tuple(location for location, file in self.files.items() if file.identity is None)

    def require_data(self, purpose: str) -> None:
        """MissingDataError when external data that ``purpose`` needs are absent."""
        if self.missing_data:
            names = ", ".join(map(repr, self.missing_data))
            raise MissingDataError(
                f"{purpose} needs the weights, but the external data {names} are not beside the model",
                f"put them into {self.folder}, or leave out what needs the weights"
                if self.folder is not None
                else "say where they are: graphsurgery.load(proto, folder=...)",
            )

    def values(self, tensor: onnx.TensorProto) -> np.ndarray:
        """The values of one of this model's tensors, read from where they lie."""
        complete = onnx.TensorProto()
        complete.CopyFrom(tensor)
        span = self.document.payloads.find(tensor)
        if external.is_external(tensor):
            complete.raw_data = self._external_bytes(tensor)
            complete.data_location = onnx.TensorProto.DEFAULT
            del complete.external_data[:]
        elif span is not None:
            complete.ClearField("raw_data")
            field_bytes = _encode_field(span)
            complete.MergeFromString(field_bytes)
        try:
            return onnx.numpy_helper.to_array(complete)
        except (UnicodeDecodeError, ValueError, TypeError) as error:
            raise TensorDataError(f"tensor {tensor.name!r} cannot be read: {error}", "export the model again") from error

    def to_proto(self) -> onnx.ModelProto:
        """The complete model with every weight that lies inside the file (external data stay references). Needs the memory."""
        data = b"".join(chunk if isinstance(chunk, bytes) else chunk.read() for chunk in self.document.chunks())
        return parse(onnx.ModelProto, data)

    def to_graph(self) -> gs.Graph:
        """An onnx-graphsurgeon graph of the complete model, for matching and editing outside graphsurgery."""
        return gs.import_onnx(self.to_proto())

    def _external_bytes(self, tensor: onnx.TensorProto) -> bytes:
        location, offset, length = external.read_place(tensor, tensor.name)
        file = self.files[location]
        if file.identity is None:
            self.require_data(f"reading tensor {tensor.name!r}")
        return open_data(file).read(offset, length) if count_elements(tensor.dims) else b""


def open_data(file: ExternalFile) -> FileBytes:
    """Open a data file for reading, and make sure that it is still the file that was checked at load."""
    source = FileBytes(file.path)
    if source.identity != file.identity:
        raise SourceChangedError(f"{file.path} was changed since the model was loaded", "load the model again")
    return source


def _encode_field(span: Span) -> bytes:
    return encode_header(span.wire_field, span.length) + span.read()


def fill_weights(
    proto: onnx.ModelProto, model: Model, wanted: Callable[[onnx.TensorProto], bool] = lambda _: True
) -> onnx.ModelProto:
    """A copy of ``proto``, the graph of ``model`` or a rewrite of it, with the weights that are ``wanted`` in place of their
    marks."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for _, tensor in walk_tensors(copy):
        if _is_stored_elsewhere(model, tensor) and wanted(tensor):
            tensor.CopyFrom(onnx.numpy_helper.from_array(model.values(tensor), tensor.name))
    return copy


def _is_stored_elsewhere(model: Model, tensor: onnx.TensorProto) -> bool:
    return tensor.data_location == onnx.TensorProto.EXTERNAL or model.document.payloads.find(tensor) is not None
