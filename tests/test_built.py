"""Encoders that are built from a table, and the proof that they look up its rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import helper, numpy_helper
from safetensors.numpy import save_file

import graphsurgery
from graphsurgery.baking import encoder
from graphsurgery.baking.encoder import build_table_encoder
from graphsurgery.errors import UnsupportedModelError, WeightsError
from graphsurgery.folders.modules import Module

TABLE = np.random.default_rng(0).standard_normal((50, 50)).astype(np.float32)


def module(folder: Path, table: np.ndarray = TABLE, name: str = "embedding.weight") -> Module:
    save_file({name: table}, folder / "model.safetensors")
    return Module("StaticEmbedding", "0", folder, {}, "")


@pytest.mark.parametrize("name", ["embedding.weight", "embeddings"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_rows_are_the_tables(name: str, dtype: type, tmp_path: Path) -> None:
    """In float32, whatever the file has; pooled by the mean, they are what sentence-transformers' EmbeddingBag gives."""
    encoder = graphsurgery.load(build_table_encoder(module(tmp_path, TABLE.astype(dtype), name)))
    assert [str(value) for value in encoder.interface.outputs] == ["token_embeddings: float32[batch, sequence, 50]"]
    pooled = graphsurgery.add_pooling(encoder, "mean")
    assert graphsurgery.verify(pooled, against=encoder)


FAULTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "rows in another order": lambda table: table[::-1],
    "transposed": lambda table: table.T,
    "one row twice": lambda table: np.vstack((table[:1], table[:-1])),
    "one element changed": lambda table: table + 1e-6 * np.eye(50),
    "in float16": lambda table: table.astype(np.float16),
    "in bfloat16's digits": lambda table: (table.view(np.uint32) & 0xFFFF0000).view(np.float32),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_other_rows_are_found_out(fault: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = numpy_helper.from_array(np.ascontiguousarray(fault(TABLE)).astype(np.float32), encoder.TABLE)
    monkeypatch.setattr(encoder.onnx.numpy_helper, "from_array", lambda *_: wrong)
    with pytest.raises(UnsupportedModelError, match="other rows"):
        build_table_encoder(module(tmp_path))


def test_columns_for_rows_are_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_node = helper.make_node
    monkeypatch.setattr(encoder.helper, "make_node", lambda *args, **_: make_node(*args[:3], axis=1))
    with pytest.raises(UnsupportedModelError):
        build_table_encoder(module(tmp_path))


@pytest.mark.parametrize("table", [np.zeros(5, np.float32), np.zeros((0, 3), np.float32), np.full((2, 2), np.nan, np.float32)])
def test_tables_that_are_none(table: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(WeightsError):
        build_table_encoder(module(tmp_path, table))
