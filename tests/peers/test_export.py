"""export, and bake --export: from a folder that has no ONNX file yet, through the environment's own exporter."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from installed import HAS_OPTIMUM
from safetensors.torch import load_file, save_file
from saved_folders import ARCHITECTURES, encoders, feed_of, make_tokenizer, run_onnx, save, sizes, write_folder, write_tokenizer
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling
from test_bake import command
from transformers import (
    CLIPConfig,
    CLIPModel,
    HubertConfig,
    HubertModel,
    SiglipConfig,
    SiglipModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
)

pytestmark = pytest.mark.usefixtures("short_texts")

RELATIVE, UNIT = 1e-5, 1e-6
SMALL = sizes(32, 2)
TOWERS = {"text_config": SMALL, "vision_config": sizes(32, 2, image_size=32, patch_size=8)}
SPEECH = sizes(
    32, 2, vocab_size=30, conv_dim=(16, 16, 16), conv_stride=(5, 2, 2), conv_kernel=(10, 3, 3), num_feat_extract_layers=3,
    num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
)  # fmt: skip


def dims(path: Path) -> dict[str, list[int | str]]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return {value.name: value.shape for value in (*session.get_inputs(), *session.get_outputs())}


def saved_model(model: torch.nn.Module, folder: Path) -> torch.nn.Module:
    """The model with random weights of its own, saved to ``folder``."""
    encoders.randomise(model, 9)
    model.eval().save_pretrained(folder)
    return model


def exported(folder: Path, capsys, *options: str) -> Path:
    code, told = command("export", folder, *options, "--force", capsys=capsys)
    assert code == 0 and told["max_abs_diff_from_pytorch"] < 1e-4, told
    assert told["program"].startswith(("Optimum", "torch") if HAS_OPTIMUM else "transformers"), told
    assert sorted(path.name for path in (folder / "onnx").iterdir()) == ["model.onnx"]
    return folder / "onnx" / "model.onnx"


@pytest.mark.parametrize("name", ["bert", "t5", "qwen3"])
def test_export_and_bake(name: str, tmp_path: Path, capsys, worst) -> None:
    torch.manual_seed(5)
    first = write_folder(name, tmp_path).module("left" if name == "qwen3" else "right")
    width = first.get_embedding_dimension()
    model = SentenceTransformer(modules=[first, Pooling(width, "mean"), Dense(width, 24), Normalize()], device="cpu")
    folder = save(model, tmp_path / "model", None)
    before = sorted(path.name for path in folder.rglob("*"))
    code, told = command("bake", folder, "--export", capsys=capsys)
    assert code == 0 and told["report"]["verdict"] == "PASSED", told
    assert sorted(path.name for path in folder.rglob("*")) == before, "the folder itself stays as it is"
    assert [step["parameters"].get("weights") for step in told["steps"]][1] == "../2_Dense"
    feed = feed_of(model)
    with torch.no_grad():
        wanted = model.eval()(dict(feed))["sentence_embedding"].numpy()
    found = run_onnx(tmp_path / "model-baked" / "onnx" / "model.onnx", feed)["sentence_embedding"]
    worst.within("bake --export", found, wanted, UNIT * 3, name)
    path = exported(folder, capsys)
    ours = ["batch_size", "sequence_length"]
    assert dims(path) == {one: ours for one in dims(path) if one != "last_hidden_state"} | {"last_hidden_state": [*ours, width]}
    proto = onnx.load(path)
    assert {value.type.tensor_type.elem_type for value in proto.graph.input} == {onnx.TensorProto.INT64}
    assert not any(node.metadata_props for node in proto.graph.node), "they hold paths of the machine that exported"
    code, told = command("export", folder, capsys=capsys)
    assert code == 2 and told["error"]["type"] == "OutputExistsError"
    code, told = command("bake", folder, "-o", tmp_path / "again", capsys=capsys)
    assert code == 0, told
    again = run_onnx(tmp_path / "again" / "onnx" / "model.onnx", feed)["sentence_embedding"]
    assert np.array_equal(found, again)


def test_every_hidden_state(tmp_path: Path, capsys, worst) -> None:
    encoder = write_folder("bert", tmp_path)
    model = encoder.module("left")
    feed = feed_of(SentenceTransformer(modules=[model], device="cpu"))
    with torch.no_grad():
        wanted = model.model(**feed, output_hidden_states=True).hidden_states
    found = run_onnx(exported(encoder.folder, capsys, "--hidden-states"), feed)
    assert list(found) == ["last_hidden_state", *(f"hidden_states.{one}" for one in range(len(wanted)))] and len(wanted) == 4
    tokens = feed["attention_mask"].numpy() == 1
    for place, state in enumerate(wanted):
        allowed = 4 * RELATIVE * np.abs(state.numpy()).max()
        worst.within("hidden states", found[f"hidden_states.{place}"][tokens], state.numpy()[tokens], allowed, str(place))


@pytest.mark.parametrize("kind", [(CLIPModel, CLIPConfig), (SiglipModel, SiglipConfig)], ids=["clip", "siglip"])
def test_towers(kind: tuple, tmp_path: Path, capsys, worst) -> None:
    """Each tower against its part of the whole model's output, which is normalised."""
    architecture = ARCHITECTURES["bert"]
    tokenizer = make_tokenizer(architecture.tokens)
    text = TOWERS["text_config"] | {"vocab_size": tokenizer.get_vocab_size(), "eos_token_id": 3, "bos_token_id": 2}
    model = saved_model(kind[0](kind[1](**TOWERS | {"text_config": text}, projection_dim=24)), tmp_path)
    write_tokenizer(architecture, tokenizer, tmp_path)
    code, told = command("export", tmp_path, capsys=capsys)
    assert (code, told["error"]["advice"]) == (2, "choose --tower text or --tower image"), told
    ids = torch.tensor([[2, 9, 8, 7, 3], [2, 30, 3, 0, 0]])
    feed = {"input_ids": ids, "attention_mask": (ids > 0).long()}
    pictures = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        wanted = model(**feed, pixel_values=pictures)
    for tower, given in (("text", feed), ("image", {"pixel_values": pictures})):
        path = exported(tmp_path, capsys, "--tower", tower)
        name, width = f"{tower}_embeds", wanted[f"{tower}_embeds"].shape[1]
        assert dims(path)[name] == ["batch_size", width]
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        found = session.run([name], {one: tensor.numpy() for one, tensor in given.items()})[0]
        unit = found / np.linalg.norm(found, axis=1, keepdims=True)
        worst.within("towers, normalised", unit, wanted[name].numpy(), 4 * UNIT, f"{kind[0].__name__} {tower}")
    if kind[0] is not CLIPModel:
        return
    types = ("base.modules.transformer.Transformer", "sentence_transformer.modules.normalize.Normalize")
    modules = [{"idx": 0, "path": "", "name": "0"}, {"idx": 1, "path": "1_Normalize", "name": "1"}]
    listed = [one | {"type": f"sentence_transformers.{kind}"} for one, kind in zip(modules, types, strict=True)]
    (tmp_path / "modules.json").write_text(json.dumps(listed), encoding="utf-8")
    methods = {"text": {"method": "get_text_features", "method_output_name": "pooler_output"}}
    settings = {"modality_config": methods, "module_output_name": "sentence_embedding"}
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps(settings), encoding="utf-8")
    code, told = command("bake", tmp_path, "--export", "-o", tmp_path.with_name("baked"), capsys=capsys)
    assert code == 0 and told["report"]["verdict"] == "PASSED", told
    found = run_onnx(tmp_path.with_name("baked") / "onnx" / "model.onnx", feed)["sentence_embedding"]
    worst.within("bake --export of a tower", found, wanted["text_embeds"].numpy(), 4 * UNIT)


