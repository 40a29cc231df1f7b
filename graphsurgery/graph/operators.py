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
    @property
    def name(self) -> str | None: ...


def get_operator(node: AnyNode) -> str:
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
VIEWS = RESHAPING | {"Expand", "Slice", "Transpose"}
"""The first output shows elements of the first input, in another shape or order, some of them repeated or left out."""
JOINING = RESHAPING | {"Transpose"}
"""Operators that bring heads back together: every element of the input is in the output, once."""
STORED_STEPS = frozenset({"Cast", "Identity", "DequantizeLinear"}) | _vendor("DequantizeLinear")
"""Operators between weights as they are stored and what reads them."""
SHAPE_READING = frozenset({"Shape", "Size"})
"""Only the size of the input counts, not its numbers."""
RANDOM = frozenset({
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
})  # fmt: skip
"""Operators that give another result at every run."""
TRAINING = frozenset({"Dropout", "BatchNormalization"})
"""Operators that are random, or change what they are given, while a model is trained."""
COMPARING = frozenset({"Less", "LessOrEqual", "Greater", "GreaterOrEqual"})
SCALING = frozenset({"Div", "Mul"})
ROOTS = frozenset({"Div", "Reciprocal", "Sqrt"})
"""Operators that give the size of a vector, or one over it."""
SHAPE_STEPS = frozenset({"Concat", "Reshape", "Slice", "Unsqueeze"})
"""Operators that put the target of a Reshape together."""
SHIFTING = frozenset({"Abs", "Add", "Neg", "Sub"})
"""Operators that make another position, or a distance, of positions."""
POSITION_STEPS = SHIFTING | {"Cast", "Expand", "Identity", "Mul", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
"""Operators between positions and the comparison that makes a window of them."""
INDEX_STEPS = RESHAPING | {"Add", "Clip", "Max", "Min", "Mul", "Where"}
"""Operators that ids still pass through on their way to a table; a CumSum, Equal or Shape makes positions of them."""
ELEMENTWISE = frozenset({"Add", "Div", "Mul", "PRelu", "Pow", "Sub", "Where"})
"""Operators of several inputs that broadcast to one output."""
UNARY = frozenset({
    "Abs", "Cast", "CastLike", "Clip", "DequantizeLinear", "Dropout", "Elu", "Erf", "Gelu", "HardSigmoid", "Identity",
    "LeakyRelu", "Mish", "Neg", "QuantizeLinear", "Relu", "Sigmoid", "Softmax", "Sqrt", "Swish", "Tanh",
}) | _vendor("DequantizeLinear", "FastGelu", "Gelu", "QuantizeLinear", "QuickGelu")  # fmt: skip
"""Operators whose first output has the shape of the first input."""

PRODUCTS = frozenset({"MatMul", "Gemm", "Einsum", "MatMulInteger"}) | _vendor(
    "FusedMatMul", "DynamicQuantizeMatMul", "MatMulNBits"
)
"""Operators that multiply matrices: two computed ones, or one with weights."""
WIDE_AS_SECOND = frozenset({"MatMul", "MatMulInteger"}) | _vendor("FusedMatMul", "BiasGelu", "DynamicQuantizeMatMul")
"""Operators whose output is as wide as their second input."""
WEIGHT_PRODUCTS = frozenset({"MatMul", "Einsum", "Gemm"})
"""The standard's products of a value with weights."""
JOINING_HEADS = frozenset({"Transpose", "Reshape"})
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
BLENDING = frozenset({"Add", "Max", "Min", "Sub", "Where"})
"""Operators that put a mask or a bias into scores."""
SCORE_STEPS = BLENDING | RESHAPING | {"Clip", "Div", "Mul", "Transpose"}
"""Operators between the product of queries and keys and the softmax."""
WEIGHT_STEPS = COPYING | {"Mul", "Reshape", "Where"}
"""Operators between the softmax and the product with values."""
POSITION_BIASES = _vendor("GatedRelativePositionBias", "RelativePositionBias")
"""Operators that make a bias of positions by a table of their own."""
MASK_INPUTS = {
    "Attention": (3,), f"{VENDOR}.Attention": (3, 5), f"{VENDOR}.MultiHeadAttention": (4, 5), f"{VENDOR}.QAttention": (5,),
    f"{VENDOR}.GroupQueryAttention": (10,), f"{VENDOR}.DecoderMaskedMultiHeadAttention": (3, 4),
    f"{VENDOR}.PackedAttention": (5,), f"{VENDOR}.PackedMultiHeadAttention": (6,),
}  # fmt: skip
"""The places of an attention's inputs that only mask scores or are added to them."""
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
PLAIN_NORMS = NORMS - SKIP_NORMS - {EMBEDDING_NORM}
"""Norms that normalise their first input as it is."""
SUMS = frozenset({"Add"}) | SKIP_NORMS
"""Operators that add their first two inputs."""
PRODUCT_BIASES = {"Gemm": 2, f"{VENDOR}.DynamicQuantizeMatMul": 4}
"""The place of the bias among a product's inputs."""
BETWEEN_LAYERS = PLAIN_NORMS | {
    "Add", "Cast", "Clip", "Div", "Dropout", "Identity", "Mul", "Pow", "Reciprocal", "ReduceMean", "Reshape", "Sqrt", "Sub",
    "Where",
}  # fmt: skip
"""Operators between the sum that ends a layer and what the next layer is given: norms, whole or in pieces, masking, views."""
AFTER_ATTENTION = PRODUCTS | SUMS | JOINING | PLAIN_NORMS | {"Mul"}
"""Operators between an attention's output and the sum that adds it to what flows through the layers."""
GELUS = frozenset({"Gelu"}) | _vendor("BiasGelu", "Gelu")
TANH_GELUS = _vendor("FastGelu")
QUICK_GELUS = _vendor("QuickGelu")
SILUS = frozenset({"Swish"})
RELUS = frozenset({"Relu"})
GELU_CORES = frozenset({"Erf", "Tanh"})
"""The operators in the middle of a GELU in pieces."""
SCALE_INPUTS = {
    "LayerNormalization": 1, "SimplifiedLayerNormalization": 1, "RMSNormalization": 1,
    f"{VENDOR}.SimplifiedLayerNormalization": 1, f"{VENDOR}.SkipLayerNormalization": 2,
    f"{VENDOR}.SkipSimplifiedLayerNormalization": 2, EMBEDDING_NORM: 5,
}  # fmt: skip
"""The place of the scale among a norm's inputs: a vector as long as the last dim."""
