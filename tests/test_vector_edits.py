"""add-dense, add-layer-norm, add-activation, truncate and output-precision as they are asked for: by library and command line,
and what is refused."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import module_folders
import numpy as np
import onnxruntime
import pytest
from encoders import FLOAT, tiny_encoder
from module_folders import saved
from printed_programs import run_program
from test_cli import as_json, call

import graphsurgery
from graphsurgery import AddActivation, AddDense, AddLayerNorm, OutputPrecision, Truncate
from graphsurgery.cli.main import OK, VERDICT, WRONG
from graphsurgery.edits import activation_graph, add_layer_norm, output_precision
from graphsurgery.edits.edit import Edit
from graphsurgery.errors import (
    AlreadyAppliedError,
    FolderError,
    NameNotFoundError,
    RequestError,
    UnsupportedModelError,
    WeightsDifferError,
    WeightsError,
)

HIDDEN = 32
DENSE, NORM, RANGES = module_folders.dense(6, HIDDEN), module_folders.layer_norm(HIDDEN), module_folders.ranges(HIDDEN)
Model = graphsurgery.Model


@pytest.fixture
def pooled(fixture_copy, capsys) -> Path:
    """The fixture `bert`, pooled, in a file of its own folder."""
    model = fixture_copy("bert")
    assert call("add-pooling", model, "--mode", "mean", "-q", capsys=capsys)[0] == OK
    return model.parent / "model.pooled.onnx"


def tiny() -> Model:
    return graphsurgery.add_pooling(tiny_encoder(), "mean")


REQUESTS: dict[str, tuple[list[str], Callable[[Path], Model], str, str]] = {
    "add-dense": (
        ["--weights", DENSE, "--activation", "gelu"], lambda path: graphsurgery.add_dense(path, DENSE, activation="gelu"),
        "dense", "float32[batch_size, 6]",
    ),
    "add-layer-norm": (
        ["--weights", NORM], lambda path: graphsurgery.add_layer_norm(path, NORM), "layernormed", "float32[batch_size, 32]",
    ),
    "add-activation": (
        ["--activation", "tanh"], lambda path: graphsurgery.add_activation(path, "tanh"),
        "activated", "float32[batch_size, 32]",
    ),
    "truncate": (["--dim", "12"], lambda path: graphsurgery.truncate(path, 12), "truncated", "float32[batch_size, 12]"),
    "output-precision": (
        ["--to", "int8", "--ranges", RANGES], lambda path: graphsurgery.output_precision(path, "int8", ranges=RANGES),
        "bytes", "int8[batch_size, 32]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("verb", REQUESTS)
def test_the_command_line_and_the_library_do_the_same(verb: str, pooled: Path, tmp_path: Path, capsys) -> None:
    arguments, by_library, step, made = REQUESTS[verb]
    code, done = as_json(verb, pooled, *arguments, capsys=capsys)
    assert (code, done["report"]["verdict"]) == (OK, "PASSED") and done["report"]["cases"] > 100
    output = Path(done["output"])
    assert output.name == f"model.{step}.onnx" and done["notes"]
    model = by_library(pooled)
    graphsurgery.save(model, tmp_path / "saved.onnx")
    assert (tmp_path / "saved.onnx").read_bytes() == output.read_bytes()
    assert str(model.interface.outputs[0]) == f"sentence_embedding: {made}"
    scope = run_program(done["snippet"])
    assert scope["sentence_embedding"].dtype.name == made.partition("[")[0]
    assert as_json("verify", output, "--against", pooled, capsys=capsys)[0] == OK
    code, told = as_json("inspect", output, capsys=capsys)
    assert code == OK and verb in json.dumps(told["head"])
    code, failure = as_json(verb, output, *arguments, "-o", tmp_path / "twice.onnx", capsys=capsys)
    assert code == WRONG and failure["error"]["message"] and failure["error"]["advice"]
    assert not (tmp_path / "twice.onnx").exists()
    assert call("strip-head", output, "-o", tmp_path / "back.onnx", "-q", capsys=capsys) == (OK, "", "")
    assert (tmp_path / "back.onnx").read_bytes() == (pooled.parent / "model.onnx").read_bytes()


@pytest.mark.parametrize("verb", REQUESTS)
def test_a_dry_run_and_a_quiet_one(verb: str, pooled: Path, capsys) -> None:
    before = sorted(pooled.parent.rglob("*"))
    assert as_json(verb, pooled, *REQUESTS[verb][0], "--dry-run", capsys=capsys)[1]["report"]["verdict"] == "PASSED"
    assert sorted(pooled.parent.rglob("*")) == before
    code, printed, said = call(verb, pooled, *REQUESTS[verb][0], "--quiet", capsys=capsys)
    assert (code, printed) == (OK, "")
    assert all(line.startswith("warning: ") for line in said.splitlines()), "warnings alone are said"


@pytest.mark.parametrize(
    ("verb", "spoil"),
    [
        ("add-dense", lambda patch: patch.setitem(activation_graph.ACTIVATIONS, "gelu", activation_graph.ACTIVATIONS["silu"])),
        ("add-layer-norm", lambda patch: patch.setattr(add_layer_norm, "EPSILON", 1e-6)),
        (
            "add-activation",
            lambda patch: patch.setitem(activation_graph.ACTIVATIONS, "tanh", activation_graph.ACTIVATIONS["elu"]),
        ),
        ("truncate", lambda patch: patch.setattr(graphsurgery.edits.truncate, "l2_normalize", lambda ops, x: x)),
        ("output-precision", lambda patch: patch.setattr(output_precision, "BUCKETS", 256)),
    ],
    ids=list(REQUESTS),
)
def test_a_wrong_builder_leaves_no_file(verb: str, spoil, pooled: Path, capsys, monkeypatch) -> None:
    spoil(monkeypatch)
    before = sorted(pooled.parent.rglob("*"))
    code, failure = as_json(verb, pooled, *REQUESTS[verb][0], capsys=capsys)
    assert (code, failure["error"]["type"]) == (VERDICT, "VerificationFailed")
    assert sorted(pooled.parent.rglob("*")) == before


def recorded(model: Model) -> dict[str, Any]:
    return json.loads(model.proto.metadata_props[-1].value)["parameters"]


def test_what_is_recorded(tmp_path: Path) -> None:
    """Settled parameters, the weights by digest and by a path from the model's folder."""
    model = tmp_path / "model" / "model.onnx"
    model.parent.mkdir()
    graphsurgery.save(graphsurgery.add_pooling(tiny_encoder(), "mean"), model)
    weights = module_folders.dense(3, 8)
    found = recorded(graphsurgery.add_dense(model, weights, activation="torch.nn.Tanh"))
    assert (found["activation"], found["target"], found["residual"]) == ("tanh", "sentence_embedding", False)
    assert os.path.normpath(model.parent / found["weights"]) == weights
    assert [text.partition("=")[0] for text in found["digests"]] == ["linear.bias", "linear.weight"]
    assert recorded(graphsurgery.truncate(model, (5, 3)))["dim"] == "5,3"


