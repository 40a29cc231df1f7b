"""Processors that a quantised file is made for, and what their products of uint8 with int8 get wrong.

Without VNNI, x86 processors add two products in 16 bits (`vpmaddubsw`), which can overflow: 255 * 127 * 2 > 32767. With weights
of 7 bits the sum always fits: 255 * 63 * 2 = 32130.
"""

from __future__ import annotations

import platform
from functools import lru_cache

import numpy as np
import onnx

from graphsurgery.runtime.session import open_in_memory

VNNI, AVX2, ARM64, PORTABLE = "avx512_vnni", "avx2", "arm64", "portable"
TARGETS = (VNNI, AVX2, ARM64, PORTABLE)
LARGEST = {VNNI: 127, AVX2: 63, ARM64: 127, PORTABLE: 63}
"""The largest weight, by target."""
DESCRIPTIONS = {
    VNNI: "ONNX Runtime on x86 processors with VNNI (8-bit weights; without VNNI, sums can overflow)",
    AVX2: "ONNX Runtime on every x86 processor since AVX2, and on arm64 (7-bit weights)",
    ARM64: "ONNX Runtime on arm64 processors (8-bit weights; on x86 processors without VNNI, sums can overflow)",
    PORTABLE: "every runtime of standard operators, on every processor (7-bit weights)",
}
"""Which runtimes and processors a file is for, by target."""
INNER = 64


@lru_cache(maxsize=1)
def detect_target() -> str:
    """Return the target that this machine is: a product with the largest integers is computed, and compared with the truth."""
    if platform.machine().lower() in ("aarch64", "arm64"):
        return ARM64
    return AVX2 if overflows() else VNNI


def overflows() -> bool:
    """Return whether ONNX Runtime's products of uint8 with int8 are wrong here for the largest integers."""
    weights = np.full((INNER, INNER), 127, np.int8)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "largest",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, ["rows", INNER])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.INT32, ["rows", INNER])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    integers = np.full((INNER, INNER), 255, np.uint8)
    found = open_in_memory(model).run({"x": integers})["y"]
    return not np.array_equal(found, integers.astype(np.int32) @ weights.astype(np.int32))
