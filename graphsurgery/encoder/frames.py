"""The frames of a speech encoder: how many of them its convolutions make of a clip's samples.

A layer with kernel k and stride s makes ``floor((n - k) / s) + 1`` frames of n samples or frames, and none if n < k. This is
``_get_feat_extract_output_lengths`` of transformers' speech models, but never below 0: with 0 < k - n <= s, the formula alone
gives 0 only if the division rounds down, and integer division in ONNX rounds towards 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeAlias

import onnx

from graphsurgery.deferred import ir
from graphsurgery.errors import NameNotFoundError, UnsupportedModelError
from graphsurgery.graph.attributes import get_int, get_ints, get_string
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import PRODUCTS, SHAPE_READING, STORED_STEPS, get_operator
from graphsurgery.model.model import Model

FrameSteps: TypeAlias = "tuple[tuple[int, int], ...]"
"""(kernel, stride) of each convolution over time, from the waveform on. A kernel includes its dilation."""


def find_frame_steps(model: Model, waveform: str) -> FrameSteps:
    """Return kernel and stride of each convolution that makes frames of the input ``waveform``.

    These are the convolutions between the waveform and the first product with weights, or the first padded convolution in
    groups, which adds positions.

    Raises NameNotFoundError if there is no such input, UnsupportedModelError if frames cannot be counted: there is no such
    convolution, one of them is padded or two-dimensional, or they do not follow one another.
    """
    return tuple(_read_step(node, rank) for node, rank in _find_convolutions(Graph.of(model), waveform))


def find_frame_convolutions(model: Model, waveform: str) -> list[ir.Node]:
    """Return the convolutions of `find_frame_steps`. Raises as it does."""
    return [node for node, _ in _find_convolutions(Graph.of(model), waveform)]


def count_frames(samples: int, steps: Sequence[tuple[int, int]]) -> int:
    """Return the number of frames of a clip of ``samples`` samples: 0 if the clip is shorter than the receptive field."""
    frames = samples
    for kernel, stride in steps:
        frames = 0 if frames < kernel else (frames - kernel) // stride + 1
    return frames


def compute_receptive_field(steps: Sequence[tuple[int, int]]) -> int:
    """Return the number of samples that one frame is made of, which is the length of the shortest clip with a frame."""
    field = 1
    for kernel, stride in reversed(steps):
        field = (field - 1) * stride + kernel
    return field


def _find_convolutions(graph: Graph, waveform: str) -> list[tuple[ir.Node, int]]:
    """Return the convolutions in order, each with the rank of its weights."""
    start = graph.value(waveform)
    if start is None or not start.is_graph_input():
        raise NameNotFoundError(f"the model has no input {waveform!r}", "name the input of the waveform")
    found: list[ir.Node] = []
    reached = {start}
    for node in graph.nodes:
        if reached.isdisjoint(graph.all_inputs(node)) or _ends_frames(graph, node):
            continue
        found += [node] if get_operator(node) == "Conv" else []
        reached.update(node.outputs)
    if not found:
        raise _make_error(f"no convolution reads the input {waveform!r}")
    for one, other in pairwise(found):
        if other.inputs[0] not in graph.descendants(one.outputs):
            raise _make_error(f"the convolutions {quote_name(one)} and {quote_name(other)} do not follow one another")
    return [(node, _find_rank(graph, node)) for node in found]


def _ends_frames(graph: Graph, node: ir.Node) -> bool:
    """Return whether a node makes something else of frames or samples: a product with weights, positions, or a shape."""
    operator = get_operator(node)
    if operator in PRODUCTS and any(_find_weights(graph, value) is not None for value in node.inputs):
        return True
    return operator in SHAPE_READING or (operator == "Conv" and get_int(node, "group", 1) > 1 and is_padded(node))


def _find_rank(graph: Graph, node: ir.Node) -> int:
    weights = _find_weights(graph, node.inputs[1])
    if weights is None:
        raise _make_error(f"the weights of the convolution {quote_name(node)} are computed")
    return len(weights.dims)


def _find_weights(graph: Graph, value: ir.Value | None) -> onnx.TensorProto | None:
    """Return the stored tensor of ``value``, which may be cast or dequantised before use. None for computed values."""
    return None if value is None else graph.tensor(graph.origin(value, STORED_STEPS))


def is_padded(node: ir.Node) -> bool:
    """Return whether a convolution adds zeros at either end."""
    return any(get_ints(node, "pads") or []) or get_string(node, "auto_pad") in ("SAME_UPPER", "SAME_LOWER")


def _read_step(node: ir.Node, rank: int) -> tuple[int, int]:
    kernel = get_ints(node, "kernel_shape")
    if rank != 3 or kernel is None:
        raise _make_error(f"the convolution {quote_name(node)} runs over {rank - 2} dims, not over time alone")
    if is_padded(node):
        raise _make_error(f"the convolution {quote_name(node)} is padded, so that frames at a clip's end see zeros")
    stride, dilation = (get_ints(node, name) or [1] for name in ("strides", "dilations"))
    return (kernel[0] - 1) * dilation[0] + 1, stride[0]


def quote_name(node: ir.Node) -> str:
    """Return how messages name a node: by its name, or else by its first output."""
    return repr(node.name or node.outputs[0].name)


def _make_error(found: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"the frames of a clip cannot be counted: {found}",
        "this needs convolutions over time without padding, one after the other, as HuBERT, wav2vec2 and WavLM have",
    )
