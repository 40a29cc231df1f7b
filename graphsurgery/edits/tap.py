"""tap: give a hidden layer of the encoder as the output."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from graphsurgery.deferred import gs, ir
from graphsurgery.edit_list import EDIT_LIST, INTERFACE
from graphsurgery.edits.draft_operators import Operators
from graphsurgery.edits.edit import Resolved, parameter, require_opset, resolved_parameter
from graphsurgery.edits.outputs import OutputEdit, find_tokens, tokens_parameter
from graphsurgery.encoder.head import PADDING_FREE, read_head_steps
from graphsurgery.encoder.hidden_layers import find_last_sum, list_hidden_layers
from graphsurgery.encoder.hidden_state import infer_values
from graphsurgery.encoder.modalities import PICTURE, find_input
from graphsurgery.errors import AlreadyAppliedError, RequestError, UnsupportedModelError, require_promised
from graphsurgery.graph.graph import Graph
from graphsurgery.interface import Interface, Value
from graphsurgery.model.draft import Draft
from graphsurgery.model.dtypes import compute_payload_size
from graphsurgery.model.model import Model

OPTION = ("--layer",)
NUMBER = re.compile(r"-?\d{1,9}")
BEFORE, AFTER = "before", "after"
OF_CLIP = ("pooler_output", "text_embeds")
"""Outputs that a text tower of CLIP or SigLIP has. Other pre-norm encoders of text have none of these."""


def parse_layer(text: str, last: int) -> int:
    """Return the number of a hidden layer from 0 to ``last``. Negative numbers count from the end.

    Raises RequestError for a text that is not a number, and for a layer that the encoder does not have.
    """
    known = f"the encoder has the layers 0 (the embeddings) to {last}; -1 is the last one"
    if not text:
        raise RequestError("tap needs the number of a hidden layer", f"give it with --layer; {known}", OPTION)
    if not NUMBER.fullmatch(text):
        raise RequestError(f"{text!r} is not the number of a hidden layer", f"write --layer 1, for example; {known}", OPTION)
    number = int(text)
    if not -last - 1 <= number <= last:
        raise RequestError(f"there is no hidden layer {number}", known, OPTION)
    return number % (last + 1)


def add_up(ops: Operators, terms: Sequence[gs.Tensor]) -> gs.Tensor:
    """Build the sum of ``terms``, from left to right."""
    total = terms[0]
    for term in terms[1:]:
        total = ops.node("Add", total, term, name="sum")
    return total


def count_what_goes(model: Model, graph: Graph, values: Sequence[ir.Value]) -> str:
    """Say how many nodes and how many bytes of weights are not needed to compute ``values``."""
    kept = {one.name for one in graph.ancestors(values)} | {one.name for one in model.interface.inputs}
    nodes = [node for node in model.proto.graph.node if kept.isdisjoint(node.output)]
    sizes = {name: compute_payload_size(one.data_type, one.dims) or 0 for name, one in model.initializers.items()}
    gone = sum(size for name, size in sizes.items() if name not in kept)
    return (
        f"{len(nodes)} of {len(model.proto.graph.node)} nodes and {gone:,} of {sum(sizes.values()):,} bytes of weights are gone"
    )


@dataclass(frozen=True)
class HiddenLayer:
    """A hidden layer, and the output whose place it takes."""

    target: Value
    terms: tuple[str, ...]
    """The layer's value alone, or the values whose sum it is if the graph does not give it."""
    dtype: int | None
    """The element type of that value. None if it is not known."""


