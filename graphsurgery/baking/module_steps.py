"""The edits that each kind of module comes to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from graphsurgery.baking.features import SENTENCE, TOKENS, Features
from graphsurgery.edits.add_cnn import AddCnn
from graphsurgery.edits.add_dense import AddDense
from graphsurgery.edits.add_layer_norm import AddLayerNorm
from graphsurgery.edits.add_lstm import AddLstm
from graphsurgery.edits.add_normalize import AddNormalize
from graphsurgery.edits.add_pooling import AddPooling
from graphsurgery.edits.add_splade_pooling import AddSpladePooling
from graphsurgery.edits.add_weighted_layer_pooling import AddWeightedLayerPooling
from graphsurgery.edits.add_word_weights import AddWordWeights
from graphsurgery.edits.edit import Edit
from graphsurgery.edits.pooling_request import INPUT
from graphsurgery.errors import FolderError
from graphsurgery.folders.files import setting
from graphsurgery.folders.modules import Module
from graphsurgery.folders.pooling_config import parse_pooling

Steps = list[Edit]


def steps_of(module: Module, features: Features) -> Steps:
    """The edits that ``module`` comes to; FolderError for a kind that cannot be baked behind an encoder."""
    handler = HANDLERS.get(module.kind)
    if handler is None:
        raise FolderError(
            f"{module.path}: a {module.kind} module cannot be baked here; those that can are {', '.join(sorted(HANDLERS))}",
            "nothing is left out in silence: bake the encoder alone with add-pooling, and apply this module yourself",
        )
    return handler(module, features)


def _pooling(module: Module, features: Features) -> Steps:
    config = parse_pooling(module.config, module.path / "config.json")
    skip = None if config.include_prompt else features.skip_prompt or INPUT
    hidden = features.value(module, TOKENS)
    if config.dimension is not None and features.width not in (config.dimension, None):
        raise FolderError(
            f"{config.path} says that token embeddings are {config.dimension} wide, and the encoder's are {features.width}",
            "the config, or the ONNX file, belongs to another model",
        )
    width = config.dimension or features.width
    features.embedding = None if width is None else width * len(config.modes)
    name = features.make(module, SENTENCE, TOKENS)
    kept = tuple(hidden if name == TOKENS else name for name in features.kept)
    return [
        AddPooling(
            ",".join(config.modes), hidden_state=hidden, output_name=name, keep_output=kept,
            token_weights=features.token_weights, skip_prompt=skip,
        )
    ]  # fmt: skip


def _dense(module: Module, features: Features) -> Steps:
    path = module.path / "config.json"
    reads = setting(module.config, "module_input_name", str, path, SENTENCE)
    writes = setting(module.config, "module_output_name", str, path, reads)
    value = features.value(module, reads)
    name = features.make(module, writes, reads)
    if writes == SENTENCE:
        features.embedding = _rows(module, path)
    residual = setting(module.config, "use_residual", bool, path, False)
    keep = writes != reads or features.keeps(reads)
    return [AddDense(str(module.path), residual=residual, target=value, output_name=name, keep_target=keep and value != name)]


def _rows(module: Module, path: Path) -> int | None:
    """Return the width of what a Dense module makes, if its config tells."""
    rows: int | None = setting(module.config, "out_features", int, path)
    halved = setting(module.config, "activation_function", str, path, "").rpartition(".")[2] == "GLU"
    return rows // 2 if rows is not None and halved else rows


def _normalize(module: Module, features: Features) -> Steps:
    if SENTENCE not in features.made:
        features.notes.append(
            f"{module.name}: Normalize before any pooling does nothing in sentence-transformers, and nothing here"
        )
        return []
    return [AddNormalize(features.value(module, SENTENCE))]


def _layer_norm(module: Module, features: Features) -> Steps:
    return [AddLayerNorm(str(module.path), features.value(module, SENTENCE))]


def _dropout(module: Module, features: Features) -> Steps:
    features.notes.append(f"{module.name}: Dropout does nothing after training")
    return []


def _over_tokens(module: Module, features: Features) -> tuple[str, str]:
    """(the output that holds the token embeddings, what they are called afterwards)."""
    return features.value(module, TOKENS), features.make(module, TOKENS, TOKENS)


def _cnn(module: Module, features: Features) -> Steps:
    target, name = _over_tokens(module, features)
    return [AddCnn(str(module.path), target=target, output_name=name)]


def _lstm(module: Module, features: Features) -> Steps:
    target, name = _over_tokens(module, features)
    return [AddLstm(str(module.path), target=target, output_name=name)]


def _word_weights(module: Module, features: Features) -> Steps:
    target, name = _over_tokens(module, features)
    features.token_weights = "token_weights"
    return [AddWordWeights(str(module.path), target=target, output_name=name)]


def _weighted_layers(module: Module, features: Features) -> Steps:
    target, name = _over_tokens(module, features)
    return [AddWeightedLayerPooling(str(module.path), target=target, output_name=name)]


def _splade(module: Module, features: Features) -> Steps:
    path = module.path / "config.json"
    target = features.value(module, TOKENS)
    name = features.make(module, SENTENCE, TOKENS)
    features.embedding = setting(module.config, "word_embedding_dimension", int, path)
    strategy = setting(module.config, "pooling_strategy", str, path, "max")
    activation = setting(module.config, "activation_function", str, path, "relu")
    return [AddSpladePooling(strategy, activation, target=target, output_name=name)]


HANDLERS: dict[str, Callable[[Module, Features], Steps]] = {
    "Pooling": _pooling,
    "Dense": _dense,
    "Normalize": _normalize,
    "LayerNorm": _layer_norm,
    "Dropout": _dropout,
    "CNN": _cnn,
    "LSTM": _lstm,
    "WordWeights": _word_weights,
    "WeightedLayerPooling": _weighted_layers,
    "SpladePooling": _splade,
}
