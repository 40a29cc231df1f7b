"""A chain of references: the edits that a file records, in order, with what each of them must compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TypeAlias, TypeVar

import numpy as np

from graphsurgery.encoder.head import head_steps
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.interface import Value
from graphsurgery.model.model import Model
from graphsurgery.model.provenance import HOUSEKEEPING, OPTIMIZED, Step
from graphsurgery.references.by_verb import REFERENCES
from graphsurgery.references.fields import after_fields
from graphsurgery.references.recorded_weights import RecordedWeights
from graphsurgery.references.reference import Before, Expected, Known, Parameters, Reference, Values, exact

Origin: TypeAlias = Callable[[str], str | None]
"""From a value's name to the source's name for it; None if an edit made or added the value."""
Destiny: TypeAlias = Callable[[str], str]
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
    inside: Mapping[str, str]
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
            reference.inside(parameters), {} if fields is None else fields.names(parameters),
            frozenset() if fields is None else frozenset(info.name for info in fields.inputs(parameters)),
        )  # fmt: skip

    @property
    def edit(self) -> str:
        """The verb of the edit."""
        return self.step.edit

    def destiny(self, name: str, behind: Destiny) -> str:
        """Return the output's name for a value that the step reads. ``behind`` tells it for values right behind the step.

        An edit of the head may make the value anew under the same name. Till then the value is called ``name``.
        """
        if self.reference.through is None and name in self.makes:
            return name
        return behind(name if self.reference.through is not None else self.names.get(name, name))


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
        return cls(steps_beyond(source, output))

    def __iter__(self) -> Iterator[Link]:
        return iter(self.links)

    def __len__(self) -> int:
        return len(self.links)

    def origins(self) -> Iterator[tuple[Link, Origin]]:
        """Yield each link with the source's names for values right before it. Each is valid until the next one is yielded."""
        names: dict[str, str | None] = {}
        for link in self.links:
            yield link, partial(_lookup, names)
            _follow(link, names)

    def origin(self, name: str) -> str | None:
        """Return the source's name for the output's value ``name``; None if an edit made or added it."""
        return self._origins.get(name, name)

    @cached_property
    def _origins(self) -> dict[str, str | None]:
        names: dict[str, str | None] = {}
        for link in self.links:
            _follow(link, names)
        return names

    def destinies(self) -> Iterator[tuple[Link, Destiny]]:
        """Yield each link, newest first, with the output's names for values right behind it.

        A value that a later edit makes anew keeps the name that it had till then. Valid until the next one is yielded.
        """
        names: dict[str, str] = {}
        for link in reversed(self.links):
            yield link, partial(_lookup, names)
            _lead(link, names)

    def destiny(self, name: str) -> str:
        """Return the output's name for the source's value ``name``."""
        return self._destinies.get(name, name)

    @cached_property
    def _destinies(self) -> dict[str, str]:
        names: dict[str, str] = {}
        for link in reversed(self.links):
            _lead(link, names)
        return names

    def input_destinies(self) -> Iterator[tuple[Link, Destiny]]:
        """As `destinies`, for inputs that still are inputs of the output."""
        names: dict[str, str] = {}
        for link in reversed(self.links):
            yield link, partial(_lookup, names)
            _lead_input(link, names)

    def input_destiny(self, name: str) -> str:
        """Return the output's name for the source's input ``name``, if it still is an input."""
        return self._input_destinies.get(name, name)

    @cached_property
    def _input_destinies(self) -> dict[str, str]:
        names: dict[str, str] = {}
        for link in reversed(self.links):
            _lead_input(link, names)
        return names

    @cached_property
    def starts(self) -> tuple[str, ...]:
        """The values of the source that the edits read, by the source's names."""
        found: dict[str, None] = {}
        for link, origin in self.origins():
            names = [origin(name) for name in link.reads if name not in link.added]
            found |= dict.fromkeys(name for name in names if name is not None)
        return tuple(found)

    @cached_property
    def read(self) -> frozenset[str]:
        """The values that the edits read, by the output's names."""
        return frozenset(link.destiny(name, behind) for link, behind in self.destinies() for name in link.reads)

    @cached_property
    def made(self) -> frozenset[str]:
        """The values that the edits make, by the output's names."""
        made: set[str] = set()
        for link in self.links:
            made = _add_made(link, made)
        return frozenset(made)

    @cached_property
    def inside(self) -> tuple[str, ...]:
        """The values within the output that take the place of inputs."""
        found = [[behind(name) for name in link.inside] for link, behind in self.destinies()]
        return tuple(name for names in reversed(found) for name in names)

    def inside_values(self, source: Model) -> list[Value]:
        """As `inside`, with the types of the inputs whose place they take."""
        found = []
        for before, (link, behind) in zip(self.declared(source)[-2::-1], self.destinies(), strict=True):
            taken = [(name, before.interface.input(place)) for name, place in link.inside.items()]
            found.append([replace(value, name=behind(name)) for name, value in taken if value is not None])
        return [value for values in reversed(found) for value in values]

    def declared(self, source: Model) -> tuple[Model, ...]:
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
            model = model if fields is None else after_fields(model, fields, link.parameters, made)
            made = _add_made(link, made)
            yield model

    def after(self, source: Before, weights: RecordedWeights, part: slice = slice(None)) -> Before:
        """Return what the model gives after the links of ``part``. ``source`` says what it gives before them.

        The result raises UnsupportedModelError if a step reads a value that there is not, and WeightsDifferError if the file
        does not have the weights that it records.
        """
        for link in self.links[part]:
            source = partial(_expected, link, source, weights)
        return source


