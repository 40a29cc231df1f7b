"""dynamic-dim: batch and sequence sizes that were baked in, free again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphsurgery.edits.baked_dims import (
    AXES,
    BATCH,
    CUT,
    END,
    POSITIONS,
    SEQUENCE,
    Constants,
    Replacement,
    describe_places,
    plan_replacements,
)
from graphsurgery.edits.draft_operators import Operators
from graphsurgery.edits.edit import GraphEdit, Resolved, parameter, require_opset, resolved_parameter
from graphsurgery.edits.inputs import list_symbolic_dims
from graphsurgery.edits.trials import try_sizes
from graphsurgery.encoder.roles import Roles, find_roles
from graphsurgery.errors import RequestError, UnsupportedModelError, require_promised, require_value
from graphsurgery.interface import Interface, Value
from graphsurgery.model.draft import Draft
from graphsurgery.model.model import Model
from graphsurgery.model.names import Namer


class ReplacementBuilder:
    """Builds the values that take the place of constants which hold a batch or sequence size."""

    def __init__(self, ops: Operators, ids: gs.Tensor, constants: Constants) -> None:
        self.ops, self.constants = ops, constants
        self._ids = ids

    @cached_property
    def _shape_of_ids(self) -> gs.Variable:
        return self.ops.node("Shape", self._ids, name="shape")

    @cached_property
    def _batch(self) -> gs.Variable:
        return self._size(BATCH)

    @cached_property
    def _sequence(self) -> gs.Variable:
        return self._size(SEQUENCE)

    def _size(self, which: str) -> gs.Variable:
        """Build ``[1]`` int64: the size of the batch or the sequence."""
        axis = AXES[which]
        start, end = (self.ops.constant([at], np.int64, f"{which}/{what}") for what, at in (("from", axis), ("to", axis + 1)))
        return self.ops.node("Slice", self._shape_of_ids, start, end, name=which)

    def make(self, rewrite: Replacement, name: str) -> None:
        """Build the value ``name`` in the place of a constant."""
        build = {POSITIONS: self._positions, CUT: self._cut, END: self._end}.get(rewrite.kind, self._shape)
        build(rewrite, name)

    def _shape(self, rewrite: Replacement, name: str) -> None:
        if not any(isinstance(entry, str) for entry in rewrite.entries):
            values = gs.Constant("entries", np.array(rewrite.entries, dtype=np.int64))
            self.ops.node("Constant", name="entries", output=name, value=values)
            return
        parts = [
            self._sized(entry) if isinstance(entry, str) else self.ops.constant([entry], np.int64, "entry")
            for entry in rewrite.entries
        ]
        self.ops.node("Concat", *parts, name="entries", output=name, axis=0)

    def _sized(self, which: str) -> gs.Variable:
        return self._batch if which == BATCH else self._sequence

    def _end(self, rewrite: Replacement, name: str) -> None:
        self.ops.node("Identity", self._sequence, name="end", output=name)

    def _positions(self, rewrite: Replacement, name: str) -> None:
        """Build n, n + 1, ... of the type and rank that the constant had."""
        first, rank = rewrite.entries
        one = gs.Constant("one", np.ones(1, dtype=np.int64))
        ones = self.ops.node("ConstantOfShape", self._sequence, name="ones", value=one)
        counted = self.ops.node("CumSum", ones, self.ops.constant(0, np.int64, "axis"), name="counted", exclusive=1)
        moved = self.ops.node("Add", counted, self.ops.constant(first, np.int64, "first"), name="positions")
        shape = self.ops.constant([1] * (int(rank) - 1) + [-1], np.int64, "rank")
        shaped = self.ops.node("Reshape", moved, shape, name="row")
        self.ops.node("Cast", shaped, name="typed", output=name, to=self._type(rewrite))

    def _cut(self, rewrite: Replacement, name: str) -> None:
        axes = [0 if axis == BATCH else axis for axis in rewrite.entries]
        one = self.ops.constant([1], np.int64, "row") if BATCH in rewrite.entries else None
        ends = [one if axis == BATCH and one is not None else self._sequence for axis in rewrite.entries]
        starts = self.ops.constant([0] * len(axes), np.int64, "starts")
        end = ends[0] if len(ends) == 1 else self.ops.node("Concat", *ends, name="ends", axis=0)
        value = self._constant(rewrite)
        self.ops.node("Slice", value, starts, end, self.ops.constant(axes, np.int64, "axes"), name="cut", output=name)

    def _type(self, rewrite: Replacement) -> int:
        """Return the element type that a constant had."""
        initializer = self.constants.initializer(rewrite.name)
        if initializer is not None:
            return int(initializer.data_type)
        return int(onnx.helper.np_dtype_to_tensor_dtype(self.constants[rewrite.name].dtype))

    def _constant(self, rewrite: Replacement) -> gs.Tensor:
        """Return the constant as it was. One that nodes make is made here as well, to stand before its use."""
        if self.constants.initializer(rewrite.name) is not None:
            return gs.Variable(rewrite.name)
        return self.ops.draft.constant(self.constants[rewrite.name], f"{self.ops.scope}/table")


@dataclass(frozen=True)
class Freed:
    """The sizes that `DynamicDim` frees, and how."""

    inputs: tuple[str, ...]
    ids: str
    rewrites: dict[str, Replacement]
    """The constants to rewrite, by the names of the values that take their places."""
    constants: Constants | None
    follows: tuple[tuple[str, int, str], ...] | None = None
    """The dims of outputs that are the batch or the sequence; None before a trial has told."""

    @property
    def recorded_rewrites(self) -> tuple[str, ...]:
        """Each rewrite as files record it: the node's output, the place among its inputs, the new value, and its kind."""
        return tuple(json.dumps([one.output, one.place, name, one.kind]) for name, one in self.rewrites.items())

    @property
    def recorded_follows(self) -> tuple[str, ...]:
        return tuple(json.dumps(one) for one in self.follows or ())


