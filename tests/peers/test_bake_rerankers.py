"""Cross-encoders from the encoder's export alone, and rerankers that answer yes or no, against sentence-transformers itself.

Exports are made with PyTorch's own exporter, so that the tests run beside every version of transformers.
"""

from __future__ import annotations

import json
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from exports import FIXTURES
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.cross_encoder.modules import LogitScore
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from transformers import (
    AlbertConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    CamembertConfig,
    DebertaConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ErnieConfig,
    Gemma2Config,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    ModernBertConfig,
    MPNetConfig,
    Qwen2Config,
    Qwen3Config,
    RobertaConfig,
    XLMRobertaConfig,
)

from graphsurgery.cli.main import run

sys.path.insert(0, str(FIXTURES))
import tokenizers_tiny as tiny

pytestmark = pytest.mark.usefixtures("short_texts")

PAIRS = [
    ("How are you?", "The kettle has been boiling for ten minutes, and nobody turned off the stove."),
    ("hi", "two words"),
    ("What is a padding side, and who decides it?", "ok"),
    ("a longer text of several words", "that fills the batch up to its end, or nearly so"),
]
ALLOWED = 1e-5
PLAIN_MASKS = 5
"""From this version on transformers makes masks that PyTorch's exporter can follow."""
MAJOR = int(version("transformers").partition(".")[0])
SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 80,
}  # fmt: skip
DISTIL = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 80}
DECODER = SMALL | {"use_cache": False, "num_key_value_heads": 2, "head_dim": 8}
CLASSIFIERS: dict[str, tuple[type, dict[str, Any]]] = {
    "bert": (BertConfig, SMALL),
    "roberta": (RobertaConfig, SMALL),
    "xlm-roberta": (XLMRobertaConfig, SMALL),
    "mpnet": (MPNetConfig, SMALL),
    "electra": (ElectraConfig, SMALL | {"embedding_size": 32}),
    "distilbert": (DistilBertConfig, DISTIL),
    "albert": (AlbertConfig, SMALL | {"embedding_size": 16}),
    "deberta-v2": (DebertaV2Config, SMALL | {"pooler_hidden_size": 32}),
    "modernbert, cls": (ModernBertConfig, SMALL | {"classifier_pooling": "cls"}),
    "modernbert, mean": (ModernBertConfig, SMALL | {"classifier_pooling": "mean"}),
    "ernie": (ErnieConfig, SMALL),
    "camembert": (CamembertConfig, SMALL),
    "deberta": (DebertaConfig, SMALL | {"pooler_hidden_size": 32}),
    "qwen3": (Qwen3Config, DECODER),
    "qwen2": (Qwen2Config, SMALL | {"num_key_value_heads": 2}),
    "llama": (LlamaConfig, DECODER),
    "mistral": (MistralConfig, DECODER),
    "gemma": (GemmaConfig, DECODER),
    "gemma2": (Gemma2Config, DECODER),
}


