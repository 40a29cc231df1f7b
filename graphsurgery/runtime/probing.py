"""Run an encoder to find the meaning of its mask, and which dim is the batch.

A run replaces one token by another one. If the mask is fed in its own form, a new token at a hidden position changes no other
position. If the batch dim is the right one, a new token changes only numbers of its own text. An encoder without attention
between tokens shows neither.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from graphsurgery.errors import UnsupportedModelError
from graphsurgery.interface import Value
from graphsurgery.model.dtypes import FLOATS
from graphsurgery.runtime.feeds import FeedGenerator
from graphsurgery.runtime.mask_forms import ADDITIVE, LENGTHS, NOT, list_possible_forms

GRAPH, RUN = "graph", "run"
ROWS, TOKENS, HOLE, SEEN = 2, 5, 1, 2
"""Rows and positions of the trial text, the hidden position, and a position that the positions after it must see."""
SAME, OTHER = 1e-5, 1e-4
"""Shares of an output's largest number. Values that differ by less than `SAME` are equal, by more than `OTHER` different."""
BATCH_FIRST, SEQUENCE_FIRST = "batch first", "sequence first"
LAYOUT_SHAPE, PLACE = (3, 4), (0, 1)
"""The shape of the ids that are fed to find the layout, and the place at which a token is replaced."""
Arrays = Mapping[str, np.ndarray]
Run = Callable[[Arrays], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class MaskMeaning:
    """The form of a mask input, one of `mask_forms` (None if nothing shows it), and what shows it."""

    form: str | None
    shown_by: str = ""
    sequence_first: bool = False
    """Whether the graph shows that the mask is ``[seq, batch]``."""
    mixes: bool = True
    """Whether tokens attend to each other at all, as far as a run shows. If they do not, a mask has no effect."""
    behind_alone: bool = False
    """Whether only padding after all tokens is hidden: the encoder only counts the tokens in the mask."""


def find_meaning_by_run(run: Run, generator: FeedGenerator) -> MaskMeaning:
    """Return the meaning of the mask in which a hidden token changes no other position, although a visible one does."""
    mask = generator.roles.mask
    if mask is None:
        return MaskMeaning(None)
    found = settle_form(RUN, mask, lambda form, at_end: is_form_of_run(run, replace(generator, form=form), at_end))
    return found if found.form is not None else MaskMeaning(None, mixes=_mixes(run, generator))


def settle_form(shown_by: str, mask: Value, fits: Callable[[str, bool], bool]) -> MaskMeaning:
    """Return the meaning of the only form that ``fits``: with a hole between tokens, or else with one at the end alone.

    A form in which the model cannot be run does not fit. If the graph only tests whether a float mask is 0, both `NOT` and
    `ADDITIVE` fit, and mean the same. The form is `NOT` then.
    """

    def fits_if_run(form: str, at_end: bool) -> bool:
        try:
            return fits(form, at_end)
        except UnsupportedModelError:
            return False

    for at_end in (False, True):
        forms = [form for form in list_possible_forms(mask) if fits_if_run(form, at_end)]
        if len(forms) == 1 or set(forms) == {NOT, ADDITIVE}:
            form = forms[0] if len(forms) == 1 else NOT
            return MaskMeaning(form, shown_by, behind_alone=at_end and form != LENGTHS)
    return MaskMeaning(None)


def is_form_of_run(run: Run, generator: FeedGenerator, at_end: bool = False) -> bool:
    """Return whether, with the mask in the generator's form, a hidden token changes no other position and a visible one does.

    One output that shows both is enough: the graph may compute others before it uses the mask, or without it.
    """
    mask, hole = make_trial_masks(generator, at_end)[1:]
    if mask is None:
        return False
    plain, hidden, seen = (_run_outputs(run, generator, mask, place) for place in (None, hole, SEEN))
    others = mask[0] & (np.arange(mask.shape[1]) > SEEN)
    leaks = {name: _measure_difference(plain[name], hidden.get(name), mask[0]) for name in plain}
    reaches = {name: _measure_difference(plain[name], seen.get(name), others) for name in plain}
    return any(leaks[name] < SAME and OTHER < reaches[name] < np.inf for name in plain)


def _mixes(run: Run, generator: FeedGenerator) -> bool:
    """Return whether a new token changes what a run gives for the tokens after it; true if the text is too short to tell."""
    whole = make_trial_masks(generator, False)[0]
    if whole.shape[1] <= SEEN + 1:
        return True
    plain, other = (_run_outputs(run, generator, whole, place) for place in (None, SEEN))
    others = np.arange(whole.shape[1]) > SEEN
    return any(_measure_difference(plain[name], other.get(name), others) > OTHER for name in plain)


def make_trial_masks(generator: FeedGenerator, at_end: bool) -> tuple[np.ndarray, np.ndarray | None, int]:
    """Return a mask without padding, one with a hole (None if the text is too short), and the position of the hole.

    The hole has tokens after it. With ``at_end``, and for lengths, it is the last position. Masks are ``[batch, seq]`` bool.
    """
    whole = np.ones((generator.fixed_batch or ROWS, generator.fixed_sequence or TOKENS), dtype=np.bool_)
    hole = whole.shape[1] - 1 if at_end or generator.form == LENGTHS else HOLE
    if whole.shape[1] < TOKENS:
        return whole, None, hole
    holed = whole.copy()
    holed[:, hole] = False
    return whole, holed, hole


def _run_outputs(run: Run, generator: FeedGenerator, mask: np.ndarray, other: int | None) -> dict[str, np.ndarray]:
    """Return the float outputs with one vector per text or per token. ``other`` is a position whose token is replaced."""
    feed = generator.generate(mask, seed=0)
    if other is not None:
        feed = feed | replace_token(generator, feed, (slice(None), other))
    found = {name: np.asarray(array) for name, array in run(feed).items() if isinstance(array, np.ndarray)}
    return {name: array.astype(np.float64) for name, array in found.items() if _is_by_text(array, mask)}


def _is_by_text(array: np.ndarray, mask: np.ndarray) -> bool:
    return array.dtype.kind in "fV" and array.ndim in (2, 3) and len(array) == len(mask)


def replace_token(generator: FeedGenerator, feed: Arrays, place: tuple[int | slice, int]) -> dict[str, np.ndarray]:
    """Return the inputs of ``feed`` that hold the token at ``place`` (row, position), with that token replaced."""
    size = generator.tables.vocabulary or 0
    ids = generator.roles.ids
    if ids is not None:
        other = feed[ids.name].copy()
        other[place] = (other[place] + max(size // 2, 1)) % size if size else other[place] + 1
        return {ids.name: other}
    found = {}
    for value in generator.roles.others:  # the token ids under another name, or embeddings of tokens
        array = feed[value.name]
        if array.ndim in (2, 3) and array.shape[1] > place[1]:
            found[value.name] = array.copy()
            found[value.name][place] = -array[place] if value.dtype in FLOATS else 1
    return found


def _measure_difference(one: np.ndarray, other: np.ndarray | None, positions: np.ndarray) -> float:
    """Return how far two outputs are apart at ``positions``, a mask, as a share of the largest number.

    It is infinite where one of them is not finite. Outputs that are not one vector per position are compared whole.
    """
    if other is None or one.shape != other.shape:
        return np.inf
    if one.ndim == 3 and one.shape[1] == len(positions):
        one, other = one[:, positions], other[:, positions]
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return np.inf
    return float(np.max(np.abs(one - other), initial=0.0) / max(float(np.max(np.abs(one), initial=0.0)), 1e-30))


def _choose_layout_shape(generator: FeedGenerator) -> tuple[int, int]:
    """Return how many rows and positions to try: two different numbers, if the model's fixed sizes allow it."""
    rows, columns = generator.fixed_batch or LAYOUT_SHAPE[0], generator.fixed_sequence or LAYOUT_SHAPE[1]
    if rows == columns and generator.fixed_batch is None:
        rows += 1
    elif rows == columns and generator.fixed_sequence is None:
        columns += 1
    return rows, columns


def find_layout_by_run(run: Run, generator: FeedGenerator, names: Collection[str] = ()) -> str | None:
    """Return the layout, as the numbers that a new token changes show it; None if only those at its own place change.

    ``names`` are the values of the run to look at, all of them if it is empty.
    """
    shape = _choose_layout_shape(generator)
    if min(shape) < 2:
        return None
    feed = generator.generate(np.ones(shape, dtype=np.bool_), seed=0)
    other = feed | replace_token(generator, feed, PLACE)
    before, after = run(feed), run(other)
    for name, array in before.items():
        one, two = np.asarray(array), np.asarray(after[name])
        if names and name not in names:
            continue
        if one.ndim != 3 or one.dtype.kind != "f" or one.shape != two.shape or set(one.shape[:2]) != set(shape):
            continue
        changed = np.abs(one.astype(np.float64) - two).max(axis=2) / max(float(np.abs(one).max()), 1e-30)
        if one.shape[0] != shape[0]:  # given the other way round
            return SEQUENCE_FIRST
        row, column = PLACE
        beside, below = np.delete(changed, row, axis=0), np.delete(changed[row], column)
        if beside.max() < SAME and below.max() > OTHER:
            return BATCH_FIRST
        if np.delete(changed, column, axis=1).max() < SAME and beside[:, column].max() > OTHER:
            return SEQUENCE_FIRST
    return None
