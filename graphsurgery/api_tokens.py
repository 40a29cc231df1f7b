"""One function per edit of token embeddings and scores, as those in `api`."""

from __future__ import annotations

import os
from collections.abc import Sequence

from graphsurgery.api import absolute
from graphsurgery.edits.add_cnn import AddCnn
from graphsurgery.edits.add_lstm import AddLstm
from graphsurgery.edits.add_splade_pooling import AddSpladePooling
from graphsurgery.edits.add_weighted_layer_pooling import AddWeightedLayerPooling
from graphsurgery.edits.add_word_weights import AddWordWeights
from graphsurgery.edits.outputs import TOKENS
from graphsurgery.model.loading import Loadable, load
from graphsurgery.model.model import Model


def add_cnn(
    model: Loadable,
    weights: str | os.PathLike[str],
    *,
    target: str | None = None,
    output_name: str = TOKENS,
    keep_target: bool = False,
) -> Model:
    """Convolve the token embeddings: ``[batch, seq, in]`` -> ``output_name [batch, seq, out]`` float32. See `AddCnn`.

    Args:
        weights: a CNN module's folder, or its model.safetensors or pytorch_model.bin: ``convs.<i>.weight [out, in, size]`` and
            ``convs.<i>.bias [out]``. A relative path starts at the current folder.
        target: the output to work on. output_name: what the result is called. keep_target: keep the target as an output, too.

    Raises:
        WeightsError, FolderError, NothingToPoolError, NameNotFoundError, RequestError, UnsupportedModelError.
    """
    return AddCnn(absolute(weights), target, output_name, keep_target).apply(load(model))


def add_lstm(
    model: Loadable,
    weights: str | os.PathLike[str],
    *,
    target: str | None = None,
    mask: str | None = None,
    ids: str | None = None,
    output_name: str = TOKENS,
    keep_target: bool = False,
) -> Model:
    """Run an LSTM over the token embeddings: ``[batch, seq, in]`` -> ``output_name [batch, seq, directions * H]`` float32. See
    `AddLstm`.

    Args:
        weights: an LSTM module's folder, or its model.safetensors or pytorch_model.bin: ``encoder.weight_ih_l0 [4H, in]`` and
            so on, as torch.nn.LSTM names them. A relative path starts at the current folder.
        mask, ids: as add_pooling's; a row is as long as the mask has tokens.
        target: the output to work on. output_name: what the result is called. keep_target: keep the target as an output, too.

    Raises:
        WeightsError, FolderError, MaskError, NothingToPoolError, NameNotFoundError, RequestError, UnsupportedModelError.
    """
    return AddLstm(absolute(weights), target, mask, ids, output_name, keep_target).apply(load(model))


def add_word_weights(
    model: Loadable,
    weights: str | os.PathLike[str],
    *,
    target: str | None = None,
    mask: str | None = None,
    ids: str | None = None,
    output_name: str = TOKENS,
    token_weights: str = "token_weights",
    keep_target: bool = False,
) -> Model:
    """Multiply each token embedding with the weight of its word: ``[batch, seq, dim]`` -> ``output_name`` float32. See
    `AddWordWeights`.

    Args:
        weights: a WordWeights module's folder, or its config.json. A relative path starts at the current folder.
        mask, ids: as add_pooling's.
        token_weights: what the weights ``[batch, seq]`` are called in the graph; add_pooling then divides means by their sum.
        target: the output to work on. output_name: what the result is called. keep_target: keep the target as an output, too.

    Raises:
        FolderError, MaskError, NothingToPoolError, NameNotFoundError, RequestError, UnsupportedModelError.
    """
    edit = AddWordWeights(absolute(weights), target, mask, ids, output_name, token_weights, keep_target)
    return edit.apply(load(model))


def add_weighted_layer_pooling(
    model: Loadable,
    weights: str | os.PathLike[str],
    *,
    layers: str | Sequence[str] | None = None,
    before_norm: bool = False,
    target: str | None = None,
    output_name: str = TOKENS,
    keep_target: bool = False,
) -> Model:
    """Take a weighted mean of the hidden layers: ``[batch, seq, dim]`` -> ``output_name`` float32. See
    `AddWeightedLayerPooling`.

    Args:
        weights: a WeightedLayerPooling module's folder: its config.json and ``layer_weights [layers]``. A relative path starts
            at the current folder.
        layers: all hidden layers by name, the embeddings' output first (a sequence, or separated by commas); found in the graph
            when None.
        before_norm: take the last one before the encoder's final normalisation.
        target: the last hidden state, an output. output_name: what the result is called. keep_target: keep the target, too.

    Raises:
        WeightsError, FolderError, NothingToPoolError, NameNotFoundError, RequestError, UnsupportedModelError.
    """
    names = layers if layers is None or isinstance(layers, str) else ",".join(layers)
    edit = AddWeightedLayerPooling(absolute(weights), names, before_norm, target, output_name, keep_target)
    return edit.apply(load(model))


def add_splade_pooling(
    model: Loadable,
    strategy: str = "max",
    activation: str = "relu",
    *,
    target: str | None = None,
    mask: str | None = None,
    ids: str | None = None,
    output_name: str = "sentence_embedding",
    keep_output: Sequence[str] = (),
) -> Model:
    """Append SPLADE pooling: scores ``[batch, seq, vocabulary]`` -> ``output_name [batch, vocabulary]`` float32. See
    `AddSpladePooling`.

    Args:
        strategy: ``max`` or ``sum`` over the tokens.
        activation: ``relu`` for log(1 + relu(x)), ``log1p_relu`` for log(1 + log(1 + relu(x))).
        target: the scores; the output ``logits``, or the only one as wide as the vocabulary, when None.
        mask, ids, keep_output: as add_pooling's.

    Raises:
        AlreadyAppliedError, NothingToPoolError, MaskError, NameNotFoundError, UnsupportedModelError, RequestError.
    """
    kept = (keep_output,) if isinstance(keep_output, str) else tuple(keep_output)
    return AddSpladePooling(strategy, activation, target, mask, ids, output_name, kept).apply(load(model))
