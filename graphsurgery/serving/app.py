"""The routes of a service as an ASGI application."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.types import Receive, Scope, Send

from graphsurgery.errors import GraphSurgeryError
from graphsurgery.serving.context import Context
from graphsurgery.serving.errors import ServiceError, UnknownRouteError
from graphsurgery.serving.refusals import refuse
from graphsurgery.serving.route_list import render_route_list
from graphsurgery.serving.routes import batch, cohere, health, openai, rerank, tei
from graphsurgery.serving.schemas import describe_bodies
from graphsurgery.serving.service import Service
from graphsurgery.serving.settings import ServeSettings
from graphsurgery.version import __version__

GONE = 499
"""The status that is logged for a client that left before its request was read."""


class WrongMethodError(ServiceError):
    """The route exists, but not for this method."""

    status, kind = 405, "Validation"


def make_app(service: Service, settings: ServeSettings) -> FastAPI:
    """Return the application with every route. A route that the folder cannot serve answers with an error that says so."""
    app = FastAPI(
        title="graphsurgery serve", version=__version__, description="Embeddings from a model folder.",
        docs_url=None, redoc_url=None,  # these pages load their scripts from a public server
    )  # fmt: skip
    app.state.context = context = Context(service, settings)
    for one in (tei, batch, openai, cohere, rerank, health):
        one.add_routes(app, context)

    async def answer_error(request: Request, error: Exception) -> Response:
        return _make_refusal(request.url.path, error, settings)

    async def answer_http_error(request: Request, error: Exception) -> Response:
        return await answer_error(request, _name_http_error(request, error))

    async def answer_nobody(request: Request, error: Exception) -> Response:
        return Response(status_code=GONE)

    app.add_exception_handler(GraphSurgeryError, answer_error)
    app.add_exception_handler(HTTPException, answer_http_error)
    app.add_exception_handler(ClientDisconnect, answer_nobody)
    app.add_exception_handler(Exception, answer_error)
    _add_schemas(app)

    @app.get("/docs", include_in_schema=False)
    async def get_docs() -> HTMLResponse:
        return HTMLResponse(render_route_list(app.openapi()))

    return app


class ShortWay:
    """An ASGI application that calls the handlers of POST routes itself, and leaves the rest to FastAPI.

    These handlers read the body and make the response on their own. What FastAPI does around them (finding the route,
    dependencies, middleware) takes a third of the time of a request whose vectors are in the cache.
    """

    def __init__(self, app: FastAPI, settings: ServeSettings) -> None:
        self.app, self.settings = app, settings
        routes = (one for one in app.routes if isinstance(one, APIRoute) and one.methods == {"POST"})
        self._routes = {one.path: one for one in routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if route is None:
            await self.app(scope, receive, send)
            return
        scope["route"] = route
        try:
            response = await route.endpoint(Request(scope, receive))
        except ClientDisconnect:
            response = Response(status_code=GONE)
        except GraphSurgeryError as error:
            response = _make_refusal(route.path, error, self.settings)
        await response(scope, receive, send)


def _make_refusal(path: str, error: Exception, settings: ServeSettings) -> Response:
    refusal = refuse(path, error, settings.flat_errors)
    return Response(refusal.content, refusal.status, refusal.headers)


def _name_http_error(request: Request, error: Exception) -> Exception:
    """Translate an error of Starlette into a `ServiceError`."""
    status = error.status_code if isinstance(error, HTTPException) else ServiceError.status
    if status == UnknownRouteError.status:
        return UnknownRouteError(f"there is no route {request.url.path}", "see the list at /docs")
    if status == WrongMethodError.status:
        return WrongMethodError(f"{request.url.path} does not answer {request.method}", "see the list at /docs")
    return ServiceError(str(getattr(error, "detail", error)))


def _add_schemas(app: FastAPI) -> None:
    """Add the schemas of request bodies to the OpenAPI page that FastAPI makes."""
    make_page = app.openapi

    def make_whole_page() -> dict[str, Any]:
        page = make_page()
        page.setdefault("components", {}).setdefault("schemas", {}).update(describe_bodies())
        return page

    app.openapi = make_whole_page  # type: ignore[method-assign]
