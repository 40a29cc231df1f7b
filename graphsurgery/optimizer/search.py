"""Search for the boldest rewrites whose result is right.

The search knows nothing about the rewrites themselves. One of them may offer safer versions of itself, which are tried in turn
until the rewritten file gives the source's outputs. A lossy rewrite comes after all others, and only once their result is
proven. If it loses too much, the others are not at fault, so nothing else is tried. Further rewrites may follow at the end.
They are tried together, then one by one, and left out if they make the file wrong or, on this CPU, slower.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain as concatenate
from types import MappingProxyType

from graphsurgery.compare.timing import measure_times
from graphsurgery.compare.tolerance import LOSSY, NO_LIMITS, Limits
from graphsurgery.errors import GraphSurgeryError, UnsupportedModelError, VerificationFailed, require_value
from graphsurgery.model.loading import load
from graphsurgery.model.model import Model
from graphsurgery.model.staging import Stage
from graphsurgery.outcome import Outcome, Output, describe_output, explain_failure, list_attempts, require_wanted
from graphsurgery.progress import Progress
from graphsurgery.proof.rewrite_proof import RewriteProof
from graphsurgery.report import Verdict
from graphsurgery.rewrites.apply import Applied, apply_rewrite
from graphsurgery.rewrites.fuse.report import FusionReport
from graphsurgery.rewrites.head_parts import Parts, split_head
from graphsurgery.rewrites.rewrite import Context, Rewrite, Rewritten
from graphsurgery.runner import Writing, check_goldens, commit, find_sources, make_claim
from graphsurgery.runtime.session import Session, open_session

LOG = logging.getLogger(__name__)
Chain = tuple[Applied, ...]


class SlowerError(Exception):
    """A candidate that is slower than without its last rewrites. The message says by how much."""


@dataclass
class Search:
    """A search over lists of rewrites of one source."""

    source: Model
    proof: RewriteProof
    writing: Writing
    limits: Limits
    verify: bool
    time: bool
    progress: Progress
    doubts: tuple[str, ...] = ()
    """Warnings about the source, for every outcome."""
    attempts: list[str] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set)

    def run(self, rewrites: Sequence[Rewrite], finish: Mapping[str, Rewrite] = MappingProxyType({})) -> Outcome:
        """Return the outcome of the first candidate that is right.

        Args:
            finish: rewrites to apply at the end, by the kind of part that they fuse. Each is applied if the exact rewrites, in
                their boldest form, missed a part of its kind. If the result is wrong, or slower than without them, each is
                tried alone.

        Raises VerificationFailed if none is, or if with ``strict`` not everything fused or there is a warning;
        NothingToOptimizeError if the first candidate changes nothing; UnsupportedModelError if no candidate can be made.
        """
        for rewrite in rewrites:
            rewrite.check(self.source)
        exact = [one for one in rewrites if one.exactness != LOSSY]
        lossy = [one for one in rewrites if one.exactness == LOSSY]
        if not exact:
            return self._judge(self._write(self.apply((), lossy)))
        last = None
        for label, chain, rival in self._make_candidates(exact, finish, is_alone=not lossy):
            try:
                last = self._try_candidate(chain, lossy, rival)
            except SlowerError as error:
                self.attempts.append(f"{label}: {error}")
                continue
            if last.report is None or last.report.verdict is not Verdict.FAILED:
                break
            self.attempts.append(f"{label}: {explain_failure(last.report)}")
            if last.loss is not None:
                break
        if last is None:
            what = f"no rewrite of this graph could be made: {list_attempts(self.attempts)}"
            raise UnsupportedModelError(what, "optimize it with --portable")
        return self._judge(replace(last, attempts=tuple(self.attempts)))

    def _make_candidates(
        self, rewrites: Sequence[Rewrite], finish: Mapping[str, Rewrite], *, is_alone: bool
    ) -> Iterator[tuple[str, Chain, Chain | None]]:
        """Yield each candidate, applied, with its label, and the one to compare its speed with; each graph once.

        The candidates differ in the first rewrite that offers safer versions, and in which of ``finish`` follow the boldest.

        Args:
            is_alone: whether no rewrite follows. A candidate that changes nothing is then of no use.
        """
        place = next(
            (place for place, one in enumerate(rewrites) if any(True for _ in one.list_fallbacks())), len(rewrites) - 1
        )
        base = self.apply((), rewrites[:place])
        parts = split_head(self.get_model(base))
        boldest = rewrites[place].resolve(parts.encoder)
        others = tuple(boldest.list_fallbacks())
        for one in (boldest, *others):
            try:
                chain = self.apply(base, (one, *rewrites[place + 1 :]), parts)
            except UnsupportedModelError as error:
                if not others:
                    raise
                self.attempts.append(f"{one}: {error}")
                continue
            finishing = self._finish(chain, finish) if one is boldest else iter(())
            longest = next(finishing, None)
            if is_alone and not _select_changes(longest or chain):
                if self.attempts:
                    continue
                raise require_value(chain[-1].result.unchanged, "why nothing was changed")
            yield from self._label(chain, longest, finishing)
            if (_select_changes(chain) or not is_alone) and self._is_new(_select_changes(chain)):
                yield str(one), chain, None

    def _label(self, chain: Chain, longest: Chain | None, others: Iterator[Chain]) -> Iterator[tuple[str, Chain, Chain]]:
        """Yield ``longest`` and ``others``, which continue ``chain``, as candidates that must not be slower than ``chain``."""
        for longer in concatenate([] if longest is None else [longest], others):
            if self._is_new(_select_changes(longer)):
                yield " + ".join(str(one.rewrite) for one in longer[len(chain) - 1 :]), longer, chain

    def _finish(self, chain: Chain, finish: Mapping[str, Rewrite]) -> Iterator[Chain]:
        """Yield ``chain`` followed by those of ``finish`` that have something to do: all of them, then each alone."""
        missed = {part.part.kind for one in chain if one.result.fusions is not None for part in one.result.fusions.missed}
        useful: list[Rewrite] = []
        longest = chain
        for rewrite in (one for kind, one in finish.items() if kind in missed):
            longer = self._extend(longest, rewrite)
            if longer is not None:
                useful.append(rewrite)
                longest = longer
        if useful:
            yield longest
        for rewrite in useful if len(useful) > 1 else ():
            alone = self._extend(chain, rewrite)
            if alone is not None:
                yield alone

    def _extend(self, chain: Chain, rewrite: Rewrite) -> Chain | None:
        """Return ``chain`` followed by ``rewrite``. None if that has nothing to do, or cannot be done."""
        try:
            rewrite.check(self.get_model(chain))
            longer = self.apply(chain, (rewrite,))
        except UnsupportedModelError as error:
            self.attempts.append(f"{rewrite}: {error}")
            return None
        return longer if longer[-1].result.unchanged is None else None

    def apply(self, chain: Chain, rewrites: Sequence[Rewrite], parts: Parts | None = None) -> Chain:
        """Apply ``rewrites`` after those of ``chain``. ``parts``: the encoder and the head of its model, if they are known."""
        context = Context(self.proof.feeds, self.progress)
        for rewrite in rewrites:
            chain, parts = (*chain, apply_rewrite(rewrite, self.get_model(chain), context, parts)), None
        return chain

    def get_model(self, chain: Chain) -> Model:
        """Return the source after the rewrites of ``chain``."""
        return chain[-1].after if chain else self.source

    def describe_source(self) -> Outcome:
        """Return an outcome in which nothing was made."""
        return Outcome(self.source, (Output(self.source, self.writing.place),), remarks=(*self.source.remarks, *self.doubts))

    def _is_new(self, changed: Chain) -> bool:
        """Return whether this graph was not made before. Leaving a fusion out often changes nothing."""
        graph = changed[-1].result.encoder.fingerprint if changed else ""
        is_new = graph not in self._seen
        self._seen.add(graph)
        return is_new

    def _try_candidate(self, chain: Chain, lossy: Sequence[Rewrite], rival: Chain | None) -> Outcome:
        """Prove a candidate. Lossy rewrites are applied to it once it is proven without them."""
        if not lossy:
            return self._write(chain, rival)
        if self.verify and _select_changes(chain):
            outcome = self._write(chain, is_trial=True)
            if outcome.report is not None and outcome.report.verdict is Verdict.FAILED:
                return outcome
        return self._write(self.apply(chain, lossy))

    def _write(self, chain: Chain, rival: Chain | None = None, *, is_trial: bool = False) -> Outcome:
        """Write the last model of ``chain`` under a temporary name, prove and time it, and give it its name if it is right.

        A trial gets no name and is held to the proof's own limits. Raises SlowerError if the file is slower than ``rival``.
        """
        outcome = self._describe(chain)
        with self.writing.stage(outcome.model) as stage:
            if self.verify:
                self.progress("proving the file")
                written = load(stage.path)
                proven = self.proof.compare(written, make_claim(chain, NO_LIMITS if is_trial else self.limits))
                report = check_goldens(proven.report, written)
                outcome = replace(outcome, report=report, loss=(outcome.loss or {}) | proven.loss or None)
            if is_trial or not outcome.is_right or self._is_refused(outcome):
                return outcome
            if self.time and rival is not None:
                self._require_as_fast(rival, chain, stage)
            if self.time:
                outcome = self._add_timings(outcome, chain, stage)
            if self.writing.dry_run:
                return outcome
            return outcome.with_saved(commit(stage, find_sources(self.source), outcome.report))

    def _describe(self, chain: Chain) -> Outcome:
        """Return the outcome of ``chain`` before its proof."""
        results = [one.result for one in chain]
        return Outcome(
            self.source,
            (Output(chain[-1].after, self.writing.place),),
            remarks=(*self.source.remarks, *self.doubts, *dict.fromkeys(note for one in chain for note in one.notes)),
            architecture=next((one.architecture for one in results if one.architecture is not None), None),
            fusions=_join_fusions(results),
            loss=next((one.loss for one in results if one.loss is not None), None),
        )

    def _add_timings(self, outcome: Outcome, chain: Chain, stage: Stage) -> Outcome:
        """Add how long both files take, or a note that says why this cannot be measured."""
        self.progress("timing both files")
        is_for_gpus = any(one.rewrite.is_for_gpus for one in chain)
        try:
            sessions = open_session(self.source), Session(stage.path)
            timings = measure_times(*sessions, self.proof.same.generator, is_for_gpus, self.progress)
        except GraphSurgeryError as error:
            return replace(outcome, remarks=(*outcome.remarks, f"not timed: {error.message}"))
        return replace(outcome, timings=timings)

    def _require_as_fast(self, rival: Chain, chain: Chain, stage: Stage) -> None:
        """Raise SlowerError if the staged file, the end of ``chain``, is slower than the end of ``rival`` on this CPU."""
        if any(one.rewrite.is_for_gpus for one in chain):
            return
        self.progress("timing the file with and without its last rewrites")
        try:
            timings = measure_times(open_session(self.get_model(rival)), Session(stage.path), self.proof.same.generator)
        except GraphSurgeryError as error:
            LOG.debug("not timed: %s", error.message)
            return
        if timings.helped is False:
            raise SlowerError(f"slower on this machine than without that ({timings})")

    def _is_refused(self, outcome: Outcome) -> bool:
        """Return whether ``strict`` refuses the file: there is a warning, something did not fuse, or nothing was to fuse."""
        misses = outcome.fusions is not None and not outcome.fusions.complete
        return self.writing.strict and (misses or bool(outcome.warnings))

    def _judge(self, outcome: Outcome) -> Outcome:
        """Return ``outcome`` if it is right. Otherwise raise VerificationFailed, and keep the file if that was asked for."""
        if outcome.is_right and not self._is_refused(outcome):
            return outcome
        if self.writing.keep_failed and not self.writing.dry_run:
            with self.writing.stage(outcome.model) as stage:
                outcome = outcome.with_saved(commit(stage, find_sources(self.source), outcome.report))
        require_wanted(outcome, strict=self.writing.strict)
        fusions = require_value(outcome.fusions, "what fused")
        missed = len(fusions.missed)
        what = f"{missed} parts that should have fused did not: {fusions.summary}" if missed else fusions.summary
        raise VerificationFailed(
            f"{what}; {describe_output(outcome, outcome.output)}", "see the table; or leave out --strict", outcome
        )


def _join_fusions(results: Sequence[Rewritten]) -> FusionReport | None:
    """Return what fused, with what later rewrites made of the parts that were missed."""
    report = next((one.fusions for one in results if one.fusions is not None), None)
    for one in results:
        report = None if report is None else report.add(one.fused)
    return report


def _select_changes(chain: Chain) -> Chain:
    """Return the rewrites of ``chain`` that changed something."""
    return tuple(one for one in chain if one.result.unchanged is None)
