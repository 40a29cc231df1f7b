"""A CLIP folder, a speech folder and a cross-encoder's behind the real routes: the rows are those of ONNX Runtime alone."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from baked_folders import HIDDEN
from media import bake_clip_folder, draw_clip, draw_picture, encode_clip, encode_picture, make_speech_folder
from served_folders import serve
from starlette.testclient import TestClient
from test_bake_classifiers import KINDS, classifier
from test_serving_media import normalize, run_alone

import graphsurgery
from graphsurgery import Embedder
from graphsurgery.serving.folder_towers import open_towers
from graphsurgery.serving.settings import ServeSettings

SETTINGS = ServeSettings(threads=1, max_batch_tokens=256)
PICTURES = [encode_picture(draw_picture(seed)) for seed in range(3)]
BROKEN = PICTURES[0][:300]
CLOSE = 1e-5


def serve_folder(folder: Path) -> Any:
    return serve(*open_towers(folder, SETTINGS).values())


def data_url(content: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def ask(client: TestClient, route: str, body: Any, **given: Any) -> Any:
    done = client.post(route, **({"content": body} if isinstance(body, bytes) else {"json": body}), **given)
    assert done.status_code == 200, done.text
    return done.json()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, TestClient]]:
    folder = bake_clip_folder(tmp_path_factory.mktemp("clip"))
    with serve_folder(folder) as client:
        yield folder, client


def test_texts_and_pictures_are_in_one_space(clip: tuple[Path, TestClient]) -> None:
    """Pictures as bodies and as data URLs, beside texts in one request, by every family of routes."""
    folder, client = clip
    texts = ["how are you?", "It is cold today."]
    urls = [data_url(one, "image/png") for one in PICTURES]
    (alone,) = ask(client, "/embed", PICTURES[0], headers={"content-type": "image/png"})
    together = np.array(ask(client, "/embed", {"inputs": [*texts, *urls]}))
    np.testing.assert_allclose(together[:2], Embedder(folder, max_batch_tokens=256).encode(texts), atol=CLOSE)
    np.testing.assert_allclose(together[2], alone, atol=CLOSE)
    openai = ask(client, "/v1/embeddings", {"model": "clip", "input": [texts[0], urls[1]]})["data"]
    np.testing.assert_allclose([one["embedding"] for one in openai], together[[0, 3]], atol=CLOSE)
    cohere = {"model": "clip", "input_type": "image", "embedding_types": ["float"], "images": [urls[2]]}
    np.testing.assert_allclose(ask(client, "/v2/embed", cohere)["embeddings"]["float"], together[4:], atol=CLOSE)
    assert np.allclose(np.linalg.norm(together, axis=1), 1)
    assert set(ask_info(client)["towers"]) == {"text", "image"}


def ask_info(client: TestClient) -> Any:
    return client.get("/info").json()


def test_a_broken_picture_fails_alone(clip: tuple[Path, TestClient]) -> None:
    _, client = clip
    refused = client.post("/embed", content=BROKEN, headers={"content-type": "image/png"})
    assert refused.status_code == 422 and "cannot be decoded" in refused.json()["error"]
    urls = [data_url(one, "image/png") for one in (PICTURES[0], BROKEN, PICTURES[1])]
    found = ask(client, "/embed_batch", {"texts": urls, "on_error": "skip"})
    assert list(found["errors"]) == ["1"] and found["errors"]["1"]["error_type"] == "Validation"
    assert [row is None for row in found["embeddings"]] == [False, True, False]


def test_clips_of_speech(tmp_path: Path) -> None:
    folder = make_speech_folder(tmp_path / "speech")
    sounds = [draw_clip(samples, samples) for samples in (500, 1234)]
    feeds = [{"input_values": normalize(one)[None], "input_lengths": np.array([len(one)])} for one in sounds]
    wanted = np.array([run_alone(folder / "model.onnx", **feed) for feed in feeds])
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)  # as Text Embeddings Inference does unless it is told otherwise
    with serve_folder(folder) as client:
        (one,) = ask(client, "/embed", encode_clip(sounds[0]), headers={"content-type": "audio/wav"})
        both = ask(client, "/embed", {"inputs": [data_url(encode_clip(one), "audio/wav") for one in sounds]})
        wrong = client.post("/embed", content=encode_clip(sounds[0], rate=8000), headers={"content-type": "audio/wav"})
        text = client.post("/embed", json={"inputs": "how are you?"})
    np.testing.assert_allclose([one, *both], [wanted[0], *wanted], atol=CLOSE)
    assert wrong.status_code == 422 and "takes 16000; send" in wrong.json()["error"] and "ffmpeg" in wrong.json()["error"]
    assert text.status_code == 422 and "embeds sound" in text.json()["error"]


def test_texts_ranked_by_a_cross_encoder(tmp_path: Path) -> None:
    layers, config, _ = KINDS["modernbert"]
    classifier(tmp_path / "ranker", "modernbert", layers | {"classifier": (1, HIDDEN)}, **config)
    folder = graphsurgery.bake(tmp_path / "ranker", verify=False).folder
    texts = ["fine.", "It is cold today.", "how are you?", "how " * 40]
    with serve_folder(folder) as client:
        found = ask(client, "/rerank", {"query": "how are you?", "texts": texts, "return_text": True})
        cohere = ask(client, "/v2/rerank", {"model": "ranker", "query": "how are you?", "documents": texts, "top_n": 2})
        cut = client.post("/rerank", json={"query": "how are you?", "texts": texts, "truncate": False})
        embed = client.post("/embed", json={"inputs": "how are you?"})
        model_type = ask_info(client)["model_type"]
    scores = [one["score"] for one in found]
    assert scores == sorted(scores, reverse=True) and all(0 < score < 1 for score in scores) and len(set(scores)) == 4
    assert [texts[one["index"]] for one in found] == [one["text"] for one in found]
    assert [one["index"] for one in cohere["results"]] == [one["index"] for one in found][:2]
    assert cut.status_code == 422 and "longer than the 32 tokens" in cut.json()["error"]
    assert embed.status_code == 422 and "/rerank" in embed.json()["error"] and model_type == {"reranker": {}}
