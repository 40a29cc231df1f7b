"""The operator of a node, and every set of operators that the rest of the code asks about.

An operator is a domain and a name. Standard operators are written by their name alone ("MatMul"), all others with their domain
("com.microsoft.Attention"), so that operators with the same name in different domains are not confused. `get_operator` returns
this spelling for the nodes of onnx and of onnx-ir.
"""

from __future__ import annotations

from typing import Protocol

Path = tuple[str, ...]
"""Operators one after the other: a path through a graph. A path is defined in the module that searches for it, not here."""
STANDARD = ("", "ai.onnx")
"""The two spellings of the domain of the standard operators."""
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
    """Return the operator of ``node``, such as "MatMul" or "com.microsoft.Attention"."""
    return node.op_type if node.domain in STANDARD else f"{node.domain}.{node.op_type}"


def get_short_name(node: AnyNode) -> str:
    """Return the operator as reports show it: without its domain if that is the standard's or ONNX Runtime's own."""
    return node.op_type if node.domain == VENDOR else get_operator(node)


def _vendor(*names: str) -> frozenset[str]:
    return frozenset(f"{VENDOR}.{name}" for name in names)


COPYING = frozenset({"Cast", "CastLike", "Identity", "Dropout"})
"""The first output has the elements of the first input, in the same shape."""
RESHAPING = COPYING | {"Reshape", "Unsqueeze", "Squeeze", "Flatten"}
"""The first output has the elements of the first input in the same order."""
MOVING = frozenset({
    "Cast", "CastLike", "Concat", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Pad", "Reshape",
    "ScatterND", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where",
})  # fmt: skip
"""The outputs consist of elements of the inputs. Nothing is computed."""
SAME_ORDER = RESHAPING - COPYING
"""Only the shape changes. The elements stay the same, in the same order."""
VIEWS = RESHAPING | {"Expand", "Slice", "Transpose"}
"""The first output has elements of the first input in another shape or order. Some may be repeated or left out."""
JOINING = RESHAPING | {"Transpose"}
"""Operators that join heads again. The output has every element of the input once."""
STORED_STEPS = frozenset({"Cast", "Identity", "DequantizeLinear"}) | _vendor("DequantizeLinear")
"""Operators between stored weights and the node that uses them."""
SHAPE_READING = frozenset({"Shape", "Size"})
"""The output depends on the shape of the input, not on its numbers."""
RANDOM = frozenset({
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
})  # fmt: skip
"""Operators with a different result in every run."""
TRAINING = frozenset({"Dropout", "BatchNormalization"})
"""Operators that do something else while a model is trained."""
COMPARING = frozenset({"Less", "LessOrEqual", "Greater", "GreaterOrEqual"})
"""Operators that say which of two inputs is larger."""
SCALING = frozenset({"Div", "Mul"})
"""Operators that can scale a value."""
ROOTS = frozenset({"Div", "Reciprocal", "Sqrt"})
"""Operators at the end of computing the length of a vector, or one over it."""
SHAPED = frozenset({"Expand", "Reshape"})
"""Operators whose second input is the shape of the output."""
SHAPE_STEPS = frozenset({"Concat", "Reshape", "Slice", "Unsqueeze"})
"""Operators that compose the target of a Reshape."""
SHIFTING = frozenset({"Abs", "Add", "Neg", "Sub"})
"""Operators that turn positions into other positions or distances."""
POSITION_STEPS = SHIFTING | {"Cast", "Expand", "Identity", "Mul", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
"""Operators between positions and the comparison that limits attention to a window."""
INDEX_STEPS = RESHAPING | {"Add", "Clip", "Max", "Min", "Mul", "Where"}
"""Operators between ids and the table that they index. A CumSum, Equal or Shape would turn the ids into positions."""
ELEMENTWISE = frozenset({"Add", "Div", "Mul", "PRelu", "Pow", "Sub", "Where"})
"""Operators of several inputs that broadcast to one output."""
BROADCASTING = ELEMENTWISE | COMPARING | {
    "And", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Equal", "Max", "Mean", "Min", "Mod", "Or", "Sum", "Xor",
}  # fmt: skip
"""Standard operators of several inputs whose dims broadcast."""
UNARY = frozenset({
    "Abs", "Cast", "CastLike", "Clip", "DequantizeLinear", "Dropout", "Elu", "Erf", "Gelu", "HardSigmoid", "Identity",
    "LeakyRelu", "Mish", "Neg", "QuantizeLinear", "Relu", "Sigmoid", "Softmax", "Sqrt", "Swish", "Tanh",
}) | _vendor("DequantizeLinear", "FastGelu", "Gelu", "QuantizeLinear", "QuickGelu")  # fmt: skip
"""Operators whose first output has the shape of the first input."""

PRODUCTS = frozenset({"MatMul", "Gemm", "Einsum", "MatMulInteger"}) | _vendor(
    "FusedMatMul", "DynamicQuantizeMatMul", "MatMulNBits"
)
"""Matrix products, of two computed values or of one with weights."""
CONVOLUTION_WEIGHTS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3, f"{VENDOR}.FusedConv": 1, f"{VENDOR}.QLinearConv": 3}
"""Convolutions, and the index of the weights ``[out, channels / group, *kernel]`` among their inputs."""
WIDE_AS_SECOND = frozenset({"MatMul", "MatMulInteger"}) | _vendor("FusedMatMul", "BiasGelu", "DynamicQuantizeMatMul")
"""Operators whose output has the last dim of their second input."""
WEIGHT_PRODUCTS = frozenset({"MatMul", "Einsum", "Gemm"})
"""The standard products of a value with weights."""
MATRIX_PRODUCTS = frozenset({"Gemm", "MatMul"})
"""The standard products of two matrices."""
JOINING_HEADS = frozenset({"Transpose", "Reshape"})
"""The operators by which exports join heads again."""
QUANTISED = frozenset({
    "ConvInteger", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul",
    "QuantizeLinear",
}) | _vendor(
    "DequantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "GatherBlockQuantized", "MatMulIntegerToFloat",
    "MatMulNBits", "QAttention", "QEmbedLayerNormalization", "QGemm", "QLinearAdd", "QLinearConv", "QLinearMul",
    "QuantizeLinear",
)  # fmt: skip
"""Operators that compute with integers instead of floats, or convert one into the other."""

