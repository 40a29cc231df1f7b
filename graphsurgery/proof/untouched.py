"""The proof that an edit left the encoder alone: the same fields, and the same weights at their new places."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import onnx

from graphsurgery.errors import GraphSurgeryError
from graphsurgery.model import external
from graphsurgery.model.model import Model, open_data
from graphsurgery.model.records import Span
from graphsurgery.model.schema import walk_tensors
from graphsurgery.model.sources import ByteSource, FileBytes
from graphsurgery.proof.difference import Difference
from graphsurgery.report import Check, Verdict, list_few

SAMPLE = 64
BLOCK = 1 << 24
NAME = "encoder untouched"


def check_untouched(
    source: Model, output: Model, changed: Difference, broken: Sequence[str], *, every_byte: bool
) -> tuple[Check, tuple[str, ...]]:
    """Check that ``output`` still has all of ``source``. Return the check, and what was not checked.

    Weights are compared by name, type, dims and length, and by bytes: the first and last `SAMPLE` bytes of each, or all.
    ``broken`` says how the output's interface differs from what the edits promise.
    """
    lost = [repr(node.name or node.output[0]) for node in changed.removed]
    are = "node {} is" if len(lost) == 1 else "nodes {} are"
    wrong = [f"{are.format(list_few(lost))} missing or changed"] if lost else []
    wrong += [what if count == 1 else f"{what} ({count} times)" for what, count in Counter(changed.others).items()]
    wrong += broken
    unchecked: tuple[str, ...] = ()
    compared, differing = 0, list[str]()
    try:
        for name, one, other in _pair_payloads(source, output, changed.renamed):
            compared += 1
            if not _has_same_bytes(one, other, every_byte):
                differing.append(name)
    except GraphSurgeryError as error:
        unchecked = (f"the weights' bytes: {error}",)
    if not every_byte and compared:
        unchecked += (f"the weights' bytes except the first and last {SAMPLE} of each of {compared} tensors",)
    wrong += [f"the weights of {list_few(differing)} differ"] if differing else []
    if wrong:
        return Check(NAME, list_few(wrong, "; "), stated=Verdict.FAILED), unchecked
    how = "all bytes" if every_byte else "first and last bytes"
    count = len(changed.renamed)
    renamed = f", {count} {'value' if count == 1 else 'values'} renamed" if count else ""
    kept = f"all {len(source.proto.graph.node)} nodes and every other field kept{renamed}"
    return Check(NAME, f"{kept}; {compared} large tensors compared ({how})", stated=Verdict.PASSED), unchecked


def _pair_payloads(source: Model, output: Model, renamed: dict[str, str]) -> Iterator[tuple[str, Span, Span | None]]:
    """Yield the name and bytes of each large tensor of the source, with the bytes in the output (None if absent there)."""
    others = dict(_name_tensors(output, {}))
    for name, tensor in _name_tensors(source, renamed):
        one = _find_payload(source, tensor)
        if one is not None:
            yield name, one, _find_payload(output, others[name]) if name in others else None


def _name_tensors(model: Model, renamed: dict[str, str]) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Yield every tensor: initializers by name, those within nodes by the node's first output, others by their place."""
    yield from model.initializers.items()
    for node in model.proto.graph.node:
        made = renamed.get(node.output[0], node.output[0]) if node.output else node.name
        for path, tensor in walk_tensors(node):
            yield f"{made} {path}", tensor
    for index, function in enumerate(model.proto.functions):
        for path, tensor in walk_tensors(function):
            yield f"functions[{index}] {path}", tensor
    for index, sparse in enumerate(model.proto.graph.sparse_initializer):
        for path, tensor in walk_tensors(sparse):
            yield f"sparse_initializer[{index}] {path}", tensor


def _find_payload(model: Model, tensor: onnx.TensorProto) -> Span | None:
    if not external.is_external(tensor):
        return model.document.payloads.find(tensor)
    location, offset, length = external.read_place(tensor, tensor.name)
    model.require_data("comparing weights")
    return Span(open_data(model.files[location]), offset, length)


def _is_same_file(one: ByteSource, other: ByteSource) -> bool:
    return isinstance(one, FileBytes) and isinstance(other, FileBytes) and one.identity == other.identity


def _has_same_bytes(one: Span, other: Span | None, every_byte: bool) -> bool:
    if other is None or one.length != other.length:
        return False
    if one.offset == other.offset and _is_same_file(one.source, other.source):
        return True
    if every_byte:
        starts = [(start, min(BLOCK, one.length - start)) for start in range(0, one.length, BLOCK)]
    else:
        size = min(SAMPLE, one.length)
        starts = [(0, size), (one.length - size, size)]
    return all(
        one.source.read(one.offset + start, size) == other.source.read(other.offset + start, size) for start, size in starts
    )
