"""What is checked of a quantised file beside its outputs: its integer products, its independence of the batch, its budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np

from graphsurgery.compare.quality import Quality, QualityBudget, judge_quality, measure_quality
from graphsurgery.errors import GraphSurgeryError, RequestError, UnsupportedModelError
from graphsurgery.model.model import Model
from graphsurgery.model.once import Store, find_once
from graphsurgery.progress import Progress, ignore_progress
from graphsurgery.proof.integer_products import NAME as PRODUCTS
from graphsurgery.proof.integer_products import check_integer_products
from graphsurgery.proof.same_bits import measure_batch_dependence
from graphsurgery.proof.source_feeds import encode_texts, make_feed_generator
from graphsurgery.proof.text_quality import choose_vector_output
from graphsurgery.report import Check, Verdict
from graphsurgery.runtime.embedding import embed_texts
from graphsurgery.runtime.feeds import generate_text_feeds
from graphsurgery.runtime.session import Session, open_session
from graphsurgery.runtime.texts import JUDGE, Encoded, bundled_texts, read_texts

REAL_TEXT, BATCH = "real text", "independence of the batch"
LONGEST = 256
"""Texts are cut at this many tokens."""
MANY = 128
"""About this many texts are used to judge a file if no budget was asked for."""
FEW = 48
"""The texts on which products and the dependence on the batch are checked."""
ROUNDS = 2
MOST_APART = 1e-6
"""How far a number of a text's vector may be off in another batch, in addition to the source's own difference. The vectors have
length one."""
_WANTED: Store[np.ndarray] = WeakKeyDictionary()


class QuantizedJudge:
    """Judges quantised files of one source on texts, which the source embeds once."""

    def __init__(self, source: Model, texts: Sequence[str], progress: Progress = ignore_progress) -> None:
        """Raises RequestError if there is no tokenizer, or no output with one vector per text."""
        self.source = source
        self.progress = progress
        self.generator = make_feed_generator(source)
        self.texts = texts
        try:
            self.encoded = encode_texts(source, source, self.generator, self.texts, self.generator.limit_length(LONGEST))
        except GraphSurgeryError as error:
            what = f"a quantised file is judged on real text, and {error}"
            raise RequestError(what, error.advice or "put the model's tokenizer.json beside it") from error
        self.output = choose_vector_output(source)

    @cached_property
    def session(self) -> Session:
        return open_session(self.source)

    @cached_property
    def wanted(self) -> np.ndarray:
        """The source's vectors, ``[texts, dim]``. A search and the proof of what it found embed the texts once."""
        return find_once(_WANTED, self.source, (self.output, *self.texts), lambda: self._embed(self.session))

    def spread(self, count: int) -> Encoded:
        """Return ``count`` of the texts as a batch, at equal distances, or all if there are no more."""
        most = len(self.encoded.ids)
        return self.encoded.take(np.unique(np.linspace(0, most - 1, min(count, most)).astype(np.int64)).tolist())

    def measure(self, model: Model) -> Quality:
        """Return how near the vectors of ``model`` are to the source's. Raises UnsupportedModelError if it cannot be run."""
        return measure_quality(self.wanted, self._embed(open_session(model)))

    def check_quality(self, written: Model, least: float) -> Check:
        """Hold a file to the ``least`` cosine of any text."""
        quality = self.measure(written)
        return judge_quality(
            quality, QualityBudget(least), REAL_TEXT, f"{self.output} of both files on {len(self.texts)} texts"
        )

    def check_batches(self, written: Model, *, allowed: bool) -> Check:
        """Check that a text's vector depends no more on its batch than the source's does, but for float32's rounding.

        If more is ``allowed``, the check says how much it is.
        """
        try:
            theirs, own = (
                measure_batch_dependence(one, self.generator, self.spread(FEW), self.output, ROUNDS)
                for one in (self.session, open_session(written))
            )
        except UnsupportedModelError as error:
            return Check(BATCH, str(error), stated=Verdict.NOT_CHECKED)
        detail = (
            f"a number of a text's vector changes by up to {own.largest:.1e} with its batch and padding (the source's by "
            f"{theirs.largest:.1e}), as tried on {own.texts} texts"
        )
        if allowed:
            return Check(BATCH, f"not promised, with one range for the whole batch: {detail}", stated=Verdict.PASSED)
        is_free = own.largest <= theirs.largest + MOST_APART
        return Check(BATCH, detail, stated=Verdict.PASSED if is_free else Verdict.FAILED)

    def _embed(self, session: Session) -> np.ndarray:
        return embed_texts(session, self.generator, self.encoded, [self.output], self.progress)[self.output]


def check_quantized(
    source: Model, plain: Model, written: Model, counted: int, least: float, texts: str | None, *, batch_invariant: bool
) -> Iterator[Check]:
    """Yield the checks of a quantised file, which is said to compute ``counted`` products of ``source`` in integers.

    Args:
        plain: the source with its fused operators taken apart, so that its products are nodes.
        least: the least cosine on real text; 0 to hold the file to none.
        texts: the texts to judge by, as in `QuantizedJudge`.
        batch_invariant: whether a text's vector must not depend on its batch.
    """
    try:
        chosen = bundled_texts(JUDGE) if texts is None else read_texts(texts)
        judge = QuantizedJudge(source, chosen if least else chosen[:: max(1, len(chosen) // MANY)])
    except RequestError as error:
        if least:
            raise
        yield _check_products(plain, written, counted, None)
        yield Check(REAL_TEXT, error.message, stated=Verdict.NOT_CHECKED)
        return
    yield _check_products(plain, written, counted, judge)
    yield (
        judge.check_quality(written, least)
        if least
        else Check(REAL_TEXT, f"no budget was asked for; {judge.measure(written)}", stated=Verdict.PASSED)
    )
    yield judge.check_batches(written, allowed=not batch_invariant)


def _check_products(source: Model, written: Model, counted: int, judge: QuantizedJudge | None) -> Check:
    if not counted:
        return Check(PRODUCTS, "none is recorded", stated=Verdict.NOT_CHECKED)
    generator = make_feed_generator(source) if judge is None else judge.generator
    feeds: list[Mapping[str, np.ndarray]]
    if judge is None:
        feeds = [generator.generate(mask, 0) for _, masks in generator.generate_masks() for mask in masks[:1]]
    else:
        feeds = [feed for batch in judge.spread(FEW).split_into_batches() for feed in generate_text_feeds(generator, batch)]
    return check_integer_products(source, written, counted, feeds, generator.find_mask)