def test_weights_other_than_the_recorded_ones_are_refused() -> None:
    """An edit that says which weights it means takes no others; nor does one that was resolved."""
    edit = AddDense(module_folders.dense(3, 8), "tanh").resolve(tiny()).edit
    assert edit.apply(tiny())
    for other in (
        replace(edit, weights=module_folders.dense(3, 8, seed=1)),
        replace(edit, weights=module_folders.dense(3, 8, bias=False)),
    ):  # fmt: skip
        with pytest.raises(WeightsDifferError):
            other.apply(tiny())
    norm = AddLayerNorm(module_folders.layer_norm(8)).resolve(tiny()).edit
    with pytest.raises(WeightsDifferError):
        replace(norm, weights=module_folders.layer_norm(8, seed=1)).apply(tiny())
    precision = OutputPrecision("int8", module_folders.ranges(8)).resolve(tiny()).edit
    with pytest.raises(WeightsDifferError):
        replace(precision, ranges=module_folders.ranges(8, seed=1)).apply(tiny())


def test_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As typed they start at the current folder, as recorded at the model's."""
    folder = tmp_path / "models"
    folder.mkdir()
    graphsurgery.save(graphsurgery.add_pooling(tiny_encoder(), "mean"), folder / "model.onnx")
    Path(module_folders.dense(3, 8)).rename(folder / "2_Dense")
    monkeypatch.chdir(tmp_path)
    assert recorded(graphsurgery.add_dense("models/model.onnx", "models/2_Dense"))["weights"] == "2_Dense"
    assert recorded(AddDense("2_Dense").apply(graphsurgery.load("models/model.onnx")))["weights"] == "2_Dense"
    with pytest.raises(FolderError):
        graphsurgery.add_dense("models/model.onnx", "2_Dense")


