"""Dense layers, layer norms, activations, cuts and bytes gone wrong, one line each, as in `head_faults`."""

from __future__ import annotations

import numpy as np
from encoders import BFLOAT16, FLOAT, FLOAT16
from faults import Case, table
from module_folders import dense, layer_norm, ranges
from onnx import TensorProto
from planting import Plant

from graphsurgery import AddActivation, AddDense, AddLayerNorm, OutputPrecision, Truncate
from graphsurgery.edits.edit import Edit

INT8, INT32, UINT8 = TensorProto.INT8, TensorProto.INT32, TensorProto.UINT8
LAST = 1 << 40


def alone(*edits: Edit, hidden: int = 8) -> Case:
    """``edits`` of a pooled model, proven against that: the head is theirs alone."""
    return Case({"mode": "mean"}, {"hidden": hidden}, alone=True, edits=edits)


def chained(*edits: Edit, hidden: int = 8) -> Case:
    """``edits`` of a pooled model, proven against the encoder."""
    return Case({"mode": "mean"}, {"hidden": hidden}, edits=edits)


def reversed_at(p: Plant, end: str, axis: int) -> None:
    """What a node gives, backwards along an axis."""
    p.after(end, "Slice", p.ints(-1), p.ints(-LAST), p.ints(axis), p.ints(-1))


def rounded(p: Plant, end: str, place: int, dtype: int) -> None:
    """An input of a node, rounded to ``dtype`` and back to float32."""
    p.before(end, place, "Cast", to=dtype)
    p.before(end, place, "Cast", to=FLOAT)


def normalised(p: Plant, x: str) -> str:
    """x / norm2(x)"""
    return p.append("Div", x, p.append("Sqrt", p.append("ReduceSum", p.append("Mul", x, x), p.ints(1), keepdims=1)))


# Dense

SQUARE, OTHER, NARROW = dense(8, 8), dense(8, 8, residual=True, seed=1), dense(5, 8, seed=2)
TANH = alone(AddDense(NARROW, "tanh"))
GELU = alone(AddDense(SQUARE, "gelu"))
PLAIN = alone(AddDense(SQUARE))
KEPT = alone(AddDense(SQUARE, "relu", residual=True))
BYPASS = alone(AddDense(OTHER, "relu", residual=True))
GLU = alone(AddDense(SQUARE, "glu"))
PRELU = alone(AddDense(dense(5, 8, slope=True), "prelu"))
TWO = chained(AddDense(SQUARE, "tanh"), AddDense(OTHER, "relu"))


def bias_after_activation(p: Plant) -> None:
    p.without("dense/sum")
    p.after("tanh/tanh", "Add", p.out("dense/bias"))


def tanh_gelu(p: Plant) -> None:
    """x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2 instead of x (1 + erf(x / sqrt 2)) / 2."""
    x = p.taken("gelu/scaled")
    cubed = p.append("Mul", p.append("Mul", x, x), p.append("Mul", x, p.constant(0.044715)))
    p.become("gelu/scaled", "Mul", p.append("Add", x, cubed), p.constant(np.sqrt(2 / np.pi)))
    p.become("gelu/erf", "Tanh")


def sigmoid_gelu(p: Plant, factor: float) -> None:
    """x sigmoid(factor x)"""
    x = p.taken("gelu/scaled")
    p.become("gelu/gelu", "Mul", x, p.append("Sigmoid", p.append("Mul", x, p.constant(factor))))


def residual_first(p: Plant) -> None:
    """relu(x Wt + b + x)"""
    p.before("relu/relu", 0, "Add", p.taken("dense/product"))
    p.become("with_residual", "Identity", p.out("relu/relu"))


def layers_exchanged(p: Plant) -> None:
    first, second = p.taken("dense/product", 1), p.taken("dense/product.2", 1)
    p.wire("dense/product", 1, second)
    p.wire("dense/product.2", 1, first)


def digests(p: Plant) -> dict[str, str]:
    """The recorded digests by name."""
    return dict(text.split("=") for text in p.claimed("digests"))


def claim_digests(p: Plant, **changed: str | None) -> None:
    """Other digests in the newest entry; None: none of that name."""
    found = digests(p) | {name.replace("_", ".", 1): sha for name, sha in changed.items()}
    p.claim(digests=[f"{name}={sha}" for name, sha in found.items() if sha is not None])


