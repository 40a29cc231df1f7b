"""Every kind of feed is what its name says, at whatever sizes are baked in; and feeds reach the model's own limits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import FIXTURES
from encoders import HIDDEN, IDS, MASK, tiny_encoder
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import graphsurgery
from graphsurgery.encoder.limits import find_largest_window
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.proof.source_feeds import make_feed_generator
from graphsurgery.report import Verdict
from graphsurgery.runtime import reach as reach_module
from graphsurgery.runtime.feeds import FeedGenerator, generate_text_feeds
from graphsurgery.runtime.masks import KINDS, LONG_LEFT, LONGEST, Mask, Sizes, generate_longest_masks, generate_masks
from graphsurgery.runtime.reach import UNLIMITED, extend_to_reach, find_reach
from graphsurgery.runtime.session import open_session
from graphsurgery.runtime.texts import Encoded, tokenize

pytestmark = pytest.mark.usefixtures("full_length")
SIZES = st.builds(Sizes, st.none() | st.integers(1, 6), st.none() | st.integers(1, 40), st.integers(1, 64))


def first(row: np.ndarray) -> int:
    return int(np.flatnonzero(row)[0])


def last(row: np.ndarray) -> int:
    return int(np.flatnonzero(row)[-1])


def in_one_piece(row: np.ndarray) -> bool:
    return last(row) - first(row) + 1 == row.sum()


def some_padding(rows: list[np.ndarray]) -> bool:
    return any(not row.all() for row in rows)


IS_SO: dict[str, Callable[[list[Mask], list[np.ndarray]], bool]] = {
    "right padding": lambda _, rows: some_padding(rows) and all(in_one_piece(row) and first(row) == 0 for row in rows),
    "left padding": lambda _, rows: some_padding(rows) and all(in_one_piece(row) and last(row) == len(row) - 1 for row in rows),
    "mixed padding": lambda _, rows: (
        all(in_one_piece(row) for row in rows)
        and any(first(row) > 0 for row in rows)
        and any(last(row) < len(row) - 1 for row in rows)
    ),
    "holes": lambda _, rows: all(not in_one_piece(row) for row in rows),
    "single token": lambda _, rows: all(row.sum() == 1 for row in rows),
    "sequence of one": lambda masks, _: all(mask.shape[1] == 1 and mask.all() for mask in masks),
    "batch of one": lambda masks, _: all(len(mask) == 1 and mask.any() for mask in masks),
    "empty row": lambda _, rows: any(not row.any() for row in rows),
    "long": lambda masks, rows: any(row.all() and len(row) == max(mask.shape[1] for mask in masks) for row in rows),
}
"""What each kind's name says, of its masks and of all their rows."""


def test_every_kind_is_described() -> None:
    assert IS_SO.keys() == KINDS.keys()


@given(SIZES)
def test_every_kind_is_what_its_name_says(sizes: Sizes) -> None:
    """Of the sizes that are baked in; within the longest sequence where none is; left out only where the sizes rule it out."""
    found = dict(generate_masks(sizes))
    width = sizes.sequence or sizes.longest
    ruled_out = {
        "right padding": width < 2, "left padding": width < 2, "mixed padding": width < 2, "holes": width < 3,
        "sequence of one": sizes.sequence not in (None, 1), "batch of one": sizes.batch not in (None, 1),
    }  # fmt: skip
    assert found.keys() == {kind for kind in KINDS if not ruled_out.get(kind)}
    for kind, masks in found.items():
        assert masks and all(mask.dtype == np.bool_ and mask.ndim == 2 for mask in masks)
        assert all(sizes.batch in (None, len(mask)) and sizes.sequence in (None, mask.shape[1]) for mask in masks)
        assert all(mask.shape[1] <= width for mask in masks)
        assert IS_SO[kind](masks, [row for mask in masks for row in mask]), kind


@given(SIZES)
def test_the_longest_feeds(sizes: Sizes) -> None:
    """A whole row, and one with padding in front."""
    kinds = dict(generate_longest_masks(sizes, 90, 70))
    assert all(mask.all() and mask.shape == (sizes.batch or 1, 90) for mask in kinds[LONGEST])
    assert all(IS_SO["left padding"]([mask], list(mask)) and mask.shape[1] == 70 for mask in kinds[LONG_LEFT])


def generator(*dims: int | str, **encoder: object) -> FeedGenerator:
    return make_feed_generator(graphsurgery.load(tiny_encoder(dims=dims, **encoder)))  # type: ignore[arg-type]


