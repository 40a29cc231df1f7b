"""Calls in a process of its own: what they return, how they fail, and that nothing of them is left with the caller."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import process_functions
import pytest
from conftest import FIXTURES
from process_functions import read_number

import graphsurgery
from graphsurgery.errors import SurroundingsError
from graphsurgery.runtime import own_process
from graphsurgery.runtime.own_process import OwnProcessError, call_in_own_process

BERT = FIXTURES / "bert" / "model.onnx"


@pytest.fixture(params=["forked", "fresh"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Both ways to get a process: forked by the server, where there is one, and a fresh interpreter."""
    if request.param == "fresh":
        monkeypatch.setattr(own_process, "call_forked", lambda *_: None)
    else:
        require_server()
        monkeypatch.setattr(own_process, "_call_fresh", never)
    yield request.param


def require_server() -> None:
    if sys.platform != "linux" or not hasattr(os, "pidfd_open"):
        pytest.skip("processes are forked on Linux alone")


def never(*_: object) -> None:
    pytest.fail("no fresh interpreter is needed")


@pytest.mark.usefixtures("way")
def test_the_answer_and_nothing_else_comes_back(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    answer = call_in_own_process(process_functions.tell, folder=tmp_path, seconds=60)
    assert answer["folder"] == str(tmp_path) != str(Path.cwd()) and answer["id"] != os.getpid()
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("way")
def test_the_modules_are_the_callers(tmp_path: Path) -> None:
    answer = call_in_own_process(process_functions.tell, "graphsurgery", "onnxruntime", folder=tmp_path, seconds=60)
    assert answer["files"] == {"graphsurgery": graphsurgery.__file__, "onnxruntime": onnxruntime.__file__}


def test_the_package_is_the_callers_after_it_changed_folders(tmp_path: Path) -> None:
    """A program that found the package in its current folder, and has left that folder since."""
    program = (
        "import os, sys; sys.path[0] = ''; import graphsurgery; from pathlib import Path\n"
        "from graphsurgery.runtime.own_process import call_in_own_process\n"
        "sys.path.append(sys.argv[1]); import process_functions; os.chdir(sys.argv[2])\n"
        "answer = call_in_own_process(process_functions.tell, 'graphsurgery', folder=Path(sys.argv[2]), seconds=60)\n"
        "print(Path(answer['files']['graphsurgery']).samefile(sys.argv[3]))"
    )
    package = Path(graphsurgery.__file__)
    done = subprocess.run(
        [sys.executable, "-c", program, str(Path(__file__).parent), str(tmp_path), str(package)],
        cwd=package.parent.parent, env={**os.environ, "PYTHONPATH": ""}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "True\n"


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (process_functions.fail, "failed (KeyError: 'first line\\nsecond line')"),
        (process_functions.crash, f"crashed (signal {int(signal.SIGSEGV)})"),
        (process_functions.be_killed, "was killed (signal 9), perhaps because memory ran out"),
        (process_functions.leave, "ended with exit code 7: out of luck"),
        (process_functions.lack_a_package, "failed (ModuleNotFoundError: No module named 'no_such_package')"),
        (process_functions.wait, "did not end within 1 s"),
    ],
    ids=lambda given: getattr(given, "__name__", ""),
)
def test_why_there_is_no_answer(function: Callable[..., None], message: str, tmp_path: Path, capfd) -> None:
    with pytest.raises(OwnProcessError) as caught:
        call_in_own_process(function, folder=tmp_path, seconds=1 if function is process_functions.wait else 60)
    assert str(caught.value) == message and capfd.readouterr() == ("", "")


def test_a_python_that_cannot_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(SurroundingsError, match="cannot start Python"):
        call_in_own_process(process_functions.tell, folder=tmp_path, seconds=60)


def test_an_isolated_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes wrong in it is told: nothing, an error of ONNX Runtime, a crash, and a run without end."""
    ids = np.ones((2, 5), np.int64)
    feed = {"input_ids": ids, "attention_mask": ids, "token_type_ids": ids * 0}
    assert own_process.find_crash(BERT, [feed, feed]) is None
    assert "out of data bounds" in str(own_process.find_crash(BERT, [feed, feed | {"input_ids": ids * 10**6}]))
    assert str(BERT) not in str(own_process.find_crash(BERT.with_name("none.onnx"), [feed]))
    monkeypatch.setattr(own_process, "run_stored_feeds", process_functions.crash)
    assert own_process.find_crash(BERT, [feed]) == f"ONNX Runtime crashed (signal {int(signal.SIGSEGV)})"
    monkeypatch.setattr(own_process, "run_stored_feeds", process_functions.wait)
    monkeypatch.setattr(own_process, "SECONDS", 1)
    assert own_process.find_crash(BERT, [feed]) == "ONNX Runtime did not end within 1 s"


def test_an_interrupt_ends_the_process(way: str, tmp_path: Path) -> None:
    """The interrupt goes to the caller alone. The process that it has started does not outlive it."""
    started = tmp_path / "started"
    program = (
        "import sys; sys.path[:] = sys.argv[4:]; import process_functions; from pathlib import Path\n"
        "from graphsurgery.runtime import own_process\n"
        "if sys.argv[3] == 'fresh': own_process.call_forked = lambda *_: None\n"
        "own_process.call_in_own_process(process_functions.hang, sys.argv[1], folder=Path(sys.argv[2]), seconds=60)"
    )
    caller = subprocess.Popen(
        [sys.executable, "-c", program, str(started), str(tmp_path), way, *sys.path], stderr=subprocess.PIPE, text=True
    )
    process = read_number(started)
    os.kill(process, 0)
    caller.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in caller.communicate(timeout=20)[1]
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
        pytest.fail("the process was still there")
