"""Edits of tokens and of scores gone wrong, one line each, as in `head_faults`."""

from __future__ import annotations

import numpy as np
from encoders import BFLOAT16, FLOAT, FLOAT16, HIDDEN, IDS, MASK, VOCABULARY
from faults import Case, table
from module_folders import drawn, saved
from onnx import TensorProto, numpy_helper
from planting import Plant

from graphsurgery import (
    AddCnn,
    AddLogitScore,
    AddLstm,
    AddPooling,
    AddSpladePooling,
    AddWeightedLayerPooling,
    AddWordWeights,
    MaskTokens,
)
from graphsurgery.edits.edit import Edit

LAST = 1 << 40
MEANS = "mean,mean_sqrt_len_tokens,weightedmean"


def tokens(*edits: Edit, hidden: int = 8, dtype: int = FLOAT) -> Case:
    """``edits`` of a tiny encoder."""
    return Case({}, {"hidden": hidden, "dtype": dtype}, edits=edits)


def reversed_at(p: Plant, end: str, axis: int) -> None:
    """What a node gives, backwards along an axis."""
    p.after(end, "Slice", p.ints(-1), p.ints(-LAST), p.ints(axis), p.ints(-1))


def shifted(p: Plant, end: str, by: int) -> None:
    """What a node ``[batch, seq, dim]`` gives, ``by`` positions later (earlier where that is negative), zeros coming in."""
    p.after(end, "Pad", p.ints(0, max(by, 0), 0, 0, max(-by, 0), 0))
    p.after(end, "Slice", p.ints(max(-by, 0)), p.ints(-by if by > 0 else LAST), p.ints(1))


def elements(p: Plant, end: str) -> np.ndarray:
    """The elements of a Constant node, to be changed and given back to `Plant.set`."""
    return np.array(numpy_helper.to_array(p.node(end).attribute[0].t))


def with_rows(p: Plant, end: str, order: list[int], axis: int) -> None:
    """The gates of a Constant node (blocks along ``axis``) in another order."""
    blocks = np.split(elements(p, end), len(order), axis)
    p.set(end, np.concatenate([blocks[place] for place in order], axis))


# Convolutions

SIZES = {"convs.0": 1, "convs.1": 3, "convs.2": 5}
CONVS = {f"{name}.weight": (4, 8, size) for name, size in SIZES.items()} | {f"{name}.bias": (4,) for name in SIZES}
CNN_FOLDER = saved(drawn(CONVS))
CNN = tokens(AddCnn(CNN_FOLDER))
CNN_HALF = tokens(AddCnn(CNN_FOLDER), dtype=FLOAT16)
CNN_POOLED = tokens(AddCnn(CNN_FOLDER), AddPooling("mean"))

