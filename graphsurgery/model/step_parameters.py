"""The parameters that a file records of each step: their names and types.

A record is JSON that anybody can have written. `misfit` holds its parameters against this table where they are read, so that
no code behind it meets a number for a text, an unknown key or half a character. What the texts say is for each edit's reference
and for the edit itself to check.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from graphsurgery.edit_list import EDIT_LIST, TEXT, Types

LONGEST = 1 << 14
"""Characters of a recorded text at most, but for data: a name, a path, a list of names."""
LARGEST = 1 << 63
"""Every recorded number is below that: sizes, places and offsets are int64 in a model."""


class Data(str):
    """Stands for base64 of any length."""


UNDO = dict[str, list[list[int] | Data | dict[str, int | list[int | Data]]] | Data]
ARRAY = dict[str, Data | list[int] | bool | dict[str, Data | list[int]]]
SWITCHES: Types = {"off": list[str] | None, "for": TEXT, "onnxruntime": TEXT, "precision": TEXT}
NUMBERS: Types = dict.fromkeys(("heads", "hidden", "float32_nodes"), int | None)

RECORDED: dict[str, Types] = {
    **{verb: listed.records for verb, listed in EDIT_LIST.items() if listed.records is not None},
    "move-weights": {"data": str, "bases": dict[str, int]},
    "externalize-weights": {"data": str, "start": int},
    "record-golden": {
        "inputs": dict[str, ARRAY], "outputs": dict[str, ARRAY], "allowed": float, "min_cosine": float, "onnxruntime": str,
        "weights": TEXT, "seal": TEXT,
    },
    "record-certificate": {
        "sources": dict[str, str], "versions": dict[str, str], "verdict": str, "checks": dict[str, str], "seal": TEXT,
    },
    "optimize": {
        **SWITCHES, **NUMBERS, "model_type": TEXT, "portable": bool | None, "half_io": bool | None, "head": TEXT,
        "edits": int | None, "before": list[dict[str, str | int | bool | list[str] | None]] | None,
    },
}  # fmt: skip
"""By the step's name. A parameter that may be null may be absent as well."""


def explain_misfit(edit: str, parameters: Mapping[str, Any]) -> str | None:
    """How ``parameters`` are not those of ``edit``, in words; None where they are."""
    types = RECORDED.get(edit)
    if types is None:
        return f"there is no edit {_shorten_value(edit)} in this version"
    unknown = [name for name in parameters if name not in types]
    if unknown:
        return f"the file records {edit} with {_shorten_value(unknown[0])}, which this version does not know"
    for name, kind in types.items():
        if not is_of_type(parameters.get(name), kind):
            return (
                f"the file records {edit} with {name} = {_shorten_value(parameters.get(name))}, which is no {_name_type(kind)}"
            )
    return None


def complete_parameters(edit: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """``parameters``, which fit, each of those that ``edit`` has."""
    return dict.fromkeys(RECORDED[edit]) | dict(parameters)


def is_of_type(value: object, kind: Any) -> bool:
    """Whether ``value`` is of that type, all the way down.

    Texts are whole characters, numbers are finite, integers are sizes and places: from 0 on, and no booleans.
    """
    if isinstance(kind, UnionType):
        return any(is_of_type(value, one) for one in get_args(kind))
    inner = get_args(kind)
    if get_origin(kind) is list:
        return isinstance(value, list) and all(is_of_type(one, inner[0]) for one in value)
    if get_origin(kind) is dict:
        pairs = value.items() if isinstance(value, dict) else ()
        return isinstance(value, dict) and all(is_of_type(key, str) and is_of_type(one, inner[1]) for key, one in pairs)
    if kind is str:
        return isinstance(value, str) and len(value) <= LONGEST and is_text(value)
    if kind is Data:
        return isinstance(value, str) and value.isascii()
    if kind is int:
        return type(value) is int and 0 <= value < LARGEST
    if kind is float:
        return is_of_type(value, int) or (isinstance(value, float) and math.isfinite(value))
    return isinstance(value, kind)


def is_text(value: str) -> bool:
    """Whether ``value`` is whole characters: JSON can hold half of one, which no file and no terminal can."""
    return value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value)


def _shorten_value(value: object) -> str:
    """A value as a message shows it: no longer than a line, whatever a file holds."""
    if isinstance(value, (list, dict)):
        return "[...]" if isinstance(value, list) else "{...}"
    if isinstance(value, int) and abs(value) >= LARGEST:
        return "a number beyond int64"
    text = ascii(value) if isinstance(value, str) and not is_text(value) else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _name_type(kind: Any) -> str:
    if isinstance(kind, UnionType):
        return " or ".join(_name_type(one) for one in get_args(kind) if one is not NoneType)
    names = {str: "text", int: "whole number", float: "number", bool: "true or false", list: "list", dict: "table"}
    origin = get_origin(kind)
    return f"list of {_name_type(get_args(kind)[0])}s" if origin is list else names[origin or kind]
