"""Trials: run a model before and after a change of its inputs, and compare the numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from graphsurgery.edits.free_sizes import BATCH, SEQUENCE
from graphsurgery.encoder.roles import Roles
from graphsurgery.errors import GraphSurgeryError
from graphsurgery.interface import Value
from graphsurgery.model.model import Model
from graphsurgery.runtime.baked_sizes import make_feed_generator_for
from graphsurgery.runtime.feeds import FeedGenerator
from graphsurgery.runtime.session import Session, open_session

SIZES_TOLERANCE, DEFAULT_TOLERANCE = 1e-3, 1e-4
"""Allowed differences, relative to max(1, |wanted|): at other sizes, and with a default instead of an input."""
Arrays = dict[str, np.ndarray]


def count_agreeing(found: np.ndarray, wanted: np.ndarray, far: float) -> int | None:
    """Count the numbers of ``found`` that agree with ``wanted`` within ``far`` times max(1, |wanted|).

    Return None if the shapes or any of the numbers differ. Numbers that are not finite in ``wanted`` are left out, because NaN
    agrees with nothing. So 0 means that nothing was compared.
    """
    if found.shape != wanted.shape:
        return None
    finite = np.isfinite(wanted) if wanted.dtype.kind in "fV" else np.ones(wanted.shape, dtype=np.bool_)
    one, other = (array[finite].astype(np.float64) for array in (found, wanted))
    same = bool(np.all(np.abs(one - other) <= far * np.maximum(1, np.abs(other))))  # False for a NaN
    return int(finite.sum()) if same else None


def explain_lack_of_evidence(agreed: Mapping[str, int]) -> str | None:
    """Explain why a trial shows nothing: no number of an output was compared. Return None if every output ``agreed``."""
    lost = next((name for name, count in agreed.items() if not count), None)
    return None if lost is None else f"a trial is needed, and the model itself gives no finite number in {lost}"


@dataclass(frozen=True)
class Trial:
    """The result of a trial of sizes.

    ``reason`` says why the sizes are still baked in; it is None if they are free. ``follows`` lists the dims of outputs that
    are the batch or the sequence: the output, the axis, and which of the two.
    """

    reason: str | None
    follows: tuple[tuple[str, int, str], ...] = ()


def try_sizes(source: Model, after: Model, roles: Roles, sizes: Mapping[str, int]) -> Trial:
    """Run both models and compare the results at tokens. ``source`` runs at its own sizes, on rows padded with the mask."""
    try:
        before = open_session(source)
    except GraphSurgeryError as error:
        return Trial(f"a trial is needed, and the model itself does not run: {error}")
    try:
        made = open_session(after)
    except GraphSurgeryError as error:
        return Trial(str(error))
    generator = FeedGenerator.for_model(source, roles)
    follows: dict[tuple[str, int], set[str]] = {}
    agreed: Counter[str] = Counter()
    for seed, (rows, columns) in enumerate(_choose_shapes(generator, sizes)):
        mask = _make_mask(rows, columns)
        feed = generator.generate(mask, seed)
        try:
            found = made.run(feed)
        except GraphSurgeryError as error:
            return Trial(f"at {rows} x {columns}: {error}")
        wanted = _run_at_own_size(before, feed, roles, sizes)
        for name, array in found.items():
            for axis, size in enumerate(array.shape):
                fits = {which for which, own in ((BATCH, rows), (SEQUENCE, columns)) if which in sizes and own == size}
                follows[name, axis] = follows.get((name, axis), fits) & fits
            same = _count_agreeing_tokens(array, wanted[name], mask, columns)
            if same is None:
                return Trial(f"at {rows} x {columns}, {name} differs from what the model gives at its own size")
            agreed[name] += same
    return Trial(
        explain_lack_of_evidence(agreed),
        tuple((name, axis, which.pop()) for (name, axis), which in follows.items() if len(which) == 1),
    )


def _choose_shapes(generator: FeedGenerator, sizes: Mapping[str, int]) -> list[tuple[int, int]]:
    """Return the batch and sequence sizes to try. If both are free, they differ from each other or are 1."""
    length = sizes.get(SEQUENCE, generator.fixed_sequence or 6)
    columns = sorted({1, max(length // 2, 1), max(length - 1, 1), length}) if SEQUENCE in sizes else [length]
    batch = sizes.get(BATCH, generator.fixed_batch or 3)
    rows = [batch, batch + 1, 2 * batch + 1, 1] if BATCH in sizes else [batch]
    return [(row, column) for row in rows for column in columns if row != column or len(sizes) == 1 or 1 in (row, column)]


def _make_mask(rows: int, columns: int) -> np.ndarray:
    """Make a mask in which each row has fewer tokens than the one before it. Every other row is padded on the left."""
    lengths = np.maximum(columns - 1 - np.arange(rows), 1)
    mask = np.arange(columns)[None, :] < lengths[:, None]
    mask[1::2] = mask[1::2, ::-1].copy()
    return mask


def _run_at_own_size(session: Session, feed: Arrays, roles: Roles, sizes: Mapping[str, int]) -> Arrays:
    named = [value.name for value in roles.known]
    rows, columns = feed[named[0]].shape
    length, batch = sizes.get(SEQUENCE, columns), sizes.get(BATCH, rows)
    padded = {name: np.pad(feed[name], ((0, 0), (0, length - columns))) if name in named else feed[name] for name in feed}
    parts = []
    for start in range(0, rows, batch):
        chosen = np.minimum(np.arange(start, start + batch), rows - 1)
        parts.append(session.run({name: array[chosen] if name in named else array for name, array in padded.items()}))
    return {name: np.concatenate([part[name] for part in parts])[:rows] if parts[0][name].ndim else parts[0][name]
            for name in parts[0]}  # fmt: skip


def _count_agreeing_tokens(found: np.ndarray, wanted: np.ndarray, mask: np.ndarray, columns: int) -> int | None:
    """Count the numbers that agree at tokens; None if one differs. An output without tokens has to agree completely."""
    if found.ndim > 1 and found.shape != wanted.shape and found.shape[:2] == mask.shape:
        found, wanted = found[mask], wanted[:, :columns][mask]
    if found.ndim > 1 and found.shape == wanted.shape and found.shape[:2] == mask.shape:
        found, wanted = found[mask], wanted[mask]
    return count_agreeing(found, wanted, SIZES_TOLERANCE)


def explain_default_misfit(model: Model, after: Model, roles: Roles, value: Value, number: int) -> str | None:
    """Explain why ``after``, with its default ``number``, differs from ``model``, whose input ``value`` is fed that number.

    Return None if it does not differ.
    """
    generator = make_feed_generator_for(model, roles)
    try:
        source = open_session(model)
    except GraphSurgeryError as error:
        return f"a trial is needed, and the model itself does not run: {error}"
    try:
        made = open_session(after)
        agreed: Counter[str] = Counter()
        for seed, mask in enumerate(mask for _, masks in generator.generate_masks() for mask in masks):
            given = generator.generate(mask, seed)
            given[value.name] = np.full_like(given[value.name], number)
            wanted = source.run(given)
            found = made.run({name: array for name, array in given.items() if name != value.name})
            for name, one in found.items():
                same = count_agreeing(one, wanted[name], DEFAULT_TOLERANCE)
                if same is None:
                    return f"{name} changes with the default, so the graph does more than broadcast it"
                agreed[name] += same
    except GraphSurgeryError as error:
        return f"with a default of [1, 1], {error}"
    return explain_lack_of_evidence(agreed)
