"""A chain of references: the edits that a file records, in order, with what each of them must compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib import import_module
from typing import TypeAlias, TypeVar

import numpy as np

from graphsurgery.edit_list import RECORDED_EDITS, ByVerb, EditEntry
from graphsurgery.encoder.head import read_head_steps
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.interface import Value
from graphsurgery.model.model import Model
from graphsurgery.model.provenance import HOUSEKEEPING, OPTIMIZED, Step
from graphsurgery.references.fields import apply_fields
from graphsurgery.references.recorded_weights import RecordedWeights
from graphsurgery.references.reference import Expected, Known, Parameters, Reference, RunModel, Values, expect_exactly


def _import_reference(listed: EditEntry) -> Reference:
    reference: Reference = import_module(f"graphsurgery.references.{listed.reference}").REFERENCE
    return reference


REFERENCES: ByVerb[Reference] = ByVerb(RECORDED_EDITS, _import_reference)
"""The reference of every edit that a file can record, by its verb. Each is imported when it is looked up."""
NameInSource: TypeAlias = Callable[[str], str | None]
"""From a value's name to the source's name for it; None if an edit made or added the value."""
NameInOutput: TypeAlias = Callable[[str], str]
"""From a value's name to the name that it has in the output."""
T = TypeVar("T")


@dataclass(frozen=True)
class Link:
    """A recorded step and its reference. All names are those of the graph right after the step, or right before it."""

    step: Step
    reference: Reference
    parameters: Parameters
    """The recorded parameters, as `Reference.read` gives them."""
    reads: tuple[str, ...]
    makes: tuple[str, ...]
    stand_ins: Mapping[str, str]
    """Values that its nodes make for the nodes of the source, and the inputs whose places they take."""
    names: Mapping[str, str]
    """New names of values."""
    added: frozenset[str]
    """Inputs that it adds."""

    @classmethod
    def of(cls, step: Step) -> Link:
        """Read a step. Raise UnsupportedModelError if it has no reference here, or if its record cannot be read."""
        reference = REFERENCES.get(step.edit)
        if reference is None:
            raise UnsupportedModelError(
                f"there is no reference for the edit {step.edit!r}", "a newer graphsurgery may have one"
            )
        parameters, fields = reference.read(step.parameters), reference.fields
        return cls(
            step, reference, parameters, tuple(reference.reads(parameters)), tuple(reference.makes(parameters)),
            reference.stand_ins(parameters), {} if fields is None else fields.names(parameters),
            frozenset() if fields is None else frozenset(info.name for info in fields.inputs(parameters)),
        )  # fmt: skip

    @property
    def edit(self) -> str:
        """The verb of the edit."""
        return self.step.edit

    def name_in_output(self, name: str, behind: NameInOutput) -> str:
        """Return the output's name for a value that the step reads. ``behind`` tells it for values right behind the step.

        An edit of the head may make the value anew under the same name. Till then the value is called ``name``.
        """
        if self.reference.values_after is None and name in self.makes:
            return name
        return behind(name if self.reference.values_after is not None else self.names.get(name, name))


