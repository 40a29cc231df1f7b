"""From what a file records about its edits to the values that its outputs must have, and how exactly.

Tolerances (float32 head against float64 reference): 1e-5 * max(1, max|x|) over the tokens of a row, times sqrt(tokens) for
mean_sqrt_len_tokens; 1e-6 for unit vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphsurgery.errors import NothingToPoolError, UnsupportedModelError
from graphsurgery.model.provenance import HOUSEKEEPING, Step
from graphsurgery.proof import reference

RELATIVE, UNIT = 1e-5, 1e-6
Array = np.ndarray
Values = dict[str, Array]
Parameters = Mapping[str, Any]


@dataclass(frozen=True)
class Expected:
    """What an output must be: ``values``, each within ``tolerance`` (which broadcasts against them)."""

    values: Array
    tolerance: Array


@dataclass(frozen=True)
class Meaning:
    """What an edit that appends something means: which values it ``reads``, which output it ``makes``, and its ``value``."""

    parameters: Mapping[str, type]
    """Those that it must have."""
    reads: Callable[[Parameters], list[str]]
    makes: Callable[[Parameters], str]
    value: Callable[[Parameters, Values], Expected]


def meaning(step: Step) -> Meaning:
    """UnsupportedModelError when the edit has no reference here, or when what the file records of it cannot be read."""
    found = MEANINGS.get(step.edit)
    if found is None:
        raise UnsupportedModelError(f"there is no reference for the edit {step.edit!r}", "a newer graphsurgery may have one")
    for name, kind in found.parameters.items():
        if not isinstance(step.parameters.get(name), kind):
            what = f"the file records {step.edit} with {name} = {step.parameters.get(name)!r}"
            raise UnsupportedModelError(f"{what}, which is no {kind.__name__}", "make the output again")
    if step.edit == POOLING:
        _check_pooling(step.parameters)
    return found


def meanings(steps: Sequence[Step]) -> list[tuple[Step, Meaning]]:
    """Every step that changes what a model gives, with its meaning. Raises as `meaning`."""
    return [(step, meaning(step)) for step in steps if step.edit not in HOUSEKEEPING]


def starts(steps: Sequence[Step]) -> list[str]:
    """The values of the source that ``steps``, applied in order, read."""
    made: set[str] = set()
    found: dict[str, None] = {}
    for step, means in meanings(steps):
        found |= dict.fromkeys(name for name in means.reads(step.parameters) if name not in made)
        made.add(means.makes(step.parameters))
    return list(found)


def made_by(steps: Sequence[Step]) -> set[str]:
    """The outputs that ``steps`` make."""
    return {means.makes(step.parameters) for step, means in meanings(steps)}


def expected_outputs(steps: Sequence[Step], values: Values) -> dict[str, Expected]:
    """The outputs that ``steps``, applied in order, give for ``values`` (inputs and the encoder's outputs, by name).

    UnsupportedModelError when a step has no reference here, or reads a value that there is not.
    """
    found: dict[str, Expected] = {}
    for step, means in meanings(steps):
        known = values | {name: one.values for name, one in found.items()}
        absent = [name for name in means.reads(step.parameters) if name not in known]
        if absent:
            raise UnsupportedModelError(f"{step.edit} reads {absent[0]!r}, which the source has not", "make the output again")
        with np.errstate(all="ignore"):  # the source's own NaN and infinities
            found[means.makes(step.parameters)] = means.value(step.parameters, known)
    return found


def mode_names(parameters: Parameters) -> list[str]:
    return [part.strip() for part in parameters["mode"].split(",")]


def pad_id(parameters: Parameters) -> int | None:
    """The id that means padding, where the mask is read from the ids."""
    spec = parameters["mask"]
    return int(spec.removeprefix(PAD)) if spec.startswith(PAD) else None


def _check_pooling(parameters: Parameters) -> None:
    """UnsupportedModelError for modes and masks that there is no reference for."""
    unknown = [mode for mode in mode_names(parameters) if mode not in reference.MODES]
    if unknown:
        what = f"there is no reference for pooling mode {unknown[0]!r}"
        raise UnsupportedModelError(what, "a newer graphsurgery may have one")
    spec = parameters["mask"]
    if spec.startswith(PAD) and not spec.removeprefix(PAD).removeprefix("-").isdecimal():
        raise UnsupportedModelError(f"the recorded mask {spec!r} names no token id", "make the output again")
    if spec.startswith(PAD) and not isinstance(parameters.get("ids"), str):
        raise UnsupportedModelError("the recorded mask is read from the ids, and no ids are recorded", "make the output again")


def _pooled_from(parameters: Parameters) -> list[str]:
    spec = parameters["mask"]
    masks = [] if spec == ONES else [parameters["ids"]] if spec.startswith(PAD) else [spec]
    return [parameters["hidden_state"], *masks]


def _pooled(parameters: Parameters, values: Values) -> Expected:
    x = np.asarray(values[parameters["hidden_state"]], dtype=np.float64)
    m = reference.mask_from(parameters["mask"], values, parameters.get("ids"), x.shape[:2])
    if x.ndim != 3 or m.shape != x.shape[:2]:
        what = f"{parameters['hidden_state']} is {list(x.shape)} where the mask is {list(m.shape)}"
        raise NothingToPoolError(f"{what}: what is pooled is [batch, seq, hidden]", "name another value with --hidden-state")
    modes = mode_names(parameters)
    pooled = reference.pool(x, m, modes)
    if parameters["normalize"]:
        return Expected(reference.normalize(pooled), np.array(UNIT))
    largest = np.max(np.where(m[:, :, None] & np.isfinite(x), np.abs(x), 0), axis=(1, 2), initial=1)
    root = np.sqrt(np.maximum(m.sum(axis=1), 1))
    scale = np.stack([root if mode == "mean_sqrt_len_tokens" else np.ones(len(x)) for mode in modes])
    return Expected(pooled, RELATIVE * largest[:, None] * np.repeat(scale.T, x.shape[2], axis=1))


def _normalized(parameters: Parameters, values: Values) -> Expected:
    return Expected(reference.normalize(values[parameters["target"]]), np.array(UNIT))


POOLING, PAD, ONES = "add-pooling", "pad:", "ones"
MEANINGS = {
    POOLING: Meaning(
        {"mode": str, "normalize": bool, "hidden_state": str, "mask": str, "output_name": str, "keep_output": list},
        _pooled_from, lambda parameters: parameters["output_name"], _pooled,
    ),
    "add-normalize": Meaning(
        {"target": str}, lambda parameters: [parameters["target"]], lambda parameters: parameters["target"], _normalized,
    ),
}  # fmt: skip
"""The meaning of every edit that appends something."""
