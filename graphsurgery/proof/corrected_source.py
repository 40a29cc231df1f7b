"""The source of a mending edit: run as it stands wherever it is right, and corrected elsewhere.

An edit may mend a node that computes wrong numbers or fails. The source is then cut there: it runs up to the node, numpy
computes the right value, and the source runs on from it. An edit may also free a size that the source only declares. The source
then runs without that declaration at other sizes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from graphsurgery.errors import UnsupportedModelError
from graphsurgery.interface import Value
from graphsurgery.model.model import Model
from graphsurgery.proof.inference import find_typed_value
from graphsurgery.references.chain import Chain
from graphsurgery.references.nested import drop_unread_inputs
from graphsurgery.references.reference import Array, Substitute, Values
from graphsurgery.runtime.session import Session, open_proto


@dataclass(frozen=True)
class Part:
    """The source up to a node whose value numpy computes."""

    session: Session | None
    """None if the node reads stored values alone."""
    takes: frozenset[str]
    """The inputs of the session: the source's own, and values that were computed before."""
    gives: tuple[str, ...]
    stored: Values
    substitute: Substitute

    def run(self, values: Values) -> list[Array]:
        """Return the values that the node reads."""
        known = dict(self.stored)
        if self.session is not None:
            known |= self.session.run({name: array for name, array in values.items() if name in self.takes}, self.gives)
        return [known[name] for name in self.substitute.reads]


@dataclass(frozen=True)
class CorrectedSource:
    """Runs the source as a `Session` does, with its faults corrected."""

    own: Session | None
    """The source as it stands. None if ONNX Runtime cannot load it."""
    fixed: tuple[Value, ...]
    """The inputs as declared, whose numbers bind ``own``."""
    parts: tuple[Part, ...]
    last: Session
    """The rest of the source, after all parts. It takes the corrected values as inputs."""

    @property
    def outputs(self) -> list[str]:
        return self.last.outputs

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Run once and return the outputs by name, as `Session.run` does."""
        values = dict(feeds)
        is_right = self.own is not None and all(_fits(one, values.get(one.name)) for one in self.fixed)
        for part in self.parts:
            read = part.run(values)
            values[part.substitute.value] = made = part.substitute.compute(read)
            is_right = is_right and _computes(part.substitute, read, made)
        if is_right and self.own is not None:
            return self.own.run(feeds, outputs)
        return self.last.run(values, outputs)


def _fits(declared: Value, array: Array | None) -> bool:
    """Return whether an array has the sizes that an input declares."""
    if array is None or declared.dims is None:
        return True
    return all(not isinstance(dim, int) or dim == size for dim, size in zip(declared.dims, array.shape, strict=False))


def _computes(substitute: Substitute, read: Sequence[Array], made: Array) -> bool:
    """Return whether the source's own node computes the right value."""
    try:
        own = substitute.compute_own(read)
    except ValueError:
        return False
    return own.shape == made.shape and np.array_equal(own, made, equal_nan=own.dtype.kind == "f")


def needs_correction(chain: Chain) -> bool:
    """Return whether an edit of ``chain`` mends the source, so that the source alone cannot be the reference."""
    return any(link.reference.substitutes(link.parameters) or link.reference.lifts(link.parameters) for link in chain)


def list_made_inside(chain: Chain) -> list[str]:
    """Return the values that edits make for nodes of the source which they mend."""
    return [one.made for link in chain for one in link.reference.substitutes(link.parameters)]


def correct_source(proto: onnx.ModelProto, source: Model, chain: Chain, plain: bool) -> CorrectedSource:
    """Open ``proto``, the graph of ``source`` with the outputs that are wanted, corrected as the edits of ``chain`` say.

    Raises UnsupportedModelError if ONNX Runtime cannot run a part of it.
    """
    substitutes, lifted = _collect(chain)
    try:
        own = open_proto(proto, source, plain=plain)
    except UnsupportedModelError:
        own = None
    free = onnx.ModelProto()
    free.CopyFrom(proto)
    if lifted:
        _lift(free.graph, lifted)
    _cut(free.graph, source, substitutes)
    parts = tuple(_open_part(free, source, one, plain) for one in substitutes)
    return CorrectedSource(own, source.interface.inputs, parts, open_proto(free, source, plain=plain))


def _collect(chain: Chain) -> tuple[list[Substitute], set[tuple[str, int]]]:
    """Return what the edits correct, by the source's names. Raises UnsupportedModelError for a value that an edit made."""
    substitutes: list[Substitute] = []
    lifted: set[tuple[str, int]] = set()
    for link, in_source in chain.walk_from_source():
        for one in link.reference.substitutes(link.parameters):
            names = [in_source(name) for name in (one.value, *one.reads)]
            known = tuple(name for name in names if name is not None)
            if len(known) < len(names):
                raise UnsupportedModelError(f"{link.edit} mends a value that an edit made", "run it on the source instead")
            substitutes.append(replace(one, value=known[0], reads=known[1:]))
        named = [(in_source(name), axis) for name, axis in link.reference.lifts(link.parameters)]
        lifted |= {(name, axis) for name, axis in named if name is not None}
    return substitutes, lifted


def _lift(graph: onnx.GraphProto, lifted: Collection[tuple[str, int]]) -> None:
    """Take the numbers of inputs' dims away, and all that was declared of other values by them."""
    for info in graph.input:
        for axis, dim in enumerate(info.type.tensor_type.shape.dim):
            if (info.name, axis) in lifted:
                dim.Clear()
    del graph.value_info[:]
    for info in graph.output:
        if info.type.HasField("tensor_type"):
            info.type.tensor_type.ClearField("shape")


def _cut(graph: onnx.GraphProto, source: Model, substitutes: Iterable[Substitute]) -> None:
    """Turn the values that numpy computes from values of nodes into inputs."""
    values = {one.value for one in substitutes}
    nodes = [node for node in graph.node if values.isdisjoint(node.output)]
    del graph.node[:]
    graph.node.extend(nodes)
    for name in sorted(values):
        typed = find_typed_value(source, name)
        dtype = onnx.TensorProto.FLOAT if typed is None else typed.dtype
        graph.input.append(onnx.helper.make_tensor_value_info(name, dtype, None))


def _open_part(free: onnx.ModelProto, source: Model, one: Substitute, plain: bool) -> Part:
    """Open the source up to the node that makes the value of ``one``."""
    stored = {name: source.values(source.initializers[name]) for name in one.reads if name in source.initializers}
    gives = tuple(dict.fromkeys(name for name in one.reads if name not in stored))
    if not gives:
        return Part(None, frozenset(), (), stored, one)
    part = onnx.ModelProto()
    part.CopyFrom(free)
    del part.graph.output[:]
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in gives)
    drop_unread_inputs(part.graph, ())
    takes = frozenset(info.name for info in part.graph.input)
    return Part(open_proto(part, source, plain=plain), takes, gives, stored, one)
