"""The output that an edit works on, and the outputs that the edited model has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

from graphsurgery.deferred import gs
from graphsurgery.edits.draft_operators import FLOAT, Operators
from graphsurgery.edits.edit import FoundT, GraphEdit, make_repeated_error, parameter
from graphsurgery.encoder.flow import infer_last_dim
from graphsurgery.encoder.head import EMBEDDING, read_head_steps
from graphsurgery.encoder.hidden_state import HiddenState, SearchTarget, find_hidden_state
from graphsurgery.encoder.pooled_output import PooledOutput, find_pooled_outputs
from graphsurgery.errors import (
    NameNotFoundError,
    NothingToPoolError,
    RequestError,
    UnsupportedModelError,
    require_promised,
    require_value,
)
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import POOLER_STEPS, TAKING_TOKENS, get_operator
from graphsurgery.interface import Dim, Interface, Value
from graphsurgery.model.draft import Draft
from graphsurgery.model.dtypes import FLOATS
from graphsurgery.model.model import Model
from graphsurgery.remarks import Warn
from graphsurgery.runtime.measure import measure_width, run_short_text
from graphsurgery.suggestions import suggest

VECTORS: tuple[int | None, ...] = (2,)
VECTORS_OR_TOKENS: tuple[int | None, ...] = (2, 3, None)
"""Accepted ranks: ``[batch, dim]`` alone, or ``[batch, seq, dim]`` and unknown ones as well."""
SCOPE = "graphsurgery/"
"""Prefix of the names of the head's own values."""
TOKENS = "token_embeddings"
"""The name of token embeddings once an edit has changed them, as in sentence-transformers."""


def target_parameter(help: str = "The output to work on.") -> Any:
    """Declare the parameter that `find_target` reads."""
    return parameter(help, None, "NAME", otherwise="sentence_embedding, else the only float output [batch, dim]")


def tokens_parameter(help: str = "The token embeddings.") -> Any:
    """Declare the parameter that `find_tokens` reads."""
    return parameter(help, None, "NAME", otherwise="the hidden state found in the graph")


def output_name_parameter(default: str | None = None) -> Any:
    """Declare the parameter that `choose_name` reads. Without a ``default``, the result has the target's name."""
    return parameter("The name of the result.", default, "NAME", otherwise="" if default else "the target's name")


def keep_target_parameter() -> Any:
    """Declare the parameter that keeps the target beside the result."""
    return parameter("Keep the target as an output as well.", False)


class OutputEdit(GraphEdit[FoundT]):
    """An edit that makes new outputs from the output ``target``, in its place or after it. All other outputs stay."""

    target: str | None

    @property
    def made(self) -> Sequence[str]:
        """The names of the outputs that a resolved edit makes."""
        return [require_value(getattr(self, "output_name", self.target), "the output's name")]

    def ensure(self, before: Interface, after: Interface) -> None:
        super().ensure(before, after)
        ensure_others_unchanged(self.verb, before, after, require_value(self.target, "target"), self.made)


def find_target(model: Model, name: str | None, purpose: str, ranks: tuple[int | None, ...] = VECTORS_OR_TOKENS) -> Value:
    """Find the output to work on: ``name``, else ``sentence_embedding``, else the only rank-2 float output.

    Messages use ``purpose`` to say what the edit does with it. Raises NameNotFoundError if there is no output ``name``;
    RequestError if it does not hold floats of one of the ``ranks``, or if no output or several qualify;
    UnsupportedModelError if no node computes it.
    """
    outputs = model.interface.outputs
    listed = ", ".join(map(str, outputs)) or "none"
    if name is None:
        rank_two = [value for value in outputs if value.rank == 2 and value.dtype in FLOATS]
        target = model.interface.output(EMBEDDING) or (rank_two[0] if len(rank_two) == 1 else None)
        if target is None:
            what = f"several outputs could be {purpose}" if rank_two else "no output is [batch, dim]"
            raise RequestError(f"{what}; the outputs are {listed}", "name one with --target, or pool first with add-pooling")
        if target.name != EMBEDDING and _is_pooler_output(model, target.name):
            raise RequestError(
                f"{target.name} is the tanh of a dense layer on one token, which models trained for sentence embeddings rarely "
                f"mean; the outputs are {listed}",
                f"pool the token embeddings first with add-pooling, or say --target {target.name} if that vector is meant",
            )
    else:
        target = model.interface.output(name)
        if target is None:
            advice = f"{suggest(name, (value.name for value in outputs))}its outputs are {listed}"
            raise NameNotFoundError(f"the model has no output {name!r}", advice)
    if target.dtype not in FLOATS or target.rank not in ranks:
        dims = "[batch, dim]" if ranks == VECTORS else "[..., dim]"
        raise RequestError(f"{target} cannot be {purpose}: float vectors {dims} are needed", "name another with --target")
    if not _is_computed(model, target.name):
        raise UnsupportedModelError(f"no node computes the output {target.name}", "name another with --target")
    return target


