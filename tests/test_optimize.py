"""optimize, through the command line and the library: what it makes is right, and what it says of it is true."""

from __future__ import annotations

import functools
import itertools
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import module_folders
import numpy as np
import onnx
import onnxruntime
import pytest
from baked_folders import tree, write_folder
from branches import WEIGHT, with_branches
from conftest import FIXTURES, fixture_names
from fusions import EVERY_MODE, require_optimizer, with_head

import graphsurgery
from graphsurgery import (
    AddDense,
    AddNormalize,
    AddPooling,
    DropInput,
    FixDim,
    InputType,
    OptionalInput,
    OutputPrecision,
    Rename,
    Truncate,
    runner,
)
from graphsurgery.cli.main import OK, VERDICT, WRONG, run
from graphsurgery.edits.edit import Edit
from graphsurgery.encoder.head import read_head_steps
from graphsurgery.errors import NothingToOptimizeError, RequestError, VerificationFailed
from graphsurgery.graph import write_back
from graphsurgery.graph.schemas import count_vendor_operators
from graphsurgery.graph.write_back import load_for_rewrite
from graphsurgery.model.certificate import read_certificate
from graphsurgery.model.provenance import EXTERNALIZE, list_undoable_steps
from graphsurgery.proof.source_feeds import make_feed_generator
from graphsurgery.report import Verdict
from graphsurgery.rewrites import fuse_encoder
from graphsurgery.rewrites.fuse.adjustments import count_without_kernel, restore_position_bias
from graphsurgery.rewrites.fuse.runner import Fusing, has_own_bytes, run_optimizer
from graphsurgery.rewrites.fuse_encoder import FusedGraph, fuse_graph
from graphsurgery.rewrites.half.convert import to_half
from graphsurgery.runtime.own_process import find_crash
from graphsurgery.runtime.session import Session

require_optimizer()

HALF = "bert-fp16"
ONNXRUNTIME = tuple(map(int, onnxruntime.__version__.split(".")[:2]))
EXACT = [name for name in fixture_names() if name != HALF]
ATTENTIONS = {
    "bert": (3, 3), "bert-external": (2, 2), "modernbert": (3, 3), "qwen3": (2, 2), "t5": (3, 3), "xlmr": (2, 2),
    "bert-dynamo": (2, 2), "modernbert-dynamo": (3, 3), "qwen3-dynamo": (2, 2),
}  # fmt: skip
"""(fused, expected) attentions of each fixture."""


def fixture(name: str) -> Path:
    return FIXTURES / name / "model.onnx"


