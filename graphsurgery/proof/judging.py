"""Runs a head or a whole model on all cases and judges the outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from graphsurgery.compare.tally import ABSENT, Tally
from graphsurgery.compare.tolerance import NO_LIMITS, Limits
from graphsurgery.errors import GraphSurgeryError, UnsupportedModelError
from graphsurgery.interface import Value
from graphsurgery.model.dtypes import to_numpy_dtype
from graphsurgery.references.reference import Expected, Values
from graphsurgery.report import Check, Comparison, Verdict, combine_verdicts
from graphsurgery.runtime.masks import EMPTY_ROW

Cases = Iterable[tuple[str, Iterable[tuple[Values, dict[str, Expected]]]]]
"""Feeds by kind, each with the expected outputs."""


def judge(
    name: str,
    detail: str,
    run: Callable[[Values], Values],
    declared: Sequence[Value],
    cases: Cases,
    limits: Limits = NO_LIMITS,
) -> Check:
    """Check that ``run`` gives the expected outputs, and that they are as the file ``declared`` them.

    If ``run`` cannot be run, the check fails. An error from ``cases`` is the reference's own and is raised, unless a comparison
    has failed already. If the source cannot be run on rows without tokens, these are left out. Raise UnsupportedModelError if
    only such rows could be compared.
    """
    done: list[Comparison] = []
    wrong: dict[str, str] = {}
    try:
        for kind, pairs in cases:
            tally = Tally(kind, limits.min_cosine)
            wrong = _compare(tally, run, declared, _skip_empty_rows(kind, pairs), limits) | wrong
            done.append(tally.summarize())
    except GraphSurgeryError:
        if combine_verdicts(one.verdict for one in done) is not Verdict.FAILED:
            raise
    if wrong:
        return Check(name, "; ".join(wrong.values()), tuple(done), stated=Verdict.FAILED)
    compared = {one.kind for one in done if one.verdict is not Verdict.NOT_CHECKED}
    if compared == {EMPTY_ROW} and combine_verdicts(one.verdict for one in done) is Verdict.PASSED:
        if any(one.too_loose for one in done):
            what = "at every token, float32 may be off by more than a fault could be told from"
            return Check(name, what, tuple(done), stated=Verdict.NOT_CHECKED)
        raise UnsupportedModelError("the source itself is not finite at any token", "look at the encoder")
    return Check(name, detail, tuple(done))


def _skip_empty_rows(
    kind: str, pairs: Iterable[tuple[Values, dict[str, Expected]]]
) -> Iterator[tuple[Values, dict[str, Expected]]]:
    """Yield ``pairs``. For rows without tokens, stop at the first on which the source cannot be run: many encoders cannot."""
    try:
        yield from pairs
    except UnsupportedModelError:
        if kind != EMPTY_ROW:
            raise


def _compare(
    tally: Tally,
    run: Callable[[Values], Values],
    declared: Sequence[Value],
    pairs: Iterable[tuple[Values, dict[str, Expected]]],
    limits: Limits,
) -> dict[str, str]:
    """Compare the outputs on one kind of feed. Return what is wrong besides the numbers, in words."""
    wrong: dict[str, str] = {}
    for feed, expected in pairs:
        try:
            outputs = run(feed)
        except UnsupportedModelError as error:
            return {"run": f"{tally.kind}: {error}"} | wrong
        for output, wanted in expected.items():
            found = outputs.get(output, ABSENT)
            if wanted.is_empty:
                tally.add(np.array([found.shape]), np.array([wanted.values.shape]), np.array(0.0))
            else:
                tally.add(found, wanted.values, *_find_tolerance(wanted, limits))
        wrong = dict(_find_misfits(declared, outputs)) | wrong
    return wrong


def _find_tolerance(wanted: Expected, limits: Limits) -> tuple[np.ndarray, np.ndarray | float | None]:
    """Return the tolerance of the values, and the tolerance that would hold if float32 were exact enough."""
    return limits.choose_tolerance(wanted.tolerance), None if limits.atol is not None else wanted.promised


def _find_misfits(declared: Sequence[Value], outputs: Values) -> Iterator[tuple[str, str]]:
    """Yield the names of outputs that are not as the file declares them, and how they differ."""
    for value in declared:
        array = outputs.get(value.name)
        if array is None:
            yield value.name, f"the model does not give the output {value.name}"
        elif isinstance(array, np.ndarray) and not _fits(value, array):
            yield value.name, f"an output is declared as {value}, but is {array.dtype}{list(array.shape)}"


def _fits(value: Value, array: np.ndarray) -> bool:
    if value.dtype and to_numpy_dtype(value.dtype) != array.dtype:
        return False
    if value.dims is None:
        return True
    literal = all(not isinstance(dim, int) or dim == size for dim, size in zip(value.dims, array.shape, strict=False))
    return len(value.dims) == array.ndim and literal