# What is wrong with weights


def spoilt(**tensors: np.ndarray) -> str:
    """A Dense module 8 -> 3 with other tensors."""
    return saved(module_folders.drawn({"linear.weight": (3, 8), "linear.bias": (3,)}) | tensors)


def full(shape: tuple[int, ...], value: float = 1.0, dtype: type = np.float32) -> np.ndarray:
    return np.full(shape, value, dtype=dtype)


DENSE_WEIGHTS: dict[str, tuple[dict[str, np.ndarray], str]] = {
    "of another width": ({"linear.weight": full((3, 7))}, "takes 7 dims"),
    "of rank 1": ({"linear.weight": full((8,))}, "is \\[8\\]"),
    "of rank 3": ({"linear.weight": full((1, 3, 8))}, "is \\[1, 3, 8\\]"),
    "without rows": ({"linear.weight": full((0, 8))}, "is \\[0, 8\\]"),
    "NaN": ({"linear.weight": full((3, 8), np.nan)}, "not finite"),
    "infinite": ({"linear.weight": full((3, 8), np.inf)}, "not finite"),
    "beyond float32": ({"linear.weight": full((3, 8), 1e300, np.float64)}, "float32"),
    "integers": ({"linear.weight": full((3, 8), 1, np.int32)}, "not floats"),
    "a bias of another layer": ({"linear.bias": full((4,))}, "is \\[4\\]"),
    "a bias of NaN": ({"linear.bias": full((3,), np.nan)}, "not finite"),
    "a bias of two dims": ({"linear.bias": full((3, 1))}, "is \\[3, 1\\]"),
}


@pytest.mark.parametrize("name", DENSE_WEIGHTS)
def test_wrong_weights(name: str) -> None:
    tensors, words = DENSE_WEIGHTS[name]
    with pytest.raises(WeightsError, match=words):
        graphsurgery.add_dense(tiny(), spoilt(**tensors))


@pytest.mark.parametrize("element", [np.float16, np.float64])
def test_weights_of_other_types(element: type) -> None:
    """Computed in float32: as those weights rounded to it."""
    tensors = {name: one.astype(element) for name, one in module_folders.drawn({"linear.weight": (3, 8)}).items()}
    one, other = (graphsurgery.add_dense(tiny(), saved(some)) for some in (
        tensors, {name: array.astype(np.float32) for name, array in tensors.items()},
    ))  # fmt: skip
    assert recorded(one)["digests"] == recorded(other)["digests"]


