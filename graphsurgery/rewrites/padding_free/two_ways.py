"""Two encoders in one graph: the padded one for batches without padding, and the padding-free one for all others.

    hidden = If(every position is a token) { as before } else { on tokens alone }

Both branches read the same weights, so the file is hardly larger than with one of them.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx

from graphsurgery.errors import require_value
from graphsurgery.graph.editor import Editor
from graphsurgery.graph.graph import Graph
from graphsurgery.model.names import Namer


def choose_by_padding(padded: onnx.ModelProto, packed: onnx.ModelProto, is_full: str, namer: Namer) -> onnx.ModelProto:
    """Return ``padded`` with the nodes of both graphs in the branches of one If.

    Args:
        padded: the encoder as it was.
        packed: the same encoder on tokens alone. Its weights have the same names, and it has the same outputs.
        is_full: a boolean scalar of ``packed``, computed from inputs: whether every position of the batch is a token.
        namer: knows the names in both graphs.
    """
    graph = Graph(packed)
    names = {value.name or "" for value in graph.ancestors([require_value(graph.value(is_full), "the condition")])}
    then_branch, else_branch = _make_branch(padded, frozenset(), namer), _make_branch(packed, names, namer)
    outputs = [one.name for one in padded.graph.output]
    choice = onnx.helper.make_node("If", [is_full], outputs, namer.new("padding_free/choice"))
    choice.attribute.append(onnx.helper.make_attribute("then_branch", then_branch))
    choice.attribute.append(onnx.helper.make_attribute("else_branch", else_branch))
    made, known = onnx.ModelProto(), {one.name for one in padded.graph.initializer}
    made.CopyFrom(packed)
    made.graph.CopyFrom(padded.graph)
    made.graph.initializer.extend(one for one in packed.graph.initializer if one.name not in known)
    made.graph.ClearField("value_info")
    made.graph.ClearField("node")
    made.graph.node.extend([*(one for one in packed.graph.node if one.output[0] in names), choice])
    return made


def _make_branch(model: onnx.ModelProto, outside: Collection[str], namer: Namer) -> onnx.GraphProto:
    """Return the graph of ``model`` as a branch: without the nodes that give ``outside``, and with outputs of other names."""
    editor = Editor(model)
    editor.namer = namer
    infos = [onnx.ValueInfoProto.FromString(one.SerializeToString()) for one in model.graph.output]
    for info, value in zip(infos, list(editor.main.outputs), strict=True):
        given = value
        if value.producer() is None:
            editor.main.append(editor.make_value("Identity", [value], f"{info.name}/given"))
            given = editor.main[-1].outputs[0]
        else:
            editor.rename(value, namer.new(f"{info.name}/branch"))
        info.name = given.name or ""
    nodes = [node for node in editor.finish(weights=False).graph.node if node.output[0] not in outside]
    return onnx.helper.make_graph(nodes, namer.new("padding_free/branch"), [], infos)