DENSE = [
    *table("dense", TANH,
        ("bias missing", lambda p: p.without("dense/sum")),
        ("bias subtracted", lambda p: p.become("dense/sum", "Sub")),
        ("bias twice", lambda p: p.after("dense/sum", "Add", p.out("dense/bias"))),
        ("bias backwards", lambda p: reversed_at(p, "dense/bias", 0)),
        ("bias after the activation", bias_after_activation),
        ("no activation", lambda p: p.become("tanh/tanh", "Identity")),
        ("sigmoid instead of tanh", lambda p: p.become("tanh/tanh", "Sigmoid")),
        ("clipped instead of tanh",
         lambda p: p.become("tanh/tanh", "Clip", p.taken("tanh/tanh"), p.constant(-1), p.constant(1))),
        ("the activation twice", lambda p: p.after("tanh/tanh", "Tanh")),
        ("the activation before the layer", lambda p: (p.before("dense/product", 0, "Tanh"), p.without("tanh/tanh"))),
        ("the weights of another layer", lambda p: p.wire("dense/product", 1, p.constant(np.full((8, 5), 0.3)))),
        ("one element of the weights changed", lambda p: p.before("dense/product", 1, "Add", p.constant(np.eye(8, 5) * 1e-3))),
        ("the weights multiplied by 1 + 1e-4", lambda p: p.before("dense/product", 1, "Mul", p.constant(1 + 1e-4))),
        ("the weights in float16", lambda p: rounded(p, "dense/product", 1, FLOAT16)),
        ("the weights in bfloat16", lambda p: rounded(p, "dense/product", 1, BFLOAT16)),
        ("the vectors in float16", lambda p: rounded(p, "dense/product", 0, FLOAT16)),
        ("the product in bfloat16", lambda p: p.through("dense/product", BFLOAT16)),
        ("the result in float16", lambda p: p.through("tanh/tanh", FLOAT16)),
        ("the last output dim cut", lambda p: p.after("tanh/tanh", "Slice", p.ints(0), p.ints(4), p.ints(1))),
        ("the last output dim 0", lambda p: p.after("tanh/tanh", "Mul", p.constant([1, 1, 1, 1, 0]))),
        ("output dims backwards", lambda p: reversed_at(p, "tanh/tanh", 1)),
        ("input dims backwards", lambda p: reversed_at(p, "dense/weight", 0)),
        ("rows backwards", lambda p: reversed_at(p, "tanh/tanh", 0)),
        ("the recorded weights themselves changed", lambda p: p.set("dense/weight", np.full((8, 5), 0.3))),
        ("the recorded bias itself changed", lambda p: p.set("dense/bias", np.zeros(5))),
        ("claimed with relu", lambda p: p.claim(activation="relu")),
        ("claimed as PReLU, the slope unrecorded", lambda p: p.claim(activation="prelu")),
        ("claimed as GLU of an odd number of values", lambda p: p.claim(activation="glu")),
        ("claimed with a residual of other dims", lambda p: p.claim(residual=True)),
        ("claimed without bias", lambda p: claim_digests(p, linear_bias=None)),
        ("claimed without weight", lambda p: claim_digests(p, linear_weight=None)),
        ("claimed without weights", lambda p: p.claim(digests=[])),
        ("another digest claimed", lambda p: claim_digests(p, linear_weight="0" * 64)),
        ("an unknown weight claimed", lambda p: claim_digests(p, linear_more=digests(p)["linear.bias"])),
        ("the bias claimed as the weight", lambda p: claim_digests(p, linear_weight=digests(p)["linear.bias"])),
        ("digests claimed the wrong way round", lambda p: claim_digests(
            p, linear_weight=digests(p)["linear.bias"], linear_bias=digests(p)["linear.weight"])),
    ),
    *table("square dense", PLAIN,
        ("transposed", lambda p: p.before("dense/product", 1, "Transpose", perm=[1, 0])),
        ("an activation that was not asked for", lambda p: p.after("dense/sum", "Relu")),
        ("a residual that was not asked for", lambda p: p.after("dense/sum", "Add", p.taken("dense/product"))),
        ("weights and vectors exchanged",
         lambda p: p.become("dense/product", "Gemm", p.taken("dense/product"), p.out("dense/weight"),
                                                             transB=1)),
        ("left out", lambda p: p.become("dense/sum", "Identity", p.taken("dense/product"))),
        ("clipped at 1e4", lambda p: p.after("dense/sum", "Clip", p.constant(-1e4), p.constant(1e4))),
    ),
    *table("dense gelu", GELU,
        ("by tanh", tanh_gelu),
        ("by sigmoid(1.702 x)", lambda p: sigmoid_gelu(p, 1.702)),
        ("sqrt 2 as 1.41", lambda p: p.set("gelu/sqrt2", 1.41)),
        ("not halved", lambda p: p.set("gelu/half", 1)),
        ("SiLU instead", lambda p: sigmoid_gelu(p, 1)),
    ),
    *table("dense with its input", KEPT,
        ("missing", lambda p: p.become("with_residual", "Identity", p.out("relu/relu"))),
        ("doubled", lambda p: p.after("with_residual", "Add", p.taken("dense/product"))),
        ("subtracted", lambda p: p.become("with_residual", "Sub")),
        ("before the activation", residual_first),
        ("the activation left out", lambda p: p.become("relu/relu", "Identity")),
        ("claimed without", lambda p: p.claim(residual=False)),
    ),
    *table("dense with a residual weight", BYPASS,
        ("the input itself", lambda p: p.wire("with_residual", 1, p.taken("dense/product"))),
        ("through the layer's weight", lambda p: p.wire("residual/product", 1, p.out("dense/weight"))),
        ("weights exchanged", lambda p: (
            p.wire("dense/product", 1, p.out("residual/weight")), p.wire("residual/product", 1, p.out("dense/weight")))),
        ("transposed", lambda p: p.before("residual/product", 1, "Transpose", perm=[1, 0])),
        ("claimed without", lambda p: p.claim(residual=False)),
        ("claimed without its weight", lambda p: claim_digests(p, residual_weight=None)),
        ("the layer's weight claimed for it", lambda p: claim_digests(p, residual_weight=digests(p)["linear.weight"])),
    ),
    *table("dense glu", GLU,
        ("halves exchanged", lambda p: (
            p.wire("glu/glu", 0, p.out("glu/second_half")), p.wire("glu/sigmoid", 0, p.out("glu/first_half")))),
        ("tanh as the gate", lambda p: p.become("glu/sigmoid", "Tanh")),
        ("no gate", lambda p: p.become("glu/glu", "Identity", p.out("glu/first_half"))),
        ("even and odd dims instead of halves", lambda p: (
            p.become("glu/first_half", "Slice", p.taken("glu/first_half"), p.ints(0), p.ints(8), p.ints(1), p.ints(2)),
            p.become("glu/second_half", "Slice", p.taken("glu/second_half"), p.ints(1), p.ints(8), p.ints(1), p.ints(2)))),
    ),
    *table("dense prelu", PRELU,
        ("slope 0.25", lambda p: p.wire("prelu/prelu", 1, p.constant([0.25]))),
        ("slope on both sides", lambda p: p.become("prelu/prelu", "Mul")),
        ("of the negative", lambda p: p.before("prelu/prelu", 0, "Neg")),
        ("claimed as leakyrelu", lambda p: p.claim(activation="leakyrelu")),
    ),
    *table("two dense layers", TWO,
        ("weights exchanged", layers_exchanged),
        ("the first one's bias in both", lambda p: p.wire("dense/sum.2", 1, p.taken("dense/sum", 1))),
        ("the first left out", lambda p: p.become("tanh/tanh", "Identity", p.taken("dense/product"))),
        ("the second left out", lambda p: p.become("relu/relu", "Identity", p.taken("dense/product.2"))),
    ),
]  # fmt: skip

