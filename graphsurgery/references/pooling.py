"""add-pooling: from token embeddings to one vector per text.

``x [batch, seq, dim]`` token embeddings, ``m [batch, seq]`` bool, true at tokens. Written row by row from the definitions:
slow, plain, and sharing nothing with the graph builders.
"""

from __future__ import annotations

import math

import numpy as np
import onnx

from graphsurgery.errors import UnsupportedModelError
from graphsurgery.interface import Interface
from graphsurgery.references import clips
from graphsurgery.references.clips import are_clips, read_clips
from graphsurgery.references.fields import Fields
from graphsurgery.references.normalize import expect_unit_vectors
from graphsurgery.references.pooled_rows import (
    AVERAGE,
    DEVIATION,
    DIVIDING,
    MODES,
    STATISTICS,
    WEIGHTED,
    compute_divisor,
    find_first_tokens,
    list_parts,
    pool,
)
from graphsurgery.references.recorded_mask import find_tokens, read_mask
from graphsurgery.references.reference import (
    RELATIVE,
    Array,
    Expected,
    Known,
    Parameters,
    Reference,
    compute_tolerance,
    declare_pooled_output,
    parse_number,
    require_known,
)
from graphsurgery.references.rounding import EPSILON, INDEPENDENT, SPREAD, estimate_mean_error, expect_rounded, magnitude

FIRST, ABSOLUTE = "first", "absolute"
"""Where the positions of weightedmean count from: the row's first token, or the first position, as in files that do not say."""
SUMMING = (*DIVIDING, AVERAGE, DEVIATION)
"""The modes that sum up tokens."""


def name_prompt_input(parameters: Parameters) -> str | None:
    """Return the input that holds the length of each row's prompt, if pooling leaves out as many positions as it says."""
    return "prompt_length" if parameters.get("skip_prompt") == "input" else None


def declare_prompt_input(parameters: Parameters) -> list[onnx.ValueInfoProto]:
    """Return that input as a file declares it, int64 ``[1]``; an empty list if there is none."""
    name = name_prompt_input(parameters)
    return [] if name is None else [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, [1])]


def exclude_prompt(parameters: Parameters, known: Known, m: Array) -> Array:
    """Return ``m`` without the positions before first + N, row by row; first is the row's first token, N the prompt's length.

    Source: Pooling._exclude_prompt_from_mask of sentence-transformers.
    """
    if parameters.get("skip_prompt") is None:
        return m
    name = name_prompt_input(parameters)
    length = int(parameters["skip_prompt"] if name is None else known[name][0])
    left = np.array(m)
    for row, first in zip(left, find_first_tokens(m), strict=True):
        if row.any():
            row[: max(first + length, 0)] = False
    return left


def _read(parameters: Parameters) -> Parameters:
    """Read ``mode`` as a list of modes, and the mask."""
    modes = [part.strip() for part in parameters["mode"].split(",")]
    for mode in modes:
        require_known("pooling mode", mode, (*MODES, STATISTICS))
    prompt = parameters.get("skip_prompt")
    if prompt not in (None, "input") and parse_number(prompt) is None:
        raise UnsupportedModelError(f"the recorded prompt length {prompt!r} is not a number", "make the output again")
    if parameters.get("weights_from") is not None:
        require_known("start of positions", parameters["weights_from"], (FIRST, ABSOLUTE))
    read = {**read_mask(parameters), "mode": list_parts(modes)}
    return read_clips(read) if are_clips(parameters) else read


