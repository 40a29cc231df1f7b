"""The optional packages that an export needs, imported when it starts."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

from graphsurgery.errors import MissingPackageError

NEWER = 5
"""From this version on transformers exports to ONNX by itself. Optimum works with older versions only."""
CPU = "where there is no GPU, install a CPU build of torch first"


def import_torch() -> tuple[Any, Any]:
    """Return PyTorch and transformers. Raises MissingPackageError if one is not installed."""
    advice = f"pip install torch transformers onnxscript ({CPU})"
    return import_optional("torch", advice), import_optional("transformers", advice)


def import_optional(name: str, advice: str) -> Any:
    """Import a module that only exports need. Raises MissingPackageError with ``advice`` if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingPackageError(f"export needs {name.partition('.')[0]}: {error}", advice) from error


def has_exporter(transformers: Any) -> bool:
    """Return whether this version of transformers exports to ONNX by itself."""
    return int(transformers.__version__.partition(".")[0]) >= NEWER


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep the packages from printing: stdout belongs to the report, and their bars and warnings are about their own work."""
    before = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)
