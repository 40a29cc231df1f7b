"""Pictures and sounds are fed at the sizes that the graph shows, in the processor's range, so that proofs really run them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import FIXTURES
from onnx import numpy_helper
from speech import HIDDEN, TINY, WAVEFORM, make_speech_encoder
from test_baked_sizes import picture_encoder

import graphsurgery
from graphsurgery.encoder.frames import compute_receptive_field, count_frames
from graphsurgery.encoder.limits import Tables
from graphsurgery.encoder.modalities import list_modalities
from graphsurgery.encoder.roles import find_roles
from graphsurgery.errors import MaskError, VerificationFailed
from graphsurgery.model.model import Model
from graphsurgery.report import Verdict
from graphsurgery.runtime.baked_sizes import make_feed_generator_for
from graphsurgery.runtime.feeds import FeedGenerator
from graphsurgery.runtime.media import Medium
from graphsurgery.runtime.media_sizes import find_media
from graphsurgery.runtime.session import open_session

FIELD = compute_receptive_field(TINY)


def make_generator(model: Model) -> FeedGenerator:
    return make_feed_generator_for(model, find_roles(model.interface))


def list_feeds(model: Model) -> list[dict[str, np.ndarray]]:
    generator = make_generator(model)
    return [generator.generate(mask, seed) for _, masks in generator.generate_masks() for seed, mask in enumerate(masks)]


def test_clips_of_many_lengths_from_the_receptive_field_up() -> None:
    """A column of a mask is a frame: the model gives as many frames as the mask has columns."""
    model = graphsurgery.load(make_speech_encoder())
    generator, session = make_generator(model), open_session(model)
    lengths = set()
    for _, masks in generator.generate_masks():
        for mask in masks:
            feed = generator.generate(mask, seed=0)
            samples = feed[WAVEFORM].shape[1]
            lengths.add(samples)
            assert count_frames(samples, TINY) == mask.shape[1] == session.run(feed)[HIDDEN].shape[1]
    assert len(lengths) > 3 and FIELD <= min(lengths) < FIELD + generator.media[0].hop


def test_padding_of_clips_without_a_mask_is_silent() -> None:
    """A row of n frames has the samples of these frames, and zeros behind them."""
    generator = make_generator(graphsurgery.load(make_speech_encoder()))
    mask = np.arange(9) < np.array([[9], [4], [0]])
    sound = generator.generate(mask, seed=0)[WAVEFORM]
    ends = [int(np.flatnonzero(row)[-1]) + 1 for row in sound[:2]]
    assert ends[0] == sound.shape[1] and ends[1] == FIELD + 3 * generator.media[0].hop and not sound[2].any()


def test_a_part_of_a_clip_is_cut_at_its_frames() -> None:
    """The samples of columns 2 to 6 give five frames, and of all columns all frames."""
    generator = make_generator(graphsurgery.load(make_speech_encoder()))
    feed = generator.generate(np.ones((3, 9), dtype=np.bool_), seed=0)
    hop = generator.media[0].hop
    cut = generator.cut_feed(feed, 1, slice(2, 7))[WAVEFORM]
    assert np.array_equal(cut, feed[WAVEFORM][1:2, 2 * hop : 6 * hop + FIELD]) and count_frames(cut.shape[1], TINY) == 5
    assert np.array_equal(generator.cut_feed(feed, 1, slice(None))[WAVEFORM], feed[WAVEFORM][1:2])


def test_a_file_for_clips_of_one_length() -> None:
    """It is fed that length alone, whose frames are the columns."""
    model = graphsurgery.load(make_speech_encoder())
    fixed = graphsurgery.fix_dim(model, {"samples": 400})
    assert {feed[WAVEFORM].shape[1] for feed in list_feeds(fixed)} == {400}
    assert make_generator(fixed).fixed_sequence == count_frames(400, TINY)


SPECTRUM = """
<ir_version: 8, opset_import: ["" : 17]>
spectrum (float[batch, 6, frames] input_features) => (float[batch, seq, 8] last_hidden_state) {
    first = Conv <kernel_shape = [3], pads = [1, 1]> (input_features, one)
    half = Conv <kernel_shape = [3], pads = [1, 1], strides = [2]> (first, two)
    turned = Transpose <perm = [0, 2, 1]> (half)
    last_hidden_state = Add (turned, positions)
}
"""


def spectrum_encoder() -> onnx.ModelProto:
    """Like Whisper's encoder: as many frames as twice the rows of the position table."""
    model = onnx.parser.parse_model(SPECTRUM)
    rng = np.random.default_rng(0)
    for name, shape in (("one", (8, 6, 3)), ("two", (8, 8, 3)), ("positions", (1, 20, 8))):
        model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    return model


