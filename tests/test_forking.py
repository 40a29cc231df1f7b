"""The server that forks a process for each call: when it ends, what it shares, and what happens where it cannot be used."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import onnx
import process_functions
import pytest
from conftest import FIXTURES
from fusions import require_optimizer
from process_functions import read_number

from graphsurgery.rewrites.fuse.runner import Fusing, run_optimizer
from graphsurgery.runtime import forking, own_process
from graphsurgery.runtime.own_process import OwnProcessError, call_in_own_process

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(os, "pidfd_open"), reason="processes are forked on Linux alone"
)
THREADS = 8
PROGRAM = """
import os, sys, threading
sys.path[:] = sys.argv[2:]
import process_functions
from pathlib import Path
from graphsurgery.runtime.own_process import call_in_own_process
Path("told").write_text(str(call_in_own_process(process_functions.tell, folder=Path.cwd(), seconds=60)["parent"]) + "\\n")
if sys.argv[1] == "during a call":
    call_in_own_process(process_functions.hang, "started", folder=Path.cwd(), seconds=60)
elif sys.argv[1] == "waiting":
    threading.Event().wait(60)
elif sys.argv[1] == "forks":  # this process lives on, with all that it has inherited
    if not os.fork():
        Path("started").write_text(f"{os.getpid()}\\n")
        threading.Event().wait(60)
    os.kill(os.getpid(), 9)
"""
"""A program without a guard for its main part, as people write them."""


@pytest.fixture(autouse=True)
def own_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test has a server of its own."""
    shared = forking._Shared()
    monkeypatch.setattr(forking, "_shared", shared)
    yield
    shared.begin()


def call(function: Callable[..., Any] = process_functions.tell, *arguments: Any) -> Any:
    return call_in_own_process(function, *arguments, folder=Path("/"), seconds=60)


def never(*_: object) -> None:
    pytest.fail("no fresh interpreter is needed")


def is_there(process: int) -> bool:
    """Whether a process exists, also as a zombie."""
    return Path(f"/proc/{process}").exists()


def runs(process: int) -> bool:
    """Whether a process exists, and is no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def becomes(question: Callable[[], bool], seconds: float = 20) -> bool:
    limit = time.monotonic() + seconds
    while not question() and time.monotonic() < limit:
        time.sleep(0.01)
    return question()


def test_one_server_forks_for_every_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_process, "_call_fresh", never)
    with ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(lambda _: call(), range(2 * THREADS)))
    assert len({answer["id"] for answer in answers}) == 2 * THREADS and len({answer["parent"] for answer in answers}) == 1
    assert not any(is_there(answer["id"]) for answer in answers), "zombies"
    assert answers[0]["parent"] != os.getpid()


def test_a_call_in_one_thread_fails_alone() -> None:
    def hold(number: int) -> str:
        if number % 2:
            return str(call()["id"])
        with pytest.raises(OwnProcessError) as caught:
            call(process_functions.crash)
        return str(caught.value)

    with ThreadPoolExecutor(THREADS) as pool:
        said = list(pool.map(hold, range(THREADS)))
    assert set(said[::2]) == {f"crashed (signal {int(signal.SIGSEGV)})"} and all(one.isdigit() for one in said[1::2])


def test_the_surroundings_are_the_callers_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not those of when the server was started."""
    call()
    monkeypatch.setenv("GRAPHSURGERY_TEST", "now")
    assert call(process_functions.tell_environment, "GRAPHSURGERY_TEST") == "now"
    assert call(process_functions.tell_environment, "OPENBLAS_NUM_THREADS") == os.environ.get("OPENBLAS_NUM_THREADS")
    before = call()["parent"]
    monkeypatch.setattr(sys, "path", [*sys.path, "/another"])
    answer = call()
    assert answer["path"] == sys.path and answer["parent"] != before and becomes(lambda: not is_there(before))