class Code:
    """What runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def test_a_pickle_with_code_is_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"linear.weight": Code(marker)}, protocol=2))
    np.save(tmp_path / "ranges.npy", np.array([Code(marker), Code(marker)], dtype=object), allow_pickle=True)
    with pytest.raises(WeightsError):
        graphsurgery.add_dense(tiny(), tmp_path)
    with pytest.raises(WeightsError):
        graphsurgery.add_layer_norm(tiny(), tmp_path)
    with pytest.raises(WeightsError, match="Python objects"):
        graphsurgery.output_precision(tiny(), "int8", ranges=tmp_path / "ranges.npy")
    assert not marker.exists()


def test_a_residual_needs_what_it_is_made_of() -> None:
    with pytest.raises(WeightsError, match=r"residual of 8 -> 3 needs residual\.weight"):
        graphsurgery.add_dense(tiny(), spoilt(), residual=True)
    with pytest.raises(WeightsError, match=r"'residual.weight' is \[3, 7\]"):
        graphsurgery.add_dense(tiny(), spoilt(**{"residual.weight": full((3, 7))}), residual=True)
    with pytest.raises(WeightsError, match="glu cannot halve 3 values"):
        graphsurgery.add_dense(tiny(), spoilt(), activation="glu")
    with pytest.raises(WeightsError, match=r"has no 'activation_function\.weight'"):
        graphsurgery.add_dense(tiny(), spoilt(), activation="prelu")


# What a Dense module's config says


def warnings(weights: str, **parameters: Any) -> str:
    return "\n".join(graphsurgery.add_dense(tiny(), weights, **parameters).warnings)


def with_config(**config: Any) -> str:
    return saved(module_folders.drawn({"linear.weight": (8, 8)}), config)


def test_what_contradicts_the_config_is_warned_about() -> None:
    tanh = with_config(activation_function="torch.nn.modules.activation.Tanh")
    assert not warnings(tanh) and not warnings(tanh, activation="tanh")
    assert "the module's config says torch.nn.modules.activation.Tanh, but relu was requested" in warnings(
        tanh, activation="relu"
    )
    assert not warnings(saved(module_folders.drawn({"linear.weight": (8, 8)})), activation="relu")


def test_a_residual_weight_that_nobody_asks_for_is_warned_about() -> None:
    weights = module_folders.dense(3, 8, residual=True)
    assert "residual.weight, which is used only with --residual" in warnings(weights)
    assert not warnings(weights, residual=True)
    assert "plus its input" in str(graphsurgery.add_dense(tiny(), with_config(use_residual=True)).notes)


@pytest.mark.parametrize(
    ("config", "activation"),
    [
        ({}, "identity"),
        ({"hidden_size": 8, "model_type": "bert"}, "identity"),
        ({"in_features": 8}, "tanh"),
        ({"in_features": 8, "activation_function": None}, "tanh"),
        ({"in_features": 8, "use_residual": False}, "identity"),
        ({"activation_function": "torch.nn.modules.activation.GELU"}, "gelu"),
    ],
    ids=json.dumps,
)
def test_the_activation_of_a_config(config: dict[str, Any], activation: str) -> None:
    assert recorded(graphsurgery.add_dense(tiny(), with_config(**config)))["activation"] == activation


@pytest.mark.parametrize("config", [{"activation_function": 5}, {"in_features": 8, "use_residual": "yes"}], ids=json.dumps)
def test_configs_that_say_nothing_sensible(config: dict[str, Any]) -> None:
    with pytest.raises(FolderError):
        graphsurgery.add_dense(tiny(), with_config(**config))


def test_an_activation_of_the_folders_own_code_must_be_named() -> None:
    own = with_config(activation_function="modeling_own.SquaredReLU")
    with pytest.raises(RequestError, match=r"the activation 'modeling_own\.SquaredReLU' is not known"):
        graphsurgery.add_dense(tiny(), own)
    assert "vectors will differ" in warnings(own, activation="relu")


def test_a_config_that_leads_out_of_its_folder(tmp_path: Path) -> None:
    weights = Path(module_folders.dense(8, 8))
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    (weights / "config.json").symlink_to(tmp_path / "config.json")
    with pytest.raises(FolderError, match="out of the folder"):
        graphsurgery.add_dense(tiny(), str(weights))


# Ranges


def npy(array: Any, **how: Any) -> Callable[[Path], None]:
    return lambda path: np.save(path, array, **how)


def text(content: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(content, encoding="utf-8") and None


def claiming(shape: str) -> Callable[[Path], None]:
    """A .npy file of nothing but a header."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    return lambda path: path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()) and None


