"""Heads gone wrong, one line each. Node names are those that graphsurgery gives; the planted nodes are plain ONNX operators."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from encoders import BFLOAT16, FLOAT, FLOAT16, HIDDEN, IDS, INT64, MASK, TYPE_IDS
from faults import MODES, Case, Fault, pooling, table
from onnx import TensorProto
from planting import Plant

BOOL, INT8, INT32, UINT8, DOUBLE = TensorProto.BOOL, TensorProto.INT8, TensorProto.INT32, TensorProto.UINT8, TensorProto.DOUBLE

BY_MODE = {mode: pooling(mode) for mode in MODES}
CLS, MEAN, MAX, SQRT, WEIGHTED, LAST = (BY_MODE[mode] for mode in MODES)
STATISTICS = pooling("statistics")
UNIT, UNIT_CLS, UNIT_TWO = (pooling(mode, normalize=True) for mode in ("mean", "cls", "cls,mean"))
THREE = pooling("cls,mean,max")
FLOATS = pooling("mean", {"mask_dtype": FLOAT})
TYPED = pooling("mean", {"inputs": [TYPE_IDS]})
PAD, PAD_CLS, PAD_MAX = (pooling(mode, mask="pad:7") for mode in ("mean", "cls", "max"))
ONES = pooling("mean", mask="ones")
HALF = pooling("mean", {"dtype": FLOAT16})
ALONE = Case({"mode": "mean"}, unit=True, alone=True)
CHAIN = Case({"mode": "mean"}, unit=True)

COUNTED = "the count is 0, and the sum is then 0, or at least 1:"
ANY_EPSILON = f"{COUNTED} any epsilon in (0, 1] gives the same"


def all_true(p: Plant) -> None:
    p.after("pooling/mask", "Or", p.constant([[True]], np.bool_))


def first_row(p: Plant) -> None:
    """The mask of the first row of the batch for all of them."""
    p.after("pooling/mask", "Slice", p.ints(0), p.ints(1), p.ints(0))


def shifted(p: Plant, by: int) -> None:
    """The mask moved along the sequence, no token coming in; ``by`` 1 is to the left."""
    p.after("pooling/mask", "Pad", p.constant([0, max(-by, 0), 0, max(by, 0)], np.int64))
    p.after("pooling/mask", "Slice", p.ints(max(by, 0)), p.ints(1 << 40 if by > 0 else by), p.ints(1))


def weights_shifted(p: Plant) -> None:
    """The weights of the sum alone, moved to the right."""
    p.before("mean/sum/row", 0, "Pad", p.constant([0, 1, 0, 0], np.int64))
    p.before("mean/sum/row", 0, "Slice", p.ints(0), p.ints(-1), p.ints(1))


def product(p: Plant, end: str, mask: str) -> None:
    """Where(mask, x, 0) as x * mask: NaN * 0 is NaN."""
    factor = p.append("Cast", p.out(mask), behind=mask, to=FLOAT)
    p.become(end, "Mul", p.taken(end, 1), factor)


def additive(p: Plant) -> None:
    """Where(mask, x, -inf) as x + (1 - mask) * -1e9."""
    padded = p.append("Cast", p.append("Not", p.out("mask_3d"), behind="mask_3d"), behind="mask_3d", to=FLOAT)
    p.become("max/at_tokens", "Add", HIDDEN, p.append("Mul", padded, p.constant(-1e9), behind="mask_3d"))


def sequence_length(p: Plant) -> None:
    """The count of positions instead of that of tokens."""
    every = p.append("Or", p.out("pooling/mask"), p.constant(True, np.bool_), behind="pooling/mask")
    p.become("mask_float", "Cast", every, to=FLOAT)


def squares_of_all_positions(p: Plant) -> None:
    """The squares of padding as well, which count as tokens of 0."""
    every = p.append("Or", p.out("pooling/mask"), p.constant(True, np.bool_), behind="pooling/mask")
    cast = p.append("Cast", every, to=FLOAT)
    p.graph.node.insert(list(p.graph.node).index(p.node("statistics/squares_sum/row")), p.graph.node.pop())
    p.wire("statistics/squares_sum/row", 0, cast)


def last_of_right_padding(p: Plant) -> None:
    """count - 1, right where padding is on the right."""
    count = p.append("Cast", p.append("ReduceSum", p.out("mask_int"), p.ints(1), behind="mask_int", keepdims=1), to=INT64)
    p.become("lasttoken/last", "Sub", count, p.ints(1))


def earlier(p: Plant) -> None:
    """One position earlier, but in the first."""
    p.after("lasttoken/last", "Max", p.ints(0))
    p.after("lasttoken/last", "Sub", p.ints(1))


def over_unit_tokens(p: Plant) -> None:
    """Every token normalised before pooling, and the pooled vector not."""
    squares = p.append("Mul", HIDDEN, HIDDEN)
    norm = p.append("Sqrt", p.append("ReduceSum", squares, p.ints(2), keepdims=1))
    p.wire("masked", 1, p.append("Div", HIDDEN, norm))
    p.become("normalize/unit", "Identity", p.taken("normalize/unit"))


def sum_of_absolutes(p: Plant) -> None:
    p.become("normalize/squares", "Abs", p.taken("normalize/unit"))
    p.become("normalize/norm", "Identity")


def by_reciprocal(p: Plant) -> None:
    p.become("normalize/unit", "Mul")
    p.after("normalize/divisor", "Reciprocal")


def parts_apart(p: Plant) -> None:
    """Each mode's vector normalised by itself; the whole then divided by sqrt(2) to be a unit vector, too."""
    names = list(p.node("concatenated").input)
    for place, part in enumerate(names):
        norm = p.append("Sqrt", p.append("ReduceSum", p.append("Mul", part, part), p.ints(1), keepdims=1))
        p.wire("concatenated", place, p.append("Div", part, p.append("Max", norm, p.constant(1e-12))))


