"""Exports that give what heads make of token embeddings, and not these: bge-m3's three outputs, or the pooled vector alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from baked_folders import HIDDEN, drawn, normalize, pooling, run_model, transformer, write_folder
from encoders import FLOAT16, tiny_encoder
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file
from test_bake import certificate, command

from graphsurgery.cli.main import OK, WRONG

IDS = np.array([[2, 4, 5, 6, 3], [2, 7, 3, 0, 0]])
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
RNG = np.random.default_rng(8)
LAYERS = {"sparse_linear.pt": drawn(RNG, (1, HIDDEN)), "colbert_linear.pt": drawn(RNG, (6, HIDDEN))}
BIASES = {"sparse_linear.pt": drawn(RNG, (1,)), "colbert_linear.pt": drawn(RNG, (6,))}
NAMES = ("output_a", "output_b", "output_c")
DENSE_MODULES = (transformer(), pooling("cls"), normalize("2_Normalize"))


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def with_heads(heads: tuple[str, ...], names: tuple[str, ...] = NAMES) -> onnx.ModelProto:
    """The tiny encoder with ``heads`` of bge-m3 as its outputs, under any ``names``, and its token embeddings inside."""
    model = tiny_encoder()
    hidden = model.graph.output[0].name
    weights = {f"{file}.{part}": value for part, values in (("w", {f: w.T for f, w in LAYERS.items()}), ("b", BIASES))
               for file, value in values.items()}  # fmt: skip
    weights |= {"first": np.array(0), "from": np.array([1]), "to": np.array([1 << 40]), "axis": np.array([1])}
    model.graph.initializer.extend(numpy_helper.from_array(value.copy(), name) for name, value in weights.items())
    del model.graph.output[:]
    for head, name in zip(heads, names, strict=False):
        if head == "dense":
            nodes = [helper.make_node("Gather", [hidden, "first"], ["picked"], axis=1),
                     helper.make_node("LpNormalization", ["picked"], [name], axis=-1, p=2)]  # fmt: skip
        elif head == "sparse":
            nodes = [helper.make_node("MatMul", [hidden, "sparse_linear.pt.w"], ["s1"]),
                     helper.make_node("Add", ["s1", "sparse_linear.pt.b"], ["s2"]),
                     helper.make_node("Relu", ["s2"], [name])]  # fmt: skip
        else:
            nodes = [helper.make_node("Slice", [hidden, "from", "to", "axis"], ["later"]),
                     helper.make_node("MatMul", ["later", "colbert_linear.pt.w"], ["c1"]),
                     helper.make_node("Add", ["c1", "colbert_linear.pt.b"], ["c2"]),
                     helper.make_node("LpNormalization", ["c2"], [name], axis=-1, p=2)]  # fmt: skip
        model.graph.node.extend(nodes)
        dims = {"dense": ["batch", HIDDEN], "sparse": ["batch", "sequence", 1], "colbert": ["batch", "rest", 6]}[head]
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims))
    return model


def m3_folder(folder: Path, heads: tuple[str, ...], layers: tuple[str, ...] = tuple(LAYERS)) -> Path:
    """A bge-m3 folder whose ONNX file gives ``heads``, with the files of ``layers``."""
    write_folder(folder, DENSE_MODULES, with_heads(heads))
    for name in layers:
        save_file({"weight": LAYERS[name], "bias": BIASES[name]}, folder / name)
    return folder


def hidden_states(tmp_path: Path) -> np.ndarray:
    folder = write_folder(tmp_path / "plain")
    return run_model(folder, "last_hidden_state", input_ids=IDS, attention_mask=MASK).astype(np.float64)


def baked_output(folder: Path, name: str) -> np.ndarray:
    return run_model(folder.with_name(f"{folder.name}-baked"), name, input_ids=IDS, attention_mask=MASK)


@pytest.mark.parametrize("heads", [("dense", "sparse", "colbert"), ("colbert", "dense", "sparse")])
def test_three_outputs(heads: tuple[str, ...], tmp_path: Path, capsys) -> None:
    """Found by what they are, in any order and under any name; made anew from the token embeddings inside, and proven."""
    folder = m3_folder(tmp_path / "model", heads)
    code, told = command("bake", folder, capsys=capsys)
    assert code == OK and told["report"]["verdict"] == "PASSED", told
    outputs = [value["name"] for value in told["interface"]["after"]["outputs"]]
    assert outputs == ["sentence_embedding", "sparse_weights", "colbert_vectors"]
    assert [value["dims"] for value in told["interface"]["after"]["outputs"]][1:] == [
        ["batch", "sequence", 1], ["batch", "sequence", 6],
    ]  # fmt: skip
    assert any("its outputs are made of last_hidden_state, as a run shows" in note for note in told["notes"])
    hidden, mask = hidden_states(tmp_path), MASK[:, :, None]
    assert np.allclose(baked_output(folder, "sentence_embedding"), unit(hidden[:, 0]), atol=1e-6)
    sparse = np.maximum(hidden @ LAYERS["sparse_linear.pt"].T + BIASES["sparse_linear.pt"], 0) * mask
    assert np.allclose(baked_output(folder, "sparse_weights"), sparse, atol=1e-5) and sparse.any()
    colbert = unit(hidden @ LAYERS["colbert_linear.pt"].T + BIASES["colbert_linear.pt"]) * mask
    colbert[:, 0] = 0
    assert np.allclose(baked_output(folder, "colbert_vectors"), colbert, atol=1e-6)
    assert {*LAYERS} <= set(certificate(tmp_path / "model-baked")["sources"])


def test_half_precision(tmp_path: Path, capsys) -> None:
    """Outputs in float16 are rounded; the heads are made in float32."""
    folder = m3_folder(tmp_path / "model", ("dense",), ())
    model = tiny_encoder(dtype=FLOAT16)
    hidden = model.graph.output[0].name
    del model.graph.output[:]
    model.graph.node.append(helper.make_node("Gather", [hidden, "first"], ["vector"], axis=1))
    model.graph.initializer.append(numpy_helper.from_array(np.array(0), "first"))
    model.graph.output.append(helper.make_tensor_value_info("vector", FLOAT16, ["batch", HIDDEN]))
    onnx.save(model, folder / "onnx" / "model.onnx")
    code, told = command("bake", folder, capsys=capsys)
    assert code == OK and told["report"]["verdict"] == "PASSED", told
    vector = run_model(folder, "vector", input_ids=IDS, attention_mask=MASK).astype(np.float64)
    assert np.allclose(baked_output(folder, "sentence_embedding"), unit(vector), atol=2e-3)


def test_without_the_layers(tmp_path: Path, capsys) -> None:
    """The vector is made anew; the file's own outputs stay as they are, if they are asked for."""
    folder = m3_folder(tmp_path / "model", ("dense", "sparse", "colbert"), ())
    code, told = command("bake", folder, "--keep-output", NAMES[1], capsys=capsys)
    assert code == OK and told["report"]["verdict"] == "PASSED"
    assert [value["name"] for value in told["interface"]["after"]["outputs"]] == ["sentence_embedding", NAMES[1]]
    assert np.array_equal(baked_output(folder, NAMES[1]), run_model(folder, NAMES[1], input_ids=IDS, attention_mask=MASK))
    code, told = command("bake", folder, "--keep-output", "four", "--force", capsys=capsys)
    assert code == WRONG and ", ".join(NAMES) in told["error"]["advice"]
    code, told = command("bake", folder, "--keep-output", "sparse_weights", "--force", capsys=capsys)
    assert code == WRONG and "has no sparse_linear.pt" in told["error"]["message"]


