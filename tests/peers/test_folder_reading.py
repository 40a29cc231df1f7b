"""What PyTorch and sentence-transformers themselves write into model folders, read without them."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Router, Transformer
from sentence_transformers.cross_encoder.modules import LogitScore
from sentence_transformers.sentence_transformer import modules as st
from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer
from sentence_transformers.sparse_encoder import modules as sparse
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import BertConfig, BertForMaskedLM, BertModel, PreTrainedTokenizerFast

from graphsurgery.errors import WeightsError
from graphsurgery.folders.modules import KINDS, read_modules
from graphsurgery.folders.pooling_config import parse_pooling
from graphsurgery.folders.router import read_default_route, read_route_mappings, read_routes
from graphsurgery.folders.transformer_config import (
    EncoderConfig,
    choose_score_activation,
    read_encoder_config,
    read_folder_config,
    read_transformer_settings,
)
from graphsurgery.folders.weights import Weights, read_weights

WORDS = ("[PAD]", "[UNK]", "the", "kettle", "boils")
DIM = 8


def state_dict(unsigned: bool = True) -> OrderedDict[str, torch.Tensor]:
    """Tensors of every dtype, laid out in every way that a state dict can hold."""
    generator = torch.Generator().manual_seed(7)
    base = torch.randn(5, 7, 3, generator=generator)
    found = OrderedDict(
        base=base,
        tied=base,
        transposed=base.transpose(0, 2),
        sliced=base[1:4, ::2, 1],
        repeated=torch.randn(3, 1, generator=generator).expand(3, 6),
        parameter=torch.nn.Parameter(base[0].clone()),
        frozen=torch.nn.Parameter(torch.arange(4), requires_grad=False),
        scalar=torch.tensor(3.5),
        empty=torch.zeros(0, 3),
        flags=torch.tensor([True, False, True]),
    )
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        found[str(dtype)] = torch.randn(4, 3, generator=generator).to(dtype).t()
    for dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8):
        found[str(dtype)] = torch.arange(6).to(dtype)[1::2]
    if unsigned:
        found |= {str(dtype): torch.arange(6).to(dtype) for dtype in (torch.uint16, torch.uint32)}
    return found


def same(found: Weights, expected: dict[str, torch.Tensor]) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert f"torch.{found[name].dtype.name}" == str(tensor.dtype), name
        assert found[name].shape == tuple(tensor.shape) == found.shape(name), name
        assert found[name].flags.c_contiguous and not found[name].flags.writeable, name
        assert np.array_equal(found[name].astype(np.float64), tensor.detach().to(torch.float64).numpy()), name


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_saves(zipped: bool, protocol: int, tmp_path: Path) -> None:
    path, expected = tmp_path / "pytorch_model.bin", state_dict(unsigned=zipped)
    torch.save(expected, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    same(read_weights(path), expected)


def test_what_a_module_saves(tmp_path: Path) -> None:
    """With the versions that a module's own state dict carries along."""
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.LSTM(3, 2, bidirectional=True))
    torch.save(module.state_dict(), tmp_path / "a.pt")
    same(read_weights(tmp_path / "a.pt"), module.state_dict())


@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_module_is_refused_by_name(zipped: bool, tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "a.bin", _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"torch\.nn\.modules\.linear\.Linear"):
        read_weights(tmp_path / "a.bin")


def test_torchscript_is_refused(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "a.pt"))
    with pytest.raises(WeightsError, match="__torch__"):
        read_weights(tmp_path / "a.pt")


def test_what_safetensors_saves(tmp_path: Path) -> None:
    expected = {name: tensor.detach().clone().contiguous() for name, tensor in state_dict().items()}
    save_file(expected, tmp_path / "model.safetensors")
    found = read_weights(tmp_path)
    same(found, {name: expected[name] for name in found})
    assert set(found) == set(expected)


# --- modules --------------------------------------------------------------------------------------------------------------


def tokenizer() -> Tokenizer:
    found = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, "[UNK]"))
    found.pre_tokenizer = Whitespace()
    return found


def fast_tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer(), pad_token="[PAD]", unk_token="[UNK]", model_max_length=32)


def bert_config() -> BertConfig:
    return BertConfig(
        vocab_size=len(WORDS), hidden_size=DIM, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, pad_token_id=0
    )


def transformer(folder: Path, **settings: object) -> Transformer:
    folder.mkdir(exist_ok=True)
    made = BertForMaskedLM if settings.get("transformer_task") == "fill-mask" else BertModel
    made(bert_config()).save_pretrained(folder)
    fast_tokenizer().save_pretrained(folder)
    return Transformer(str(folder), **settings)


EXAMPLES: dict[str, Callable[[], torch.nn.Module]] = {
    "Pooling": lambda: st.Pooling(DIM, ["mean", "cls"]),
    "Dense": lambda: st.Dense(DIM, 4, activation_function=torch.nn.GELU()),
    "Normalize": st.Normalize,
    "LayerNorm": lambda: st.LayerNorm(DIM),
    "Dropout": lambda: st.Dropout(0.5),
    "WeightedLayerPooling": lambda: st.WeightedLayerPooling(DIM, 2, 1),
    "WordWeights": lambda: st.WordWeights(list(WORDS), {"the": 0.1, "kettle": 2.5}, 1),
    "WordEmbeddings": lambda: st.WordEmbeddings(WhitespaceTokenizer(list(WORDS)), torch.randn(len(WORDS), DIM)),
    "CNN": lambda: st.CNN(DIM, 4, [1, 3]),
    "LSTM": lambda: st.LSTM(DIM, 3),
    "BoW": lambda: st.BoW(list(WORDS)),
    "StaticEmbedding": lambda: st.StaticEmbedding(tokenizer(), embedding_dim=DIM),
    "SpladePooling": lambda: sparse.SpladePooling("sum", embedding_dimension=len(WORDS)),
    "SparseStaticEmbedding": lambda: sparse.SparseStaticEmbedding(fast_tokenizer()),
    "SparseAutoEncoder": lambda: sparse.SparseAutoEncoder(DIM, 16, 2),
    "LogitScore": lambda: LogitScore(3, 2),
}
BUILT_ELSEWHERE = {"Transformer", "CLIPModel", "Router"}