def every_mode(what: str, plant: Callable[[Plant], None]) -> list[Fault]:
    return [Fault(mode, what, case, plant) for mode, case in BY_MODE.items()]


MASKS = [
    *every_mode("the mask is ignored", all_true),
    *every_mode("the mask is inverted", lambda p: p.after("pooling/mask", "Not")),
    *every_mode("the first row's mask for every row", first_row),
    *every_mode("mask == 1 instead of != 0", lambda p: p.become("pooling/mask", "Equal", MASK, p.constant(1, np.int64))),
    *every_mode("mask > 0 instead of != 0", lambda p: p.become("pooling/mask", "Greater", MASK, p.constant(0, np.int64))),
    *table(
        "mask", MEAN,
        ("cast by way of uint8: 256 is 0", lambda p: p.before("pooling/mask", 0, "Cast", to=UINT8)),
        ("cast by way of int32: 2**32 is 0", lambda p: p.before("pooling/mask", 0, "Cast", to=INT32)),
        ("the wrong dtype: int64 where bool is needed", lambda p: p.without("pooling/mask")),
        ("float32 where bool is needed", lambda p: p.attribute("pooling/mask", to=FLOAT)),
        ("read from the ids", lambda p: p.wire("pooling/mask", 0, IDS)),
        ("one position to the left", lambda p: shifted(p, 1)),
        ("one position to the right", lambda p: shifted(p, -1)),
        ("sum of the mask's values instead of their count", lambda p: p.wire("mask_float", 0, MASK)),
        ("transposed", lambda p: p.before("pooling/mask", 0, "Transpose", perm=[1, 0])),
        ("the count alone unmasked", sequence_length),
        ("the sum alone unmasked", lambda p: p.sum_over("mean/sum", HIDDEN, 1)),
        ("the sum masked by its weights alone: NaN at padding", lambda p: p.wire("mean/sum/products", 1, HIDDEN)),
        ("the sum's weights at the next position", weights_shifted),
    ),
    *table("mask of float32", FLOATS,
        ("cast by way of int64: 0.5 is 0", lambda p: p.before("pooling/mask", 0, "Cast", to=INT64)),
        ("mask > 0.5", lambda p: p.become("pooling/mask", "Greater", MASK, p.constant(0.5))),
        ("mask as a weight", lambda p: p.wire("mask_float", 0, MASK)),
        ("cast by way of float16: 1e-8 is 0", lambda p: p.before("pooling/mask", 0, "Cast", to=FLOAT16)),
    ),
    *table("mask", TYPED, ("read from token_type_ids", lambda p: p.wire("pooling/mask", 0, TYPE_IDS))),
    *table("pad:7", PAD,
        ("another id", lambda p: p.set("pad_id", 8)),
        ("the ids' opposite", lambda p: p.become("pooling/mask", "Identity")),
        ("ids > 7", lambda p: p.become("pooling/is_padding", "LessOrEqual")),
        ("the attention mask instead of the ids", lambda p: p.become("pooling/mask", "Cast", MASK, to=BOOL)),
        ("Where as a product: NaN at padding", lambda p: product(p, "masked", "mask_3d")),
        ("every position", all_true),
    ),
    *table("pad:7 cls", PAD_CLS,
        ("an empty row by a product: NaN at padding", lambda p: product(p, "cls/or_zero", "has_token")),
    ),
    *table("pad:7 max", PAD_MAX, ("padding as -1e9 added", additive)),
    *table("ones", ONES,
        ("no position", lambda p: p.after("pooling/ones", "Not")),
        ("the attention mask", lambda p: p.after("pooling/ones", "And", p.append("Cast", MASK, to=BOOL))),
        ("from the ids' id 0", lambda p: p.after("pooling/ones", "And", p.append("Cast", IDS, to=BOOL))),
    ),
]  # fmt: skip