def command(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    """The command line in this process, with --json."""
    capsys.readouterr()
    code = run([*map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def operators(model: graphsurgery.Model) -> Counter[str]:
    """The vendor's operators in a model, and norms that the optimizer made."""
    return Counter(node.op_type for node in model.proto.graph.node if node.domain == "com.microsoft")


def optimized(source: object, output: Path, **options: Any) -> graphsurgery.Optimized:
    return graphsurgery.optimize(source, output=output, time=False, **options)


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], graphsurgery.Optimized]:
    """Optimizes a fixture, the encoder alone, once for all tests that compare with it."""
    folder = tmp_path_factory.mktemp("bare")
    return functools.cache(lambda name: optimized(fixture(name), folder / f"{name}.onnx"))


# --- what it makes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXACT)
def test_a_head_changes_nothing_about_the_fusions(name: str, tmp_path: Path, bare) -> None:
    """As many as in the encoder alone; proven on every kind of padding; taken off, it leaves the optimized encoder."""
    alone = bare(name)
    pooled = optimized(with_head(fixture(name), tmp_path, EVERY_MODE, normalize=True), tmp_path / "pooled.onnx")
    for done in (alone, pooled):
        assert done.saved and done.report, done.report
        assert done.fusions is not None and done.fusions.counts["attention"] == ATTENTIONS[name]
        kinds = {one.kind for check in done.report.checks for one in check.comparisons}
        assert {"left padding", "holes", "empty row"} <= kinds
    assert alone.report is not None and "real text" in {one.kind for check in alone.report.checks for one in check.comparisons}
    written = graphsurgery.load(tmp_path / "pooled.onnx")
    assert operators(written) == operators(graphsurgery.load(alone.output))
    assert pooled.fusions is not None and alone.fusions is not None and pooled.fusions.counts == alone.fusions.counts
    assert operators(graphsurgery.strip_head(written)) == operators(written)
    assert [value.name for value in graphsurgery.strip_head(written).interface.outputs] == ["last_hidden_state"]
    assert graphsurgery.verify(tmp_path / "pooled.onnx", against=tmp_path / f"{EVERY_MODE.replace(',', '-')}-normalized.onnx")


@pytest.mark.parametrize("name", ["bert", "bert-external", "t5"])
def test_the_head_is_there_to_the_byte(name: str, tmp_path: Path) -> None:
    source = with_head(fixture(name), tmp_path, "mean", normalize=True)
    done = optimized(source, tmp_path / "made.onnx")
    before, after = (
        [node for node in graphsurgery.load(path).proto.graph.node if node.name.startswith("graphsurgery/")]
        for path in (source, done.output)
    )
    assert before and before == after


def test_external_data_stay_where_they_are(fixture_copy, tmp_path: Path) -> None:
    source = fixture_copy("bert-external")
    before = tree(source.parent)
    done = optimized(source, source.parent / "made.onnx")
    after = tree(source.parent)
    assert {name: after[name] for name in before} == before
    new = set(after) - set(before)
    assert new == {"made.onnx"} and done.saved is not None and done.saved.data is None
    elsewhere = optimized(source, tmp_path / "made.onnx")
    assert elsewhere.report and elsewhere.saved is not None and elsewhere.saved.data is not None


@pytest.mark.parametrize("large", [False, True])
def test_weights_that_only_a_branch_reads(large: bool, tmp_path: Path, monkeypatch) -> None:
    """A large model goes to the optimizer without most of its weights. One that is read within an If alone is put back, too."""
    turn = np.eye(32, dtype=np.float32)[::-1].copy()
    value = "/embeddings/LayerNorm/LayerNormalization_output_0"
    source = tmp_path / "source.onnx"
    onnx.save(with_branches(fixture("bert"), value, "own", turn), source)
    if large:
        given = load_for_rewrite(graphsurgery.load(source), largest=0, small=1024)
        assert not all(has_own_bytes(tensor) for tensor in given.graph.initializer if tensor.name == WEIGHT)
        made = run_optimizer(given, Fusing("bert")).model
        assert WEIGHT in {tensor.name for tensor in made.graph.initializer}
        monkeypatch.setattr(fuse_encoder, "load_for_rewrite", lambda model, *_: load_for_rewrite(model, largest=0, small=1024))
    done = optimized(source, tmp_path / "made.onnx")
    assert done.saved and done.report, done.report
    written = graphsurgery.load(done.output)
    assert np.array_equal(written.values(written.initializers[WEIGHT]), turn)
    assert done.fusions is not None and done.fusions.counts["attention"] == ATTENTIONS["bert"]


@pytest.mark.parametrize("name", ["bert", "xlmr", "bert-external", "t5"])
@pytest.mark.parametrize("table", [256 << 20, 0])
def test_large_models_give_the_optimizer_what_it_reads_alone(name: str, table: int, tmp_path: Path, monkeypatch, bare) -> None:
    """Matrices of queries, keys and values, small tensors, and embedding tables up to a size. The same fuses, but for the norm
    of embeddings whose table is larger."""
    whole = bare(name)
    monkeypatch.setattr(write_back, "LARGEST_TABLE", table)
    given = load_for_rewrite(graphsurgery.load(fixture(name)), largest=0, small=1024)
    assert any(not has_own_bytes(tensor) for tensor in given.graph.initializer)
    monkeypatch.setattr(fuse_encoder, "load_for_rewrite", lambda model, *_: load_for_rewrite(model, largest=0, small=1024))
    part = optimized(fixture(name), tmp_path / "part.onnx")
    assert part.report and part.fusions is not None and whole.fusions is not None
    if table:
        assert part.fusions.counts == whole.fusions.counts
    else:
        assert {**part.fusions.counts, "embedding norm": 0} == {**whole.fusions.counts, "embedding norm": 0}
        missed = [reason for _, kind, reason in part.fusions.misses() if kind == "embedding norm"]
        assert all("not given to the optimizer" in reason for reason in missed) and (missed or name == "t5")
    source, made = graphsurgery.load(fixture(name)), graphsurgery.load(part.output)
    kept = set(source.initializers) & set(made.initializers)
    assert kept and all(
        np.array_equal(source.values(source.initializers[one]), made.values(made.initializers[one])) for one in kept
    )


CHAINS: dict[str, list[Edit]] = {
    "renamed before": [Rename(("input_ids=ids", "last_hidden_state=hidden")), AddPooling("mean")],
    "renamed after": [AddPooling("mean"), Rename(("sentence_embedding=embedding",))],
    "an input less": [DropInput("token_type_ids"), AddPooling("cls", normalize=True)],
    "a fixed batch": [FixDim(("batch_size=2",)), AddPooling("max")],
    "a prompt's length as input": [AddPooling("mean", skip_prompt="input")],
    "the hidden state kept": [AddPooling("lasttoken", keep_output=("last_hidden_state",))],
    "dense, cut, bits": [
        AddPooling("mean"), AddDense(module_folders.dense(16, 32), "tanh"), AddNormalize(), Truncate("8,12"),
        OutputPrecision("ubinary", target="sentence_embedding_8"),
    ],
    "types after": [AddPooling("mean", normalize=True), InputType("int32")],
    "types between": [AddPooling("mean", normalize=True), InputType("int32"), Truncate("8")],
    "inputs renamed between": [
        AddPooling("mean"), Rename(("input_ids=ids", "attention_mask=mask", "sentence_embedding=vector")),
        AddNormalize("vector"),
    ],
    "the interface all over": [
        AddPooling("mean", keep_output=("last_hidden_state",)), DropInput("token_type_ids"),
        Rename(("last_hidden_state=tokens",)), FixDim(("batch_size=2",)),
    ],
    "bytes alone": [AddPooling("mean", normalize=True), OutputPrecision("int8", module_folders.ranges(32))],
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
def test_chains_of_edits(name: str, tmp_path: Path, capsys) -> None:
    """Every edit of a head is recorded anew, what came before is the encoder's; all of it fuses."""
    graphsurgery.run(CHAINS[name], fixture("bert"), output=tmp_path / "source.onnx", verify=False)
    done = optimized(tmp_path / "source.onnx", tmp_path / "made.onnx")
    assert done.report and not done.attempts and done.fusions is not None and done.fusions.complete
    made, source = graphsurgery.load(done.output), graphsurgery.load(tmp_path / "source.onnx")
    assert made.interface == source.interface
    head = [step.edit for step in read_head_steps(made)]
    assert head == [edit.verb for edit in CHAINS[name]][-len(head) :] and head
    hidden = "hidden" if name == "renamed before" else "last_hidden_state"
    assert [value.name for value in graphsurgery.strip_head(made).interface.outputs] == [hidden]
    if name != "bytes alone":
        assert graphsurgery.verify(made, against=source)


def test_a_head_that_cannot_be_taken_off(tmp_path: Path) -> None:
    """An edit after it changed the encoder in a way that cannot be told anew. The graph still fuses; what is lost is told."""
    steps = [AddPooling("mean", normalize=True), OptionalInput("token_type_ids")]
    graphsurgery.run(steps, fixture("bert"), output=tmp_path / "source.onnx", verify=False)
    done = optimized(tmp_path / "source.onnx", tmp_path / "made.onnx")
    assert done.report and done.fusions is not None and done.fusions.counts["attention"] == (3, 3)
    assert [note for note in done.warnings if "is lost" in note and "add-pooling, optional-input" in note]
    assert not read_head_steps(graphsurgery.load(done.output))


def test_a_record_that_does_not_fit_is_no_obstacle(tmp_path: Path) -> None:
    """Another program changed the pooled file since: what it records is told to be lost, the graph is optimized as it is."""
    source = onnx.load(with_head(fixture("bert"), tmp_path, "mean", normalize=True))
    next(node for node in source.graph.node if node.op_type == "MatMul").name = "changed"
    done = optimized(source, tmp_path / "made.onnx")
    assert done.report and done.fusions is not None and done.fusions.complete
    assert any("add-pooling cannot be taken off" in note for note in done.warnings)
    assert not read_head_steps(graphsurgery.load(done.output))


def test_weights_that_were_moved_out_stay_there(tmp_path: Path, monkeypatch) -> None:
    """A head on a file that was too large for protobuf, so that its weights were moved into external data."""
    monkeypatch.setattr(runner, "LARGEST_PROTOBUF", runner.ROOM + 50_000)
    graphsurgery.run([AddPooling("mean", normalize=True)], fixture("xlmr"), output=tmp_path / "large.onnx")
    assert any(step.edit == EXTERNALIZE for step in list_undoable_steps(graphsurgery.load(tmp_path / "large.onnx").proto))
    done = optimized(tmp_path / "large.onnx", tmp_path / "made.onnx")
    assert done.report and [step.edit for step in read_head_steps(graphsurgery.load(done.output))] == ["add-pooling"]
    assert not any("lost" in note for note in done.warnings)
    graphsurgery.run([graphsurgery.StripHead()], done.output, output=tmp_path / "encoder.onnx")
    assert Session(tmp_path / "encoder.onnx")


# --- where the bare optimizer goes wrong -----------------------------------------------------------------------------------


def test_left_padding(tmp_path: Path) -> None:
    """The bare optimizer takes a mask for the length of a text: wrong wherever padding stands on the left, in silence."""
    from onnxruntime.transformers.optimizer import optimize_model

    source = graphsurgery.load(fixture("bert"))
    bare = Session(optimize_model(str(fixture("bert")), "bert", opt_level=0).model.SerializeToString())
    ours = Session(optimized(source, tmp_path / "made.onnx").output)
    generator = make_feed_generator(source)
    worst: dict[str, dict[str, float]] = {"right padding": {}, "left padding": {}, "holes": {}}
    for kind, masks in generator.generate_masks():
        if kind in worst:
            feed = generator.generate(masks[0], seed=0)
            wanted = Session(fixture("bert")).run(feed, ["last_hidden_state"])["last_hidden_state"][masks[0]]
            for name, session in (("bare", bare), ("ours", ours)):
                found = session.run(feed, ["last_hidden_state"])["last_hidden_state"][masks[0]]
                worst[kind][name] = float(np.abs(found - wanted).max())
    assert worst["right padding"]["bare"] < 1e-5
    assert worst["left padding"]["bare"] > 0.1 and worst["holes"]["bare"] > 0.1
    assert all(one["ours"] < 2e-5 for one in worst.values())


def test_the_position_bias_of_t5(tmp_path: Path) -> None:
    """The bare optimizer makes an operator of it that the CPU has no kernel for, and attentions without a bias, on which ONNX
    Runtime crashes before 1.32."""
    source = graphsurgery.load(fixture("t5"))
    given = load_for_rewrite(source)
    bare = run_optimizer(given, Fusing("t5")).model
    assert count_without_kernel(bare, "cpu") == {"RelativePositionBias": 1} == count_without_kernel(bare, "cuda")
    with pytest.raises(graphsurgery.GraphSurgeryError, match="RelativePositionBias"):
        Session(bare.SerializeToString())
    onnx.save(restore_position_bias(bare, given), tmp_path / "without_biases.onnx")
    generator = make_feed_generator(source)
    feed = generator.generate(np.ones((2, 5), bool), seed=0)
    assert ("crashed" in str(find_crash(tmp_path / "without_biases.onnx", [feed]))) == (ONNXRUNTIME < (1, 32))
    done = optimized(source, tmp_path / "made.onnx")
    assert done.report and done.fusions is not None and done.fusions.counts["attention"] == (3, 3)
    assert any("RelativePositionBias was undone" in note for note in done.notes)
    assert find_crash(done.output, [feed]) is None
    attentions = [node for node in graphsurgery.load(done.output).proto.graph.node if node.op_type == "Attention"]
    assert len(attentions) == 3 and all(node.input[2] for node in attentions)


def test_layer_norms_without_a_bias(tmp_path: Path) -> None:
    """PyTorch writes ModernBERT's norms with two inputs. The bare optimizer fails on them."""
    source = onnx.load(fixture("bert"))
    norms = [node for node in source.graph.node if node.op_type == "LayerNormalization"]
    for node in norms:
        del node.input[2:]
    with pytest.raises(graphsurgery.GraphSurgeryError, match="IndexError"):
        run_optimizer(source, Fusing())
    done = optimized(source, tmp_path / "made.onnx")
    assert done.report and not done.attempts
    assert done.fusions is not None and done.fusions.complete and done.fusions.counts["skip norm"] == (6, 6) and len(norms) == 7


def blind(given: onnx.ModelProto, fusing: Fusing, target: str) -> FusedGraph:
    """As `fuse_graph`, but attentions see no mask."""
    made = fuse_graph(given, fusing, target)
    for node in made.graph.graph.node:
        if node.op_type == "Attention":
            node.input[3] = ""
    return made


def test_a_wrong_graph_is_made_again_with_safer_options(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(fuse_encoder, "fuse_graph", blind)
    done = optimized(with_head(fixture("bert"), tmp_path, "mean", normalize=False), tmp_path / "made.onnx")
    assert done.report and done.saved
    assert len(done.attempts) == 1 and "apart in" in done.attempts[0], done.attempts
    assert done.fusions is not None and done.fusions.counts["attention"] == (0, 3)
    assert any("switched off" in reason for _, kind, reason in done.fusions.misses() if kind == "attention")
    recorded = json.loads(graphsurgery.load(done.output).proto.metadata_props[0].value)
    assert recorded["edit"] == "optimize" and recorded["parameters"]["off"] == ["attention"]
    assert run(["optimize", str(fixture("bert")), "-o", str(tmp_path / "again.onnx"), "--no-timing", "-v"]) == OK
    shown = capsys.readouterr().out
    assert "not used: bert, all fusions" in shown and "attention 0/3" in shown


def test_what_stays_wrong_is_not_written(tmp_path: Path, monkeypatch, capsys) -> None:
    def wrong(given: onnx.ModelProto, fusing: Fusing, target: str) -> FusedGraph:
        made = fuse_graph(given, fusing, target)
        made.graph.graph.initializer[0].raw_data = bytes(len(made.graph.graph.initializer[0].raw_data))
        return made

    list_fallbacks = fuse_encoder.list_fallbacks
    monkeypatch.setattr(fuse_encoder, "fuse_graph", wrong)
    monkeypatch.setattr(fuse_encoder, "list_fallbacks", lambda fusing: itertools.islice(list_fallbacks(fusing), 2))
    before = tree(tmp_path)
    code, told = command("optimize", fixture("bert"), "-o", tmp_path / "made.onnx", capsys=capsys)
    assert (code, told["error"]["type"]) == (VERDICT, "VerificationFailed") and tree(tmp_path) == before
    assert "bert, all fusions" in told["error"]["advice"]
    with pytest.raises(VerificationFailed) as caught:
        optimized(fixture("bert"), tmp_path / "made.onnx")
    assert isinstance(caught.value.outcome, graphsurgery.Optimized) and caught.value.outcome.saved is None
    code, told = command("optimize", fixture("bert"), "-o", tmp_path / "made.onnx", "--keep-failed", capsys=capsys)
    assert code == VERDICT and "it was kept as" in told["error"]["message"] and (tmp_path / "made.onnx").exists()
    with pytest.raises(VerificationFailed) as caught:
        optimized(fixture("bert"), tmp_path / "kept.onnx", keep_failed=True)
    done = caught.value.outcome
    assert done.saved and done.report.verdict is Verdict.FAILED and (tmp_path / "kept.onnx").exists()


# --- half precision, standard operators ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXACT)
def test_float16(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The body computes in float16, the head and what goes in and out in float32; two engines say what is lost."""
    if name == "t5":
        request.getfixturevalue("medium_texts")
    source = with_head(fixture(name), tmp_path, "mean", normalize=True)
    done = optimized(source, tmp_path / "half.onnx", fp16=True)
    assert done.report and done.loss is not None and done.loss["min_cosine"] > 0.999
    engines = {one["engine"]: one["loss"] for one in done.loss["opinions"]}
    assert set(engines) == {"ONNX Runtime", "onnx's reference"} and all(one["vectors"] > 0 for one in engines.values())
    assert all(one["max_abs_diff"] > 0 for one in engines.values()), "float16 that loses nothing is none"
    written = graphsurgery.load(done.output)
    assert [value.dtype for value in written.interface.outputs] == [onnx.TensorProto.FLOAT]
    halves = sum(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in written.initializers.values())
    assert halves > len(written.initializers) / 2
    whole = optimized(source, tmp_path / "whole.onnx")
    assert done.fusions is not None and whole.fusions is not None and done.fusions.counts == whole.fusions.counts
    assert graphsurgery.verify(done.output, against=source), "held to an angle"
    assert not graphsurgery.verify(done.output, against=source, atol=1e-5)
    assert written.weight_bytes < 0.8 * graphsurgery.load(whole.output).weight_bytes


def overflowing(tmp_path: Path) -> Path:
    """BERT with an activation of some 1e5 inside, of factors each of which float16 can hold."""
    proto = onnx.load(fixture("bert"))
    norm = next(node for node in proto.graph.node if node.op_type == "LayerNormalization")
    values = ["x0", "x1", "large", "x3", norm.output[0]]
    norm.output[0] = values[0]
    for before, after, factor in zip(values, values[1:], (256.0, 512.0, 1 / 256, 1 / 512), strict=False):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(factor, np.float32), f"{after}/factor"))
        proto.graph.node.append(onnx.helper.make_node("Mul", [before, f"{after}/factor"], [after]))
    nodes = list(proto.graph.node)
    place = nodes.index(norm) + 1
    nodes[place:place] = nodes[-4:]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes[:-4])
    onnx.save(proto, tmp_path / "overflowing.onnx")
    return tmp_path / "overflowing.onnx"


def test_what_overflows_in_float16_stays_float32(tmp_path: Path, monkeypatch) -> None:
    source = overflowing(tmp_path)
    done = optimized(source, tmp_path / "half.onnx", fp16=True)
    assert done.report and done.loss is not None and "large" in done.loss["nodes"], done.loss
    monkeypatch.setattr("graphsurgery.rewrites.convert_to_half.to_half", lambda graph, kind, *_: to_half(graph, kind))
    with pytest.raises(VerificationFailed):
        optimized(source, tmp_path / "wrong.onnx", fp16=True)
    assert not (tmp_path / "wrong.onnx").exists()


def test_bfloat16(tmp_path: Path) -> None:
    """ONNX Runtime's CPU cannot run it: the reference evaluator judges, and the report says what was not checked."""
    done = optimized(with_head(fixture("bert"), tmp_path, "mean", normalize=True), tmp_path / "half.onnx", bf16=True)
    assert done.report and any("no kernels for bfloat16" in line for line in done.report.not_checked)
    assert [check.name for check in done.report.checks] == ["same interface", "head untouched", "second opinion"]
    assert done.loss is not None and 0.999 < done.loss["min_cosine"] < 1


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_second_reference_measures_every_output(precision: str, tmp_path: Path) -> None:
    """In bfloat16 nothing else does. A fault that is planted at one output alone is found."""
    source = with_head(fixture("bert"), tmp_path, "mean", normalize=True, keep_output=["last_hidden_state"])
    done = optimized(source, tmp_path / "half.onnx", **{precision: True})
    outputs = {"sentence_embedding", "last_hidden_state"}
    assert done.report and done.loss is not None
    second = [one for one in done.loss["opinions"] if one["engine"] == "onnx's reference"]
    assert {one["output"] for one in second} == outputs and all(one["loss"]["max_abs_diff"] > 0 for one in second)
    check = next(check for check in done.report.checks if check.name == "second opinion")
    assert {one.kind for one in check.comparisons} == {f"first rows of {name}" for name in outputs}
    assert not any("second opinion" in line or "of last_hidden_state" in line for line in done.report.not_checked)
    wrong = onnx.load(tmp_path / "half.onnx")
    for name in outputs:
        copy = onnx.ModelProto.FromString(wrong.SerializeToString())
        maker = next(node for node in copy.graph.node if name in node.output)
        maker.output[:] = [f"{one}/right" if one == name else one for one in maker.output]
        for node in copy.graph.node:
            node.input[:] = [f"{one}/right" if one == name else one for one in node.input]
        copy.graph.node.append(onnx.helper.make_node("Neg", [f"{name}/right"], [name]))
        assert graphsurgery.verify(copy, against=source).verdict is Verdict.FAILED, name


def test_an_output_that_the_second_reference_cannot_measure_is_told(tmp_path: Path) -> None:
    """An output that is not a number in the source either. The other one is measured."""
    proto = onnx.load(with_head(fixture("bert"), tmp_path, "mean", normalize=True, keep_output=["last_hidden_state"]))
    proto.graph.node.append(onnx.helper.make_node("Sub", ["last_hidden_state", "last_hidden_state"], ["nought"]))
    proto.graph.node.append(onnx.helper.make_node("Div", ["nought", "nought"], ["broken"]))
    proto.graph.output.append(onnx.helper.make_tensor_value_info("broken", onnx.TensorProto.FLOAT, ["batch", "seq", 32]))
    onnx.save(proto, tmp_path / "broken.onnx")
    done = optimized(tmp_path / "broken.onnx", tmp_path / "half.onnx", bf16=True)
    assert done.report and done.loss is not None and done.loss["min_cosine"] > 0.99
    assert "second opinion: of broken: there is nothing to compare" in done.report.not_checked, done.report.not_checked


def test_an_encoder_in_half_precision(tmp_path: Path) -> None:
    done = optimized(fixture(HALF), tmp_path / "made.onnx")
    assert done.report and done.fusions is not None and done.fusions.counts["attention"] == (2, 2)
    with pytest.raises(RequestError, match="float16 already"):
        optimized(fixture(HALF), tmp_path / "half.onnx", fp16=True)


@pytest.mark.parametrize("name", EXACT)
def test_portable(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """No vendor's operators, fewer nodes, the same vectors; the second time there is nothing left to do."""
    if name == "modernbert":
        request.getfixturevalue("medium_texts")
    source = with_head(fixture(name), tmp_path, EVERY_MODE, normalize=True)
    done = optimized(source, tmp_path / "portable.onnx", portable=True)
    assert done.report and done.fusions is None
    written = graphsurgery.load(done.output)
    assert not count_vendor_operators(written.to_proto())
    most = 1.0 if name.endswith("-dynamo") else 0.9  # that exporter simplifies its graphs itself
    assert len(written.proto.graph.node) < most * len(graphsurgery.load(source).proto.graph.node)
    with pytest.raises(NothingToOptimizeError):
        optimized(done.output, tmp_path / "again.onnx", portable=True)
    fused_after = optimized(done.output, tmp_path / "fused.onnx")
    assert fused_after.report and fused_after.fusions is not None
    assert fused_after.fusions.counts["attention"] == ATTENTIONS[name]
    with pytest.raises(RequestError, match="one vendor"):
        optimized(fused_after.output, tmp_path / "never.onnx", portable=True)


# --- what it says ------------------------------------------------------------------------------------------------------------


def test_strict(tmp_path: Path, capsys) -> None:
    output, model = tmp_path / "made.onnx", onnx.load(fixture("bert"))
    weights = next(node.output[0] for node in model.graph.node if node.op_type == "Softmax")
    model.graph.output.append(onnx.helper.make_tensor_value_info(weights, onnx.TensorProto.FLOAT, ["b", 4, "s", "t"]))
    onnx.save(model, tmp_path / "shown.onnx")
    code, told = command("optimize", tmp_path / "shown.onnx", "--strict", "--no-timing", "-o", output, capsys=capsys)
    assert (code, told["error"]["type"]) == (VERDICT, "VerificationFailed") and not output.exists()
    assert "attention 0/3" in told["error"]["message"] and "skip norm 6/6" in told["error"]["message"]
    fusions = told["outcome"]["fusions"]
    assert not fusions["complete"] and "attention" in {one["kind"] for one in fusions["fusions"] if one["why_not"]}
    assert command("optimize", fixture("bert"), "--strict", "--no-timing", "-o", output, capsys=capsys)[0] == OK


def test_an_optimized_file_is_optimized_already(tmp_path: Path, capsys) -> None:
    optimized(with_head(fixture("bert"), tmp_path, "cls", normalize=True), tmp_path / "made.onnx")
    with pytest.raises(NothingToOptimizeError, match="optimized already"):
        optimized(tmp_path / "made.onnx", tmp_path / "again.onnx")
    code, told = command("optimize", tmp_path / "made.onnx", capsys=capsys)
    assert (code, told["error"]["type"]) == (WRONG, "NothingToOptimizeError")
    told = command("inspect", tmp_path / "made.onnx", capsys=capsys)[1]
    assert told["optimized"]["for"] == "cpu" and [step["edit"] for step in told["head"]] == ["add-pooling"]


def test_the_command_line_and_the_library_make_the_same(tmp_path: Path, capsys) -> None:
    source = with_head(fixture("xlmr"), tmp_path, "cls", normalize=True)
    code, told = command("optimize", source, capsys=capsys)
    assert code == OK and told["output"] == str(source.with_name("cls-normalized.optimized.onnx"))
    assert told["architecture"]["heads"] == 4 and told["report"]["verdict"] == "PASSED"
    assert {"texts", "tokens", "before_ms", "after_ms", "ratio"} <= set(told["timings"]["shapes"][0])
    done = optimized(source, tmp_path / "library.onnx")
    assert done.output.read_bytes() == Path(told["output"]).read_bytes()


def test_a_dry_run_and_a_quiet_one(tmp_path: Path, capsys) -> None:
    before = tree(tmp_path)
    code, told = command("optimize", fixture("bert"), "-o", tmp_path / "made.onnx", "--dry-run", capsys=capsys)
    assert code == OK and told["output"] is None and told["report"]["verdict"] == "PASSED" and tree(tmp_path) == before
    capsys.readouterr()
    assert run(["optimize", str(fixture("bert")), "-o", str(tmp_path / "made.onnx"), "--quiet", "--no-timing"]) == OK
    assert capsys.readouterr() == ("", "")
    assert run(["optimize", str(fixture("bert")), "-o", str(tmp_path / "made.onnx"), "--json"]) == WRONG


def test_goldens_and_certificate_go_with_it(tmp_path: Path, capsys) -> None:
    folder = write_folder(tmp_path / "model")
    (folder / "onnx" / "model.onnx").write_bytes(fixture("xlmr").read_bytes())
    (folder / "1_Pooling" / "config.json").unlink()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}', encoding="utf-8")
    graphsurgery.bake(folder, tmp_path / "baked")
    baked = tmp_path / "baked" / "onnx" / "model.onnx"
    done = optimized(baked, tmp_path / "made.onnx")
    assert done.report and {"golden vectors", "file unchanged"} <= {check.name for check in done.report.checks}
    assert command("verify", done.output, "--self", capsys=capsys)[0] == OK
    of_baked, of_made = (read_certificate(graphsurgery.load(path)) for path in (baked, done.output))
    assert of_baked is not None and of_made is not None and of_made.sources == of_baked.sources
    assert "same outputs" in of_made.checks


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "tpu"}, "no target 'tpu'"), ({"heads": 4}, "together"), ({"heads": 5, "hidden_size": 32}, "do not divide"),
        ({"model_type": "elephant"}, "no model type 'elephant'"),
        ({"portable": True, "target": "cuda"}, "makes none"), ({"portable": True, "model_type": "t5"}, "makes none"),
        ({"rehead": True}, "a head can be replaced"), ({"fp16": True, "bf16": True}, "both float16 and bfloat16 were"),
    ],
)  # fmt: skip
def test_wrong_requests(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=message):
        optimized(fixture("bert"), tmp_path / "made.onnx", **options)
    assert not (tmp_path / "made.onnx").exists()


