"""extract-tower: one tower of a joint model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import onnx

from graphsurgery.edits.edit import GraphEdit, Resolved, parameter, resolved_parameter
from graphsurgery.encoder.roles import find_roles
from graphsurgery.encoder.towers import KINDS, Logits, Tower, find_logits, find_tower, list_similarities
from graphsurgery.errors import GraphSurgeryError, RequestError, UnsupportedModelError, require_promised, require_value
from graphsurgery.interface import Dim, Interface, Value, type_name
from graphsurgery.model.draft import Draft
from graphsurgery.model.dtypes import NAMES
from graphsurgery.model.model import Model
from graphsurgery.model.reach import cut_model
from graphsurgery.remarks import Warn
from graphsurgery.runtime.baked_sizes import make_feed_generator_for
from graphsurgery.runtime.feeds import make_short_mask
from graphsurgery.runtime.session import open_session

SEEDS = 3
"""The number of feeds on which the lengths of the vectors are measured."""
NEAR_ONE, NEAR_ONE_IN_HALF = 1e-4, 2e-3
"""How far from 1 the length of a normalised vector may be, in float32 and in the half types."""


@dataclass(frozen=True)
class ExtractTower(GraphEdit[Tower]):
    """Take one tower out of a joint model of texts and pictures (CLIP, Chinese-CLIP, SigLIP): its embedding ``[batch, dim]``
    and the inputs, nodes and weights that this needs. Everything else is dropped.

    If the graph normalises the embedding, the output is the vector below that normalisation, so that `add-normalize` puts ours
    in its place. The output keeps its name; its batch dim is that of the tower's input. The record holds the scale and the bias
    by which the joint model makes similarities of both embeddings, ``logits = scale * (text . image) + bias``, if the graph
    shows them.
    """

    tower: str = parameter("The tower to take.", "", "text|image", required=True)
    target: str | None = parameter(
        "The tower's embedding.", None, "NAME", otherwise="the output of that tower from which the logits are computed"
    )
    vector: str | None = resolved_parameter(None)
    inputs: tuple[str, ...] = resolved_parameter(())
    dtype: str | None = resolved_parameter(None)
    batch: str | None = resolved_parameter(None)
    scale: str | None = resolved_parameter(None)
    bias: str | None = resolved_parameter(None)

    def resolve(self, model: Model) -> Resolved[Self, Tower]:
        """Find the tower and see whether its vectors are normalised: by the graph and by runs, which have to agree.

        Raises RequestError, NameNotFoundError, and UnsupportedModelError for a file that does not have both towers or cannot be
        run.
        """
        if self.tower not in KINDS:
            raise RequestError(f"{self.tower!r} is no tower", f"give --tower {' or --tower '.join(KINDS)}")
        found = find_tower(model, self.tower, self.target)
        kind = _check_lengths(model, found)
        batch = found.inputs[0].dims[0] if found.inputs and found.inputs[0].dims else None
        scale, bias = _read_similarity(model, found)
        edit = replace(
            self, target=found.output.name, vector=found.vector, inputs=tuple(one.name for one in found.inputs),
            dtype=type_name(kind),
            batch=None if batch is None else str(batch), scale=scale, bias=bias,
        )  # fmt: skip
        return Resolved(edit, found, tuple(_describe(model, found, scale, bias)))

    def change(self, draft: Draft, found: Tower) -> None:
        output, inputs, made = found.output.name, {one.name for one in found.inputs}, self._declare(found.output)

        def change_info(kind: str, info: onnx.ValueInfoProto) -> bool:
            if kind == "output":
                info.type.CopyFrom(onnx.helper.make_tensor_value_info(made.name, made.dtype, made.dims).type)
                return True
            return info.name in inputs if kind == "input" else info.name != found.vector

        draft.graph.outputs = [tensor for tensor in draft.graph.outputs if tensor.name == output]
        draft.changes.infos.append(change_info)
        if found.is_normalized:
            draft.changes.names |= {output: draft.namer.new(f"{output}_normalized"), found.vector: output}

    def ensure(self, before: Interface, after: Interface) -> None:
        output = require_value(before.output(require_value(self.target, "target")), "the embedding")
        require_promised(self.verb, "the outputs", (self._declare(output),), after.outputs)
        kept = tuple(value for value in before.inputs if value.name in self.inputs)
        require_promised(self.verb, "the inputs", kept, after.inputs)

    def _declare(self, output: Value) -> Value:
        """Return the output as it is declared after the edit: its batch dim is that of the tower's input."""
        batch: Dim = int(self.batch) if self.batch is not None and self.batch.isdigit() else self.batch
        dims = None if output.dims is None else (batch, *output.dims[1:])
        kind = next(number for number, name in NAMES.items() if type_name(number) == self.dtype)
        return Value(output.name, kind, dims)