CONVOLVED = [
    *table("add-cnn", CNN,
        ("the kernels in another order", lambda p: p.swap("concatenated", 0, 2)),
        ("one kernel twice", lambda p: p.wire("concatenated", 2, p.out("conv.2"))),
        ("a kernel missing", lambda p: p.node("concatenated").input.pop()),
        ("one above the other", lambda p: p.attribute("concatenated", axis=2)),
        ("a kernel mirrored: convolution, not correlation", lambda p: p.set("weight.2", elements(p, "weight.2")[:, :, ::-1])),
        ("a kernel mirrored as it is used", lambda p: p.before("conv.3", 1, "Gather", p.ints(4, 3, 2, 1, 0), axis=2)),
        ("a kernel of other weights", lambda p: p.set("weight.3", elements(p, "weight.3") * (1 + 1e-4))),
        ("one weight changed by 1e-3", lambda p: p.set("weight.2", elements(p, "weight.2") + 1e-3 * np.eye(4, 8)[:, :, None])),
        ("weights of float16", lambda p: p.set("weight.2", elements(p, "weight.2").astype(np.float16))),
        ("in and out exchanged", lambda p: p.set("weight", np.resize(elements(p, "weight").transpose(1, 0, 2), (4, 8, 1)))),
        ("no bias", lambda p: p.node("conv.2").input.pop()),
        ("the bias of another kernel", lambda p: p.wire("conv.2", 2, p.out("bias"))),
        ("zeros on the left alone", lambda p: p.attribute("conv.2", pads=[2, 0])),
        ("zeros on the right alone", lambda p: p.attribute("conv.3", pads=[0, 4])),
        ("the edge repeated instead of zeros", lambda p: edge_repeated(p)),
        ("no zeros around the row: shorter", lambda p: p.attribute("conv.2", pads=[0, 0])),
        ("dilated", lambda p: p.attribute("conv.2", dilations=[2], pads=[2, 2])),
        ("padding convolved as zeros", lambda p: padding_as_zeros(p)),
        ("along the dims", lambda p: p.become("channels", "Identity")),
        ("channels given, not tokens", lambda p: p.become("cnn/tokens", "Identity")),
        ("one position later", lambda p: shifted(p, "cnn/tokens", 1)),
        ("one position earlier", lambda p: shifted(p, "cnn/tokens", -1)),
        ("in float16", lambda p: p.through("cnn/tokens", FLOAT16)),
        ("in bfloat16", lambda p: p.through("conv.2", BFLOAT16)),
        ("relu at the end", lambda p: p.after("cnn/tokens", "Relu")),
        ("of another value", lambda p: p.wire("channels", 0, "token")),
        ("rows reversed", lambda p: reversed_at(p, "cnn/tokens", 0)),
    ),
    *table("add-cnn of float16", CNN_HALF, ("the cast to float32 missing", lambda p: p.become("cnn/float32", "Identity"))),
    *table("add-cnn, add-pooling", CNN_POOLED,
        ("not convolved", lambda p: p.wire("channels", 0, "token")),
        ("zeros on the left alone", lambda p: p.attribute("conv.2", pads=[2, 0])),
        ("pooled without a kernel", lambda p: p.wire("concatenated", 0, p.out("conv.2"))),
        ("padding pooled", lambda p: p.wire("mean/sum", 0, p.taken("pooling/masked", 1))),
    ),
]  # fmt: skip


def edge_repeated(p: Plant) -> None:
    p.before("conv.2", 0, "Pad", p.ints(0, 0, 1, 0, 0, 1), mode="edge")
    p.attribute("conv.2", pads=[0, 0])


def padding_as_zeros(p: Plant) -> None:
    """x m convolved, as sentence-transformers does not."""
    mask = p.append("Unsqueeze", p.append("Cast", MASK, to=FLOAT), p.ints(2))
    p.before("channels", 0, "Mul", mask)


# Recurrent networks


