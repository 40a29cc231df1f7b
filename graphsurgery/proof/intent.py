"""The check that the edits which a file records are those that were asked for.

The other checks trust the recorded parameters: if an edit took the token ids for the mask and recorded that, they would expect
a file pooled by the ids. This check compares the record with the request. A name that was asked for must be the recorded one.
The inputs and outputs that an edit had to find by itself must fit plain rules about their names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphsurgery.encoder.head import read_head_steps
from graphsurgery.interface import Value
from graphsurgery.model.dtypes import FLOATS, INTEGERS
from graphsurgery.model.model import Model
from graphsurgery.model.provenance import Step
from graphsurgery.proof.interface_check import walk_outputs
from graphsurgery.references.chain import Chain, find_new_steps
from graphsurgery.references.input_edits import find_named
from graphsurgery.references.reference import find_value
from graphsurgery.report import Check, Report, Verdict

NAME = "as asked"
GIVEN = ("hidden_state", "target", "mask", "ids", "fill", "value", "like", "input", "output_name")
"""The parameters that are recorded in the form in which they were asked for."""
KEPT = "keep-outputs"
MASK, IDS = "attention_mask", "input_ids"
NEW_LENGTHS = "lengths:input_lengths"
TOKENS = ("last_hidden_state", "token_embeddings", "hidden_states")
OF_TOKENS = ("add-pooling", "add-cnn", "add-lstm", "add-word-weights", "add-weighted-layer-pooling")
"""The edits that read the encoder's hidden state."""
OF_SOUND, LENGTHS = "add-waveform-normalize", "input_lengths"
"""The edit that normalises clips, and the input that tells how many samples each clip has."""
FILLS = {
    "mask": "ones", "type": "zeros", "segment": "zeros", "position": "positions", "past": "empty", "present": "empty",
    "cache": "empty",
}  # fmt: skip
"""The fill of an input that is not given, by a word in the input's name."""


@dataclass(frozen=True)
class Start:
    """The interface before an edit, and the edits before it."""

    inputs: Sequence[Value]
    outputs: Sequence[Value]
    earlier: Sequence[Step]


def check_intent(source: Model, output: Model, asked: Sequence[Mapping[str, Any]]) -> Report:
    """Compare the edits that ``output`` records beyond ``source`` with the parameters of those that were ``asked`` for.

    The report has a check only if they differ.
    """
    wrong = list(_find_wrong(source, find_new_steps(source, output), asked))
    return Report((Check(NAME, "; ".join(wrong), stated=Verdict.FAILED),) if wrong else ())


def _find_wrong(source: Model, steps: Sequence[Step], asked: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if len(steps) != len(asked):
        yield f"{len(asked)} edits were asked for, but the file records {len(steps)}"
        return
    chain = Chain(steps)
    starts = zip(chain.apply_fields(source), walk_outputs(source, chain), strict=True)
    for place, (step, wanted, (before, outputs)) in enumerate(zip(steps, asked, starts, strict=False)):
        start = Start(before.interface.inputs, outputs, [*read_head_steps(source), *steps[:place]])
        for name in GIVEN:
            recorded = step.parameters.get(name)
            if isinstance(wanted.get(name), str) and wanted[name]:
                if recorded != wanted[name]:
                    yield f"{step.edit} records {name} = {recorded!r}, but {wanted[name]!r} was asked for"
            elif name in step.parameters and not _fits(step, name, start):
                yield f"{step.edit} chose {recorded!r} as its {name}, which the names of the inputs and outputs do not suggest"
        yield from _find_wrong_outputs(step, outputs, wanted)


def _find_wrong_outputs(step: Step, outputs: Sequence[Value], wanted: Mapping[str, Any]) -> Iterator[str]:
    if step.edit == KEPT:
        names = [value.name for value in outputs]
        asked = list(dict.fromkeys(name for one in wanted["name"] for name in find_named(names, one)))
        if step.parameters["name"] != asked:
            yield f"{step.edit} keeps {', '.join(step.parameters['name'])}, but {', '.join(asked)} were asked for"


def _fits(step: Step, name: str, start: Start) -> bool:
    """Return whether an edit can have found that parameter by itself."""
    recorded = step.parameters[name]
    if name == "mask" and step.edit == OF_SOUND:
        return _tells_samples(recorded, start.inputs)
    if name == "mask":
        return _is_mask(recorded, start.inputs, step)
    if name == "ids":
        return _is_ids(recorded, start.inputs)
    if name == "fill":
        return _is_fill(recorded, step)
    if name == "value":
        return recorded is None
    return name not in ("hidden_state", "target") or step.edit not in OF_TOKENS or _is_tokens(recorded, start)


def _is_mask(recorded: Any, inputs: Sequence[Value], step: Step) -> bool:
    """Return whether it is the attention mask if there is one, else an input with mask in its name, or nothing.

    If the lengths of clips were asked for, it is their new input.
    """
    if step.parameters.get("lengths"):
        return bool(recorded == NEW_LENGTHS)
    if find_value(inputs, MASK) is not None:
        return bool(recorded == MASK)
    return recorded is None or (find_value(inputs, recorded) is not None and "mask" in recorded.lower())


def _tells_samples(recorded: Any, inputs: Sequence[Value]) -> bool:
    """Return whether it is the lengths of clips if they are an input, else the attention mask if there is one, or nothing."""
    if find_value(inputs, LENGTHS) is not None:
        return bool(recorded == f"lengths:{LENGTHS}")
    return recorded == "ones" or (find_value(inputs, MASK) is not None and bool(recorded == MASK))


def _is_ids(recorded: Any, inputs: Sequence[Value]) -> bool:
    """Return whether it is the input ids if they are integers ``[batch, seq]``, else an input not named after a mask, types or
    positions, or nothing."""
    usual = find_value(inputs, IDS)
    if usual is not None and usual.dtype in INTEGERS and usual.rank in (2, None):
        return bool(recorded == IDS)
    if recorded is None:
        return True
    return find_value(inputs, recorded) is not None and not any(word in recorded.lower() for word in FILLS)


def _is_fill(recorded: Any, step: Step) -> bool:
    """Return whether the fill is the number that is recorded, or the one that belongs to the names of the inputs."""
    if step.parameters.get("value") is not None:
        return bool(recorded == "value")
    names = step.parameters.get("inputs") or [str(step.parameters.get("input"))]
    return {recorded} == {next((fill for word, fill in FILLS.items() if word in name.lower()), None) for name in names}


def _is_tokens(recorded: Any, start: Start) -> bool:
    """Return whether it is the newest edit's token embeddings, else the usual output, else one ``[batch, seq, hidden]``."""
    fitting = {value.name: value for value in start.outputs if value.dtype in FLOATS and value.rank in (3, None)}
    made = [step.parameters.get("output_name") for step in reversed(start.earlier)]
    usual = [name for name in (*made, *TOKENS) if name in TOKENS and name in fitting]
    return bool(recorded == usual[0]) if usual else recorded in fitting and fitting[recorded].rank == 3
