"""bench: the work that is measured, the figures, the memory of a process, and what is said and refused."""

from __future__ import annotations

import json
import sys
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from conftest import ROOT

import graphsurgery
from graphsurgery import bench
from graphsurgery.benchmarking.results import EQUAL, FASTER, SLOWER, Measurement
from graphsurgery.benchmarking.work import ARRIVAL, BUDGET, SINGLE, STRATEGIES, TOKENS, list_shapes, split_texts
from graphsurgery.cli.main import OK, WRONG, run
from graphsurgery.compare.budget import measure_budget
from graphsurgery.compare.timing import BUSY, LEAST, Timing
from graphsurgery.errors import (
    GraphSurgeryError,
    MissingPackageError,
    OutputExistsError,
    RequestError,
    SurroundingsError,
    UnsupportedModelError,
)
from graphsurgery.proof.source_feeds import make_feed_generator
from graphsurgery.runtime.memory import Memory, measure_memory
from graphsurgery.runtime.texts import Encoded

SENTENCES = (
    "A kettle.",
    "Nobody turned off the stove, so the water is almost gone.",
    "Hi",
    "Is it a long way to the sea from here?",
)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(SENTENCES * 10), encoding="utf-8")
    return path


# --- the work ---------------------------------------------------------------------------------------------------------------


def test_strategies() -> None:
    lengths = [3, 9, 4] * 12
    assert STRATEGIES[ARRIVAL](lengths, 1) == [list(range(32)), list(range(32, 36))]
    assert STRATEGIES[SINGLE](lengths, 1) == [[one] for one in range(36)]
    assert STRATEGIES[BUDGET](lengths, 36)[:3] == [[1, 4, 7, 10], [13, 16, 19, 22], [25, 28, 31, 34]]
    assert STRATEGIES[TOKENS](lengths, 110)[0] == [*range(1, 36, 3)]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_text_is_run_once_and_unpadded_where_it_can(strategy: str, fixture_copy) -> None:
    generator = make_feed_generator(graphsurgery.load(fixture_copy("bert")))
    mask = np.arange(6)[None, :] < np.array([2, 6, 1, 3, 2])[:, None]
    ids = np.where(mask, 10 * np.arange(1, 6)[:, None] + np.arange(6), 0)
    work = split_texts(generator, Encoded(ids, mask, np.zeros_like(ids)), strategy, 8)
    assert (work.tokens, sum(work.texts)) == (14, 5) and [len(feed["input_ids"]) for feed in work.feeds] == list(work.texts)
    rows = [zip(feed["input_ids"], feed["attention_mask"] == 1, strict=True) for feed in work.feeds]
    fed = [tuple(row[kept]) for row, kept in chain(*rows)]
    assert sorted(fed) == sorted(tuple(row[kept]) for row, kept in zip(ids, mask, strict=True))
    assert all(feed["attention_mask"].any(axis=0).all() for feed in work.feeds)


def test_rows_that_fill_a_fixed_batch_do_not_count(fixture_copy) -> None:
    model = graphsurgery.fix_dim(fixture_copy("bert"), {"batch_size": 2})
    mask = np.ones((5, 4), dtype=np.bool_)
    ids = np.arange(20).reshape(5, 4)
    generator = make_feed_generator(model)
    work = split_texts(generator, Encoded(ids, mask, np.zeros_like(ids)), ARRIVAL, 8)
    assert work.texts == (2, 2, 1) and [len(feed["input_ids"]) for feed in work.feeds] == [2, 2, 2]
    assert list_shapes([generator], [1, 8], [16, 500]) == [(2, 16), (2, 62)]


def test_models_of_other_sizes(fixture_copy) -> None:
    model = graphsurgery.load(fixture_copy("bert"))
    generators = [make_feed_generator(graphsurgery.fix_dim(model, {"batch_size": size})) for size in (2, 3)]
    with pytest.raises(RequestError, match=r"fixed batch size, and not the same: 2 and 3"):
        list_shapes(generators, [1], [16])
    assert list_shapes([generators[0], make_feed_generator(model)], [1], [16]) == [(2, 16)]


# --- the figures ------------------------------------------------------------------------------------------------------------


def measured(pairs: list[tuple[float, float]], seconds: list[tuple[float, ...]], texts: tuple[int, ...]) -> Measurement:
    return Measurement("a", None, Timing(1, 1, tuple(pairs)), tuple(seconds), texts, 100, Memory(5, 9))


