"""add-cnn: convolutions over the token embeddings. Source: torch.nn.Conv1d, as sentence-transformers' CNN module uses it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from graphsurgery.errors import NothingToPoolError, WeightsDifferError
from graphsurgery.references.reference import (
    Array,
    Expected,
    Known,
    Parameters,
    Reference,
    compute_tolerance,
    declare_new_output,
)
from graphsurgery.references.rounding import EPSILON, combine_errors, expect_rounded, magnitude


def convolve_one(x: Array, weight: Array, bias: Array) -> Array:
    """Convolve rows, padded with zeros, with one kernel: ``x [batch, seq, in]``, ``weight [out, in, size]`` ->
    ``[batch, seq, out]``."""
    batch, seq, width = x.shape
    size = weight.shape[2]
    around = np.zeros((batch, (size - 1) // 2, width))
    padded = np.concatenate([around, x, around], axis=1)
    return bias + sum(padded[:, offset : offset + seq] @ weight[:, :, offset].T for offset in range(size))


def convolve(x: Array, kernels: Sequence[tuple[Array, Array]]) -> Array:
    """Return the kernels' values side by side, ``[batch, seq, sum of out]``."""
    return np.concatenate([convolve_one(x, *kernel) for kernel in kernels], axis=2)


def _find_kernels(tensors: dict[str, Array]) -> Iterable[tuple[Array, Array]]:
    for number in range(len(tensors) // 2):
        weight, bias = tensors.get(f"convs.{number}.weight"), tensors.get(f"convs.{number}.bias")
        if weight is None or bias is None or weight.ndim != 3 or bias.shape != weight.shape[:1] or weight.shape[2] % 2 == 0:
            raise WeightsDifferError(f"the file does not record the weight and bias of convs.{number}", "make the output again")
        yield weight, bias


def _compute(parameters: Parameters, known: Known) -> list[Expected]:
    x, kernels = known[parameters["target"]], list(_find_kernels(known.weights.find_all(parameters["digests"])))
    if x.ndim != 3:
        what = f"a convolution needs [batch, seq, hidden], but {parameters['target']} is {list(x.shape)}"
        raise NothingToPoolError(what, "name another value with --target")
    if not kernels or any(weight.shape[1] != x.shape[2] for weight, _ in kernels):
        raise WeightsDifferError("the file records no kernels that fit their target", "make the output again")
    y, errors = convolve(x, kernels), known.get_rounding(parameters["target"])
    own = EPSILON * convolve(magnitude(x), [(np.abs(weight), np.abs(bias)) for weight, bias in kernels])
    sums = convolve(errors, [(np.abs(weight), 0 * bias) for weight, bias in kernels])
    squares = convolve(np.square(errors), [(np.square(weight), 0 * bias) for weight, bias in kernels])
    return [expect_rounded(y, compute_tolerance(y, x), own, combine_errors(sums, squares))]


REFERENCE = Reference(
    reads=lambda p: [p["target"]],
    makes=lambda p: [p["output_name"]],
    value=_compute,
    outputs=declare_new_output,
    mixes_positions=True,
)
