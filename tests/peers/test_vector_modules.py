"""Dense layers, layer norms, activations, cuts and bytes against torch.nn and sentence-transformers, which write the weights.

Vectors come from a model that hands its input on, so that all that differs is what was added.
"""

from __future__ import annotations

import functools
import inspect
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import ModelProto, TensorProto, helper
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules.dense import Dense
from sentence_transformers.sentence_transformer.modules import LayerNorm, Normalize
from sentence_transformers.util import quantize_embeddings, truncate_embeddings
from torch import nn

import graphsurgery
from graphsurgery.edits.activation_graph import ACTIVATIONS, OVER_LAST_DIM, parse_activation
from graphsurgery.errors import RequestError

RELATIVE, UNIT = 1e-5, 1e-6
OPSETS = (11, 13, 18)
BY_NAME = {name.lower(): getattr(nn, name) for name in dir(nn) if inspect.isclass(getattr(nn, name))}
WITH_WEIGHTS = ("prelu", "glu")
"""What a dense layer alone can have: a slope of its own, and half as many dims."""
NO_ACTIVATIONS = {
    "dropout", "dropout1d", "dropout2d", "dropout3d", "alphadropout", "featurealphadropout", "flatten", "sequential",
    "lazybatchnorm1d",
}  # fmt: skip
"""What gives vectors as well and bends nothing: refused by name."""
Array = np.ndarray


@functools.cache
def nothing(width: int, rank: int = 2, opset: int = 17, dtype: int = TensorProto.FLOAT) -> ModelProto:
    """``x -> y``, both ``[batch, width]`` or ``[batch, seq, width]``, the same."""
    dims = ["batch", "seq", width][-rank:] if rank == 3 else ["batch", width]
    infos = [helper.make_tensor_value_info(one, dtype, dims) for one in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "nothing", infos[:1], infos[1:])
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets))


def run(model: graphsurgery.Model, x: Array) -> list[Array]:
    return onnxruntime.InferenceSession(model.to_proto().SerializeToString()).run(None, {"x": x})


