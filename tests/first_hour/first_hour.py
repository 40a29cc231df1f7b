"""Do what a newcomer does: the README from top to bottom, in a fresh clone and a fresh environment, in a terminal.

    python tests/first_hour/first_hour.py             # at 80 and at 120 columns; compare with the captures beside this file
    python tests/first_hour/first_hour.py --update    # write the captures, to be read before they are committed

The README is done twice, each time in a new clone with a new environment; with `--here`, with this checkout and the environment
that runs the script. It runs the block below "Start", every console block, and every Python block, but nothing that needs
PyTorch. Each command has a terminal of its own and must end with exit code 0. Figures, times and places differ by machine:
`normalize` takes them out of the captures, and only words are compared, because longer figures wrap elsewhere.
"""

from __future__ import annotations

import argparse
import difflib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator, Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WIDTHS = (80, 120)
ROWS = 50
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SPINNER = re.compile("[\u2800-\u28ff] ")
"""How a line of progress begins. The terminal erases it."""
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def read_commands(readme: str) -> Iterator[str]:
    """Yield the commands of the README in its order; a Python block is one command."""
    start = readme.index("## Start")
    yield from next(indented_blocks(readme[start:])).splitlines()
    for language, block in FENCE.findall(readme):
        if language == "console":
            yield from (line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ "))
        elif language == "python":
            yield f"python - <<'END'\n{block}END"


def indented_blocks(text: str) -> Iterator[str]:
    """Yield the blocks that are indented by four spaces, without the indent."""
    for block in re.findall(r"(?:^    .*\n)+", text, re.MULTILINE):
        yield "".join(line[4:] for line in block.splitlines(keepends=True))


def run_in_terminal(command: str, folder: Path, columns: int, environment: Mapping[str, str]) -> tuple[int, str]:
    """Run a command of bash in a terminal of ``columns`` columns. Return its exit code and what the terminal got."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
    process = subprocess.Popen(
        ["bash", "-c", command], cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    parts = []
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # Linux: the terminal has no writer left
            break
        if not part:
            break
        parts.append(part)
    os.close(ours)
    return process.wait(), b"".join(parts).decode(errors="replace")


def normalize(text: str) -> str:
    """Return what was printed without escape sequences, overwritten lines, and all that differs between machines and runs."""
    lines = [line.rpartition("\r")[2].rstrip() for line in ESCAPE.sub("", text).replace("\r\n", "\n").split("\n")]
    plain = "\n".join(line for line in lines if not SPINNER.match(line))
    plain = re.sub(r"\d+(?:\.\d+)?e[-+]\d+", "#e-#", plain)
    plain = re.sub(r"<?\d+(?:\.\d+)?%", "#%", plain)
    plain = re.sub(r"\b\d+(?:\.\d+)? (s|ms|MiB|KiB|bytes)\b", r"# \1", plain)
    plain = re.sub(r"\b\d+(?:\.\d+)?s\b", "#s", plain)
    plain = re.sub(r"\b\d+\.\d+\.\d+\b", "#.#.#", plain)
    plain = re.sub(r"\b[0-9a-f]{16}\b", "#" * 16, plain)
    return re.sub(r" +", " ", plain)


def do_readme(clone: Path, columns: int, environment: Mapping[str, str], setup: bool) -> str:
    """Run every command of the README in ``clone``. Return the capture. SystemExit if a command fails."""
    captured = []
    for command in read_commands((clone / "README.md").read_text(encoding="utf-8")):
        is_setup = command.startswith(("python3 -m venv", "pip "))
        if is_setup and not setup:
            captured.append(f"$ {command}\n")
            continue
        is_inside = setup and not command.startswith("python3 -m venv")
        inside = f". .venv/bin/activate && {command}" if is_inside else command
        code, text = run_in_terminal(inside, clone, columns, environment)
        if code:
            sys.exit(f"$ {command}\n{text}\nexit code {code}, at {columns} columns")
        captured.append(f"$ {command}\n" + ("" if is_setup else normalize(text)))
    return "\n".join(captured)


def capture(columns: int, here: bool) -> str:
    """Return what the README's commands print at ``columns`` columns, in a clone of their own."""
    with tempfile.TemporaryDirectory(prefix="first-hour-") as folder:
        clone = Path(folder) / "graphsurgery"
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "PYTHONPATH", "NO_COLOR")}
        environment |= {"TERM": "xterm-256color", "HF_HUB_OFFLINE": "1"}
        if here:
            clone.mkdir()
            for name in ("README.md", "fixtures"):
                (clone / name).symlink_to(ROOT / name)
            binaries = Path(sys.executable).parent
            environment |= {"PYTHONPATH": str(ROOT), "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
        else:
            subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        return do_readme(clone, columns, environment, setup=not here).replace(str(clone), "CLONE")


def main() -> int:
    parser = argparse.ArgumentParser(description="Do the README as a newcomer does, at several widths of the terminal.")
    parser.add_argument("--update", action="store_true", help="write the captures")
    parser.add_argument("--here", action="store_true", help="neither clone nor install: use this checkout and environment")
    arguments = parser.parse_args()
    differs = False
    for columns in WIDTHS:
        expected, found = HERE / f"{columns}.txt", capture(columns, arguments.here)
        if arguments.update:
            expected.write_text(found, encoding="utf-8")
            continue
        before = expected.read_text(encoding="utf-8")
        if before.split() != found.split():
            lines = (text.splitlines(keepends=True) for text in (before, found))
            sys.stdout.writelines(difflib.unified_diff(*lines, expected.name, "now"))
            differs = True
    return int(differs)


if __name__ == "__main__":
    sys.exit(main())