def lstm(layers: int, directions: int, width: int = 8, size: int = 3, seed: int = 0) -> str:
    """The folder of an LSTM module."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(layers):
        for suffix in ("", "_reverse")[:directions]:
            name = f"l{layer}{suffix}"
            shapes[f"encoder.weight_ih_{name}"] = (4 * size, directions * size if layer else width)
            shapes |= {f"encoder.weight_hh_{name}": (4 * size, size)}
            shapes |= {f"encoder.{kind}_{name}": (4 * size,) for kind in ("bias_ih", "bias_hh")}
    return saved(drawn(shapes, seed))


GATES = [*range(6), *range(9, 12), *range(6, 9)]
"""Rows of four gates of three, the last two exchanged."""
ONE, TWO, STACKED = (tokens(AddLstm(lstm(layers, directions))) for layers, directions in ((1, 1), (1, 2), (2, 2)))
PAD = tokens(AddLstm(lstm(1, 1), mask="pad:7"))
LSTM_POOLED = tokens(AddLstm(lstm(1, 2)), AddPooling("mean", normalize=True))

RECURRENT = [
    *table("add-lstm", ONE,
        ("torch's gates for ONNX's", lambda p: with_rows(p, "layer/weights", [0, 2, 3, 1], 1)),
        ("gates i and o exchanged", lambda p: with_rows(p, "layer/weights", [1, 0, 2, 3], 1)),
        ("gates f and o exchanged", lambda p: with_rows(p, "layer/weights", [0, 2, 1, 3], 1)),
        ("gates of the recurrence exchanged", lambda p: with_rows(p, "layer/recurrence", [0, 1, 3, 2], 1)),
        ("gates of the biases exchanged", lambda p: with_rows(p, "layer/biases", [0, 3, 2, 1, 4, 5, 6, 7], 1)),
        ("gates exchanged as they are used", lambda p: p.before("layer/lstm", 1, "Gather", p.ints(*GATES), axis=1)),
        ("one of two biases", lambda p: p.set("layer/biases", elements(p, "layer/biases") * np.repeat([1, 0], 12))),
        ("no bias", lambda p: p.wire("layer/lstm", 3, "")),
        ("no recurrence", lambda p: p.set("layer/recurrence", elements(p, "layer/recurrence") * 0)),
        ("weights of float16", lambda p: p.set("layer/weights", elements(p, "layer/weights").astype(np.float16))),
        ("one weight changed by 1e-2", lambda p: p.set("layer/weights", elements(p, "layer/weights") + 1e-2 * np.eye(12, 8))),
        ("every row as long as the sequence", lambda p: all_long(p)),
        ("backwards", lambda p: p.attribute("layer/lstm", direction="reverse")),
        ("input and forget coupled", lambda p: p.attribute("layer/lstm", input_forget=1)),
        ("cells clipped at 1", lambda p: p.attribute("layer/lstm", clip=1.0)),
        ("relu for tanh", lambda p: p.attribute("layer/lstm", activations=["Sigmoid", "Relu", "Relu"])),
        ("hard sigmoids", lambda p: p.attribute("layer/lstm", activations=["HardSigmoid", "Tanh", "Tanh"])),
        ("over the batch", lambda p: p.attribute("by_position", perm=[0, 1, 2])),
        ("lengths less one", lambda p: p.after("lstm/count", "Sub", p.constant(1))),
        ("lengths plus one", lambda p: p.after("lstm/lengths", "Add", p.constant(1))),
        ("an empty row of no length", lambda p: p.set("lstm/least", 0)),
        ("an empty row of two positions", lambda p: p.set("lstm/least", 2)),
        ("the mask's values for their number", lambda p: p.become("lstm/mask_float", "Cast", MASK, to=FLOAT)),
        ("zeros where the mask has none, not behind the length", lambda p: masked(p)),
        ("ones behind the rows", lambda p: p.set("lstm/zero", 1)),
        ("one position behind the rows", lambda p: behind_as_well(p)),
        ("positions along the batch", lambda p: p.set("lstm/axis", 0)),
        ("in float16", lambda p: p.through("lstm/tokens", FLOAT16)),
        ("in bfloat16", lambda p: p.through("by_position", BFLOAT16)),
        ("the first state left out", lambda p: shifted(p, "lstm/tokens", -1)),
        ("of another value", lambda p: p.wire("by_position", 0, "token")),
        ("not recurrent at all", lambda p: p.become("lstm/tokens", "Tanh", "token")),
    ),
    *table("add-lstm in both directions", TWO,
        ("the second backwards as the first", lambda p: reversed_at(p, "layer/weights", 0)),
        ("the directions exchanged", lambda p: reversed_at(p, "layer/lstm", 1)),
        ("one direction's weights for both", lambda p: same_directions(p, "layer/weights")),
        ("one direction's recurrence for both", lambda p: same_directions(p, "layer/recurrence")),
        ("one direction's biases for both", lambda p: same_directions(p, "layer/biases")),
        ("the second from the end of the sequence", lambda p: p.wire("layer/lstm", 4, "")),
        ("not put side by side", lambda p: p.attribute("layer/together", perm=[0, 1, 2, 3])),
    ),
    *table("add-lstm of two layers", STACKED,
        ("one layer alone", lambda p: p.use_instead(p.out("layer/states.2"), p.out("layer/states"))),
        ("the first layer's recurrence again", lambda p: p.wire("layer/lstm.2", 2, p.out("layer/recurrence"))),
        ("the second layer without lengths", lambda p: p.wire("layer/lstm.2", 4, "")),
        ("a sum of both layers", lambda p: p.after("layer/states.2", "Add", p.out("layer/states"))),
    ),
    *table("add-lstm of pad:7", PAD, ("another id", lambda p: p.set("pad_id", 8))),
    *table("add-lstm, add-pooling", LSTM_POOLED,
        ("lengths less one", lambda p: p.after("lstm/count", "Sub", p.constant(1))),
        ("torch's gates for ONNX's", lambda p: with_rows(p, "layer/weights", [0, 2, 3, 1], 1)),
        ("not normalised", lambda p: p.become("normalize/unit", "Identity", p.taken("normalize/unit"))),
        ("in float16", lambda p: p.through("lstm/tokens", FLOAT16)),
    ),
]  # fmt: skip


def all_long(p: Plant) -> None:
    """Every position counted as a token."""
    p.after("lstm/mask", "Or", p.constant([[True]], np.bool_))


def masked(p: Plant) -> None:
    """Zeros where the mask has no token, instead of behind the row's length."""
    p.become("behind", "Not", p.out("lstm/mask"))


