"""Outputs gone wrong outside the head's arithmetic: the encoder, the interface, what the metadata claim."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from encoders import FLOAT16, HIDDEN, IDS, MASK, POOLER, TYPE_IDS
from faults import Case, Fault, pooling, table
from onnx import TensorProto, helper
from planting import Plant

EMBEDDING = "sentence_embedding"
MEAN, CLS = pooling("mean"), pooling("cls")
TYPED = pooling("mean", {"inputs": [TYPE_IDS]})
KEPT = pooling("mean", {"outputs": [POOLER]}, keep_output=[HIDDEN, POOLER])
HALF = pooling("mean", {"dtype": FLOAT16, "outputs": [POOLER]}, keep_output=[HIDDEN])
CHAIN = Case({"mode": "mean"}, unit=True)
ALONE = Case({"mode": "mean"}, unit=True, alone=True)
PAD = pooling("mean", mask="pad:7")


def exchange(fields: Any, one: int, other: int) -> None:
    """Two values of a repeated field in each other's place."""
    first, second = type(fields[one])(), type(fields[other])()
    first.CopyFrom(fields[one])
    second.CopyFrom(fields[other])
    fields[one].CopyFrom(second)
    fields[other].CopyFrom(first)


def exchange_weights(p: Plant, one: str, other: str) -> None:
    """Two initializers under each other's name."""
    p.weight(one).name = "between"
    p.weight(other).name = one
    p.weight("between").name = other


def weight_renamed(p: Plant) -> None:
    p.use_instead("bias", "prejudice")
    p.weight("bias").name = "prejudice"


def another_weight(p: Plant, name: str) -> None:
    """A second initializer of the same name: the last one counts."""
    p.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(8, dtype=np.float32), name))


def rename_faked(p: Plant) -> None:
    """A node that differs from its source in a value's name alone, as after a rename: another weight, in truth."""
    p.wire("mixed", 0, "words")


def rename_weight_faked(p: Plant) -> None:
    """A bias renamed to a value that an added node makes."""
    p.wire("biased", 1, p.constant(np.zeros(8)))


def rename_of_some(p: Plant) -> None:
    """One of two users of a value gets a copy that is not quite it."""
    p.wire("mixed", 0, p.append("Mul", "token", p.constant(1.001), behind="placed"))


def made_anew(p: Plant) -> None:
    """The encoder's weight made by a node that was added."""
    p.graph.initializer.remove(p.weight("bias"))
    p.graph.node.insert(0, helper.make_node("Constant", [], ["bias"], "new", value_floats=[0.0] * 8))


def kept_stale(p: Plant, name: str, value: str) -> None:
    """A kept output that is another value of the encoder; the head still has what it had."""
    maker = next(node for node in p.graph.node if name in node.output)
    p.use_instead(name, "planted/before")
    maker.output[0] = "planted/before"
    p.append("Identity", value, gives=name)


def kept_after(p: Plant, name: str, op: str, *more: str) -> None:
    """A kept output with something appended to it."""
    p.rename(name, "planted/before")
    p.append(op, "planted/before", *more, gives=name)


def also_given(p: Plant, name: str, width: int) -> None:
    p.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "sequence", width]))


def dims_of(p: Plant, *dims: int | str) -> None:
    p.output(EMBEDDING).CopyFrom(helper.make_tensor_value_info(EMBEDDING, TensorProto.FLOAT, dims))


def in_another_type(p: Plant, to: int) -> None:
    """The embedding computed and declared in another type."""
    p.rename(EMBEDDING, "planted/before")
    p.append("Cast", "planted/before", gives=EMBEDDING, to=to)
    p.output(EMBEDDING).type.tensor_type.elem_type = to


def output_renamed(p: Plant) -> None:
    p.rename(EMBEDDING, "embedding")
    p.output(EMBEDDING).name = "embedding"


def no_head(p: Plant, name: str) -> None:
    """Nothing is added; a node of the encoder gives the output itself."""
    while p.graph.node[-1].name.startswith("graphsurgery"):
        p.graph.node.pop()
    p.rename(name, EMBEDDING)


