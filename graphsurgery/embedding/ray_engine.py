"""Parts made by the workers of Ray Data, on one machine or several.

The unit of work is a part, the same rows that one process embeds together. So the bytes of a part depend neither on the number
of workers nor on which of them makes it. Ray carries the rows to the workers, and the parts back to this process. So the
machines need no shared folder, except for the model's, which every machine needs at the same path.
"""

from __future__ import annotations

import logging
import os
import pickle
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Any

from graphsurgery.embedding.embedder import Embedder
from graphsurgery.embedding.part_maker import MadePart, PartMaker, PartOptions
from graphsurgery.embedding.rows import Rows, import_arrow
from graphsurgery.errors import GraphSurgeryError, MissingPackageError, RequestError, SurroundingsError
from graphsurgery.runtime.devices import count_processors

PATIENCE = 60.0
"""If no worker gives a sign of life for this many seconds, the run ends with an error."""
INTERVAL = 0.5
"""Seconds between two looks at what the workers have done."""
CLOSING = 3.0
"""Seconds to wait for Ray Data to end its threads."""
ANSWER = 5.0
"""Seconds to wait for the monitor to say what the workers have done, before it is asked again."""
LEAST_BETWEEN = 1.0
"""The least number of seconds between two reports of progress by one worker."""
BEAT, BUSY = 5.0, 0.1
"""Every `BEAT` seconds a worker gives a sign of life, provided that it has used the share `BUSY` of a processor since."""
STORE = 512 << 20
"""Bytes of memory for rows and parts that wait. Those that do not fit wait on the disk."""
RESTARTS = 3
"""How often workers that die are started again, on average for each worker. Ray Data would start them again without end."""
SPARE = 1
"""Processors that are left to Ray's own tasks. Without one they would wait for the workers, and the workers for them."""
ADDRESS, USAGE, LOG_LEVEL = "RAY_ADDRESS", "RAY_USAGE_STATS_ENABLED", "RAY_BACKEND_LOG_LEVEL"
READER = "reader of parts"
"""The name of the thread that waits for what the workers make."""
NUMBER, ROWS, MADE = "number", "rows", "made"
LACKS_MEMORY = "if workers die for lack of memory, give fewer --workers; "
RETRY = "run the same command again, which goes on with the parts that are done"


def import_ray() -> Any:
    """Return the module ray, set to send no usage statistics. Raises MissingPackageError if it is not installed."""
    os.environ[USAGE] = "0"
    os.environ.setdefault(LOG_LEVEL, "fatal")  # its C++ parts print warnings between our lines
    try:
        import ray.data
    except ImportError as error:
        raise MissingPackageError("the engine ray needs Ray Data", "pip install 'graphsurgery[ray]'") from error
    return ray


def make_parts_on_ray(
    missing: Iterator[tuple[int, Rows]],
    maker: PartMaker,
    workers: int | None,
    tell: Callable[[int], None],
) -> Generator[tuple[int, MadePart], None, None]:
    """Have Ray's workers make the parts of ``missing``, and yield the parts in order. Ray ends when the generator is closed.

    Args:
        missing: the number and the rows of each part.
        maker: the maker of this process. Workers open the same model with the same threads, provider and budget.
        workers: how many workers there are. Default: as many as the processors allow.
        tell: called with the number of finished rows of parts that are not complete yet.

    Raises:
        RequestError: a row cannot be embedded, or there are not enough processors for ``workers`` workers.
        SurroundingsError: workers die again and again, or none of them gives a sign of life for a minute.
    """
    first = next(missing, None)
    if first is None:  # nothing is left to do, and Ray need not be started
        return
    ray = import_ray()
    plan = _Plan.of(maker)
    with _open_ray(ray, plan, workers) as count, _set_up_ray_data(ray):
        monitor = ray.remote(num_cpus=0)(_Monitor).remote()
        blocks = [ray.put(_pack(ROWS, [number], [pickle.dumps(rows)])) for number, rows in chain([first], missing)]

        def make_blocks() -> Generator[Any, None, None]:
            dataset = ray.data.from_arrow_refs(blocks).map_batches(
                _Worker, batch_size=None, batch_format="pyarrow", compute=ray.data.ActorPoolStrategy(size=count),
                fn_constructor_args=(plan, monitor), num_cpus=plan.threads, num_gpus=plan.gpus,
            )  # fmt: skip
            yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)

        with closing(_watch(ray, make_blocks(), monitor, tell, count * (1 + RESTARTS))) as parts:
            for number, made in parts:
                if isinstance(made, GraphSurgeryError):
                    raise made
                yield number, made


