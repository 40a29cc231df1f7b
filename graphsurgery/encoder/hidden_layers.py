"""The hidden layers of an encoder, by the structure of its graph: what transformers gives as ``hidden_states``.

A layer adds to what flows through it: ``x + attention(x)``, then ``x + feed_forward(x)``, normalised before (pre-norm) or after
(post-norm). Backwards from the last hidden state, through normalisations, there is such a sum before every sum; what an
attention is added to is what a layer was given. These values, and the last hidden state, are the hidden layers: the embeddings'
output first, then each layer's; of pre-norm encoders the stream between the layers, the last one normalised once more. So it is
in transformers, but for ModernBERT in transformers 4, whose last one is not (`before_norm`).
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from graphsurgery.graph.wiring import Wiring
from graphsurgery.interface import Interface
from graphsurgery.model.nodes import reads, taken

NORMALISING = frozenset({
    "Add", "Cast", "Clip", "Div", "Dropout", "Identity", "LayerNormalization", "Mul", "Pow", "RMSNormalization", "Reciprocal",
    "ReduceMean", "Reshape", "SimplifiedLayerNormalization", "Sqrt", "Sub", "Where",
})  # fmt: skip
"""Operators that stand between a sum and what the next layer is given: normalisations, whole or in pieces, masking, views."""
SUMS = frozenset({"Add", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization"})
"""Operators whose first two inputs are added."""
MEASURING = frozenset({"Shape", "Size"})
"""Operators that look at a value's size alone."""
NUMBERED = re.compile(r"(?:all_)?(?:hidden_states|layer_embeddings)[._](\d{1,4})")
"""Outputs of exports that give the hidden layers: ``hidden_states.0``, ``hidden_states_0``, ``all_layer_embeddings.0``."""


def layers_by_name(interface: Interface) -> tuple[str, ...]:
    """The outputs that are numbered from 0 on as hidden layers, in order; empty where there are none or some are missing."""
    found = {int(match[1]): value.name for value in interface.outputs if (match := NUMBERED.fullmatch(value.name))}
    return tuple(found[number] for number in range(len(found))) if set(found) == set(range(len(found))) else ()


def layers_by_structure(wiring: Wiring, last: str) -> tuple[str, ...]:
    """The hidden layers before ``last``, the last hidden state, and that itself; only ``last`` where no layer is recognised."""
    return _Stream(wiring).layers(last)


def before_norm(wiring: Wiring, layers: tuple[str, ...]) -> str | None:
    """The stream before the final normalisation of a pre-norm encoder, whose ``layers`` `layers_by_structure` gives; None where
    the last layer is no less normalised than the others."""
    between = [wiring.producers.get(wiring.origin(name)) for name in layers[1:]]
    if len(between) < 2 or not all(node is not None and node.op_type == "Add" for node in between[:-1]):
        return None
    return _Stream(wiring).sum_before(layers[-1]) if between[-1] is None or between[-1].op_type != "Add" else None


@dataclass(frozen=True)
class _Stream:
    """What flows through an encoder's layers."""

    wiring: Wiring

    def layers(self, last: str) -> tuple[str, ...]:
        found, value = [last], last
        while (step := next(self._sums(value), None)) is not None:
            _, value, added = step
            if any(_attends(node) for node in self._behind(added, self._moment(value))):
                found.append(value)
        return tuple(reversed(found))

    def sum_before(self, value: str) -> str | None:
        """The first sum before ``value``."""
        return next((node.output[0] for node, _, _ in self._sums(value)), None)

    def _sums(self, value: str) -> Iterator[tuple[onnx.NodeProto, str, str]]:
        """(sum, what flows, what is added to it) of the sums before ``value`` of which one side comes from the other."""
        for node in self._behind(value, through=NORMALISING):
            for one, other in ((0, 1), (1, 0)) if node.op_type in SUMS else ():
                if self._comes_from(node.input[other], self._moment(node.input[one])):
                    yield node, node.input[one], node.input[other]

    def _moment(self, value: str) -> frozenset[str]:
        """What ``value`` is a copy of, and what else that node gives: a fused sum gives its normalised form, too."""
        origin = self.wiring.origin(value)
        node = self.wiring.producers.get(origin)
        return frozenset([origin] if node is None else node.output)

    def _comes_from(self, value: str, source: frozenset[str]) -> bool:
        """Whether the numbers of ``value`` are computed from those of ``source``, which is no weight (layers share zeros)."""
        if value in source or source & self.wiring.initializers.keys():
            return False
        return any(source & reads(node) for node in self._behind(value, source))

    def _behind(
        self, value: str, until: frozenset[str] = frozenset(), through: frozenset[str] | None = None
    ) -> Iterator[onnx.NodeProto]:
        """The nodes that ``value`` is computed by, nearest first, no further back than ``until``; where ``through`` is given,
        only behind such nodes."""
        todo, seen = deque([value]), {"", *until}
        while todo:
            current = todo.popleft()
            node = self.wiring.producers.get(current)
            if current in seen or node is None or node.op_type in MEASURING:
                continue
            seen.add(current)
            yield node
            if through is None or node.op_type in through:
                todo += (*node.input, *taken([node]))


def _attends(node: onnx.NodeProto) -> bool:
    """Whether a node is an attention, or the Softmax within one."""
    return node.op_type == "Softmax" or node.op_type.endswith("Attention")
