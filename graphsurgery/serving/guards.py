"""What stands before the routes: it refuses a request before its body is read where it can, and never waits for ever."""

from __future__ import annotations

import asyncio
import hmac
import random
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from graphsurgery.serving.errors import LargeRequestError, OverloadedError, ServiceError, SlowRequestError, UnauthorizedError
from graphsurgery.serving.logs import log_request, logger
from graphsurgery.serving.metrics import Metrics
from graphsurgery.serving.refusals import refuse
from graphsurgery.serving.service import Service
from graphsurgery.serving.settings import ServeSettings

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

PUBLIC = frozenset({"/", "/health", "/ping", "/ready", "/metrics"})
"""What may be read without the API key."""
WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
REQUEST_ID = b"x-request-id"
SOUND_ID = re.compile(rb"[\w.:-]{1,128}")
BODIES = 64
"""The bodies of all requests together may have as many bytes as so many of the largest ones."""
LINGER = 2.0
"""For so long, the rest of a body that is too large is read and thrown away: closing the connection at once would take the
answer from a client that still writes."""
OTHER = "other"
"""The name of all routes that do not exist, in metrics."""


class OverflowingError(LargeRequestError):
    """The body is too large, and may be on its way still."""

    def __init__(self, limit: int, is_coming: bool) -> None:
        super().__init__(f"the body has more than {limit} bytes", "send fewer inputs at once")
        self.is_coming = is_coming


class Gone(Exception):  # noqa: N818 - it is no error of anybody
    """The client left before its body was there."""


class Guards:
    """An ASGI application around the routes.

    It checks the API key, refuses with 429 or 503 while the queue is full, refuses bodies that are too large or too slow, stops
    the work for a client that has left, and gives each request an id.
    """

    def __init__(self, app: Application, service: Service, settings: ServeSettings, metrics: Metrics | None = None) -> None:
        self.app, self.service, self.settings, self.metrics = app, service, settings, metrics
        self._held = 0
        """The bytes of all bodies in memory."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._handle(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        else:
            await self.app(scope, receive, send)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = Response(send, _find_id(scope["headers"]))
        start = time.perf_counter()
        try:
            await self._check_and_answer(scope, receive, response)
        except Gone:
            response.status = 499
        except ServiceError as error:
            self.service.watcher.see_refusal(error)
            await self._refuse(scope, receive, response, error)
        except Exception as error:  # a bug; what it says may hold anything, so that the client is not told
            logger.exception("a request failed", extra={"facts": {"request_id": response.id.decode()}})
            await self._refuse(scope, receive, response, error)
        finally:
            self._note(scope, response, time.perf_counter() - start)

    async def _check_and_answer(self, scope: Scope, receive: Receive, response: Response) -> None:
        path, headers = scope["path"], scope["headers"]
        is_public = path in PUBLIC and scope["method"] in ("GET", "HEAD")
        if self.settings.api_key is not None and not is_public:
            _require_key(headers, self.settings.api_key)
        if scope["method"] not in WITH_BODY:
            await self.app(scope, receive, response.send)
            return
        self.service.require_room()
        body = Body()
        try:
            await self._read_body(body, headers, receive)
            await self._answer(scope, b"".join(body.parts), receive, response)
        finally:
            self._held -= body.size

    async def _read_body(self, body: Body, headers: list[tuple[bytes, bytes]], receive: Receive) -> None:
        """Fill ``body``. Raises OverflowingError, OverloadedError, SlowRequestError, Gone."""
        limit, seconds = self.settings.max_body, self.settings.read_timeout
        length = _find_header(headers, b"content-length")
        if length is not None and length.isdigit() and int(length[:20]) > limit:
            raise OverflowingError(limit, is_coming=_find_header(headers, b"expect") is None)
        try:
            async with asyncio.timeout(seconds):
                is_coming = True
                while is_coming:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Gone
                    self._held += body.add(message.get("body", b""))
                    is_coming = message.get("more_body", False)
                    if body.size > limit:
                        raise OverflowingError(limit, is_coming)
                    if self._held > BODIES * limit:
                        raise OverloadedError("the bodies of other requests take all the memory for them", "ask again later")
        except TimeoutError:
            raise SlowRequestError(f"the body did not arrive within {seconds:g} seconds", "send it faster") from None

    async def _answer(self, scope: Scope, body: bytes, receive: Receive, response: Response) -> None:
        """Run the routes on a body that is there, and cancel them if the client leaves before it is answered."""
        task, has_left = asyncio.current_task(), asyncio.Event()
        left_over: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            has_left.set()
            if task is not None and not response.is_complete:
                task.cancel()

        async def replay() -> Message:
            if left_over:
                return left_over.pop()
            await has_left.wait()
            return {"type": "http.disconnect"}

        watcher = asyncio.create_task(watch())
        try:
            await self.app(scope, replay, response.send)
        except asyncio.CancelledError:
            if task is None or not has_left.is_set() or task.uncancel():
                raise
            raise Gone from None
        finally:
            watcher.cancel()

    async def _refuse(self, scope: Scope, receive: Receive, response: Response, error: Exception) -> None:
        if response.status:  # it has begun, so that nothing else can be said; uvicorn closes the connection
            return
        refusal = refuse(scope["path"], error, self.settings.flat_errors)
        headers = refusal.headers | {"content-length": str(len(refusal.content))}
        if isinstance(error, OverflowingError | SlowRequestError):
            headers["connection"] = "close"
        listed = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await response.send({"type": "http.response.start", "status": refusal.status, "headers": listed})
        await response.send({"type": "http.response.body", "body": refusal.content, "more_body": True})
        if isinstance(error, OverflowingError) and error.is_coming:
            await self._throw_away(receive)
        await response.send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _throw_away(self, receive: Receive) -> None:
        """Read what else comes, for a while."""
        try:
            async with asyncio.timeout(LINGER):
                while (message := await receive())["type"] == "http.request" and message.get("more_body", False):
                    pass
        except TimeoutError:
            return

    def _note(self, scope: Scope, response: Response, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", OTHER)
        if self.metrics is not None:
            self.metrics.see_response(route, response.status)
        if self.settings.json_logs:
            log_request(
                request_id=response.id.decode(), method=scope["method"], path=scope["path"], status=response.status,
                seconds=round(seconds, 6),
            )  # fmt: skip


class Body:
    """The parts of a body that are there."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size = 0

    def add(self, part: bytes) -> int:
        """Add a part, and return its bytes."""
        self.parts.append(part)
        self.size += len(part)
        return len(part)


