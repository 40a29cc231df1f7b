"""An output is complete or absent and the input untouched, whatever system call fails and wherever the process is killed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import exotic
import pytest
from conftest import ROOT
from keeping import add_two_data_files, make_external

from graphsurgery.model.loading import load
from graphsurgery.model.saving import save

SCRIPT = Path(__file__).with_name("save_under_fault.py")
PYTHON = (sys.executable, str(SCRIPT))
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
OLD = b"what was there before"
MARKER = "getpriority"
MEMORY = {"mmap", "munmap", "mremap", "mprotect", "madvise", "brk", "futex"}
"""What Python calls for memory, now and then: these touch no file, and Python turns their failure into MemoryError."""
MUST_FAIL = {"getrandom", "pwrite64", "copy_file_range", "ftruncate"}
"""Calls whose failure cannot be made good. The others are tolerated in some places: fsync of a folder, say."""
FALLBACKS = {"copy_file_range": ("ENOSYS", "EXDEV", "EINVAL", "EOPNOTSUPP"), "link": ("EPERM", "EOPNOTSUPP", "EACCES")}
"""Errors by which a system says that it has no such thing: saving does it in another way."""


def single(folder: Path) -> None:
    """All weights inside the file."""
    model = exotic.plain([exotic.constant("c", exotic.tensor("c", 700))])
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def external(folder: Path) -> None:
    """One large tensor inside, and one in each of two data files."""
    model = exotic.plain()
    add_two_data_files(model, folder)
    (folder / "model.onnx").write_bytes(model.SerializeToString())


SCENARIOS = {"single file": (single, False), "external data": (external, False), "replaced by force": (single, True)}


def serving(source: Path) -> subprocess.Popen[str]:
    command = [*PYTHON, "serve", str(source)]
    return subprocess.Popen(command, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@dataclass
class Scene:
    """A source, what saving it gives when nothing goes wrong, and two servers that save it while something does."""

    folder: Path
    force: bool
    number: Iterator[int] = field(default_factory=count)

    def __post_init__(self) -> None:
        self.source = self.folder / "source"
        self.input = read(self.source)
        saved = self.new_output()
        save(load(self.source / "model.onnx"), saved, force=self.force)
        self.expected = read(saved.parent)
        self.servers = [serving(self.source / "model.onnx") for _ in range(2)]

    def new_output(self) -> Path:
        """An output in a folder of its own; with the old file there where it is to be replaced."""
        folder = self.folder / f"case-{next(self.number)}"
        folder.mkdir()
        if self.force:
            (folder / "saved.onnx").write_bytes(OLD)
        return folder / "saved.onnx"

    def ask(self, server: subprocess.Popen[str], inject: str | None) -> tuple[dict[str, Any], Path, list[str]]:
        """What came of one case, the output's folder, and what strace saw."""
        output = self.new_output()
        log = self.folder / f"{output.parent.name}.log"
        case = {"output": str(output), "force": self.force, "log": str(log), "inject": inject}
        server.stdin.write(json.dumps(case) + "\n")
        server.stdin.flush()
        return json.loads(server.stdout.readline()), output.parent, log.read_text().splitlines()

    def calls(self) -> list[tuple[str, int]]:
        """The system calls of one save, in order: name, and the how many-th of that name since the process is traced."""
        result, _, log = self.ask(self.servers[0], None)
        if not result["attached"]:
            pytest.skip(f"strace cannot attach here: {result['strace']}")
        names = [match[0] for match in map(re.compile(r"\w+(?=\()").match, log) if match]
        start, end = (index for index, name in enumerate(names) if name == MARKER)
        return [(name, names[: index + 1].count(name)) for index, name in enumerate(names)
                if start < index <= end and name not in MEMORY]  # fmt: skip

    def every(self, cases: list[str]) -> Iterator[tuple[str, dict[str, Any], Path]]:
        """Each case done, half of them by each server, and each fault seen to have happened."""

        def half(which: int) -> list[tuple[str, dict[str, Any], Path]]:
            done = []
            for inject in cases[which::2]:
                result, folder, log = self.ask(self.servers[which], inject)
                hit = [line for line in log if "(INJECTED)" in line or "SIGINT" in line or "killed by" in line]
                assert hit, f"{inject} did not happen: {log}"
                assert read(self.source) == self.input, f"{inject}: the input is not what it was"
                done.append((inject, result, folder))
            return done

        with ThreadPoolExecutor(2) as pool:
            for done in pool.map(half, range(2)):
                yield from done


