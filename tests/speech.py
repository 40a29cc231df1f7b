"""Small speech encoders, built like exports of wav2vec2 and its relatives: convolutions, positions, attention."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from graphsurgery.encoder.frames import compute_receptive_field, count_frames

Steps = Sequence[tuple[int, int]]
TINY = ((10, 5), (3, 2), (2, 2))
"""(kernel, stride) of the convolutions of these encoders: one frame is made of 30 samples."""
BASE = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))
"""Those of HuBERT, wav2vec2 and WavLM, base and large."""
PADDED = [1, 1]
MASKS = {
    "mask": (TensorProto.INT64, ["batch", "samples"]),
    "padding": (TensorProto.BOOL, ["batch", "samples"]),
    "lengths": (TensorProto.INT64, ["batch"]),
}
"""The type and the dims of the second input, by its kind."""
CHANNELS, WIDTH, HEADS = 4, 8, 2
WAVEFORM, HIDDEN = "input_values", "last_hidden_state"


class Builder:
    """Collects nodes and weights. Every function returns the name of the value that it makes."""

    def __init__(self, seed: int, opset: int = 17) -> None:
        self.opset = opset
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def node(self, op: str, *inputs: str, name: str = "", **attributes) -> str:
        name = name or f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name, **attributes))
        return name

    def weight(self, *shape: int, at: float = 0.0) -> str:
        """Random numbers around ``at``, of deviation 1 / sqrt(fan in) or 0.2 in vectors."""
        deviation = 0.2 if len(shape) == 1 else float(np.prod(shape[1:])) ** -0.5
        return self.store((at + deviation * self.rng.standard_normal(shape)).astype(np.float32))

    def store(self, array: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def integers(self, *numbers: int) -> str:
        return self.store(np.array(numbers, np.int64))

    def convolve(self, x: str, outs: int, ins: int, kernel: int, stride: int = 1, pad: int = 0, group: int = 1) -> str:
        weight = self.weight(outs, ins // group, kernel)
        padding = {"pads": [pad, pad]} if pad else {}
        return self.node("Conv", x, weight, self.weight(outs), kernel_shape=[kernel], strides=[stride], group=group, **padding)

    def unsqueeze(self, x: str, axis: int) -> str:
        return self.node("Unsqueeze", x, axes=[axis]) if self.opset < 13 else self.node("Unsqueeze", x, self.integers(axis))

    def mask_samples(self, x: str, kind: str, name: str) -> str:
        """x with 0 in the place of padding, if there is a mask."""
        if not kind:
            return x
        zero = self.store(np.float32(0))
        if kind == "lengths":
            ones = self.node("ConstantOfShape", self.node("Shape", x), value=numpy_helper.from_array(np.ones(1, np.int64)))
            positions = self.node("CumSum", ones, self.store(np.int64(1)), exclusive=1)
            return self.node("Where", self.node("Less", positions, self.unsqueeze(name, 1)), x, zero)
        if kind == "padding":
            return self.node("Where", name, zero, x)
        return self.node("Where", self.node("Cast", name, to=TensorProto.BOOL), x, zero)

    def hide(self, x: str, steps: Steps) -> str:
        """x ``[batch, frames, dim]`` with 0 in the place of padding, by a mask that lacks the last dim.

        A frame is padding if its last sample is.
        """
        field, hop = compute_receptive_field(steps), int(np.prod([stride for _, stride in steps]))
        ends = [self.integers(number) for number in (field - 1, np.iinfo(np.int64).max, 1, hop)]
        frames = self.node("Slice", "padding_mask", *ends, name="padded_frames")
        return self.node("Where", frames, self.store(np.float32(0)), x, name="hidden_frames")

    def normalize(self, x: str, width: int) -> str:
        if self.opset < 17:
            mean = self.node("ReduceMean", x, axes=[-1])
            centred = self.node("Sub", x, mean)
            var = self.node("ReduceMean", self.node("Mul", centred, centred), axes=[-1])
            root = self.node("Sqrt", self.node("Add", var, self.store(np.float32(1e-5))))
            scaled = self.node("Mul", self.node("Div", centred, root), self.weight(width, at=1.0))
            return self.node("Add", scaled, self.weight(width))
        return self.node("LayerNormalization", x, self.weight(width, at=1.0), self.weight(width), axis=-1, epsilon=1e-5)

    def turn(self, x: str) -> str:
        return self.node("Transpose", x, perm=[0, 2, 1])

    def project(self, x: str, ins: int, outs: int) -> str:
        return self.node("Add", self.node("MatMul", x, self.weight(ins, outs)), self.weight(outs))

    def split_heads(self, x: str, flat: bool) -> str:
        heads = self.node("Reshape", x, self.integers(0, 0, HEADS, WIDTH // HEADS))
        heads = self.node("Transpose", heads, perm=[0, 2, 1, 3])
        return self.node("Reshape", heads, self.merge(heads)) if flat else heads

    def merge(self, heads: str) -> str:
        """The shape of ``heads [batch, heads, frames, size]`` with the first two dims in one."""
        frames = self.node("Gather", self.node("Shape", heads), self.integers(2), axis=0)
        return self.node("Concat", self.integers(-1), frames, self.integers(WIDTH // HEADS), axis=0)

    def attend(self, x: str, flat: bool = False) -> str:
        """x plus the projected heads of softmax(q k^T / sqrt(size)) v, normalised."""
        q, k, v = (self.split_heads(self.project(x, WIDTH, WIDTH), flat) for _ in range(3))
        scaled = self.node("Mul", q, self.store(np.float32((WIDTH // HEADS) ** -0.5)))
        scores = self.node("MatMul", scaled, self.node("Transpose", k, perm=[0, 2, 1] if flat else [0, 1, 3, 2]))
        heads = self.node("MatMul", self.node("Softmax", scores, axis=2 if flat else 3), v)
        if flat:
            split = self.node("Shape", self.node("Reshape", x, self.integers(0, 0, HEADS, WIDTH // HEADS)))
            order = self.node("Gather", split, self.integers(0, 2, 1, 3), axis=0)
            heads = self.node("Reshape", heads, order)
        joined = self.node("Reshape", self.node("Transpose", heads, perm=[0, 2, 1, 3]), self.integers(0, 0, WIDTH))
        return self.normalize(self.node("Add", x, self.project(joined, WIDTH, WIDTH)), WIDTH)


def make_speech_encoder(
    norm: str = "group", *, positions: int = 1, steps: Steps = TINY, layers: int = 2, seed: int = 0, opset: int = 17,
    flat_heads: bool = False, channel_dim: bool = False, mask: str = "", mask_name: str = "attention_mask", pad: int = 0,
    squeeze: int = 1, misaligned: bool = False, sizes: tuple[int | str, int | str] = ("batch", "samples"),
) -> onnx.ModelProto:  # fmt: skip
    """A speech encoder: float32 ``input_values [batch, samples]`` -> ``last_hidden_state [batch, frames, 8]``.

    ``norm``: after the first convolution over a clip's whole time (group), or after each one over its channels (layer).
    ``positions``: how many padded convolutions in groups follow one another, as data2vec has several.
    ``flat_heads``: scores are ``[batch heads, frames, frames]``. ``channel_dim``: the waveform is ``[batch, 1, samples]``.
    ``mask``: a second input, by which samples of padding become 0: an int64 mask, bool padding, or lengths.
    ``pad``: zeros at both ends of the first convolution. ``squeeze``: the stride of the positional convolution.
    ``misaligned``: a second input, bool ``padding_mask [batch, samples]``, hides frames as fairseq's ``x[padding_mask] = 0`` is
    exported: by a Where whose condition ``[batch, frames]`` lacks the dim of the channels. ``sizes``: of the waveform.
    """
    make = Builder(seed, opset)
    x = make.mask_samples(WAVEFORM, mask, mask_name)
    x = x if channel_dim else make.unsqueeze(x, 1)
    for place, (kernel, stride) in enumerate(steps):
        x = make.convolve(x, CHANNELS, CHANNELS if place else 1, kernel, stride, pad=0 if place else pad)
        if norm == "layer":
            x = make.turn(make.normalize(make.turn(x), CHANNELS))
        elif not place:
            x = make.node("InstanceNormalization", x, make.weight(CHANNELS, at=1.0), make.weight(CHANNELS), epsilon=1e-5)
        x = make.node("Tanh", x)
    x = make.project(make.normalize(make.turn(x), CHANNELS), CHANNELS, WIDTH)
    x = make.hide(x, steps) if misaligned else x
    added = make.turn(x)
    for _ in range(positions):
        added = make.node("Tanh", make.convolve(added, WIDTH, WIDTH, 3, stride=squeeze, pad=1, group=2))
    if squeeze > 1:
        added = make.node("Resize", added, "", make.store(np.array([1, 1, squeeze], np.float32)), mode="nearest")
    x = make.normalize(make.node("Add", x, make.turn(added)), WIDTH)
    for _ in range(layers):
        x = make.attend(x, flat_heads)
    make.nodes[-1].output[0] = HIDDEN
    batch, samples = sizes
    shape = [batch, 1, samples] if channel_dim else [batch, samples]
    inputs = [helper.make_tensor_value_info(WAVEFORM, TensorProto.FLOAT, shape)]
    inputs += [helper.make_tensor_value_info("padding_mask", TensorProto.BOOL, list(sizes))] if misaligned else []
    inputs += [] if not mask else [helper.make_tensor_value_info(mask_name, *MASKS[mask])]
    frames = "frames" if isinstance(samples, str) else count_frames(samples, steps)
    graph = helper.make_graph(
        make.nodes, "speech", inputs,
        [helper.make_tensor_value_info(HIDDEN, TensorProto.FLOAT, [batch, frames, WIDTH])], make.weights,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, producer_name="tests")
