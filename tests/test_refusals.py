"""Refused requests: each route writes them in the form that its clients read."""

from __future__ import annotations

import json

import pytest

from graphsurgery.errors import RequestError, UnsupportedModelError
from graphsurgery.serving.errors import (
    EmptyRequestError,
    InvalidRequestError,
    LargeRequestError,
    OverloadedError,
    UnauthorizedError,
)
from graphsurgery.serving.refusals import refuse

INVALID = InvalidRequestError("3 dims were asked for", "ask for 2")
MESSAGE = "3 dims were asked for; ask for 2"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/embed", {"error": MESSAGE, "error_type": "Validation"}),
        ("/", {"error": MESSAGE, "error_type": "Validation"}),
        (
            "/v1/embeddings",
            {"error": {"message": MESSAGE, "type": "invalid_request_error", "param": None, "code": "validation"}},
        ),
        ("/v2/embed", {"message": MESSAGE}),
    ],
)
def test_each_route_has_its_form(path: str, body: dict[str, object]) -> None:
    found = refuse(path, INVALID)
    assert (found.status, json.loads(found.content)) == (422, body)


def test_the_flat_form_of_openais_routes() -> None:
    assert refuse("/embeddings", INVALID, is_flat=True).body == {"message": MESSAGE, "code": 422, "type": "Validation"}
    assert refuse("/embed", INVALID, is_flat=True).body == {"error": MESSAGE, "error_type": "Validation"}


def test_a_full_queue_says_when_to_come_back() -> None:
    found = refuse("/v1/embeddings", OverloadedError("the queue is full", retry_after=1.2))
    assert found.status == 429 and found.headers["retry-after"] == "2"
    assert found.body["error"]["type"] == "rate_limit_error"
    assert refuse("/embed", OverloadedError("the queue is full", retry_after=0.1)).headers["retry-after"] == "1"
    assert "retry-after" not in refuse("/embed", INVALID).headers


@pytest.mark.parametrize(
    ("error", "native", "openai"),
    [
        (EmptyRequestError("no texts"), 400, 400),
        (LargeRequestError("too large"), 413, 413),
        (UnauthorizedError("no key"), 401, 401),
        (RequestError("text 1 is wrong"), 422, 422),
        (UnsupportedModelError("the run failed"), 424, 500),
        (ZeroDivisionError("secret"), 500, 500),
    ],
)
def test_each_error_has_its_status(error: Exception, native: int, openai: int) -> None:
    assert (refuse("/embed", error).status, refuse("/v1/embeddings", error).status) == (native, openai)
    assert "secret" not in refuse("/embed", error).body["error"]
