"""The model that edits take and return: its document, the places of its external data, and the folder it came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx

from graphsurgery.deferred import gs
from graphsurgery.errors import MissingDataError, SourceChangedError, TensorDataError, UnsupportedModelError
from graphsurgery.interface import Interface, read_interface
from graphsurgery.model import external
from graphsurgery.model.dtypes import count_elements
from graphsurgery.model.external import ExternalFile, ExternalTensor
from graphsurgery.model.hub_cache import is_in_cache, lies_in
from graphsurgery.model.parsing import parse
from graphsurgery.model.provenance import OPTIMIZED, Step, read_steps
from graphsurgery.model.records import Document, Span, hash_payloads
from graphsurgery.model.schema import walk_tensors
from graphsurgery.model.sources import FileBytes
from graphsurgery.model.wire import encode_header
from graphsurgery.remarks import HasRemarks
from graphsurgery.shown import Shown


@dataclass(frozen=True, eq=False)
class Model(Shown, HasRemarks):
    """An ONNX model whose weights stay in the file. It never changes: an edit returns a new one.

    `graphsurgery.load` returns one.
    """

    document: Document
    """The content of the file as records: exact bytes, with the weights left in the file."""
    path: Path | None = None
    """The file that the model was loaded from, or None for a model from memory."""
    folder: Path | None = None
    """The folder that the locations of external data are relative to."""
    files: dict[str, ExternalFile] = field(default_factory=dict)
    """The model's data files by location."""
    remarks: tuple[str, ...] = ()
    """Notes and warnings for the user about how the model was loaded or edited."""
    loaded: Document | None = None
    """The document as loaded from disk. Compared with `document` to see whether the model has been edited."""
    home: Path | None = None
    """The folder that the model belongs to, if it was made in another one. Paths that edits take are relative to it."""

    @property
    def place(self) -> Path | None:
        """The path by which the files of the model's folder are found: `path`, but in `home` if there is one."""
        return self.path if self.home is None else self.home / (self.path.name if self.path is not None else "model.onnx")

    def __repr__(self) -> str:
        """Return one line: the file, and the interface."""
        return f"<Model {self.path or 'in memory'}{'' if self.is_as_loaded else ', edited'}: {self.interface}>"

    __str__ = __repr__

    @property
    def is_as_loaded(self) -> bool:
        """Whether no edit has been applied since the model was loaded."""
        return self.loaded is self.document

    @property
    def proto(self) -> onnx.ModelProto:
        """The model with a placeholder for each large payload. Do not change it; `to_proto` returns a complete one."""
        return self.document.proto

    @cached_property
    def interface(self) -> Interface:
        """The model's inputs and outputs."""
        return read_interface(self.proto.graph)

    @cached_property
    def recorded(self) -> tuple[Step, ...]:
        """Every step that the file records, oldest first. The metadata is read once."""
        return tuple(read_steps(self.proto))

    @property
    def rewrites(self) -> tuple[Step, ...]:
        """The entries of rewrites, which cannot be undone."""
        return tuple(step for step in self.recorded if step.edit == OPTIMIZED)

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of the skeleton: all bytes except tensor payloads, and each payload's position, length and element
        type."""
        return self.document.fingerprint

    @property
    def opset(self) -> int:
        """The ai.onnx opset. Raises UnsupportedModelError if the model imports none."""
        for imported in self.proto.opset_import:
            if imported.domain in ("", "ai.onnx"):
                return int(imported.version)
        raise UnsupportedModelError(
            "the model imports no ai.onnx opset", "add one with onnx.helper.make_opsetid and save again"
        )

    @cached_property
    def initializers(self) -> dict[str, onnx.TensorProto]:
        """The main graph's initializers by name. Large ones are placeholders; read them with `values`."""
        return {tensor.name: tensor for tensor in self.proto.graph.initializer}

    def weights_fingerprint(self) -> str:
        """Return the sha256 (hex) of every large tensor's bytes: first those inside the file, in file order, then external
        ones. Reads them all."""
        inside = [chunk for chunk in self.document.chunks() if isinstance(chunk, Span)]
        self.require_data("hashing the weights")
        outside = [Span(open_data(one.file), one.offset, one.length) for one in self.externals]
        return hash_payloads([*inside, *outside])

    @cached_property
    def externals(self) -> tuple[ExternalTensor, ...]:
        """Every tensor that has external data."""
        found = []
        for path, tensor in walk_tensors(self.proto):
            if external.is_external(tensor):
                location, offset, length = external.read_place(tensor, tensor.name or path)
                found.append(ExternalTensor(tensor.name or path, self.files[location], offset, length))
        return tuple(found)

    @property
    def weight_bytes(self) -> int:
        """The size in bytes of all tensor payloads inside the file and in its data files."""
        return self.document.payload_bytes + sum(one.length for one in self.externals)

    @cached_property
    def linked_data(self) -> tuple[str, ...]:
        """The locations of data files that lie outside the model's folder, behind links of the Hugging Face cache."""
        return tuple(location for location, file in self.files.items() if not lies_in(file.path, self.folder or Path()))

    @property
    def missing_data(self) -> tuple[str, ...]:
        """The locations of data files that do not exist."""
        return tuple(location for location, file in self.files.items() if file.identity is None)

    def require_data(self, purpose: str) -> None:
        """Raise MissingDataError if external data that ``purpose`` needs are absent."""
        if not self.missing_data:
            return
        if self.folder is None:
            advice = "say where they are: graphsurgery.load(proto, folder=...)"
        elif is_in_cache(self.folder):
            advice = "download them into the cache as well, and give the path of the model in its snapshot"
        else:
            advice = f"put them into {self.folder}, or skip the steps that need the weights"
        names = ", ".join(map(repr, self.missing_data))
        raise MissingDataError(f"{purpose} needs the weights, but the external data {names} are missing", advice)

    def values(self, tensor: onnx.TensorProto) -> np.ndarray:
        """Return the values of one of this model's tensors, read from its file."""
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
        """Return the complete model with every weight of the file (external data stay references). Loads all these weights into
        memory."""
        data = b"".join(chunk if isinstance(chunk, bytes) else chunk.read() for chunk in self.document.chunks())
        return parse(onnx.ModelProto, data)

    def to_graph(self) -> gs.Graph:
        """Return an onnx-graphsurgeon graph of the complete model, for matching and editing outside graphsurgery."""
        return gs.import_onnx(self.to_proto())

    def _external_bytes(self, tensor: onnx.TensorProto) -> bytes:
        location, offset, length = external.read_place(tensor, tensor.name)
        file = self.files[location]
        if file.identity is None:
            self.require_data(f"reading tensor {tensor.name!r}")
        return open_data(file).read(offset, length) if count_elements(tensor.dims) else b""


def open_data(file: ExternalFile) -> FileBytes:
    """Open a data file for reading. Raise SourceChangedError if it is no longer the file that was checked at load."""
    source = FileBytes(file.path)
    if source.identity != file.identity:
        raise SourceChangedError(f"{file.path} was changed since the model was loaded", "load the model again")
    return source


def _encode_field(span: Span) -> bytes:
    return encode_header(span.wire_field, span.length) + span.read()


def fill_weights(
    proto: onnx.ModelProto, model: Model, wanted: Callable[[onnx.TensorProto], bool] = lambda _: True
) -> onnx.ModelProto:
    """Return a copy of ``proto``, the graph of ``model`` or a rewrite of it, with the ``wanted`` weights in place of their
    placeholders."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for _, tensor in walk_tensors(copy):
        if _is_stored_elsewhere(model, tensor) and wanted(tensor):
            tensor.CopyFrom(onnx.numpy_helper.from_array(model.values(tensor), tensor.name))
    return copy


def _is_stored_elsewhere(model: Model, tensor: onnx.TensorProto) -> bool:
    return tensor.data_location == onnx.TensorProto.EXTERNAL or model.document.payloads.find(tensor) is not None
