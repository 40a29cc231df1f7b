"""optional-input: an input that need not be given."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import onnx

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

OLDEST_IR = 4
"""From this IR version on an initializer of an input's name is its default; before it, all initializers had to be inputs."""
NUMBERS = {ZEROS: 0, ONES: 1}


@dataclass(frozen=True)
class Default:
    """The input to make optional, its default, and the values that it goes into."""

    value: Value
    number: int
    behind: set[str]

    def tensor(self) -> onnx.TensorProto:
        """Return the default ``[1, 1]``: ONNX has defaults of a fixed shape alone, so this one has to broadcast."""
        return onnx.numpy_helper.from_array(
            np.full((1, 1), self.number, dtype=to_numpy_dtype(self.value.dtype)), self.value.name
        )


@dataclass(frozen=True)
class OptionalInput(GraphEdit[Default]):
    """Let an input be left out: a default ``[1, 1]`` of zeros (token types) or ones (a mask) stands for it, and broadcasts.

    Only where the graph takes a default of that shape, which is tried out: what counts or reads the shape of its input does
    not, as a mask that is pooled with. `drop-input` serves those.
    """

    input: str = parameter("The input that callers may leave out.", "", "NAME", required=True)
    fill: str | None = parameter(
        "The default for callers that leave it out.", None, "zeros|ones", otherwise="as the input's name says"
    )
    like: str | None = parameter("The input whose shape the default stands for.", None, "NAME", otherwise="the token ids")
    dtype: str | None = resolved_parameter(None)

    def resolve(self, model: Model) -> Resolved[Self, Default]:
        """Find fill and shape, and try the default. Raises RequestError, NameNotFoundError, UnsupportedModelError."""
        require_opset(model, self.verb)
        value = find_input(model, self.input)
        roles = find_roles(model.interface)
        fill, like = find_fill(roles, value, self.fill), find_like(model, roles, value, self.like)
        if fill == POSITIONS:
            raise UnsupportedModelError("a default of one number cannot be positions", _instead(value))
        if model.proto.ir_version < OLDEST_IR:
            what = f"the model is of IR version {model.proto.ir_version}, where an input cannot have a default; {OLDEST_IR} can"
            raise UnsupportedModelError(what, _instead(value))
        edit = replace(self, fill=fill, like=like.name, dtype=type_name(value.dtype))
        graph = Graph.of(model)
        behind = graph.descendants([require_value(graph.value(value.name), f"the input {value.name}")])
        found = Default(value, NUMBERS[fill], {one.name or "" for one in behind})
        after = replace(model, document=edit.document(model, found, None))
        reason = explain_default_misfit(model, after, roles, value, found.number)
        if reason is not None:
            raise UnsupportedModelError(f"{value.name} cannot be left out: {reason}", _instead(value))
        return Resolved(edit, found, (f"{value.name} is {fill} when it is left out",))

    def change(self, draft: Draft, found: Default) -> None:
        def loosen(kind: str, info: onnx.ValueInfoProto) -> bool:
            """Leave the input's dims open, and drop what is declared of values whose dims may be the default's."""
            if kind == "input" and info.name == found.value.name:
                for dim in info.type.tensor_type.shape.dim:
                    dim.ClearField("value")
            return kind != "value_info" or info.name not in found.behind

        draft.changes.infos.append(loosen)
        draft.changes.initializers.append(found.tensor())

    def ensure(self, before: Interface, after: Interface) -> None:
        kept = [value for value in before.inputs if value.name != self.input]
        require_promised(self.verb, "inputs that have to be given", kept, after.inputs)
        require_promised(self.verb, "outputs", before.outputs, after.outputs)


def _instead(value: Value) -> str:
    return f"take it away instead, which always works: drop-input --input {value.name}"
