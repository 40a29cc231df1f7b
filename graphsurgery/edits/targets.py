"""Which output an edit works on, and what stands in its place afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphsurgery.contracts import present, require_promised
from graphsurgery.edits.operators import FLOAT, Operators
from graphsurgery.encoder.head import EMBEDDING
from graphsurgery.errors import NameNotFoundError, RequestError, UnsupportedModelError
from graphsurgery.interface import Dim, Interface, Value
from graphsurgery.model.draft import Draft
from graphsurgery.model.dtypes import FLOATS
from graphsurgery.model.model import Model

VECTORS: tuple[int | None, ...] = (2,)
VECTORS_OR_TOKENS: tuple[int | None, ...] = (2, 3, None)
"""Ranks: ``[batch, dim]``, and ``[batch, seq, dim]`` as well."""
SCOPE = "graphsurgery/"
"""What the names of the head's own values begin with."""


def float_target(model: Model, name: str | None, purpose: str, ranks: tuple[int | None, ...] = VECTORS_OR_TOKENS) -> Value:
    """The output to work on: ``name``, else ``sentence_embedding``, else the only rank-2 float output.

    ``purpose`` is what is done with it. Raises NameNotFoundError when there is no output ``name``, RequestError when it is not
    one of floats of these ``ranks`` or when nothing or too much could be meant, UnsupportedModelError when no node computes
    it.
    """
    outputs = model.interface.outputs
    listed = ", ".join(map(str, outputs)) or "none"
    if name is None:
        rank_two = [value for value in outputs if value.rank == 2 and value.dtype in FLOATS]
        found = model.interface.output(EMBEDDING) or (rank_two[0] if len(rank_two) == 1 else None)
        if found is None:
            what = f"several outputs could be {purpose}" if rank_two else "no output is [batch, dim]"
            raise RequestError(f"{what}; the outputs are {listed}", "name one with --target, or pool first with add-pooling")
    else:
        found = model.interface.output(name)
        if found is None:
            raise NameNotFoundError(f"the model has no output {name!r}", f"its outputs are {listed}")
    if found.dtype not in FLOATS or found.rank not in ranks:
        dims = "[batch, dim]" if ranks == VECTORS else "[..., dim]"
        raise RequestError(f"{found} cannot be {purpose}: float vectors {dims} are needed", "name another with --target")
    if not any(found.name in node.output for node in model.proto.graph.node):
        raise UnsupportedModelError(f"output {found.name} is not computed by any node", "name another with --target")
    return found


def settled_name(model: Model, name: str | None, target: str, keep: bool = False) -> str:
    """What the new output is called: ``name``, else as the target. RequestError where the name is taken or is our own, or where
    the target, which is to be kept, has it."""
    if name is None or name == target:
        if keep:
            raise RequestError(f"{target} cannot be kept and replaced", "say with --output-name what the result is called")
        return target
    check_free(model, name)
    return name


def check_free(model: Model, name: str, advice: str = "choose another with --output-name") -> None:
    """RequestError where an output cannot be called ``name``."""
    taken = {output for node in model.proto.graph.node for output in node.output}
    taken |= {value.name for value in model.proto.graph.input} | set(model.initializers)
    if not name or name.startswith(SCOPE):
        raise RequestError(f"the output cannot be called {name!r}", advice)
    if name in taken:
        raise RequestError(f"the name {name!r} is taken in this graph", advice)


def put_in_place(
    draft: Draft, declared: Value, name: str, ops: Operators, build: Callable[[gs.Tensor], gs.Variable],
    *, last: Dim, keep: bool = False, dtype: type[np.generic] = np.float32,
) -> None:  # fmt: skip
    """Let what ``build`` makes of the target, in float32, be the output ``name``, of ``declared``'s dims but for the ``last``.

    In the target's place where it has its name (the value it had gets another) or where the target is not to ``keep``; behind
    all outputs otherwise.
    """
    inside = f"{declared.name}_before_{ops.scope.removeprefix(SCOPE)}"
    raw = draft.rename(declared.name, draft.namer.new(inside)) if name == declared.name else draft.tensor(declared.name)
    made = build(raw if declared.dtype == onnx.TensorProto.FLOAT else ops.cast(raw, FLOAT, "float32"))
    made.name, made.dtype = name, dtype
    made.shape = [*declared.dims[:-1], last] if declared.dims is not None else None
    outputs = draft.graph.outputs
    if keep and name != declared.name:
        draft.graph.outputs = [*outputs, made]
    else:
        draft.graph.outputs = [made if tensor is raw else tensor for tensor in outputs]


def declared_output(model: Model, name: str | None) -> Value:
    """The output ``name`` that `Edit.resolve` settled on."""
    return present(model.interface.output(present(name, "target")), f"the output {name}")


def ensure_only(verb: str, before: Interface, after: Interface, target: str, made: Sequence[str]) -> None:
    """PostconditionError unless every one of ``made`` is an output, and all others but ``target`` are as they were."""
    kept, others = ([one for one in side.outputs if one.name not in (target, *made)] for side in (before, after))
    require_promised(verb, f"the outputs beside {target}", kept, others)
    names = {value.name for value in after.outputs}
    require_promised(verb, "the new outputs", made, [name for name in made if name in names])
