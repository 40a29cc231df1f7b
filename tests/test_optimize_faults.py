"""Faults planted in what `optimize` makes: each is found, tried again where that can help, and never left as a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from baked_folders import tree
from conftest import FIXTURES
from encoders import tiny_encoder
from fusion_plants import mapped_embeddings
from fusions import require_optimizer, with_head
from onnx import TensorProto, helper, numpy_helper

import graphsurgery
from graphsurgery.cli.main import VERDICT, WRONG, run
from graphsurgery.errors import NothingToOptimizeError, RequestError, UnsupportedModelError, VerificationFailed
from graphsurgery.graph.operators import EMBEDDING_NORM
from graphsurgery.optimizer import search
from graphsurgery.proof import rewrite_proof, same_outputs
from graphsurgery.report import Verdict
from graphsurgery.rewrites import convert_to_half, fuse_encoder
from graphsurgery.rewrites.apply import Applied, apply_rewrite
from graphsurgery.rewrites.fuse import adjustments
from graphsurgery.rewrites.fuse.runner import SWITCHES, Fusing
from graphsurgery.rewrites.fuse_encoder import FusedGraph, fuse_graph, list_fallbacks
from graphsurgery.runtime.session import Session

require_optimizer()

BERT = FIXTURES / "bert" / "model.onnx"
Change = Callable[[onnx.ModelProto], None]


def optimized(source: object, output: Path, **options: Any) -> graphsurgery.Optimized:
    return graphsurgery.optimize(source, output=output, time=False, **options)


def planted(monkeypatch: pytest.MonkeyPatch, change: Change, when: Callable[[Fusing], bool] = lambda _: True) -> list[Fusing]:
    """Let ``change`` work on each fused graph for which ``when`` holds; gives how the optimizer was run."""
    seen: list[Fusing] = []

    def wrong(given: onnx.ModelProto, fusing: Fusing, target: str) -> FusedGraph:
        seen.append(fusing)
        made = fuse_graph(given, fusing, target)
        if when(fusing):
            change(made.graph)
        return made

    monkeypatch.setattr(fuse_encoder, "fuse_graph", wrong)
    return seen


def on_output(name: str, operator: str, value: float) -> Change:
    """``operator`` with a number on the graph's output ``name``, in the first element of the last axis alone."""

    def change(model: onnx.ModelProto) -> None:
        node = next(node for node in model.graph.node if name in node.output)
        node.output[:] = [f"{one}/right" if one == name else one for one in node.output]
        width = 32
        operand = np.full(width, 0.0 if operator == "Add" else 1.0, np.float32)
        operand[0] = value
        model.graph.initializer.append(numpy_helper.from_array(operand, f"{name}/wrong"))
        model.graph.node.append(helper.make_node(operator, [f"{name}/right", f"{name}/wrong"], [name], "planted"))

    return change


def refused(source: object, folder: Path, **options: Any) -> VerificationFailed:
    """The error of an optimization that is wrong whatever is tried; nothing is left behind."""
    before = tree(folder)
    with pytest.raises(VerificationFailed) as caught:
        optimized(source, folder / "wrong.onnx", **options)
    assert tree(folder) == before
    return caught.value


# --- the proof ------------------------------------------------------------------------------------------------------------


def test_a_small_difference_is_found(tmp_path: Path, monkeypatch) -> None:
    """1e-3 in one element of a hidden state whose elements are of size 1 to 3: a hundredth of it would be allowed."""
    planted(monkeypatch, on_output("last_hidden_state", "Add", 1e-3))
    assert "1.0e-03 apart" in refused(BERT, tmp_path).advice


def test_a_small_turn_of_a_unit_vector_is_found(tmp_path: Path, monkeypatch) -> None:
    source = with_head(BERT, tmp_path, "mean", normalize=True)
    planted(monkeypatch, on_output("last_hidden_state", "Add", 1e-4))
    report = refused(source, tmp_path).outcome.report
    assert report.worst < 3e-5, "unit vectors are held to 1e-6"