# Layer norm

NORM = alone(AddLayerNorm(layer_norm(8)))
POOLED_NORM = chained(AddLayerNorm(layer_norm(8)))


def one_pass(p: Plant) -> None:
    """E[x^2] - E[x]^2"""
    x, mean = p.taken("layer_norm/sum"), p.out("layer_norm/mean")
    p.become("layer_norm/squares", "Mul", x, x)
    p.after("layer_norm/variance", "Sub", p.append("Mul", mean, mean))


NORMS = [
    *table("layer norm", NORM,
        ("the variance of a sample", lambda p: p.wire("layer_norm/variance", 1, p.constant(7))),
        ("the sum of squares", lambda p: p.become("layer_norm/variance", "Identity")),
        ("the mean left in", lambda p: (
            p.become("layer_norm/nearly_centred", "Identity"), p.become("layer_norm/centred", "Identity"))),
        ("the mean left in the variance", lambda p: p.become("layer_norm/squares", "Mul", *[p.taken("layer_norm/sum")] * 2)),
        ("the root missing", lambda p: p.become("layer_norm/deviation", "Identity")),
        ("epsilon missing: NaN where all is 0", lambda p: p.without("layer_norm/raised")),
        ("epsilon 1e-12", lambda p: p.set("layer_norm/epsilon", 1e-12)),
        ("epsilon 1e-6", lambda p: p.set("layer_norm/epsilon", 1e-6)),
        ("epsilon 9e-6", lambda p: p.set("layer_norm/epsilon", 9e-6)),
        ("epsilon 1e-3", lambda p: p.set("layer_norm/epsilon", 1e-3)),
        ("epsilon outside of the root", lambda p: (
            p.without("layer_norm/raised"), p.after("layer_norm/deviation", "Add", p.out("layer_norm/epsilon")))),
        ("the largest of variance and epsilon", lambda p: p.become("layer_norm/raised", "Max")),
        ("epsilon's root", lambda p: p.set("layer_norm/epsilon", 1e-5**0.5)),
        ("scale and shift exchanged", lambda p: (
            p.wire("layer_norm/scaled", 1, p.out("layer_norm/shift")),
            p.wire("layer_norm/layer_norm", 1, p.out("layer_norm/scale")))),
        ("scale missing", lambda p: p.without("layer_norm/scaled")),
        ("shift missing", lambda p: p.without("layer_norm/layer_norm")),
        ("shift subtracted", lambda p: p.become("layer_norm/layer_norm", "Sub")),
        ("shift before scale", lambda p: (
            p.become("layer_norm/scaled", "Add", p.out("layer_norm/normal"), p.out("layer_norm/shift")),
                                          p.become("layer_norm/layer_norm", "Mul", p.out("layer_norm/scaled"),
                                          p.out("layer_norm/scale")))),
        ("scale plus 1", lambda p: p.after("layer_norm/scale", "Add", p.constant(1))),
        ("scale backwards", lambda p: reversed_at(p, "layer_norm/scale", 0)),
        ("mean absolute deviation", lambda p: (p.become("layer_norm/squares", "Abs", p.out("layer_norm/centred")),
                                               p.become("layer_norm/deviation", "Identity"))),
        ("the mean over the batch", lambda p: p.set("layer_norm/sum/axes", [0])),
        ("the variance over the batch", lambda p: p.set("layer_norm/sum_of_squares/axes", [0])),
        ("multiplied by the deviation", lambda p: p.become("layer_norm/normal", "Mul")),
        ("the vectors in float16", lambda p: (
            rounded(p, "layer_norm/sum", 0, FLOAT16), rounded(p, "layer_norm/nearly_centred", 0, FLOAT16))),
        ("the squares in float16", lambda p: p.through("layer_norm/squares", FLOAT16)),
        ("the result in float16", lambda p: p.through("layer_norm/layer_norm", FLOAT16)),
        ("twice", lambda p: p.become("layer_norm/layer_norm", "LayerNormalization", p.out("layer_norm/layer_norm") + "x",
                                     p.out("layer_norm/scale"), p.out("layer_norm/shift"))),
        ("unit vectors instead", lambda p: p.become("layer_norm/normal", "Identity", normalised(p, p.taken("layer_norm/sum")))),
        ("the recorded scale itself changed", lambda p: p.set("layer_norm/scale", np.ones(8))),
        ("claimed without shift", lambda p: claim_digests(p, norm_bias=None)),
        ("claimed the wrong way round", lambda p: claim_digests(
            p, norm_weight=digests(p)["norm.bias"], norm_bias=digests(p)["norm.weight"])),
    ),
    *table("layer norm after pooling", POOLED_NORM,
        ("the sum pooled, which layer norm hides but for epsilon",
         lambda p: p.become("mean/mean", "Identity", p.out("mean/sum"))),
        ("left out", lambda p: p.become("layer_norm/layer_norm", "Identity", p.out("mean/mean"))),
    ),
]  # fmt: skip

