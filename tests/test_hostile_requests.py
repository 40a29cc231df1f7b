"""Requests that nobody means well with: each gets a typed refusal, and the service answers the next one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from served_folders import make_tower, serve
from starlette.testclient import TestClient

from graphsurgery.serving.towers import TEXT

JSON = {"content-type": "application/json"}
MOST = 8
ROUTES = {
    "/embed": "inputs", "/": "inputs", "/embed_batch": "texts", "/v1/embeddings": "input", "/embeddings": "input",
    "/v2/embed": "texts", "/tokenize": "inputs",
}  # fmt: skip
"""The field that holds the texts of each route."""


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    """A service whose vectors are the lengths of texts."""
    with serve(make_tower(TEXT, lambda text: [float(len(text))], 1), max_items=MOST) as opened:
        yield opened


def check(client: TestClient, path: str, content: bytes, status: int, says: str = "") -> None:
    """The refusal has the status and the route's own form, and the next request is answered."""
    done = client.post(path, content=content, headers=JSON)
    assert done.status_code == status, done.text
    found = done.json()
    if path.startswith("/v2/"):
        message = found.pop("message")
    elif path in ("/v1/embeddings", "/embeddings"):
        assert set(found["error"]) == {"message", "type", "param", "code"}
        message = found["error"]["message"]
    else:
        message = found["error"]
        assert found["error_type"] in ("Validation", "Empty", "NotFound")
    assert says in message and len(message) < 1000
    assert client.post("/embed_batch", json={"texts": "abc"}).json()["embeddings"] == [[3.0]]


BODIES: list[tuple[str, bytes, str]] = [
    ("nothing", b"", "not JSON"),
    ("no JSON", b"inputs=abc", "not JSON"),
    ("NaN", b'{"FIELD": "a", "dimensions": NaN}', "not JSON"),
    ("a lone surrogate", rb'{"FIELD": "\ud800"}', "not JSON"),
    ("UTF-16", '{"FIELD": "a"}'.encode("utf-16"), "not JSON"),
    ("bytes that are no UTF-8", b'{"FIELD": "\xff"}', "not JSON"),
    ("NUL as it is", b'{"FIELD": "a\x00b"}', "not JSON"),
    ("half of an object", b'{"FIELD": "a"', "not JSON"),
    ("deep lists", b'{"FIELD": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not JSON"),
    ("a number of many digits", b'{"FIELD": "a", "dimensions": ' + b"9" * 5000 + b"}", ""),
]


@pytest.mark.parametrize("path", ["/embed", "/v1/embeddings", "/v2/embed"])
@pytest.mark.parametrize(("content", "says"), [one[1:] for one in BODIES], ids=[one[0] for one in BODIES])
def test_what_is_no_json(path: str, content: bytes, says: str, client: TestClient) -> None:
    content = content.replace(b"FIELD", ROUTES[path].encode())
    check(client, path, content, 400 if says else client.post(path, content=content).status_code, says)
    assert 400 <= client.post(path, content=content).status_code < 500


WRONG: list[tuple[Any, int, str]] = [
    ("", 422, "cannot be empty"),
    (["a", ""], 422, "[1]` cannot be empty"),
    ([], 400, "the batch is empty"),
    ("a\0b", 422, "NUL"),
    (["a"] * (MOST + 1), 422, "batch size 9 > maximum allowed batch size 8"),
]


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    ("value", "status", "says"), WRONG, ids=["empty text", "empty among others", "no texts", "NUL", "many"]
)
def test_texts_that_are_refused(path: str, value: Any, status: int, says: str, client: TestClient) -> None:
    if path == "/v2/embed" and isinstance(value, str):
        value = [value]
    check(client, path, json.dumps({ROUTES[path]: value}).encode(), status, says)


TYPES: list[Any] = [
    None,
    3,
    2.5,
    True,
    [None],
    [1.5],
    [True],
    {},
    {"text": 3},
    {"text": "a", "image": "b"},
    [["a", "b"]],
    [[[1]]],
    [[]],
]


@pytest.mark.parametrize("path", ["/embed", "/embed_batch", "/v1/embeddings", "/v2/embed", "/tokenize", "/similarity"])
@pytest.mark.parametrize("value", TYPES, ids=map(str, TYPES))
def test_wrong_types(path: str, value: Any, client: TestClient) -> None:
    check(client, path, json.dumps({ROUTES.get(path, "inputs"): value}).encode(), 422)


