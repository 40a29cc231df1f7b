"""Which input of an encoder is what: token ids, attention mask, token types, positions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx

from graphsurgery.interface import Interface, Value
from graphsurgery.model.dtypes import FLOATS, INTEGERS

IDS_NAMES = ("input_ids", "input", "ids", "tokens")
MASK_NAMES = ("attention_mask", "input_mask", "mask", "attn_mask", "attention_masks")
TYPE_NAMES = ("token_type_ids", "segment_ids", "token_types", "type_ids")
POSITION_NAMES = ("position_ids", "positions")
MASK_TYPES = FLOATS | {
    onnx.TensorProto.DataType.Value(name)
    for name in ("BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
}
"""Element types that a mask can have: whatever ONNX casts to bool by != 0 and ONNX Runtime takes as an input."""


@dataclass(frozen=True)
class Roles:
    """The inputs that feeds are drawn for; None where the encoder has no such input."""

    ids: Value | None
    mask: Value | None
    types: Value | None
    positions: Value | None
    others: tuple[Value, ...]


def roles_of(interface: Interface, ids: str | None = None, mask: str | None = None) -> Roles:
    """Find the inputs' roles by name; ``ids`` and ``mask`` name inputs that are known already."""
    found = {
        "ids": _pick(interface, (ids,)) if ids else _pick(interface, IDS_NAMES, is_ids_like),
        "mask": _pick(interface, (mask,) if mask else MASK_NAMES),
        "types": _pick(interface, TYPE_NAMES, is_ids_like),
        "positions": _pick(interface, POSITION_NAMES, is_ids_like),
    }
    known = {value.name for value in found.values() if value is not None}
    return Roles(**found, others=tuple(value for value in interface.inputs if value.name not in known))


def is_ids_like(value: Value) -> bool:
    """Return whether a value can be token ids: integers of rank 2."""
    return value.dtype in INTEGERS and value.rank in (2, None)


def is_mask_like(value: Value) -> bool:
    """Return whether a value can be an attention mask as pooling reads it: numbers or booleans of rank 2 (or unknown)."""
    return value.dtype in MASK_TYPES and value.rank in (2, None)


def _pick(interface: Interface, names: tuple[str, ...], fits: Callable[[Value], bool] = lambda _: True) -> Value | None:
    return next((value for name in names if (value := interface.input(name)) is not None and fits(value)), None)