def test_figures() -> None:
    """Nine texts in a run of 10 ms and one in a run of 50 ms, in both of two rounds."""
    one = measured([(1.0, 1.0)] * 2, [(0.010, 0.050), (0.010, 0.050)], (9, 1))
    assert one.latency == pytest.approx((10, 50))
    assert one.throughput == pytest.approx((10 / 0.06, 100 / 0.06))
    shown = one.to_json()
    assert (shown["p50_ms"], shown["p95_ms"], shown["runs"], shown["rounds"]) == pytest.approx((10, 50, 2, 2))
    assert (shown["loaded_bytes"], shown["peak_bytes"], shown["verdict"]) == (5, 9, EQUAL)


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ([2.0, 2.1, 2.0, 1.9], FASTER), ([0.5, 0.6, 0.5, 0.5], SLOWER), ([1.0, 1.01, 0.99, 1.02], EQUAL),
        ([0.6, 0.9, 1.2, 1.6], BUSY), ([1.5, 2.0, 3.0, 4.0], FASTER), ([1.04, 1.03, 1.02, 1.03], EQUAL),
    ],
)  # fmt: skip
def test_verdicts(ratios: list[float], verdict: str) -> None:
    assert measured([(one, 1.0) for one in ratios], [(1.0,)] * 4, (1,)).verdict == verdict


class Clock:
    """A session that takes no time and says that it took some: so much for each run, and for each position."""

    def __init__(self, run: float, beyond: float) -> None:
        self.now, self.overhead, self.beyond = 0.0, run, beyond

    def run(self, feed: dict[str, np.ndarray]) -> None:
        positions = feed["input_ids"].size
        self.now += self.overhead + positions * (self.beyond if positions > 600 else 1.0)

    def perf_counter(self) -> float:
        return self.now


@pytest.mark.parametrize(("run", "beyond", "budget"), [(0, 1.0, 256), (100, 2.0, 512), (200, 1.0, 2048)])
def test_the_budget_is_the_smallest_that_none_beats(run: float, beyond: float, budget: int, fixture_copy, monkeypatch) -> None:
    generator = make_feed_generator(graphsurgery.load(fixture_copy("bert")))
    clock = Clock(run, beyond)
    monkeypatch.setattr("graphsurgery.compare.timing.time", SimpleNamespace(perf_counter=clock.perf_counter))
    assert measure_budget(lambda feeds: [clock.run(one) for one in feeds], generator) == budget


# --- memory -----------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's account of a process is read in /proc")
def test_memory_is_that_of_the_runs(tmp_path: Path) -> None:
    """A run that holds 24 MB shows them, one that holds 1 MB does not, and neither shows what this process holds."""
    mine = np.ones(40_000_000)
    node = onnx.helper.make_node("Expand", ["one", "shape"], ["big"])
    total = onnx.helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=0)
    shape = onnx.helper.make_tensor_value_info("shape", onnx.TensorProto.INT64, [1])
    out = onnx.helper.make_tensor_value_info("sum", onnx.TensorProto.FLOAT, [])
    one = onnx.helper.make_tensor("one", onnx.TensorProto.FLOAT, [1], [1.0])
    graph = onnx.helper.make_graph([node, total], "g", [shape], [out], [one])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    feeds = [{"shape": np.array([count])} for count in (250_000, 6_000_000)]
    small, large = (measure_memory(tmp_path / "model.onnx", [feed], threads=1) for feed in feeds)
    assert small is not None and large is not None
    assert small.peak - small.loaded < 12e6 and 23e6 < large.peak - large.loaded < 100e6
    assert large.peak < mine.nbytes


def test_a_model_that_cannot_be_run_is_named(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Nonsense", ["x"], ["y"], domain="a.b")], "g", [value], [out])
    imports = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("a.b", 1)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=imports, ir_version=8), tmp_path / "model.onnx")
    with pytest.raises(UnsupportedModelError, match=r"model\.onnx cannot be measured: ONNX Runtime cannot load the model"):
        measure_memory(tmp_path / "model.onnx", [{"x": np.ones(1, dtype=np.float32)}], threads=1)


# --- the whole --------------------------------------------------------------------------------------------------------------


