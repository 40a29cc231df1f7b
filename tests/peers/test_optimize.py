"""optimize on the architectures that the repository has no files of, on Optimum's pooled export, and on all-MiniLM-L6-v2."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from exports import ON_REQUEST
from fusions import EVERY_MODE, require_optimizer, with_head
from optimum.exporters.onnx import main_export
from test_minilm import UNIT, embed, encoded, reference, sentences, tokenizer  # noqa: F401 -- fixtures
from test_minilm_bake import folder, measured, run  # noqa: F401 -- fixtures

import graphsurgery
from graphsurgery.graph import write_back
from graphsurgery.rewrites import fuse_encoder

require_optimizer()


def attentions(model: onnx.ModelProto) -> int:
    return sum(node.op_type == "Attention" and node.domain == "com.microsoft" for node in model.graph.node)


def bare(path: Path, model_type: str = "bert") -> onnx.ModelProto:
    """What the optimizer makes of a file by itself."""
    from onnxruntime.transformers.optimizer import optimize_model

    return optimize_model(str(path), model_type=model_type, opt_level=0).model


@pytest.mark.parametrize("name", ON_REQUEST)
def test_fusions_with_the_head_are_those_without(
    name: str, on_request: Path, tmp_path: Path, monkeypatch, request: pytest.FixtureRequest
) -> None:
    source = on_request / name / "model.onnx"
    alone = graphsurgery.optimize(source, output=tmp_path / "alone.onnx", time=False)
    pooled = graphsurgery.optimize(
        with_head(source, tmp_path, EVERY_MODE, normalize=True), output=tmp_path / "pooled.onnx", time=False
    )
    assert alone.report and pooled.report and alone.fusions is not None and pooled.fusions is not None
    assert alone.fusions.counts == pooled.fusions.counts
    assert alone.fusions.counts["attention"] == (3, 3)
    assert alone.fusions.complete == (name in ("albert", "deberta-v2", "distilbert", "electra", "mistral"))
    assert all(reason and "no known reason" not in reason for _, _, reason in pooled.fusions.misses())
    counts = [
        Counter(node.op_type for node in graphsurgery.load(one.output).proto.graph.node if node.domain == "com.microsoft")
        for one in (alone, pooled)
    ]
    assert counts[0] == counts[1]
    monkeypatch.setattr(
        fuse_encoder, "load_for_rewrite", lambda model, *_: write_back.load_for_rewrite(model, largest=0, small=1024)
    )
    request.getfixturevalue("short_texts")  # the other two are proven on long ones
    large = graphsurgery.optimize(source, output=tmp_path / "large.onnx", time=False)
    assert large.report and large.fusions is not None and large.fusions.counts == alone.fusions.counts, "as of a large file"


def test_the_layer_that_is_missed_in_albert(on_request: Path, tmp_path: Path) -> None:
    source = on_request / "albert" / "model.onnx"
    assert attentions(bare(source)) == 2
    done = graphsurgery.optimize(source, output=tmp_path / "made.onnx", strict=True, time=False)
    assert done.report and attentions(graphsurgery.load(done.output).proto) == 3


def test_optimums_pooled_export(folder: Path, tokenizer, sentences, encoded, worst, tmp_path: Path) -> None:  # noqa: F811
    """The bare optimizer fuses no attention and no norm in it; told so without --rehead, and all of them fuse with it."""
    main_export(
        str(folder), tmp_path / "pooled", task="feature-extraction", library_name="sentence_transformers", do_validation=False
    )
    source = tmp_path / "pooled" / "model.onnx"
    assert attentions(bare(source)) == 0
    plain = graphsurgery.optimize(source, output=tmp_path / "plain.onnx", time=False)
    assert plain.fusions is not None and plain.fusions.counts["skip norm"] == (0, 12)
    assert any("--rehead" in one for one in plain.warnings)
    assert any("symbolic shape inference failed" in reason for _, kind, reason in plain.fusions.misses() if kind == "skip norm")
    done = graphsurgery.optimize(source, output=tmp_path / "made.onnx", rehead=True, strict=True, time=False)
    assert done.report and done.fusions is not None and done.fusions.complete
    assert any("mean pooling, normalised" in note for note in done.notes)
    found = embed(done.output, tokenizer, sentences, 32, True)
    worst.within("all-MiniLM-L6-v2, Optimum's pooled export, --rehead", found, encoded(32), UNIT)


def test_optimums_pooled_export_of_another_mode(folder: Path, tokenizer, sentences, worst, tmp_path: Path) -> None:  # noqa: F811
    """cls, not normalised: found by running it. Rows without a token, where ours gives zeros, are told of."""
    other = tmp_path / "cls"
    shutil.copytree(folder, other)
    width = json.loads((other / "1_Pooling" / "config.json").read_text())["word_embedding_dimension"]
    (other / "1_Pooling" / "config.json").write_text(json.dumps({"embedding_dimension": width, "pooling_mode": "cls"}))
    modules = json.loads((other / "modules.json").read_text())
    (other / "modules.json").write_text(json.dumps([one for one in modules if not one["type"].endswith("Normalize")]))
    main_export(
        str(other), tmp_path / "pooled", task="feature-extraction", library_name="sentence_transformers", do_validation=False
    )
    source = tmp_path / "pooled" / "model.onnx"
    done = graphsurgery.optimize(source, output=tmp_path / "made.onnx", rehead=True, strict=True, time=False)
    assert done.report and not done.attempts and any("its own head, cls pooling, was" in note for note in done.notes)
    assert any("rows without a token" in line for line in done.report.not_checked)
    wanted, found = (embed(path, tokenizer, sentences[:64], 32, True) for path in (source, done.output))
    worst.within("all-MiniLM-L6-v2 with cls, Optimum's pooled export, --rehead", found, wanted, 1e-5)


def test_minilm(folder, minilm_export, encoded, tokenizer, sentences, worst, measured, tmp_path) -> None:  # noqa: F811
    """optimize and optimize --fp16 of a baked file: verified, and its embeddings of real sentences beside encode's."""
    (folder / "onnx").mkdir(exist_ok=True)
    shutil.copyfile(minilm_export, folder / "onnx" / "model.onnx")
    graphsurgery.bake(folder, tmp_path / "baked", verify=False)  # tests/peers/test_minilm_bake.py has its proof
    baked = tmp_path / "baked" / "onnx" / "model.onnx"
    (tmp_path / "texts.txt").write_text("\n".join(" ".join(one.split()) for one in sentences), encoding="utf-8")
    for name, options in (("optimize", ()), ("optimize --fp16", ("--fp16",))):
        output = baked.with_name(f"{name.replace(' ', '')}.onnx")
        command = [
            "-m", "graphsurgery", "optimize", baked, *options, "-o", output, "--texts", tmp_path / "texts.txt", "--json",
        ]  # fmt: skip
        told = json.loads(run([sys.executable, *command], f"graphsurgery {name} (with its proof)", measured, tmp_path))
        assert told["report"]["verdict"] == "PASSED", told["report"]
        proof = {check["name"]: check["comparisons"] for check in told["report"]["checks"]}
        cases = {one["kind"]: one["cases"] for one in proof["same outputs"]}
        assert cases["real text"] == len(sentences) >= 300 and {"left padding", "holes"} <= cases.keys()
        assert told["fusions"]["complete"] and told["fusions"]["counts"]["attention"] == {"fused": 6, "expected": 6}
        found = embed(output, tokenizer, sentences, 32, True)
        assert len(found) >= 300
        if not options:
            worst.within("all-MiniLM-L6-v2, optimize, against encode", found, encoded(32), UNIT)
            continue
        cosines = np.sum(found * encoded(32), axis=1) / np.linalg.norm(found, axis=1)
        worst.within("all-MiniLM-L6-v2, optimize --fp16, 1 - cosine to encode", 1 - cosines, np.zeros(len(cosines)), 1e-4)
        worst.within("all-MiniLM-L6-v2, optimize --fp16, against encode", found, encoded(32), 5e-3)
        assert told["loss"]["min_cosine"] > 0.9999 and "second opinion" in proof
        for opinion in told["loss"]["opinions"]:
            what = f"all-MiniLM-L6-v2, optimize --fp16, the report's own figure by {opinion['engine']}"
            worst.within(what, np.array([opinion["loss"]["max_abs_diff"]]), np.zeros(1), 5e-3)
