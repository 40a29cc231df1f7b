"""`add-waveform-normalize`: exact on every clip by itself, and its planted faults are caught by the head proof."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from faults import Fault
from sound_faults import ALL, CHANNEL, EQUIVALENT, INSIDE, LENGTHS, MASK, SOUND_FAULTS, WAVE, Normalized
from speech import HIDDEN, make_speech_encoder

import graphsurgery
from graphsurgery import AddPooling, AddWaveformNormalize, Rename, Tap
from graphsurgery.errors import RequestError
from graphsurgery.report import Verdict
from graphsurgery.runtime.session import open_session

pytestmark = pytest.mark.usefixtures("all_feeds")
CASES = list(dict.fromkeys(fault.case for fault in SOUND_FAULTS))
SAMPLES = (16000, 4000, 1, 0, 401)


def normalize(clip: np.ndarray) -> np.ndarray:
    """What Wav2Vec2FeatureExtractor makes of one clip, in float64."""
    clip = clip.astype(np.float64)
    return (clip - clip.mean()) / np.sqrt(clip.var() + 1e-7)


def run_inside(case: Normalized, feed: dict[str, np.ndarray]) -> np.ndarray:
    model = graphsurgery.load(case.output)
    return open_session(model, extra_outputs=(INSIDE,)).run(feed, [INSIDE])[INSIDE]


def draw(scale: float, offset: float, behind: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    sound = rng.standard_normal((len(SAMPLES), max(SAMPLES))) * scale + offset
    for row, length in enumerate(SAMPLES):
        sound[row, length:] = behind
    return sound.astype(np.float32)


@pytest.mark.parametrize("behind", [0.0, np.nan, np.inf, 1e9], ids=str)
@pytest.mark.parametrize(("scale", "offset"), [(1, 0), (0.01, 0.3), (1e-4, 0), (3e4, -1e4), (0, 0.3), (0, 0)], ids=str)
def test_each_clip_alone(scale: float, offset: float, behind: float) -> None:
    """Lengths and masks give what a clip gives alone, whatever lies behind it; silence gives zeros."""
    sound = draw(scale, offset, behind)
    lengths = np.array(SAMPLES)
    mask = (np.arange(sound.shape[1]) < lengths[:, None]).astype(np.int32)
    for case, more in ((LENGTHS, {"input_lengths": lengths}), (MASK, {"attention_mask": mask})):
        made = run_inside(case, {WAVE: sound, **more})
        for row, length in enumerate(SAMPLES):
            assert not np.any(made[row, length:])
            if length:
                assert np.abs(made[row, :length] - normalize(sound[row, :length])).max() < 1e-5
    if not scale:
        assert np.abs(made).max() < 1e-5


def test_without_lengths_every_sample_counts() -> None:
    sound = draw(1, 0.5, 0.0)
    made = run_inside(ALL, {WAVE: sound})
    wanted = np.stack([normalize(row) for row in sound])
    assert np.all(np.abs(made - wanted) < 1e-5 * np.maximum(1, np.abs(wanted).max(axis=1, keepdims=True)))
    assert np.array_equal(run_inside(CHANNEL, {WAVE: sound[:, None]})[:, 0], made)
    warned = [one for one in AddWaveformNormalize().apply(ALL.loaded).warnings if "padding too" in one]
    assert warned and not [one for one in AddWaveformNormalize().apply(LENGTHS.loaded).warnings if "padding too" in one]


def test_a_real_encoder(tmp_path: Path) -> None:
    """The file gives what the encoder gives for normalised sound, is optimized, and loses it again by strip-head."""
    source = make_speech_encoder()
    done = graphsurgery.run([AddWaveformNormalize()], source, output=tmp_path / "speech.onnx")
    assert done.report
    sound = np.random.default_rng(1).standard_normal((2, 900)).astype(np.float32) * 0.02 + 0.1
    wanted = open_session(graphsurgery.load(source)).run({WAVE: np.stack([normalize(row) for row in sound]).astype(np.float32)})
    made = open_session(graphsurgery.load(tmp_path / "speech.onnx")).run({WAVE: sound})
    assert np.abs(made[HIDDEN] - wanted[HIDDEN]).max() < 1e-4
    assert graphsurgery.strip_head(tmp_path / "speech.onnx").fingerprint == graphsurgery.load(source).fingerprint


def test_a_feature_extractor_that_does_not_normalise(tmp_path: Path) -> None:
    graphsurgery.save(graphsurgery.load(make_speech_encoder()), tmp_path / "model.onnx")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"do_normalize": False}), encoding="utf-8")
    model = AddWaveformNormalize().apply(graphsurgery.load(tmp_path / "model.onnx"))
    assert any("do_normalize: false" in one for one in model.warnings)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_is_spoilt_was_right(case: Normalized) -> None:
    report = graphsurgery.verify(case.output, against=case.loaded)
    assert report and all(check.verdict is Verdict.PASSED for check in report.checks), report.to_json()
    assert graphsurgery.strip_head(case.output).fingerprint == case.loaded.fingerprint


@pytest.mark.parametrize("fault", SOUND_FAULTS, ids=str)
def test_faults_are_caught(fault: Fault) -> None:
    report = graphsurgery.verify(fault.spoilt(), against=fault.case.loaded, head_only=True)
    assert report.verdict is Verdict.FAILED


@pytest.mark.parametrize("fault", EQUIVALENT, ids=str)
def test_equivalents_pass(fault: Fault) -> None:
    assert fault.why
    assert graphsurgery.verify(fault.spoilt(), against=fault.case.loaded).verdict is Verdict.PASSED


def test_there_are_enough() -> None:
    names = [str(fault) for fault in SOUND_FAULTS]
    assert len(set(names)) == len(names) >= 35


@pytest.mark.parametrize(
    "steps",
    [
        (Tap("1"), AddPooling("mean", lengths=True), AddWaveformNormalize()),
        (AddWaveformNormalize(), Tap("1")),
        (AddPooling("mean", lengths=True), AddWaveformNormalize(), Rename(("input_values=wave",))),
    ],
    ids=["tap, pool, normalise", "normalise, tap", "pool, normalise, rename"],
)
def test_in_any_order(steps: tuple, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Edits of speech encoders go together, in one run, and no library prints anything of its own."""
    assert graphsurgery.run(list(steps), make_speech_encoder(), output=tmp_path / "speech.onnx").report
    assert not capfd.readouterr().out


