"""The towers of pictures and of speech: each row is what ONNX Runtime alone gives, and hostile bytes are their own error."""

from __future__ import annotations

import json
import re
import shutil
import struct
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from media import (
    PROCESSOR,
    RATE,
    bake_clip_folder,
    draw_clip,
    draw_picture,
    encode_clip,
    encode_picture,
    make_speech_folder,
    write_wave,
)
from PIL import Image

import graphsurgery
from graphsurgery.errors import FolderError, GraphSurgeryError, UnsupportedModelError
from graphsurgery.references.image_input import REFERENCE, process
from graphsurgery.serving import picture_tower
from graphsurgery.serving.errors import InvalidRequestError
from graphsurgery.serving.file_tower import FileTower
from graphsurgery.serving.picture_tower import MOST_HELD, PictureTower
from graphsurgery.serving.settings import ServeSettings
from graphsurgery.serving.speech_tower import SpeechTower
from graphsurgery.serving.towers import Prepared, TextOptions

SETTINGS = ServeSettings(threads=1, max_pixels=3_000_000, max_clip_seconds=2)
CLOSE = 1e-5


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bake_clip_folder(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def pictures(clip_folder: Path) -> PictureTower:
    return PictureTower(graphsurgery.load(clip_folder / "onnx" / "image.onnx"), SETTINGS)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> SpeechTower:
    folder = make_speech_folder(tmp_path_factory.mktemp("speech") / "speech")
    return SpeechTower(graphsurgery.load(folder / "model.onnx"), SETTINGS)


def ready(tower: FileTower, *files: bytes) -> list[Prepared]:
    found = tower.prepare(files, TextOptions())
    assert all(isinstance(one, Prepared) for one in found), found
    return [one for one in found if isinstance(one, Prepared)]


def embed(tower: FileTower, *files: bytes) -> np.ndarray:
    return np.concatenate([tower.run([one]) for one in ready(tower, *files)])


def refuse(tower: FileTower, file: object) -> InvalidRequestError:
    (error,) = tower.prepare([file], TextOptions())
    assert isinstance(error, InvalidRequestError) and error.advice, error
    return error


def run_alone(file: Path, **feed: np.ndarray) -> np.ndarray:
    """The only row that ONNX Runtime gives."""
    (rows,) = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, feed)
    return rows[0]


# --- pictures -------------------------------------------------------------------------------------------------------------


def embed_by_reference(folder: Path, picture: np.ndarray) -> np.ndarray:
    """The row of the file that takes pixels, which numpy makes of the picture."""
    added = graphsurgery.AddImageInput(str(folder / "preprocessor_config.json")).apply(
        graphsurgery.load(folder / "onnx" / "image.onnx")
    )
    pixels = process(picture[None], REFERENCE.read(added.recorded[-1].parameters)).values
    return run_alone(folder / "onnx" / "image.onnx", pixel_values=pixels)


def test_a_picture_is_processed_in_the_graph(clip_folder: Path, pictures: PictureTower) -> None:
    for height, width in ((30, 40), (8, 8), (101, 33), (1, 5)):
        picture = draw_picture(height, height, width)
        (row,) = embed(pictures, encode_picture(picture))
        assert np.abs(row - embed_by_reference(clip_folder, picture)).max() < 1e-3


def test_pictures_of_one_size_run_together(pictures: PictureTower) -> None:
    files = [encode_picture(draw_picture(seed)) for seed in range(3)]
    together = pictures.run(ready(pictures, *files))
    assert np.abs(together - embed(pictures, *files)).max() < CLOSE
    assert together.shape == (3, pictures.width) and np.allclose(np.linalg.norm(together, axis=1), 1)
    groups = [one.group for one in ready(pictures, *files, encode_picture(draw_picture(0, 40, 30)))]
    assert groups == [(30, 40)] * 3 + [(40, 30)]


def test_what_pillow_makes_of_a_file(pictures: PictureTower) -> None:
    """Turned by EXIF, without alpha, from a palette or grey: as `transformers.image_utils.load_image` gives pictures."""
    picture = draw_picture()
    (upright,) = embed(pictures, encode_picture(picture))
    lying = Image.fromarray(np.rot90(picture).copy())
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    clear = np.dstack([picture, np.zeros(picture.shape[:2], np.uint8)])
    same = [
        encode_picture(lying, exif=exif), encode_picture(clear), encode_picture(picture, "BMP"),
        encode_picture(picture, "WEBP", lossless=True),
    ]  # fmt: skip
    assert np.abs(embed(pictures, *same) - upright).max() < CLOSE
    grey = picture[..., 0]
    wanted = embed(pictures, encode_picture(np.dstack([grey] * 3)))
    gif = encode_picture(grey, "GIF", save_all=True, append_images=[Image.fromarray(255 - grey)])
    assert np.abs(embed(pictures, encode_picture(grey), gif) - wanted).max() < CLOSE


