"""Small speech encoders, built like exports of wav2vec2 and its relatives: convolutions, positions, attention."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Steps = Sequence[tuple[int, int]]
TINY = ((10, 5), (3, 2), (2, 2))
"""(kernel, stride) of the convolutions of these encoders: one frame is made of 25 samples."""
BASE = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))
"""Those of HuBERT, wav2vec2 and WavLM, base and large."""
PADDED = [1, 1]
CHANNELS, WIDTH, HEADS = 4, 8, 2
WAVEFORM, HIDDEN = "input_values", "last_hidden_state"


class Builder:
    """Collects nodes and weights. Every function returns the name of the value that it makes."""

    def __init__(self, seed: int) -> None:
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

    def normalize(self, x: str, width: int) -> str:
        return self.node("LayerNormalization", x, self.weight(width, at=1.0), self.weight(width), axis=-1, epsilon=1e-5)

    def turn(self, x: str) -> str:
        return self.node("Transpose", x, perm=[0, 2, 1])

    def project(self, x: str, ins: int, outs: int) -> str:
        return self.node("Add", self.node("MatMul", x, self.weight(ins, outs)), self.weight(outs))

    def split_heads(self, x: str) -> str:
        heads = self.node("Reshape", x, self.integers(0, 0, HEADS, WIDTH // HEADS))
        return self.node("Transpose", heads, perm=[0, 2, 1, 3])

    def attend(self, x: str) -> str:
        """x plus the projected heads of softmax(q k^T / sqrt(size)) v, normalised."""
        q, k, v = (self.split_heads(self.project(x, WIDTH, WIDTH)) for _ in range(3))
        scaled = self.node("Mul", q, self.store(np.float32((WIDTH // HEADS) ** -0.5)))
        scores = self.node("MatMul", scaled, self.node("Transpose", k, perm=[0, 1, 3, 2]))
        heads = self.node("MatMul", self.node("Softmax", scores, axis=-1), v)
        joined = self.node("Reshape", self.node("Transpose", heads, perm=[0, 2, 1, 3]), self.integers(0, 0, WIDTH))
        return self.normalize(self.node("Add", x, self.project(joined, WIDTH, WIDTH)), WIDTH)


def make_speech_encoder(
    norm: str = "group", *, positions: int = 1, steps: Steps = TINY, layers: int = 2, seed: int = 0
) -> onnx.ModelProto:
    """A speech encoder: float32 ``input_values [batch, samples]`` -> ``last_hidden_state [batch, frames, 8]``.

    ``norm``: after the first convolution over a clip's whole time (group), or after each one over its channels (layer).
    ``positions``: how many padded convolutions in groups follow one another, as data2vec has several.
    """
    make = Builder(seed)
    x = make.node("Unsqueeze", WAVEFORM, make.integers(1))
    for place, (kernel, stride) in enumerate(steps):
        x = make.convolve(x, CHANNELS, CHANNELS if place else 1, kernel, stride)
        if norm == "layer":
            x = make.turn(make.normalize(make.turn(x), CHANNELS))
        elif not place:
            x = make.node("InstanceNormalization", x, make.weight(CHANNELS, at=1.0), make.weight(CHANNELS), epsilon=1e-5)
        x = make.node("Tanh", x)
    x = make.project(make.normalize(make.turn(x), CHANNELS), CHANNELS, WIDTH)
    added = make.turn(x)
    for _ in range(positions):
        added = make.node("Tanh", make.convolve(added, WIDTH, WIDTH, 3, pad=1, group=2))
    x = make.normalize(make.node("Add", x, make.turn(added)), WIDTH)
    for _ in range(layers):
        x = make.attend(x)
    make.nodes[-1].output[0] = HIDDEN
    graph = helper.make_graph(
        make.nodes, "speech", [helper.make_tensor_value_info(WAVEFORM, TensorProto.FLOAT, ["batch", "samples"])],
        [helper.make_tensor_value_info(HIDDEN, TensorProto.FLOAT, ["batch", "frames", WIDTH])], make.weights,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="tests")
