"""add-lstm: an LSTM over the token embeddings. Source: torch.nn.LSTM's documentation, and pack_padded_sequence's.

The weights are found as torch has them: one tensor for every layer and direction, the gates in the order i, f, g, o.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from graphsurgery.errors import NothingToPoolError, WeightsDifferError
from graphsurgery.references.pooling import read_mask
from graphsurgery.references.recorded_weights import RecordedWeights
from graphsurgery.references.reference import (
    RELATIVE,
    UNIT,
    Array,
    Expected,
    Known,
    Parameters,
    Reference,
    compute_tolerance,
    declare_new_output,
)
from graphsurgery.references.rounding import propagate_through_linear, widen_tolerance

SUFFIXES = ("", "_reverse")


def undo_onnx_layout(stored: Array) -> Iterable[Array]:
    """torch's tensors within one of ONNX's LSTM: ``[directions, 4H, ...]``, or two biases in ``[directions, 8H]``."""
    if stored.ndim not in (2, 3):
        return
    for rows in stored:
        halves = np.split(rows, 2) if stored.ndim == 2 and len(rows) % 2 == 0 else [rows]
        for half in halves:
            if len(half) % 4 == 0:
                size = len(half) // 4
                i, o, f, c = (half[gate * size : (gate + 1) * size] for gate in range(4))
                yield np.concatenate((i, f, c, o))


def sigmoid(x: Array) -> Array:
    return np.exp(-np.logaddexp(0, -x))


def run_direction(x: Array, weight_ih: Array, weight_hh: Array, bias: Array) -> Array:
    """``x [length, in]``, ``weight_ih [4H, in]``, ``weight_hh [4H, H]``, ``bias [4H]`` -> the states ``[length, H]``."""
    h = c = np.zeros(weight_hh.shape[1])
    given = x @ weight_ih.T + bias
    states = []
    for position in range(len(x)):
        i, f, g, o = np.split(given[position] + weight_hh @ h, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        states.append(h)
    return np.stack(states)


def run_lstm(x: Array, m: Array, tensors: Mapping[str, Array]) -> Array:
    """One row: ``x [seq, in]``, ``m [seq]`` bool -> ``[seq, directions * H]``, zeros behind the row's length."""
    length = max(int(np.sum(m)), 1)
    states, layer = x[:length], 0
    while f"encoder.weight_ih_l{layer}" in tensors:
        found = []
        for suffix in (one for one in SUFFIXES if f"encoder.weight_ih_l{layer}{one}" in tensors):
            names = [f"encoder.{kind}_l{layer}{suffix}" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            weight_ih, weight_hh, bias_ih, bias_hh = (tensors[name] for name in names)
            given = states[::-1] if suffix else states
            given = run_direction(given, weight_ih, weight_hh, bias_ih + bias_hh)
            found.append(given[::-1] if suffix else given)
        states, layer = np.concatenate(found, axis=1), layer + 1
    return np.concatenate([states, np.zeros((len(x) - length, states.shape[1]))])


def _tensors(parameters: Parameters, weights: RecordedWeights) -> dict[str, Array]:
    pairs = [str(digest).partition("=") for digest in parameters["digests"]]
    return {name: weights.find(sha256, undo_onnx_layout) for name, _, sha256 in pairs}


def _compute(parameters: Parameters, known: Known) -> list[Expected]:
    x, tensors = known[parameters["target"]], _tensors(parameters, known.weights)
    m = parameters["mask"].find_tokens(known, x.shape[:2])
    if x.ndim != 3 or m.shape != x.shape[:2]:
        what = f"{parameters['target']} is {list(x.shape)} where the mask is {list(m.shape)}"
        raise NothingToPoolError(f"{what}: what an LSTM takes is [batch, seq, hidden]", "name another value with --target")
    if "encoder.weight_ih_l0" not in tensors or tensors["encoder.weight_ih_l0"].shape[1:] != x.shape[2:]:
        raise WeightsDifferError("the file records no encoder.weight_ih_l0 that fits its target", "make the output again")
    try:
        y = np.stack([run_lstm(row, tokens, tensors) for row, tokens in zip(x, m, strict=True)])
    except (KeyError, ValueError) as error:
        raise WeightsDifferError(f"the LSTM's recorded weights do not fit each other: {error}", "make it again") from error
    errors = propagate_through_linear(known.get_rounding(parameters["target"]), tensors["encoder.weight_ih_l0"])
    grown = np.max(errors, axis=(1, 2), keepdims=True, initial=0)
    tolerance = compute_tolerance(y, x)
    own = tolerance * UNIT / RELATIVE
    return [Expected(y, widen_tolerance(tolerance, own, grown), own + grown, promised=tolerance)]


REFERENCE = Reference(
    reads=lambda p: [p["target"], *p["mask"].reads],
    makes=lambda p: [p["output_name"]],
    value=_compute,
    outputs=declare_new_output,
    saturates=True,
    mixes_positions=True,
    read=read_mask,
)
