"""The limits and options of a service, in one value that all parts of the service read."""

from __future__ import annotations

import math
from dataclasses import dataclass

from graphsurgery.errors import RequestError
from graphsurgery.runtime.devices import AUTO


@dataclass(frozen=True)
class ServeSettings:
    """How a folder is served. Sizes are in bytes, times in seconds."""

    host: str = "127.0.0.1"
    port: int = 8080
    providers: str = AUTO
    threads: int | None = None
    max_batch_tokens: int | None = None
    """The largest number of positions of one run. If None, the best number is measured on this machine."""
    max_queue: int = 512
    """If this many inputs wait or run, further requests are answered with 429."""
    max_queue_seconds: float = 30.0
    """If the waiting inputs would take longer than this, further requests are answered with 429."""
    max_items: int = 2048
    """The largest number of inputs of one request."""
    max_body: int = 2_000_000
    max_pixels: int = 25_000_000
    """The largest number of pixels of one picture."""
    max_clip_seconds: float = 60.0
    """The longest clip of speech. The memory of a run grows with its square: 0.5 GB for a minute of HuBERT base."""
    read_timeout: float = 10.0
    """The body of a request has to arrive within this time."""
    max_connections: int = 2048
    drain: float = 30.0
    """After SIGTERM, requests in flight are answered within this time."""
    api_key: str | None = None
    cors: tuple[str, ...] = ()
    """Origins of web pages from which browsers may call the service."""
    cache: str = "memory"
    """``memory``, ``none``, or the redis:// URL of a server."""
    cache_bytes: int = 256_000_000
    cache_seconds: float | None = None
    """How long an entry is kept. None for as long as there is room (in memory), or until Redis drops it."""
    accept_token_ids: bool = False
    cut_long: bool = True
    """Whether a text that is too long is cut, unless its request says otherwise."""
    flat_errors: bool = False
    """Whether OpenAI's routes write errors as Text Embeddings Inference does: ``{"message", "code", "type"}``."""
    json_logs: bool = False

    def __post_init__(self) -> None:
        """Raise RequestError for a number or an API key that is not valid."""
        for name in ("max_queue", "max_items", "max_body", "max_connections", "read_timeout", "max_queue_seconds"):
            if not getattr(self, name) > 0:
                raise RequestError(f"{name} is {getattr(self, name)}", "give a number above 0")
        if not 0 <= self.drain < math.inf:
            raise RequestError(f"drain is {self.drain} seconds", "give 0 or more")
        if not 0 <= self.port < 1 << 16:
            raise RequestError(f"the port is {self.port}", "give one up to 65535, or 0 for any that is free")
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable() and self.api_key.strip()):
            raise RequestError("the API key is empty, or an HTTP header cannot hold it", "give printable ASCII")
