"""rename: the same values and dims under other names."""

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
    """Read ``name`` and ``dim`` as new names by the old ones."""
    return {**parameters, "name": _parse_pairs(parameters["name"]), "dim": _parse_pairs(parameters["dim"])}


def _parse_pairs(texts: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        old, _, new = text.partition("=")
        if not old or not new:
            raise UnsupportedModelError(f"the recorded new name {text!r} cannot be read", "make the output again")
        pairs[old] = new
    return pairs


def _rename_symbol(dims: dict[str, str], symbol: str) -> str:
    return WORD.sub(lambda word: dims.get(word.group(), word.group()), symbol)


def _change_infos(parameters: Parameters, _graph: onnx.GraphProto) -> ChangeInfo:
    names, dims = parameters["name"], parameters["dim"]

    def rename_info(_kind: str, info: Info) -> Info:
        if info.name in names:
            info.name = names[info.name]
        if info.type.WhichOneof("value") == "tensor_type":
            for dim in info.type.tensor_type.shape.dim:
                if dim.WhichOneof("value") == "dim_param" and dim.dim_param:
                    dim.dim_param = _rename_symbol(dims, dim.dim_param)
        return info

    return rename_info


def _declare_outputs(parameters: Parameters, before: Sequence[Value], _batch: Dim) -> list[Value]:
    names, dims = parameters["name"], parameters["dim"]

    def rename_value(value: Value) -> Value:
        shape = value.dims and tuple(_rename_symbol(dims, dim) if isinstance(dim, str) else dim for dim in value.dims)
        return replace(value, name=names.get(value.name, value.name), dims=shape)

    return [rename_value(value) for value in before]


def _explain_misfit(parameters: Parameters, before: Interface) -> str | None:
    """Look at inputs only: outputs that an edit makes are compared with the reference."""
    names = parameters["name"]
    taken = [new for new in names.values() if before.input(new) is not None and new not in names]
    return f"there is already an input {taken[0]!r}" if taken else None


def _compute_after(parameters: Parameters, feed: Values, before: RunModel) -> dict[str, Expected]:
    new_names = parameters["name"]
    old_names = {new: old for old, new in new_names.items()}
    values = before({old_names.get(name, name): array for name, array in feed.items()})
    return {new_names.get(name, name): value for name, value in values.items()}


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
