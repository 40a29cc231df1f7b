"""The metrics of a service for Prometheus, under the names of Text Embeddings Inference where it has one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from graphsurgery.serving.answers import Answer, Answers
from graphsurgery.serving.engine import Batch
from graphsurgery.serving.errors import (
    EmptyRequestError,
    InvalidRequestError,
    OverloadedError,
    ServiceError,
    UnknownRouteError,
)
from graphsurgery.serving.towers import PAIR
from graphsurgery.serving.watcher import Watcher

if TYPE_CHECKING:
    from fastapi import FastAPI

    from graphsurgery.serving.service import Service

SECONDS = tuple(1e-5 * 1.5**power for power in range(35))
"""The bounds of durations, from 10 microseconds to 10 seconds."""
ROWS = tuple(float(2**power) for power in range(13))
TOKENS = tuple(float(2**power) for power in range(21))
FAILURES = {
    OverloadedError: "overloaded", InvalidRequestError: "validation", EmptyRequestError: "missing_values",
    UnknownRouteError: "model_type", asyncio.CancelledError: "dropped",
}  # fmt: skip
"""The label of a failure, by the type of its error."""
INFERENCE = "inference"
METHODS = SINGLE, BATCH = "single", "batch"
"""The labels of requests with one input, and with several."""
OWN = "graphsurgery"


class Tally(Gauge):
    """A counter by its exact name: Counter would add ``_total``, and Text Embeddings Inference's names have none."""

    _type = "unknown"


class Metrics(Watcher):
    """Counts what a service does, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        requests = Tally("te_request_count", "Requests, of one input or of a batch", ["method"], registry=registry)
        successes = Tally("te_request_success", "Requests that were answered", ["method"], registry=registry)
        self._requests = {name: requests.labels(name) for name in METHODS}
        self._successes = {name: successes.labels(name) for name in METHODS}
        self._failures = Tally("te_request_failure", "Requests and inputs that failed", ["err"], registry=registry)
        self._durations = {
            name: Histogram(f"te_request{name}_duration", f"Seconds of a request{what}", buckets=SECONDS, registry=registry)
            for name, what in (
                ("", ""), ("_tokenization", " to be tokenised"), ("_queue", " in the queue"), ("_inference", " in a run"),
            )
        }  # fmt: skip
        self._lengths = Histogram("te_request_input_length", "Tokens of an input", buckets=TOKENS, registry=registry)
        self._rows = Histogram("te_batch_next_size", "Inputs of a run", buckets=ROWS, registry=registry)
        self._tokens = Histogram("te_batch_next_tokens", "Positions of a run, padding too", buckets=TOKENS, registry=registry)
        self._inputs = {
            name: Tally(f"te_{name}_count", f"Inputs of {what}", registry=registry)
            for name, what in (("embed", "embeddings"), ("predict", "scores"))
        }
        self._input_successes = {
            name: Tally(f"te_{name}_success", "Inputs that were answered", registry=registry) for name in self._inputs
        }
        self._input_durations = {
            name: Histogram(f"te_{name}_duration", "Seconds of an input", buckets=SECONDS, registry=registry)
            for name in self._inputs
        }
        self._truncated = Counter(f"{OWN}_truncated_inputs", "Inputs that were cut", registry=registry)
        self._padding = Counter(f"{OWN}_padding", "Positions that were computed for padding", registry=registry)
        self._busy = Counter(f"{OWN}_engine_busy_seconds", "Seconds of runs", registry=registry)
        self._http = Counter(f"{OWN}_http_requests", "Requests by route and status", ["route", "status"], registry=registry)

    def watch(self, service: Service) -> None:
        """Read the queue and the cache of ``service`` whenever the metrics are requested."""
        self.registry.register(_State(service))

    def render(self) -> bytes:
        """Return the metrics in the text format of Prometheus."""
        return generate_latest(self.registry)

    def see_batch(self, batch: Batch) -> None:
        self._rows.observe(len(batch.tickets))
        self._tokens.observe(batch.positions)
        self._padding.inc(batch.positions - sum(one.size for one in batch.tickets))
        self._busy.inc(batch.seconds)

    def see_answers(self, kind: str, answers: Answers, seconds: float) -> None:
        inputs = answers.answers
        method, name = SINGLE if len(inputs) == 1 else BATCH, "predict" if kind == PAIR else "embed"
        self._requests[method].inc()
        self._inputs[name].inc(len(inputs))
        good = [one for one in inputs if one.error is None]
        self._input_successes[name].inc(len(good))
        self._note_inputs(name, good, seconds)
        for one in inputs:
            if one.error is not None:
                self._failures.labels(_name_failure(one.error)).inc()
        if len(good) < len(inputs):
            return
        self._successes[method].inc()
        times = {
            "": seconds, "_tokenization": answers.tokenization, "_queue": answers.queue, "_inference": answers.inference,
        }  # fmt: skip
        for part, value in times.items():
            self._durations[part].observe(value)

    def _note_inputs(self, name: str, good: list[Answer], seconds: float) -> None:
        for one in good:
            self._lengths.observe(one.tokens)
            self._input_durations[name].observe(seconds)
        self._truncated.inc(sum(one.is_cut for one in good))

    def see_refusal(self, error: BaseException) -> None:
        self._failures.labels(_name_failure(error)).inc()

    def see_response(self, route: str, status: int) -> None:
        """Count a response that was sent, whatever its status."""
        self._http.labels(route, status).inc()


def add_metrics_route(app: FastAPI, metrics: Metrics) -> None:
    """Add `/metrics`."""
    from starlette.responses import Response

    async def get_metrics() -> Response:
        return Response(metrics.render(), media_type=CONTENT_TYPE_LATEST)

    app.add_api_route("/metrics", get_metrics, tags=["Health"], summary="Metrics for Prometheus.", response_model=None)


def _name_failure(error: BaseException) -> str:
    is_refused = isinstance(error, ServiceError) and error.status < 500
    usual = FAILURES[InvalidRequestError] if is_refused else INFERENCE
    return next((name for kind, name in FAILURES.items() if isinstance(error, kind)), usual)


class _State(Collector):
    """The current state of a service: its queue and its cache."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def collect(self) -> Iterator[Metric]:
        service = self.service
        gauges = {
            "te_queue_size": ("Inputs in the queue", service.waiting),
            f"{OWN}_inputs_inside": ("Inputs of the requests that are being answered", service.inside),
            f"{OWN}_expected_wait_seconds": ("Seconds that the queue will take", service.expected_wait),
            f"{OWN}_ready": ("1 if requests are answered", float(service.is_ready)),
        }
        for name, (what, value) in gauges.items():
            yield GaugeMetricFamily(name, what, value)
        if service.cache is not None:
            yield from _read_stats(service.cache.stats)


def _read_stats(stats: object) -> Iterator[Metric]:
    for one in fields(stats):  # type: ignore[arg-type]
        name, value = f"{OWN}_cache_{one.name.removeprefix('is_')}", float(getattr(stats, one.name))
        is_state = one.name in ("entries", "bytes", "is_paused")
        family = GaugeMetricFamily if is_state else CounterMetricFamily
        yield family(name, f"The cache: {one.name.removeprefix('is_')}", value)
