"""drop-input: an input that the graph can make by itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.contracts import present, require_promised
from graphsurgery.edits.edit import GraphEdit, parameter, require_opset, settled
from graphsurgery.edits.inputs import POSITIONS, ZEROS, input_named, settled_fill, settled_like
from graphsurgery.edits.operators import Operators
from graphsurgery.encoder.roles import roles_of
from graphsurgery.graph.wiring import all_nodes
from graphsurgery.interface import Interface, type_name
from graphsurgery.model.draft import Draft
from graphsurgery.model.dtypes import numpy_dtype
from graphsurgery.model.model import Model


def filled(ops: Operators, like: gs.Tensor, fill: str, dtype: int, name: str) -> None:
    """The value ``name``: 0, 1, or 0, 1, ..., seq - 1 in every row; of the shape of ``like [batch, seq]`` and of that type."""
    shape = ops.node("Shape", like, name="shape")
    if fill == POSITIONS:
        one = gs.Constant("one", np.ones(1, dtype=np.int64))
        ones = ops.node("ConstantOfShape", shape, name="ones", value=one)
        positions = ops.node("CumSum", ones, ops.constant(1, np.int64, "axis"), name="positions", exclusive=1)
        ops.node("Cast", positions, name="filled", output=name, to=dtype)
        return
    value = np.full(1, 0 if fill == ZEROS else 1, dtype=numpy_dtype(dtype))
    ops.node("ConstantOfShape", shape, name="filled", output=name, value=gs.Constant("value", value))


@dataclass(frozen=True)
class DropInput(GraphEdit):
    """Take an input away that is always the same: the graph makes it, in the shape of another input ``[batch, seq]``.

    ``token_type_ids`` become zeros, a mask ones (every position is a token), ``position_ids`` 0, 1, ..., seq - 1 in every row.
    """

    repeatable: ClassVar[bool] = True

    input: str = parameter("The input to remove.", "", "NAME", required=True)
    fill: str | None = parameter(
        "The values that the graph puts in its place.", None, "zeros|ones|positions", otherwise="as the input's name says"
    )
    like: str | None = parameter("The input whose shape the values get.", None, "NAME", otherwise="the token ids")
    dtype: str | None = settled(None)

    def resolve(self, model: Model) -> tuple[DropInput, tuple[str, ...]]:
        """Settle fill, shape and type. Raises RequestError, NameNotFoundError, UnsupportedModelError."""
        require_opset(model, self.verb)
        value = input_named(model, self.input)
        roles = roles_of(model.interface)
        fill, like = settled_fill(roles, value, self.fill), settled_like(model, roles, value, self.like)
        resolved = replace(self, fill=fill, like=like.name, dtype=type_name(value.dtype))
        return resolved, (f"{value.name} is {fill} in the shape of {like.name}",)

    def change(self, draft: Draft, model: Model) -> None:
        value = present(model.interface.input(self.input), f"the input {self.input}")
        like, fill = present(self.like, "like"), present(self.fill, "fill")
        draft.changes.infos.append(lambda kind, info: kind != "input" or info.name != value.name)
        if not any(value.name in node.input for node in all_nodes(model.proto.graph)):
            return
        with draft.at_front():
            ops = Operators(draft, f"graphsurgery/inputs/{value.name}")
            filled(ops, gs.Variable(like), fill, value.dtype, value.name)

    def ensure(self, before: Interface, after: Interface) -> None:
        others = tuple(value for value in before.inputs if value.name != self.input)
        require_promised(self.verb, "the inputs", others, after.inputs)
        require_promised(self.verb, "the outputs", before.outputs, after.outputs)
