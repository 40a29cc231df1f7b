"""Text towers that take the vector of the end of text are fed it, or no feed would show what their attention does."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from speech import WIDTH, Builder

import graphsurgery
from graphsurgery.encoder.roles import find_roles
from graphsurgery.report import Verdict
from graphsurgery.runtime.baked_sizes import make_feed_generator_for
from graphsurgery.runtime.masks import RIGHT
from graphsurgery.runtime.session import open_session

VOCABULARY, LONGEST, END = 30, 12, 7
FIRST = "the first id that ends a text"
ENDS = {FIRST: END, "the highest id": VOCABULARY - 1}
"""What the graph takes the vector of, in newer and in older CLIP models, and the id that this is."""
IDS, EMBEDS = "input_ids", "text_embeds"


def make_text_tower(form: str, queries: float = 1.0) -> onnx.ModelProto:
    """A text tower as CLIP has it: causal attention, and the vector of the end of text. ``queries`` scales their projection."""
    make = Builder(seed=3)
    words = make.node("Gather", make.weight(VOCABULARY, WIDTH), IDS)
    length = make.node("Gather", make.node("Shape", IDS), make.store(np.array(1, np.int64)))
    places = make.node("Range", make.store(np.array(0, np.int64)), length, make.store(np.array(1, np.int64)))
    x = make.node("Add", words, make.node("Gather", make.weight(LONGEST, WIDTH), places))
    q, k, v = (make.split_heads(make.project(x, WIDTH, WIDTH), flat=False) for _ in range(3))
    scaled = make.node("Mul", q, make.store(np.float32(queries)))
    scores = make.node("MatMul", scaled, make.node("Transpose", k, perm=[0, 1, 3, 2]))
    rows, columns = (make.node("Unsqueeze", places, make.integers(axis)) for axis in (1, 0))
    seen = make.node("Where", make.node("Less", rows, columns), make.store(np.float32(-1e9)), scores)
    heads = make.node("MatMul", make.node("Softmax", seen, axis=-1), v)
    joined = make.node("Reshape", make.node("Transpose", heads, perm=[0, 2, 1, 3]), make.integers(0, 0, WIDTH))
    x = make.normalize(make.node("Add", x, make.project(joined, WIDTH, WIDTH)), WIDTH)
    looked_at = make.node("Cast", make.node("Reshape", IDS, make.integers(0, -1)), to=TensorProto.INT32)
    if form == FIRST:
        looked_at = make.node("Cast", make.node("Equal", looked_at, make.store(np.array(END, np.int32))), to=TensorProto.INT32)
    place = make.node("Unsqueeze", make.node("ArgMax", looked_at, axis=-1, keepdims=1), make.integers(2))
    taken = make.node("GatherElements", x, make.node("Expand", place, make.integers(1, 1, WIDTH)), axis=1)
    make.node("Squeeze", taken, make.integers(1), name=EMBEDS)
    graph = helper.make_graph(
        make.nodes, "tower", [helper.make_tensor_value_info(IDS, TensorProto.INT64, ["batch", "seq"])],
        [helper.make_tensor_value_info(EMBEDS, TensorProto.FLOAT, ["batch", WIDTH])], make.weights,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def make_generator(model: onnx.ModelProto):
    source = graphsurgery.load(model)
    return make_feed_generator_for(source, find_roles(source.interface))


@pytest.mark.parametrize("form", ENDS)
def test_the_last_token_ends_the_text(form: str) -> None:
    """It is the id that the graph looks for, no other token is, and rows without a token have none."""
    generator = make_generator(make_text_tower(form))
    assert (generator.tables.end_id, generator.tables.positions) == (ENDS[form], LONGEST)
    for _, masks in generator.generate_masks():
        for seed, mask in enumerate(masks):
            ids = generator.generate(mask, seed)[IDS]
            for row, is_token in zip(ids, mask, strict=True):
                ends = np.flatnonzero(row == ENDS[form]).tolist()
                assert ends == np.flatnonzero(is_token)[-1:].tolist()


@pytest.mark.parametrize("form", ENDS)
def test_a_broken_query_projection_fails_on_right_padding_alone(form: str) -> None:
    """At position 0, causal attention has one key, and queries do not matter; at the end of text they do."""
    source, broken = make_text_tower(form), make_text_tower(form, queries=3.0)
    generator = make_generator(source)
    one, other = (open_session(graphsurgery.load(model)) for model in (source, broken))
    (masks,) = (masks for kind, masks in generator.generate_masks() if kind == RIGHT)
    for seed, mask in enumerate(masks):
        feed = generator.generate(mask, seed)
        assert np.abs(one.run(feed)[EMBEDS] - other.run(feed)[EMBEDS]).max() > 1e-2
    assert graphsurgery.verify(source, against=source).verdict is Verdict.PASSED
    assert graphsurgery.verify(broken, against=source).verdict is Verdict.FAILED


def test_inspect_names_the_end_of_text() -> None:
    (seen,) = graphsurgery.inspect(make_text_tower(FIRST)).inputs
    assert (
        str(seen) == "input_ids: token ids, up to 12 tokens, 0 to 29; the vector is that of the first id 7, which ends a text"
    )


SIGLIP = """
<ir_version: 8, opset_import: ["" : 17]>
siglip (int64[batch, seq] input_ids) => (float[batch, seq, 8] last_hidden_state, float[batch, 8] pooler_output) {
    words = Gather (table, input_ids)
    last_hidden_state = Tanh (words)
    place = Constant <value = int64 {-1}> ()
    pooler_output = Gather <axis = 1> (last_hidden_state, place)
}
"""


def test_texts_of_the_last_position_must_be_padded() -> None:
    """As SigLIP's: there is no mask, and a shorter text gives another vector."""
    model = onnx.parser.parse_model(SIGLIP)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((30, 8), dtype=np.float32), "table"))
    said = [one for one in graphsurgery.inspect(model).warnings if "pad every text to" in one]
    assert len(said) == 1 and said[0].startswith("pooler_output is the vector of the last position")