@pytest.mark.parametrize("dims", [(1, "s"), (1, 16), ("b", 16), (3, 16), (3, "s"), ("b", "s"), (5, 1)], ids=str)
def test_feeds_run_at_every_size(dims: tuple[int | str, int | str]) -> None:
    """What is fed has the declared sizes, and the ids' and the mask's padding agree."""
    source = graphsurgery.load(tiny_encoder(dims=dims))
    session, drawn = open_session(source), make_feed_generator(source)
    for _, masks in drawn.generate_masks():
        for seed, mask in enumerate(masks):
            feed = drawn.generate(mask, seed)
            assert np.array_equal(feed[MASK] != 0, mask) and feed[IDS].shape == mask.shape
            assert session.run(feed)[HIDDEN].shape[:2] == mask.shape


# --- real text ------------------------------------------------------------------------------------------------------------

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=7)


def encoded(lengths: list[int], side: str) -> Encoded:
    width = max(lengths)
    mask = np.arange(width)[None, :] < np.array(lengths)[:, None]
    mask = mask if side == "right" else mask[:, ::-1]
    ids = np.where(mask, np.arange(mask.size).reshape(mask.shape) % 40 + 1, 49)
    return Encoded(ids, mask, np.zeros_like(ids), 49, side)


@given(LENGTHS, st.sampled_from(["left", "right"]), st.none() | st.integers(1, 4), st.none() | st.integers(12, 20))
def test_texts_stay_whole(lengths: list[int], side: str, batch: int | None, sequence: int | None) -> None:
    """No text is dropped or cut where the sizes are baked in; each is padded on its own side, with the id for that."""
    texts = encoded(lengths, side)
    feeds = generate_text_feeds(generator(batch or "b", sequence or "s"), texts)
    assert all(feed[IDS].shape == (batch or len(lengths), sequence or max(lengths)) for feed in feeds)
    rows = [(ids, mask != 0) for feed in feeds for ids, mask in zip(feed[IDS], feed[MASK], strict=True)]
    assert {tuple(ids[mask]) for ids, mask in rows} == {
        tuple(ids[mask]) for ids, mask in zip(texts.ids, texts.mask, strict=True)
    }
    for ids, mask in rows:
        assert in_one_piece(mask) and (mask[-1] if side == "left" else mask[0])
        assert np.all(ids[~mask] == 49)


def test_the_tokenizer_says_how_texts_are_padded() -> None:
    found = tokenize(FIXTURES / "qwen3" / "tokenizer.json", ["one", "two words"], 16)
    assert found.side == "left" and not found.mask[0, 0] and np.all(found.ids[~found.mask] == found.pad)


# --- how far they reach ---------------------------------------------------------------------------------------------------


def reach_of(model: graphsurgery.Model, **options: bool) -> reach_module.Reach:
    return find_reach(model, make_feed_generator(model), open_session(model).run, **options)


@pytest.mark.parametrize(("name", "tokens"), [("bert", 64), ("xlmr", 62)])
def test_the_end_of_the_position_table(name: str, tokens: int) -> None:
    """Of 64 rows, all of BERT's; RoBERTa's keep two for padding."""
    found = reach_of(graphsurgery.load(FIXTURES / name / "model.onnx"))
    assert (found.tokens, found.limit, found.not_checked) == (tokens, tokens, [])


@pytest.mark.parametrize(("name", "window"), [("modernbert", 4), ("qwen3", None), ("t5", None)])
def test_positions_without_an_end(name: str, window: int | None) -> None:
    """Rotary and relative ones: as far as that is worth it, and what is beyond is told."""
    model = graphsurgery.load(FIXTURES / name / "model.onnx")
    found = reach_of(model)
    assert (found.tokens, found.limit) == (UNLIMITED, None) and "2048 tokens" in found.not_checked[0]
    assert window is None or found.window == window
    kinds = dict(extend_to_reach(make_feed_generator(model), found).generate_masks(longest=True))
    assert kinds[LONGEST][0].shape == (1, UNLIMITED) and kinds[LONG_LEFT][0].shape[1] > 2 * (window or 0)


