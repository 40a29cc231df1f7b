"""Embeddings whose positions are computed from the ids become one operator: the same numbers, or they stay as they are."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from graphsurgery.rewrites.fuse.embeddings import fuse_embeddings
from graphsurgery.runtime.session import Session

IDS = np.array([[5, 6, 7, 1, 1], [1, 1, 8, 9, 10]], np.int64)
"""1 is padding."""
SUM = "s1 = Add(words, types) s = Add(s1, places)"


def embeddings(total: str = SUM, positions: str = "p = Add(counted, one)", shown: str = "") -> onnx.ModelProto:
    """The embeddings of a RoBERTa: positions count the tokens before them, and padding has a position of its own."""
    model = parser.parse_model(f"""
    <ir_version: 9, opset_import: ["" : 18, "com.microsoft" : 1]>
    g (int64[b, t] input_ids) => (float[b, t, 4] y {shown}) {{
        is_padding = Equal(input_ids, one) is_token = Not(is_padding) tokens = Cast<to = 7>(is_token)
        sums = CumSum(tokens, one) counted = Mul(sums, tokens) {positions} zeros = Mul(input_ids, none)
        words = Gather(word_table, input_ids) types = Gather(type_table, zeros) places = Gather(position_table, p)
        {total} y = LayerNormalization<axis = -1, epsilon = 0.001>(s, scale, offset)
    }}
    """)
    random = np.random.default_rng(2)
    shapes = {"word_table": (12, 4), "type_table": (1, 4), "position_table": (10, 4), "scale": (4,), "offset": (4,)}
    arrays = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    arrays |= {"one": np.array(1), "none": np.array(0), "row": np.array([2])}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    return model


@pytest.mark.parametrize("total", [SUM, "s1 = Add(places, types) s = Add(s1, words)", "s = Add(places, words)"])
def test_the_same_numbers(total: str) -> None:
    source = embeddings(total)
    made = fuse_embeddings(source)
    operators = [node.op_type for node in made.graph.node]
    assert operators.count("EmbedLayerNormalization") == 1 and "LayerNormalization" not in operators
    assert "Gather" not in operators and "Add" in operators, "positions are computed as before"
    found, expected = (Session(one.SerializeToString()).run({"input_ids": IDS}, ["y"])["y"] for one in (made, source))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("total", "positions", "shown"),
    [
        (SUM, "p = Identity(row)", ""),
        ("s1 = Add(words, types) s2 = Add(s1, places) s = Abs(s2)", "p = Add(counted, one)", ""),
        (SUM, "p = Add(counted, one)", ", float[b, t, 4] s"),
    ],
    ids=["one position for all", "something in between", "the sum is an output"],
)
def test_what_stays_as_it_is(total: str, positions: str, shown: str) -> None:
    source = embeddings(total, positions, shown)
    assert fuse_embeddings(source) is source
