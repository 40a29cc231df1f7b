"""The comparison of a lossy file with another on real text: by a budget of quality, and not by equality."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphsurgery.compare.quality import QualityBudget, judge_quality, measure_quality
from graphsurgery.compare.tolerance import NARROW
from graphsurgery.errors import GraphSurgeryError, RequestError, UnsupportedModelError
from graphsurgery.model.dtypes import FLOATS
from graphsurgery.model.model import Model
from graphsurgery.progress import Progress, ignore_progress
from graphsurgery.proof.pairing import Pairing
from graphsurgery.proof.relation import explain_other_inputs
from graphsurgery.proof.same_bits import measure_batch_dependence
from graphsurgery.proof.source_feeds import encode_texts, make_feed_generator
from graphsurgery.proof.whole_proof import FAR
from graphsurgery.remarks import Warn
from graphsurgery.report import Check, Report, Verdict
from graphsurgery.runtime.embedding import embed_texts
from graphsurgery.runtime.feeds import FeedGenerator
from graphsurgery.runtime.session import Session, open_session
from graphsurgery.runtime.texts import JUDGE, Encoded, bundled_texts, read_texts

NAME = "real text"
LONGEST = 512
"""Texts are cut at this many tokens, unless the longest that the model takes are asked for."""
WITHOUT_LIMIT = 1 << 20
"""More tokens than any text has."""
FEW_TEXTS, FEW_ROUNDS = 64, 2
"""The texts that are run alone and in random batches, and the number of these batches, to observe a dependence on the batch."""
SHOWN = 60
"""The characters of the worst text that a report shows."""
NOT_COVERED = (
    "drawn feeds (random ids, holes in the mask, rows without a token): a budget is judged on real text alone",
    "recorded edits: only the vectors of both files were compared",
)
Vectors = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class _Side:
    """One of the two models, opened, and its vectors of the texts."""

    session: Session
    vectors: Vectors


def verify_quality(
    output: Model,
    source: Model,
    texts: str | os.PathLike[str] | None,
    budget: QualityBudget,
    *,
    pairing: Pairing | None = None,
    full: bool = False,
    progress: Progress = ignore_progress,
) -> Report:
    """Hold the vectors that ``output`` gives to real texts against those of ``source``, by ``budget``.

    All float outputs of the same name with one vector per text are compared. What the files record plays no part.

    Args:
        texts: a UTF-8 file with one text a line; None for the texts of the package.
        pairing: which inputs and outputs belong together; None if those of the same name do, and no others.
        full: do not cut texts at `LONGEST` tokens, but at what the model takes.

    Raises:
        RequestError: the models take different inputs or give vectors of different widths; there is no tokenizer, or no output
            with one vector per text; and the errors of `measure_quality`, such as for too few texts.
        UnsupportedModelError: the feeds of ``source`` cannot be made.
    """
    other = explain_other_inputs(source, output) if pairing is None else None
    if other is not None:
        raise RequestError(other, "give two files with the same inputs, or --outputs to feed them what both take")
    generator = make_feed_generator(source) if pairing is None else pairing.generator
    chosen = bundled_texts(JUDGE) if texts is None else read_texts(os.fspath(texts))
    encoded = _encode(source, output, generator, chosen, WITHOUT_LIMIT if full else LONGEST)
    names = _list_outputs(source, output, generator) if pairing is None else list(pairing.outputs)
    try:
        first = _embed(open_session(source), generator, encoded, names, progress, "embedding texts by the source")
    except UnsupportedModelError as error:
        why = f"the source cannot be run: {error}"
        return Report((Check(NAME, why, stated=Verdict.NOT_CHECKED),), (), (f"{NAME}: {why}",))
    try:
        session = open_session(output) if pairing is None else pairing.open_output()
        second = _embed(session, generator, encoded, names, progress, "embedding texts by the model")
    except UnsupportedModelError as error:
        why = f"the source can be run and the model cannot: {error}"
        return Report((Check(NAME, why, stated=Verdict.FAILED),), (), NOT_COVERED)
    compared = _choose_outputs(first.vectors, second.vectors)
    whose = "the package" if texts is None else os.fspath(texts)
    described = f"the {len(chosen)} texts of {whose}, of up to {encoded.mask.sum(axis=1).max()} tokens"
    checks = [_check_output(name, first.vectors[name], second.vectors[name], budget, described, chosen) for name in compared]
    progress("observing the dependence on the batch")
    observed = [_observe_dependence(first.session, second.session, generator, encoded, name) for name in compared]
    remarks = pairing.remarks if pairing is not None else ()
    lone = pairing.left_out if pairing is not None else ()
    return Report(tuple(checks), (*remarks, *observed), (*lone, *_list_left_out(names, compared, budget), *NOT_COVERED))


def choose_vector_output(model: Model) -> str:
    """Return the first output of ``model`` with one float vector per text. Raises RequestError if there is none."""
    names = _list_outputs(model, model, make_feed_generator(model))
    if not names:
        what = "the model has no float output with one vector per text"
        raise RequestError(what, "append a head first (graphsurgery add-pooling)")
    return names[0]


def _encode(source: Model, output: Model, generator: FeedGenerator, texts: Sequence[str], longest: int) -> Encoded:
    try:
        return encode_texts(source, output, generator, texts, generator.limit_length(longest))
    except GraphSurgeryError as error:
        advice = error.advice or "compare the files by --min-cosine or --atol, on drawn feeds"
        raise RequestError(f"neighbours and ranks are judged on real text, and {error}", advice) from error


def _list_outputs(source: Model, output: Model, generator: FeedGenerator) -> list[str]:
    """Return the float outputs of both models that may be one vector per text, by what is declared."""
    mask = generator.roles.mask
    per_token = mask.dims if mask is not None else None
    shared = [value for value in output.interface.outputs if source.interface.output(value.name) is not None]
    sides = [(value, source.interface.output(value.name)) for value in shared]
    return [
        value.name
        for value, other in sides
        if other is not None
        and all(one.dtype in FLOATS and one.rank in (2, None) for one in (value, other))
        and (other.dims is None or other.dims != per_token or isinstance(other.dims[-1], int))
    ]


def _embed(
    session: Session, generator: FeedGenerator, texts: Encoded, names: Sequence[str], progress: Progress, doing: str
) -> _Side:
    return _Side(session, embed_texts(session, generator, texts, names, progress, doing) if names else {})


def _choose_outputs(wanted: Vectors, found: Vectors) -> list[str]:
    """Return the outputs that both models give as vectors with a direction.

    Raise RequestError if there are none, or if they are not equally wide.
    """
    for name in wanted:
        if name in found and wanted[name].shape != found[name].shape:
            raise RequestError(
                f"{name} of the model is {found[name].shape[1]} wide, and that of the source {wanted[name].shape[1]}",
                "give two files whose vectors are equally wide",
            )
    names = [name for name in wanted if name in found and wanted[name].shape[1] > NARROW]
    if not names:
        raise RequestError(
            "the models have no float output in common that gives one vector of more than two numbers per text",
            "append the head to both (add-pooling), or compare them by --min-cosine or --atol alone",
        )
    return names


def _check_output(
    name: str, wanted: np.ndarray, found: np.ndarray, budget: QualityBudget, described: str, texts: Sequence[str]
) -> Check:
    quality = measure_quality(wanted, found, budget.top_k)
    worst = " ".join(texts[quality.worst_text].split())
    shown = worst if len(worst) <= SHOWN else f"{worst[: SHOWN - 3]}..."
    detail = f"{name} of both models on {described}; the worst text is number {quality.worst_text + 1}: {shown}"
    if quality.paired < quality.texts:
        detail += f"; neighbours and ranks are those of {quality.paired} of them"
    return judge_quality(quality, budget, NAME, detail)


def _observe_dependence(source: Session, output: Session, generator: FeedGenerator, texts: Encoded, name: str) -> str:
    """Say how much a vector depends on the other texts in its batch and on padding, in both models."""
    some = np.unique(np.rint(np.linspace(0, len(texts.ids) - 1, FEW_TEXTS)).astype(np.int64)).tolist()
    few = texts.select(some)
    try:
        theirs, own = (measure_batch_dependence(one, generator, few, name, FEW_ROUNDS) for one in (source, output))
    except UnsupportedModelError as error:
        return f"not measured how much other texts in the batch and padding change {name}: {error}"
    what = f"with other texts in the batch and with padding, as tried on {own.texts} texts"
    if not own.differing and not theirs.differing:
        return f"{name} of a text is the same bits {what}, by both models"
    if own.largest > FAR and own.largest > theirs.largest:
        what += "; so the figures depend on the batches, which here are of texts of like length"
        return Warn(f"{name} of a text changes by up to {own.largest:.1e} (the source's by {theirs.largest:.1e}) {what}")
    return f"{name} of a text changes by up to {own.largest:.1e} (the source's by {theirs.largest:.1e}) {what}"


def _list_left_out(names: Sequence[str], compared: Sequence[str], budget: QualityBudget) -> list[str]:
    left_out = [
        f"output {name}: it is not one vector of more than two numbers per text" for name in names if name not in compared
    ]
    if budget.min_cosine is None and budget.min_overlap is None and budget.rank is None:
        left_out.append("the figures: no bound was given (--min-cosine, --min-overlap, --rank), so they were not judged")
    return left_out
