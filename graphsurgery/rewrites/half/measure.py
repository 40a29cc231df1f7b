"""Find the nodes of an encoder that must stay float32 because of their values, by running real text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from graphsurgery.deferred import ir
from graphsurgery.encoder.roles import find_roles
from graphsurgery.errors import RequestError
from graphsurgery.graph.element_types import BFLOAT16, FLOAT16, ElementTypes, get_node_key
from graphsurgery.graph.operators import MOVING, SHAPE_READING, get_operator
from graphsurgery.interface import read_interface
from graphsurgery.model.dtypes import NAMES, count_elements
from graphsurgery.rewrites.half.block_list import BlockList
from graphsurgery.rewrites.half.convert import make_float32_baseline, read_element_types
from graphsurgery.rewrites.half.overflow import CALM_MASK, find_overflows
from graphsurgery.rewrites.half.plan import ConversionPlan
from graphsurgery.rewrites.half.probes import Feed, Loss, RoundingProbe, find_worst, make_loss

SHARE = 0.1
"""A value is a candidate if rounding it alone causes this share of the squared loss of rounding all values."""
STEADY = 10
"""The loss of the outputs from which nodes are kept for it, in units of the type's rounding (2^-11 for float16, 2^-8 for
bfloat16). On 14 encoders, fused and not, the outputs lose 1 to 9 units, but those of T5, whose attention scores are not scaled
down, lose 16 to 24."""
UNITS = {int(FLOAT16): 2.0**-11, int(BFLOAT16): 2.0**-8}
SAMPLE = 2
"""The number of feeds for models that are run many times."""
ROUNDS = 8
IDLE = SHAPE_READING | {"Constant"}
"""Operators that compute nothing with float32 values."""
HEAVY = 1 << 16
"""A node with a weight of more numbers stays float32 only if it overflows: such weights are why half precision pays."""


@dataclass(frozen=True)
class Float32Nodes:
    """The nodes that stay float32 in a conversion, and why. Among them are those of the `BlockList`."""

    kind: int
    """The half type of the other nodes."""
    nodes: tuple[str, ...]
    """The first output of each node, in the graph's order."""
    reasons: dict[str, str]
    operators: dict[str, str]
    others: int
    """The number of nodes that become half precision."""
    loss: float
    """The loss of the outputs if all other values are rounded, relative to the outputs."""

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """By kind of reason, the number of nodes of each operator."""
        found: dict[str, Counter[str]] = {}
        for node in self.nodes:
            found.setdefault(_kind_of(self.reasons[node]), Counter())[self.operators[node]] += 1
        return {reason: dict(sorted(counted.items())) for reason, counted in found.items()}

    def summarise(self) -> list[str]:
        """Return lines for people: how many nodes are in which type, and those in float32 by reason and operator."""
        lines = [f"{self.others} nodes in {NAMES[self.kind].lower()}, {len(self.nodes)} in float32"]
        for reason, counted in self.counts.items():
            lines.append(f"float32, {reason}: " + ", ".join(f"{number} {name}" for name, number in counted.items()))
        return lines

    def to_json(self) -> dict[str, Any]:
        return {
            "precision": NAMES[self.kind].lower(), "half_nodes": self.others, "float32_nodes": len(self.nodes),
            "reasons": self.counts, "nodes": {node: self.reasons[node] for node in self.nodes}, "loss": self.loss,
        }  # fmt: skip


