"""A model's main graph while it is simplified.

A name always means the same value, for as long as there is one of that name: what is known of values stays true while nodes
come and go. *Pinned* are names that others than the graph's own nodes know: outputs, what subgraphs and training graphs read,
what quantisation annotations name. They keep their names, whatever gives their values. *Kept* are values that are to be
computed by the nodes that compute them now; see `recognised`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx

from graphsurgery.graph.reading import STANDARD, array_of, constant_tensor
from graphsurgery.graph.scope import in_order, known_elsewhere
from graphsurgery.model.namer import Namer

INITIALIZERS_BY_THEMSELVES = 4
"""The IR version since which initializers need not be inputs."""
SMALL = 1024
"""Bytes of constants that are read for their values at most."""


class Workspace:
    """A copy of ``model`` to change; `finish` gives it back."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.graph = self.model.graph
        self.namer = Namer.of(self.model)
        self.opset = max((one.version for one in model.opset_import if one.domain in STANDARD), default=0)
        self._own = {one.name for one in model.functions if one.domain in STANDARD}
        self.inputs = frozenset(info.name for info in self.graph.input)
        self.outputs = frozenset(info.name for info in self.graph.output)
        self.constants = {one.name: one for one in self.graph.initializer if one.name not in self.inputs}
        self._source = list(self.graph.node)
        self._nodes = {id(node): node for node in in_order(self._source) if any(node.output)}
        self._front: list[onnx.NodeProto] = []
        self._gone: list[onnx.NodeProto] = []  # kept, so that no other node can get the id of one of them
        self._before = self._names()
        self._new_infos: list[onnx.ValueInfoProto] = []
        self.pinned = self.outputs
        self.kept: Mapping[str, str] = {}
        self.find_pinned()
        self._producers: dict[str, onnx.NodeProto] = {}
        self._readers: dict[str, dict[int, list[int]]] = {}  # by value and reading node: the places where it does
        for node in self._nodes.values():
            self._enter(node)

    @property
    def nodes(self) -> Iterator[onnx.NodeProto]:
        """The nodes, each before those that read it; those that vanish meanwhile are not given."""
        self._settle()
        for key in list(self._nodes):
            if key in self._nodes:
                yield self._nodes[key]

    @property
    def holds_initializers(self) -> bool:
        """Whether a constant may be an initializer that is no input."""
        return self.model.ir_version >= INITIALIZERS_BY_THEMSELVES

    def is_standard(self, node: onnx.NodeProto) -> bool:
        """Whether a node's operator is the standard's, and none that the model brings along under its name."""
        return node.domain in STANDARD and node.op_type not in self._own

    def find_pinned(self) -> None:
        """Look anew who else knows which names: subgraphs may have gone, or come."""
        self.pinned = self.outputs | known_elsewhere(self.model, self._nodes.values())

    def producer(self, name: str) -> onnx.NodeProto | None:
        """The node that gives a value; None for inputs, initializers and names that there are not."""
        return self._producers.get(name)

    def readers(self, name: str) -> list[onnx.NodeProto]:
        """The nodes that read a value, each once."""
        return [self._nodes[key] for key in self._readers.get(name, {})]

    def is_read(self, name: str) -> bool:
        return name in self.pinned or bool(self._readers.get(name))

    def is_read_once(self, name: str) -> bool:
        """Whether one node alone reads a value, in one place."""
        readers = self._readers.get(name, {})
        return name not in self.pinned and len(readers) == 1 and sum(map(len, readers.values())) == 1

    def array(self, name: str, most: int = SMALL) -> np.ndarray | None:
        """The values of a constant of ``most`` bytes at most; None of what is none, is larger or lies elsewhere."""
        tensor = self.constants.get(name)
        if tensor is None or math.prod(tensor.dims) > most:
            return None
        found = array_of(tensor)
        return found if found is not None and found.nbytes <= most else None

    def remove(self, node: onnx.NodeProto) -> None:
        """Take a node out that nobody reads, or whose readers were given something else."""
        self._gone.append(self._nodes.pop(id(node)))
        self._leave(node)
        for name in node.output:
            self._producers.pop(name, None)
            self.constants.pop(name, None)

    def rewire(self, node: onnx.NodeProto, inputs: Sequence[str]) -> None:
        """Let a node read ``inputs``."""
        self._leave(node)
        node.input[:] = inputs
        self._join(node)

    def substitute(self, node: onnx.NodeProto, names: Sequence[str]) -> bool:
        """Take ``node`` out: its first outputs are the values of ``names``, the others are read by nobody.

        False, and nothing changed, where they are read, or where a name has to stay that the other value cannot be given.
        """
        pairs = [(old, new) for old, new in zip(node.output, names, strict=False) if old and self.is_read(old)]
        renamed = {new: old for old, new in pairs if old in self.pinned}
        if any(name and self.is_read(name) for name in node.output[len(names) :]):
            return False
        if len(renamed) < sum(old in self.pinned for old, _ in pairs) or not all(map(self._can_be_renamed, renamed)):
            return False
        self.remove(node)
        for new, old in renamed.items():
            self._rename(new, old)
        for old, new in pairs:
            if old not in self.pinned:
                self.reroute(old, renamed.get(new, new))
        return True

    def hold(self, name: str, tensor: onnx.TensorProto) -> None:
        """Make a constant of the only output of a node: an initializer where the format has such, else a Constant node."""
        node = self._producers[name]
        if self.holds_initializers and name not in self.outputs:
            self.remove(node)
            held = self.graph.initializer.add()
        else:
            self.rewire(node, ())
            node.op_type, node.domain = "Constant", ""
            del node.attribute[:]
            held = node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t
        held.CopyFrom(tensor)
        held.name = name
        self.constants[name] = held

    def add_constant(self, wish: str, array: np.ndarray) -> str:
        """The name of a new constant."""
        name = self.namer.new(wish)
        tensor = onnx.numpy_helper.from_array(array, name)
        if self.holds_initializers:
            self.graph.initializer.append(tensor)
            self.constants[name] = self.graph.initializer[-1]
        else:
            node = onnx.helper.make_node("Constant", [], [name], name, value=tensor)
            self._front.append(node)
            self._enter(node)
        return name

    def splice(self, instead: dict[int, list[onnx.NodeProto]], infos: Iterable[onnx.ValueInfoProto] = ()) -> None:
        """Put nodes in the place of others, given by their id, that give the same values. ``infos`` declare new values."""
        nodes, self._nodes = self._nodes, {}
        for key, node in nodes.items():
            self._nodes[key] = node
            if key in instead:
                self._nodes |= {id(one): one for one in instead[key]}
        for key, added in instead.items():
            self.remove(nodes[key])
            for one in added:
                self._enter(one)
        self._new_infos += infos
        self.find_pinned()

    def drop_initializers(self, places: Iterable[int]) -> None:
        """Take initializers out that nobody reads, given by their places."""
        for place in sorted(places, reverse=True):
            del self.graph.initializer[place]
        left = {one.name: one for one in self.graph.initializer}
        self.constants = {name: one for name, one in self.constants.items() if name in left or name in self._producers}

    def finish(self) -> onnx.ModelProto:
        """The model as it is now; what is declared of values that are gone is gone as well."""
        self._settle()
        if list(self._nodes) != [id(node) for node in self._source]:
            kept = onnx.GraphProto(node=self._nodes.values())
            self.graph.ClearField("node")
            self.graph.node.extend(kept.node)
        gone = self._before - self._names()
        for place in reversed([at for at, info in enumerate(self.graph.value_info) if info.name in gone]):
            del self.graph.value_info[place]
        self.graph.value_info.extend(self._new_infos)
        return self.model

    def _settle(self) -> None:
        """Put new Constant nodes before all others."""
        if self._front:
            self._nodes = {id(node): node for node in self._front} | self._nodes
            self._front = []

    def _enter(self, node: onnx.NodeProto) -> None:
        self._join(node)
        self._producers |= {name: node for name in node.output if name}
        tensor = constant_tensor(node)
        if tensor is not None:
            self.constants[node.output[0]] = tensor

    def _join(self, node: onnx.NodeProto) -> None:
        for place, name in enumerate(node.input):
            if name:
                self._readers.setdefault(name, {}).setdefault(id(node), []).append(place)

    def _leave(self, node: onnx.NodeProto) -> None:
        for name in set(node.input) - {""}:
            self._readers[name].pop(id(node), None)

    def _names(self) -> set[str]:
        """Every value of the main graph."""
        given = {name for node in self._nodes.values() for name in node.output}
        sparse = {one.values.name for one in self.graph.sparse_initializer}
        return given | sparse | {one.name for field in (self.graph.input, self.graph.initializer) for one in field}

    def _can_be_renamed(self, name: str) -> bool:
        return name in self._producers and name not in self.pinned

    def _rename(self, old: str, new: str) -> None:
        """Let the node that gives ``old`` give it the name ``new``."""
        node = self._producers.pop(old)
        node.output[:] = [new if name == old else name for name in node.output]
        self._producers[new] = node
        if old in self.constants:
            self.constants[new] = self.constants.pop(old)
        self.reroute(old, new)

    def reroute(self, old: str, new: str) -> None:
        """Let everything that reads ``old`` read ``new``."""
        for key, places in self._readers.pop(old, {}).items():
            for place in places:
                self._nodes[key].input[place] = new
            self._readers.setdefault(new, {}).setdefault(key, []).extend(places)
