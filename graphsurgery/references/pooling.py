"""add-pooling: from token embeddings to one vector per text.

``x [batch, seq, dim]`` token embeddings, ``m [batch, seq]`` bool, true at tokens. Written row by row from the definitions:
slow, plain, and sharing nothing with the graph builders.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from graphsurgery.errors import NothingToPoolError, UnsupportedModelError
from graphsurgery.interface import Interface
from graphsurgery.references.fields import Fields
from graphsurgery.references.normalize import expect_unit_vectors
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

MODES = ("cls", "lasttoken", "max", "mean", "mean_sqrt_len_tokens", "weightedmean")
WEIGHTED = "weightedmean"
DIVIDING = ("mean", "mean_sqrt_len_tokens", "weightedmean")
PAD, ONES, LENGTHS = "pad:", "ones", "lengths:"
FIRST, ABSOLUTE = "first", "absolute"
"""Where the positions of weightedmean count from: the row's first token, or the first position, as in files that do not say."""
ZERO_AT_TOKENS = ("not:", "additive:")
"""Masks that are 0 at tokens: true at padding, or added to scores."""


def pool_row(x: Array, m: Array, mode: str, w: Array | None = None, first: int = 0) -> Array:
    """Pool one row as sentence-transformers' Pooling does: ``x [seq, dim]``, ``m [seq]`` -> ``[dim]``; zeros without tokens.

    If x was multiplied with token weights ``w [seq]``, the sum of all of them (its ``token_weights_sum``) is the divisor.
    The positions of weightedmean count from ``first``.
    """
    tokens = np.flatnonzero(m)
    if not len(tokens):
        return np.zeros(x.shape[1])
    if mode == "cls":
        return x[tokens[0]]
    if mode == "lasttoken":
        return x[tokens[-1]]
    if mode == "max":
        return np.max(x[tokens], axis=0)
    total = np.sum(x[tokens], axis=0)
    if mode == "mean":
        return total / compute_divisor(m, mode, w)
    if mode == "mean_sqrt_len_tokens":
        return total / math.sqrt(compute_divisor(m, mode, w))
    if mode == WEIGHTED:
        weighted = np.sum(x[tokens] * (tokens + 1 - first)[:, None], axis=0)
        return weighted / compute_divisor(m, mode, w, first)
    raise ValueError(f"there is no reference for pooling mode {mode!r}")


def compute_divisor(m: Array, mode: str, w: Array | None, first: int = 0) -> float:
    """Return the divisor of a mean: the number of tokens, or the sum of their positions, 1 at ``first``.

    If there are token weights, their sum takes the place of both.
    """
    if w is not None:
        return max(float(np.sum(w)), 1e-9)
    tokens = np.flatnonzero(m)
    return max(float(np.sum(tokens + 1 - first)) if mode == WEIGHTED else len(tokens), 1e-9)


def pool(x: Array, m: Array, modes: list[str], w: Array | None = None, first: Sequence[int] | None = None) -> Array:
    """Return the modes' values side by side, ``[batch, len(modes) * dim]`` float64.

    ``first`` holds the position from which each row's positions count; None stands for the first one.
    """
    x = np.asarray(x, dtype=np.float64)
    weights, starts = [None] * len(x) if w is None else w, [0] * len(x) if first is None else first
    rows = [
        np.concatenate([pool_row(x[row], m[row], mode, weights[row], starts[row]) for mode in modes]) for row in range(len(x))
    ]
    return np.array(rows).reshape(len(x), len(modes) * x.shape[2])


def find_first_tokens(m: Array) -> list[int]:
    """Return the position of each row's first token, 0 for a row without any. Source: Pooling._forward_padded, pad_lengths."""
    return [next((position for position in range(len(row)) if row[position]), 0) for row in m]


