"""Running nodes that only constants go into, as ONNX Runtime runs them within the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx

from graphsurgery.errors import UnsupportedModelError
from graphsurgery.runtime.session import Session

Arrays = Mapping[str, np.ndarray]
Nodes = Sequence[onnx.NodeProto]


def evaluated(nodes: Nodes, given: Arrays, wanted: Iterable[str], opset: int) -> dict[str, np.ndarray]:
    """The values ``wanted`` of what ``nodes``, in an order that runs, compute of ``given``; without those that ONNX Runtime
    cannot compute.

    Its graph optimisations are off: every node is computed by its own kernel.
    """
    outputs = {name for node in nodes for name in node.output}
    asked = [name for name in wanted if name in outputs]
    if not asked:
        return {}
    try:
        return _run(nodes, given, asked, opset)
    except UnsupportedModelError:
        if len(nodes) == 1:
            return {}
    first, second = nodes[: len(nodes) // 2], nodes[len(nodes) // 2 :]  # one of them it cannot do: all that need not that one
    needed = {name for node in second for name in node.input}
    known = {**given, **evaluated(first, given, sorted(needed.union(asked)), opset)}
    known |= evaluated(_runnable(second, known), known, asked, opset)
    return {name: known[name] for name in asked if name in known}


def _runnable(nodes: Nodes, known: Iterable[str]) -> list[onnx.NodeProto]:
    """Those of ``nodes`` that need nothing but what is ``known`` and each other."""
    there, found = {"", *known}, []
    for node in nodes:
        if there.issuperset(node.input):
            found.append(node)
            there.update(node.output)
    return found


def _run(nodes: Nodes, given: Arrays, wanted: list[str], opset: int) -> dict[str, np.ndarray]:
    read = {name for node in nodes for name in node.input}
    feeds = {name: array for name, array in given.items() if name in read}
    opsets = [onnx.helper.make_opsetid("", opset)]
    inputs = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feeds.items()
    ]
    graph = onnx.helper.make_graph(nodes, "constants", inputs, [onnx.ValueInfoProto(name=name) for name in wanted])
    version = onnx.helper.find_min_ir_version_for(opsets, ignore_unknown=True)
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=version)
    return Session(model.SerializeToString(), threads=1, plain=True).run(feeds, wanted)
