"""The weights of a module of a model folder, as an edit takes them: in float32, identified by their digests."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from graphsurgery.errors import RequestError, WeightsDifferError, WeightsError
from graphsurgery.folders.weights import read_weights, require_tensor
from graphsurgery.interface import Value
from graphsurgery.model.checksums import hash_tensor
from graphsurgery.model.model import Model

Shape = Sequence[int | None]


class ModuleWeights:
    """The tensors of a module folder or a weights file that an edit asks for, each by name and shape."""

    def __init__(self, model: Model, place: str, verb: str) -> None:
        """``place`` as a parameter of ``verb`` names it. FolderError or WeightsError when it cannot be read."""
        if not place:
            raise RequestError(f"{verb} needs the module's weights", "give its folder or weights file with --weights PATH")
        self.path = to_absolute_path(model, place)
        self.place = to_recorded_path(model, self.path)
        self.tensors: dict[str, np.ndarray] = {}
        self._weights = read_weights(self.path)

    def take(self, name: str, shape: Shape) -> np.ndarray:
        """Return the tensor ``name`` as float32. Raise WeightsError unless it is finite and of that shape (None: any size)."""
        found = require_tensor(self._weights, self._stored(name), shape)
        with np.errstate(over="ignore"):
            tensor = np.asarray(found, dtype=np.float32)
        if tensor.itemsize < found.itemsize and not np.isfinite(tensor).all():
            what = f"{self.path}: {name!r} holds values that float32 cannot hold"
            raise WeightsError(what, "heads compute in float32: save the module in float32 and see whether it still works")
        self.tensors[name] = tensor
        return tensor

    def take_if_there(self, name: str, shape: Shape) -> np.ndarray | None:
        """As `take`, but return None if there is no tensor of that name."""
        return self.take(name, shape) if name in self else None

    def __contains__(self, name: str) -> bool:
        return self._stored(name) in self._weights

    def _stored(self, name: str) -> str:
        """Return the file's name of the tensor ``name``: a layer saved alone calls its ``linear.weight`` ``weight``."""
        alone = name.removeprefix("linear.")
        return alone if name not in self._weights and alone in self._weights else name

    @property
    def digests(self) -> tuple[str, ...]:
        """``name=sha256`` of each tensor that was taken."""
        return tuple(f"{name}={hash_tensor(tensor)}" for name, tensor in sorted(self.tensors.items()))

    def check(self, digests: tuple[str, ...]) -> None:
        """Raise WeightsDifferError if ``digests`` are asked for and the tensors that were taken have others."""
        if digests and set(digests) != set(self.digests):
            name = sorted(set(digests) ^ set(self.digests))[0].partition("=")[0]
            what = f"{self.path}: {name} is not what was recorded for this edit"
            raise WeightsDifferError(what, "use the model folder that it was made from")

    def check_width(self, target: Value, name: str) -> None:
        """Raise WeightsError if the last dim of ``target`` is declared and is not that of the tensor ``name``."""
        declared, width = target.dims[-1] if target.dims else None, self.tensors[name].shape[-1]
        if isinstance(declared, int) and declared != width:
            what = f"{self.path}: {name} takes {width} dims, and {target} has {declared}"
            raise WeightsError(what, "give the weights that belong to this model")


def to_absolute_path(model: Model, place: str) -> Path:
    """Return the file or folder that a parameter names. A relative path starts at the model's folder."""
    return Path(os.path.normpath(_find_base_folder(model) / place))


def to_recorded_path(model: Model, path: Path) -> str:
    """Return ``path`` relative to the model's folder, which is what the file records."""
    return Path(os.path.relpath(path, _find_base_folder(model))).as_posix()


def _find_base_folder(model: Model) -> Path:
    """Return the folder that relative paths start at: the model's, or the current one for a model from memory."""
    return model.home or model.folder or Path.cwd()
