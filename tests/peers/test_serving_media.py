"""The towers of `serve` beside sentence-transformers' CrossEncoder and transformers' CLIP: the same numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers import CrossEncoder
from test_bake_rerankers import CLASSIFIERS, PAIRS, PLANS, export, feed_of, save
from test_image_input import make_processor
from test_towers import export_as_script, make_model
from transformers import AutoModelForSequenceClassification
from transformers.image_utils import load_image

import graphsurgery
from graphsurgery.serving.folder_towers import open_towers
from graphsurgery.serving.settings import ServeSettings
from graphsurgery.serving.towers import IMAGE, PAIR, Prepared, TextOptions, Tower

USUAL = TextOptions()
SETTINGS = ServeSettings(threads=1, max_batch_tokens=512)
QUERY, LONG = PAIRS[0][0], " ".join(word for pair in PAIRS for word in pair)
CLOSE = 2e-5


def run(tower: Tower, inputs: list, options: TextOptions = USUAL) -> np.ndarray:
    """All rows, one by one and together."""
    ready = [one for one in tower.prepare(inputs, options) if isinstance(one, Prepared)]
    rows = np.concatenate([tower.run([one]) for one in ready])
    if len({one.group for one in ready}) == 1:
        np.testing.assert_allclose(tower.run(ready), rows, atol=CLOSE)
    return rows


@pytest.mark.parametrize("name", ["bert", "xlm-roberta"])
def test_scores_and_ranking_are_those_of_the_cross_encoder(name: str, tmp_path: Path) -> None:
    """Long pairs, too: the longer text is cut first. A prompt goes before the query."""
    config, settings = CLASSIFIERS[name]
    folder = tmp_path / "model"
    whole = save(AutoModelForSequenceClassification, config, settings, PLANS[name], folder, num_labels=1)
    model = CrossEncoder(str(folder), device="cpu")
    export(whole.base_model, list(feed_of(model)), "last_hidden_state", folder / "onnx" / "model.onnx")
    tower = open_towers(graphsurgery.bake(folder, verify=False).folder, SETTINGS)[PAIR]
    pairs = [*PAIRS, (QUERY, LONG), (LONG, "ok"), (LONG, LONG + " ok")]
    np.testing.assert_allclose(run(tower, pairs)[:, 0], model.predict(pairs), atol=CLOSE)
    texts = [*(text for _, text in PAIRS), LONG]
    scores = run(tower, [(QUERY, text) for text in texts])[:, 0]
    assert [one["corpus_id"] for one in model.rank(QUERY, texts)] == np.argsort(-scores, kind="stable").tolist()
    prompted = run(tower, pairs, TextOptions(prompt="find this: "))[:, 0]
    np.testing.assert_allclose(prompted, model.predict(pairs, prompt="find this: "), atol=CLOSE)


def test_pictures_are_those_of_clip(tmp_path: Path) -> None:
    """Files as they lie on the disk, turned by their EXIF data."""
    model, processor = make_model("clip"), make_processor("CLIP")
    (tmp_path / "joint").mkdir()
    export_as_script(model, tmp_path / "joint")
    graphsurgery.split_towers(tmp_path / "joint" / "model.onnx", tmp_path / "towers", verify=False)
    processor.save_pretrained(tmp_path / "towers")
    tower = open_towers(tmp_path / "towers" / "image.onnx", SETTINGS)[IMAGE]
    levels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 8
    for name in ("picture.png", "picture.jpg"):
        file = tmp_path / name
        Image.fromarray(levels).resize((120, 90)).save(file, exif=exif)
        pixels = processor(load_image(str(file)), return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            found = model(input_ids=torch.tensor([[1, 98]]), attention_mask=torch.ones(1, 2), pixel_values=pixels)
        (row,) = run(tower, [file.read_bytes()])
        assert row @ found.image_embeds[0].numpy() > 0.99999