def test_models_side_by_side(fixture_copy) -> None:
    """A file and a model in memory: every batch size with every length, the first model's row before the other's."""
    path = fixture_copy("bert")
    told: list[tuple[str, int, int]] = []
    models = [path, graphsurgery.add_pooling(path, "mean")]
    result = bench(models, batches=(1, 3), lengths=(5, 7), seconds=0, progress=lambda *one: told.append(one))
    memory = [one for one in told if one[0].startswith("memory")]
    assert memory[:2] == [("memory: 1 x 5 tokens", 0, 2), ("memory: 1 x 5 tokens", 1, 2)] and len(memory) == 8
    assert [one.title for one in result.contests] == ["1 x 5 tokens", "1 x 7 tokens", "3 x 5 tokens", "3 x 7 tokens"]
    for contest, (texts, tokens) in zip(result.contests, [(1, 5), (1, 7), (3, 5), (3, 7)], strict=True):
        assert [one.model for one in contest.measurements] == ["model.onnx", "model 2"]
        assert all((one.texts, one.tokens, one.strategy) == ((texts,), texts * tokens, None) for one in contest.measurements)
        first, second = contest.measurements
        assert first.timing.ratio == 1 and len(first.seconds) == len(second.seconds) == LEAST
        assert [other / sum(seconds) for (_, other), seconds in zip(second.timing.pairs, second.seconds, strict=True)] == (
            pytest.approx([1] * LEAST, rel=0.5)
        )
    shown = json.loads(json.dumps(result.to_json()))
    assert result.budget is None and shown["works"][0]["measurements"][1]["model"] == "model 2"
    assert "8 measurements" in repr(result)


def test_texts_by_each_strategy(fixture_copy, texts: Path) -> None:
    path = fixture_copy("bert")
    result = bench(path, texts=texts, seconds=0, budget=64)
    (contest,) = result.contests
    assert contest.title.startswith(f"40 texts of {texts}, 4 to ")
    assert [one.strategy for one in contest.measurements] == ["32 as they come", "one at a time", "64 positions, sorted"]
    assert [sum(one.texts) for one in contest.measurements] == [40, 40, 40]
    assert len({one.tokens for one in contest.measurements}) == 1
    assert (result.budget, result.measured_budget) == (64, False) and "as asked for" in result.describe()
    cut = bench(path, texts=texts, strategies=["tokens", "tokens"], longest=4, seconds=0, budget=9, threads=1)
    (only,) = cut.contests[0].measurements
    assert (
        only.strategy == "9 tokens, sorted"
        and max(only.texts) <= 3
        and cut.describe().endswith("1 threads; budget of 9, as asked for")
    )


def test_a_budget_is_measured_if_none_is_given(fixture_copy, texts: Path, monkeypatch) -> None:
    monkeypatch.setattr("graphsurgery.benchmarking.racing.measure_budget", lambda run_all, generator: 77)
    result = bench(fixture_copy("bert"), texts=texts, strategies=["budget"], seconds=0)
    assert (result.budget, result.measured_budget) == (77, True) and "measured here" in result.describe()


def test_names_tell_models_apart(fixture_copy, monkeypatch) -> None:
    path = fixture_copy("bert")
    other = path.parent / "other" / "model.onnx"
    other.parent.mkdir()
    other.write_bytes(path.read_bytes())
    monkeypatch.chdir(path.parent)
    names = [[one.model for one in bench(those, batches=[1], lengths=[3], seconds=0).contests[0].measurements] for those in (
        [path, other], [path, path],
    )]  # fmt: skip
    assert names == [["model.onnx", str(Path("other/model.onnx"))], ["model.onnx (1)", "model.onnx (2)"]]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batches": [0]}, "--batches must be numbers of 1 or more"),
        ({"lengths": []}, "--lengths must be numbers of 1 or more"),
        ({"budget": 5}, "--budget cannot be used, because there is no text file"),
        ({"strategies": ["single"], "longest": 3}, "--strategy and --longest cannot be used"),
        ({"texts": "texts.txt", "batches": [1]}, "--batches cannot be used, because a text file has lengths of its own"),
        ({"texts": "texts.txt", "strategies": ["best"]}, "there is no strategy 'best'"),
        ({"texts": "texts.txt", "budget": 0}, "--budget must be 1 or more, got 0"),
        ({"texts": "texts.txt", "budget": 9, "strategies": ["single"]}, "--budget cannot be used by single"),
        ({"texts": "texts.txt", "longest": 0}, "--longest must be 1 or more, got 0"),
        ({"threads": -1}, "--threads must be 0 or more, got -1"), ({"seconds": float("nan")}, "--seconds must be 0 or more"),
        ({"plot": "plot.pdf"}, "no file that a plot can be drawn in"),
    ],
)  # fmt: skip
def test_what_is_refused(options: dict, said: str, fixture_copy, texts: Path, monkeypatch) -> None:
    path = fixture_copy("bert")
    monkeypatch.chdir(texts.parent)
    with pytest.raises(RequestError, match=said) as raised:
        bench(path, **options)
    assert raised.value.advice


