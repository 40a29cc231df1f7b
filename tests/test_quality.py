"""The quality of a lossy candidate: the figures against plain loops, ties, what is refused, and what `verify` makes of them."""

from __future__ import annotations

import json
import math
import tomllib
from pathlib import Path

import numpy as np
import onnx
import pytest
from baked_folders import WORDS, write_tokenizer
from conftest import ROOT
from encoders import HIDDEN, IDS, tiny_encoder
from planting import Plant

import graphsurgery
from graphsurgery.cli.main import OK, VERDICT, WRONG, run
from graphsurgery.compare import quality as module
from graphsurgery.compare.quality import QualityBudget, judge_quality, measure_quality
from graphsurgery.errors import RequestError, UnsupportedModelError
from graphsurgery.proof.same_bits import measure_batch_dependence
from graphsurgery.proof.source_feeds import encode_texts, make_feed_generator
from graphsurgery.report import Check, Report, Verdict
from graphsurgery.runtime.embedding import embed_texts
from graphsurgery.runtime.session import open_session
from graphsurgery.runtime.texts import CALIBRATE, JUDGE, bundled_texts

PASSED, FAILED, NOT_CHECKED = Verdict.PASSED, Verdict.FAILED, Verdict.NOT_CHECKED
ALL = QualityBudget(min_cosine=0.9, min_overlap=0.9, rank=0.9)


