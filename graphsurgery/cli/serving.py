"""serve: run a model folder as a service."""

from __future__ import annotations

from typing import Any

import click

from graphsurgery.cli.console import print_warnings, run_verb
from graphsurgery.cli.help import VerbCommand
from graphsurgery.cli.options import SHOWN, with_options
from graphsurgery.errors import RequestError
from graphsurgery.runtime.devices import AUTO, PROVIDERS
from graphsurgery.serving.serve import Served, serve
from graphsurgery.serving.settings import ServeSettings

KEY = "GRAPHSURGERY_API_KEY"
DEFAULTS = ServeSettings()
FOLDER = click.argument("folder", type=click.Path(), metavar="FOLDER")


def _make_limit(option: str, name: str, kind: type, text: str) -> Any:
    """Return the option of a limit that has a number as its default."""
    return click.option(
        option, name, type=kind, default=getattr(DEFAULTS, name), show_default=True, metavar="N" if kind is int else "S",
        help=text,
    )  # fmt: skip


OPTIONS = (
    click.option("--host", default=DEFAULTS.host, show_default=True, help="The address to listen on; 0.0.0.0 for all."),
    _make_limit("--port", "port", int, "The port to listen on; 0 for any free port."),
    click.option(
        "--api-key", envvar=KEY, metavar="KEY", help=f"Require this API key, as OpenAI's clients send it. Better set {KEY}."
    ),
    click.option("--cors", multiple=True, metavar="ORIGIN", help="Let web pages of this origin call it. May be repeated."),
    click.option(
        "--cache", default=DEFAULTS.cache, show_default=True, metavar="memory|none|redis://...", help="Where vectors are kept."
    ),
    _make_limit("--cache-bytes", "cache_bytes", int, "Largest size of the cache in memory, in bytes."),
    click.option("--cache-s", "cache_seconds", type=float, metavar="S", help="Keep vectors for S seconds. [default: no limit]"),
    click.option(
        "--provider", "providers", default=AUTO, show_default=True, metavar="|".join((AUTO, *PROVIDERS)), help="What to run on."
    ),
    click.option("--threads", type=int, metavar="N", help="Threads of a run. [default: as many as processors]"),
    click.option(
        "--max-batch-tokens", type=int, metavar="N", help="Most tokens of one run, padding included. [default: measured once]"
    ),
    _make_limit("--max-queue", "max_queue", int, "Refuse requests with 429 while N inputs or more wait or run."),
    _make_limit("--max-queue-s", "max_queue_seconds", float, "Refuse requests with 429 if the queue takes over S seconds."),
    _make_limit("--max-items", "max_items", int, "Most inputs of one request."),
    _make_limit("--max-body", "max_body", int, "Most bytes of one request."),
    _make_limit("--max-pixels", "max_pixels", int, "Most pixels of one picture."),
    _make_limit("--max-clip-s", "max_clip_seconds", float, "Most seconds of one clip of speech."),
    _make_limit("--max-connections", "max_connections", int, "Most connections at once."),
    _make_limit("--read-timeout", "read_timeout", float, "Refuse a request that does not arrive within S seconds."),
    _make_limit("--drain-s", "drain", float, "After SIGTERM, answer the requests in flight within S seconds."),
    click.option(
        "--truncate/--no-truncate", "cut_long", default=True, show_default=True,
        help="Whether a text that is too long is cut, unless its request says otherwise.",
    ),
    click.option("--accept-token-ids", is_flag=True, help="Accept lists of numbers as token ids of this model's tokenizer."),
    click.option("--flat-errors", is_flag=True, help="Write errors of /v1 as Text Embeddings Inference does."),
    click.option("--json-logs", is_flag=True, help="Log in JSON, with a line for each request."),
    click.option("--workers", type=int, hidden=True),
)  # fmt: skip


def make_serve_command(verb: str) -> click.Command:
    def callback(folder: str, as_json: bool, quiet: bool, workers: int | None, **options: Any) -> int:
        """Serve FOLDER, a baked folder or a pooled ONNX file, over HTTP: the routes of Text Embeddings Inference, OpenAI and
        Cohere on one port. GET /docs lists them. On SIGTERM, the process answers the requests in flight and ends."""
        if workers is not None:
            raise RequestError(
                "a service is one process: several would split its cache and its queue, and compute the same text twice",
                "leave --workers out: one run uses all processors",
            )
        ended: list[Served] = []

        def call(_: object) -> Served:
            ended.append(serve(folder, ServeSettings(**options), is_quiet=quiet))
            return ended[-1]

        return run_verb(call, lambda one: print_warnings(one.warnings), as_json=as_json, quiet=quiet) or ended[-1].code

    return click.command(verb, cls=VerbCommand)(with_options(callback, (FOLDER,), OPTIONS, SHOWN))