def test_a_spectrogram_is_as_long_as_the_position_table() -> None:
    model = graphsurgery.load(spectrum_encoder())
    assert {feed["input_features"].shape[1:] for feed in list_feeds(model)} == {(6, 40)}
    said = "the model runs only on spectrograms of 6 x 40, although the file declares that any size will do"
    assert said in graphsurgery.inspect(model).warnings


@pytest.mark.parametrize(
    ("rows", "configs", "size"),
    [
        (9, {}, (3, 12, 12)),
        (17, {}, None),
        (1, {}, (3, 224, 224)),
        (1, {"config.json": {"image_size": 20}}, (3, 20, 20)),
        (1, {"config.json": {"vision_config": {"image_size": [16, 24]}}}, (3, 16, 24)),
        (1, {"preprocessor_config.json": {"crop_size": {"height": 8, "width": 12}, "size": {"shortest_edge": 30}}}, (3, 8, 12)),
        (1, {"preprocessor_config.json": {"size": {"shortest_edge": 28}}}, (3, 28, 28)),
        (9, {"config.json": {"image_size": 20}}, (3, 12, 12)),
        (1, {"config.json": {"image_size": 8000}}, (3, 224, 224)),
        (9, {"config.json": "nothing", "preprocessor_config.json": {"size": [], "crop_size": True}}, (3, 12, 12)),
    ],
)
def test_sizes_of_pictures(rows: int, configs: dict, size: tuple[int, ...] | None, tmp_path: Path) -> None:
    """By the position table, the folder's configs, or 224; what a config says is taken only where the model runs on it."""
    onnx.save(picture_encoder(rows), tmp_path / "model.onnx")
    for name, said in configs.items():
        (tmp_path / name).write_text(json.dumps(said) if isinstance(said, dict) else said)
    (medium,) = make_generator(graphsurgery.load(tmp_path / "model.onnx")).media
    assert medium.sizes == (size or medium.sizes) and medium.only == (rows == 9)


def test_sizes_that_the_file_declares() -> None:
    model = picture_encoder(9)
    for place, size in ((2, 12), (3, 12)):
        model.graph.input[0].type.tensor_type.shape.dim[place].dim_value = size
    (medium,) = make_generator(graphsurgery.load(model)).media
    assert medium.sizes == (3, 12, 12) and not medium.only


def test_pictures_that_are_too_large_are_not_drawn() -> None:
    """One side is declared, and it alone would fill the memory."""
    model = picture_encoder(9)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 1 << 24
    source = graphsurgery.load(model)
    assert find_media(source, FeedGenerator(find_roles(source.interface), Tables())) == ()


@pytest.mark.parametrize("mean, std", [((), ()), ((0.5, 0.4, 0.3), (0.2, 0.25, 0.5))])
def test_pixels_are_in_the_processors_range(mean: tuple[float, ...], std: tuple[float, ...], tmp_path: Path) -> None:
    """From (0 - mean) / std to (1 - mean) / std in each channel, or -1 to 1; no two pictures are alike."""
    onnx.save(picture_encoder(9), tmp_path / "model.onnx")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": list(mean), "image_std": list(std)}))
    generator = make_generator(graphsurgery.load(tmp_path / "model.onnx"))
    pictures = generator.generate(np.ones((40, 3), dtype=np.bool_), seed=0)["pixel_values"]
    for channel in range(3):
        middle, spread = (mean[channel], std[channel]) if mean else (0.5, 0.5)
        low, high = pictures[:, channel].min(), pictures[:, channel].max()
        assert low == pytest.approx((0 - middle) / spread) and high == pytest.approx((1 - middle) / spread)
    assert np.ptp(pictures.mean(axis=(2, 3)), axis=0).min() > 0.5