def behind_as_well(p: Plant) -> None:
    """What comes without lengths, one position too far."""
    p.wire("layer/lstm", 4, "")
    p.attribute("lstm/positions", exclusive=1)


def same_directions(p: Plant, end: str) -> None:
    given = elements(p, end)
    p.set(end, np.stack([given[0], given[0]]))


# Weights of words


def words(config: dict[str, object]) -> str:
    """The folder of a WordWeights module."""
    return saved({}, config)


RNG = np.random.default_rng(3)
KNOWN = {f"word{place}": float(weight) for place, weight in enumerate(RNG.uniform(0.2, 4, VOCABULARY)) if place % 5}
CONFIG = {"vocab": [f"Word{place}" for place in range(VOCABULARY)], "word_weights": KNOWN, "unknown_word_weight": 0.3}
WEIGHED = tokens(AddWordWeights(words(CONFIG)))
WEIGHED_MEANS = tokens(AddWordWeights(words(CONFIG)), AddPooling(MEANS))
WEIGHED_PAD = tokens(AddWordWeights(words(CONFIG), mask="pad:7"))
WEIGHED_HALF = tokens(AddWordWeights(words(CONFIG)), dtype=FLOAT16)

WEIGHTS = [
    *table("add-word-weights", WEIGHED,
        ("the ids one further", lambda p: next_word(p)),
        ("one weight changed by 1e-2", lambda p: p.set("table", elements(p, "table") + 1e-2 * (np.arange(VOCABULARY) == 9))),
        ("weights of float16", lambda p: p.set("table", elements(p, "table").astype(np.float16))),
        ("the first word's weight for all", lambda p: p.set("table", np.full(VOCABULARY, elements(p, "table")[0]))),
        ("weights reversed", lambda p: p.set("table", elements(p, "table")[::-1])),
        ("not multiplied", lambda p: p.become("word_weights/tokens", "Identity", p.out("word_weights/masked"))),
        ("added", lambda p: p.become("word_weights/tokens", "Add")),
        ("divided", lambda p: p.become("word_weights/tokens", "Div")),
        ("multiplied twice", lambda p: p.after("word_weights/tokens", "Mul", p.out("weights_3d"))),
        ("the root of the weights", lambda p: p.after("looked_up", "Sqrt")),
        ("the mask ignored", lambda p: mask_ignored(p)),
        ("the mask inverted", lambda p: p.after("word_weights/mask", "Not")),
        ("mask == 1 instead of != 0", lambda p: p.become("word_weights/mask", "Equal", MASK, p.constant(1, np.int64))),
        ("NaN at padding", lambda p: p.become("word_weights/masked", "Identity", "last_hidden_state")),
        ("weighed by the id itself", lambda p: p.become("looked_up", "Cast", IDS, to=FLOAT)),
        ("every second weight", lambda p: p.before("looked_up", 0, "Gather", p.ints(*[id & ~1 for id in range(VOCABULARY)]))),
        ("in float16", lambda p: p.through("word_weights/tokens", FLOAT16)),
        ("in bfloat16", lambda p: p.through("looked_up", BFLOAT16)),
        ("of another value", lambda p: p.wire("word_weights/masked", 1, "token")),
    ),
    *table("add-word-weights of pad:7", WEIGHED_PAD, ("another id", lambda p: p.set("pad_id", 8))),
    *table("add-word-weights of float16", WEIGHED_HALF,
        ("the cast to float32 missing", lambda p: p.become("word_weights/float32", "Identity")),
    ),
    *table("add-word-weights, add-pooling", WEIGHED_MEANS,
        ("divided by the number of tokens", lambda p: by_number(p)),
        ("divided by the sum of squares", lambda p: squares_of_weights(p)),
        ("the sum over the batch", lambda p: p.sum_over("total_token_weight", "token_weights", 0, keepdims=1)),
        ("weights unmasked in the sum", lambda p: p.sum_over("total_token_weight", p.out("looked_up"), 1, keepdims=1)),
        ("the root missing", lambda p: p.become("mean_sqrt_len_tokens/root", "Identity")),
        ("weightedmean divided by weighted positions", lambda p: by_positions(p)),
        ("weightedmean without positions", lambda p: p.wire("weightedmean/sum/row", 0, p.out("mask_float"))),
        ("epsilon 1", lambda p: p.set("mean/smallest", 1)),
        ("Min instead of Max", lambda p: p.become("weightedmean/divisor", "Min")),
        ("the total in float16", lambda p: p.through("total_token_weight", FLOAT16)),
        ("not weighted at all", lambda p: p.wire("pooling/masked", 1, HIDDEN)),
    ),
]  # fmt: skip


