"""optional-input: let callers leave an input out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import onnx

from graphsurgery.deferred import gs
from graphsurgery.edits.draft_operators import Operators
from graphsurgery.edits.edit import GraphEdit, Resolved, parameter, require_opset, resolved_parameter
from graphsurgery.edits.inputs import ONES, POSITIONS, ZEROS, find_fill, find_input, find_like
from graphsurgery.edits.trials import explain_default_misfit
from graphsurgery.encoder.roles import find_roles
from graphsurgery.errors import UnsupportedModelError, require_promised, require_value
from graphsurgery.graph.graph import Graph
from graphsurgery.interface import Interface, Value, type_name
from graphsurgery.model.draft import Draft
from graphsurgery.model.dtypes import to_numpy_dtype
from graphsurgery.model.model import Model
from graphsurgery.model.names import Namer

OLDEST_IR = 4
"""From this IR version on, an initializer with an input's name is its default. Before, every initializer had to be an input."""
NUMBERS = {ZEROS: 0, ONES: 1}


@dataclass(frozen=True)
class Default:
    """The input to make optional, its default, the values that depend on it, and the input that gives its shape."""

    value: Value
    number: int
    dependents: set[str]
    like: str
    inside: str | None = None
    """The name of the input's value in its whole shape inside the graph. None if the graph takes the default as it is."""

    def tensor(self) -> onnx.TensorProto:
        """Return the default ``[1, 1]``, because ONNX allows only defaults of a fixed shape."""
        return onnx.numpy_helper.from_array(
            np.full((1, 1), self.number, dtype=to_numpy_dtype(self.value.dtype)), self.value.name
        )


@dataclass(frozen=True)
class OptionalInput(GraphEdit[Default]):
    """Let callers leave an input out. Its default ``[1, 1]``, 0 (token types) or 1 (a mask), broadcasts to the input's shape.

    A trial shows whether the graph accepts a default of that shape. A graph that counts the input's elements or reads its shape
    does not, for example one that pools with the mask, or a dynamo export. There, Expand gives the input the shape of the token
    ids first.
    """

    input: str = parameter("The input that callers may leave out.", "", "NAME", required=True)
    fill: str | None = parameter(
        "The default for callers that leave it out.", None, "zeros|ones", otherwise="as the input's name says"
    )
    like: str | None = parameter("The input whose shape the default stands for.", None, "NAME", otherwise="the token ids")
    dtype: str | None = resolved_parameter(None)
    inside: str | None = resolved_parameter(None)

    def resolve(self, model: Model) -> Resolved[Self, Default]:
        """Find fill and shape, and try the default. Raises RequestError, NameNotFoundError, UnsupportedModelError."""
        require_opset(model, self.verb)
        value = find_input(model, self.input)
        roles = find_roles(model.interface)
        fill, like = find_fill(roles, value, self.fill), find_like(model, roles, value, self.like)
        if fill == POSITIONS:
            raise UnsupportedModelError("a default of one number cannot stand for positions", _advise_removal(value))
        if model.proto.ir_version < OLDEST_IR:
            what = f"inputs of IR version {model.proto.ir_version} cannot have a default; version {OLDEST_IR} is needed"
            raise UnsupportedModelError(what, _advise_removal(value))
        edit = replace(self, fill=fill, like=like.name, dtype=type_name(value.dtype), inside=None)
        graph = Graph.of(model)
        dependents = graph.descendants([require_value(graph.value(value.name), f"the input {value.name}")])
        found = Default(value, NUMBERS[fill], {one.name or "" for one in dependents}, like.name)
        note = f"{value.name} is {fill} if it is left out"
        if edit._explain_misfit(model, found) is None:
            return Resolved(edit, found, (note,))
        inside = Namer.of(model.proto).new(f"graphsurgery/inputs/{value.name}")
        edit, found = replace(edit, inside=inside), replace(found, inside=inside)
        reason = edit._explain_misfit(model, found)
        if reason is not None:
            raise UnsupportedModelError(f"{value.name} cannot be left out: {reason}", _advise_removal(value))
        return Resolved(edit, found, (f"{note}, expanded to the shape of {like.name}",))

    def _explain_misfit(self, model: Model, found: Default) -> str | None:
        """Explain why the graph does not take the default; None if it does."""
        after = replace(model, document=self.document(model, found, None))
        return explain_default_misfit(model, after, find_roles(model.interface), found.value, found.number)

    def change(self, draft: Draft, found: Default) -> None:
        def loosen(kind: str, info: onnx.ValueInfoProto) -> bool:
            """Open the input's dims, and drop the declared dims of values that depend on it."""
            if kind == "input" and info.name == found.value.name:
                for dim in info.type.tensor_type.shape.dim:
                    dim.ClearField("value")
            return kind != "value_info" or found.inside is not None or info.name not in found.dependents

        draft.changes.infos.append(loosen)
        draft.changes.initializers.append(found.tensor())
        if found.inside is not None:
            draft.changes.names[found.value.name] = found.inside
            with draft.at_front():
                ops = Operators(draft, f"graphsurgery/inputs/{found.value.name}")
                shape = ops.node("Shape", gs.Variable(found.like), name="shape")
                ops.node("Expand", gs.Variable(found.value.name), shape, name="expanded", output=found.inside)

    def ensure(self, before: Interface, after: Interface) -> None:
        kept = [value for value in before.inputs if value.name != self.input]
        require_promised(self.verb, "required inputs", kept, after.inputs)
        require_promised(self.verb, "outputs", before.outputs, after.outputs)


def _advise_removal(value: Value) -> str:
    return f"remove it instead, which always works: drop-input --input {value.name}"