FUSED_ATTENTION = f"{VENDOR}.MultiHeadAttention"
"""ONNX Runtime's attention that has queries, keys and values as inputs."""
STANDARD_ATTENTION = "Attention"
"""The attention of the standard, since opset 23."""
ATTENTIONS = frozenset({"Attention"}) | _vendor(
    "Attention", "DecoderAttention", "DecoderMaskedMultiHeadAttention", "DecoderMaskedSelfAttention", "GroupQueryAttention",
    "LongformerAttention", "MultiHeadAttention", "PackedAttention", "PackedMultiHeadAttention", "PagedAttention", "QAttention",
    "SparseAttention",
)  # fmt: skip
"""Operators that are a complete attention."""
BLENDING = frozenset({"Add", "Max", "Min", "Sub", "Where"})
"""Operators that apply a mask or a bias to scores."""
SCORE_STEPS = BLENDING | RESHAPING | {"Clip", "Div", "Mul", "Transpose"}
"""Operators between the product of queries and keys and the softmax."""
COMMUTING = frozenset({"Add", "Mul"})
"""Operators whose two inputs may be exchanged."""
ARITHMETIC = COMMUTING | {"Div", "Sub"}
"""Operators by which scores are scaled, and something is added to them."""
FLOORING = frozenset({"Clip", "Max"})
"""Operators that can put a number in place of all smaller ones."""
WEIGHT_STEPS = COPYING | {"Mul", "Reshape", "Where"}
"""Operators between the softmax and the product with values."""
POSITION_BIASES = _vendor("GatedRelativePositionBias", "RelativePositionBias")
"""Operators that compute a bias from positions with a table of their own."""
MASK_INPUTS = {
    "Attention": (3,), f"{VENDOR}.Attention": (3, 5), f"{VENDOR}.MultiHeadAttention": (4, 5), f"{VENDOR}.QAttention": (5,),
    f"{VENDOR}.GroupQueryAttention": (10,), f"{VENDOR}.DecoderMaskedMultiHeadAttention": (3, 4),
    f"{VENDOR}.PackedAttention": (5,), f"{VENDOR}.PackedMultiHeadAttention": (6,),
}  # fmt: skip
"""The indices of an attention's inputs that only mask scores or are added to them."""
MASK_INDEXES = {
    f"{VENDOR}.Attention": (3,), f"{VENDOR}.MultiHeadAttention": (4,), f"{VENDOR}.QAttention": (5,),
    f"{VENDOR}.DecoderMaskedMultiHeadAttention": (3,),
}  # fmt: skip
"""The indices of those masks that are integers: nonzero at tokens, or the number of tokens in each row."""
LENGTHS = {f"{VENDOR}.GroupQueryAttention": (5,)}
"""The indices of an attention's inputs that tell how many tokens each row has."""
LENGTH_STEPS = frozenset({"Add", "Cast", "Identity", "Reshape", "Squeeze", "Sub", "Unsqueeze"})
"""Operators between the sum of a mask and such an input."""
PROJECTING = _vendor("Attention", "QAttention", "PackedAttention", "LongformerAttention")
"""Attentions that compute queries, keys and values themselves, from one input and one matrix."""
FUSED_ROTATION = f"{VENDOR}.RotaryEmbedding"
STANDARD_ROTATION = "RotaryEmbedding"
"""The rotary positions of the standard, since opset 23."""
ROTATIONS = frozenset({STANDARD_ROTATION, FUSED_ROTATION})
"""Operators that apply rotary positions."""
LAYER_NORMS = frozenset({"LayerNormalization"}) | _vendor("SkipLayerNormalization", "EmbedLayerNormalization")
RMS_NORMS = frozenset({"RMSNormalization", "SimplifiedLayerNormalization"}) | _vendor(
    "SkipSimplifiedLayerNormalization", "SimplifiedLayerNormalization"
)
"""``SimplifiedLayerNormalization`` is an operator of ONNX Runtime, although it claims the standard domain."""
NORMS = LAYER_NORMS | RMS_NORMS
SKIP_NORMS = _vendor("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")
"""Norms of the sum of their first two inputs, and of a bias if there is one."""
SKIP_SUM = 3
"""The index of that sum among their outputs. They give it only if it is asked for."""
SKIP_BIASES = {f"{VENDOR}.SkipLayerNormalization": 4, f"{VENDOR}.SkipSimplifiedLayerNormalization": 3}
"""The index of the bias among their inputs."""
EMBEDDING_NORM = f"{VENDOR}.EmbedLayerNormalization"
"""The norm of the sum of table rows that it looks up itself."""
PLAIN_NORMS = NORMS - SKIP_NORMS - {EMBEDDING_NORM}
"""Norms of their first input alone."""
SUMS = frozenset({"Add"}) | SKIP_NORMS
"""Operators that add their first two inputs."""
PRODUCT_BIASES = {"Gemm": 2, f"{VENDOR}.DynamicQuantizeMatMul": 4}
"""The index of the bias among a product's inputs."""
BETWEEN_LAYERS = PLAIN_NORMS | {
    "Add", "Cast", "Clip", "Div", "Dropout", "Identity", "Mul", "Pow", "Reciprocal", "ReduceMean", "Reshape", "Sqrt", "Sub",
    "Where",
}  # fmt: skip
"""Operators between the sum that ends a layer and the input of the next layer: norms, fused or decomposed, masking, views."""
AFTER_ATTENTION = PRODUCTS | SUMS | JOINING | PLAIN_NORMS | {"Mul"}
"""Operators between an attention's output and the sum that adds it to the stream, and that sum."""
GELUS = frozenset({"Gelu"}) | _vendor("BiasGelu", "Gelu")
TANH_GELUS = _vendor("FastGelu")
QUICK_GELUS = _vendor("QuickGelu")
SILUS = frozenset({"Swish"})
RELUS = frozenset({"Relu"})
GELU_CORES = frozenset({"Erf", "Tanh"})
"""The function in the middle of a decomposed GELU."""
SCALE_INPUTS = {
    "LayerNormalization": 1, "SimplifiedLayerNormalization": 1, "RMSNormalization": 1,
    f"{VENDOR}.SimplifiedLayerNormalization": 1, f"{VENDOR}.SkipLayerNormalization": 2,
    f"{VENDOR}.SkipSimplifiedLayerNormalization": 2, EMBEDDING_NORM: 5,
}  # fmt: skip
"""The index of the scale among a norm's inputs. The scale is a vector as long as the last dim."""