def test_no_model_and_no_tokenizer(fixture_copy, texts: Path) -> None:
    with pytest.raises(RequestError, match="no model to measure"):
        bench([])
    path = fixture_copy("bert")
    (path.parent / "tokenizer.json").unlink()
    with pytest.raises(RequestError, match=r"no tokenizer\.json beside the model"):
        bench(path, texts=texts)


# --- the plot ---------------------------------------------------------------------------------------------------------------


def test_a_plot_without_matplotlib(fixture_copy, tmp_path: Path, monkeypatch) -> None:
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingPackageError, match="a plot needs the matplotlib package"):
        bench(fixture_copy("bert"), plot=tmp_path / "plot.svg")


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [("there.svg", OutputExistsError, "there.svg exists"), ("no/plot.svg", SurroundingsError, "the folder .*no does not exist"),
     ("folder.png", OutputExistsError, "folder.png exists"), ("model.svg", OutputExistsError, "is a model")],
)  # fmt: skip
def test_where_no_plot_can_be(name: str, error: type[GraphSurgeryError], said: str, fixture_copy, monkeypatch) -> None:
    folder = fixture_copy("bert").parent
    (folder / "model.onnx").rename(folder / "model.svg")
    (folder / "there.svg").write_text("mine")
    (folder / "folder.png").mkdir()
    with pytest.raises(error, match=said):
        bench(folder / "model.svg", plot=folder / name, force=name == "model.svg")
    assert (folder / "there.svg").read_text() == "mine"


@pytest.mark.parametrize("name", ["plot.svg", "plot.PNG"])
def test_a_plot(name: str, fixture_copy, texts: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="a plot needs matplotlib, which `make test` installs")
    path, plot = fixture_copy("bert"), tmp_path / name
    plot.write_text("old")
    result = bench([path, path], texts=texts, strategies=["arrival", "single"], seconds=0, plot=plot, force=True)
    assert result.plot == str(plot) and plot.stat().st_size > 5000
    assert plot.read_bytes().startswith(b"<?xml" if name.endswith("svg") else b"\x89PNG")
    assert not list(tmp_path.glob(".*.tmp"))


# --- the command line -------------------------------------------------------------------------------------------------------


def test_the_command(fixture_copy, texts: Path, capsys, monkeypatch) -> None:
    path = fixture_copy("bert")
    monkeypatch.setattr("graphsurgery.cli.console.out.width", 200)
    assert run(["bench", str(path), "--texts", str(texts), "--seconds", "0", "--budget", "64"]) == OK
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[1:3] for line in lines if "model.onnx" in line] == [
        ["model.onnx", "32 as they come"], ["model.onnx", "one at a time"], ["model.onnx", "64 positions, sorted"],
    ]  # fmt: skip
    assert any("p95 ms" in line and "tokens/s" in line and "peak MB (in runs)" in line for line in lines)
    assert run(["bench", str(path), str(path), "--batches", "1,2", "--lengths", "4", "--seconds", "0", "--json"]) == OK
    shown = json.loads(capsys.readouterr().out)
    assert [work["work"] for work in shown["works"]] == ["1 x 4 tokens", "2 x 4 tokens"]
    assert all(one["ratio"] > 0 for work in shown["works"] for one in work["measurements"])


def test_a_narrow_terminal_gets_lines(fixture_copy, capsys, monkeypatch) -> None:
    monkeypatch.setattr("graphsurgery.cli.console.out.width", 60)
    assert run(["bench", str(fixture_copy("bert")), "--batches", "2", "--lengths", "4", "--seconds", "0"]) == OK
    assert "model.onnx, 2 x 4 tokens: p50 ms" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [[], ["nothere.onnx"], ["nothere.onnx", "--batches", "1,x"], ["nothere.onnx", "--strategy", "best"]]
)
def test_wrong_requests_have_exit_code_2(arguments: list[str], capsys, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    assert run(["bench", *arguments]) == WRONG
    assert "Traceback" not in capsys.readouterr().err
