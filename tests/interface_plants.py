"""Faults that show on one kind of text alone, planted at every kind of interface: what a proof must catch, and where.

A fault adds 0.5 to everything that is computed of a row (or of a position) that fulfils its condition, which is computed from
the mask within the graph. It is planted in three places: in an encoder that is held against the one before ("rewritten"), in
the same held against it by a cosine alone ("by cosine"), and in a head that was appended ("head").
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from encoders import HIDDEN, MASK, POSITIONS, tiny_encoder
from onnx import TensorProto, helper, numpy_helper

import graphsurgery
from graphsurgery.report import Report

BATCH, LENGTH = 3, 16
INTERFACES: dict[str, tuple[int | str, int | str]] = {
    "dynamic": ("batch", "sequence"),
    "batch of 1": (1, "sequence"),
    "batch of 3": (BATCH, "sequence"),
    "length of 16": ("batch", LENGTH),
    "1 x 16": (1, LENGTH),
    "3 x 16": (BATCH, LENGTH),
}
EMBEDDING = "sentence_embedding"
PLACES = ("rewritten", "by cosine", "head")
SIZE = 0.5
"""What is added."""


class Conditions:
    """Nodes that compute, from the mask, where a fault shows: ``[batch, 1]`` or ``[batch, seq]`` bool."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.nodes: list[onnx.NodeProto] = []
        self.mask = self.add("Cast", MASK, to=TensorProto.INT64)

    def add(self, op: str, *inputs: str, **attributes: object) -> str:
        name = f"planted/{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name, **attributes))
        return name

    def number(self, value: object) -> str:
        name = f"planted/number{len(self.graph.initializer)}"
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def tokens(self) -> str:
        """How many tokens each row has, ``[batch, 1]``."""
        return self.add("ReduceSum", self.mask, self.number(np.array([1])), keepdims=1)

    def width(self) -> str:
        """How many positions there are, ``[1]``."""
        return self.add("Gather", self.add("Shape", self.mask), self.number(np.array([1])), axis=0)

    def column(self, start: int, end: int) -> str:
        """A part of the mask, ``[batch, n]``."""
        places = [self.number(np.array([value])) for value in (start, end, 1)]
        return self.add("Slice", self.mask, *places)

    def equals(self, one: str, value: object) -> str:
        return self.add("Equal", one, value if isinstance(value, str) else self.number(np.array(value)))

    def both(self, one: str, other: str) -> str:
        return self.add("And", one, other)

    def some_token(self) -> str:
        return self.add("Greater", self.tokens(), self.number(np.array(0)))

    def pieces(self) -> str:
        """In how many pieces each row's tokens stand, ``[batch, 1]``: starts are positions whose token follows padding."""
        padded = self.add("Pad", self.mask, self.number(np.array([0, 1, 0, 0])))
        before = self.add("Slice", padded, *[self.number(np.array([value])) for value in (0, -1, 1)])
        starts = self.add("Greater", self.mask, before)
        counted = self.add("Cast", starts, to=TensorProto.INT64)
        return self.add("ReduceSum", counted, self.number(np.array([1])), keepdims=1)

    def row(self) -> str:
        """Each row's number in the batch, ``[batch, 1]``."""
        ones = self.add("Equal", self.tokens(), self.tokens())
        return self.add("CumSum", self.add("Cast", ones, to=TensorProto.INT64), self.number(np.array(0)))

    def long(self, least: int) -> str:
        """Whether the sequence has as many positions, ``[batch, 1]``."""
        long = self.add("GreaterOrEqual", self.width(), self.number(np.array([least])))
        return self.both(long, self.some_token())


def always(_batch: int | str, _sequence: int | str) -> bool:
    return True


@dataclass(frozen=True)
class Kind:
    """A kind of fault: what is added to every value of a row, ``[batch, 1]`` or ``[batch, seq]`` float32, or (``scale``) what
    they are multiplied by; and at which interfaces, by their dims, a text that it shows on can go in."""

    amount: Callable[[Conditions], str]
    possible: Callable[[int | str, int | str], bool] = always
    places: tuple[str, ...] = PLACES
    scale: bool = False


