"""The routes that sort texts by how well they answer a query, by the scores of a cross-encoder."""

from __future__ import annotations

import time
import uuid
from typing import Any

import numpy as np
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from graphsurgery.serving.answers import Answers
from graphsurgery.serving.context import Context, find_errors
from graphsurgery.serving.errors import InvalidRequestError, UnknownRouteError
from graphsurgery.serving.inputs import check_text
from graphsurgery.serving.routes.documented import add_post
from graphsurgery.serving.schemas import RerankBody, read_body, read_json
from graphsurgery.serving.towers import PAIR
from graphsurgery.serving.writing import answer_json, count_usage, make_headers, make_meta

FAMILY = "Reranking"
EXAMPLE = [{"index": 1, "score": 0.99}, {"index": 0, "score": 0.01}]


def add_routes(app: FastAPI, context: Context) -> None:
    """Add `/rerank`, in the form that the fields of the body choose, and the same at `/v1/rerank` and `/v2/rerank`."""

    async def post_rerank(request: Request) -> Response:
        return await rerank(context, await read_json(request))

    for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
        what = "Order texts by how they answer a query."
        add_post(app, path, post_rerank, RerankBody, what, EXAMPLE, FAMILY)


async def rerank(context: Context, content: Any) -> Response:
    """Answer a request to sort texts. ``texts`` selects the form of Text Embeddings Inference, ``documents`` that of Cohere."""
    start = time.perf_counter()
    body = read_body(RerankBody, content)
    if PAIR not in context.service.towers:
        raise UnknownRouteError("this model embeds, and scores no pairs", "serve the folder of a cross-encoder")
    facts = context.service.facts[PAIR]
    if body.raw_scores and facts.is_probability:
        raise InvalidRequestError("the file ends with a sigmoid, so that there are no raw scores", "leave raw_scores out")
    texts, field = _read_texts(body)
    query = check_text(body.query, "query")
    texts = context.reader.read_texts(texts, field)
    options = context.choose_options(body.truncate, body.truncation_direction)
    answers = await context.service.answer(PAIR, [(query, one) for one in texts], options)
    for error in find_errors(answers.answers, [f"{field}[{place}]" for place in range(len(texts))]).values():
        raise error
    scores = _read_scores(answers, is_raw=body.raw_scores or facts.is_probability)
    order = np.argsort(-scores, kind="stable").tolist()
    headers = make_headers(answers, len(query) + sum(map(len, texts)), start, facts)
    ranked = [(place, float(scores[place])) for place in order[: body.top_n or None]]
    if field == "texts":
        with_text = body.return_text
        return answer_json([_write(place, "score", score, "text", texts[place], with_text) for place, score in ranked], headers)
    documents = [{"text": one} for one in texts]
    results = [
        _write(place, "relevance_score", score, "document", documents[place], body.return_documents) for place, score in ranked
    ]
    content = {
        "id": uuid.uuid4().hex,
        "object": "rerank",
        "results": results,
        "model": context.name,
        "usage": count_usage(answers),
        "meta": make_meta(answers, {"search_units": 1}),
    }
    return answer_json(content, headers)


def _read_texts(body: RerankBody) -> tuple[list[str], str]:
    """Return (the texts, the field that holds them)."""
    if (body.texts is None) == (body.documents is None):
        raise InvalidRequestError("either `texts` or `documents` has to be given", "give one of them")
    if body.top_n is not None and body.top_n < 0:
        raise InvalidRequestError(f"`top_n` is {body.top_n}", "give 0 for all results, or how many there should be")
    if body.texts is not None:
        return body.texts, "texts"
    return [_read_document(one, place) for place, one in enumerate(body.documents or ())], "documents"


def _read_document(document: str | dict[str, Any], place: int) -> str:
    text = document.get("text") if isinstance(document, dict) else document
    if not isinstance(text, str):
        raise InvalidRequestError(f"`documents[{place}]` holds no text", 'give a string, or {"text": "..."}')
    return text


def _read_scores(answers: Answers, is_raw: bool) -> np.ndarray:
    """Return a score for each pair: as the file gives it if ``is_raw``, else its sigmoid."""
    rows = np.stack([one.vector for one in answers.answers if one.vector is not None]).reshape(len(answers.answers), -1)
    if rows.shape[1] != 1:
        raise InvalidRequestError(f"this model gives {rows.shape[1]} numbers for a pair, and no score", "serve a cross-encoder")
    scores = rows[:, 0].astype(np.float64)
    return scores if is_raw else np.exp(-np.logaddexp(0, -scores))


def _write(place: int, name: str, score: float, kind: str, text: Any, with_text: bool) -> dict[str, Any]:
    return {"index": place, name: score, **({kind: text} if with_text else {})}