def test_layers_that_are_not_asked_for(tmp_path: Path, capsys) -> None:
    """Of a file that gives its token embeddings; the user is told how to get them."""
    folder = m3_folder(tmp_path / "model", ("dense",))
    (folder / "onnx" / "model.onnx").write_bytes(tiny_encoder().SerializeToString())
    code, told = command("bake", folder, capsys=capsys)
    assert code == OK and len(told["interface"]["after"]["outputs"]) == 1
    assert any("--keep-output sparse_weights --keep-output colbert_vectors" in note for note in told["notes"])


def test_layers_of_another_model(tmp_path: Path, capsys) -> None:
    """Names and shapes alone prove nothing: layers that do not make the file's outputs are not taken for them."""
    folder = m3_folder(tmp_path / "model", ("dense", "sparse", "colbert"))
    for name, weight in LAYERS.items():
        save_file({"weight": weight + 1, "bias": BIASES[name]}, folder / name)
    code, told = command("bake", folder, capsys=capsys)
    assert code == OK and [value["name"] for value in told["interface"]["after"]["outputs"]] == ["sentence_embedding"]


def test_a_vector_that_no_head_makes(tmp_path: Path, capsys) -> None:
    """Twice the first token, say: then nobody knows what the token embeddings are."""
    folder = m3_folder(tmp_path / "model", ("dense",), ())
    model = with_heads(("dense",))
    model.graph.node[-1].input[0] = "twice"
    model.graph.node.insert(len(model.graph.node) - 1, helper.make_node("Sin", ["picked"], ["twice"]))
    onnx.save(model, folder / "onnx" / "model.onnx")
    code, told = command("bake", folder, capsys=capsys)
    assert code == WRONG and told["error"]["type"] == "NothingToPoolError"
