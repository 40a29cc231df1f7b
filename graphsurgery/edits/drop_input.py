"""drop-input: remove an input that the graph can compute by itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.edits.draft_operators import Operators
from graphsurgery.edits.edit import GraphEdit, Resolved, parameter, require_opset, resolved_parameter
from graphsurgery.edits.inputs import POSITIONS, ZEROS, find_fill, find_input, find_like
from graphsurgery.encoder.roles import find_roles
from graphsurgery.errors import require_promised, require_value
from graphsurgery.graph.graph import Graph
from graphsurgery.interface import Interface, Value, type_name
from graphsurgery.model.draft import Draft
from graphsurgery.model.dtypes import to_numpy_dtype
from graphsurgery.model.model import Model


def build_fill(ops: Operators, like: gs.Tensor, fill: str, dtype: int, name: str) -> None:
    """Build the value ``name`` in the shape of ``like [batch, seq]``: 0, 1, or 0, 1, ..., seq - 1 in every row."""
    if fill == POSITIONS:
        ops.node("Cast", ops.positions(like, np.int64, from_zero=True), name="filled", output=name, to=dtype)
        return
    value = np.full(1, 0 if fill == ZEROS else 1, dtype=to_numpy_dtype(dtype))
    shape = ops.node("Shape", like, name="shape")
    ops.node("ConstantOfShape", shape, name="filled", output=name, value=gs.Constant("value", value))


@dataclass(frozen=True)
class Dropped:
    """The input to remove, the values that replace it, and the input that gives them their shape."""

    value: Value
    fill: str
    like: str
    is_used: bool
    """Whether any node reads it."""


@dataclass(frozen=True)
class DropInput(GraphEdit[Dropped]):
    """Remove an input that is always the same. The graph computes it in the shape of another input ``[batch, seq]``.

    ``token_type_ids`` become zeros, a mask becomes ones (every position is a token), and ``position_ids`` become 0, 1, ...,
    seq - 1 in every row.
    """

    repeatable: ClassVar[bool] = True

    input: str = parameter("The input to remove.", "", "NAME", required=True)
    fill: str | None = parameter(
        "The values that the graph puts in its place.", None, "zeros|ones|positions", otherwise="as the input's name says"
    )
    like: str | None = parameter("The input whose shape the values get.", None, "NAME", otherwise="the token ids")
    dtype: str | None = resolved_parameter(None)

    def resolve(self, model: Model) -> Resolved[Self, Dropped]:
        """Find fill, shape and type. Raises RequestError, NameNotFoundError, UnsupportedModelError."""
        require_opset(model, self.verb)
        value = find_input(model, self.input)
        roles = find_roles(model.interface)
        fill, like = find_fill(roles, value, self.fill), find_like(model, roles, value, self.like)
        edit = replace(self, fill=fill, like=like.name, dtype=type_name(value.dtype))
        graph = Graph.of(model)
        is_used = bool(graph.all_consumers(require_value(graph.value(value.name), f"the input {value.name}")))
        return Resolved(
            edit, Dropped(value, fill, like.name, is_used), (f"{value.name} is {fill} in the shape of {like.name}",)
        )

    def change(self, draft: Draft, found: Dropped) -> None:
        value = found.value
        draft.changes.infos.append(lambda kind, info: kind != "input" or info.name != value.name)
        if found.is_used:
            with draft.at_front():
                ops = Operators(draft, f"graphsurgery/inputs/{value.name}")
                build_fill(ops, gs.Variable(found.like), found.fill, value.dtype, value.name)

    def ensure(self, before: Interface, after: Interface) -> None:
        others = tuple(value for value in before.inputs if value.name != self.input)
        require_promised(self.verb, "the inputs", others, after.inputs)
        require_promised(self.verb, "the outputs", before.outputs, after.outputs)
