"""Which outputs stay when a head takes the first place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphsurgery.contracts import require_promised
from graphsurgery.errors import NameNotFoundError
from graphsurgery.interface import Dim, Interface, Value
from graphsurgery.model.draft import Draft
from graphsurgery.model.model import Model


def kept_outputs(model: Model, wanted: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(outputs that stay, in the model's order; outputs that are dropped). NameNotFoundError for a name that is no output."""
    names = [value.name for value in model.interface.outputs]
    for name in wanted:
        if name not in names:
            raise NameNotFoundError(f"the model has no output {name!r} to keep", f"its outputs are {', '.join(names)}")
    return tuple(n for n in names if n in wanted), tuple(n for n in names if n not in wanted)


def dropped_notes(dropped: Sequence[str]) -> list[str]:
    """What to say of outputs that are dropped."""
    return [f"output {name} is dropped (keep it with --keep-output {name})" for name in dropped]


def put_first(draft: Draft, made: gs.Variable, name: str, batch: Dim, width: int, kept: Sequence[str]) -> None:
    """Let ``made`` be the first output, ``name [batch, width]`` float32, and those that are ``kept`` follow."""
    made.name, made.dtype = name, np.float32
    made.shape = [batch if batch is not None else "batch", width]
    set_outputs(draft, [made], kept)


def ensure_first(verb: str, before: Interface, after: Interface, name: str, kept: Sequence[str]) -> None:
    """PostconditionError unless the outputs are what `put_first` makes of them."""
    first = [replace(value, dims=None) for value in after.outputs[:1]]
    require_promised(verb, "the first output, but for its dims", [Value(name, onnx.TensorProto.FLOAT, None)], first)
    require_promised(verb, "the outputs behind it", [one for one in before.outputs if one.name in kept], after.outputs[1:])


def set_outputs(draft: Draft, first: Sequence[gs.Variable], kept: Sequence[str]) -> None:
    """``first``, then those of the draft's outputs whose names are ``kept``."""
    draft.graph.outputs = [*first, *(tensor for tensor in draft.graph.outputs if tensor.name in kept)]