def draw(texts: int = 40, dim: int = 8, noise: float = 0.1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((texts, dim)).astype(np.float32)
    return vectors, vectors + noise * rng.standard_normal((texts, dim)).astype(np.float32)


# --- the figures, by plain loops --------------------------------------------------------------------------------------------


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    lengths = math.sqrt(math.fsum(float(x) ** 2 for x in one)) * math.sqrt(math.fsum(float(x) ** 2 for x in other))
    return math.fsum(float(x) * float(y) for x, y in zip(one, other, strict=True)) / lengths


def list_nearest(vectors: np.ndarray, text: int, top_k: int) -> set[int]:
    others = [other for other in range(len(vectors)) if other != text]
    return set(sorted(others, key=lambda other: -cosine(vectors[text], vectors[other]))[:top_k])


def list_ranks(values: list[float]) -> list[float]:
    """The average rank of each value: those smaller, and half of those that are equal."""
    return [sum(other < one for other in values) + (values.count(one) + 1) / 2 for one in values]


@pytest.mark.parametrize(("top_k", "noise", "seed"), [(1, 0.3, 0), (3, 0.5, 1), (10, 1.0, 2)])
def test_figures_are_those_of_plain_loops(top_k: int, noise: float, seed: int) -> None:
    wanted, found = draw(24, noise=noise, seed=seed)
    quality = measure_quality(wanted, found * 3.0, top_k)
    cosines = [cosine(one, other) for one, other in zip(wanted, found, strict=True)]
    assert quality.worst == pytest.approx(min(cosines)) and quality.worst_text == cosines.index(min(cosines))
    assert quality.mean == pytest.approx(sum(cosines) / 24)
    low, next_ = sorted(cosines)[:2]
    assert quality.first_percentile == pytest.approx(low + 0.23 * (next_ - low))
    common = [len(list_nearest(wanted, text, top_k) & list_nearest(found, text, top_k)) for text in range(24)]
    assert quality.neighbours == pytest.approx(sum(common) / 24 / top_k) and 0 < quality.neighbours < 1
    pairs = [(one, other) for other in range(24) for one in range(other)]
    ranks = [list_ranks([round(cosine(side[one], side[other]), 6) for one, other in pairs]) for side in (wanted, found)]
    middle = (len(pairs) + 1) / 2
    apart = [[rank - middle for rank in side] for side in ranks]
    spread = [math.sqrt(math.fsum(rank**2 for rank in side)) for side in apart]
    assert quality.rank == pytest.approx(math.fsum(x * y for x, y in zip(*apart, strict=True)) / spread[0] / spread[1])
    assert (quality.texts, quality.paired, quality.not_finite) == (24, 24, 0)


def test_a_candidate_that_is_the_reference_keeps_the_tightest_budget() -> None:
    wanted, _ = draw()
    wanted[5:9] = wanted[4]  # five equal texts, which tie
    quality = measure_quality(wanted, wanted, 7)
    assert quality.worst == quality.first_percentile == quality.neighbours == quality.rank == 1
    assert judge_quality(quality, QualityBudget(1, 1, 1, 7), "name", "").verdict is PASSED


def test_a_candidate_that_gives_every_text_one_vector_is_as_good_as_chance() -> None:
    wanted, _ = draw()
    quality = measure_quality(wanted, np.ones_like(wanted))
    assert quality.rank == 0 and quality.neighbours == pytest.approx(10 / 39)


def test_vectors_of_the_wrong_texts_are_seen() -> None:
    """Each text gets the vector of the next: near neighbours and the pairs are those of other texts."""
    wanted, _ = draw()
    quality = measure_quality(wanted, np.roll(wanted, 1, axis=0))
    assert abs(quality.rank) < 0.2 and quality.neighbours < 0.5 and quality.worst < 0
    reversed_ = measure_quality(wanted, -wanted)
    assert reversed_.mean == pytest.approx(-1) and reversed_.rank == pytest.approx(1)  # similarities do not see a sign


def test_tied_neighbours_are_as_good_as_each_other() -> None:
    """Of three equal texts beside the first, the reference has no favourite, so the candidate's pick of two is right.

    If they tie for the candidate alone, each is among its two neighbours with a probability of two thirds.
    """
    wanted = np.array([[1, 0, 0], [1, 1, 0], [1, 1, 0], [1, 1, 0], [0, 0, 1], [0, -1, 1]], float)
    found = wanted + np.array([0, 0.01, 0.02, 0.03, 0, 0])[:, None] * [0.0, 1.0, 0.0]
    assert measure_quality(wanted, found, 2).neighbours == 1
    assert measure_quality(found, wanted, 2).neighbours == pytest.approx((5 * 2 + 4 / 3) / 12)


def test_of_many_texts_some_are_paired(monkeypatch: pytest.MonkeyPatch) -> None:
    """At equal distances, the first and the last among them. Cosines are of all."""
    monkeypatch.setattr(module, "MOST_PAIRED", 21)
    wanted, found = draw(61)
    found[7] = -wanted[7]
    quality, few = measure_quality(wanted, found), measure_quality(wanted[::3], found[::3])
    assert (quality.texts, quality.paired, quality.worst_text) == (61, 21, 7) and quality.worst == pytest.approx(-1)
    assert (quality.neighbours, quality.rank) == (few.neighbours, few.rank)
    assert judge_quality(quality, ALL, "name", "").figures[-1].cases == 21


# --- vectors without a direction --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_vectors_that_are_not_finite_fail_every_budget(number: float) -> None:
    wanted, _ = draw()
    found = wanted.copy()
    found[3, 2] = number
    quality = measure_quality(wanted, found)
    assert (quality.worst, quality.worst_text, quality.not_finite) == (-1, 3, 1) and quality.rank < 1
    for budget in (QualityBudget(), QualityBudget(-1, 0, -1)):
        assert judge_quality(quality, budget, "name", "").verdict is FAILED
    with pytest.raises(RequestError, match="1 of the reference's 40 vectors are not finite; the first is that of text 3"):
        measure_quality(found, wanted)
    assert measure_quality(wanted, np.full_like(wanted, number)).not_finite == 40


def test_zero_vectors_resemble_nothing() -> None:
    wanted, _ = draw()
    found = wanted.copy()
    found[3] = 0
    quality = measure_quality(wanted, found)
    assert (quality.worst, quality.worst_text) == (0, 3) and quality.neighbours < 1
    with pytest.raises(RequestError, match="vectors are zero; the first is that of text 3"):
        measure_quality(found, found)


def test_what_cannot_be_measured_is_refused() -> None:
    wanted, found = draw(12)
    assert measure_quality(wanted, found).texts == 12
    for one, other, said in (
        (wanted, found[:, :7], r"\[12, 8\] and the candidate's \[12, 7\]"),
        (wanted, found[:11], r"and the candidate's \[11, 8\]"),
        (wanted[0], found[0], "not vectors of texts"),
        (wanted > 0, found, "not vectors of texts"),
        (wanted[:, :2], found[:, :2], "no telling direction"),
        (wanted[:11], found[:11], "11 text.s. are too few"),
        (wanted[:1], found[:1], "1 text.s. are too few"),
        (wanted[:0], found[:0], "0 text.s. are too few"),
        (np.ones_like(wanted), found, "the same similarity"),
    ):
        with pytest.raises(RequestError, match=said):
            measure_quality(one, other)
    for top_k in (0, -1, 1.5, True):
        with pytest.raises(RequestError, match="--top-k must be a whole number"):
            measure_quality(wanted, found, top_k)


@pytest.mark.parametrize(
    "given", [{"min_cosine": 1.1}, {"min_cosine": np.nan}, {"min_overlap": -0.1}, {"rank": 2.0}, {"top_k": 0}]
)
def test_bounds_that_mean_nothing_are_refused(given: dict[str, float]) -> None:
    with pytest.raises(RequestError, match="must be"):
        QualityBudget(**given)


def test_each_bound_is_judged_by_itself_and_none_is_no_pass() -> None:
    wanted, found = draw(noise=0.2)
    quality = measure_quality(wanted, found)

    def judge(**bounds: float) -> Verdict:
        return Report((judge_quality(quality, QualityBudget(**bounds), "name", ""),)).verdict

    assert judge() is NOT_CHECKED
    for bound, value in (("min_cosine", quality.worst), ("min_overlap", quality.neighbours), ("rank", quality.rank)):
        assert 0 < value < 1
        assert judge(**{bound: value}) is PASSED and judge(**{bound: value + 1e-9}) is FAILED
    assert judge(min_cosine=0, min_overlap=0, rank=0.99999) is FAILED
    assert Check("name", "", figures=judge_quality(quality, QualityBudget(), "", "").figures).cases == 0


# --- the texts of the package -----------------------------------------------------------------------------------------------


def test_texts_to_judge_by_and_to_calibrate_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No text is in both lists, the package takes them along, and a text may have several lines."""
    lists = [bundled_texts(JUDGE), bundled_texts(CALIBRATE)]
    assert all(len(one) >= 40 and all(text.strip() for text in one) for one in lists)
    assert not set(lists[0]) & set(lists[1])
    with pytest.raises(RequestError, match="no texts to 'train'") as caught:
        bundled_texts("train")
    assert "judge, calibrate" in caught.value.advice
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "data/*.txt" in settings["tool"]["setuptools"]["package-data"]["graphsurgery"]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "judging.txt").write_text("one\\ntwo\n\nthree\u2028four\n", encoding="utf-8")
    monkeypatch.setattr("graphsurgery.runtime.texts.resources.files", lambda _: tmp_path)
    assert bundled_texts(JUDGE) == ["one\ntwo", "three\u2028four"]


# --- a text alone, and among others -----------------------------------------------------------------------------------------


def write_texts(folder: Path, texts: int = 24) -> Path:
    """Distinct texts of the words that the tokenizer knows, 1 to 9 words long."""
    rng = np.random.default_rng(0)
    drawn = (" ".join(rng.choice(WORDS[4:], size=1 + number % 9)) for number in range(4 * texts))
    (folder / "texts.txt").write_text("\n".join(list(dict.fromkeys(drawn))[-texts:]), encoding="utf-8")
    return folder / "texts.txt"


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A pooled encoder, and the same with other weights, all of them a little off."""
    write_tokenizer(tmp_path)
    write_texts(tmp_path)
    source = graphsurgery.add_pooling(tiny_encoder(), "mean", normalize=True).to_proto()
    onnx.save(source, str(tmp_path / "source.onnx"))
    rng = np.random.default_rng(1)
    for tensor in source.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.ndim == 2:
            lossy = values + 0.02 * rng.standard_normal(values.shape).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(lossy, tensor.name))
    onnx.save(source, str(tmp_path / "lossy.onnx"))
    return tmp_path / "lossy.onnx", tmp_path / "source.onnx"


