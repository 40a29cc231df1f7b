"""The two towers of a joint model: one output of text vectors, one of picture vectors, and how their similarity is computed.

    logits = scale * (text . image) + bias

A tower's output reaches the inputs of one kind alone. Names say nothing, so the graph is followed back from each output.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from graphsurgery.deferred import ir
from graphsurgery.encoder.modalities import PICTURE, TOKEN_IDS, list_modalities
from graphsurgery.encoder.unit_length import find_scaled_to_length_one
from graphsurgery.errors import NameNotFoundError, RequestError, UnsupportedModelError
from graphsurgery.graph.graph import Graph
from graphsurgery.graph.operators import COMMUTING, COPYING, PRODUCTS, RESHAPING, get_operator
from graphsurgery.interface import Value
from graphsurgery.model.dtypes import FLOATS
from graphsurgery.model.model import Model
from graphsurgery.suggestions import suggest

TEXT, IMAGE = "text", "image"
KINDS = (TEXT, IMAGE)
BOTH = "both"
"""The kind of an output that depends on texts and pictures: similarities, or the embedding of a fusion model."""
MOST_STEPS = 16
"""Logits are followed back to the product of the two embeddings through at most this many nodes."""
TURNING = RESHAPING | {"Transpose"}


@dataclass(frozen=True)
class Tower:
    """One tower: its output ``[batch, dim]``, and the inputs that this output reaches."""

    kind: str
    output: Value
    inputs: tuple[Value, ...]
    """In the model's order."""
    vector: str
    """The value below the normalisation, if the graph normalises the output; otherwise the output itself."""

    @property
    def is_normalized(self) -> bool:
        """Whether the last nodes give vectors of length one."""
        return self.vector != self.output.name


@dataclass(frozen=True)
class Logits:
    """An output of similarities: its ``scales`` are multiplied, its ``biases`` added; none of them depends on an input."""

    output: str
    scales: tuple[str, ...]
    biases: tuple[str, ...]
    text_first: bool
    """Whether the rows are texts and the columns are pictures."""


@dataclass(frozen=True)
class _Joint:
    """A model and what each of its outputs reaches."""

    model: Model
    graph: Graph
    kinds: dict[str, str]
    """`TEXT`, `IMAGE` or `BOTH`, by the names of the float outputs."""

    @classmethod
    def of(cls, model: Model) -> _Joint:
        graph = Graph.of(model)
        kinds = _find_input_kinds(model)
        found = {}
        for output in model.interface.outputs:
            value = graph.value(output.name)
            if value is None or output.dtype not in FLOATS:
                continue
            reached = {kinds[one.name] for one in graph.ancestors([value]) if one.name in kinds and graph.is_fed(one)}
            if reached:
                found[output.name] = BOTH if len(reached) > 1 else reached.pop()
        return cls(model, graph, found)

    def value(self, name: str) -> ir.Value:
        found = self.graph.value(name)
        if found is None:
            raise UnsupportedModelError(f"no node computes the output {name}", "export the model again")
        return found

    def list_outputs(self, kind: str) -> list[str]:
        return [name for name, one in self.kinds.items() if one == kind]


def find_tower(model: Model, kind: str, output: str | None = None) -> Tower:
    """Return the tower of a ``kind``, `TEXT` or `IMAGE`, of a joint model, with the named ``output`` if one is given.

    Without a name it is the output from which the logits are computed; without logits, the last ``[batch, dim]`` of the tower.

    Raises NameNotFoundError for a name that is not an output; UnsupportedModelError for a model that does not have both towers,
    or whose embedding depends on texts and pictures; RequestError if several outputs may be meant.
    """
    if kind not in KINDS:
        raise RequestError(f"{kind!r} is no tower", f"choose from {' and '.join(KINDS)}")
    joint = _Joint.of(model)
    _require_both(joint)
    name = _choose(joint, kind) if output is None else _check_named(joint, kind, output)
    value = joint.value(name)
    reached = joint.graph.ancestors([value])
    inputs = tuple(one for one in model.interface.inputs if joint.graph.value(one.name) in reached)
    declared = next(one for one in model.interface.outputs if one.name == name)
    return Tower(kind, declared, inputs, _find_vector(joint.graph, value) or name)


def has_two_towers(model: Model) -> bool:
    """Return whether some outputs depend on texts alone and others on pictures alone."""
    joint = _Joint.of(model)
    return all(_list_vectors(joint, kind) for kind in KINDS)


def find_logits(model: Model, text: str, image: str) -> tuple[Logits, ...]:
    """Return the outputs that are a scaled product of the embeddings ``text`` and ``image``, plus a bias."""
    joint = _Joint.of(model)
    ends = (joint.graph.origin(joint.value(text)), joint.graph.origin(joint.value(image)))
    found = (_read_logits(joint.graph, joint.value(name), ends) for name in joint.list_outputs(BOTH))
    return tuple(one for one in found if one is not None)


def list_similarities(model: Model) -> list[str]:
    """Return the outputs that depend on texts and pictures."""
    return _Joint.of(model).list_outputs(BOTH)


def _find_input_kinds(model: Model) -> dict[str, str]:
    """Return `IMAGE` for each input of pictures, and `TEXT` for token ids and for inputs that go with them, such as a mask."""
    found = {one.value.name: one.kind for one in list_modalities(model)}
    pictures = {name: IMAGE for name, kind in found.items() if kind == PICTURE}
    has_texts = TOKEN_IDS in found.values()
    return pictures | {one.name: TEXT for one in model.interface.inputs if has_texts and one.name not in pictures}