def mask_ignored(p: Plant) -> None:
    p.after("word_weights/mask", "Or", p.constant([[True]], np.bool_))


def by_number(p: Plant) -> None:
    p.become("total_token_weight", "ReduceSum", p.append("Cast", MASK, to=FLOAT), p.ints(1), keepdims=1)


def squares_of_weights(p: Plant) -> None:
    p.before("total_token_weight/products", 1, "Mul", p.out("token_weights_3d"))


def by_positions(p: Plant) -> None:
    total = p.append("ReduceSum", p.out("weightedmean/weights"), p.ints(1), keepdims=1)
    p.wire("weightedmean/divisor", 0, total)


def next_word(p: Plant) -> None:
    """The weight of the id after each."""
    p.before("looked_up", 0, "Concat", p.out("word_weights/table"), axis=0)
    p.before("looked_up", 1, "Add", p.ints(1))


# Hidden layers

LAYERS = "token,biased,bent,last_hidden_state"
SHARES = {"layer_weights": np.array([1.5, 0.25, 0.75], np.float32)}
LAYER_CONFIG = {"layer_start": 1, "num_hidden_layers": 3}
MIXED = tokens(AddWeightedLayerPooling(saved(SHARES, LAYER_CONFIG), LAYERS))
MIXED_HALF = tokens(AddWeightedLayerPooling(saved(SHARES, LAYER_CONFIG), LAYERS), dtype=FLOAT16)
MIXED_POOLED = tokens(AddWeightedLayerPooling(saved(SHARES, LAYER_CONFIG), LAYERS), AddPooling("mean", normalize=True))

MIXTURES = [
    *table("add-weighted-layer-pooling", MIXED,
        ("one layer earlier", lambda p: p.wire("part", 0, "token")),
        ("two layers exchanged", lambda p: exchanged(p)),
        ("the last layer twice", lambda p: p.wire("part.2", 0, HIDDEN)),
        ("a layer missing", lambda p: p.node("layer_pooling/tokens").input.pop()),
        ("a layer twice", lambda p: p.node("layer_pooling/tokens").input.append(p.out("part"))),
        ("equal weights", lambda p: p.set("layer_pooling/weights", [1, 1, 1])),
        ("weights reversed", lambda p: p.set("layer_pooling/weights", [0.75, 0.25, 1.5])),
        ("one weight changed by 1e-3", lambda p: p.set("layer_pooling/weights", [1.5, 0.251, 0.75])),
        ("not divided", lambda p: p.become("shares", "Identity", p.out("layer_pooling/weights"))),
        ("divided by their number", lambda p: p.wire("shares", 1, p.constant([3]))),
        ("divided by the sum of squares", lambda p: p.before("layer_pooling/total", 0, "Mul", p.out("layer_pooling/weights"))),
        ("softmax of the weights", lambda p: p.become("shares", "Softmax", p.out("layer_pooling/weights"), axis=0)),
        ("the largest", lambda p: p.become("layer_pooling/tokens", "Max")),
        ("a mean of the mean", lambda p: p.become("layer_pooling/tokens", "Mean")),
        ("the same share for all", lambda p: p.set("place.2", [0])),
        ("added, not multiplied", lambda p: p.become("part.2", "Add")),
        ("in float16", lambda p: p.through("layer_pooling/tokens", FLOAT16)),
        ("shares in bfloat16", lambda p: p.through("shares", BFLOAT16)),
        ("one layer in float16", lambda p: p.through("part.3", FLOAT16)),
        ("rows reversed", lambda p: reversed_at(p, "layer_pooling/tokens", 0)),
    ),
    *table("add-weighted-layer-pooling of float16", MIXED_HALF,
        ("a cast to float32 missing", lambda p: p.become("layer_pooling/float32.2", "Identity")),
        ("summed in float16", lambda p: p.through("part", FLOAT16)),
    ),
    *table("add-weighted-layer-pooling, add-pooling", MIXED_POOLED,
        ("not weighted", lambda p: p.wire("pooling/masked", 1, HIDDEN)),
        ("two layers exchanged", lambda p: exchanged(p)),
    ),
]  # fmt: skip


