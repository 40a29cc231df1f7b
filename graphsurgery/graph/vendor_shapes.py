"""Element types and dims of the outputs of ONNX Runtime's own operators, which onnx's shape inference does not know.

The rules follow the schemas in ONNX Runtime's ContribOperators.md. Operators without a rule stay unknown.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx

from graphsurgery.graph.operators import EMBEDDING_NORM, VENDOR
from graphsurgery.graph.symbolic import UNKNOWN, Fact, InferenceContext, Size, Sizes

Facts = tuple[Fact, ...]
"""What is known of the first outputs of a node."""


def _copy_first(context: InferenceContext) -> Facts:
    """Infer an operator whose first output has the type and the dims of its first input."""
    return context.facts[:1]


def _infer_skip_norm(context: InferenceContext) -> Facts:
    """Infer a norm of a sum. The fourth output is the sum."""
    return (context.facts[0], UNKNOWN, UNKNOWN, context.facts[0])


def _infer_product(context: InferenceContext) -> Facts:
    """Infer ``alpha op(A) op(B)``, where op exchanges the last two dims if transA or transB says so."""
    one, other = context.dims(0), context.dims(1)
    if context.get_int("transBatchA", 0) or context.get_int("transBatchB", 0) or one is None or other is None:
        return (Fact(context.dtype()),)
    if min(len(one), len(other)) < 2 or (len(other) > 2 and one[:-2] != other[:-2]):
        return (Fact(context.dtype()),)
    rows = one[-1] if context.get_int("transA", 0) else one[-2]
    columns = other[-2] if context.get_int("transB", 0) else other[-1]
    return (Fact(context.dtype(), (*one[:-2], rows, columns)),)


def _infer_attention(context: InferenceContext) -> Facts:
    """Infer an attention that makes queries, keys and values of ``[batch, seq, dim]`` with a matrix ``[dim, 3 width]``."""
    given, weights = context.dims(0), context.dims(1)
    sizes = context.get_ints("qkv_hidden_sizes", len(context.facts))
    if given is None or weights is None or len(given) != 3 or len(weights) != 2:
        return (Fact(context.dtype()),)
    width: Size | None = sizes[2] if sizes else context.symbols.divide(weights[1], 3)
    return (Fact(context.dtype(), None if width is None else (*given[:2], width)),)


def _infer_multi_head_attention(context: InferenceContext) -> Facts:
    """Infer ``[batch, seq, width]`` of queries ``[batch, seq, dim]`` and values ``[batch, keys, width]``, or values by head."""
    queries, values = context.dims(0), context.dims(2)
    if queries is None or values is None or len(queries) != 3:
        return (Fact(context.dtype()),)
    width: Size = values[-1] if len(values) == 3 else context.symbols.multiply((values[1], values[-1]))
    return (Fact(context.dtype(), (*queries[:2], width)),)


def _infer_embedding_norm(context: InferenceContext) -> Facts:
    """Infer ``[batch, seq, dim]`` of ids ``[batch, seq]`` and a table ``[vocabulary, dim]``, and a mask index ``[batch]``."""
    ids, table = context.dims(0), context.dims(2)
    dims: Sizes | None = None if ids is None or table is None else (*ids, table[-1])
    embedded = Fact(context.dtype(2), dims)
    return (embedded, Fact(onnx.TensorProto.INT32, None if ids is None else ids[:1]), embedded)


_COPYING = (
    "BiasGelu", "FastGelu", "Gelu", "GroupQueryAttention", "QuickGelu", "RotaryEmbedding", "SimplifiedLayerNormalization",
)  # fmt: skip
VENDOR_RULES: dict[str, Callable[[InferenceContext], Facts]] = {
    "SimplifiedLayerNormalization": _copy_first, EMBEDDING_NORM: _infer_embedding_norm,
    f"{VENDOR}.Attention": _infer_attention, f"{VENDOR}.MultiHeadAttention": _infer_multi_head_attention,
    f"{VENDOR}.FusedMatMul": _infer_product, f"{VENDOR}.SkipLayerNormalization": _infer_skip_norm,
    f"{VENDOR}.SkipSimplifiedLayerNormalization": _infer_skip_norm,
    **{f"{VENDOR}.{name}": _copy_first for name in _COPYING},
}  # fmt: skip
"""By operator: the function that infers its first outputs."""
