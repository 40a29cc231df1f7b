"""Tiny joint models of texts and pictures, built in memory: two towers, their similarities, and what exporters make of them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HIDDEN, DIM, PIXELS, PATCH, CHANNELS, WORDS, POSITIONS = 8, 6, 8, 4, 3, 20, 12
SCALE, BIAS = 7.5, -2.5
TEXT_INPUTS = ("input_ids", "attention_mask")
PICTURES = "pixel_values"


class Nodes:
    """Nodes and weights that are appended one by one; each node is named after its output."""

    def __init__(self, seed: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(seed)

    def add(self, op: str, *inputs: str, name: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [name], name, **attributes))
        return name

    def draw(self, name: str, *shape: int) -> str:
        return self.hold(name, self.rng.standard_normal(shape).astype(np.float32))

    def hold(self, name: str, values: object) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name


def build_text(to: Nodes, shared: str | None) -> str:
    """The mean of the word vectors under the mask, through two layers: ``text_projected [text_batch, 6]``."""
    words = to.add("Gather", to.draw("words", WORDS, HIDDEN), "input_ids", name="text/words")
    mask = to.add("Cast", "attention_mask", name="text/mask", to=TensorProto.FLOAT)
    column = to.add("Unsqueeze", mask, to.hold("minus_one", np.array([-1])), name="text/column")
    masked = to.add("Mul", words, column, name="text/masked")
    total = to.add("ReduceSum", masked, to.hold("axis_1", np.array([1])), name="text/sum", keepdims=0)
    count = to.add("ReduceSum", column, "axis_1", name="text/count", keepdims=0)
    mean = to.add("Div", total, to.add("Max", count, to.hold("one", np.float32(1)), name="text/least"), name="text/mean")
    dense = to.add("MatMul", mean, to.draw("text_weights", HIDDEN, HIDDEN), name="text/dense")
    biased = to.add("Add", dense, shared or to.draw("text_bias", HIDDEN), name="text/biased")
    return to.add("MatMul", biased, to.draw("text_projection", HIDDEN, DIM), name="text_projected")


def build_image(to: Nodes, shared: str | None) -> str:
    """Patches, their positions, a layer, and the mean: ``image_projected [image_batch, 6]``."""
    patches = to.add(
        "Conv", PICTURES, to.draw("patch", HIDDEN, CHANNELS, PATCH, PATCH), name="image/patches", strides=[PATCH] * 2
    )
    flat = to.add("Reshape", patches, to.hold("flat", np.array([0, HIDDEN, -1])), name="image/flat")
    tokens = to.add("Transpose", flat, name="image/tokens", perm=[0, 2, 1])
    placed = to.add("Add", tokens, to.draw("positions", 1, (PIXELS // PATCH) ** 2, HIDDEN), name="image/placed")
    pooled = to.add("ReduceMean", placed, name="image/pooled", axes=[1], keepdims=0)
    dense = to.add("MatMul", pooled, to.draw("image_weights", HIDDEN, HIDDEN), name="image/dense")
    copied = to.add("Identity", shared, name="image_bias") if shared else to.draw("image_bias", HIDDEN)
    biased = to.add("Add", dense, copied, name="image/biased")
    return to.add("MatMul", biased, to.draw("image_projection", HIDDEN, DIM), name="image_projected")


def normalize(to: Nodes, value: str, name: str, form: str) -> str:
    """``value`` over its length: ``clip`` by Pow and ReduceSum, ``l2`` by ReduceL2, ``cast`` with a Cast behind that."""
    if form == "clip":
        squares = to.add("Pow", value, to.hold(f"{name}/two", np.float32(2)), name=f"{name}/squares")
        total = to.add("ReduceSum", squares, "last", name=f"{name}/sum", keepdims=1)
        length = to.add("Pow", total, to.hold(f"{name}/half", np.float32(0.5)), name=f"{name}/length")
        return to.add("Div", value, length, name=name)
    length = to.add("ReduceL2", value, name=f"{name}/length", axes=[-1], keepdims=1)
    least = to.add("Max", length, to.hold(f"{name}/least", np.float32(1e-12)), name=f"{name}/divisor")
    if form == "l2":
        return to.add("Div", value, least, name=name)
    return to.add("Cast", to.add("Div", value, least, name=f"{name}/unit"), name=name, to=TensorProto.FLOAT)


def joint(
    form: str | None = "clip",
    *,
    text: str = "text_embeds",
    image: str = "image_embeds",
    logits: bool = True,
    bias: bool = False,
    shared: bool = False,
    scale_first: bool = False,
    activation: str = "Identity",
    seed: int = 0,
) -> onnx.ModelProto:
    """A joint model. ``form`` says how its embeddings are normalised; None: they are not."""
    to = Nodes(seed)
    to.hold("last", np.array([-1]))
    both = to.draw("shared_bias", HIDDEN) if shared else None
    ends = []
    for name, build in ((text, build_text), (image, build_image)):
        projected = build(to, both)
        if form is None:
            to.nodes[-1].output[0] = name
            ends.append(name)
        else:
            ends.append(normalize(to, projected, name, form))
    outputs = [helper.make_tensor_value_info(one, TensorProto.FLOAT, [f"{one}_batch", DIM]) for one in (text, image)]
    if logits:
        add_logits(to, ends, bias, scale_first, activation)
        outputs[:0] = [
            helper.make_tensor_value_info("logits_per_image", TensorProto.FLOAT, ["image_batch", "text_batch"]),
            helper.make_tensor_value_info("logits_per_text", TensorProto.FLOAT, ["text_batch", "image_batch"]),
        ]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["text_batch", "sequence"]) for name in TEXT_INPUTS]
    dims = ["image_batch", "channels", "height", "width"]
    inputs.insert(1, helper.make_tensor_value_info(PICTURES, TensorProto.FLOAT, dims))
    graph = helper.make_graph(to.nodes, "joint", inputs, outputs, to.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def add_logits(to: Nodes, ends: list[str], bias: bool, scale_first: bool, activation: str) -> None:
    """``logits_per_text = scale text . image + bias``, the scale as an exponential, and the transpose of it."""
    scale = to.add("Exp", to.hold("logit_scale", np.float32(np.log(SCALE))), name="scale")
    text = to.add("Mul", ends[0], scale, name="scaled") if scale_first else ends[0]
    products = to.add("MatMul", text, to.add("Transpose", ends[1], name="turned", perm=[1, 0]), name="products")
    scaled = products if scale_first else to.add("Mul", products, scale, name="scaled_products")
    if bias:
        scaled = to.add("Add", scaled, to.hold("logit_bias", np.array([BIAS], dtype=np.float32)), name="shifted")
    to.add(activation, scaled, name="logits_per_text")
    to.add("Transpose", "logits_per_text", name="logits_per_image", perm=[1, 0])
