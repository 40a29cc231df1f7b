"""Embedder: each text gets the vector that the file gives it alone, and nothing is cut or dropped in silence."""

from __future__ import annotations

import json
import shutil
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from time import sleep
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from baked_folders import normalize, put_json, transformer, write_folder
from conftest import FIXTURES
from encoders import FLOAT, tiny_encoder
from tokenizers import AddedToken, Tokenizer

import graphsurgery
from graphsurgery import Embedder, TruncationWarning
from graphsurgery.embedding import budgets, embedder
from graphsurgery.embedding.tokenizer import CHARACTERS_PER_TOKEN
from graphsurgery.errors import (
    FolderError,
    GraphSurgeryError,
    MissingPackageError,
    RequestError,
    SurroundingsError,
    UnsupportedModelError,
    WrongTypeError,
)
from graphsurgery.runtime import devices
from graphsurgery.runtime.session import Session

TEXTS = (
    "the cat sat", "a", "", "a vector of length one", "the cat sat", "it is cold today.",
)  # fmt: skip
LONGEST = 32
LONG = "the cat " * 40
CLOSE = 1e-6


@pytest.fixture(scope="module")
def baked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fixture of BERT, baked, with prompts."""
    folder = tmp_path_factory.mktemp("embedder") / "bert"
    shutil.copytree(FIXTURES / "bert", folder)
    put_json(folder / "config_sentence_transformers.json", {"prompts": {"query": "find: ", "passage": ""}})
    return graphsurgery.bake(folder, verify=False).folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(budgets.CACHE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model(baked: Path) -> Embedder:
    return Embedder(baked)


def alone(folder: Path, text: str, longest: int = LONGEST) -> np.ndarray:
    """The vector of one text, by tokenizers and ONNX Runtime alone."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(longest)
    encoded = tokenizer.encode(text)
    arrays = {"input_ids": encoded.ids, "attention_mask": encoded.attention_mask, "token_type_ids": encoded.type_ids}
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx")
    return session.run(["sentence_embedding"], {name: np.array([one]) for name, one in arrays.items()})[0][0]


# --- the vectors ----------------------------------------------------------------------------------------------------------


def test_each_text_has_its_own_vector_in_the_order_of_the_texts(baked: Path, model: Embedder) -> None:
    found = model.encode(TEXTS)
    assert found.dtype == np.float32 and found.shape == (len(TEXTS), 32)
    np.testing.assert_allclose(found, [alone(baked, text) for text in TEXTS], atol=CLOSE)
    assert model.encode(TEXTS[0]).shape == (32,) and np.array_equal(model.encode(TEXTS[0]), model.encode(TEXTS[:1])[0])
    assert model.encode([]).shape == (0, 32)


@pytest.mark.parametrize("budget", [1, 20, 4096])
def test_the_budget_and_the_window_change_nothing(budget: int, baked: Path, model: Embedder, monkeypatch) -> None:
    wanted = model.encode(TEXTS)
    monkeypatch.setattr(embedder, "WINDOW", 2)
    np.testing.assert_allclose(Embedder(baked, max_batch_tokens=budget).encode(TEXTS), wanted, atol=CLOSE)


def test_texts_are_run_in_batches_within_the_budget(baked: Path, monkeypatch) -> None:
    shapes: list[tuple[int, ...]] = []
    run = Session.run

    def spy(self: Session, feeds: Any, outputs: Any = None) -> Any:
        shapes.append(feeds["input_ids"].shape)
        return run(self, feeds, outputs)

    model = Embedder(baked, max_batch_tokens=24)
    monkeypatch.setattr(Session, "run", spy)
    model.encode(TEXTS)
    assert all(rows * columns <= 24 for rows, columns in shapes if rows > 1) and len(shapes) < len(TEXTS)
    assert [columns for _, columns in shapes] == sorted((columns for _, columns in shapes), reverse=True)


