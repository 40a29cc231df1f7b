"""verify --outputs: two files of different makers, by their outputs on the inputs that both have."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from conftest import FIXTURES
from encoders import HIDDEN, IDS, MASK, POOLER, POSITION_IDS, TYPE_IDS, tiny_encoder
from fusions import with_head
from onnx import TensorProto, helper, numpy_helper

import graphsurgery
from graphsurgery.cli.main import cli
from graphsurgery.errors import RequestError
from graphsurgery.model.loading import load
from graphsurgery.proof.pairing import pair_models
from graphsurgery.report import Report, Verdict
from graphsurgery.runtime.texts import SENTENCES

PASSED, FAILED, NOT_CHECKED = Verdict.PASSED, Verdict.FAILED, Verdict.NOT_CHECKED


def of_another_maker(model: onnx.ModelProto, outputs: Sequence[str] = (), lost: Sequence[str] = ()) -> onnx.ModelProto:
    """The same model with other names throughout, its ``outputs`` anew if given, zeros in place of the ``lost`` inputs."""
    made = copy.deepcopy(model)
    graph = made.graph
    names = {name: f"other/{name}" for node in graph.node for name in node.output if name}
    names |= {one.name: f"weight/{one.name}" for one in graph.initializer}
    names |= dict(zip([one.name for one in graph.output], outputs, strict=False))
    for one in (*graph.initializer, *graph.output):
        one.name = names[one.name]
    for node in graph.node:
        node.name = f"node/{node.name}"
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for name in lost:
        graph.input.remove(next(one for one in graph.input if one.name == name))
        graph.node.insert(0, helper.make_node("Sub", [IDS, IDS], [name]))
    del made.metadata_props[:], graph.value_info[:]
    return made


def remarks(report: Report) -> str:
    return "\n".join((*report.observations, *report.not_checked))


@pytest.fixture(scope="module")
def pooled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pooled")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(FIXTURES / "bert" / name, folder / name)
    return with_head(FIXTURES / "bert" / "model.onnx", folder, "mean", normalize=True)


def test_files_that_share_nothing_are_compared_by_their_outputs(pooled: Path, tmp_path: Path) -> None:
    """On what both take, outputs by shape, with neighbours; in both directions, whatever one of them records."""
    made = tmp_path / "made.onnx"
    onnx.save(of_another_maker(onnx.load(pooled), ["vector"], lost=[TYPE_IDS]), made)
    for model, source in ((made, pooled), (pooled, made)):
        report = graphsurgery.verify(model, against=source)
        whose = "source" if source == pooled else "model"
        assert report.verdict is PASSED and report.worst < 1e-6 and "almost no node in common" in remarks(report)
        assert f"{TYPE_IDS}, which only the {whose} takes, was fed zeros" in remarks(report)
        assert "matched by shape" in remarks(report) and "100.0% of the 10 nearest neighbours kept" in remarks(report)
        assert "recorded edits: only the outputs" in remarks(report)


def test_a_fault_in_another_makers_file_is_found(pooled: Path, tmp_path: Path) -> None:
    made = of_another_maker(onnx.load(pooled), ["vector"])
    bias = next(one for one in made.graph.initializer if one.name.endswith("output.LayerNorm.bias"))
    bias.CopyFrom(
        numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(1e-3) * np.eye(32, dtype=np.float32)[0], bias.name)
    )
    onnx.save(made, tmp_path / "made.onnx")
    against = {"against": pooled, "outputs": True}
    assert graphsurgery.verify(tmp_path / "made.onnx", **against).verdict is FAILED
    assert graphsurgery.verify(tmp_path / "made.onnx", **against, atol=0.01).verdict is PASSED
    assert graphsurgery.verify(tmp_path / "made.onnx", **against, min_cosine=0.999).verdict is PASSED
    assert graphsurgery.verify(tmp_path / "made.onnx", **against, min_cosine=0.9999999999).verdict is FAILED


def test_a_budget_judges_files_with_different_inputs(pooled: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(SENTENCES), encoding="utf-8")
    made = tmp_path / "made.onnx"
    onnx.save(of_another_maker(onnx.load(pooled), ["vector"], lost=[TYPE_IDS]), made)
    report = graphsurgery.verify(made, against=pooled, texts=texts, top_k=3, min_overlap=1.0, outputs=True)
    assert report.verdict is PASSED and TYPE_IDS in remarks(report)


def test_an_unasked_comparison_needs_graphs_that_share_nothing() -> None:
    """A file with other inputs that is the source for the rest may be a mistake: it says how to compare it."""
    source, made = tiny_encoder(inputs=[TYPE_IDS]), tiny_encoder()
    report = graphsurgery.verify(made, against=source)
    assert report.verdict is NOT_CHECKED and "--outputs" in report.checks[0].detail


@pytest.mark.parametrize("first_has", [True, False])
def test_positions_get_their_meaning(first_has: bool) -> None:
    files = (tiny_encoder(inputs=[POSITION_IDS]), tiny_encoder())
    source, model = files if first_has else files[::-1]
    report = graphsurgery.verify(model, against=source, outputs=True)
    assert report.verdict is PASSED and "fed its meaning: 0, 1, 2" in remarks(report)
    assert [one.kind for one in report.checks[0].comparisons] == ["without padding"]
    assert any("padding" in line for line in report.not_checked)


@pytest.mark.parametrize("first_has", [True, False])
def test_a_mask_that_one_file_lacks_hides_nothing(first_has: bool) -> None:
    files = (tiny_encoder(), tiny_encoder(mask_dtype=None))
    source, model = files if first_has else files[::-1]
    pairing = pair_models(load(source), load(model))
    feed = pairing.generator.generate(np.ones((2, 3), dtype=np.bool_), seed=0)
    fed = feed if first_has else pairing.translate(feed)
    assert fed[MASK].tolist() == [[1, 1, 1], [1, 1, 1]]
    report = graphsurgery.verify(model, against=source, outputs=True)
    assert report.verdict is PASSED and "every position is a token" in remarks(report)


def test_masks_of_other_forms_say_the_same_tokens() -> None:
    """An int32 mask and int32 ids carry the same texts; ids stay within the smaller vocabulary."""
    source = tiny_encoder()
    model = of_another_maker(tiny_encoder(ids_dtype=TensorProto.INT32, mask_dtype=TensorProto.FLOAT), [HIDDEN])
    pairing = pair_models(load(source), load(model))
    mask = np.array([[True, True, False]])
    fed = pairing.translate(pairing.generator.generate(mask, seed=1))
    assert fed[IDS].dtype == np.int32 and fed[MASK].dtype == np.float32 and np.array_equal(fed[MASK] != 0, mask)
    assert graphsurgery.verify(model, against=source, outputs=True).verdict is PASSED


def test_outputs_of_one_name_come_before_outputs_of_one_shape() -> None:
    source = tiny_encoder(outputs=[POOLER])
    for names, pairs in (
        ([POOLER, HIDDEN], {HIDDEN: POOLER, POOLER: HIDDEN}),
        ([HIDDEN, "vector"], {HIDDEN: HIDDEN}),
        (["tokens", "vector"], {HIDDEN: "tokens", POOLER: "vector"}),
    ):
        model = of_another_maker(source, names)
        pairing = pair_models(load(source), load(model))
        assert pairing.outputs == pairs
    assert any(
        "vector" in line for line in pair_models(load(source), load(of_another_maker(source, [HIDDEN, "vector"]))).left_out
    )


def test_nothing_in_common_is_not_checked() -> None:
    """Said with the names, and never PASSED."""
    source = tiny_encoder()
    other_width = of_another_maker(tiny_encoder(hidden=6), ["tokens"])
    sizes = tiny_encoder(dims=(2, 5)), tiny_encoder(dims=(3, 5))
    no_input = tiny_encoder(names={IDS: "picture"})
    no_input.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    for model, against, said in (
        (other_width, source, "same shape"), (sizes[0], sizes[1], "only batches of 2 texts"),
        (no_input, source, "no input in common"),
    ):  # fmt: skip
        report = graphsurgery.verify(model, against=against, outputs=True)
        assert report.verdict is NOT_CHECKED and said in report.checks[0].detail, report.checks[0].detail
    wide = graphsurgery.verify(tiny_encoder(hidden=6), against=source, outputs=True)
    assert wide.verdict is FAILED and "6 wide" in wide.checks[0].detail


def test_long_lists_of_names_are_cut_and_said_once() -> None:
    """A decoder gives the keys and values of every layer: 40 names are no report."""
    source = tiny_encoder()
    for number in range(40):
        name = f"present.{number}"
        source.graph.node.append(helper.make_node("Identity", [HIDDEN], [name]))
        source.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "sequence", 8]))
    model = tiny_encoder()
    for report in (graphsurgery.verify(model, against=source), graphsurgery.verify(source, against=model)):
        assert sum("present." in line for line in report.not_checked) == 1 and "and 35 more" in remarks(report)
    untouched = graphsurgery.verify(of_another_maker(source, [HIDDEN]), against=source)
    assert all(check.detail.count("present.") <= 5 for check in untouched.checks)


def test_the_command_line_passes_it_on(pooled: Path, tmp_path: Path) -> None:
    onnx.save(of_another_maker(onnx.load(pooled), ["vector"]), tmp_path / "made.onnx")
    run = CliRunner().invoke(cli, ["verify", str(tmp_path / "made.onnx"), "--against", str(pooled), "--outputs", "--json"])
    assert run.exit_code == 0 and json.loads(run.stdout)["report"]["verdict"] == "PASSED"
    refused = CliRunner().invoke(cli, ["verify", str(pooled), "--self", "--outputs"], standalone_mode=False)
    assert isinstance(refused.exception, RequestError) or refused.exit_code
