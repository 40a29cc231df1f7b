"""add-normalize: vectors of length one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import onnx

from graphsurgery.edits.draft_operators import Operators, l2_normalize
from graphsurgery.edits.edit import GraphEdit, Resolved, parameter, require_opset
from graphsurgery.edits.outputs import build_output, find_pooling, find_target, target_parameter, warn_of_pooling
from graphsurgery.edits.rename import Rename, undo_rename
from graphsurgery.edits.truncate import Truncate, name_cuts, parse_dims
from graphsurgery.encoder.head import has_own_head, read_head_steps
from graphsurgery.encoder.unit_length import have_length_one
from graphsurgery.errors import AlreadyAppliedError, GraphSurgeryError, require_promised
from graphsurgery.interface import Interface, Value
from graphsurgery.model.draft import Draft
from graphsurgery.model.model import Model
from graphsurgery.model.provenance import Step
from graphsurgery.runtime.measure import run_short_text

NEAR_ONE = 1e-3
"""Lengths this near to one are one: half precision rounds by as much."""


def find_normalizing_edit(model: Model, name: str) -> str | None:
    """Return the recorded edit that normalised the output ``name``, or None."""
    for step in reversed(read_head_steps(model)):
        if step.edit == Rename.verb:
            name = undo_rename(step, name)
        elif name in _list_outputs(step):
            return step.edit if _is_normalizing(step) else None
    return None


def _list_outputs(step: Step) -> list[str]:
    """Return the names of the outputs that a recorded edit made."""
    given = step.parameters
    if step.edit == Truncate.verb:
        return name_cuts(given["target"], parse_dims(given["dim"]))
    return [given.get("output_name") or given.get("target") or ""]


def _is_normalizing(step: Step) -> bool:
    if step.edit == Truncate.verb:
        return not step.parameters["keep_length"]
    return step.edit == AddNormalize.verb or bool(step.parameters.get("normalize"))


def _explain_length_one(model: Model, target: Value) -> str | None:
    """Return how it is known that ``target`` has length one: by the file's records, its graph, or else a run. None if not.

    Only vectors ``[batch, dim]`` that our own pooling did not make are run.
    """
    edit = find_normalizing_edit(model, target.name)
    if edit is not None:
        return f"the file records {edit}"
    pooled = find_pooling(model, target.name)
    if pooled is not None and pooled.normalized:
        return "its graph ends with a normalisation"
    if pooled is not None or target.rank != 2 or has_own_head(model):
        return None
    try:
        vectors = run_short_text(model, target.name, "length")
    except GraphSurgeryError:
        return None
    return "its vectors have length one in a run" if have_length_one(vectors, NEAR_ONE) else None


@dataclass(frozen=True)
class AddNormalize(GraphEdit[Value]):
    """Append L2 normalisation to an embedding output: ``y = x / max(norm2(x), 1e-12)`` over the last dim, float32.

    The output keeps its name and its place. The old value gets a new name inside the graph. Token embeddings
    ``[batch, seq, dim]`` are normalised token by token. The result equals that of sentence-transformers' Normalize module and
    of ``torch.nn.functional.normalize``.
    """

    target: str | None = target_parameter("The output to normalise.")
    again: bool = parameter("Normalise vectors that have length one already, which changes nothing but rounding.", False)

    def resolve(self, model: Model) -> Resolved[Self, Value]:
        """Find the target: ``target``, else ``sentence_embedding``, else the only rank-2 float output.

        Raises NameNotFoundError, RequestError (no candidate or several), AlreadyAppliedError (already normalised, by the file's
        records, by its graph or by a run, and not ``again``), UnsupportedModelError.
        """
        require_opset(model, self.verb)
        target = find_target(model, self.target, "normalised")
        why = _explain_length_one(model, target)
        if why is not None and not self.again:
            raise AlreadyAppliedError(
                f"{target.name} is already normalised: {why}",
                "nothing is left to do; to normalise it all the same, add --again",
                ("--again",),
            )
        notes = [f"normalises {target}", *warn_of_pooling(model, target.name)]
        notes += [] if why is None else [f"{target.name} was normalised already ({why}): this changes nothing but rounding"]
        return Resolved(replace(self, target=target.name), target, tuple(notes))

    def change(self, draft: Draft, found: Value) -> None:
        ops = Operators(draft, "graphsurgery/normalize")
        build_output(draft, found, found.name, ops, lambda x: l2_normalize(ops, x), last=found.last_dim)

    def ensure(self, before: Interface, after: Interface) -> None:
        super().ensure(before, after)
        expected = tuple(
            Value(value.name, onnx.TensorProto.FLOAT, value.dims) if value.name == self.target else value
            for value in before.outputs
        )
        require_promised(self.verb, "the outputs", expected, after.outputs)
