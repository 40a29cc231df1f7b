"""The errors for which requests are refused, with their HTTP status. Each route writes them in the form of its clients."""

from __future__ import annotations

from graphsurgery.errors import GraphSurgeryError


class ServiceError(GraphSurgeryError):
    """A request that is not answered."""

    status = 500
    kind = "Backend"
    """The error type of Text Embeddings Inference."""
    retry_after: float | None = None
    """After how many seconds the same request may be answered."""


class InvalidRequestError(ServiceError):
    """An input cannot be embedded: a wrong type, too many items, or a text that is too long although cutting is off."""

    status, kind = 422, "Validation"


class MalformedRequestError(ServiceError):
    """The body cannot be read at all: it is not JSON."""

    status, kind = 400, "Validation"


class EmptyRequestError(ServiceError):
    """A batch without items."""

    status, kind = 400, "Empty"


class UnauthorizedError(ServiceError):
    """The API key is missing or wrong."""

    status, kind = 401, "Unauthorized"


class UnknownRouteError(ServiceError):
    """The folder cannot do what was asked, such as ranking with a model that embeds."""

    status, kind = 404, "NotFound"


class SlowRequestError(ServiceError):
    """The body did not arrive in time."""

    status, kind = 408, "Timeout"


class LargeRequestError(ServiceError):
    """The body has more bytes than are allowed."""

    status, kind = 413, "Validation"


class OverloadedError(ServiceError):
    """The queue is full."""

    status, kind = 429, "Overloaded"

    def __init__(self, message: str, advice: str = "", retry_after: float = 1.0) -> None:
        super().__init__(message, advice)
        self.retry_after = retry_after


class UnhealthyError(ServiceError):
    """The service is starting or ending, or its engine has failed."""

    status, kind = 503, "Unhealthy"
