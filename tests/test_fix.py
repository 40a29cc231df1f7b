"""Known faults of exports, mended or named: masks that hide channels, sizes that are only declared, half-precision inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import FIXTURES
from encoders import tiny_encoder
from faults import Fault
from mending_faults import ALIGNED, ALIGNED_FIRST, EQUIVALENT, HALF, MENDING_FAULTS, PAIRS, PICTURES, RELAXED, Mended
from onnx import TensorProto, numpy_helper
from picture_towers import picture_tower
from speech import HIDDEN, WAVEFORM, make_speech_encoder

import graphsurgery
from graphsurgery import AddPooling, AlignMask, RelaxDim, StripHead
from graphsurgery.cli.main import OK, VERDICT, WRONG, run
from graphsurgery.errors import NothingToFixError, StrictError, UnsupportedModelError
from graphsurgery.fixing.faults import examine
from graphsurgery.report import Verdict
from graphsurgery.runtime.session import Session


@pytest.mark.parametrize("case", [ALIGNED, ALIGNED_FIRST, RELAXED, PAIRS, PICTURES, HALF], ids=str)
def test_what_is_spoilt_was_right(case: Mended) -> None:
    assert graphsurgery.verify(case.output, against=case.loaded).verdict is Verdict.PASSED


@pytest.mark.parametrize("fault", MENDING_FAULTS, ids=str)
def test_faults_are_caught(fault: Fault) -> None:
    assert graphsurgery.verify(fault.spoilt(), against=fault.case.loaded).verdict is not Verdict.PASSED


@pytest.mark.parametrize("fault", EQUIVALENT, ids=str)
def test_equivalents_pass(fault: Fault) -> None:
    assert fault.why
    assert graphsurgery.verify(fault.spoilt(), against=fault.case.loaded).verdict is Verdict.PASSED


def examined(model: Any) -> dict[str, tuple[str, str | None]]:
    """The faults of a model: the kind and the verb that mends it, by the place."""
    return {fault.where: (fault.kind, fault.mended_by) for fault in examine(graphsurgery.load(model)).faults}


def test_a_mask_that_hides_channels(tmp_path: Path) -> None:
    """As many frames as channels: the source runs and hides channels; the mended file hides frames, as torch does."""
    source = make_speech_encoder("layer", misaligned=True)
    onnx.save(source, tmp_path / "speech.onnx")
    fixed = graphsurgery.fix(tmp_path / "speech.onnx")
    assert fixed.outcome.output.name == "speech.mended.onnx" and fixed.outcome.report and not fixed.named
    assert [fault.where for fault in fixed.mended] == ["Where 'hidden_frames'"]
    samples = 30 + 7 * 20
    feed = {WAVEFORM: np.random.default_rng(0).standard_normal((1, samples)).astype(np.float32)}
    feed["padding_mask"] = np.arange(samples)[None] >= 100
    before, after = Session(source.SerializeToString()).run(feed), Session(fixed.outcome.output).run(feed)
    assert np.abs(before[HIDDEN] - after[HIDDEN]).max() > 0.1
    hidden = graphsurgery.load(fixed.outcome.output).to_proto()
    hidden.graph.output.append(onnx.ValueInfoProto(name="hidden_frames"))
    frames = Session(hidden.SerializeToString()).run(feed)["hidden_frames"]
    assert (np.abs(frames[0]).max(axis=1) > 0).tolist() == [True] * 4 + [False] * 4  # frame 4 ends at sample 110
    feed["padding_mask"][:] = False
    source_runs = Session(source.SerializeToString()).run(feed)  # nothing is hidden, so the source is right
    np.testing.assert_array_equal(source_runs[HIDDEN], Session(fixed.outcome.output).run(feed)[HIDDEN])


def test_several_faults_at_once(tmp_path: Path) -> None:
    source = make_speech_encoder("layer", misaligned=True, sizes=(1, 430))
    fixed = graphsurgery.fix(source, output=tmp_path / "mended.onnx")
    assert [step["edit"] for step in fixed.outcome.steps] == ["align-mask", "relax-dim"]
    assert fixed.outcome.report and {fault.kind for fault in fixed.mended} == {"mask", "declared size"}
    feed = {WAVEFORM: np.ones((3, 210), np.float32), "padding_mask": np.zeros((3, 210), np.bool_)}
    assert Session(tmp_path / "mended.onnx").run(feed)[HIDDEN].shape == (3, 10, 8)
    with pytest.raises(NothingToFixError, match="none of the known faults"):
        graphsurgery.fix(tmp_path / "mended.onnx")


def test_a_mask_that_runs_and_is_wrong_at_the_only_declared_size() -> None:
    """8 frames and 8 channels: no run at the declared size fails, so the search runs at others."""
    source = make_speech_encoder("layer", misaligned=True, sizes=(1, 170))
    feed = {WAVEFORM: np.ones((1, 170), np.float32), "padding_mask": np.arange(170)[None] > 90}
    assert Session(source.SerializeToString()).run(feed)[HIDDEN].shape == (1, 8, 8)
    fixed = graphsurgery.fix(source, output="never.onnx", dry_run=True)
    assert [fault.kind for fault in fixed.mended] == ["mask", "declared size", "declared size"] and fixed.outcome.report


def test_a_mended_file_pools_by_lengths(tmp_path: Path) -> None:
    """In one run with the mending, and in one of its own. What is cut to a clip alone, the mask of samples, too."""
    steps = [AlignMask(), RelaxDim(), AddPooling("mean", lengths=True)]
    source = make_speech_encoder("group", misaligned=True, sizes=(1, 430))
    assert graphsurgery.run(steps, source, output=tmp_path / "pooled.onnx").report
    mended = graphsurgery.fix(source, output=tmp_path / "mended.onnx").outcome.output
    assert graphsurgery.run(steps[2:], mended, output=tmp_path / "again.onnx").report
    back = graphsurgery.run([StripHead()], mended, output=tmp_path / "back.onnx")
    assert back.report and graphsurgery.load(tmp_path / "back.onnx").fingerprint == graphsurgery.load(source).fingerprint


def bake_in(model: onnx.ModelProto, dims: list[int], after: str) -> onnx.ModelProto:
    """A Reshape to fixed ``dims``, called ``resisting``, between the value ``after`` and its readers."""
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(dims), "baked"))
    for node in model.graph.node:
        node.input[:] = ["resisting" if name == after else name for name in node.input]
    place = next(place for place, node in enumerate(model.graph.node) if after in node.output)
    model.graph.node.insert(place + 1, onnx.helper.make_node("Reshape", [after, "baked"], ["resisting"], "resisting"))
    return model


RESISTING = "Reshape 'resisting'"


def test_the_node_that_resists_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing can be mended, so nothing is written."""
    onnx.save(bake_in(picture_tower((8, 8)), [-1, 4, 4, 4], "bent"), tmp_path / "tower.onnx")
    assert examined(tmp_path / "tower.onnx") == {RESISTING: ("baked size", None)}
    assert run(["fix", str(tmp_path / "tower.onnx"), "--json"]) == WRONG
    printed = json.loads(capsys.readouterr().out)
    assert printed["error"]["type"] == "NothingToFixError"
    assert [fault["what"][:8] for fault in printed["outcome"]["faults"]] == ["height 8", "width 8 "]
    assert run(["fix", str(tmp_path / "tower.onnx")]) == WRONG
    assert "2 faults of this file can only be named: Reshape 'resisting'" in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in tmp_path.iterdir()] == ["tower.onnx"]


