"""What the optimizer should have fused, what it did, and why not the rest: a value with renderings."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any

ATTENTION, SKIP_NORM, ACTIVATION, EMBEDDINGS, ROTARY, NORM = (
    "attention", "skip norm", "gelu", "embedding norm", "rotary", "norm",
)  # fmt: skip
KINDS = (ATTENTION, SKIP_NORM, ACTIVATION, EMBEDDINGS, ROTARY, NORM)
COLUMNS = ("layer", "kind", "expected", "fused as", "why not")


@dataclass(frozen=True)
class Fusable:
    """A part that should become one of the operators ``wanted``. ``layer`` is None for the embeddings."""

    kind: str
    layer: int | None
    wanted: tuple[str, ...]
    witness: str
    """A value of the unfused graph that is gone, or made by another operator, once the part is fused."""
    output: str
    """What the fused operator gives."""
    operator: str
    """What makes the witness in the unfused graph."""
    scale: str | None = None
    """Weights that the fused operator reads under the same name."""
    operands: tuple[str, ...] = ()
    """Values that should be of one shape."""
    other_first: str | None = None
    """Of an attention that is added as the second operand: the first one."""
    obstacles: tuple[str, ...] = ()
    """Why its structure fits no pattern."""


@dataclass(frozen=True)
class Fusion:
    """What became of a part: the operator that it was fused into (None: none), and why it is none of those expected."""

    part: Fusable
    operator: str | None
    why: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """Why it is not what was expected, in one line; what it was fused into instead, where it was."""
        only = f"only as {self.operator}: " if self.operator is not None and not self.fused else ""
        return only + "; ".join(self.why)

    @property
    def fused(self) -> bool:
        """Whether it became what was expected, not less."""
        return self.operator in self.part.wanted

    def to_json(self) -> dict[str, Any]:
        return {
            "layer": self.part.layer, "kind": self.part.kind, "expected": self.part.wanted[0], "fused": self.fused,
            "fused_as": self.operator, "why_not": list(self.why),
        }  # fmt: skip


@dataclass(frozen=True)
class FusionReport:
    """Everything that should have been fused, and what became of it, in the order in which it runs."""

    fusions: tuple[Fusion, ...]

    @property
    def missed(self) -> tuple[Fusion, ...]:
        """What was not fused, or into less than expected."""
        return tuple(one for one in self.fusions if not one.fused)

    @property
    def complete(self) -> bool:
        """Whether something was expected and all of it fused."""
        return bool(self.fusions) and not self.missed

    @property
    def counts(self) -> dict[str, tuple[int, int]]:
        """(fused, expected) by kind."""
        found = {kind: [one.fused for one in self.fusions if one.part.kind == kind] for kind in KINDS}
        return {kind: (sum(those), len(those)) for kind, those in found.items() if those}

    @property
    def summary(self) -> str:
        """One line: ``attention 12/12 · skip norm 24/24 · gelu 12/12 · embedding norm 1/1``."""
        counts = [f"{kind} {fused}/{all_}" for kind, (fused, all_) in self.counts.items()]
        return " · ".join(counts) or "nothing that could fuse was found"

    def rows(self) -> tuple[tuple[str, ...], ...]:
        """A table under `COLUMNS`."""
        return tuple(
            (
                _layers(one.part.kind, [one.part.layer]),
                one.part.kind,
                one.part.wanted[0],
                one.operator or "-",
                "; ".join(one.why),
            )
            for one in self.fusions
        )

    def misses(self) -> tuple[tuple[str, str, str], ...]:
        """What was missed, by kind and reason: (layers, kind, reason)."""
        found: dict[tuple[str, str], list[int | None]] = {}
        for one in self.missed:
            found.setdefault((one.part.kind, one.reason), []).append(one.part.layer)
        return tuple((_layers(kind, layers), kind, reason) for (kind, reason), layers in found.items())

    def to_json(self) -> dict[str, Any]:
        """The report as JSON-ready data."""
        counts = {kind: {"fused": fused, "expected": all_} for kind, (fused, all_) in self.counts.items()}
        fusions = [one.to_json() for one in self.fusions]
        return {"complete": self.complete, "summary": self.summary, "counts": counts, "fusions": fusions}


def _layers(kind: str, layers: list[int | None]) -> str:
    """Layers in words: ``embeddings``, ``3``, ``0-5, 7``; ``-`` where what comes before the first attention is of another
    kind, or no attention is known."""
    numbers = sorted({layer for layer in layers if layer is not None})
    runs = [[number for _, number in run] for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    words = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return ", ".join([*(["embeddings" if kind == EMBEDDINGS else "-"] if None in layers else []), *words])