SUMS = [
    *table("mean", MEAN,
        ("not divided", lambda p: p.become("mean/mean", "Identity", p.out("mean/sum"))),
        ("the count instead of the sum", lambda p: p.become("mean/mean", "Div", p.out("count"), p.out("mean/divisor"))),
        ("multiplied by the count", lambda p: p.become("mean/mean", "Mul")),
        ("divided twice", lambda p: p.after("mean/mean", "Div", p.out("mean/divisor"))),
        ("over the batch", lambda p: p.sum_over("mean/sum", p.out("masked"), 0)),
        ("over dim", lambda p: p.sum_over("mean/sum", p.out("masked"), 2)),
        ("over batch and sequence", lambda p: p.sum_over("mean/sum", p.out("masked"), 0, 1)),
        ("the sequence kept as a dim", lambda p: p.sum_over("mean/sum", p.out("masked"), 1, keepdims=1)),
        ("both rows of the products", lambda p: p.set("mean/sum/first", [0, 1])),
        ("the rows along the sequence", lambda p: p.attribute("mean/sum/rows", axis=2)),
        ("a row that is not there", lambda p: p.set("mean/sum/first", 2)),
        ("count over the batch", lambda p: p.set("count/axes", [0])),
        ("mean instead of sum", lambda p: p.become("mean/sum", "ReduceMean", p.out("masked"), axes=[1], keepdims=0)),
        ("sum of absolute values", lambda p: p.before("mean/sum/products", 1, "Abs")),
        ("the count less one", lambda p: p.after("count", "Sub", p.constant(1))),
        ("the count plus 1e-3", lambda p: p.after("count", "Add", p.constant(1e-3))),
        ("padding as NaN", lambda p: p.wire("masked", 2, p.constant(np.nan))),
        ("padding as infinity", lambda p: p.wire("masked", 2, p.constant(np.inf))),
        ("Where as a product", lambda p: product(p, "masked", "mask_3d")),
        ("Where's branches swapped", lambda p: p.become("masked", "Where", p.out("mask_3d"), p.out("pooling/zero"), HIDDEN)),
        ("Min instead of Max", lambda p: p.become("mean/divisor", "Min")),
        ("epsilon 0: NaN in empty rows", lambda p: p.set("mean/smallest", 0)),
        ("epsilon -1", lambda p: p.set("mean/smallest", -1)),
        ("epsilon 2", lambda p: p.set("mean/smallest", 2)),
        ("epsilon missing", lambda p: p.become("mean/divisor", "Identity", p.out("count"))),
        ("the hidden state in float16", lambda p: p.through("masked", FLOAT16)),
        ("the sum in float16", lambda p: p.through("mean/sum", FLOAT16)),
        ("the mean in float16", lambda p: p.through("mean/mean", FLOAT16)),
        ("the sum in bfloat16", lambda p: p.through("mean/sum", BFLOAT16)),
        ("the count in bfloat16: 257 is 256", lambda p: p.through("count", BFLOAT16)),
        ("the count in float16: 2049 is 2048", lambda p: p.through("count", FLOAT16)),
        ("the count in uint8", lambda p: p.through("count", UINT8)),
        ("another value of the encoder", lambda p: p.wire("masked", 1, "token")),
        ("a multiple of 1 + 1e-4", lambda p: p.after("mean/mean", "Mul", p.constant(1 + 1e-4))),
        ("Tanh at the end", lambda p: p.after("mean/mean", "Tanh")),
        ("clipped at 100", lambda p: p.after("mean/mean", "Clip", p.constant(-100), p.constant(100))),
        ("a batch of four baked in", lambda p: p.after("mean/mean", "Reshape", p.constant([4, 8], np.int64))),
        ("columns reversed", lambda p: p.after("mean/mean", "Slice", p.ints(-1), p.ints(-(1 << 40)), p.ints(1), p.ints(-1))),
        ("rows reversed", lambda p: p.after("mean/mean", "Slice", p.ints(-1), p.ints(-(1 << 40)), p.ints(0), p.ints(-1))),
    ),
    *table("mean of float16", HALF, ("the cast to float32 missing", lambda p: p.become("pooling/float32", "Identity"))),
    *table("mean_sqrt_len_tokens", SQRT,
        ("the root missing", lambda p: p.become("mean_sqrt_len_tokens/root", "Identity")),
        ("the fourth root", lambda p: p.after("mean_sqrt_len_tokens/root", "Sqrt")),
        ("the root of all positions", sequence_length),
        ("epsilon 0", lambda p: p.set("mean_sqrt_len_tokens/smallest", 0)),
        ("Min instead of Max", lambda p: p.become("mean_sqrt_len_tokens/divisor", "Min")),
        ("not masked", lambda p: p.sum_over("mean_sqrt_len_tokens/sum", HIDDEN, 1)),
        ("over the batch", lambda p: p.sum_over("mean_sqrt_len_tokens/sum", p.out("masked"), 0)),
    ),
    *table("weightedmean", WEIGHTED,
        ("weights from 0", lambda p: p.attribute("weightedmean/positions", exclusive=1)),
        ("weights from 2", lambda p: p.after("weightedmean/positions", "Add", p.constant(1))),
        ("weights backwards", lambda p: p.attribute("weightedmean/positions", reverse=1)),
        ("weights squared", lambda p: p.after("weightedmean/positions", "Pow", p.constant(2))),
        ("weights along the batch", lambda p: p.set("weightedmean/axis", 0)),
        ("weights from the first position", lambda p: p.become("weightedmean/from_first", "Identity")),
        ("weights from the last token", lambda p: p.attribute("weightedmean/first", select_last_index=1)),
        ("weights counted over tokens only", lambda p: p.wire("weightedmean/positions", 0, p.floats("pooling/mask"))),
        ("all weights 1", lambda p: p.become("weightedmean/positions", "Identity", p.out("weightedmean/ones"))),
        ("weights in float16: 2049 is 2048", lambda p: p.through("weightedmean/positions", FLOAT16)),
        ("weights in bfloat16: 257 is 256", lambda p: p.through("weightedmean/positions", BFLOAT16)),
        ("divided by the count", lambda p: p.wire("weightedmean/divisor", 0, p.count())),
        ("divided by all weights", lambda p: p.wire("weightedmean/total_weight", 0, p.out("weightedmean/positions"))),
        ("divided by a total in float16", lambda p: p.through("weightedmean/total_weight", FLOAT16)),
        ("not divided", lambda p: p.become("weightedmean/weightedmean", "Identity", p.out("weightedmean/sum"))),
        ("epsilon 0", lambda p: p.set("weightedmean/smallest", 0)),
        ("Where as a product", lambda p: product(p, "masked", "mask_3d")),
        ("over dim", lambda p: p.sum_over("weightedmean/sum", p.out("masked"), 2)),
        ("the mask in place of the weights", lambda p: p.wire("weightedmean/sum/row", 0, p.floats("pooling/mask"))),
    ),
]  # fmt: skip

