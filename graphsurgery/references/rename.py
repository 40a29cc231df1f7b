"""rename: the same values, inputs and dims under other names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import onnx

from graphsurgery.errors import UnsupportedModelError
from graphsurgery.interface import Dim, Interface, Value
from graphsurgery.references.fields import ChangeInfo, Fields, Info
from graphsurgery.references.input_edits import compute_nothing
from graphsurgery.references.reference import Expected, Parameters, Reference, RunModel, Values

WORD = re.compile(r"\w+", re.ASCII)


def _read(parameters: Parameters) -> Parameters:
    """Read ``name`` and ``dim`` as the new names of old ones."""
    return {**parameters, "name": _parse_pairs(parameters["name"]), "dim": _parse_pairs(parameters["dim"])}


def _parse_pairs(texts: Sequence[str]) -> dict[str, str]:
    for text in texts:
        if not all(text.partition("=")):
            raise UnsupportedModelError(f"the recorded new name {text!r} cannot be read", "make the output again")
    return {old: new for old, _, new in (text.partition("=") for text in texts)}


def _rename_symbol(dims: dict[str, str], symbol: str) -> str:
    return WORD.sub(lambda word: dims.get(word.group(), word.group()), symbol)


def _change_infos(parameters: Parameters, _graph: onnx.GraphProto) -> ChangeInfo:
    names, dims = parameters["name"], parameters["dim"]

    def renamed(_kind: str, info: Info) -> Info:
        if info.name in names:
            info.name = names[info.name]
        if info.type.WhichOneof("value") == "tensor_type":
            for dim in info.type.tensor_type.shape.dim:
                if dim.WhichOneof("value") == "dim_param" and dim.dim_param:
                    dim.dim_param = _rename_symbol(dims, dim.dim_param)
        return info

    return renamed


def _declare_outputs(parameters: Parameters, before: Sequence[Value], _batch: Dim) -> list[Value]:
    names, dims = parameters["name"], parameters["dim"]

    def renamed(value: Value) -> Value:
        shape = value.dims and tuple(_rename_symbol(dims, dim) if isinstance(dim, str) else dim for dim in value.dims)
        return replace(value, name=names.get(value.name, value.name), dims=shape)

    return [renamed(value) for value in before]


def _explain_misfit(parameters: Parameters, before: Interface) -> str | None:
    """Look at inputs alone: outputs that an edit makes are held against the reference."""
    taken = [new for new in parameters["name"].values() if before.input(new) is not None]
    return f"there is an input {taken[0]!r} already" if taken else None


def _compute_after(parameters: Parameters, feed: Values, before: RunModel) -> dict[str, Expected]:
    new = parameters["name"]
    old = {name: one for one, name in new.items()}
    found = before({old.get(name, name): array for name, array in feed.items()})
    return {new.get(name, name): one for name, one in found.items()}


REFERENCE = Reference(
    reads=lambda _: [],
    makes=lambda _: [],
    value=compute_nothing,
    outputs=_declare_outputs,
    read=_read,
    fields=Fields(names=lambda p: dict(p["name"]), infos=_change_infos),
    values_after=_compute_after,
    misfit=_explain_misfit,
)