# Activations


def bent(name: str) -> Case:
    return alone(AddActivation(name))


SHRUNK = bent("hardshrink")
BENT = [
    *table("sigmoid", bent("sigmoid"),
        ("missing", lambda p: p.become("activation/sigmoid", "Identity")),
        ("hard", lambda p: p.become("activation/sigmoid", "HardSigmoid", alpha=1 / 6, beta=0.5)),
        ("of the negative", lambda p: p.before("activation/sigmoid", 0, "Neg")),
        ("twice", lambda p: p.after("activation/sigmoid", "Sigmoid")),
        ("softmax instead", lambda p: p.become("activation/sigmoid", "Softmax", axis=1)),
        ("tanh instead", lambda p: p.become("activation/sigmoid", "Tanh")),
        ("in float16", lambda p: p.through("activation/sigmoid", FLOAT16)),
        ("claimed as softmax", lambda p: p.claim(activation="softmax")),
    ),
    *table("softmax", bent("softmax"),
        ("over the batch", lambda p: p.attribute("activation/softmax", axis=0)),
        ("sigmoid instead", lambda p: p.become("activation/softmax", "Sigmoid")),
        ("logarithms", lambda p: p.become("activation/softmax", "LogSoftmax", axis=1)),
        ("exp(x) / sum exp(x), which overflows", lambda p: (
            p.become("activation/softmax", "Exp"), p.after("activation/softmax", "Div", p.append(
                "ReduceSum", p.append("Exp", p.taken("activation/softmax")), p.ints(1), keepdims=1)))),
    ),
    *table("leakyrelu", bent("leakyrelu"),
        ("slope 0.02", lambda p: p.attribute("activation/leakyrelu", alpha=0.02)),
        ("slope 0", lambda p: p.become("activation/leakyrelu", "Relu")),
    ),
    *table("elu", bent("elu"),
        ("alpha 2", lambda p: p.attribute("activation/elu", alpha=2.0)),
        ("selu instead", lambda p: p.become("activation/elu", "Selu")),
        ("celu of alpha 2", lambda p: p.become("activation/elu", "Celu", alpha=2.0)),
    ),
    *table("relu6", bent("relu6"),
        ("without end", lambda p: p.become("activation/clip", "Relu", p.taken("activation/clip"))),
        ("ending at 5", lambda p: p.set("activation/high", 5)),
    ),
    *table("softplus", bent("softplus"),
        ("log(1 + exp(x)), which overflows", lambda p: (
            p.become("activation/softplus", "Exp"), p.after("activation/softplus", "Log"),
                                                       p.after("activation/softplus", "Add", p.constant(1)))),
        ("beta 2", lambda p: (
            p.before("activation/softplus", 0, "Mul", p.constant(2)), p.after("activation/softplus", "Div", p.constant(2)))),
    ),
    *table("logsigmoid", bent("logsigmoid"),
        ("log(sigmoid(x)): -inf", lambda p: p.become("activation/logsigmoid", "Log", p.append(
            "Sigmoid", p.taken("activation/negated")))),
    ),
    *table("hardshrink", SHRUNK,
        ("at 0.4", lambda p: p.attribute("activation/shrink", lambd=0.4)),
        ("at 0.505", lambda p: p.attribute("activation/shrink", lambd=0.505)),
        ("soft", lambda p: p.attribute("activation/shrink", bias=0.5)),
        ("of one side", lambda p: p.become("activation/shrink", "ThresholdedRelu", alpha=0.5)),
    ),
    *table("mish", bent("mish"),
        ("silu instead", lambda p: p.become("activation/tanh", "Sigmoid", p.taken("activation/softplus"))),
    ),
    *table("hardswish", bent("hardswish"),
        ("silu instead", lambda p: p.become("activation/hardsigmoid", "Sigmoid")),
        ("a gate of 0.2 x + 0.5", lambda p: p.attribute("activation/hardsigmoid", alpha=0.2)),
    ),
]  # fmt: skip

