"""A small server that forks a process for each call, so that the process need not import numpy, onnx and sympy again.

The server has one thread, and has imported no ONNX Runtime: its import alone starts a thread, and a process with threads cannot
be forked safely. Each forked process imports ONNX Runtime for itself, which takes some 50 ms; what is imported here takes some
500 ms. `forking` starts the server. Linux only.

A call is a message on the control socket that carries four file descriptors: the call's own socket, and the files of the call,
its answer and its errors. On the call's socket the server sends `STARTED` and, once the process has ended, its exit code
(negative: the signal). A caller that shuts its end down ends the process.

The server ends when its caller ends or closes the control socket, and after `IDLE_SECONDS` without a call. Whatever ends the
server, kill -9 included, ends the processes that it has forked.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from selectors import EVENT_READ, DefaultSelector
from typing import Any, NamedTuple, NoReturn

PRELOADED = (
    "numpy", "ml_dtypes", "onnx", "onnx.shape_inference", "onnx_graphsurgeon", "sympy", "graphsurgery.runtime.own_process",
)  # fmt: skip
"""What most calls import. None of them starts a thread, provided that numpy's OpenBLAS is told to use one."""
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1"}
"""What the server's environment has in addition to its caller's."""
IDLE_SECONDS = 30
STARTED = b"started"
DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of prctl(2)."""


class Call(NamedTuple):
    """A call in progress: its process, a descriptor that becomes readable when the process ends, and the call's socket."""

    process: int
    end: int
    socket: socket.socket


class Server:
    """The server's loop. Everything that it waits for is in ``selector``; the calls in progress are the data of its keys."""

    def __init__(self, control: socket.socket, caller: int) -> None:
        self.control, self.caller = control, os.pidfd_open(caller)
        self.selector = DefaultSelector()
        self.selector.register(control, EVENT_READ)
        self.selector.register(self.caller, EVENT_READ)
        self.calls = 0

    def serve(self) -> None:
        """Answer calls until the caller ends, closes the control socket, or has called nothing for a while."""
        while ready := self.selector.select(None if self.calls else IDLE_SECONDS):
            for key, _ in ready:
                if key.fd == self.caller or (key.fd == self.control.fileno() and not self.accept()):
                    return
                call = key.data
                if call and key.fd == call.end:
                    self.finish(call)
                elif call and call.socket.fileno() >= 0:  # the caller has shut its end down
                    self.selector.unregister(call.socket)
                    os.kill(call.process, signal.SIGKILL)

    def accept(self) -> bool:
        """Fork a process for the next call. Return whether there was one, and forking is safe."""
        message, files, _, _ = socket.recv_fds(self.control, 1, 4)
        if not message or len(os.listdir("/proc/self/task")) > 1:  # noqa: PTH208
            return False
        caller = socket.socket(fileno=files[0])
        server = os.getpid()
        process = os.fork()
        if not process:
            _work(files[1:], server, [files[0], *(key.fd for key in self.selector.get_map().values())])
        for file in files[1:]:
            os.close(file)
        call = Call(process, os.pidfd_open(process), caller)
        self.selector.register(call.end, EVENT_READ, call)
        self.selector.register(caller, EVENT_READ, call)
        self.calls += 1
        with suppress(OSError):
            caller.send(STARTED)
        return True

    def finish(self, call: Call) -> None:
        """Send the exit code of a process that has ended."""
        _, status = os.waitpid(call.process, 0)
        self.selector.unregister(call.end)
        os.close(call.end)
        with suppress(KeyError):
            self.selector.unregister(call.socket)
        with suppress(OSError):
            call.socket.send(str(os.waitstatus_to_exitcode(status)).encode())
        call.socket.close()
        self.calls -= 1


def serve(control: int, caller: int) -> None:
    """Be the server of the process ``caller``, which sends its calls on the socket with the descriptor ``control``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt goes to the whole group; the caller decides what it means
    server = Server(socket.socket(fileno=control), caller)
    if os.getppid() != caller:
        return
    for name in PRELOADED:
        with suppress(Exception):  # a function that needs it will say why it cannot be imported
            import_module(name)
    gc.freeze()
    server.serve()
    os._exit(0)  # at once: a usual exit of Python with numpy and sympy loaded takes a moment


def _work(files: Sequence[int], server: int, inherited: Sequence[int]) -> NoReturn:
    """Answer one call in a forked process, and end the process.

    ``files`` are the descriptors of the call, its answer and its errors. ``inherited`` are the server's own descriptors, which
    this process closes.
    """
    code = 1
    try:
        call, answer, errors = files
        for file in inherited:
            os.close(file)
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
        if os.getppid() == server:
            os.dup2(errors, 1)  # whatever is printed goes with the errors
            os.dup2(errors, 2)
            with os.fdopen(call, encoding="utf-8") as asked:
                told = json.load(asked)
            os.chdir(told["folder"])
            os.environ.clear()
            os.environ.update(told["environment"])
            sys.path[:] = told["path"]
            with os.fdopen(answer, "w", encoding="utf-8") as answers:
                json.dump(answer_call(told), answers)
            code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def answer_call(call: dict[str, Any]) -> dict[str, Any]:
    """Call the function that ``call`` names. Return its answer, or the type and message of the exception that it raised."""
    try:
        function = getattr(import_module(call["module"]), call["function"])
        return {"answer": function(*call["arguments"])}
    except Exception as error:
        return {"raised": type(error).__name__, "message": str(error).partition("\n")[0]}