@dataclass(frozen=True)
class RecordedMask:
    """The mask that a file records of an edit.

    The edits read the same text by code of their own, so that no mistake is shared.
    """

    input: str | None = None
    """The input, if the mask is one."""
    kind: str = ""
    """How the input says where tokens are: not 0 there (empty), 0 there (of `ZERO_AT_TOKENS`), or how many there are."""
    ids: str | None = None
    """The input of token ids, if the mask is read from it."""
    pad_id: int | None = None
    """The id of padding, if the mask is read from the ids."""

    @classmethod
    def read(cls, parameters: Parameters) -> RecordedMask:
        """Read ``<input>``, ``not:<input>``, ``additive:<input>``, ``lengths:<input>``, ``ones`` or ``pad:<id>``.

        Raise UnsupportedModelError for a ``pad:`` without id or ids.
        """
        spec, ids = parameters["mask"], parameters.get("ids")
        if spec == ONES:
            return cls()
        if not spec.startswith(PAD):
            kind = next((kind for kind in (*ZERO_AT_TOKENS, LENGTHS) if spec.startswith(kind) and spec != kind), "")
            return cls(spec.removeprefix(kind), kind)
        digits = spec.removeprefix(PAD)
        pad_id = parse_number(digits.removeprefix("-"))
        if pad_id is None:
            raise UnsupportedModelError(f"the recorded mask {spec!r} names no token id", "make the output again")
        if not isinstance(ids, str):
            what = "the recorded mask is read from the token ids, but no input of ids is recorded"
            raise UnsupportedModelError(what, "make the output again")
        return cls(ids=ids, pad_id=-pad_id if digits.startswith("-") else pad_id)

    @property
    def is_everywhere(self) -> bool:
        """Whether every position is a token."""
        return not self.reads

    @property
    def reads(self) -> list[str]:
        """The values that the mask is read from."""
        return [name for name in (self.input, self.ids) if name is not None]

    def find_tokens(self, known: Known, shape: tuple[int, ...]) -> Array:
        """Return ``m``, true at tokens. ``shape`` is that of a mask which is true everywhere."""
        if self.input is not None:
            given = known[self.input].astype(np.float64)
            if self.kind == LENGTHS:
                return np.array([[position < length for position in range(shape[1])] for length in given]).reshape(shape)
            return (given == 0) if self.kind in ZERO_AT_TOKENS else (given != 0)
        return np.full(shape, True) if self.ids is None else known[self.ids] != self.pad_id


def read_mask(parameters: Parameters) -> Parameters:
    """Read ``mask`` as a `RecordedMask`."""
    return {**parameters, "mask": RecordedMask.read(parameters)}


def find_tokens(parameters: Parameters, known: Known, parameter: str = "target", dims: str = "hidden") -> tuple[Array, Array]:
    """Return the value that ``parameter`` names, ``[batch, seq, dims]``, and its mask, ``[batch, seq]``.

    Raise NothingToPoolError if one of them has another shape.
    """
    name = parameters[parameter]
    x = known[name]
    m: Array = parameters["mask"].find_tokens(known, x.shape[:2])
    if x.ndim != 3 or m.shape != x.shape[:2]:
        what = f"{name} is {list(x.shape)} and the mask is {list(m.shape)}; needed are [batch, seq, {dims}] and [batch, seq]"
        raise NothingToPoolError(what, f"name another value with --{parameter.replace('_', '-')}")
    return x, m


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
        require_known("pooling mode", mode, MODES)
    prompt = parameters.get("skip_prompt")
    if prompt not in (None, "input") and parse_number(prompt) is None:
        raise UnsupportedModelError(f"the recorded prompt length {prompt!r} is not a number", "make the output again")
    if parameters.get("weights_from") is not None:
        require_known("start of positions", parameters["weights_from"], (FIRST, ABSOLUTE))
    return {**read_mask(parameters), "mode": modes}


def _compute(parameters: Parameters, known: Known) -> list[Expected]:
    x, m = find_tokens(parameters, known, "hidden_state")
    first = find_first_tokens(m) if parameters.get("weights_from") == FIRST else [0] * len(m)
    m = exclude_prompt(parameters, known, m)
    modes = parameters["mode"]
    w = known[parameters["token_weights"]] if parameters.get("token_weights") else None
    y, per_token = pool(x, m, modes, w, first), compute_tolerance(np.where(m[:, :, None], x, 0))[:, :, 0]
    scale = np.repeat(np.stack([_weigh_errors(m, mode, w, first) for mode in modes], axis=1), x.shape[2], axis=1)
    divides = np.repeat([mode in DIVIDING for mode in modes], x.shape[2])
    added = pool(magnitude(x), m, modes, w, first)
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
    grown = pool(errors, m, modes, w, first) if errors.any() else np.zeros(y.shape)
    if parameters["normalize"]:  # a sum over many tokens is an earlier step of a chain
        return [expect_unit_vectors(y, np.where(grown > 0, own + grown, sums))]
    return [expect_rounded(y, promised, own, grown)]


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
)
