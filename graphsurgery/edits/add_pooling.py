"""add-pooling: from token embeddings to one vector per text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from graphsurgery.contracts import present, require_promised
from graphsurgery.edits.edit import GraphEdit, parameter, require_opset, settled
from graphsurgery.edits.mask_graph import choose_mask, ids_parameter, mask_parameter, token_mask, without_prompt
from graphsurgery.edits.normalize_graph import l2_normalize
from graphsurgery.edits.operators import FLOAT, Operators
from graphsurgery.edits.outputs import dropped_notes, ensure_first, kept_outputs, put_first
from graphsurgery.edits.pooling_graph import MODES, pool
from graphsurgery.edits.pooling_request import AUTO, INPUT, PROMPT_LENGTH, PROMPT_VALUE, settled_modes, settled_prompt
from graphsurgery.edits.targets import check_free
from graphsurgery.edits.token_weights import settled_token_weights, token_weights_value
from graphsurgery.encoder.head import EMBEDDING, why_pooled
from graphsurgery.encoder.hidden_state import HiddenState, find_hidden_state
from graphsurgery.errors import AlreadyPooledError, RequestError, UnsupportedModelError
from graphsurgery.interface import Interface
from graphsurgery.model.draft import Draft
from graphsurgery.model.model import Model
from graphsurgery.runtime.probe import measured_width


@dataclass(frozen=True)
class AddPooling(GraphEdit):
    """Append pooling, and L2 normalisation where asked: ``[batch, seq, dim]`` -> ``sentence_embedding [batch, dim]`` float32.

    The mathematics are those of sentence-transformers' Pooling module (see `pooling_graph`), but for rows without any
    token, which give zeros, and padded positions, which never contribute. The head computes in float32 whatever the
    encoder's type.
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
        otherwise="the hidden state that the graph shows",
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
        "include_prompt: false. With input, a new input prompt_length (int64 [1]) says how many.",
        None,
        "N|input",
        takes=int | str | None,
    )
    width: int = settled(0)

    @property
    def modes(self) -> tuple[str, ...]:
        """The pooling modes, in the order in which they are concatenated."""
        if not isinstance(self.mode, str):
            raise RequestError(f"a pooling mode is text, and {self.mode!r} is not", f"choose from {', '.join(MODES)}, or auto")
        return tuple(part.strip() for part in self.mode.split(","))

    def resolve(self, model: Model) -> tuple[AddPooling, tuple[str, ...]]:
        """Settle mode, hidden state, mask and ids.

        Raises AlreadyPooledError, NothingToPoolError, MaskError, NameNotFoundError, UnsupportedModelError (opset, width), and
        RequestError for an unknown mode.
        """
        require_opset(model, self.verb)
        reason = why_pooled(model)
        if reason is not None:
            raise AlreadyPooledError(
                f"the model already pools: {reason}",
                "take its head off with strip-head first, or pool the encoder file; to normalise only, use add-normalize",
            )
        prompt = settled_prompt(model, self.skip_prompt)
        modes, doubts = settled_modes(self.modes, model.path, prompt)
        hidden = find_hidden_state(model, self.hidden_state, self.ids)
        choice = choose_mask(model, self.mask, self.ids)
        check_free(model, self.output_name)
        if self.output_name in self.keep_output:
            raise RequestError(f"{self.output_name!r} is both the new output and one to keep", "choose another --output-name")
        kept, dropped = kept_outputs(model, self.keep_output)
        weights = settled_token_weights(model, self.token_weights, modes)
        resolved = replace(
            self, mode=",".join(modes), hidden_state=hidden.name, mask=choice.spec, ids=choice.ids, keep_output=kept,
            token_weights=weights, skip_prompt=prompt, width=_width(model, hidden),
        )  # fmt: skip
        left_out = f", less {PROMPT_LENGTH if prompt == INPUT else prompt} positions from the first token on" if prompt else ""
        notes = [f"pools {hidden.name} with {resolved.mode}, mask {choice.spec}{left_out}"]
        notes += [f"means divide by the sum of {weights}"] if weights is not None else []
        notes += [*dropped_notes(dropped), *doubts]
        return resolved, tuple(notes)

    def change(self, draft: Draft, model: Model) -> None:
        hidden = find_hidden_state(model, present(self.hidden_state, "hidden_state"), self.ids)
        ops = Operators(draft, "graphsurgery/pooling")
        x = draft.tensor(hidden.name)
        if hidden.dtype != onnx.TensorProto.FLOAT:
            x = ops.cast(x, FLOAT, "float32")
        m = token_mask(ops, choose_mask(model, self.mask, self.ids), x)
        if self.skip_prompt is not None:
            m = without_prompt(ops.within("prompt"), m, self._prompt_length(draft, ops))
        weights = None if self.token_weights is None else token_weights_value(ops, model, self.token_weights)
        pooled = pool(ops, x, m, self.width, self.modes, weights)
        if self.normalize:
            pooled = l2_normalize(Operators(draft, "graphsurgery/normalize"), pooled)
        put_first(draft, pooled, self.output_name, hidden.batch, self.width * len(self.modes), self.keep_output)

    def _prompt_length(self, draft: Draft, ops: Operators) -> gs.Variable:
        """N, int64 ``[1]``: a new input, or a constant."""
        if self.skip_prompt == INPUT:
            return draft.add_input(PROMPT_LENGTH, onnx.TensorProto.INT64, [1])
        return ops.constant([int(present(self.skip_prompt, "skip_prompt"))], np.int64, "prompt/length")

    def ensure(self, before: Interface, after: Interface) -> None:
        added = (PROMPT_VALUE,) if self.skip_prompt == INPUT else ()
        require_promised(self.verb, "the inputs", (*before.inputs, *added), after.inputs)
        ensure_first(self.verb, before, after, self.output_name, self.keep_output)


def _width(model: Model, hidden: HiddenState) -> int:
    """The hidden size, from the weights or from a run, never from the declaration."""
    width = hidden.width if hidden.width is not None else measured_width(model, hidden)
    if width < 1:
        raise UnsupportedModelError(f"{hidden.name} is {width} wide", "name another value with --hidden-state")
    return width
