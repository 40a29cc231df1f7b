"""Interfaces gone wrong: right outputs of the edits of inputs, names and dims, and one line each that spoils them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from decoders import CACHES, FLAG, PRESENT, TASK, tiny_decoder
from encoders import FLOAT16, HIDDEN, IDS, MASK, POSITION_IDS, TYPE_IDS, tiny_encoder
from faults import table
from onnx import TensorProto, helper, numpy_helper
from planting import Plant, Spoilable

from graphsurgery import (
    AddInput,
    AddPooling,
    DropInput,
    DynamicDim,
    FixDim,
    InputType,
    KeepOutputs,
    OptionalInput,
    Rename,
)
from graphsurgery.edits.edit import Edit

EMBEDDING = "sentence_embedding"


@dataclass(frozen=True, eq=False)
class Edited(Spoilable):
    """A right output to be spoilt: ``edits`` on a tiny encoder."""

    edits: Sequence[Edit]
    encoder: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def source(self) -> onnx.ModelProto:
        model = tiny_encoder(**self.encoder)
        model.graph.value_info.append(helper.make_tensor_value_info("words", TensorProto.FLOAT, ["batch", "sequence", 8]))
        return model


@dataclass(frozen=True, eq=False)
class Baked(Edited):
    """Of an encoder that has its sizes, ``[2, 6]``, in shapes, positions and a table."""

    @cached_property
    def source(self) -> onnx.ModelProto:
        model = tiny_encoder(dims=(2, 6), **self.encoder)
        p = Plant(model)
        p.become("where", "Constant", value=numpy_helper.from_array(np.arange(6)[None], "where"))
        del p.node("where").input[:]
        p.after("mixed", "Reshape", p.ints(2, 6, 8))
        p.after("mixed", "Reshape", p.ints(2, 6, 2, 4))
        table = np.random.default_rng(0).standard_normal((1, 6, 8)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(table, "table"))
        p.after("biased", "Add", "table")
        for node in model.graph.node:
            node.name = node.name.replace("planted/", "encoder/")
        model.graph.value_info.append(helper.make_tensor_value_info("words", TensorProto.FLOAT, [2, 6, 8]))
        return model


@dataclass(frozen=True, eq=False)
class Cached(Edited):
    """Of a decoder with caches, a task and a flag."""

    @cached_property
    def source(self) -> onnx.ModelProto:
        return tiny_decoder()


def declared(p: Plant, name: str) -> onnx.ValueInfoProto:
    return next(info for info in (*p.graph.input, *p.graph.output, *p.graph.value_info) if info.name == name)


def dim(p: Plant, name: str, place: int, size: int | str) -> None:
    """Another size for one dim of a declared value."""
    one = declared(p, name).type.tensor_type.shape.dim[place]
    one.Clear()
    setattr(one, "dim_value" if isinstance(size, int) else "dim_param", size)


def fill_value(p: Plant, value: Any, dtype: Any = np.int64) -> None:
    p.attribute("filled", value=numpy_helper.from_array(np.asarray([value], dtype=dtype), "value"))


def fill_value_of(p: Plant, name: str, value: float) -> None:
    p.attribute(f"{name}/filled", value=numpy_helper.from_array(np.asarray([value], dtype=np.float32), "value"))


def exchange_branches(p: Plant, end: str) -> None:
    """What an If did where its condition is true, it does where it is false."""
    then, otherwise = p.node(end).attribute
    then.name, otherwise.name = otherwise.name, then.name


def input_back(p: Plant, name: str) -> None:
    """The input is declared again, its value still made."""
    p.graph.input.append(helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]))


def gone(p: Plant, name: str) -> None:
    """An input more is gone: what took it takes the ids."""
    p.use_instead(name, IDS)
    p.graph.input.remove(declared(p, name))


def two_exchanged(p: Plant, one: str, other: str) -> None:
    """Nodes take two values for each other."""
    p.use_instead(one, "between")
    p.use_instead(other, one)
    p.use_instead("between", other)


def default(p: Plant, array: Any, dtype: Any = np.int64) -> None:
    p.weight(TYPE_IDS).CopyFrom(numpy_helper.from_array(np.asarray(array, dtype=dtype), TYPE_IDS))


def through(p: Plant, end: str, dtype: int) -> None:
    """What a cast gives is the same to ``dtype`` and back."""
    p.before(end, 0, "Cast", to=dtype)


TYPED = {"inputs": [TYPE_IDS]}
DROP = Edited([DropInput(TYPE_IDS)], TYPED)
DROP_MASK = Edited([AddPooling("mean"), DropInput(MASK)])
DROP_POSITIONS = Edited([DropInput(POSITION_IDS)], {"inputs": [POSITION_IDS]})
LEFT_OUT = Edited([OptionalInput(TYPE_IDS)], TYPED)
INT32 = Edited([InputType("int32")], TYPED)
INT32_POOLED = Edited([AddPooling("mean"), InputType("int32")])
NAMED = Edited([Rename((f"{IDS}=ids", f"{MASK}=valid", f"{HIDDEN}=states"), ("batch=N",))], TYPED)
NAMED_POOLED = Edited([AddPooling("mean"), Rename((f"{MASK}=valid", f"{EMBEDDING}=vector"))])
DROP_CACHES = Cached([DropInput("past_key_values.*")])
DROP_TASK = Cached([DropInput(TASK, value="3")])
DROP_FLAG = Cached([DropInput(FLAG, value="true")])
SWAPPED = Edited([Rename((f"{IDS}={MASK}", f"{MASK}={IDS}"), ("batch=sequence", "sequence=batch"))])
FED = Edited([AddInput(TYPE_IDS)])
FED_POOLED = Edited([AddPooling("mean"), AddInput(TYPE_IDS, to="int32")])
ORDERED = Edited([AddPooling("mean", keep_output=(HIDDEN,)), KeepOutputs((HIDDEN, EMBEDDING))])
ALONE = Edited([AddPooling("mean", keep_output=(HIDDEN,)), KeepOutputs((EMBEDDING,))])
FIXED = Edited([FixDim(("batch=3", "sequence=5"))], TYPED)
FIXED_POOLED = Edited([FixDim(("sequence=5",)), AddPooling("mean")])
FREED = Baked([DynamicDim(("batch", "sequence"))])
FREED_POOLED = Baked([AddPooling("mean"), DynamicDim(("batch", "sequence"))])


def rewired(p: Plant, **changed: Any) -> None:
    """Another claim of what was rewired: the first of them changed."""
    _, content = p._newest()
    first, *others = map(json.loads, content["parameters"]["rewired"])
    fields = dict(zip(("output", "place", "value", "kind"), first, strict=True)) | changed
    p.claim(rewired=[json.dumps(list(fields.values())), *map(json.dumps, others)])


def at(p: Plant, op: str) -> onnx.NodeProto:
    """The last node of the encoder of that operator."""
    return [node for node in p.graph.node if node.op_type == op and "graphsurgery" not in node.name][-1]


def baked_again(p: Plant) -> None:
    """One shape to reshape to is as it was."""
    at(p, "Reshape").input[1] = p.ints(2, 6, 8)


INTERFACE_FAULTS = [
    *table("drop-input", DROP,
        ("ones, not zeros", lambda p: fill_value(p, 1)),
        ("of another type", lambda p: fill_value(p, 0, np.int32)),
        ("made of the ids", lambda p: p.become("filled", "Mod", IDS, p.ints(2))),
        ("a shape that is baked in", lambda p: p.wire("filled", 0, p.ints(4, 9))),
        ("one number only, which happens to broadcast", lambda p: p.wire("filled", 0, p.ints(1, 1))),
        ("the shape the other way round", lambda p: p.wire("filled", 0, p.append("Slice", p.out("inputs/token_type_ids/shape"),
         p.ints(1), p.ints(-3), p.ints(0), p.ints(-1), behind="inputs/token_type_ids/shape"))),
        ("nothing made", lambda p: p.graph.node.remove(p.node("filled"))),
        ("still an input as well", lambda p: input_back(p, TYPE_IDS)),
        ("another input gone, too", lambda p: gone(p, MASK)),
        ("a node of the encoder left out", lambda p: p.without("placed")),
        ("the encoder's node takes something else", lambda p: p.wire("types", 1, IDS)),
        ("claimed to be ones", lambda p: p.claim(fill="ones")),
        ("claimed to be another input", lambda p: p.claim(input=MASK)),
        ("claimed to be of another type", lambda p: p.claim(dtype="int32")),
        ("forgotten", lambda p: p.forget()),
    ),
    *table("add-pooling, drop-input of the mask", DROP_MASK,
        ("zeros, not ones", lambda p: fill_value(p, 0)),
        ("twos made of the ids", lambda p: p.become("filled", "Mod", IDS, p.ints(2))),
        ("pooling still by an input", lambda p: input_back(p, MASK)),
        ("pooling takes the ids for the mask", lambda p: p.wire("pooling/mask", 0, IDS)),
        ("one number only", lambda p: p.wire("filled", 0, p.ints(1, 1))),
    ),
    *table("drop-input of positions", DROP_POSITIONS,
        ("from 1", lambda p: p.attribute("inputs/position_ids/positions", exclusive=0)),
        ("backwards", lambda p: p.attribute("inputs/position_ids/positions", reverse=1)),
        ("along the batch", lambda p: p.set("inputs/position_ids/axis", 0)),
        ("all 0", lambda p: p.before("inputs/position_ids/filled", 0, "Mul", p.ints(0))),
        ("every other one", lambda p: p.before("inputs/position_ids/filled", 0, "Mul", p.ints(2))),
        ("of int32", lambda p: p.attribute("inputs/position_ids/filled", to=TensorProto.INT32)),
        ("by way of int8", lambda p: through(p, "inputs/position_ids/filled", TensorProto.INT8)),
    ),
    *table("drop-input of caches", DROP_CACHES,
        ("one position of zeros", lambda p: p.set("past_key_values.0.key/size2", [1])),
        ("ones, were there any", lambda p: (p.set("past_key_values.0.key/size2", [1]), fill_value_of(p, CACHES[1], 1))),
        ("the batch from the sequence", lambda p: p.set("past_key_values.0.key/batch/axis", [1])),
        ("a batch that is baked in", lambda p: p.wire("past_key_values.0.key/dims", 0, p.ints(2))),
        ("another number of heads", lambda p: p.set("past_key_values.0.key/size1", [1])),
        ("the last cache not made", lambda p: p.graph.node.remove(p.node("past_key_values.1.key/filled"))),
        ("the last cache an input as well", lambda p: p.graph.input.append(
            helper.make_tensor_value_info(CACHES[1], TensorProto.FLOAT, ["batch", 2, "past", 4]))),
        ("a new cache gone", lambda p: p.graph.output.remove(p.output(PRESENT[1]))),
        ("the dim left in an output", lambda p: dim(p, PRESENT[0], 2, "past + sequence")),
        ("the dim left in the mask", lambda p: dim(p, MASK, 1, "past + sequence")),
        ("an output that is declared empty", lambda p: dim(p, PRESENT[0], 2, 0)),
        ("a node of the decoder left out", lambda p: p.without("flat0")),
        ("claimed of one position", lambda p: p.claim(dims=["batch,2,1,4"] * 2)),
        ("claimed of one position, and made so", lambda p: (p.set("past_key_values.0.key/size2", [1]),
         p.claim(dims=["batch,2,1,4"] * 2))),
        ("claimed of the first cache", lambda p: p.claim(inputs=[CACHES[0]], dims=["batch,2,0,4"])),
        ("claimed in another order", lambda p: p.claim(inputs=list(CACHES[::-1]))),
        ("claimed of a scalar", lambda p: p.claim(dims=["", ""])),
        ("claimed of another batch", lambda p: p.claim(dims=["sequence,2,0,4"] * 2)),
        ("claimed of no dim", lambda p: p.claim(empty=[])),
        ("claimed of another dim", lambda p: p.claim(empty=["sequence"])),
        ("claimed to be like the mask", lambda p: p.claim(like=CACHES[0])),
        ("claimed by another pattern", lambda p: p.claim(input="past_key_values.1*")),
        ("claimed to be zeros", lambda p: p.claim(fill="zeros")),
        ("claimed to be ones", lambda p: p.claim(fill="ones")),
    ),
    *table("drop-input of a task", DROP_TASK,
        ("another task", lambda p: p.set("task_id/filled", 2)),
        ("a vector", lambda p: p.attribute("task_id/filled", value=numpy_helper.from_array(np.array([3]), "value"))),
        ("of the ids", lambda p: p.become("task_id/filled", "ReduceMax", IDS, keepdims=0)),
        ("claimed another", lambda p: p.claim(value="2")),
        ("claimed none", lambda p: p.claim(value=None)),
        ("claimed to be zeros", lambda p: p.claim(fill="zeros", value=None)),
        ("claimed a vector", lambda p: p.claim(dims=["1"])),
        ("claimed of the ids' shape", lambda p: p.claim(dims=None, like=IDS)),
    ),
    *table("drop-input of a flag", DROP_FLAG,
        ("false", lambda p: fill_value(p, False, np.bool_)),
        ("false, as claimed of a file that is right", lambda p: p.claim(value="false")),
        ("claimed of a scalar", lambda p: p.claim(dims=[""])),
        ("the branches exchanged", lambda p: exchange_branches(p, "decoder/branches")),
    ),
    *table("optional-input", LEFT_OUT,
        ("a default of one", lambda p: default(p, [[1]])),
        ("a default for three positions", lambda p: default(p, [[0, 0, 0]])),
        ("a default of another type", lambda p: default(p, [[0]], np.int32)),
        ("no default", lambda p: p.graph.initializer.remove(p.weight(TYPE_IDS))),
        ("no input", lambda p: p.graph.input.remove(declared(p, TYPE_IDS))),
        ("dims that the default has not", lambda p: dim(p, TYPE_IDS, 1, 7)),
        ("ignored when it is given", lambda p: p.wire("types", 1, p.append("Mul", TYPE_IDS, p.ints(0), behind="placed"))),
        ("a default for the mask as well",
         lambda p: p.graph.initializer.append(numpy_helper.from_array(np.ones((1, 1), np.int64), MASK))),
        ("claimed to be ones", lambda p: p.claim(fill="ones")),
    ),
    *table("input-type", INT32,
        ("ids by way of uint8", lambda p: through(p, "inputs/input_ids/cast", TensorProto.UINT8)),
        ("ids by way of int16", lambda p: through(p, "inputs/input_ids/cast", TensorProto.INT16)),
        ("ids by way of float16", lambda p: through(p, "inputs/input_ids/cast", FLOAT16)),
        ("ids by way of bool", lambda p: through(p, "inputs/input_ids/cast", TensorProto.BOOL)),
        ("types by way of uint8", lambda p: through(p, "inputs/token_type_ids/cast", TensorProto.UINT8)),
        ("types from the ids", lambda p: p.wire("inputs/token_type_ids/cast", 0, IDS)),
        ("ids and types exchanged", lambda p: two_exchanged(p, IDS, TYPE_IDS)),
        ("no cast", lambda p: p.become("inputs/input_ids/cast", "Identity")),
        ("declared as before", lambda p: setattr(declared(p, IDS).type.tensor_type, "elem_type", TensorProto.INT64)),
        ("a node takes the input itself", lambda p: p.wire("words", 1, IDS)),
        ("its dims changed, too", lambda p: dim(p, IDS, 0, "N")),
        ("one more than asked for", lambda p: p.after("inputs/input_ids/cast", "Abs")),
        ("claimed of one input less",
         lambda p: p.claim(input=[IDS], inside=["graphsurgery/inputs/input_ids"], dtypes=["int64"])),
        ("claimed to have been int32", lambda p: p.claim(dtypes=["int32", "int32", "int32"])),
    ),
    *table("add-pooling, input-type", INT32_POOLED,
        ("the mask by way of uint8: 256 is 0", lambda p: through(p, "inputs/attention_mask/cast", TensorProto.UINT8)),
        ("the mask by way of int8: 256 is 0", lambda p: through(p, "inputs/attention_mask/cast", TensorProto.INT8)),
        ("pooling takes the ids for the mask", lambda p: p.wire("pooling/mask", 0, IDS)),
        ("the head's sum of all positions", lambda p: p.sum_over("mean/sum", HIDDEN, 1)),
    ),
    *table("rename", NAMED,
        ("ids and mask exchanged", lambda p: two_exchanged(p, "ids", "valid")),
        ("ids and types exchanged in the graph", lambda p: two_exchanged(p, "ids", TYPE_IDS)),
        ("another name than was asked for", lambda p: (p.use_instead("ids", "id"), setattr(declared(p, "ids"), "name", "id"))),
        ("another value under the output's name", lambda p: (p.rename("states", "hidden"), p.rename("token", "states"))),
        ("the output left behind", lambda p: p.append("Identity", "bent", gives="other")),
        ("a dim of one input alone", lambda p: dim(p, "ids", 0, "batch")),
        ("a dim that the output still has", lambda p: dim(p, "states", 0, "batch")),
        ("a dim that a value_info still has", lambda p: dim(p, "words", 0, "batch")),
        ("another dim", lambda p: dim(p, "ids", 1, "T")),
        ("two inputs in another order", lambda p: p.graph.input.extend([p.graph.input.pop(0)])),
        ("a weight renamed, too",
         lambda p: (p.use_instead("bias", "prejudice"), setattr(p.weight("bias"), "name", "prejudice"))),
        ("a node wired anew", lambda p: p.wire("mixed", 0, "words")),
        ("claimed the other way round", lambda p: p.claim(name=[f"{IDS}=valid", f"{MASK}=ids", f"{HIDDEN}=states"])),
        ("claimed without the dim", lambda p: p.claim(dim=[])),
        ("forgotten", lambda p: p.forget()),
    ),
    *table("add-pooling, rename", NAMED_POOLED,
        ("the mask and the ids exchanged", lambda p: two_exchanged(p, IDS, "valid")),
        ("pooling takes the ids", lambda p: p.wire("pooling/mask", 0, IDS)),
        ("the embedding's name for the sum", lambda p: (p.rename("vector", "unused"), p.rename(p.out("mean/sum"), "vector"))),
        ("claimed of the hidden state", lambda p: p.claim(name=[f"{MASK}=valid", f"{HIDDEN}=vector"])),
    ),
    *table("rename of two by each other's name", SWAPPED,
        ("not exchanged in the graph", lambda p: two_exchanged(p, IDS, MASK)),
        ("dims exchanged in one input alone", lambda p: (dim(p, IDS, 0, "batch"), dim(p, IDS, 1, "sequence"))),
        ("claimed of names that are not exchanged", lambda p: p.claim(name=[])),
        ("claimed one way alone", lambda p: p.claim(name=[f"{IDS}={MASK}"])),
    ),
    *table("add-input", FED,
        ("read by a node", lambda p: p.before("words", 1, "Add", TYPE_IDS)),
        ("read by a node that changes little", lambda p: p.before("words", 1, "Add", p.append("Div", TYPE_IDS, p.ints(99),
         behind="placed"))),
        ("in front of the others", lambda p: p.graph.input.insert(0, p.graph.input.pop())),
        ("of another type", lambda p: setattr(declared(p, TYPE_IDS).type.tensor_type, "elem_type", TensorProto.INT32)),
        ("of other dims", lambda p: dim(p, TYPE_IDS, 1, 7)),
        ("not there", lambda p: p.graph.input.remove(declared(p, TYPE_IDS))),
        ("one more", lambda p: input_back(p, "more")),
        ("with a default", lambda p: p.graph.initializer.append(numpy_helper.from_array(np.ones((1, 1), np.int64), TYPE_IDS))),
        ("claimed of another name", lambda p: p.claim(input="types")),
        ("claimed of another type", lambda p: p.claim(to="int32")),
        ("claimed of other dims", lambda p: p.claim(dims=["batch", "7"])),
        ("claimed like no input", lambda p: p.claim(like="words")),
        ("forgotten", lambda p: p.forget()),
    ),
    *table("add-pooling, add-input", FED_POOLED,
        ("read by the head", lambda p: p.wire("pooling/mask", 0, TYPE_IDS)),
        ("the sum of all positions", lambda p: p.sum_over("mean/sum", HIDDEN, 1)),
    ),
    *table("keep-outputs", ORDERED,
        ("in the order before", lambda p: p.graph.output.insert(0, p.graph.output.pop())),
        ("one less", lambda p: p.graph.output.pop()),
        ("one more", lambda p: p.graph.output.append(helper.make_tensor_value_info("words", TensorProto.FLOAT, None))),
        ("another value under an output's name", lambda p: (p.rename(HIDDEN, "hidden"), p.rename("token", HIDDEN))),
        ("other dims of an output", lambda p: dim(p, HIDDEN, 2, "hidden")),
        ("a node left out", lambda p: p.without("placed")),
        ("claimed in the other order", lambda p: p.claim(name=[EMBEDDING, HIDDEN])),
        ("claimed of one more", lambda p: p.claim(name=[HIDDEN, EMBEDDING, "words"])),
        ("claimed of none", lambda p: p.claim(name=[])),
        ("forgotten", lambda p: p.forget()),
    ),
    *table("add-pooling, keep-outputs", ALONE,
        ("the hidden state kept, too", lambda p: p.graph.output.append(
            helper.make_tensor_value_info(HIDDEN, TensorProto.FLOAT, ["batch", "sequence", 8]))),
        ("the sum of all positions", lambda p: p.sum_over("mean/sum", HIDDEN, 1)),
        ("the hidden state in its place", lambda p: setattr(p.output(EMBEDDING), "name", HIDDEN)),
    ),
    *table("fix-dim", FIXED,
        ("another size in one input", lambda p: dim(p, IDS, 0, 4)),
        ("another size everywhere", lambda p: [dim(p, name, 1, 6) for name in (IDS, MASK, TYPE_IDS, HIDDEN, "words")]),
        ("not in the mask", lambda p: dim(p, MASK, 1, "sequence")),
        ("not in the output", lambda p: dim(p, HIDDEN, 1, "sequence")),
        ("not in the value_info", lambda p: dim(p, "words", 0, "batch")),
        ("the hidden size as well", lambda p: dim(p, HIDDEN, 2, 5)),
        ("the value_info gone", lambda p: p.graph.value_info.pop()),
        ("batch and sequence exchanged",
         lambda p: [dim(p, n, a, s) for n in (IDS, MASK, TYPE_IDS) for a, s in ((0, 5), (1, 3))]),
        ("a size baked into the graph", lambda p: p.after("mixed", "Reshape", p.ints(3, 5, 8))),
        ("claimed another size", lambda p: p.claim(dim=["batch=3", "sequence=6"])),
        ("forgotten", lambda p: p.forget()),
    ),
    *table("fix-dim, add-pooling", FIXED_POOLED,
        ("a batch that is fixed, too", lambda p: dim(p, EMBEDDING, 0, 4)),
        ("the sequence open again", lambda p: dim(p, IDS, 1, "sequence")),
        ("the sum of all positions", lambda p: p.sum_over("mean/sum", HIDDEN, 1)),
    ),
    *table("dynamic-dim", FREED,
        ("still baked in", baked_again),
        ("a batch that is still baked in", lambda p: at(p, "Reshape").input.__setitem__(1, p.ints(2, -1, 8))),
        ("a sequence that is still baked in", lambda p: at(p, "Reshape").input.__setitem__(1, p.ints(-1, 6, 8))),
        ("batch and sequence exchanged", lambda p: p.after("mixed", "Reshape", p.append("Concat",
         p.out("dims/sequence"), p.ints(-1, 8), behind="dims/sequence", axis=0))),
        ("positions from 1", lambda p: p.set("dims/first", 1)),
        ("positions backwards", lambda p: p.attribute("dims/counted", reverse=1)),
        ("the table cut from behind", lambda p: (p.wire("dims/cut", 1, p.ints(-6)), p.wire("dims/cut", 2, p.ints(-1)))),
        ("the table's first position everywhere", lambda p: p.wire("dims/cut", 2, p.ints(1))),
        ("declared of one input alone", lambda p: dim(p, MASK, 0, 2)),
        ("an output that is declared of the old size", lambda p: dim(p, HIDDEN, 1, 6)),
        ("an output of another dim", lambda p: dim(p, HIDDEN, 2, "hidden")),
        ("the value_info of the old size", lambda p: p.graph.value_info.append(
            helper.make_tensor_value_info("words", TensorProto.FLOAT, [2, 6, 8]))),
        ("padding that reaches the tokens", lambda p: p.after("mixed", "Sub", p.append("ReduceMean", "token", behind="placed",
         axes=[1], keepdims=1))),
        ("a neighbour that reaches a row", lambda p: p.after("mixed", "Sub", p.append("ReduceMean", "token", behind="placed",
         axes=[0], keepdims=1))),
        ("claimed of another node", lambda p: rewired(p, output="words")),
        ("claimed of another place", lambda p: rewired(p, place=0)),
        ("claimed of another size", lambda p: p.claim(sizes=["batch=2", "sequence=7"])),
        ("claimed of the batch alone", lambda p: p.claim(sizes=["batch=2"], dim=["batch=batch"])),
        ("claimed of one output dim less", lambda p: p.claim(follows=[])),
    ),
    *table("add-pooling, dynamic-dim", FREED_POOLED,
        ("still baked in", baked_again),
        ("the sum of all positions", lambda p: p.sum_over("mean/sum", HIDDEN, 1)),
        ("a batch of two baked into the head", lambda p: p.after("mean/mean", "Reshape", p.constant([2, 8], np.int64))),
    ),
]  # fmt: skip