def measure(path: Path | onnx.ModelProto, texts: Path, **given: int):
    model = graphsurgery.load(path)
    tokenizer = graphsurgery.load(texts.parent / "source.onnx")
    generator = make_feed_generator(model)
    encoded = encode_texts(model, tokenizer, generator, texts.read_text("utf-8").splitlines(), 20)
    return measure_batch_dependence(open_session(model), generator, encoded, "sentence_embedding", **given)


def test_a_text_alone_and_in_random_batches(files: tuple[Path, Path]) -> None:
    """An ordinary file differs in its last bits at most, one that adds a thousandth of the batch's mean by that, and one that
    gives NaN has no limit."""
    source = files[1]
    texts = source.with_name("texts.txt")
    plain = measure(source, texts)
    assert (plain.texts, plain.rounds) == (24, 5) and plain.largest < 1e-6
    spoilt = graphsurgery.add_pooling(tiny_encoder(), "mean").to_proto()
    clean = Plant(onnx.ModelProto.FromString(spoilt.SerializeToString()))
    plant = Plant(spoilt)
    mean = plant.append("ReduceMean", plant.out("mean/sum"), behind="mean/sum", axes=[0], keepdims=1)
    plant.before("mean/mean", 0, "Add", plant.append("Mul", mean, plant.constant(1e-3), behind=mean))
    seen = measure(spoilt, texts, rounds=2)
    assert seen.largest > 1e-4 and seen.differing == 24 and "24 of 24 texts" in str(seen)
    clean.after("mean/mean", "Sqrt")
    broken = measure(clean.proto, texts, rounds=1)
    assert broken.largest == np.inf and broken.to_json()["largest"] is None