@pytest.mark.parametrize("kind", [(HubertModel, HubertConfig, "layer"), (Wav2Vec2Model, Wav2Vec2Config, "group")], ids=str)
def test_speech(kind: tuple, tmp_path: Path, capsys, worst) -> None:
    """Waveforms of several lengths: with their mask and every hidden state, or without a mask where norms run over it."""
    model = saved_model(kind[0](kind[1](**SPEECH, feat_extract_norm=kind[2])), tmp_path)
    path = exported(tmp_path, capsys, "--hidden-states")
    ours = ["batch_size", "sequence_length"]
    inputs = {"input_values": ours, **({"attention_mask": ours} if kind[2] == "layer" else {})}
    outputs = ["last_hidden_state", *(f"hidden_states.{one}" for one in range(3))]
    assert dims(path) == inputs | {name: ["batch_size", "frames", 32] for name in outputs}
    waves, mask = torch.randn(4, 905), torch.ones(4, 905, dtype=torch.int64)
    mask[1, 700:], mask[2, 333:] = 0, 0
    feed = {name: {"input_values": waves * mask, "attention_mask": mask}[name] for name in inputs}
    with torch.no_grad():
        wanted = model(**feed, output_hidden_states=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = dict(zip(outputs, session.run(outputs, {name: tensor.numpy() for name, tensor in feed.items()}), strict=True))
    for name, state in zip(outputs, (wanted.last_hidden_state, *wanted.hidden_states), strict=True):
        allowed = 4 * RELATIVE * np.abs(state.numpy()).max()
        worst.within("speech", found[name], state.numpy(), allowed, f"{kind[0].__name__} {name}")


def test_weights_that_are_missing(tmp_path: Path, capsys) -> None:
    """A head that the weights lack would be made up; a pooler that the output does not use may be missing."""
    folder = write_folder("bert", tmp_path).folder
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    changed = config | {"architectures": ["BertForSequenceClassification"]}
    (folder / "config.json").write_text(json.dumps(changed), encoding="utf-8")
    code, told = command("export", folder, capsys=capsys)
    assert (code, told["error"]["type"]) == (2, "UnsupportedModelError")
    assert "lack classifier.weight, classifier.bias, which its output needs" in told["error"]["message"]
    assert not (folder / "onnx").exists()
    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if not name.startswith("pooler.")}
    assert len(kept) == len(weights) - 2
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    exported(folder, capsys)


def test_a_folder_that_is_none(tmp_path: Path, capsys) -> None:
    code, told = command("export", tmp_path, capsys=capsys)
    assert (code, told["error"]["type"]) == (2, "FolderError")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no such"}), encoding="utf-8")
    code, told = command("export", tmp_path, capsys=capsys)
    assert (code, told["error"]["type"]) == (2, "UnsupportedModelError")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["config.json"], "nothing is left behind"