@dataclass(frozen=True)
class _Plan:
    """What a worker needs so that it makes the same parts as every other worker."""

    model: str
    provider: str
    threads: int
    gpus: int
    max_batch_tokens: int | None
    output: str
    options: PartOptions
    identity: dict[str, Any]
    """How the vectors are made. A worker whose model or packages differ refuses to make any."""

    @classmethod
    def of(cls, maker: PartMaker) -> _Plan:
        embedder = maker.embedder
        return cls(
            str(embedder.given.absolute()), embedder.providers[0], embedder.threads, 0 if embedder.is_on_cpu else 1,
            embedder.max_batch_tokens, embedder.output, maker.options, maker.describe(),
        )  # fmt: skip

    def open(self) -> PartMaker:
        """Open the model in this process. Raises SurroundingsError if it is not the one that the run began with."""
        embedder = Embedder(
            self.model, providers=self.provider, threads=self.threads, max_batch_tokens=self.max_batch_tokens,
            output=self.output,
        )  # fmt: skip
        maker = PartMaker(embedder, self.options)
        found = maker.describe()
        different = [name for name, value in self.identity.items() if found.get(name) != value]
        if different:
            one = different[0]
            what = f"{one} is {found.get(one)!r} on the machine {platform.node()}, and was {self.identity[one]!r} at the start"
            advice = "give all machines the same files and packages"
            raise SurroundingsError(f"a worker would make other vectors: {what}", advice)
        return maker


@dataclass
class _Heard:
    """What the workers have reported."""

    signs: int = 0
    """How often any worker has reported something."""
    starts: int = 0
    """How often a worker has started."""
    rows: dict[int, int] = field(default_factory=dict)
    """The rows that are done, by the numbers of parts."""


class _Monitor:
    """Collects the progress reports of all workers. It is an actor of Ray, and so runs in a process of its own."""

    def __init__(self) -> None:
        self._heard = _Heard()

    def count_start(self) -> None:
        self._heard.signs += 1
        self._heard.starts += 1

    def hear(self, number: int, rows: int) -> None:
        self._heard.signs += 1
        self._heard.rows[number] = rows

    def read(self) -> _Heard:
        return self._heard


class _Worker:
    """Makes parts in a process of its own."""

    def __init__(self, plan: _Plan, monitor: Any) -> None:
        self._monitor = monitor
        self._monitor.count_start.remote()
        self._tell(-1, 0)
        Thread(target=self._show_life, daemon=True).start()
        self._maker: PartMaker | None = None
        self._failure: GraphSurgeryError | None = None
        try:
            self._maker = plan.open()
        except GraphSurgeryError as error:  # Ray would start this worker again and again
            self._failure = error
        self._tell(-1, 0)

    def __call__(self, block: Any) -> Any:
        """Return the parts for a block of rows that were packed."""
        made = {number: self._make(number, rows) for number, rows in _unpack(ROWS, block)}
        return _pack(MADE, list(made), [pickle.dumps(one) for one in made.values()])

    def _make(self, number: int, rows: Rows) -> MadePart | GraphSurgeryError:
        if self._maker is None:
            return self._failure or SurroundingsError("the model was not opened", RETRY)
        self._tell(number, 0)

        def tell(_: str, done: int = 0, __: int = 0) -> None:
            if time.monotonic() - self._told >= LEAST_BETWEEN:
                self._tell(number, done)

        try:
            return self._maker.make(rows, tell)
        except GraphSurgeryError as error:
            return error

    def _tell(self, number: int, rows: int) -> None:
        self._told, self._at = time.monotonic(), (number, rows)
        self._monitor.hear.remote(number, rows)

    def _show_life(self) -> None:
        """Report signs of life while this process computes: a single run of a large model may take minutes."""
        before = time.process_time()
        while True:
            time.sleep(BEAT)
            now = time.process_time()
            if now - before > BUSY * BEAT:
                self._monitor.hear.remote(*self._at)
            before = now


def _pack(name: str, numbers: list[int], contents: list[bytes]) -> Any:
    """Return a table with one row for each part. Ray never splits the content of a row, whatever the size of its blocks."""
    arrow = import_arrow()
    return arrow.table({NUMBER: numbers, name: arrow.array(contents, arrow.large_binary())})


def _unpack(name: str, table: Any) -> Iterator[tuple[int, Any]]:
    """Yield the number and the content of each row of a table that `_pack` made."""
    for number, content in zip(table.column(NUMBER).to_pylist(), table.column(name), strict=True):
        yield number, pickle.loads(content.as_py())


