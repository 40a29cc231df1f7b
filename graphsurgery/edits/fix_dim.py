"""fix-dim: give a symbolic dim a number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Self

import onnx

from graphsurgery.edits.edit import GraphEdit, Resolved, parameter
from graphsurgery.edits.inputs import list_symbolic_dims, parse_pairs
from graphsurgery.errors import NameNotFoundError, RequestError, require_promised
from graphsurgery.interface import Interface, Value
from graphsurgery.model.draft import Draft
from graphsurgery.model.model import Model
from graphsurgery.suggestions import suggest

MOST_DIGITS = 9


@dataclass(frozen=True)
class FixDim(GraphEdit[None]):
    """Give symbolic dims a number, wherever they are declared: for runtimes and compilers that want literal shapes.

    No node changes. At that size the model computes what it computed before. It no longer accepts other sizes.
    """

    repeatable: ClassVar[bool] = True

    dim: tuple[str, ...] = parameter(
        "A symbolic dim and its size.", (), "NAME=N", takes=Mapping[str, int], called="dims", required=True
    )

    @cached_property
    def sizes(self) -> dict[str, int]:
        """The size of each dim. Raises RequestError unless every size is a number of 1 or more."""
        pairs = parse_pairs(self.dim, "--dim NAME=N")
        for name, text in pairs.items():
            if not (text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS and int(text)):
                raise RequestError(f"{text!r} is not a size for {name}", "write --dim NAME=N with a number N of 1 or more")
        return {name: int(text) for name, text in pairs.items()}

    def resolve(self, model: Model) -> Resolved[Self, None]:
        """Check the dims. Raises RequestError, NameNotFoundError."""
        known = list_symbolic_dims((*model.interface.inputs, *model.interface.outputs))
        listed = f"the symbolic dims are {', '.join(known) or 'none'}"
        if not self.dim:
            raise RequestError("no dim is given", f"name one with --dim NAME=N; {listed}")
        for name in self.sizes:
            if name not in known:
                raise NameNotFoundError(f"the model has no symbolic dim {name!r}", f"{suggest(name, known)}{listed}")
        return Resolved(self, None, tuple(f"{name} is {size}" for name, size in self.sizes.items()))

    def change(self, draft: Draft, found: None) -> None:
        sizes = self.sizes

        def fix(_kind: str, info: onnx.ValueInfoProto) -> bool:
            for dim in info.type.tensor_type.shape.dim if info.type.HasField("tensor_type") else ():
                if dim.dim_param in sizes:
                    dim.dim_value = sizes[dim.dim_param]
            return True

        draft.changes.infos.append(fix)

    def ensure(self, before: Interface, after: Interface) -> None:
        require_promised(self.verb, "the inputs", tuple(map(self._fix_value, before.inputs)), after.inputs)
        require_promised(self.verb, "the outputs", tuple(map(self._fix_value, before.outputs)), after.outputs)

    def _fix_value(self, value: Value) -> Value:
        if value.dims is None:
            return value
        return replace(value, dims=tuple(self.sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in value.dims))
