"""The tower of pairs, and which towers a folder has by the structure of its files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from baked_folders import HIDDEN, put_json, write_tokenizer
from conftest import FIXTURES
from encoders import tiny_encoder
from joints import joint
from media import bake_clip_folder, make_speech_folder
from picture_towers import picture_tower
from test_bake_classifiers import KINDS, classifier
from test_media import spectrum_encoder
from tokenizers import Tokenizer

import graphsurgery
from graphsurgery.errors import FolderError, GraphSurgeryError, UnsupportedModelError
from graphsurgery.serving.folder_towers import open_towers
from graphsurgery.serving.pair_tower import PairTower
from graphsurgery.serving.settings import ServeSettings
from graphsurgery.serving.towers import AUDIO, IMAGE, PAIR, TEXT, Prepared, TextOptions

SETTINGS = ServeSettings(threads=1, max_batch_tokens=512)
USUAL = TextOptions()
CLOSE = 1e-6
LONGEST = 32
LONG = "how are you ? " * 30
PAIRS = [
    ("how are you?", "fine."), ("is it cold today", "It is cold today. It is fine."), ("?", ""), ("fine", LONG), (LONG, "you"),
]  # fmt: skip
NO_PAIRS = (
    "how are you",
    ("one",),
    ("one", "two", "three"),
    (1, "two"),
    ("one", None),
    ("one", "\ud800"),
    ("\ud800", "one"),
    None,
)
LAYERS, CONFIG, _ = KINDS["modernbert"]
"""A head that pools the mean: the tiny encoder's first token knows nothing of the others."""


@pytest.fixture(scope="module")
def ranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A baked cross-encoder: its scores go through a sigmoid."""
    folder = tmp_path_factory.mktemp("pairs") / "ranker"
    classifier(folder, "modernbert", LAYERS, **CONFIG)
    return graphsurgery.bake(folder, verify=False).folder


@pytest.fixture(scope="module")
def pairs(ranker: Path) -> PairTower:
    tower = open_towers(ranker, SETTINGS)[PAIR]
    assert isinstance(tower, PairTower)
    tower.warm_up()
    return tower


def ready(tower: PairTower, pairs: list[tuple[str, str]], options: TextOptions = USUAL) -> list[Prepared]:
    found = tower.prepare(pairs, options)
    assert all(isinstance(one, Prepared) for one in found), found
    return [one for one in found if isinstance(one, Prepared)]


def score_alone(folder: Path, query: str, text: str) -> np.ndarray:
    """The score of one pair, by tokenizers and ONNX Runtime alone."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(LONGEST, strategy="longest_first")
    encoded = tokenizer.encode(query, text)
    arrays = {"input_ids": encoded.ids, "attention_mask": encoded.attention_mask, "token_type_ids": encoded.type_ids}
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    feed = {one.name: np.array([arrays[one.name]]) for one in session.get_inputs()}
    return session.run(["scores"], feed)[0][0]


def test_each_pair_has_its_own_score(ranker: Path, pairs: PairTower) -> None:
    inputs = ready(pairs, PAIRS)
    wanted = np.array([score_alone(ranker, *pair) for pair in PAIRS])
    assert wanted.shape == (len(PAIRS), 1) and len(np.unique(wanted.round(6))) == len(PAIRS)
    assert np.abs(pairs.run(inputs) - wanted).max() < CLOSE
    assert np.abs(np.concatenate([pairs.run([one]) for one in inputs]) - wanted).max() < CLOSE


def test_what_is_cut_is_said(pairs: PairTower) -> None:
    assert [one.is_cut for one in ready(pairs, PAIRS)] == [False, False, False, True, True]
    assert [one.tokens for one in ready(pairs, PAIRS)][-2:] == [LONGEST] * 2
    whole, cut = pairs.prepare(PAIRS[2:4], TextOptions(on_long="error"))
    assert isinstance(whole, Prepared) and isinstance(cut, GraphSurgeryError)
    assert "longer than the 32 tokens" in cut.message and cut.advice
    ends_cold = [("fine", LONG + " cold")]
    from_left, from_right = (ready(pairs, ends_cold, TextOptions(cut_from=side))[0] for side in ("left", "right"))
    assert np.any(pairs.run([from_left]) != pairs.run([from_right]))