def exchanged(p: Plant) -> None:
    one, other = p.taken("part"), p.taken("part.3")
    p.wire("part", 0, other)
    p.wire("part.3", 0, one)


# Scores


def scores(*edits: Edit, dtype: int = FLOAT) -> Case:
    """``edits`` of an encoder whose output is one score for every word."""
    return Case({}, {"hidden": VOCABULARY, "dtype": dtype, "names": {HIDDEN: "logits"}}, edits=edits)


MAX, SUM = scores(AddSpladePooling()), scores(AddSpladePooling("sum"))
TWICE = scores(AddSpladePooling("max", "log1p_relu"))
SPLADE_PAD = scores(AddSpladePooling(mask="pad:7"))
SPLADE_HALF = scores(AddSpladePooling("sum"), dtype=FLOAT16)

SPARSE = [
    *table("add-splade-pooling", MAX,
        ("the mask ignored", lambda p: p.after("splade/mask", "Or", p.constant([[True]], np.bool_))),
        ("the mask inverted", lambda p: p.after("splade/mask", "Not")),
        ("mask > 0 instead of != 0", lambda p: p.become("splade/mask", "Greater", MASK, p.constant(0, np.int64))),
        ("the mask as a product: NaN * 0", lambda p: by_product(p, "splade")),
        ("the smallest", lambda p: p.become("splade/where", "ArgMin", axis=1, keepdims=1)),
        ("of absolute values", lambda p: p.after("splade/masked", "Abs")),
        ("padding as 1", lambda p: p.set("splade/zero", 1)),
        ("no relu: NaN", lambda p: p.become("splade/relu", "Identity")),
        ("a leaky relu", lambda p: p.become("splade/relu", "LeakyRelu", alpha=0.01)),
        ("softplus instead of relu", lambda p: p.become("splade/relu", "Softplus")),
        ("no logarithm", lambda p: p.become("splade/log", "Identity")),
        ("a logarithm of base 2", lambda p: p.after("splade/log", "Mul", p.constant(1 / np.log(2)))),
        ("the logarithm twice", lambda p: again(p)),
        ("log(2 + x)", lambda p: p.set("splade/one", 2)),
        ("log(1 + 1e-3 + x)", lambda p: p.set("splade/one", 1.001)),
        ("over the words", lambda p: p.attribute("splade/where", axis=2)),
        ("over the batch", lambda p: p.attribute("splade/where", axis=0)),
        ("in float16", lambda p: p.through("splade/log", FLOAT16)),
        ("in bfloat16", lambda p: p.through("splade/largest", BFLOAT16)),
        ("words reversed", lambda p: reversed_at(p, "splade/log", 1)),
        ("the first token", lambda p: p.after("splade/where", "Mul", p.ints(0))),
    ),
    *table("add-splade-pooling of a sum", SUM,
        ("a mean", lambda p: p.become("splade/sum", "ReduceMean", p.out("splade/log"), axes=[1], keepdims=0)),
        ("over the words", lambda p: p.set("splade/sum/axes", [2])),
        ("the sequence kept as a dim", lambda p: p.attribute("splade/sum", keepdims=1)),
        ("the logarithm of the sum", lambda p: log_last(p)),
        ("the root of the sum", lambda p: p.after("splade/sum", "Sqrt")),
        ("the mask ignored", lambda p: p.after("splade/mask", "Or", p.constant([[True]], np.bool_))),
        ("no relu", lambda p: p.become("splade/relu", "Abs")),
        ("in float16", lambda p: p.through("splade/sum", FLOAT16)),
        ("the logarithm twice", lambda p: again(p)),
    ),
    *table("add-splade-pooling, log1p_relu", TWICE,
        ("the logarithm once", lambda p: p.become("splade/log.2", "Identity", p.out("splade/log"))),
        ("the second without 1", lambda p: p.become("splade/raised.2", "Identity")),
        ("three times", lambda p: again(p)),
    ),
    *table("add-splade-pooling of pad:7", SPLADE_PAD, ("another id", lambda p: p.set("pad_id", 8))),
    *table("add-splade-pooling of float16", SPLADE_HALF,
        ("the cast to float32 missing", lambda p: p.become("splade/float32", "Identity")),
    ),
]  # fmt: skip


