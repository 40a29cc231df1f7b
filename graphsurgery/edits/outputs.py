"""The output that an edit works on, and the outputs that stand there afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphsurgery.edits.draft_operators import FLOAT, Operators
from graphsurgery.edits.edit import make_repeated_error
from graphsurgery.encoder.head import EMBEDDING, read_head_steps
from graphsurgery.encoder.hidden_state import SearchTarget, find_hidden_state
from graphsurgery.errors import NameNotFoundError, NothingToPoolError, RequestError, UnsupportedModelError, require_promised
from graphsurgery.interface import Dim, Interface, Value
from graphsurgery.model.draft import Draft
from graphsurgery.model.dtypes import FLOATS
from graphsurgery.model.model import Model
from graphsurgery.runtime.measure import measure_width

VECTORS: tuple[int | None, ...] = (2,)
VECTORS_OR_TOKENS: tuple[int | None, ...] = (2, 3, None)
"""Ranks: ``[batch, dim]``, and ``[batch, seq, dim]`` as well."""
SCOPE = "graphsurgery/"
"""The names of the head's own values begin with this."""
TOKENS = "token_embeddings"
"""The name of token embeddings once an edit has changed them, as in sentence-transformers."""


def find_target(model: Model, name: str | None, purpose: str, ranks: tuple[int | None, ...] = VECTORS_OR_TOKENS) -> Value:
    """Find the output to work on: ``name``, else ``sentence_embedding``, else the only rank-2 float output.

    ``purpose`` says in messages what is done with it. Raises NameNotFoundError if there is no output ``name``, RequestError if
    it is not one of floats of these ``ranks`` or if no output or several could be meant, UnsupportedModelError if no node
    computes it.
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


@dataclass(frozen=True)
class TokenTarget:
    """An output of token embeddings ``[batch, seq, hidden]``, and its last dim, derived from the weights or from a run."""

    value: Value
    width: int

    @property
    def name(self) -> str:
        return self.value.name


def find_tokens(model: Model, name: str | None, ids: str | None = None) -> TokenTarget:
    """Find the token embeddings to work on: the output ``name``, else the hidden state that pooling would find.

    Raises NameNotFoundError and NothingToPoolError as `find_hidden_state`, and if no node computes such an output;
    UnsupportedModelError if only a run could tell its width, and the run failed.
    """
    hidden = find_hidden_state(model, name, ids, target=SearchTarget(option="--target"))
    value = model.interface.output(hidden.name)
    if value is None or not any(hidden.name in node.output for node in model.proto.graph.node):
        listed = ", ".join(map(str, model.interface.outputs)) or "none"
        what = f"{hidden.name!r} is no output that a node computes; the outputs are {listed}"
        raise NothingToPoolError(what, "name an output of token embeddings with --target")
    return TokenTarget(value, hidden.width if hidden.width is not None else measure_width(model, hidden))


def check_not_repeated(model: Model, verb: str, digests: tuple[str, ...]) -> None:
    """Raise AlreadyAppliedError if the newest recorded edit is this one with these weights, on whatever target."""
    newest = read_head_steps(model)[-1:]
    if newest and newest[0].edit == verb and newest[0].parameters["digests"] == list(digests):
        raise make_repeated_error(verb)


def choose_name(model: Model, name: str | None, target: str, keep: bool = False) -> str:
    """Return the new output's name: ``name``, else the target's.

    Raise RequestError if the name is taken or is our own, or if the target, which is to be kept, has it.
    """
    if name is None or name == target:
        if keep:
            raise RequestError(f"{target} cannot be kept and replaced", "say with --output-name what the result is called")
        return target
    check_free(model, name)
    return name


def check_free(model: Model, name: str, advice: str = "choose another with --output-name") -> None:
    """Raise RequestError if no new value can be called ``name``."""
    taken = {output for node in model.proto.graph.node for output in node.output}
    taken |= {value.name for value in model.proto.graph.input} | set(model.initializers)
    if not name or name.startswith(SCOPE):
        raise RequestError(f"the output cannot be called {name!r}", advice)
    if name in taken:
        raise RequestError(f"the name {name!r} is taken in this graph", advice)


def build_output(
    draft: Draft, declared: Value, name: str, ops: Operators, build: Callable[[gs.Tensor], gs.Variable],
    *, last: Dim, keep: bool = False, dtype: type[np.generic] = np.float32,
) -> None:  # fmt: skip
    """Let ``build`` make the output ``name`` of the target in float32. It has the dims of ``declared`` but for the ``last``.

    It takes the target's place if it has the target's name (the value gets another one inside the graph) or if the target is
    not to ``keep``. Otherwise it stands behind all outputs.
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


def ensure_others_unchanged(verb: str, before: Interface, after: Interface, target: str, made: Sequence[str]) -> None:
    """Raise PostconditionError unless every one of ``made`` is an output and all others but ``target`` are unchanged."""
    kept, others = ([one for one in side.outputs if one.name not in (target, *made)] for side in (before, after))
    require_promised(verb, f"the outputs beside {target}", kept, others)
    names = {value.name for value in after.outputs}
    require_promised(verb, "the new outputs", made, [name for name in made if name in names])


def split_outputs(model: Model, wanted: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the outputs that stay, in the model's order, and those that are dropped.

    Raise NameNotFoundError for a name that is no output.
    """
    names = [value.name for value in model.interface.outputs]
    for name in wanted:
        if name not in names:
            raise NameNotFoundError(f"the model has no output {name!r} to keep", f"its outputs are {', '.join(names)}")
    return tuple(n for n in names if n in wanted), tuple(n for n in names if n not in wanted)


def describe_dropped(dropped: Sequence[str]) -> list[str]:
    """Return a note on each output that is dropped."""
    return [f"output {name} is dropped (keep it with --keep-output {name})" for name in dropped]


def set_first_output(draft: Draft, made: gs.Variable, name: str, batch: Dim, width: int, kept: Sequence[str]) -> None:
    """Let ``made`` be the first output, ``name [batch, width]`` float32; the ``kept`` outputs follow."""
    made.name, made.dtype = name, np.float32
    made.shape = [batch if batch is not None else "batch", width]
    draft.graph.outputs = [made, *(tensor for tensor in draft.graph.outputs if tensor.name in kept)]


def ensure_first_output(verb: str, before: Interface, after: Interface, name: str, kept: Sequence[str]) -> None:
    """Raise PostconditionError unless the outputs are the ones that `put_first` leaves."""
    first = [replace(value, dims=None) for value in after.outputs[:1]]
    require_promised(verb, "the first output, but for its dims", [Value(name, onnx.TensorProto.FLOAT, None)], first)
    require_promised(verb, "the outputs behind it", [one for one in before.outputs if one.name in kept], after.outputs[1:])