def test_many_threads_share_one(model: Embedder) -> None:
    wanted, found = model.encode(TEXTS), {}

    def work(place: int) -> None:
        found[place] = model.encode(TEXTS)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(found) == 4 and all(np.allclose(one, wanted, atol=CLOSE) for one in found.values())


def test_prompts(baked: Path, model: Embedder) -> None:
    assert model.prompts == {"query": "find: ", "passage": ""}
    query = alone(baked, "find: the cat")
    np.testing.assert_allclose(model.encode("the cat", "query"), query, atol=CLOSE)
    np.testing.assert_allclose(model.encode("the cat", prompt="find: "), query, atol=CLOSE)
    np.testing.assert_allclose(model.encode("the cat"), alone(baked, "the cat"), atol=CLOSE)
    with pytest.raises(RequestError, match=r"no prompt 'qery'") as caught:
        model.encode("the cat", "qery")
    assert "did you mean query?" in caught.value.advice


def test_the_default_prompt(baked: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(baked, tmp_path / "default")
    put_json(folder / "config_sentence_transformers.json", {"prompts": {"query": "find: "}, "default_prompt_name": "query"})
    np.testing.assert_allclose(Embedder(folder).encode("the cat"), alone(baked, "find: the cat"), atol=CLOSE)
    np.testing.assert_allclose(Embedder(folder).encode("the cat", prompt=""), alone(baked, "the cat"), atol=CLOSE)


def test_a_file_that_asks_for_the_length_of_the_prompt(baked: Path, tmp_path: Path) -> None:
    """The tokens of "find: " are left out of pooling; without a prompt, all are pooled."""
    bert = FIXTURES / "bert"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(bert / name, tmp_path / name)
    config = json.loads((bert / "tokenizer_config.json").read_text(encoding="utf-8"))
    put_json(tmp_path / "tokenizer_config.json", config | {"sep_token": "[SEP]"})  # special: it is none of the prompt's
    put_json(tmp_path / "config_sentence_transformers.json", {"prompts": {"query": "find: "}})
    pooled = graphsurgery.add_pooling(bert / "model.onnx", "mean", skip_prompt="input", keep_output=["last_hidden_state"])
    graphsurgery.save(pooled, tmp_path / "model.onnx")
    model = Embedder(tmp_path)
    (ids,) = model.tokenize(["the cat"], "query")
    count = len(model.tokenize(["find:"])[0]) - 1  # [CLS] and the prompt, without [SEP]
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    feed = {
        "input_ids": np.array([ids]),
        "attention_mask": np.ones((1, len(ids)), np.int64),
        "token_type_ids": np.zeros((1, len(ids)), np.int64),
    }
    hidden = session.run(["last_hidden_state"], feed | {"prompt_length": np.array([0])})[0][0]
    np.testing.assert_allclose(model.encode("the cat", "query"), hidden[count:].mean(0), atol=CLOSE)
    np.testing.assert_allclose(model.encode("find: the cat"), hidden.mean(0), atol=CLOSE)


def test_fewer_dims_are_normalised_again(model: Embedder) -> None:
    whole, part = model.encode(TEXTS), model.encode(TEXTS, dims=8)
    np.testing.assert_allclose(part, whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True), atol=CLOSE)
    assert np.array_equal(model.encode(TEXTS, dims=32), whole)
    for dims in (0, 33):
        with pytest.raises(RequestError, match=f"{dims} dims were asked for, and sentence_embedding has 32"):
            model.encode(TEXTS, dims=dims)