GOOD = np.stack([np.full(8, -1.0), np.full(8, 1.0)])
WRONG_RANGES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "min above max": ("r.npy", npy(GOOD[::-1])),
    "NaN": ("r.npy", npy(GOOD * np.nan)),
    "infinite": ("r.npy", npy(GOOD * np.inf)),
    "beyond float32": ("r.npy", npy(GOOD * 1e300)),
    "of another width": ("r.npy", npy(GOOD[:, :7])),
    "transposed": ("r.npy", npy(GOOD.T)),
    "three rows": ("r.npy", npy(np.concatenate([GOOD, GOOD[1:]]))),
    "text in an array": ("r.npy", npy(GOOD.astype(str))),
    "complex": ("r.npy", npy(GOOD.astype(np.complex64))),
    "empty": ("r.npy", text("")),
    "text": ("r.npy", text("-1 1")),
    "an archive": ("r.npz", lambda path: np.savez(path, GOOD)),
    "cut short": ("r.npy", claiming("(2, 8)")),
    "terabytes": ("r.npy", claiming("(2, 1099511627776)")),
    "a header that is none": ("r.npy", claiming("__import__('os')")),
    "JSON cut short": ("r.json", text("[[1")),
    "a JSON object": ("r.json", text('{"min": 1}')),
    "JSON of text": ("r.json", text(json.dumps(GOOD.astype(str).tolist()))),
    "JSON of bools": ("r.json", text(json.dumps((GOOD > 0).tolist()))),
    "JSON of several lengths": ("r.json", text("[[1, 2], [3]]")),
    "JSON of huge integers": ("r.json", text(json.dumps([[-(10**400)] * 8, [10**400] * 8]))),
    "JSON NaN": ("r.json", text(json.dumps((GOOD * np.nan).tolist()))),
}


@pytest.mark.parametrize("name", WRONG_RANGES)
def test_wrong_ranges(name: str, tmp_path: Path) -> None:
    file, write = WRONG_RANGES[name]
    write(tmp_path / file)
    with pytest.raises(FolderError) as refused:
        graphsurgery.output_precision(tiny(), "int8", ranges=tmp_path / file)
    assert str(tmp_path / file) in refused.value.message and refused.value.advice


def test_ranges_that_are_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.npy")
    for path in (tmp_path, tmp_path / "none.npy", tmp_path / "fifo.npy"):
        with pytest.raises(FolderError):
            graphsurgery.output_precision(tiny(), "uint8", ranges=path)


@pytest.mark.parametrize(
    "array", [GOOD, GOOD.astype(np.float16), GOOD.astype(np.int64), GOOD.astype(">f4"), np.asfortranarray(GOOD)]
)
def test_ranges_of_every_type(array: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "r.npy", array)
    (tmp_path / "r.json").write_text(json.dumps(array.tolist()), encoding="utf-8")
    for version in ((1, 0), (2, 0)):
        with (tmp_path / "v.npy").open("wb") as file:
            np.lib.format.write_array(file, array, version=version)
        found = [graphsurgery.output_precision(tiny(), "int8", ranges=tmp_path / name) for name in ("r.npy", "r.json", "v.npy")]
        assert len({tuple(recorded(one)["digests"]) for one in found}) == 1
    assert graphsurgery.verify(found[0], against=tiny())


# Requests


@pytest.mark.parametrize(
    "dim",
    [
        "0",
        "-1",
        "1.5",
        "",
        "a",
        "2,2",
        "02,2",
        "9999999999999",
        "9" * 5000,
        "\u00b2",
        "\u0662",
        "2,",
        ",2",
        "8",
        "9",
        "2;1",
        "0x2",
    ],
)
def test_wrong_dims(dim: str) -> None:
    with pytest.raises(RequestError):
        Truncate(dim).apply(tiny())


@pytest.mark.parametrize("dim", [0, -1, 8, True, 2.5, [], [2, 2], [3, 0]])
def test_wrong_dims_in_the_library(dim: Any) -> None:
    with pytest.raises(RequestError):
        graphsurgery.truncate(tiny(), dim)


