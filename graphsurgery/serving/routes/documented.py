"""Describe routes for the OpenAPI page. `read_body` reads the bodies, so FastAPI does not know them by itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from graphsurgery.serving.refusals import JSON
from graphsurgery.serving.schemas import Body

Handler = Callable[[Request], Awaitable[Response]]
REFUSALS = {
    400: "The body is not JSON, or has no inputs.", 413: "The body has too many bytes.",
    422: "An input or an option is wrong, or there are too many inputs.", 429: "The queue is full: see Retry-After.",
    503: "The service starts or ends.",
}  # fmt: skip


def add_post(
    app: FastAPI, path: str, handler: Handler, body: type[Body], summary: str, example: Any, family: str, media: bool = False
) -> None:
    """Add a route that takes a JSON body, and with ``media`` also the bytes of a picture or a clip."""
    content: dict[str, Any] = {JSON: {"schema": {"$ref": f"#/components/schemas/{body.__name__}"}}}
    if media:
        content |= {kind: {"schema": {"type": "string", "format": "binary"}} for kind in ("image/*", "audio/*")}
    responses: dict[int | str, dict[str, Any]] = {status: {"description": text} for status, text in REFUSALS.items()}
    responses[200] = {"description": "OK", "content": {JSON: {"example": example}}}
    app.add_api_route(
        path, handler, methods=["POST"], summary=summary, tags=[family], responses=responses, response_model=None,
        openapi_extra={"requestBody": {"required": True, "content": content}},
    )  # fmt: skip