def test_each_output_is_compared(tmp_path: Path, monkeypatch) -> None:
    source = with_head(BERT, tmp_path, "cls", normalize=False, keep_output=("last_hidden_state",))
    made = graphsurgery.load(source)
    assert [value.name for value in made.interface.outputs] == ["sentence_embedding", "last_hidden_state"]

    def change(model: onnx.ModelProto) -> None:
        """The first token is right, the others are not."""
        on_output("last_hidden_state", "Add", 1.0)(model)
        model.graph.node.insert(0, helper.make_node("Shape", ["input_ids"], ["planted/shape"]))
        model.graph.initializer.append(numpy_helper.from_array(np.array(1, np.int64), "planted/one"))
        model.graph.initializer.append(numpy_helper.from_array(np.array(0, np.int64), "planted/zero"))
        model.graph.node.insert(1, helper.make_node("Gather", ["planted/shape", "planted/one"], ["planted/length"]))
        nodes = ["planted/zero", "planted/length", "planted/one"]
        model.graph.node.insert(2, helper.make_node("Range", nodes, ["planted/range"]))
        model.graph.node.insert(3, helper.make_node("Min", ["planted/range", "planted/one"], ["planted/later"]))
        model.graph.node.insert(4, helper.make_node("Cast", ["planted/later"], ["planted/float"], to=TensorProto.FLOAT))
        model.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "planted/axis"))
        model.graph.node.insert(5, helper.make_node("Unsqueeze", ["planted/float", "planted/axis"], ["planted/column"]))
        model.graph.node.insert(6, helper.make_node("Mul", ["planted/column", "last_hidden_state/wrong"], ["planted/added"]))
        model.graph.node[-1].input[1] = "planted/added"

    planted(monkeypatch, change)
    assert "apart" in refused(source, tmp_path).advice


def test_a_head_that_was_changed_is_found(tmp_path: Path, monkeypatch) -> None:
    source = with_head(BERT, tmp_path, "mean", normalize=True)

    def changed(*arguments: Any) -> Applied:
        applied = apply_rewrite(*arguments)
        proto = applied.after.to_proto()
        node = next(node for node in proto.graph.node if node.name.startswith("graphsurgery/"))
        node.doc_string = "changed"
        return replace(applied, after=replace(graphsurgery.load(proto), path=applied.after.path))

    monkeypatch.setattr(search, "apply_rewrite", changed)
    failed = {check.name for check in refused(source, tmp_path).outcome.report.checks if check.verdict is Verdict.FAILED}
    assert failed == {"head untouched"}


def test_another_interface_is_found(tmp_path: Path, monkeypatch) -> None:
    def dropped(model: onnx.ModelProto) -> None:
        """Token types as the model makes them itself: right on no feed but those without any."""
        info = next(info for info in model.graph.input if info.name == "token_type_ids")
        model.graph.input.remove(info)
        model.graph.node.insert(0, helper.make_node("Sub", ["input_ids", "input_ids"], ["token_type_ids"], "planted"))

    planted(monkeypatch, dropped)
    checks = {check.name: check.verdict for check in refused(BERT, tmp_path).outcome.report.checks}
    assert checks["same interface"] is Verdict.FAILED


def test_tolerances_do_not_grow_without_end(tmp_path: Path, monkeypatch) -> None:
    """A source that ONNX Runtime runs in two ways that are far apart: where it leaves open more than a hundred times what is
    promised, nothing is checked, however near the file is."""
    planted(monkeypatch, on_output("last_hidden_state", "Add", 0.1))
    opened = same_outputs.open_session

    def shaky(model: graphsurgery.Model, *arguments: Any, plain: bool = False, **options: Any) -> Session:
        session = opened(model, *arguments, plain=plain, **options)
        if plain:
            run_ = session.run
            monkeypatch.setattr(session, "run", lambda *given: {name: one + 1 for name, one in run_(*given).items()})
        return session

    monkeypatch.setattr(same_outputs, "open_session", shaky)
    report = refused(BERT, tmp_path).outcome.report
    (check,) = [check for check in report.checks if check.comparisons]
    assert report.verdict is check.verdict is Verdict.NOT_CHECKED and report.cases == 0
    assert all(one.too_loose for one in check.comparisons) and any("100 times" in one for one in report.not_checked)


