"""Real folders behind the routes: CLIP with both towers, speech, and a cross-encoder, each as its tower gives it alone."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media import bake_clip_folder, draw_clip, draw_picture, encode_clip, encode_picture, make_speech_folder
from served_folders import serve
from starlette.testclient import TestClient
from test_bake_classifiers import KINDS, classifier

import graphsurgery
from graphsurgery.serving.folder_towers import open_towers
from graphsurgery.serving.settings import ServeSettings
from graphsurgery.serving.towers import Prepared, TextOptions, Tower

SETTINGS = ServeSettings(threads=1, max_batch_tokens=512)
CLOSE = 1e-5


@contextmanager
def serve_folder(folder: Path) -> Iterator[tuple[TestClient, dict[str, Tower]]]:
    towers = open_towers(folder, SETTINGS)
    with serve(*towers.values()) as client:
        yield client, towers


def compute(tower: Tower, one: Any) -> np.ndarray:
    """The row of one input, without a service."""
    (ready,) = tower.prepare([one], TextOptions())
    assert isinstance(ready, Prepared)
    return tower.run([ready])[0]


def close(found: Any, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(np.array(found, dtype=np.float32), wanted, atol=CLOSE)


def data_url(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def test_texts_and_pictures_of_one_folder(tmp_path: Path) -> None:
    picture = encode_picture(draw_picture())
    with serve_folder(bake_clip_folder(tmp_path)) as (client, towers):
        wanted = np.stack([compute(towers["text"], "how are you"), compute(towers["image"], picture)])
        found = client.post("/embed", json={"inputs": ["how are you", data_url(picture, "image/png")]})
        close(found.json(), wanted)
        close(client.post("/", content=picture, headers={"content-type": "image/png"}).json()[0], wanted[1])
        both = client.post("/v1/embeddings", json={"input": ["how are you", data_url(picture, "image/png")]}).json()["data"]
        close([one["embedding"] for one in both], wanted)
        cohere = client.post("/v2/embed", json={"images": [data_url(picture, "image/png")], "embedding_types": ["ubinary"]})
        assert cohere.json()["embeddings"]["ubinary"] == [np.packbits(wanted[1] > 0).tolist()]
        bad = client.post("/embed", json={"inputs": ["how are you", data_url(picture[:60], "image/png")]})
        assert bad.status_code == 422 and bad.json()["error"].startswith("`inputs[1]`: a picture cannot be decoded")
        skipped = client.post("/embed_batch", json={"texts": [data_url(b"GIF", "image/gif"), "you"], "on_error": "skip"}).json()
        assert list(skipped["errors"]) == ["0"] and skipped["embeddings"][0] is None
        assert client.get("/info").json()["towers"].keys() == {"text", "image"}


def test_clips_of_speech(tmp_path: Path) -> None:
    clip = encode_clip(draw_clip(8000))
    with serve_folder(make_speech_folder(tmp_path / "speech")) as (client, towers):
        wanted = compute(towers["audio"], clip)
        close(client.post("/embed?normalize=false", content=clip, headers={"content-type": "audio/wav"}).json()[0], wanted)
        body = {"input": data_url(clip, "audio/wav"), "modality": "audio"}
        close(client.post("/v1/embeddings", json=body).json()["data"][0]["embedding"], wanted)
        refused = client.post("/embed", content=clip[:30], headers={"content-type": "audio/wav"})
        assert refused.status_code == 422 and refused.json()["error"].startswith("`body`: ")
        slow = encode_clip(draw_clip(8000), rate=8000)
        refused = client.post("/embed", content=slow, headers={"content-type": "audio/wav"})
        assert (
            refused.status_code == 422
            and "takes 16000; send" in refused.json()["error"]
            and "ffmpeg" in refused.json()["error"]
        )
        assert client.post("/embed", json={"inputs": "a text"}).json()["error"].endswith("send sound")


@pytest.mark.parametrize("path", ["/rerank", "/"])
def test_a_cross_encoder(path: str, tmp_path: Path) -> None:
    layers, config, _ = KINDS["modernbert"]
    classifier(tmp_path / "ranker", "modernbert", layers, **config)
    texts = ["fine.", "It is cold today.", "how are you?"]
    with serve_folder(graphsurgery.bake(tmp_path / "ranker", verify=False).folder) as (client, towers):
        wanted = np.array([compute(towers["pair"], ("how are you?", one))[0] for one in texts])
        found = client.post(path, json={"query": "how are you?", "texts": texts, "return_text": True}).json()
        assert [one["index"] for one in found] == np.argsort(-wanted, kind="stable").tolist()
        close([one["score"] for one in found], np.sort(wanted)[::-1])
        assert towers["pair"].facts.is_probability and [one["text"] for one in found] == [texts[one["index"]] for one in found]
        assert client.get("/info").json()["model_type"] == {"reranker": {}}
        best = client.post("/v2/rerank", json={"query": "how are you?", "documents": texts, "top_n": 1}).json()["results"]
        assert [one["index"] for one in best] == [int(np.argmax(wanted))]
        long = client.post(path, json={"query": "you", "texts": ["how " * 40], "truncate": False})
        assert long.status_code == 422 and "longer than the 32 tokens" in long.json()["error"]
        assert "/rerank" in client.post("/embed", json={"inputs": "how are you?"}).json()["error"]