YES_NO, YES = scores(AddLogitScore("4", "7")), scores(AddLogitScore("4"))
YES_NO_PAD = scores(AddLogitScore("4", "7", mask="pad:7"))
YES_NO_HALF = scores(AddLogitScore("4", "7"), dtype=FLOAT16)

YES_OR_NO = [
    *table("add-logit-score", YES_NO,
        ("yes and no exchanged", lambda p: p.set("logit_score/tokens", [7, 4])),
        ("another word for yes", lambda p: p.set("logit_score/tokens", [5, 7])),
        ("another word for no", lambda p: p.set("logit_score/tokens", [4, 8])),
        ("no less yes", lambda p: p.after("log_odds", "Neg")),
        ("the sum", lambda p: p.become("log_odds", "Add")),
        ("yes alone", lambda p: p.become("log_odds", "Identity", p.out("logit"))),
        ("the probability of yes", lambda p: p.after("log_odds", "Sigmoid")),
        ("the mask ignored", lambda p: p.after("logit_score/mask", "Or", p.constant([[True]], np.bool_))),
        ("the mask inverted", lambda p: p.after("logit_score/mask", "Not")),
        ("the first position", lambda p: p.after("lasttoken/last", "Mul", p.ints(0))),
        ("the first token", lambda p: p.become("lasttoken/last", "ArgMax", p.out("mask_int"), axis=1, keepdims=1)),
        ("the token before the last", lambda p: before_last(p)),
        ("rows without tokens as they are", lambda p: p.become("or_zero", "Identity", p.out("lasttoken/token"))),
        ("in float16", lambda p: p.through("log_odds", FLOAT16)),
        ("the logits in bfloat16", lambda p: p.through("columns", BFLOAT16)),
    ),
    *table("add-logit-score of one token", YES,
        ("another word", lambda p: p.set("logit_score/tokens", [5])),
        ("its negative", lambda p: p.after("or_zero", "Neg")),
    ),
    *table("add-logit-score of pad:7", YES_NO_PAD, ("another id", lambda p: p.set("pad_id", 8))),
    *table("add-logit-score of float16", YES_NO_HALF,
        ("the cast to float32 missing", lambda p: p.become("logit_score/float32", "Identity")),
    ),
]  # fmt: skip


def before_last(p: Plant) -> None:
    """The position before the last token's, or 0."""
    p.after("lasttoken/last", "Sub", p.ints(1))
    p.after("lasttoken/last", "Max", p.ints(0))


def by_product(p: Plant, scope: str) -> None:
    """Where(mask, x, 0) as x * mask: NaN * 0 is NaN."""
    factor = p.append("Cast", p.out(f"{scope}/mask_3d"), behind=f"{scope}/mask_3d", to=FLOAT)
    p.become(f"{scope}/masked", "Mul", p.taken(f"{scope}/masked", 1), factor)


