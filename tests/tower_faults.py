"""Towers gone wrong: right outputs of extract-tower, and one line each that spoils them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import onnx
from faults import table
from interface_faults import declared, dim
from joints import PICTURES, joint
from onnx import TensorProto, helper, numpy_helper
from planting import Plant, Spoilable

from graphsurgery import AddNormalize, ExtractTower
from graphsurgery.edits.edit import Edit

TEXT, IMAGE = "text_embeds", "image_embeds"


@dataclass(frozen=True, eq=False)
class Taken(Spoilable):
    """A right output to be spoilt: ``edits`` on a joint model."""

    edits: Sequence[Edit]
    model: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def source(self) -> onnx.ModelProto:
        return joint(**self.model)


ADDED = Taken([ExtractTower("text")], {"shared": True})
PICTURE = Taken([ExtractTower("image")], {"shared": True})
UNIT = Taken([ExtractTower("text"), AddNormalize()])
PLAIN = Taken([ExtractTower("image")], {"form": None, "logits": False})


def changed(name: str, change: Callable[[Any], Any]) -> Callable[[Plant], None]:
    """Another value of a weight."""

    def spoil(p: Plant) -> None:
        p.weight(name).CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(p.weight(name)).copy()), name))

    return spoil


def more_input(p: Plant) -> None:
    p.graph.input.append(helper.make_tensor_value_info(PICTURES, TensorProto.FLOAT, ["image_batch", 3, 8, 8]))


def weight_of_the_other(p: Plant) -> None:
    source = joint(shared=True)
    p.graph.initializer.extend(one for one in source.graph.initializer if one.name == "image_weights")


TOWER_FAULTS = [
    *table("extract-tower of texts", ADDED,
        ("twice the vector", lambda p: p.after("text_projected", "Mul", p.constant(2))),
        ("normalised after all", lambda p: p.after("text_projected", "LpNormalization")),
        ("another word vector", changed("words", lambda x: x + 1e-2)),
        ("the projection turned round", changed("text_projection", lambda x: x[:, ::-1])),
        ("without the bias", lambda p: p.without("text/biased")),
        ("before the projection", lambda p: p.wire("text_projected", 1, "text_weights")),
        ("an input of the other tower", more_input),
        ("a weight of the other tower", weight_of_the_other),
        ("the mask gone", lambda p: (p.use_instead("attention_mask", "input_ids"),
                                     p.graph.input.remove(declared(p, "attention_mask")))),
        ("the output under another name", lambda p: p.rename(TEXT, "vector")),
        ("the batch dim of before", lambda p: dim(p, TEXT, 0, "text_embeds_batch")),
        ("a width that is not its own", lambda p: dim(p, TEXT, 1, 5)),
        ("claimed to be the pictures'", lambda p: p.claim(target=IMAGE)),
        ("claimed of another batch", lambda p: p.claim(batch="image_batch")),
        ("claimed of another vector", lambda p: p.claim(vector="text/biased")),
        ("claimed to be taken as it was", lambda p: p.claim(vector=TEXT)),
        ("claimed of another type", lambda p: p.claim(dtype="float16")),
    ),
    *table("extract-tower of pictures", PICTURE,
        ("the positions backwards", changed("positions", lambda x: x[:, ::-1])),
        ("the colours the other way round", changed("patch", lambda x: x[:, ::-1])),
        ("the bias that both share changed", changed("shared_bias", lambda x: x + 1)),
        ("the copy of the shared bias left out", lambda p: p.without("image_bias")),
        ("the largest patch", lambda p: p.become("image/pooled", "ReduceMax", axes=[1], keepdims=0)),
        ("claimed to be the texts'", lambda p: p.claim(target=TEXT, vector="text_projected")),
        ("claimed of the text batch", lambda p: p.claim(batch="text_batch")),
    ),
    *table("extract-tower, add-normalize", UNIT,
        ("normalised by the sum", lambda p: p.without("normalize/norm")),
        ("not normalised", lambda p: p.become("normalize/unit", "Identity", "text_embeds_before_normalize")),
        ("another vector below", lambda p: p.wire("normalize/unit", 0, "text/mean")),
        ("a node of the tower left out", lambda p: p.without("text/biased")),
    ),
    *table("extract-tower of vectors that are not normalised", PLAIN,
        ("normalised", lambda p: p.after("image_projected", "LpNormalization")),
        ("the opposite", lambda p: p.after("image_projected", "Neg")),
        ("claimed to lie below a normalisation", lambda p: p.claim(vector="image/biased")),
    ),
]  # fmt: skip
