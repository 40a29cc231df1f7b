"""optional-input: an input that need not be given."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import onnx

from graphsurgery.contracts import present, require_promised
from graphsurgery.edits.agreement import agreement, nothing_compared
from graphsurgery.edits.edit import GraphEdit, parameter, require_opset, settled
from graphsurgery.edits.inputs import ONES, POSITIONS, ZEROS, input_named, settled_fill, settled_like
from graphsurgery.encoder.roles import Roles, roles_of
from graphsurgery.errors import GraphSurgeryError, UnsupportedModelError
from graphsurgery.graph.wiring import downstream
from graphsurgery.interface import Interface, Value, type_name
from graphsurgery.model.draft import Draft
from graphsurgery.model.dtypes import numpy_dtype
from graphsurgery.model.model import Model
from graphsurgery.runtime.feeds import Drawer
from graphsurgery.runtime.session import open_session

OLDEST_IR = 4
"""From this IR version on an initializer of an input's name is its default; before it, all initializers had to be inputs."""
FAR = 1e-4


def default_of(value: Value, fill: str) -> onnx.TensorProto:
    """``[1, 1]``: ONNX has defaults of a fixed shape alone, so this one has to broadcast."""
    number = {ZEROS: 0, ONES: 1}[fill]
    return onnx.numpy_helper.from_array(np.full((1, 1), number, dtype=numpy_dtype(value.dtype)), value.name)


@dataclass(frozen=True)
class OptionalInput(GraphEdit):
    """Let an input be left out: a default ``[1, 1]`` of zeros (token types) or ones (a mask) stands for it, and broadcasts.

    Only where the graph takes a default of that shape, which is tried out: what counts or reads the shape of its input does
    not, as a mask that is pooled with. `drop-input` serves those.
    """

    input: str = parameter("The input that callers may leave out.", "", "NAME", required=True)
    fill: str | None = parameter(
        "The default for callers that leave it out.", None, "zeros|ones", otherwise="as the input's name says"
    )
    like: str | None = parameter("The input whose shape it has.", None, "NAME", otherwise="the token ids")
    dtype: str | None = settled(None)

    def resolve(self, model: Model) -> tuple[OptionalInput, tuple[str, ...]]:
        """Settle fill and shape, and try it. Raises RequestError, NameNotFoundError, UnsupportedModelError."""
        require_opset(model, self.verb)
        value = input_named(model, self.input)
        roles = roles_of(model.interface)
        fill, like = settled_fill(roles, value, self.fill), settled_like(model, roles, value, self.like)
        if fill == POSITIONS:
            raise UnsupportedModelError("a default of one number cannot be positions", _instead(value))
        if model.proto.ir_version < OLDEST_IR:
            what = f"the model is of IR version {model.proto.ir_version}, where an input cannot have a default; {OLDEST_IR} can"
            raise UnsupportedModelError(what, _instead(value))
        resolved = replace(self, fill=fill, like=like.name, dtype=type_name(value.dtype))
        reason = why_not(model, replace(model, document=resolved.document(model, None)), roles, value, fill)
        if reason is not None:
            raise UnsupportedModelError(f"{value.name} cannot be left out: {reason}", _instead(value))
        return resolved, (f"{value.name} is {fill} when it is left out",)

    def change(self, draft: Draft, model: Model) -> None:
        value = present(model.interface.input(self.input), f"the input {self.input}")
        default = default_of(value, present(self.fill, "fill"))
        behind = downstream(model.proto.graph, value.name)

        def loosened(kind: str, info: onnx.ValueInfoProto) -> bool:
            """The input's dims left open; no word any more on values whose dims may be the default's."""
            if kind == "input" and info.name == value.name:
                for dim in info.type.tensor_type.shape.dim:
                    dim.ClearField("value")
            return kind != "value_info" or info.name not in behind

        draft.changes.infos.append(loosened)
        draft.changes.initializers.append(default)

    def ensure(self, before: Interface, after: Interface) -> None:
        kept = [value for value in before.inputs if value.name != self.input]
        require_promised(self.verb, "inputs that have to be given", kept, after.inputs)
        require_promised(self.verb, "outputs", before.outputs, after.outputs)


def _instead(value: Value) -> str:
    return f"take it away instead, which always works: drop-input --input {value.name}"


def why_not(model: Model, after: Model, roles: Roles, value: Value, fill: str) -> str | None:
    """Why the default does not do what the input would, tried on a few texts; None where it does."""
    drawer = Drawer.of(model, roles)
    try:
        source = open_session(model)
    except GraphSurgeryError as error:
        return f"that has to be tried, and the model does not run: {error}"
    try:
        made = open_session(after)
        agreed: Counter[str] = Counter()
        for seed, mask in enumerate(mask for _, masks in drawer.kinds() for mask in masks):
            given = drawer.feed(mask, seed)
            given[value.name] = np.full_like(given[value.name], 0 if fill == ZEROS else 1)
            wanted = source.run(given)
            found = made.run({name: array for name, array in given.items() if name != value.name})
            for name, one in found.items():
                same = agreement(one, wanted[name], FAR)
                if same is None:
                    return f"{name} is another where the default stands for it, so the graph does not only broadcast it"
                agreed[name] += same
    except GraphSurgeryError as error:
        return f"with a default of [1, 1], {error}"
    return nothing_compared(agreed)
