"""optimize --speed: what is measured, what is chosen, and when nothing is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import pytest
from conftest import FIXTURES
from fusions import require_optimizer
from onnx import numpy_helper

import graphsurgery
from graphsurgery import Fuse, PooledToken, Simplify
from graphsurgery.cli.main import OK, WRONG, run
from graphsurgery.compare.timing import Timing, Timings
from graphsurgery.errors import NothingToOptimizeError, RequestError, SurroundingsError, VerificationFailed
from graphsurgery.graph.write_back import load_for_rewrite, to_document
from graphsurgery.model.model import Model
from graphsurgery.optimizer import optimize as optimize_module
from graphsurgery.optimizer import search, speed
from graphsurgery.optimizer.workload import BATCHES, OFFLINE, ONLINE, make_workload
from graphsurgery.proof.source_feeds import make_feed_generator
from graphsurgery.recipe import read_recorded_recipe
from graphsurgery.rewrites.attention.bias import Draft
from graphsurgery.rewrites.rewrite import Context, Rewritten

require_optimizer()

SOURCE_SECONDS = 0.010
DYNAMO = FIXTURES / "bert-dynamo" / "model.onnx"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    model = graphsurgery.add_pooling(FIXTURES / "bert" / "model.onnx", mode="mean", normalize=True)
    graphsurgery.save(model, tmp_path / "pooled.onnx")
    return tmp_path / "pooled.onnx"


class Doubled(Simplify):
    """A rewrite that is wrong: it doubles a weight."""

    name: ClassVar[str] = "doubled"

    def apply(self, encoder: Model, context: Context) -> Rewritten:
        given, wrong = load_for_rewrite(encoder), load_for_rewrite(encoder)
        weight = next(one for one in wrong.graph.initializer if len(one.dims) == 2)
        weight.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(weight), weight.name))
        return Rewritten(replace(encoder, document=to_document(encoder, given, wrong), loaded=None), {"portable": True})


def set_times(monkeypatch: pytest.MonkeyPatch, *ratios: float) -> None:
    """Let the candidates be so many times faster than the source, on every batch."""
    rounds = [[SOURCE_SECONDS, *(SOURCE_SECONDS / ratio for ratio in ratios)]] * 3
    monkeypatch.setattr(speed, "race", lambda runs, seconds: [run() for run in runs] and rounds)


def set_candidates(monkeypatch: pytest.MonkeyPatch, *candidates: Sequence[graphsurgery.Rewrite]) -> None:
    monkeypatch.setattr(optimize_module, "list_candidates", lambda portable, rotary: [tuple(one) for one in candidates])


def test_the_fastest_is_taken(source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    set_candidates(monkeypatch, (Simplify(),), (Fuse(),))
    set_times(monkeypatch, 1.2, 1.5)
    assert run(["optimize", "--speed", str(source), "--json"]) == OK
    told = json.loads(capsys.readouterr().out)
    assert told["choice"]["chosen"] == "fuse" and told["report"]["verdict"] == "PASSED"
    assert [(one["name"], one["faster"]) for one in told["choice"]["candidates"]] == [("fuse", True), ("simplify", True)]
    assert all(
        one["ratio"] == pytest.approx(ratio) for one, ratio in zip(told["choice"]["candidates"], (1.5, 1.2), strict=True)
    )
    made = graphsurgery.load(told["output"])
    assert [one["parameters"]["model_type"] for one in told["rewrites"]] == ["bert"] and made.path is not None


def test_the_table_in_the_terminal(source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    set_candidates(monkeypatch, (Simplify(),), (Fuse(),), (PooledToken(),), (Simplify(), PooledToken()), (Fuse(), Fuse()))
    set_times(monkeypatch, 1.2, 1.5)
    assert run(["optimize", "--speed", str(source), "--workload", "offline", "-v"]) == OK
    shown = capsys.readouterr().out
    table = shown[shown.index("Candidates") :]
    assert "1.50x" in table and "1.20x" in table
    assert "left out: pooled-token; simplify + pooled-token: no output takes one token" in " ".join(table.split())
    assert "fuse + fuse" not in table, "the second one changes nothing"


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_every_attention_is_one_operator(target: str, tmp_path: Path) -> None:
    """The optimizer alone fuses none of an export in dynamo form."""
    made = graphsurgery.optimize(DYNAMO, target=target, time=False, output=tmp_path / "made.onnx")
    assert made.report and Counter(node.op_type for node in made.model.proto.graph.node)["MultiHeadAttention"] == 2
    assert [one.name for one in read_recorded_recipe(made.model).steps] == ["fuse", "attention"]
    assert made.fusions is not None and made.fusions.complete and made.fusions.counts["attention"] == (2, 2)
    assert {one.operator for one in made.fusions.fusions if one.part.kind == "attention"} == {"MultiHeadAttention"}


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_attentions_that_are_slower_as_one_operator_stay(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU. The time of a file for another device says nothing."""
    slower = Timings((Timing(1, 16, ((0.01, 0.02),) * 4),))
    monkeypatch.setattr(search, "measure_times", lambda *_: slower)
    made = graphsurgery.optimize(DYNAMO, target=target, output=tmp_path / "made.onnx")
    assert made.report and made.fusions is not None
    if target == "cuda":
        assert made.fusions.counts["attention"] == (2, 2) and not made.attempts
        return
    assert made.fusions.counts["attention"] == (0, 2) and len(made.attempts) == 1
    assert "all fusions + attention as MultiHeadAttention: slower on this machine" in made.attempts[0]


