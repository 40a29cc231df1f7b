"""ONNX Runtime sessions with quiet logs and typed errors."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import numpy as np
import onnx
from onnx import numpy_helper

from graphsurgery.deferred import onnxruntime
from graphsurgery.errors import MissingPackageError, UnsupportedModelError
from graphsurgery.model.dtypes import compute_payload_size
from graphsurgery.model.external import is_external
from graphsurgery.model.model import Model, open_data
from graphsurgery.model.saving import LARGEST_PROTOBUF
from graphsurgery.model.schema import walk_tensors
from graphsurgery.runtime.devices import CPU, GPU_ADVICE, Device

Arrays = Mapping[str, np.ndarray]
FATAL = 4
NO_KERNELS = "ONNX Runtime's CPU has no kernels for bfloat16"
HALVES = {"tensor(float16)": np.dtype(np.float16), "tensor(bfloat16)": np.dtype(ml_dtypes.bfloat16)}
SOURCE_PLACE = re.compile(r"[\w./-]+\.(?:h|cc|cpp):\d+ (?:(?:void|bool|\w+::\w+) )*(?:[\w:]+::\w+\([^)]*\) )?")
THREADS = 0
"""The threads of a session if the caller gives none. 0 lets ONNX Runtime choose. Tests that run in parallel set it to 1."""
LENT = 1 << 16
"""The smallest initializer, in bytes, that a `LentSession` lends. It copies smaller ones with the graph."""
ROOM = 1 << 26
"""Bytes of a protobuf to keep free for everything but initializers."""
LENDABLE = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)


class Runner(Protocol):
    """Anything that runs a model as `Session` does."""

    def run(self, feeds: Arrays, outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]: ...


class Session:
    """A model loaded in ONNX Runtime."""

    def __init__(
        self,
        source: str | Path | bytes,
        folder: Path | None = None,
        threads: int = 0,
        plain: bool = False,
        device: Device = CPU,
    ) -> None:
        """Load a file, or a serialised model with its external data in ``folder``.

        ``threads`` 0 lets ONNX Runtime choose. ``plain`` switches its graph optimisations off. Raises UnsupportedModelError
        with ONNX Runtime's own reason if it cannot load the model, MissingPackageError if ONNX Runtime cannot use
        the ``device``.
        """
        options = _session_options(threads, plain)
        if device.frees_memory:
            options.enable_cpu_mem_arena = options.enable_mem_pattern = False
        if folder is not None and isinstance(source, bytes):
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
        self._open(source if isinstance(source, bytes) else str(source), options, device)

    def _open(self, source: bytes | str, options: Any, device: Device = CPU) -> None:
        providers = [(name, dict(device.options.get(name, {}))) for name in device.providers]
        try:
            self._session = onnxruntime.InferenceSession(source, options, providers=providers)
        except Exception as error:  # ONNX Runtime raises a type per status code, all plain Exceptions
            raise UnsupportedModelError(f"ONNX Runtime cannot load the model: {summarize_error(error)}") from error
        self.providers = self._session.get_providers()
        if self.providers[0] != device.providers[0]:  # it falls back to the CPU, with no more than a warning
            what = f"ONNX Runtime cannot use {device.providers[0]} here, and would run the model on {self.providers[0]}"
            raise MissingPackageError(what, GPU_ADVICE)
        self.outputs = [value.name for value in self._session.get_outputs()]
        self._halves = {value.name: HALVES[value.type] for value in self._session.get_inputs() if value.type in HALVES}

    def run(self, feeds: Arrays, outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Run once and return the outputs by name: all of them, or those named in ``outputs``.

        Arrays may be bfloat16 (ml_dtypes). float32 arrays are rounded for inputs in half precision. Raises
        UnsupportedModelError if ONNX Runtime fails.
        """
        names = list(outputs) if outputs is not None else self.outputs
        feeds = {name: self._round(name, array) for name, array in feeds.items()}
        if not names:
            return {}
        try:
            if any(array.dtype == ml_dtypes.bfloat16 for array in feeds.values()):
                return dict(zip(names, self._run_with_bfloat16(feeds, names), strict=True))
            return dict(zip(names, self._session.run(names, feeds), strict=True))
        except Exception as error:  # as above
            raise UnsupportedModelError(f"ONNX Runtime cannot run the model: {summarize_error(error)}") from error

    def run_all(self, every: Iterable[Arrays]) -> list[dict[str, np.ndarray]]:
        """Run once for each of the feeds, one after the other, and return all outputs of each."""
        return [self.run(feeds) for feeds in every]

    def _round(self, name: str, array: np.ndarray) -> np.ndarray:
        return array.astype(self._halves[name]) if name in self._halves and array.dtype == np.float32 else array

    def _run_with_bfloat16(self, feeds: Arrays, names: list[str]) -> list[np.ndarray]:
        values = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), onnx.TensorProto.BFLOAT16)
            if array.dtype == ml_dtypes.bfloat16
            else onnxruntime.OrtValue.ortvalue_from_numpy(array)
            for name, array in feeds.items()
        }
        return [value.numpy() for value in self._session.run_with_ort_values(names, values)]