# Cuts

CUT = alone(Truncate("3"))
POOLED_CUT = chained(Truncate("3"))
SHORT = alone(Truncate("3", keep_length=True))
CUTS = alone(Truncate("5,3"))
SAME = chained(Truncate("3"), Truncate("2"))

TRUNCATED = [
    *table("truncate", CUT,
        ("the last dims instead", lambda p: (p.set("truncate_3/start", [5]), p.set("truncate_3/end", [8]))),
        ("the second to the fourth", lambda p: (p.set("truncate_3/start", [1]), p.set("truncate_3/end", [4]))),
        ("every other dim", lambda p: (p.node("first_dims").input.append(p.ints(2)), p.set("truncate_3/end", [6]))),
        ("one dim more", lambda p: p.set("truncate_3/end", [4])),
        ("one dim fewer", lambda p: p.set("truncate_3/end", [2])),
        ("the whole vector", lambda p: p.set("truncate_3/end", [8])),
        ("along the batch", lambda p: p.set("truncate_3/axis", [0])),
        ("normalised before the cut, not after", lambda p: (
            p.wire("first_dims", 0, normalised(p, p.taken("first_dims"))),
            p.become("normalize/unit", "Identity", p.out("first_dims")))),
        ("the whole vector's length", lambda p: p.become("normalize/squares", "Mul", *[p.taken("first_dims")] * 2)),
        ("not normalised", lambda p: p.become("normalize/unit", "Identity", p.out("first_dims"))),
        ("of length sqrt 3", lambda p: p.after("normalize/unit", "Mul", p.constant(3**0.5))),
        ("L1 instead of L2", lambda p: (
            p.become("normalize/squares", "Abs", p.out("first_dims")), p.become("normalize/norm", "Identity"))),
        ("epsilon 0: NaN where all is 0", lambda p: p.set("normalize/smallest", 0)),
        ("epsilon 1e-2", lambda p: p.set("normalize/smallest", 1e-2)),
        ("in float16", lambda p: p.through("normalize/unit", FLOAT16)),
        ("dims backwards", lambda p: reversed_at(p, "first_dims", 1)),
        ("claimed to keep its length", lambda p: p.claim(keep_length=True)),
        ("claimed of two dims", lambda p: p.claim(dim="2")),
        ("claimed of nine dims", lambda p: p.claim(dim="9")),
    ),
    *table("truncate after pooling", POOLED_CUT,
        ("pooled by cls", lambda p: p.become("mean/mean", "Gather", p.out("masked"), p.constant(0, np.int64), axis=1)),
        ("the sum pooled, of other signs", lambda p: p.wire("mean/sum", 0, "last_hidden_state")),
        ("left out but for the cut", lambda p: p.become("normalize/unit", "Identity", p.out("first_dims"))),
    ),
    *table("truncate --keep-length", SHORT,
        ("normalised",
         lambda p: p.become("first_dims", "Slice", normalised(p, p.taken("first_dims")), *p.node("first_dims").input[1:])),
        ("the last dims", lambda p: (p.set("truncate_3/start", [5]), p.set("truncate_3/end", [8]))),
        ("claimed to be normalised", lambda p: p.claim(keep_length=False)),
    ),
    *table("truncate --dim 5,3", CUTS,
        ("the first alone normalised",
         lambda p: p.become("truncate_3/normalize/unit", "Identity", p.out("truncate_3/first_dims"))),
        ("one length for both", lambda p: p.wire("truncate_3/normalize/unit", 1, p.out("truncate_5/normalize/divisor"))),
        ("dims 5 to 8 in the second", lambda p: (p.set("truncate_3/start", [5]), p.set("truncate_3/end", [8]))),
        ("names exchanged", lambda p: (
            p.rename("sentence_embedding_5", "x"), p.rename("sentence_embedding_3", "sentence_embedding_5"),
                                       p.rename("x", "sentence_embedding_3"))),
    ),
    *table("truncate twice", SAME,
        ("cut at once, which vectors shorter than 1e-12 tell",
         lambda p: p.wire("truncate_2/first_dims", 0, p.out("mean/mean"))),
        ("the second of other dims", lambda p: (p.set("truncate_2/start", [1]), p.set("truncate_2/end", [3]))),
    ),
]  # fmt: skip

