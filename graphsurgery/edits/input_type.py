"""input-type: take ids and masks as int32 or int64, and half-precision inputs as float32."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import onnx

from graphsurgery.deferred import gs
from graphsurgery.edits.draft_operators import FLOAT, INT32, INT64, Operators
from graphsurgery.edits.edit import GraphEdit, Resolved, parameter, require_opset, resolved_parameter
from graphsurgery.edits.inputs import find_input
from graphsurgery.encoder.roles import is_cache, is_ids_like
from graphsurgery.errors import RequestError, require_promised
from graphsurgery.interface import Interface, Value, type_name
from graphsurgery.model.draft import Draft
from graphsurgery.model.model import Model
from graphsurgery.model.names import Namer

TYPES = {"int32": INT32, "int64": INT64, "float32": FLOAT}
TAKEN = {"int32": (INT64,), "int64": (INT32,), "float32": (onnx.TensorProto.FLOAT16,)}
"""The element types that an input may have before the edit, by the type that it gets."""


@dataclass(frozen=True)
class Cast:
    """The name that an input's value has inside the graph, and its element type there."""

    name: str
    dtype: int


@dataclass(frozen=True)
class InputType(GraphEdit[dict[str, Cast]]):
    """Take ids, masks and other integer inputs as int32 or int64, or float16 inputs as float32.

    A Cast inside the graph converts them to their old type.

    This applies to all inputs ``[batch, seq]`` of the other integer type, to all float16 inputs that are not caches, or to the
    named ones.
    """

    repeatable: ClassVar[bool] = True

    to: str = parameter("The element type to take: int32, int64 or float32.", "", "int32|int64|float32", required=True)
    input: tuple[str, ...] = parameter(
        "An input to change.",
        (),
        "NAME",
        otherwise="every input [batch, seq] of the other type, or every float16 input but caches",
    )
    inside: tuple[str, ...] = resolved_parameter(())
    dtypes: tuple[str, ...] = resolved_parameter(())

    def resolve(self, model: Model) -> Resolved[Self, dict[str, Cast]]:
        """Find the inputs. Raises RequestError (type, nothing to change), NameNotFoundError, UnsupportedModelError."""
        require_opset(model, self.verb)
        if self.to not in TYPES:
            raise RequestError(f"inputs cannot be taken as {self.to!r}", f"choose --to {' or --to '.join(TYPES)}")
        asked = tuple(dict.fromkeys(self.input)) or tuple(
            value.name for value in model.interface.inputs if self._needs_change(value)
        )
        values = [find_input(model, name) for name in asked]
        for value in values:
            if value.dtype == TYPES[self.to]:
                raise RequestError(f"{value} is already {self.to}", f"leave out --input {value.name}")
            if value.dtype not in TAKEN[self.to]:
                raise self._refuse(value)
        if not values:
            raise self._find_nothing(model)
        names = Namer.of(model.proto)
        found = {value.name: Cast(names.new(f"graphsurgery/inputs/{value.name}"), value.dtype) for value in values}
        edit = replace(
            self, input=asked, inside=tuple(cast.name for cast in found.values()),
            dtypes=tuple(type_name(cast.dtype) for cast in found.values()),
        )  # fmt: skip
        return Resolved(edit, found, (f"{', '.join(asked)}: {self.to}, cast inside the graph",))

    def _needs_change(self, value: Value) -> bool:
        fits = not is_cache(value) if self.to == "float32" else is_ids_like(value)
        return value.dtype in TAKEN[self.to] and fits

    def _refuse(self, value: Value) -> RequestError:
        if self.to == "float32":
            return RequestError(f"{value} is not float16", "leave it out: only float16 inputs can be taken as float32")
        return RequestError(
            f"{value} is neither int32 nor int64",
            "leave it out: input-type changes only between these two types (ids, token types, masks of integers)",
        )

    def _find_nothing(self, model: Model) -> RequestError:
        """Return the error for a model that has no input to change."""
        listed = ", ".join(map(str, model.interface.inputs)) or "none"
        if self.to == "float32":
            return RequestError(f"no input is float16; the inputs are {listed}", "nothing is left to do")
        other = next(kind for kind in TYPES if kind != self.to)
        return RequestError(
            f"no input [batch, seq] is {other}; the inputs are {listed}",
            f"nothing is left to do if {self.to} is wanted; --to {other} goes the other way, and --input NAME changes an "
            f"input of other dims",
        )

    def change(self, draft: Draft, found: dict[str, Cast]) -> None:
        def retype(kind: str, info: onnx.ValueInfoProto) -> bool:
            if kind == "input" and info.name in found:
                info.type.tensor_type.elem_type = TYPES[self.to]
            return True

        draft.changes.infos.append(retype)
        draft.changes.names |= {name: cast.name for name, cast in found.items()}
        with draft.at_front():
            for name, cast in found.items():
                ops = Operators(draft, f"graphsurgery/inputs/{name}")
                ops.node("Cast", gs.Variable(name), name="cast", output=cast.name, to=cast.dtype)

    def ensure(self, before: Interface, after: Interface) -> None:
        wanted = tuple(replace(v, dtype=TYPES[self.to]) if v.name in self.input else v for v in before.inputs)
        require_promised(self.verb, "the inputs", wanted, after.inputs)
        require_promised(self.verb, "the outputs", before.outputs, after.outputs)