def test_a_model_without_a_transformer(tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[a] x) => (float[a] y) { y = Abs(x) }'
    with pytest.raises(NothingToOptimizeError):
        optimized(onnx.parser.parse_model(text), tmp_path / "made.onnx")


def test_values_that_the_user_gives_reach_the_optimizer(tmp_path: Path, monkeypatch) -> None:
    seen: list[Fusing] = []

    def watched(given: onnx.ModelProto, fusing: Fusing, target: str) -> FusedGraph:
        seen.append(fusing)
        return fuse_graph(given, fusing, target)

    monkeypatch.setattr(fuse_encoder, "fuse_graph", watched)
    optimized(fixture("bert"), tmp_path / "made.onnx", heads=4, hidden_size=32, model_type="vit")
    assert seen == [replace(Fusing(), model_type="vit", heads=4, hidden=32)]


@pytest.mark.parametrize("name", ["bert", "bert-external"])
def test_half_precision_of_a_large_model(name: str, tmp_path: Path, monkeypatch) -> None:
    """The optimizer gets what it reads; the other weights are read for the conversion. The same comes out."""
    whole = optimized(fixture(name), tmp_path / "whole.onnx", fp16=True)
    monkeypatch.setattr(fuse_encoder, "load_for_rewrite", lambda model, *_: load_for_rewrite(model, largest=0, small=1024))
    part = optimized(fixture(name), tmp_path / "part.onnx", fp16=True)
    assert part.report and whole.report and part.fusions is not None and whole.fusions is not None
    assert part.fusions.counts == whole.fusions.counts and part.loss == whole.loss
    one, other = (graphsurgery.load(done.output).to_proto().graph for done in (part, whole))
    assert list(one.node) == list(other.node)
    weights = [{tensor.name: tensor.SerializeToString() for tensor in graph.initializer} for graph in (one, other)]
    assert weights[0] == weights[1]