def bake(folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Bake a folder through the command line, proven. Return the notes."""
    capsys.readouterr()
    code = run(["bake", str(folder), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert code == 0 and told["report"]["verdict"] == "PASSED", told
    return told["notes"]


def scores_of(folder: Path, feed: dict[str, torch.Tensor]) -> np.ndarray:
    """The scores that the file baked from ``folder`` gives."""
    place = folder.with_name(f"{folder.name}-baked") / "onnx" / "model.onnx"
    session = onnxruntime.InferenceSession(place, providers=["CPUExecutionProvider"])
    arrays = {name: value.numpy() for name, value in feed.items()}
    arrays["position_ids"] = np.maximum(np.cumsum(arrays["attention_mask"], axis=1) - 1, 0)
    return session.run(["scores"], {value.name: arrays[value.name] for value in session.get_inputs()})[0]


class Output(torch.nn.Module):
    """A model with one output, as exporters want it."""

    def __init__(self, model: torch.nn.Module, inputs: list[str], output: str) -> None:
        super().__init__()
        self.model, self.inputs, self.output = model, inputs, output

    def forward(self, *arrays: torch.Tensor) -> torch.Tensor:
        return getattr(self.model(**dict(zip(self.inputs, arrays, strict=True))), self.output)


def export(model: torch.nn.Module, inputs: list[str], output: str, path: Path) -> None:
    """``inputs`` int64 ``[batch, seq]`` -> ``output [batch, seq, dim]``."""
    path.parent.mkdir(parents=True)
    if hasattr(model.config, "num_key_value_heads") and MAJOR < PLAIN_MASKS:
        export_with_optimum(model, output, path)
        return
    arrays = {"input_ids": torch.randint(5, 60, (2, 7)), "attention_mask": torch.tensor([[1] * 7, [0, 0, 1, 1, 1, 1, 1]])}
    given = tuple(arrays.get(name, torch.zeros(2, 7, dtype=torch.int64)) for name in inputs)
    axes = {name: {0: "batch", 1: "sequence"} for name in (*inputs, output)}
    torch.onnx.export(
        Output(model.eval(), inputs, output), given, path, input_names=inputs, output_names=[output], dynamic_axes=axes,
        opset_version=17, dynamo=False,
    )  # fmt: skip


def export_with_optimum(model: torch.nn.Module, output: str, path: Path) -> None:
    """A decoder of transformers 4, whose masks PyTorch's exporter cannot follow. It takes position_ids, too."""
    from optimum.exporters.onnx import onnx_export_from_model

    task = "text-generation" if output == "logits" else "feature-extraction"
    onnx_export_from_model(model, path.parent, task=task, do_validation=False)


def feed_of(model: CrossEncoder) -> dict[str, torch.Tensor]:
    """What the model's own tokenizer makes of `PAIRS`."""
    return {name: value for name, value in model.preprocess(PAIRS).items() if isinstance(value, torch.Tensor)}


def save(kind: Any, config: type, settings: dict[str, Any], plan: Any, folder: Path, **more: Any) -> torch.nn.Module:
    """A small model of random weights, saved with a tokenizer."""
    torch.manual_seed(4)
    tokenizer = tiny.make_tokenizer(plan)
    pad = tokenizer.token_to_id(plan.pad)
    made = config(vocab_size=tokenizer.get_vocab_size(), pad_token_id=pad, attn_implementation="eager", **settings, **more)
    model = kind.from_config(made).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": plan.pad, "model_max_length": 64,
            "model_input_names": ["input_ids", "attention_mask"]}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(told), encoding="utf-8")
    return model


PLANS = {
    **dict.fromkeys(("bert", "distilbert", "electra", "ernie"), tiny.BERT),
    **dict.fromkeys(("xlm-roberta", "camembert"), tiny.XLMR),
    **dict.fromkeys(("roberta", "deberta"), tiny.ROBERTA),
    "albert": tiny.ALBERT, "deberta-v2": tiny.DEBERTA, "mpnet": tiny.MPNET,
}  # fmt: skip


@pytest.mark.parametrize(("name", "labels"), [*((name, 1) for name in CLASSIFIERS), ("bert", 3), ("qwen3", 3)])
def test_classifiers_without_their_head(name: str, labels: int, tmp_path: Path, capsys, worst) -> None:
    """The encoder's hidden state is exported, and the head comes from the weights that transformers saved."""
    config, settings = CLASSIFIERS[name]
    plan, folder = PLANS.get(name, tiny.QWEN3 if settings.get("num_key_value_heads") else tiny.MODERNBERT), tmp_path / "model"
    whole = save(AutoModelForSequenceClassification, config, settings, plan, folder, num_labels=labels)
    model = CrossEncoder(str(folder), device="cpu")
    feed = feed_of(model)
    export(whole.base_model, list(feed), "last_hidden_state", folder / "onnx" / "model.onnx")
    assert any("the file has no head" in note for note in bake(folder, capsys))
    wanted = model.predict(PAIRS).reshape(len(PAIRS), labels)
    found = scores_of(folder, feed)
    worst.within("classifiers without their head", found, wanted, ALLOWED * max(1, np.abs(wanted).max()), f"{name}, {labels}")


