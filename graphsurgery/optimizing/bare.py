"""ONNX Runtime's own transformer optimizer, run without PyTorch and told what it does not find out by itself.

It is run at ``opt_level=0``: its fusions alone. Higher levels import torch, and do offline what ONNX Runtime does anyway when
it loads a file. Masks are passed as they are: as lengths (its default for BERT) they are wrong under left padding, in silence.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace

import onnx

from graphsurgery.errors import MissingPackageError, UnsupportedModelError
from graphsurgery.model.dtypes import payload_size

SWITCHES = {
    "attention": "enable_attention",
    "embedding norm": "enable_embed_layer_norm",
    "rotary": "enable_rotary_embeddings",
    "skip norm": "enable_skip_layer_norm",
    "bias skip norm": "enable_bias_skip_layer_norm",
    "bias gelu": "enable_bias_gelu",
    "gelu": "enable_gelu",
    "layer norm": "enable_layer_norm",
}
"""Fusions that can be switched off, the likeliest to go wrong first, by the optimizer's own name for it."""
VENDOR = "com.microsoft"
NEEDED = "the transformer optimizer of ONNX Runtime (onnxruntime.transformers) and sympy"


@dataclass(frozen=True)
class Fusing:
    """How the optimizer is run: for which of its model types, with how many heads and dims (0: it looks for itself), and which
    of `SWITCHES` are off."""

    model_type: str = "bert"
    heads: int = 0
    hidden: int = 0
    off: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"{self.model_type} without {', '.join(sorted(self.off))}" if self.off else f"{self.model_type}, all fusions"

    def without(self, *fusions: str) -> Fusing:
        """The same with these fusions switched off, too."""
        return replace(self, off=self.off | set(fusions))


@dataclass(frozen=True)
class Fused:
    """What the optimizer made, and what it said meanwhile."""

    model: onnx.ModelProto
    said: tuple[str, ...]


def fused(model: onnx.ModelProto, fusing: Fusing) -> Fused:
    """The optimizer's fusions on a copy of ``model``, whose weights it reads for queries, keys and values.

    Raises MissingPackageError without the optimizer or sympy, UnsupportedModelError with its own reason where it fails.
    """
    try:
        from onnxruntime.transformers.fusion_options import AttentionMaskFormat, FusionOptions
        from onnxruntime.transformers.optimizer import MODEL_TYPES, optimize_model
    except ImportError as error:
        raise MissingPackageError(f"optimize needs {NEEDED}: {error}", "pip install onnxruntime sympy") from error
    if fusing.model_type not in MODEL_TYPES:
        known = ", ".join(sorted(MODEL_TYPES))
        raise UnsupportedModelError(f"the optimizer has no model type {fusing.model_type!r}", f"choose from {known}")
    options = FusionOptions(fusing.model_type)
    options.attention_mask_format = AttentionMaskFormat.AttentionMask
    for fusion in fusing.off:
        setattr(options, SWITCHES[fusion], False)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    absent = _without_absent(copy)
    with _elsewhere(), _listening() as said:
        try:
            made = optimize_model(
                copy, fusing.model_type, fusing.heads, fusing.hidden, optimization_options=options, opt_level=0
            )
            made.topological_sort()
        except Exception as error:  # it raises whatever a matcher of it stumbled over
            what = f"{type(error).__name__}: {error}".partition("\n")[0]
            raise UnsupportedModelError(f"the transformer optimizer failed ({what})", "optimize it with --portable") from error
    _import_vendor(made.model)
    _with_absent(made.model, absent)
    return Fused(made.model, tuple(dict.fromkeys(said)))


def _without_absent(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Take the weights out whose bytes are not there, and let them be inputs: all that is asked of them is their dims."""
    absent = [tensor for tensor in model.graph.initializer if not is_there(tensor)]
    for tensor in absent:
        model.graph.initializer.remove(tensor)
        model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return absent


def _with_absent(model: onnx.ModelProto, absent: list[onnx.TensorProto]) -> None:
    """Put those that are read still back."""
    names = {tensor.name for tensor in absent}
    kept = [info for info in model.graph.input if info.name not in names]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    read = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(tensor for tensor in absent if tensor.name in read)


def is_there(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor holds its bytes: no reference to a file, and no mark in their place."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return False
    size = payload_size(tensor.data_type, tensor.dims)
    return not tensor.HasField("raw_data") or size is None or len(tensor.raw_data) == size


def _import_vendor(model: onnx.ModelProto) -> None:
    """Import the vendor's opset where operators of it are used: the optimizer does so only when it saves."""
    used = any(node.domain == VENDOR for node in model.graph.node)
    if used and not any(one.domain == VENDOR for one in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(VENDOR, 1))


@contextlib.contextmanager
def _elsewhere() -> Iterator[None]:
    """In a folder that goes afterwards: where its shape inference fails, a file is left behind in the current one."""
    with tempfile.TemporaryDirectory(prefix="graphsurgery-") as folder, contextlib.chdir(folder):
        yield


@contextlib.contextmanager
def _listening() -> Iterator[list[str]]:
    """What ONNX Runtime's tools log as warnings, instead of on the terminal."""
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    root = logging.getLogger()
    others, level = root.handlers[:], root.level
    root.handlers = [handler]
    try:
        with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):  # noqa: PTH123
            yield said
    finally:
        root.handlers, root.level = others, level