def test_one_size_is_mended_and_another_one_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The batch is baked in, the length is only declared."""
    source = bake_in(make_speech_encoder("layer", sizes=(1, 430)), [1, -1, 8], "add_19")
    onnx.save(source, tmp_path / "speech.onnx")
    assert run(["fix", str(tmp_path / "speech.onnx"), "--json", "--dry-run"]) == OK
    printed = json.loads(capsys.readouterr().out)
    kinds = [(fault["kind"], fault["mended_by"]) for fault in printed["faults"]]
    assert kinds == [("declared size", "relax-dim"), ("baked size", None)] and printed["output"] is None
    assert "not mended" in printed["warnings"][0] and printed["interface"]["after"]["inputs"][0]["dims"] == [1, "samples"]
    with pytest.raises(StrictError, match="nothing was written"):
        graphsurgery.fix(tmp_path / "speech.onnx", strict=True)
    assert run(["fix", str(tmp_path / "speech.onnx"), "--strict"]) == VERDICT
    assert [path.name for path in tmp_path.iterdir()] == ["speech.onnx"]
    assert run(["fix", str(tmp_path / "speech.onnx")]) == OK
    shown = " ".join(capsys.readouterr().out.split())
    assert "mended: input_values: samples 430" in shown and "batch 1 is fixed inside" in shown


@pytest.mark.parametrize("dims", [[-1, 21, 2, 4], [1, -1, 2, 4]], ids=["length", "batch"])
def test_a_size_that_runs_and_is_wrong_stays(dims: list[int]) -> None:
    """Heads split by the export's own sizes run at multiples of these, and mix rows or cut a clip in two."""
    source = make_speech_encoder("layer", sizes=(1, 430))
    shape = next(node.input[1] for node in source.graph.node if node.op_type == "Reshape")
    next(one for one in source.graph.initializer if one.name == shape).CopyFrom(numpy_helper.from_array(np.array(dims), shape))
    which = "samples" if dims[1] == 21 else "batch"
    with pytest.raises(UnsupportedModelError, match=f"{which} .* stays fixed"):
        graphsurgery.relax_dim(source, dims=[which])


