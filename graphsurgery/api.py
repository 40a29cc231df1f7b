"""One function per edit, named like its verb, with the verb's parameters. Each takes a model and gives a new one."""

from __future__ import annotations

import os
from collections.abc import Sequence

from graphsurgery.edits.add_activation import AddActivation
from graphsurgery.edits.add_dense import AddDense
from graphsurgery.edits.add_layer_norm import AddLayerNorm
from graphsurgery.edits.add_normalize import AddNormalize
from graphsurgery.edits.add_pooling import AddPooling
from graphsurgery.edits.mask_tokens import MaskTokens
from graphsurgery.edits.output_precision import OutputPrecision
from graphsurgery.edits.strip_head import StripHead
from graphsurgery.edits.truncate import Truncate
from graphsurgery.model.loading import Loadable, load
from graphsurgery.model.model import Model


def add_pooling(
    model: Loadable,
    mode: str | Sequence[str] = "auto",
    *,
    normalize: bool = False,
    hidden_state: str | None = None,
    mask: str | None = None,
    ids: str | None = None,
    output_name: str = "sentence_embedding",
    keep_output: Sequence[str] = (),
    token_weights: str | None = None,
    skip_prompt: int | str | None = None,
) -> Model:
    """Append pooling: ``[batch, seq, dim]`` -> ``output_name [batch, dim]`` float32. See `AddPooling` for the mathematics.

    Args:
        mode: cls, mean, max, mean_sqrt_len_tokens, weightedmean or lasttoken; several (a sequence, or separated by commas) are
            concatenated in order; ``auto`` reads the folder's 1_Pooling/config.json.
        normalize: append L2 normalisation as well.
        hidden_state: the value to pool, ``[batch, seq, dim]`` float32, float16, bfloat16 or float64, where it is not found
        by itself. mask: an input ``[batch, seq]`` of any numeric type (tokens are where it is not 0), ``ones``, or ``pad:ID``.
        ids: the input with the token ids.
        keep_output: outputs of the encoder to keep; the others are dropped.
        token_weights: the value ``[batch, seq]`` that the tokens were multiplied with, by whose sum means divide; that of a
            recorded add_word_weights when None.
        skip_prompt: leave out so many positions from each row's first token on, as sentence-transformers does where a config
            says ``include_prompt: false``; ``input`` adds an input ``prompt_length`` int64 ``[1]`` that says how many.

    Raises:
        AlreadyAppliedError, NothingToPoolError, MaskError, NameNotFoundError, UnsupportedModelError, RequestError.
    """
    modes = mode if isinstance(mode, str) else ",".join(mode)
    kept = (keep_output,) if isinstance(keep_output, str) else tuple(keep_output)
    prompt = None if skip_prompt is None else str(skip_prompt)
    edit = AddPooling(modes, normalize, hidden_state, mask, ids, output_name, kept, token_weights, skip_prompt=prompt)
    return edit.apply(load(model))


def add_normalize(model: Loadable, target: str | None = None) -> Model:
    """Append L2 normalisation, x / max(norm2(x), 1e-12) over the last dim, to the output ``target``.

    Raises AlreadyAppliedError where that output is normalised already, NameNotFoundError, RequestError, UnsupportedModelError.
    """
    return AddNormalize(target).apply(load(model))


def add_dense(
    model: Loadable,
    weights: str | os.PathLike[str],
    *,
    activation: str | None = None,
    residual: bool = False,
    target: str | None = None,
    output_name: str | None = None,
    keep_target: bool = False,
) -> Model:
    """Append ``activation(x Wt + b)``: ``[..., in]`` -> ``[..., out]`` float32. See `AddDense`.

    Args:
        weights: a Dense module's folder, or its model.safetensors or pytorch_model.bin: ``linear.weight [out, in]`` and, where
            there is one, ``linear.bias [out]``. A relative path starts at the current folder.
        activation: as torch.nn names it; the module's own (config.json), else identity, when None.
        residual: add x to the result, through ``residual.weight`` where the file has one.
        target: the output to work on. output_name: what the result is called. keep_target: keep the target as an output, too.

    Raises:
        WeightsError, FolderError, RequestError, NameNotFoundError, UnsupportedModelError.
    """
    return AddDense(absolute(weights), activation, residual, target, output_name, keep_target).apply(load(model))


def add_layer_norm(model: Loadable, weights: str | os.PathLike[str], *, target: str | None = None) -> Model:
    """Append layer normalisation over the last dim with a module folder's ``norm.weight`` and ``norm.bias`` ``[dim]``.

    Raises WeightsError, FolderError, RequestError, NameNotFoundError, UnsupportedModelError.
    """
    return AddLayerNorm(absolute(weights), target).apply(load(model))


def add_activation(
    model: Loadable, activation: str, *, target: str | None = None, output_name: str | None = None, keep_target: bool = False
) -> Model:
    """Append an activation of torch.nn to an output, such as ``sigmoid`` to a cross-encoder's logits. See `AddActivation`.

    Raises RequestError, NameNotFoundError, UnsupportedModelError.
    """
    return AddActivation(activation, target, output_name, keep_target).apply(load(model))


def mask_tokens(
    model: Loadable, target: str, *, skip_first: bool = False, mask: str | None = None, ids: str | None = None
) -> Model:
    """Set the vectors at padded positions of the output ``target [batch, seq, dim]`` to zero. See `MaskTokens`.

    Raises RequestError, MaskError, NameNotFoundError, UnsupportedModelError.
    """
    return MaskTokens(target, skip_first, mask, ids).apply(load(model))


def truncate(model: Loadable, dim: int | str | Sequence[int], *, target: str | None = None, keep_length: bool = False) -> Model:
    """Keep the first ``dim`` dims of an embedding, normalised again unless ``keep_length``; several become outputs
    ``<target>_<dim>``. See `Truncate`.

    Raises RequestError, NameNotFoundError, UnsupportedModelError.
    """
    dims = ",".join(map(str, dim)) if isinstance(dim, Sequence) and not isinstance(dim, str) else str(dim)
    return Truncate(dims, target, keep_length).apply(load(model))


def output_precision(
    model: Loadable, to: str, *, ranges: str | os.PathLike[str] | None = None, target: str | None = None
) -> Model:
    """Give the embedding as ``int8``, ``uint8``, ``binary`` or ``ubinary``. See `OutputPrecision`.

    Args:
        ranges: each dim's min and max ``[2, dim]`` in a .npy or .json file, for int8 and uint8.

    Raises RequestError, WeightsError, NameNotFoundError, UnsupportedModelError.
    """
    return OutputPrecision(to, None if ranges is None else absolute(ranges), target).apply(load(model))


def absolute(path: str | os.PathLike[str]) -> str:
    """A path as given starts at the current folder, wherever the model lies."""
    return os.path.abspath(path)  # noqa: PTH100 -- not resolved: symlinks are the reader's business


def strip_head(model: Loadable) -> Model:
    """Take off every edit that the file records: the source, byte for byte. Raises NoHeadError where there is none."""
    return StripHead().apply(load(model))
