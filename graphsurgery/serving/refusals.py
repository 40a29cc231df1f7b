"""The response to a refused request: its status, its headers, and a body in the form that the clients of its route expect."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from graphsurgery.errors import GraphSurgeryError, RequestError, UnsupportedModelError
from graphsurgery.serving.errors import ServiceError

JSON = "application/json"
FAILED = "the model failed on this request"
NATIVE, OPENAI, COHERE = "native", "openai", "cohere"
"""The forms of error bodies: that of Text Embeddings Inference, which our own routes use as well, OpenAI's, and Cohere's."""
OPENAI_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
MOST_SHOWN = 500
"""A longer message is cut to this many characters, because it may repeat what a client sent."""
TEI_BACKEND = 424
"""The status with which Text Embeddings Inference answers if a run failed."""


@dataclass(frozen=True)
class Refusal:
    """A refused request, ready to be sent."""

    status: int
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def content(self) -> bytes:
        import orjson

        return orjson.dumps(self.body)


def find_form(path: str) -> str:
    """Return the form of the error bodies of a route."""
    if path.startswith("/v2/"):
        return COHERE
    return OPENAI if path.startswith("/v1/") or path in ("/embeddings", "/models") else NATIVE


def refuse(path: str, error: Exception, is_flat: bool = False) -> Refusal:
    """Return the response that refuses a request for ``path``.

    Args:
        path: the route, which decides the form of the body.
        error: why the request is refused. The client does not see the text of an error that is not graphsurgery's own.
        is_flat: whether OpenAI's routes write errors as Text Embeddings Inference does: ``{"message", "code", "type"}``.
    """
    status, kind, message = _describe(error)
    headers = {"content-type": JSON}
    wait = getattr(error, "retry_after", None)
    if wait is not None:
        headers["retry-after"] = str(max(1, math.ceil(wait)))
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    form = find_form(path)
    if form == OPENAI and is_flat:
        return Refusal(status, headers, {"message": message, "code": status, "type": kind})
    if form == OPENAI:
        named = OPENAI_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
        inner = {"message": message, "type": named, "param": getattr(error, "param", None), "code": kind.lower()}
        return Refusal(status, headers, {"error": inner})
    if form == COHERE:
        return Refusal(status, headers, {"message": message})
    is_run = status == ServiceError.status and isinstance(error, GraphSurgeryError)
    return Refusal(TEI_BACKEND if is_run else status, headers, {"error": message, "error_type": kind})


def _describe(error: Exception) -> tuple[int, str, str]:
    """Return (status, kind, message)."""
    if isinstance(error, ServiceError):
        return error.status, error.kind, _join(error)
    if isinstance(error, RequestError) and not isinstance(error, UnsupportedModelError):
        return 422, "Validation", _join(error)
    return ServiceError.status, ServiceError.kind, _join(error) if isinstance(error, GraphSurgeryError) else FAILED


def _join(error: GraphSurgeryError) -> str:
    message = error.message if len(error.message) <= MOST_SHOWN else f"{error.message[:MOST_SHOWN]}..."
    return f"{message}; {error.advice}" if error.advice else message