def test_what_crashes_is_not_run_here(tmp_path: Path, monkeypatch) -> None:
    """A file that takes its process down is told of as such, and made again."""
    told = iter(["ONNX Runtime crashed on it (signal 11)"])
    monkeypatch.setattr(rewrite_proof, "find_crash", lambda *_: next(told, None))
    done = optimized(BERT, tmp_path / "made.onnx")
    assert done.report and [attempt.partition(": ")[2] for attempt in done.attempts] == [
        "ONNX Runtime crashed on it (signal 11)"
    ]
    assert done.fusions is not None and done.fusions.counts["attention"] == (0, 3)


def test_a_source_that_cannot_be_run_is_no_fault_of_a_fusion(tmp_path: Path, capsys) -> None:
    """Nothing can be held against it, however it is fused: said at once, exit code 1, nothing left."""
    source = onnx.load(BERT)
    source.graph.node.append(helper.make_node("NoSuchOperator", ["input_ids"], ["strange"], "strange", domain="com.microsoft"))
    source.graph.output.append(helper.make_tensor_value_info("strange", TensorProto.INT64, None))
    source.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(source, tmp_path / "source.onnx")
    error = refused(tmp_path / "source.onnx", tmp_path)
    assert error.outcome.report.verdict is Verdict.NOT_CHECKED and not error.outcome.attempts
    assert any("the source cannot be run" in line for line in error.outcome.report.not_checked)
    assert run(["optimize", str(tmp_path / "source.onnx")]) == VERDICT and "--no-verify" in capsys.readouterr().err


def test_what_is_not_compared_is_told(tmp_path: Path) -> None:
    source = onnx.load(BERT)
    source.graph.node.append(helper.make_node("ArgMax", ["last_hidden_state"], ["tags"], "tags", axis=-1, keepdims=0))
    source.graph.output.append(helper.make_tensor_value_info("tags", TensorProto.INT64, ["batch_size", "sequence_length"]))
    for node in source.graph.node:
        node.input[:] = ["am" if name == "attention_mask" else name for name in node.input]
    source.graph.input[1].name = "am"
    done = optimized(source, tmp_path / "made.onnx")
    assert done.report
    said = " ".join(done.report.not_checked)
    assert "tags: int64" in said and "only floats" in said and "of unknown use: am" in said


# --- attempts -------------------------------------------------------------------------------------------------------------


def test_what_is_tried_and_in_which_order() -> None:
    """Each fusion left out, the likeliest at fault first; then two of them, three, ..., all."""
    tried = [fusing.off for fusing in list_fallbacks(Fusing())]
    names = list(SWITCHES)
    assert tried[: len(names)] == [frozenset({name}) for name in names] and names[0] == "attention"
    assert tried[len(names) :] == [frozenset(names[:count]) for count in range(2, len(names) + 1)]
    assert (
        all("attention" not in fusing.off - {"gelu"} for fusing in list_fallbacks(Fusing(off=frozenset({"attention"}))))
        is False
    )
    assert len(list(list_fallbacks(Fusing(off=frozenset({"attention"}))))) == 2 * (len(names) - 1) - 1


@pytest.mark.parametrize(
    ("cure", "attempts_", "runs"),
    [({"attention"}, 1, 2), ({"skip norm"}, 3, 5), ({"attention", "embedding norm", "rotary"}, 7, 11)],
)
def test_a_cure_is_found(cure: set[str], attempts_: int, runs: int, tmp_path: Path, monkeypatch) -> None:
    change = on_output("last_hidden_state", "Mul", 1.5)
    seen = planted(monkeypatch, change, when=lambda fusing: not fusing.off >= cure)
    done = optimized(BERT, tmp_path / "made.onnx", keep_failed=True)
    assert done.report and len(done.attempts) == attempts_ and len(seen) == runs and cure <= seen[-1].off
    assert all("apart in" in attempt for attempt in done.attempts)