def _check_lengths(model: Model, tower: Tower) -> int:
    """Return the element type of the tower's vectors.

    Raises UnsupportedModelError if runs do not show length one where the graph normalises, or show it where it does not.
    """
    name = tower.output.name
    cut = cut_model(model, list(dict.fromkeys((name, tower.vector))))
    try:
        generator, session = make_feed_generator_for(cut, find_roles(cut.interface)), open_session(cut)
        runs = [session.run(generator.generate(make_short_mask(generator), seed)) for seed in range(SEEDS)]
    except GraphSurgeryError as error:
        what = f"whether {name} is normalised cannot be measured, because running the {tower.kind} tower failed: {error}"
        raise UnsupportedModelError(what, error.advice) from error
    lengths = np.concatenate([np.linalg.norm(run[name].astype(np.float64), axis=-1).ravel() for run in runs])
    near = NEAR_ONE_IN_HALF if runs[0][name].dtype.itemsize < np.dtype(np.float32).itemsize else NEAR_ONE
    is_one = bool(np.all(np.abs(lengths - 1) < near))
    if is_one != tower.is_normalized:
        seen = f"in {SEEDS} runs its vectors have length {'one' if is_one else f'{lengths.min():.3g} to {lengths.max():.3g}'}"
        shown = "the last nodes divide by the length of the vector" if tower.is_normalized else (
            "no nodes that divide by the length of the vector were found before it"
        )  # fmt: skip
        raise UnsupportedModelError(
            f"it is not clear whether {name} is normalised: {seen}, and {shown}",
            f"name another output with --target (split-towers: --{tower.kind}), or report the model to graphsurgery",
        )
    return int(onnx.helper.np_dtype_to_tensor_dtype(runs[0][tower.vector].dtype))


def _read_similarity(model: Model, tower: Tower) -> tuple[str | None, str | None]:
    """Return the scale and the bias of the joint model's similarities, as decimals. None if the graph does not show them."""
    found = _find_logits(model, tower)
    if found is None:
        return None, None
    names = [*found.scales, *found.biases]
    values = open_session(cut_model(model, names)).run({}, names) if names else {}
    if any(value.size != 1 for value in values.values()):
        return None, None
    scale = float(np.prod([values[name].astype(np.float64).item() for name in found.scales]))
    bias = float(np.sum([values[name].astype(np.float64).item() for name in found.biases]))
    return repr(scale), repr(bias) if found.biases else None


def _find_logits(model: Model, tower: Tower) -> Logits | None:
    other = next(kind for kind in KINDS if kind != tower.kind)
    try:
        names = {tower.kind: tower.output.name, other: find_tower(model, other).output.name}
    except RequestError:  # several outputs may be the other tower's
        return None
    return next(iter(find_logits(model, *(names[kind] for kind in KINDS))), None)


def _describe(model: Model, tower: Tower, scale: str | None, bias: str | None) -> list[str]:
    """Return notes on the tower, on what is dropped, and on the scale of the similarities."""
    inputs = ", ".join(one.name for one in tower.inputs)
    notes = [f"takes {tower.output.name} with the inputs {inputs}"]
    if tower.is_normalized:
        notes.append(f"{tower.output.name} is the vector before the exported normalisation; add-normalize puts ours behind it")
    if scale is not None:
        added = 0.0 if bias is None else float(bias)
        plus = "" if bias is None else f" {'-' if added < 0 else '+'} {abs(added):.6g}"
        notes.append(f"the joint model's logits are {float(scale):.6g} * (text . image){plus}; the file records these numbers")
    elif list_similarities(model):
        notes.append(Warn("the scale of the joint model's logits is not recognised, so the file does not record it"))
    return notes
