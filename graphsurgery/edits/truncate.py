"""truncate: keep the first dims of an embedding, for Matryoshka models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from graphsurgery.deferred import gs
from graphsurgery.edits.draft_operators import Operators, l2_normalize
from graphsurgery.edits.edit import Resolved, parameter, require_opset
from graphsurgery.edits.outputs import (
    OutputEdit,
    build_output,
    check_free,
    find_output_width,
    find_target,
    target_parameter,
    warn_of_pooling,
)
from graphsurgery.errors import RequestError, require_value
from graphsurgery.interface import Value
from graphsurgery.model.draft import Draft
from graphsurgery.model.model import Model

MOST_DIGITS = 9
OPTION = ("--dim",)


def take_first_dims(ops: Operators, x: gs.Tensor, dim: int) -> gs.Variable:
    """Build ``x [..., width]`` -> ``[..., dim]``, dim <= width."""
    start, end, axis = (ops.constant([n], np.int64, name) for n, name in ((0, "start"), (dim, "end"), (-1, "axis")))
    return ops.node("Slice", x, start, end, axis, name="first_dims")


def parse_dims(text: str) -> tuple[int, ...]:
    """Read ``256`` or ``512,256,128``. Raises RequestError unless these are different numbers of 1 or more."""
    if not text:
        what = "truncate needs the number of dims to keep"
        raise RequestError(what, "give it with --dim, such as --dim 256", OPTION)
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) <= MOST_DIGITS and int(part) for part in parts):
        advice = "write a number such as --dim 256, or several such as --dim 512,256"
        raise RequestError(f"{text!r} is not a number of dims", advice, OPTION)
    dims = tuple(map(int, parts))
    if len(set(dims)) < len(dims):
        raise RequestError(f"{text!r} contains a number twice", "write each once")
    return dims


def name_cuts(target: str, dims: Sequence[int]) -> list[str]:
    """Return the names of the outputs that a truncation to ``dims`` makes."""
    return [target] if len(dims) == 1 else [f"{target}_{dim}" for dim in dims]


@dataclass(frozen=True)
class Cuts:
    """The output to truncate, and the results: their names and numbers of dims."""

    target: Value
    dims: dict[str, int]


@dataclass(frozen=True)
class Truncate(OutputEdit[Cuts]):
    """Keep the first dims of an embedding and normalise them: ``y = x[..., :dim] / max(norm2(x[..., :dim]), 1e-12)``.

    For models trained to be truncated (Matryoshka Representation Learning, arXiv 2205.13147). With one ``dim`` the result
    replaces the target. With several, they become outputs ``<target>_<dim>`` after it, from one run of the encoder. The result
    equals that of sentence-transformers' ``truncate_dim`` with ``normalize_embeddings``; with ``--keep-length``, nothing is
    normalised.
    """

    dim: str = parameter(
        "How many dims to keep. Several numbers, separated by commas, give one output each: <target>_<dim>.",
        "",
        "N[,N...]",
        takes=int | str | Sequence[int],
        required=True,
    )
    target: str | None = target_parameter("The output to truncate.")
    keep_length: bool = parameter("Do not normalise the shorter vectors.", False)

    @property
    def made(self) -> list[str]:
        return name_cuts(require_value(self.target, "target"), parse_dims(self.dim))

    def resolve(self, model: Model) -> Resolved[Self, Cuts]:
        """Find the target. Raises RequestError (no number, more dims than there are, names taken), NameNotFoundError,
        UnsupportedModelError."""
        require_opset(model, self.verb)
        dims = parse_dims(self.dim)
        target = find_target(model, self.target, "truncated")
        width = find_output_width(model, target)
        if max(dims) >= width:
            raise RequestError(f"{target} cannot be truncated to {max(dims)} dims", f"choose fewer than {width}")
        edit = replace(self, dim=",".join(map(str, dims)), target=target.name)
        names = edit.made
        for name in names:
            if name != target.name:
                check_free(model, name, "truncate to other numbers of dims, or rename the value of that name")
        how = "not normalised again" if self.keep_length else "normalised again"
        note = f"keeps the first {edit.dim} of {width} dims of {target.name}, {how}"
        return Resolved(edit, Cuts(target, dict(zip(names, dims, strict=True))), (note, *warn_of_pooling(model, target.name)))

    def change(self, draft: Draft, found: Cuts) -> None:
        for name, dim in found.dims.items():
            self._cut(draft, found.target, dim, name)

    def _cut(self, draft: Draft, declared: Value, dim: int, name: str) -> None:
        ops = Operators(draft, f"graphsurgery/truncate_{dim}")

        def build(x: gs.Tensor) -> gs.Variable:
            cut = take_first_dims(ops, x, dim)
            return cut if self.keep_length else l2_normalize(ops.within("normalize"), cut)

        build_output(draft, declared, name, ops, build, last=dim, keep=True)