def test_what_cannot_be_made_is_tried_otherwise(tmp_path: Path, monkeypatch) -> None:
    def failing(given: onnx.ModelProto, fusing: Fusing, target: str) -> FusedGraph:
        if "attention" not in fusing.off:
            raise UnsupportedModelError("the transformer optimizer failed (KeyError)")
        return fuse_graph(given, fusing, target)

    monkeypatch.setattr(fuse_encoder, "fuse_graph", failing)
    done = optimized(BERT, tmp_path / "made.onnx")
    assert done.report and done.attempts == ("bert, all fusions: the transformer optimizer failed (KeyError)",)


def test_a_wrong_fusion_is_not_taken_for_an_optimized_file(tmp_path: Path, monkeypatch) -> None:
    """Where all that can be fused is wrong, that is told, and not that there is nothing to do."""
    planted(monkeypatch, on_output("last_hidden_state", "Mul", 1.5), when=lambda fusing: len(fusing.off) < len(SWITCHES))
    error = refused(BERT, tmp_path)
    assert "FAILED" in error.message and len(error.outcome.attempts) > len(SWITCHES)
    assert "tried: bert, all fusions; bert without attention; " in error.advice and error.advice.count("mixed padding") == 1


def test_strict_and_what_is_kept(tmp_path: Path, monkeypatch, capsys) -> None:
    """Where not everything fused the file is kept for a look, if asked for, and the exit code tells."""
    source, output = FIXTURES / "xlmr" / "model.onnx", tmp_path / "made.onnx"
    assert run(["optimize", str(source), "--strict", "-o", str(output)]) == VERDICT and not output.exists()
    assert run(["optimize", str(source), "--strict", "-o", str(output), "--keep-failed"]) == VERDICT and output.exists()
    assert "kept as" in capsys.readouterr().err
    assert run(["optimize", str(source), "--strict", "-o", str(output), "--dry-run", "--force"]) == VERDICT


def test_the_missed_layer_is_mended(tmp_path: Path, monkeypatch) -> None:
    """As in ALBERT: embeddings are mapped, and the first layer adds its attention as the second operand."""
    source = onnx.load(BERT)
    mapped_embeddings(source, branch_first=False)
    done = optimized(source, tmp_path / "made.onnx")
    assert done.report and done.fusions is not None and done.fusions.counts["attention"] == (3, 3)
    monkeypatch.setattr("graphsurgery.rewrites.fuse_encoder.swap_sum_operands", lambda model: model)
    bare = graphsurgery.run([graphsurgery.Fuse()], source, output=tmp_path / "bare.onnx")
    assert bare.fusions is not None and bare.fusions.counts["attention"] == (2, 3)
    assert any("second operand" in reason for _, _, reason in bare.fusions.misses())


@pytest.mark.parametrize("verify", [True, False])
def test_an_input_that_nothing_reads_stays(verify: bool, tmp_path: Path) -> None:
    source = onnx.load(BERT)
    source.graph.input.append(
        helper.make_tensor_value_info("position_ids", TensorProto.INT64, ["batch_size", "sequence_length"])
    )
    done = optimized(source, tmp_path / "made.onnx", verify=verify)
    names = ["input_ids", "attention_mask", "token_type_ids", "position_ids"]
    assert [value.name for value in graphsurgery.load(done.output).interface.inputs] == names
    assert not done.attempts and (done.report or not verify)


def test_an_input_of_any_name(tmp_path: Path) -> None:
    """`file` and `names` are words of those who store arrays, too."""
    source = onnx.load(BERT)
    for node in source.graph.node:
        node.input[:] = ["file" if name == "token_type_ids" else name for name in node.input]
    source.graph.input[2].name = "file"
    assert optimized(source, tmp_path / "made.onnx").report