@pytest.mark.parametrize("value", [[1, 2], [[1, 2], [3]], [-1], [[2**63]]], ids=str)
def test_token_ids(value: Any, client: TestClient) -> None:
    check(client, "/v1/embeddings", json.dumps({"input": value}).encode(), 422, "check_embedding_ctx_length=False")


@pytest.mark.parametrize("content", [b"[]", b'"a"', b"3", b"null", b"{}", b'{"input": "a", "inputs_": 1}'])
def test_bodies_without_the_field(content: bytes, client: TestClient) -> None:
    for path in ("/embed", "/", "/embed_batch", "/v2/embed", "/tokenize", "/similarity"):
        check(client, path, content, 422)


@pytest.mark.parametrize(
    ("path", "options", "says"),
    [
        ("/embed", {"dimensions": 0}, "0 dims were asked for"),
        ("/embed", {"dimensions": -1}, "-1 dims were asked for"),
        ("/v1/embeddings", {"dimensions": 2}, "2 dims were asked for, and the model has 1"),
        ("/v1/embeddings", {"dimensions": "1"}, "`dimensions`"),
        ("/v1/embeddings", {"dimensions": 1.0}, "`dimensions`"),
        ("/v1/embeddings", {"dimensions": True}, "`dimensions`"),
        ("/v1/embeddings", {"encoding_format": "hex"}, "`encoding_format`"),
        ("/v1/embeddings", {"truncate_prompt_tokens": 5}, "truncate_prompt_tokens is not offered"),
        ("/embed", {"truncate": "yes"}, "`truncate`"),
        ("/embed", {"truncation_direction": "up"}, "`truncation_direction`"),
        ("/embed", {"prompt_name": "none"}, "no prompt 'none'"),
        ("/embed", {"prompt_name": "x" * 1_000_000}, "`prompt_name`"),
        ("/embed_batch", {"precision": "int8"}, "`precision`"),
        ("/embed_batch", {"dims": 1}, "`dims`"),
        ("/embed_batch", {"x" * 1_000_000: 1}, "`xxx"),
        ("/v2/embed", {"embedding_types": ["int8"]}, "needs the ranges"),
        ("/v2/embed", {"images": ["data:image/png;base64,AAAA"]}, "texts and images was given"),
        ("/v2/embed", {"truncate": "MIDDLE"}, "`truncate`"),
    ],
)  # fmt: skip
def test_options_that_are_wrong(path: str, options: dict[str, Any], says: str, client: TestClient) -> None:
    value = ["a"] if path == "/v2/embed" else "a"
    check(client, path, json.dumps({ROUTES[path]: value} | options).encode(), 422, says)


def test_a_wrong_form_is_refused_before_anything_is_computed() -> None:
    seen: list[str] = []
    with serve(make_tower(TEXT, lambda text: seen.append(text) or [1.0], 1, is_normalized=True)) as client:
        for options in ({"dimensions": 2}, {"normalize": False}):
            assert client.post("/embed", json={"inputs": "a"} | options).status_code == 422
        assert client.post("/v2/embed", json={"texts": ["a"], "output_dimension": 2}).status_code == 422 and seen == []


def test_a_million_wrong_texts_are_one_error(client: TestClient) -> None:
    body = {"inputs": {"source_sentence": "a", "sentences": [1] * 1_000_000}}
    check(client, "/similarity", json.dumps(body).encode(), 422, "`inputs.sentences`: Item 0 is of a wrong type")


def test_a_long_text_is_answered(client: TestClient) -> None:
    """A tower decides what becomes of it: the routes keep it whole."""
    assert client.post("/embed_batch", json={"texts": "x" * 1_000_000}).json()["embeddings"] == [[1e6]]


def test_other_addresses_and_methods(client: TestClient) -> None:
    check(client, "/nothing", b"{}", 404, "there is no route /nothing")
    check(client, "/health", b"{}", 405, "/health does not answer POST")
    check(client, "/" + "x" * 5000, b"{}", 404)
    assert client.get("/embed").status_code == 405 and client.delete("/embed").json()["error_type"] == "Validation"