def find_float32_nodes(model: onnx.ModelProto, feeds: Sequence[Feed], kind: int) -> Float32Nodes:
    """Find the nodes that `to_half` should keep in float32, measured on ``feeds``.

    1. Nodes with a float32 value that gets beyond a quarter of the range of ``kind`` on the feeds.
    2. Nodes around the values that contribute most to the rounding error, as long as keeping them improves the result. If the
       outputs lose more than `STEADY` units of the type's rounding, values that cause a tenth of the loss each are left
       unrounded: the node that makes the value and all that read it stay float32. If this removes less than half of the loss of
       these values, it is undone, and the search ends.

    Raises RequestError without feeds, and what `to_half` and running the model raise.
    """
    if not feeds:
        raise RequestError("there is nothing to measure activations on", "give one feed or more")
    measuring = _Measuring(read_element_types(model, kind), kind)
    reasons = dict(measuring.always)
    reasons |= find_overflows(
        make_float32_baseline(model, kind, CALM_MASK),
        kind,
        measuring.list_rounded(reasons),
        measuring.list_convertible(reasons),
        feeds,
    )
    names = measuring.list_rounded(reasons)
    rounding = RoundingProbe(make_float32_baseline(model, kind), names, kind)
    mask = find_roles(read_interface(model.graph)).mask
    loss = make_loss(rounding, feeds[:SAMPLE], mask)
    lost, losing = measuring.find_losing(loss, reasons)
    reasons |= losing
    nodes = [node for node in measuring.types.graph.nodes if get_node_key(node) in reasons]
    return Float32Nodes(
        kind, tuple(get_node_key(node) for node in nodes), reasons, {get_node_key(node): node.op_type for node in nodes},
        len(measuring.list_convertible(reasons)), lost**0.5,
    )  # fmt: skip


class _Measuring:
    """Finds what a conversion of a graph to a half type loses."""

    def __init__(self, types: ElementTypes, kind: int) -> None:
        self.types, self._kind = types, kind
        self.always = BlockList(types, kind).reasons
        """The nodes of the block list, and why they are on it."""
        self._heavy = {value for value, one in types.graph.constants.items() if count_elements(one.dims) > HEAVY}

    def list_convertible(self, reasons: Collection[str]) -> list[ir.Node]:
        """Return the nodes that are converted if those of ``reasons`` are kept."""
        return [node for node in self.types.graph.nodes if get_node_key(node) not in reasons and self._can_convert(node)]

    def list_rounded(self, reasons: Collection[str]) -> list[str]:
        """Return the values that are rounded if the nodes of ``reasons`` are kept."""
        return ConversionPlan(self.types, self._kind, set(reasons)).rounded

    def find_losing(self, loss: Loss, reasons: dict[str, str]) -> tuple[float, dict[str, str]]:
        """Return the loss of the outputs in the end, and the nodes to keep for it besides those of ``reasons``."""
        found: dict[str, str] = {}
        lost = loss(self.list_rounded(reasons))
        allowed = (STEADY * UNITS[self._kind]) ** 2
        for _ in range(ROUNDS):
            candidates = [name for name in self.list_rounded({**reasons, **found}) if self._may_be_left(name, reasons)]
            bad = find_worst(loss, candidates, SHARE * lost) if lost > allowed else {}
            if not bad:
                break
            around = {
                get_node_key(node): f"rounding a value loses most: {share / lost:.0%}"
                for name, share in bad.items()
                for node in self._find_neighbours(name)
            }
            left = loss(self.list_rounded({**reasons, **found, **around}))
            if lost - left < sum(bad.values()) / 2:
                break
            found = {key: reason for key, reason in around.items() if key not in reasons} | found
            lost = left
        return lost, found

    def _can_convert(self, node: ir.Node) -> bool:
        """Return whether ``node`` computes with numbers and can do so in the half type."""
        return get_operator(node) not in IDLE and bool(self.types.convertible(node, self._kind))

    def _find_neighbours(self, name: str) -> list[ir.Node]:
        """Return the node that makes a value and those that read it, as far as they can be converted."""
        value = self.types.graph.value(name)
        if value is None:
            return []
        maker = value.producer()
        both = (*([maker] if maker is not None else []), *self.types.graph.all_consumers(value))
        return [node for node in both if self._can_convert(node)]

    def _may_be_left(self, name: str, reasons: Collection[str]) -> bool:
        """Return whether a value can be left unrounded without keeping a large weight in float32. A copy of another cannot."""
        value = self.types.graph.value(name)
        maker = value.producer() if value is not None else None
        if maker is None or get_operator(maker) in MOVING:
            return False
        around = [node for node in self._find_neighbours(name) if get_node_key(node) not in reasons]
        return not any(value in self._heavy for node in around for value in node.inputs)


def _kind_of(reason: str) -> str:
    """Return the kind of a reason: the words before its number."""
    return reason.partition(":")[0]
