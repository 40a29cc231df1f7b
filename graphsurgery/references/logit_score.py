"""add-logit-score: the log-odds of two tokens as the continuation of a text, ``[batch, seq, vocabulary]`` -> ``[batch, 1]``.

Source: sentence-transformers' LogitScore module, version 6.
"""

from __future__ import annotations

import numpy as np

from graphsurgery.errors import UnsupportedModelError
from graphsurgery.interface import Interface
from graphsurgery.references.recorded_mask import find_tokens, read_mask
from graphsurgery.references.reference import (
    RELATIVE,
    Array,
    Expected,
    Known,
    Parameters,
    Reference,
    declare_pooled_output,
    parse_number,
)
from graphsurgery.references.rounding import EPSILON, expect_rounded, magnitude


def find_last_logits(x: Array, m: Array, tokens: list[int]) -> Array:
    """Return the logits of ``tokens`` at each row's last token, ``[batch, tokens]``; 0 in a row without any."""
    rows = []
    for row, mask in zip(x, m, strict=True):
        positions = [position for position in range(len(mask)) if mask[position]]
        rows.append([row[positions[-1]][token] if positions else 0.0 for token in tokens])
    return np.array(rows, dtype=np.float64).reshape(len(x), len(tokens))


def subtract(logits: Array) -> Array:
    """Return the first column minus the second one, if there is one: ``[batch, 1]``."""
    return logits[:, :1] if logits.shape[1] == 1 else logits[:, :1] - logits[:, 1:]


def _read(parameters: Parameters) -> Parameters:
    """Read the tokens as numbers, and the mask."""
    given = [parameters["true_token"], *([] if parameters["false_token"] is None else [parameters["false_token"]])]
    tokens = [parse_number(text) for text in given]
    if None in tokens:
        raise UnsupportedModelError(f"the recorded tokens {given} are not numbers", "make the output again")
    return {**read_mask(parameters), "tokens": tokens}


def _compute(parameters: Parameters, known: Known) -> list[Expected]:
    x, m = find_tokens(parameters, known, dims="vocabulary")
    tokens = parameters["tokens"]
    if max(tokens) >= x.shape[2]:
        what = f"{parameters['target']} is {x.shape[2]} words wide, and the file records the tokens {tokens}"
        raise UnsupportedModelError(what, "make the output again")
    logits = find_last_logits(x, m, tokens)
    y = subtract(logits)
    promised = RELATIVE * np.max(magnitude(logits), axis=1, initial=1, keepdims=True)
    errors = find_last_logits(known.get_rounding(parameters["target"]), m, tokens)
    return [expect_rounded(y, promised, EPSILON * magnitude(y), np.sum(errors, axis=1, keepdims=True))]


def _explain_misfit(parameters: Parameters, before: Interface) -> str | None:
    """Return what the source lacks for these parameters, or None."""
    target, largest = before.output(parameters["target"]), max(parameters["tokens"])
    if target is None or not isinstance(target.last_dim, int) or largest < target.last_dim:
        return None
    return f"it scores the token {largest}, and {target} has no such column"


REFERENCE = Reference(
    reads=lambda p: [p["target"], *p["mask"].reads],
    makes=lambda p: [p["output_name"]],
    value=_compute,
    outputs=declare_pooled_output,
    ignores_padding=lambda p: not p["mask"].is_everywhere,
    read=_read,
    misfit=_explain_misfit,
)
