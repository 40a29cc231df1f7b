"""Run ONNX Runtime's transformer optimizer in a process of its own.

Only its fusions are run (``opt_level=0``). Higher levels import torch, and do offline what ONNX Runtime does anyway whenever it
loads a file. Masks are passed as they are: by default the optimizer takes a BERT's mask for the length of the text, which
gives wrong vectors under left padding without any warning.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import onnx

from graphsurgery.encoder.architecture import BERT, T5
from graphsurgery.errors import MissingPackageError, RequestError, SurroundingsError, UnsupportedModelError
from graphsurgery.graph.operators import (
    EMBEDDING_NORM,
    FUSED_ATTENTIONS,
    FUSED_BIAS_GELUS,
    FUSED_GELUS,
    FUSED_ROTATIONS,
    SKIP_NORMS,
)
from graphsurgery.model.dtypes import compute_payload_size
from graphsurgery.model.names import list_read_names
from graphsurgery.rewrites.fuse.optimizer_process import list_model_types, optimize_file, read, store
from graphsurgery.rewrites.fuse.report import ACTIVATION, ATTENTION, EMBEDDINGS, NORM, ROTARY, SKIP_NORM
from graphsurgery.runtime.own_process import OwnProcessError, call_in_own_process


class Switch(NamedTuple):
    """A fusion that can be switched off: its option in `FusionOptions`, the kind of part that it fuses, and the operators of
    com.microsoft that it makes."""

    option: str
    kind: str
    operators: frozenset[str] = frozenset()


SWITCHES = {
    "attention": Switch("enable_attention", ATTENTION, FUSED_ATTENTIONS),
    "embedding norm": Switch("enable_embed_layer_norm", EMBEDDINGS, frozenset({EMBEDDING_NORM})),
    "rotary": Switch("enable_rotary_embeddings", ROTARY, FUSED_ROTATIONS),
    "skip norm": Switch("enable_skip_layer_norm", SKIP_NORM, SKIP_NORMS),
    "bias skip norm": Switch("enable_bias_skip_layer_norm", SKIP_NORM),
    "bias gelu": Switch("enable_bias_gelu", ACTIVATION, FUSED_BIAS_GELUS),
    "gelu": Switch("enable_gelu", ACTIVATION, FUSED_GELUS),
    "layer norm": Switch("enable_layer_norm", NORM),
}
"""The fusions, starting with the likeliest to go wrong."""
SECONDS = 1800
"""How long the optimizer may take. It takes some 20 s for a model of 1.3 GB."""
PRODUCER_WARNING = "Model producer not matched"
"""The start of the warning that the optimizer gives, on its second run, about a file that it has written itself."""
NEEDED = "the transformer optimizer of ONNX Runtime (onnxruntime.transformers) and sympy"


@dataclass(frozen=True)
class Fusing:
    """How the optimizer is run: its model type, the number of heads and of dims (0: it finds them in the graph), and the
    fusions of `SWITCHES` that are off."""

    model_type: str = "bert"
    heads: int = 0
    hidden: int = 0
    off: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"{self.model_type} without {', '.join(sorted(self.off))}" if self.off else f"{self.model_type}, all fusions"

    def without(self, *fusions: str) -> Fusing:
        """Return the same with these fusions switched off, too."""
        return replace(self, off=self.off | set(fusions))


@dataclass(frozen=True)
class Fused:
    """The optimizer's result."""

    model: onnx.ModelProto
    warnings: tuple[str, ...]
    """What the optimizer logged as warnings."""
    shape_failure: str | None = None
    """The node at which symbolic shape inference failed, or None if it did not fail. The optimizer goes on without shapes and
    leaves most of the graph unfused."""


