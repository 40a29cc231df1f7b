"""The weights of the edits that a file records, found in it by what they are and not by where they stand.

An edit with weights records the sha256 of each as the model folder has them (see `hash_tensor`). The reference takes them from
the nodes that were added, whatever form they have there, and only where the digest agrees: a weight that was transposed, cut,
converted or exchanged is found out before a number is compared.
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
"""The forms that a stored tensor may have had in the model folder."""


def list_stored_forms(tensor: Array) -> Iterable[Array]:
    """The tensor itself, and its transpose."""
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

    def find(self, sha256: str, forms: Forms = list_stored_forms) -> Array:
        """The weight of that digest, in float64 where it is one of floats; WeightsDifferError when the file has none."""
        if sha256 not in self._found:
            candidates = (form for tensor in self.tensors for form in forms(tensor))
            found = next((form for form in candidates if hash_tensor(form) == sha256), None)
            if found is None:
                raise WeightsDifferError(
                    f"the file has no weights of sha256 {sha256[:12]}..., which it records for an edit",
                    "make the output again from the model folder",
                )
            self._found[sha256] = found.astype(np.float64) if found.dtype.kind == "f" else found
        return self._found[sha256]
