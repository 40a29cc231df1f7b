"""Loading a `Model` from a path, a ModelProto or an onnx-graphsurgeon graph."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

import onnx

from graphsurgery.argument_types import check_argument_types
from graphsurgery.deferred import SurgeonGraph, gs
from graphsurgery.errors import ExternalDataError, MalformedModelError, ModelError, SurroundingsError
from graphsurgery.model import external
from graphsurgery.model.checks import (
    MOST_COUNTED,
    check_declared_shapes,
    check_names,
    check_no_inline_data,
    check_shape,
    check_tensor,
    list_repeated_initializers,
)
from graphsurgery.model.external import ExternalFile, ExternalTensor
from graphsurgery.model.model import Model
from graphsurgery.model.parsing import shorten
from graphsurgery.model.records import Document
from graphsurgery.model.scan import scan
from graphsurgery.model.schema import walk_tensors
from graphsurgery.model.sources import ByteSource, FileBytes, MemoryBytes
from graphsurgery.remarks import Warn

MOST_DATA_FILES = 1 << 13
"""Upper limit on one model's data files, since each is looked at. Exports with one file per tensor have hundreds."""

Loadable: TypeAlias = str | os.PathLike[str] | onnx.ModelProto | SurgeonGraph | Model
POINTER, MOST_TEXT = b"version https://git-lfs", 100
"""How a file begins that Git LFS put in place of a large one, and the bytes to look at to see whether a file is a text."""
EXPORT = "make the ONNX file from the model's folder: graphsurgery export FOLDER"
KINDS = {
    b"\x1f\x8b": ("a gzip archive", "unpack it first, with gunzip or tar"),
    b"PK\x03\x04": ("a zip archive, such as a PyTorch checkpoint", f"unpack it if an .onnx file is inside; otherwise {EXPORT}"),
    **{bytes([0x80, version]): ("a pickle, as PyTorch saves weights", EXPORT) for version in range(2, 6)},
    b"\x89HDF": ("an HDF5 file, which holds weights alone", EXPORT),
    b"GGUF": ("a GGUF file", EXPORT),
}
"""How files of other kinds begin, what they are, and what to do."""
SAFETENSORS_MARK, SAFETENSORS_MARK_OFFSET = b'{"', 8
"""How a safetensors file goes on after the length of its header."""
ORT_MARK, ORT_MARK_OFFSET = b"ORTM", 4
"""How a file in ONNX Runtime's own format begins, after its first four bytes."""


@check_argument_types(source="give a path, a ModelProto, an onnx_graphsurgeon.Graph or a Model")
def load(source: Loadable, *, folder: str | os.PathLike[str] | None = None) -> Model:
    """Load a model without reading its weights.

    Args:
        source: a path, a ModelProto, an onnx_graphsurgeon.Graph, or a Model, which is returned as it is.
        folder: where external data lie, for models from memory; a path's own folder otherwise.

    Raises:
        MalformedModelError, TensorDataError, UnsafeLocationError, ExternalDataError: the file is broken or hostile; the message
            names the tensor. Missing external data are not an error here: see `Model.missing_data`.
        SurroundingsError: the file cannot be opened.
    """
    if isinstance(source, Model):
        return source
    if isinstance(source, SurgeonGraph):
        source = _export_graph(source)
    if isinstance(source, onnx.ModelProto):
        return _load_source(MemoryBytes(_serialize(source)), None, None if folder is None else Path(folder).absolute())
    path = Path(source).absolute()
    if path.is_dir():
        raise SurroundingsError(f"{path} is a folder", "give the path of the .onnx file in it")
    try:
        return _load_source(FileBytes(path), path, path.parent)
    except ModelError as error:
        if str(path) not in error.message:
            error.message = f"{path}: {error.message}"
        raise


