"""`graphsurgery serve` beside the service of a tutorial, on the real all-MiniLM-L6-v2: requests a second, latency, overload.

    serve.py                 print it; half an hour. It needs the environment of `make test-services`, and redis-server
    serve.py --quick         a few seconds for each load and no soak: does it run?
    serve.py --only WORD     the blocks whose names contain this word
    serve.py --write         put it into docs/serving.md, between its marks

The client runs on the same processors as the services, compares every vector with `Embedder`'s, and keeps all its connections
busy. Services that are compared run one after the other in every round, in the other order in the next; figures are medians of
the rounds. The folder is made by `graphsurgery bake` from what `make demo-minilm` leaves in .demo. Linux only.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import median

import numpy as np
from contest.texts import read_passages, read_sentences
from load.client import Load, Request, make_request, run_load
from load.reports import OURS, TUTORIAL, Measured, describe_misses, list_wrong, render
from load.servers import ROOT, Server, start_naive, start_redis, start_service
from load.shape import run_locust
from page import put
from peers import describe_machine, run_graphsurgery

import graphsurgery
from graphsurgery import Embedder, PaddingFree

PAGE = ROOT / "docs" / "serving.md"
SEED = 7
PACKAGES = ("onnxruntime", "fastapi", "uvicorn", "redis")
CUT = 128
"""The tutorial's service cuts longer texts: their vectors are not compared."""
NO_CACHE = ("--cache", "none")
BUSY = 64
"""Connections of a saturated service."""
MANY = 320
"""Connections for short texts, one a request: more than four batches."""


