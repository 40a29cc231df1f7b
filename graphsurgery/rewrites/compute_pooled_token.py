"""The rewrite ``pooled-token``: an encoder that computes no more than the one token of each text that is pooled.

The layers before the last attention have to compute every token, because that attention reads keys and values of all of them.
From there on, the token that the head takes is enough: one query a text instead of one for each token, and so is the output
projection and the feed-forward part of the last layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from graphsurgery.compare.tolerance import FLOAT32
from graphsurgery.encoder.head import read_padding_free_form
from graphsurgery.errors import NothingToOptimizeError, UnsupportedModelError
from graphsurgery.graph.editor import Editor
from graphsurgery.graph.flops import count_flops
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.write_back import to_document
from graphsurgery.model.model import Model
from graphsurgery.rewrites.detect_architecture import detect_architecture
from graphsurgery.rewrites.narrow.narrowing import Narrowing
from graphsurgery.rewrites.narrow.search import find_target
from graphsurgery.rewrites.rewrite import Context, Rewrite, Rewritten
from graphsurgery.rewrites.unchangeable import require_float_encoder, require_open_encoder

RECORDED = "pooled_token"
COUNTED_AT = (128, 32)
"""The lengths of text at which operations are counted: the first one at which the sizes of all products are known."""


@dataclass(frozen=True)
class PooledToken(Rewrite):
    """In the last layer, compute only the token of each text that the head takes."""

    name: ClassVar[str] = "pooled-token"
    summary: ClassVar[str] = "compute no more of the last layer than the one token of each text that the head takes"
    exactness: ClassVar[str] = FLOAT32
    doing: ClassVar[str] = "finding out what the pooled token needs"

    def check(self, model: Model) -> None:
        require_float_encoder(model, self.name)
        if any(step.given.get(RECORDED) for step in model.rewrites):
            raise NothingToOptimizeError("the file computes the pooled token alone already", "use it as it is")
        if read_padding_free_form(model) is not None:
            what = "the encoder is padding-free, so that no position of its values is the same token of every text"
            raise UnsupportedModelError(what, "apply pooled-token first, and make its output padding-free")
        require_open_encoder(model)
        find_target(model)

    def apply(self, encoder: Model, context: Context) -> Rewritten:
        target = find_target(context.whole or encoder)
        given = target.encoder.proto
        work = Editor(given)
        Narrowing(work, target.demand).run()
        work.remove_unread()
        after = replace(encoder, document=to_document(target.encoder, given, work.finish()), loaded=None)
        notes = tuple(_describe_saving(encoder, after))
        return Rewritten(after, {RECORDED: True}, notes, architecture=detect_architecture(encoder))

    @classmethod
    def from_record(cls, parameters: Mapping[str, Any]) -> Self | None:
        return cls() if parameters.get(RECORDED) else None


def _describe_saving(before: Model, after: Model) -> Iterable[str]:
    """Yield how many operations the rewrite saves."""
    for tokens in COUNTED_AT:
        counts = [count_flops(Graph.of(one), 1, tokens) for one in (before, after)]
        if counts[0] and counts[1] is not None:
            saved = 100 * (1 - counts[1] / counts[0])
            has_tokens = any(one.rank == 2 for one in before.interface.inputs)
            where = f"for a text of {tokens} tokens" if has_tokens else "in each row of the batch"
            yield f"the matrix products take {saved:.1f} % fewer operations {where}"
            return
