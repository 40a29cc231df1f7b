"""The edits that a file records, as a chain: what they read, what they make, and what must come out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphsurgery.errors import UnsupportedModelError
from graphsurgery.model.model import Model
from graphsurgery.model.provenance import HOUSEKEEPING, Step
from graphsurgery.model.provenance import steps as recorded_steps
from graphsurgery.proof.meaning import Expected, Known, Meaning, Values, exact
from graphsurgery.proof.meanings.registry import MEANINGS
from graphsurgery.proof.weights import RecordedWeights


def meaning(step: Step) -> Meaning:
    """UnsupportedModelError when the edit has no reference here, or when what the file records of it cannot be read."""
    found = MEANINGS.get(step.edit)
    if found is None:
        raise UnsupportedModelError(f"there is no reference for the edit {step.edit!r}", "a newer graphsurgery may have one")
    for name, kind in found.parameters.items():
        if not isinstance(step.parameters.get(name), kind):
            what = f"the file records {step.edit} with {name} = {step.parameters.get(name)!r}"
            raise UnsupportedModelError(f"{what}, which is no {kind.__name__}", "make the output again")
    found.check(step.parameters)
    return found


def meanings(steps: Sequence[Step]) -> list[tuple[Step, Meaning]]:
    """Every step that changes what a model gives, with its meaning. Raises as `meaning`."""
    return [(step, meaning(step)) for step in steps if step.edit not in HOUSEKEEPING]


def steps_beyond(source: Model, output: Model) -> list[Step]:
    """The edits that the output records and the source does not."""
    before = [step for step in recorded_steps(source.proto) if step.edit not in HOUSEKEEPING]
    after = [step for step in recorded_steps(output.proto) if step.edit not in HOUSEKEEPING]
    common = 0
    while common < min(len(before), len(after)) and _same(before[common], after[common]):
        common += 1
    return after[common:] if common == len(before) else []


def _same(one: Step, other: Step) -> bool:
    return (one.edit, one.parameters, one.source) == (other.edit, other.parameters, other.source)


def starts(steps: Sequence[Step]) -> list[str]:
    """The values of the source that ``steps``, applied in order, read."""
    made: set[str] = set()
    found: dict[str, None] = {}
    for step, means in meanings(steps):
        found |= dict.fromkeys(name for name in means.reads(step.parameters) if name not in made)
        made.update(means.makes(step.parameters))
    return list(found)


def made_by(steps: Sequence[Step]) -> set[str]:
    """The values that ``steps`` make."""
    return {name for step, means in meanings(steps) for name in means.makes(step.parameters)}


def expected_values(steps: Sequence[Step], values: Values, weights: RecordedWeights) -> dict[str, Expected]:
    """What ``steps``, applied in order, make of ``values`` (inputs and values of the encoder, by name).

    UnsupportedModelError when a step has no reference here, or reads a value that there is not; WeightsDifferError when the
    file has not the weights that it records.
    """
    given = exact(values)
    found: dict[str, Expected] = {}
    for step, means in meanings(steps):
        known = Known(given | found, weights)
        absent = [name for name in means.reads(step.parameters) if name not in known]
        if absent:
            raise UnsupportedModelError(f"{step.edit} reads {absent[0]!r}, which the source has not", "make the output again")
        with np.errstate(all="ignore"):  # the source's own NaN and infinities
            made = means.value(step.parameters, known)
        found |= dict(zip(means.makes(step.parameters), made, strict=True))
    return found
