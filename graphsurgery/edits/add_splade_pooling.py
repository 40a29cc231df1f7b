"""add-splade-pooling: from a masked-language model's scores to one sparse vector per text."""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx

from graphsurgery.contracts import present
from graphsurgery.edits.edit import GraphEdit, parameter, require_opset, settled
from graphsurgery.edits.mask_graph import choose_mask, ids_parameter, mask_parameter, token_mask
from graphsurgery.edits.operators import FLOAT, Operators
from graphsurgery.edits.outputs import dropped_notes, ensure_first, kept_outputs, put_first
from graphsurgery.edits.splade_graph import LOGARITHMS, STRATEGIES, splade
from graphsurgery.edits.targets import check_free
from graphsurgery.encoder.head import EMBEDDING, why_pooled
from graphsurgery.encoder.logits import find_logits
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

    strategy: str = parameter("How the tokens are combined: max or sum.", "max", "max|sum")
    activation: str = parameter(
        "relu for log(1 + relu(x)), log1p_relu for log(1 + log(1 + relu(x))).", "relu", "NAME", positional=True
    )
    target: str | None = parameter(
        "The scores.", None, "NAME", otherwise="logits, else the only output as wide as the vocabulary"
    )
    mask: str | None = mask_parameter()
    ids: str | None = ids_parameter()
    output_name: str = parameter("The name of the embedding.", EMBEDDING, "NAME")
    keep_output: tuple[str, ...] = parameter("An output of the encoder to keep. The others are dropped.", (), "NAME")
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
        return resolved, (*notes, *dropped_notes(dropped))

    def change(self, draft: Draft, model: Model) -> None:
        target = present(self.target, "target")
        scores = find_logits(model, target, self.ids)
        ops = Operators(draft, "graphsurgery/splade")
        x = draft.tensor(target)
        if scores.dtype != onnx.TensorProto.FLOAT:
            x = ops.cast(x, FLOAT, "float32")
        m = token_mask(ops, choose_mask(model, self.mask, self.ids), x)
        pooled = splade(ops, x, m, self.strategy, self.activation)
        put_first(draft, pooled, self.output_name, scores.batch, self.width, self.keep_output)

    def ensure(self, before: Interface, after: Interface) -> None:
        super().ensure(before, after)
        ensure_first(self.verb, before, after, self.output_name, self.keep_output)
