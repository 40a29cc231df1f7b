"""The names that the pickle in a PyTorch weights file may use, and the record that each of them creates here.

Nothing of PyTorch is looked up or run. A constructor returns None for arguments that PyTorch never writes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from graphsurgery.folders.stored_tensor import STORAGE_DTYPES, TORCH_DTYPES


@dataclass(frozen=True, slots=True)
class Global:
    """A class or function that the pickle names. It is never looked up."""

    name: str


@dataclass(frozen=True, slots=True)
class Storage:
    """A flat array beside the pickle: ``numel`` elements of ``dtype``, found by ``key``."""

    key: str
    dtype: str
    numel: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """A view of a storage. ``offset`` and ``strides`` count elements of ``dtype``. Nothing is checked yet."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str


def _make_plain_tensor(arguments: tuple[Any, ...]) -> object:
    """Read ``_rebuild_tensor(_v2)(storage, offset, size, stride, ...)``. requires_grad, hooks and metadata do not affect
    values."""
    match arguments:
        case (Storage() as storage, int(offset), tuple(size), tuple(stride), *_):
            return Tensor(storage, offset, size, stride, storage.dtype)
    return None


def _make_typed_tensor(arguments: tuple[Any, ...]) -> object:
    """Read ``_rebuild_tensor_v3(storage, offset, size, stride, requires_grad, hooks, dtype, ...)``."""
    match arguments:
        case (Storage() as storage, int(offset), tuple(size), tuple(stride), _, _, Global(name), *_) if name in DTYPES:
            return Tensor(storage, offset, size, stride, DTYPES[name])
    return None


def _unwrap_parameter(arguments: tuple[Any, ...]) -> object:
    """Return the tensor of ``_rebuild_parameter(tensor, ...)``."""
    match arguments:
        case (Tensor() as tensor, *_):
            return tensor
    return None


def _make_dict(arguments: tuple[Any, ...]) -> object:
    return {} if not arguments else None


def _make_size(arguments: tuple[Any, ...]) -> object:
    match arguments:
        case (tuple(dims),):
            return dims
    return None


CONSTRUCTORS: dict[str, Callable[[tuple[Any, ...]], object]] = {
    "collections.OrderedDict": _make_dict,
    "torch._utils._rebuild_tensor": _make_plain_tensor,
    "torch._utils._rebuild_tensor_v2": _make_plain_tensor,
    "torch._utils._rebuild_tensor_v3": _make_typed_tensor,
    "torch._utils._rebuild_parameter": _unwrap_parameter,
    "torch._utils._rebuild_parameter_with_state": _unwrap_parameter,
    "torch.Size": _make_size,
}
"""The functions that a pickle may call."""
DTYPES = {f"torch.{name}": name for name in TORCH_DTYPES}
STORAGES = {
    f"{module}.{name}": dtype for name, dtype in STORAGE_DTYPES.items() for module in ("torch", "torch.cuda", "torch.storage")
}
ALLOWED = {*CONSTRUCTORS, *DTYPES, *STORAGES}
