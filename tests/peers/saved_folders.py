"""Model folders as sentence-transformers writes them, around small encoders with random weights."""

from __future__ import annotations

import functools
import json
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from exports import FIXTURES, export_folder
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer

sys.path.insert(0, str(FIXTURES))
import encoders
import tokenizers_tiny as tiny
from architectures import COMMITTED, ON_REQUEST, Architecture, sizes
from folders import OLD_KEYS, write_tokenizer
from tokenizers_tiny import make_tokenizer

GEMMA = Architecture(
    "gemma3",
    "gemma3_text",
    tiny.QWEN3,
    sizes(32, 2, num_key_value_heads=2, head_dim=8, sliding_window=16, use_bidirectional_attention=True),
    31,
    special_ids={"bos_token_id": 0, "eos_token_id": 0},
)
ARCHITECTURES = {one.name: one for one in (*COMMITTED, *ON_REQUEST, GEMMA)}
PLACE = tempfile.TemporaryDirectory(prefix="encoders-")
TEXTS = (
    "The kettle has been boiling for ten minutes, and nobody turned off the stove.",
    "hi",
    "a longer text of several words that fills the batch up to its end, or nearly so",
    "two words",
    "ok",
    "What is a padding side, and who decides it?",
)
OLD_PATHS = {
    kind: f"sentence_transformers.models.{kind}"
    for kind in ("Transformer", "Pooling", "Dense", "Normalize", "LayerNorm", "Dropout", "CNN", "LSTM", "WordWeights",
                 "WeightedLayerPooling", "StaticEmbedding", "WordEmbeddings", "Router")
}  # fmt: skip


@dataclass(frozen=True)
class Encoder:
    """A transformer in PyTorch's form and in ONNX's, with its tokenizer, in one folder."""

    folder: Path

    @property
    def onnx(self) -> Path:
        return self.folder / "model.onnx"

    def module(self, side: str) -> Transformer:
        """As sentence-transformers' Transformer, padding on ``side``."""
        found = Transformer(str(self.folder))
        found.tokenizer.padding_side = side
        return found


def make_encoder(name: str, parent: Path) -> Encoder:
    """One of the fixtures' architectures with everything that sentence-transformers loads, in ``<parent>/<name>``."""
    return Encoder(Path(shutil.copytree(export_once(name), parent / name)))


@functools.cache
def export_once(name: str) -> Path:
    """Make an architecture's folder with its ONNX file once in this process."""
    encoder = write_folder(name, Path(PLACE.name))
    export_folder(encoder.folder, encoder.onnx)
    return encoder.folder


def write_folder(name: str, parent: Path) -> Encoder:
    """As `make_encoder`, without the ONNX file."""
    folder = parent / name
    folder.mkdir()
    architecture = ARCHITECTURES[name]
    tokenizer = make_tokenizer(architecture.tokens)
    encoders.make_encoder(architecture, tokenizer.get_vocab_size()).save_pretrained(folder)
    write_tokenizer(architecture, tokenizer, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings["model_input_names"] = [one for one in architecture.inputs if one != "position_ids"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return Encoder(folder)


def save(model: SentenceTransformer, folder: Path, onnx: Path | None) -> Path:
    """``model`` saved by itself, the ONNX file of its encoder put where exporters put it."""
    model.save(str(folder), create_model_card=False)
    if onnx is not None:
        (folder / "onnx").mkdir()
        shutil.copyfile(onnx, folder / "onnx" / "model.onnx")
    return folder


def age(folder: Path) -> None:
    """Rewrite a saved folder in the form of sentence-transformers up to 5.3: class paths, pooling booleans, .bin weights."""
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    for module in modules:
        module["type"] = OLD_PATHS[module["type"].rpartition(".")[2]]
        own = folder / module["path"]
        if module["type"].endswith("Pooling") and (own / "config.json").is_file():
            config = json.loads((own / "config.json").read_text(encoding="utf-8"))
            modes = config["pooling_mode"]
            booleans = {key: mode in modes for mode, key in OLD_KEYS.items()}
            old = {"word_embedding_dimension": config["embedding_dimension"], **booleans}
            (own / "config.json").write_text(json.dumps(old), encoding="utf-8")
        weights = own / "model.safetensors"
        if module["path"] and weights.is_file():
            from safetensors.torch import load_file

            torch.save(load_file(weights), own / "pytorch_model.bin")
            weights.unlink()
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    for name in ("config_sentence_transformers.json",):
        (folder / name).unlink(missing_ok=True)
    (folder / "sentence_bert_config.json").rename(folder / "sentence_roberta_config.json")


def feed_of(model: SentenceTransformer, texts: tuple[str, ...] = TEXTS) -> dict[str, torch.Tensor]:
    """What the model's own tokenizer gives for texts, padded to the longest."""
    found = model.preprocess(list(texts)) if hasattr(model, "preprocess") else model.tokenize(list(texts))
    return {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}


def run_onnx(path: Path, feed: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Every output of an ONNX file; position ids are counted where it takes them."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    arrays = {name: value.numpy() for name, value in feed.items()}
    if "attention_mask" in arrays:
        arrays["position_ids"] = np.maximum(np.cumsum(arrays["attention_mask"], axis=1) - 1, 0)
    arrays.setdefault("token_type_ids", np.zeros_like(arrays["input_ids"]))
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, {v.name: arrays[v.name] for v in session.get_inputs()}), strict=True))


def through_modules(model: SentenceTransformer, features: dict) -> dict:
    """``features`` through every module but the first."""
    with torch.no_grad():
        for module in list(model)[1:]:
            features = module(features)
    return features
