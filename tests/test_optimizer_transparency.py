"""The head hides nothing of the encoder from ONNX Runtime's transformer optimizer: it fuses the same with the head and without.

The optimizer infers shapes symbolically first. Where it meets an operator that it cannot read (ReduceMax or ReduceL2 at opset
18, say), it goes on without shapes, in silence, and skip-layer-norms and attentions stay as they were. `quant_pre_process`
fails outright.
"""

from __future__ import annotations

from functools import reduce
from pathlib import Path

import module_folders
import onnx
import pytest
from conftest import FIXTURES, fixture_names
from fusions import EVERY_MODE, HEADS, fused, fused_without_head, inferred_dims, require_optimizer, with_head
from onnx import TensorProto, helper, version_converter

import graphsurgery
from graphsurgery import AddActivation, AddDense, AddLayerNorm, AddNormalize, OutputPrecision, Truncate
from graphsurgery.edits.activation_graph import ACTIVATIONS
from graphsurgery.edits.edit import Edit
from graphsurgery.edits.pooling_graph import count_widths

require_optimizer()

CONVERTED = (("bert", 17), ("bert", 19), ("bert", 21), ("t5", 15), ("t5", 17), ("t5", 21))
"""Fixtures (opset 18) that onnx's version converter brings to another opset. Below these LayerNormalization, Shape and Split
are in the way; opsets 11 and 13 are in tests/peers, exported as such."""

CHAINS: dict[str, list[Edit]] = {
    "dense with its input": [AddDense(module_folders.dense(32, 32), "relu", residual=True)],
    "dense with a residual weight": [AddDense(module_folders.dense(16, 32, residual=True), residual=True)],
    "dense glu": [AddDense(module_folders.dense(16, 32), "glu")],
    "dense prelu": [AddDense(module_folders.dense(16, 32, slope=True), "prelu")],
    "dense, layer norm, normalised": [
        AddDense(module_folders.dense(16, 32), "mish"), AddLayerNorm(module_folders.layer_norm(16)), AddNormalize(),
    ],
    "one cut": [Truncate("8")],
    "cuts": [Truncate("16,8")],
    "int8": [OutputPrecision("int8", module_folders.ranges(32))],
    "uint8 of a cut": [Truncate("12"), OutputPrecision("uint8", module_folders.ranges(12))],
    "binary": [OutputPrecision("binary")],
    "ubinary of a cut": [Truncate("12"), OutputPrecision("ubinary")],
    **{name: [AddActivation(name)] for name in sorted(ACTIVATIONS)},
}  # fmt: skip
"""What follows mean pooling of the fixture `bert`."""


NORMS_WITHOUT_BIAS = "modernbert-dynamo"
"""The bare optimizer fails on its norms. `optimize` gives them a bias of zeros (test_optimize.py)."""


def fixture(name: str) -> Path:
    return FIXTURES / name / "model.onnx"


@pytest.mark.parametrize(("mode", "normalize"), HEADS)
def test_bert_fuses_the_same_under_every_head(tmp_path, mode, normalize):
    bare = fused_without_head(fixture("bert"))
    assert bare["Attention"] == 3 and bare["SkipLayerNormalization"] == 6 and bare["EmbedLayerNormalization"] == 1
    assert fused(with_head(fixture("bert"), tmp_path, mode, normalize)) == bare


@pytest.mark.parametrize("mode", [*EVERY_MODE.split(","), EVERY_MODE])
@pytest.mark.parametrize("name", ["t5", "xlmr"])
def test_others_fuse_the_same_under_every_mode(tmp_path, name, mode):
    assert fused(with_head(fixture(name), tmp_path, mode, normalize=True)) == fused_without_head(fixture(name))


@pytest.mark.parametrize("name", [name for name in fixture_names() if name != NORMS_WITHOUT_BIAS])
def test_every_fixture_fuses_the_same_under_all_modes_at_once(tmp_path, name):
    assert fused(with_head(fixture(name), tmp_path, EVERY_MODE, normalize=True)) == fused_without_head(fixture(name))


@pytest.mark.parametrize(("name", "model_type"), [("t5", "t5"), ("qwen3", "qwen3"), ("qwen3", "gpt2")])
def test_the_optimizers_for_other_model_types(tmp_path, name, model_type):
    pooled = with_head(fixture(name), tmp_path, EVERY_MODE, normalize=True)
    assert fused(pooled, model_type) == fused_without_head(fixture(name), model_type)


@pytest.mark.parametrize("mask", ["ones", "pad:0"])
def test_other_masks(tmp_path, mask):
    pooled = with_head(fixture("bert"), tmp_path, EVERY_MODE, normalize=True, mask=mask)
    assert fused(pooled) == fused_without_head(fixture("bert"))


@pytest.mark.parametrize("prompt", [3, "input"])
@pytest.mark.parametrize("name", ["bert", "t5"])
def test_a_prompt_left_out(tmp_path, name, prompt):
    pooled = with_head(fixture(name), tmp_path, EVERY_MODE, normalize=True, skip_prompt=prompt)
    assert fused(pooled) == fused_without_head(fixture(name))


