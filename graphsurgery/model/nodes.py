"""What a node holds besides its own inputs and outputs."""

from __future__ import annotations

import onnx


def subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs that ``node`` holds, whatever type its attributes say they are of."""
    return [graph for one in node.attribute for graph in (*([one.g] if one.HasField("g") else []), *one.graphs)]
