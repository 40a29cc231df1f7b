"""Pooling of clips by their lengths: a clip's vector is that of the clip alone, whatever lies behind it and beside it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from clip_faults import AS_TORCH, AS_TORCH_MASKED, CLIP_EQUIVALENT, CLIP_FAULTS, GROUP, LAYER, UNIT
from faults import Fault
from onnx import TensorProto, helper
from speech import HIDDEN, TINY, WAVEFORM, make_speech_encoder

import graphsurgery
from graphsurgery.encoder.frames import count_frames
from graphsurgery.errors import GraphSurgeryError, MaskError, RequestError, UnsupportedModelError
from graphsurgery.report import Verdict
from graphsurgery.runtime.session import Session

pytestmark = pytest.mark.usefixtures("all_feeds")
LENGTHS = np.array([900, 90, 52, 30, 29, 1, 0, 899])
EMBEDDING = "sentence_embedding"


def draw(behind: float, offset: float = 0.0) -> np.ndarray:
    """Clips of `LENGTHS` with a number behind them, float32 ``[8, 900]``."""
    sound = np.random.default_rng(5).standard_normal((len(LENGTHS), LENGTHS.max())).astype(np.float32) + np.float32(offset)
    return np.where(np.arange(sound.shape[1]) < LENGTHS[:, None], sound, np.float32(behind))


def run(proto: onnx.ModelProto, **feed: np.ndarray) -> np.ndarray:
    return next(iter(Session(proto.SerializeToString()).run(feed).values()))


def pool_alone(encoder: onnx.ModelProto, sound: np.ndarray, **more: np.ndarray) -> np.ndarray:
    """Mean, largest number and deviation of the frames of each clip alone, float64 ``[8, 24]``; zeros without a frame."""
    session, rows = Session(encoder.SerializeToString()), []
    for row, length in enumerate(LENGTHS):
        frames = np.zeros((0, 8))
        if count_frames(int(length), TINY):
            alone = {name: array[row : row + 1, :length] for name, array in more.items()}
            frames = session.run({WAVEFORM: sound[row : row + 1, :length], **alone})[HIDDEN][0].astype(np.float64)
        deviation = frames.std(axis=0, ddof=1) if len(frames) > 1 else np.zeros(8)
        rows.append(np.concatenate([frames.mean(axis=0), frames.max(axis=0), deviation]) if len(frames) else np.zeros(24))
    return np.array(rows)


ENCODERS = {
    "group norm": {"norm": "group"},
    "layer norm": {"norm": "layer"},
    "two positional convolutions": {"norm": "layer", "positions": 2},
    "heads in the first dim": {"norm": "group", "flat_heads": True},
    "channel dim": {"norm": "layer", "channel_dim": True},
    "opset 11": {"norm": "layer", "opset": 11},
}


@pytest.mark.parametrize("options", ENCODERS.values(), ids=ENCODERS)
def test_a_clip_in_a_batch_is_the_clip_alone(options) -> None:
    """1e-5, with NaN, infinity or 1e9 behind each clip, and with an offset in the signal."""
    encoder = make_speech_encoder(**options)
    pooled = graphsurgery.add_pooling(encoder, mode="max,statistics", lengths=True).to_proto()
    session = Session(pooled.SerializeToString())
    for behind, offset in ((0, 0), (np.nan, 0), (np.inf, 0), (1e9, 0), (0, 5)):
        sound = draw(behind, offset)
        given = sound[:, None] if options.get("channel_dim") else sound
        found = session.run({WAVEFORM: given, "input_lengths": LENGTHS})[EMBEDDING]
        wanted = pool_alone(make_speech_encoder(**options | {"channel_dim": False}), sound)
        np.testing.assert_allclose(found, wanted[:, [*range(8, 16), *range(8), *range(16, 24)]], atol=1e-5, rtol=0)


def test_as_exported_a_clip_depends_on_its_neighbours() -> None:
    """What the lengths are for: without them, the same clip is another vector in a batch."""
    encoder, sound = make_speech_encoder("group"), draw(0)
    frames = run(encoder, **{WAVEFORM: sound})
    first = np.array([frames[row, :6].mean(axis=0) for row in range(3)])
    assert np.abs(first[1] - pool_alone(encoder, sound)[1, :8]).max() > 0.01


@pytest.mark.parametrize("spec", ["attention_mask", "padded:attention_mask", "not:attention_mask", "lengths:attention_mask"])
def test_lengths_by_an_input_of_the_file(spec: str) -> None:
    """A mask of samples, or an input of lengths, that the export has already."""
    kind = {"attention_mask": "mask", "lengths:attention_mask": "lengths"}.get(spec, "padding")
    encoder, sound = make_speech_encoder("group", mask=kind), draw(0)
    is_sound = np.arange(sound.shape[1]) < LENGTHS[:, None]
    given = {"mask": is_sound.astype(np.int64), "padding": ~is_sound, "lengths": LENGTHS}[kind]
    pooled = graphsurgery.add_pooling(encoder, mode="mean", mask=spec)
    assert [value.name for value in pooled.interface.inputs] == [WAVEFORM, "attention_mask"]
    found = run(pooled.to_proto(), **{WAVEFORM: sound, "attention_mask": given})
    np.testing.assert_allclose(found, pool_alone(make_speech_encoder("group"), sound)[:, :8], atol=1e-5, rtol=0)


def test_group_norm_as_in_transformers() -> None:
    """The source's own frames of the whole batch, the first of each clip pooled; nothing in the encoder changes."""
    encoder, sound = make_speech_encoder("group"), draw(0)
    pooled = graphsurgery.add_pooling(encoder, mode="mean", lengths=True, padding="transformers")
    assert any("depends on the clips beside it" in remark for remark in pooled.remarks)
    frames = run(encoder, **{WAVEFORM: sound}).astype(np.float64)
    counts = [count_frames(int(length), TINY) for length in LENGTHS]
    wanted = [frames[row, :n].mean(axis=0) if n else np.zeros(8) for row, n in enumerate(counts)]
    found = run(pooled.to_proto(), **{WAVEFORM: sound, "input_lengths": LENGTHS})
    np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=0)


