"""Find out whether what is added to scores hides padding and does nothing else, by running its nodes.

    bias [batch, 1, queries or 1, keys] = 0 at the keys that are tokens, one number at all others

The operator then takes the mask ``[batch, keys]`` in its place, which needs no memory for each pair of positions. The number
becomes the attribute mask_filter_value: the operator adds it to the scores, as the nodes do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from graphsurgery.deferred import ir
from graphsurgery.encoder.flow import Flow
from graphsurgery.encoder.scores import PADDING, find_terms
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.graph.facts import Facts
from graphsurgery.graph.operators import SHAPE_READING, get_operator
from graphsurgery.model.dtypes import count_elements
from graphsurgery.rewrites.attention.bias import Bias
from graphsurgery.rewrites.attention.reading import Step
from graphsurgery.runtime.session import Session

TRIALS = ((3, 6), (2, 600))
"""The rows and positions of the masks that are tried. In the longer ones, a window would show."""
MOST_NODES = 100
MOST_ELEMENTS = 1 << 10
"""Upper limits on the nodes that turn a mask into a bias, and on the elements of a constant that they read."""


@dataclass(frozen=True, eq=False)
class KeyMask:
    """An input ``[batch, keys]`` that is 1 at tokens, and the number that is added to the scores of all other keys."""

    value: ir.Value
    number: float


@dataclass
class KeyMasks:
    """Finds key masks, and keeps what it found: layers share their masks."""

    flow: Flow
    facts: Facts
    _found: dict[tuple[tuple[str, str | None, float], ...], KeyMask | None] = field(default_factory=dict)

    def find(self, bias: Bias, steps: Sequence[Step]) -> KeyMask | None:
        """Return the mask that ``bias``, made of ``steps``, stands for, or None if it adds anything else."""
        key = tuple((step.kind.value, None if step.value is None else step.value.name, step.number) for step in steps)
        if key not in self._found:
            self._found[key] = self._try(bias, steps)
        return self._found[key]

    def _try(self, bias: Bias, steps: Sequence[Step]) -> KeyMask | None:
        terms = find_terms(self.flow, [step.value for step in steps if step.value is not None])
        if bias.dims is None or len(bias.dims) != 4 or {term.kinds for term in terms} != {(PADDING,)}:
            return None
        nodes = _list_nodes(bias.value, self.flow)
        read = [value for node in nodes for value in self.flow.graph.all_inputs(node)]
        inputs = [value for value in dict.fromkeys(read) if value.is_graph_input() and self.flow.graph.tensor(value) is None]
        made = {value for node in nodes for value in node.outputs}
        stored = {one: tensor for one in read if (tensor := self.flow.graph.tensor(one)) is not None}
        fed = _list_fed(nodes, inputs)
        small = all(count_elements(tensor.dims) <= MOST_ELEMENTS for tensor in stored.values())
        if not nodes or len(fed) != 1 or self.flow.find_consumers(fed[0], "Gather"):  # ids have other numbers than 0 and 1
            return None
        if not small or any(len(self.facts[one].dims or ()) != 2 for one in inputs):
            return None
        model = self._make_model(nodes, inputs, [stored[one] for one in stored if one not in made], bias.value)
        try:
            numbers = [self._run(model, inputs, fed[0], *trial) for trial in TRIALS]
        except UnsupportedModelError:
            return None
        number = numbers[0]
        return KeyMask(fed[0], number) if number is not None and set(numbers) == {number} else None

    def _make_model(
        self, nodes: Iterable[ir.Node], inputs: Sequence[ir.Value], stored: Sequence[onnx.TensorProto], output: ir.Value
    ) -> bytes:
        """Return the nodes that compute ``output``, as a model."""
        given = [onnx.helper.make_tensor_value_info(one.name or "", self.facts[one].dtype, [None, None]) for one in inputs]
        result = onnx.ValueInfoProto(name=output.name)
        graph = onnx.helper.make_graph([ir.serde.serialize_node(node) for node in nodes], "bias", given, [result], stored)
        source = self.flow.graph.source
        model = onnx.helper.make_model(graph, opset_imports=source.opset_import, ir_version=source.ir_version)
        return model.SerializeToString()

    def _run(self, model: bytes, inputs: Sequence[ir.Value], mask: ir.Value, rows: int, positions: int) -> float | None:
        """Run ``model`` on a mask of this size. Return the number that it adds at padding, or None if it does anything else."""
        drawn = np.random.default_rng(0).integers(0, 2, (rows, positions))
        drawn[0], drawn[-1, :1] = 1, 0
        feed = {one.name or "": self._fill(one, drawn if one is mask else np.ones_like(drawn)) for one in inputs}
        (found,) = Session(model, threads=1).run(feed).values()
        is_token = feed[mask.name or ""].astype(bool)[:, None, None, :]
        number = float(found.min())
        shape = (len(is_token), 1, is_token.shape[-1], is_token.shape[-1])
        if found.ndim != 4 or found.shape[1] != 1 or not np.isfinite(number) or is_token.all():
            return None
        same = np.array_equal(np.broadcast_to(found, shape), np.broadcast_to(np.where(is_token, 0, number), shape))
        return number if same else None

    def _fill(self, one: ir.Value, drawn: np.ndarray) -> np.ndarray:
        """Return ``drawn`` as an input, with its type and its fixed dims."""
        fixed = [
            size if isinstance(size, int) else own for size, own in zip(self.facts[one].dims or (), drawn.shape, strict=True)
        ]
        return np.resize(drawn, fixed).astype(onnx.helper.tensor_dtype_to_np_dtype(self.facts[one].dtype))


def _list_nodes(value: ir.Value, flow: Flow) -> list[ir.Node]:
    """Return the nodes that compute ``value``, in an order in which they run. None are returned if they are many or read
    tokens."""
    found: dict[ir.Node, None] = {}
    todo = [value]
    while todo:
        node = todo[-1].producer()
        before = [] if node is None else [one for one in flow.graph.all_inputs(node) if one.producer() not in found]
        before = [one for one in before if one.producer() is not None]
        if node is None or node in found or not before:
            todo.pop()
            if node is not None:
                found[node] = None
        else:
            todo += before
        if len(found) > MOST_NODES or any(one in flow.tokens for one in before):
            return []
    return list(found)


def _list_fed(nodes: Iterable[ir.Node], inputs: Sequence[ir.Value]) -> list[ir.Value]:
    """Return the inputs whose numbers the nodes read, and not only their shapes."""
    return [one for one in inputs if any(get_operator(node) not in SHAPE_READING and one in node.inputs for node in nodes)]
