"""Compute what is added to the scores of an attention as one value, ``attention_bias`` or ``attn_mask``.

    scores = scale q k^T + bias             [batch, heads, queries, keys]

Where a Where hides a score by a number, that number becomes the bias. If it is -1e18 or less, adding the score changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx

from graphsurgery.deferred import ir
from graphsurgery.graph.editor import Editor
from graphsurgery.graph.facts import Facts
from graphsurgery.graph.symbolic import Sizes
from graphsurgery.rewrites.attention.reading import Kind, NotConvertibleError, Step


@dataclass
class Draft:
    """New nodes that are not in the graph yet."""

    work: Editor
    name: str
    """The start of every new name."""
    dtype: int
    """The element type of the scores."""
    nodes: list[ir.Node] = field(default_factory=list)

    def add(
        self, operator: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Any] = MappingProxyType({}),
        domain: str = "",
    ) -> ir.Value:  # fmt: skip
        """Add a node and return its output."""
        self.nodes.append(self.work.make_value(operator, inputs, f"{self.name}/{operator}", attributes, domain))
        return self.nodes[-1].outputs[0]

    def add_integers(self, *numbers: int) -> ir.Value:
        """Add a vector of integers."""
        return self.work.add_constant(f"{self.name}/integers", np.array(numbers, np.int64))

    def add_number(self, number: float) -> ir.Value:
        """Add a number of the scores' type."""
        dtype = onnx.helper.tensor_dtype_to_np_dtype(self.dtype)
        return self.work.add_constant(f"{self.name}/number", np.array(number, dtype))

    def add_axis(self, operator: str, value: ir.Value | None, axis: int) -> ir.Value:
        """Add a Squeeze or an Unsqueeze of one axis."""
        self.nodes.append(self.work.make_with_axes(operator, value, [axis], f"{self.name}/{operator}"))
        return self.nodes[-1].outputs[0]

    def get_size(self, value: ir.Value, axis: int) -> ir.Value:
        """Return the size of one axis as a vector of one integer."""
        return self.add("Gather", [self.add("Shape", [value]), self.add_integers(axis)])


@dataclass(frozen=True, eq=False)
class Bias:
    """A value and its dims, as far as they are known."""

    value: ir.Value
    dims: Sizes | None


def add_bias(draft: Draft, facts: Facts, steps: Sequence[Step], product: ir.Node) -> tuple[float, Bias | None]:
    """Add the nodes that compute what ``steps`` add to the scores. Return (the factor of the product, the bias if any)."""
    scale, bias = 1.0, None
    reshapes = [place for place, step in enumerate(steps) if step.kind is Kind.RESHAPE]
    for place, step in enumerate(steps):
        if step.kind is Kind.SCALE:
            scale *= step.number
            bias = None if bias is None else Bias(draft.add("Mul", [bias.value, draft.add_number(step.number)]), bias.dims)
        elif step.kind is Kind.FLOOR:
            bias = None if bias is None else Bias(draft.add("Max", [bias.value, draft.add_number(step.number)]), bias.dims)
        elif step.kind is not Kind.RESHAPE:
            bias = _add_step(draft, facts, step, bias)
        elif bias is not None or place < reshapes[-1]:
            value = draft.add_number(0.0) if bias is None else bias.value
            if place == reshapes[0]:
                value = _expand_to_product(draft, facts, value, bias, product)
            bias = Bias(draft.add("Reshape", [value, step.value]), None)
    return scale, bias


def spread_bias(draft: Draft, bias: Bias, dims: Sizes, queries: ir.Value, keys: ir.Value, axis: int) -> ir.Value:
    """Return the bias with all of its last two dims, as the operators take it: [batch or 1, heads or 1, queries, keys].

    A bias [batch x heads or 1, queries, keys] gets a single head.

    Args:
        dims: the dims of the scores.
        queries, keys: values whose dim ``axis`` is the number of queries and of keys.
    """
    value, rank = bias.value, len(dims if bias.dims is None else bias.dims)
    if rank == len(dims) == 3:
        value = draft.add_axis("Unsqueeze", value, 1)
    if bias.dims is not None and rank == len(dims) and bias.dims[-2:] == dims[-2:]:
        return value
    sizes = [draft.get_size(one, axis) for one in (queries, keys)]
    ones = draft.add_integers(1, 1)
    return draft.add("Expand", [value, draft.add("Concat", [ones, *sizes], {"axis": 0})])


def _add_step(draft: Draft, facts: Facts, step: Step, bias: Bias | None) -> Bias:
    """Add the nodes for a step that adds to scores, subtracts from them or hides them."""
    if step.value is None:
        raise NotConvertibleError("something that is added to its scores is missing")
    dims = facts[step.value].dims
    if step.kind is Kind.HIDE:
        number, shown = draft.add_number(step.number), draft.add_number(0.0) if bias is None else bias.value
        chosen = [number, shown] if step.hides_if else [shown, number]
        return Bias(draft.add("Where", [step.value, *chosen]), dims if bias is None else _broadcast(dims, bias.dims))
    if bias is None:
        return Bias(step.value if step.kind is Kind.ADD else draft.add("Neg", [step.value]), dims)
    operator = "Add" if step.kind is Kind.ADD else "Sub"
    return Bias(draft.add(operator, [bias.value, step.value]), _broadcast(dims, bias.dims))


def _expand_to_product(draft: Draft, facts: Facts, value: ir.Value, bias: Bias | None, product: ir.Node) -> ir.Value:
    """Return ``value`` with the dims of the product, which a Reshape takes."""
    dims = facts[product.outputs[0]].dims
    if bias is not None and dims is not None and bias.dims == dims:
        return value
    queries, keys = product.inputs
    if dims is None or queries is None or keys is None:
        raise NotConvertibleError("the dims of its scores are not known where they are reshaped")
    rank = len(dims)
    sizes = [*(draft.get_size(queries, axis) for axis in range(rank - 1)), draft.get_size(keys, rank - 1)]
    return draft.add("Expand", [value, draft.add("Concat", sizes, {"axis": 0})])


def _broadcast(one: Sizes | None, other: Sizes | None) -> Sizes | None:
    """Return the dims of two values together. None if they are not known."""
    if one is None or other is None:
        return None
    rank = max(len(one), len(other))
    pairs = zip((1,) * (rank - len(one)) + one, (1,) * (rank - len(other)) + other, strict=True)
    dims = tuple(second if first == 1 else first for first, second in pairs if 1 in (first, second) or first == second)
    return dims if len(dims) == rank else None
