"""Our own route: many inputs, each with its own error, and vectors in any precision."""

from __future__ import annotations

import time

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from graphsurgery.embedding.embedder import RAISE
from graphsurgery.errors import GraphSurgeryError
from graphsurgery.serving.context import Context, find_errors
from graphsurgery.serving.errors import ServiceError
from graphsurgery.serving.inputs import Item, count_characters
from graphsurgery.serving.refusals import refuse
from graphsurgery.serving.routes.documented import add_post
from graphsurgery.serving.schemas import BatchBody, read_body, read_json
from graphsurgery.serving.writing import Form, answer_json, make_headers

PATH = "/embed_batch"
EXAMPLE = {
    "embeddings": [[0.1, 0.2], None], "dims": 2, "tokens": 3, "truncated": [],
    "errors": {"1": {"error": "`texts[1]` cannot be empty; leave it out", "error_type": "Validation"}},
}  # fmt: skip


def add_routes(app: FastAPI, context: Context) -> None:
    """Add `/embed_batch`."""

    async def post_batch(request: Request) -> Response:
        start = time.perf_counter()
        body = read_body(BatchBody, await read_json(request))
        options = context.choose_options(body.truncate, body.truncation_direction, body.prompt_name)
        read = list(context.reader.read_each(body.texts, "texts"))
        errors: dict[int, GraphSurgeryError] = {place: one for place, one in enumerate(read) if isinstance(one, ServiceError)}
        if errors and body.on_error == RAISE:
            raise errors[min(errors)]
        items = {place: one for place, one in enumerate(read) if isinstance(one, Item)}
        form = Form(body.dimensions, body.normalize, body.precision)
        answers = await context.answer(list(items.values()), options, form)
        answered = dict(zip(items, answers.answers, strict=True))
        wrong = find_errors(answers.answers, [one.place for one in items.values()])
        errors |= {place: wrong[number] for number, place in enumerate(items) if number in wrong}
        if errors and body.on_error == RAISE:
            raise errors[min(errors)]
        done = [place for place in items if place not in errors]
        rows = context.shape_answered([items[place] for place in done], [answered[place] for place in done], form)
        by_place = dict(zip(done, rows, strict=True))
        content = {
            "embeddings": [by_place.get(place) for place in range(len(read))],
            "dims": len(rows[0]) if rows else None,
            "tokens": answers.tokens,
            "truncated": [place for place, one in answered.items() if one.is_cut],
            "errors": {str(place): refuse(PATH, errors[place]).body for place in sorted(errors)},
        }
        return answer_json(content, make_headers(answers, count_characters(items.values()), start, context.facts))

    add_post(app, PATH, post_batch, BatchBody, "Embed inputs, each with an error of its own.", EXAMPLE, "graphsurgery")