def windowed(window: int, positions: int | None = None) -> onnx.ModelProto:
    """A mean of the tokens that are at most ``window`` away, as local attention has it."""
    nodes = [
        helper.make_node("Gather", ["word", IDS], ["words"]),
        helper.make_node("Shape", [IDS], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["length"]),
        helper.make_node("Range", ["zero", "length", "one"], ["where"]),
        helper.make_node("Unsqueeze", ["where", "first"], ["column"]),
        helper.make_node("Sub", ["where", "column"], ["between"]),
        helper.make_node("Abs", ["between"], ["distance"]),
        helper.make_node("LessOrEqual", ["distance", "window"], ["near"]),
        helper.make_node("Cast", ["near"], ["weights"], to=onnx.TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["weights", "first"], ["sum"], keepdims=1),
        helper.make_node("Div", ["weights", "sum"], ["attention"]),
        helper.make_node("MatMul", ["attention", "words"], [HIDDEN]),
    ]
    rng = np.random.default_rng(0)
    numbers = {"zero": 0, "one": 1, "window": window}
    weights = [numpy_helper.from_array(np.array(value), name) for name, value in numbers.items()]
    weights += [numpy_helper.from_array(np.array([1]), "first")]
    weights += [numpy_helper.from_array(rng.standard_normal((50, 8)).astype(np.float32), "word")]
    inputs = [helper.make_tensor_value_info(name, onnx.TensorProto.INT64, ["batch", "sequence"]) for name in (IDS, MASK)]
    output = helper.make_tensor_value_info(HIDDEN, onnx.TensorProto.FLOAT, ["batch", "sequence", 8])
    graph = helper.make_graph(nodes, "windowed", inputs, [output], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("window", [3, 64, 1500])
def test_windows_of_local_attention(window: int) -> None:
    model = graphsurgery.load(windowed(window))
    assert find_largest_window(model) == window
    assert reach_of(model, full=True).tokens == max(UNLIMITED, 2 * window + 1)


@pytest.mark.parametrize("window", [64, 900])
def test_a_window_that_was_dropped(window: int, tmp_path: Path) -> None:
    """Beyond the window, and nowhere else, the two differ."""
    source, made = windowed(window), windowed(1 << 19)
    report = graphsurgery.verify(made, against=source)
    failed = {one.kind for check in report.checks for one in check.comparisons if one.verdict.value == "FAILED"}
    assert not report and failed == {LONGEST, LONG_LEFT}


def test_a_table_that_is_none_of_positions() -> None:
    """As wide as the words' and looked up by something else: texts may be longer than it is."""
    model = windowed(3)
    rng = np.random.default_rng(0)
    model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal((6, 8)).astype(np.float32), "table"))
    model.graph.node.insert(0, helper.make_node("Gather", ["table", "window"], ["row"]))
    model.graph.node[-1].output[0] = "mixed"
    model.graph.node.append(helper.make_node("Add", ["mixed", "row"], [HIDDEN]))
    loaded = graphsurgery.load(model)
    assert make_feed_generator(loaded).tables.positions == 6
    assert (reach_of(loaded).tokens, reach_of(loaded).limit) == (UNLIMITED, None)


