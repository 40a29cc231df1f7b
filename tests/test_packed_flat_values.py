"""padding-free where an encoder has flat values ``[batch x seq, width]``, as before each Gemm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from packed import FORMS, made, refuse, small_encoder

import graphsurgery
from graphsurgery import AddPooling, PaddingFree
from graphsurgery.errors import UnsupportedModelError, VerificationFailed
from graphsurgery.rewrites.padding_free.layout import Layout
from graphsurgery.runtime.session import open_session

POOL = AddPooling("mean", mask="said")
START = """width = Constant <value = int64[2] {-1, 4}> ()
        bias = Constant <value = float[4] {0.1, 0.2, 0.3, 0.4}> ()
        shape = Shape (x)"""
FEED_FORWARD = f"""{START}
        total = Add (x, mixed)
        flat = Reshape (total, width)
        product = Gemm (flat, wq, bias)
        scaled = Mul (product, bias)
        weighted = Softmax <axis = -1> (scaled)
        again = Gemm <transB = 1> (weighted, wk)
        last_hidden_state = Reshape (again, shape)"""
VALUES = f"""{START}
        flat = Reshape (x, width)
        product = Gemm (flat, wv, bias)
        v = Reshape (product, shape)"""
TURNED_VALUES = f"""{START}
        flat = Reshape (x, width)
        product = Gemm (flat, wv, bias)
        first = Constant <value = int64[1] {{0}}> ()
        ones = Constant <value = int64[1] {{1}}> ()
        four = Concat <axis = 0> (ones, shape)
        parted = Reshape (product, four)
        v = Squeeze (parted, first)"""
NEIGHBOURS = """raw = Gather (table, input_ids)
        widths = Constant <value = int64[2] {-1, 4}> ()
        looked_up = Reshape (raw, widths)
        looked_up_shape = Shape (raw)
        rows = Reshape (looked_up, looked_up_shape)
        first = Constant <value = int64[1] {1}> ()
        last = Constant <value = int64[1] {1000}> ()
        cut = Slice (rows, first, last, first)
        pads = Constant <value = int64[6] {0, 0, 0, 0, 1, 0}> ()
        next = Pad (cut, pads)
        x = Add (rows, next)"""
CASES = {
    "behind attention": {"after": FEED_FORWARD},
    "values": {"values": VALUES},
    "values that attention turns": {"values": TURNED_VALUES},
    "of what stays padded": {"before": NEIGHBOURS, "values": VALUES.replace("Reshape (x, width)", "Identity (looked_up)")},
}
"""Where the flat values are."""


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", CASES)
def test_flat_values(case: str, form: str, tmp_path: Path) -> None:
    done = graphsurgery.run([POOL, PaddingFree(form)], small_encoder(**CASES[case]), output=tmp_path / "made.onnx")
    assert done.report and done.saved
    products = [node.output[0] for node in done.model.proto.graph.node if node.op_type == "Gemm"]
    session = open_session(done.model, extra_outputs=products)
    mask = np.array([[1, 1, 1], [0, 1, 0], [1, 0, 1]])
    found = session.run({"input_ids": mask + 3, "said": mask})
    assert products and {found[name].shape for name in products} == {(6, 4)}


SCALED = "scaled = Mul (product, bias)"
MIXING = {
    "CumSum": """start = Constant <value = int64 {0}> ()
        scaled = CumSum (product, start)""",
    "Softmax": "scaled = Softmax <axis = 0> (product)",
    "Gemm": """crossed = Gemm <transA = 1> (product, product)
        scaled = Gemm (product, crossed)""",
}
"""By operator: what mixes the tokens of a flat value."""


@pytest.mark.parametrize("operator", MIXING)
def test_what_mixes_flat_tokens_is_refused(operator: str) -> None:
    after = FEED_FORWARD.replace(SCALED, MIXING[operator])
    refuse(UnsupportedModelError, "mixes the tokens", small_encoder(after=after), POOL, PaddingFree())


def test_tokens_in_another_order_are_not_taken_for_flat_ones() -> None:
    """``[seq x batch, width]`` has the same dims."""
    turned = "turned = Transpose <perm = [1, 0, 2]> (total)\nflat = Reshape (turned, width)"
    after = FEED_FORWARD.replace("flat = Reshape (total, width)", turned)
    refuse(UnsupportedModelError, "mixes the tokens", small_encoder(after=after), POOL, PaddingFree())
    assert made(small_encoder(after=after), POOL)


def test_a_mixing_operator_that_is_taken_for_token_wise_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Layout.is_token_wise
    monkeypatch.setattr(Layout, "is_token_wise", lambda self, node: node.op_type == "CumSum" or right(self, node))
    after = FEED_FORWARD.replace(SCALED, MIXING["CumSum"])
    with pytest.raises(VerificationFailed):
        graphsurgery.run([POOL, PaddingFree()], small_encoder(after=after), output=tmp_path / "made.onnx")
