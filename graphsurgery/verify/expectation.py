"""From what a file records about its edits to the values that its outputs must have, and how exactly.

Tolerances (float32 head against float64 reference): 1e-5 * max(1, max|x|) over the tokens of a row, times sqrt(tokens) for
mean_sqrt_len_tokens; 1e-6 for unit vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphsurgery.errors import UnsupportedModelError
from graphsurgery.model.provenance import MOVE, Step
from graphsurgery.verify import reference

RELATIVE, UNIT = 1e-5, 1e-6
Array = np.ndarray
Values = dict[str, Array]


@dataclass(frozen=True)
class Expected:
    """What an output must be: ``values``, each within ``tolerance`` (which broadcasts against them)."""

    values: Array
    tolerance: Array


def expected_outputs(steps: Sequence[Step], values: Values) -> dict[str, Expected]:
    """The outputs that ``steps``, applied in order, give for ``values`` (inputs and the encoder's outputs, by name).

    UnsupportedModelError when a step has no reference here.
    """
    found: dict[str, Expected] = {}
    for step in steps:
        if step.edit == MOVE:
            continue
        if step.edit not in REFERENCES:
            raise UnsupportedModelError(f"there is no reference for the edit {step.edit!r}", "a newer graphsurgery may have one")
        name, expected = REFERENCES[step.edit](step.parameters, values | {key: one.values for key, one in found.items()})
        found[name] = expected
    return found


def mode_names(parameters: dict[str, Any]) -> list[str]:
    return [part.strip() for part in parameters["mode"].split(",")]


def pooling_mask(parameters: dict[str, Any], values: Values) -> Array:
    """``m [batch, seq]`` as add-pooling's parameters mean it."""
    shape = values[parameters["hidden_state"]].shape[:2]
    return reference.mask_from(parameters["mask"], values, parameters["ids"], shape)


def _pooled(parameters: dict[str, Any], values: Values) -> tuple[str, Expected]:
    x = np.asarray(values[parameters["hidden_state"]], dtype=np.float64)
    m = pooling_mask(parameters, values)
    modes = mode_names(parameters)
    pooled = reference.pool(x, m, modes)
    if parameters["normalize"]:
        return parameters["output_name"], Expected(reference.normalize(pooled), np.array(UNIT))
    with np.errstate(invalid="ignore"):
        largest = np.max(np.where(m[:, :, None], np.abs(x), 0), axis=(1, 2), initial=1)
    scale = np.stack([np.sqrt(np.maximum(m.sum(axis=1), 1)) if mode == "mean_sqrt_len_tokens" else np.ones(len(x)) for mode in modes])
    tolerance = RELATIVE * largest[:, None] * np.repeat(scale.T, x.shape[2], axis=1)
    return parameters["output_name"], Expected(pooled, tolerance)


def _normalized(parameters: dict[str, Any], values: Values) -> tuple[str, Expected]:
    return parameters["target"], Expected(reference.normalize(values[parameters["target"]]), np.array(UNIT))


REFERENCES: dict[str, Callable[[dict[str, Any], Values], tuple[str, Expected]]] = {
    "add-pooling": _pooled,
    "add-normalize": _normalized,
}
"""The reference of every edit that appends something."""
