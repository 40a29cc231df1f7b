"""ONNX Runtime's own transformer optimizer, run without PyTorch and told what it does not find out by itself.

It is run at ``opt_level=0``: its fusions alone. Higher levels import torch, and do offline what ONNX Runtime does anyway when
it loads a file. Masks are passed as they are: as lengths (its default for BERT) they are wrong under left padding, in silence.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import onnx

from graphsurgery.errors import MissingPackageError, RequestError, UnsupportedModelError
from graphsurgery.model.dtypes import payload_size
from graphsurgery.model.nodes import reads
from graphsurgery.rewrites.fuse.report import ACTIVATION, ATTENTION, EMBEDDINGS, NORM, ROTARY, SKIP_NORM


class Switch(NamedTuple):
    """A fusion that can be switched off: the optimizer's own name for it, what our report calls what it makes, and the
    operators of com.microsoft that it makes."""

    option: str
    kind: str
    operators: tuple[str, ...] = ()


SWITCHES = {
    "attention": Switch("enable_attention", ATTENTION, ("Attention", "MultiHeadAttention", "GroupQueryAttention")),
    "embedding norm": Switch("enable_embed_layer_norm", EMBEDDINGS, ("EmbedLayerNormalization",)),
    "rotary": Switch("enable_rotary_embeddings", ROTARY, ("RotaryEmbedding",)),
    "skip norm": Switch("enable_skip_layer_norm", SKIP_NORM, ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")),
    "bias skip norm": Switch("enable_bias_skip_layer_norm", SKIP_NORM),
    "bias gelu": Switch("enable_bias_gelu", ACTIVATION, ("BiasGelu",)),
    "gelu": Switch("enable_gelu", ACTIVATION, ("FastGelu", "Gelu", "QuickGelu")),
    "layer norm": Switch("enable_layer_norm", NORM),
}
"""The likeliest to go wrong first."""
VENDOR = "com.microsoft"
MOST_RUNS = 4
OF_ITS_OWN = "Model producer not matched"
"""How it complains of a file that it has written itself, on its second run."""
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
    """The optimizer's fusions on a copy of ``model``, whose weights it reads for queries, keys and values, until nothing
    changes: what one run clears away may have hidden a pattern.

    Raises MissingPackageError without the optimizer or sympy, UnsupportedModelError with its own reason where it fails.
    """
    try:
        from onnxruntime.transformers.fusion_options import AttentionMaskFormat, FusionOptions
    except ImportError as error:
        raise _missing(error) from error
    options = FusionOptions(fusing.model_type)
    options.attention_mask_format = AttentionMaskFormat.AttentionMask
    for fusion in fusing.off:
        setattr(options, SWITCHES[fusion].option, False)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    absent = _without_absent(copy)
    with _elsewhere(), _listening() as said:
        for _ in range(MOST_RUNS):
            before = _nodes(copy)
            copy = _fused_once(copy, fusing, options)
            gc.collect()  # copies that its shape inference holds, in circles
            if _nodes(copy) == before:
                break
    _with_absent(copy, absent)
    _with_interface_of(model, copy)
    return Fused(copy, tuple(one for one in dict.fromkeys(said) if not one.startswith(OF_ITS_OWN)))


def _fused_once(model: onnx.ModelProto, fusing: Fusing, options: Any) -> onnx.ModelProto:
    """One run of the optimizer on ``model``, which it changes."""
    from onnxruntime.transformers.optimizer import optimize_model

    try:
        made = optimize_model(model, fusing.model_type, fusing.heads, fusing.hidden, optimization_options=options, opt_level=0)
        made.topological_sort()
    except Exception as error:  # it raises whatever a matcher of it stumbled over
        what = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise UnsupportedModelError(f"the transformer optimizer failed ({what})", "optimize it with --portable") from error
    _import_vendor(made.model)
    return made.model


def _nodes(model: onnx.ModelProto) -> list[bytes]:
    return sorted(node.SerializeToString(deterministic=True) for node in model.graph.node)


def require_model_type(name: str) -> None:
    """RequestError for what is no model type of the optimizer; MissingPackageError without it."""
    try:
        from onnxruntime.transformers.optimizer import MODEL_TYPES
    except ImportError as error:
        raise _missing(error) from error
    if name not in MODEL_TYPES:
        raise RequestError(f"the optimizer has no model type {name!r}", f"choose from {', '.join(sorted(MODEL_TYPES))}")


def _missing(error: ImportError) -> MissingPackageError:
    return MissingPackageError(f"optimize needs {NEEDED}: {error}", "pip install onnxruntime sympy")


def _without_absent(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Take the weights out whose bytes are not there, and let them be inputs: all that is asked of them is their dims."""
    absent = [tensor for tensor in model.graph.initializer if not is_there(tensor)]
    for tensor in absent:
        model.graph.initializer.remove(tensor)
        model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return absent


def _with_absent(model: onnx.ModelProto, absent: list[onnx.TensorProto]) -> None:
    """Put those back that are still read, by a node or within its subgraphs."""
    names = {tensor.name for tensor in absent}
    kept = [info for info in model.graph.input if info.name not in names]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    read = set[str]().union(*map(reads, model.graph.node))
    model.graph.initializer.extend(tensor for tensor in absent if tensor.name in read)


def _with_interface_of(model: onnx.ModelProto, made: onnx.ModelProto) -> None:
    """Let ``made`` take and give what ``model`` does: the optimizer drops inputs that nothing reads. Weights that are inputs,
    too, and that it dropped, stay away."""
    weights = {tensor.name for tensor in model.graph.initializer} - {tensor.name for tensor in made.graph.initializer}
    del made.graph.input[:], made.graph.output[:]
    made.graph.input.extend(info for info in model.graph.input if info.name not in weights)
    made.graph.output.extend(model.graph.output)


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
        with (
            open(os.devnull, "w", encoding="utf-8") as nowhere,  # noqa: PTH123
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),  # progress bars
        ):
            yield said
    finally:
        root.handlers, root.level = others, level
