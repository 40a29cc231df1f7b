"""What identifies an onnx-graphsurgeon node: if its signature is what it was at import, the node is what it was."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

Signature = tuple[Hashable, ...]


def node_signature(node: gs.Node) -> Signature:
    """Operator, name, domain, value names, attributes, and the same of every node in its subgraphs."""
    return (
        node.op,
        node.name,
        node.domain,
        tuple(tensor.name for tensor in node.inputs),
        tuple(tensor.name for tensor in node.outputs),
        tuple((name, attribute_signature(value)) for name, value in node.attrs.items()),
    )


def attribute_signature(value: Any) -> Hashable:
    """An attribute's value; tensors by the identity of what holds their elements, so that nothing large is compared."""
    if isinstance(value, gs.Graph):
        inputs, outputs = (tuple(tensor.name for tensor in side) for side in (value.inputs, value.outputs))
        return ("graph", inputs, outputs, tuple(map(node_signature, value.nodes)))
    if isinstance(value, gs.Tensor):
        return ("tensor", value.name, id(value._values) if isinstance(value, gs.Constant) else None)
    if isinstance(value, np.ndarray):
        return ("array", id(value))
    if isinstance(value, list | tuple):
        return tuple(map(attribute_signature, value))
    if isinstance(value, gs.Node.AttributeRef):
        return ("reference", value.name)
    return (type(value).__name__, value) if isinstance(value, Hashable) else ("object", id(value))
