"""The rewrite `padding-free` with `keep_padded`: one file with the padded encoder and the padding-free one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from packed import MASKS, encoder, feeds, made, refuse, small_encoder

import graphsurgery
from graphsurgery import AddPooling, Fuse, FuseAttention, PaddingFree, Simplify
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.graph.flops import count_flops
from graphsurgery.graph.graph import Graph
from graphsurgery.rewrites.rewrite import Rewrite
from graphsurgery.runtime.session import open_session


@pytest.mark.parametrize(("name", "form"), [("bert", "rows"), ("bert-external", "rows"), ("qwen3-dynamo", "gather")])
def test_batches_without_padding_run_as_before(name: str, form: str) -> None:
    """A file with both encoders gives the bits of the source for them, and those of the padding-free file for all others."""
    source = made(encoder(name), AddPooling("mean", normalize=True))
    packed, both = made(source, PaddingFree(form)), made(source, PaddingFree(form, keep_padded=True))
    sessions = [open_session(one) for one in (source, packed, both)]
    full = set()
    for _, feed in feeds(source):
        before, alone, found = (one.run(feed)["sentence_embedding"] for one in sessions)
        is_full = bool(feed["attention_mask"].all())
        full.add(is_full)
        assert np.array_equal(found, before if is_full else alone)
    assert full == {True, False}
    assert {one.name for one in source.proto.graph.initializer} <= {one.name for one in both.proto.graph.initializer}


TOLD = {
    "nonzero": ([[1, 1], [1, 1]], [[1, 1], [1, 0]]),
    "not": ([[False, False], [False, False]], [[False, False], [True, False]]),
    "additive": ([[0.0, 0.0], [0.0, 0.0]], [[0.0, -1e4], [0.0, 0.0]]),
    "lengths": ([2, 2], [1, 2]),
}
"""By form of the mask: two texts without padding, and with padding."""


@pytest.mark.parametrize("said", MASKS)
def test_full_batches_by_masks_of_every_meaning(said: str, tmp_path: Path) -> None:
    steps = [AddPooling("mean", mask=MASKS[said][1]), PaddingFree(keep_padded=True)]
    done = graphsurgery.run(steps, small_encoder(said), output=tmp_path / "made.onnx")
    assert done.report and done.saved
    onnx.checker.check_model(str(done.output))
    session = open_session(done.model, extra_outputs=["padding_free/is_full"])
    for mask, is_full in zip(TOLD[said], (True, False), strict=True):
        feed = {"input_ids": np.array([[3, 4], [5, 6]]), "said": np.array(mask, np.float32 if said == "additive" else None)}
        assert session.run(feed)["padding_free/is_full"].tolist() == [is_full]


@pytest.mark.parametrize("rewrite", [PaddingFree(), PaddingFree("gather", keep_padded=True)], ids=str)
def test_the_operations_in_loops_and_branches_are_unknown(rewrite: PaddingFree) -> None:
    after = made(encoder("bert"), AddPooling("mean"), rewrite)
    assert count_flops(Graph.of(after), 1, 8) is None


@pytest.mark.parametrize("rewrite", [Fuse(), FuseAttention(), Simplify()], ids=str)
def test_both_encoders_come_last(rewrite: Rewrite) -> None:
    after = made(encoder("bert"), AddPooling("cls"), PaddingFree("gather", keep_padded=True))
    assert "first" in refuse(UnsupportedModelError, "in branches of an If", after, rewrite)
