"""What a planted fault is: a right output, made by graphsurgery, and one line that spoils it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from typing import Any

import onnx
from encoders import tiny_encoder
from planting import Plant

import graphsurgery
from graphsurgery.edits.edit import Edit

MODES = ("cls", "mean", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


@dataclass(frozen=True, eq=False)
class Case:
    """A right output to be spoilt: ``encoder`` pooled with ``pooling``, unless that is empty; ``unit`` appends add-normalize as
    a second step, ``edits`` appends those.

    ``alone``: the pooled model, not the encoder, is what the output is proven against.
    """

    pooling: Mapping[str, Any]
    encoder: Mapping[str, Any] = field(default_factory=dict)
    unit: bool = False
    alone: bool = False
    edits: Sequence[Edit] = ()

    @cached_property
    def source(self) -> onnx.ModelProto:
        return self._pooled if self.alone else self._encoder

    @cached_property
    def loaded(self) -> graphsurgery.Model:
        """The source, loaded once for all faults."""
        return graphsurgery.load(self.source)

    @cached_property
    def output(self) -> onnx.ModelProto:
        steps = [*([graphsurgery.AddNormalize()] if self.unit else []), *self.edits]
        return reduce(lambda model, edit: edit.apply(model), steps, graphsurgery.load(self._pooled)).to_proto()

    @cached_property
    def _encoder(self) -> onnx.ModelProto:
        return tiny_encoder(**self.encoder)

    @cached_property
    def _pooled(self) -> onnx.ModelProto:
        return graphsurgery.add_pooling(self._encoder, **self.pooling).to_proto() if self.pooling else self._encoder


def pooling(mode: str, encoder: Mapping[str, Any] | None = None, **parameters: Any) -> Case:
    """``mode`` pooling of a tiny encoder, with these parameters of add-pooling."""
    return Case({"mode": mode, **parameters}, encoder or {})


@dataclass(frozen=True, eq=False)
class Fault:
    """``plant`` spoils the output of ``case``."""

    where: str
    what: str
    case: Case
    plant: Callable[[Plant], Any]
    why: str = ""
    """Of an equivalent fault: why no proof could tell it from the right output."""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"

    def spoilt(self) -> onnx.ModelProto:
        proto = onnx.ModelProto()
        proto.CopyFrom(self.case.output)
        self.plant(Plant(proto))
        assert proto != self.case.output, "nothing was planted"
        return proto


Line = tuple[str, Callable[[Plant], Any]] | tuple[str, Callable[[Plant], Any], str]


def table(where: str, case: Case, *lines: Line) -> list[Fault]:
    """A row for each line: what is wrong, how it is planted, and, of equivalents, why nothing could tell."""
    return [Fault(where, line[0], case, *line[1:]) for line in lines]