def test_what_the_target_has_no_kernel_for_is_avoided(tmp_path: Path, monkeypatch) -> None:
    """That one fusion is left out, which the report tells; the other target gets it."""
    monkeypatch.setattr(adjustments, "NOT_ON_CUDA", frozenset({EMBEDDING_NORM}))
    cuda, cpu = (optimized(BERT, tmp_path / f"{target}.onnx", target=target) for target in ("cuda", "cpu"))
    made = {node.op_type for node in graphsurgery.load(cuda.output).proto.graph.node}
    assert cuda.report and "EmbedLayerNormalization" not in made and "Attention" in made
    told = "cuda has no kernel for EmbedLayerNormalization (1)"
    assert not cuda.attempts and f"{told}: left unfused" in cuda.notes and cuda.fusions is not None
    assert cuda.fusions.counts["embedding norm"] == (0, 1) and cuda.fusions.counts["attention"] == (3, 3)
    assert [(kind, told in reason) for _, kind, reason in cuda.fusions.misses()] == [("embedding norm", True)]
    assert not cpu.attempts and cpu.fusions is not None and cpu.fusions.complete


def test_negative_positions_are_taken_as_before(tmp_path: Path) -> None:
    """``cumsum(mask) - 1`` under left padding: the source takes -1, the fused operator by itself does not."""
    source = FIXTURES / "qwen3" / "model.onnx"
    done = optimized(source, tmp_path / "made.onnx")
    assert done.fusions is not None and done.fusions.counts["rotary"] == (4, 4)
    assert any("tables of 131072 rows" in note for note in done.notes)
    mask = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]], np.int64)
    feed = {
        "input_ids": np.arange(10, dtype=np.int64).reshape(2, 5) + 3, "attention_mask": mask,
        "position_ids": np.cumsum(mask, axis=1) - 1,
    }  # fmt: skip
    assert feed["position_ids"].min() == -1
    wanted, found = (Session(path).run(feed)["last_hidden_state"][mask > 0] for path in (source, done.output))
    assert np.abs(wanted - found).max() < 1e-5


@pytest.mark.parametrize("name", ["bert", "bert-external", "modernbert", "qwen3", "t5", "xlmr"])
def test_there_is_nothing_left_to_fuse(name: str, tmp_path: Path) -> None:
    optimized(FIXTURES / name / "model.onnx", tmp_path / "made.onnx")
    with pytest.raises(NothingToOptimizeError, match="fuses nothing"):
        optimized(tmp_path / "made.onnx", tmp_path / "again.onnx")


def test_what_the_optimizer_does_not_look_into(tmp_path: Path) -> None:
    """A transformer inside a function of the model's own."""
    source = onnx.load(BERT)
    inner = source.graph
    body = helper.make_function(
        "own", "Encoder", [info.name for info in inner.input] + [one.name for one in inner.initializer],
        ["last_hidden_state"], list(inner.node), list(source.opset_import),
    )  # fmt: skip
    call = helper.make_node("Encoder", list(body.input), ["last_hidden_state"], domain="own")
    graph = helper.make_graph([call], "outer", list(inner.input), list(inner.output), list(inner.initializer))
    model = helper.make_model(
        graph, functions=[body], opset_imports=[*source.opset_import, helper.make_opsetid("own", 1)], ir_version=10
    )
    with pytest.raises(NothingToOptimizeError, match="functions of its own") as caught:
        optimized(model, tmp_path / "made.onnx")
    assert "inline" in caught.value.advice


def test_heads_that_are_not_the_graphs(tmp_path: Path) -> None:
    done = optimized(BERT, tmp_path / "made.onnx", heads=8, hidden_size=64)
    assert any("8 heads and hidden size 64 were asked for" in note for note in done.warnings)
    step = graphsurgery.inspect(done.output).to_json()["optimized"]
    assert step["heads"] == 4, "what was fused, not what was asked for"


