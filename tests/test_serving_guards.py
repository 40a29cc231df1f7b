"""The guards before the routes: hostile senders, keys, full queues and clients that leave, at the level of ASGI messages."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from serving import BAD, FakeTower, serving

from graphsurgery.errors import RequestError
from graphsurgery.serving import guards
from graphsurgery.serving.guards import guard
from graphsurgery.serving.logs import JsonFormatter
from graphsurgery.serving.memory_cache import MemoryCache
from graphsurgery.serving.metrics import Metrics
from graphsurgery.serving.service import Service
from graphsurgery.serving.settings import ServeSettings
from graphsurgery.serving.towers import TEXT

Headers = Sequence[tuple[bytes, bytes]]
LEFT = {"type": "http.disconnect"}


def part(body: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


class Sent:
    """What an application sent, and how often it asked for more of the request."""

    def __init__(self, messages: Sequence[Any]) -> None:
        self.messages = list(messages)
        self.status, self.headers, self.body, self.asked, self.is_complete = 0, {}, b"", 0, False

    async def receive(self) -> dict[str, Any]:
        """Give the next message. A function is awaited first; after the last one nothing ever comes."""
        self.asked += 1
        if not self.messages:
            await asyncio.Event().wait()
        one = self.messages.pop(0)
        if callable(one):
            await one()
            return await self.receive()
        return one

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")
            self.is_complete = not message.get("more_body", False)
        else:
            self.body = message["type"].encode()


class Routes:
    """An application that answers with the body, and keeps it."""

    def __init__(self, act: Callable[[], Awaitable[None]] | None = None) -> None:
        self.bodies: list[bytes] = []
        self.act = act

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.bodies.append((await receive())["body"] if scope["method"] == "POST" else b"")
        if self.act is not None:
            await self.act()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": self.bodies[-1]})


@pytest.fixture(autouse=True)
def no_lingering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "LINGER", 0.05)


async def ask(app: Any, messages: Sequence[Any], path: str = "/embed", method: str = "POST", headers: Headers = ()) -> Sent:
    sent = Sent(messages)
    scope = {"type": "http", "method": method, "path": path, "headers": list(headers), "query_string": b""}
    await app(scope, sent.receive, sent.send)
    return sent


def check(test: Callable[[Service, Routes, Any], Awaitable[None]], act: Any = None, **settings: Any) -> None:
    """Run ``test`` with a service, routes, and the guards between them."""

    async def run() -> None:
        async with serving(FakeTower(), **settings) as service:
            routes = Routes(act)
            await test(service, routes, guard(routes, service, service.settings))

    asyncio.run(asyncio.wait_for(run(), 30))


# --- bodies ----------------------------------------------------------------------------------------------------------------


def test_a_body_in_parts_reaches_the_routes_whole() -> None:
    async def test(_: Service, routes: Routes, app: Any) -> None:
        sent = await ask(app, [part(b"ab", True), part(b"", True), part(b"cd")])
        assert sent.status == 200 and sent.body == b"abcd" and routes.bodies == [b"abcd"]

    check(test, max_body=4)


@pytest.mark.parametrize(
    ("messages", "headers"),
    [
        ([part(b"x" * 100, True), part(b"x")], [(b"content-length", b"101")]),
        ([part(b"ab", True), part(b"cd", True), part(b"e", True), part(b"f")], []),
        ([part(b"abcde")], []),
        ([LEFT], [(b"content-length", b"9" * 5000)]),
    ],
    ids=["told", "streamed", "at once", "digits"],
)
def test_too_large_a_body_is_refused_while_it_comes(messages, headers) -> None:
    async def test(_: Service, routes: Routes, app: Any) -> None:
        sent = await ask(app, messages, headers=headers)
        assert sent.status == 413 and sent.headers["connection"] == "close" and sent.is_complete
        assert "4 bytes" in json.loads(sent.body)["error"] and routes.bodies == []

    check(test, max_body=4)


def test_the_rest_of_too_large_a_body_is_read_for_a_while() -> None:
    """Not for ever, and not at all if it has not been sent: then reading would ask for it."""

    async def test(_: Service, __: Routes, app: Any) -> None:
        sent = await ask(app, [part(b"abcde", True), *[part(b"more", True)] * 3])
        assert sent.status == 413 and sent.asked == 5 and sent.is_complete
        waits = [(b"content-length", b"5"), (b"expect", b"100-continue")]
        assert (await ask(app, [part(b"abcde")], headers=waits)).asked == 0

    check(test, max_body=4)


def test_the_bodies_of_all_requests_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "BODIES", 2)

    async def test(_: Service, routes: Routes, app: Any) -> None:
        gate = asyncio.Event()
        slow = [asyncio.create_task(ask(app, [part(b"abcd", True), gate.wait, part(b"")])) for _ in range(2)]
        await asyncio.sleep(0.01)
        refused = await ask(app, [part(b"a")])
        assert refused.status == 429 and refused.headers["retry-after"] == "1"
        gate.set()
        assert [one.status for one in await asyncio.gather(*slow)] == [200, 200]
        assert (await ask(app, [part(b"a")])).status == 200 and len(routes.bodies) == 3

    check(test, max_body=4)


def test_half_a_body_is_told_that_it_is_late() -> None:
    async def test(_: Service, routes: Routes, app: Any) -> None:
        sent = await ask(app, [part(b"half", True)], "/v1/embeddings")
        assert sent.status == 408 and sent.headers["connection"] == "close" and routes.bodies == []
        assert "0.05 seconds" in json.loads(sent.body)["error"]["message"]

    check(test, read_timeout=0.05)


def test_a_client_that_leaves_within_its_body_is_forgotten() -> None:
    async def test(_: Service, routes: Routes, app: Any) -> None:
        sent = await ask(app, [part(b"half", True), LEFT])
        assert sent.status == 0 and routes.bodies == []

    check(test)


# --- who is let in ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "status"),
    [(None, 401), (b"Bearer wrong", 401), (b"Basic secret", 401), (b"secret", 401), (b"Bearer \xff", 401),
     (b"Bearer secret", 200), (b"bearer  secret", 200)],
)  # fmt: skip
def test_the_key_is_asked_for(given: bytes | None, status: int) -> None:
    async def test(_: Service, routes: Routes, app: Any) -> None:
        headers = [] if given is None else [(b"authorization", given)]
        sent = await ask(app, [part(b"")], headers=headers)
        assert (sent.status, len(routes.bodies)) == (status, status == 200) and (status == 200 or sent.asked == 0)
        assert (await ask(app, [], "/info", "GET", headers)).status == status
        for path in ("/", "/health", "/ping", "/ready", "/metrics"):
            assert (await ask(app, [], path, "GET")).status == 200
        assert (await ask(app, [part(b"")], "/")).status == 401, "POST / embeds"

    check(test, api_key="secret")


def test_a_full_queue_refuses_before_the_body_is_read() -> None:
    async def run() -> None:
        tower = FakeTower()
        async with serving(tower, max_queue=1) as service:
            app = guard(Routes(), service, service.settings)
            (held,) = await tower.hold(service, "held")
            sent = await ask(app, [part(b"body")])
            assert sent.status == 429 and int(sent.headers["retry-after"]) >= 1 and sent.asked == 0
            assert (await ask(app, [], "/health", "GET")).status == 200
            service.drain()
            assert (await ask(app, [part(b"body")])).status == 503
            tower.gate.set()
            await held

    asyncio.run(asyncio.wait_for(run(), 30))


def test_browsers_of_the_origins_that_are_named_may_ask() -> None:
    origin, other = (b"origin", b"https://a.example"), (b"origin", b"https://b.example")

    async def test(_: Service, __: Routes, app: Any) -> None:
        preflight = [origin, (b"access-control-request-method", b"POST"), (b"access-control-request-headers", b"authorization")]
        assert (await ask(app, [], method="OPTIONS", headers=preflight)).status == 200
        assert (await ask(app, [], method="OPTIONS", headers=[other, *preflight[1:]])).status == 400
        refused = await ask(app, [part(b"")], headers=[origin])
        assert refused.status == 401 and refused.headers["access-control-allow-origin"] == "https://a.example"

    check(test, cors=("https://a.example",), api_key="secret")


# --- what a request leaves behind ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "kept"), [(b"abc-1.2:3_4", True), (b"", False), (b"x\r\ny", False), (b"x" * 129, False)])
def test_each_request_has_an_id(given: bytes, kept: bool) -> None:
    async def test(_: Service, __: Routes, app: Any) -> None:
        for messages in ([part(b"")], [part(b"too long")]):
            sent = await ask(app, messages, headers=[(b"x-request-id", given)])
            assert (sent.headers["x-request-id"] == given.decode()) == kept and len(sent.headers["x-request-id"]) >= 11

    check(test, max_body=4)


def test_the_work_for_a_client_that_left_is_stopped() -> None:
    async def run() -> None:
        tower = FakeTower()
        async with serving(tower) as service:

            async def embed() -> None:
                await service.answer(TEXT, ["gone"])

            app = guard(Routes(embed), service, service.settings)
            (held,) = await tower.hold(service, "held")
            leave = asyncio.Event()
            leaving = asyncio.create_task(ask(app, [part(b"body"), leave.wait, LEFT]))
            staying = asyncio.create_task(service.answer(TEXT, ["stays"]))
            await asyncio.sleep(0.01)
            assert service.waiting == 2
            leave.set()
            assert (await leaving).status == 0
            tower.gate.set()
            await asyncio.gather(held, staying)
            assert tower.runs == [["held"], ["stays"]]

    asyncio.run(asyncio.wait_for(run(), 30))


def test_a_bug_is_logged_and_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    async def break_down() -> None:
        raise ZeroDivisionError("the secret")

    async def test(_: Service, __: Routes, app: Any) -> None:
        sent = await ask(app, [part(b"")])
        assert sent.status == 500 and b"secret" not in sent.body and json.loads(sent.body)["error_type"] == "Backend"

    with caplog.at_level(logging.INFO, "graphsurgery.serving"):
        check(test, break_down)
    assert any(record.exc_info for record in caplog.records)


def test_json_logs_have_a_line_for_each_request(caplog: pytest.LogCaptureFixture) -> None:
    async def test(_: Service, __: Routes, app: Any) -> None:
        await ask(app, [part(b"")], headers=[(b"x-request-id", b"mine")])
        await ask(app, [part(b"too long")])

    with caplog.at_level(logging.INFO, "graphsurgery.serving"):
        check(test, json_logs=True, max_body=4)
    lines = [json.loads(JsonFormatter().format(record)) for record in caplog.records]
    assert [one["status"] for one in lines] == [200, 413] and lines[0]["request_id"] == "mine" and lines[0]["path"] == "/embed"
    assert all(one["level"] == "info" and one["time"].endswith("Z") and one["seconds"] >= 0 for one in lines)


def test_websockets_are_closed() -> None:
    async def test(_: Service, __: Routes, app: Any) -> None:
        sent = Sent([])
        await app({"type": "websocket", "path": "/", "headers": []}, sent.receive, sent.send)
        assert sent.body == b"websocket.close"

    check(test)


# --- metrics and settings --------------------------------------------------------------------------------------------------


def test_metrics_count_what_happened() -> None:
    async def run() -> dict[tuple[str, str], float]:
        metrics, tower = Metrics(), FakeTower(budget=100)
        settings = ServeSettings(max_body=4)
        service = Service({TEXT: tower}, settings, MemoryCache(10_000, None), metrics)
        metrics.watch(service)
        await service.start()
        await service.answer(TEXT, ["one two", "one", BAD])
        await service.answer(TEXT, ["one"])
        await service.answer(TEXT, ["one " * 300])
        await ask(guard(Routes(), service, settings, metrics), [part(b"too long")])
        await service.stop(10)
        families = text_string_to_metric_families(metrics.render().decode())
        return {
            (one.name, next(iter(one.labels.values()), "")): one.value for family in families for one in family.samples
        }  # fmt: skip

    found = asyncio.run(asyncio.wait_for(run(), 30))
    assert found["te_request_count", "single"] == 2 and found["te_request_count", "batch"] == 1
    assert found["te_request_success", "single"] == 2 and found["te_request_success", "batch"] == 0
    assert found["te_request_failure", "validation"] == 2  # the bad text, and the body that is too large
    assert ("te_request_failure", "inference") not in found and found["te_embed_count", ""] == 5
    assert found["te_batch_next_size_count", ""] == 2 and found["te_batch_next_size_sum", ""] == 3
    assert found["te_batch_next_tokens_sum", ""] == 4 + 300 and found["graphsurgery_padding_total", ""] == 1
    assert found["graphsurgery_truncated_inputs_total", ""] == 1 and found["te_queue_size", ""] == 0
    assert found["graphsurgery_cache_hits_total", ""] == 1 and found["graphsurgery_http_requests_total", "other"] == 1
    assert found["te_request_input_length_sum", ""] == 2 + 1 + 1 + 300 and found["process_resident_memory_bytes", ""] > 0


@pytest.mark.parametrize(
    "wrong",
    [{"max_queue": 0}, {"max_body": -1}, {"drain": float("nan")}, {"port": 1 << 16}, {"api_key": " "}, {"read_timeout": 0}],
)  # fmt: skip
def test_limits_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=next(iter(wrong)).split("_")[0].replace("api", "API")):
        ServeSettings(**wrong)
