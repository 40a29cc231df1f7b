"""A text's vector is the same bits in any batch: in what new heads compute, and in what `verify` says of a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from encoders import HIDDEN, IDS, MASK, tiny_encoder
from onnx import TensorProto
from planting import Plant
from token_faults import WEIGHED_MEANS

import graphsurgery
from graphsurgery import AddNormalize, AddPooling, FixDim
from graphsurgery.edits.draft_operators import Operators
from graphsurgery.proof.same_bits import describe_bits
from graphsurgery.proof.source_feeds import make_feed_generator
from graphsurgery.runtime.session import Session, open_session

SAME = "a text's vector is the same bits in any batch and with any padding behind it, as tried here on texts of up to 62 tokens"
OTHER = "a text's vector is not the same bits in any batch: up to "


@pytest.fixture
def old_heads(monkeypatch: pytest.MonkeyPatch):
    """Heads as they were before sums over tokens became matrix products, until the function that this gives is called."""

    def reduce_sum(ops: Operators, w: object, x: object, name: str) -> object:
        return ops.reduce_sum(x, 1, name)  # type: ignore[arg-type]

    monkeypatch.setattr(Operators, "sum_tokens", reduce_sum)
    return monkeypatch.undo


def describe(model: graphsurgery.Model | onnx.ModelProto) -> list[str]:
    loaded = graphsurgery.load(model)
    return describe_bits(loaded, open_session(loaded), make_feed_generator(loaded))


# --- what heads compute -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("mode", ["mean", "mean_sqrt_len_tokens", "weightedmean", "cls,mean", "max", "lasttoken"])
def test_every_row_is_the_same_bits(mode: str, threads: int, fixture_copy, tmp_path: Path) -> None:
    """In random batches of 1 to 12 texts, with 0 to 9 columns of padding behind the longest."""
    model = graphsurgery.add_pooling(fixture_copy("bert"), mode, normalize=True)
    graphsurgery.save(model, tmp_path / "pooled.onnx")
    session = Session(tmp_path / "pooled.onnx", threads=threads)
    rng, generator, rows = np.random.default_rng(0), make_feed_generator(model), 0
    for seed in range(6):
        lengths = rng.integers(1, 53, size=rng.integers(1, 13))
        mask = np.arange(lengths.max() + rng.integers(0, 10))[None, :] < lengths[:, None]
        feed = generator.generate(mask, seed)
        batch = session.run(feed)["sentence_embedding"]
        for row, length in enumerate(lengths):
            alone = session.run(generator.cut_feed(feed, row, slice(int(length))))["sentence_embedding"]
            assert alone.tobytes() == batch[row].tobytes()
            rows += 1
    assert rows > 20


def test_word_weights_are_summed_in_one_order() -> None:
    """Means divided by a sum of weights that are no whole numbers."""
    (said,) = describe(WEIGHED_MEANS.output)
    assert said.startswith("a text's vector is the same bits in any batch and with any padding behind it")


def test_nothing_at_padding_leaks() -> None:
    """NaN and infinity at padding, and neither of them at tokens, in the old order and the new."""
    source = tiny_encoder()
    source.graph.initializer.append(onnx.numpy_helper.from_array(np.array(np.nan, dtype=np.float32), "nan"))
    plant = Plant(source)
    seen = plant.append("Cast", MASK, to=TensorProto.BOOL)
    seen = plant.append("Unsqueeze", seen, plant.ints(2))
    plant.rename(HIDDEN, "before")
    plant.append("Where", seen, "before", "nan", gives=HIDDEN)
    model = graphsurgery.add_pooling(source, "mean,mean_sqrt_len_tokens,weightedmean")
    feed = {IDS: np.array([[1, 2, 3], [4, 5, 6]]), MASK: np.array([[1, 1, 0], [1, 0, 0]])}
    found = open_session(model).run(feed)["sentence_embedding"]
    assert np.isfinite(found).all() and found.shape == (2, 24)


# --- what is said -----------------------------------------------------------------------------------------------------------


def test_a_new_file_and_an_older_one(old_heads, fixture_copy, tmp_path: Path) -> None:
    """Both verify, and both give the encoder back; the older one is told apart, by the operator that adds in another order."""
    path, edits = fixture_copy("bert"), [AddPooling("mean"), AddNormalize()]
    older = graphsurgery.run(edits, path, output=tmp_path / "older.onnx", verify=False).output
    old_heads()
    newer = graphsurgery.run(edits, path, output=tmp_path / "newer.onnx", verify=False).output
    reports = [graphsurgery.verify(one, against=path) for one in (newer, older, tmp_path / "newer.onnx")]
    assert all(reports) and SAME in reports[0].observations
    (said,) = [line for line in reports[1].observations if line.startswith(OTHER)]
    assert said.endswith(
        "apart with other texts in the batch; the first operator to differ is ReduceSum graphsurgery/pooling/mean/sum"
    )
    assert float(said.removeprefix(OTHER).split()[0]) < 1e-6
    for file in (older, newer):
        assert graphsurgery.strip_head(file).to_proto().SerializeToString() == path.read_bytes()
    assert (SAME in graphsurgery.verify(newer, against=older).observations) and graphsurgery.verify(older, against=newer)


def test_what_depends_on_other_texts_is_named() -> None:
    """Sums to which their mean over the batch is added, a thousandth of it."""
    model = graphsurgery.add_pooling(tiny_encoder(), "mean").to_proto()
    plant = Plant(model)
    mean = plant.append("ReduceMean", plant.out("mean/sum"), behind="mean/sum", axes=[0], keepdims=1)
    plant.before("mean/mean", 0, "Add", plant.append("Mul", mean, plant.constant(1e-3), behind=mean))
    (said,) = describe(model)
    assert said.startswith(OTHER) and "with other texts in the batch; the first operator to differ is Add planted/Add" in said


def test_what_depends_on_padding_is_named() -> None:
    """A hidden state that is divided by the width of the batch."""
    source = tiny_encoder()
    plant = Plant(source)
    plant.rename(HIDDEN, "before")
    width = plant.append("Cast", plant.append("Gather", plant.append("Shape", IDS), plant.ints(1)), to=TensorProto.FLOAT)
    plant.append("Div", "before", width, gives=HIDDEN)
    (said,) = describe(graphsurgery.add_pooling(source, "cls"))
    assert said.startswith(OTHER) and "with padding behind it; the first operator to differ is Cast planted/Cast" in said


def test_where_nothing_is_said() -> None:
    """A fixed size, no vector per text, and vectors that are not finite."""
    pooled = graphsurgery.add_pooling(tiny_encoder(), "mean")
    assert len(describe(pooled)) == 1
    assert describe(graphsurgery.fix_dim(pooled, {"batch": 2})) == describe(tiny_encoder()) == []
    assert describe(FixDim(("sequence=5",)).apply(pooled)) == []
    spoilt = pooled.to_proto()
    Plant(spoilt).after("mean/mean", "Sqrt")
    assert describe(spoilt) == []
