"""The vectors that a model gives to real texts, one per text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from graphsurgery.progress import Progress, ignore_progress
from graphsurgery.runtime.batches import BUDGET, plan
from graphsurgery.runtime.feeds import FeedGenerator, generate_text_feeds
from graphsurgery.runtime.session import Runner
from graphsurgery.runtime.texts import Encoded

Array = np.ndarray


def embed_texts(
    session: Runner,
    generator: FeedGenerator,
    texts: Encoded,
    names: Sequence[str],
    progress: Progress = ignore_progress,
    doing: str = "embedding texts",
) -> dict[str, Array]:
    """Return the vectors of ``texts`` at those of the outputs ``names`` that have one vector per text, ``[texts, dim]``.

    Texts of similar length run together. If the model takes no mask, only texts of equal length do, because the model would
    take padding for tokens. Other outputs, such as one vector per token, are left out.

    Raises UnsupportedModelError if a run fails.
    """
    order: list[int] = []
    parts = []
    for rows in list_batches(texts.mask.sum(axis=1), generator.has_mask):
        progress(doing, len(order), len(texts.ids))
        order += rows
        parts.append(embed_batch(session, generator, texts.take(rows), names))
    place = np.argsort(order)
    return {name: found[place] for name in names if (found := _join([part[name] for part in parts])) is not None}


def embed_batch(
    session: Runner,
    generator: FeedGenerator,
    batch: Encoded,
    names: Sequence[str],
    given: Mapping[str, Array] = MappingProxyType({}),
) -> dict[str, Array | None]:
    """Run one batch of texts. Return its vectors at each of the outputs ``names``, ``[texts, dim]``, by name.

    The array is None for an output that does not have one vector per text. A model with a fixed batch size runs the batch in
    parts. ``given`` are arrays for inputs that do not follow from the texts. Raises UnsupportedModelError if a run fails.
    """
    feeds = generate_text_feeds(generator, batch)
    runs = [session.run({**feed, **given}, names) for feed in feeds]
    rows = len(batch.ids) if generator.fixed_batch is None else generator.fixed_batch
    found: dict[str, Array | None] = {}
    for name in names:
        arrays = [run[name] if getattr(run[name], "shape", ())[:1] == (rows,) and run[name].ndim == 2 else None for run in runs]
        joined = _join(arrays)
        found[name] = None if joined is None else joined[: len(batch.ids)]  # rows repeat to fill the last fixed batch
    return found


def _join(arrays: Sequence[Array | None]) -> Array | None:
    """Concatenate arrays ``[rows, dim]`` along their rows. Return None if one is None, or if their widths differ."""
    sound = [one for one in arrays if one is not None]
    if len(sound) < len(arrays) or len({one.shape[1] for one in sound}) != 1:
        return None
    return np.concatenate(sound)


def list_batches(lengths: Array, has_mask: bool, budget: int = BUDGET, padded: bool = True) -> Iterator[list[int]]:
    """Yield the indexes of the texts of each batch, as `plan` makes them. Without a mask, a batch has texts of one length."""
    alike = [np.arange(len(lengths))] if has_mask else [np.flatnonzero(lengths == one) for one in np.unique(lengths)]
    for rows in alike:
        for batch in plan(lengths[rows], budget, padded=padded):
            yield rows[batch].tolist()
