"""Probe a float32 model: how large its values get, and what the outputs lose if some of the values are rounded to a half type.

Both probes run in ONNX Runtime on the CPU in float32, as whole graphs. At most one number of each inner value leaves the graph:
its largest absolute value. So memory stays that of a plain run, and bfloat16 can be measured, in which that provider computes
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from graphsurgery.compare.loss import find_tokens
from graphsurgery.compare.vectors import select_vectors
from graphsurgery.graph.element_types import FLOAT
from graphsurgery.interface import Value
from graphsurgery.model.names import Namer
from graphsurgery.rewrites.half.convert import Float32Baseline
from graphsurgery.runtime.session import LentSession

Array = np.ndarray
Feed = Mapping[str, Array]
INFINITY, ZERO, FLAT = np.array(np.inf, np.float32), np.zeros(1, np.float32), np.array([-1])


class RangeProbe:
    """Measures how large the values of a float32 model get: max |x| over all finite x."""

    def __init__(self, model: Float32Baseline, names: Sequence[str], watched: Sequence[str] = ()) -> None:
        """Open a session that measures the float32 values ``names``, and returns the values ``watched`` as they are."""
        self._names, self._watched, namer = list(names), list(watched), model.make_namer()
        graph = onnx.ModelProto()
        graph.CopyFrom(model.graph)
        infinity, zero, flat, self._output = (namer.new(f"ranges/{name}") for name in ("infinity", "zero", "flat", "all"))
        for name, value in ((infinity, INFINITY), (zero, ZERO), (flat, FLAT)):
            graph.graph.initializer.append(numpy_helper.from_array(value, name))
        ends = []
        for name in self._names:
            nodes = _make_size_nodes(name, namer, infinity, zero, flat)
            graph.graph.node.extend(nodes)
            ends += nodes[-1].output
        graph.graph.node.append(helper.make_node("Concat", [*ends, zero], [self._output], axis=0))
        given = {value.name for value in graph.graph.output}
        graph.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self._watched if name not in given)
        graph.graph.output.append(helper.make_tensor_value_info(self._output, FLOAT, [len(ends) + 1]))
        self._session = LentSession(graph, model.weights)

    def measure(self, feed: Feed) -> tuple[dict[str, float], dict[str, Array]]:
        """Run one feed, and return the largest size of each value by name, and the watched values."""
        found = self._session.run(feed, [self._output, *self._watched])
        sizes = found.pop(self._output)
        return {name: float(size) for name, size in zip(self._names, sizes, strict=False)}, found


class RoundingProbe:
    """A float32 model in which any value can be rounded to a half type and back, for all its readers."""

    def __init__(self, model: Float32Baseline, names: Sequence[str], kind: int) -> None:
        self._places, namer = {name: place for place, name in enumerate(names)}, model.make_namer()
        self._switches = namer.new("switches")
        self.outputs = [value.name for value in model.graph.graph.output if value.type.tensor_type.elem_type == FLOAT]
        graph = onnx.ModelProto()
        graph.CopyFrom(model.graph)
        del graph.graph.node[:]
        for source in model.graph.graph.node:
            node = onnx.NodeProto()
            node.CopyFrom(source)
            raw = {name: namer.new(f"{name}/raw") for name in source.output if name in self._places}
            node.output[:] = [raw.get(name, name) for name in source.output]
            graph.graph.node.append(node)
            for name, inner in raw.items():
                self._add_switch(graph.graph, namer, inner, name, kind)
        size = max(len(self._places), 1)
        graph.graph.input.append(helper.make_tensor_value_info(self._switches, onnx.TensorProto.BOOL, [size]))
        self._session = LentSession(graph, model.weights)

    def run(self, feed: Feed, rounded: Collection[str]) -> dict[str, Array]:
        """Return the float32 outputs if the values ``rounded`` are rounded."""
        switches = np.zeros(max(len(self._places), 1), dtype=np.bool_)
        switches[[self._places[name] for name in rounded]] = True
        return self._session.run({**feed, self._switches: switches}, self.outputs)

    def _add_switch(self, graph: onnx.GraphProto, namer: Namer, raw: str, name: str, kind: int) -> None:
        """Let the value ``name`` be ``raw``, rounded if its switch is on."""
        place, on, half, back = (namer.new(f"{name}/{step}") for step in ("place", "on", "half", "back"))
        graph.initializer.append(numpy_helper.from_array(np.array(self._places[name]), place))
        graph.node.append(helper.make_node("Gather", [self._switches, place], [on]))
        graph.node.append(helper.make_node("Cast", [raw], [half], to=kind))
        graph.node.append(helper.make_node("Cast", [half], [back], to=FLOAT))
        graph.node.append(helper.make_node("Where", [on, back, raw], [name]))


def _make_size_nodes(name: str, namer: Namer, infinity: str, zero: str, flat: str) -> list[onnx.NodeProto]:
    """Make the nodes that compute the largest finite |x|, as ``[1]``. It is 0 for an empty tensor."""
    size, finite, kept, row, longer, end = (namer.new(f"{name}/size{step}") for step in range(6))
    return [
        helper.make_node("Abs", [name], [size]),
        helper.make_node("Less", [size, infinity], [finite]),
        helper.make_node("Where", [finite, size, zero], [kept]),
        helper.make_node("Reshape", [kept, flat], [row]),
        helper.make_node("Concat", [row, zero], [longer], axis=0),
        helper.make_node("ReduceMax", [longer], [end], keepdims=1),
    ]


Loss = Callable[[Collection[str]], float]


def make_loss(rounding: RoundingProbe, feeds: Sequence[Feed], mask: Value | None) -> Loss:
    """Make the function that measures what the outputs lose if some values are rounded.

    The loss of a set of values is the squared distance, over all outputs at tokens, between the float32 model with these values
    rounded and without, relative to the squares of the outputs. Rounding errors are small and nearly independent, so the losses
    of single values add up to about the loss of all of them: to 0.7-1.25 times it, copies of a value counted once, on 14
    encoders, fused and not, in both types.

    Args:
        mask: the input that says which positions are tokens.
    """
    whole = [_flatten_at_tokens(rounding.run(feed, ()), feed, mask) for feed in feeds]
    size = sum(float(np.square(one).sum()) for one in whole)

    def loss(names: Collection[str]) -> float:
        """Return the loss. It is infinite if an output is not finite any more."""
        apart = 0.0
        for feed, wanted in zip(feeds, whole, strict=True):
            found = _flatten_at_tokens(rounding.run(feed, names), feed, mask)
            with np.errstate(all="ignore"):
                apart += float(np.square(found - wanted).sum())
        if apart == 0:
            return 0.0
        return apart / size if np.isfinite(apart) and size > 0 else np.inf

    return loss


def find_worst(loss: Loss, names: Sequence[str], least: float) -> dict[str, float]:
    """Return the values that lose ``least`` or more if they alone are rounded, and how much.

    A set of values that loses less in all hides no such value, because losses add up. So the search halves the set each time.
    """
    if not names:
        return {}
    lost = loss(names)
    if lost < least:
        return {}
    if len(names) == 1:
        return {names[0]: lost}
    middle = len(names) // 2
    return find_worst(loss, names[:middle], least) | find_worst(loss, names[middle:], least)


def _flatten_at_tokens(outputs: dict[str, Array], feed: Feed, mask: Value | None) -> Array:
    """Return all numbers of the outputs at tokens, as one float64 vector."""
    parts = [select_vectors(one, find_tokens(feed, mask)) for one in outputs.values()]
    return np.concatenate([np.zeros(0), *(np.asarray(part, dtype=np.float64).ravel() for part in parts)])