@dataclass(frozen=True)
class Plan:
    """How long each load lasts, how often, and the folder and texts that are served."""

    folder: Path
    seconds: float
    rounds: int
    soak: float
    embedder: Embedder
    short: list[str]
    mixed: list[str]
    scratch: Path

    @cached_property
    def padding_free(self) -> Plan:
        """The same with a copy of the folder whose file computes on tokens alone."""
        folder, name = self.scratch / "padding-free", Path("onnx") / "model.onnx"
        shutil.copytree(self.folder, folder)
        graphsurgery.run([PaddingFree()], self.folder / name, output=folder / name, force=True)
        return replace(self, folder=folder, embedder=Embedder(folder))

    def ask(self, texts: Sequence[str], at_once: int = 1, longest: int | None = None) -> list[Request]:
        """Return requests of so many texts each, with the vectors that have to come back."""
        vectors = self.embedder.embed(texts).vectors
        lengths = [len(one) for one in self.embedder.tokenize(texts)]
        requests = []
        for start in range(0, len(texts), at_once):
            rows = slice(start, start + at_once)
            is_known = longest is None or max(lengths[rows]) <= longest
            requests.append(make_request(texts[rows], vectors[rows] if is_known else None))
        return requests

    def measure_offline(self, texts: Sequence[str]) -> float:
        """Return the texts a second of `Embedder`, for as long as a load lasts."""
        start, done = time.perf_counter(), 0
        while time.perf_counter() - start < self.seconds:
            self.embedder.embed(texts)
            done += len(texts)
        return done / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few seconds for each load, and no soak")
    parser.add_argument("--only", help="the blocks whose names contain this word")
    parser.add_argument("--soak", type=float, default=10.0, help="minutes of the soak")
    parser.add_argument("--seconds", type=float, default=15.0, help="seconds of each load")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=ROOT / ".demo" / "minilm-baked", help="the folder to serve")
    parser.add_argument("--write", action="store_true", help="put it into docs/serving.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        plan = make_plan(arguments, Path(scratch))
        measured = [
            one
            for name, block in BLOCKS.items() if arguments.only is None or arguments.only in name
            for one in block(plan)
        ]  # fmt: skip
    text = f"{describe_machine(PACKAGES)}, client included.\n\n{render(measured)}"
    print(text)
    if arguments.write:
        put(PAGE, "serve", text)
    if wrong := list_wrong(measured):
        sys.exit("\n".join(wrong))
    for miss in describe_misses(measured):
        print(f"not reached: {miss}", file=sys.stderr)


def make_plan(arguments: argparse.Namespace, scratch: Path) -> Plan:
    if not arguments.folder.exists():
        bake_minilm(arguments.folder)
    seconds, rounds, soak = arguments.seconds, arguments.rounds, arguments.soak * 60
    if arguments.quick:
        seconds, rounds, soak = 2.0, 1, 0.0
    few = 4 if arguments.quick else 1
    short = [f"How do I reset the password of account {number}?" for number in range(2000 // few)]
    mixed = read_sentences(900 // few) + read_passages(100 // few)
    random.Random(SEED).shuffle(mixed)
    return Plan(arguments.folder, seconds, rounds, soak, Embedder(arguments.folder), short, mixed, scratch)


def bake_minilm(folder: Path) -> None:
    sys.path.insert(0, str(ROOT / "demo"))
    from minilm import model_folder

    exported = ROOT / ".demo" / "minilm" / "model.onnx"
    if not exported.exists():
        sys.exit(f"there is no {exported.relative_to(ROOT)}: run `make demo-minilm` first")
    run_graphsurgery("bake", model_folder(), "--onnx", exported, "-o", folder)


def hold(
    plan: Plan,
    start: Callable[[], AbstractContextManager[Server]],
    requests: Sequence[Request],
    connections: int,
    seconds: float | None = None,
) -> tuple[Load, float]:
    """Return what a service does under a load, and how many processors it takes."""
    with start() as server:
        run_load(server.port, requests[: 4 * BUSY], BUSY, 0.1)
        before, clock = server.seconds, time.perf_counter()
        load = run_load(server.port, requests, connections, seconds or plan.seconds)
        return load, (server.seconds - before) / (time.perf_counter() - clock)


def compare(
    plan: Plan,
    block: str,
    contenders: Mapping[str, tuple[Callable[[], AbstractContextManager[Server]], Sequence[Request]]],
) -> Iterator[Measured]:
    """Hold several services under load, each with its requests, in each round in the other order."""
    found: dict[str, list[tuple[Load, float]]] = {name: [] for name in contenders}
    for number in range(plan.rounds):
        for name in list(contenders)[:: 1 if number % 2 == 0 else -1]:
            start, requests = contenders[name]
            found[name].append(hold(plan, start, requests, BUSY))
    for name, results in found.items():
        yield Measured.of(block, name, [load for load, _ in results], cpu=median(cpu for _, cpu in results))


def own(plan: Plan, *options: str) -> Callable[[], AbstractContextManager[Server]]:
    return lambda: start_service(plan.folder, *options)


def block_tutorial(plan: Plan) -> Iterator[Measured]:
    """Short texts, one a request, 64 connections; and some of them over and over, which are in the cache."""
    yield from compare_with_tutorial(plan, "short texts", plan.short)
    cached = {f"{OURS}, all in its cache": (own(plan), plan.ask(plan.short[:100]))}
    yield from compare(plan, "short texts", cached)


def block_mixed(plan: Plan) -> Iterator[Measured]:
    yield from compare_with_tutorial(plan, "mixed texts", plan.mixed)


def compare_with_tutorial(plan: Plan, block: str, texts: Sequence[str]) -> Iterator[Measured]:
    """Hold the tutorial's service and ours under load with the same file, and ours with the padding-free file made from it."""
    requests, other = plan.ask(texts, longest=CUT), plan.padding_free
    contenders = {
        TUTORIAL: (lambda: start_naive(plan.folder), requests), OURS: (own(plan, *NO_CACHE), requests),
        f"{OURS}, padding-free file": (own(other, *NO_CACHE), other.ask(texts, longest=CUT)),
    }  # fmt: skip
    yield from compare(plan, block, contenders)


def block_locust(plan: Plan) -> Iterator[Measured]:
    """100 users who wait: latency."""
    starts = {TUTORIAL: lambda: start_naive(plan.folder), OURS: own(plan, *NO_CACHE)}
    for name, start in starts.items():
        with start() as server:
            before, clock = server.seconds, time.perf_counter()
            load = run_locust(server.port, max(plan.seconds * 2, 5), plan.scratch)
            cpu = (server.seconds - before) / (time.perf_counter() - clock)
        yield Measured.of("100 users who wait 0.1 to 0.5 s (locust)", name, [load], cpu=cpu)


def block_share(plan: Plan) -> Iterator[Measured]:
    """Texts a second of the saturated service, beside `Embedder` alone, in turn."""
    loads = {
        "short texts, one a request": (plan.short, 1, MANY), "short texts, 32 a request": (plan.short, 32, 8),
        "mixed texts, one a request": (plan.mixed, 1, BUSY),
    }  # fmt: skip
    for name, (texts, at_once, connections) in loads.items():
        requests = plan.ask(texts, at_once)
        results, offline = [], []
        for _ in range(plan.rounds):
            offline.append(plan.measure_offline(texts))
            results.append(hold(plan, own(plan, *NO_CACHE), requests, connections))
        shares = [load.text_rate / alone for (load, _), alone in zip(results, offline, strict=True)]
        yield Measured.of(
            "saturated, beside Embedder", name, [load for load, _ in results], cpu=median(cpu for _, cpu in results),
            share=median(shares), note=f"Embedder alone: {median(offline):.0f} texts/s",
        )  # fmt: skip


def block_overload(plan: Plan) -> Iterator[Measured]:
    """Ten times the connections that a queue of 64 takes; who is refused waits as told."""
    for name, texts in (("short texts", plan.short), ("mixed texts", plan.mixed)):
        requests = plan.ask(texts)
        start = own(plan, *NO_CACHE, "--max-queue", str(BUSY))
        usual, crowd = [], []
        for _ in range(plan.rounds):
            usual.append(hold(plan, start, requests, BUSY)[0])
            crowd.append(hold(plan, start, requests, 10 * BUSY)[0])
        yield Measured.of("overload", f"{name}, {BUSY} connections", usual)
        yield Measured.of(
            "overload", f"{name}, {10 * BUSY} connections", crowd,
            share=median(many.rate / max(few.rate, 1) for many, few in zip(crowd, usual, strict=True)),
            slower=median(many.percentile(99) / few.percentile(99) for many, few in zip(crowd, usual, strict=True)),
        )  # fmt: skip


def block_redis(plan: Plan) -> Iterator[Measured]:
    """A service that is not saturated: no cache, a good Redis that has nothing, a good one that has all, and one that hangs."""
    requests = plan.ask(plan.short)
    few = 4
    loads: dict[str, list[Load]] = {name: [] for name in ("no cache", "Redis, all new", "Redis, all known", "Redis hangs")}
    for _ in range(plan.rounds):
        loads["no cache"].append(hold(plan, own(plan, *NO_CACHE), requests, few)[0])
        counted: dict[str, int] = {}
        with start_redis(plan.scratch) as redis, own(plan, "--cache", f"redis://127.0.0.1:{redis.port}/0")() as server:
            fresh = plan.ask([f"{number} is a number that was not asked for" for number in range(int(plan.seconds * 1000))])
            loads["Redis, all new"].append(run_load(server.port, fresh, few, plan.seconds))
            run_load(server.port, requests, few, plan.seconds)
            loads["Redis, all known"].append(run_load(server.port, requests[:50], few, plan.seconds))
            redis.process.send_signal(signal.SIGSTOP)
            loads["Redis hangs"].append(run_load(server.port, requests, few, plan.seconds))
            counted = server.read_cache()
    note = f"in the last round: {', '.join(f'{number:,} {name}' for name, number in counted.items() if number)}"
    for name, found in loads.items():
        yield Measured.of(f"a cache in Redis, {few} connections", name, found, note=note if "hangs" in name else "")


def block_soak(plan: Plan) -> Iterator[Measured]:
    """Saturated for minutes: memory after the first of ten parts, and the most after it."""
    if not plan.soak:
        return
    requests = plan.ask(plan.mixed)
    with own(plan, "--cache-bytes", "1000000")() as server:  # the texts do not fit into the cache: every one is computed
        memory, loads = [], []
        for _ in range(10):
            loads.append(run_load(server.port, requests, BUSY, plan.soak / 10, warm_up=0.0))
            memory.append(server.memory / 1e6)
    told = ", ".join(f"{one:.0f}" for one in memory)
    yield Measured.of(
        "soak",
        f"mixed texts, {plan.soak / 60:.0f} minutes",
        loads,
        grown=max(memory[1:]) / memory[0],
        note=f"MB in turn: {told}",
    )


BLOCKS: dict[str, Callable[[Plan], Iterator[Measured]]] = {
    "tutorial": block_tutorial, "mixed": block_mixed, "locust": block_locust, "share": block_share,
    "overload": block_overload, "redis": block_redis, "soak": block_soak,
}  # fmt: skip

if __name__ == "__main__":
    np.seterr(all="raise")
    main()