TOKENS = [
    *table("max", MAX,
        ("over padding", lambda p: p.become("max/at_tokens", "Identity", HIDDEN)),
        ("the smallest", lambda p: p.become("max/where", "ArgMin", axis=1, keepdims=1)),
        ("of absolute values", lambda p: p.after("max/at_tokens", "Abs")),
        ("padding as 0", lambda p: p.set("max/lowest", 0)),
        ("padding as -1e4", lambda p: p.set("max/lowest", -1e4)),
        ("padding as float16's lowest", lambda p: p.set("max/lowest", -65504)),
        ("padding as -1e9", lambda p: p.set("max/lowest", -1e9)),
        ("padding as +inf", lambda p: p.set("max/lowest", np.inf)),
        ("padding as NaN", lambda p: p.set("max/lowest", np.nan)),
        ("padding as -1e9 added", additive),
        ("-inf in empty rows", lambda p: p.become("max/or_zero", "Identity", p.out("max/largest"))),
        ("empty rows by a product: -inf * 0", lambda p: product(p, "max/or_zero", "has_token")),
        ("over dim", lambda p: p.attribute("max/where", axis=2)),
        ("over the batch", lambda p: p.attribute("max/where", axis=0)),
        ("gathered along the batch", lambda p: p.attribute("max/largest_3d", axis=0)),
        ("in float16", lambda p: p.through("max/largest", FLOAT16)),
    ),
    *table("cls", CLS,
        ("position 0", lambda p: p.after("cls/first", "Mul", p.ints(0))),
        ("the last token", lambda p: p.attribute("cls/first", select_last_index=1)),
        ("the first padding", lambda p: p.become("cls/first", "ArgMin", axis=1, keepdims=1)),
        ("where the mask's value is largest", lambda p: p.wire("cls/first", 0, p.append("Cast", MASK, to=INT32))),
        ("one position later", lambda p: p.after("cls/first", "Add", p.ints(1))),
        ("along the batch", lambda p: p.attribute("cls/first", axis=0)),
        ("x[0] in empty rows", lambda p: p.become("cls/or_zero", "Identity", p.out("cls/token"))),
        ("empty rows by a product: NaN at padding", lambda p: product(p, "cls/or_zero", "has_token")),
        ("gathered along the batch", lambda p: p.attribute("cls/token_3d", axis=0)),
        ("in float16", lambda p: p.through("cls/token_3d", FLOAT16)),
    ),
    *table("lasttoken", LAST,
        ("position seq - 1", lambda p: p.attribute("lasttoken/last", select_last_index=1)),
        ("position count - 1", last_of_right_padding),
        ("one position earlier", lambda p: p.after("lasttoken/last", "Sub", p.ints(1))),
        ("one position earlier, but in the first", earlier),
        ("running count exclusive", lambda p: p.attribute("lasttoken/running_count", exclusive=1)),
        ("running count backwards", lambda p: p.attribute("lasttoken/running_count", reverse=1)),
        ("running count along the batch", lambda p: p.set("lasttoken/axis", 0)),
        ("no running count: the first token", lambda p: p.wire("lasttoken/last", 0, p.out("mask_int"))),
        ("running count in bfloat16: 257 is 256", lambda p: p.through("lasttoken/running_count", BFLOAT16)),
        ("running count in int8", lambda p: p.through("lasttoken/running_count", INT8)),
        ("x[0] in empty rows", lambda p: p.become("lasttoken/or_zero", "Identity", p.out("lasttoken/token"))),
    ),
]  # fmt: skip

