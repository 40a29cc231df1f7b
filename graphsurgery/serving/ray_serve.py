"""The service on Ray Serve: each replica is the whole service, with a queue, a cache and batches of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from graphsurgery.errors import MissingPackageError
from graphsurgery.serving.asgi import make_application
from graphsurgery.serving.errors import UnhealthyError
from graphsurgery.serving.guards import Application
from graphsurgery.serving.settings import ServeSettings

NAME = "graphsurgery"


class Replica:
    """One replica of the service: Ray Serve makes an instance for each. Its application starts and ends the service."""

    def __init__(self, folder: str, settings: ServeSettings) -> None:
        self.service, self._application = make_application(Path(folder), settings)

    def __serve_build_asgi_app__(self) -> Application:  # the name that Ray looks for
        return self._application

    def check_health(self) -> None:
        """Raise UnhealthyError if the engine has failed, so that Ray Serve replaces this replica."""
        if not self.service.is_healthy:
            raise UnhealthyError("the engine has failed")


def make_deployment(
    folder: str | os.PathLike[str],
    *,
    name: str = NAME,
    replicas: int = 1,
    processors: int = 1,
    settings: ServeSettings | None = None,
) -> Any:
    """Return a folder's service as an application of Ray Serve: `serve.run(make_deployment("my-model-baked"))`.

    Args:
        folder: the folder, at the same path on each machine of the cluster.
        name: the name of the deployment.
        replicas: how many services there are, each with the model in its memory.
        processors: the processors of each service, and the threads of its runs unless ``settings`` name others.
        settings: the limits of each service. Host and port are set in Ray Serve instead.

    Raises MissingPackageError if Ray Serve is not installed.
    """
    try:
        from ray import serve
    except ImportError as error:
        raise MissingPackageError("deploying on Ray needs Ray Serve", "pip install 'ray[serve]'") from error
    chosen = settings or ServeSettings(threads=processors)
    deployment = serve.deployment(
        serve.ingress()(Replica), name=name, num_replicas=replicas, ray_actor_options={"num_cpus": processors},
        max_ongoing_requests=chosen.max_queue, graceful_shutdown_timeout_s=chosen.drain,
    )  # fmt: skip
    return deployment.bind(os.fspath(folder), chosen)
