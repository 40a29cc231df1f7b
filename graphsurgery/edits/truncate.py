"""truncate: the first dims of an embedding, for Matryoshka models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.edits.draft_operators import Operators, l2_normalize
from graphsurgery.edits.edit import GraphEdit, Resolved, parameter, require_opset
from graphsurgery.edits.outputs import build_output, check_free, ensure_others_unchanged, find_target
from graphsurgery.errors import RequestError, require_value
from graphsurgery.interface import Interface, Value
from graphsurgery.model.draft import Draft
from graphsurgery.model.model import Model

MOST_DIGITS = 9
OPTION = ("--dim",)


def take_first_dims(ops: Operators, x: gs.Tensor, dim: int) -> gs.Variable:
    """``x [..., width]`` -> ``[..., dim]``, dim <= width."""
    start, end, axis = (ops.constant([n], np.int64, name) for n, name in ((0, "start"), (dim, "end"), (-1, "axis")))
    return ops.node("Slice", x, start, end, axis, name="first_dims")


def parse_dims(text: str) -> tuple[int, ...]:
    """Read ``256`` or ``512,256,128``. Raise RequestError unless it is a list of different numbers of 1 or more."""
    if not text:
        what = "truncate needs to know how many dims to keep"
        raise RequestError(what, "say it with --dim, such as --dim 256", OPTION)
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) <= MOST_DIGITS and int(part) for part in parts):
        advice = "write one such as --dim 256, or several such as --dim 512,256"
        raise RequestError(f"{text!r} is no number of dims", advice, OPTION)
    dims = tuple(map(int, parts))
    if len(set(dims)) < len(dims):
        raise RequestError(f"{text!r} names one number twice", "write each once")
    return dims


@dataclass(frozen=True)
class Cuts:
    """The output to cut, and each result: its name and how many dims it keeps."""

    target: Value
    dims: dict[str, int]


@dataclass(frozen=True)
class Truncate(GraphEdit[Cuts]):
    """Keep the first dims of an embedding and normalise what is left: ``y = x[..., :dim] / max(norm2(x[..., :dim]), 1e-12)``.

    For models trained to be cut (Matryoshka Representation Learning, arXiv 2205.13147). One ``dim`` takes the target's place;
    several become outputs ``<target>_<dim>`` behind it, from one run of the encoder. As sentence-transformers' ``truncate_dim``
    with ``normalize_embeddings``; ``--keep-length`` leaves the vectors as long as the cut made them, as without it.
    """

    dim: str = parameter(
        "How many dims to keep. Several numbers, separated by commas, give one output each: <target>_<dim>.",
        "",
        "N[,N...]",
        takes=int | str | Sequence[int],
        required=True,
    )
    target: str | None = parameter(
        "The output to truncate.", None, "NAME", otherwise="sentence_embedding, else the only float output [batch, dim]"
    )
    keep_length: bool = parameter("Do not normalise the shorter vectors.", False)

    @property
    def normalize(self) -> bool:
        return not self.keep_length

    def resolve(self, model: Model) -> Resolved[Self, Cuts]:
        """Find the target. Raises RequestError (no number, more dims than there are, names taken), NameNotFoundError,
        UnsupportedModelError."""
        require_opset(model, self.verb)
        dims = parse_dims(self.dim)
        target = find_target(model, self.target, "truncated")
        width = target.dims[-1] if target.dims else None
        if isinstance(width, int) and max(dims) >= width:
            raise RequestError(f"{target} has no {max(dims)} dims to spare", f"choose fewer than {width}")
        if not isinstance(width, int):
            raise RequestError(f"{target} does not say how wide it is", "pool with add-pooling first, which derives the width")
        edit = replace(self, dim=",".join(map(str, dims)), target=target.name)
        names = self.made(target.name, dims)
        for name in names:
            if name != target.name:
                check_free(model, name, "truncate to other numbers of dims, or rename what has the name")
        how = "as long as the cut makes them" if self.keep_length else "normalised again"
        note = f"keeps the first {edit.dim} of {width} dims of {target.name}, {how}"
        return Resolved(edit, Cuts(target, dict(zip(names, dims, strict=True))), (note,))

    @staticmethod
    def made(target: str, dims: tuple[int, ...]) -> list[str]:
        """Return the names of the outputs that are made."""
        return [target] if len(dims) == 1 else [f"{target}_{dim}" for dim in dims]

    def change(self, draft: Draft, found: Cuts) -> None:
        for name, dim in found.dims.items():
            self._cut(draft, found.target, dim, name)

    def _cut(self, draft: Draft, declared: Value, dim: int, name: str) -> None:
        ops = Operators(draft, f"graphsurgery/truncate_{dim}")

        def build(x: gs.Tensor) -> gs.Variable:
            cut = take_first_dims(ops, x, dim)
            return cut if self.keep_length else l2_normalize(ops.within("normalize"), cut)

        build_output(draft, declared, name, ops, build, last=dim, keep=True)

    def ensure(self, before: Interface, after: Interface) -> None:
        super().ensure(before, after)
        target = require_value(self.target, "target")
        ensure_others_unchanged(self.verb, before, after, target, self.made(target, parse_dims(self.dim)))
