"""The head of a sequence classifier, as transformers' ForSequenceClassification classes have it: pooling and a few layers.

Which layers these are follows from the ``model_type`` of config.json, because files with the same names are used with other
activations: a RoBERTa's ``classifier.dense`` has tanh, an ELECTRA's has gelu. The names of the weights are those of the class.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graphsurgery.errors import FolderError
from graphsurgery.folders.files import DOWNLOAD
from graphsurgery.folders.transformer_config import EncoderConfig
from graphsurgery.folders.weights import NAMES, Weights, find_weights_file, read_weights
from graphsurgery.model.parsing import shorten

IDENTITY, BY_CONFIG = "identity", "the config's"
EXACT = {"gelu": "gelu", "tanh": "tanh", "relu": "relu", "silu": "silu", "swish": "silu"}
"""transformers' names of activations, and torch.nn's. Its approximations of gelu are not listed: no edit computes them."""
CLS, MEAN, LAST = "cls", "mean", "lasttoken"


@dataclass(frozen=True)
class HeadLayer:
    """A layer of a head: linear with an activation, or a layer normalisation. Its weights are ``<name>.weight`` and, if there
    is one, ``<name>.bias``."""

    name: str
    activation: str = IDENTITY
    setting: str = ""
    """The key of config.json that names the activation, or, of a norm, that gives its epsilon."""
    is_norm: bool = False


@dataclass(frozen=True)
class ClassifierHead:
    """The head of a sequence classifier: pooling, then layers whose last one gives the logits."""

    weights: Path
    layers: tuple[HeadLayer, ...]
    pooling: str = CLS
    mask: str | None = None
    """Where the tokens are, as `add-pooling` takes it; None for the attention mask."""


def _dense(name: str, last: str, activation: str = BY_CONFIG, setting: str = "") -> tuple[HeadLayer, ...]:
    return HeadLayer(name, activation, setting), HeadLayer(last)


POOLER, SCORE = _dense("pooler.dense", "classifier", "tanh"), (HeadLayer("score"),)
ROBERTA = _dense("classifier.dense", "classifier.out_proj", "tanh")
DEBERTA = _dense("pooler.dense", "classifier", setting="pooler_hidden_act")
HEADS: dict[str, tuple[HeadLayer, ...]] = {
    **dict.fromkeys(("bert", "ernie"), POOLER),
    "albert": _dense("pooler", "classifier", "tanh"),
    **dict.fromkeys(("roberta", "xlm-roberta", "camembert", "mpnet"), ROBERTA),
    "electra": _dense("classifier.dense", "classifier.out_proj", "gelu"),
    "distilbert": _dense("pre_classifier", "classifier", "relu"),
    **dict.fromkeys(("deberta", "deberta-v2"), DEBERTA),
    "modernbert": (
        HeadLayer("head.dense", BY_CONFIG, "classifier_activation"),
        HeadLayer("head.norm", setting="norm_eps", is_norm=True),
        HeadLayer("classifier"),
    ),
    **dict.fromkeys(("qwen2", "qwen3", "llama", "mistral", "gemma", "gemma2"), SCORE),
}
"""The layers by model type, as in transformers 4.57 and 5. A decoder scores the last token whose id is not the padding's: a
closing token that pads as well does not count."""
NORM_EPSILON = 1e-5
EXPORT = "export the model with its head: optimum's task text-classification"
POOLED_AS_SAID = "classifier_pooling"


def has_head_weights(folder: Path) -> bool:
    """Return whether a folder has the weights of a model in one file."""
    return any((folder / name).is_file() for name in NAMES)


def read_classifier_head(folder: Path, config: EncoderConfig) -> ClassifierHead:
    """Return the head of the classifier in ``folder``.

    Raises FolderError for a model type that is not in `HEADS`, an activation that no edit computes, or weights that are not
    those of such a head; WeightsError for a file that cannot be read.
    """
    path = folder / "config.json"
    layers = HEADS.get(config.model_type or "")
    if layers is None:
        what = f"{path}: the head of a {config.model_type} classifier is not known; known are {', '.join(HEADS)}"
        raise FolderError(what, EXPORT)
    weights = read_weights(folder)
    read = tuple(_read_layer(layer, weights, config.raw, path) for layer in layers)
    _check_explained(weights, read)
    rows = weights.shape(f"{read[-1].name}.weight")[0]
    if rows != config.num_labels:
        raise FolderError(f"{path} says {config.num_labels} labels, and {weights.path} has weights for {rows}", DOWNLOAD)
    mask = f"pad:{config.pad_token_id}" if layers is SCORE and config.pad_token_id is not None else None
    return ClassifierHead(find_weights_file(folder), read, _find_pooling(layers, config.raw, path), mask)


def _read_layer(layer: HeadLayer, weights: Weights, config: dict[str, Any], path: Path) -> HeadLayer:
    """Return a layer with its name in the weights file, where the encoder's name may stand before it, and its activation."""
    end = f"{layer.name}.weight"
    found = [name for name in weights if name == end or name.endswith(f".{end}")]
    found = [end] if end in found else found
    if len(found) != 1 or len(weights.shape(found[0])) != (1 if layer.is_norm else 2):
        what = f"{weights.path} has no {end} of a {config.get('model_type')} classifier"
        raise FolderError(what, "give the weights of the classifier, or an ONNX file that was exported with its head")
    name = found[0].removesuffix(".weight")
    if layer.is_norm:
        if config.get(layer.setting, NORM_EPSILON) != NORM_EPSILON:
            what = f"{path}: {layer.setting} is {shorten(str(config[layer.setting]))}, not {NORM_EPSILON}"
            raise FolderError(what, EXPORT)
        return replace(layer, name=name)
    if layer.activation != BY_CONFIG:
        return replace(layer, name=name)
    said = config.get(layer.setting, "gelu")
    if not isinstance(said, str) or said not in EXACT:
        what = f"{path}: {layer.setting} is {shorten(repr(said))}; known are {', '.join(EXACT)}"
        raise FolderError(what, EXPORT)
    return replace(layer, name=name, activation=EXACT[said])


def _check_explained(weights: Weights, layers: Iterable[HeadLayer]) -> None:
    """Raise FolderError if the file has weights that belong neither to the encoder, whose name most of them share, nor to
    ``layers``."""
    encoder = Counter(name.partition(".")[0] for name in weights).most_common(1)[0][0]
    known = tuple(f"{layer.name}.{part}" for layer in layers for part in ("weight", "bias"))
    others = [name for name in weights if name.partition(".")[0] != encoder and name not in known]
    if others:
        what = f"{weights.path} has {shorten(', '.join(sorted(others)))}, which no head of this model type has"
        raise FolderError(what, EXPORT)


def _find_pooling(layers: tuple[HeadLayer, ...], config: dict[str, Any], path: Path) -> str:
    if layers is SCORE:
        return LAST
    said = config.get(POOLED_AS_SAID, CLS)
    if said not in (CLS, MEAN):
        raise FolderError(f"{path}: {POOLED_AS_SAID} is {shorten(repr(said))}, not {CLS} or {MEAN}", DOWNLOAD)
    return str(said)