def test_a_large_picture_waits_as_it_was_sent(pictures: PictureTower) -> None:
    large = encode_picture(np.full((1000, MOST_HELD // 1000 + 1, 3), 90, np.uint8))
    (one,) = ready(pictures, large)
    assert one.content is large and one.size == 256
    (small,) = embed(pictures, encode_picture(np.full((30, 30, 3), 90, np.uint8)))
    assert np.abs(pictures.run([one])[0] - small).max() < 1e-3


PNG = encode_picture(draw_picture())


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"


def claim_pixels(width: int, height: int) -> bytes:
    """A PNG file whose header claims another size."""
    return PNG[:16] + struct.pack(">II", width, height) + PNG[24:]


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (b"", "no bytes"), (b"GIF89a", "cannot be decoded|no picture"), (POSTSCRIPT, "known format"),
        (encode_picture(draw_picture(), "TIFF"), "known format"),
        ("text", "str, not bytes"), (None, "NoneType, not bytes"), (PNG[: len(PNG) // 2], "cannot be decoded"),
        (PNG[:60] + b"\xff" * 40 + PNG[100:], "cannot be decoded|no picture"),
        (claim_pixels(1 << 16, 1 << 16), "pixels|decoded|no picture"),
        (encode_picture(np.zeros((1500, 2001, 3), np.uint8)), "at most 3000000"),
        (encode_picture(np.zeros((1, 201, 3), np.uint8)), "200 times"), (encode_picture(np.zeros((9, 9), np.uint16)), "8 bits"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "known format"), (write_wave(b"\0" * 100), "known format"),
    ],
)  # fmt: skip
def test_hostile_pictures(file: object, message: str, pictures: PictureTower) -> None:
    """Each is an error of its own, and leaves the pictures beside it alone."""
    assert re.search(message, refuse(pictures, file).message)
    first, _, last = pictures.prepare([PNG, file, PNG], TextOptions())
    assert isinstance(first, Prepared) and isinstance(last, Prepared)


def test_a_picture_that_is_a_bomb_to_pillow_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where more pixels are allowed than Pillow opens without a warning, its own limit is an error, too."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InvalidRequestError, match="far too many pixels"):
        picture_tower.decode_picture(PNG, 1 << 40)


def test_folders_that_do_not_say_how_pixels_are_made(clip_folder: Path, pictures: PictureTower, tmp_path: Path) -> None:
    file = shutil.copy(clip_folder / "onnx" / "image.onnx", tmp_path / "image.onnx")
    with pytest.raises(FolderError, match="takes pixels") as caught:
        PictureTower(graphsurgery.load(file), SETTINGS)
    assert "preprocessor_config.json" in caught.value.advice
    shutil.copy(clip_folder / "preprocessor_config.json", tmp_path)
    taken = graphsurgery.add_image_input(file)
    graphsurgery.save(taken, tmp_path / "pictures.onnx")
    (tmp_path / "preprocessor_config.json").unlink()
    tower = PictureTower(graphsurgery.load(tmp_path / "pictures.onnx"), SETTINGS)  # has the processor already
    assert (
        np.abs(
            embed(tower, PNG) - embed(PictureTower(graphsurgery.load(clip_folder / "onnx" / "image.onnx"), SETTINGS), PNG)
        ).max()
        < CLOSE
    )
    with pytest.raises(UnsupportedModelError, match="not pictures alone"):
        PictureTower(graphsurgery.load(clip_folder / "onnx" / "model.onnx"), SETTINGS)


def test_the_facts_of_a_tower(pictures: PictureTower, clip_folder: Path) -> None:
    pictures.warm_up()
    facts = pictures.facts
    assert facts.model == str(clip_folder / "onnx" / "image.onnx") and facts.dims == pictures.width and facts.is_normalized
    assert facts.is_batch_invariant is not None and facts.similarity == "cosine"


def test_what_decides_a_row_decides_the_identity(clip_folder: Path, tmp_path: Path, pictures: PictureTower) -> None:
    folder = tmp_path / "other"
    shutil.copytree(clip_folder, folder)
    again = PictureTower(graphsurgery.load(folder / "onnx" / "image.onnx"), SETTINGS)
    (folder / "preprocessor_config.json").write_text(json.dumps({**PROCESSOR, "image_mean": [0.5] * 3}), encoding="utf-8")
    other = PictureTower(graphsurgery.load(folder / "onnx" / "image.onnx"), SETTINGS)
    assert again.identity == pictures.identity != other.identity


# --- speech ---------------------------------------------------------------------------------------------------------------


def normalize(clip: np.ndarray) -> np.ndarray:
    """As Wav2Vec2FeatureExtractor."""
    exact = clip.astype(np.float64)
    return ((exact - exact.mean()) / np.sqrt(exact.var() + 1e-7)).astype(np.float32)


def test_clips_of_all_lengths_run_together(clips: SpeechTower) -> None:
    """The row of each is what the file gives the clip alone, normalised as the folder says."""
    sounds = [draw_clip(samples, samples) for samples in (30, 400, 1701, 399)]
    inputs = ready(clips, *map(encode_clip, sounds))
    together = clips.run(inputs)
    for sound, row in zip(sounds, together, strict=True):
        alone = run_alone(clips.path, input_values=normalize(sound)[None], input_lengths=np.array([len(sound)]))
        assert np.abs(row - alone).max() < CLOSE
    assert clips.is_padded and {one.group for one in inputs} == {None}


def test_without_lengths_clips_of_one_length_run_together(tmp_path: Path) -> None:
    folder = make_speech_folder(tmp_path / "speech", lengths=False, do_normalize=False)
    tower = SpeechTower(graphsurgery.load(folder / "model.onnx"), SETTINGS)
    sounds = [draw_clip(samples, samples) for samples in (400, 401)]
    inputs = ready(tower, *map(encode_clip, sounds))
    assert not tower.is_padded and [one.group for one in inputs] == [400, 401]
    for sound, one in zip(sounds, inputs, strict=True):
        assert np.abs(tower.run([one])[0] - run_alone(tower.path, input_values=sound[None])).max() < CLOSE


def test_an_optimized_file_is_what_its_source_was(clips: SpeechTower, tmp_path: Path) -> None:
    """Its edits are recorded below the rewrite: sound is not normalised twice, and lengths still tell padding."""
    shutil.copy(clips.path.parent / "preprocessor_config.json", tmp_path)
    normal = graphsurgery.add_waveform_normalize(clips.path)
    graphsurgery.save(normal, tmp_path / "normal.onnx")
    graphsurgery.optimize(tmp_path / "normal.onnx", output=tmp_path / "fast.onnx", verify=False)
    tower = SpeechTower(graphsurgery.load(tmp_path / "fast.onnx"), SETTINGS)
    files = [encode_clip(draw_clip(samples) / 300) for samples in (500, 1701)]  # so quiet that a second time would be seen
    assert tower.is_padded and tower.path == tmp_path / "fast.onnx"
    assert np.abs(tower.run(ready(tower, *files)) - embed(clips, *files)).max() < 1e-4


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_samples_of_every_size(width: int, clips: SpeechTower) -> None:
    """Two channels give their mean."""
    sound = np.clip(draw_clip(500), -0.9, 0.9)
    halves = np.stack([sound * 0.75, sound * 1.25], axis=1) / 1.25
    mono, stereo = ready(clips, encode_clip(sound, width), encode_clip(halves, width))
    step = 2.0 ** (1 - 8 * width)
    assert np.abs(mono.content - sound).max() <= step / 2 + 1e-7
    assert np.abs(stereo.content - sound / 1.25).max() <= step / 2 + 1e-7


WAV = encode_clip(draw_clip(500))
FLOATS = WAV[:20] + struct.pack("<H", 3) + WAV[22:]


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (b"", "no bytes"), ("clip.wav", "str, not bytes"), (b"RIFF", "cannot be read"), (b"RIFF" + bytes(60), "cannot be read"),
        (b"ID3" + bytes(99), "cannot be read"), (PNG, "cannot be read"), (WAV[:40], "cannot be read"),
        (FLOATS, "unknown format: 3"),
        (WAV[:200], "ends after 78 of the 500"), (encode_clip(draw_clip(500), rate=8000), "8000 samples a second"),
        (write_wave(b""), "has 0 samples"), (encode_clip(draw_clip(29)), "needs 30"),
        (encode_clip(draw_clip(2 * RATE + 1)), "at most 2"),
        (WAV[:34] + struct.pack("<H", 64) + WAV[36:], "8 bytes"),
    ],
)  # fmt: skip
def test_hostile_clips(file: object, message: str, clips: SpeechTower) -> None:
    assert re.search(message, refuse(clips, file).message)
    first, _ = clips.prepare([WAV, file], TextOptions())
    assert isinstance(first, Prepared)


def test_a_clip_from_a_pipe(clips: SpeechTower) -> None:
    """The program that wrote it did not know how long it would be."""
    piped = WAV[:40] + struct.pack("<I", 0xFFFFFFFF) + WAV[44:]
    assert np.array_equal(embed(clips, piped), embed(clips, WAV))


def test_folders_that_do_not_say_the_rate(clips: SpeechTower, tmp_path: Path) -> None:
    file = shutil.copy(clips.path, tmp_path / "model.onnx")
    with pytest.raises(FolderError, match="states a sampling_rate"):
        SpeechTower(graphsurgery.load(file), SETTINGS)
    (tmp_path / "preprocessor_config.json").write_text('{"sampling_rate": "fast"}', encoding="utf-8")
    with pytest.raises(GraphSurgeryError, match="sampling_rate"):
        SpeechTower(graphsurgery.load(file), SETTINGS)
