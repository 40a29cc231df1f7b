"""Cohere's `/v2/embed`."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from graphsurgery.embedding.vectors import BY_RANGES
from graphsurgery.serving.context import Context
from graphsurgery.serving.errors import InvalidRequestError
from graphsurgery.serving.inputs import Item, count_characters
from graphsurgery.serving.routes.documented import add_post
from graphsurgery.serving.schemas import CohereBody, Direction, read_body, read_json
from graphsurgery.serving.towers import IMAGE, TEXT
from graphsurgery.serving.writing import Form, answer_json, make_headers, make_meta, write_base64

FAMILY = "Cohere"
FLOAT, BASE64 = "float", "base64"
PROMPTS: Mapping[str, tuple[str, ...]] = {
    "search_query": ("search_query", "query"), "search_document": ("search_document", "document", "passage"),
    "classification": ("classification",), "clustering": ("clustering",),
}  # fmt: skip
"""Names of prompts by the ``input_type`` of a request. The first one that the folder has is used."""
SIDES: Mapping[str | None, tuple[bool | None, Direction | None]] = {
    None: (None, None), "NONE": (False, None), "START": (True, "left"), "END": (True, "right"),
}  # fmt: skip
"""Whether long texts are cut, and which end is cut off, by the value of the field ``truncate``."""
EXAMPLE = {
    "id": "...", "embeddings": {"float": [[0.1, 0.2]]}, "texts": ["a text"], "response_type": "embeddings_by_type",
    "meta": {"api_version": {"version": "2"}, "billed_units": {"input_tokens": 3}},
}  # fmt: skip


def add_routes(app: FastAPI, context: Context) -> None:
    """Add `/v2/embed`."""

    async def post_embed(request: Request) -> Response:
        return await _embed(context, read_body(CohereBody, await read_json(request)))

    add_post(app, "/v2/embed", post_embed, CohereBody, "Embed inputs, in several types at once.", EXAMPLE, FAMILY)


async def _embed(context: Context, body: CohereBody) -> Response:
    start = time.perf_counter()
    kinds: Sequence[str] = body.embedding_types or (FLOAT,)
    unknown = next((one for one in kinds if one in BY_RANGES), None)
    if unknown is not None:
        what = f"`embedding_types` holds {unknown}, which needs the ranges of your own vectors"
        raise InvalidRequestError(what, "ask for float, and convert with `graphsurgery embed --precision`")
    items, field = _read_items(context, body)
    is_cut, direction = SIDES[body.truncate]
    options = context.choose_options(is_cut, direction, _find_prompt(context, body.input_type))
    forms = {kind: Form(body.output_dimension, precision=None if kind in (FLOAT, BASE64) else kind) for kind in kinds}
    answers = await context.answer(items, options, forms[kinds[0]])
    embeddings = {}
    for kind, form in forms.items():
        rows = context.shape(items, answers, form)
        embeddings[kind] = [write_base64(one) for one in rows] if kind == BASE64 else rows
    units = {"images": len(items)} if field == "images" else {"input_tokens": answers.tokens}
    content = {
        "id": uuid.uuid4().hex,
        "embeddings": embeddings,
        **({"texts": body.texts} if body.texts is not None else {}),
        "meta": make_meta(answers, units),
        "response_type": "embeddings_by_type",
    }
    return answer_json(content, make_headers(answers, count_characters(items), start, context.facts))


def _find_prompt(context: Context, input_type: str | None) -> str | None:
    """Return the name of the folder's prompt for an ``input_type``, or None, for the default prompt, if there is none."""
    return next((one for one in PROMPTS.get(input_type or "", ()) if one in context.facts.prompts), None)


def _read_items(context: Context, body: CohereBody) -> tuple[list[Item], str]:
    """Return (the inputs, the field that holds them)."""
    given = {"texts": body.texts, "images": body.images, "inputs": body.inputs}
    fields = [name for name, value in given.items() if value is not None]
    if len(fields) != 1:
        raise InvalidRequestError(f"{' and '.join(fields) or 'nothing'} was given", "give one of texts, images and inputs")
    (field,) = fields
    if field == "texts":
        return context.reader.read(body.texts, field, TEXT), field
    if field == "images":
        return context.reader.read(body.images, field, IMAGE), field
    return context.reader.read([_read_part(one, place) for place, one in enumerate(body.inputs or ())], field), field


def _read_part(value: Mapping[str, Any], place: int) -> dict[str, Any]:
    """Convert Cohere's input ``{"content": [part]}`` to the object that `ItemReader` reads."""
    parts = value.get("content")
    part = parts[0] if isinstance(parts, Sequence) and len(parts) == 1 else None
    if isinstance(part, Mapping) and part.get("type") == "text":
        return {"text": part.get("text")}
    address = part.get("image_url") if isinstance(part, Mapping) and part.get("type") == "image_url" else None
    if isinstance(address, Mapping):
        return {"image": address.get("url")}
    what = f"`inputs[{place}]` does not hold one part that is a text or a picture"
    raise InvalidRequestError(what, 'give {"content": [{"type": "text", "text": "..."}]}')