ENCODER = [
    *table("weights", MEAN,
        ("first byte of a large tensor", lambda p: p.flip("word", 0)),
        ("middle byte of a large tensor", lambda p: p.flip("word", 800)),
        ("last byte of a large tensor", lambda p: p.flip("word", -1)),
        ("one byte of a small tensor", lambda p: p.flip("bias", 5)),
        ("two exchanged", lambda p: exchange_weights(p, "word", "position")),
        ("one twice", lambda p: another_weight(p, "bias")),
        ("one renamed and its users with it", weight_renamed),
        ("an unused one added", lambda p: another_weight(p, "unused")),
        ("other dims", lambda p: p.weight("word").dims.reverse()),
        ("one made by an added node", made_anew),
        ("one by an added node, as if renamed", rename_weight_faked),
    ),
    *table("nodes", MEAN,
        ("an attribute changed", lambda p: p.attribute("bent", axis=1)),
        ("an attribute lost", lambda p: p.become("bent", "Softmax")),
        ("another operator", lambda p: p.become("residual", "Sub")),
        ("one removed", lambda p: p.without("bent")),
        ("one wired anew, as if a value was renamed", rename_faked),
        ("one of two users of a value wired to a near copy", rename_of_some),
        ("inputs exchanged", lambda p: p.swap("residual", 0, 1)),
        ("one put between", lambda p: p.after("mixed", "Relu")),
        ("two in another order", lambda p: exchange(p.graph.node, 1, 2)),
        ("a name lost", lambda p: setattr(p.node("bent"), "name", "")),
        ("a doc string added", lambda p: setattr(p.node("bent"), "doc_string", "new")),
        ("a metadata entry added", lambda p: p.node("bent").metadata_props.add(key="new", value="entry")),
        ("a mask in the encoder", lambda p: p.before("words", 1, "Mul", MASK)),
    ),
    *table("model", MEAN,
        ("an opset newer", lambda p: setattr(p.proto.opset_import[0], "version", 18)),
        ("another IR version", lambda p: setattr(p.proto, "ir_version", 9)),
        ("another producer", lambda p: setattr(p.proto, "producer_name", "another")),
        ("a metadata entry added", lambda p: p.proto.metadata_props.add(key="new", value="entry")),
        ("a function added", lambda p: p.proto.functions.add(name="new")),
        ("a graph name", lambda p: setattr(p.graph, "name", "another")),
        ("a value_info added", lambda p: p.graph.value_info.add(name="mixed")),
        ("a domain added", lambda p: p.proto.opset_import.add(domain="com.microsoft", version=1)),
    ),
]  # fmt: skip