# Bytes

SCALED, UNSIGNED = (alone(OutputPrecision(to, ranges(8))) for to in ("int8", "uint8"))
POOLED_BYTES = chained(OutputPrecision("int8", ranges(8)))
BITS, UNSIGNED_BITS = (alone(OutputPrecision(to), hidden=12) for to in ("binary", "ubinary"))
WHOLE_BITS = alone(OutputPrecision("ubinary"), hidden=16)
FLOORED = "what is below 0 is clipped to 0 whichever way it was rounded, and above 0 both are the same"


def of_one_dim(p: Plant, dim: int) -> None:
    """The ranges of one dim for all of them."""
    p.after("precision/ranges", "Gather", p.ints(*[dim] * 8), axis=1)


BYTES = [
    *table("int8", SCALED,
        ("rounded instead of floored", lambda p: p.become("precision/bucket", "Round")),
        ("rounded up", lambda p: p.become("precision/bucket", "Ceil")),
        ("254 buckets", lambda p: p.set("precision/buckets", 254)),
        ("256 buckets", lambda p: p.set("precision/buckets", 256)),
        ("127 buckets", lambda p: p.set("precision/buckets", 127)),
        ("min and max exchanged", lambda p: (p.set("precision/row_min", 1), p.set("precision/row_max", 0))),
        ("min for both", lambda p: p.set("precision/row_max", 0)),
        ("not clipped", lambda p: p.become("precision/clipped", "Identity", p.out("precision/bucket"))),
        ("not clipped below",
         lambda p: p.become("precision/clipped", "Min", p.out("precision/bucket"), p.out("precision/last"))),
        ("clipped at 254", lambda p: p.set("precision/last", 254)),
        ("clipped at 1", lambda p: p.set("precision/first", 1)),
        ("the sign's offset missing", lambda p: p.without("precision/centred")),
        ("an offset of 127", lambda p: p.set("precision/sign", 127)),
        ("the offset halved", lambda p: p.set("precision/sign", 64)),
        ("the offset before clipping", lambda p: (
            p.after("precision/bucket", "Sub", p.constant(128)), p.without("precision/centred"))),
        ("a flat dim divided by 0", lambda p: p.wire("precision/steps", 1, p.out("precision/raw_step"))),
        ("a flat dim's step 1e-9", lambda p: p.set("precision/one", 1e-9)),
        ("ranges of another dim", lambda p: p.after("precision/ranges", "Gather", p.ints(1, 2, 3, 4, 5, 6, 7, 0), axis=1)),
        ("the first dim's ranges for all", lambda p: of_one_dim(p, 0)),
        ("ranges in float16", lambda p: p.through("precision/ranges", FLOAT16)),
        ("ranges of -max to max", lambda p: p.become("precision/min", "Neg", p.out("precision/max"))),
        ("ranges widened by 1%", lambda p: p.after("precision/ranges", "Mul", p.constant(1.01))),
        ("min not taken off", lambda p: p.become("precision/above", "Identity")),
        ("max taken off", lambda p: p.wire("precision/above", 1, p.out("precision/max"))),
        ("the vectors in float16", lambda p: rounded(p, "precision/above", 0, FLOAT16)),
        ("unit vectors instead", lambda p: p.wire("precision/above", 0, normalised(p, p.taken("precision/above")))),
        ("dims backwards", lambda p: reversed_at(p, "precision/clipped", 1)),
        ("rows backwards", lambda p: reversed_at(p, "precision/clipped", 0)),
        ("one bucket more", lambda p: p.after("precision/bucket", "Add", p.constant(1))),
        ("the recorded ranges themselves changed", lambda p: p.set("precision/ranges", np.stack([np.zeros(8), np.ones(8)]))),
        ("claimed as uint8", lambda p: p.claim(to="uint8")),
        ("claimed as binary", lambda p: p.claim(to="binary")),
        ("claimed without ranges", lambda p: p.claim(digests=[])),
        ("other ranges claimed", lambda p: claim_digests(p, ranges="0" * 64)),
    ),
    *table("int8 after pooling", POOLED_BYTES,
        ("the sum pooled", lambda p: p.become("mean/mean", "Identity", p.out("mean/sum"))),
        ("the mean in float16", lambda p: p.through("mean/mean", FLOAT16)),
        ("rounded", lambda p: p.become("precision/bucket", "Round")),
    ),
    *table("uint8", UNSIGNED,
        ("less 128", lambda p: p.after("precision/clipped", "Sub", p.constant(128))),
        ("the type int8", lambda p: p.attribute("precision/bytes", to=INT8)),
        ("the type int32", lambda p: p.attribute("precision/bytes", to=INT32)),
        ("255 less the bucket", lambda p: p.become("precision/clipped", "Sub", p.out("precision/last"), p.append(
            "Clip", p.out("precision/bucket"), p.out("precision/first"), p.out("precision/last")))),
        ("256 buckets", lambda p: p.set("precision/buckets", 256)),
    ),
    *table("binary", BITS,
        ("the lowest bit first", lambda p: p.set("precision/places", [1 << place for place in range(8)])),
        (">= 0 instead of > 0", lambda p: p.become("precision/is_set", "GreaterOrEqual")),
        ("< 0 instead of > 0", lambda p: p.become("precision/is_set", "Less")),
        ("> 0.1", lambda p: p.set("precision/zero", 0.1)),
        ("> 1e-4", lambda p: p.set("precision/zero", 1e-4)),
        ("> -1e-4", lambda p: p.set("precision/zero", -1e-4)),
        ("above the row's mean", lambda p: p.wire("precision/is_set", 1, p.append(
            "ReduceMean", p.taken("precision/is_set"), axes=[1], keepdims=1))),
        ("filled up with ones", lambda p: p.node("precision/filled").input.append(p.constant(1))),
        ("filled up before the first", lambda p: p.set("precision/filling", [0, 4, 0, 0])),
        ("bytes backwards", lambda p: reversed_at(p, "precision/byte_value", 1)),
        ("dims backwards", lambda p: reversed_at(p, "precision/bits", 1)),
        ("the last dim left out", lambda p: p.after("precision/bits", "Mul", p.constant([1] * 11 + [0]))),
        ("the sign's offset missing", lambda p: p.without("precision/centred")),
        ("an offset of 127", lambda p: p.set("precision/sign", 127)),
        ("two's complement of the offset", lambda p: p.become("precision/centred", "Sub", p.out("precision/sign"),
                                                              p.out("precision/byte_value"))),
        ("the highest bit worth 127", lambda p: p.set("precision/places", [127, 64, 32, 16, 8, 4, 2, 1])),
        ("the lowest bit lost", lambda p: p.set("precision/places", [128, 64, 32, 16, 8, 4, 2, 0])),
        ("claimed as ubinary", lambda p: p.claim(to="ubinary")),
        ("claimed as int8", lambda p: p.claim(to="int8")),
    ),
    *table("ubinary", UNSIGNED_BITS,
        ("less 128", lambda p: p.after("precision/byte_value", "Sub", p.constant(128))),
        ("inverted", lambda p: p.become("precision/is_set", "LessOrEqual")),
        ("filled up with ones", lambda p: p.node("precision/filled").input.append(p.constant(1))),
    ),
    *table("ubinary of whole bytes", WHOLE_BITS,
        ("every other dim in the first byte", lambda p: p.before("precision/octets", 0, "Gather", p.ints(
            *range(0, 16, 2), *range(1, 16, 2)), axis=1)),
        ("bytes backwards", lambda p: reversed_at(p, "precision/byte_value", 1)),
    ),
]  # fmt: skip

