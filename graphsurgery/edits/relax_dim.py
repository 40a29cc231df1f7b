"""relax-dim: free declared sizes of pictures and sound that the nodes do not depend on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

from graphsurgery.edits.edit import GraphEdit, Resolved, parameter, resolved_parameter
from graphsurgery.edits.fixed_sizes import (
    BATCH,
    SIZES,
    FixedSize,
    Place,
    SizeTrials,
    TriedSize,
    free_dims,
    list_declared,
    list_fixed_sizes,
)
from graphsurgery.edits.inputs import list_symbolic_dims
from graphsurgery.errors import RequestError, UnsupportedModelError, require_promised
from graphsurgery.interface import Interface, Value
from graphsurgery.model.draft import Draft
from graphsurgery.model.model import Model

ADVICE = "export the model again with dynamic axes"


@dataclass(frozen=True)
class Relaxed:
    """The dims that become free."""

    inputs: Mapping[Place, str]
    outputs: Mapping[Place, str]


def try_fixed_sizes(model: Model, names: Mapping[str, str]) -> list[TriedSize]:
    """Try every fixed size of ``model`` that ``names`` has a name for, the batch first.

    Raises UnsupportedModelError if the model does not run at its own sizes.
    """
    fixed = [one for one in list_fixed_sizes(model) if one.which in names]
    if not fixed:
        return []
    trials = SizeTrials(model)
    return [trials.run(one, names[one.which]) for one in fixed]


@dataclass(frozen=True)
class RelaxDim(GraphEdit[Relaxed]):
    """Declare the batch, the length of a waveform, or the height and width of pictures free, where the nodes take any size.

    Only declared dims change, and no node: some exports bind inputs to the sizes of the example that they were traced with,
    although nothing inside depends on them. A size is freed after runs at two other sizes. In another batch, each row must give
    what it gives at the declared size. At another length, height or width the model has to run, with rows that do not depend on
    each other; no run can tell whether the model gives good results on such pictures. For texts, see `dynamic-dim`, which also
    replaces sizes inside the graph.
    """

    dim: tuple[str, ...] = parameter(
        "A size to free, and a name for the dim.",
        (),
        "batch|samples|height|width|frames[=NAME]",
        takes=Sequence[str] | Mapping[str, str],
        called="dims",
        otherwise="every fixed size that the nodes take at other sizes",
    )
    sizes: tuple[str, ...] = resolved_parameter(())
    follows: tuple[str, ...] = resolved_parameter(())

    @cached_property
    def names(self) -> dict[str, str]:
        """The name of each size to free. Raises RequestError for an unknown size, or one that is given twice."""
        names: dict[str, str] = {}
        for text in self.dim:
            which, _, name = str(text).partition("=")
            if which not in SIZES or which in names:
                what = "is given twice" if which in names else "is not a size that can be freed"
                raise RequestError(f"{text!r} {what}", f"write --dim with one of {', '.join(SIZES)}, or --dim SIZE=NAME")
            names[which] = name or which
        return names

    def resolve(self, model: Model) -> Resolved[Self, Relaxed]:
        """Find the fixed sizes and try others. Raises RequestError, and UnsupportedModelError if a size resists."""
        fixed = list_fixed_sizes(model)
        self._check(model, fixed)
        names = self.names or {one.which: one.which for one in fixed}
        tried = try_fixed_sizes(model, names)
        resisting = [one for one in tried if one.reason is not None]
        free = [one for one in tried if one.reason is None]
        if resisting and (self.dim or not free):
            what = "; ".join(describe_resistance(one) for one in resisting)
            raise UnsupportedModelError(f"{what}", ADVICE)
        chosen = {one.fixed.which: names[one.fixed.which] for one in free}
        found = _collect(model, free, chosen)
        edit = replace(
            self, dim=tuple(f"{which}={name}" for which, name in chosen.items()),
            sizes=tuple(
                json.dumps([name, axis, one.fixed.which, one.fixed.size, *one.others])
                for one in free for name, axis in one.fixed.places
            ),
            follows=tuple(json.dumps([name, axis, dim]) for (name, axis), dim in found.outputs.items()),
        )  # fmt: skip
        return Resolved(edit, found, (*map(_describe, free), *map(describe_resistance, resisting)))

    def _check(self, model: Model, fixed: Sequence[FixedSize]) -> None:
        listed = ", ".join(map(str, model.interface.inputs)) or "none"
        if not fixed:
            what = f"no input of pictures or sound has a fixed size (inputs: {listed})"
            raise RequestError(what, "nothing is left to do; for texts, use dynamic-dim")
        absent = [which for which in self.names if which not in {one.which for one in fixed}]
        if absent:
            known = ", ".join(f"{one.which} {one.size}" for one in fixed)
            raise RequestError(f"no {absent[0]} is fixed (inputs: {listed})", f"the fixed sizes are {known}")
        taken = list_symbolic_dims((*model.interface.inputs, *model.interface.outputs))
        for which in [one.which for one in fixed] if not self.names else self.names:
            name = self.names.get(which, which)
            if name in taken or not name.isidentifier():
                why = "the model has such a dim" if name in taken else "it is not a name"
                raise RequestError(f"a dim cannot be called {name!r}: {why}", f"choose another with --dim {which}=NAME")

    def change(self, draft: Draft, found: Relaxed) -> None:
        free_dims(draft, found.inputs, found.outputs)

    def ensure(self, before: Interface, after: Interface) -> None:
        places = {(name, axis): which for name, axis, which, *_ in map(json.loads, self.sizes)}
        inputs = {place: self.names[which] for place, which in places.items()}
        outputs = {(name, axis): dim for name, axis, dim in map(json.loads, self.follows)}
        require_promised(self.verb, "the inputs", [_rename_dims(one, inputs) for one in before.inputs], after.inputs)
        require_promised(self.verb, "the outputs", [_rename_dims(one, outputs) for one in before.outputs], after.outputs)


def _rename_dims(value: Value, names: Mapping[Place, str]) -> Value:
    if value.dims is None:
        return value
    return replace(value, dims=tuple(names.get((value.name, axis), dim) for axis, dim in enumerate(value.dims)))


def _collect(model: Model, free: Sequence[TriedSize], names: Mapping[str, str]) -> Relaxed:
    """Return the new names of dims. Of the outputs, only dims that are declared as numbers change."""
    declared = list_declared(model.interface.outputs)
    taken = [*list_symbolic_dims((*model.interface.inputs, *model.interface.outputs)), *names.values()]
    inputs = {place: names[one.fixed.which] for one in free for place in one.fixed.places}
    outputs: dict[Place, str] = {}
    for one in free:
        for place, called in one.follows.items():
            name = names.get(called, called)
            while called not in names and name in taken:
                name = f"{name}_out"
            if place in declared:
                outputs[place] = name
    return Relaxed(inputs, outputs)


def _describe(one: TriedSize) -> str:
    others = " and ".join(map(str, one.others))
    return f"{one.fixed.which} {one.fixed.size} can now be any size: the nodes took {others} as well"


def describe_resistance(one: TriedSize) -> str:
    """Say that a size stays fixed, and which node resists, if a run names it."""
    node = f"the node {one.resisting} resists" if one.resisting is not None else one.reason
    what = "in batches" if one.fixed.which == BATCH else "at sizes"
    return f"{one.fixed.which} {one.fixed.size} stays fixed: {what} other than that, {node}"