class Response:
    """Sends a response with the id of its request, and knows how far it is."""

    def __init__(self, send: Send, id: bytes) -> None:
        self._send, self.id = send, id
        self.status = 0
        """0 until the response begins."""
        self.is_complete = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), (REQUEST_ID, self.id)]
        elif not message.get("more_body", False):
            self.is_complete = True
        await self._send(message)


def guard(app: Application, service: Service, settings: ServeSettings, metrics: Metrics | None = None) -> Application:
    """Return ``app`` behind its guards, and behind CORS if origins are allowed."""
    guarded: Application = Guards(app, service, settings, metrics)
    if not settings.cors:
        return guarded
    from starlette.middleware.cors import CORSMiddleware

    return CORSMiddleware(
        guarded, allow_origins=list(settings.cors), allow_methods=["GET", "POST"],
        allow_headers=["authorization", "content-type", REQUEST_ID.decode()], expose_headers=["*"],
    )  # fmt: skip


def _find_header(headers: list[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    return next((value for key, value in headers if key == name), None)


def _find_id(headers: list[tuple[bytes, bytes]]) -> bytes:
    """Return the id that the client gives its request, if it is one, or a new one."""
    given = _find_header(headers, REQUEST_ID)
    return given if given is not None and SOUND_ID.fullmatch(given) else b"%032x" % random.getrandbits(128)


def _require_key(headers: list[tuple[bytes, bytes]], key: str) -> None:
    scheme, _, given = (_find_header(headers, b"authorization") or b"").partition(b" ")
    if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), key.encode()):
        raise UnauthorizedError("the API key is missing or wrong", "send the header `Authorization: Bearer KEY`")