@pytest.mark.parametrize("std", ["NaN", "1e-300", "0", '"wide"', "-1"])
def test_numbers_that_no_processor_has(std: str, tmp_path: Path) -> None:
    """Pixels are fed from -1 to 1 then."""
    onnx.save(picture_encoder(9), tmp_path / "model.onnx")
    (tmp_path / "preprocessor_config.json").write_text(f'{{"image_mean": [0, 0, 0], "image_std": [{std}, 1, 1]}}')
    fed = make_generator(graphsurgery.load(tmp_path / "model.onnx")).generate(np.ones((9, 3), dtype=np.bool_), seed=0)
    assert (fed["pixel_values"].min(), fed["pixel_values"].max()) == (-1, 1)


def test_bytes_have_their_channels_last() -> None:
    value = graphsurgery.load(onnx.parser.parse_model(BYTES)).interface.inputs[0]
    drawn = Medium("x", "picture", (8, 12, 3)).draw(np.random.default_rng(0), value, (2, 8, 12, 3), np.ones((2, 1)), False)
    assert drawn.dtype == np.uint8 and drawn.shape == (2, 8, 12, 3) and drawn.min() == 0 and drawn.max() == 255


BYTES = """
<ir_version: 8, opset_import: ["" : 17]>
bytes (uint8[batch, height, width, 3] x) => (uint8[batch, height, width, 3] y) {
    y = Identity (x)
}
"""


@pytest.mark.parametrize(
    "model", [make_speech_encoder(), picture_encoder(9), spectrum_encoder()], ids=["clips", "pictures", "spectrograms"]
)
def test_every_proof_runs_the_file(model: onnx.ModelProto, tmp_path: Path) -> None:
    """Pooling and comparing end PASSED, and the words are those of the medium."""
    pooled, source = tmp_path / "pooled.onnx", graphsurgery.load(model)
    done = graphsurgery.run([graphsurgery.AddPooling("mean", mask="ones")], source, output=pooled)
    for report in (done.report, graphsurgery.verify(pooled, against=source)):
        assert report is not None and {check.verdict for check in report.checks} == {Verdict.PASSED}
        said = " ".join((*report.not_checked, *report.observations, *report.warnings))
        assert "text" not in said and "padding: no input" not in said


def test_a_fault_in_an_optimized_speech_encoder_is_found() -> None:
    """One query projection is other than the source's."""
    source = make_speech_encoder()
    broken = onnx.ModelProto()
    broken.CopyFrom(source)
    wide = next(one for one in broken.graph.initializer if list(one.dims) == [8, 8])
    wide.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(wide), wide.name))
    assert graphsurgery.verify(source, against=source).verdict is Verdict.PASSED
    assert graphsurgery.verify(broken, against=source).verdict is Verdict.FAILED


CLIPPED = """
<ir_version: 8, opset_import: ["" : 17]>
clipped (float[batch, 3, 12, 12] pixel_values) => (float[batch, 8, 3, 3] last_hidden_state) {
    low = Constant <value_float = 0.0> ()
    high = Constant <value_float = 1.0> ()
    kept = Clip (pixel_values, low, high)
    LINE
    last_hidden_state = Conv <kernel_shape = [4, 4], strides = [4, 4]> (read, kernel)
}
"""


@pytest.mark.parametrize(("line", "is_wrong"), [("read = Identity (kept)", True), ("read = Sub (kept, high)", False)])
def test_pixels_that_are_clipped_to_one(line: str, is_wrong: bool) -> None:
    """That is wrong for normalised pixels; where the graph normalises behind the clip, pixels are still from 0 to 1."""
    model = onnx.parser.parse_model(CLIPPED.replace("LINE", line))
    model.graph.initializer.append(numpy_helper.from_array(np.ones((8, 3, 4, 4), dtype=np.float32), "kernel"))
    said = [one for one in graphsurgery.inspect(model).warnings if "clips pixel_values to 0..1" in one]
    assert len(said) == is_wrong