# --- the transformer optimizer ---------------------------------------------------------------------------------------------

ATTENTION_NAMES = (
    "Attention", "MultiHeadAttention", "GroupQueryAttention", "PackedAttention", "PackedMultiHeadAttention", "QAttention",
    "DecoderMaskedMultiHeadAttention",
)  # fmt: skip
"""The short names of the operators that an attention can be fused into. The first one is expected."""
FUSED_ATTENTIONS = _vendor("Attention", "MultiHeadAttention", "GroupQueryAttention")
"""The attentions that the transformer optimizer makes."""
FUSED_GELUS = _vendor("FastGelu", "Gelu", "QuickGelu")
"""The GELUs without a bias that the transformer optimizer makes."""
FUSED_BIAS_GELUS = _vendor("BiasGelu")
FUSED_ROTATIONS = _vendor("RotaryEmbedding")
FUSED_STANDARD = frozenset({"Gelu", "LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"})
"""Operators of the standard's domain that the transformer optimizer makes."""
LAST_STEPS = frozenset({"Add", "Mul"})
"""The last operator of a norm, a GELU or a rotation in pieces."""
POOLER_STEPS = COPYING | {"Add", "Gemm", "MatMul", "Tanh"}
"""Operators of a BERT pooler after the one that takes a token: tanh(dense(token))."""
TAKING_TOKENS = frozenset({"Gather", "Slice", "Squeeze"})
"""Operators that take one position of a sequence."""
REDUCING = {
    "ReduceMean": "mean", "GlobalAveragePool": "mean", "ReduceMax": "max", "GlobalMaxPool": "max", "ReduceSum": "sum",
}  # fmt: skip
"""Operators that leave one vector of a sequence, and how they pool it."""
PICKING = frozenset({"Gather", "GatherElements", "GatherND", "Slice"})
"""Operators that take vectors by their places."""
PICKING_BY_AXIS = frozenset({"Gather", "Slice"})
"""The operators of `PICKING` that take places along one axis."""
TURNING = COPYING | {"Transpose"}
"""Operators that give every element of their first input once, in the same or another order of axes."""
BEHIND_POOLING = PRODUCTS | UNARY | NORMS | {"Add", "Mul", "Sub"}
"""Operators of dense layers, activations and norms after pooling."""
SQUARE_SUMS = frozenset({"ReduceL2", "ReduceSum", "ReduceSumSquare"})
"""Operators by which the length of a vector is computed."""
MASKING_TOKENS = COPYING | BLENDING | {"Mul", "Transpose"}
"""Operators between a hidden state and its pooling, by which a mask takes effect."""
TURNED = frozenset({"Slice", "Transpose"})
"""Operators that make the value whose halves are swapped for rotary positions."""
HALVING = frozenset({"Concat", "Neg"})
"""Operators that read the halves of a value for rotary positions."""
PARTING = frozenset({"Gather", "Slice", "Split"})
"""Operators that take the halves of a value for rotary positions, or one number of each pair."""
ADDING = frozenset({"Add", "Sub"})
"""Operators that add two values, or subtract one."""
ROTATING = COPYING | SAME_ORDER | PARTING | ADDING | {"Concat", "Expand", "Mul", "Neg", "Tile"}
"""The operators of rotary positions in pieces."""
KEEPING_COLUMNS = frozenset({"Expand", "Gather", "MatMul", "Slice", "Tile", "Transpose"})
"""Operators that can give each column of a table from the same column of another one, in other rows. The table is the second
input of a MatMul, and the first of the others."""
WAVES = frozenset({"Cos", "Sin"})
NOT_A_NUMBER = "IsNaN"
"""The operator that finds the weights of a query that sees no key."""
NOT_ON_CUDA = _vendor("DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QEmbedLayerNormalization")
"""Operators that have a CPU kernel and no CUDA kernel in ONNX Runtime's list of kernels."""
NOT_ON_CPU = _vendor(
    "BiasAdd", "BiasSplitGelu", "DecoderMaskedSelfAttention", "GatedRelativePositionBias", "GemmFastGelu", "GroupNorm",
    "NhwcConv", "PackedAttention", "PackedMultiHeadAttention", "PagedAttention", "QOrderedAttention", "QOrderedGelu",
    "QOrderedLayerNormalization", "QOrderedMatMul", "RelativePositionBias", "RemovePadding", "RestorePadding", "SkipGroupNorm",
)  # fmt: skip
"""Operators that the transformer optimizer can make and that have no CPU kernel in ONNX Runtime's list of kernels."""

