"""What an export is made from and compared on, without PyTorch. `tests/peers/test_export.py` has real exports."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx_ir
import pytest

import graphsurgery
from graphsurgery.errors import MissingPackageError, RequestError, UnsupportedModelError, VerificationFailed
from graphsurgery.exporting import export_folder, exporters
from graphsurgery.exporting.export_folder import ALLOWED, make_feed, measure_distance
from graphsurgery.exporting.exporters import name_dims, write_onnx
from graphsurgery.exporting.packages import has_exporter, silence
from graphsurgery.exporting.samples import Sample, make_pictures, make_sounds
from graphsurgery.exporting.subject import Subject, check_tower, list_towers

MASK = np.array([[1, 1, 1], [0, 1, 1]])
ENCODED = {"input_ids": np.array([[5, 6, 7], [0, 5, 7]]), "attention_mask": MASK}
TEXTS = Sample("texts padded on the left", ENCODED, {}, MASK)


def test_inputs_come_from_the_tokenizer_or_are_made_up() -> None:
    feed = make_feed(["position_ids", "input_ids", "token_type_ids", "attention_mask"], ENCODED)
    assert list(feed) == ["position_ids", "input_ids", "token_type_ids", "attention_mask"]
    assert feed["position_ids"].tolist() == [[0, 1, 2], [0, 0, 1]] and feed["token_type_ids"].tolist() == [[0] * 3] * 2
    assert all(array.dtype == np.int64 for array in feed.values())


def test_token_types_of_the_tokenizer_win() -> None:
    types = np.ones((2, 3), dtype=np.int64)
    assert make_feed(["token_type_ids"], ENCODED | {"token_type_ids": types})["token_type_ids"].tolist() == types.tolist()


def test_an_input_that_nothing_is_known_for_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="'bbox', but the model's own are input_ids, attention_mask"):
        make_feed(["input_ids", "bbox"], ENCODED)


def test_only_tokens_are_compared() -> None:
    wanted = np.ones((2, 3, 4), dtype=np.float32)
    found = wanted.copy()
    found[1, 0] = 9  # padding
    assert measure_distance(found, wanted, TEXTS, "torch 2") == 0
    found[1, 1, 2] += 2 * ALLOWED
    with pytest.raises(VerificationFailed, match=r"by torch 2 differs .* on texts padded on the left"):
        measure_distance(found, wanted, TEXTS, "torch 2")
    found[1, 1, 2] = np.nan
    with pytest.raises(VerificationFailed):
        measure_distance(found, wanted, TEXTS, "torch 2")


@pytest.mark.parametrize("sample", [TEXTS, Sample("a picture alone", {}, {})], ids=["texts", "a picture"])
def test_embeddings_are_compared_whole(sample: Sample) -> None:
    wanted = np.ones((2, 5), dtype=np.float32)
    assert measure_distance(wanted, wanted, sample, "torch 2") == 0
    with pytest.raises(VerificationFailed, match=f"on {sample.name}"):
        measure_distance(wanted + 1, wanted, sample, "torch 2")
    with pytest.raises(VerificationFailed, match="up to inf"):
        measure_distance(wanted[:1], wanted, sample, "torch 2")


def exported(ids: list[int | str], mask: list[int | str]) -> onnx_ir.Model:
    """A model as PyTorch's exporter names its dims: each input's batch has a symbol of its own, and sizes are formulas."""
    int64, float32 = onnx_ir.TensorType(onnx_ir.DataType.INT64), onnx_ir.TensorType(onnx_ir.DataType.FLOAT)
    inputs = [onnx_ir.Value(name="input_ids", shape=onnx_ir.Shape(ids), type=int64)]
    inputs.append(onnx_ir.Value(name="attention_mask", shape=onnx_ir.Shape(mask), type=int64))
    node = onnx_ir.node("Mul", inputs)
    node.outputs[0].shape, node.outputs[0].type = onnx_ir.Shape(["s43", "s53", None, 4]), int64
    last = onnx_ir.node("Cast", node.outputs, {"to": 1})
    last.outputs[0].shape, last.outputs[0].type = onnx_ir.Shape(["s72", "((s53//2)) + 1", 4]), float32
    graph = onnx_ir.Graph(inputs, last.outputs, nodes=[node, last], opset_imports={"": 18})
    return onnx_ir.Model(graph, ir_version=10)


DIMS = {"input_ids": ("batch_size", "sequence_length"), "attention_mask": ("batch_size", "sequence_length")}


def test_dims_get_our_names() -> None:
    model = exported(["s72", "s53"], ["s43", "s53"])
    name_dims(model, DIMS, "m")
    described = [[str(dim) for dim in value.shape] for value in (*model.graph.inputs, *model.graph[0].outputs)]
    assert described == [["batch_size", "sequence_length"]] * 2 + [["batch_size", "sequence_length", "None", "4"]]
    assert [str(dim) for dim in model.graph.outputs[0].shape] == ["batch_size", "frames", "4"]


def test_a_dim_that_was_fixed_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="fixed sequence_length of attention_mask at 11 in m"):
        name_dims(exported(["s72", "s53"], ["s43", 11]), DIMS, "m")


@pytest.mark.parametrize(
    ("processor", "config", "masked"),
    [
        (None, {"feat_extract_norm": "layer"}, True),
        (None, {"feat_extract_norm": "group"}, False),
        ({"return_attention_mask": False}, {"feat_extract_norm": "layer"}, False),
        ({"return_attention_mask": True}, {"feat_extract_norm": "group"}, True),
    ],
)
def test_waveforms_have_a_mask_where_the_model_is_meant_to_get_one(
    processor: dict | None, config: dict, masked: bool, tmp_path: Path
) -> None:
    if processor is not None:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    samples = make_sounds(SimpleNamespace(conv_stride=(5, 2), **config), tmp_path)
    assert len({sample.arrays["input_values"].shape for sample in samples}) == len(samples), "a fixed size would show"
    for sample in samples:
        assert ("attention_mask" in sample.arrays) == masked and sample.arrays["input_values"].dtype == np.float32
        assert set(sample.dims.values()) == {("batch_size", "sequence_length")}
    if masked:
        mask = samples[0].arrays["attention_mask"]
        assert mask.dtype == np.int64 and 0 in mask and not samples[0].arrays["input_values"][mask == 0].any()


@pytest.mark.parametrize("size", [8, [8, 8], {"height": 8, "width": 8}])
def test_pictures_have_the_size_of_the_config(size: object) -> None:
    samples = make_pictures(SimpleNamespace(image_size=size, num_channels=1), Path("m"))
    assert [sample.arrays["pixel_values"].shape for sample in samples] == [(3, 1, 8, 8), (2, 1, 8, 8), (1, 1, 8, 8)]
    assert all(sample.dims == {"pixel_values": ("batch_size", 1, 8, 8)} for sample in samples)


def test_pictures_of_no_size_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"how large its pictures are \(image_size is None\)"):
        make_pictures(SimpleNamespace(), Path("m"))


def test_a_model_of_several_towers_asks_for_one() -> None:
    clip = SimpleNamespace(get_text_features=print, get_image_features=print)
    vision_language = SimpleNamespace(get_image_features=print)
    assert list_towers(clip) == ["text", "image"] and list_towers(vision_language) == []
    check_tower(Path("m"), "image", ["text", "image"])
    check_tower(Path("m"), None, [])
    with pytest.raises(RequestError, match="m has several towers") as raised:
        check_tower(Path("m"), None, ["text", "image"])
    assert raised.value.advice == "choose --tower text or --tower image"
    with pytest.raises(RequestError, match="m has no towers; text was asked for"):
        check_tower(Path("m"), "text", [])


@pytest.mark.parametrize(("version", "exports"), [("4.57.6", False), ("5.24.0", True), ("10.0.0.dev0", True)])
def test_the_version_of_transformers_decides(version: str, exports: bool) -> None:
    assert has_exporter(SimpleNamespace(__version__=version)) == exports


def test_packages_are_kept_from_printing(capsys: pytest.CaptureFixture[str]) -> None:
    with silence():
        print("out")
        print("err", file=sys.stderr)
    assert capsys.readouterr() == ("", "")


def write_with(version: str, monkeypatch: pytest.MonkeyPatch, path: Path) -> str:
    """Export a text encoder beside a version of transformers."""
    fakes = SimpleNamespace(), SimpleNamespace(__version__=version)
    monkeypatch.setattr(exporters, "import_torch", lambda: fakes)
    model = SimpleNamespace(config=SimpleNamespace(model_type="bert"))
    return write_onnx(Subject(path, "feature-extraction", model, print, ("last_hidden_state",), (TEXTS,)), path / "model.onnx")


@pytest.mark.parametrize(
    ("version", "missing", "advice"),
    [
        ("4.57.6", "export needs optimum", "pip install optimum-onnx; or take"),
        ("5.24.0", "export needs transformers", "pip install -U transformers onnxscript"),
    ],
)
def test_the_exporter_that_is_missing_is_named(
    version: str, missing: str, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("optimum.exporters.onnx", "transformers.exporters"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingPackageError, match=missing) as raised:
        write_with(version, monkeypatch, tmp_path)
    assert raised.value.advice.startswith(advice)


def test_what_the_exporter_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise ImportError("please install onnxscript==0.7.0")

    monkeypatch.setitem(sys.modules, "transformers.exporters", SimpleNamespace(OnnxExporter=refuse))
    with pytest.raises(MissingPackageError, match=r"cannot export: please install onnxscript==0\.7\.0"):
        write_with("5.24.0", monkeypatch, tmp_path)


def test_the_exporter_is_asked_for_before_the_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_given: object, **_options: object) -> None:
        raise AssertionError("the model was loaded")

    (tmp_path / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    monkeypatch.setattr(exporters, "import_torch", lambda: (SimpleNamespace(), SimpleNamespace(__version__="5.24.0")))
    monkeypatch.setattr(export_folder, "load_subject", load)
    monkeypatch.setitem(sys.modules, "transformers.exporters", None)
    with pytest.raises(MissingPackageError, match="export needs transformers"):
        graphsurgery.export(tmp_path, tmp_path / "out" / "model.onnx")


def test_an_exporter_that_fails_or_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_given: object, **_options: object) -> None:
        raise KeyError("bert")

    monkeypatch.setattr(exporters, "version", lambda _: "0.1.0")
    monkeypatch.setitem(sys.modules, "optimum.exporters.onnx", SimpleNamespace(main_export=fail))
    with pytest.raises(UnsupportedModelError, match=r"Optimum 0\.1\.0 cannot export .*: 'bert'"):
        write_with("4.57.6", monkeypatch, tmp_path)
    monkeypatch.setitem(sys.modules, "optimum.exporters.onnx", SimpleNamespace(main_export=lambda *_given, **_options: None))
    with pytest.raises(UnsupportedModelError, match=r"Optimum 0\.1\.0 wrote no file"):
        write_with("4.57.6", monkeypatch, tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="PyTorch is installed")
def test_without_pytorch_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    with pytest.raises(MissingPackageError, match="export needs torch") as raised:
        graphsurgery.export(tmp_path, tmp_path / "out" / "model.onnx")
    assert raised.value.advice.startswith("pip install torch transformers onnxscript")
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"], "nothing is left behind"
