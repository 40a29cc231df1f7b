"""The weights of a module: tensors by name, from safetensors or PyTorch files, read without PyTorch.

Opening a file checks it as a whole. A tensor is read when it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from graphsurgery.errors import WeightsError
from graphsurgery.folders.files import DOWNLOAD, is_folder, is_there, open_file, resolve_inside
from graphsurgery.folders.safetensors_file import looks_like_safetensors, read_safetensors
from graphsurgery.folders.stored_tensor import StoredTensor
from graphsurgery.model.parsing import shorten
from graphsurgery.model.sources import FileBytes

NAMES = ("model.safetensors", "pytorch_model.bin")
"""Weights files of a module folder, in the order in which sentence-transformers looks for them. The first that exists is
used."""
INDEXES = tuple(f"{name}.index.json" for name in NAMES)
FLOATS = ("float64", "float32", "float16", "bfloat16")
MOST_NAMES_SHOWN = 12


class Weights(Mapping[str, np.ndarray]):
    """The tensors of one file by name. Each one is read-only and read anew whenever it is asked for."""

    def __init__(self, file: FileBytes, tensors: Mapping[str, StoredTensor]) -> None:
        self.path = file.path
        self._file = file
        self._tensors = tensors

    def __getitem__(self, name: str) -> np.ndarray:
        found = self._tensors[name].read(self._file)
        self._file.check_unchanged()
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor without reading it."""
        return self._tensors[name].shape


def read_weights(path: Path) -> Weights:
    """Return the weights in ``path``, a module folder or a weights file. Raise FolderError if they cannot be read."""
    from graphsurgery.folders.torch_file import read_legacy, read_zip  # here, because most programs read no such file

    file = open_file(find_weights_file(path) if is_folder(path) else path)
    start = file.read(0, min(16, file.size))
    if start.startswith(b"PK\3\4"):
        return Weights(file, read_zip(file))
    if looks_like_safetensors(start, file.size):  # first: a header of 128 bytes begins like a pickle
        return Weights(file, read_safetensors(file))
    if start.startswith(b"\x80"):
        return Weights(file, read_legacy(file))
    if start.startswith(b"version https://"):
        raise WeightsError(f"{file.path} is a Git LFS pointer, not the weights themselves", "git lfs pull, or " + DOWNLOAD)
    raise WeightsError(f"{file.path} is neither a safetensors file nor one of PyTorch's", DOWNLOAD)


def find_weights_file(folder: Path) -> Path:
    """Return the weights file of a module folder. Raise WeightsError if there is none, or if its weights are spread over
    several files."""
    for name in NAMES:
        if is_there(folder / name):
            return resolve_inside(folder, name, str(folder))
    for name in INDEXES:
        if is_there(folder / name):
            raise WeightsError(
                f"{folder}: its weights are spread over several files ({name})", "save them as one model.safetensors"
            )
    raise WeightsError(f"{folder} has no {' and no '.join(NAMES)}", DOWNLOAD)


def require_tensor(weights: Weights, name: str, shape: Sequence[int | None]) -> np.ndarray:
    """Return the finite float tensor ``name`` of that shape (None stands for any size of 1 or more). Raise WeightsError
    otherwise."""
    if name not in weights:
        raise WeightsError(f"{weights.path} has no {name!r}; it has {_list_names(weights)}", "give the weights of this module")
    found = weights.shape(name)
    fits = len(found) == len(shape) and all(
        size == wanted or (wanted is None and size > 0) for size, wanted in zip(found, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        what = f"{weights.path}: {name!r} is {list(found)}, and [{wanted}] is needed"
        raise WeightsError(what, "give the weights that belong to this module's config")
    tensor = weights[name]
    if tensor.dtype.name not in FLOATS:
        raise WeightsError(f"{weights.path}: {name!r} is {tensor.dtype.name}, not floats", "save the module in float32")
    if not np.isfinite(tensor).all():
        raise WeightsError(f"{weights.path}: {name!r} holds values that are not finite", "save the module again")
    return tensor


def _list_names(weights: Weights) -> str:
    names = sorted(weights)
    more = f" and {len(names) - MOST_NAMES_SHOWN} more" if len(names) > MOST_NAMES_SHOWN else ""
    return (", ".join(shorten(name) for name in names[:MOST_NAMES_SHOWN]) or "no tensors") + more
