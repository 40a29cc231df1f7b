"""What a file is asked to do when its speed is measured: batches of texts, drawn or given."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graphsurgery.compare.timing import TEXT, describe_batch
from graphsurgery.compare.vectors import Array
from graphsurgery.errors import RequestError
from graphsurgery.model.model import Model
from graphsurgery.proof.source_feeds import require_texts
from graphsurgery.runtime.feeds import FeedGenerator, generate_text_feeds
from graphsurgery.runtime.masks import make_mask

ONLINE, OFFLINE = "online", "offline"
BATCHES = {
    ONLINE: ((1, 16, 1.0), (1, 128, 1.0), (8, 64, 0.5)),
    OFFLINE: ((16, 128, 1.0), (32, 128, 0.6)),
}
"""By workload: texts, tokens of the longest, and the share of positions that hold tokens."""
LONGEST = 512
"""The texts of a file are cut at this many tokens."""
MOST_BATCHES = 4
"""The batches of a text file that are timed."""


@dataclass(frozen=True)
class Batch:
    """Texts that are run together."""

    texts: int
    tokens: int
    """The number of tokens of the longest text."""
    fill: float
    """The share of positions that hold tokens."""
    feed: dict[str, Array]
    unit: str = TEXT
    """What a row is: `FeedGenerator.unit`."""

    def __str__(self) -> str:
        return describe_batch(self.texts, self.tokens, self.fill, self.unit)


def make_workload(source: Model, generator: FeedGenerator, workload: str | os.PathLike[str] | None) -> list[Batch]:
    """Return the batches of a ``workload``: `ONLINE`, `OFFLINE`, both if it is None, or the texts of a file.

    A file has one text per line. Its texts are run 32 at a time, in their order. Raise RequestError if it cannot be used.
    """
    if workload is None or workload in BATCHES:
        asked = [one for name, batches in BATCHES.items() if workload in (None, name) for one in batches]
        drawn = [_draw_batch(generator, *one) for one in asked]
        return list({(one.texts, one.tokens, one.fill): one for one in drawn}.values())
    if not Path(workload).is_file():
        what = f"there is no workload {os.fspath(workload)!r}, and no file of that name"
        raise RequestError(what, f"choose {ONLINE}, {OFFLINE} or a text file with one text per line")
    texts = require_texts(source, source, generator, workload, LONGEST, f"choose {ONLINE} or {OFFLINE}")
    batches = list(texts.split_into_batches())[:MOST_BATCHES]
    return [
        Batch(one.mask.shape[0], one.mask.shape[1], round(float(one.mask.mean()), 2), feed)
        for one in batches for feed in generate_text_feeds(generator, one)
    ]  # fmt: skip


def _draw_batch(generator: FeedGenerator, texts: int, tokens: int, fill: float) -> Batch:
    texts, tokens = generator.fixed_batch or texts, generator.limit_length(tokens)
    fill = fill if generator.has_mask and texts > 1 else 1.0
    lengths = np.rint(np.linspace(tokens, (2 * fill - 1) * tokens, texts)).astype(int)  # in even steps, so the mean is `fill`
    mask = make_mask([max(1, int(length)) for length in lengths])
    return Batch(texts, tokens, fill, generator.generate(mask, seed=0), generator.unit)
