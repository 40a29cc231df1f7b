"""The certificate within a file: from which files it was made and with what, and what was proven of it before it got its name.

It is the file's last record, written behind the bytes that were proven, which stay as they are.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from graphsurgery.model.model import Model
from graphsurgery.model.provenance import CERTIFICATE, Step, recorded_last, since_edited
from graphsurgery.model.records import Record
from graphsurgery.model.seal import seal
from graphsurgery.report import Report
from graphsurgery.version import __version__

PACKAGES = ("onnx", "onnxruntime", "onnx-graphsurgeon", "numpy", "tokenizers", "safetensors")


@dataclass(frozen=True)
class Certificate:
    """What a file says of how it was made. ``verdict`` and ``checks`` are empty where nothing was proven."""

    sources: Mapping[str, str]
    """sha256 (hex) by the place in the model folder."""
    versions: Mapping[str, str]
    verdict: str
    checks: Mapping[str, str]
    """The verdict of each check."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        proven = f"proven: {self.verdict}" if self.verdict else "never proven"
        return f"made from {len(self.sources)} files whose sha256 it records, {proven}"


def versions() -> dict[str, str]:
    """Python's version and those of the packages that take part."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def certificate(model: Model, sources: Mapping[str, str], report: Report | None) -> Record:
    """The last record of ``model``, which was made from ``sources`` and of which ``report`` was proven."""
    verdict = report.verdict.value if report is not None else ""
    checks = {check.name: check.verdict.value for check in report.checks} if report is not None else {}
    content = {"sources": dict(sources), "versions": versions(), "verdict": verdict, "checks": checks}
    content["seal"] = seal(content, __version__, model.fingerprint)
    return recorded_last(model.document, CERTIFICATE, content)


def certified(model: Model) -> Step | None:
    """The entry that holds the certificate, None where there is none or the file was edited since."""
    return next((step for step in reversed(since_edited(model.proto)) if step.edit == CERTIFICATE), None)


def certificate_of(model: Model) -> Certificate | None:
    """What the file certifies of itself; None where it does not, or where what it says cannot be read."""
    entry = certified(model)
    content = entry.parameters if entry is not None else {}
    tables = [content.get(name) for name in ("sources", "versions", "checks")]
    read = all(isinstance(one, dict) and all(isinstance(value, str) for value in one.values()) for one in tables)
    if not read or not isinstance(content.get("verdict"), str):
        return None
    return Certificate(**{name: content[name] for name in ("sources", "versions", "verdict", "checks")})