INTERFACE = [
    *table("inputs", TYPED,
        ("one more", lambda p: p.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, ["batch"]))),
        ("one gone", lambda p: (p.use_instead(TYPE_IDS, IDS), p.graph.input.pop())),
        ("another order", lambda p: exchange(p.graph.input, 0, 1)),
        ("another type", lambda p: setattr(p.graph.input[1].type.tensor_type, "elem_type", TensorProto.INT32)),
        ("another dim", lambda p: setattr(p.graph.input[1].type.tensor_type.shape.dim[0], "dim_value", 4)),
        ("another name", lambda p: (p.use_instead(TYPE_IDS, "types_ids"), setattr(p.graph.input[2], "name", "types_ids"))),
    ),
    *table("outputs", KEPT,
        ("the embedding last", lambda p: exchange(p.graph.output, 0, 2)),
        ("kept ones exchanged", lambda p: exchange(p.graph.output, 1, 2)),
        ("a kept one gone", lambda p: p.graph.output.pop()),
        ("the embedding gone", lambda p: p.graph.output.pop(0)),
        ("one that nobody asked for", lambda p: also_given(p, "token", 8)),
        ("one of the head's own", lambda p: also_given(p, p.out("masked"), 8)),
        ("a kept one is another value", lambda p: kept_stale(p, HIDDEN, "token")),
        ("a kept one with more appended", lambda p: kept_after(p, POOLER, "Neg")),
        ("a kept one declared otherwise", lambda p: setattr(p.output(HIDDEN).type.tensor_type.shape.dim[0], "dim_param", "N")),
        ("a kept one without dims", lambda p: p.output(HIDDEN).type.tensor_type.ClearField("shape")),
    ),
    *table("outputs of float16", HALF, ("a kept one is another value", lambda p: kept_stale(p, HIDDEN, "token"))),
    *table("outputs", MEAN,
        ("another name", output_renamed),
        ("declared too wide", lambda p: dims_of(p, "batch", 16)),
        ("declared with a symbolic width", lambda p: dims_of(p, "batch", "dim")),
        ("declared with another batch dim", lambda p: dims_of(p, "N", 8)),
        ("declared with a literal batch", lambda p: dims_of(p, 4, 8)),
        ("declared with the sequence", lambda p: dims_of(p, "batch", "sequence", 8)),
        ("in float16", lambda p: in_another_type(p, TensorProto.FLOAT16)),
        ("in float64", lambda p: in_another_type(p, TensorProto.DOUBLE)),
        ("of the encoder itself", lambda p: no_head(p, "mixed")),
    ),
    *table("outputs, normalized", ALONE,
        ("another name", output_renamed),
        ("in float16", lambda p: in_another_type(p, TensorProto.FLOAT16)),
    ),
]  # fmt: skip

CLAIMS = [
    *table("metadata", MEAN,
        ("another mode", lambda p: p.claim(mode="max")),
        ("one mode more", lambda p: p.claim(mode="mean,max")),
        ("normalized", lambda p: p.claim(normalize=True)),
        ("another hidden state", lambda p: p.claim(hidden_state="token")),
        ("a hidden state that there is not", lambda p: p.claim(hidden_state="no_such_value")),
        ("every position", lambda p: p.claim(mask="ones")),
        ("a mask from the ids", lambda p: p.claim(mask="pad:0")),
        ("a mask that there is not", lambda p: p.claim(mask="no_such_input")),
        ("another output", lambda p: p.claim(output_name="embedding")),
        ("an output kept that is not", lambda p: p.claim(keep_output=[HIDDEN])),
    ),
    *table("metadata", KEPT, ("an output not kept that is", lambda p: p.claim(keep_output=[HIDDEN]))),
    *table("metadata", pooling("cls,mean"), ("another order", lambda p: p.claim(mode="mean,cls"))),
    *table("metadata", PAD,
        ("another id", lambda p: p.claim(mask="pad:8")),
        ("the mask instead of the ids", lambda p: p.claim(mask=MASK)),
        ("other ids", lambda p: p.claim(ids=MASK)),
    ),
    *table("metadata", CHAIN,
        ("normalized, and then again", lambda p: p.claim(target=HIDDEN)),
        ("the second step forgotten", lambda p: p.forget()),
    ),
]  # fmt: skip

FILE_FAULTS: list[Fault] = [*ENCODER, *INTERFACE, *CLAIMS]
WEIGHTS_AFAR = frozenset({"weights: middle byte of a large tensor"})
"""What a proof without the weights leaves to the whole proof, and says so."""
UNREADABLE = table("metadata", CLS,
    ("an edit that nobody knows", lambda p: p.rewrite(edit="add-magic")),
    ("a mode that nobody knows", lambda p: p.claim(mode="median")),
    ("no mode", lambda p: p.claim(mode=None)),
    ("a number for a mask", lambda p: p.claim(mask=3)),
    ("a pad id that is no number", lambda p: p.claim(mask="pad:x")),
    ("a pad id without ids", lambda p: p.claim(mask="pad:1", ids=None)),
    ("a hidden state that is a list", lambda p: p.claim(hidden_state=[])),
)  # fmt: skip
"""Claims that there is no reference for: NOT CHECKED, and said so."""