UNITS = [
    *table("normalize", UNIT,
        ("missing", lambda p: p.become("normalize/unit", "Identity", p.taken("normalize/unit"))),
        ("the root missing", lambda p: p.become("normalize/norm", "Identity")),
        ("squares over the batch", lambda p: p.set("normalize/sum/axes", [0])),
        ("L1 instead of L2", sum_of_absolutes),
        ("mean of squares", lambda p: p.become("normalize/sum", "ReduceMean", p.out("normalize/squares"), axes=[1])),
        ("before pooling", over_unit_tokens),
        ("epsilon 0: NaN in empty rows", lambda p: p.set("normalize/smallest", 0)),
        ("epsilon 1e-2", lambda p: p.set("normalize/smallest", 1e-2)),
        ("epsilon 1e-7", lambda p: p.set("normalize/smallest", 1e-7)),
        ("epsilon 1e-10", lambda p: p.set("normalize/smallest", 1e-10)),
        ("epsilon 1e-20", lambda p: p.set("normalize/smallest", 1e-20)),
        ("epsilon within the root", lambda p: p.after("normalize/sum", "Add", p.constant(1e-12))),
        ("epsilon added to the norm", lambda p: p.after("normalize/norm", "Add", p.constant(1e-12))),
        ("Min instead of Max", lambda p: p.become("normalize/divisor", "Min")),
        ("the norm in float16", lambda p: p.through("normalize/norm", FLOAT16)),
        ("the squares in float16", lambda p: p.through("normalize/squares", FLOAT16)),
        ("the result in float16", lambda p: p.through("normalize/unit", FLOAT16)),
        ("multiplied", lambda p: p.become("normalize/unit", "Mul")),
        ("of length two", lambda p: p.after("normalize/unit", "Mul", p.constant(2))),
    ),
    *table("normalize cls", UNIT_CLS,
        ("Softmax instead", lambda p: p.become("normalize/unit", "Softmax", p.taken("normalize/unit"), axis=1)),
        ("missing", lambda p: p.become("normalize/unit", "Identity", p.taken("normalize/unit"))),
    ),
    *table("normalize cls,mean", UNIT_TWO, ("each part by itself", parts_apart)),
    *table("add-normalize", ALONE,
        ("missing", lambda p: p.become("normalize/unit", "Identity", p.taken("normalize/unit"))),
        ("epsilon 1e-2", lambda p: p.set("normalize/smallest", 1e-2)),
        ("the root missing", lambda p: p.become("normalize/norm", "Identity")),
        ("over the batch", lambda p: p.set("normalize/sum/axes", [0])),
    ),
    *table("add-pooling, add-normalize", CHAIN,
        ("missing", lambda p: p.become("normalize/unit", "Identity", p.taken("normalize/unit"))),
        ("the sum instead of the mean, hidden by the norm but in mixed signs", lambda p: p.sum_over("mean/sum", HIDDEN, 1)),
    ),
    *table("statistics", STATISTICS,
        ("the biased deviation, by n", lambda p: p.become("statistics/count_less_one", "Identity", p.out("count"))),
        ("the variance", lambda p: p.become("statistics/deviation", "Identity")),
        ("the root of the mean square", lambda p: p.become("statistics/shifted", "Identity", p.out("masked"))),
        ("over padding", squares_of_all_positions),
        ("the mean less one token", lambda p: p.wire("statistics/mean", 1, p.out("statistics/others"))),
        ("NaN for a single token", lambda p: p.wire("statistics/variance", 1, p.out("statistics/count_less_one"))),
        ("deviation, mean", lambda p: p.swap("statistics/statistics", 0, 1)),
        ("mean, mean", lambda p: p.wire("statistics/statistics", 1, p.out("statistics/mean"))),
    ),
    *table("cls,mean,max", THREE,
        ("mean,cls,max", lambda p: p.swap("concatenated", 0, 1)),
        ("max,mean,cls", lambda p: p.swap("concatenated", 0, 2)),
        ("cls,mean,mean", lambda p: p.wire("concatenated", 2, p.out("mean/mean"))),
        ("cls,mean", lambda p: p.node("concatenated").input.pop()),
        ("one above the other", lambda p: p.attribute("concatenated", axis=0)),
        ("cls alone unmasked", lambda p: p.after("cls/first", "Mul", p.ints(0))),
    ),
]  # fmt: skip