@dataclass(frozen=True)
class DynamicDim(GraphEdit[Freed]):
    """Let a batch or sequence size that an export baked in be any size again.

    The declared dims change, and with them what can be told from where the size stands: shapes to reshape and expand to,
    positions 0, 1, ..., ends of slices, tables and masks of a length (cut, so that the baked length is the longest). It is done
    only where the model then gives at other sizes what it gives at its own: row by row, shorter texts padded with the mask.
    """

    dim: tuple[str, ...] = parameter(
        "The size that may vary again, batch or sequence, and a name for the dim.",
        (),
        "batch|sequence[=NAME]",
        takes=Sequence[str] | Mapping[str, str],
        called="dims",
        required=True,
    )
    sizes: tuple[str, ...] = resolved_parameter(())
    inputs: tuple[str, ...] = resolved_parameter(())
    ids: str | None = resolved_parameter(None)
    mask: str | None = resolved_parameter(None)
    follows: tuple[str, ...] | None = resolved_parameter(None)
    rewired: tuple[str, ...] = resolved_parameter(())

    @cached_property
    def names(self) -> dict[str, str]:
        """The name of each freed dim. Raise RequestError for a dim that is neither batch nor sequence."""
        found: dict[str, str] = {}
        for text in self.dim:
            which, _, name = str(text).partition("=")
            if which not in AXES or which in found:
                raise RequestError(f"{text!r} is no dim to free", "write --dim batch, --dim sequence or --dim sequence=NAME")
            found[which] = name or which
        return found

    def resolve(self, model: Model) -> Resolved[Self, Freed]:
        """Find the sizes and what to rewrite, and try it.

        Raises RequestError, and UnsupportedModelError, which says why, if a size stays baked in.
        """
        require_opset(model, self.verb)
        roles = find_roles(model.interface)
        sizes = self._sizes(model, roles)
        ids = require_value(roles.ids, "the input of token ids")
        inputs = tuple(value.name for value in (ids, roles.mask, roles.types, roles.positions) if value is not None)
        edit = replace(
            self, dim=tuple(f"{which}={name}" for which, name in self.names.items()), ids=ids.name,
            sizes=tuple(f"{which}={size}" for which, size in sizes.items()), inputs=inputs,
            mask=roles.mask.name if roles.mask is not None else None, follows=None, rewired=(),
        )  # fmt: skip
        namer, rewrites = Namer.of(model.proto), plan_replacements(model, sizes)
        attempts = [Freed(inputs, ids.name, {}, None)]
        if rewrites:
            named = {namer.new("graphsurgery/dims/value"): rewrite for rewrite in rewrites}
            attempts.append(Freed(inputs, ids.name, named, Constants(model, None)))
        reasons = []
        for attempt in attempts:
            edit = replace(edit, rewired=attempt.recorded_rewrites)
            trial = try_sizes(model, replace(model, document=edit.document(model, attempt, None)), roles, sizes)
            if trial.reason is None:
                found = replace(attempt, follows=trial.follows)
                return Resolved(replace(edit, follows=found.recorded_follows), found, self._notes(sizes, found))
            reasons.append(trial.reason)
        places = list(dict.fromkeys(describe_places(model, rewrites)))
        where = f"; the size stands in {', '.join(places[:3])}" if places else ""
        raise UnsupportedModelError(
            f"{' and '.join(f'{which} {size}' for which, size in sizes.items())} cannot be freed: {reasons[-1]}{where}",
            "export the model again with dynamic axes",
        )

    def _notes(self, sizes: Mapping[str, int], found: Freed) -> tuple[str, ...]:
        freed = ", ".join(f"{which} {size} is any size ({self.names[which]})" for which, size in sizes.items())
        notes = [f"{freed}; {len(found.rewrites)} constants rewritten" if found.rewrites else freed]
        if SEQUENCE in sizes:
            cut = any(rewrite.kind == CUT for rewrite in found.rewrites.values())
            why = "tables of that length are in the graph" if cut else "longer ones cannot be held against the model as it was"
            notes.append(f"texts of {sizes[SEQUENCE]} tokens are the longest: {why}")
        return tuple(notes)

    def _sizes(self, model: Model, roles: Roles) -> dict[str, int]:
        """Return the baked size of each dim that is asked for."""
        names = self.names
        if not names:
            raise RequestError("no dim is named", "name it with --dim batch or --dim sequence")
        if roles.ids is None or roles.ids.rank != 2 or roles.ids.dims is None:
            raise UnsupportedModelError(
                "there is no input of token ids [batch, seq]", "export the model again with dynamic axes"
            )
        if SEQUENCE in names and roles.mask is None:
            raise UnsupportedModelError(
                "there is no attention mask, so that a shorter text cannot be held against the baked length",
                "export the model again with dynamic axes",
            )
        taken = list_symbolic_dims((*model.interface.inputs, *model.interface.outputs))
        found = {}
        for which, name in names.items():
            size = roles.ids.dims[AXES[which]]
            if not isinstance(size, int):
                raise RequestError(f"{roles.ids} has no {which} size that is baked in", "leave it out")
            if name in taken or not name.isidentifier():
                raise RequestError(f"a dim cannot be called {name!r} here", f"choose another: --dim {which}=NAME")
            found[which] = size
        return found

    def change(self, draft: Draft, found: Freed) -> None:
        names = self.names

        def free(kind: str, info: onnx.ValueInfoProto) -> bool:
            dims = info.type.tensor_type.shape.dim
            if kind == "input" and info.name in found.inputs:
                for which, name in names.items():
                    dims[AXES[which]].dim_param = name
            if kind == "output" and found.follows is None:  # before a trial: the declared dims of outputs would mislead
                info.type.tensor_type.ClearField("shape")
            for output, axis, which in (found.follows or ()) if kind == "output" else ():
                if output == info.name and axis < len(dims):
                    dims[axis].dim_param = names[which]
            return kind != "value_info"  # they are of the baked sizes

        draft.changes.infos.append(free)
        if found.constants is not None:
            _replace_inputs(draft, found, found.constants)

    def ensure(self, before: Interface, after: Interface) -> None:
        freed = [self._freed(value) if value.name in self.inputs else value for value in before.inputs]
        require_promised(self.verb, "the inputs", freed, after.inputs)
        typed, given = ([replace(value, dims=None) for value in one.outputs] for one in (before, after))
        require_promised(self.verb, "the outputs, but for their dims", typed, given)

    def _freed(self, value: Value) -> Value:
        """Return an input with the names of the freed sizes among its dims."""
        dims = list(require_value(value.dims, f"the dims of {value.name}"))
        for which, name in self.names.items():
            dims[AXES[which]] = name
        return replace(value, dims=tuple(dims))


def _replace_inputs(draft: Draft, found: Freed, constants: Constants) -> None:
    """Build the new values in front of all nodes, and let the nodes take them."""
    names = {(rewrite.output, rewrite.place): name for name, rewrite in found.rewrites.items()}

    def rewire(node: onnx.NodeProto) -> None:
        for place in range(len(node.input)):
            node.input[place] = names.get((node.output[0] if node.output else "", place), node.input[place])

    draft.changes.nodes.append(rewire)
    with draft.at_front():
        values = ReplacementBuilder(Operators(draft, "graphsurgery/dims"), gs.Variable(found.ids), constants)
        for name, rewrite in found.rewrites.items():
            values.make(rewrite, name)