def test_one_by_one_and_optimized(tmp_path: Path) -> None:
    """A clip's vector is that of the clip alone, normalised, also when the file is optimized."""
    paths = [tmp_path / f"{name}.onnx" for name in ("source", "pooled", "normal", "fast")]
    graphsurgery.save(graphsurgery.load(make_speech_encoder()), paths[0])
    graphsurgery.run([AddPooling("mean", lengths=True)], paths[0], output=paths[1], verify=False)
    assert graphsurgery.run([AddWaveformNormalize()], paths[1], output=paths[2]).report
    graphsurgery.optimize(paths[2], output=paths[3], time=False, verify=False)
    sound = draw(0.02, 0.1, np.nan)[:2]
    alone = normalize(sound[1, : SAMPLES[1]])[None].astype(np.float32)
    wanted = open_session(graphsurgery.load(paths[0])).run({WAVE: alone})[HIDDEN].mean(axis=1)
    for path in paths[2:]:
        feed = {WAVE: sound, "input_lengths": np.array(SAMPLES[:2])}
        made = open_session(graphsurgery.load(path)).run(feed)["sentence_embedding"]
        assert np.abs(made[1] - wanted[0]).max() < 1e-4


def test_lengths_come_before_normalisation() -> None:
    normal = AddWaveformNormalize().apply(graphsurgery.load(make_speech_encoder()))
    with pytest.raises(RequestError, match="normalises its waveforms over every sample of a row"):
        AddPooling("mean", lengths=True).apply(normal)