def test_padding_is_tried_as_well(files: tuple[Path, Path]) -> None:
    """A hidden state that is divided by the width of the batch."""
    encoder = tiny_encoder()
    plant = Plant(encoder)
    plant.rename(HIDDEN, "before")
    width = plant.append("Cast", plant.append("Gather", plant.append("Shape", IDS), plant.ints(1)), to=onnx.TensorProto.FLOAT)
    plant.append("Div", "before", width, gives=HIDDEN)
    made = graphsurgery.add_pooling(encoder, "mean").to_proto()
    assert measure(made, files[1].with_name("texts.txt"), rounds=1).largest > 1e-2


def test_where_a_text_has_no_other_surroundings(files: tuple[Path, Path]) -> None:
    source = files[1]
    texts = source.with_name("texts.txt")
    with pytest.raises(UnsupportedModelError, match="size is fixed"):
        measure(graphsurgery.fix_dim(source, {"batch": 2}).to_proto(), texts)
    with pytest.raises(UnsupportedModelError, match="takes no mask"):
        measure(graphsurgery.add_pooling(tiny_encoder(mask_dtype=None), "mean", mask="ones").to_proto(), texts)
    with pytest.raises(RequestError, match="nothing to compare"):
        measure(source, texts, rounds=0)


def test_vectors_are_in_the_order_of_the_texts(files: tuple[Path, Path]) -> None:
    """Also if the batch size is fixed, or if nothing says where padding is. Values by token are left out."""
    source = files[1]
    lines = source.with_name("texts.txt").read_text("utf-8").splitlines()
    unmasked = graphsurgery.load(graphsurgery.add_pooling(tiny_encoder(mask_dtype=None), "mean", mask="ones").to_proto())
    kept = graphsurgery.load(graphsurgery.add_pooling(tiny_encoder(), "mean", keep_output=[HIDDEN]).to_proto())
    for model in (kept, unmasked, graphsurgery.fix_dim(source, {"batch": 5})):
        generator, session = make_feed_generator(model), open_session(model)
        encoded = encode_texts(model, graphsurgery.load(source), generator, lines, 20)
        names = [value.name for value in model.interface.outputs]
        vectors = embed_texts(session, generator, encoded, names)
        assert list(vectors) == ["sentence_embedding"]
        alone = [
            embed_texts(session, generator, encoded.select([row]), names)["sentence_embedding"] for row in range(len(lines))
        ]
        assert np.allclose(np.concatenate(alone), vectors["sentence_embedding"], atol=1e-6)


# --- verify -----------------------------------------------------------------------------------------------------------------