def vectors(width: int, rows: int = 64, seed: int = 0) -> Array:
    """Of all sizes from 1e-6 to 100."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((rows, width)) * 10.0 ** rng.uniform(-6, 2, (rows, 1))).astype(np.float32)


def limit(*arrays: Array) -> Array:
    """1e-5 max(1, max|x|) of each row of ``arrays``."""
    largest = np.max([np.abs(one).reshape(len(one), -1).max(axis=1) for one in arrays], axis=0)
    return RELATIVE * np.maximum(largest, 1).reshape(-1, *[1] * (arrays[0].ndim - 1))


def by_torch(module: nn.Module, x: Array) -> Array:
    """In float64, without training."""
    with torch.no_grad():
        return module.double().eval()(torch.from_numpy(x.astype(np.float64))).numpy()


def by_module(module: nn.Module, x: Array, reads: str = "sentence_embedding", writes: str = "sentence_embedding") -> Array:
    """What a module of sentence-transformers makes of features, in float64."""
    with torch.no_grad():
        return module.double().eval()({reads: torch.from_numpy(x.astype(np.float64))})[writes].numpy()


# Activations


def is_elementwise(kind: type[nn.Module]) -> bool:
    """Whether a class constructs without arguments and makes one vector ``[batch, dim]`` of one, dim by dim or over dims."""
    try:
        module = kind().eval()
        x = torch.from_numpy(vectors(8, 4))
        with torch.no_grad():
            y = module(x)
        return isinstance(y, torch.Tensor) and y.ndim == 2 and len(y) == len(x) and y.shape[1] in (4, 8)
    except Exception:
        return False


def test_every_class_of_torch_is_known_or_refused_by_name() -> None:
    found = {name for name, kind in BY_NAME.items() if is_elementwise(kind)}
    assert found - NO_ACTIVATIONS == {*ACTIVATIONS, *WITH_WEIGHTS}
    for name, kind in BY_NAME.items():
        if name in (*ACTIVATIONS, *WITH_WEIGHTS):
            assert parse_activation(f"{kind.__module__}.{kind.__name__}", WITH_WEIGHTS) == name
            continue
        with pytest.raises(RequestError, match=f"the activation 'torch.nn.{kind.__name__}' is not known"):
            parse_activation(f"torch.nn.{kind.__name__}", WITH_WEIGHTS)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations(name: str, opset: int, worst) -> None:
    x = vectors(16, 512)
    [found] = run(graphsurgery.add_activation(nothing(16, opset=opset), f"torch.nn.{BY_NAME[name].__name__}"), x)
    expected = by_torch(BY_NAME[name](), x)
    if name not in OVER_LAST_DIM:
        x = np.linspace(-30, 30, 1 << 12, dtype=np.float32).reshape(-1, 16)
        found = np.concatenate([found, *run(graphsurgery.add_activation(nothing(16, opset=opset), name), x)])
        expected = np.concatenate([expected, by_torch(BY_NAME[name](), x)])
    worst.within("activations, torch.nn's", found, expected, limit(expected), name)


@pytest.mark.parametrize("name", sorted(OVER_LAST_DIM))
def test_softmax_of_tokens_is_over_the_batch_in_torch(name: str) -> None:
    """Which is why it is refused."""
    x = vectors(6, 8).reshape(2, 4, 6)
    with pytest.warns(UserWarning, match="Implicit dimension"):
        theirs = BY_NAME[name]()(torch.from_numpy(x))
    assert torch.equal(theirs, getattr(nn, BY_NAME[name].__name__)(dim=0)(torch.from_numpy(x)))
    with pytest.raises(RequestError, match="over the batch"):
        graphsurgery.add_activation(nothing(6, 3), name, target="y")


# Dense


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("name", sorted([*ACTIVATIONS, *WITH_WEIGHTS]))
def test_dense(name: str, bias: bool, safe: bool, tmp_path: Path, worst) -> None:
    """The folder that the module saves is all that is given."""
    torch.manual_seed(len(name))
    module = Dense(24, 10, bias=bias, activation_function=BY_NAME[name]())
    module.save(str(tmp_path), safe_serialization=safe)
    x = vectors(24)
    model = graphsurgery.add_dense(nothing(24), tmp_path)
    [found] = run(model, x)
    linear = by_torch(Dense.load(str(tmp_path)).linear, x)
    expected = by_module(Dense.load(str(tmp_path)), x)
    worst.within("Dense", found, expected, limit(expected, linear), f"{name}, {'bias' if bias else 'no bias'}")
    assert graphsurgery.verify(model, against=nothing(24))


@pytest.mark.parametrize(("reads", "writes"), [("token_embeddings", None), ("sentence_embedding", "projected")], ids=str)
def test_dense_on_other_features(reads: str, writes: str | None, tmp_path: Path, worst) -> None:
    module = Dense(24, 10, module_input_name=reads, module_output_name=writes)
    module.save(str(tmp_path))
    x = vectors(24, 48).reshape(8, 6, 24) if reads == "token_embeddings" else vectors(24)
    source = nothing(24, x.ndim)
    model = graphsurgery.add_dense(source, tmp_path, target="y", output_name=writes, keep_target=writes is not None)
    *kept, found = run(model, x)
    expected = by_module(Dense.load(str(tmp_path)), x, reads, writes or reads)
    worst.within("Dense, other features", found, expected, limit(expected), f"{reads} -> {writes}")
    assert [value.name for value in model.interface.outputs] == (["y"] if writes is None else ["y", writes])
    for one in kept:
        np.testing.assert_array_equal(one, x)


def test_dense_without_an_activation_in_its_config_is_what_sentence_transformers_makes_of_it(tmp_path: Path, worst) -> None:
    Dense(8, 8).save(str(tmp_path))
    config = tmp_path / "config.json"
    config.write_text("\n".join(line for line in config.read_text().splitlines() if "activation_function" not in line))
    x = vectors(8)
    expected = by_module(Dense.load(str(tmp_path)), x)
    worst.within("Dense", run(graphsurgery.add_dense(nothing(8), tmp_path), x)[0], expected, limit(expected), "the default")


class Residual(nn.Module):
    """As PyLate's Dense: activation(x Wt + b) + x, or + x Rt where the dims differ."""

    def __init__(self, dims: tuple[int, int], activation: nn.Module) -> None:
        super().__init__()
        self.linear = nn.Linear(*dims)
        self.activation_function = activation
        if dims[0] != dims[1]:
            self.residual = nn.Linear(*dims, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.activation_function(self.linear(x)) + (self.residual(x) if hasattr(self, "residual") else x)


@pytest.mark.parametrize("asked", [True, False], ids=["asked for", "by the config"])
@pytest.mark.parametrize("dims", [(24, 24), (24, 10)], ids=str)
@pytest.mark.parametrize("name", ["Identity", "Tanh", "GELU", "PReLU"])
def test_residuals(name: str, dims: tuple[int, int], asked: bool, tmp_path: Path, worst) -> None:
    module = Residual(dims, getattr(nn, name)())
    save_file(module.state_dict(), tmp_path / "model.safetensors")
    if not asked:
        text = f'{{"activation_function": "torch.nn.{name}", "use_residual": true, "in_features": {dims[0]}}}'
        (tmp_path / "config.json").write_text(text)
    x = vectors(24, 48).reshape(8, 6, 24)
    model = graphsurgery.add_dense(nothing(24, 3), tmp_path, activation=name if asked else None, residual=asked, target="y")
    expected = by_torch(module, x)
    worst.within("Dense with a residual, PyLate's", run(model, x)[0], expected, limit(expected, x), f"{name} {dims}")


# Layer norm, normalisation


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("width", [1, 2, 7, 384])
def test_layer_norm(width: int, opset: int, safe: bool, tmp_path: Path, worst) -> None:
    module = LayerNorm(width)
    with torch.no_grad():
        module.norm.weight.normal_()
        module.norm.bias.normal_()
    module.save(str(tmp_path), safe_serialization=safe)
    x = vectors(width)
    model = graphsurgery.add_layer_norm(nothing(width, opset=opset), tmp_path)
    expected = by_module(LayerNorm.load(str(tmp_path)), x)
    worst.within("LayerNorm", run(model, x)[0], expected, limit(expected), f"{width} dims")
    assert graphsurgery.verify(model, against=nothing(width, opset=opset))


def test_normalize(worst) -> None:
    x = vectors(24)
    [found] = run(graphsurgery.add_normalize(nothing(24)), x)
    worst.within("Normalize", found, by_module(Normalize(), x), UNIT)


def test_a_folder_of_several(tmp_path: Path, worst) -> None:
    """Dense, LayerNorm, Dense and Normalize, one after the other."""
    modules = [Dense(24, 32, activation_function=nn.GELU()), LayerNorm(32), Dense(32, 12), Normalize()]
    model, expected = graphsurgery.load(nothing(24)), vectors(24)
    for index, module in enumerate(modules):
        folder = tmp_path / f"{index}_{type(module).__name__}"
        folder.mkdir()
        module.save(str(folder))
        if isinstance(module, Dense):
            model = graphsurgery.add_dense(model, folder)
        else:
            is_norm = isinstance(module, LayerNorm)
            model = graphsurgery.add_layer_norm(model, folder) if is_norm else graphsurgery.add_normalize(model)
        expected = by_module(module, expected)
    worst.within("Dense, LayerNorm, Dense, Normalize", run(model, vectors(24))[0], expected, UNIT)
    assert graphsurgery.verify(model, against=nothing(24))


# Cuts and bytes


@pytest.mark.parametrize("normalize", [True, False], ids=["normalised", "keep length"])
@pytest.mark.parametrize("dims", [(1,), (12,), (23,), (16, 8, 4)], ids=str)
def test_truncate(dims: tuple[int, ...], normalize: bool, worst) -> None:
    """As SentenceTransformer.encode with truncate_dim: cut, then normalised where that is asked for."""
    x = vectors(24)
    found = run(graphsurgery.truncate(nothing(24), dims, keep_length=not normalize), x)
    for dim, one in zip(dims, found[-len(dims) :], strict=True):
        cut = truncate_embeddings(torch.from_numpy(x), dim)
        expected = (nn.functional.normalize(cut.double(), p=2, dim=1) if normalize else cut).numpy()
        if normalize:
            worst.within("truncate_dim, normalised", one, expected, UNIT, f"{dim} dims")
        else:
            np.testing.assert_array_equal(one, expected)


def test_truncate_as_encode_does(minilm: Path, minilm_export: Path, worst) -> None:
    texts = ["one text", "another, longer text", "and the last"]
    theirs = SentenceTransformer(str(minilm), device="cpu")
    model = graphsurgery.truncate(graphsurgery.add_pooling(minilm_export, "mean", normalize=True), 128)
    encoded = theirs.tokenizer(texts, padding=True, return_tensors="np")
    names = [value.name for value in model.interface.inputs]
    session = onnxruntime.InferenceSession(model.to_proto().SerializeToString())
    [found] = session.run(None, {name: encoded[name].astype(np.int64) for name in names})
    expected = theirs.encode(texts, truncate_dim=128, normalize_embeddings=True)
    worst.within("SentenceTransformer.encode(truncate_dim=128)", found, expected, RELATIVE)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("width", [1, 7, 8, 24, 100])
@pytest.mark.parametrize("unit", [True, False], ids=["unit", "plain"])
@pytest.mark.parametrize("to", ["int8", "uint8", "binary", "ubinary"])
def test_quantize_embeddings(to: str, unit: bool, width: int, opset: int, tmp_path: Path) -> None:
    """Equal to the byte. Ranges come from other embeddings than those that are converted, so some are beyond them."""
    rng = np.random.default_rng(width)
    x, calibration = (rng.standard_normal((2000, width)).astype(np.float32) for _ in range(2))
    x[0] = 0
    if unit:
        x[1:] /= np.linalg.norm(x[1:], axis=1, keepdims=True)
        calibration /= np.linalg.norm(calibration, axis=1, keepdims=True)
    calibration[:, width // 2] = 0.25
    ranges = np.vstack((calibration.min(axis=0), calibration.max(axis=0)))
    np.save(tmp_path / "ranges.npy", ranges)
    given = tmp_path / "ranges.npy" if to in ("int8", "uint8") else None
    [found] = run(graphsurgery.output_precision(nothing(width, opset=opset), to, ranges=given), x)
    by_calibration, by_ranges = (
        quantize_embeddings(x, to, **how) for how in ({"calibration_embeddings": calibration}, {"ranges": ranges})
    )
    np.testing.assert_array_equal(by_calibration, by_ranges)
    assert found.dtype == by_ranges.dtype
    np.testing.assert_array_equal(found, by_ranges)


def test_quantize_embeddings_of_float16(tmp_path: Path) -> None:
    """float16 embeddings are converted in float32, as theirs are where the ranges are float32."""
    x = vectors(16).astype(np.float16)
    ranges = np.stack([np.full(16, -2), np.full(16, 3)]).astype(np.float32)
    np.save(tmp_path / "ranges.npy", ranges)
    model = nothing(16, dtype=TensorProto.FLOAT16)
    for to in ("int8", "uint8", "binary", "ubinary"):
        given = tmp_path / "ranges.npy" if to in ("int8", "uint8") else None
        [found] = run(graphsurgery.output_precision(model, to, ranges=given), x)
        np.testing.assert_array_equal(found, quantize_embeddings(x, to, ranges=ranges))