def again(p: Plant) -> None:
    """log(1 + y) of what was taken the logarithm of already."""
    p.after("splade/log", "Log")
    p.after("splade/log", "Add", p.constant(1))


def log_last(p: Plant) -> None:
    p.become("splade/log", "Identity", p.out("splade/relu"))
    p.after("splade/sum", "Log")
    p.after("splade/sum", "Add", p.constant(1))


# Masked tokens

SHOWN = tokens(MaskTokens(HIDDEN))
LATER = tokens(MaskTokens(HIDDEN, skip_first=True))
PADDED = tokens(MaskTokens(HIDDEN, mask="pad:7"))

MASKED = [
    *table("mask-tokens", SHOWN,
        ("nothing masked", lambda p: p.become("mask_tokens/masked", "Identity", p.taken("mask_tokens/masked", 1))),
        ("the mask inverted", lambda p: p.after("mask_tokens/mask", "Not")),
        ("the first row's mask for all", lambda p: p.after("mask_tokens/mask", "Slice", p.ints(0), p.ints(1), p.ints(0))),
        ("mask == 1 instead of != 0", lambda p: p.become("mask_tokens/mask", "Equal", MASK, p.constant(1, np.int64))),
        ("padding as 1e-3", lambda p: p.set("mask_tokens/zero", 1e-3)),
        ("by a product: NaN at padding", lambda p: by_product(p, "mask_tokens")),
        ("in float16", lambda p: p.through("mask_tokens/masked", FLOAT16)),
        ("along the dims", lambda p: p.set("mask_3d/axes", [1])),
        ("the ids for the mask", lambda p: p.wire("mask_tokens/mask", 0, IDS)),
        ("padding at the first token, too", lambda p: p.after("mask_tokens/mask", "And", not_first(p))),
    ),
    *table("mask-tokens but for the first", LATER,
        ("the first token stays", lambda p: p.wire("mask_3d", 0, p.out("mask_tokens/mask"))),
        ("the first two go", lambda p: p.set("mask_tokens/one", 2)),
        ("position 0 instead of the first token", lambda p: p.wire("mask_tokens/without_first", 1, not_first(p))),
        ("the last token instead", lambda p: p.attribute("running_count", reverse=1)),
        ("counted without the token itself", lambda p: p.attribute("running_count", exclusive=1)),
        ("counted along the batch", lambda p: p.set("mask_tokens/axis", 0)),
        ("all but the first", lambda p: p.become("is_later", "LessOrEqual")),
        ("or instead of and", lambda p: p.become("mask_tokens/without_first", "Or")),
    ),
    *table("mask-tokens by ids", PADDED,
        ("another id", lambda p: p.set("mask_tokens/pad_id", 8)),
        ("padding kept, tokens not", lambda p: p.become("mask_tokens/mask", "Identity")),
    ),
]  # fmt: skip


def not_first(p: Plant) -> str:
    """``[batch, seq]`` bool, false at position 0."""
    ones = p.append("Greater", p.append("Add", p.append("Mul", IDS, p.ints(0)), p.ints(1)), p.ints(0))
    count = p.append("CumSum", p.append("Cast", ones, to=TensorProto.INT32), p.constant(1, np.int64))
    return p.append("Greater", count, p.constant(1, np.int32))


EQUIVALENT = [
    *table("add-lstm", ONE,
        ("no zeros behind the rows", lambda p: p.become("lstm/tokens", "Identity", p.out("by_row")),
         "ONNX Runtime gives zeros behind a row's length, too"),
        ("no lengths", lambda p: p.wire("layer/lstm", 4, ""),
         "what comes behind a row's end does not come back to it, in one direction, and zeros take its place"),
        ("the tokens in float16", lambda p: p.through("lstm/mask_float", FLOAT16), "0 and 1 are float16's, too"),
    ),
    *table("add-splade-pooling", MAX,
        ("relu before the max", lambda p: p.after("splade/masked", "Relu"), "relu does not fall"),
    ),
]  # fmt: skip

TOKEN_FAULTS = [*CONVOLVED, *RECURRENT, *WEIGHTS, *MIXTURES, *SPARSE, *YES_OR_NO, *MASKED]
