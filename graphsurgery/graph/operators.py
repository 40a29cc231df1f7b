"""Which operator a node is, and the sets of operators that the rest of the code asks about.

An operator is its domain and its name together. The standard's operators are written by their name alone ("MatMul"), all others
with their domain in front ("com.microsoft.Attention"): a node that is called like an operator of another domain is another
operator. `operator` gives this spelling for nodes of onnx and of onnx-ir alike.
"""

from __future__ import annotations

from typing import Protocol

STANDARD = ("", "ai.onnx")
"""The domain of the standard operators, in both of its spellings."""
VENDOR = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""


class AnyNode(Protocol):
    """A node of onnx (`onnx.NodeProto`) or of onnx-ir (`onnx_ir.Node`)."""

    @property
    def domain(self) -> str: ...
    @property
    def op_type(self) -> str: ...


def operator(node: AnyNode) -> str:
    """Return the operator that ``node`` is: "MatMul", "com.microsoft.Attention"."""
    return node.op_type if node.domain in STANDARD else f"{node.domain}.{node.op_type}"


def is_standard(node: AnyNode) -> bool:
    """Return whether ``node`` is an operator of the standard's domain."""
    return node.domain in STANDARD


def _vendor(*names: str) -> frozenset[str]:
    return frozenset(f"{VENDOR}.{name}" for name in names)


COPYING = frozenset({"Cast", "CastLike", "Identity", "Dropout"})
"""The first output is the first input, element for element."""
RESHAPING = COPYING | {"Reshape", "Unsqueeze", "Squeeze", "Flatten"}
"""The first output has the elements of the first input in the same order."""
MOVING = frozenset({
    "Cast", "CastLike", "Concat", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Pad", "Reshape",
    "ScatterND", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where",
})  # fmt: skip
"""The outputs hold numbers of the inputs as they are; nothing is computed."""
SAME_ORDER = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten"})
"""Every element keeps its place in the order."""
STORED_STEPS = frozenset({"Cast", "Identity", "DequantizeLinear"})
"""Operators between weights as they are stored and what reads them."""
MEASURING = frozenset({"Shape", "Size"})
"""Only the size of the input counts, not its numbers."""
RANDOM = frozenset({
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
})  # fmt: skip
"""Operators that give another result at every run."""
TRAINING = frozenset({"Dropout", "BatchNormalization"})
"""Operators that are random, or change what they are given, while a model is trained."""
COMPARING = frozenset({"Less", "LessOrEqual", "Greater", "GreaterOrEqual"})

PRODUCTS = frozenset({"MatMul", "Gemm", "Einsum", "MatMulInteger"}) | _vendor(
    "FusedMatMul", "DynamicQuantizeMatMul", "MatMulNBits"
)
"""Operators that multiply matrices: two computed ones, or one with weights."""
WIDE_AS_SECOND = frozenset({"MatMul", "MatMulInteger"}) | _vendor("FusedMatMul", "BiasGelu", "DynamicQuantizeMatMul")
"""Operators whose output is as wide as their second input."""
QUANTISED = frozenset({
    "ConvInteger", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul",
    "QuantizeLinear",
}) | _vendor(
    "DequantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "GatherBlockQuantized", "MatMulIntegerToFloat",
    "MatMulNBits", "QAttention", "QEmbedLayerNormalization", "QGemm", "QLinearAdd", "QLinearConv", "QLinearMul",
    "QuantizeLinear",
)  # fmt: skip
"""Operators that compute with integers in place of floats, or turn the one into the other."""

ATTENTIONS = frozenset({"Attention"}) | _vendor(
    "Attention", "DecoderAttention", "DecoderMaskedMultiHeadAttention", "DecoderMaskedSelfAttention", "GroupQueryAttention",
    "LongformerAttention", "MultiHeadAttention", "PackedAttention", "PackedMultiHeadAttention", "PagedAttention", "QAttention",
    "SparseAttention",
)  # fmt: skip
"""Operators that are a whole attention."""
PROJECTING = _vendor("Attention", "QAttention", "PackedAttention", "LongformerAttention")
"""Attentions that make queries, keys and values by themselves, from one input and one matrix."""
ROTATIONS = frozenset({"RotaryEmbedding"}) | _vendor("RotaryEmbedding")
LAYER_NORMS = frozenset({"LayerNormalization"}) | _vendor("SkipLayerNormalization", "EmbedLayerNormalization")
RMS_NORMS = frozenset({"RMSNormalization", "SimplifiedLayerNormalization"}) | _vendor(
    "SkipSimplifiedLayerNormalization", "SimplifiedLayerNormalization"
)
"""``SimplifiedLayerNormalization`` is ONNX Runtime's own, although it claims the standard's domain."""
NORMS = LAYER_NORMS | RMS_NORMS
SKIP_NORMS = _vendor("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")
"""Norms that add their first two inputs before they normalise."""
EMBEDDING_NORM = f"{VENDOR}.EmbedLayerNormalization"
"""Looks ids up in tables, adds the rows and normalises them."""
SUMS = frozenset({"Add"}) | SKIP_NORMS
"""Operators that add their first two inputs."""
SCALE_INPUTS = {
    "LayerNormalization": 1, "SimplifiedLayerNormalization": 1, "RMSNormalization": 1,
    f"{VENDOR}.SimplifiedLayerNormalization": 1, f"{VENDOR}.SkipLayerNormalization": 2,
    f"{VENDOR}.SkipSimplifiedLayerNormalization": 2, EMBEDDING_NORM: 5,
}  # fmt: skip
"""The place of the scale among a norm's inputs: a vector as long as the last dim."""
