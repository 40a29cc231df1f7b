"""Encoders, feeds and refusals for the tests of padding-free files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import FIXTURES
from onnx import numpy_helper

import graphsurgery
from graphsurgery.edits.edit import Edit
from graphsurgery.encoder.roles import find_roles
from graphsurgery.errors import RequestError
from graphsurgery.model.model import Model
from graphsurgery.rewrites.rewrite import Rewrite
from graphsurgery.runtime.baked_sizes import make_feed_generator_for

FORMS = ("rows", "gather")
Step = Edit | Rewrite


def encoder(name: str) -> Path:
    return FIXTURES / name / "model.onnx"


def made(source: Any, *steps: Step) -> Model:
    """What the steps make of ``source``, without a proof."""
    done = graphsurgery.run(steps, source, output="unused.onnx", dry_run=True, verify=False).model
    assert isinstance(done, Model)
    return done


def feeds(model: Model) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    generator = make_feed_generator_for(model, find_roles(model.interface))
    for kind, masks in generator.generate_masks():
        yield from ((kind, generator.generate(mask, seed=1)) for mask in masks)


def refuse(error: type[Exception], words: str, source: Any, *steps: Step) -> str:
    with pytest.raises(error, match=words) as refused:
        made(source, *steps)
    assert isinstance(refused.value, RequestError) and refused.value.advice
    return refused.value.advice


MASKS = {
    "nonzero": ("int64[batch, seq] said", "said", "is = Cast <to = 9> (said)"),
    "not": ("bool[batch, seq] said", "not:said", "is = Not (said)"),
    "additive": ("float[batch, seq] said", "additive:said", ""),
    "lengths": (
        "int64[batch] said", "lengths:said",
        """one = Constant <value = int64 {1}> ()
        zero = Constant <value = int64 {0}> ()
        shape = Shape (input_ids)
        width = Gather (shape, one)
        places = Range (zero, width, one)
        axis = Constant <value = int64[1] {1}> ()
        column = Unsqueeze (said, axis)
        is = Less (places, column)""",
    ),
}  # fmt: skip
"""By form: the input, the mask that is asked for, and how the encoder finds the tokens."""


def small_encoder(
    form: str = "nonzero", after: str = "last_hidden_state = Add (x, mixed)", values: str = "v = MatMul (x, wv)",
    before: str = "x = Gather (table, input_ids)",
) -> Model:  # fmt: skip
    """One attention without heads over a table, its mask in ``form``; ``after``: what comes behind the attention, ``mixed``."""
    declared, _, find = MASKS[form]
    hide = f"""{find}
        large = Constant <value = float {{-10000.0}}> ()
        none = Constant <value = float {{0.0}}> ()
        said_float = Where (is, none, large)"""
    hide = "said_float = Identity (said)" if form == "additive" else hide
    text = f"""encoder (int64[batch, seq] input_ids, {declared}) => (float[batch, seq, 4] last_hidden_state) {{
        {before}
        q = MatMul (x, wq)
        k = MatMul (x, wk)
        {values}
        kt = Transpose <perm = [0, 2, 1]> (k)
        scores = MatMul (q, kt)
        {hide}
        middle = Constant <value = int64[1] {{1}}> ()
        mask_3d = Unsqueeze (said_float, middle)
        masked = Add (scores, mask_3d)
        weights = Softmax <axis = -1> (masked)
        mixed = MatMul (weights, v)
        {after}
    }}"""
    graph = onnx.parser.parse_graph(text)
    rng = np.random.default_rng(3)
    shapes = {"table": (30, 4), "wq": (4, 4), "wk": (4, 4), "wv": (4, 4), "wc": (4, 4, 1), "cos": (64, 2), "sin": (64, 2)}
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)]
    return graphsurgery.load(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8))