def test_dims_as_they_may_be_written() -> None:
    for dim in (5, "5", " 5 ", [5], (5,)):
        assert graphsurgery.truncate(tiny(), dim).interface.outputs[0].dims == ("batch", 5)
    names = [value.name for value in graphsurgery.truncate(tiny(), "5, 3").interface.outputs]
    assert names == ["sentence_embedding", "sentence_embedding_5", "sentence_embedding_3"]


def classifier_of_integers() -> Any:
    proto = tiny_encoder()
    proto.graph.output[0].type.tensor_type.elem_type = 7
    return proto


REFUSALS: dict[str, tuple[Edit, Callable[[], Any], type[Exception], str]] = {
    "no such target": (Truncate("2", "nope"), tiny, NameNotFoundError, "nope"),
    "a dense layer of no such target": (AddDense(module_folders.dense(3, 8), target="nope"), tiny, NameNotFoundError, "nope"),
    "no output of floats": (AddActivation("tanh", "last_hidden_state"), classifier_of_integers, RequestError, "int64"),
    "nothing of rank 2": (AddActivation("tanh"), tiny_encoder, RequestError, "no output is"),
    "bytes of tokens": (OutputPrecision("binary", target="last_hidden_state"), tiny_encoder, RequestError, "float vectors"),
    "an old opset": (Truncate("2"), lambda: _old(), UnsupportedModelError, "opset 10"),
    "an old opset for dense": (AddDense(module_folders.dense(3, 8)), lambda: _old(), UnsupportedModelError, "opset 10"),
    "an old opset for bytes": (OutputPrecision("binary"), lambda: _old(), UnsupportedModelError, "opset 10"),
    "our own names": (AddActivation("tanh", output_name="graphsurgery/x"), tiny, RequestError, "cannot be called"),
    "no name": (AddActivation("tanh", output_name=""), tiny, RequestError, "cannot be called"),
    "the name of an input": (AddActivation("tanh", output_name="attention_mask"), tiny, RequestError, "taken"),
    "the name of a weight": (AddActivation("tanh", output_name="weight"), tiny, RequestError, "taken"),
    "the name of a value": (AddActivation("tanh", output_name="token"), tiny, RequestError, "taken"),
    "kept and replaced": (AddActivation("tanh", keep_target=True), tiny, RequestError, "cannot be kept"),
    "int8 without ranges": (OutputPrecision("int8"), tiny, RequestError, "needs each dim"),
    "uint8 without ranges": (OutputPrecision("uint8"), tiny, RequestError, "needs each dim"),
    "float32": (OutputPrecision("float32"), tiny, RequestError, "precision 'float32' is not known"),
    "no activation": (AddActivation(""), tiny, RequestError, "needs an activation"),
    "an unknown activation": (AddActivation("swish"), tiny, RequestError, "activation 'swish' is not known"),
    "an activation with weights": (AddActivation("prelu"), tiny, RequestError, "activation 'prelu' is not known"),
    "no weights": (AddDense(), tiny, RequestError, "needs the module's weights"),
    "no weights of a norm": (AddLayerNorm(), tiny, RequestError, "needs the module's weights"),
}  # fmt: skip


def _old() -> Model:
    proto = tiny().to_proto()
    proto.opset_import[0].version = 10
    return graphsurgery.load(proto)


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name: str) -> None:
    """With words of what to do."""
    edit, source, error, words = REFUSALS[name]
    with pytest.raises(error, match=words) as refused:
        edit.apply(graphsurgery.load(source()))
    assert type(refused.value) is error and refused.value.advice


