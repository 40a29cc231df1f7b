"""ONNX Runtime's fused operators in numpy. onnx's reference evaluator uses them as a second reference beside ONNX Runtime.

Values are rounded to the type ``T`` of the inputs (float32, float16 or bfloat16) where a kernel that is not fused further
writes them to memory: each matrix product, attention scores, attention weights, each sum, each result. As in GPU kernels, these
are computed in float32: the sums of matrix products (the accumulator of a matrix instruction), softmax, mean and variance of
norms, and the error function and tanh within an activation. If T is float32, nothing is rounded further.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops import load_op

from graphsurgery.compare.reference_formulas import (
    apply_attention,
    compute_attention_weights,
    gelu,
    layer_norm,
    make_attention_mask,
    multiply,
    rms_norm,
    rotate,
    split_heads,
)
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.graph.editor import Editor
from graphsurgery.model.names import Namer

Array = np.ndarray
VENDOR = "com.microsoft"
HALVES = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
ACCUMULATING = (
    "CumSum", "Einsum", "Gemm", "LayerNormalization", "LogSoftmax", "MatMul", "ReduceL1", "ReduceL2", "ReduceLogSumExp",
    "ReduceMean", "ReduceSum", "ReduceSumSquare", "Softmax",
)  # fmt: skip
"""Standard operators that sum in float32 whatever their type. onnx's own implementations sum in the type, or fail."""


class Evaluator(ReferenceEvaluator):
    """onnx's reference evaluator, in which overflows and invalid numbers show in the results and not as warnings."""

    def run(self, *arguments: Any, **options: Any) -> Any:
        with np.errstate(all="ignore"):
            return super().run(*arguments, **options)


def make_evaluator(model: onnx.ModelProto) -> Evaluator:
    """Return an evaluator of ``model`` that knows the operators of this module and sums as they do. It works on a copy."""
    standard = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 0)
    present = {node.op_type for node in model.graph.node if node.domain in ("", "ai.onnx")}
    widened = [_widen_operator(name, standard) for name in ACCUMULATING if name in present]
    return Evaluator(_make_readable(model), new_ops=[*OPERATORS, *widened])


