"""A chain of references: the edits that a file records, in order, with what each of them must compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np

from graphsurgery.edit_list import RECORDED_EDITS, ByVerb, EditEntry
from graphsurgery.encoder.head import read_head_steps
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.interface import Value
from graphsurgery.model.model import Model
from graphsurgery.model.provenance import HOUSEKEEPING, Step
from graphsurgery.references.fields import apply_fields
from graphsurgery.references.recorded_weights import RecordedWeights
from graphsurgery.references.reference import (
    Expected,
    Known,
    Parameters,
    Reference,
    RunModel,
    Values,
    expect_exactly,
    require_known,
)


def _import_reference(listed: EditEntry) -> Reference:
    reference: Reference = import_module(f"graphsurgery.references.{listed.reference}").REFERENCE
    return reference


REFERENCES: ByVerb[Reference] = ByVerb(RECORDED_EDITS, _import_reference)
"""The reference of every edit that a file can record, by its verb. Each is imported when it is looked up."""
NameInSource: TypeAlias = Callable[[str], str | None]
"""From a value's name to the source's name for it; None if an edit made or added the value."""
NameInOutput: TypeAlias = Callable[[str], str]
"""From a value's name to its name in the output."""
UpdateNames: TypeAlias = Callable[["Link", dict[str, Any]], None]


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
    """The values that the step's nodes make in place of inputs of the source, each with the input that it replaces."""
    names: Mapping[str, str]
    """From the old name of each renamed value to its new name."""
    added: frozenset[str]
    """The inputs that the step adds."""

    @classmethod
    def of(cls, step: Step) -> Link:
        """Read a step. Raise UnsupportedModelError if it has no reference here, or if its record cannot be read."""
        require_known("edit", step.edit, REFERENCES)
        reference = REFERENCES[step.edit]
        parameters = reference.read(step.parameters)
        reference = reference.choose(parameters) or reference
        fields = reference.fields
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
        """Return the output's name for a value that the step reads. ``behind`` gives the names of values right after the step.

        An edit of the head may make the value anew under the same name. The value that it read keeps that name.
        """
        if self.reference.values_after is None and name in self.makes:
            return name
        return behind(name if self.reference.values_after is not None else self.names.get(name, name))


class Chain:
    """The edits that were applied to a source, oldest first. Made once for each proof.

    Each property is found in one pass over the links.
    """

    def __init__(self, steps: Sequence[Step] = ()) -> None:
        """Raise UnsupportedModelError for a step that has no reference, or whose record cannot be read."""
        self.links = tuple(Link.of(step) for step in steps if step.edit not in HOUSEKEEPING)
        self._declared: tuple[Model, tuple[Model, ...]] | None = None

    @classmethod
    def between(cls, source: Model, output: Model) -> Chain:
        """Return the edits that ``output`` records and ``source`` does not. Raises as `Chain`."""
        return cls(find_new_steps(source, output))

    def __iter__(self) -> Iterator[Link]:
        return iter(self.links)

    def __len__(self) -> int:
        return len(self.links)

    def walk_from_source(self) -> Iterator[tuple[Link, NameInSource]]:
        """Yield each link with the source's names for values right before it. Each is valid until the next one is yielded."""
        return _walk(self.links, _follow_names)

    def name_in_source(self, name: str) -> str | None:
        """Return the source's name for the output's value ``name``; None if an edit made or added it."""
        return self._names_in_source.get(name, name)

    @cached_property
    def _names_in_source(self) -> dict[str, Any]:
        return _collect_names(self.links, _follow_names)

    def walk_from_output(self) -> Iterator[tuple[Link, NameInOutput]]:
        """Yield each link, newest first, with the output's names for values right after it.

        A value that a later edit makes anew keeps the name that it had until then. Valid until the next one is yielded.
        """
        return _walk(self.links[::-1], _trace_names_back)

    def name_in_output(self, name: str) -> str:
        """Return the output's name for the source's value ``name``."""
        return self._names_in_output.get(name, name)

    @cached_property
    def _names_in_output(self) -> dict[str, Any]:
        return _collect_names(self.links[::-1], _trace_names_back)

    def walk_inputs_from_output(self) -> Iterator[tuple[Link, NameInOutput]]:
        """As `walk_from_output`, for inputs that are still inputs of the output."""
        return _walk(self.links[::-1], _trace_inputs_back)

    def input_name_in_output(self, name: str) -> str:
        """Return the output's name for the source's input ``name``, if it is still an input."""
        return self._input_names_in_output.get(name, name)

    @cached_property
    def _input_names_in_output(self) -> dict[str, Any]:
        return _collect_names(self.links[::-1], _trace_inputs_back)

    @cached_property
    def starts(self) -> tuple[str, ...]:
        """The values of the source that the edits read, by the source's names."""
        starts: dict[str, None] = {}
        for link, in_source in self.walk_from_source():
            names = [in_source(name) for name in link.reads if name not in link.added]
            starts |= dict.fromkeys(name for name in names if name is not None)
        return tuple(starts)

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
        """The values that edits make in place of inputs, by the output's names."""
        names = [[behind(name) for name in link.stand_ins] for link, behind in self.walk_from_output()]
        return tuple(name for some in reversed(names) for name in some)

    def list_stand_ins(self, source: Model) -> list[Value]:
        """Return `stand_ins` with the types of the inputs that they replace."""
        values = []
        for before, (link, behind) in zip(self.apply_fields(source)[-2::-1], self.walk_from_output(), strict=True):
            replaced = [(name, before.interface.input(place)) for name, place in link.stand_ins.items()]
            values.append([replace(value, name=behind(name)) for name, value in replaced if value is not None])
        return [value for some in reversed(values) for value in some]

    def apply_fields(self, source: Model) -> tuple[Model, ...]:
        """Return ``source`` with its fields as they are declared before each link, and after all of them.

        The output is compared with the last one, field by field.
        """
        if self._declared is None or self._declared[0] is not source:
            self._declared = source, tuple(self._apply_fields(source))
        return self._declared[1]

    def _apply_fields(self, model: Model) -> Iterator[Model]:
        made: set[str] = set()
        yield model
        for link in self.links:
            fields = link.reference.fields
            model = model if fields is None else apply_fields(model, fields, link.parameters, made)
            made = _add_made(link, made)
            yield model

    def compose(self, source: RunModel, weights: RecordedWeights, part: slice = slice(None)) -> RunModel:
        """Return the reference of all edits, or of a ``part`` of them, one after the other, applied to ``source``."""
        for link in self.links[part]:
            source = partial(_compute_after, link, source, weights)
        return source