def test_progress_bars_of_the_optimizer_are_not_shown(tmp_path: Path, capfd) -> None:
    code = run(["optimize", str(BERT), "--model-type", "vae", "--quiet", "--no-timing", "-o", str(tmp_path / "made.onnx")])
    assert code in (0, WRONG) and "it/s" not in capfd.readouterr().err


# --- limits and texts -----------------------------------------------------------------------------------------------------


def test_limits_and_texts_that_are_asked_for(tmp_path: Path, capsys) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("a red car\nthe green house on the hill\n", encoding="utf-8")
    done = optimized(BERT, tmp_path / "made.onnx", texts=texts)
    counted = {one.kind: one.cases for check in done.report.checks for one in check.comparisons}
    own = {one.kind: one.cases for check in optimized(BERT, tmp_path / "own.onnx").report.checks for one in check.comparisons}
    assert counted["real text"] < own["real text"], "the given texts, and not the tool's own"
    assert optimized(BERT, tmp_path / "exact.onnx", atol=0).attempts, "nothing but what changes no bit is left"
    assert run(["optimize", str(BERT), "--min-cosine", "1.1", "-o", str(tmp_path / "never.onnx")]) == WRONG


# --- half precision -------------------------------------------------------------------------------------------------------


def scored(path: Path) -> onnx.ModelProto:
    """BERT with a score of each text, ``[batch, 1]``, as a reranker gives it."""
    model = onnx.load(path)
    weights = np.random.default_rng(0).standard_normal((32, 1)).astype(np.float32)
    model.graph.initializer.extend([
        numpy_helper.from_array(weights, "score.weight"), numpy_helper.from_array(np.array(0, np.int64), "score.first"),
    ])  # fmt: skip
    model.graph.node.extend([
        helper.make_node("Gather", ["last_hidden_state", "score.first"], ["first_token"], axis=1),
        helper.make_node("MatMul", ["first_token", "score.weight"], ["scores"]),
    ])  # fmt: skip
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch_size", 1]))
    return model


def spoiling(change: Change) -> Callable[..., onnx.ModelProto]:
    from graphsurgery.rewrites.half.convert import to_half

    def spoiled(*given: Any) -> onnx.ModelProto:
        made = to_half(*given)
        change(made)
        return made

    return spoiled