def test_attentions_that_are_wrong_as_one_operator_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add = Draft.add

    def doubled(self: Draft, operator: str, inputs: Any, attributes: Any = MappingProxyType({}), domain: str = "") -> Any:
        return add(self, operator, inputs, attributes | ({"scale": 1.0} if operator == "MultiHeadAttention" else {}), domain)

    monkeypatch.setattr(Draft, "add", doubled)
    made = graphsurgery.optimize(DYNAMO, time=False, output=tmp_path / "made.onnx")
    assert made.report and made.fusions is not None and made.fusions.counts["attention"] == (0, 2)
    assert len(made.attempts) == 1 and "+ attention as MultiHeadAttention: " in made.attempts[0] and "apart" in made.attempts[0]


def test_every_candidate_is_applied(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a mean, no single token is pooled; everything else is timed, and nothing is left for attention behind fuse."""
    timed: list[int] = []
    monkeypatch.setattr(speed, "race", lambda runs, seconds: timed.append(len(runs)) or [[0.01] * len(runs)] * 3)
    with pytest.raises(NothingToOptimizeError) as caught:
        graphsurgery.optimize(source, speed=True, workload="online", verify=False)
    assert set(timed) == {1 + 11}
    assert "simplify + padding-free or padded 1.00x" in caught.value.message and "fuse + attention" not in caught.value.message


def test_the_plot(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="a plot needs matplotlib, which `make test` installs")
    set_candidates(monkeypatch, (Simplify(),), (Fuse(),))
    set_times(monkeypatch, 1.2, 1.5)
    graphsurgery.optimize(source, speed=True, verify=False, plot=source.with_suffix(".svg"))
    drawn = source.with_suffix(".svg").read_text(encoding="utf-8")
    words = ["fuse (chosen)", "simplify", *("16 x 62 tokens", "32 x 62 tokens, 60% full")]
    assert all(f"<!-- {word} -->" in drawn for word in words)


def test_what_is_no_faster_is_not_taken(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_candidates(monkeypatch, (Simplify(),), (Fuse(),))
    set_times(monkeypatch, 1.02, 0.8)
    with pytest.raises(NothingToOptimizeError, match=r"no candidate is clearly faster.*simplify 1\.02x, fuse 0\.80x"):
        graphsurgery.optimize(source, speed=True)
    assert sorted(source.parent.iterdir()) == [source]


def test_a_wrong_candidate_is_not_taken_however_fast(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_candidates(monkeypatch, (Doubled(),), (Simplify(),))
    set_times(monkeypatch, 3.0, 1.2)
    made = graphsurgery.optimize(source, speed=True)
    assert made.choice is not None and made.choice.chosen == "simplify" and made.report
    assert "did not pass its proof" in made.choice.candidates[0].why_not
    set_candidates(monkeypatch, (Doubled(),))
    with pytest.raises(VerificationFailed):
        graphsurgery.optimize(source, speed=True, force=True)


def test_nothing_is_judged_on_a_busy_machine(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_candidates(monkeypatch, (Simplify(),))
    monkeypatch.setattr(speed, "race", lambda runs, seconds: [[0.01, 0.01], [0.02, 0.01], [0.01, 0.02]])
    with pytest.raises(SurroundingsError, match="too busy to judge: 5 of 5 speed-ups vary by more than a quarter"):
        graphsurgery.optimize(source, speed=True)
    assert sorted(source.parent.iterdir()) == [source]


def test_files_are_timed_in_groups_that_fit_into_memory(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[int] = []
    monkeypatch.setattr(speed, "MOST_BYTES", 1)
    monkeypatch.setattr(speed, "race", lambda runs, seconds: groups.append(len(runs)) or [[0.01, 0.005]] * 3)
    made = graphsurgery.optimize(source, speed=True, workload="online")
    assert (
        set(groups) == {2} and made.choice is not None and all(one.is_faster for one in made.choice.candidates if one.timings)
    )


@pytest.mark.parametrize("workload", [ONLINE, OFFLINE, None])
def test_drawn_batches(workload: str | None) -> None:
    model = graphsurgery.load(FIXTURES / "bert" / "model.onnx")
    generator = make_feed_generator(model)
    batches = make_workload(model, generator, workload)
    wanted = [one for name in BATCHES for one in BATCHES[name] if workload in (None, name)]
    assert [one.texts for one in batches] == [texts for texts, _, _ in wanted]
    for batch, (_, tokens, fill) in zip(batches, wanted, strict=True):
        mask = batch.feed["attention_mask"]
        assert mask.shape == (batch.texts, min(tokens, generator.limit_length(tokens))) and mask.any(axis=1).all()
        assert abs(float(mask.mean()) - fill) < 0.02 and batch.fill == fill


def test_the_texts_of_a_file_are_fed_in_their_order(fixture_copy: Callable[[str], Path], tmp_path: Path) -> None:
    model = graphsurgery.load(fixture_copy("bert"))
    lines = ["one", "one two three four five six", *["one two"] * 33]
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(lines), encoding="utf-8")
    first, second = make_workload(model, make_feed_generator(model), texts)
    assert (first.texts, second.texts) == (32, 3)
    lengths = first.feed["attention_mask"].sum(axis=1)
    assert lengths[1] == first.tokens > lengths[0] and len(set(lengths[2:])) == 1
    assert first.fill == pytest.approx(first.feed["attention_mask"].mean(), abs=0.01) and second.fill == 1


def test_a_workload_that_cannot_be_used(source: Path, tmp_path: Path) -> None:
    model = graphsurgery.load(source)
    with pytest.raises(RequestError, match="there is no workload 'nightly', and no file of that name"):
        make_workload(model, make_feed_generator(model), "nightly")
    (tmp_path / "texts.txt").write_text("one", encoding="utf-8")
    with pytest.raises(RequestError, match=r"there is no tokenizer\.json"):
        make_workload(model, make_feed_generator(model), tmp_path / "texts.txt")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--speed", "--fp16"], "which --fp16 does not fit"),
        (["--speed", "--for", "cuda"], "which --for cuda does not fit"),
        (["--speed", "--no-timing"], "which --no-timing does not fit"),
        (["--workload", "online"], "--workload is for a choice by time, which was not asked for"),
        (["--plot", "choice.png"], "--plot is for a choice by time, which was not asked for"),
    ],
)
def test_options_that_contradict_it(options: list[str], said: str, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["optimize", str(source), *options]) == WRONG
    assert said in " ".join(capsys.readouterr().err.split())