class LentSession(Session):
    """A session on a graph in memory. It hands the weights to ONNX Runtime unserialised, so that they may exceed 2 GiB.

    ONNX Runtime's graph optimisations are off, so that each node computes what the graph says.
    """

    def __init__(self, graph: onnx.ModelProto, weights: Sequence[onnx.TensorProto]) -> None:
        """Load the model ``graph`` with the additional initializers ``weights``.

        Raises UnsupportedModelError with ONNX Runtime's own reason if it cannot load the model.
        """
        options = _session_options(threads=0, plain=True)
        lent = [one for one in weights if _is_lent(one)]
        self._values = [onnxruntime.OrtValue.ortvalue_from_numpy(numpy_helper.to_array(one)) for one in lent]
        if lent:
            options.add_external_initializers([one.name for one in lent], self._values)
        self._open(_serialize(graph, (_make_placeholder(one) if _is_lent(one) else one for one in weights)), options)


def open_session(
    model: Model, extra_outputs: Sequence[str] = (), threads: int = 0, plain: bool = False, device: Device = CPU
) -> Session:
    """Open a session on ``model``. It loads the file if the model was not edited, and otherwise a copy in memory.

    ``extra_outputs`` are values of the graph that become outputs. ``threads``, ``plain`` and ``device`` are those of `Session`,
    which also names the errors that are raised.
    """
    model.require_data("running the model")
    declared = {value.name for value in model.interface.outputs}
    inside = [name for name in extra_outputs if name not in declared]
    if model.path is not None and not inside and model.is_as_loaded and not model.linked_data:
        with _explain_bfloat16(model):
            return Session(model.path, threads=threads, plain=plain, device=device)
    proto = model.to_proto()
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inside)
    return open_proto(proto, model, threads, plain, device)


def open_proto(proto: onnx.ModelProto, model: Model, threads: int = 0, plain: bool = False, device: Device = CPU) -> Session:
    """Open a session on ``proto``, the complete graph of ``model`` or one made of it, with the model's external data.

    ONNX Runtime refuses symlinks that lead out of the folder of a model in memory, and some versions also refuse them for
    files. The Hugging Face cache consists of such links, so external data are named by the paths that the links lead to.
    """
    folder = model.folder
    if model.linked_data:
        real = {location: Path(os.path.realpath(open_data(file).path)) for location, file in model.files.items()}
        folder = Path(os.path.commonpath([path.parent for path in real.values()]))
        for _, tensor in walk_tensors(proto):
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = real[entry.value].relative_to(folder).as_posix()
    with _explain_bfloat16(model):
        return Session(proto.SerializeToString(), folder=folder, threads=threads, plain=plain, device=device)


@contextmanager
def _explain_bfloat16(model: Model) -> Iterator[None]:
    """Explain why ONNX Runtime does not load a bfloat16 ``model``. Its own error only names the first node without a kernel."""
    try:
        yield
    except UnsupportedModelError as error:
        is_bfloat16 = any(tensor.data_type == onnx.TensorProto.BFLOAT16 for tensor in model.initializers.values())
        if not is_bfloat16 or "NOT_IMPLEMENTED" not in error.message:
            raise
        raise UnsupportedModelError(f"{NO_KERNELS}, so the model cannot be run here", error.advice) from error


def open_in_memory(model: onnx.ModelProto) -> Session:
    """Open a session on a model in memory. Raises UnsupportedModelError if ONNX Runtime cannot load it.

    ONNX Runtime's graph optimisations are on, as they are for users. A model that is too large to serialise runs without them,
    as a `LentSession`.
    """
    weights = sum(compute_payload_size(one.data_type, one.dims) or 0 for one in model.graph.initializer)
    if weights <= LARGEST_PROTOBUF - ROOM:
        return Session(model.SerializeToString())
    graph = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    for field in ("node", "input", "output", "sparse_initializer"):
        getattr(graph.graph, field).extend(getattr(model.graph, field))
    graph.graph.name = model.graph.name
    return LentSession(graph, list(model.graph.initializer))


def summarize_error(error: Exception) -> str:
    """Return an engine's error in one line, without places in ONNX Runtime's source, which differ between versions."""
    lines = SOURCE_PLACE.sub("", str(error)).strip().splitlines()
    return lines[0][:400] if lines else type(error).__name__


def _session_options(threads: int, plain: bool) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL
    options.intra_op_num_threads = threads or THREADS
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads would slow down other sessions
    if plain:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def _is_lent(one: onnx.TensorProto) -> bool:
    size = compute_payload_size(one.data_type, one.dims)
    return one.data_type in LENDABLE and size is not None and size >= LENT and not is_external(one)


def _make_placeholder(one: onnx.TensorProto) -> onnx.TensorProto:
    """Return ``one`` as external data that nobody reads."""
    place = {"location": "lent", "offset": "0", "length": str(compute_payload_size(one.data_type, one.dims))}
    entries = [onnx.StringStringEntryProto(key=key, value=value) for key, value in place.items()]
    return onnx.TensorProto(
        name=one.name, data_type=one.data_type, dims=one.dims, external_data=entries, data_location=onnx.TensorProto.EXTERNAL
    )


def _serialize(graph: onnx.ModelProto, weights: Iterable[onnx.TensorProto]) -> bytes:
    whole = onnx.ModelProto()
    whole.CopyFrom(graph)
    whole.graph.initializer.extend(weights)
    return whole.SerializeToString()