def test_what_truncate_normalised_is_not_normalised_again() -> None:
    for model, target in (
        (graphsurgery.truncate(tiny(), 5), None), (graphsurgery.truncate(tiny(), (5, 3)), "sentence_embedding_3"),
    ):  # fmt: skip
        with pytest.raises(AlreadyAppliedError, match="the file records truncate"):
            graphsurgery.add_normalize(model, target)
    assert graphsurgery.add_normalize(graphsurgery.truncate(tiny(), 5, keep_length=True))
    assert graphsurgery.add_normalize(graphsurgery.truncate(tiny(), (5, 3)))
    unit = graphsurgery.add_normalize(tiny())
    for model in (graphsurgery.truncate(unit, (5, 3)), graphsurgery.truncate(unit, (5, 3), keep_length=True)):
        with pytest.raises(AlreadyAppliedError, match="the file records add-normalize"):
            graphsurgery.add_normalize(model)
    bent = graphsurgery.add_activation(unit, "tanh", output_name="curved", keep_target=True)
    assert graphsurgery.add_normalize(bent, "curved")
    with pytest.raises(AlreadyAppliedError):
        graphsurgery.add_normalize(bent, "sentence_embedding")


def test_bytes_are_the_last_word() -> None:
    """What is no float any more is no target, and the others still are."""
    model = graphsurgery.output_precision(graphsurgery.truncate(tiny(), (5, 3)), "binary", target="sentence_embedding_5")
    for edit in (Truncate("2"), AddActivation("tanh"), OutputPrecision("ubinary")):
        with pytest.raises(RequestError, match="int8"):
            replace(edit, target="sentence_embedding_5").apply(model)
    again = graphsurgery.output_precision(model, "ubinary", target="sentence_embedding_3")
    assert [value.dtype != FLOAT for value in again.interface.outputs] == [False, True, True]
    assert graphsurgery.verify(again, against=tiny())


def test_a_batch_of_nothing() -> None:
    """No texts, no vectors."""
    model = graphsurgery.output_precision(
        graphsurgery.add_dense(tiny(), module_folders.dense(9, 8), activation="gelu"), "binary"
    )
    nothing = np.zeros((0, 4), dtype=np.int64)
    session = onnxruntime.InferenceSession(model.to_proto().SerializeToString())
    [found] = session.run(None, {"input_ids": nothing, "attention_mask": nothing})
    assert found.shape == (0, 2) and found.dtype == np.int8


@pytest.mark.parametrize(("name", "width"), [("bert", 32), ("bert-external", 40), ("bert-fp16", 48)])
def test_large_weights(name: str, width: int, fixture_copy, tmp_path: Path, capsys) -> None:
    """Of layers that are left where they lie: proven from the files, moved to another folder, and taken off again."""
    model, other = fixture_copy(name), tmp_path / "other"
    other.mkdir()
    assert call("add-pooling", model, "--mode", "mean", "-q", capsys=capsys)[0] == OK
    path = model.parent / "model.pooled.onnx"
    for index, (rows, columns) in enumerate(((96, width), (64, 96))):
        output = (model.parent, other)[index] / f"dense{index}.onnx"
        code, done = as_json("add-dense", path, "--weights", module_folders.dense(rows, columns), "-o", output, capsys=capsys)
        assert (code, done["report"]["verdict"]) == (OK, "PASSED"), done
        path = output
    assert as_json("verify", path, "--against", model, capsys=capsys)[0] == OK
    assert call("strip-head", path, "-o", other / "back.onnx", "-q", capsys=capsys) == (OK, "", "")
    assert as_json("verify", other / "back.onnx", "--against", model, "--atol", "0", capsys=capsys)[0] == OK
    if name != "bert-external":
        assert (other / "back.onnx").read_bytes() == model.read_bytes()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("opset", [11, 13, 18])
def test_layer_norm_of_values_that_are_nearly_alike(dims: int, opset: int) -> None:
    """x - mean is exact to its last digits, however large x is: of two dims near -8 the mean's own rounding would show."""
    source = graphsurgery.load(tiny_encoder(opset=opset, hidden=dims, names={"last_hidden_state": "token_embeddings"}))
    model = AddLayerNorm(module_folders.layer_norm(dims, 1), "token_embeddings").apply(source)
    assert graphsurgery.verify(model, against=source)
