"""The weights of a model folder's module, read for an edit: in float32, identified by their digests."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphsurgery.edits.edit import parameter
from graphsurgery.errors import RequestError, WeightsDifferError, WeightsError
from graphsurgery.folders.weights import read_weights, require_tensor
from graphsurgery.interface import Value
from graphsurgery.model.checksums import hash_tensor
from graphsurgery.model.model import Model

Shape = Sequence[int | None]


class ModuleWeights:
    """The tensors that an edit takes from a module folder or a weights file."""

    def __init__(self, model: Model, place: str, verb: str, layer: str | None = None) -> None:
        """Read the file or folder ``place``, a parameter of ``verb``. Raises FolderError or WeightsError if that fails.

        ``layer`` is the layer's name in a file of a whole model: its tensors are ``<layer>.weight`` and so on.
        """
        if not place:
            raise RequestError(f"{verb} needs the module's weights", "give its folder or weights file with --weights PATH")
        self.path = to_absolute_path(model, place)
        self.place = to_recorded_path(model, self.path)
        self.tensors: dict[str, np.ndarray] = {}
        self._weights = read_weights(self.path)
        self._layer = layer

    def take(self, name: str, shape: Shape) -> np.ndarray:
        """Return the tensor ``name`` as float32. Raises WeightsError unless it is finite and has ``shape`` (None: any size)."""
        found = require_tensor(self._weights, self._find_stored_name(name), shape)
        with np.errstate(over="ignore"):
            tensor = np.asarray(found, dtype=np.float32)
        if tensor.itemsize < found.itemsize and not np.isfinite(tensor).all():
            what = f"{self.path}: {name!r} has values that float32 cannot represent"
            raise WeightsError(what, "heads compute in float32: save the module in float32 and see whether it still works")
        self.tensors[name] = tensor
        return tensor

    def take_optional(self, name: str, shape: Shape) -> np.ndarray | None:
        """Return the tensor ``name`` as `take` does, or None if there is none."""
        return self.take(name, shape) if name in self else None

    def __contains__(self, name: str) -> bool:
        return self._find_stored_name(name) in self._weights

    def _find_stored_name(self, name: str) -> str:
        """Return the tensor's name in the file. A layer that was saved alone has ``weight`` for ``linear.weight``."""
        if self._layer is not None:
            return f"{self._layer}.{name.rpartition('.')[2]}"
        alone = name.removeprefix("linear.")
        return alone if name not in self._weights and alone in self._weights else name

    @property
    def digests(self) -> tuple[str, ...]:
        """``name=sha256`` of every taken tensor."""
        return tuple(f"{name}={hash_tensor(tensor)}" for name, tensor in sorted(self.tensors.items()))

    def check(self, digests: tuple[str, ...]) -> None:
        """Raise WeightsDifferError if ``digests`` are given and the taken tensors have others."""
        if digests and set(digests) != set(self.digests):
            name = sorted(set(digests) ^ set(self.digests))[0].partition("=")[0]
            what = f"{self.path}: {name} differs from what the file records for this edit"
            raise WeightsDifferError(what, "use the model folder that the file was made from")

    def check_width(self, target: Value, name: str) -> None:
        """Raise WeightsError if the declared width of ``target`` is not the last dim of the tensor ``name``."""
        declared, width = target.last_dim, self.tensors[name].shape[-1]
        if isinstance(declared, int) and declared != width:
            what = f"{self.path}: {name} takes {width} dims, and {target} has {declared}"
            raise WeightsError(what, "give the weights that belong to this model")


def layer_parameter() -> Any:
    """Declare the parameter that names the layer in a weights file."""
    return parameter(
        "The layer's name in a weights file of a whole model, such as classifier.out_proj.", None, "NAME",
        otherwise="the file holds this layer alone",
    )  # fmt: skip


def to_absolute_path(model: Model, place: str) -> Path:
    """Return the file or folder that a parameter names. A relative path starts at the model's folder."""
    return Path(os.path.normpath(_find_base_folder(model) / place))


def to_recorded_path(model: Model, path: Path) -> str:
    """Return ``path`` relative to the model's folder, as files record it."""
    return Path(os.path.relpath(path, _find_base_folder(model))).as_posix()


def _find_base_folder(model: Model) -> Path:
    """Return the folder where relative paths start: the model's, or the current one for a model from memory."""
    return model.home or model.folder or Path.cwd()