def find_new_steps(source: Model, output: Model) -> list[Step]:
    """Return the edits that the output records and the source does not; none if the output was rewritten since."""
    if output.rewrites != source.rewrites:
        return []
    before, after = read_head_steps(source), read_head_steps(output)
    if len(before) > len(after) or not all(map(_is_same_step, before, after)):
        return []
    return list(after[len(before) :])


def _is_same_step(one: Step, other: Step) -> bool:
    return (one.edit, one.given, one.source, one.unreadable) == (other.edit, other.given, other.source, other.unreadable)


def _walk(links: Sequence[Link], update: UpdateNames) -> Iterator[tuple[Link, Callable[[str], Any]]]:
    """Yield each link with a function that looks names up, as ``update`` left them at the links before."""
    names: dict[str, Any] = {}
    for link in links:
        yield link, lambda name: names.get(name, name)
        update(link, names)


def _collect_names(links: Sequence[Link], update: UpdateNames) -> dict[str, Any]:
    """Return the names that ``update`` leaves after all links."""
    names: dict[str, Any] = {}
    for link in links:
        update(link, names)
    return names


def _follow_names(link: Link, names: dict[str, Any]) -> None:
    """Turn ``names``, the source's names for values before ``link``, into those for values after it."""
    names |= {new: names.get(old, old) for old, new in link.names.items()}
    names |= dict.fromkeys((*link.added, *link.makes, *link.stand_ins))


def _trace_names_back(link: Link, names: dict[str, Any]) -> None:
    """Turn ``names``, the output's names for values after ``link``, into those for values before it."""
    names |= {old: names.get(new, new) for old, new in link.names.items()}
    names |= {made: made for made in link.makes}


def _trace_inputs_back(link: Link, names: dict[str, Any]) -> None:
    """As `_trace_names_back`, for inputs. If a value inside the graph replaces an input, the input keeps its name."""
    names |= {
        old: names.get(old, old) if new in link.stand_ins else names.get(new, new) for old, new in link.names.items()
    }  # fmt: skip


def _add_made(link: Link, made: set[str]) -> set[str]:
    """Return the values that edits have made up to and with ``link``."""
    return {link.names.get(name, name) for name in made} | set(link.makes)


def _compute_after(link: Link, before: RunModel, weights: RecordedWeights, feed: Values) -> dict[str, Expected]:
    """Return the model's values for ``feed`` after ``link``."""
    reference, parameters = link.reference, link.parameters
    if reference.values_after is not None:
        return reference.values_after(parameters, feed, before)
    values = before({name: array for name, array in feed.items() if name not in link.added})
    values |= expect_exactly({name: feed[name] for name in link.added})
    known = Known(values, weights)
    absent = [name for name in link.reads if name not in known]
    if absent:
        what = f"{link.edit} reads {absent[0]!r}, which the source does not have"
        raise UnsupportedModelError(what, "make the output again")
    with np.errstate(all="ignore"):  # the source's own NaN and infinities
        made = reference.value(parameters, known)
    return values | dict(zip(link.makes, made, strict=True))
