"""The routes of the service: each gives the vectors of the Embedder, in the shape that its clients read."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served_folders import bake_fixture, make_tower, open_text_tower, serve
from starlette.testclient import TestClient

from graphsurgery import Embedder
from graphsurgery.serving.text_tower import TextTower
from graphsurgery.serving.towers import AUDIO, IMAGE, PAIR, TEXT

TEXTS = ["the cat sat", "a", "a vector of length one"]
LONG = "the cat " * 40
LONGEST = 32
CLOSE = 1e-6
PNG, WAV = b"\x89PNG\x01\x02", b"RIFF\x03"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bake_fixture(tmp_path_factory.mktemp("routes") / "bert")


@pytest.fixture(scope="module")
def tower(folder: Path) -> TextTower:
    return open_text_tower(folder)


@pytest.fixture(scope="module")
def model(tower: TextTower) -> Embedder:
    return tower.embedder


@pytest.fixture(scope="module")
def client(tower: TextTower) -> Iterator[TestClient]:
    with serve(tower) as opened:
        yield opened


def ask(client: TestClient, path: str, body: Any) -> Any:
    done = client.post(path, json=body)
    assert done.status_code == 200, done.text
    return done.json()


def refused(client: TestClient, path: str, body: Any) -> tuple[int, str]:
    """The status and the message of a refusal, in any of the forms."""
    done = client.post(path, json=body)
    content = done.json()
    inner = content.get("error", content.get("message"))
    return done.status_code, inner["message"] if isinstance(inner, dict) else inner


def close(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(np.array(found, dtype=np.float32), wanted, atol=CLOSE)


# --- vectors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/embed", "/", "/invocations"])
def test_tei(path: str, client: TestClient, model: Embedder) -> None:
    close(ask(client, path, {"inputs": TEXTS}), model.encode(TEXTS))
    close(ask(client, path, {"inputs": TEXTS[0], "prompt_name": "query"}), model.encode(TEXTS[:1], "query"))
    close(ask(client, path, {"inputs": TEXTS, "dimensions": 4, "truncate": None}), model.encode(TEXTS, dims=4))


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embeddings"])
def test_openai(path: str, client: TestClient, model: Embedder) -> None:
    body = {"input": TEXTS, "model": "any", "encoding_format": "float", "user": "me"}
    found = ask(client, path, body)
    close([one["embedding"] for one in found["data"]], model.encode(TEXTS))
    assert [one["index"] for one in found["data"]] == [0, 1, 2] and found["object"] == "list"
    tokens = sum(map(len, model.tokenize(TEXTS)))
    assert found["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens} and found["model"] == "bert-baked"
    packed = ask(client, path, body | {"encoding_format": "base64", "dimensions": 4})["data"]
    close([np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in packed], model.encode(TEXTS, dims=4))


def test_cohere(client: TestClient, model: Embedder) -> None:
    body = {
        "texts": TEXTS,
        "model": "any",
        "input_type": "search_query",
        "embedding_types": ["float", "binary", "ubinary", "base64"],
    }
    found = ask(client, "/v2/embed", body)
    given, vectors = found["embeddings"], model.encode(TEXTS, "query")
    close(given["float"], vectors)
    assert given["ubinary"] == model.encode(TEXTS, "query", precision="ubinary").tolist()
    assert given["binary"] == model.encode(TEXTS, "query", precision="binary").tolist()
    close([np.frombuffer(base64.b64decode(one), "<f4") for one in given["base64"]], vectors)
    assert found["texts"] == TEXTS and found["response_type"] == "embeddings_by_type"
    parts = [{"content": [{"type": "text", "text": one}]} for one in TEXTS]
    close(
        ask(client, "/v2/embed", {"inputs": parts, "output_dimension": 4})["embeddings"]["float"], model.encode(TEXTS, dims=4)
    )


def test_a_batch_whose_inputs_have_errors_of_their_own(client: TestClient, model: Embedder) -> None:
    body = {"texts": ["the cat sat", "", 3, LONG, "a"], "truncate": False, "on_error": "skip"}
    found = ask(client, "/embed_batch", body)
    close([found["embeddings"][0], found["embeddings"][4]], model.encode(["the cat sat", "a"]))
    assert found["embeddings"][1:4] == [None] * 3 and list(found["errors"]) == ["1", "2", "3"] and found["dims"] == 32
    assert found["errors"]["2"] == {"error": "`texts[2]` is the number 3; give a string", "error_type": "Validation"}
    assert found["errors"]["3"]["error"].startswith("`texts[3]`: the text has 162 tokens")
    assert refused(client, "/embed_batch", body | {"on_error": "raise"})[0] == 422
    whole = ask(client, "/embed_batch", {"texts": ["the cat sat", LONG], "precision": "ubinary"})
    assert whole["truncated"] == [1] and whole["errors"] == {}
    assert whole["embeddings"] == model.embed(["the cat sat", LONG], precision="ubinary").vectors.tolist()
    assert ask(client, "/embed_batch", {"texts": [""], "on_error": "skip"})["embeddings"] == [None]


@pytest.mark.parametrize("path", ["/similarity", "/"])
def test_similarity(path: str, client: TestClient, model: Embedder) -> None:
    body = {"inputs": {"source_sentence": TEXTS[0], "sentences": TEXTS}, "parameters": {"truncate": True}}
    close(ask(client, path, body), model.similarity(model.encode(TEXTS[:1]), model.encode(TEXTS))[0])


def test_tokenize(client: TestClient, model: Embedder) -> None:
    (found,) = ask(client, "/tokenize", {"inputs": "the cat", "prompt_name": "query"})
    assert [one["id"] for one in found] == model.tokenize(["the cat"], "query")[0]
    assert found[0] == {"id": found[0]["id"], "text": "[CLS]", "special": True, "start": None, "stop": None}
    assert all("find: the cat"[one["start"] : one["stop"]] == one["text"] for one in found if not one["special"])
    assert not any(one["special"] for one in ask(client, "/tokenize", {"inputs": ["the"], "add_special_tokens": False})[0])


# --- lengths --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["Left", "left", "Right", "right"])
def test_cuts_are_told(direction: str, client: TestClient, model: Embedder) -> None:
    text = "a vector " + LONG + "of length one"
    done = client.post("/embed", json={"inputs": [text, "a"], "truncation_direction": direction})
    assert done.headers["x-truncated-inputs"] == "1"
    is_beginning = np.allclose(done.json()[0], model.embed([text]).vectors[0], atol=CLOSE)
    assert is_beginning == (direction.lower() == "right")
    assert ask(client, "/v2/embed", {"texts": [text, "a"]})["meta"]["warnings"] == ["inputs that were cut: 1"]
    usage = ask(client, "/v1/embeddings", {"input": [text, "a"]})["usage"]
    assert usage["truncated_inputs"] == 1 and usage["total_tokens"] == LONGEST + 3
    assert "x-truncated-inputs" not in client.post("/embed", json={"inputs": "a"}).headers


def test_long_texts_are_refused_where_the_request_or_the_service_says_so(client: TestClient, tower: TextTower) -> None:
    status, message = refused(client, "/embed", {"inputs": ["a", LONG], "truncate": False})
    assert status == 422 and message.startswith("`inputs[1]`: the text has 162 tokens, and the model takes 32")
    assert refused(client, "/v2/embed", {"texts": [LONG], "truncate": "NONE"})[0] == 422
    with serve(tower, cut_long=False) as strict:
        assert (
            refused(strict, "/v1/embeddings", {"input": LONG})[0] == refused(strict, "/v2/embed", {"texts": [LONG]})[0] == 422
        )
        assert ask(strict, "/v2/embed", {"texts": [LONG], "truncate": "START"})["meta"]["warnings"]
        assert len(ask(strict, "/embed", {"inputs": LONG, "truncate": True})) == 1


def test_headers_tell_where_the_time_went(client: TestClient) -> None:
    headers = client.post("/embed", json={"inputs": ["abc", "de"]}).headers
    assert (headers["x-compute-type"], headers["x-compute-characters"]) == ("cpu", "5")
    names = ("compute-time", "total-time", "tokenization-time", "queue-time", "inference-time", "compute-tokens")
    assert all(headers[f"x-{name}"].isdigit() for name in names)


# --- token ids ------------------------------------------------------------------------------------------------------------


def test_token_ids_are_refused_unless_they_are_asked_for(client: TestClient, tower: TextTower, model: Embedder) -> None:
    ids = model.tokenize(TEXTS)
    for body in ({"input": ids}, {"input": ids[0]}):
        status, message = refused(client, "/v1/embeddings", body)
        assert status == 422 and "check_embedding_ctx_length=False" in message
    with serve(tower, accept_token_ids=True) as opened:
        found = ask(opened, "/v1/embeddings", {"input": ids})["data"]
        close([one["embedding"] for one in found], model.encode(TEXTS))
        close(ask(opened, "/embed", {"inputs": ids[0]}), model.encode(TEXTS[:1]))
        for wrong in (-1, 1 << 40, 10**6):
            assert refused(opened, "/embed", {"inputs": [[2, wrong]]})[0] == 422


# --- vectors of other lengths ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_normalized", [True, False])
def test_normalize(is_normalized: bool) -> None:
    """The routes of Text Embeddings Inference normalise, as it does; the others give vectors as the file does."""
    vector = [0.6, 0.8, 0.0] if is_normalized else [3.0, 4.0, 0.0]
    with serve(make_tower(TEXT, lambda _: vector, 3, is_normalized=is_normalized)) as client:
        assert ask(client, "/embed", {"inputs": "a"}) == [pytest.approx([0.6, 0.8, 0.0])]
        assert ask(client, "/embed_batch", {"texts": "a"})["embeddings"] == [pytest.approx(vector)]
        assert ask(client, "/embed", {"inputs": "a", "dimensions": 1}) == [[1.0]]
        cut = [1.0] if is_normalized else [3.0]
        assert ask(client, "/embed_batch", {"texts": "a", "dimensions": 1})["embeddings"] == [cut]
        if is_normalized:
            status, message = refused(client, "/embed", {"inputs": "a", "normalize": False})
            assert status == 422 and "gives vectors of length one" in message
        else:
            assert ask(client, "/embed", {"inputs": "a", "normalize": False}) == [vector]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_vector_without_numbers_is_no_answer(wrong: float) -> None:
    with serve(make_tower(TEXT, lambda text: [wrong if text == "bad" else 1.0], 1)) as client:
        assert refused(client, "/embed", {"inputs": ["good", "bad"]})[0] == 424
        assert refused(client, "/v1/embeddings", {"input": "bad"})[0] == 500
        found = ask(client, "/embed_batch", {"texts": ["good", "bad"], "on_error": "skip"})
        assert found["embeddings"] == [[1.0], None] and "not finite" in found["errors"]["1"]["error"]


# --- pictures and sound ---------------------------------------------------------------------------------------------------


def data_url(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@pytest.fixture(scope="module")
def joint() -> Iterator[TestClient]:
    """A model of texts, pictures and sound, whose vectors tell which tower made them, and from how many characters or bytes."""
    towers = [
        make_tower(kind, lambda one, place=place: [place, len(one)], 2) for place, kind in enumerate((TEXT, IMAGE, AUDIO))
    ]
    with serve(*towers) as client:
        yield client


@pytest.mark.parametrize(("content", "kind", "tower"), [(PNG, "image/png", 1), (WAV, "audio/wav", 2)])
def test_pictures_and_sound(content: bytes, kind: str, tower: int, joint: TestClient) -> None:
    row, url, name = [tower, len(content)], data_url(content, kind), kind.partition("/")[0]
    for path in ("/embed", "/"):
        done = joint.post(f"{path}?normalize=false", content=content, headers={"content-type": kind})
        assert done.json() == [row], done.text
    close(joint.post("/embed?dimensions=1", content=content, headers={"content-type": kind}).json(), [[1.0]])
    mixed = ["abc", url, {"text": url}, {name: url}]
    assert ask(joint, "/embed", {"inputs": mixed, "normalize": False}) == [[0, 3], row, [0, len(url)], row]
    assert ask(joint, "/v1/embeddings", {"input": [url], "modality": name})["data"][0]["embedding"] == row
    assert ask(joint, "/v1/embeddings", {"input": url, "modality": "text"})["data"][0]["embedding"] == [0, len(url)]


def test_pictures_in_coheres_form(joint: TestClient) -> None:
    url = data_url(PNG, "image/png")
    for body in ({"images": [url]}, {"inputs": [{"content": [{"type": "image_url", "image_url": {"url": url}}]}]}):
        assert ask(joint, "/v2/embed", body)["embeddings"]["float"] == [[1, len(PNG)]]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"inputs": {"image": "https://example.org/cat.png"}}, "`inputs.image` is no data URL of pictures"),
        ({"inputs": "data:image/png;base64,@@"}, "`inputs` holds no valid base64"),
        ({"inputs": "data:image/png,abc"}, "`inputs` is a data URL without base64"),
        ({"inputs": [{"image": 3}]}, "`inputs[0]` is an object that holds no input"),
        ({"inputs": [{"image": data_url(WAV, "audio/wav")}]}, "`inputs[0].image` is no data URL of pictures"),
        ({"inputs": "data:image/png;base64,"}, "`inputs` holds no bytes"),
    ],
)
def test_pictures_that_are_none(body: Any, message: str, joint: TestClient) -> None:
    status, found = refused(joint, "/embed", body)
    assert status in (400, 422) and message in found


def test_a_model_of_texts_takes_no_pictures(client: TestClient) -> None:
    done = client.post("/embed", content=PNG, headers={"content-type": "image/png"})
    assert done.status_code == 422 and "this model embeds texts" in done.json()["error"]
    assert "this model embeds texts" in refused(client, "/embed", {"inputs": data_url(PNG, "image/png")})[1]


# --- reranking ------------------------------------------------------------------------------------------------------------


def score(pair: tuple[str, str]) -> list[float]:
    return [float(len(set(pair[0]) & set(pair[1])) - 1)]


@pytest.fixture(scope="module")
def ranker() -> Iterator[TestClient]:
    with serve(make_tower(PAIR, score, 1)) as client:
        yield client


def test_rerank_in_the_form_of_tei(ranker: TestClient) -> None:
    body = {"query": "abc", "texts": ["x", "abc", "a"]}
    for path in ("/rerank", "/"):
        found = ask(ranker, path, body)
        assert [one["index"] for one in found] == [1, 2, 0] and all(one.keys() == {"index", "score"} for one in found)
    close([one["score"] for one in found], 1 / (1 + np.exp([-2.0, 0.0, 1.0])))
    with serve(make_tower(PAIR, lambda _: [-1e30], 1)) as sure:
        assert ask(sure, "/rerank", body)[0] == {"index": 0, "score": 0.0}
    raw = ask(ranker, "/rerank", body | {"raw_scores": True, "return_text": True})
    assert raw[0] == {"index": 1, "score": 2.0, "text": "abc"}


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_rerank_in_coheres_form(path: str, ranker: TestClient) -> None:
    body = {"query": "abc", "documents": ["x", {"text": "abc"}, "a"], "model": "any"}
    found = ask(ranker, path, body | {"top_n": 2, "return_documents": True})
    assert [one["index"] for one in found["results"]] == [1, 2] and found["results"][0]["document"] == {"text": "abc"}
    assert found["usage"]["total_tokens"] == 3 and found["results"][0]["relevance_score"] == pytest.approx(0.8808, abs=1e-4)
    assert len(ask(ranker, path, body | {"top_n": 0})["results"]) == 3


def test_rerank_refuses(ranker: TestClient, client: TestClient) -> None:
    assert refused(ranker, "/rerank", {"query": "a"}) == (
        422,
        "either `texts` or `documents` has to be given; give one of them",
    )
    assert refused(ranker, "/rerank", {"query": "a", "texts": []})[0] == 400
    assert refused(ranker, "/v2/rerank", {"query": "a", "documents": [{"title": "b"}]})[0] == 422
    assert refused(ranker, "/rerank", {"query": "a", "texts": ["b"], "top_n": -1})[0] == 422
    assert refused(ranker, "/embed", {"inputs": "a"}) == (
        422,
        "this model scores a text beside a query, and embeds nothing; ask /rerank",
    )
    assert refused(client, "/rerank", {"query": "a", "texts": ["b"]})[0] == 404
    with serve(make_tower(PAIR, lambda _: [0.25], 1, is_probability=True)) as bounded:
        assert ask(bounded, "/rerank", {"query": "a", "texts": ["b"]}) == [{"index": 0, "score": 0.25}]
        assert refused(bounded, "/rerank", {"query": "a", "texts": ["b"], "raw_scores": True})[0] == 422


# --- what is served -------------------------------------------------------------------------------------------------------


def test_health_and_info(client: TestClient, model: Embedder) -> None:
    for path in ("/health", "/ready", "/ping", "/"):
        assert client.get(path).status_code == client.head(path).status_code == 200
    info = client.get("/info").json()
    assert info["model_id"] == "bert-baked" and info["max_input_length"] == LONGEST and len(info["model_sha"]) == 64
    one = info["towers"]["text"]
    assert one["providers"] == model.providers and one["is_batch_invariant"] is True and one["prompts"] == model.prompts
    assert one["is_normalized"] == model.is_normalized and one["dims"] == 32
    assert client.get("/v1/models").json()["data"][0]["id"] == "bert-baked"


def test_the_openapi_page_knows_every_route(client: TestClient) -> None:
    page = client.get("/openapi.json").json()
    posts = {path for path, methods in page["paths"].items() if "post" in methods}
    assert posts == {
        "/", "/invocations", "/embed", "/embed_batch", "/similarity", "/tokenize", "/v1/embeddings", "/embeddings", "/v2/embed",
        "/rerank", "/v1/rerank", "/v2/rerank",
    }  # fmt: skip
    for path in posts:
        reference = page["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        assert page["components"]["schemas"][reference.rsplit("/", 1)[1]]["properties"]
    shown = client.get("/docs").text
    assert all(f"POST {path}</code>" in shown for path in posts)
    assert "encoding_format" in shown and "src=" not in shown and "http" not in shown, "it loads nothing"


def test_a_service_that_is_not_ready() -> None:
    with serve(make_tower(TEXT, lambda _: [1.0], 1)) as client:
        client.app.app.state.context.service.drain()
        assert client.get("/ready").status_code == 503 and client.get("/health").status_code == 200
