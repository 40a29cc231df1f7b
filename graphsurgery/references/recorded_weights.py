"""The weights of the edits that a file records, identified by their content and not by their place.

An edit with weights records the sha256 of each weight as the model folder has it (see `hash_tensor`). The reference takes the
weights from the nodes that were added, in whatever form they have there, and only if the digest agrees. So a weight that was
transposed, cut, converted or exchanged is detected before a number is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import onnx

from graphsurgery.errors import WeightsDifferError
from graphsurgery.model.checksums import hash_tensor
from graphsurgery.model.model import Model
from graphsurgery.model.schema import walk_tensors

Array = np.ndarray
Forms: TypeAlias = Callable[[Array], Iterable[Array]]
"""Yields the forms that a stored tensor may have had in the model folder."""


def list_stored_forms(tensor: Array) -> Iterable[Array]:
    """Yield the tensor itself, and its transpose if it is a matrix."""
    yield tensor
    if tensor.ndim == 2:
        yield tensor.T


@dataclass(frozen=True)
class RecordedWeights:
    """The tensors within the nodes that were added."""

    tensors: Sequence[Array] = ()
    _found: dict[str, Array] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Model, added: Iterable[onnx.NodeProto]) -> RecordedWeights:
        return cls([model.values(tensor) for node in added for _, tensor in walk_tensors(node)])

    def find_all(self, digests: Iterable[object], forms: Forms = list_stored_forms) -> dict[str, Array]:
        """Return the weights that an edit records as ``name=sha256``, by name. Floats are returned in float64.

        Raise WeightsDifferError if the file lacks one.
        """
        pairs = [str(one).partition("=") for one in digests]
        return {name: self._find(sha256, forms) for name, _, sha256 in pairs}

    def _find(self, sha256: str, forms: Forms) -> Array:
        if sha256 not in self._found:
            candidates = (form for tensor in self.tensors for form in forms(tensor))
            weight = next((form for form in candidates if hash_tensor(form) == sha256), None)
            if weight is None:
                raise WeightsDifferError(
                    f"the file records weights with the sha256 {sha256[:12]}... for an edit, but holds no such weights",
                    "make the output again from the model folder",
                )
            self._found[sha256] = weight.astype(np.float64) if weight.dtype.kind == "f" else weight
        return self._found[sha256]