def test_inspect_says_what_inputs_hold(tmp_path: Path) -> None:
    """Their kind, size and range; and programs that feed token ids are not listed for pictures and sound."""
    onnx.save(picture_encoder(9), tmp_path / "model.onnx")
    numbers = {"image_mean": [0.5, 0.5, 0.4], "image_std": [0.25, 0.5, 0.5]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(numbers))
    seen = [graphsurgery.inspect(one) for one in (tmp_path / "model.onnx", make_speech_encoder(), spectrum_encoder())]
    assert [str(one.inputs[0]) for one in seen] == [
        "pixel_values: picture, 3 x 12 x 12, from -2.00 to 2.00, as preprocessor_config.json normalises pixels",
        f"input_values: waveform, from {FIELD} samples (one frame) up, and a frame more for every 20, "
        "as the model's processor scales it",
        "input_features: spectrogram, 6 x 40, as the model's processor computes it",
    ]
    assert not any(one.consumers for one in seen)
    texts = graphsurgery.inspect(FIXTURES / "xlmr" / "model.onnx")  # its positions are counted from two behind padding
    assert str(texts.inputs[0]) == "input_ids: token ids, up to 62 tokens, 0 to 305" and texts.consumers


def test_a_file_that_cannot_be_run_has_not_passed(tmp_path: Path) -> None:
    """Whatever its head alone does: nothing is written, unless the proof was not asked for."""
    model = make_speech_encoder()
    model.graph.node[0].domain = "nobody"  # an operator that no runtime knows
    model.opset_import.append(onnx.helper.make_opsetid("nobody", 1))
    wanted = [graphsurgery.AddPooling("mean", mask="ones", hidden_state=HIDDEN)]
    with pytest.raises(VerificationFailed, match="NOT CHECKED: whole proof") as raised:
        graphsurgery.run(wanted, model, output=tmp_path / "out.onnx")
    report = raised.value.outcome.report
    assert {check.name: check.verdict.value for check in report.checks}["head proof"] == "PASSED"
    assert not (tmp_path / "out.onnx").exists()
    assert graphsurgery.run(wanted, model, output=tmp_path / "out.onnx", verify=False).saved


@pytest.mark.parametrize(("kind", "asked"), [("mask", None), ("mask", "attention_mask"), ("lengths", "lengths:attention_mask")])
def test_a_mask_of_samples_is_no_mask_of_frames(kind: str, asked: str | None) -> None:
    """add-pooling turns it into one; verbs that do not are refused, and no file is made that cannot run."""
    model = make_speech_encoder(mask=kind)
    with pytest.raises(MaskError, match="has frames, which are fewer") as raised:
        graphsurgery.mask_tokens(model, HIDDEN, mask=asked)
    assert "--lengths" in raised.value.advice
    assert graphsurgery.verify(graphsurgery.mask_tokens(model, HIDDEN, mask="ones"), against=model)


@pytest.mark.parametrize(
    ("model", "titles", "said"),
    [
        (picture_encoder(9), ["1 picture", "2 pictures"], "pictures/s"),
        (make_speech_encoder("group"), ["1 x 8 frames", "2 x 8 frames"], "frames/s"),
    ],
    ids=["pictures", "clips"],
)
def test_speed_is_told_in_the_words_of_the_medium(model: onnx.ModelProto, titles: list[str], said: str) -> None:
    """Pictures and clips are no texts, and have no tokens."""
    found = graphsurgery.bench(model, batches=(1, 2), lengths=(8,), seconds=0)
    assert [one.title for one in found.contests] == titles
    assert said in " ".join(str(found).split()) and "texts/s" not in str(found) and "tokens" not in str(found)


@pytest.mark.parametrize(
    ("dims", "kinds"), [("batch, seq, 8", ["token ids"]), ("batch, 8, frames", ["token ids", "spectrogram"])]
)
def test_what_each_token_has_is_no_spectrogram(dims: str, kinds: list[str]) -> None:
    """Token embeddings that go into a convolution have the ids' own dims."""
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 17]>
        encoder (int64[batch, seq] input_ids, float[{dims}] x) => (float[batch, seq, 8] hidden)
        {{ turned = Transpose<perm = [0, 2, 1]> (x)  held = Conv (turned, kernel)  rows = Gather (table, input_ids)
           back = Transpose<perm = [0, 2, 1]> (held)  hidden = Add (rows, back) }}
    """)
    for name, shape in {"kernel": (8, 8, 1), "table": (20, 8)}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    assert [one.kind for one in list_modalities(graphsurgery.load(model))] == kinds
