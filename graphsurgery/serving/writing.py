"""Convert vectors to the form that a request asks for (dims, length, precision), and write JSON or base64."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from starlette.responses import Response

from graphsurgery.embedding.vectors import convert, cut_dims, normalize
from graphsurgery.serving.answers import Answers
from graphsurgery.serving.errors import InvalidRequestError
from graphsurgery.serving.refusals import JSON
from graphsurgery.serving.towers import Facts

Array = np.ndarray
CUT = "x-truncated-inputs"
"""The header that says how many inputs were cut."""


@dataclass(frozen=True)
class Form:
    """The form of vectors that a request asks for."""

    dims: int | None = None
    normalize: bool | None = None
    """Whether vectors must have length one. None for vectors as the file gives them."""
    precision: str | None = None


def shape_vectors(vectors: Sequence[Array], form: Form, facts: Facts) -> Array:
    """Return ``vectors`` as ``[n, dims]`` in the form that was asked for.

    Raises RequestError, InvalidRequestError for a form that this file cannot give.
    """
    rows = np.stack(vectors)
    is_float = rows.dtype.kind == "f"
    if form.normalize is False and facts.is_normalized:
        what = "normalize is false, and this file gives vectors of length one, whose own length is not known"
        raise InvalidRequestError(what, "leave normalize out, or serve a file without the normalising head")
    if form.normalize and is_float and not facts.is_normalized:
        rows = normalize(rows)
    if form.dims is not None:
        rows = cut_dims(rows, form.dims, facts.is_normalized or bool(form.normalize), "the model")
    if form.precision is None:
        return np.ascontiguousarray(rows)
    if not is_float:
        raise InvalidRequestError(f"the model gives {rows.dtype} already", "leave the precision out")
    return convert(rows.astype(np.float32), form.precision)


def write_base64(row: Array) -> str:
    """Return a vector as base64 of little-endian float32, whatever its type: this is what OpenAI's clients decode."""
    return base64.b64encode(row.astype("<f4").tobytes()).decode("ascii")


def answer_json(content: Any, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON response. Arrays are written as lists."""
    return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), 200, headers, JSON)


def make_headers(answers: Answers, characters: int, start: float, facts: Facts) -> dict[str, str]:
    """Return the headers of Text Embeddings Inference, in whole milliseconds, and how many inputs were cut."""
    total = time.perf_counter() - start
    runs_on_cpu = not facts.providers or facts.providers[0].startswith("CPU")
    times = {
        "x-compute-time": total, "x-total-time": total, "x-tokenization-time": answers.tokenization,
        "x-queue-time": answers.queue, "x-inference-time": answers.inference,
    }  # fmt: skip
    return {
        "x-compute-type": "cpu" if runs_on_cpu else "gpu",
        "x-compute-characters": str(characters),
        "x-compute-tokens": str(answers.tokens),
        **{name: str(round(seconds * 1000)) for name, seconds in times.items()},
        **({CUT: str(answers.cut)} if answers.cut else {}),
    }


def count_usage(answers: Answers) -> dict[str, Any]:
    """Return the tokens that were embedded, and how many inputs were cut if any was."""
    cut = {"truncated_inputs": answers.cut} if answers.cut else {}
    return {"prompt_tokens": answers.tokens, "total_tokens": answers.tokens, **cut}


def make_meta(answers: Answers, units: Mapping[str, int]) -> dict[str, Any]:
    """Return the ``meta`` object of Cohere's answers. ``units`` are those that Cohere would bill."""
    warnings = {"warnings": [f"inputs that were cut: {answers.cut}"]} if answers.cut else {}
    return {"api_version": {"version": "2"}, "billed_units": dict(units), **warnings}