def read(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file's content, and for how long it has had it."""
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def contents(folder: Path) -> dict[str, bytes]:
    return {name: data for name, (data, _) in read(folder).items()}


@pytest.fixture(scope="module", params=SCENARIOS)
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed: system calls cannot be made to fail")
    make, force = SCENARIOS[request.param]
    folder = tmp_path_factory.mktemp("scene")
    (folder / "source").mkdir()
    make(folder / "source")
    made = Scene(folder, force)
    yield made
    for server in made.servers:
        server.stdin.close()
        server.wait()
        server.stdout.close()


def is_complete(scene: Scene, folder: Path) -> bool:
    """Whether the output is there: then it is whole, byte for byte, and loads."""
    output = folder / "saved.onnx"
    if not output.exists() or (scene.force and output.read_bytes() == OLD):
        return False
    left = contents(folder)
    assert {name: left.get(name) for name in scene.expected} == {name: data for name, (data, _) in scene.expected.items()}
    assert load(output).missing_data == ()
    return True


def check_nothing_else(scene: Scene, folder: Path, complete: bool) -> None:
    """No file is there but the output and its data, or the one that was to be replaced."""
    before = {"saved.onnx"} if scene.force else set()
    assert set(contents(folder)) == (set(scene.expected) if complete else before)


@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_every_call_fails_once(scene: Scene, error: str) -> None:
    failed = set()
    cases = [f"{name}:error={error}:when={nth}" for name, nth in scene.calls() if name != MARKER]
    for inject, result, folder in scene.every(cases):
        complete = is_complete(scene, folder)
        check_nothing_else(scene, folder, complete)
        assert complete == (result["error"] is None), (inject, result)
        assert result["error"] in (None, "SurroundingsError"), (inject, result)
        failed |= {inject.partition(":")[0]} if result["error"] else set()
        assert result["error"] or inject.partition(":")[0] not in MUST_FAIL, f"{inject} went unnoticed"
    assert failed >= MUST_FAIL | {"openat", "fsync", "close", "newfstatat"} | ({"rename"} if scene.force else set())


def test_killed_at_every_call(scene: Scene) -> None:
    """Each kill comes before the call is carried out, so that it falls between two calls; the last one after all of them."""
    outcomes = []
    for inject, result, folder in scene.every([f"{name}:signal=KILL:when={nth}" for name, nth in scene.calls()]):
        assert result["signal"] == 9, inject
        complete = is_complete(scene, folder)
        left = set(contents(folder)) - {"saved.onnx"} - (set(scene.expected) if complete else set())
        assert all((name.startswith(".") and name.endswith(".tmp")) or name.endswith(".data") for name in left), (inject, left)
        outcomes.append(complete)
    assert True in outcomes and False in outcomes


def test_interrupted_at_every_call(scene: Scene) -> None:
    """Ctrl-C: nothing is left behind, or the whole output is there."""
    outcomes = []
    for inject, result, folder in scene.every([f"{name}:signal=INT:when={nth}" for name, nth in scene.calls()]):
        complete = is_complete(scene, folder)
        check_nothing_else(scene, folder, complete)
        assert result["error"] in ("KeyboardInterrupt", None) and (complete or result["error"]), (inject, result)
        outcomes.append(complete)
    assert True in outcomes and False in outcomes


def test_what_the_system_does_not_have_is_done_in_another_way(scene: Scene) -> None:
    calls = [(name, nth) for name, nth in scene.calls() if name in FALLBACKS]
    assert ("link" in dict(calls)) != scene.force and "copy_file_range" in dict(calls)
    cases = [f"{name}:error={error}:when={nth}" for name, nth in calls for error in FALLBACKS[name]]
    cases += [f"copy_file_range:error={error}" for error in FALLBACKS["copy_file_range"]]
    for inject, result, folder in scene.every(cases):
        assert result["error"] is None, (inject, result)
        assert is_complete(scene, folder)
        check_nothing_else(scene, folder, complete=True)


# The real thing, on a file system of its own that is gone with the process


def save_on(tmp_path: Path, options: str, make: Any) -> dict[str, Any]:
    """Save onto a tmpfs mounted with ``options``; skips where mounting is not permitted."""
    for tool in ("unshare", "mount"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    make(source)
    mounting = f'mount -t tmpfs -o {options} none "$0" 2>/dev/null || exit 77; exec "$@"'
    command = [*PYTHON, "once", str(source / "model.onnx"), str(target / "saved.onnx")]
    done = subprocess.run(["unshare", "--map-root-user", "--mount", "sh", "-c", mounting, str(target), *command],
                          env=ENVIRONMENT, capture_output=True, text=True, check=False)  # fmt: skip
    if done.returncode == 77 or done.stderr.startswith("unshare:"):
        pytest.skip("mounting a file system is not permitted here")
    return json.loads(done.stdout)


def large_parts(folder: Path) -> None:
    """48 KiB of weights in the file and 48 KiB in a data file."""
    model = exotic.plain([exotic.constant("c", exotic.tensor("c", 12 << 10))])
    held = exotic.tensor("a", 12 << 10)
    (folder / "a.bin").write_bytes(held.raw_data)
    make_external(held, {"location": "a.bin"})
    model.graph.initializer.append(held)
    (folder / "model.onnx").write_bytes(model.SerializeToString())


@pytest.mark.parametrize("kilobytes", [4, 32, 64, 96])
def test_a_full_disk(kilobytes: int, tmp_path: Path) -> None:
    """No room for anything; for a part of the data; for the data and a part of the model; for all but a few bytes."""
    result = save_on(tmp_path, f"size={kilobytes}k", large_parts)
    assert result["error"] == "SurroundingsError" and "No space left" in result["message"]
    assert result["left"] == []


def test_a_disk_with_just_enough_room(tmp_path: Path) -> None:
    assert save_on(tmp_path, "size=128k", large_parts) == {
        "error": None, "ours": [], "message": "", "left": ["saved.onnx", "saved.onnx.data"],
    }  # fmt: skip


def test_a_read_only_folder(tmp_path: Path) -> None:
    """Read-only for everybody, the superuser too."""
    result = save_on(tmp_path, "ro,size=128k", large_parts)
    assert result["error"] == "SurroundingsError" and "Read-only" in result["message"]
    assert result["left"] == []
