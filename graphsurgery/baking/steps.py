"""The edits that the modules and configs of a folder, and the request, amount to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from graphsurgery.baking.encoder import CLASSIFICATION, LOGITS
from graphsurgery.baking.features import CAUSAL, SCORES, SENTENCE, TOKENS, Features
from graphsurgery.baking.inner_tokens import COLBERT, LAYERS, SPARSE
from graphsurgery.edits.add_activation import AddActivation
from graphsurgery.edits.add_cnn import AddCnn
from graphsurgery.edits.add_dense import AddDense
from graphsurgery.edits.add_layer_norm import AddLayerNorm
from graphsurgery.edits.add_logit_score import AddLogitScore
from graphsurgery.edits.add_lstm import AddLstm
from graphsurgery.edits.add_normalize import AddNormalize
from graphsurgery.edits.add_pooling import AddPooling
from graphsurgery.edits.add_splade_pooling import AddSpladePooling
from graphsurgery.edits.add_weighted_layer_pooling import AddWeightedLayerPooling
from graphsurgery.edits.add_word_weights import AddWordWeights
from graphsurgery.edits.edit import Edit
from graphsurgery.edits.mask_tokens import MaskTokens
from graphsurgery.edits.pooling_request import INPUT
from graphsurgery.edits.truncate import Truncate
from graphsurgery.errors import FolderError
from graphsurgery.folders.classifier_head import read_classifier_head
from graphsurgery.folders.files import DOWNLOAD, is_there, read_setting, resolve_inside
from graphsurgery.folders.modules import Module
from graphsurgery.folders.pooling_config import parse_pooling
from graphsurgery.folders.transformer_config import (
    FOLDER_CONFIG,
    EncoderConfig,
    FolderConfig,
    choose_score_activation,
    read_encoder_config,
    read_transformer_settings,
)

Steps = list[Edit]
Planned = tuple[Edit, Path | None]
"""An edit and its origin: a module's folder or a config. None if the user asked for it."""


def plan_module(module: Module, features: Features) -> Steps:
    """Return the edits that ``module`` amounts to. FolderError for a kind that cannot be baked after an encoder."""
    handler = HANDLERS.get(module.kind)
    if handler is None:
        raise FolderError(
            f"{module.path}: a {module.kind} module cannot be baked here; those that can are {', '.join(sorted(HANDLERS))}",
            "bake the encoder alone with add-pooling, and apply this module yourself; bake leaves out no module silently",
        )
    return handler(module, features)


def plan_m3_outputs(folder: Path, wanted: tuple[str, ...], tokens: str) -> Steps:
    """Return the edits for those of `LAYERS` that are ``wanted``: outputs of bge-m3 (arXiv 2402.03216) besides its embedding.

        sparse_weights [batch, seq, 1] = relu(x Ws + bs)             0 at padding
        colbert_vectors [batch, seq, dim] = unit(x Wc + bc)          0 at padding and at the first token

    One gives a weight per token for learned sparse retrieval, the other a vector per token for late interaction. x is the
    output ``tokens``, which stays. The layers are beside modules.json. FlagEmbedding leaves the first position out of its
    vectors; here it stays and is zero, so that positions are those of the ids, whichever side is padded. FolderError if the
    folder does not have a layer.
    """
    steps: Steps = []
    for name in (name for name in LAYERS if name in wanted):
        if not is_there(folder / LAYERS[name]):
            raise FolderError(f"{folder} has no {LAYERS[name]}, which {name} need", "keep only outputs that this model has")
        weights = str(resolve_inside(folder, LAYERS[name], str(folder)))
        activation = "relu" if name == SPARSE else "identity"
        steps.append(AddDense(weights, activation, target=tokens, output_name=name, keep_target=True))
        steps += [AddNormalize(name)] if name == COLBERT else []
        steps.append(MaskTokens(name, skip_first=name == COLBERT))
    return steps