@contextmanager
def _open_ray(ray: Any, plan: _Plan, workers: int | None) -> Iterator[int]:
    """Connect to Ray, or start it on this machine, and give the number of workers."""
    if ray.is_initialized():  # the caller's own
        yield _count_workers(ray, plan, workers)
        return
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # its threads still print after the end
    folder = tempfile.mkdtemp(prefix="gs-ray-")
    try:
        if os.environ.get(ADDRESS):
            ray.init(**quiet)
        else:
            found = workers or max(count_processors() // plan.threads, 1)
            ray.init(
                address="local", num_cpus=found * plan.threads + SPARE, include_dashboard=False, object_store_memory=STORE,
                _temp_dir=folder, **quiet,
            )  # fmt: skip
        yield _count_workers(ray, plan, workers)
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _count_workers(ray: Any, plan: _Plan, asked: int | None) -> int:
    """Return the number of workers to start. Raises RequestError if they would leave no processor for Ray's own tasks."""
    there = ray.cluster_resources()
    processors = int(there.get("CPU", 0))
    room = (processors - SPARE) // plan.threads
    if plan.gpus:
        room = min(room, int(there.get("GPU", 0)))
    found = room if asked is None else asked
    if not 1 <= found <= room:
        what = f"{max(found, 1)} workers of {plan.threads} threads"
        has = f"{processors} processors" + (f" and {int(there.get('GPU', 0))} GPUs" if plan.gpus else "")
        raise RequestError(
            f"{what} do not fit into the Ray cluster, which has {has} and needs {SPARE} for its own tasks",
            "give fewer --workers or --threads, or add machines to the cluster",
        )
    return found


@contextmanager
def _set_up_ray_data(ray: Any) -> Iterator[None]:
    """Make Ray Data keep the order of parts and print nothing. At the end, restore the caller's settings."""
    context = ray.data.DataContext.get_current()
    before = (context.execution_options.preserve_order, context.enable_progress_bars, context.print_on_execution_start)
    _set_context(context, True, False, False)
    try:
        yield
    finally:
        _set_context(context, *before)


def _set_context(context: Any, keeps_order: bool, shows_bars: bool, tells_start: bool) -> None:
    context.execution_options.preserve_order = keeps_order
    context.enable_progress_bars, context.print_on_execution_start = shows_bars, tells_start


def _watch(
    ray: Any, blocks: Generator[Any, None, None], monitor: Any, tell: Callable[[int], None], most_starts: int
) -> Generator[tuple[int, Any], None, None]:
    """Yield what the workers made, as (number, part), from the ``blocks`` that Ray gives.

    Whoever reads this generator has to close it before Ray ends: threads of Ray Data that ask for something later start a new
    Ray.

    Raises SurroundingsError if workers start more than ``most_starts`` times, or if none gives a sign of life for `PATIENCE`
    seconds.
    """
    results: Queue[Any] = Queue(maxsize=1)  # parts wait in Ray, and not here
    stop = Event()
    reader = Thread(target=_pump, args=(blocks, results, stop), name=READER, daemon=True)
    reader.start()
    done: set[int] = set()
    signs, since = -1, time.monotonic()
    try:
        while True:
            try:
                found = results.get(timeout=INTERVAL)
            except Empty:
                heard = _ask(ray, monitor)
                if heard is not None and heard.starts > most_starts:
                    what = f"Ray's workers die: they were started {heard.starts} times"
                    raise SurroundingsError(what, f"{LACKS_MEMORY}{RETRY}") from None
                if heard is not None and heard.signs != signs:
                    signs, since = heard.signs, time.monotonic()
                    tell(sum(count for number, count in heard.rows.items() if number not in done))
                elif time.monotonic() - since > PATIENCE:
                    raise SurroundingsError(
                        f"no worker of Ray has done anything for {PATIENCE:.0f} seconds",
                        f"see with `ray status` whether others hold the processors, give fewer --workers, and {RETRY}",
                    ) from None
                continue
            if found is None:
                return
            if isinstance(found, Exception):
                raise _explain(ray, found)
            done.add(found[0])
            yield found
            since = time.monotonic()
    finally:
        stop.set()
        reader.join(CLOSING)


def _ask(ray: Any, monitor: Any) -> _Heard | None:
    """Return what the workers have reported to the monitor, or None if the monitor does not answer."""
    with suppress(ray.exceptions.RayError):
        return ray.get(monitor.read.remote(), timeout=ANSWER)
    return None


def _pump(blocks: Generator[Any, None, None], results: Queue[Any], stop: Event) -> None:
    """Put what the workers made into ``results``, then None or an error. Close ``blocks``, which ends Ray Data's threads.

    It runs in a thread, because Ray may wait for ever.
    """

    def put(one: Any) -> bool:
        while not stop.is_set():
            with suppress(Full):
                results.put(one, timeout=INTERVAL)
                return True
        return False

    try:
        with closing(blocks):
            for block in blocks:
                if not all(map(put, _unpack(MADE, block))):
                    return
        put(None)
    except Exception as error:
        put(error)


def _explain(ray: Any, error: Exception) -> Exception:
    """Translate an error of Ray into SurroundingsError. Return an error that a bug in a worker raised as it is."""
    if isinstance(error, ray.exceptions.RayTaskError | ray.exceptions.UserCodeException):
        return error
    if isinstance(error, ray.exceptions.RayError) or type(error).__module__.startswith("ray."):
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        what = f"Ray could not go on: {' '.join(lines[:3])[:300]}"
        ours = SurroundingsError(what, f"{LACKS_MEMORY}{RETRY}")
        ours.__cause__ = error
        return ours
    return error