# --- computing one position of an axis -------------------------------------------------------------------------------------

POINTWISE = frozenset({
    "Abs", "Cast", "CastLike", "Ceil", "Clip", "Cos", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish",
    "Identity", "IsInf", "IsNaN", "LeakyRelu", "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid",
    "Sign", "Sin", "Softplus", "Sqrt", "Swish", "Tanh", "ThresholdedRelu",
}) | _vendor("Gelu", "QuickGelu")  # fmt: skip
"""Operators that compute each number of the output from the same number of the first input."""
ALIGNING = BROADCASTING | {"Expand", "MatMul"}
"""Operators whose inputs broadcast with each other, or with the output. An input without a batch may get one."""
BIASED_GELUS = _vendor("BiasGelu", "FastGelu")
SOFTMAXES = frozenset({"LogSoftmax", "Softmax"})
LARGEST_PLACES = frozenset({"ArgMax", "ArgMin"})
REDUCTIONS = LARGEST_PLACES | {
    "ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum",
    "ReduceSumSquare",
}  # fmt: skip
"""Operators that leave one number of an axis."""
GIVEN_QUERIES = frozenset({"Attention"}) | _vendor("MultiHeadAttention")
"""Attentions that are given queries, keys and values, and nothing that tells where a query stands."""

# --- half precision --------------------------------------------------------------------------------------------------------