VECTOR_FAULTS = [*DENSE, *NORMS, *BENT, *TRUNCATED, *BYTES]

EQUIVALENT = [
    *table("int8", SCALED,
        ("clipped before it is floored", lambda p: (
            p.wire("precision/bucket", 0, p.append("Clip", p.out("precision/steps"), p.out("precision/first"),
            p.out("precision/last"))),
            p.become("precision/clipped", "Identity", p.out("precision/bucket"))),
         "0 and 255 are whole: flooring a number between them stays between them, and any other becomes 0 or 255 either way"),
        ("cut off instead of floored", lambda p: p.through("precision/steps", TensorProto.INT64), FLOORED),
        ("128 added instead of taken off", lambda p: p.become("precision/centred", "Add"),
         "in this runtime, casts to 8 bits wrap around: 128 more and 128 less are one byte"),
    ),
    *table("layer norm", NORM,
        ("x * (1 / deviation)", lambda p: (p.become("layer_norm/normal", "Mul"), p.after("layer_norm/deviation", "Reciprocal")),
         "the same up to one rounding, 6e-8, in what may differ by 1e-5"),
    ),
    *table("dense", TANH,
        ("Gemm", lambda p: p.become("dense/product", "Gemm", alpha=1.0, beta=1.0), "a matrix product by another name"),
    ),
]  # fmt: skip

UNREADABLE = [
    *table("dense", TANH,
        ("an activation that is not known", lambda p: p.claim(activation="swiglu")),
        ("digests that are no texts", lambda p: p.claim(digests=[1, None])),
    ),
    *table("sigmoid", bent("sigmoid"), ("an activation that is not known", lambda p: p.claim(activation="prelu"))),
    *table("truncate", CUT,
        ("dims that are no numbers", lambda p: p.claim(dim="3,x")),
        ("no dims", lambda p: p.claim(dim="0")),
        ("one number twice", lambda p: p.claim(dim="3,3")),
        ("thousands of digits", lambda p: p.claim(dim="3" * 5000)),
    ),
    *table("int8", SCALED,
        ("a precision that is not known", lambda p: p.claim(to="int4")),
        ("digests that are no list", lambda p: p.claim(digests="ranges=0")),
    ),
]  # fmt: skip
