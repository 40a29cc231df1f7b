"""drop-input: remove inputs that the graph can compute by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import onnx

from graphsurgery.deferred import gs
from graphsurgery.edits.draft_operators import Operators
from graphsurgery.edits.edit import GraphEdit, Resolved, parameter, require_opset, resolved_parameter
from graphsurgery.edits.fills import (
    BATCH,
    EMPTY,
    GIVEN,
    SEQUENCE,
    Shape,
    choose_fill,
    choose_shape,
    describe_values,
    drop_terms,
    list_empty_dims,
    read_number,
)
from graphsurgery.edits.inputs import ONES, POSITIONS, find_inputs
from graphsurgery.encoder.roles import find_roles, is_cache
from graphsurgery.errors import RequestError, require_promised, require_value
from graphsurgery.graph.graph import Graph
from graphsurgery.interface import Interface, Value, type_name
from graphsurgery.model.draft import Draft
from graphsurgery.model.model import Model


def build_shape(ops: Operators, like: str | None, shape: Shape | None) -> gs.Tensor:
    """Build ``shape`` as a vector: numbers, and sizes of ``like [batch, seq]``. None stands for all of its shape."""
    if shape is not None and not {BATCH, SEQUENCE}.intersection(shape):
        return ops.constant([int(size) for size in shape], np.int64, "shape")
    whole = ops.node("Shape", gs.Variable(require_value(like, "like")), name="shape")
    if shape is None:
        return whole
    sizes = [
        ops.node("Gather", whole, ops.constant([(BATCH, SEQUENCE).index(size)], np.int64, f"{size}/axis"), name=size)
        if size in (BATCH, SEQUENCE)
        else ops.constant([int(size)], np.int64, f"size{place}")
        for place, size in enumerate(shape)
    ]
    return ops.node("Concat", *sizes, name="dims", axis=0)


def build_fill(ops: Operators, shape: gs.Tensor, axis: int, fill: str, number: np.ndarray, name: str) -> None:
    """Build the value ``name`` in a shape: ``number`` everywhere, or 0, 1, ... along the ``axis``."""
    if fill == POSITIONS:
        kind = onnx.helper.np_dtype_to_tensor_dtype(number.dtype)
        counted = ops.count(shape, np.int64, axis, from_zero=True)
        ops.node("Cast", counted, name="filled", output=name, to=int(kind))
        return
    ops.node("ConstantOfShape", shape, name="filled", output=name, value=gs.Constant("value", number.reshape(1)))


@dataclass(frozen=True)
class Dropped:
    """The inputs to remove, each with its shape, and the number that replaces their elements."""

    shapes: tuple[tuple[Value, Shape | None], ...]
    number: np.ndarray
    used: frozenset[str]
    """The inputs that any node reads."""


@dataclass(frozen=True)
class DropInput(GraphEdit[Dropped]):
    """Remove inputs that are always the same. The graph computes them, in the shape of another input ``[batch, seq]``.

    ``token_type_ids`` become zeros, a mask becomes ones (every position is a token), and ``position_ids`` become 0, 1, ...,
    seq - 1 in every row. A decoder's caches become empty, ``[batch, heads, 0, dim]``; what it gives as new caches stays. A flag
    or a task becomes the number of ``--value``.
    """

    repeatable: ClassVar[bool] = True

    input: str = parameter(
        "The input to remove, or a pattern that several match, such as 'past_key_values.*'.", "", "NAME", required=True
    )
    fill: str | None = parameter(
        "The values that the graph puts in its place.", None, "zeros|ones|positions|empty", otherwise="as the input's name says"
    )
    like: str | None = parameter("The input whose shape or batch size the values get.", None, "NAME", otherwise="the token ids")
    value: str | None = parameter(
        "A number that the graph puts in its place, or true or false.", None, "N", takes=int | float | bool | str | None
    )
    dtype: str | None = resolved_parameter(None)
    inputs: tuple[str, ...] | None = resolved_parameter(None)
    dims: tuple[str, ...] | None = resolved_parameter(None)
    empty: tuple[str, ...] | None = resolved_parameter(None)

    def resolve(self, model: Model) -> Resolved[Self, Dropped]:
        """Find values, shapes and type. Raises RequestError, NameNotFoundError, UnsupportedModelError."""
        require_opset(model, self.verb)
        values = find_inputs(model, self.input)
        names = tuple(value.name for value in values)
        roles = find_roles(model.interface)
        asked = None if self.fill == GIVEN and self.value is not None else self.fill
        fill = choose_fill(roles, values, asked, self.value)
        shapes = [choose_shape(model, roles, value, fill, self.like) for value in values]
        likes = {like.name for like, _ in shapes if like is not None}
        if likes.intersection(names):
            raise RequestError(
                f"{self.input} would remove {', '.join(likes)}, which gives the shape", "name another with --like"
            )
        empty = list_empty_dims(values, [shape for _, shape in shapes], model.interface.inputs)
        is_usual = all(shape is None for _, shape in shapes)
        edit = replace(
            self,
            fill=fill,
            like=next(iter(likes), None),
            dtype=type_name(values[0].dtype),
            inputs=None if names == (self.input,) else names,
            dims=None if is_usual else tuple(",".join(require_value(shape, "a shape")) for _, shape in shapes),
            empty=empty or None,
        )
        graph = Graph.of(model)
        used = (name for name in names if graph.all_consumers(require_value(graph.value(name), f"the input {name}")))
        number = read_number(values[0], {ONES: "1", GIVEN: self.value}.get(fill) or "0")
        found = Dropped(tuple(zip(values, (shape for _, shape in shapes), strict=True)), number, frozenset(used))
        return Resolved(edit, found, (describe_values(values, fill, edit.like, self.value), *_note_caches(model, fill)))

    def change(self, draft: Draft, found: Dropped) -> None:
        dropped, empty = {value.name for value, _ in found.shapes}, self.empty or ()

        def change_info(kind: str, info: onnx.ValueInfoProto) -> bool:
            for dim in info.type.tensor_type.shape.dim if empty and info.type.HasField("tensor_type") else ():
                left = drop_terms(dim.dim_param, empty) if dim.dim_param else None
                if isinstance(left, int):
                    dim.dim_value = left
                elif left:
                    dim.dim_param = left
            return kind != "input" or info.name not in dropped

        draft.changes.infos.append(change_info)
        with draft.at_front():
            self._build(draft, found)

    def _build(self, draft: Draft, found: Dropped) -> None:
        """Build the values. Inputs of one shape share it."""
        built: dict[Shape | None, gs.Tensor] = {}
        for value, shape in found.shapes:
            ops = Operators(draft, f"graphsurgery/inputs/{value.name}")
            if value.name not in found.used:
                continue
            if shape == ():
                ops.node("Constant", name="filled", output=value.name, value=gs.Constant("value", found.number))
                continue
            if shape not in built:
                built[shape] = build_shape(ops, self.like, shape)
            axis = 1 if shape is None else len(shape) - 1
            build_fill(ops, built[shape], axis, require_value(self.fill, "fill"), found.number, value.name)

    def ensure(self, before: Interface, after: Interface) -> None:
        dropped = self.inputs or (self.input,)
        others = tuple(self._resize(value) for value in before.inputs if value.name not in dropped)
        require_promised(self.verb, "the inputs", others, after.inputs)
        require_promised(self.verb, "the outputs", tuple(map(self._resize, before.outputs)), after.outputs)

    def _resize(self, value: Value) -> Value:
        """Return ``value`` with its dims as they are without those that are empty."""
        empty = self.empty or ()
        dims = value.dims and tuple(drop_terms(dim, empty) if isinstance(dim, str) else dim for dim in value.dims)
        return replace(value, dims=dims)


def _note_caches(model: Model, fill: str) -> Sequence[str]:
    """Return a note on the caches that a decoder still gives, if its caches become empty."""
    given = [value.name for value in model.interface.outputs if is_cache(value)] if fill == EMPTY else []
    if not given:
        return ()
    named = given[0] if len(given) == 1 else f"{given[0]} and {len(given) - 1} more"
    return (f"the outputs {named} stay; `keep-outputs` leaves them out, and so does pooling",)