def test_dims_of_vectors_that_are_not_normalised_are_cut_alone(tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(FIXTURES / "bert" / name, tmp_path / name)
    graphsurgery.save(graphsurgery.add_pooling(FIXTURES / "bert" / "model.onnx", "mean"), tmp_path / "model.onnx")
    model = Embedder(tmp_path / "model.onnx")
    assert not model.is_normalized
    assert np.array_equal(model.encode(TEXTS, dims=8), model.encode(TEXTS)[:, :8])


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_precisions_are_those_of_the_edit(precision: str, baked: Path, model: Embedder, tmp_path: Path) -> None:
    """The bytes are those that `output-precision` puts into the graph."""
    vectors = model.encode(TEXTS)
    ranges = np.stack([vectors.min(0), vectors.max(0)]) if "int8" in precision else None
    given = {} if ranges is None else {"ranges": put_json(tmp_path / "ranges.json", ranges.tolist())}
    edited = graphsurgery.output_precision(baked / "onnx" / "model.onnx", precision, **given)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(baked / name, tmp_path / name)
    graphsurgery.save(edited, tmp_path / "model.onnx")
    inside, found = Embedder(tmp_path).encode(TEXTS), model.encode(TEXTS, precision=precision, ranges=ranges)
    assert found.dtype == inside.dtype and np.array_equal(found, inside)
    with pytest.raises(RequestError, match=r"gives .* already"):
        Embedder(tmp_path).encode(TEXTS, precision="float16")


def test_wrong_precisions(model: Embedder) -> None:
    assert model.encode(TEXTS, precision="float16").dtype == np.float16
    for precision, ranges, said in (
        ("int4", None, "no precision 'int4'"),
        ("int8", None, "needs the range of each dim"),
        ("binary", np.zeros((2, 32)), "takes no ranges"),
        ("uint8", np.zeros((2, 5)), r"ranges are \[2, 5\], and the vectors have 32 dims"),
    ):
        with pytest.raises(RequestError, match=said):
            model.encode(TEXTS, precision=precision, ranges=ranges)


def test_similarity(model: Embedder, monkeypatch) -> None:
    one, other = np.array([[1.0, 0], [3, 4]]), np.array([[0.0, 2], [3, 4], [1, 1]])
    wanted = {
        None: [[0, 0.6, 0.5**0.5], [0.8, 1, 7 / 50**0.5]],
        "dot": [[0, 3, 1], [8, 25, 7]],
        "euclidean": [[-(5**0.5), -(20**0.5), -1], [-(13**0.5), 0, -(13**0.5)]],
        "manhattan": [[-3, -6, -1], [-5, 0, -5]],
    }
    for name, values in wanted.items():
        model.config = SimpleNamespace(similarity=name)  # type: ignore[assignment]
        np.testing.assert_allclose(model.similarity(one, other), values, atol=1e-9)
    assert model.similarity(one[0], other).shape == (1, 3)
    with pytest.raises(RequestError, match="vectors of 2 and 3 dims"):
        model.similarity(one, np.zeros((1, 3)))


# --- long texts -----------------------------------------------------------------------------------------------------------


def test_a_cut_is_told(baked: Path, model: Embedder) -> None:
    assert model.max_length == LONGEST
    with pytest.warns(TruncationWarning, match="2 of 3 texts were cut at 32 tokens: 0, 2"):
        found = model.encode([LONG, "a", LONG])
    np.testing.assert_allclose(found[0], alone(baked, LONG), atol=CLOSE)
    told = model.embed(["a", LONG])
    (cut,) = told.cuts
    assert (cut.text, cut.kept, cut.tokens) == (
        1,
        LONGEST,
        len(Tokenizer.from_file(str(baked / "tokenizer.json")).encode(LONG)),
    )
    assert json.loads(json.dumps(told.to_json()))["cuts"] == [{"text": 1, "kept": LONGEST, "tokens": cut.tokens}]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.encode(TEXTS)


def test_a_long_text_is_an_error_if_asked(model: Embedder) -> None:
    with pytest.raises(RequestError, match=r"text 1 has .* tokens, and the model takes 32") as caught:
        model.encode(["a", LONG], on_long="error")
    assert 'on_long="split"' in caught.value.advice
    assert list(model.embed(["a", LONG], on_long="error", on_error="skip").errors) == [1]


def test_a_split_text_is_the_mean_of_its_parts(baked: Path, model: Embedder) -> None:
    tokenizer = Tokenizer.from_file(str(baked / "tokenizer.json"))
    tokenizer.enable_truncation(LONGEST)
    first = tokenizer.encode(LONG)
    session = onnxruntime.InferenceSession(baked / "onnx" / "model.onnx")
    total = np.zeros(32)
    for part in (first, *first.overflowing):
        ids = np.array([part.ids])
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        total += (ids.size - 2) * session.run(["sentence_embedding"], feed)[0][0]  # without [CLS] and [SEP]
    assert len(first.overflowing) > 1
    done = model.embed(["a", LONG, "the cat sat"], on_long="split")
    np.testing.assert_allclose(done.vectors[1], total / np.linalg.norm(total), atol=CLOSE)
    np.testing.assert_allclose(done.vectors[[0, 2]], model.encode(["a", "the cat sat"]), atol=CLOSE)
    assert not done.cuts and len(done.vectors) == 3


def test_characters_are_cut_before_tokens(model: Embedder, monkeypatch) -> None:
    """A huge text is not tokenised to its end, and that is told."""
    seen: list[int] = []
    inner = model.tokenizer._tokenizer
    model.tokenizer._tokenizer = SimpleNamespace(
        encode_batch=lambda texts, **more: seen.extend(map(len, texts)) or inner.encode_batch(texts, **more)
    )
    (cut,) = model.embed(["the cat " * 200_000]).cuts
    assert seen == [LONGEST * CHARACTERS_PER_TOKEN] and (cut.kept, cut.tokens) == (LONGEST, None)


def test_the_folder_decides_and_not_the_tokenizer(baked: Path, tmp_path: Path) -> None:
    """tokenizer.json pads every text to 24 and cuts at 8, as some programs save it; the folder says 20 tokens at most."""
    folder = shutil.copytree(baked, tmp_path / "own")
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    own.enable_padding(length=24)
    own.enable_truncation(8)
    own.save(str(folder / "tokenizer.json"))
    put_json(folder / "sentence_bert_config.json", {"max_seq_length": 20})
    model = Embedder(folder)
    assert [len(ids) for ids in model.tokenize(["a", LONG])] == [3, 20]
    with pytest.warns(TruncationWarning):
        np.testing.assert_allclose(model.encode(LONG), alone(baked, LONG, 20), atol=CLOSE)


# --- texts that cannot be embedded ----------------------------------------------------------------------------------------

BAD: list[Any] = [("a", "b"), "half \ud83d", 3, None, ["a", "b"]]


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_text_is_its_own_error(bad: Any, model: Embedder, monkeypatch) -> None:
    texts = ["the cat sat", bad, "a"]
    with pytest.raises(GraphSurgeryError, match=r"^text 1 ") as caught:
        model.encode(texts)
    assert caught.value.advice
    monkeypatch.setattr(embedder, "WINDOW", 2)
    done = model.embed(["a", *texts], on_error="skip")
    assert list(done.errors) == [2] and str(done.errors[2]).startswith("text 2 ")
    assert np.isnan(done.vectors[2]).all()
    np.testing.assert_allclose(done.vectors[[0, 1, 3]], model.encode(["a", "the cat sat", "a"]), atol=CLOSE)
    assert (model.embed(texts, on_error="skip", precision="ubinary").vectors[1] == 0).all()


def test_no_text_at_all_is_left(model: Embedder) -> None:
    done = model.embed(BAD, on_error="skip")
    assert done.vectors.shape == (len(BAD), 32) and sorted(done.errors) == list(range(len(BAD)))


def test_ids_beyond_the_table_are_refused(baked: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(baked, tmp_path / "other")
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    own.add_tokens([AddedToken(f"<{place}>") for place in range(600)])
    own.save(str(folder / "tokenizer.json"))
    with pytest.raises(RequestError, match=r"text 1 has the token id \d+, and the model's table has \d+ rows"):
        Embedder(folder).encode(["a", "<599>"])


def test_wrong_requests(model: Embedder) -> None:
    for given, error, said in (
        ({"texts": 5}, RequestError, "texts is int"),
        ({"texts": ["a"], "on_long": "cutt"}, RequestError, "on_long is 'cutt'"),
        ({"texts": ["a"], "on_error": "stop"}, RequestError, "on_error is 'stop'"),
        ({"texts": ["a"], "dims": "8"}, WrongTypeError, "dims must be a whole number or None"),
        ({"texts": ["a"], "prompt_name": 3}, WrongTypeError, "prompt_name must be text or None"),
    ):
        with pytest.raises(error, match=said):
            model.embed(**given)


# --- where it runs --------------------------------------------------------------------------------------------------------


def test_providers(baked: Path, monkeypatch) -> None:
    assert Embedder(baked, providers="cpu").providers == ["CPUExecutionProvider"]
    for asked, error, said in (
        ("cuda", MissingPackageError, "this ONNX Runtime has no CUDAExecutionProvider"),
        (["tensorrt", "cpu"], MissingPackageError, "has no TensorrtExecutionProvider"),
        ("cud", RequestError, "no provider 'cud'"),
        ([], RequestError, "no provider is given"),
    ):
        with pytest.raises(error, match=said) as caught:
            Embedder("there is no such folder", providers=asked)  # before anything is read
        assert caught.value.advice
    chosen = devices.choose_device("cpu")
    assert chosen.is_cpu and chosen.frees_memory
    monkeypatch.setattr(devices.onnxruntime, "get_available_providers", lambda: list(devices.PROVIDERS.values()))
    assert devices.choose_device("auto").providers == ("CUDAExecutionProvider", "CPUExecutionProvider")
    tensorrt = devices.choose_device("tensorrt", Path("cache"))
    assert tensorrt.options["TensorrtExecutionProvider"]["trt_engine_cache_path"] == "cache"
    with pytest.raises(MissingPackageError, match="cannot use CUDAExecutionProvider here"):
        Embedder(baked, providers="cuda")  # ONNX Runtime falls back to the CPU; a wheel may lack its libraries


def test_threads_are_those_of_the_container(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    new, old = tmp_path / "cpu.max", tmp_path / "cpu.cfs_quota_us"
    monkeypatch.setattr(devices, "QUOTAS", (new, old))
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    assert devices.count_processors() == 8
    for content, count in (("250000 100000", 2), ("max 100000", 8), ("50000 100000", 1), ("rubbish", 8)):
        new.write_text(content, encoding="ascii")
        assert devices.count_processors() == count
    new.unlink()
    old.write_text("300000", encoding="ascii")
    old.with_name("cpu.cfs_period_us").write_text("100000", encoding="ascii")
    assert devices.count_processors() == 3
    old.write_text("-1", encoding="ascii")
    assert devices.count_processors() == 8


@pytest.fixture
def measured(monkeypatch) -> Iterator[list[bool]]:
    calls: list[bool] = []
    monkeypatch.setattr(embedder, "MEASURED_FROM", 10)
    monkeypatch.setattr(budgets, "measure_budget", lambda *_, padded: calls.append(padded) or 1024)
    monkeypatch.setattr(budgets, "_time_run", lambda *_: 0.001)
    return calls


def test_the_budget_is_measured_once_on_a_machine(baked: Path, measured: list[bool], own_cache: Path, monkeypatch) -> None:
    model = Embedder(baked)
    assert model.embed(TEXTS[:3]).budget == 512 and not measured
    assert model.embed(TEXTS).budget == model.embed(TEXTS[:1]).budget == 1024 and measured == [True]
    assert Embedder(baked).embed(TEXTS).budget == 1024 and measured == [True]  # kept for the next process
    assert Embedder(baked, max_batch_tokens=64).embed(TEXTS).budget == 64
    Embedder(baked, threads=1).embed(TEXTS)
    assert measured == [True, True]
    for path in own_cache.rglob("*.json"):
        path.write_text("rubbish", encoding="ascii")
    assert Embedder(baked).embed(TEXTS).budget == 1024 and len(measured) == 3
    monkeypatch.setenv(budgets.CACHE, str(Path(__file__)))  # no folder: nothing can be kept
    assert Embedder(baked).embed(TEXTS).budget == 1024 and len(measured) == 4


def test_measuring_is_worth_its_time(baked: Path, measured: list[bool], monkeypatch) -> None:
    """A large model's budget is measured only if there is far more to embed."""
    monkeypatch.setattr(budgets, "_time_run", lambda *_: 1.0)
    assert Embedder(baked).embed(TEXTS).budget == 512 and not measured
    model = Embedder(baked)
    model.measure_budget(512 * budgets.RUNS / budgets.SHARE + 1)
    assert measured and model.embed(TEXTS).budget == 1024


def test_a_run_is_timed(model: Embedder) -> None:
    seconds = budgets._time_run(model._session, model._generator)
    assert 0 < seconds < 60


def test_progress_counts_texts(model: Embedder, monkeypatch) -> None:
    told: list[tuple[str, int, int]] = []
    monkeypatch.setattr(embedder, "WINDOW", 4)
    model.encode(TEXTS, progress=lambda *one: told.append(one))
    assert told[0] == ("embedding texts", 0, len(TEXTS)) and told[-1][1] >= 4
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


def test_an_interruption_ends_what_runs_on_other_threads(baked: Path, monkeypatch) -> None:
    model, ran = Embedder(baked, threads=2, max_batch_tokens=1), []
    run_once = Embedder._run_once

    def run_slowly(*given) -> np.ndarray:
        ran.append(1)
        sleep(0.01)
        return run_once(*given)

    def stop(_: str, done: int, all: int) -> None:
        if done:
            raise KeyboardInterrupt

    monkeypatch.setattr(Embedder, "_run_once", run_slowly)
    with pytest.raises(KeyboardInterrupt):
        model.encode(TEXTS * 10, progress=stop)
    before = len(ran)
    sleep(0.05)
    assert before <= len(ran) <= before + 2 < 10 * len(TEXTS)
    assert model.encode(TEXTS * 10).shape[0] == 10 * len(TEXTS)


# --- files of other kinds -------------------------------------------------------------------------------------------------


def place(model: graphsurgery.Model, folder: Path) -> Path:
    """A folder with ``model`` and the tokenizer of the fixture."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(FIXTURES / "bert" / name, folder / name)
    graphsurgery.save(model, folder / "model.onnx")
    return folder


@pytest.mark.parametrize(
    "change",
    [
        lambda one: graphsurgery.fix_dim(one, {"batch_size": 4, "sequence_length": 24}),
        lambda one: graphsurgery.fix_dim(one, {"batch_size": 1}),
        lambda one: graphsurgery.drop_input(one, "attention_mask", fill="ones"),
        lambda one: graphsurgery.input_type(one, "int32"),
        lambda one: graphsurgery.add_input(one, "segment_ids"),
        lambda one: graphsurgery.rename(one, {"input_ids": "ids", "attention_mask": "where", "sentence_embedding": "vector"}),
    ],
    ids=["fixed sizes", "batches of one", "without a mask", "int32", "an unread input", "other names"],
)
def test_inputs_are_those_of_the_file(change: Any, baked: Path, model: Embedder, tmp_path: Path) -> None:
    folder = place(change(graphsurgery.load(baked / "onnx" / "model.onnx")), tmp_path)
    np.testing.assert_allclose(Embedder(folder).encode(TEXTS), model.encode(TEXTS), atol=CLOSE)


def test_a_padding_free_file_is_planned_by_tokens(baked: Path, model: Embedder, tmp_path: Path, measured: list[bool]) -> None:
    packed = graphsurgery.run(
        [graphsurgery.PaddingFree()], baked / "onnx" / "model.onnx", output=tmp_path / "made.onnx", verify=False
    )
    other = Embedder(place(packed.model, tmp_path))
    np.testing.assert_allclose(other.encode(TEXTS), model.encode(TEXTS), atol=CLOSE)
    assert measured == [False, True]


def test_padding_in_front(tmp_path: Path) -> None:
    """Where the folder says so, texts are padded on the left, and the positions are those of the tokens."""
    folder = tmp_path / "left"
    shutil.copytree(FIXTURES / "qwen3", folder)
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    put_json(folder / "tokenizer_config.json", config | {"padding_side": "left"})
    made = graphsurgery.bake(folder, verify=False).folder
    model = Embedder(made)
    assert model.tokenization.side == "left"
    together = model.encode(TEXTS[:4])
    np.testing.assert_allclose(together, [model.encode(text) for text in TEXTS[:4]], atol=1e-5)


def test_texts_of_siglip_are_padded_to_its_length(tmp_path: Path) -> None:
    """Its text tower takes the vector of the last position, and has no mask: a text without padding has another vector."""
    text = transformer(modality_config={"text": {"method": "get_text_features"}}, module_output_name="sentence_embedding")
    folder = write_folder(tmp_path / "siglip", (text, normalize("1_Normalize")), at="")
    (folder / "onnx").mkdir()
    shutil.copyfile(FIXTURES / "towers" / "siglip.onnx", folder / "onnx" / "model.onnx")
    ours = Embedder(graphsurgery.bake(folder, verify=False).folder)
    texts = ["how are you", "It is cold today.", "fine"]
    session = onnxruntime.InferenceSession(ours.path)
    for ids, vector in zip(ours.tokenize(texts), ours.encode(texts), strict=True):
        padded = np.pad(ids, (0, 16 - len(ids)))
        assert np.abs(session.run(None, {"input_ids": padded[None]})[0][0] - vector).max() < CLOSE
    assert ours.mixes_lengths


def test_files_that_texts_do_not_feed(tmp_path: Path, baked: Path) -> None:
    unpooled = place(graphsurgery.load(FIXTURES / "bert" / "model.onnx"), tmp_path)
    with pytest.raises(UnsupportedModelError, match=r"no output \[batch, dim\]") as caught:
        Embedder(unpooled)
    assert "graphsurgery bake" in caught.value.advice
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(FolderError, match=r"no tokenizer\.json"):
        Embedder(tmp_path / "model.onnx")
    with pytest.raises(SurroundingsError, match="there is no"):
        Embedder(tmp_path / "nowhere")
    with pytest.raises(FolderError, match=r"no onnx/model\.onnx and no model\.onnx"):
        Embedder(tmp_path.parent)
    with pytest.raises(RequestError, match="there is no output 'embedding'"):
        Embedder(baked, output="embedding")
    with pytest.raises(RequestError, match="threads is 0"):
        Embedder(baked, threads=0)
    with pytest.raises(WrongTypeError, match="Embedder: model must be"):
        Embedder(5)  # type: ignore[arg-type]


def test_inputs_that_texts_do_not_give(tmp_path: Path) -> None:
    """They make no difference to the vectors, or the file is refused."""
    proto = tiny_encoder()
    proto.graph.input.append(onnx.helper.make_tensor_value_info("shift", FLOAT, [1]))
    proto.graph.node.append(onnx.helper.make_node("Identity", ["shift"], ["shown"]))
    proto.graph.output.append(onnx.helper.make_tensor_value_info("shown", FLOAT, [1]))
    apart = graphsurgery.add_pooling(proto, "mean", keep_output=["shown"])
    assert Embedder(place(apart, tmp_path)).encode(["a", "b"]).shape == (2, 8)
    proto.graph.node[-1].op_type = "Add"
    proto.graph.node[-1].input.append(proto.graph.output[0].name)
    proto.graph.output[-1].CopyFrom(onnx.helper.make_tensor_value_info("shown", FLOAT, ["batch", "seq", 8]))
    (tmp_path / "model.onnx").unlink()
    pooled = graphsurgery.add_pooling(proto, "mean", hidden_state="shown")
    with pytest.raises(UnsupportedModelError, match="sentence_embedding depends on shift"):
        Embedder(place(pooled, tmp_path))
