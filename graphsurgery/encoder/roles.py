"""The role of each input of an encoder: token ids, attention mask, token types, positions."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import onnx

from graphsurgery.interface import Interface, Value
from graphsurgery.model.dtypes import FLOATS, INTEGERS

TENSOR_INDEX = re.compile(r":[0-9]+$")
IDS_NAMES = ("input_ids", "input", "ids", "tokens")
MASK_NAMES = ("attention_mask", "input_mask", "mask", "attn_mask", "attention_masks")
TYPE_NAMES = ("token_type_ids", "segment_ids", "token_types", "type_ids")
POSITION_NAMES = ("position_ids", "positions")
CACHE_WORDS = ("past", "present", "cache")
MASK_TYPES = FLOATS | {
    onnx.TensorProto.DataType.Value(name)
    for name in ("BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
}
"""The element types of masks: those that ONNX casts to bool by ``!= 0`` and that ONNX Runtime accepts as an input."""


@dataclass(frozen=True)
class Roles:
    """The inputs of an encoder by their role. None if it has no such input."""

    ids: Value | None
    mask: Value | None
    types: Value | None
    positions: Value | None
    others: tuple[Value, ...]

    @property
    def known(self) -> tuple[Value, ...]:
        """The inputs that have a role."""
        return tuple(value for value in (self.ids, self.mask, self.types, self.positions) if value is not None)


def find_roles(interface: Interface, ids: str | None = None, mask: str | None = None) -> Roles:
    """Find the role of each input by its name. ``ids`` and ``mask`` name inputs whose role is already known."""
    found = {
        "ids": _pick(interface, (ids,)) if ids else _pick(interface, IDS_NAMES, is_ids_like),
        "mask": _pick(interface, (mask,) if mask else MASK_NAMES),
        "types": _pick(interface, TYPE_NAMES, is_ids_like),
        "positions": _pick(interface, POSITION_NAMES, is_ids_like),
    }
    known = {value.name for value in found.values() if value is not None}
    return Roles(**found, others=tuple(value for value in interface.inputs if value.name not in known))


def is_ids_like(value: Value) -> bool:
    """Return whether a value can be token ids: integers of rank 2 or of unknown rank."""
    return value.dtype in INTEGERS and value.rank in (2, None)


def is_cache(value: Value) -> bool:
    """Return whether a value is a decoder's cache of keys or values: its name says so, and it grows along some dim.

    A cache ``[batch, heads, past, dim]`` has no positions, past = 0, until a text has been read.
    """
    dims = value.dims or ()
    is_growing = len(dims) > 2 and any(not isinstance(dim, int) for dim in dims[1:])
    return is_growing and any(word in value.name.lower() for word in CACHE_WORDS)


def strip_index(name: str) -> str:
    """Return a name without the ``:0`` that TensorFlow appends to the names of tensors."""
    return TENSOR_INDEX.sub("", name)


def _pick(interface: Interface, names: tuple[str, ...], fits: Callable[[Value], bool] = lambda _: True) -> Value | None:
    """Return the first input that has one of ``names``, with or without an index after it, and fits."""
    by_name = {strip_index(value.name): value for value in reversed(interface.inputs)}
    by_name |= {value.name: value for value in interface.inputs}
    return next((value for name in names if (value := by_name.get(name)) is not None and fits(value)), None)