def test_rows_are_compared_whatever_the_declared_batch() -> None:
    """A batch of three is freed, and then a length at which three rows would be mixed up stays fixed."""
    source = bake_in(make_speech_encoder("layer", sizes=(3, 430)), [-1, 21, 8], "add_19")
    with pytest.raises(UnsupportedModelError, match="samples 430 stays fixed"):
        graphsurgery.relax_dim(source, dims=["batch", "samples"])


def test_texts_are_freed_by_dynamic_dim() -> None:
    fixed = graphsurgery.fix(tiny_encoder(dims=(2, 8)), output="never.onnx", dry_run=True)
    assert [fault.mended_by for fault in fixed.faults] == ["dynamic-dim"] * 2
    assert fixed.outcome.interface.inputs[0].dims == ("batch", "sequence")
    on_purpose = graphsurgery.fix_dim(tiny_encoder(), dims={"batch": 2})
    assert examine(on_purpose).faults == ()


def test_half_precision(tmp_path: Path) -> None:
    source = picture_tower((8, 8), dtype=TensorProto.FLOAT16)
    fixed = graphsurgery.fix(source, output=tmp_path / "mended.onnx")
    assert {fault.kind for fault in fixed.mended} == {"declared size", "half precision"}
    assert fixed.outcome.interface.inputs[0].dtype == TensorProto.FLOAT
    pixels = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    before = Session(source.SerializeToString()).run({"pixel_values": pixels})["image_embeds"]
    after = Session(tmp_path / "mended.onnx").run({"pixel_values": pixels})["image_embeds"]
    np.testing.assert_allclose(after.astype(np.float32), before.astype(np.float32), atol=1e-3)


def test_sound_that_overflows_is_named() -> None:
    """A squared sample of 32767 is beyond float16, and no cast mends that. 15360 is how ONNX text writes 1.0 in float16."""
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    loud (float16[batch, 1, samples] sound) => (float16[batch, 1, frames] power)
    <float16[1, 1, 4] kernel = {15360, 15360, 15360, 15360}>
    { squares = Mul (sound, sound)  power = Conv<strides = [2]> (squares, kernel) }
    """
    kinds = [(fault.kind, fault.mended_by) for fault in examine(graphsurgery.load(onnx.parser.parse_model(text))).faults]
    assert kinds == [("overflow", None), ("half precision", "input-type")]


def test_sizes_that_are_declared_free_and_are_not() -> None:
    """A batch of one that is declared as any, and texts whose export holds both of their sizes."""
    lying = bake_in(make_speech_encoder("layer"), [1, -1, 8], "add_19")
    assert examined(lying) == {"input_values": ("baked size", None)}
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    baked (int64[batch, seq] input_ids, int64[batch, seq] attention_mask) => (float[batch, seq, 2] last_hidden_state)
    <float[6, 2] table = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3}, int64[3] whole = {2, 7, 2}>
    { rows = Gather (table, input_ids)  last_hidden_state = Reshape (rows, whole) }
    """
    fixed = graphsurgery.fix(onnx.parser.parse_model(text), output="never.onnx", dry_run=True)
    assert [(fault.kind, fault.mended_by) for fault in fixed.faults] == [("baked size", "dynamic-dim")] * 2
    assert [step["edit"] for step in fixed.outcome.steps] == ["fix-dim", "dynamic-dim"]
    assert fixed.outcome.interface == graphsurgery.load(onnx.parser.parse_model(text)).interface


def test_sizes_of_pictures_that_a_joint_model_declares_free() -> None:
    """The node that resists is named, and the advice is right: what `fix-dim` has fixed is no fault."""
    (fault,) = examine(graphsurgery.load(FIXTURES / "towers" / "clip.onnx")).faults
    assert (fault.kind, fault.where, fault.mended_by) == ("baked size", "Add '/vision_model/embeddings/Add'", None)
    assert fault.why == "declare it: graphsurgery fix-dim --dim num_channels=3 --dim height=16 --dim width=16"
    declared = graphsurgery.fix_dim(FIXTURES / "towers" / "clip.onnx", dims={"num_channels": 3, "height": 16, "width": 16})
    assert examine(declared).faults == ()


@pytest.mark.parametrize("name", ["bert", "modernbert", "t5", "qwen3-dynamo"])
def test_a_right_export_has_no_fault(name: str) -> None:
    with pytest.raises(NothingToFixError, match="none of the known faults"):
        graphsurgery.fix(FIXTURES / name / "model.onnx")
