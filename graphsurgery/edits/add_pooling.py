"""add-pooling: from token embeddings to one vector per text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import onnx

from graphsurgery.deferred import gs
from graphsurgery.edits.clip_graph import ClipGraph
from graphsurgery.edits.clips import EXACT, INPUT_LENGTHS, TRANSFORMERS, Clips, find_clips
from graphsurgery.edits.draft_operators import FLOAT, Operators, l2_normalize
from graphsurgery.edits.edit import GraphEdit, Resolved, parameter, require_opset, resolved_parameter
from graphsurgery.edits.outputs import (
    check_free,
    describe_dropped,
    ensure_first_output,
    find_width,
    is_computed_output,
    set_first_output,
    split_outputs,
)
from graphsurgery.edits.pooling_graph import MODES, count_widths, pool
from graphsurgery.edits.pooling_request import (
    AUTO,
    FIRST,
    INPUT,
    PROMPT_LENGTH,
    PROMPT_VALUE,
    TokenWeights,
    find_token_weights,
    read_modes,
    read_prompt,
    read_weights_from,
)
from graphsurgery.edits.token_mask import ONES, Mask, build_mask, exclude_prompt, find_mask, ids_parameter, mask_parameter
from graphsurgery.encoder.head import EMBEDDING, explain_pooling, has_own_head
from graphsurgery.encoder.hidden_state import HiddenState, find_hidden_state
from graphsurgery.encoder.modalities import WAVEFORM, find_input
from graphsurgery.encoder.roles import find_roles
from graphsurgery.errors import (
    AlreadyAppliedError,
    MaskError,
    RequestError,
    UnsupportedModelError,
    require_promised,
    require_value,
)
from graphsurgery.interface import Interface, Value
from graphsurgery.model.draft import Draft
from graphsurgery.model.model import Model


@dataclass(frozen=True)
class Pooled:
    """The values that pooling starts from."""

    hidden: HiddenState
    mask: Mask | None
    """The mask of texts. None if ``clips`` are pooled."""
    weights: TokenWeights | None
    modes: tuple[str, ...]
    clips: Clips | None


@dataclass(frozen=True)
class AddPooling(GraphEdit[Pooled]):
    """Append pooling, and on request L2 normalisation: ``[batch, seq, dim]`` -> ``sentence_embedding [batch, dim]`` float32.

    The formulas are those of sentence-transformers' Pooling module (see `pooling_graph`), with two exceptions: rows without any
    token give zeros, and padded positions never contribute. The head computes in float32, whatever the encoder's type is.

    The tokens of speech are frames. If lengths or a mask of samples tell which frames are padding, they are left out of pooling
    and, unless padding says otherwise, of everything in the encoder that would carry them into a clip's own frames.
    """

    mode: str = parameter(
        f"Pooling mode: {', '.join(MODES)}, or auto (read the folder's 1_Pooling/config.json). Several modes, separated by "
        "commas, are concatenated in that order.",
        AUTO,
        "MODE[,MODE...]",
        takes=str | Sequence[str],
    )
    normalize: bool = parameter("Append L2 normalisation as well.", False)
    hidden_state: str | None = parameter(
        "The value to pool: [batch, seq, dim] in float32, float16, bfloat16 or float64.",
        None,
        "NAME",
        otherwise="the hidden state found in the graph",
    )
    mask: str | None = mask_parameter()
    ids: str | None = ids_parameter()
    output_name: str = parameter("The name of the embedding.", EMBEDDING, "NAME")
    keep_output: tuple[str, ...] = parameter("An output of the encoder to keep. The others are dropped.", (), "NAME")
    token_weights: str | None = parameter(
        "The weights [batch, seq] by which the tokens were multiplied. Means divide by their sum.",
        None,
        "NAME",
        otherwise="those of a recorded add-word-weights",
    )
    skip_prompt: str | None = parameter(
        "Leave out the prompt: N positions from each row's first token on, as sentence-transformers does if a config says "
        "include_prompt: false. With input, a new input prompt_length (int64 [1]) gives N.",
        None,
        "N|input",
        takes=int | str | None,
    )
    replace: bool = parameter("Put this head in place of the one that another program exported.", False)
    weights_from: str | None = parameter(
        "For weightedmean, where the positions count from that weigh the tokens: each row's first token (first, as "
        "sentence-transformers 6 does), or the first position (absolute, as older versions do). The two differ with padding in "
        "front.",
        None,
        "first|absolute",
        otherwise="first",
    )
    lengths: bool = parameter(
        f"For speech: take the number of samples of each clip as a new input {INPUT_LENGTHS}, int64 [batch], and pool the "
        "frames of these samples alone.",
        False,
    )
    padding: str | None = parameter(
        f"For speech, what padding behind a clip may change: nothing ({EXACT}: a clip's vector is that of the clip alone), or "
        f"what it changes in transformers' own models ({TRANSFORMERS}).",
        None,
        f"{EXACT}|{TRANSFORMERS}",
        otherwise=EXACT,
    )
    width: int = resolved_parameter(0)
    waveform: str | None = resolved_parameter(None)
    batch: str | None = resolved_parameter(None)
    frame_steps: tuple[str, ...] | None = resolved_parameter(None)
    rewired: tuple[str, ...] | None = resolved_parameter(None)

    @property
    def modes(self) -> tuple[str, ...]:
        """The pooling modes, in the order in which they are concatenated."""
        if not isinstance(self.mode, str):
            raise RequestError(
                f"a pooling mode has to be text, and {self.mode!r} is not", f"choose from {', '.join(MODES)}, or auto"
            )
        return tuple(part.strip() for part in self.mode.split(","))

    def resolve(self, model: Model) -> Resolved[Self, Pooled]:
        """Find hidden state, mask and ids, and read the modes.

        Raises AlreadyAppliedError, NothingToPoolError, MaskError, NameNotFoundError, UnsupportedModelError (opset, width), and
        RequestError for an unknown mode.
        """
        require_opset(model, self.verb)
        self._check_head(model)
        prompt = read_prompt(model, self.skip_prompt)
        modes, doubts = read_modes(self.modes, model.place, prompt)
        hidden = find_hidden_state(model, self.hidden_state, self.ids)
        mask = None if self.lengths else self._find_mask(model, hidden)
        clips = find_clips(model, None if mask is None else mask.spec, self.padding, hidden)
        if not self.replace:
            check_free(model, self.output_name)
        if self.replace and hidden.name == self.output_name:
            raise RequestError(f"{hidden.name!r} is what is pooled and cannot be replaced", "name another --output-name")
        if self.output_name in self.keep_output:
            raise RequestError(
                f"{self.output_name!r} is both the new output and an output to keep", "choose another --output-name"
            )
        beside = [EMBEDDING] if model.interface.output(EMBEDDING) is not None and not self.replace else []
        kept, dropped = split_outputs(model, [*self.keep_output, *beside])
        weights = find_token_weights(model, self.token_weights, modes)
        spec = clips.mask if clips is not None else require_value(mask, "a mask").spec
        edit = replace(
            self, mode=",".join(modes), hidden_state=hidden.name, mask=str(spec), ids=mask.ids if mask is not None else None,
            keep_output=kept, token_weights=None if weights is None else weights.name, skip_prompt=prompt,
            weights_from=read_weights_from(self.weights_from, modes), width=_find_hidden_size(model, hidden),
        )  # fmt: skip
        if clips is not None:
            self._check_clips(kept, hidden, weights, prompt)
            edit = replace(
                edit, padding=clips.padding, waveform=clips.waveform, batch=clips.recorded_batch,
                frame_steps=clips.recorded_steps, rewired=clips.recorded_cuts,
            )  # fmt: skip
        left_out = f", less {PROMPT_LENGTH if prompt == INPUT else prompt} positions from the first token on" if prompt else ""
        notes = [f"pools {hidden.name} with {edit.mode}, mask {spec}{left_out}{', normalised' * self.normalize}"]
        notes += [] if clips is None else clips.describe()
        notes += [f"means divide by the sum of {weights.name}"] if weights is not None else []
        notes += [f"takes the place of the file's own {self.output_name}"] if self.replace else []
        notes += [
            *describe_dropped([name for name in dropped if not self.replace or name != self.output_name]),
            *doubts,
            *(mask.warnings if mask is not None else ()),
        ]
        return Resolved(edit, Pooled(hidden, mask, weights, modes, clips), tuple(notes))

    def _find_mask(self, model: Model, hidden: HiddenState) -> Mask:
        """Find the mask. Raises MaskError, also if the model takes clips and has no mask."""
        waveform = find_input(model, WAVEFORM)
        if waveform is not None and self.mask is None and find_roles(model.interface, self.ids).mask is None:
            raise MaskError(
                f"nothing tells how long the clips of {waveform.value.name} are",
                f"take their lengths as a new input with --lengths, or choose --mask {ONES} if clips are never padded",
                ("--lengths", "--mask"),
            )
        return find_mask(model, self.mask, self.ids, hidden.name, takes_samples=True)

    def _check_clips(
        self, kept: tuple[str, ...], hidden: HiddenState, weights: TokenWeights | None, prompt: str | None
    ) -> None:
        """Check that nothing is asked for that clips do not have."""
        if self.lengths and (self.mask is not None or self.ids is not None):
            raise RequestError(
                "--lengths takes the lengths from a new input, and --mask and --ids from one that is there",
                "leave one of them out",
            )
        other = [name for name in kept if name != hidden.name]
        unknown = {"--keep-output": other, "--token-weights": weights, "--skip-prompt": prompt, "--replace": self.replace}
        asked = next((option for option, value in unknown.items() if value), None)
        if asked is not None:
            raise RequestError(f"{asked} does not go with the lengths of clips", "leave it out, or pool with --mask ones")

    def _check_head(self, model: Model) -> None:
        """Check that the model has no head yet, or one of another program that is to be replaced or to stay beside ours."""
        reason = explain_pooling(model)
        if self.replace and not is_computed_output(model, self.output_name):
            outputs = ", ".join(map(str, model.interface.outputs))
            raise RequestError(
                f"no node computes an output {self.output_name!r} to replace; the outputs are {outputs}",
                "leave --replace out, or name the output with --output-name",
            )
        if reason is None or (not has_own_head(model) and (self.replace or self.output_name != EMBEDDING)):
            return
        what, then = f"the model already pools: {reason}", "to normalise only, use add-normalize"
        if has_own_head(model):
            raise AlreadyAppliedError(what, f"remove its head with strip-head first, or pool the encoder file; {then}")
        advice = "put our head in its place with --replace, or add one beside it with --output-name NAME"
        raise AlreadyAppliedError(what, f"{advice}; {then}", ("--replace",))

    def change(self, draft: Draft, found: Pooled) -> None:
        ops = Operators(draft, "graphsurgery/pooling")
        replaced = None
        if self.replace:
            replaced = draft.rename(self.output_name, draft.namer.new(f"{self.output_name}_before_add_pooling"))
        x = draft.tensor(found.hidden.name)
        if found.hidden.dtype != onnx.TensorProto.FLOAT:
            x = ops.cast(x, FLOAT, "float32")
        if found.clips is not None:
            graph = ClipGraph(draft, found.clips)
            graph.apply_cuts()
            m = m_all = graph.mask_hidden_state(x)
        else:
            m = m_all = build_mask(ops, require_value(found.mask, "a mask"), x)
        if self.skip_prompt is not None:
            m = exclude_prompt(ops.within("prompt"), m, self._prompt_length(draft, ops))
        weights = None if found.weights is None else found.weights.build(ops)
        pooled = pool(ops, x, m, self.width, found.modes, m_all if self.weights_from == FIRST else None, weights)
        if self.normalize:
            pooled = l2_normalize(Operators(draft, "graphsurgery/normalize"), pooled)
        width = self.width * count_widths(found.modes)
        set_first_output(draft, pooled, self.output_name, found.hidden.batch, width, self.keep_output, replaced)

    def _prompt_length(self, draft: Draft, ops: Operators) -> gs.Variable:
        """Return N, int64 ``[1]``: a new input, or a constant."""
        if self.skip_prompt == INPUT:
            return draft.add_input(PROMPT_LENGTH, onnx.TensorProto.INT64, [1])
        return ops.constant([int(require_value(self.skip_prompt, "skip_prompt"))], np.int64, "prompt/length")

    def ensure(self, before: Interface, after: Interface) -> None:
        added = (PROMPT_VALUE,) if self.skip_prompt == INPUT else ()
        require_promised(self.verb, "the inputs", (*before.inputs, *added, *self._list_lengths(before)), after.inputs)
        ensure_first_output(self.verb, before, after, self.output_name, self.keep_output, self.replace)

    def _list_lengths(self, before: Interface) -> tuple[Value, ...]:
        """Return the new input of lengths, or nothing."""
        if not self.lengths:
            return ()
        waveform = require_value(before.input(require_value(self.waveform, "the waveform")), "the waveform")
        return (Value(INPUT_LENGTHS, onnx.TensorProto.INT64, (waveform.dims or (None,))[:1]),)


def _find_hidden_size(model: Model, hidden: HiddenState) -> int:
    """Return the hidden size. Raises UnsupportedModelError if it is less than 1."""
    width = find_width(model, hidden)
    if width < 1:
        raise UnsupportedModelError(
            f"{hidden.name} is {width} wide", "name another value with --hidden-state", ("--hidden-state",)
        )
    return width
