"""Save a model while the system misbehaves. A script; `test_atomic_save.py` runs it and judges what it leaves behind.

    python save_under_fault.py serve SOURCE           cases as JSON lines on stdin, what came of each on stdout
    python save_under_fault.py once SOURCE OUTPUT     one save; tells what came of it and what is in the output's folder then

``serve`` loads the model once and forks for every case. The child waits until strace is attached to it, then saves between two
calls of getpriority, which nothing else makes. A case is ``{"output", "force", "log", "inject"}``: ``inject`` is an expression
for strace such as ``fsync:error=EIO:when=2``, or null to record every system call in ``log``.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from graphsurgery.errors import GraphSurgeryError
from graphsurgery.model.loading import load
from graphsurgery.model.model import Model
from graphsurgery.model.saving import save

PR_SET_PTRACER, ANY_PROCESS = 0x59616D61, -1


def attempt(model: Model, output: str, force: bool) -> dict[str, Any]:
    """Save; what was raised, if anything, by name, with the names of its bases that are ours."""
    try:
        save(model, output, force=force)
    except BaseException as error:
        ours = [base.__name__ for base in type(error).__mro__ if issubclass(base, GraphSurgeryError)]
        return {"error": type(error).__name__, "ours": ours, "message": str(error)}
    return {"error": None, "ours": [], "message": ""}


def child(model: Model, case: dict[str, Any], go: int, told: int) -> None:
    """The process that is traced. Ends without cleaning up, as the parent's files are not its own."""
    ctypes.CDLL(None).prctl(PR_SET_PTRACER, ctypes.c_ulong(ANY_PROCESS), 0, 0, 0)  # where only ancestors may trace
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.write(told, b"!")
    os.read(go, 1)
    os.getpriority(os.PRIO_PROCESS, 0)
    result = attempt(model, case["output"], case["force"])
    os.getpriority(os.PRIO_PROCESS, 0)
    os.write(told, json.dumps(result).encode())
    os._exit(0)


def traced(model: Model, case: dict[str, Any]) -> dict[str, Any]:
    """One case: what the child told (nothing if it was killed) and the signal that ended it."""
    go, let_go = os.pipe()
    hear, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        child(model, case, go, told)
    os.close(told)
    os.read(hear, 1)  # what Python does after every fork is done
    inject = ["-e", f"inject={case['inject']}", "-e", f"trace={case['inject'].partition(':')[0]}"] if case["inject"] else []
    command = ["strace", "-o", case["log"], "-p", str(pid), *inject]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        attached = strace.stderr.readline()
        if "attached" not in attached:
            os.kill(pid, signal.SIGKILL)
        os.write(let_go, b"!")
        _, status = os.waitpid(pid, 0)
    answer = os.read(hear, 1 << 16)
    for descriptor in (go, let_go, hear):
        os.close(descriptor)
    result = json.loads(answer) if answer else {"error": None, "ours": [], "message": ""}
    return result | {"signal": os.WTERMSIG(status), "attached": "attached" in attached, "strace": attached.strip()}


def main(mode: str, source: str, *output: str) -> None:
    model = load(source)
    if mode == "once":
        print(
            json.dumps(
                attempt(model, output[0], False) | {"left": sorted(path.name for path in Path(output[0]).parent.iterdir())}
            )
        )
        return
    for line in sys.stdin:
        print(json.dumps(traced(model, json.loads(line))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
