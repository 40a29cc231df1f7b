"""What stands in the place of constants that a batch or sequence size was baked into."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphsurgery.edits.baked_dims import AXES, BATCH, CUT, END, POSITIONS, SEQUENCE, Constants, Rewrite
from graphsurgery.edits.operators import Operators
from graphsurgery.model.model import Model


class Values:
    """Builds what stands in the place of constants."""

    def __init__(self, ops: Operators, ids: gs.Tensor, model: Model) -> None:
        self.ops, self.initializers, self.constants = ops, model.initializers, Constants(model, None)
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
        """``[1]`` int64: how large the batch or the sequence is."""
        axis = AXES[which]
        start, end = (self.ops.constant([at], np.int64, f"{which}/{what}") for what, at in (("from", axis), ("to", axis + 1)))
        return self.ops.node("Slice", self._shape_of_ids, start, end, name=which)

    def make(self, rewrite: Rewrite, name: str) -> None:
        """The value ``name`` in the place of a constant."""
        build = {POSITIONS: self._positions, CUT: self._cut, END: self._end}.get(rewrite.kind, self._shape)
        build(rewrite, name)

    def _shape(self, rewrite: Rewrite, name: str) -> None:
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

    def _end(self, rewrite: Rewrite, name: str) -> None:
        self.ops.node("Identity", self._sequence, name="end", output=name)

    def _positions(self, rewrite: Rewrite, name: str) -> None:
        """n, n + 1, ... of the type and rank that the constant had."""
        first, rank = rewrite.entries
        one = gs.Constant("one", np.ones(1, dtype=np.int64))
        ones = self.ops.node("ConstantOfShape", self._sequence, name="ones", value=one)
        counted = self.ops.node("CumSum", ones, self.ops.constant(0, np.int64, "axis"), name="counted", exclusive=1)
        moved = self.ops.node("Add", counted, self.ops.constant(first, np.int64, "first"), name="positions")
        shape = self.ops.constant([1] * (int(rank) - 1) + [-1], np.int64, "rank")
        shaped = self.ops.node("Reshape", moved, shape, name="row")
        self.ops.node("Cast", shaped, name="typed", output=name, to=self._type(rewrite))

    def _cut(self, rewrite: Rewrite, name: str) -> None:
        axes = [0 if axis == BATCH else axis for axis in rewrite.entries]
        one = self.ops.constant([1], np.int64, "row") if BATCH in rewrite.entries else None
        ends = [one if axis == BATCH and one is not None else self._sequence for axis in rewrite.entries]
        starts = self.ops.constant([0] * len(axes), np.int64, "starts")
        end = ends[0] if len(ends) == 1 else self.ops.node("Concat", *ends, name="ends", axis=0)
        value = self._constant(rewrite)
        self.ops.node("Slice", value, starts, end, self.ops.constant(axes, np.int64, "axes"), name="cut", output=name)

    def _type(self, rewrite: Rewrite) -> int:
        """The element type that a constant had."""
        if rewrite.name in self.initializers:
            return int(self.initializers[rewrite.name].data_type)
        return int(onnx.helper.np_dtype_to_tensor_dtype(self.constants[rewrite.name].dtype))

    def _constant(self, rewrite: Rewrite) -> gs.Tensor:
        """The constant as it was; one that nodes make is made here as well, to stand before its use."""
        if rewrite.name in self.initializers:
            return gs.Variable(rewrite.name)
        return self.ops.draft.constant(self.constants[rewrite.name], f"{self.ops.scope}/table")
