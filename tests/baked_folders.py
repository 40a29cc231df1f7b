"""Model folders written by hand around tiny encoders: no torch, no sentence-transformers, every file as small as it can be."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from encoders import FLOAT, tiny_encoder
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

OLD = "sentence_transformers.models."
HIDDEN = 8
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "how", "are", "you", "?", "It", "is", "cold", "today", ".", "fine", "query", ":")
Tree = dict[str, tuple[bytes, int]]


@dataclass(frozen=True)
class Entry:
    """A module: its class, its folder, its config and its weights."""

    kind: str
    place: str = ""
    config: Mapping[str, Any] | None = None
    weights: Mapping[str, np.ndarray] = field(default_factory=dict)
    config_name: str = "config.json"


def transformer(place: str = "", **settings: Any) -> Entry:
    return Entry("Transformer", place, settings or None, config_name="sentence_bert_config.json")


def pooling(mode: str | list[str] = "mean", place: str = "1_Pooling", dimension: int = HIDDEN, **more: Any) -> Entry:
    return Entry("Pooling", place, {"embedding_dimension": dimension, "pooling_mode": mode, **more})


def dense(
    rows: int = 6, columns: int = HIDDEN, place: str = "2_Dense", activation: str = "torch.nn.Tanh", **more: Any
) -> Entry:
    rng = np.random.default_rng(rows)
    weights = {"linear.weight": (rows, columns), "linear.bias": (rows,)}
    config = {"in_features": columns, "out_features": rows, "bias": True, "activation_function": activation, **more}
    return Entry("Dense", place, config, {name: drawn(rng, shape) for name, shape in weights.items()})


def normalize(place: str = "3_Normalize") -> Entry:
    return Entry("Normalize", place)


def drawn(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


USUAL = (transformer(), pooling(), normalize("2_Normalize"))


def write_folder(
    folder: Path, entries: Iterable[Entry] = USUAL, encoder: onnx.ModelProto | None = None, at: str = "onnx/model.onnx",
    tokenizer: bool = True,
) -> Path:  # fmt: skip
    """A model folder with these modules, the encoder at ``at`` (nowhere when it is "")."""
    folder.mkdir(parents=True)
    listed = []
    for number, entry in enumerate(entries):
        own = folder / entry.place
        own.mkdir(exist_ok=True)
        put(own, entry)
        listed.append({"idx": number, "name": str(number), "path": entry.place, "type": OLD + entry.kind})
    put_json(folder / "modules.json", listed)
    if at:
        (folder / at).parent.mkdir(exist_ok=True)
        (folder / at).write_bytes((encoder or tiny_encoder()).SerializeToString())
    if tokenizer:
        write_tokenizer(folder)
    return folder


def put(own: Path, entry: Entry) -> None:
    if entry.config is not None:
        put_json(own / entry.config_name, entry.config)
    if entry.weights:
        save_file(dict(entry.weights), own / "model.safetensors")


def put_json(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def write_tokenizer(folder: Path, **config: Any) -> None:
    """A tokenizer of a few words, as BERT's: [CLS] text [SEP]."""
    made = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.save(str(folder / "tokenizer.json"))
    put_json(
        folder / "tokenizer_config.json", {"pad_token": "[PAD]", "padding_side": "right", "model_max_length": 32, **config}
    )


def external(folder: Path, dtype: int = FLOAT) -> Path:
    """The folder's encoder with its tensors in a data file of its own."""
    model, path = tiny_encoder(dtype=dtype), folder / "onnx" / "model.onnx"
    onnx.save_model(
        model, str(path), save_as_external_data=True, location="model.onnx_data", size_threshold=0, convert_attribute=False
    )
    return path


def tree(folder: Path) -> Tree:
    """Every file below a folder: its bytes and when it was written; folders and links by their names."""
    found: Tree = {}
    for place, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(place, name)
            data = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
            found[path.relative_to(folder).as_posix()] = (data, path.lstat().st_mtime_ns)
    return found


def run_model(folder: Path, output: str, **feed: np.ndarray) -> np.ndarray:
    """An output of the ONNX file in a model folder, for the inputs that the file takes of ``feed``."""
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    return session.run([output], {value.name: feed[value.name] for value in session.get_inputs()})[0]
