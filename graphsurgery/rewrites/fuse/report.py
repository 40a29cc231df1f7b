"""The report on the parts that the optimizer should have fused, those that it fused, and why it left the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

ATTENTION, SKIP_NORM, ACTIVATION, EMBEDDINGS, ROTARY, NORM = (
    "attention", "skip norm", "gelu", "embedding norm", "rotary", "norm",
)  # fmt: skip
KINDS = (ATTENTION, SKIP_NORM, ACTIVATION, EMBEDDINGS, ROTARY, NORM)
COLUMNS = ("layer", "kind", "expected", "fused as", "why not")


@dataclass(frozen=True)
class Fusable:
    """A part of the encoder that should become one of the operators ``wanted``. Its layer is None for the embeddings."""

    kind: str
    layer: int | None
    wanted: tuple[str, ...]
    witness: str
    """A value of the unfused graph. Once the part is fused, the value does not exist any more, or another operator makes it."""
    output: str
    """The value that the fused operator gives."""
    operator: str
    """The operator that makes the witness in the unfused graph."""
    scale: str | None = None
    """The weights that the fused operator reads under the same name."""
    operands: tuple[str, ...] = ()
    """The values that must have the same shape."""
    other_first: str | None = None
    """The first operand of the sum, if the part is an attention and the second operand."""
    obstacles: tuple[str, ...] = ()
    """The reasons why its structure matches no pattern."""


@dataclass(frozen=True)
class Fusion:
    """What became of a part: the operator that it was fused into, if any, and the reasons if that is not a wanted one."""

    part: Fusable
    operator: str | None
    why: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """The reasons in one line, after the operator it became instead, if any."""
        only = f"only as {self.operator}: " if self.operator is not None and not self.fused else ""
        return only + "; ".join(self.why)

    @property
    def fused(self) -> bool:
        """Whether it became one of the wanted operators."""
        return self.operator in self.part.wanted

    def to_json(self) -> dict[str, Any]:
        return {
            "layer": self.part.layer, "kind": self.part.kind, "expected": self.part.wanted[0], "fused": self.fused,
            "fused_as": self.operator, "why_not": list(self.why),
        }  # fmt: skip


@dataclass(frozen=True)
class FusionReport:
    """What became of each part that should have fused, in the order in which the parts run."""

    fusions: tuple[Fusion, ...]

    @property
    def missed(self) -> tuple[Fusion, ...]:
        """The parts that were not fused, or became less than wanted."""
        return tuple(one for one in self.fusions if not one.fused)

    @property
    def complete(self) -> bool:
        """Whether there was something to fuse and all of it fused."""
        return bool(self.fusions) and not self.missed

    @property
    def counts(self) -> dict[str, tuple[int, int]]:
        """The numbers (fused, expected) by kind."""
        found = {kind: [one.fused for one in self.fusions if one.part.kind == kind] for kind in KINDS}
        return {kind: (sum(those), len(those)) for kind, those in found.items() if those}

    def __repr__(self) -> str:
        """Return one line. `to_json` gives everything."""
        return f"<{type(self).__name__} {self.summary}>"

    @property
    def summary(self) -> str:
        """One line: ``attention 12/12 · skip norm 24/24 · gelu 12/12 · embedding norm 1/1``."""
        counts = [f"{kind} {fused}/{all_}" for kind, (fused, all_) in self.counts.items()]
        return " · ".join(counts) or "nothing that could fuse was found"

    def add(self, fused: Mapping[str, str]) -> FusionReport:
        """Return the report after another rewrite made operators of some parts. ``fused`` names them by the part's witness."""
        names = [fused.get(one.part.witness) for one in self.fusions]
        pairs = zip(self.fusions, names, strict=True)
        return FusionReport(tuple(replace(one, operator=name, why=()) if name else one for one, name in pairs))

    def rows(self) -> tuple[tuple[str, ...], ...]:
        """Return the rows of a table with the columns `COLUMNS`."""
        return tuple(
            (
                _format_layers(one.part.kind, [one.part.layer]),
                one.part.kind,
                one.part.wanted[0],
                one.operator or "-",
                "; ".join(one.why),
            )
            for one in self.fusions
        )

    def misses(self) -> tuple[tuple[str, str, str], ...]:
        """Return (layers, kind, reason) of the missed parts, those of one kind and reason together."""
        found: dict[tuple[str, str], list[int | None]] = {}
        for one in self.missed:
            found.setdefault((one.part.kind, one.reason), []).append(one.part.layer)
        return tuple((_format_layers(kind, layers), kind, reason) for (kind, reason), layers in found.items())

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON-ready data."""
        counts = {kind: {"fused": fused, "expected": all_} for kind, (fused, all_) in self.counts.items()}
        fusions = [one.to_json() for one in self.fusions]
        return {"complete": self.complete, "summary": self.summary, "counts": counts, "fusions": fusions}


def _format_layers(kind: str, layers: list[int | None]) -> str:
    """Return layers as text: ``embeddings``, ``3``, ``0-5, 7``. A part that is in no layer and not the embeddings is ``-``."""
    numbers = sorted({layer for layer in layers if layer is not None})
    runs = [[number for _, number in run] for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    words = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return ", ".join([*(["embeddings" if kind == EMBEDDINGS else "-"] if None in layers else []), *words])
