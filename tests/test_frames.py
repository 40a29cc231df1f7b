"""The frame count of speech encoders, against sliding windows and against what ONNX Runtime computes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from speech import BASE, PADDED, TINY, make_speech_encoder

from graphsurgery.encoder.frames import compute_receptive_field, count_frames, find_frame_steps
from graphsurgery.errors import NameNotFoundError, UnsupportedModelError
from graphsurgery.model.loading import load
from graphsurgery.runtime.session import open_session


@pytest.mark.parametrize("steps", [TINY, BASE], ids=["tiny", "hubert base"])
def test_every_length_has_as_many_frames_as_windows_fit(steps):
    field = compute_receptive_field(steps)
    for samples in range(field + 2001):
        assert count_frames(samples, steps) == count_windows(samples, steps), samples
    assert count_frames(field - 1, steps) == 0
    assert count_frames(field, steps) == 1


def test_base_sizes_are_those_of_hubert():
    assert compute_receptive_field(BASE) == 400
    assert [count_frames(samples, BASE) for samples in (119, 120, 399, 400, 719, 720, 16000)] == [0, 0, 0, 1, 1, 2, 49]


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_the_formula_counts_what_the_model_gives(norm):
    model = load(make_speech_encoder(norm))
    steps = find_frame_steps(model, "input_values")
    assert steps == TINY
    session = open_session(model)
    field = compute_receptive_field(steps)
    for samples in range(field, field + 60):
        (hidden,) = session.run({"input_values": np.zeros((1, samples), np.float32)}).values()
        assert hidden.shape[1] == count_frames(samples, steps), samples


def test_a_dilated_kernel_counts_with_its_gaps():
    proto = make_speech_encoder("layer")
    node = next(one for one in proto.graph.node if one.op_type == "Conv")
    node.attribute.append(onnx.helper.make_attribute("dilations", [3]))
    kernel, stride = TINY[0]
    assert find_frame_steps(load(proto), "input_values")[0] == ((kernel - 1) * 3 + 1, stride)


def test_an_unknown_input_is_named():
    with pytest.raises(NameNotFoundError, match="no input 'audio'"):
        find_frame_steps(load(make_speech_encoder("layer")), "audio")


def test_padded_convolutions_cannot_be_counted():
    proto = make_speech_encoder("layer")
    nodes = [one for one in proto.graph.node if one.op_type == "Conv"]
    nodes[1].attribute.append(onnx.helper.make_attribute("pads", PADDED))
    with pytest.raises(UnsupportedModelError, match="is padded"):
        find_frame_steps(load(proto), "input_values")


def test_a_convolution_over_two_dims_cannot_be_counted():
    weight = onnx.numpy_helper.from_array(np.ones((2, 1, 3, 3), np.float32), "w")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3])], "patches",
        [onnx.helper.make_tensor_value_info("x", 1, ["n", 1, "h", "w"])],
        [onnx.helper.make_tensor_value_info("y", 1, ["n", 2, None, None])], [weight],
    )  # fmt: skip
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(UnsupportedModelError, match="over 2 dims"):
        find_frame_steps(load(proto), "x")


def test_a_model_without_convolutions_has_no_frames():
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])], "none",
        [onnx.helper.make_tensor_value_info("x", 1, ["n", "t"])], [onnx.helper.make_tensor_value_info("y", 1, ["n", "t"])],
    )  # fmt: skip
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(UnsupportedModelError, match="no convolution reads"):
        find_frame_steps(load(proto), "x")


def count_windows(samples: int, steps: tuple[tuple[int, int], ...]) -> int:
    """Count the frames one by one: a window every stride, as long as it ends within what there is."""
    for kernel, stride in steps:
        samples = sum(1 for start in range(0, samples, stride) if start + kernel <= samples)
    return samples
