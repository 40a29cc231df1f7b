"""add-splade-pooling: from a masked-language model's scores to one sparse vector per text."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx

from graphsurgery.anatomy.head import EMBEDDING, SPLADE, why_pooled
from graphsurgery.anatomy.logits import find_logits
from graphsurgery.edits.edit import GraphEdit, parameter, require_opset, settled
from graphsurgery.edits.mask_graph import choose_mask, token_mask
from graphsurgery.edits.operators import FLOAT, Operators
from graphsurgery.edits.outputs import kept_outputs, set_outputs
from graphsurgery.edits.splade_graph import LOGARITHMS, STRATEGIES, splade
from graphsurgery.edits.targets import check_free
from graphsurgery.errors import AlreadyPooledError, RequestError
from graphsurgery.interface import Interface
from graphsurgery.model.draft import Draft
from graphsurgery.model.model import Model
from graphsurgery.runtime.probe import measured_width


@dataclass(frozen=True)
class AddSpladePooling(GraphEdit):
    """Append SPLADE pooling: scores ``x [batch, seq, vocabulary]`` -> ``sentence_embedding [batch, vocabulary]`` float32.

    ``y = log(1 + relu(x))``, or ``log(1 + log(1 + relu(x)))`` with ``--activation log1p_relu``, and of these the max over the
    tokens, or their sum. As sentence-transformers' SpladePooling module (arXiv 2109.10086, 2504.14839), but for padded
    positions, which never contribute, whatever stands there. A row without any token gives zeros.
    """

    verb: ClassVar[str] = SPLADE
    step: ClassVar[str] = "splade"
    summary: ClassVar[str] = "append SPLADE pooling: from masked-language scores to one sparse vector per text"

    strategy: str = parameter("What is taken over the tokens: max or sum.", "max", "max|sum")
    activation: str = parameter("relu for log(1 + relu(x)), log1p_relu for log(1 + log(1 + relu(x))).", "relu", "NAME")
    target: str | None = parameter("The scores, where they are not found by themselves.", None, "NAME")
    mask: str | None = parameter(
        "The mask: an input's name, ones (every position is a token), or pad:ID (tokens are the ids other than ID).",
        None,
        "NAME|ones|pad:ID",
    )
    ids: str | None = parameter("The input with the token ids, where it is not called input_ids.", None, "NAME")
    output_name: str = parameter("What the embedding is called.", EMBEDDING, "NAME")
    keep_output: tuple[str, ...] = parameter("An output of the encoder to keep; may be repeated.", (), "NAME")
    width: int = settled(0)

    def resolve(self, model: Model) -> tuple[AddSpladePooling, tuple[str, ...]]:
        """Settle target, mask and ids.

        Raises AlreadyPooledError, NothingToPoolError, MaskError, NameNotFoundError, UnsupportedModelError (opset, width), and
        RequestError for an unknown strategy or activation.
        """
        require_opset(model, self.verb)
        for what, name, known in (("strategy", self.strategy, STRATEGIES), ("activation", self.activation, LOGARITHMS)):
            if name not in known:
                raise RequestError(f"there is no {what} {name!r}", f"choose from {', '.join(known)}")
        reason = why_pooled(model)
        if reason is not None:
            raise AlreadyPooledError(f"the model already pools: {reason}", "take its head off with strip-head first")
        scores = find_logits(model, self.target, self.ids)
        choice = choose_mask(model, self.mask, self.ids)
        check_free(model, self.output_name)
        kept, dropped = kept_outputs(model, self.keep_output)
        width = scores.width if scores.width is not None else measured_width(model, scores)
        resolved = replace(
            self, target=scores.name, mask=choice.spec, ids=choice.ids, keep_output=kept, width=width,
        )  # fmt: skip
        notes = [f"takes the {self.strategy} over the tokens of {scores.name}, {width} words wide, mask {choice.spec}"]
        notes += [f"output {name} is dropped (keep it with --keep-output {name})" for name in dropped]
        return resolved, tuple(notes)

    def change(self, draft: Draft, model: Model) -> None:
        assert self.target is not None
        scores = find_logits(model, self.target, self.ids)
        ops = Operators(draft, "graphsurgery/splade")
        x = draft.tensor(self.target)
        if scores.dtype != onnx.TensorProto.FLOAT:
            x = ops.cast(x, FLOAT, "float32")
        m = token_mask(ops, choose_mask(model, self.mask, self.ids), x)
        pooled = splade(ops, x, m, self.strategy, self.activation)
        pooled.name, pooled.dtype = self.output_name, np.float32
        pooled.shape = [scores.batch if scores.batch is not None else "batch", self.width]
        set_outputs(draft, [pooled], self.keep_output)

    def ensure(self, before: Interface, after: Interface) -> None:
        super().ensure(before, after)
        assert after.outputs[0].name == self.output_name and after.outputs[0].dtype == onnx.TensorProto.FLOAT
        kept = tuple(value for value in before.outputs if value.name in self.keep_output)
        assert after.outputs[1:] == kept, f"{self.verb} changed an output that it keeps"
