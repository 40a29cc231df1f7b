"""The edits that a file records, as a chain: what they read, what they make, and what must come out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from graphsurgery.encoder.head import head_steps
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.interface import Value
from graphsurgery.model.model import Model
from graphsurgery.model.provenance import HOUSEKEEPING, Step, rewrites
from graphsurgery.references.fields import after_fields
from graphsurgery.references.recorded_weights import RecordedWeights
from graphsurgery.references.reference import Before, Expected, Known, Meaning, Values, exact
from graphsurgery.references.registry import MEANINGS


def meaning(step: Step) -> Meaning:
    """UnsupportedModelError when the edit has no reference here, or when what the file records of it cannot be read."""
    found = MEANINGS.get(step.edit)
    if found is None:
        raise UnsupportedModelError(f"there is no reference for the edit {step.edit!r}", "a newer graphsurgery may have one")
    found.check(step.parameters)
    return found


def meanings(steps: Sequence[Step]) -> list[tuple[Step, Meaning]]:
    """Every step that changes what a model gives, with its meaning. Raises as `meaning`."""
    return [(step, meaning(step)) for step in steps if step.edit not in HOUSEKEEPING]


def steps_beyond(source: Model, output: Model) -> list[Step]:
    """The edits that the output records and the source does not; none where the output was rewritten since."""
    if rewrites(output.proto) != rewrites(source.proto):
        return []
    before, after = head_steps(source), head_steps(output)
    common = 0
    while common < min(len(before), len(after)) and _same(before[common], after[common]):
        common += 1
    return after[common:] if common == len(before) else []


def _same(one: Step, other: Step) -> bool:
    return (one.edit, one.given, one.source, one.unreadable) == (other.edit, other.given, other.source, other.unreadable)


def added_inputs(step: Step, means: Meaning) -> set[str]:
    """The inputs that a step adds."""
    return set() if means.fields is None else {info.name for info in means.fields.inputs(step.parameters)}


def origin(steps: Sequence[Step], name: str) -> str | None:
    """What the source calls the value that is called ``name`` after ``steps``; None where one of them made or added it."""
    for step, means in reversed(meanings(steps)):
        if name in means.makes(step.parameters) or name in means.inside(step.parameters):
            return None
        if means.fields is not None:
            if name in added_inputs(step, means):
                return None
            old = {new: old for old, new in means.fields.names(step.parameters).items()}
            name = old.get(name, name)
    return name


def destiny(steps: Sequence[Step], name: str) -> str:
    """What nodes call the value ``name`` after ``steps``; of one that a step makes anew, what they called it till then."""
    for step, means in meanings(steps):
        if name in means.makes(step.parameters):
            return name
        if means.fields is not None:
            name = means.fields.names(step.parameters).get(name, name)
    return name


def input_destiny(steps: Sequence[Step], name: str) -> str:
    """What the input ``name`` is called after ``steps``, where it is one still."""
    for step, means in meanings(steps):
        if means.fields is not None:
            new = means.fields.names(step.parameters).get(name, name)
            name = name if new in means.inside(step.parameters) else new
    return name


def starts(steps: Sequence[Step]) -> list[str]:
    """The values of the source that ``steps``, applied in order, read: by the source's names."""
    found: dict[str, None] = {}
    for place, (step, means) in enumerate(meanings(steps)):
        new = added_inputs(step, means)
        names = [origin(steps[:place], name) for name in means.reads(step.parameters) if name not in new]
        found |= dict.fromkeys(name for name in names if name is not None)
    return list(found)


def read_by(steps: Sequence[Step]) -> list[str]:
    """The values that ``steps`` read, by the names that they have in the output."""
    found: dict[str, None] = {}
    for place, (step, means) in enumerate(meanings(steps)):
        rest = steps[place + (means.through is not None) :]
        found |= dict.fromkeys(destiny(rest, name) for name in means.reads(step.parameters))
    return list(found)


def made_by(steps: Sequence[Step]) -> set[str]:
    """The values that ``steps`` make, by the names that they have in the output."""
    made: set[str] = set()
    for step, means in meanings(steps):
        names = means.fields.names(step.parameters) if means.fields is not None else {}
        made = {names.get(name, name) for name in made} | set(means.makes(step.parameters))
    return made


def inside(steps: Sequence[Step]) -> list[str]:
    """Values within the output that take the place of inputs."""
    chain = list(enumerate(meanings(steps)))
    return [destiny(steps[place + 1 :], name) for place, (step, means) in chain for name in means.inside(step.parameters)]


def inside_values(source: Model, steps: Sequence[Step]) -> list[Value]:
    """As `inside`, with the types of the inputs whose place they take."""
    found = []
    for place, (step, means) in enumerate(meanings(steps)):
        before = declared(source, steps[:place]).interface
        for name, taken in means.inside(step.parameters).items():
            value = before.input(taken)
            found += [] if value is None else [replace(value, name=destiny(steps[place + 1 :], name))]
    return found


def declared(source: Model, steps: Sequence[Step]) -> Model:
    """``source`` with its fields as ``steps`` say that they are afterwards: what the output is held against, field by field."""
    for place, (step, means) in enumerate(meanings(steps)):
        if means.fields is not None:
            source = after_fields(source, means.fields, step.parameters, made_by(steps[:place]))
    return source


def after(steps: Sequence[Step], source: Before, weights: RecordedWeights) -> Before:
    """What the model gives after ``steps``, applied in order, where ``source`` says what it gives before them.

    It raises UnsupportedModelError when a step reads a value that there is not, and WeightsDifferError when the file has not
    the weights that it records.
    """
    for step, means in meanings(steps):
        source = _after(step, means, source, weights)
    return source


def _after(step: Step, means: Meaning, before: Before, weights: RecordedWeights) -> Before:
    def value(feed: Values) -> dict[str, Expected]:
        if means.through is not None:
            return means.through(step.parameters, feed, before)
        new = added_inputs(step, means)
        given = before({name: array for name, array in feed.items() if name not in new})
        given |= exact({name: feed[name] for name in new})
        known = Known(given, weights)
        absent = [name for name in means.reads(step.parameters) if name not in known]
        if absent:
            raise UnsupportedModelError(f"{step.edit} reads {absent[0]!r}, which the source has not", "make the output again")
        with np.errstate(all="ignore"):  # the source's own NaN and infinities
            made = means.value(step.parameters, known)
        return given | dict(zip(means.makes(step.parameters), made, strict=True))

    return value