CASTS = frozenset({"Cast", "CastLike"})
FILLED = frozenset({"Constant", "ConstantOfShape"})
"""Operators whose attribute holds the numbers that they give."""
ADDING_EPSILON = frozenset({"Add", "Clip", "Max"})
"""Operators that take an epsilon."""
EPSILON_STEPS = frozenset({"Cast", "Expand", "Identity", "Pow", "Reciprocal", "Sqrt", "Squeeze", "Unsqueeze"})
"""Operators between an epsilon and the division that it guards."""
DISCRETE = frozenset({
    "Cast", "CastLike", "Ceil", "Cos", "Equal", "Floor", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Round", "Sign",
    "Sin",
})  # fmt: skip
"""Operators that turn a small error in a number computed from positions into a large one."""
RESCALING = frozenset({"Cast", "Mul"})
"""Operators that scale the sums of an integer product back to floats."""
MASK_STEPS = MOVING | {"Add", "Div", "Max", "Min", "Mul", "Neg", "Sub", "Sum", "Trilu"}
"""Operators between a mask and the operator in which it takes effect."""
MASK_ENDS = frozenset({
    "ArgMax", "Equal", "Exp", "GlobalMaxPool", "Greater", "GreaterOrEqual", "Hardmax", "IsInf", "IsNaN", "Less", "LessOrEqual",
    "LogSoftmax", "MaxPool", "ReduceLogSumExp", "ReduceMax", "Shape", "Sign", "Size", "Softmax", "TopK",
})  # fmt: skip
"""Operators after which only the order of numbers counts, or which of them stand for minus infinity."""
ADDED_INPUTS = {
    f"{VENDOR}.SkipLayerNormalization": (0, 1, 4), f"{VENDOR}.SkipSimplifiedLayerNormalization": (0, 1, 3),
    f"{VENDOR}.BiasGelu": (0, 1), f"{VENDOR}.FastGelu": (0, 1), EMBEDDING_NORM: (2, 3, 4),
}  # fmt: skip
"""The places of the inputs that a fused operator adds first."""

# --- simplifying -----------------------------------------------------------------------------------------------------------

