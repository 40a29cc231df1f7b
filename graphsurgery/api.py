"""One function per edit, named like its verb, with the verb's parameters. Each takes a model and gives a new one."""

from __future__ import annotations

from collections.abc import Sequence

from graphsurgery.edits.add_normalize import AddNormalize
from graphsurgery.edits.add_pooling import AddPooling
from graphsurgery.edits.strip_head import StripHead
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

    Raises:
        AlreadyPooledError, NothingToPoolError, MaskError, NameNotFoundError, UnsupportedModelError, RequestError.
    """
    modes = mode if isinstance(mode, str) else ",".join(mode)
    kept = (keep_output,) if isinstance(keep_output, str) else tuple(keep_output)
    return AddPooling(modes, normalize, hidden_state, mask, ids, output_name, kept).apply(load(model))


def add_normalize(model: Loadable, target: str | None = None) -> Model:
    """Append L2 normalisation, x / max(norm2(x), 1e-12) over the last dim, to the output ``target``.

    Raises AlreadyPooledError where that output is normalised already, NameNotFoundError, RequestError, UnsupportedModelError.
    """
    return AddNormalize(target).apply(load(model))


def strip_head(model: Loadable) -> Model:
    """Take off every edit that the file records: the source, byte for byte. Raises NoHeadError where there is none."""
    return StripHead().apply(load(model))
