"""The log of a service on stderr: lines for people, or with `--json-logs` one JSON object per line."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

NAME = "graphsurgery.serving"
logger = logging.getLogger(NAME)
FACTS = "facts"
"""The attribute of a log record that holds more fields."""
LIBRARIES = ("uvicorn", "asyncio")
"""Only errors of these libraries are logged: uvicorn warns of each request that is not HTTP, so a client could fill the log."""


class JsonFormatter(logging.Formatter):
    """Writes a record as one line of JSON: time (UTC), level, message, and the fields given as ``facts``."""

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        content: dict[str, Any] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z", "level": record.levelname.lower(), "message": record.getMessage(),
            **getattr(record, FACTS, {}),
        }  # fmt: skip
        if record.exc_info:
            content["traceback"] = self.formatException(record.exc_info)
        return json.dumps(content, ensure_ascii=False, default=str)


def set_up_logs(is_json: bool, *, is_quiet: bool = False) -> None:
    """Send the service's log, and the errors of `LIBRARIES`, to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if is_json else logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    levels = {NAME: logging.WARNING if is_quiet else logging.INFO, **dict.fromkeys(LIBRARIES, logging.ERROR)}
    for name, level in levels.items():
        one = logging.getLogger(name)
        one.handlers, one.propagate = [handler], False
        one.setLevel(level)


def log_request(**facts: object) -> None:
    """Log a request that was answered or refused. Only JSON logs have these lines (see `Guards`)."""
    logger.info("request", extra={FACTS: facts})
