"""Which nodes of an encoder have to stay float32 for the sake of their values, found by running real text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import onnx_ir as ir

from graphsurgery.encoder.roles import find_roles
from graphsurgery.errors import RequestError
from graphsurgery.graph.element_types import BFLOAT16, FLOAT16, ElementTypes, get_node_key
from graphsurgery.graph.operators import MOVING, SHAPE_READING, get_operator
from graphsurgery.interface import read_interface
from graphsurgery.model.dtypes import NAMES, element_count
from graphsurgery.rewrites.half.block_list import BlockList
from graphsurgery.rewrites.half.convert import make_float32_baseline, read_element_types
from graphsurgery.rewrites.half.overflow import CALM_MASK, find_overflows
from graphsurgery.rewrites.half.plan import ConversionPlan
from graphsurgery.rewrites.half.probes import Feed, Loss, RoundingProbe, find_worst, make_loss

SHARE = 0.1
"""A value is a candidate where rounding it alone makes up this much of the (squared) loss of rounding all."""
STEADY = 10
"""Units of the type's rounding (2^-11 for float16, 2^-8 for bfloat16) that the outputs may lose before anything is kept for it.
On 14 encoders, fused and not, they lose 1 to 9, but T5, whose attention scores are not scaled down, 16 to 24."""
UNITS = {int(FLOAT16): 2.0**-11, int(BFLOAT16): 2.0**-8}
SAMPLE = 2
"""Feeds for what is run many times over."""
ROUNDS = 8
IDLE = SHAPE_READING | {"Constant"}
"""Operators that compute nothing with float32 values."""
HEAVY = 1 << 16
"""Numbers of a weight: nodes with a larger one stay half precision but where they overflow, for that is what it is for."""


@dataclass(frozen=True)
class Float32Nodes:
    """The nodes that stay float32, by their first outputs, in the graph's order, and why.

    Among them are those that `to_half` keeps unasked. ``loss``: of rounding all other values, relative to the outputs.
    """

    kind: int
    nodes: tuple[str, ...]
    reasons: dict[str, str]
    operators: dict[str, str]
    others: int
    """Nodes that become half precision."""
    loss: float

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """How many nodes of each operator are kept, by the reason's kind."""
        found: dict[str, Counter[str]] = {}
        for node in self.nodes:
            found.setdefault(_kind_of(self.reasons[node]), Counter())[self.operators[node]] += 1
        return {reason: dict(sorted(counted.items())) for reason, counted in found.items()}

    def summary(self) -> list[str]:
        """Lines for people: how many nodes are in which type, and those in float32 by reason and operator."""
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
    """What ``to_half(model, kind, keep=kept(...).nodes)`` should keep, measured on ``feeds``.

    1. Nodes one of whose float32 values gets beyond a quarter of what ``kind`` reaches on the feeds.
    2. The nodes around the values whose rounding loses most, while it pays: as long as the outputs lose more than `STEADY`
       units of the type's rounding, values that make up a tenth of that each are left unrounded, by keeping what makes them
       and all that take them; where that takes away less than half of what they lost, it is taken back, and no more are kept.

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
    """A graph and the type that it is to be converted to."""

    def __init__(self, types: ElementTypes, kind: int) -> None:
        self.types, self._kind = types, kind
        self.always = BlockList(types, kind).reasons
        """What `to_half` keeps unasked, and why."""
        self._heavy = {value for value, one in types.graph.constants.items() if element_count(one.dims) > HEAVY}

    def list_convertible(self, reasons: Collection[str]) -> list[ir.Node]:
        """The nodes that would be converted, were those of ``reasons`` kept."""
        return [node for node in self.types.graph.nodes if get_node_key(node) not in reasons and self._can_convert(node)]

    def list_rounded(self, reasons: Collection[str]) -> list[str]:
        """The values that would be rounded then."""
        return ConversionPlan(self.types, self._kind, set(reasons)).rounded

    def find_losing(self, loss: Loss, reasons: dict[str, str]) -> tuple[float, dict[str, str]]:
        """(what the outputs lose in the end, the nodes to keep besides ``reasons`` for it)."""
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
        """Whether ``node`` computes, and can in the half type."""
        return get_operator(node) not in IDLE and bool(self.types.convertible(node, self._kind))

    def _find_neighbours(self, name: str) -> list[ir.Node]:
        """The node that makes a value and those that read it, as far as they can be converted."""
        value = self.types.graph.value(name)
        if value is None:
            return []
        maker = value.producer()
        both = (*([maker] if maker is not None else []), *self.types.graph.all_consumers(value))
        return [node for node in both if self._can_convert(node)]

    def _may_be_left(self, name: str, reasons: Collection[str]) -> bool:
        """Whether a value can be left unrounded without a large weight in float32; copies of others cannot by themselves."""
        value = self.types.graph.value(name)
        maker = value.producer() if value is not None else None
        if maker is None or get_operator(maker) in MOVING:
            return False
        around = [node for node in self._find_neighbours(name) if get_node_key(node) not in reasons]
        return not any(value in self._heavy for node in around for value in node.inputs)


def _kind_of(reason: str) -> str:
    """The kind of a reason: what it says before the number."""
    return reason.partition(":")[0]
