"""A tiny decoder with caches, a task and a flag: what an embedder has to do without.

x = word[input_ids]                                            [batch, seq, 8]
present_l = past_l, then x in heads                            [batch, 2, past + seq, 4], two layers l
last_hidden_state = (-1 if use_cache else 1) task_id (x + mean(present_0) + mean(present_1))
"""

from __future__ import annotations

import numpy as np
import onnx
from encoders import HIDDEN, IDS, MASK, VOCABULARY
from onnx import TensorProto, helper, numpy_helper

CACHES = ("past_key_values.0.key", "past_key_values.1.key")
PRESENT = ("present.0.key", "present.1.key")
TASK, FLAG = "task_id", "use_cache_branch"
HEADS, SIZE = 2, 4
PAST, SEQUENCE = "past", "sequence"


def tiny_decoder() -> onnx.ModelProto:
    """The decoder, with a mask that it does not look at, and a flag that chooses between the branches of an If."""
    word = np.random.default_rng(0).standard_normal((VOCABULARY, HEADS * SIZE)).astype(np.float32)
    shapes = {"apart": [0, 0, HEADS, SIZE], "flat": [0, 1, HEADS * SIZE]}
    nodes = [
        helper.make_node("Gather", ["word", IDS], ["words"], "words"),
        helper.make_node("Reshape", ["words", "apart"], ["parts"], "parts"),
        helper.make_node("Transpose", ["parts"], ["heads"], "heads", perm=[0, 2, 1, 3]),
    ]
    total = "words"
    for layer, (past, present) in enumerate(zip(CACHES, PRESENT, strict=True)):
        nodes += [
            helper.make_node("Concat", [past, "heads"], [present], f"present{layer}", axis=2),
            helper.make_node("ReduceMean", [present], [f"mean{layer}"], f"mean{layer}", axes=[2], keepdims=1),
            helper.make_node("Reshape", [f"mean{layer}", "flat"], [f"flat{layer}"], f"flat{layer}"),
            helper.make_node("Add", [total, f"flat{layer}"], [f"sum{layer}"], f"sum{layer}"),
        ]
        total = f"sum{layer}"
    branches = {f"{which}_branch": _branch(which, op) for which, op in (("then", "Neg"), ("else", "Identity"))}
    nodes += [
        helper.make_node("Cast", [TASK], ["task"], "task", to=TensorProto.FLOAT),
        helper.make_node("Mul", [total, "task"], ["scaled"], "scaled"),
        helper.make_node("If", [FLAG], [HIDDEN], "decoder/branches", **branches),
    ]
    cache = ["batch", HEADS, PAST, SIZE]
    inputs = {IDS: (TensorProto.INT64, ["batch", SEQUENCE]), MASK: (TensorProto.INT64, ["batch", f"{PAST} + {SEQUENCE}"])}
    inputs |= dict.fromkeys(CACHES, (TensorProto.FLOAT, cache))
    inputs |= {TASK: (TensorProto.INT64, []), FLAG: (TensorProto.BOOL, [1])}
    outputs = {HIDDEN: ["batch", SEQUENCE, HEADS * SIZE]}
    outputs |= {name: ["batch", HEADS, f"{PAST} + {SEQUENCE}", SIZE] for name in PRESENT}
    graph = helper.make_graph(
        nodes,
        "decoder",
        [helper.make_tensor_value_info(name, kind, dims) for name, (kind, dims) in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in outputs.items()],
        [
            numpy_helper.from_array(word, "word"),
            *(numpy_helper.from_array(np.array(one), name) for name, one in shapes.items()),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _branch(name: str, op: str) -> onnx.GraphProto:
    value = f"{name}_out"
    output = helper.make_tensor_value_info(value, TensorProto.FLOAT, None)
    return helper.make_graph([helper.make_node(op, ["scaled"], [value])], name, [], [output])


def compute_hidden(ids: np.ndarray, task: int, is_cached: bool = False) -> np.ndarray:
    """The hidden states with empty caches."""
    word = numpy_helper.to_array(tiny_decoder().graph.initializer[0])
    x = word[ids]
    return (-1 if is_cached else 1) * task * (x + 2 * x.mean(axis=1, keepdims=True))
