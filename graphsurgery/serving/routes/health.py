"""The routes that say whether the service runs, and what it serves."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.responses import Response

from graphsurgery.serving.context import Context
from graphsurgery.serving.errors import UnhealthyError
from graphsurgery.serving.towers import PAIR, TEXT, Facts
from graphsurgery.serving.writing import answer_json
from graphsurgery.version import __version__

FAMILY = "Health"


def add_routes(app: FastAPI, context: Context) -> None:
    """Add `/health`, `/ready`, their aliases `/ping` and GET `/`, and `/info`."""
    service = context.service

    async def get_health() -> Response:
        if not service.is_healthy:
            raise UnhealthyError("the service has lost its engine", "start it again")
        return answer_json({"status": "healthy"})

    async def get_ready() -> Response:
        if not service.is_ready:
            raise UnhealthyError("the service is starting, ending or broken", "ask again later")
        return answer_json({"status": "ready"})

    async def get_info() -> Response:
        return answer_json(describe(context))

    for path in ("/health", "/ping", "/"):
        what = "Tell whether the service runs."
        app.add_api_route(path, get_health, tags=[FAMILY], summary=what, response_model=None, include_in_schema=path != "/")
        app.add_api_route(path, get_health, methods=["HEAD"], response_model=None, include_in_schema=False)
    app.add_api_route("/ready", get_ready, tags=[FAMILY], summary="Tell whether requests are answered.", response_model=None)
    app.add_api_route("/ready", get_ready, methods=["HEAD"], response_model=None, include_in_schema=False)
    app.add_api_route("/info", get_info, tags=[FAMILY], summary="Tell what is served.", response_model=None)


def describe(context: Context) -> dict[str, Any]:
    """Return the fields of Text Embeddings Inference's `/info`, and ours of each tower."""
    settings, facts = context.settings, context.facts
    towers = context.service.towers
    kind = "reranker" if PAIR in towers and TEXT not in towers else "embedding"
    return {
        "model_id": context.name,
        "model_sha": facts.sha256,
        "model_dtype": facts.dtype,
        "served_model_name": context.name,
        "model_type": {kind: {"pooling": "in the file"} if kind == "embedding" else {}},
        "max_concurrent_requests": settings.max_queue,
        "max_input_length": facts.longest,
        "max_batch_tokens": next(iter(towers.values())).budget,
        "max_batch_requests": None,
        "max_client_batch_size": settings.max_items,
        "auto_truncate": settings.cut_long,
        "tokenization_workers": None,
        "version": __version__,
        "sha": None,
        "docker_label": None,
        "towers": {name: _describe_tower(one) for name, one in context.service.facts.items()},
    }


def _describe_tower(facts: Facts) -> dict[str, Any]:
    return {
        "sha256": facts.sha256, "dims": facts.dims, "dtype": facts.dtype, "longest": facts.longest,
        "prompts": dict(facts.prompts), "default_prompt": facts.default_prompt, "similarity": facts.similarity,
        "is_normalized": facts.is_normalized, "providers": list(facts.providers), "threads": facts.threads,
        "is_batch_invariant": facts.is_batch_invariant,
    }  # fmt: skip
