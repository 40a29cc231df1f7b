"""The service as one ASGI application, wrapped in its guards, for graphsurgery's own server and for Ray Serve."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from graphsurgery.serving.app import ShortWay, make_app
from graphsurgery.serving.cache import open_cache
from graphsurgery.serving.folder_towers import open_towers
from graphsurgery.serving.guards import Application, guard
from graphsurgery.serving.metrics import Metrics, add_metrics_route
from graphsurgery.serving.service import Service
from graphsurgery.serving.settings import ServeSettings


def make_application(folder: Path, settings: ServeSettings) -> tuple[Service, Application]:
    """Return (the service of a folder, not started yet; its application).

    A server that sends lifespan events starts and ends the service with them: it warms up before the first request, and
    answers what is in flight within ``settings.drain`` seconds.

    Raises what `open_cache` and `open_towers` raise.
    """
    metrics = Metrics()
    cache = open_cache(settings)  # first, so that a wrong address is reported before the model is read
    service = Service(open_towers(folder, settings), settings, cache, metrics)
    metrics.watch(service)
    app = make_app(service, settings)
    add_metrics_route(app, metrics)

    @asynccontextmanager
    async def live(_: Any) -> AsyncIterator[None]:
        await service.start()
        try:
            yield
        finally:
            await service.stop(settings.drain)

    app.router.lifespan_context = live
    return service, guard(ShortWay(app, settings), service, settings, metrics)