def test_layer_norm_as_in_transformers_is_exact() -> None:
    models = [
        graphsurgery.add_pooling(make_speech_encoder("layer"), mode="mean", lengths=True, padding=padding).to_proto()
        for padding in ("exact", "transformers")
    ]
    assert models[0].graph == models[1].graph


@pytest.mark.parametrize("case", [GROUP, LAYER, AS_TORCH, AS_TORCH_MASKED, UNIT], ids=str)
def test_what_is_spoilt_was_right(case) -> None:
    assert graphsurgery.verify(case.output, against=case.loaded).verdict is Verdict.PASSED


@pytest.mark.parametrize("fault", CLIP_FAULTS, ids=str)
def test_faults_are_caught(fault: Fault) -> None:
    assert graphsurgery.verify(fault.spoilt(), against=fault.case.loaded).verdict is Verdict.FAILED


@pytest.mark.parametrize("fault", CLIP_EQUIVALENT, ids=str)
def test_equivalents_pass(fault: Fault) -> None:
    assert fault.why
    assert graphsurgery.verify(fault.spoilt(), against=fault.case.loaded).verdict is Verdict.PASSED


def test_strip_head_gives_the_source_back(tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    onnx.save(make_speech_encoder("group"), source)
    done = graphsurgery.run([graphsurgery.AddPooling("mean", lengths=True)], source)
    assert done.report
    graphsurgery.run([graphsurgery.StripHead()], done.saved.path, output=tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == source.read_bytes()


def test_other_edits_before_and_behind(tmp_path: Path) -> None:
    """Renamed inputs, a kept hidden state, a fixed batch and a norm: all of it is proven together, on clips."""
    steps = [
        graphsurgery.Rename(name=("input_values=audio",)),
        graphsurgery.AddPooling("mean", lengths=True, keep_output=(HIDDEN,)),
        graphsurgery.AddNormalize(),
        graphsurgery.Rename(name=("input_lengths=samples",), dim=("batch=clips",)),
        graphsurgery.FixDim(dim=("clips=3",)),
    ]
    done = graphsurgery.run(steps, make_speech_encoder("group"), output=tmp_path / "out.onnx")
    assert done.report
    assert [str(value) for value in done.interface.inputs] == ["audio: float32[3, samples]", "samples: int64[3]"]
    kinds = {one.kind for check in done.report.checks for one in check.comparisons}
    assert {"NaN behind clips", "a clip beside one ten times longer"} <= kinds


def test_lengths_survive_optimize(tmp_path: Path) -> None:
    pooled = graphsurgery.add_pooling(make_speech_encoder("group"), mode="mean", lengths=True)
    done = graphsurgery.optimize(pooled, output=tmp_path / "out.onnx")
    assert done.report
    proto, sound = onnx.load(tmp_path / "out.onnx"), draw(np.nan)
    found = run(proto, **{WAVEFORM: sound, "input_lengths": LENGTHS})
    np.testing.assert_allclose(found, pool_alone(make_speech_encoder("group"), sound)[:, :8], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "steps",
    [
        [graphsurgery.AddPooling("mean", lengths=True), graphsurgery.AddWaveformNormalize()],
        [graphsurgery.Tap(layer="1"), graphsurgery.AddPooling("max", lengths=True)],
    ],
    ids=["pool, then normalise the sound", "tap, then pool"],
)
def test_lengths_go_with_other_edits_of_speech(steps: list[graphsurgery.Edit], tmp_path: Path) -> None:
    done = graphsurgery.run(steps, make_speech_encoder("group"), output=tmp_path / "out.onnx")
    assert done.report
    assert [value.name for value in done.interface.inputs] == [WAVEFORM, "input_lengths"]


def test_inspect_says_that_lengths_are_needed() -> None:
    assert any("pooling needs --lengths" in one for one in graphsurgery.inspect(make_speech_encoder()).warnings)


def make_spectrogram_encoder() -> onnx.ModelProto:
    """A spectrogram, a convolution over it: ``[batch, 4, frames]`` -> ``[batch, frames, 8]``."""
    weight = onnx.numpy_helper.from_array(np.ones((8, 4, 3), np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["features", "w"], ["x"], kernel_shape=[3], pads=[1, 1]),
        helper.make_node("Transpose", ["x"], [HIDDEN], perm=[0, 2, 1]),
    ]
    infos = [
        helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 4, "frames"]),
        helper.make_tensor_value_info(HIDDEN, TensorProto.FLOAT, ["batch", "frames", 8]),
    ]
    graph = helper.make_graph(nodes, "spectrogram", infos[:1], infos[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


REFUSED = {
    "a spectrogram": (make_spectrogram_encoder, {"lengths": True}, RequestError, "no input holds a waveform"),
    "padding without lengths": (make_speech_encoder, {"mask": "ones", "padding": "exact"}, RequestError, "use --lengths"),
    "nothing tells the lengths": (make_speech_encoder, {}, MaskError, "--lengths"),
    "another padding": (make_speech_encoder, {"lengths": True, "padding": "torch"}, RequestError, "exact or transformers"),
    "a mask as well": (make_speech_encoder, {"lengths": True, "mask": "ones"}, RequestError, "leave one of them out"),
    "a prompt": (make_speech_encoder, {"lengths": True, "skip_prompt": 3}, RequestError, "--skip-prompt"),
    "the name is taken": (
        lambda: make_speech_encoder(mask="lengths", mask_name="input_lengths"), {"lengths": True}, RequestError,
        "lengths:input_lengths",
    ),
    "a padded first convolution": (lambda: make_speech_encoder(pad=1), {"lengths": True}, UnsupportedModelError, "is padded"),
    "positions that leave frames out": (
        lambda: make_speech_encoder(squeeze=2), {"lengths": True}, UnsupportedModelError, "leaves frames out",
    ),
    "two positional convolutions, as in transformers": (
        lambda: make_speech_encoder("layer", positions=2), {"lengths": True, "padding": "transformers"}, UnsupportedModelError,
        "use --padding exact",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "parameters", "error", "text"), REFUSED.values(), ids=REFUSED)
def test_refusals_say_what_to_do(make, parameters, error: type[GraphSurgeryError], text: str) -> None:
    with pytest.raises(error) as caught:
        graphsurgery.add_pooling(make(), mode="mean", **parameters)
    assert text in f"{caught.value.message} {caught.value.advice}"


def test_the_record_says_where_clips_are_cut() -> None:
    """Kernels, strides and every node that reads another value, so that a proof finds no other change."""
    entry = next(one for one in GROUP.output.metadata_props if one.key.startswith("graphsurgery.step."))
    parameters = json.loads(entry.value)["parameters"]
    assert parameters["frame_steps"] == [f"{kernel}/{stride}" for kernel, stride in TINY]
    assert len(parameters["rewired"]) == 1 + 1 + 1 + 2  # the convolutions' frames, group norm, positions, two attentions