@pytest.mark.parametrize(("name", "opset"), CONVERTED)
def test_other_opsets(tmp_path, name, opset):
    source = tmp_path / f"opset{opset}.onnx"
    onnx.save(version_converter.convert_version(onnx.load(fixture(name)), opset), source)
    pooled = with_head(source, tmp_path, EVERY_MODE, normalize=True)
    assert graphsurgery.load(pooled).opset == opset
    assert fused(pooled) == fused_without_head(source)


@pytest.mark.parametrize("added", [False, True], ids=["pooled at once", "normalised after"])
def test_add_normalize_hides_nothing_either(tmp_path, added):
    model = graphsurgery.add_pooling(fixture("xlmr"), mode="cls", normalize=not added)
    model = graphsurgery.add_normalize(model) if added else model
    graphsurgery.save(model, tmp_path / "model.onnx")
    assert fused(tmp_path / "model.onnx") == fused_without_head(fixture("xlmr"))


def chained(name: str) -> graphsurgery.Model:
    return reduce(lambda model, edit: edit.apply(model), CHAINS[name], graphsurgery.add_pooling(fixture("bert"), mode="mean"))


@pytest.mark.parametrize("name", CHAINS)
def test_what_follows_pooling_hides_nothing(tmp_path, name):
    """GELU alone is fused itself."""
    graphsurgery.save(chained(name), tmp_path / "model.onnx")
    own = {"Gelu": 1} if name == "gelu" else {}
    assert fused(tmp_path / "model.onnx") == {**fused_without_head(fixture("bert")), **own}


@pytest.mark.parametrize("name", CHAINS)
def test_symbolic_shape_inference_reads_what_follows_pooling(name):
    model = chained(name)
    assert inferred_dims(model.to_proto()) == list(model.interface.outputs[0].dims)


@pytest.mark.parametrize(("mode", "normalize"), HEADS)
def test_symbolic_shape_inference_reads_every_head(mode, normalize):
    pooled = graphsurgery.add_pooling(fixture("bert"), mode=mode, normalize=normalize)
    assert inferred_dims(pooled.to_proto()) == ["batch_size", 32 * count_widths(mode.split(","))]


@pytest.mark.parametrize("name", [name for name in fixture_names() if name != "bert-external"])
def test_symbolic_shape_inference_reads_all_modes_at_once(name):
    """The batch may get the name that it has in any of the inputs: the inference takes them to be one."""
    pooled = graphsurgery.add_pooling(fixture(name), mode=EVERY_MODE, normalize=True)
    batch, width = inferred_dims(pooled.to_proto())
    assert batch in {value.dims[0] for value in pooled.interface.inputs} and width == pooled.interface.outputs[0].dims[1]


@pytest.mark.parametrize("mode", [*EVERY_MODE.split(","), EVERY_MODE])
def test_symbolic_shape_inference_that_merges_nothing(mode):
    """As `quant_pre_process` asks for it by default. BERT's own encoder does not pass that, T5's does."""
    pooled = graphsurgery.add_pooling(fixture("t5"), mode=mode, normalize=True)
    assert inferred_dims(pooled.to_proto(), auto_merge=False) == ["batch_size", 36 * count_widths(mode.split(","))]


@pytest.mark.parametrize(
    "edit",
    [
        graphsurgery.DropInput("token_type_ids"), graphsurgery.DropInput("attention_mask"), graphsurgery.InputType("int32"),
        graphsurgery.Rename(("input_ids=ids",)), graphsurgery.FixDim(("batch_size=1",)),
    ],
    ids=lambda edit: edit.verb,
)  # fmt: skip
def test_edits_of_the_interface_hide_nothing(tmp_path, edit):
    graphsurgery.save(edit.apply(graphsurgery.load(fixture("bert"))), tmp_path / "model.onnx")
    assert fused(tmp_path / "model.onnx") == fused_without_head(fixture("bert"))


def test_a_default_hides_the_embeddings_alone(tmp_path):
    """What may be [1, 1] is no input of EmbedLayerNormalization; layers fuse as before."""
    graphsurgery.save(graphsurgery.optional_input(fixture("bert"), "token_type_ids"), tmp_path / "model.onnx")
    wanted = dict(fused_without_head(fixture("bert")))
    del wanted["EmbedLayerNormalization"]
    assert fused(tmp_path / "model.onnx") == wanted | {"LayerNormalization": 1}


@pytest.mark.parametrize("operator", ["ReduceMax", "ReduceL2"])
def test_a_head_that_hides_the_encoder_is_noticed(tmp_path, operator):
    model = onnx.load(fixture("bert"))
    graph = model.graph
    graph.initializer.append(helper.make_tensor("axes", TensorProto.INT64, [1], [1]))
    graph.node.append(helper.make_node(operator, ["last_hidden_state", "axes"], ["reduced"], keepdims=0))
    graph.node.append(helper.make_node("Add", ["reduced", "reduced"], ["embedding"]))
    graph.output[0].CopyFrom(helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch_size", 32]))
    onnx.save(model, tmp_path / "model.onnx")
    assert fused(tmp_path / "model.onnx") != fused_without_head(fixture("bert"))
    with pytest.raises(TypeError):
        inferred_dims(model)