@dataclass(frozen=True)
class Tap(OutputEdit[HiddenLayer]):
    """Give a hidden layer in place of the last hidden state: ``last_hidden_state [batch, seq, hidden]`` becomes layer N.

    The layers above it and their weights leave the file, and so do all other outputs. Layers are counted as in transformers'
    ``hidden_states``: 0 is the embeddings' output, N the output of the Nth layer, and -1 the last one. This is fairseq's
    ``output_layer`` N as well. The layers are found by the graph's structure, in plain and in fused graphs.

    Pre-norm encoders normalise the last layer's output once more. For pictures and for the text towers of CLIP and SigLIP, the
    last of transformers' ``hidden_states`` is the value before that normalisation. For other texts and for speech, it is the
    value after it. ``--norm`` overrides this choice.
    """

    layer: str = parameter(
        "The number of the hidden layer, from 0 (the embeddings). Negative numbers count from the end.",
        "",
        "N",
        takes=int | str,
        required=True,
    )
    norm: str | None = parameter(
        "At the last layer: its output `before` the encoder's final normalisation, or `after` it.",
        None,
        "before|after",
        otherwise="as transformers gives it",
    )
    target: str | None = tokens_parameter("The last hidden state, an output.")
    values: tuple[str, ...] = resolved_parameter(())
    width: int = resolved_parameter(0)

    def resolve(self, model: Model) -> Resolved[Self, HiddenLayer]:
        """Find the layer. Raises RequestError, AlreadyAppliedError, NothingToPoolError and NameNotFoundError.

        UnsupportedModelError if the graph shows no layers, if only some of them lead to the last hidden state, or if a rewrite
        made the encoder compute only some of its positions.
        """
        require_opset(model, self.verb)
        _refuse_head(model)
        tokens = find_tokens(model, self.target)
        target = tokens.value
        graph = Graph.of(model)
        layers = list_hidden_layers(graph, target.name)
        number = parse_layer(self.layer, len(layers) - 1)
        is_last = number == len(layers) - 1
        last = find_last_sum(graph, layers) if is_last else None
        norm = self._choose_norm(model, is_last, has_norm=last is not None)
        found: tuple[ir.Value, ...] = (layers[number],)
        if norm == BEFORE and last is not None:
            found = last.terms if last.value is None else (last.value,)
        terms = tuple(one.name or "" for one in found)
        if terms == (target.name,) and len(model.interface.outputs) == 1:
            what = f"{target.name} is the hidden layer {number} already, and the only output"
            raise AlreadyAppliedError(what, "nothing is left to do")
        known = infer_values(model).output(terms[0])
        layer = HiddenLayer(target, terms, known.dtype if known is not None and known.dtype else None)
        notes = [f"{target.name} is the hidden layer {number} of {len(layers) - 1}; {count_what_goes(model, graph, found)}"]
        if norm is not None:
            other = AFTER if norm == BEFORE else BEFORE
            notes.append(f"it is taken {norm} the encoder's final normalisation; --norm {other} takes it {other} that")
        notes += [f"output {one.name} is dropped" for one in model.interface.outputs if one.name != target.name]
        edit = replace(self, layer=str(number), norm=norm, target=target.name, values=terms, width=tokens.width)
        return Resolved(edit, layer, tuple(notes))

    def _choose_norm(self, model: Model, is_last: bool, has_norm: bool) -> str | None:
        """Return `BEFORE` or `AFTER` if the layer is normalised once more, else None."""
        if self.norm not in (None, BEFORE, AFTER):
            raise RequestError(f"--norm must be {BEFORE} or {AFTER}, got {self.norm!r}", "choose one of them, or leave it out")
        if not has_norm:
            if self.norm is not None:
                why = "no final normalisation follows it" if is_last else "only the last layer is normalised once more"
                raise RequestError(f"--norm {self.norm} says nothing of this layer: {why}", "leave out --norm")
            return None
        of_clip = any(model.interface.output(name) is not None for name in OF_CLIP)
        return self.norm or (BEFORE if of_clip or find_input(model, PICTURE) is not None else AFTER)

    def change(self, draft: Draft, found: HiddenLayer) -> None:
        draft.graph.outputs = [one for one in draft.graph.outputs if one.name == found.target.name]
        if found.terms == (found.target.name,):
            return
        draft.take_name_away(found.target.name, "tap")
        ops = Operators(draft, "graphsurgery/tap")
        value = add_up(ops, [draft.tensor(name) for name in found.terms])
        if found.dtype == found.target.dtype:
            ops.node("Identity", value, name="layer", output=found.target.name)
        else:
            ops.node("Cast", value, name="layer", output=found.target.name, to=found.target.dtype)

    def ensure(self, before: Interface, after: Interface) -> None:
        require_promised(self.verb, "the inputs", before.inputs, after.inputs)
        require_promised(self.verb, "the outputs", [before.output(self.target or "")], list(after.outputs))


def _refuse_head(model: Model) -> None:
    """Raise an error if an edit or a rewrite recorded in the file stands in the way."""
    for step in read_head_steps(model):
        listed = EDIT_LIST.get(step.edit)
        if listed is None or (listed.group != INTERFACE and not listed.drops):
            what = f"the file records {step.edit}, which needs the last hidden state"
            raise RequestError(what, "take the head off with strip-head, tap a layer, and put a head on that")
    for step in model.rewrites:
        if step.given.get(PADDING_FREE) or step.given.get("pooled_token"):
            what = "a rewrite made this encoder compute only some of its positions, so its inner values are no hidden layers"
            raise UnsupportedModelError(what, "tap the file that the rewrite was made from, and rewrite the result")