@pytest.mark.parametrize("no", [True, False], ids=["yes or no", "yes alone"])
@pytest.mark.parametrize("activation", [None, torch.nn.Identity()], ids=["sigmoid", "identity"])
def test_rerankers_that_answer_yes_or_no(no: bool, activation, tmp_path: Path, capsys, worst) -> None:
    source, folder = tmp_path / "source", tmp_path / "model"
    whole = save(AutoModelForCausalLM, Qwen3Config, DECODER, tiny.QWEN3, source)
    first = Transformer(str(source), transformer_task="text-generation")
    model = CrossEncoder(modules=[first, LogitScore(41, 57 if no else None)], activation_fn=activation, device="cpu")
    wanted = model.predict(PAIRS)[:, None]
    model.save_pretrained(str(folder))
    feed = feed_of(model)
    assert (feed["attention_mask"][:, 0] == 0).any(), "padding is in front"
    feed = {name: feed[name] for name in ("input_ids", "attention_mask")}
    export(whole, list(feed), "logits", folder / "onnx" / "model.onnx")
    bake(folder, capsys)
    found = scores_of(folder, feed)
    worst.within("rerankers that answer yes or no", found, wanted, ALLOWED * max(1, np.abs(wanted).max()), f"{no} {activation}")


class ThreeHeads(torch.nn.Module):
    """bge-m3 as FlagEmbedding computes it: a vector, a weight per token, and a vector per token but the first."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder, self.sparse, self.colbert = encoder, torch.nn.Linear(32, 1), torch.nn.Linear(32, 24)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        normalize = torch.nn.functional.normalize
        return normalize(hidden[:, 0], dim=-1), torch.relu(self.sparse(hidden)), normalize(self.colbert(hidden[:, 1:]), dim=-1)


@pytest.mark.parametrize("mode", ["cls", "mean"])
def test_exports_with_three_outputs(mode: str, tmp_path: Path, capsys, worst) -> None:
    """The heads are made anew from the folder's layers, whatever its own Pooling says."""
    folder = tmp_path / "model"
    encoder = save(AutoModel, XLMRobertaConfig, SMALL, tiny.XLMR, folder)
    model = ThreeHeads(encoder).eval()
    names, outputs = ["input_ids", "attention_mask"], ["vectors", "weights", "others"]
    axes = {name: {0: "batch", 1: "sequence"} for name in (*names, "weights")} | {
        "vectors": {0: "batch"},
        "others": {0: "batch", 1: "rest"},
    }
    (folder / "onnx").mkdir()
    torch.onnx.export(
        model, (torch.randint(5, 60, (2, 7)), torch.ones(2, 7, dtype=torch.int64)), folder / "onnx" / "model.onnx",
        input_names=names, output_names=outputs, dynamic_axes=axes, opset_version=17, dynamo=False,
    )  # fmt: skip
    for name in ("sparse", "colbert"):
        torch.save(getattr(model, name).state_dict(), folder / f"{name}_linear.pt")
    modules = SentenceTransformer(modules=[Transformer(str(folder)), Pooling(32, mode), Normalize()], device="cpu")
    whole = tmp_path / "whole"
    modules.save(str(whole), create_model_card=False)
    for path in (whole / "modules.json", whole / "1_Pooling" / "config.json"):
        (folder / path.relative_to(whole)).parent.mkdir(exist_ok=True)
        shutil.copyfile(path, folder / path.relative_to(whole))
    assert any("as a run shows" in note for note in bake(folder, capsys))
    texts = [text for pair in PAIRS for text in pair]
    feed = {name: value for name, value in modules.preprocess(texts).items() if name in names}
    session = onnxruntime.InferenceSession(tmp_path / "model-baked" / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    found = session.run(
        ["sentence_embedding", "sparse_weights", "colbert_vectors"], {name: feed[name].numpy() for name in names}
    )
    with torch.no_grad():
        _, weights, others = model(**feed)
        wanted = modules(dict(feed))["sentence_embedding"]
    mask = feed["attention_mask"][:, :, None].float()
    worst.within("bge-m3 exports: dense", found[0], wanted.numpy(), ALLOWED, mode)
    worst.within("bge-m3 exports: sparse", found[1], (weights * mask).numpy(), ALLOWED * 4, mode)
    worst.within("bge-m3 exports: late interaction", found[2][:, 1:], (others * mask[:, 1:]).numpy(), ALLOWED, mode)
    assert not found[2][:, 0].any()
