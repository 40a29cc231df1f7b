"""Pooling third-party encoders that nobody made for us: odd names, no mask, unsorted nodes, wrong declarations, heads,
absent weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import CORPUS, NO_CORPUS

import graphsurgery
from graphsurgery.edits.add_pooling import AddPooling
from graphsurgery.errors import MaskError, NothingToPoolError

pytestmark = pytest.mark.skipif(not CORPUS.is_dir(), reason=NO_CORPUS)

CASES = {
    "encoderfile-embedding/model.onnx": (AddPooling("mean", normalize=True), 16, "whole proof"),
    "vespa-t5-random-encoder/random_encoder.onnx": (AddPooling("mean_sqrt_len_tokens"), 8, "whole proof"),
    "ort-gpt2-nopast-pt14/GPT2Model.onnx": (AddPooling("weightedmean", mask="ones"), 4, "whole proof"),
    "opensearch-tiny-xlmr-ce/model.onnx": (
        AddPooling("cls,mean", hidden_state="/roberta/encoder/layer.1/output/LayerNorm/Add_1_output_0"), 32, "whole proof",
    ),
    "optimum-onnx-asset/model.onnx": (AddPooling("mean", hidden_state="294"), 2, "whole proof"),
    "ort-bert-toy-optimized/bert_toy_optimized.onnx": (AddPooling("mean", hidden_state="730"), 32, "whole proof"),
    "ort-bert-squad-pt14-op11-fp16-ortcpu/BertForQuestionAnswering_ort_cpu.onnx": (
        AddPooling("mean", hidden_state="CastDef_1336"), 8, "whole proof",
    ),
    "egeria-minilm-dynamo-noweights/all-MiniLM-L6-v2.onnx": (AddPooling("mean", normalize=True), 384, "head proof"),
}  # fmt: skip
"""Model -> the edit, the width that must come out, and the deepest proof that is possible."""


@pytest.mark.parametrize("name", CASES)
def test_pooled_and_proven(name: str, tmp_path: Path) -> None:
    edit, width, deepest = CASES[name]
    shutil.copytree((CORPUS / name).parent, tmp_path / "model")
    source = tmp_path / "model" / Path(name).name
    done = graphsurgery.run([edit], source)
    assert done.report
    passed = [check.name for check in done.report.checks if check.verdict is graphsurgery.Verdict.PASSED]
    assert passed[-1] == deepest, done.report.to_json()
    embedding = done.interface.outputs[0]
    assert embedding.dims == (done.interface.inputs[0].dims[0], width * len(edit.modes))
    restored = graphsurgery.run([graphsurgery.StripHead()], done.output)
    assert restored.output.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("name", ["opensearch-tiny-xlmr-ce/model.onnx", "optimum-onnx-asset/model.onnx"])
def test_heads_are_refused_with_advice(name: str) -> None:
    """A classifier has nothing to pool: the message names what could be."""
    with pytest.raises(NothingToPoolError) as refused:
        graphsurgery.add_pooling(CORPUS / name, mode="mean")
    could = refused.value.advice.partition("it could be ")[2].split(", ")
    assert could != [""]
    assert graphsurgery.add_pooling(CORPUS / name, mode="mean", hidden_state=could[0])


def test_no_mask_is_refused_with_the_choices() -> None:
    with pytest.raises(MaskError, match="no attention mask") as refused:
        graphsurgery.add_pooling(CORPUS / "ort-gpt2-nopast-pt14/GPT2Model.onnx", mode="mean")
    assert "--mask ones" in refused.value.advice and "--mask pad:ID" in refused.value.advice


def test_dependence_on_padding_is_reported(tmp_path: Path) -> None:
    """An encoder whose own output depends on padding: not our fault, not hidden."""
    done = graphsurgery.run(
        [AddPooling("mean")], CORPUS / "vespa-t5-random-encoder/random_encoder.onnx", output=tmp_path / "o.onnx"
    )
    assert done.report is not None
    padding = [line for line in done.report.observations if "padding" in line]
    assert any(float(line.split("by up to ")[1].split()[0]) > 0.1 for line in padding)
