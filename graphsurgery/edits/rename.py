"""rename: give inputs, outputs and symbolic dims other names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Self

import onnx

from graphsurgery.edits.edit import GraphEdit, Resolved, parameter
from graphsurgery.edits.inputs import list_symbolic_dims, parse_pairs
from graphsurgery.edits.outputs import SCOPE
from graphsurgery.errors import NameNotFoundError, RequestError, UnsupportedModelError, require_promised
from graphsurgery.interface import Dim, Interface, Value
from graphsurgery.model.draft import Draft
from graphsurgery.model.model import Model
from graphsurgery.model.names import Namer
from graphsurgery.model.provenance import Step
from graphsurgery.suggestions import suggest

SYMBOL = re.compile(r"[A-Za-z_]\w*", re.ASCII)


def rename_dim(dim: Dim, dims: Mapping[str, str]) -> Dim:
    """Return a symbolic dim with its new name, also inside an expression (``past + sequence``)."""
    return SYMBOL.sub(lambda found: dims.get(found[0], found[0]), dim) if isinstance(dim, str) else dim


@dataclass(frozen=True)
class Rename(GraphEdit[None]):
    """Give inputs, outputs and symbolic dims other names, wherever they are used. The model computes the same.

    All names change at once, so two values may get each other's name: ``--name a=b --name b=a``. Two dims may get the same name
    if no input or output has both. That declares them equal: PyTorch gives the batch of each input a name of its own
    (``--dim s18=batch --dim s43=batch``).
    """

    repeatable: ClassVar[bool] = True

    name: tuple[str, ...] = parameter(
        "An input or output and its new name.", (), "OLD=NEW", takes=Mapping[str, str] | None, called="names"
    )
    dim: tuple[str, ...] = parameter(
        "A symbolic dim and its new name.", (), "OLD=NEW", takes=Mapping[str, str] | None, called="dims"
    )

    @cached_property
    def names(self) -> dict[str, str]:
        return parse_pairs(self.name, "--name OLD=NEW")

    @cached_property
    def dims(self) -> dict[str, str]:
        return parse_pairs(self.dim, "--dim OLD=NEW")

    def resolve(self, model: Model) -> Resolved[Self, None]:
        """Check the names. Raises RequestError (no name given, names taken), NameNotFoundError, UnsupportedModelError."""
        names, dims = self.names, self.dims
        if not names and not dims:
            raise RequestError("no name is given", "give --name OLD=NEW or --dim OLD=NEW")
        for old, new in names.items():
            _check_name(model, old, new, names)
        if len(set(names.values())) < len(names):
            raise RequestError(f"{', '.join(names)} cannot have the same name", "give each its own")
        values = (*model.interface.inputs, *model.interface.outputs)
        known = list_symbolic_dims(values)
        symbols = {symbol for dim in known for symbol in SYMBOL.findall(dim)}
        for old, new in dims.items():
            if old not in symbols:
                advice = f"{suggest(old, symbols)}its dims are {', '.join(known) or 'none'}"
                raise NameNotFoundError(f"the model has no symbolic dim {old!r}", advice)
            if new == old or not SYMBOL.fullmatch(new):
                what = "is the name that it has" if new == old else "cannot be the name of a dim"
                raise RequestError(f"{new!r} {what}", "choose a new name of letters, digits and _")
        for value in values:
            _check_dims(value, dims)
        return Resolved(self, None, tuple(f"{old} is now called {new}" for old, new in (*names.items(), *dims.items())))

    def change(self, draft: Draft, found: None) -> None:
        names, dims = self.names, self.dims

        def rename_in(_kind: str, info: onnx.ValueInfoProto) -> bool:
            info.name = names.get(info.name, info.name)
            for dim in info.type.tensor_type.shape.dim if info.type.HasField("tensor_type") else ():
                if dim.dim_param:
                    dim.dim_param = str(rename_dim(dim.dim_param, dims))
            return True

        draft.changes.names |= names
        draft.changes.infos.append(rename_in)

    def ensure(self, before: Interface, after: Interface) -> None:
        require_promised(self.verb, "the inputs", tuple(map(self._rename_value, before.inputs)), after.inputs)
        require_promised(self.verb, "the outputs", tuple(map(self._rename_value, before.outputs)), after.outputs)

    def _rename_value(self, value: Value) -> Value:
        dims = None if value.dims is None else tuple(rename_dim(dim, self.dims) for dim in value.dims)
        return replace(value, name=self.names.get(value.name, value.name), dims=dims)


def _check_dims(value: Value, dims: Mapping[str, str]) -> None:
    """Raise RequestError if two dims of ``value`` would get the same name, which would declare that they are equal."""
    old_names: dict[Dim, str] = {}
    for dim in list_symbolic_dims((value,)):
        other = old_names.setdefault(rename_dim(dim, dims), dim)
        if other != dim:
            raise RequestError(f"{value} has the dims {other} and {dim}: they cannot have the same name", "give each its own")


def undo_rename(step: Step, name: str) -> str:
    """Return the name that ``name`` had before the recorded rename ``step``."""
    pairs = (text.partition("=") for text in step.parameters["name"])
    return next((old for old, _, new in pairs if new == name), name)


def _check_name(model: Model, old: str, new: str, pairs: Mapping[str, str]) -> None:
    """Check the new name of one of ``pairs``. A name is free if its value gets another one at the same time."""
    interface = model.interface
    is_input, is_output = interface.input(old) is not None, interface.output(old) is not None
    if not is_input and not is_output:
        names = [value.name for value in (*interface.inputs, *interface.outputs)]
        advice = f"{suggest(old, names)}its inputs and outputs are {', '.join(names) or 'none'}"
        raise NameNotFoundError(f"the model has no input or output {old!r}", advice)
    if is_input and is_output:
        raise UnsupportedModelError(f"{old!r} is both an input and an output", "this is not supported")
    if any(annotation.tensor_name == old for annotation in model.proto.graph.quantization_annotation):
        raise UnsupportedModelError(f"{old!r} has a quantization annotation", "this is not supported")
    is_taken = Namer.of(model.proto).has(new) and (new == old or new not in pairs)
    if is_taken or new.startswith(SCOPE):
        raise RequestError(f"the name {new!r} is taken in this graph", "choose another")
