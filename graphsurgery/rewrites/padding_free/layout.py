"""Where the tokens of a value are: the axes of the batch and of the sequence, by the observed dims."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from graphsurgery.deferred import ir
from graphsurgery.graph.attributes import get_input, get_int, get_ints
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import (
    AXES_INPUTS,
    EACH_ELEMENT,
    FUSED_ROTATIONS,
    LISTED_AXES,
    NORMALISING,
    ONE_AXIS,
    POSITION_INPUTS,
    REDUCTIONS,
    ROTATIONS,
    SHAPED,
    TOKEN_PRODUCTS,
    get_operator,
)
from graphsurgery.runtime.observed_dims import POSITIONS, ROWS, Dims, Observed, Size

LEADING = 2
"""A value of tokens has the batch and the sequence as its first axes."""
FLAT = Size(1, 1, 1)
"""The first dim of a value ``[batch x seq, ...]``."""


@dataclass(frozen=True)
class Layout:
    """The dims of the values of a graph."""

    graph: Graph
    observed: Mapping[str, Observed]
    _flat: dict[ir.Value | None, bool] = field(default_factory=dict)
    """Which values are flat, as far as that was asked."""

    def dims(self, value: ir.Value) -> Dims | None:
        """Return the dims of a value that depends on an input, or None for any other value."""
        found = self.observed.get(value.name or "")
        return None if found is None else found.dims

    def rank(self, value: ir.Value | None) -> int:
        """Return the number of dims of a value that depends on an input."""
        return 0 if value is None else len(self.dims(value) or ())

    def is_free(self, value: ir.Value | None) -> bool:
        """Return whether the dims of ``value`` are the same for every batch."""
        dims = None if value is None else self.dims(value)
        return dims is None or all(size is not None and size.is_literal for size in dims)

    def has_tokens(self, value: ir.Value | None) -> bool:
        """Return whether ``value`` is ``[batch, seq, ...]``, and no other axis depends on the batch or the sequence."""
        dims = None if value is None else self.dims(value)
        if dims is None or dims[:LEADING] != (ROWS, POSITIONS):
            return False
        return all(size is not None and size.is_literal for size in dims[LEADING:])

    def is_flat(self, value: ir.Value | None) -> bool:
        """Return whether ``value`` is ``[batch x seq, ...]``: a Reshape of a value of tokens, or computed from one."""
        if value not in self._flat:
            self._flat[value] = False  # while it is looked for
            dims, node = (None, None) if value is None else (self.dims(value), value.producer())
            if dims and node is not None and dims[0] == FLAT and all(one is not None and one.is_literal for one in dims[1:]):
                is_made = get_operator(node) == "Reshape" and self.has_tokens(node.inputs[0])
                self._flat[value] = is_made or any(map(self.is_flat, node.inputs))
        return self._flat[value]

    def count_leading(self, value: ir.Value | None) -> int:
        """Return how many axes the tokens of ``value`` take: two, one if they are flat, or none if it is not made of tokens."""
        return LEADING if self.has_tokens(value) else int(self.is_flat(value))

    def can_broadcast(self, value: ir.Value, rank: int) -> bool:
        """Return whether ``value`` fits beside ``[batch, seq, ...]`` of ``rank`` dims so that its tokens can be gathered: each
        axis is that axis of the other, of length one, or absent."""
        dims = self.dims(value)
        if dims is None:
            return True
        lead = rank - len(dims)
        if lead < 0 or any(size is None for size in dims):
            return False
        wanted = {0: ROWS, 1: POSITIONS}
        return all(
            size is not None and (size.is_literal if axis + lead >= LEADING else size in (wanted[axis + lead], (1, 0, 0)))
            for axis, size in enumerate(dims)
        )

    def is_token_wise(self, node: ir.Node) -> bool:
        """Return whether ``node`` computes each token of its first output from the same token of its inputs."""
        leading = {self.count_leading(value) for value in node.outputs if value.name}
        if leading == {LEADING}:
            return self._is_token_wise_in_rows(node)
        return leading == {1} and self._is_token_wise_flat(node)

    def _is_token_wise_in_rows(self, node: ir.Node) -> bool:
        """Return what `is_token_wise` does for a node whose outputs are ``[batch, seq, ...]``."""
        operator, source = get_operator(node), get_input(node, 0)
        if operator == "Reshape" and self.is_flat(source):
            return True
        if operator in EACH_ELEMENT:
            return all(value is None or self.can_broadcast(value, self.rank(node.outputs[0])) for value in node.inputs)
        if operator == "Gather" and self.is_free(source):
            return get_int(node, "axis", 0) == 0 and self.has_tokens(get_input(node, 1))
        if operator in ROTATIONS:
            return self.has_tokens(source) and self._rotates_tokens(node)
        if operator == "Concat":
            return self._axis(node) >= LEADING and all(map(self.has_tokens, node.inputs))
        if not self.has_tokens(source) or not all(map(self.is_free, node.inputs[1:])):
            return False
        return self._keeps_tokens(node, source)

    def _is_token_wise_flat(self, node: ir.Node) -> bool:
        """Return what `is_token_wise` does for a node whose outputs are flat."""
        operator, source = get_operator(node), get_input(node, 0)
        if operator == "Reshape":
            return bool(self.count_leading(source))
        if operator == "Gather" and self.is_free(source):
            return get_int(node, "axis", 0) == 0 and self.is_flat(get_input(node, 1))
        if not all(self.is_flat(value) or self.is_free(value) for value in node.inputs):
            return False
        if operator in EACH_ELEMENT:
            return all(self.is_free(value) or self.rank(value) == self.rank(node.outputs[0]) for value in node.inputs)
        if not self.is_flat(source) or not all(map(self.is_free, node.inputs[1:])):
            return False
        if operator in TOKEN_PRODUCTS or operator == "Gemm":
            return not get_int(node, "transA", 0)
        if operator in ONE_AXIS | LISTED_AXES | NORMALISING:
            axes = self.list_axes(node)
            return axes is not None and min(axes, default=1) >= 1
        return operator == "Transpose" and (get_ints(node, "perm") or [])[:1] == [0]

    def _rotates_tokens(self, node: ir.Node) -> bool:
        """Return whether a rotation of ``[batch, seq, width]`` is told where its tokens are, or counts from a start."""
        places = get_input(node, POSITION_INPUTS[get_operator(node)])
        if places is None:
            return all(map(self.has_tokens, node.inputs[1:]))  # the sines and cosines of each token
        return self.has_tokens(places) or self.counts_on(node)

    def counts_on(self, node: ir.Node) -> bool:
        """Return whether a rotation has one position for the first token of every row, and counts on from there."""
        return get_operator(node) in FUSED_ROTATIONS and self.is_free(get_input(node, 1))

    def _keeps_tokens(self, node: ir.Node, source: ir.Value | None) -> bool:
        """Return whether an operator of one value ``[batch, seq, ...]`` and of weights leaves the first two axes alone."""
        operator, rank = get_operator(node), self.rank(source)
        if operator in TOKEN_PRODUCTS:
            return rank > LEADING and not get_int(node, "transA", 0)
        if operator in ONE_AXIS | LISTED_AXES | NORMALISING:
            axes = self.list_axes(node)
            return axes is not None and min(axes, default=LEADING) >= LEADING
        if operator == "Transpose":
            return (get_ints(node, "perm") or [])[:LEADING] == [0, 1]
        return operator in SHAPED  # both dims lead in the output, and the others are literal: no token moves

    def _axis(self, node: ir.Node) -> int:
        """Return the attribute ``axis``, counted from the first axis of the output."""
        last = get_operator(node) in NORMALISING and (get_operator(node) != "Softmax" or self.graph.opset >= 13)
        axis, rank = get_int(node, "axis", -1 if last else 0), self.rank(node.outputs[0])
        return axis + rank if axis < 0 else axis

    def list_axes(self, node: ir.Node) -> list[int] | None:
        """Return the axes along which a node works, or None if they are unknown."""
        operator, rank = get_operator(node), self.rank(get_input(node, 0))
        if operator in ONE_AXIS | NORMALISING:
            return [self._axis(node)]
        listed, axes = get_input(node, AXES_INPUTS.get(operator, 1)), get_ints(node, "axes")
        if listed is not None:
            array = self.graph.array(listed)
            axes = None if array is None else [int(axis) for axis in array.ravel()]
        if axes is None:
            return [] if operator in REDUCTIONS and listed is None and get_int(node, "noop_with_empty_axes", 0) else None
        rank = self.rank(node.outputs[0]) if operator == "Unsqueeze" else rank
        return [axis + rank if axis < 0 else axis for axis in axes]
