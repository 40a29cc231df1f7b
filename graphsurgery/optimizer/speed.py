"""Choose the rewrites that make a file fastest here: every candidate is measured beside the source, on the same batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product

from graphsurgery.compare.choice import Candidate, Choice
from graphsurgery.compare.timing import Timing, race
from graphsurgery.errors import GraphSurgeryError, NothingToOptimizeError, SurroundingsError, VerificationFailed
from graphsurgery.model.model import Model
from graphsurgery.optimizer.search import Chain, Search
from graphsurgery.optimizer.workload import Batch
from graphsurgery.outcome import Optimized, list_attempts
from graphsurgery.rewrites.compute_pooled_token import PooledToken
from graphsurgery.rewrites.fuse_attention import FuseAttention
from graphsurgery.rewrites.fuse_encoder import Fuse
from graphsurgery.rewrites.fuse_rotary import FuseRotary
from graphsurgery.rewrites.pack_tokens import PaddingFree
from graphsurgery.rewrites.padding_free.lower import GATHER, ROW_BY_ROW
from graphsurgery.rewrites.rewrite import Rewrite
from graphsurgery.rewrites.simplify_encoder import Simplify
from graphsurgery.runtime.session import open_session

MOST_BYTES = 2 << 30
"""The weights of the files that are loaded at once."""
SECONDS = 2.0
"""How long one batch is timed, in seconds; five rounds at least."""


@dataclass
class SpeedSearch:
    """A search for the fastest of many lists of rewrites. The chosen one is proven and written as `Search` does it."""

    search: Search
    batches: Sequence[Batch]
    _chains: dict[tuple[Rewrite, ...], Chain] = field(default_factory=dict)

    def run(self, candidates: Sequence[tuple[Rewrite, ...]]) -> Optimized:
        """Measure the candidates, and return the outcome of the fastest one that is right.

        Raises:
            NothingToOptimizeError: none is clearly faster than the source.
            SurroundingsError: the machine is too busy to judge.
            And what `Search.run` raises, if nothing that is faster is right.
        """
        by_name = {name_candidate(one): one for one in candidates}
        made = list(self._apply_all(by_name))
        tried = sorted(self._measure(made), key=lambda one: -(one.ratio or 0))
        failure: VerificationFailed | None = None
        for place, one in enumerate(tried):
            if not one.is_faster:
                continue
            try:
                outcome = self.search.run(by_name[one.name])
            except VerificationFailed as error:
                failure = failure or error
                tried[place] = replace(one, why_not=error.message)
                continue
            return replace(outcome, choice=Choice(tuple(tried), one.name))
        if failure is not None:
            raise failure
        _require_quiet(tried)
        raise NothingToOptimizeError(_describe(tried), "keep the file, or name a --workload that is like yours")

    def _apply_all(self, candidates: Mapping[str, tuple[Rewrite, ...]]) -> Iterator[tuple[Candidate, Model | None]]:
        """Yield each candidate with its model, or with None if there is none. Equal models are made once.

        A candidate with a rewrite that changes nothing is the same as one without it, and is left out.
        """
        seen: dict[str, Candidate] = {}
        for name, rewrites in candidates.items():
            one = Candidate(name)
            try:
                model = self._apply(rewrites)
            except NothingToOptimizeError as error:
                if len(rewrites) == 1:
                    yield replace(one, why_not=error.message), None
                continue
            except GraphSurgeryError as error:
                yield replace(one, why_not=error.message), None
                continue
            same = seen.setdefault(model.fingerprint, one)
            if same is one:
                yield one, model
            else:
                yield replace(one, why_not=f"the same file as {same.name}"), None

    def _apply(self, rewrites: tuple[Rewrite, ...]) -> Model:
        """Return the source after ``rewrites``. Raise their error if one of them is refused or changes nothing."""
        chain: Chain = ()
        for place, rewrite in enumerate(rewrites):
            known = self._chains.get(rewrites[: place + 1])
            if known is None:
                rewrite.check(self.search.get_model(chain))
                known = self.search.apply(chain, [rewrite])
                unchanged = known[-1].result.unchanged
                if unchanged is not None:
                    raise unchanged
                self._chains[rewrites[: place + 1]] = known
            chain = known
        return self.search.get_model(chain)

    def _measure(self, made: Sequence[tuple[Candidate, Model | None]]) -> Iterator[Candidate]:
        """Yield the candidates with their times. As many files as fit into `MOST_BYTES` are measured together."""
        yield from (one for one, model in made if model is None)
        ready = [(one, model) for one, model in made if model is not None]
        at_once = max(1, MOST_BYTES // max(1, self.search.source.weight_bytes) - 1)
        for start in range(0, len(ready), at_once):
            yield from self._measure_together(ready[start : start + at_once])

    def _measure_together(self, made: Sequence[tuple[Candidate, Model]]) -> Iterator[Candidate]:
        sessions = [open_session(model) for model in (self.search.source, *(model for _, model in made))]
        timings: list[list[Timing]] = [[] for _ in made]
        for batch in self.batches:
            self.search.progress(f"timing {len(made)} candidates on {batch}")
            rounds = race([partial(one.run, batch.feed) for one in sessions], SECONDS)
            for place, those in enumerate(timings, 1):
                pairs = tuple((one[0], one[place]) for one in rounds)
                those.append(Timing(batch.texts, batch.tokens, pairs, batch.fill, batch.unit))
        for (one, _), those in zip(made, timings, strict=True):
            yield replace(one, timings=tuple(those))


def _require_quiet(tried: Sequence[Candidate]) -> None:
    """Raise SurroundingsError if the times scatter so far that a faster candidate may have been missed."""
    timings = [timing for one in tried for timing in one.timings]
    scattered = [timing for timing in timings if timing.is_unjudged]
    if scattered:
        what = f"the machine is too busy to judge: {len(scattered)} of {len(timings)} speed-ups vary by more than a quarter"
        raise SurroundingsError(what, "try again when nothing else runs, or choose the rewrites by a recipe")


def list_candidates(*, portable: bool, rotary: bool) -> list[tuple[Rewrite, ...]]:
    """Return the lists of rewrites to try: one way to fuse or simplify, or none, then what the head does not need left out.

    Args:
        portable: whether every operator stays a standard one.
        rotary: whether there are rotary positions to fuse.
    """
    kind = "standard" if portable else "vendor"
    positions, attention = FuseRotary(kind), FuseAttention(kind)
    fused: list[tuple[Rewrite, ...]] = [(attention,), *([] if portable else [(Fuse(),), (Fuse(), attention)])]
    rotated = [(positions,), (positions, attention), *([] if portable else [(Fuse(), positions, attention)])]
    bases = [(), (Simplify(),), *fused, *(rotated if rotary else [])]
    form = GATHER if portable else ROW_BY_ROW
    less = [(), (PooledToken(),), (PaddingFree(form),), (PaddingFree(form, keep_padded=True),)]
    return [(*base, *rest) for base, rest in product(bases, less) if base or rest]


def name_candidate(rewrites: Sequence[Rewrite]) -> str:
    return " + ".join(one.label for one in rewrites)


def _describe(tried: Sequence[Candidate]) -> str:
    """Say that no candidate is clearly faster, and how fast the fastest are."""
    timed = [f"{one.name} {one.ratio:.2f}x" for one in tried if one.ratio is not None]
    refused = [f"{one.name}: {one.why_not}" for one in tried if one.ratio is None]
    found = f": {', '.join(timed)}" if timed else f", because none could be made: {list_attempts(refused)}"
    return f"no candidate is clearly faster than the file itself on this machine{found}"