def where(condition: Callable[[Conditions], str]) -> Callable[[Conditions], str]:
    """`SIZE` where the condition holds."""
    return lambda to: to.add("Mul", to.add("Cast", condition(to), to=TensorProto.FLOAT), to.number(np.float32(SIZE)))


def _in_one_piece(first: int, last: int) -> Callable[[Conditions], str]:
    """Rows whose tokens stand in one piece, and whose first and last positions are tokens (1) or padding (0)."""

    def condition(to: Conditions) -> str:
        ends = to.both(to.equals(to.column(0, 1), first), to.equals(to.column(-1, 1 << 40), last))
        return to.both(ends, to.equals(to.pieces(), 1))

    return condition


def _sequence_of_one(to: Conditions) -> str:
    return to.both(to.equals(to.width(), np.array([1])), to.some_token())


def _no_number(to: Conditions) -> str:
    """NaN for the last text of a batch."""
    last = to.equals(to.row(), to.add("ReduceMax", to.row(), keepdims=1))
    return to.add("Where", to.both(last, to.some_token()), to.number(np.float32(np.nan)), to.number(np.float32(0)))


FAULTS: dict[str, Kind] = {
    "padding in front": Kind(where(_in_one_piece(0, 1))),
    "padding behind": Kind(where(_in_one_piece(1, 0))),
    "padding on both sides": Kind(where(_in_one_piece(0, 0))),
    "padding between tokens": Kind(where(lambda to: to.add("Greater", to.pieces(), to.number(np.array(1))))),
    "no padding": Kind(where(lambda to: to.equals(to.tokens(), to.width()))),
    "a single token": Kind(where(lambda to: to.equals(to.tokens(), 1))),
    "no token": Kind(where(lambda to: to.equals(to.tokens(), 0)), places=("head",)),
    "a sequence of one": Kind(where(_sequence_of_one), lambda _, sequence: sequence != LENGTH),
    "a second text in the batch": Kind(
        where(lambda to: to.add("Greater", to.row(), to.number(np.array(1)))), lambda batch, _: batch != 1
    ),
    "the last position": Kind(where(lambda to: to.long(POSITIONS)), lambda _, sequence: sequence != LENGTH),
    "any text: not a number": Kind(_no_number),
    "any text: three times as long": Kind(lambda to: to.number(np.full((1, 1), 3, np.float32)), scale=True),
    "any text: 1e-4 off": Kind(lambda to: to.number(np.full((1, 1), 1e-4, np.float32)), places=("rewritten", "head")),
}
"""By what a text is like on which the fault shows."""


def source_of(dims: tuple[int | str, int | str]) -> onnx.ModelProto:
    """The encoder that is right."""
    return tiny_encoder(dims=dims)


def planted(model: onnx.ModelProto, kind: Kind, output: str) -> onnx.ModelProto:
    """``model`` with the fault in what it gives as ``output``."""
    made = copy.deepcopy(model)
    graph = made.graph
    to = Conditions(graph)
    amount = kind.amount(to)
    rank = len(next(info for info in graph.output if info.name == output).type.tensor_type.shape.dim)
    if rank == 3:
        amount = to.add("Unsqueeze", amount, to.number(np.array([2])))
    for node in graph.node:
        node.output[:] = ["planted/right" if name == output else name for name in node.output]
        node.input[:] = ["planted/right" if name == output else name for name in node.input]
    graph.node.extend(
        [*to.nodes, helper.make_node("Mul" if kind.scale else "Add", ["planted/right", amount], [output], "planted/wrong")]
    )
    return made


def proven(source: onnx.ModelProto | str, kind: Kind, place: str, head: onnx.ModelProto | None = None) -> Report:
    """The report on a file with the fault. ``head``: the source with a head, as graphsurgery makes it."""
    if place == "head":
        assert head is not None
        return graphsurgery.verify(planted(head, kind, EMBEDDING), against=source)
    wrong = planted(source, kind, HIDDEN)
    return graphsurgery.verify(wrong, against=source, min_cosine=0.999 if place == "by cosine" else None)