def _compute(parameters: Parameters, known: Known) -> list[Expected]:
    x, m = find_tokens(parameters, known, "hidden_state")
    first = find_first_tokens(m) if parameters.get("weights_from") == FIRST else [0] * len(m)
    m = exclude_prompt(parameters, known, m)
    modes = parameters["mode"]
    w = known[parameters["token_weights"]] if parameters.get("token_weights") else None
    y, per_token = pool(x, m, modes, w, first), compute_tolerance(np.where(m[:, :, None], x, 0))[:, :, 0]
    scale = np.repeat(np.stack([_weigh_errors(m, mode, w, first) for mode in modes], axis=1), x.shape[2], axis=1)
    divides = np.repeat([mode in SUMMING for mode in modes], x.shape[2])
    added = pool(magnitude(x), m, _replace_deviation(modes, AVERAGE), w, first)
    promised = per_token * scale
    own = EPSILON * divides * estimate_mean_error(x.shape[1], sums=4) * added  # tokens are added by a MatMul
    if w is not None:  # the divisor is a sum itself, and may be small if weights of either sign cancel each other
        quotient = np.abs(y) * (np.sum(np.abs(w), axis=1) / np.maximum(np.sum(w, axis=1), 1e-9))[:, None]
        promised, own = promised + RELATIVE * quotient, own + EPSILON * quotient
    sums = np.zeros(y.shape)
    if x.shape[1] > INDEPENDENT:
        of_modes = np.stack([_estimate_sum_error(x, m, mode, w, first) for mode in modes], axis=1)
        sums = np.repeat(of_modes, x.shape[2], axis=1)
        own = np.maximum(own, sums)
    errors = known.get_rounding(parameters["hidden_state"])
    grown = pool(errors, m, _replace_deviation(modes, "max"), w, first) if errors.any() else np.zeros(y.shape)
    if parameters["normalize"]:  # a sum over many tokens is an earlier step of a chain
        return [expect_unit_vectors(y, np.where(grown > 0, own + grown, sums))]
    return [expect_rounded(y, promised, own, grown)]


def _replace_deviation(modes: list[str], by: str) -> list[str]:
    """Return the modes by which errors or sizes are pooled: the deviation of these is not what they do to the deviation."""
    return [by if mode == DEVIATION else mode for mode in modes]


def _estimate_sum_error(x: Array, m: Array, mode: str, w: Array | None, first: list[int]) -> Array:
    """Return `SPREAD` times the error of each row's sum when float32 adds one token after the other, ``[batch]``.

    It is a share of the divisor of ``mode``, and the largest of all dims; 0 if the mode sums nothing up.
    """
    errors = np.zeros(len(x))
    for row in range(len(x) if mode in DIVIDING else 0):
        terms = np.where(m[row][:, None], x[row], 0)
        terms = terms * (np.arange(1, len(terms) + 1) - first[row])[:, None] if mode == WEIGHTED else terms
        naive = np.cumsum(terms.astype(np.float32), axis=0, dtype=np.float32)[-1]
        divisor = compute_divisor(m[row], mode, None if w is None else w[row], first[row])
        apart = np.abs(naive - terms.sum(axis=0)) / (math.sqrt(divisor) if mode == "mean_sqrt_len_tokens" else divisor)
        errors[row] = SPREAD * np.max(apart, where=np.isfinite(apart), initial=0)
    return errors


def _weigh_errors(m: Array, mode: str, w: Array | None, first: list[int]) -> Array:
    """Return the weight that an error in every token has in the result of ``mode``, ``[batch]``; 1 for a mean."""
    tokens = np.maximum(m.sum(axis=1), 1)
    if mode == DEVIATION:
        return np.sqrt(tokens / np.maximum(tokens - 1, 1)) + 1  # of its tokens, and of their mean
    if w is None or mode not in DIVIDING:
        return np.sqrt(tokens) if mode == "mean_sqrt_len_tokens" else np.ones(len(m))
    counted = np.arange(1, m.shape[1] + 1) - np.array(first)[:, None]
    positions = np.sum(m * counted, axis=1) if mode == WEIGHTED else tokens
    total = np.maximum(np.sum(w, axis=1), 1e-9)
    return positions / (np.sqrt(total) if mode == "mean_sqrt_len_tokens" else total)


def _name_token_weights(parameters: Parameters) -> list[str]:
    """Return the value of token weights, if means are divided by their sum."""
    return [parameters["token_weights"]] if isinstance(parameters.get("token_weights"), str) else []


def _explain_misfit(parameters: Parameters, before: Interface) -> str | None:
    """Return what the source lacks for these parameters, or None."""
    name = parameters["output_name"]
    if not parameters.get("replace") or before.output(name) is not None:
        return None
    return f"it replaces the output {name}, which the source does not have"


REFERENCE = Reference(
    reads=lambda p: [p["hidden_state"], *p["mask"].reads, *_name_token_weights(p), *filter(None, [name_prompt_input(p)])],
    makes=lambda p: [p["output_name"]],
    value=_compute,
    outputs=declare_pooled_output,
    ignores_padding=lambda p: not p["mask"].is_everywhere,
    multiplies=False,
    per_token=_name_token_weights,
    read=_read,
    misfit=_explain_misfit,
    fields=Fields(inputs=declare_prompt_input),
    choose=lambda p: clips.REFERENCE if are_clips(p) else None,
)