def _make_readable(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy with an import for com.microsoft, its nodes in order, and a name for every output.

    onnx's evaluator takes an output without a name for the value of inputs that are left out.
    """
    copy, namer = Editor(model).finish(), Namer.of(model)
    if not any(one.domain == VENDOR for one in copy.opset_import):
        copy.opset_import.append(helper.make_opsetid(VENDOR, 1))
    for node in copy.graph.node:
        node.output[:] = [name or namer.new("unused") for name in node.output]
    return copy


@cache
def _widen_operator(name: str, version: int) -> type[OpRun]:
    """Return onnx's implementation of an operator, fed float32 in place of half precision, with its results rounded back.

    If the opset does not have the operator, take the latest: ONNX Runtime has LayerNormalization in any opset.
    """
    version = version if onnx.defs.has(name, version, "") else onnx.defs.onnx_opset_version()
    base = load_op("", name, version)

    def run(self: OpRun, *inputs: Array | None, **attributes: Any) -> tuple[Array, ...]:
        half = next((one.dtype for one in inputs if one is not None and one.dtype in HALVES), None)
        if half is None:
            return base._run(self, *inputs, **attributes)
        wide = [one.astype(np.float32) if one is not None and one.dtype == half else one for one in inputs]
        results = base._run(self, *wide, **attributes)
        return tuple(one.astype(half) if one.dtype in (np.float32, np.float64) else one for one in results)

    return type(name, (base,), {"op_domain": "", "op_schema": onnx.defs.get_schema(name, version, ""), "_run": run})


class _Vendor(OpRun):
    """An operator of com.microsoft. onnx itself has operators of some of these names, with other defaults."""

    op_domain = VENDOR
    op_schema = None


class Attention(_Vendor):
    """Attention of each head. One matrix ``[in, 3 hidden]`` projects ``x [batch, seq, in]`` to queries, keys and values.

    The mask is raw (int, ``[batch, seq]`` or ``[batch, seq, seq]``, 1 = token): ``mask_filter_value`` is *added* to the
    scores of the others. ``attention_bias`` broadcasts to ``[batch, heads, seq, seq]``.
    """

    def _run(
        self, x: Array, weights: Array, bias: Array | None = None, mask: Array | None = None, past: Array | None = None,
        attention_bias: Array | None = None, past_length: Array | None = None, **options: Any,
    ) -> tuple[Array, ...]:  # fmt: skip
        _refuse("Attention", past=past, past_length=past_length, do_rotary=options.get("do_rotary"))
        heads = options["num_heads"]
        projected = multiply(x, weights)
        projected = projected if bias is None else projected + bias
        sizes = options.get("qkv_hidden_sizes") or [weights.shape[1] // 3] * 3
        query, key, value = (split_heads(one, heads) for one in np.split(projected, np.cumsum(sizes)[:2], axis=-1))
        additive = make_attention_mask(mask, x.shape[1], x.shape[1], options)
        return (apply_attention(compute_attention_weights(query, key, additive, attention_bias, options), value),)


class MultiHeadAttention(_Vendor):
    """As Attention, but takes queries, keys and values ``[batch, seq, hidden]`` apart, and one bias ``[3 hidden]`` for all.

    Keys and values may also be ``[batch, heads, seq, size]``, and then get no bias.
    """

    def _run(
        self, query: Array, key: Array | None = None, value: Array | None = None, bias: Array | None = None,
        mask: Array | None = None, attention_bias: Array | None = None, *past: Array | None, **options: Any,
    ) -> tuple[Array, ...]:  # fmt: skip
        _refuse("MultiHeadAttention", past=next((one for one in past if one is not None), None))
        if key is None or value is None or query.ndim != 3:
            raise UnsupportedModelError("the reference MultiHeadAttention needs separate queries, keys and values")
        heads, given = options["num_heads"], [query, key, value]
        if bias is not None:
            cuts = np.cumsum([query.shape[-1], query.shape[-1]])
            shifts = np.split(bias, cuts)
            given = [one + shift if one.ndim == 3 else one for one, shift in zip(given, shifts, strict=True)]
        apart = [split_heads(one, heads) if one.ndim == 3 else one for one in given]
        additive = make_attention_mask(mask, query.shape[1], apart[1].shape[2], options)
        return (apply_attention(compute_attention_weights(apart[0], apart[1], additive, attention_bias, options), apart[2]),)


class SkipLayerNormalization(_Vendor):
    """LayerNorm(x + skip + bias) gamma + beta; then mean and 1 / deviation in float32, and the sum itself."""

    def _run(
        self, x: Array, skip: Array, gamma: Array, beta: Array | None = None, bias: Array | None = None, **options: Any
    ) -> tuple[Array, ...]:
        added = x + skip if bias is None else x + bias + skip
        return (*layer_norm(added, gamma, beta, options.get("epsilon", 1e-12)), added)


class SkipSimplifiedLayerNormalization(_Vendor):
    """RMSNorm(x + skip + bias) gamma. Gives the same results as SkipLayerNormalization."""

    def _run(self, x: Array, skip: Array, gamma: Array, bias: Array | None = None, **options: Any) -> tuple[Array, ...]:
        added = x + skip if bias is None else x + bias + skip
        normed, inverse = rms_norm(added, gamma, options.get("epsilon", 1e-12))
        return normed, np.zeros_like(inverse), inverse, added


class SimplifiedLayerNormalization(OpRun):
    """RMSNorm: x / sqrt(mean(x^2) + epsilon) scale, over the axes from ``axis`` on; then 1 / that root in float32.

    ONNX Runtime has this operator in the standard domain. The scale may have another type than x; the result has the scale's.
    """

    op_domain = ""
    op_schema = None

    def _run(self, x: Array, scale: Array, **options: Any) -> tuple[Array, ...]:
        axes = tuple(range(options.get("axis", -1) % x.ndim, x.ndim))
        return rms_norm(x, scale, options.get("epsilon", 1e-5), axes)


class EmbedLayerNormalization(_Vendor):
    """LayerNorm of the sum of word, position and type embeddings of ids ``[batch, seq]``.

    Then the number of tokens of each row (int32 ``[batch]``, 0 without a mask), and the sum itself.
    """

    def _run(
        self, ids: Array, types: Array | None, words: Array, positions: Array, kinds: Array | None, gamma: Array, beta: Array,
        mask: Array | None = None, position_ids: Array | None = None, **options: Any,
    ) -> tuple[Array, ...]:  # fmt: skip
        where = np.arange(ids.shape[1])[None, :] if position_ids is None else position_ids
        added = words[ids] + positions[where]
        added = added if kinds is None else added + kinds[np.zeros_like(ids) if types is None else types]
        lengths = np.zeros(len(ids)) if mask is None else mask.sum(axis=1)
        return layer_norm(added, gamma, beta, options.get("epsilon", 1e-12))[0], lengths.astype(np.int32), added


class RotaryEmbedding(_Vendor):
    """Rotates the halves (or, interleaved, the neighbours) of each head by the angle of the token's position.

    The angles' cosines and sines are ``[positions, size / 2]``; x is ``[batch, seq, hidden]`` or ``[batch, heads, seq, size]``.
    """

    def _run(self, x: Array, position_ids: Array, cosines: Array, sines: Array, **options: Any) -> tuple[Array, ...]:
        _refuse("RotaryEmbedding", is_packed_batching=options.get("is_packed_batching"))
        partial = options.get("rotary_embedding_dim", 0)
        size = x.shape[-1] // options["num_heads"] if partial and x.ndim == 3 else 2 * cosines.shape[1]
        apart = split_heads(x, x.shape[-1] // size) if x.ndim == 3 else x
        steps = np.arange(apart.shape[2])[None, :]
        where = steps + position_ids.reshape(1, 1) if position_ids.size == 1 and position_ids.ndim == 1 else position_ids
        turned = rotate(apart, cosines[where][:, None], sines[where][:, None], bool(options.get("interleaved", 0)))
        return (turned.transpose(0, 2, 1, 3).reshape(x.shape) if x.ndim == 3 else turned,)


class Gelu(_Vendor):
    """x / 2 (1 + erf(x / sqrt 2))."""

    def _run(self, x: Array, **_: Any) -> tuple[Array, ...]:
        return (gelu(x),)


class BiasGelu(_Vendor):
    """Gelu of x + bias."""

    def _run(self, x: Array, bias: Array, **_: Any) -> tuple[Array, ...]:
        return (gelu(x + bias),)


class FastGelu(_Vendor):
    """x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), of x + bias."""

    def _run(self, x: Array, bias: Array | None = None, **_: Any) -> tuple[Array, ...]:
        added = x if bias is None else x + bias
        wide = added.astype(np.float32)
        half = np.float32(0.5) * (1 + np.tanh(np.float32(math.sqrt(2 / math.pi)) * (wide + np.float32(0.044715) * wide**3)))
        return ((wide * half).astype(x.dtype),)


class QuickGelu(_Vendor):
    """x sigmoid(alpha x)."""

    def _run(self, x: Array, **options: Any) -> tuple[Array, ...]:
        wide = x.astype(np.float32)
        return ((wide / (1 + np.exp(np.float32(-options.get("alpha", 1.702)) * wide))).astype(x.dtype),)


class GatherElements(OpRun):
    """Elements along an axis by their indices ``[...]``.

    Along the other axes there may be fewer indices than data. onnx's own implementation refuses that.
    """

    op_domain = ""

    def _run(self, data: Array, indices: Array, **options: Any) -> tuple[Array, ...]:
        axis = options.get("axis", 0) % data.ndim
        whole = tuple(slice(None) if place == axis else slice(size) for place, size in enumerate(indices.shape))
        counted = np.where(indices < 0, indices + data.shape[axis], indices)
        return (np.take_along_axis(data[whole], counted, axis=axis),)


OPERATORS: tuple[type[OpRun], ...] = (
    Attention, BiasGelu, EmbedLayerNormalization, FastGelu, GatherElements, Gelu, MultiHeadAttention, QuickGelu,
    RotaryEmbedding, SimplifiedLayerNormalization, SkipLayerNormalization, SkipSimplifiedLayerNormalization,
)  # fmt: skip


def _refuse(operator: str, **unsupported: object) -> None:
    """Raise UnsupportedModelError if an input or attribute is used that the reference does not compute."""
    for name, value in unsupported.items():
        if value is not None and not (isinstance(value, int) and value == 0):
            raise UnsupportedModelError(
                f"the reference {operator} does not support {name}", "check this model with ONNX Runtime alone"
            )