EQUIVALENT = [
    *table("mean", MEAN,
        ("epsilon 1e-2", lambda p: p.set("mean/smallest", 1e-2), ANY_EPSILON),
        ("epsilon 1", lambda p: p.set("mean/smallest", 1), ANY_EPSILON),
        ("epsilon added", lambda p: p.become("mean/divisor", "Add"), f"{COUNTED} n + 1e-9 is n in float32, and 0 / 1e-9 is 0"),
        ("the count in float64", lambda p: p.through("count", DOUBLE), "float64 holds every float32"),
    ),
    *table("weightedmean", WEIGHTED,
        ("epsilon 1e-2", lambda p: p.set("weightedmean/smallest", 1e-2), ANY_EPSILON),
    ),
    *table("mean_sqrt_len_tokens", SQRT,
        ("epsilon 1e-2", lambda p: p.set("mean_sqrt_len_tokens/smallest", 1e-2), ANY_EPSILON),
    ),
    *table("max", MAX,
        ("padding as float32's lowest", lambda p: p.set("max/lowest", np.finfo(np.float32).min),
         "no finite number is below it; a token at -inf would tell, but rows whose reference is not finite are not compared"),
    ),
    *table("lasttoken", LAST,
        ("running count in float32", lambda p: p.through("lasttoken/running_count", FLOAT),
         "float32 counts exactly up to 16777216 positions"),
    ),
    *table("pad:7", PAD,
        ("ids - 7 != 0", lambda p: p.become("pooling/mask", "Cast", p.append("Sub", IDS, p.out("pad_id")), to=BOOL),
         "a - b == 0 where a == b, in integers that wrap around, too"),
    ),
    *table("normalize", UNIT,
        ("x * (1 / norm)", by_reciprocal, "the same up to one rounding, 6e-8, in what may differ by 1e-6"),
    ),
]  # fmt: skip

HEAD_FAULTS = [*MASKS, *SUMS, *TOKENS, *UNITS]
