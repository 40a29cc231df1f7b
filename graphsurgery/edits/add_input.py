"""add-input: take an input that no node reads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import onnx

from graphsurgery.edits.edit import GraphEdit, Resolved, parameter, resolved_parameter
from graphsurgery.edits.inputs import find_input
from graphsurgery.edits.outputs import check_free
from graphsurgery.encoder.roles import MASK_TYPES, find_roles
from graphsurgery.errors import RequestError, UnsupportedModelError, require_promised, require_value
from graphsurgery.interface import Interface, Value, type_name
from graphsurgery.model.draft import Draft
from graphsurgery.model.model import Model

TYPES = {type_name(kind): kind for kind in MASK_TYPES - {onnx.TensorProto.BFLOAT16}}


@dataclass(frozen=True)
class AddInput(GraphEdit[Value]):
    """Take an input and ignore it, for programs that always feed it: ``token_type_ids`` for a model that has none.

    The input comes after all others. No node reads it.
    """

    input: str = parameter("The name of the new input.", "", "NAME", required=True)
    like: str | None = parameter("The input whose dims and type it gets.", None, "NAME", otherwise="the token ids")
    to: str | None = parameter("Its element type.", None, "int64|int32|float32|...", otherwise="the type of that input")
    dims: tuple[str, ...] = resolved_parameter(())

    def resolve(self, model: Model) -> Resolved[Self, Value]:
        """Find dims and type. Raises RequestError (no free name, no such type), NameNotFoundError, UnsupportedModelError."""
        if not self.input:
            raise RequestError("no input is named", "name the new one with --input")
        check_free(model, self.input, "choose another with --input")
        like = find_input(model, self.like, "--like") if self.like is not None else find_roles(model.interface).ids
        if like is None:
            raise RequestError(f"there is no input of token ids that could give {self.input} its dims", "name one with --like")
        to = self.to or type_name(like.dtype)
        if like.dims is None or to not in TYPES:
            what = f"the dims of {like} are not known" if like.dims is None else f"an input cannot have the type {to!r}"
            advice = "name another with --like" if like.dims is None else f"choose from {', '.join(sorted(TYPES))}"
            raise (UnsupportedModelError if like.dims is None else RequestError)(what, advice)
        edit = replace(self, like=like.name, to=to, dims=tuple("" if dim is None else str(dim) for dim in like.dims))
        value = Value(self.input, TYPES[to], like.dims)
        return Resolved(edit, value, (f"{value} is taken and ignored",))

    def change(self, draft: Draft, found: Value) -> None:
        draft.add_input(found.name, found.dtype, found.dims or ())

    def ensure(self, before: Interface, after: Interface) -> None:
        like = require_value(before.input(require_value(self.like, "like")), "the input that gives its dims")
        new = Value(self.input, TYPES[require_value(self.to, "to")], like.dims)
        require_promised(self.verb, "the inputs", (*before.inputs, new), after.inputs)
        require_promised(self.verb, "the outputs", before.outputs, after.outputs)