def times(factor: float, name: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        node = next(node for node in model.graph.node if name in node.output)
        node.output[:] = [f"{name}/right"]
        model.graph.initializer.append(numpy_helper.from_array(np.array(factor, np.float32), f"{name}/factor"))
        model.graph.node.append(helper.make_node("Mul", [f"{name}/right", f"{name}/factor"], [name]))

    return change


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_vectors_of_another_length_are_found(precision: str, tmp_path: Path, monkeypatch) -> None:
    """Their cosine is 1."""
    source = with_head(BERT, tmp_path, "mean", normalize=False)
    monkeypatch.setattr("graphsurgery.rewrites.convert_to_half.to_half", spoiling(times(1.5, "last_hidden_state")))
    error = refused(source, tmp_path, **{precision: True})
    assert "half precision loses too much" in error.advice and len(error.outcome.attempts) == 1


def test_scores_are_held_to_their_spread(tmp_path: Path, monkeypatch) -> None:
    """One number per text has no direction: a cosine would be its sign."""
    done = optimized(scored(BERT), tmp_path / "made.onnx", fp16=True)
    assert done.report and any(one.kind == "long, scores" for check in done.report.checks for one in check.comparisons)
    assert any("rows without a token" in line for line in done.report.not_checked)
    for factor in (0.5, 1.5, -1.0):
        monkeypatch.setattr("graphsurgery.rewrites.convert_to_half.to_half", spoiling(times(factor, "scores")))
        refused(scored(BERT), tmp_path, fp16=True)


def test_a_wrong_fusion_is_found_before_half_precision(tmp_path: Path, monkeypatch) -> None:
    """A difference that half precision could make, too: the graph is proven in float32 first."""
    seen = planted(monkeypatch, on_output("last_hidden_state", "Add", 2e-3), when=lambda fusing: "attention" not in fusing.off)
    done = optimized(with_head(BERT, tmp_path, "mean", normalize=True), tmp_path / "made.onnx", fp16=True)
    assert done.report and len(done.attempts) == 1 and len(seen) == 2
    assert done.fusions is not None and done.fusions.counts["attention"] == (0, 3)


def test_a_loss_is_no_fault_of_a_fusion(tmp_path: Path, monkeypatch) -> None:
    made: list[int] = []
    to_half = convert_to_half.to_half
    monkeypatch.setattr(convert_to_half, "to_half", lambda *given: made.append(1) or to_half(*given))
    error = refused(BERT, tmp_path, fp16=True, min_cosine=0.99999999)
    assert made == [1] and "--min-cosine allows more" in error.advice


def test_nothing_in_half_precision(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[a] x, bool c) => (float[a] y)
    { y = If (c) <then_branch = g1 () => (one) { one = Abs(x) }, else_branch = g2 () => (two) { two = Neg(x) }> }"""
    with pytest.raises(NothingToOptimizeError, match="no node of this graph can compute in float16"):
        optimized(onnx.parser.parse_model(text), tmp_path / "made.onnx", fp16=True)
    assert optimized(tiny_encoder(), tmp_path / "made.onnx", fp16=True).report


@pytest.mark.parametrize(("precision", "kind"), [("fp16", TensorProto.FLOAT16), ("bf16", TensorProto.BFLOAT16)])
def test_inputs_and_outputs_in_half_precision(precision: str, kind: int, tmp_path: Path) -> None:
    """As asked for, of an encoder without a head; ids and masks stay what they are, floats that go in are rounded."""
    source = onnx.load(BERT)
    ids = next(node for node in source.graph.node if node.op_type == "Gather" and "input_ids" in node.input)
    given = helper.make_tensor_value_info("extra", TensorProto.FLOAT, ["batch_size", "sequence_length", 32])
    source.graph.input.append(given)
    for node in source.graph.node:
        node.input[:] = ["with_extra" if name == ids.output[0] else name for name in node.input]
    place = list(source.graph.node).index(ids) + 1
    source.graph.node.insert(place, helper.make_node("Add", [ids.output[0], "extra"], ["with_extra"]))
    done = optimized(source, tmp_path / "half.onnx", half_io=True, **{precision: True})
    made = graphsurgery.load(done.output).interface
    assert done.report and [value.dtype for value in made.outputs] == [kind]
    assert {value.name: value.dtype for value in made.inputs}["extra"] == kind and made.inputs[0].dtype == TensorProto.INT64
    assert done.loss is not None and 0.999 < done.loss["min_cosine"] < 1
    with pytest.raises(RequestError, match="not for the encoder"):
        optimized(BERT, tmp_path / "never.onnx", half_io=True)
    with pytest.raises(RequestError, match="the head takes float32"):
        optimized(with_head(BERT, tmp_path, "mean", normalize=True), tmp_path / "never.onnx", fp16=True, half_io=True)


def test_optimized_half_precision_is_verified_as_such(tmp_path: Path) -> None:
    """A source in float16 rounds otherwise once it is fused: `verify` judges as `optimize` does."""
    source = FIXTURES / "bert-fp16" / "model.onnx"
    done = optimized(source, tmp_path / "made.onnx")
    assert done.report and graphsurgery.verify(done.output, against=source)


def test_what_is_told_of_times(tmp_path: Path, capsys) -> None:
    """Half precision is for another device; what the CPU cannot run is not timed, and that is told."""
    for options, said in ((["--fp16"], "which it is not meant for"), (["--bf16"], "not timed:")):
        assert run(["optimize", str(BERT), *options, "-o", str(tmp_path / "made.onnx"), "--force", "-v"]) == 0
        assert said in " ".join(capsys.readouterr().out.split())
