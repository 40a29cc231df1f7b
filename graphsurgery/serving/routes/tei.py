"""The routes of Text Embeddings Inference, which the clients of huggingface_hub and LlamaIndex use."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from graphsurgery.embedding.vectors import SIMILARITIES
from graphsurgery.serving.context import Context
from graphsurgery.serving.inputs import Item, count_characters, find_media
from graphsurgery.serving.routes.documented import add_post
from graphsurgery.serving.routes.rerank import rerank
from graphsurgery.serving.schemas import SimilarityBody, TeiBody, TextBody, TokenizeBody, read_body, read_json
from graphsurgery.serving.towers import TEXT, TextOptions
from graphsurgery.serving.writing import Form, answer_json, make_headers

FAMILY = "Text Embeddings Inference"
TOKEN = {"id": 1037, "text": "a", "special": False, "start": 0, "stop": 1}


def add_routes(app: FastAPI, context: Context) -> None:
    """Add `/embed`, `/similarity` and `/tokenize`, and POST `/` and `/invocations`, which choose between them by the body."""

    async def post_embed(request: Request) -> Response:
        return await _embed_request(context, request)

    async def post_similarity(request: Request) -> Response:
        return await _compare(context, await read_json(request))

    async def post_tokenize(request: Request) -> Response:
        return await _tokenize(context, await read_json(request))

    async def post_any(request: Request) -> Response:
        return await _answer_any(context, request)

    what = "Embed texts, or a picture or a clip as the body itself."
    add_post(app, "/embed", post_embed, TeiBody, what, [[0.1, 0.2]], FAMILY, media=True)
    add_post(app, "/similarity", post_similarity, SimilarityBody, "Compare a sentence with others.", [0.9, 0.1], FAMILY)
    add_post(app, "/tokenize", post_tokenize, TokenizeBody, "List the tokens of texts.", [[TOKEN]], FAMILY)
    for path in ("/", "/invocations"):
        what = "Embed, compare or rerank, by what `inputs` is: huggingface_hub asks here."
        add_post(app, path, post_any, TeiBody, what, [[0.1, 0.2]], FAMILY, media=True)


async def _embed_request(context: Context, request: Request) -> Response:
    kind = find_media(request.headers.get("content-type", ""))
    if kind is not None:
        return await _embed_media(context, request, kind)
    return await _embed(context, await read_json(request))


async def _answer_any(context: Context, request: Request) -> Response:
    """Answer a request to POST `/` or `/invocations`, by the fields of its body."""
    if find_media(request.headers.get("content-type", "")) is not None:
        return await _embed_request(context, request)
    content = await read_json(request)
    if isinstance(content, dict) and "query" in content:
        return await rerank(context, content)
    inputs = content.get("inputs") if isinstance(content, dict) else None
    is_comparison = isinstance(inputs, dict) and "source_sentence" in inputs
    return await (_compare if is_comparison else _embed)(context, content)


async def _embed(context: Context, content: Any) -> Response:
    body = read_body(TeiBody, content)
    options = context.choose_options(body.truncate, body.truncation_direction, body.prompt_name)
    return await _answer(context, context.reader.read(body.inputs, "inputs"), options, Form(body.dimensions, body.normalize))


async def _embed_media(context: Context, request: Request, kind: str) -> Response:
    """Embed the body itself. The options are in the query string of the URL."""
    given = {name: _read_parameter(value) for name, value in request.query_params.items()}
    body = read_body(TeiBody, given | {"inputs": ""})
    item = context.reader.read_media(await request.body(), kind)
    return await _answer(context, [item], TextOptions(), Form(body.dimensions, body.normalize))


def _read_parameter(value: str) -> Any:
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return value


async def _answer(context: Context, items: list[Item], options: TextOptions, form: Form) -> Response:
    start = time.perf_counter()
    answers = await context.answer(items, options, form)
    rows = context.shape(items, answers, form)
    return answer_json(rows, make_headers(answers, count_characters(items), start, context.facts))


async def _compare(context: Context, content: Any) -> Response:
    start = time.perf_counter()
    body = read_body(SimilarityBody, content)
    chosen = body.parameters or TextBody()
    source = context.reader.read(body.inputs.source_sentence, "inputs.source_sentence", TEXT)
    items = source + context.reader.read(body.inputs.sentences, "inputs.sentences", TEXT)
    options = context.choose_options(chosen.truncate, chosen.truncation_direction, chosen.prompt_name)
    answers = await context.answer(items, options)
    rows = np.stack(context.shape(items, answers))
    found = SIMILARITIES[context.facts.similarity](rows[:1], rows[1:])[0]
    return answer_json(found, make_headers(answers, count_characters(items), start, context.facts))


async def _tokenize(context: Context, content: Any) -> Response:
    body = read_body(TokenizeBody, content)
    texts = context.reader.read_texts([body.inputs] if isinstance(body.inputs, str) else body.inputs, "inputs")
    options = context.choose_options(prompt_name=body.prompt_name)
    found = await context.service.list_tokens(texts, options, body.add_special_tokens)
    wholes = [options.prompt + one for one in texts]
    return answer_json([[_write_token(one, whole) for one in row] for row, whole in zip(found, wholes, strict=True)])


def _write_token(token: Any, whole: str) -> Mapping[str, Any]:
    """Return a token as Text Embeddings Inference writes it: with its piece of the text, and no place if it is special."""
    if token.is_special:
        return {"id": token.id, "text": token.text, "special": True, "start": None, "stop": None}
    piece = whole[token.start : token.stop]
    return {"id": token.id, "text": piece, "special": False, "start": token.start, "stop": token.stop}
