"""The configs of a model folder that describe its encoder and the folder itself, as far as baking needs them.

There are three files: the Transformer module's own settings (``sentence_bert_config.json`` and six other names), transformers'
``config.json``, and ``config_sentence_transformers.json``. Each may be missing in older folders.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graphsurgery.errors import FolderError
from graphsurgery.folders.files import DOWNLOAD, is_there, read_json, read_setting, resolve_inside
from graphsurgery.folders.modules import Module
from graphsurgery.model.parsing import shorten

FOLDER_CONFIG = "config_sentence_transformers.json"
SIMILARITIES = {"cosine": "cosine", "dot": "dot", "dot_product": "dot", "euclidean": "euclidean", "manhattan": "manhattan"}
TASKS = {
    "feature-extraction": "token_embeddings",
    "sequence-classification": "scores",
    "text-generation": "causal_logits",
    "any-to-any": "causal_logits",
    "fill-mask": "token_embeddings",
}
"""The tasks that a model can be loaded for, each with the kind of output that the next module receives."""


@dataclass(frozen=True)
class TransformerSettings:
    """The settings of a Transformer module."""

    max_seq_length: int | None = None
    """Longer texts are cut to this number of tokens. None leaves the limit to the tokenizer."""
    do_lower_case: bool = False
    task: str = "feature-extraction"
    """The task that the model is loaded for, one of `TASKS`."""
    output_name: str = "token_embeddings"
    """The kind of output that the next module receives: token_embeddings, scores, causal_logits or sentence_embedding."""
    method: str | None = "forward"
    """The model's method that computes the output from text (``get_text_features`` for CLIP), or None if it takes no text."""
    takes_messages: bool = False
    """Whether texts become messages, which the tokenizer's chat template joins (a pair of a reranker, for example)."""


@dataclass(frozen=True)
class EncoderConfig:
    """transformers' ``config.json``."""

    model_type: str | None = None
    pad_token_id: int | None = None
    num_labels: int = 2
    """The number of a classifier's scores; 2 if the config does not state it."""
    activation: str | None = None
    """The class path of the activation on a cross-encoder's scores. If None, their number decides
    (`choose_score_activation`)."""
    raw: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def is_classifier(self) -> bool:
        """Whether it was saved as a sequence classifier, as cross-encoders are."""
        names = self.raw.get("architectures")
        return isinstance(names, list) and any(str(name).endswith("ForSequenceClassification") for name in names)


@dataclass(frozen=True)
class FolderConfig:
    """``config_sentence_transformers.json``."""

    model_type: str = "SentenceTransformer"
    """SentenceTransformer, SparseEncoder, CrossEncoder or ColBERT."""
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity: str | None = None
    """cosine, dot, euclidean or manhattan. None if the config does not state it, which means cosine."""
    activation: str | None = None
    """The class path of the activation on a cross-encoder's scores. It takes precedence over `EncoderConfig.activation`."""
    truncate_dim: int | None = None
    """How many dims of the embedding are kept; None keeps all."""
    raw: dict[str, Any] = field(default_factory=dict, repr=False)


def read_transformer_settings(module: Module) -> TransformerSettings:
    """Return the settings of a Transformer module. Raise FolderError if one has the wrong type."""
    config, path = module.config, module.path
    longest = read_setting(config, "max_seq_length", int, path)
    if longest is not None and longest < 1:
        raise FolderError(f"{path}: max_seq_length is {longest}", DOWNLOAD)
    task = read_setting(config, "transformer_task", str, path, "feature-extraction")
    if task not in TASKS:
        raise FolderError(f"{path}: transformer_task is {shorten(task)!r}", f"known are {', '.join(TASKS)}")
    text = _read_text_modality(module, {"method": "forward"})
    return TransformerSettings(
        longest,
        read_setting(config, "do_lower_case", bool, path, False),
        task,
        read_setting(config, "module_output_name", str, path, TASKS[task]),
        read_setting(text, "method", str, path),
        "message" in read_setting(config, "modality_config", dict, path, {}),
    )


def _read_text_modality(module: Module, default: dict[str, Any]) -> dict[str, Any]:
    """Return the text entry of ``modality_config``: ``default`` without that config (before 5.4), {} if the model does not take
    text."""
    modalities = read_setting(module.config, "modality_config", dict, module.path)
    if modalities is None:
        return default
    found: dict[str, Any] = read_setting(modalities, "text", dict, module.path, {})
    return found


def read_encoder_config(folder: Path) -> EncoderConfig | None:
    """Return ``config.json`` in the folder of a Transformer module, or None if there is none. Raise FolderError if it is
    malformed."""
    config = _read_config(folder, "config.json")
    if config is None:
        return None
    path = folder / "config.json"
    nested = read_setting(config, "sentence_transformers", dict, path, {})
    older = read_setting(config, "sbert_ce_default_activation_function", str, path)
    activation = read_setting(nested, "activation_fn", str, path) if "activation_fn" in nested else older
    labels = read_setting(config, "id2label", (dict, list), path)
    pad = config.get("pad_token_id")
    return EncoderConfig(
        read_setting(config, "model_type", str, path),
        pad[0] if isinstance(pad, list) and len(pad) == 1 else read_setting(config, "pad_token_id", int, path),
        len(labels) if labels is not None else read_setting(config, "num_labels", int, path, 2),
        activation,
        config,
    )


def read_folder_config(folder: Path) -> FolderConfig:
    """Return ``config_sentence_transformers.json``, or the defaults of a folder without it. Raise FolderError if it is
    malformed."""
    config = _read_config(folder, FOLDER_CONFIG)
    if config is None:
        return FolderConfig()
    path = folder / FOLDER_CONFIG
    prompts = read_setting(config, "prompts", dict, path, {})
    wrong = next((key for key, prompt in prompts.items() if not isinstance(prompt, (str, type(None)))), None)
    if wrong is not None:
        raise FolderError(f"{path}: the prompt {shorten(wrong)!r} is not a text", DOWNLOAD)
    default = read_setting(config, "default_prompt_name", str, path)
    if default is not None and default not in prompts:
        raise FolderError(
            f"{path}: the default prompt {shorten(default)!r} is not one of its prompts: {sorted(prompts)}", DOWNLOAD
        )
    similarity = read_setting(config, "similarity_fn_name", str, path)
    if similarity is not None and similarity not in SIMILARITIES:
        raise FolderError(f"{path}: similarity_fn_name is {shorten(similarity)!r}", f"known are {', '.join(SIMILARITIES)}")
    return FolderConfig(
        read_setting(config, "model_type", str, path, "SentenceTransformer"),
        {key: prompt or "" for key, prompt in prompts.items()},
        default,
        SIMILARITIES[similarity] if similarity is not None else None,
        read_setting(config, "activation_fn", str, path),
        read_setting(config, "truncate_dim", int, path),
        config,
    )


def choose_score_activation(folder: FolderConfig, encoder: EncoderConfig, scores: int) -> str:
    """Return the class path of the activation on a cross-encoder's ``scores``: the stated one, else Sigmoid for one score and
    Identity for several."""
    said = folder.activation or encoder.activation
    return said or ("torch.nn.Sigmoid" if scores == 1 else "torch.nn.Identity")


def _read_config(folder: Path, name: str) -> dict[str, Any] | None:
    if not is_there(folder / name):
        return None
    found: dict[str, Any] = read_json(resolve_inside(folder, name, str(folder)))
    return found