def _load_source(source: ByteSource, path: Path | None, folder: Path | None) -> Model:
    if source.size > ORT_MARK_OFFSET + len(ORT_MARK) and source.read(0, ORT_MARK_OFFSET + len(ORT_MARK)).endswith(ORT_MARK):
        what = "the file is in ONNX Runtime's own format (.ort), which holds a graph prepared for one machine"
        raise MalformedModelError(what, "give the .onnx file that it was made from")
    start = source.read(0, min(source.size, MOST_TEXT))
    kind = _recognize_kind(start)
    if kind is not None:
        raise MalformedModelError(f"the file is {kind[0]}, not an ONNX model", kind[1])
    document = scan(source)
    files = _check_tensors(document, path, folder)
    check_names(document.proto.graph)
    check_declared_shapes(document.proto)
    missing = [location for location, file in files.items() if file.identity is None]
    remarks: list[str] = [
        Warn(f"external data {location!r} are missing: only work that needs no weights is possible") for location in missing
    ]
    for name in list_repeated_initializers(document.proto.graph):
        remarks.append(Warn(f"more than one initializer is named {shorten(name)!r}: the last counts, as in ONNX Runtime"))
    return Model(document, path, folder, files, tuple(remarks), loaded=document)


def _recognize_kind(start: bytes) -> tuple[str, str] | None:
    """Return what kind of file begins like this, and what to do with it. None if it may be an ONNX model."""
    if start.startswith(POINTER):
        return "a Git LFS pointer", "git lfs pull, or download it again"
    found = next((kind for mark, kind in KINDS.items() if start.startswith(mark)), None)
    if found is not None:
        return found
    if start[SAFETENSORS_MARK_OFFSET:].startswith(SAFETENSORS_MARK):
        return "a safetensors file, which holds weights alone", EXPORT
    words = start.decode().split() if start.isascii() else []
    if not words or len(start) < len(POINTER) or not all(map(str.isprintable, words)):
        return None
    if words[0].lower().startswith(("<!doctype", "<html")):
        return f"a web page ({words[0]} ...)", "the download went to a page: take the link of the file itself"
    if words[0].startswith(("{", "[")):
        return "a JSON text", "give the .onnx file beside it"
    return f"a text ({words[0]} ...)", "download it again: it may be a link that was stored as a text"


def _check_tensors(document: Document, path: Path | None, folder: Path | None) -> dict[str, ExternalFile]:
    """Check every tensor of the model. Return the data files that they name, by location."""
    files: dict[str, ExternalFile] = {}
    placed = []
    may_read = MOST_COUNTED
    for where, tensor in walk_tensors(document.proto):
        name = shorten(tensor.name or where)
        if not external.is_external(tensor):
            may_read -= check_tensor(tensor, name, document.payloads, may_read)
            continue
        check_shape(tensor, name)
        check_no_inline_data(tensor, name)
        location, offset, length = external.read_place(tensor, name)
        if location not in files:
            if len(files) == MOST_DATA_FILES:
                raise ExternalDataError(
                    f"tensor {name!r}: the model names more than {MOST_DATA_FILES} data files", "save its data into one file"
                )
            files[location] = external.locate_file(location, path, folder or Path(), name)
        placed.append(ExternalTensor(name, files[location], offset, length))
    external.check_ranges(placed)
    return files


def _serialize(proto: onnx.ModelProto) -> bytes:
    try:
        return proto.SerializeToString()
    except Exception as error:  # protobuf raises different types by version and by implementation
        raise MalformedModelError(
            f"the ModelProto cannot be serialised: {error}", "above 2 GiB keep its weights in external data and load the path"
        ) from error


def _export_graph(graph: gs.Graph) -> onnx.ModelProto:
    try:
        return gs.export_onnx(graph, do_type_check=False)
    except Exception as error:  # onnx-graphsurgeon raises whatever the helper under it raised
        raise MalformedModelError(
            f"onnx-graphsurgeon cannot export this graph: {error}", "check its values and attributes"
        ) from error
