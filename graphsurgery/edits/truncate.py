"""truncate: the first dims of an embedding, for Matryoshka models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs

from graphsurgery.contracts import present
from graphsurgery.edits.edit import GraphEdit, parameter, require_opset
from graphsurgery.edits.normalize_graph import l2_normalize
from graphsurgery.edits.operators import Operators
from graphsurgery.edits.targets import check_free, declared_output, ensure_only, float_target, put_in_place
from graphsurgery.errors import RequestError
from graphsurgery.interface import Interface, Value
from graphsurgery.model.draft import Draft
from graphsurgery.model.model import Model

MOST_DIGITS = 9


def first_dims(ops: Operators, x: gs.Tensor, dim: int) -> gs.Variable:
    """``x [..., width]`` -> ``[..., dim]``, dim <= width."""
    start, end, axis = (ops.constant([n], np.int64, name) for n, name in ((0, "start"), (dim, "end"), (-1, "axis")))
    return ops.node("Slice", x, start, end, axis, name="first_dims")


def parsed_dims(text: str) -> tuple[int, ...]:
    """``256`` or ``512,256,128``. RequestError for what is no list of different numbers of 1 or more."""
    if not text:
        raise RequestError("truncate needs to know how many dims to keep", "say it with --dim, such as --dim 256")
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) <= MOST_DIGITS and int(part) for part in parts):
        raise RequestError(f"{text!r} is no number of dims", "write one such as --dim 256, or several such as --dim 512,256")
    dims = tuple(map(int, parts))
    if len(set(dims)) < len(dims):
        raise RequestError(f"{text!r} names one number twice", "write each once")
    return dims


@dataclass(frozen=True)
class Truncate(GraphEdit):
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

    def resolve(self, model: Model) -> tuple[Truncate, tuple[str, ...]]:
        """Settle the target. Raises RequestError (no number, more dims than there are, names taken), NameNotFoundError,
        UnsupportedModelError."""
        require_opset(model, self.verb)
        dims = parsed_dims(self.dim)
        target = float_target(model, self.target, "truncated")
        width = target.dims[-1] if target.dims else None
        if isinstance(width, int) and max(dims) >= width:
            raise RequestError(f"{target} has no {max(dims)} dims to spare", f"choose fewer than {width}")
        if not isinstance(width, int):
            raise RequestError(f"{target} does not say how wide it is", "pool with add-pooling first, which derives the width")
        resolved = replace(self, dim=",".join(map(str, dims)), target=target.name)
        for name in resolved.made(target.name, dims):
            if name != target.name:
                check_free(model, name, "truncate to other numbers of dims, or rename what has the name")
        how = "as long as the cut makes them" if self.keep_length else "normalised again"
        return resolved, (f"keeps the first {resolved.dim} of {width} dims of {target.name}, {how}",)

    @staticmethod
    def made(target: str, dims: tuple[int, ...]) -> list[str]:
        """What the outputs are called."""
        return [target] if len(dims) == 1 else [f"{target}_{dim}" for dim in dims]

    def change(self, draft: Draft, model: Model) -> None:
        declared = declared_output(model, self.target)
        dims = parsed_dims(self.dim)
        for dim, name in zip(dims, self.made(declared.name, dims), strict=True):
            self._cut(draft, declared, dim, name)

    def _cut(self, draft: Draft, declared: Value, dim: int, name: str) -> None:
        ops = Operators(draft, f"graphsurgery/truncate_{dim}")

        def build(x: gs.Tensor) -> gs.Variable:
            cut = first_dims(ops, x, dim)
            return cut if self.keep_length else l2_normalize(ops.within("normalize"), cut)

        put_in_place(draft, declared, name, ops, build, last=dim, keep=True)

    def ensure(self, before: Interface, after: Interface) -> None:
        super().ensure(before, after)
        target = present(self.target, "target")
        ensure_only(self.verb, before, after, target, self.made(target, parsed_dims(self.dim)))