def find_pooling(model: Model, name: str) -> PooledOutput | None:
    """Return how the output ``name`` is pooled by another program's nodes, or None if that is not recognised."""
    if read_head_steps(model):
        return None
    return next((one for one in find_pooled_outputs(model) if one.name == name), None)


def warn_of_pooling(model: Model, name: str) -> tuple[str, ...]:
    """Return a warning if the output ``name`` is pooled without a mask by another program's nodes."""
    pooled = find_pooling(model, name)
    return () if pooled is None or pooled.warning is None else (Warn(pooled.warning),)


def find_output_width(model: Model, target: Value) -> int:
    """Return the last dim of an output: as declared, or by the weights, or else by a run.

    Raises UnsupportedModelError if the model cannot be run.
    """
    if isinstance(target.last_dim, int):
        return target.last_dim
    graph = Graph.of(model)
    width = infer_last_dim(graph, graph.value(target.name))
    if width is not None:
        return width
    value = run_short_text(model, target.name, "width")
    if value.ndim == 0:
        raise UnsupportedModelError(f"in a run {target.name} is one number; vectors are needed", "name another with --target")
    return int(value.shape[-1])


def _is_pooler_output(model: Model, name: str) -> bool:
    """Return whether an output is a BERT pooler's: tanh(dense(one token)), and no edit recorded in the file made it."""
    graph = Graph.of(model)
    value = graph.value(name)
    recorded = any(step.parameters.get("output_name") == name for step in read_head_steps(model))
    node = None if value is None or recorded else graph.origin(value).producer()
    if node is None or get_operator(node) != "Tanh":
        return False
    behind = map(get_operator, graph.upstream_nodes(node.outputs[0], through=POOLER_STEPS))
    return not TAKING_TOKENS.isdisjoint(behind)


def is_computed_output(model: Model, name: str) -> bool:
    """Return whether ``name`` is an output that a node computes."""
    return model.interface.output(name) is not None and _is_computed(model, name)


def _is_computed(model: Model, name: str) -> bool:
    return any(name in node.output for node in model.proto.graph.node)


@dataclass(frozen=True)
class TokenTarget:
    """An output of token embeddings ``[batch, seq, hidden]``, and its width, derived from the weights or from a run."""

    value: Value
    width: int

    @property
    def name(self) -> str:
        return self.value.name


def find_tokens(model: Model, name: str | None, ids: str | None = None) -> TokenTarget:
    """Find the token embeddings to work on: the output ``name``, else the hidden state that pooling would find.

    Raises NameNotFoundError and NothingToPoolError as `find_hidden_state` does; NothingToPoolError also if no node computes
    such an output; UnsupportedModelError if its width depends on a run that fails.
    """
    hidden = find_hidden_state(model, name, ids, target=SearchTarget(option="--target"))
    value = model.interface.output(hidden.name)
    if value is None or not _is_computed(model, hidden.name):
        listed = ", ".join(map(str, model.interface.outputs)) or "none"
        what = f"{hidden.name!r} is not an output that a node computes; the outputs are {listed}"
        raise NothingToPoolError(what, "name an output of token embeddings with --target")
    return TokenTarget(value, find_width(model, hidden))


