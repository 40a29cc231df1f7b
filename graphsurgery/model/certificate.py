"""The certificate within a file: the files and package versions it was made with, and the verdict of its proof.

The certificate is the file's last record unless other fields must follow the metadata, so the bytes that were proven stay as
they are.
"""

from __future__ import annotations

import importlib
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from graphsurgery.errors import NoHeadError
from graphsurgery.model.checksums import compute_checksum, has_valid_checksum
from graphsurgery.model.model import Model, open_data
from graphsurgery.model.provenance import CERTIFICATE, Step, list_steps_since_edit, record_at_end, undo_step
from graphsurgery.model.records import Document
from graphsurgery.report import Report, Verdict
from graphsurgery.version import __version__

ELSEWHERE = "elsewhere:"
"""Prefix of a source's name if the source is not in the model folder."""
VERDICTS = ("", *(verdict.value for verdict in Verdict))
PACKAGES = ("onnx", "onnxruntime", "onnx-graphsurgeon", "numpy", "tokenizers", "safetensors")
"""Names of the packages as users know them. The module's name has underscores instead of hyphens. The installed distribution
may have another name: onnxruntime-gpu also provides onnxruntime."""


@dataclass(frozen=True)
class Certificate:
    """How a file says it was made. ``verdict`` and ``checks`` are empty if nothing was proven."""

    sources: Mapping[str, str]
    """sha256 (hex) of each source, by its path in the model folder."""
    versions: Mapping[str, str]
    verdict: str
    checks: Mapping[str, str]
    """The verdict of each check, by its name."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        proven = f"proven: {self.verdict}" if self.verdict else "never proven"
        return f"made from {len(self.sources)} files whose sha256 it records, {proven}"


def list_versions() -> dict[str, str]:
    """Return the versions of Python and of each installed package of `PACKAGES`, as its module states it."""
    found = {name: _read_version(name.replace("-", "_")) for name in PACKAGES}
    return {"python": platform.python_version()} | {name: version for name, version in found.items() if version is not None}


def _read_version(module: str) -> str | None:
    try:
        return str(importlib.import_module(module).__version__)
    except ImportError:
        return None


def add_certificate(document: Document, sources: Mapping[str, str], report: Report | None) -> Document:
    """Return ``document`` with a certificate that names its ``sources`` and the verdicts of ``report``."""
    verdict = report.verdict.value if report is not None else ""
    checks = {check.name: check.verdict.value for check in report.checks} if report is not None else {}
    content = {"sources": dict(sources), "versions": list_versions(), "verdict": verdict, "checks": checks}
    content["seal"] = compute_checksum(content, __version__, document.fingerprint)
    return record_at_end(document, CERTIFICATE, content)


def find_certificate_step(model: Model) -> Step | None:
    """Return the step that holds the certificate, whether or not it is valid. Return None if there is none or the file was
    edited since."""
    return next((step for step in reversed(list_steps_since_edit(model.proto)) if step.edit == CERTIFICATE), None)


def read_certificate(model: Model) -> Certificate | None:
    """Return the file's certificate, or None if there is none or it was not recorded for this file as it is."""
    entry = find_certificate_step(model)
    if entry is None or not has_valid_checksum(entry) or not _is_recorded_for(model, entry):
        return None
    content = entry.parameters
    if content["verdict"] not in VERDICTS:
        return None
    return Certificate(**{name: content[name] for name in ("sources", "versions", "verdict", "checks")})


def _is_recorded_for(model: Model, entry: Step) -> bool:
    """Return whether ``entry`` was recorded for this file, apart from later moves of its weights."""
    document = model.document
    try:
        for step in reversed(list_steps_since_edit(model.proto)):
            document = undo_step(document, step, lambda location: open_data(model.files[location]))
            if step == entry:
                return document.fingerprint == entry.source
    except (NoHeadError, KeyError):
        pass
    return False
