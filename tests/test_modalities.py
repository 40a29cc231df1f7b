"""What an input holds is established by the graph: by the first convolution and the rank, never by a name."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from conftest import FIXTURES
from onnx import numpy_helper

import graphsurgery
from graphsurgery.encoder.modalities import (
    PICTURE,
    SPECTROGRAM,
    TOKEN_IDS,
    WAVEFORM,
    find_input,
    find_modality,
    list_modalities,
)
from graphsurgery.model.model import Model


def convolve(given: str, before: str, kernel: tuple[int, ...], steps: str) -> Model:
    """A model that convolves what the lines ``before`` make of its input x."""
    text = f"""
        <ir_version: 8, opset_import: ["" : 17]>
        media ({given} x) => (float[a, b, c] last_hidden_state) {{
            axis = Constant <value = int64[1] {{1}}> ()
            {before}
            last_hidden_state = Conv <strides = [{steps}]> (made, kernel)
        }}
    """
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(np.ones(kernel, dtype=np.float32), "kernel"))
    return graphsurgery.load(model)


@pytest.mark.parametrize(
    ("given", "before", "kernel", "steps", "kind"),
    [
        ("float[n, c, h, w]", "made = Identity (x)", (8, 3, 4, 4), "4, 4", PICTURE),
        ("uint8[n,h,w,3]", "y = Cast <to = 1> (x) made = Transpose <perm = [0, 3, 1, 2]> (y)", (8, 3, 4, 4), "4, 4", PICTURE),
        ("float[n, samples]", "made = Unsqueeze (x, axis)", (8, 1, 10), "5", WAVEFORM),
        ("float[n, 1, samples]", "made = Identity (x)", (8, 1, 10), "5", WAVEFORM),
        ("float[n, t]", "s = ReduceMean <axes = [1]> (x) y = Sub (x, s) made = Unsqueeze (y, axis)", (8, 1, 9), "5", WAVEFORM),
        ("float[n, 80, frames]", "made = Identity (x)", (8, 80, 3), "1", SPECTROGRAM),
        ("float[n, frames, 16]", "made = Unsqueeze (x, axis)", (8, 1, 4, 4), "3, 3", SPECTROGRAM),
        ("float[n, samples]", "made = Unsqueeze (x, axis)", (8, 2, 10), "5", None),
        ("int64[n, samples]", "y = Cast <to = 1> (x) made = Unsqueeze (y, axis)", (8, 1, 10), "5", None),
        ("float[n, seq, 8]", "y = MatMul (x, weights) made = Transpose <perm = [0, 2, 1]> (y)", (8, 8, 3), "1", None),
    ],
)  # fmt: skip
def test_the_first_convolution_tells(given: str, before: str, kernel, steps: str, kind: str | None) -> None:
    model = convolve(given, before, kernel, steps)
    if "weights" in before:  # behind a product with weights, a convolution no longer reads the input
        model.proto.graph.initializer.append(numpy_helper.from_array(np.ones((8, 8), dtype=np.float32), "weights"))
        model = graphsurgery.load(model.proto)
    found = find_modality(model, "x")
    assert (None if found is None else found.kind) == kind
    if found is None:
        assert list_modalities(model) == ()
        return
    stem = found.stem
    assert stem is not None and stem.output == "last_hidden_state" and find_input(model, kind or "") == found
    assert (stem.channels, stem.kernel, stem.step) == (kernel[1], kernel[2:], tuple(map(int, steps.split(", "))))
    assert [node.op_type for node in stem.before][-1] == before.split("made = ")[1].split(maxsplit=1)[0]


TEXTS = """
<ir_version: 8, opset_import: ["" : 17]>
texts (int64[batch, seq] a, int64[batch, seq] b, int64[batch, seq] c) => (float[batch, seq, 2] last_hidden_state) {
    kinds = Gather (few, a)
    words = Gather (many, b)
    sum = Add (kinds, words)
    hides = Cast <to = 1> (c)
    axis = Constant <value = int64[1] {2}> ()
    there = Unsqueeze (hides, axis)
    last_hidden_state = Mul (sum, there)
}
"""


def test_token_ids_index_the_largest_table() -> None:
    """Whatever the inputs are called; token types index a smaller one, and a mask none."""
    model = onnx.parser.parse_model(TEXTS)
    for name, rows in (("few", 2), ("many", 50)):
        model.graph.initializer.append(numpy_helper.from_array(np.ones((rows, 2), dtype=np.float32), name))
    assert [(one.value.name, one.kind) for one in list_modalities(graphsurgery.load(model))] == [("b", TOKEN_IDS)]


def test_masks_and_token_types_are_of_no_kind() -> None:
    found = list_modalities(graphsurgery.load(FIXTURES / "bert" / "model.onnx"))
    assert [(one.value.name, one.kind) for one in found] == [("input_ids", TOKEN_IDS)]