def run_optimizer(model: onnx.ModelProto, fusing: Fusing) -> Fused:
    """Run the optimizer on a copy of ``model`` until nothing changes any more.

    Raises:
        MissingPackageError: the optimizer or sympy is not installed.
        UnsupportedModelError: the optimizer failed, crashed, or took too long.
        SurroundingsError: the temporary files could not be written.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    absent = _turn_absent_into_inputs(copy)
    off = [SWITCHES[fusion].option for fusion in sorted(fusing.off)]
    try:
        with tempfile.TemporaryDirectory(prefix="graphsurgery-") as name:
            source, output = (Path(name) / file for file in ("source.onnx", "output.onnx"))
            store(copy, source)
            del copy
            answer = _call_optimizer(
                optimize_file, str(source), str(output), fusing.model_type, fusing.heads, fusing.hidden, off, folder=name
            )
            fused = read(output)
    except SurroundingsError:
        raise
    except OSError as error:
        raise SurroundingsError(f"cannot exchange files with the optimizer: {error.strerror}") from error
    _restore_absent(fused, absent)
    _restore_interface(model, fused)
    warnings = tuple(one for one in answer["warnings"] if not one.startswith(PRODUCER_WARNING))
    return Fused(fused, warnings, answer["shape_failure"])


def require_model_type(name: str) -> None:
    """Raise RequestError if the optimizer has no such model type, MissingPackageError if there is no optimizer.

    The types that we choose ourselves are known. Only for another one a process is started and asked.
    """
    _require_packages()
    if name in (BERT, T5):
        return
    known = _call_optimizer(list_model_types, folder=tempfile.gettempdir())
    if name not in known:
        raise RequestError(f"the optimizer has no model type {name!r}", f"choose from {', '.join(known)}")


def _call_optimizer(function: Any, *arguments: Any, folder: str) -> Any:
    """Call a function of `optimizer_process` in a process of its own. Raises as `run_optimizer` does."""
    _require_packages()
    try:
        return call_in_own_process(function, *arguments, folder=Path(folder), seconds=SECONDS)
    except OwnProcessError as error:
        if error.raised in ("ImportError", "ModuleNotFoundError"):
            raise _missing(str(error)) from error
        if error.raised == "OSError":
            raise SurroundingsError(f"the transformer optimizer {error}") from error
        raise UnsupportedModelError(f"the transformer optimizer {error}", "optimize it with --portable") from error


def _require_packages() -> None:
    for package in ("onnxruntime.transformers", "sympy"):
        if find_spec(package) is None:
            raise _missing(f"{package} is not installed")


def _missing(what: str) -> MissingPackageError:
    return MissingPackageError(f"optimize needs {NEEDED}: {what}", "pip install onnxruntime sympy")


def _turn_absent_into_inputs(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Turn the weights without bytes into inputs, and return them. The optimizer needs only their dims."""
    absent = [tensor for tensor in model.graph.initializer if not has_own_bytes(tensor)]
    for tensor in absent:
        model.graph.initializer.remove(tensor)
        model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return absent


def _restore_absent(model: onnx.ModelProto, absent: list[onnx.TensorProto]) -> None:
    """Turn these inputs into weights again, if a node or one of its subgraphs still reads them."""
    names = {tensor.name for tensor in absent}
    kept = [info for info in model.graph.input if info.name not in names]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    read = set[str]().union(*map(list_read_names, model.graph.node))
    model.graph.initializer.extend(tensor for tensor in absent if tensor.name in read)


def _restore_interface(model: onnx.ModelProto, made: onnx.ModelProto) -> None:
    """Give ``made`` the inputs and outputs of ``model``. The optimizer drops inputs that nothing reads. Inputs with a default
    value that it dropped are not put back."""
    weights = {tensor.name for tensor in model.graph.initializer} - {tensor.name for tensor in made.graph.initializer}
    del made.graph.input[:], made.graph.output[:]
    made.graph.input.extend(info for info in model.graph.input if info.name not in weights)
    made.graph.output.extend(model.graph.output)


def has_own_bytes(tensor: onnx.TensorProto) -> bool:
    """Return whether a tensor holds its own bytes, and not a reference to a file or a placeholder."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return False
    size = compute_payload_size(tensor.data_type, tensor.dims)
    return not tensor.HasField("raw_data") or size is None or len(tensor.raw_data) == size