def find_width(model: Model, hidden: HiddenState) -> int:
    """Return the width of ``hidden``, from the weights or else from a run, never from the declaration."""
    return hidden.width if hidden.width is not None else measure_width(model, hidden)


def check_not_repeated(model: Model, verb: str, digests: tuple[str, ...]) -> None:
    """Raise AlreadyAppliedError if the newest recorded edit is this one with the same weights, on any target."""
    newest = read_head_steps(model)[-1:]
    if newest and newest[0].edit == verb and newest[0].parameters["digests"] == list(digests):
        raise make_repeated_error(verb)


def choose_name(model: Model, name: str | None, target: str, keep: bool = False) -> str:
    """Return the new output's name: ``name``, else the target's.

    Raises RequestError if the name is taken or reserved, or if it is the target's and the target is kept.
    """
    if name is None or name == target:
        if keep:
            raise RequestError(f"{target} cannot be kept and replaced", "name the result with --output-name")
        return target
    check_free(model, name)
    return name


def check_free(model: Model, name: str, advice: str = "choose another with --output-name") -> None:
    """Raise RequestError if ``name`` is taken, empty or reserved."""
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
    """Let ``build`` make the output ``name`` from the target in float32. ``last`` replaces the last of the target's dims.

    ``declared`` is the target. The new output takes its place if it has the same name (the old value is then renamed inside the
    graph) or if the target is not to ``keep``. Otherwise it comes after all outputs.
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
    """Raise PostconditionError unless all of ``made`` are outputs and all others, except ``target``, are unchanged."""
    kept, others = ([one for one in side.outputs if one.name not in (target, *made)] for side in (before, after))
    require_promised(verb, f"the outputs beside {target}", kept, others)
    names = {value.name for value in after.outputs}
    require_promised(verb, "the new outputs", made, [name for name in made if name in names])


def split_outputs(model: Model, wanted: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the outputs that stay, in the model's order, and those that are dropped.

    Raises NameNotFoundError if a wanted name is not an output.
    """
    names = [value.name for value in model.interface.outputs]
    for name in wanted:
        if name not in names:
            advice = f"{suggest(name, names)}its outputs are {', '.join(names)}"
            raise NameNotFoundError(f"the model has no output {name!r} to keep", advice)
    return tuple(n for n in names if n in wanted), tuple(n for n in names if n not in wanted)


def describe_dropped(dropped: Sequence[str]) -> list[str]:
    """Return a note on each dropped output."""
    return [f"output {name} is dropped (keep it with --keep-output {name})" for name in dropped]


def set_first_output(
    draft: Draft, made: gs.Variable, name: str, batch: Dim, width: int, kept: Sequence[str], replaced: gs.Tensor | None = None
) -> None:
    """Make ``made`` the first output, ``name [batch, width]`` float32, or the one at the place of ``replaced``.

    The ``kept`` outputs stay in their order.
    """
    made.name, made.dtype = name, np.float32
    made.shape = [batch if batch is not None else "batch", width]
    outputs = [made if tensor is replaced else tensor for tensor in draft.graph.outputs]
    if replaced is None:
        outputs.insert(0, made)
    draft.graph.outputs = [tensor for tensor in outputs if tensor is made or tensor.name in kept]


def ensure_first_output(
    verb: str, before: Interface, after: Interface, name: str, kept: Sequence[str], replaces: bool = False
) -> None:
    """Raise PostconditionError unless the outputs are those that `set_first_output` leaves."""
    names = [value.name for value in before.outputs if value.name in kept or (replaces and value.name == name)]
    place = names.index(name) if replaces else 0
    made = [replace(value, dims=None) for value in after.outputs[place : place + 1]]
    require_promised(verb, "the new output, apart from its dims", [Value(name, onnx.TensorProto.FLOAT, None)], made)
    others = [value for value in after.outputs if value.name != name]
    require_promised(verb, "the other outputs", [one for one in before.outputs if one.name in kept], others)
