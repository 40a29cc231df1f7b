"""ONNX Runtime sessions with quiet logs and typed errors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx

from graphsurgery.errors import UnsupportedModelError
from graphsurgery.model.model import Model

Arrays = Mapping[str, np.ndarray]
FATAL = 4
HALVES = {"tensor(float16)": np.dtype(np.float16), "tensor(bfloat16)": np.dtype(ml_dtypes.bfloat16)}
SOURCE_PLACE = re.compile(r"[\w./-]+\.(?:h|cc|cpp):\d+ (?:(?:void|bool|\w+::\w+) )*(?:[\w:]+::\w+\([^)]*\) )?")


class Session:
    """A model loaded in ONNX Runtime on the CPU."""

    def __init__(self, source: str | Path | bytes, folder: Path | None = None, threads: int = 0, plain: bool = False) -> None:
        """Load a file, or a serialised model whose external data lie in ``folder``.

        ``threads`` 0 leaves the choice to ONNX Runtime; ``plain`` switches its graph optimisations off.

        Raises UnsupportedModelError, with ONNX Runtime's own reason, when it cannot load the model.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = FATAL
        options.intra_op_num_threads = threads
        if plain:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        if folder is not None and isinstance(source, bytes):
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
        target = source if isinstance(source, bytes) else str(source)
        try:
            self._session = onnxruntime.InferenceSession(target, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises a type per status code, all plain Exceptions
            raise UnsupportedModelError(f"ONNX Runtime cannot load the model: {first_line(error)}") from error
        self._read_interface()

    def _read_interface(self) -> None:
        self.outputs = [value.name for value in self._session.get_outputs()]
        self._halves = {value.name: HALVES[value.type] for value in self._session.get_inputs() if value.type in HALVES}

    def run(self, feeds: Arrays, outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Run once. bfloat16 arrays (ml_dtypes) may go in, and float32 ones where the model takes a half type: they are
        rounded. UnsupportedModelError when ONNX Runtime fails."""
        names = list(outputs) if outputs is not None else self.outputs
        feeds = {name: self._rounded(name, array) for name, array in feeds.items()}
        if not names:
            return {}
        try:
            if any(array.dtype == ml_dtypes.bfloat16 for array in feeds.values()):
                return dict(zip(names, self._run_values(feeds, names), strict=True))
            return dict(zip(names, self._session.run(names, dict(feeds)), strict=True))
        except Exception as error:  # as above
            raise UnsupportedModelError(f"ONNX Runtime cannot run the model: {first_line(error)}") from error

    def _rounded(self, name: str, array: np.ndarray) -> np.ndarray:
        return array.astype(self._halves[name]) if name in self._halves and array.dtype == np.float32 else array

    def _run_values(self, feeds: Arrays, names: list[str]) -> list[np.ndarray]:
        import onnxruntime

        values = {name: _ort_value(onnxruntime, array) for name, array in feeds.items()}
        return [value.numpy() for value in self._session.run_with_ort_values(names, values)]


def open_session(model: Model, extra_outputs: Sequence[str] = (), threads: int = 0, plain: bool = False) -> Session:
    """A session on ``model``, from its file where it is one and as it is; ``extra_outputs`` are values of the graph to give
    as well. ``threads`` and ``plain`` as `Session` has them."""
    model.require_data("running the model")
    given = {value.name for value in model.interface.outputs}
    inside = [name for name in extra_outputs if name not in given]
    if model.path is not None and not inside and model.is_as_loaded:
        return Session(model.path, threads=threads, plain=plain)
    proto = model.to_proto()
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inside)
    return Session(proto.SerializeToString(), folder=model.folder, threads=threads, plain=plain)


def _ort_value(onnxruntime: object, array: np.ndarray) -> object:
    kind = onnxruntime.OrtValue  # type: ignore[attr-defined]
    if array.dtype == ml_dtypes.bfloat16:
        return kind.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), onnx.TensorProto.BFLOAT16)
    return kind.ortvalue_from_numpy(array)


def first_line(error: Exception) -> str:
    """What an engine's error says, in one line."""
    lines = without_places(str(error)).strip().splitlines()
    return lines[0][:400] if lines else type(error).__name__


def without_places(said: str) -> str:
    """What ONNX Runtime says, without the places in its own source, which change from version to version."""
    return SOURCE_PLACE.sub("", said)
