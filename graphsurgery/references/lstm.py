"""add-lstm: an LSTM over the token embeddings. Sources: torch.nn.LSTM's documentation, and pack_padded_sequence's.

The weights have torch's layout: one tensor for every layer and direction, the gates in the order i, f, g, o.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from graphsurgery.errors import WeightsDifferError
from graphsurgery.references.recorded_mask import find_tokens, read_mask
from graphsurgery.references.reference import (
    UNIT,
    Array,
    Expected,
    Known,
    Parameters,
    Reference,
    compute_tolerance,
    declare_new_output,
)
from graphsurgery.references.rounding import expect_rounded, propagate_through_linear

SUFFIXES = ("", "_reverse")


def undo_onnx_layout(stored: Array) -> Iterable[Array]:
    """Yield torch's tensors within one of ONNX's LSTM: ``[directions, 4H, ...]``, or two biases in ``[directions, 8H]``."""
    if stored.ndim not in (2, 3):
        return
    for rows in stored:
        halves = np.split(rows, 2) if stored.ndim == 2 and len(rows) % 2 == 0 else [rows]
        for half in halves:
            if len(half) % 4 == 0:
                i, o, f, c = np.split(half, 4)
                yield np.concatenate((i, f, c, o))


def sigmoid(x: Array) -> Array:
    return np.exp(-np.logaddexp(0, -x))


def run_direction(x: Array, weight_ih: Array, weight_hh: Array, bias: Array) -> Array:
    """Return the states ``[length, H]``: ``x [length, in]``, ``weight_ih [4H, in]``, ``weight_hh [4H, H]``, ``bias [4H]``."""
    h = c = np.zeros(weight_hh.shape[1])
    projected = x @ weight_ih.T + bias
    states = []
    for position in range(len(x)):
        gates = (projected[position] + weight_hh @ h).reshape(4, -1)
        i, f, _, o = sigmoid(gates)
        c = f * c + i * np.tanh(gates[2])
        h = o * np.tanh(c)
        states.append(h)
    return np.stack(states)


def run_lstm(x: Array, m: Array, tensors: Mapping[str, Array]) -> Array:
    """Run one row: ``x [seq, in]``, ``m [seq]`` bool -> ``[seq, directions * H]``, zeros after the row's length."""
    length = max(int(np.sum(m)), 1)
    states, layer = x[:length], 0
    while f"encoder.weight_ih_l{layer}" in tensors:
        directions = []
        for suffix in (one for one in SUFFIXES if f"encoder.weight_ih_l{layer}{one}" in tensors):
            names = [f"encoder.{kind}_l{layer}{suffix}" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            weight_ih, weight_hh, bias_ih, bias_hh = (tensors[name] for name in names)
            made = run_direction(states[::-1] if suffix else states, weight_ih, weight_hh, bias_ih + bias_hh)
            directions.append(made[::-1] if suffix else made)
        states, layer = np.concatenate(directions, axis=1), layer + 1
    return np.concatenate([states, np.zeros((len(x) - length, states.shape[1]))])


def _compute(parameters: Parameters, known: Known) -> list[Expected]:
    x, m = find_tokens(parameters, known)
    tensors = known.weights.find_all(parameters["digests"], undo_onnx_layout)
    if "encoder.weight_ih_l0" not in tensors or tensors["encoder.weight_ih_l0"].shape[1:] != x.shape[2:]:
        raise WeightsDifferError("the file records no encoder.weight_ih_l0 that fits its target", "make the output again")
    try:
        y = np.stack([run_lstm(row, tokens, tensors) for row, tokens in zip(x, m, strict=True)])
    except (KeyError, ValueError) as error:
        what = f"the LSTM's recorded weights do not fit each other: {error}"
        raise WeightsDifferError(what, "make the output again") from error
    errors = propagate_through_linear(known.get_rounding(parameters["target"]), tensors["encoder.weight_ih_l0"])
    grown = np.max(errors, axis=(1, 2), keepdims=True, initial=0)
    return [expect_rounded(y, compute_tolerance(y, x), compute_tolerance(y, x, share=UNIT), grown)]


REFERENCE = Reference(
    reads=lambda p: [p["target"], *p["mask"].reads],
    makes=lambda p: [p["output_name"]],
    value=_compute,
    outputs=declare_new_output,
    saturates=True,
    mixes_positions=True,
    read=read_mask,
)
