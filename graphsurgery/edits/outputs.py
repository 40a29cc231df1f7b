"""Which outputs stay when a head takes the first place."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_graphsurgeon as gs

from graphsurgery.errors import NameNotFoundError
from graphsurgery.model.draft import Draft
from graphsurgery.model.model import Model


def kept_outputs(model: Model, wanted: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(outputs that stay, in the model's order; outputs that are dropped). NameNotFoundError for a name that is no output."""
    names = [value.name for value in model.interface.outputs]
    for name in wanted:
        if name not in names:
            raise NameNotFoundError(f"the model has no output {name!r} to keep", f"its outputs are {', '.join(names)}")
    return tuple(n for n in names if n in wanted), tuple(n for n in names if n not in wanted)


def set_outputs(draft: Draft, first: Sequence[gs.Variable], kept: Sequence[str]) -> None:
    """``first``, then those of the draft's outputs whose names are ``kept``."""
    draft.graph.outputs = [*first, *(tensor for tensor in draft.graph.outputs if tensor.name in kept)]