class Chain:
    """The edits that were applied to a source, oldest first. Made once for each proof.

    Everything it tells is found in one pass over the links.
    """

    def __init__(self, steps: Sequence[Step] = ()) -> None:
        """Raise UnsupportedModelError for a step without a reference, or whose record cannot be read."""
        self.links = tuple(Link.of(step) for step in steps if step.edit not in HOUSEKEEPING)
        self._declared: tuple[Model, tuple[Model, ...]] | None = None

    @classmethod
    def between(cls, source: Model, output: Model) -> Chain:
        """The edits that ``output`` records and ``source`` does not. Raises as `Chain`."""
        return cls(find_new_steps(source, output))

    def __iter__(self) -> Iterator[Link]:
        return iter(self.links)

    def __len__(self) -> int:
        return len(self.links)

    def walk_from_source(self) -> Iterator[tuple[Link, NameInSource]]:
        """Yield each link with the source's names for values right before it. Each is valid until the next one is yielded."""
        names: dict[str, str | None] = {}
        for link in self.links:
            yield link, partial(_look_up, names)
            _follow_names(link, names)

    def name_in_source(self, name: str) -> str | None:
        """Return the source's name for the output's value ``name``; None if an edit made or added it."""
        return self._names_in_source.get(name, name)

    @cached_property
    def _names_in_source(self) -> dict[str, str | None]:
        names: dict[str, str | None] = {}
        for link in self.links:
            _follow_names(link, names)
        return names

    def walk_from_output(self) -> Iterator[tuple[Link, NameInOutput]]:
        """Yield each link, newest first, with the output's names for values right behind it.

        A value that a later edit makes anew keeps the name that it had till then. Valid until the next one is yielded.
        """
        names: dict[str, str] = {}
        for link in reversed(self.links):
            yield link, partial(_look_up, names)
            _trace_names_back(link, names)

    def name_in_output(self, name: str) -> str:
        """Return the output's name for the source's value ``name``."""
        return self._names_in_output.get(name, name)

    @cached_property
    def _names_in_output(self) -> dict[str, str]:
        names: dict[str, str] = {}
        for link in reversed(self.links):
            _trace_names_back(link, names)
        return names

    def walk_inputs_from_output(self) -> Iterator[tuple[Link, NameInOutput]]:
        """As `destinies`, for inputs that still are inputs of the output."""
        names: dict[str, str] = {}
        for link in reversed(self.links):
            yield link, partial(_look_up, names)
            _trace_inputs_back(link, names)

    def input_name_in_output(self, name: str) -> str:
        """Return the output's name for the source's input ``name``, if it still is an input."""
        return self._input_names_in_output.get(name, name)

    @cached_property
    def _input_names_in_output(self) -> dict[str, str]:
        names: dict[str, str] = {}
        for link in reversed(self.links):
            _trace_inputs_back(link, names)
        return names

    @cached_property
    def starts(self) -> tuple[str, ...]:
        """The values of the source that the edits read, by the source's names."""
        found: dict[str, None] = {}
        for link, origin in self.walk_from_source():
            names = [origin(name) for name in link.reads if name not in link.added]
            found |= dict.fromkeys(name for name in names if name is not None)
        return tuple(found)

    @cached_property
    def read(self) -> frozenset[str]:
        """The values that the edits read, by the output's names."""
        return frozenset(link.name_in_output(name, behind) for link, behind in self.walk_from_output() for name in link.reads)

    @cached_property
    def made(self) -> frozenset[str]:
        """The values that the edits make, by the output's names."""
        made: set[str] = set()
        for link in self.links:
            made = _add_made(link, made)
        return frozenset(made)

    @cached_property
    def stand_ins(self) -> tuple[str, ...]:
        """The values within the output that take the place of inputs."""
        found = [[behind(name) for name in link.stand_ins] for link, behind in self.walk_from_output()]
        return tuple(name for names in reversed(found) for name in names)

    def list_stand_ins(self, source: Model) -> list[Value]:
        """As `inside`, with the types of the inputs whose place they take."""
        found = []
        for before, (link, behind) in zip(self.apply_fields(source)[-2::-1], self.walk_from_output(), strict=True):
            taken = [(name, before.interface.input(place)) for name, place in link.stand_ins.items()]
            found.append([replace(value, name=behind(name)) for name, value in taken if value is not None])
        return [value for values in reversed(found) for value in values]

    def apply_fields(self, source: Model) -> tuple[Model, ...]:
        """Return ``source`` with its fields as they are declared before each link, and after all of them.

        The last one is what the output is held against, field by field.
        """
        if self._declared is None or self._declared[0] is not source:
            self._declared = source, tuple(self._declare(source))
        return self._declared[1]

    def _declare(self, model: Model) -> Iterator[Model]:
        made: set[str] = set()
        yield model
        for link in self.links:
            fields = link.reference.fields
            model = model if fields is None else apply_fields(model, fields, link.parameters, made)
            made = _add_made(link, made)
            yield model

    def compose(self, source: RunModel, weights: RecordedWeights, part: slice = slice(None)) -> RunModel:
        """Return what the model gives after the links of ``part``. ``source`` says what it gives before them.

        The result raises UnsupportedModelError if a step reads a value that there is not, and WeightsDifferError if the file
        does not have the weights that it records.
        """
        for link in self.links[part]:
            source = partial(_compute_after, link, source, weights)
        return source


def find_new_steps(source: Model, output: Model) -> list[Step]:
    """Return the edits that the output records and the source does not; none if the output was rewritten since."""
    if _list_rewrites(output) != _list_rewrites(source):
        return []
    before, after = read_head_steps(source), read_head_steps(output)
    common = 0
    while common < min(len(before), len(after)) and _is_same_step(before[common], after[common]):
        common += 1
    return list(after[common:]) if common == len(before) else []


def _list_rewrites(model: Model) -> list[Step]:
    return [step for step in model.recorded if step.edit == OPTIMIZED]


def _is_same_step(one: Step, other: Step) -> bool:
    return (one.edit, one.given, one.source, one.unreadable) == (other.edit, other.given, other.source, other.unreadable)


def _look_up(names: Mapping[str, T], name: str) -> T | str:
    return names.get(name, name)


def _follow_names(link: Link, names: dict[str, str | None]) -> None:
    """Let ``names``, the source's names for values before ``link``, be those for values behind it."""
    names |= {new: names.get(old, old) for old, new in link.names.items()}
    names |= dict.fromkeys((*link.added, *link.makes, *link.stand_ins))


def _trace_names_back(link: Link, names: dict[str, str]) -> None:
    """Let ``names``, the output's names for values behind ``link``, be those for values before it."""
    names |= {old: names.get(new, new) for old, new in link.names.items()}
    names |= {made: made for made in link.makes}


def _trace_inputs_back(link: Link, names: dict[str, str]) -> None:
    """As `_lead`, for inputs. A value inside the graph may take an input's place: the input then keeps its name."""
    names |= {
        old: names.get(old, old) if new in link.stand_ins else names.get(new, new) for old, new in link.names.items()
    }  # fmt: skip


def _add_made(link: Link, made: set[str]) -> set[str]:
    """Return the values that edits have made up to and with ``link``."""
    return {link.names.get(name, name) for name in made} | set(link.makes)


def _compute_after(link: Link, before: RunModel, weights: RecordedWeights, feed: Values) -> dict[str, Expected]:
    """Return what the model gives for ``feed`` after ``link``."""
    reference, parameters = link.reference, link.parameters
    if reference.values_after is not None:
        return reference.values_after(parameters, feed, before)
    given = before({name: array for name, array in feed.items() if name not in link.added})
    given |= expect_exactly({name: feed[name] for name in link.added})
    known = Known(given, weights)
    absent = [name for name in link.reads if name not in known]
    if absent:
        raise UnsupportedModelError(f"{link.edit} reads {absent[0]!r}, which the source has not", "make the output again")
    with np.errstate(all="ignore"):  # the source's own NaN and infinities
        made = reference.value(parameters, known)
    return given | dict(zip(link.makes, made, strict=True))
