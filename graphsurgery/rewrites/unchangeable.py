"""Encoders that rewrites cannot change: quantised ones, and those in the branches of an If, as in decoders merged from two.

Rewrites change nodes outside of branches alone.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from graphsurgery.encoder.head import keeps_padded_encoder
from graphsurgery.errors import UnsupportedModelError
from graphsurgery.graph.operators import PRODUCTS, get_operator
from graphsurgery.model.model import Model
from graphsurgery.model.names import list_subgraphs, walk_graphs
from graphsurgery.proof.relation import is_quantised

OPENED = "then `graphsurgery optimize --portable` puts the branch that is taken in the place of the If, and optimize its output"


def require_open_encoder(model: Model) -> None:
    """Raise UnsupportedModelError if all matrix products of ``model`` are in the branches of one If."""
    if keeps_padded_encoder(model):
        raise UnsupportedModelError(
            "the file holds the encoder twice, padded and padding-free, in branches of an If, and branches are not rewritten",
            "apply the other rewrites first, or leave out keep_padded",
        )
    nodes = model.proto.graph.node
    if _has_products(nodes):
        return
    for node in nodes:
        inner = (one for branch in list_subgraphs(node) for graph in walk_graphs(branch) for one in graph.node)
        if get_operator(node) != "If" or not node.input or not _has_products(inner):
            continue
        name, condition = node.name or node.output[0], node.input[0]
        is_input = model.interface.input(condition) is not None
        chosen = f"the {'input' if is_input else 'value'} {condition} chooses one of them"
        what = f"the whole encoder is in the branches of the If node {name!r}, and branches are not rewritten; {chosen}"
        drop = f"fix it with `graphsurgery drop-input --input {condition} --value false` before pooling"
        raise UnsupportedModelError(what, f"{drop if is_input else 'make it a constant'}; {OPENED}")


def require_float_encoder(model: Model, rewrite: str) -> None:
    """Raise UnsupportedModelError if ``model`` computes with integers, for a ``rewrite`` that is for floats."""
    if is_quantised(model):
        what = f"the file is quantised, and {rewrite} changes products of floats"
        raise UnsupportedModelError(what, f"apply {rewrite} to the float32 file, and quantise the result")


def _has_products(nodes: Iterable[onnx.NodeProto]) -> bool:
    return any(get_operator(node) in PRODUCTS for node in nodes)
