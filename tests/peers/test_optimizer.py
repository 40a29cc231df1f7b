"""As tests/test_optimizer_transparency.py, on the architectures and opsets that the repository has no files of."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from exports import ON_REQUEST, OPSETS
from fusions import EVERY_MODE, HEADS, fused, inferred_dims, require_optimizer, with_head

import graphsurgery

require_optimizer()

FUSED_ATTENTIONS = {
    "albert": 2, "camembert": 3, "deberta-v2": 0, "distilbert": 3, "electra": 3, "mistral": 0, "mpnet": 0, "roberta": 3,
}  # fmt: skip
"""Of three layers each, as the optimizer does without a head: below three it fails by itself."""


@functools.cache
def fused_without_head(path: Path) -> dict[str, int]:
    found = fused(path)
    assert found, "the optimizer fuses nothing in this encoder: the test would compare nothing"
    return found


@pytest.mark.parametrize("name", ON_REQUEST)
def test_all_modes_at_once(on_request, tmp_path, name):
    source = on_request / name / "model.onnx"
    bare = fused_without_head(source)
    assert bare["Attention"] == FUSED_ATTENTIONS[name]
    assert fused(with_head(source, tmp_path, EVERY_MODE, normalize=True)) == bare
    pooled = graphsurgery.add_pooling(source, mode=EVERY_MODE, normalize=True)
    assert inferred_dims(pooled.to_proto()) == list(pooled.interface.outputs[0].dims)


@pytest.mark.parametrize("mode", EVERY_MODE.split(","))
@pytest.mark.parametrize("name", [name for name in ON_REQUEST if name != "deberta-v2"])
def test_every_mode(on_request, tmp_path, name, mode):
    source = on_request / name / "model.onnx"
    assert fused(with_head(source, tmp_path, mode, normalize=True)) == fused_without_head(source)


@pytest.mark.parametrize(("mode", "normalize"), HEADS)
@pytest.mark.parametrize("opset", OPSETS)
def test_older_opsets(bert_exports, tmp_path, opset, mode, normalize):
    source = bert_exports[opset][0]
    bare = fused_without_head(source)
    assert bare["Attention"] == 3 and bare["SkipLayerNormalization"] == 6
    pooled = with_head(source, tmp_path, mode, normalize)
    assert fused(pooled) == bare
    assert graphsurgery.load(pooled).opset == opset


def test_the_real_one(minilm_export, tmp_path):
    """all-MiniLM-L6-v2, as it was trained: mean, normalised."""
    bare = fused_without_head(minilm_export)
    assert bare["Attention"] == 6 and bare["SkipLayerNormalization"] == 12 and bare["EmbedLayerNormalization"] == 1
    assert fused(with_head(minilm_export, tmp_path, "mean", normalize=True)) == bare
