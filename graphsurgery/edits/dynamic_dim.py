"""dynamic-dim: let a batch or sequence size vary again that the export fixed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
import onnx

from graphsurgery.deferred import gs
from graphsurgery.edits.baked_dims import (
    AXES,
    CUT,
    END,
    GRID,
    PLACES,
    POSITIONS,
    TILED,
    Plan,
    Replacement,
    describe_places,
    plan_replacements,
)
from graphsurgery.edits.draft_operators import Operators
from graphsurgery.edits.edit import GraphEdit, Resolved, parameter, require_opset, resolved_parameter
from graphsurgery.edits.free_sizes import BATCH, SEQUENCE, Entry
from graphsurgery.edits.inputs import list_symbolic_dims
from graphsurgery.edits.trials import try_sizes
from graphsurgery.encoder.roles import Roles, find_roles
from graphsurgery.errors import RequestError, UnsupportedModelError, require_promised, require_value
from graphsurgery.interface import Dim, Interface, Value
from graphsurgery.model.draft import Draft
from graphsurgery.model.model import Model
from graphsurgery.model.names import Namer
from graphsurgery.runtime.baked_sizes import make_feed_generator_for


class ReplacementBuilder:
    """Builds the values that replace constants with a batch or sequence size in them."""

    def __init__(self, ops: Operators, ids: gs.Tensor) -> None:
        self.ops, self._ids = ops, ids

    @cached_property
    def _shape_of_ids(self) -> gs.Variable:
        return self.ops.node("Shape", self._ids, name="shape")

    @cached_property
    def _batch(self) -> gs.Variable:
        return self._build_size(BATCH)

    @cached_property
    def _sequence(self) -> gs.Variable:
        return self._build_size(SEQUENCE)

    def _build_size(self, which: str) -> gs.Variable:
        """Build ``[1]`` int64: the size of the batch or the sequence."""
        axis = AXES[which]
        start, end = (self.ops.constant([at], np.int64, f"{which}/{what}") for what, at in (("from", axis), ("to", axis + 1)))
        return self.ops.node("Slice", self._shape_of_ids, start, end, name=which)

    def build(self, new: Replacement, name: str) -> None:
        """Build the replacement ``new`` as the value ``name``."""
        plan = new.plan
        if plan.kind == POSITIONS:
            self._build_positions(new, name)
        elif plan.kind == CUT:
            axes = [0 if axis == BATCH else int(axis) for axis in plan.entries]
            one = self.ops.constant([1], np.int64, "row") if BATCH in plan.entries else None
            ends = [one if axis == BATCH and one is not None else self._sequence for axis in plan.entries]
            self._build_cut(self._build_table(new), axes, ends, name)
        elif plan.kind == TILED:
            self._build_tiled(new, name)
        elif plan.kind == GRID:
            self._build_grid(plan, name)
        elif plan.kind == PLACES:
            rows, columns = (self._build_count_along(axis, len(plan.dims), entry)
                             for axis, entry in zip(plan.axes, plan.entries, strict=True))  # fmt: skip
            starts = self.ops.node("Mul", rows, self._build_entry(plan.entries[1]), name="starts")
            self.ops.node("Add", starts, columns, name="places", output=name)
        elif plan.kind == END:
            self.ops.node("Identity", self._sequence, name="end", output=name)
        else:
            self._build_shape(plan.entries, name)

    def _build_entry(self, entry: Entry) -> gs.Variable:
        """Build ``[1]`` int64: a number, or the size of the batch or the sequence."""
        if isinstance(entry, int):
            return self.ops.constant([entry], np.int64, "entry")
        return self._batch if entry == BATCH else self._sequence

    def _build_shape(self, entries: Sequence[Entry], name: str | None) -> gs.Variable:
        if not any(isinstance(entry, str) for entry in entries):
            values = gs.Constant("entries", np.array(entries, dtype=np.int64))
            return self.ops.node("Constant", name="entries", output=name, value=values)
        return self.ops.node("Concat", *map(self._build_entry, entries), name="entries", output=name, axis=0)

    def _build_count(self, size: gs.Variable) -> gs.Variable:
        """Build 0, 1, ..., ``size`` - 1."""
        one = gs.Constant("one", np.ones(1, dtype=np.int64))
        ones = self.ops.node("ConstantOfShape", size, name="ones", value=one)
        return self.ops.node("CumSum", ones, self.ops.constant(0, np.int64, "axis"), name="counted", exclusive=1)

    def _build_positions(self, new: Replacement, name: str) -> None:
        """Build n, n + 1, ... for each text or token, with the element type and rank of the constant."""
        first, rank, which = new.plan.entries
        counted = self._build_count(self._build_entry(which))
        positions = self.ops.node("Add", counted, self.ops.constant(first, np.int64, "first"), name="positions")
        ones = [1] * (int(rank) - 1)
        shape = self.ops.constant([-1, *ones] if which == BATCH else [*ones, -1], np.int64, "rank")
        row = self.ops.node("Reshape", positions, shape, name="row")
        self.ops.node("Cast", row, name="typed", output=name, to=new.dtype)

    def _build_table(self, new: Replacement) -> gs.Variable:
        """Return the old value. One that nodes compute is built here too: it has to precede its use."""
        return gs.Variable(new.name) if new.table is None else self.ops.draft.constant(new.table, f"{self.ops.scope}/table")

    def _build_cut(self, table: gs.Variable, axes: list[int], ends: list[gs.Variable], name: str | None) -> gs.Variable:
        """Build the table, cut along its axes."""
        starts = self.ops.constant([0] * len(axes), np.int64, "starts")
        end = ends[0] if len(ends) == 1 else self.ops.node("Concat", *ends, name="ends", axis=0)
        return self.ops.node("Slice", table, starts, end, self.ops.constant(axes, np.int64, "axes"), name="cut", output=name)

    def _build_tiled(self, new: Replacement, name: str) -> None:
        """Build the first rows of a table once for each text."""
        rows, *axes = (int(entry) for entry in new.plan.entries)
        ends = [self._build_entry(rows), *[self._sequence] * len(axes)]
        rows_of_text = self._build_cut(self._build_table(new), [0, *axes], ends, None)
        times = self._build_shape([BATCH, *[1] * (len(new.plan.dims) - 1)], None)
        self.ops.node("Tile", rows_of_text, times, name="tiled", output=name)

    def _build_count_along(self, axis: int, rank: int, size: Entry) -> gs.Variable:
        """Build 0, 1, ..., ``size`` - 1 along one axis."""
        counted = self._build_count(self._build_entry(size))
        aligned = self.ops.constant([-1 if one == axis else 1 for one in range(rank)], np.int64, "rank")
        return self.ops.node("Reshape", counted, aligned, name="row")

    def _build_grid(self, plan: Plan, name: str) -> None:
        """Build coordinates: each of them counts along one axis and is the same along the others."""
        rank, shape = len(plan.entries), self._build_shape(plan.entries, None)
        coordinates = []
        for axis in plan.axes:
            row = self._build_count_along(axis, rank, plan.entries[axis])
            whole = self.ops.node("Expand", row, shape, name="whole")
            coordinates.append(self.ops.unsqueeze(whole, -1, "coordinate"))
        self.ops.node("Concat", *coordinates, name="grid", output=name, axis=-1)


@dataclass(frozen=True)
class Freed:
    """The sizes that `DynamicDim` frees, and how."""

    inputs: tuple[str, ...]
    ids: str
    replacements: dict[str, Replacement]
    """The constants to replace, by the names of the new values."""
    follows: tuple[tuple[str, int, str], ...] | None = None
    """The dims of outputs that are the batch or the sequence. None before a trial has shown them."""

    @property
    def recorded_replacements(self) -> tuple[str, ...]:
        """The replacements as files record them: the node's first output, the input's place, the new value, and the kind."""
        return tuple(json.dumps([one.output, one.place, name, one.plan.kind]) for name, one in self.replacements.items())

    @property
    def recorded_follows(self) -> tuple[str, ...]:
        return tuple(json.dumps(one) for one in self.follows or ())


@dataclass(frozen=True)
class DynamicDim(GraphEdit[Freed]):
    """Let a batch or sequence size that an export baked in be any size again.

    The declared dims change, and so do the constants that hold the size: shapes for Reshape and Expand, positions 0, 1, ...,
    ends of slices, coordinates for GatherND, and tables and masks of that length. Shapes are computed from the input's, as
    exporters do. Tables are cut, so the baked length remains the longest. The edit is refused unless a trial shows that the
    model gives the same numbers at other sizes as at its own, where it runs row by row and shorter texts are padded with the
    mask.
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
        """The new name of each freed dim. Raises RequestError for a dim other than batch and sequence, or one given twice."""
        names: dict[str, str] = {}
        for text in self.dim:
            which, _, name = str(text).partition("=")
            if which not in AXES or which in names:
                what = "is given twice" if which in names else "is not a dim that can be freed"
                raise RequestError(f"{text!r} {what}", "write --dim batch, --dim sequence or --dim sequence=NAME")
            names[which] = name or which
        return names

    def resolve(self, model: Model) -> Resolved[Self, Freed]:
        """Find the sizes, plan the replacements and try them.

        Raises RequestError, and UnsupportedModelError if a size cannot be freed. Its message gives the reason.
        """
        require_opset(model, self.verb)
        roles = find_roles(model.interface)
        sizes = self._find_sizes(model, roles)
        ids = require_value(roles.ids, "the input of token ids")
        inputs = tuple(value.name for value in (ids, roles.mask, roles.types, roles.positions) if value is not None)
        edit = replace(
            self, dim=tuple(f"{which}={name}" for which, name in self.names.items()), ids=ids.name,
            sizes=tuple(f"{which}={size}" for which, size in sizes.items()), inputs=inputs,
            mask=roles.mask.name if roles.mask is not None else None, follows=None, rewired=(),
        )  # fmt: skip
        namer, replacements = Namer.of(model.proto), plan_replacements(model, roles, sizes)
        attempts = [Freed(inputs, ids.name, {})]
        if replacements:
            attempts.append(Freed(inputs, ids.name, {namer.new("graphsurgery/dims/value"): one for one in replacements}))
        reasons = []
        for attempt in attempts:
            edit = replace(edit, rewired=attempt.recorded_replacements)
            trial = try_sizes(model, replace(model, document=edit.document(model, attempt, None)), roles, sizes)
            if trial.reason is None:
                freed = replace(attempt, follows=trial.follows)
                return Resolved(replace(edit, follows=freed.recorded_follows), freed, self._describe(sizes, freed))
            reasons.append(trial.reason)
        places = list(dict.fromkeys(describe_places(model, replacements)))
        where = f"; the size is a constant in {', '.join(places[:3])}" if places else ""
        raise UnsupportedModelError(
            f"{' and '.join(f'{which} {size}' for which, size in sizes.items())} cannot be freed: {reasons[-1]}{where}",
            "export the model again with dynamic axes",
        )

    def _describe(self, sizes: Mapping[str, int], freed: Freed) -> tuple[str, ...]:
        """Return the notes for the user."""
        listed = ", ".join(f"{which} {size} can now be any size ({self.names[which]})" for which, size in sizes.items())
        notes = [f"{listed}; {len(freed.replacements)} constants replaced" if freed.replacements else listed]
        if SEQUENCE in sizes:
            is_cut = any(one.plan.kind in (CUT, TILED) for one in freed.replacements.values())
            why = "the graph has tables of that length" if is_cut else "longer texts cannot be compared with the source"
            notes.append(f"the longest text has {sizes[SEQUENCE]} tokens: {why}")
        return tuple(notes)

    def _find_sizes(self, model: Model, roles: Roles) -> dict[str, int]:
        """Return the baked size of each requested dim."""
        names = self.names
        if not names:
            raise RequestError("no dim is given", "name it with --dim batch or --dim sequence")
        if roles.ids is None or roles.ids.rank != 2 or roles.ids.dims is None:
            listed = ", ".join(map(str, model.interface.inputs)) or "there are none"
            raise UnsupportedModelError(
                f"there is no input of token ids [batch, seq] (inputs: {listed}): dynamic-dim frees the sizes of texts alone, "
                "which it can pad and compare; of a picture or a waveform it cannot tell whether another size is right",
                "export the model again with dynamic axes",
            )
        if SEQUENCE in names and roles.mask is None:
            raise UnsupportedModelError(
                "there is no attention mask input, so a shorter text cannot be compared with one of the baked length",
                "export the model again with dynamic axes",
            )
        taken = list_symbolic_dims((*model.interface.inputs, *model.interface.outputs))
        sizes = {}
        for which, name in names.items():
            size = roles.ids.dims[AXES[which]]
            if not isinstance(size, int):
                raise self._explain_free_dim(model, roles, which, size)
            if name in taken or not name.isidentifier():
                why = "the model has such a dim" if name in taken else "it is not a name"
                raise RequestError(f"a dim cannot be called {name!r}: {why}", f"choose another with --dim {which}=NAME")
            sizes[which] = size
        return sizes

    def _explain_free_dim(self, model: Model, roles: Roles, which: str, dim: Dim) -> RequestError:
        """Return the error for a dim of the ids that is declared free. Its export may have baked a size in all the same."""
        generator = make_feed_generator_for(model, roles)
        if generator.baked[AXES[which]] is None or dim is None:
            return RequestError(f"{roles.ids} has no baked-in {which} size", f"leave out --dim {which}")
        dims = zip(roles.ids.dims or () if roles.ids is not None else (), generator.baked, strict=True)
        declared = " ".join(f"--dim {dim}={size}" for dim, size in dims if size is not None)
        return RequestError(" ".join(generator.baked_in), f"declare that first (fix-dim {declared}), and then free it")

    def change(self, draft: Draft, found: Freed) -> None:
        names = self.names

        def free(kind: str, info: onnx.ValueInfoProto) -> bool:
            dims = info.type.tensor_type.shape.dim
            if kind == "input" and info.name in found.inputs:
                for which, name in names.items():
                    dims[AXES[which]].dim_param = name
            if kind == "output" and found.follows is None:  # before a trial: the declared dims of outputs are wrong
                info.type.tensor_type.ClearField("shape")
            for output, axis, which in (found.follows or ()) if kind == "output" else ():
                if output == info.name and axis < len(dims):
                    dims[axis].dim_param = names[which]
            return kind != "value_info"  # they declare the baked sizes

        draft.changes.infos.append(free)
        if found.replacements:
            _replace_inputs(draft, found)

    def ensure(self, before: Interface, after: Interface) -> None:
        freed = [self._rename_dims(value) if value.name in self.inputs else value for value in before.inputs]
        require_promised(self.verb, "the inputs", freed, after.inputs)
        wanted, actual = ([replace(value, dims=None) for value in one.outputs] for one in (before, after))
        require_promised(self.verb, "the outputs, apart from their dims", wanted, actual)

    def _rename_dims(self, value: Value) -> Value:
        """Return an input whose freed dims have their new names."""
        dims = list(require_value(value.dims, f"the dims of {value.name}"))
        for which, name in self.names.items():
            dims[AXES[which]] = name
        return replace(value, dims=tuple(dims))


def _replace_inputs(draft: Draft, freed: Freed) -> None:
    """Build the new values in front of all nodes, and make the nodes read them."""
    names = {(one.output, one.place): name for name, one in freed.replacements.items()}

    def replace_inputs(node: onnx.NodeProto) -> None:
        for place in range(len(node.input)):
            node.input[place] = names.get((node.output[0] if node.output else "", place), node.input[place])

    draft.changes.nodes.append(replace_inputs)
    with draft.at_front():
        builder = ReplacementBuilder(Operators(draft, "graphsurgery/dims"), gs.Variable(freed.ids))
        for name, one in freed.replacements.items():
            builder.build(one, name)