def test_every_kind_has_an_example() -> None:
    """And every class that sentence-transformers exports is a kind, but for its abstract ones."""
    assert set(EXAMPLES) | BUILT_ELSEWHERE == set(KINDS)
    exported = {*st.__all__, *sparse.__all__, "LogitScore"}
    assert exported - {"Module", "InputModule", "Asym", "MLMTransformer"} == set(KINDS)


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
@pytest.mark.parametrize("kind", EXAMPLES)
def test_every_module_that_sentence_transformers_saves(kind: str, safe: bool, tmp_path: Path) -> None:
    made = EXAMPLES[kind]()
    model = SentenceTransformer(modules=[made], device="cpu")
    model.save(str(tmp_path), safe_serialization=safe, create_model_card=False)
    (found,) = read_modules(tmp_path)
    assert (found.kind, found.name, found.path) == (kind, "0", tmp_path / ("" if made.save_in_root else f"0_{kind}"))
    assert found.type == f"{type(made).__module__}.{kind}"
    expected = json.loads(json.dumps({} if kind in ("Normalize", "StaticEmbedding") else made.get_config_dict()))
    assert found.config == expected
    if made.state_dict():
        weights = read_weights(found.path)
        assert set(weights) <= set(made.state_dict()) and weights
        for name in weights:
            assert np.array_equal(weights[name], made.state_dict()[name].numpy()), name


def test_a_whole_model(tmp_path: Path) -> None:
    encoder = transformer(tmp_path / "encoder", max_seq_length=16)
    parts = [encoder, st.Pooling(DIM, "lasttoken", include_prompt=False), st.Dense(DIM, 4), st.Normalize()]
    model = SentenceTransformer(
        modules=parts, device="cpu", prompts={"query": "the "}, similarity_fn_name="dot", truncate_dim=3
    )
    folder = tmp_path / "saved"
    model.save(str(folder), create_model_card=False)
    modules = read_modules(folder)
    assert [module.kind for module in modules] == ["Transformer", "Pooling", "Dense", "Normalize"]
    assert modules[0].path == folder
    pooling = parse_pooling(modules[1].config, modules[1].path)
    assert (pooling.modes, pooling.include_prompt, pooling.dimension, pooling.unknown) == (("lasttoken",), False, DIM, ())
    settings = read_transformer_settings(modules[0])
    assert (settings.task, settings.output_name, settings.method) == ("feature-extraction", "token_embeddings", "forward")
    config = read_encoder_config(folder)
    assert config is not None and (config.model_type, config.pad_token_id, config.num_labels) == ("bert", 0, 2)
    about = read_folder_config(folder)
    assert about.prompts == {"query": "the ", "document": ""}
    assert (about.model_type, about.similarity, about.truncate_dim) == ("SentenceTransformer", "dot", 3)


def test_a_splade_model(tmp_path: Path) -> None:
    encoder = transformer(tmp_path / "encoder", transformer_task="fill-mask")
    SentenceTransformer(modules=[encoder, sparse.SpladePooling()], device="cpu").save(str(tmp_path), create_model_card=False)
    first, second = read_modules(tmp_path)
    assert (second.kind, second.config["pooling_strategy"]) == ("SpladePooling", "max")
    settings = read_transformer_settings(first)
    assert (settings.task, settings.output_name) == ("fill-mask", "token_embeddings")


def test_a_router(tmp_path: Path) -> None:
    sides = {
        "query": [st.StaticEmbedding(tokenizer(), embedding_dim=DIM)],
        "document": [EXAMPLES["StaticEmbedding"](), Dense(DIM, DIM)],
    }
    mappings = {("query", None): "query", (None, ("text", "image")): "document"}
    router = Router(sides, default_route="document", route_mappings=mappings)
    SentenceTransformer(modules=[router, st.Normalize()], device="cpu").save(str(tmp_path), create_model_card=False)
    first, second = read_modules(tmp_path)
    assert (first.kind, second.kind) == ("Router", "Normalize")
    found = read_routes(first)
    assert {name: [module.kind for module in steps] for name, steps in found.items()} == {
        "query": ["StaticEmbedding"],
        "document": ["StaticEmbedding", "Dense"],
    }
    assert read_default_route(first) == "document"
    assert (
        read_route_mappings(first) == {("query", None): "query", (None, ("image", "text")): "document"} == router.route_mappings
    )
    weights = read_weights(found["document"][1].path)
    assert np.array_equal(weights["linear.weight"], sides["document"][1].linear.weight.detach().numpy())


@pytest.mark.parametrize(
    "config", [{}, {"id2label": {"0": "a", "1": "b", "2": "c"}}, {"num_labels": 1}, {"id2label": {"0": "a"}}]
)
def test_labels_are_counted_as_transformers_counts_them(config: dict, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", **config}), encoding="utf-8")
    found = read_encoder_config(tmp_path)
    assert isinstance(found, EncoderConfig)
    assert found.num_labels == BertConfig.from_pretrained(tmp_path).num_labels
    expected = "torch.nn.Sigmoid" if found.num_labels == 1 else "torch.nn.Identity"
    assert choose_score_activation(read_folder_config(tmp_path), found, found.num_labels) == expected
