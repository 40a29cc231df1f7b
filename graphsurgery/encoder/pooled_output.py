"""Read off the graph how an output ``[batch, dim]`` is made: what pools it, with or without a mask, and normalised or not.

This is what a head of another program can be recognised by. The nodes are followed back from the output: normalisation, dense
layers, and then the operator that leaves one vector of a sequence. An output that is made in another way is reported as not
recognised.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphsurgery.deferred import ir
from graphsurgery.encoder.flow import Flow
from graphsurgery.encoder.modalities import PICTURE, SPECTROGRAM, list_modalities
from graphsurgery.encoder.norms import find_norms
from graphsurgery.encoder.roles import find_roles
from graphsurgery.encoder.unit_length import find_scaled_to_length_one
from graphsurgery.graph.attributes import get_input, get_int, get_ints
from graphsurgery.graph.operators import (
    BEHIND_POOLING,
    MASKING_TOKENS,
    PICKING,
    PICKING_BY_AXIS,
    REDUCING,
    RESHAPING,
    TURNING,
    get_operator,
)
from graphsurgery.model.dtypes import FLOATS
from graphsurgery.model.model import Model

SEQUENCE_AXES = (1, -2)
"""The axes of a sequence in ``[batch, seq, dim]``."""
LAST_POSITION = "the last position (a token unless padding is behind)"
PLACES = {
    0: "the first position (a token unless padding is in front)", -1: LAST_POSITION,
}  # fmt: skip
MOST_STEPS = 64
"""An output is followed back through up to this many nodes."""


@dataclass(frozen=True)
class PooledOutput:
    """An output of one vector per text, and how the graph makes it."""

    name: str
    pooled_by: str | None
    """Such as ``mean``, ``max`` or ``the first position``. None if the operators are not recognised."""
    masked: bool | None = None
    """Whether the mask decides what is pooled. None if that is not known, and for a fixed position, which needs no mask."""
    normalized: bool = False
    """Whether the vectors have length one by the last nodes."""
    dense: bool = False
    """Whether a dense layer, an activation or a norm follows the pooling."""
    hidden_state: str | None = None
    """The value that is pooled."""

    @property
    def ignores_mask(self) -> bool:
        """Whether padding is pooled together with the tokens."""
        return self.masked is False

    def __str__(self) -> str:
        if self.pooled_by is None:
            return f"{self.name} is one vector per text, made in a way that is not recognised"
        mask = {True: " with the mask", False: " WITHOUT a mask", None: ""}[self.masked]
        dense = ", then a dense layer, an activation or a norm" if self.dense else ""
        return (
            f"{self.name} is pooled by {self.pooled_by}{mask}{dense}, {'normalised' if self.normalized else 'not normalised'}"
        )

    @property
    def warning(self) -> str | None:
        """What to do about an output into which padding is pooled; None for all others."""
        if not self.ignores_mask:
            return None
        mend = (
            f"pool its tokens with add-pooling --hidden-state {self.hidden_state}" if self.hidden_state else "export it again"
        )
        return (
            f"{self.name} is pooled by {self.pooled_by} without a mask, so padding changes a text's vector. Embed texts one by "
            f"one without padding, or {mend}"
        )

    def to_json(self) -> dict[str, object]:
        return {
            "name": self.name, "pooled_by": self.pooled_by, "masked": self.masked, "normalized": self.normalized,
            "dense": self.dense, "hidden_state": self.hidden_state,
        }  # fmt: skip


def find_pooled_outputs(model: Model) -> tuple[PooledOutput, ...]:
    """Return every float output ``[batch, dim]`` whose pooling is recognised. Raises what `Graph` raises."""
    names = [one.name for one in model.interface.outputs if one.rank == 2 and one.dtype in FLOATS]
    finder = _Finder(Flow.of(model)) if names else None
    found = [finder.find(name) for name in names] if finder is not None else []
    return tuple(one for one in found if one.pooled_by is not None)


@dataclass
class _Behind:
    """What was found after the pooling so far, from the output backwards."""

    normalized: bool = False
    dense: bool = False
    divided: bool = False


class _Finder:
    """Follows outputs of one graph back to what was pooled."""

    def __init__(self, flow: Flow) -> None:
        self.flow, self.graph = flow, flow.graph
        mask = find_roles(flow.model.interface).mask
        value = None if mask is None else self.graph.value(mask.name)
        self.mask = value
        self.masks: frozenset[ir.Value] = frozenset() if value is None else frozenset((value, *self.graph.descendants([value])))
        self.norms = frozenset(norm.output for norm in find_norms(flow))
        self.whole = frozenset(one.value.name for one in list_modalities(flow.model) if one.kind in (PICTURE, SPECTROGRAM))
        self.inputs = frozenset(value.name for value in flow.model.interface.inputs)

    def find(self, name: str) -> PooledOutput:
        value, behind = self.graph.value(name), _Behind()
        for _ in range(MOST_STEPS):
            node = None if value is None else value.producer()
            if node is None:
                break
            if get_operator(node) in REDUCING or self._sums_by_product(node):
                return self._describe_reduction(name, node, behind)
            if get_operator(node) in PICKING and not self._is_view(node):
                return self._describe_token(name, node, behind)
            value = self._go_back(node, behind)
        return PooledOutput(name, None)

    def _go_back(self, node: ir.Node, behind: _Behind) -> ir.Value | None:
        """Return the vectors that ``node`` works on and note in ``behind`` what it does; None if it is not known."""
        operator, tokens = get_operator(node), self.flow.token_inputs(node)
        vector = find_scaled_to_length_one(self.graph, node)
        if vector is not None and vector in self.flow.tokens:
            behind.normalized = behind.normalized or not behind.dense
            return vector
        if operator in RESHAPING | TURNING or self._is_view(node):
            return get_input(node, 0)
        if operator == "Div" and len(tokens) == 1 and tokens[0] is node.inputs[0]:
            behind.divided = True
            return tokens[0]
        if operator in BEHIND_POOLING and tokens:
            behind.dense = True
            return tokens[0]
        return None

    def _sums_by_product(self, node: ir.Node) -> bool:
        """Return whether a node multiplies the tokens by weights of each position, made from the mask."""
        first = get_input(node, 0)
        return get_operator(node) == "MatMul" and first in self.masks and first not in self.flow.tokens

    def _describe_reduction(self, name: str, node: ir.Node, behind: _Behind) -> PooledOutput:
        axes = self._read_axes(node)
        by_product = get_operator(node) not in REDUCING
        if not by_product and not get_operator(node).startswith("Global") and not (axes and set(axes) <= set(SEQUENCE_AXES)):
            return PooledOutput(name, None)
        pooled_by = REDUCING.get(get_operator(node), "sum")
        pooled_by = "mean" if pooled_by == "sum" and behind.divided else pooled_by
        masked, hidden = (True, get_input(node, 1)) if by_product else self._find_mask(get_input(node, 0))
        source = hidden.name if hidden is not None else None
        is_masked = masked or (False if self._can_be_padded(name) else None)
        return PooledOutput(name, pooled_by, is_masked, behind.normalized, behind.dense, source)

    def _describe_token(self, name: str, node: ir.Node, behind: _Behind) -> PooledOutput:
        places = self._read_places(node)
        hidden = self.graph.origin(node.inputs[0]) if node.inputs[0] is not None else None
        source = hidden.name if hidden is not None else None
        if places is not None:
            which = PLACES.get(places, f"position {places}")
            which = which if self._can_be_padded(name) else which.partition(" (")[0]
            return PooledOutput(name, which, None, behind.normalized, behind.dense, source)
        masked = any(self._reads_mask(value) for value in node.inputs[1:] if value is not None)
        return PooledOutput(name, "one token", masked or None, behind.normalized, behind.dense, source)

    def _reads_mask(self, value: ir.Value) -> bool:
        """Return whether ``value`` is computed from the numbers of the mask, and not from its shape alone."""
        if value not in self.masks:
            return False
        return value is self.mask or any(self.mask in node.inputs for node in self.graph.upstream_nodes(value))

    def _can_be_padded(self, name: str) -> bool:
        """Return whether the output ``name`` reaches an input that may hold padding. Pictures and spectrograms are whole."""
        value = self.graph.value(name)
        reached = {one.name for one in self.graph.ancestors([] if value is None else [value])} & self.inputs
        return not reached or bool(reached - self.whole)

    def _find_mask(self, value: ir.Value | None) -> tuple[bool, ir.Value | None]:
        """Return whether the mask changes what is pooled on its way from the hidden state, and that hidden state."""
        masked = False
        for _ in range(MOST_STEPS):
            node = None if value is None or value in self.norms else value.producer()
            if value is None or node is None or get_operator(node) not in MASKING_TOKENS:
                break
            others = [one for one in node.inputs if one is not None and one not in self.flow.tokens and one in self.masks]
            tokens = self.flow.token_inputs(node)
            if len(tokens) != 1 or (not others and get_operator(node) not in TURNING):
                break
            masked, value = masked or bool(others), tokens[0]
        return masked, value

    def _is_view(self, node: ir.Node) -> bool:
        """Return whether a Slice or a Gather keeps every position, as those along the last axis do.

        One at computed places of the first axis does not: batch and sequence are one axis there.
        """
        axes = self._read_axes(node)
        if get_operator(node) not in PICKING_BY_AXIS or axes is None or set(axes) & {1, -2}:
            return False
        is_lookup = get_input(node, 0) not in self.flow.tokens
        return set(axes) != {0} or is_lookup or self._read_places(node) is not None

    def _read_axes(self, node: ir.Node) -> list[int] | None:
        """Return the axes along which a node reduces or picks, or None if they are not known."""
        operator = get_operator(node)
        if operator == "Gather":
            return [get_int(node, "axis", 0)]
        axes = get_ints(node, "axes")
        place = 3 if operator == "Slice" else 1
        return axes if axes is not None else self.flow.integers(get_input(node, place))

    def _read_places(self, node: ir.Node) -> int | None:
        """Return the only position that a node takes, counted from the end if it is negative; None if it is computed."""
        if get_operator(node) not in PICKING_BY_AXIS:
            return None
        starts = get_ints(node, "starts") or self.flow.integers(get_input(node, 1))
        return starts[0] if starts is not None and len(starts) == 1 else None