@pytest.mark.parametrize("when", ["at once", "waiting", "during a call", "forks"])
def test_the_server_ends_with_its_caller(when: str, tmp_path: Path) -> None:
    """Also where the caller is killed, and where a process forked from it lives on. So does the process of a call."""
    caller = subprocess.Popen([sys.executable, "-c", PROGRAM, when, *sys.path], cwd=tmp_path)
    server = read_number(tmp_path / "told")
    others = [read_number(tmp_path / "started")] if when in ("during a call", "forks") else []
    if when == "waiting":
        assert runs(server)
    if when in ("waiting", "during a call"):
        assert all(map(runs, others))
        caller.kill()
    caller.wait(20)
    assert becomes(lambda: not runs(server), 5)
    for process in others:
        if when == "forks":
            os.kill(process, signal.SIGKILL)
        assert becomes(lambda process=process: not runs(process), 5)


def test_a_forked_caller_has_its_own_server(tmp_path: Path) -> None:
    """A process that is forked from the caller leaves the caller's server alone."""
    program = PROGRAM.partition("if sys.argv")[0] + (
        "process = os.fork()\n"
        "if process: os.waitpid(process, 0)\n"
        "name = 'parent' if process else 'child'\n"
        "answer = call_in_own_process(process_functions.tell, folder=Path.cwd(), seconds=60)\n"
        "Path(name).write_text(str(answer['parent']) + '\\n')\n"
    )
    subprocess.run([sys.executable, "-c", program, "", *sys.path], cwd=tmp_path, check=True, timeout=60)
    told, parent, child = (read_number(tmp_path / name) for name in ("told", "parent", "child"))
    assert told == parent != child


def test_an_idle_server_ends_and_another_one_takes_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_process, "_call_fresh", never)
    short = "import graphsurgery.runtime.fork_server as module; module.IDLE_SECONDS = 0.1\nserve("
    monkeypatch.setattr(forking, "PROGRAM", forking.PROGRAM.replace("serve(", short))
    first = call()["parent"]
    assert becomes(lambda: not is_there(first)), "it was there after its time, or as a zombie"
    assert call()["parent"] != first


def test_a_server_that_is_killed(tmp_path: Path) -> None:
    """The process in progress ends with it, and is reported; the next call has another server."""
    server, started = call()["parent"], tmp_path / "started"
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(call, process_functions.hang, str(started))
        process = read_number(started)
        os.kill(server, signal.SIGKILL)
        with pytest.raises(OwnProcessError, match="was killed"):
            hanging.result(20)
    assert becomes(lambda: not runs(process)) and becomes(lambda: not is_there(server))
    assert call()["parent"] not in (server, os.getpid())


THREAD = "import threading; threading.Thread(target=threading.Event().wait).start()\nserve("


@pytest.mark.parametrize(
    "program", ["raise SystemExit(3)", forking.PROGRAM.replace("serve(", THREAD)], ids=["ends at once", "has threads"]
)
def test_a_server_that_cannot_be_used(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process with threads is never forked. A fresh interpreter answers, and the server is not started again."""
    monkeypatch.setattr(forking, "PROGRAM", program)
    assert call()["parent"] == os.getpid()
    monkeypatch.setattr(subprocess, "Popen", watched := counting(subprocess.Popen))
    assert call()["parent"] == os.getpid() and watched.count == 1


def counting(called: Any) -> Any:
    class Counted(called):
        count = 0

        def __init__(self, *arguments: Any, **options: Any) -> None:
            Counted.count += 1
            super().__init__(*arguments, **options)

    return Counted


@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_the_optimizer_makes_the_same_in_either_process(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with another seed for the hashes of texts: every fresh interpreter has its own, and forked processes share one."""
    require_optimizer()
    model = onnx.load(FIXTURES / name / "model.onnx")
    forked = run_optimizer(model, Fusing())
    monkeypatch.setattr(own_process, "call_forked", lambda *_: None)
    fresh = run_optimizer(model, Fusing())
    assert fresh.model.SerializeToString() == forked.model.SerializeToString()
    assert (fresh.warnings, fresh.shape_failure) == (forked.warnings, forked.shape_failure)
