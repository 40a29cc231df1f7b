"""Hidden layers gone wrong: right outputs of `tap`, and one line each that spoils them.

The sources are the encoders of the golden cases: two layers, post-norm, pre-norm, and pre-norm with fused norms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
from faults import table
from golden import CASES, Case
from interface_faults import dim
from onnx import TensorProto, helper, numpy_helper
from planting import Plant, Spoilable

from graphsurgery import AddPooling, Rename, Tap
from graphsurgery.edits.edit import Edit

HIDDEN, TOKENS = "last_hidden_state", "token_embeddings"


@dataclass(frozen=True, eq=False)
class Tapped(Spoilable):
    """A right output to be spoilt: ``edits`` on the encoder of a golden case of tap, whose nodes are named by their outputs."""

    name: str
    edits: Sequence[Edit]

    @cached_property
    def source(self) -> onnx.ModelProto:
        model = Case.read(CASES / "tap" / f"{self.name}.txt").source().to_proto()
        for node in model.graph.node:
            node.name = node.output[0]
        model.graph.initializer.append(numpy_helper.from_array(np.float32([1.5, 2, -1, 3]), "upper"))
        node = next(node for node in model.graph.node if node.output[0] in (HIDDEN, TOKENS))
        node.input[2] = "upper"  # a weight of the last layer alone
        return model

    def __str__(self) -> str:
        return f"{self.name}: {super().__str__()}"


POST = Tapped("post_norm", [Tap("1")])
PRE = Tapped("pre_norm", [Tap("1")])
WORDS = Tapped("embeddings", [Tap("0")])
LAST = Tapped("before_norm", [Tap("2", norm="before")])
NORMED = Tapped("fused_last_after", [Tap("2", norm="after")])
FUSED = Tapped("fused", [Tap("1")])
ADDED = Tapped("fused_last", [Tap("2")])
POOLED = Tapped("post_norm", [Tap("1"), AddPooling("mean")])
TWICE = Tapped("before_norm", [Tap("2", norm="before"), Tap("1"), Rename(dim=("batch=texts",))])


def take(p: Plant, value: str, *, claimed: bool = True) -> None:
    """Another value is given, and the record says so."""
    p.node("tap/layer").input[:] = [value]
    if claimed:
        p.claim(values=[value])


def keep(p: Plant, case: Tapped, *names: str) -> None:
    """Nodes of the source that were dropped are still there, at the end."""
    p.graph.node.extend(node for node in case.source.graph.node if node.name in names)


def give_back(p: Plant, case: Tapped, name: str) -> None:
    p.graph.initializer.append(next(one for one in case.source.graph.initializer if one.name == name))


TAP_FAULTS = [
    *table("tap", POST,
        ("the sum before the norm", lambda p: take(p, "sum_1")),
        ("the middle of the layer", lambda p: take(p, "layer_0")),
        ("the embeddings", lambda p: take(p, "embedded")),
        ("the feed-forward branch", lambda p: take(p, "forward_0")),
        ("the attention", lambda p: take(p, "attended_0")),
        ("another value than is claimed", lambda p: take(p, "layer_0", claimed=False)),
        ("claimed of another value", lambda p: p.claim(values=["layer_0"])),
        ("claimed of the layer below", lambda p: p.claim(layer="0")),
        ("claimed of the layer above", lambda p: p.claim(layer="2")),
        ("claimed of a layer that is not there", lambda p: p.claim(layer="7")),
        ("claimed of a norm", lambda p: p.claim(norm="after")),
        ("claimed of two values", lambda p: p.claim(values=["layer_1", "layer_0"])),
        ("claimed of another target", lambda p: p.claim(target="layer_1")),
        ("forgotten", lambda p: p.forget()),
        ("doubled", lambda p: p.after("tap/layer", "Mul", p.constant(2.0))),
        ("rounded to float16", lambda p: p.through("tap/layer", TensorProto.FLOAT16)),
        ("negated", lambda p: p.become("tap/layer", "Neg")),
        ("a node of the layer above kept", lambda p: (p.graph.node.append(
            helper.make_node("Transpose", ["layer_1"], ["turned_1"], "turned_1", perm=[0, 2, 1])))),
        ("a weight of the layer above kept", lambda p: give_back(p, POST, "upper")),
        ("a weight of another value", lambda p: p.weight("square").float_data.__setitem__(3, 1.0)),
        ("a norm over another axis", lambda p: p.attribute("layer_1", axis=1)),
        ("a residual left out", lambda p: p.wire("sum_1", 1, "forward_0")),
        ("an input dropped", lambda p: p.graph.input.pop()),
        ("an output of another size", lambda p: dim(p, HIDDEN, 2, 5)),
        ("an output of another type", lambda p: setattr(p.output(HIDDEN).type.tensor_type, "elem_type", TensorProto.DOUBLE)),
        ("an output more", lambda p: p.graph.output.append(
            helper.make_tensor_value_info("layer_0", TensorProto.FLOAT, ["batch", "seq", 4]))),
        ("the inner value as the output", lambda p: setattr(p.output(HIDDEN), "name", "layer_1")),
    ),
    *table("tap of pre-norm", PRE,
        ("normalised", lambda p: p.after("tap/layer", "LayerNormalization", "scale", "shift", axis=2)),
        ("the sum behind the attention", lambda p: take(p, "sum_0")),
        ("the normalised input of the feed-forward", lambda p: take(p, "normal_1")),
    ),
    *table("tap of the embeddings", WORDS,
        ("claimed of the first layer", lambda p: p.claim(layer="1")),
        ("the ids, cast", lambda p: p.become("tap/layer", "Cast", "input_ids", to=TensorProto.FLOAT)),
        ("another table row", lambda p: p.before("embedded", 1, "Abs")),
    ),
    *table("tap before the norm", LAST,
        ("claimed behind the norm", lambda p: p.claim(norm="after")),
        ("the sum behind the attention", lambda p: take(p, "sum_2")),
        ("the layer below", lambda p: take(p, "sum_1")),
        ("normalised", lambda p: p.after("tap/layer", "LayerNormalization", "scale", "shift", axis=2)),
    ),
    *table("tap behind the norm", NORMED,
        ("claimed before the norm", lambda p: p.claim(norm="before")),
        ("the embedding kept", lambda p: (keep(p, NORMED, "text_embeds"), give_back(p, NORMED, "first"))),
        ("the layer below", lambda p: p.wire(HIDDEN, 1, "sum_1")),
    ),
    *table("tap of a fused norm", FUSED,
        ("the normalised sum", lambda p: take(p, "normal_2")),
        ("the sum behind the attention", lambda p: take(p, "sum_0")),
    ),
    *table("tap of a sum that is not given", ADDED,
        ("without the bias", lambda p: p.wire("tap/layer", 0, p.out("tap/sum"))),
        ("without the bias, claimed", lambda p: (p.wire("tap/layer", 0, p.out("tap/sum")),
         p.claim(values=["forward_1", "sum_2"]))),
        ("without the stream", lambda p: p.wire("tap/sum", 1, "bias")),
        ("the stream twice", lambda p: p.wire("tap/sum", 0, "sum_2")),
        ("the stream of the layer below", lambda p: p.wire("tap/sum", 1, "sum_1")),
        ("the stream of the layer below, claimed", lambda p: (p.wire("tap/sum", 1, "sum_1"),
         p.claim(values=["forward_1", "sum_1", "bias"]))),
        ("a product", lambda p: p.become("tap/sum", "Mul")),
    ),
    *table("tap, add-pooling", POOLED,
        ("pooled before the tap", lambda p: p.wire("tap/layer", 0, "layer_0")),
        ("the sum of all positions", lambda p: p.sum_over("mean/sum", HIDDEN, 1)),
    ),
    *table("tap twice", TWICE,
        ("the first one's layer", lambda p: p.use_instead("sum_1", "sum_0")),
        ("a size that was not asked for", lambda p: dim(p, "input_ids", 1, 5)),
    ),
]  # fmt: skip