def test_a_lossy_file_is_judged_by_its_budget(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """By the figures that the vectors have, and no verdict without a bound."""
    lossy, source = files
    texts = source.with_name("texts.txt")
    assert graphsurgery.verify(lossy, against=source).verdict is FAILED  # it is not equal
    report = graphsurgery.verify(lossy, against=source, texts=texts, min_cosine=0.9, top_k=5, min_overlap=0.5, rank=0.8)
    assert report.verdict is PASSED and report.cases == 24
    worst, _, mean, common, rank = (one.value for one in report.checks[0].figures)
    assert 0.9 < worst < mean < 1 and 0.5 < common <= 1 and 0.8 < rank < 1
    assert "with other texts in the batch and with padding, as tried on 24 texts" in report.observations[0]
    assert graphsurgery.verify(lossy, against=source, texts=texts, min_cosine=worst + 1e-6, top_k=5).verdict is FAILED
    itself = graphsurgery.verify(source, against=source, texts=texts, min_cosine=1, min_overlap=1, rank=1)
    assert itself.verdict is PASSED and itself.observations and not itself.warnings

    base = ["verify", str(lossy), "--against", str(source), "--texts", str(texts)]
    for verbose in ([], ["--verbose"]):
        assert run([*base, "--rank", "0.8", *verbose]) == OK
        printed = " ".join(capsys.readouterr().out.split())
        assert f"rank correlation of the similarities {rank:.6f}, at least 0.8 asked for" in printed
    assert f"PASSED rank correlation of the similarities {rank:.6f}" in printed
    assert "24 texts of" in report.checks[0].detail and "of up to 11 tokens; the worst text is" in report.checks[0].detail
    assert run([*base, "--top-k", "5", "--min-overlap", "0.9999", "--json"]) == VERDICT
    (check,) = json.loads(capsys.readouterr().out)["report"]["checks"]
    figure = check["figures"][3]
    assert figure == {
        "name": "share of the 5 nearest texts in common", "verdict": "FAILED", "value": common, "least": 0.9999, "cases": 24,
    }  # fmt: skip
    assert run([*base, "--top-k", "5"]) == VERDICT
    assert "no bound was given" in " ".join(capsys.readouterr().out.split())


def test_the_texts_of_the_package_are_the_default(files: tuple[Path, Path]) -> None:
    report = graphsurgery.verify(files[0], against=files[1], rank=0.5)
    assert report.verdict is PASSED and report.cases == min(len(bundled_texts(JUDGE)), module.MOST_PAIRED)
    assert "texts of the package" in report.checks[0].detail


def test_a_dependence_on_the_batch_is_a_warning(files: tuple[Path, Path]) -> None:
    spoilt = onnx.load(str(files[1]))
    plant = Plant(spoilt)
    mean = plant.append("ReduceMean", plant.out("mean/sum"), behind="mean/sum", axes=[0], keepdims=1)
    plant.before("mean/mean", 0, "Add", plant.append("Mul", mean, plant.constant(0.05), behind=mean))
    report = graphsurgery.verify(spoilt, against=files[1], texts=files[1].with_name("texts.txt"), rank=0.5)
    (said,) = report.warnings
    assert report and said.startswith("sentence_embedding of a text changes by up to") and "figures depend" in said


def test_what_cannot_be_judged_is_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    """With the reason, and with the way out."""
    lossy, source = files
    texts = source.with_name("texts.txt")
    alone = graphsurgery.load(source).to_proto()
    cases = (
        (alone, alone, {}, "judged on real text, and there is no tokenizer.json", "tokenizer.json of the model beside it"),
        (lossy, source, {"texts": texts, "atol": 1.0}, "--atol cannot be given with --top-k", "--min-cosine"),
        (lossy, source, {"texts": texts, "top_k": 23}, "24 text.s. are too few", "25 texts or more, or a smaller --top-k"),
        (lossy, source, {"texts": texts, "rank": 3.0}, "--rank must be between", "--rank 0.99"),
        (graphsurgery.truncate(source, 4).to_proto(), source, {}, "4 wide, and that of the source 8", "equally wide"),
        (graphsurgery.drop_input(graphsurgery.add_pooling(tiny_encoder(), "cls"), "attention_mask").to_proto(), source, {},
         "take different inputs", "the same inputs"),
        (tiny_encoder(), source, {}, "no float output in common", "add-pooling"),
    )  # fmt: skip
    for model, other, given, said, advice in cases:
        with pytest.raises(RequestError, match=said) as caught:
            graphsurgery.verify(model, against=other, **{"top_k": 3, **given})
        assert advice in caught.value.advice
    command = ["verify", str(lossy), "--against", str(source), "--top-k", "3", "--texts", str(tmp_path / "absent.txt")]
    assert run(command) == WRONG
    assert run(["verify", str(source), "--self", "--top-k", "3", "--rank", "0.5"]) == WRONG


def test_a_model_that_cannot_be_run_has_failed(files: tuple[Path, Path]) -> None:
    """And a source that cannot is nothing to judge by."""
    lossy, source = files
    broken = onnx.load(str(lossy))
    Plant(broken).node("mean/mean").op_type = "NoSuchOperator"
    given = {"texts": source.with_name("texts.txt"), "rank": 0.5}
    assert graphsurgery.verify(broken, against=source, **given).verdict is FAILED
    assert graphsurgery.verify(source, against=broken, **given).verdict is NOT_CHECKED
