"""OpenAI's embeddings route."""

from __future__ import annotations

import time

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from graphsurgery.serving.context import Context
from graphsurgery.serving.inputs import count_characters
from graphsurgery.serving.routes.documented import add_post
from graphsurgery.serving.schemas import OpenAIBody, read_body, read_json
from graphsurgery.serving.writing import Form, answer_json, count_usage, make_headers, write_base64

FAMILY = "OpenAI"
EXAMPLE = {
    "object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.1, 0.2]}], "model": "my-model",
    "usage": {"prompt_tokens": 3, "total_tokens": 3},
}  # fmt: skip


def add_routes(app: FastAPI, context: Context) -> None:
    """Add `/v1/embeddings` and `/v1/models`, and both without the prefix, as infinity has them."""

    async def post_embeddings(request: Request) -> Response:
        start = time.perf_counter()
        body = read_body(OpenAIBody, await read_json(request))
        items = context.reader.read(body.input, "input", body.modality)
        options = context.choose_options(body.truncate, body.truncation_direction, body.prompt_name)
        form = Form(body.dimensions, body.normalize)
        answers = await context.answer(items, options, form)
        rows = context.shape(items, answers, form)
        embeddings = [write_base64(one) for one in rows] if body.encoding_format == "base64" else rows
        data = [{"object": "embedding", "index": place, "embedding": one} for place, one in enumerate(embeddings)]
        headers = make_headers(answers, count_characters(items), start, context.facts)
        whole = {"object": "list", "data": data, "model": context.name, "usage": count_usage(answers)}
        return answer_json(whole, headers)

    async def get_models() -> Response:
        one = {"id": context.name, "object": "model", "created": 0, "owned_by": "graphsurgery"}
        return answer_json({"object": "list", "data": [one]})

    for prefix in ("/v1", ""):
        add_post(app, f"{prefix}/embeddings", post_embeddings, OpenAIBody, "Embed inputs.", EXAMPLE, FAMILY)
        app.add_api_route(f"{prefix}/models", get_models, tags=[FAMILY], summary="Name the model.", response_model=None)
