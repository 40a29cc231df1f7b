"""Every module of sentence-transformers that can be baked, at least once: its own folder, its own vectors."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from exports import export_folder
from installed import needs_optimum
from saved_folders import TEXTS, feed_of, make_encoder, run_onnx, save
from sentence_transformers import CrossEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.sentence_transformer.modules import (
    CNN,
    LSTM,
    Dense,
    Normalize,
    Pooling,
    Router,
    StaticEmbedding,
    Transformer,
    WeightedLayerPooling,
    WordEmbeddings,
    WordWeights,
)
from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer
from sentence_transformers.sparse_encoder.modules import SpladePooling
from sentence_transformers.util import quantize_embeddings
from test_bake import command
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForMaskedLM, AutoModelForSequenceClassification

RELATIVE, UNIT = 1e-5, 1e-6
WORDS = sorted({word for text in TEXTS for word in text.replace(",", " ").replace(".", " ").split()})


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory):
    return make_encoder("bert", tmp_path_factory.mktemp("encoder"))


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(7)


def baked(folder: Path, capsys, *options: object) -> dict:
    code, told = command("bake", folder, *options, capsys=capsys)
    assert code == 0 and told["report"]["verdict"] == "PASSED", told
    return told


def model_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}-baked") / "onnx" / "model.onnx"


def run_torch(model: torch.nn.Module, feed: dict, output: str = "sentence_embedding") -> np.ndarray:
    with torch.no_grad():
        return model.eval()(dict(feed))[output].numpy()


def words() -> WordEmbeddings:
    """A table of word vectors with its whitespace tokenizer."""
    tokenizer = WhitespaceTokenizer(["PADDING_TOKEN", *WORDS], stop_words=set(), do_lower_case=False)
    return WordEmbeddings(tokenizer, torch.randn(len(WORDS) + 1, 12))


def word_feed(model: SentenceTransformer) -> dict:
    """Features with the text lengths, which LSTM needs."""
    found = model[0].preprocess(list(TEXTS))
    return {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}


WORD_MODELS = {
    "pooling alone": lambda: [Pooling(12, "max")],
    "WordWeights, mean": lambda: [weights(), Pooling(12, "mean")],
    "WordWeights, all means": lambda: [weights(), Pooling(12, ("mean", "mean_sqrt_len_tokens", "weightedmean"))],
    "CNN": lambda: [CNN(12, out_channels=6, kernel_sizes=[1, 3, 5]), Pooling(18, "max")],
    "LSTM": lambda: [LSTM(12, 7), Pooling(14, "mean")],
    "LSTM of two layers one way, Dense": lambda: [
        LSTM(12, 7, num_layers=2, bidirectional=False),
        Pooling(7, "lasttoken"),
        Dense(7, 5),
    ],
    "CNN, LSTM, Normalize": lambda: [CNN(12, 6, [3]), LSTM(6, 5), Pooling(10, "mean"), Normalize()],
}


def weights() -> WordWeights:
    rng = np.random.default_rng(3)
    return WordWeights(["PADDING_TOKEN", *WORDS], {word.lower(): float(rng.uniform(0.2, 3)) for word in WORDS[::2]}, 0.5)


@pytest.mark.parametrize("what", WORD_MODELS)
def test_word_models(what: str, tmp_path: Path, capsys, worst) -> None:
    """No ONNX file at all: the encoder is built from the table."""
    model = SentenceTransformer(modules=[words(), *WORD_MODELS[what]()], device="cpu")
    folder = save(model, tmp_path / "model", None)
    baked(folder, capsys)
    feed = word_feed(model)
    found = run_onnx(model_of(folder), {name: feed[name] for name in ("input_ids", "attention_mask")})["sentence_embedding"]
    worst.within("word models", found, run_torch(model, feed), UNIT if "Normalize" in what else RELATIVE * 4, what)


@pytest.mark.parametrize(("layers", "start"), [(3, 1), (3, 3), (3, 0)])
def test_weighted_layer_pooling(layers: int, start: int, bert, tmp_path: Path, capsys, worst) -> None:
    """Hidden layers found in the graph by structure."""
    first = Transformer(str(bert.folder), config_kwargs={"output_hidden_states": True})
    pooling = WeightedLayerPooling(32, num_hidden_layers=layers, layer_start=start)
    with torch.no_grad():
        pooling.layer_weights.copy_(torch.rand(pooling.layer_weights.shape) + 0.2)
    model = SentenceTransformer(modules=[first, pooling, Pooling(32, "mean"), Normalize()], device="cpu")
    folder = save(model, tmp_path / "model", bert.onnx)
    baked(folder, capsys)
    feed = feed_of(model)
    worst.within(
        "WeightedLayerPooling", run_onnx(model_of(folder), feed)["sentence_embedding"], run_torch(model, feed), UNIT, f"{start}"
    )


@pytest.mark.parametrize("unit", [False, True])
def test_static_embedding(unit: bool, bert, tmp_path: Path, capsys, worst) -> None:
    tokenizer = Tokenizer.from_file(str(bert.folder / "tokenizer.json"))
    static = StaticEmbedding(tokenizer, embedding_weights=torch.randn(tokenizer.get_vocab_size(), 16))
    model = SentenceTransformer(modules=[static, *([Normalize()] if unit else [])], device="cpu")
    folder = save(model, tmp_path / "model", None)
    baked(folder, capsys)
    alone = Tokenizer.from_file(str(bert.folder / "tokenizer.json"))  # the model's own pads nothing
    alone.enable_padding(pad_id=0, pad_token="[PAD]")
    encoded = alone.encode_batch(list(TEXTS), add_special_tokens=False)
    feed = {"input_ids": [one.ids for one in encoded], "attention_mask": [one.attention_mask for one in encoded]}
    found = run_onnx(model_of(folder), {name: torch.tensor(value) for name, value in feed.items()})["sentence_embedding"]
    worst.within("StaticEmbedding", found, model.encode(list(TEXTS)), UNIT if unit else RELATIVE * 4, f"unit {unit}")


@pytest.mark.parametrize("strategy", ["max", "sum"])
@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
def test_splade(strategy: str, activation: str, bert, tmp_path: Path, capsys, worst) -> None:
    source = head_model(AutoModelForMaskedLM, bert.folder, tmp_path / "mlm")
    onnx = export_folder(source, tmp_path / "export" / "model.onnx", "fill-mask")
    first = Transformer(str(source), transformer_task="fill-mask")
    model = SparseEncoder(modules=[first, SpladePooling(strategy, activation)], device="cpu")
    folder = save(model, tmp_path / "model", onnx)
    baked(folder, capsys)
    feed = feed_of(model)
    wanted = run_torch(model, feed)
    tokens = feed["attention_mask"].sum(dim=1).numpy()[:, None] if strategy == "sum" else 1
    allowed = RELATIVE * np.maximum(1, np.abs(wanted).max(axis=1, keepdims=True)) * tokens * np.ones_like(wanted)
    worst.within(
        "SpladePooling", run_onnx(model_of(folder), feed)["sentence_embedding"], wanted, allowed, f"{strategy} {activation}"
    )


def head_model(kind, folder: Path, into: Path, **settings: object) -> Path:
    """A model with a head of its own around the encoder's config, and the encoder's tokenizer."""
    model = kind.from_config(AutoConfig.from_pretrained(folder, **settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    model.save_pretrained(into)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(folder / name, into / name)
    return into


@pytest.mark.parametrize("route", ["query", "document"])
def test_router(route: str, bert, tmp_path: Path, capsys, worst) -> None:
    query = [bert.module("right"), Pooling(32, "cls"), Normalize()]
    document = [bert.module("right"), Pooling(32, "mean"), Dense(32, 20), Normalize()]
    model = SentenceTransformer(modules=[Router.for_query_document(query, document)], device="cpu")
    folder = save(model, tmp_path / "model", bert.onnx)
    baked(folder, capsys, "--route", route)
    feed = feed_of(SentenceTransformer(modules=[query[0]], device="cpu"))
    with torch.no_grad():
        wanted = model.eval()({**feed, "task": route})["sentence_embedding"].numpy()
    worst.within("Router", run_onnx(model_of(folder), feed)["sentence_embedding"], wanted, UNIT, route)


@pytest.mark.parametrize(
    ("labels", "activation"), [(1, None), (3, None), (1, torch.nn.Identity()), (3, torch.nn.Softmax(dim=1))], ids=str
)
def test_cross_encoder(labels: int, activation, bert, tmp_path: Path, capsys, worst) -> None:
    source = head_model(AutoModelForSequenceClassification, bert.folder, tmp_path / "classifier", num_labels=labels)
    onnx = export_folder(source, tmp_path / "export" / "model.onnx", "sequence-classification")
    model = CrossEncoder(str(source), activation_fn=activation, device="cpu")
    pairs = [(one, other) for one, other in zip(TEXTS, reversed(TEXTS), strict=True)]
    wanted = model.predict(pairs).reshape(len(pairs), -1)
    folder = tmp_path / "model"
    model.save_pretrained(str(folder))
    (folder / "onnx").mkdir()
    shutil.copyfile(onnx, folder / "onnx" / "model.onnx")
    baked(folder, capsys)
    encoded = model.tokenizer(*map(list, zip(*pairs, strict=True)), padding=True, truncation=True, return_tensors="pt")
    found = run_onnx(model_of(folder), dict(encoded))["scores"]
    worst.within("cross-encoders", found, wanted, RELATIVE * np.maximum(1, np.abs(wanted).max()), f"{labels} {activation}")


@pytest.mark.parametrize(("options", "length"), [((), 3), (("--skip-prompt", 3), 3), ((), 0)], ids=str)
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_prompt_that_is_not_pooled(side: str, options: tuple, length: int, bert, tmp_path: Path, capsys, worst) -> None:
    model = SentenceTransformer(
        modules=[bert.module(side), Pooling(32, "mean", include_prompt=False), Normalize()], device="cpu"
    )
    folder = save(model, tmp_path / "model", bert.onnx)
    told = baked(folder, capsys, *options)
    feed = feed_of(model)
    with torch.no_grad():
        wanted = model.eval()({**feed, "prompt_length": length})["sentence_embedding"].numpy()
    inputs = [value["name"] for value in told["interface"]["after"]["inputs"]]
    assert ("prompt_length" in inputs) == (not options), inputs
    assert not any("whole proof" in line for line in told["report"]["not_checked"]), told["report"]["not_checked"]
    extra = {} if options else {"prompt_length": torch.tensor([length])}
    worst.within(
        "include_prompt: false",
        run_onnx(model_of(folder), feed | extra)["sentence_embedding"],
        wanted,
        UNIT,
        f"{side} {length}",
    )


def test_several_dims_and_bytes(bert, tmp_path: Path, capsys, worst) -> None:
    model = SentenceTransformer(modules=[bert.module("right"), Pooling(32, "mean"), Normalize()], device="cpu")
    folder = save(model, tmp_path / "model", bert.onnx)
    feed = feed_of(model)
    whole = run_torch(model, feed)
    baked(folder, capsys, "--truncate-dim", "16,8", "-o", tmp_path / "dims")
    found = run_onnx(tmp_path / "dims" / "onnx" / "model.onnx", feed)
    for dim in (16, 8):
        cut = whole[:, :dim] / np.linalg.norm(whole[:, :dim], axis=1, keepdims=True)
        worst.within("truncate-dim", found[f"sentence_embedding_{dim}"], cut, UNIT, str(dim))
    ranges = np.vstack((whole.min(axis=0), whole.max(axis=0)))
    np.save(tmp_path / "ranges.npy", ranges)
    for precision in ("int8", "uint8", "binary", "ubinary"):
        options = ["--ranges", tmp_path / "ranges.npy"] if precision.endswith("int8") else []
        baked(folder, capsys, "--output-precision", precision, *options, "-o", tmp_path / precision)
        onnx = run_onnx(tmp_path / precision / "onnx" / "model.onnx", feed)["sentence_embedding"]
        wanted = quantize_embeddings(whole, precision, ranges)
        assert onnx.dtype == wanted.dtype and onnx.shape == wanted.shape
        steps = np.abs(onnx.astype(int) - wanted.astype(int))
        assert (
            steps.max() <= (1 if precision.endswith("int8") else 0) and (steps > 0).mean() < 0.1
        )  # ranges are the batch's own ends


def test_three_outputs_of_one_run(bert, tmp_path: Path, capsys, worst) -> None:
    """bge-m3: dense, sparse and late-interaction vectors, against the formulas of its paper in torch."""
    model = SentenceTransformer(modules=[bert.module("right"), Pooling(32, "cls"), Normalize()], device="cpu")
    folder = save(model, tmp_path / "model", bert.onnx)
    sparse, colbert = torch.nn.Linear(32, 1), torch.nn.Linear(32, 32)
    torch.save(sparse.state_dict(), folder / "sparse_linear.pt")
    torch.save(colbert.state_dict(), folder / "colbert_linear.pt")
    baked(folder, capsys, "--keep-output", "sparse_weights", "--keep-output", "colbert_vectors")
    feed = feed_of(model)
    found = run_onnx(model_of(folder), feed)
    assert list(found) == ["sentence_embedding", "sparse_weights", "colbert_vectors"]
    with torch.no_grad():
        hidden = model[0](dict(feed))["token_embeddings"]
        mask = feed["attention_mask"][:, :, None].float()
        wanted = torch.relu(sparse(hidden)) * mask
        vectors = torch.nn.functional.normalize(colbert(hidden[:, 1:]) * mask[:, 1:], dim=-1)
    worst.within("bge-m3 dense", found["sentence_embedding"], run_torch(model, feed), UNIT)
    worst.within("bge-m3 sparse", found["sparse_weights"], wanted.numpy(), RELATIVE * 4)
    worst.within("bge-m3 late interaction", found["colbert_vectors"][:, 1:], vectors.numpy(), UNIT)
    assert not found["colbert_vectors"][:, 0].any()


@needs_optimum
def test_sentence_transformers_loads_it(bert, tmp_path: Path, capsys, worst) -> None:
    """A folder that keeps its hidden state is one for sentence-transformers' own ONNX backend as well."""
    torch.manual_seed(3)
    model = SentenceTransformer(
        modules=[bert.module("right"), Pooling(32, ("cls", "mean")), Dense(64, 24), Normalize()], device="cpu"
    )
    folder = save(model, tmp_path / "model", bert.onnx)
    baked(folder, capsys, "--keep-output", "token_embeddings")
    wanted = model.encode(list(TEXTS))
    loaded = SentenceTransformer(str(tmp_path / "model-baked"), backend="onnx", device="cpu", local_files_only=True)
    worst.within("baked folder in sentence-transformers' ONNX backend", loaded.encode(list(TEXTS)), wanted, UNIT)
    found = run_onnx(model_of(folder), feed_of(model))
    assert list(found) == ["sentence_embedding", "last_hidden_state"]
    worst.within("the same folder's own embedding", found["sentence_embedding"], wanted, UNIT)