def steps_beyond(source: Model, output: Model) -> list[Step]:
    """Return the edits that the output records and the source does not; none if the output was rewritten since."""
    if _rewrites(output) != _rewrites(source):
        return []
    before, after = head_steps(source), head_steps(output)
    common = 0
    while common < min(len(before), len(after)) and _same(before[common], after[common]):
        common += 1
    return list(after[common:]) if common == len(before) else []


def _rewrites(model: Model) -> list[Step]:
    return [step for step in model.recorded if step.edit == OPTIMIZED]


def _same(one: Step, other: Step) -> bool:
    return (one.edit, one.given, one.source, one.unreadable) == (other.edit, other.given, other.source, other.unreadable)


def _lookup(names: Mapping[str, T], name: str) -> T | str:
    return names.get(name, name)


def _follow(link: Link, names: dict[str, str | None]) -> None:
    """Let ``names``, the source's names for values before ``link``, be those for values behind it."""
    names |= {new: names.get(old, old) for old, new in link.names.items()}
    names |= dict.fromkeys((*link.added, *link.makes, *link.inside))


def _lead(link: Link, names: dict[str, str]) -> None:
    """Let ``names``, the output's names for values behind ``link``, be those for values before it."""
    names |= {old: names.get(new, new) for old, new in link.names.items()}
    names |= {made: made for made in link.makes}


def _lead_input(link: Link, names: dict[str, str]) -> None:
    """As `_lead`, for inputs. A value inside the graph may take an input's place: the input then keeps its name."""
    names |= {
        old: names.get(old, old) if new in link.inside else names.get(new, new) for old, new in link.names.items()
    }  # fmt: skip


def _add_made(link: Link, made: set[str]) -> set[str]:
    """Return the values that edits have made up to and with ``link``."""
    return {link.names.get(name, name) for name in made} | set(link.makes)


def _expected(link: Link, before: Before, weights: RecordedWeights, feed: Values) -> dict[str, Expected]:
    """Return what the model gives for ``feed`` after ``link``."""
    reference, parameters = link.reference, link.parameters
    if reference.through is not None:
        return reference.through(parameters, feed, before)
    given = before({name: array for name, array in feed.items() if name not in link.added})
    given |= exact({name: feed[name] for name in link.added})
    known = Known(given, weights)
    absent = [name for name in link.reads if name not in known]
    if absent:
        raise UnsupportedModelError(f"{link.edit} reads {absent[0]!r}, which the source has not", "make the output again")
    with np.errstate(all="ignore"):  # the source's own NaN and infinities
        made = reference.value(parameters, known)
    return given | dict(zip(link.makes, made, strict=True))