@pytest.mark.parametrize("most", [1, 5, 20])
def test_a_source_that_takes_short_texts_alone(most: int) -> None:
    """It is proven on those, and the report says where that ends."""
    model = graphsurgery.load(FIXTURES / "modernbert" / "model.onnx")
    session = open_session(model)

    def run(feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if feed[IDS].shape[1] > most:
            raise UnsupportedModelError("ONNX Runtime cannot run the model: too long")
        return session.run(feed)

    drawn = make_feed_generator(model)
    found = find_reach(model, drawn, run)
    assert most / 2 < found.tokens <= most and "cannot run the source on" in found.not_checked[0]
    assert extend_to_reach(drawn, found).longest == found.tokens


def test_wide_outputs_limit_the_reach(monkeypatch) -> None:
    model = graphsurgery.load(FIXTURES / "modernbert" / "model.onnx")
    monkeypatch.setattr(reach_module, "MOST_NUMBERS", 32 * 512)
    assert reach_of(model).tokens == 512 and reach_of(model).is_hurried


def test_time_limits_the_reach(monkeypatch) -> None:
    """And the report says so; --full goes all the way."""
    model = graphsurgery.load(FIXTURES / "modernbert" / "model.onnx")
    monkeypatch.setattr(reach_module, "SECONDS", 0.0)
    found = reach_of(model)
    assert found.tokens == 64 and found.is_hurried and "--full" in found.not_checked[0]
    assert reach_of(model, full=True).tokens == UNLIMITED
    report = graphsurgery.verify(model, against=model)
    assert report and any("64 tokens" in one and "--full" in one for one in report.not_checked)


def test_a_source_that_takes_less_than_it_seems_to() -> None:
    """What it cannot be run on is left out, and told."""
    model = graphsurgery.load(FIXTURES / "modernbert" / "model.onnx")
    session = open_session(model)

    def run(feed: dict[str, np.ndarray]) -> object:
        if feed[IDS].shape[1] > 300:
            raise UnsupportedModelError("ONNX Runtime cannot run the model: too long")
        return session.run(feed)

    assert find_reach(model, make_feed_generator(model), run).tokens == 256


def test_the_longest_feed_is_run_once() -> None:
    ran: list[int] = []
    run = reach_module.CachedRun(lambda feed: ran.append(feed[IDS].size) or len(ran))
    short, long, other = ({IDS: np.full((1, size), value)} for size, value in ((3, 1), (5, 1), (5, 2)))
    assert [run(dict(feed)) for feed in (short, long, short, long, other, long)] == [1, 2, 3, 2, 4, 2]
    assert ran == [3, 5, 3, 5]


def test_a_model_without_inputs() -> None:
    """It gives the same in every run. Nothing can be compared on texts, and no text was of any length."""
    same = onnx.helper.make_node("Constant", [], ["flat"], "same", value_floats=[0.5, 1.5])
    shape = onnx.numpy_helper.from_array(np.array([1, 1, 2]), "shape")
    whole = onnx.helper.make_node("Reshape", ["flat", "shape"], ["last_hidden_state"], "whole")
    output = onnx.helper.make_tensor_value_info("last_hidden_state", onnx.TensorProto.FLOAT, [1, 1, 2])
    graph = onnx.helper.make_graph([same, whole], "constant", [], [output], [shape])
    source = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    report = graphsurgery.verify(graphsurgery.add_pooling(source, mode="mean", mask="ones"), against=source)
    assert report.verdict is Verdict.NOT_CHECKED
    assert "head proof: the model has no inputs, so there are no texts to compare on" in report.not_checked
    plain = graphsurgery.verify(source, against=source)
    assert plain and "the model has no inputs, so every run of it is the same" in plain.observations
    assert not any("texts" in line and "longer" in line for line in plain.not_checked)


def without_texts(text: str) -> graphsurgery.Model:
    graph = onnx.parser.parse_graph(text)
    opset = onnx.helper.make_opsetid("", 17)
    return graphsurgery.load(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8))


FLAT = """bags (int64[tokens] input_ids, int64[batch] offsets) => (float[batch, 2] embedding)
    <float[9, 2] table = {0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9}> {
    words = Gather (table, input_ids)
    embedding = Gather (words, offsets)
}"""
PICTURES = """colours (float[batch, 3, h, w] pixel_values) => (float[batch, 3] embedding) <int64[2] axes = {2, 3}> {
    sums = ReduceSum <keepdims = 0> (pixel_values, axes)
    embedding = Identity (sums)
}"""


@pytest.mark.parametrize("text", [FLAT, PICTURES], ids=["flat ids", "pictures"])
def test_inputs_that_hold_no_texts(text: str) -> None:
    """Nothing is said of their length. A flat list of ids has offsets at which its texts begin, and no rows."""
    source = without_texts(text)
    report = graphsurgery.verify(graphsurgery.add_normalize(source, again=True), against=source)  # the first row is [0, 1]
    assert report and any("no input holds texts in its rows" in line for line in report.observations)
    assert not any("tokens" in line for line in report.not_checked)
    is_flat = "offsets" in text
    feed = make_feed_generator(source).generate(np.ones((3, 5), dtype=np.bool_), seed=1)
    assert not is_flat or all(np.array_equal(feed[name], [0, 1, 2]) for name in ("input_ids", "offsets"))
    assert any("only 0, 1, 2, ... were fed" in line for line in report.not_checked) == is_flat
    assert any("no input has texts as rows" in line for line in report.observations) == is_flat


@pytest.mark.parametrize("edited", [False, True])
def test_reports_say_how_long_texts_were(edited: bool, tmp_path: Path) -> None:
    source = FIXTURES / "bert" / "model.onnx"
    made = graphsurgery.add_pooling(source, mode="mean") if edited else graphsurgery.load(source)
    report = graphsurgery.verify(made, against=source)
    assert report and any("up to 64 tokens" in one for one in report.observations)
