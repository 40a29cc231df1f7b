"""The request bodies of all routes. pydantic checks them, and the OpenAPI page shows them.

Unknown fields are ignored, as in the services whose forms these are. Fields that would change the answer are refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError
from starlette.requests import Request

from graphsurgery.report import list_few
from graphsurgery.serving.errors import InvalidRequestError, MalformedRequestError

NOT_OFFERED = (
    "truncate_prompt_tokens", "max_tokens", "max_tokens_per_doc", "max_tokens_per_query", "embed_dtype", "endianness",
    "instruction", "priority", "add_special_tokens",
)  # fmt: skip
"""Fields of other services that would change the answer, and that this one does not know."""
TEXT_SCHEMA: dict[str, Any] = {"type": "string"}
ITEM_SCHEMA: dict[str, Any] = {
    "anyOf": [
        TEXT_SCHEMA,
        {"type": "array", "items": {"type": "integer"}, "description": "Token ids, if the service was started to take them."},
        {"type": "object", "description": 'One of {"text": ...}, {"image": "data:..."} and {"audio": "data:..."}.'},
    ]
}
INPUTS_SCHEMA: dict[str, Any] = {"anyOf": [ITEM_SCHEMA, {"type": "array", "items": ITEM_SCHEMA}]}
Inputs = Annotated[Any, WithJsonSchema(INPUTS_SCHEMA)]
"""The inputs to embed. `ItemReader.read` checks them, because pydantic's messages for a list of unions are hard to read."""
Direction = Literal["Right", "right", "Left", "left"]
Side = Annotated[Direction | None, Field(description="The end of long texts that is cut off.")]
Dimensions = Annotated[int | None, Field(description="Keep the first dimensions of each vector.")]
Normalize = Annotated[bool | None, Field(description="Whether vectors have length one. Default: as the file gives them.")]
Model = Annotated[str | None, Field(description="Ignored: the service has one model.")]
PromptName = Annotated[str | None, Field(max_length=200, description="One of the folder's prompts, to go before each text.")]
Truncate = Annotated[bool | None, Field(description="Whether texts that are too long are cut, or refused.")]


def _take_all(*kinds: type) -> BeforeValidator:
    """Return a check that stops at the first item of a wrong type: listing the errors of a million items takes seconds."""

    def check(value: Any) -> Any:
        items = value if isinstance(value, list) else ()
        wrong = next((place for place, one in enumerate(items) if not isinstance(one, kinds)), None)
        if wrong is not None:
            raise PydanticCustomError("item", "Item {place} is of a wrong type", {"place": wrong})
        return value

    return BeforeValidator(check)


Texts = Annotated[list[str], _take_all(str)]
Objects = Annotated[list[dict[str, Any]], _take_all(dict)]
Documents = Annotated[list[str | dict[str, Any]], _take_all(str, dict)]
Precision = Literal["float32", "float16", "binary", "ubinary"]
EmbeddingType = Literal["float", "base64", "binary", "ubinary", "int8", "uint8"]
B = TypeVar("B", bound="Body")


class Body(BaseModel):
    """What every body has in common: no text is taken for a number, and no number for a truth value."""

    model_config = ConfigDict(strict=True, extra="ignore")


class TextBody(Body):
    """How texts are tokenised."""

    prompt_name: PromptName = None
    truncate: Truncate = None
    truncation_direction: Side = None


class TeiBody(TextBody):
    """The body of `/embed`, as in Text Embeddings Inference."""

    inputs: Inputs
    normalize: Normalize = True
    dimensions: Dimensions = None


class BatchBody(TextBody):
    """The body of `/embed_batch`."""

    model_config = ConfigDict(strict=True, extra="forbid")

    texts: Inputs
    normalize: Normalize = None
    dimensions: Dimensions = None
    precision: Precision | None = Field(
        default=None, description="The numbers of the vectors. A bit is x > 0, the first of eight the highest of its byte."
    )
    on_error: Literal["raise", "skip"] = Field(default="raise", description="Whether to refuse all inputs for the sake of one.")


