"""A tower of pictures, as small as it can be."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def picture_tower(size: tuple[int | str, int | str], opset: int = 18, dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """A tower of pictures: patches of 2 x 2 pixels through a Gelu-like bend, and their mean as the embedding ``[batch, 4]``."""
    kernel = np.random.default_rng(0).standard_normal((4, 3, 2, 2)).astype(helper.tensor_dtype_to_np_dtype(dtype))
    nodes = [
        helper.make_node("Conv", ["pixel_values", "kernel"], ["patches"], "patches", strides=[2, 2]),
        helper.make_node("Tanh", ["patches"], ["bent"], "bent"),
        helper.make_node("GlobalAveragePool", ["bent"], ["pooled"], "pooled"),
        helper.make_node("Flatten", ["pooled"], ["image_embeds"], "flat"),
    ]
    inputs = [helper.make_tensor_value_info("pixel_values", dtype, ["batch", 3, *size])]
    outputs = [helper.make_tensor_value_info("image_embeds", dtype, ["batch", 4])]
    graph = helper.make_graph(nodes, "tower", inputs, outputs, [numpy_helper.from_array(kernel, "kernel")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