def _require_both(joint: _Joint) -> None:
    listed = ", ".join(map(str, joint.model.interface.outputs)) or "none"
    fused = [name for name in joint.list_outputs(BOTH) if _is_vector(joint.model, name)]
    missing = [kind for kind in KINDS if not _list_vectors(joint, kind)]
    if not missing:
        return
    if fused and not any(joint.list_outputs(kind) for kind in KINDS):
        raise UnsupportedModelError(
            f"{fused[0]} depends on texts and on pictures: the model mixes both before the embedding, so no tower can be taken "
            f"out of it; its outputs are {listed}",
            "a model of two towers gives one embedding of each, such as text_embeds and image_embeds",
        )
    which = " and ".join(missing)
    raise UnsupportedModelError(
        f"the model has no output [batch, dim] that depends on {'texts' if missing == [TEXT] else 'pictures'} alone, so it has "
        f"no {which} tower; its outputs are {listed}"
        if len(missing) == 1
        else f"the model has no output [batch, dim] of texts alone and none of pictures alone; its outputs are {listed}",
        "give a joint model, with an embedding of texts and one of pictures; a file of one tower alone needs no splitting",
    )


def _list_vectors(joint: _Joint, kind: str) -> list[str]:
    return [name for name in joint.list_outputs(kind) if _is_vector(joint.model, name)]


def _is_vector(model: Model, name: str) -> bool:
    output = model.interface.output(name)
    return output is not None and output.rank in (2, None)


def _check_named(joint: _Joint, kind: str, name: str) -> str:
    outputs = [one.name for one in joint.model.interface.outputs]
    if name not in outputs:
        advice = f"{suggest(name, outputs)}its outputs are {', '.join(outputs)}"
        raise NameNotFoundError(f"the model has no output {name!r}", advice)
    if joint.kinds.get(name) == BOTH:
        raise UnsupportedModelError(
            f"{name} depends on texts and on pictures, so it is not the embedding of one tower",
            f"name an output that depends on one of them; those of the {kind} tower are "
            f"{', '.join(_list_vectors(joint, kind))}",
        )
    if name not in _list_vectors(joint, kind):
        raise RequestError(
            f"{name} is no embedding [batch, dim] of the {kind} tower",
            f"choose from {', '.join(_list_vectors(joint, kind))}",
        )
    return name


def _choose(joint: _Joint, kind: str) -> str:
    names = _list_vectors(joint, kind)
    similarities = joint.graph.ancestors(map(joint.value, joint.list_outputs(BOTH)))
    names = [name for name in names if joint.value(name) in similarities] or names
    if len(names) > 1:
        names = [name for name in names if not any(_leads_to(joint, name, other) for other in names if other != name)]
    if len(names) > 1:
        raise RequestError(
            f"several outputs may be the embedding of the {kind} tower: {', '.join(names)}",
            f"name the one that is meant, with --{kind} NAME (extract-tower: --target NAME)",
        )
    return names[0]


def _leads_to(joint: _Joint, name: str, other: str) -> bool:
    return joint.value(name) in joint.graph.ancestors([joint.value(other)])


def _find_vector(graph: Graph, value: ir.Value) -> str | None:
    """Return the value that the last nodes before ``value`` scale to length one, or None if they do not."""
    node = graph.origin(value).producer()
    vector = None if node is None else find_scaled_to_length_one(graph, node)
    return None if vector is None else vector.name


def _read_logits(graph: Graph, value: ir.Value, ends: Sequence[ir.Value]) -> Logits | None:
    output, scales, biases = value.name or "", list[str](), list[str]()
    turned = False
    for _ in range(MOST_STEPS):
        node = value.producer()
        operator = "" if node is None else get_operator(node)
        if node is None or operator in PRODUCTS:
            break
        if operator in COPYING or operator == "Transpose":
            turned ^= operator == "Transpose"
            value = node.inputs[0] or value
            continue
        constants, others = _sort_operands(graph, node)
        if operator not in COMMUTING or len(others) != 1 or len(constants) != 1:
            return None
        (biases if operator == "Add" else scales).append(constants[0].name or "")
        value = others[0]
    node = value.producer()
    if node is None or get_operator(node) != "MatMul" or len(node.inputs) != 2:
        return None
    sides = [_follow_to_end(graph, one, ends, scales) for one in node.inputs if one is not None]
    if sorted(str(one) for one in sides) != ["0", "1"]:
        return None
    return Logits(output, tuple(scales), tuple(biases), (sides[0] == 0) != turned)


def _sort_operands(graph: Graph, node: ir.Node) -> tuple[list[ir.Value], list[ir.Value]]:
    """Return the operands that depend on no input, and the others."""
    operands = [one for one in node.inputs if one is not None]
    fed = {one: any(map(graph.is_fed, graph.ancestors([one]))) for one in operands}
    return [one for one in operands if not fed[one]], [one for one in operands if fed[one]]


def _follow_to_end(graph: Graph, value: ir.Value, ends: Sequence[ir.Value], scales: list[str]) -> int | None:
    """Return the place among ``ends`` of the embedding that ``value`` is made of, by turning and scaling alone."""
    for one in _walk_back(graph, value, scales):
        for place, end in enumerate(ends):
            if graph.origin(one) is end:
                return place
    return None


def _walk_back(graph: Graph, value: ir.Value, scales: list[str]) -> Iterator[ir.Value]:
    for _ in range(MOST_STEPS):
        yield value
        node = value.producer()
        if node is None:
            return
        if get_operator(node) in TURNING and node.inputs[0] is not None:
            value = node.inputs[0]
            continue
        vector = find_scaled_to_length_one(graph, node)
        if vector is not None:
            value = vector
            continue
        constants, others = _sort_operands(graph, node)
        if get_operator(node) != "Mul" or len(constants) != 1 or len(others) != 1:
            return
        scales.append(constants[0].name or "")
        value = others[0]