class OpenAIBody(TextBody):
    """The body of OpenAI's embeddings route."""

    input: Inputs
    model: Model = None
    encoding_format: Literal["float", "base64"] = Field(default="float", description="Base64 is of little-endian float32.")
    dimensions: Dimensions = None
    user: str | None = None
    modality: Literal["text", "image", "audio"] | None = Field(default=None, description="What strings of `input` are.")
    normalize: Normalize = None


class CohereBody(Body):
    """The body of Cohere's `/v2/embed`."""

    texts: Texts | None = None
    images: Texts | None = Field(default=None, description="Pictures as data URLs.")
    inputs: Objects | None = Field(default=None, description='Each is {"content": [part]}.')
    model: Model = None
    input_type: str | None = Field(default=None, description="search_query and search_document choose a prompt of the folder.")
    embedding_types: Annotated[list[EmbeddingType], Field(max_length=6)] | None = Field(
        default=None, description="A bit is x > 0. int8 and uint8 are refused, because they need ranges of your own vectors."
    )
    output_dimension: Dimensions = None
    truncate: Literal["NONE", "START", "END"] | None = Field(
        default=None, description="The end of long texts that is cut off. Default: END, unless the service cuts no texts."
    )


class SimilarityInputs(Body):
    """One sentence, and those that it is compared with."""

    source_sentence: str
    sentences: Texts


class SimilarityBody(Body):
    """The body of `/similarity`."""

    inputs: SimilarityInputs
    parameters: TextBody | None = None


class TokenizeBody(Body):
    """The body of `/tokenize`."""

    inputs: str | Texts
    add_special_tokens: bool = True
    prompt_name: PromptName = None


class RerankBody(Body):
    """The body of `/rerank`: with `texts` as in Text Embeddings Inference, with `documents` as in Cohere."""

    query: str
    texts: Texts | None = None
    documents: Documents | None = Field(default=None, description='Strings, or {"text": ...}.')
    model: Model = None
    top_n: int | None = Field(default=None, description="How many results there are. 0 stands for all.")
    raw_scores: bool = Field(default=False, description="Whether scores are given without a sigmoid.")
    return_text: bool = False
    return_documents: bool = False
    truncate: Truncate = None
    truncation_direction: Side = None


BODIES: tuple[type[Body], ...] = (
    TeiBody, BatchBody, OpenAIBody, CohereBody, SimilarityBody, TokenizeBody, RerankBody,
)  # fmt: skip


async def read_json(request: Request) -> Any:
    """Return the body of a request. Raises MalformedRequestError if it is not JSON, or holds NaN or lone surrogates."""
    try:
        return orjson.loads(await request.body())
    except orjson.JSONDecodeError as error:
        raise MalformedRequestError(f"the body is not JSON: {error}", "send one JSON object in UTF-8") from None


def read_body(kind: type[B], content: Any) -> B:
    """Return ``content`` as a body. Raises InvalidRequestError, which names the fields that are missing or wrong."""
    if not isinstance(content, dict):
        raise InvalidRequestError("the body is not a JSON object", f"send an object with the fields of {kind.__name__}")
    try:
        body = kind.model_validate(content)
    except ValidationError as error:
        wrong = [f"`{'.'.join(map(str, one['loc'])) or 'body'}`: {one['msg']}" for one in error.errors(include_input=False)]
        raise InvalidRequestError(f"the body does not fit: {list_few(wrong)}") from None
    known = kind.model_fields
    unknown = [name for name in NOT_OFFERED if name not in known and content.get(name) is not None]
    if unknown:
        raise InvalidRequestError(f"the field {unknown[0]} is not offered here", "leave it out")
    return body


def describe_bodies() -> dict[str, Any]:
    """Return the JSON schemas of all bodies by their names, for the OpenAPI page."""
    from pydantic.json_schema import models_json_schema

    kinds = [(one, "validation") for one in BODIES]
    _, found = models_json_schema(kinds, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    return dict(found["$defs"])