def test_a_prompt_goes_before_the_query(pairs: PairTower) -> None:
    prompted = ready(pairs, [("cold", "today")], TextOptions(prompt="query : "))
    assert prompted[0].content.ids.tolist() == ready(pairs, [("query : cold", "today")])[0].content.ids.tolist()


@pytest.mark.parametrize("wrong", NO_PAIRS)
def test_what_is_no_pair_is_an_error_of_its_own(wrong: object, pairs: PairTower) -> None:
    first, error, last = pairs.prepare([PAIRS[0], wrong, PAIRS[1]], USUAL)
    assert isinstance(first, Prepared) and isinstance(last, Prepared)
    assert isinstance(error, GraphSurgeryError) and error.advice


def test_a_pair_of_a_million_characters(pairs: PairTower) -> None:
    (one,) = ready(pairs, [("cold " * 200_000, "today " * 200_000)])
    assert one.is_cut and one.tokens == LONGEST


def test_facts(pairs: PairTower, tmp_path: Path) -> None:
    assert pairs.facts.is_probability and pairs.facts.dims == 1 and not pairs.facts.is_normalized
    identity = {"activation_fn": "torch.nn.modules.linear.Identity", "model_type": "CrossEncoder"}
    classifier(tmp_path / "raw", "modernbert", LAYERS, **CONFIG)
    put_json(tmp_path / "raw" / "config_sentence_transformers.json", identity)
    raw = open_towers(graphsurgery.bake(tmp_path / "raw", verify=False).folder, SETTINGS)[PAIR]
    raw.warm_up()
    assert not raw.facts.is_probability and raw.identity != pairs.identity


# --- folders --------------------------------------------------------------------------------------------------------------


def test_a_clip_folder_has_two_towers_of_one_space(tmp_path: Path) -> None:
    folder = bake_clip_folder(tmp_path)
    towers = open_towers(folder, SETTINGS)
    assert list(towers) == [TEXT, IMAGE] and towers[TEXT].width == towers[IMAGE].width
    assert list(open_towers(folder / "onnx" / "image.onnx", SETTINGS)) == [IMAGE]
    assert list(open_towers(folder / "onnx" / "model.onnx", SETTINGS)) == [TEXT]
    (folder / "onnx" / "image.onnx").write_bytes(picture_tower((8, 8)).SerializeToString())
    with pytest.raises(UnsupportedModelError, match=r"6 dims \(text\) and 4 dims \(image\)"):
        open_towers(folder, SETTINGS)


def test_folders_of_one_tower(tmp_path: Path) -> None:
    speech = make_speech_folder(tmp_path / "speech")
    assert list(open_towers(speech, SETTINGS)) == [AUDIO]
    shutil.copytree(FIXTURES / "bert", tmp_path / "bert")
    assert list(open_towers(graphsurgery.bake(tmp_path / "bert", verify=False).folder, SETTINGS)) == [TEXT]


def test_files_that_are_not_served(tmp_path: Path) -> None:
    for name, model, message in (
        ("joint", joint(), "texts and pictures at once"), ("spectrum", spectrum_encoder(), "takes spectrograms"),
        ("unpooled", tiny_encoder(), "add-pooling"),
    ):  # fmt: skip
        folder = tmp_path / name
        folder.mkdir()
        write_tokenizer(folder)
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(UnsupportedModelError) as caught:
            open_towers(folder, SETTINGS)
        assert message in f"{caught.value.message} {caught.value.advice}" and caught.value.advice
    with pytest.raises(FolderError, match=r"no onnx/model\.onnx"):
        open_towers(tmp_path, SETTINGS)


def test_several_scores_rank_nothing(tmp_path: Path) -> None:
    classifier(tmp_path / "labels", "modernbert", LAYERS | {"classifier": (3, HIDDEN)}, **CONFIG)
    towers = open_towers(graphsurgery.bake(tmp_path / "labels", verify=False).folder, SETTINGS)
    with pytest.raises(UnsupportedModelError, match="gives 3 scores"):
        towers[PAIR].warm_up()