def plan_classifier_head(module: Module, features: Features) -> Steps:
    """Return the edits that make scores of the token embeddings, if the first module is a classifier whose file has no head.

    The head's weights are beside config.json, which says what kind of head they are of.
    """
    if read_transformer_settings(module).task != CLASSIFICATION or SCORES in features.outputs:
        return []
    config = read_encoder_config(module.path)
    if config is None:
        raise FolderError(f"{module.path} has no config.json, which says what head the classifier has", DOWNLOAD)
    head, hidden = read_classifier_head(module.path, config), features.outputs[TOKENS]
    kept = features.list_kept(hidden)
    steps: Steps = [AddPooling(head.pooling, hidden_state=hidden, mask=head.mask, output_name=LOGITS, keep_output=kept)]
    for layer in head.layers:
        if layer.is_norm:
            steps.append(AddLayerNorm(str(head.weights), LOGITS, layer=layer.name))
        else:
            steps.append(AddDense(str(head.weights), layer.activation, target=LOGITS, layer=layer.name))
    features.outputs[SCORES] = LOGITS
    names = ", ".join(layer.name for layer in head.layers)
    features.notes.append(f"the file has no head: {head.pooling} pooling, and {names} of {head.weights.name}, make the scores")
    return steps


def plan_ending(folder: Path, config: FolderConfig, modules: Sequence[Module], features: Features) -> list[Planned]:
    """Return the edit after the modules: scores of a cross-encoder, or unit vectors of a late-interaction model."""
    if SCORES in features.outputs:
        encoder = read_encoder_config(modules[0].path)
        if encoder is None and features.score_count is None:
            return []
        encoder = encoder or EncoderConfig()
        scores = features.score_count if features.score_count is not None else encoder.num_labels
        activation = choose_score_activation(config, encoder, scores)
        place = folder / FOLDER_CONFIG if config.activation else modules[0].path / "config.json"
        return [(AddActivation(activation, features.outputs[SCORES], SCORES), place)]
    if SENTENCE in features.outputs:
        return []
    if TOKENS not in features.outputs or (config.model_type != "ColBERT" and not _ends_with_token_dense(modules)):
        raise FolderError(
            f"{folder} has no module that pools", "if it is a plain transformer folder, pool its ONNX file with add-pooling"
        )
    features.notes.append("no module pools: the file gives a vector per token, normalised, for late interaction")
    return [(AddNormalize(features.outputs[TOKENS]), folder)]


def _ends_with_token_dense(modules: Sequence[Module]) -> bool:
    """Return whether the last module is a Dense over tokens, as in a late-interaction model."""
    last = modules[-1]
    return last.kind == "Dense" and last.config.get("module_input_name") == TOKENS


def plan_truncation(folder: Path, config: FolderConfig, features: Features, dims: str | None) -> list[Planned]:
    """Return the truncation to ``dims``, or else to the folder's truncate_dim if that is shorter than the embedding."""
    if dims is not None:
        return [(Truncate(dims), None)]
    if config.truncate_dim is None:
        return []
    if config.truncate_dim == features.embedding:
        features.notes.append(f"the folder's truncate_dim, {config.truncate_dim}, is the whole embedding: nothing is cut off")
        return []
    return [(Truncate(str(config.truncate_dim), keep_length=True), folder / FOLDER_CONFIG)]


def _plan_pooling(module: Module, features: Features) -> Steps:
    config = parse_pooling(module.config, module.path / "config.json")
    skip = None if config.include_prompt else features.skip_prompt or INPUT
    hidden = features.require(module, TOKENS)
    if config.dimension is not None and features.width not in (config.dimension, None):
        raise FolderError(
            f"{config.path} says that token embeddings are {config.dimension} wide, but the encoder's are {features.width}",
            "the config or the ONNX file belongs to another model",
        )
    width = config.dimension or features.width
    features.embedding = None if width is None else width * len(config.modes)
    name = features.make(module, SENTENCE, TOKENS)
    kept = features.list_kept(hidden)
    return [
        AddPooling(
            ",".join(config.modes), hidden_state=hidden, output_name=name, keep_output=kept,
            token_weights=features.token_weights, skip_prompt=skip,
            replace=name in features.encoder_outputs and name != hidden,
        )
    ]  # fmt: skip


