"""padding-free where positions are repeated for each head (as in DeBERTa), or neighbours are put together (MobileBERT)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from packed import FORMS, made, refuse, small_encoder

import graphsurgery
from graphsurgery import AddPooling, FuseAttention, PaddingFree
from graphsurgery.errors import UnsupportedModelError, VerificationFailed
from graphsurgery.model.model import Model
from graphsurgery.rewrites.padding_free import rows

REPEAT = {
    "tiled": """repeats = Concat <axis = 0> (batch_1, one_1, one_1)
        tiled = Tile (distances, repeats)
        per_head = Identity (tiled)""",
    "tiled in another order": """turned = Transpose <perm = [0, 2, 1]> (distances)
        repeats = Concat <axis = 0> (batch_1, one_1, one_1)
        tiled = Tile (turned, repeats)
        per_head = Transpose <perm = [0, 2, 1]> (tiled)""",
}
"""How the vectors of the distances, ``[heads, size, distances]``, are repeated for each text."""


def disentangled_encoder(repeat: str = REPEAT["tiled"]) -> Model:
    """One attention of two heads ``[batch x heads, seq, 2]``, whose scores depend on queries and distances."""
    parts = "\n".join(
        f"""{one} = MatMul (x, w_{one})
        {one}_parted = Reshape ({one}, parted)
        {one}_turned = Transpose <perm = [0, 2, 1, 3]> ({one}_parted)
        {one}_heads = Reshape ({one}_turned, joined)"""
        for one in ("q", "k", "v")
    )
    text = f"""encoder (int64[batch, seq] input_ids, int64[batch, seq] said) => (float[batch, seq, 4] last_hidden_state) {{
        x = Gather (table, input_ids)
        shape = Shape (input_ids)
        batch_1 = Gather (shape, zero_1)
        length_1 = Gather (shape, one_1)
        length = Gather (shape, one)
        parted = Concat <axis = 0> (batch_1, length_1, two_1, two_1)
        joined = Concat <axis = 0> (minus_1, length_1, two_1)
        {parts}
        kt = Transpose <perm = [0, 2, 1]> (k_heads)
        content = MatMul (q_heads, kt)
        {repeat}
        by_distance = MatMul (q_heads, per_head)
        places = Range (zero, length, one)
        columns = Unsqueeze (places, zero_1)
        lines = Unsqueeze (places, one_1)
        apart = Sub (lines, columns)
        shifted = Add (apart, two)
        clipped = Clip (shifted, zero, four)
        clipped_3d = Unsqueeze (clipped, zero_1)
        all_heads = Mul (batch_1, two_1)
        square = Concat <axis = 0> (all_heads, length_1, length_1)
        index = Expand (clipped_3d, square)
        position = GatherElements <axis = 2> (by_distance, index)
        total = Add (content, position)
        grid = Concat <axis = 0> (minus_1, two_1, length_1, length_1)
        scores = Reshape (total, grid)
        is = Cast <to = 9> (said)
        said_float = Where (is, none, large)
        mask_4d = Unsqueeze (said_float, middle)
        masked = Add (scores, mask_4d)
        weights = Softmax <axis = -1> (masked)
        flat = Concat <axis = 0> (minus_1, length_1, length_1)
        weights_3d = Reshape (weights, flat)
        mixed_heads = MatMul (weights_3d, v_heads)
        back = Concat <axis = 0> (minus_1, two_1, length_1, two_1)
        mixed_4d = Reshape (mixed_heads, back)
        mixed_turned = Transpose <perm = [0, 2, 1, 3]> (mixed_4d)
        hidden = Concat <axis = 0> (batch_1, length_1, four_1)
        mixed = Reshape (mixed_turned, hidden)
        last_hidden_state = Add (x, mixed)
    }}"""
    graph = onnx.parser.parse_graph(text)
    numbers = {"zero": 0, "one": 1, "two": 2, "four": 4, "zero_1": [0], "one_1": [1], "two_1": [2], "four_1": [4],
               "minus_1": [-1], "middle": [1, 2]}  # fmt: skip
    rng = np.random.default_rng(5)
    shapes = {"table": (30, 4), "w_q": (4, 4), "w_k": (4, 4), "w_v": (4, 4), "distances": (2, 2, 5)}
    tensors = {name: np.array(number, np.int64) for name, number in numbers.items()}
    tensors |= {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    tensors |= {"none": np.array(0, np.float32), "large": np.array(-10000, np.float32)}
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in tensors.items())
    return graphsurgery.load(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8))


POOL = AddPooling("mean", mask="said")


@pytest.mark.parametrize("repeat", REPEAT)
def test_what_is_repeated_for_each_text_is_repeated_for_one(repeat: str, tmp_path: Path) -> None:
    done = graphsurgery.run([POOL, PaddingFree()], disentangled_encoder(REPEAT[repeat]), output=tmp_path / "made.onnx")
    assert done.report and done.saved
    assert "1 row by row" in " ".join(done.notes)


def test_behind_attention(tmp_path: Path) -> None:
    """The positions become a bias of the operator, row by row."""
    done = graphsurgery.run([POOL, FuseAttention(), PaddingFree()], disentangled_encoder(), output=tmp_path / "made.onnx")
    assert done.report and done.saved
    assert "1 row by row" in " ".join(done.notes)


def test_what_is_computed_of_what_is_repeated_is_refused() -> None:
    repeat = REPEAT["tiled"].replace("Identity (tiled)", "Softmax <axis = 1> (tiled)")
    advice = refuse(UnsupportedModelError, "no row can be taken", disentangled_encoder(repeat), POOL, PaddingFree())
    assert 'form = "gather"' in advice
    assert made(disentangled_encoder(repeat), POOL, PaddingFree("gather"))


def test_a_wrong_distance_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions that are counted from the end of the padded text."""
    right = rows._Row._get_positions
    monkeypatch.setattr(rows._Row, "_get_positions", lambda self: self.build.node("Neg", [right(self)], "wrong"))
    with pytest.raises((VerificationFailed, UnsupportedModelError)):
        graphsurgery.run([POOL, PaddingFree()], disentangled_encoder(), output=tmp_path / "made.onnx")
    assert not list(tmp_path.iterdir())


NEIGHBOURS = """rows = Gather (table, input_ids)
        first = Constant <value = int64[1] {1}> ()
        last = Constant <value = int64[1] {1000}> ()
        cut = Slice (rows, first, last, first)
        pads = Constant <value = int64[6] {0, 0, 0, 0, 1, 0}> ()
        next = Pad (cut, pads)
        """


@pytest.mark.parametrize("form", FORMS)
def test_neighbours_that_are_looked_up_stay_padded(form: str, tmp_path: Path) -> None:
    """The row behind the last token is that of padding, and so it stays."""
    model = small_encoder(before=f"{NEIGHBOURS}x = Add (rows, next)")
    done = graphsurgery.run([AddPooling("mean", mask="said"), PaddingFree(form)], model, output=tmp_path / "made.onnx")
    assert done.report and done.saved
    first = next(node for node in done.model.proto.graph.node if node.op_type == "MatMul")
    assert first.input[0].startswith("padding_free/")


def test_neighbours_behind_a_product_are_refused() -> None:
    product = "raw = Gather (table, input_ids)\nrows = MatMul (raw, wq)"
    before = NEIGHBOURS.replace("rows = Gather (table, input_ids)", product)
    model = small_encoder(before=f"{before}x = Add (rows, next)")
    refuse(UnsupportedModelError, "mixes the tokens", model, AddPooling("mean", mask="said"), PaddingFree())
