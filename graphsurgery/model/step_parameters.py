"""The parameters that a file records of each step: their names and types.

Anybody can write a record's JSON. `explain_misfit` compares its parameters with this table when they are read, so later code
meets no number in place of a text, no unknown key and no broken character. Each edit and its reference check what the texts
say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from graphsurgery.edit_list import EDIT_LIST, TEXT, Types

LONGEST = 1 << 14
"""Upper limit on the characters of a recorded text (a name, a path, a list of names), data excepted."""
LARGEST = 1 << 63
"""Every recorded number is below this: sizes, positions and offsets are int64 in a model."""


class Data(str):
    """Base64 of any length."""


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
        **SWITCHES, **NUMBERS, "model_type": TEXT, "portable": bool | None, "attention": TEXT, "rotary": TEXT,
        "half_io": bool | None, "head": TEXT, "padding_free": TEXT, "keep_padded": bool | None, "pooled_token": bool | None,
        "edits": int | None, "quantized": dict[str, str | int | float | bool | list[str]] | None,
        "before": list[dict[str, str | int | bool | list[str] | None]] | None,
    },
}  # fmt: skip
"""Types by parameter name, by the step's name. A parameter that may be null may also be absent."""


def explain_misfit(edit: str, parameters: Mapping[str, Any]) -> str | None:
    """Return why ``parameters`` are not valid for ``edit``, or None if they are."""
    types = RECORDED.get(edit)
    if types is None:
        return f"there is no edit {_shorten_value(edit)} in this version"
    unknown = [name for name in parameters if name not in types]
    if unknown:
        return f"the file records {edit} with {_shorten_value(unknown[0])}, which this version does not know"
    for name, kind in types.items():
        value = parameters.get(name)
        if not is_of_type(value, kind):
            return f"the file records {edit} with {name} = {_shorten_value(value)}, which is not a {_name_type(kind)}"
    return None


def complete_parameters(edit: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return valid ``parameters`` with None for each one of ``edit`` that is absent."""
    return dict.fromkeys(RECORDED[edit]) | dict(parameters)


def is_of_type(value: object, kind: Any) -> bool:
    """Return whether ``value`` has that type at every depth.

    Texts consist of whole characters and numbers are finite. Integers are sizes and positions: never negative, and no booleans.
    """
    if kind is int:
        return type(value) is int and 0 <= value < LARGEST
    if kind is str:
        return isinstance(value, str) and len(value) <= LONGEST and is_text(value)
    if kind is Data:
        return isinstance(value, str) and value.isascii()
    if kind is float:
        return is_of_type(value, int) or (isinstance(value, float) and math.isfinite(value))
    origin, inner = _take_apart(kind)
    if origin is UnionType:
        return any(is_of_type(value, one) for one in inner)
    if origin is list:
        return isinstance(value, list) and all(is_of_type(one, inner[0]) for one in value)
    if origin is dict:
        pairs = value.items() if isinstance(value, dict) else ()
        return isinstance(value, dict) and all(is_of_type(key, str) and is_of_type(one, inner[1]) for key, one in pairs)
    return isinstance(value, kind)


@cache
def _take_apart(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return the origin and the arguments of a type."""
    return get_origin(kind), get_args(kind)


def is_text(value: str) -> bool:
    """Return whether ``value`` holds only whole characters. JSON can hold half of a surrogate pair, which no file and no
    terminal can."""
    return value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value)


def _shorten_value(value: object) -> str:
    """Return a value for a message, no longer than a line whatever the file holds."""
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