def _plan_dense(module: Module, features: Features) -> Steps:
    path = module.path / "config.json"
    reads = read_setting(module.config, "module_input_name", str, path, SENTENCE)
    writes = read_setting(module.config, "module_output_name", str, path, reads)
    value = features.require(module, reads)
    name = features.make(module, writes, reads)
    if writes == SENTENCE:
        features.embedding = _dense_width(module, path)
    if writes == SCORES:
        features.score_count = _dense_width(module, path)
    residual = read_setting(module.config, "use_residual", bool, path, False)
    keep = writes != reads or reads in features.kept
    return [AddDense(str(module.path), residual=residual, target=value, output_name=name, keep_target=keep and value != name)]


def _dense_width(module: Module, path: Path) -> int | None:
    """Return the width of a Dense module's result, if its config tells."""
    rows: int | None = read_setting(module.config, "out_features", int, path)
    is_glu = read_setting(module.config, "activation_function", str, path, "").rpartition(".")[2] == "GLU"
    return rows // 2 if rows is not None and is_glu else rows


def _plan_normalize(module: Module, features: Features) -> Steps:
    if SENTENCE not in features.outputs:
        features.notes.append(
            f"{module.name}: a Normalize module before any pooling does nothing in sentence-transformers, and nothing here"
        )
        return []
    target = features.require(module, SENTENCE)
    return [AddNormalize(target, again=target in features.encoder_outputs)]  # the file may do what its folder says


def _plan_layer_norm(module: Module, features: Features) -> Steps:
    return [AddLayerNorm(str(module.path), features.require(module, SENTENCE))]


def _plan_dropout(module: Module, features: Features) -> Steps:
    features.notes.append(f"{module.name}: Dropout does nothing after training")
    return []


def _plan_over_tokens(edit: type[AddCnn | AddLstm | AddWeightedLayerPooling]) -> Callable[[Module, Features], Steps]:
    """Return the handler of a module that turns token embeddings into token embeddings."""

    def plan(module: Module, features: Features) -> Steps:
        target = features.require(module, TOKENS)
        return [edit(str(module.path), target=target, output_name=features.make(module, TOKENS, TOKENS))]

    return plan


def _plan_word_weights(module: Module, features: Features) -> Steps:
    target, name = features.require(module, TOKENS), features.make(module, TOKENS, TOKENS)
    features.token_weights = "token_weights"
    return [AddWordWeights(str(module.path), target=target, output_name=name)]


def _plan_splade(module: Module, features: Features) -> Steps:
    path = module.path / "config.json"
    target = features.require(module, TOKENS)
    name = features.make(module, SENTENCE, TOKENS)
    features.embedding = read_setting(module.config, "word_embedding_dimension", int, path)
    strategy = read_setting(module.config, "pooling_strategy", str, path, "max")
    activation = read_setting(module.config, "activation_function", str, path, "relu")
    kept = features.list_kept(target)
    return [AddSpladePooling(strategy, activation, target=target, output_name=name, keep_output=kept)]


def _plan_logit_score(module: Module, features: Features) -> Steps:
    path = module.path / "config.json"
    reads = read_setting(module.config, "module_input_name", str, path, CAUSAL)
    true, false = (read_setting(module.config, f"{one}_token_id", int, path) for one in ("true", "false"))
    if true is None or true < 0 or (false is not None and false < 0):
        raise FolderError(f"{path} has no true_token_id of 0 or more, or a false_token_id of less", DOWNLOAD)
    target = features.require(module, reads)
    name, features.score_count = features.make(module, SCORES, reads), 1
    no = None if false is None else str(false)
    return [AddLogitScore(str(true), no, target=target, output_name=name, keep_output=features.list_kept())]


HANDLERS: dict[str, Callable[[Module, Features], Steps]] = {
    "Pooling": _plan_pooling,
    "Dense": _plan_dense,
    "Normalize": _plan_normalize,
    "LayerNorm": _plan_layer_norm,
    "Dropout": _plan_dropout,
    "CNN": _plan_over_tokens(AddCnn),
    "LSTM": _plan_over_tokens(AddLstm),
    "WordWeights": _plan_word_weights,
    "WeightedLayerPooling": _plan_over_tokens(AddWeightedLayerPooling),
    "SpladePooling": _plan_splade,
    "LogitScore": _plan_logit_score,
}
