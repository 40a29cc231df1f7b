"""A rewrite: a frozen dataclass whose fields are its parameters, as in an edit.

An edit changes what a model computes. A rewrite makes it compute the same with less or cheaper work. It changes the encoder
alone: `apply_rewrite` takes the recorded head off before, and puts it back afterwards.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from typing import Any, ClassVar, Self

import numpy as np

from graphsurgery.edits.edit import Edit
from graphsurgery.encoder.architecture import Architecture
from graphsurgery.errors import NothingToOptimizeError
from graphsurgery.interface import Interface
from graphsurgery.model.model import Model
from graphsurgery.progress import Progress, ignore_progress
from graphsurgery.report import Check
from graphsurgery.rewrites.fuse.report import FusionReport

Feed = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Context:
    """The services that a rewrite can use while it is applied."""

    feeds: Callable[[Model], Sequence[Feed]]
    """Draws inputs to run an encoder on, for rewrites that measure."""
    progress: Progress = ignore_progress
    """Called with what is about to be done."""
    whole: Model | None = None
    """The model with its head, for rewrites that need to know what the head reads."""


@dataclass(frozen=True)
class Rewritten:
    """The result of one rewrite."""

    encoder: Model
    recorded: dict[str, Any]
    """The parameters that the file records of the rewrite."""
    notes: tuple[str, ...] = ()
    head: tuple[Edit, ...] = ()
    """Edits to apply to the rewritten encoder. They replace a head that the rewrite took off."""
    unchanged: NothingToOptimizeError | None = None
    """The error to raise if an unchanged encoder is of no use to the caller; None if the encoder was changed."""
    keeps_goldens: bool = True
    """Whether the CPU can check the new model against the golden values of the old one."""
    golden_limits: tuple[float, float] | None = None
    """How far the new model's golden values may be off: the difference and the smallest cosine. None: as far as before."""
    architecture: Architecture | None = None
    fusions: FusionReport | None = None
    fused: Mapping[str, str] = field(default_factory=dict)
    """The operators that attentions became, by the value that their softmax gave."""
    loss: dict[str, Any] | None = None
    """For half precision, as JSON-ready data: the nodes that stay float32, and why."""


@dataclass(frozen=True)
class Rewrite(ABC):
    """Makes an encoder compute the same with less or cheaper work."""

    name: ClassVar[str]
    """Its name in recipes."""
    step: ClassVar[str] = "optimized"
    """The word in an output's file name: ``model.<step>.onnx``."""
    summary: ClassVar[str]
    exactness: ClassVar[str]
    """How far the outputs may be off: `FLOAT32` or `LOSSY`."""
    doing: ClassVar[str]
    """What the progress display says while the rewrite runs."""

    def check(self, model: Model) -> None:  # noqa: B027 (most rewrites take every model)
        """Raise the error that says why this cannot be done with ``model``, and what to do instead. Called before `resolve`."""

    def resolve(self, encoder: Model) -> Self:
        """Return this rewrite with every parameter filled in for ``encoder``."""
        return self

    @abstractmethod
    def apply(self, encoder: Model, context: Context) -> Rewritten:
        """Rewrite ``encoder``, a model without a recorded head. Called on a resolved rewrite.

        Raises UnsupportedModelError if it fails on this graph.
        """

    def list_fallbacks(self) -> Iterator[Self]:
        """Yield the rewrites to try if the result of this resolved one is wrong, the likeliest remedy first."""
        yield from ()

    def list_checks(self, before: Model) -> Sequence[Callable[[Model], Iterable[Check]]]:
        """Return further checks of a written file that this rewrite made of ``before``, beside the comparison of outputs."""
        return ()

    def interface(self, before: Interface) -> Interface:
        """Return what the rewritten model takes and gives, if its source takes and gives ``before``."""
        return before

    @property
    def label(self) -> str:
        """Its name among the candidates of a search. It tells versions of one rewrite with different parameters apart."""
        return self.name

    @property
    def least_cosine(self) -> float | None:
        """The least cosine that its claim allows on drawn feeds, if no other is asked for; None for the proof's own."""
        return None

    @property
    def is_for_gpus(self) -> bool:
        """Whether the rewritten model is meant for a device other than the CPU."""
        return False

    @classmethod
    @abstractmethod
    def from_record(cls, parameters: Mapping[str, Any]) -> Self | None:
        """Return the rewrite that a file's record describes, or None if the record is of other rewrites alone."""

    @classmethod
    def known(cls) -> tuple[Field[Any], ...]:
        """Return the fields that are parameters."""
        return tuple(one for one in fields(cls) if "help" in one.metadata)

    def parameters(self) -> dict[str, Any]:
        """Return the parameters as a recipe writes them."""
        values = {one.name: getattr(self, one.name) for one in self.known()}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def __str__(self) -> str:
        return self.name