LAID_OUT_ANEW = SAME_ORDER | {"Cast", "Identity", "Transpose"}
"""Operators that give every element of their first input once. A weight that they are applied to can be stored in the form that
they give it."""
FOLDABLE = LAID_OUT_ANEW | {
    "Abs", "Add", "And", "CastLike", "Ceil", "Clip", "Concat", "ConstantOfShape", "Cos", "CumSum", "Div", "Equal", "Erf",
    "Exp", "Expand", "EyeLike", "Floor", "Gather", "GatherElements", "GatherND", "Greater", "GreaterOrEqual", "IsNaN", "Less",
    "LessOrEqual", "Log", "MatMul", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pad", "Pow", "Range", "Reciprocal",
    "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "Relu", "Round", "ScatterElements", "ScatterND",
    "Sigmoid", "Sign", "Sin", "Slice", "Sqrt", "Sub", "Tanh", "Tile", "Trilu", "Where", "Xor",
}  # fmt: skip
"""Operators that are computed if all inputs are constants: deterministic ones whose result has a size known beforehand."""
FOLDABLE_IN_HALF = (LAID_OUT_ANEW - {"Cast"}) | {
    "Concat", "ConstantOfShape", "Expand", "Gather", "GatherElements", "Slice", "Tile",
}  # fmt: skip
"""Operators that only move numbers. Nothing else is computed beforehand in float16: ONNX Runtime's CPU computes with float16 in
float32, several nodes at a time, so a result that is rounded to float16 beforehand would be another number."""
DIVIDING = frozenset({"Div", "Mod"})
INSERTING_AXES = frozenset({"Squeeze", "Unsqueeze"})
"""Operators that take axes of length one out, or put them in."""

# --- padding-free ----------------------------------------------------------------------------------------------------------

EACH_ELEMENT = BROADCASTING | (UNARY - {"Softmax"}) | {
    "Ceil", "Celu", "Cos", "Exp", "Floor", "HardSwish", "IsInf", "IsNaN", "Log", "Not", "Reciprocal", "Round", "Selu", "Sign",
    "Sin", "Softplus", "Softsign",
} | _vendor("BiasGelu")  # fmt: skip
"""Operators that compute each element of the output from the elements at its place in the inputs, which broadcast."""
NORMALISING = frozenset({"LayerNormalization", "LogSoftmax", "RMSNormalization", "SimplifiedLayerNormalization", "Softmax"})
"""Operators that compute each vector along an axis, or along it and all axes after it, from that vector alone."""
REDUCTIONS = frozenset({
    "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare",
})  # fmt: skip
"""Operators that leave one number of each vector along their axes."""
TOKEN_PRODUCTS = frozenset({"MatMul", "MatMulInteger"}) | _vendor("FusedMatMul", "MatMulNBits")
"""Products that multiply each vector along the last axis of their first input with the same weights."""
ONE_AXIS = frozenset({"Concat", "Gather", "GatherElements", "Split"})
"""Operators that take pieces of one axis, or join them, by their attribute ``axis``."""
AT_PLACES = ONE_AXIS | {"Slice"}
"""Operators that take elements by their places along axes, or join them."""
LISTED_AXES = frozenset({"Slice", "Squeeze", "Unsqueeze"}) | REDUCTIONS
"""Operators that change the axes which an input lists, or an attribute in older opsets."""
AXES_INPUTS = {"Slice": 3}
"""The index of the input that lists the axes, where it is not 1."""
INSIDE_ATTENTION = EACH_ELEMENT | NORMALISING | MOVING | PRODUCTS | REDUCTIONS | ROTATIONS | ATTENTIONS | {"GatherElements"}
"""Operators in an attention that padded keys cannot get through once their scores are masked."""
POSITION_INPUTS = {"RotaryEmbedding": 3, f"{VENDOR}.RotaryEmbedding": 1}
"""The index of the input that tells a rotation the positions of its tokens, or of the first of them."""
NOT_BY_ROW = (ATTENTIONS - {"Attention", f"{VENDOR}.MultiHeadAttention"}) | {"GatherND", "Pad", "ScatterND", "Tile"}
"""Attentions that take whole rows, padding included."""
REPEATING = COPYING | {"Expand", "Tile", "Transpose"}
"""Operators that repeat their input for each row, as DeBERTa does for each head of each text, or turn what was repeated."""
