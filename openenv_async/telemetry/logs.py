"""Log records as lines of text or JSON, with the session that they are about.

A record about a session is logged with ``extra={"session_id": …}``; both formats show it. Control
characters in it, which may come from an environment, are shown and never sent to a terminal.
"""

from __future__ import annotations

import json
import logging
import time
from typing import Any, Final, Literal, TextIO

from openenv_async.telemetry.terminal import printable

__all__ = ["JsonFormatter", "MessageFormatter", "TextFormatter", "configure_logging", "log_failure"]

_FIELDS: Final = ("session_id", "episode_id", "worker", "env")


def _facts(record: logging.LogRecord) -> dict[str, Any]:
    facts = {name: getattr(record, name, None) for name in _FIELDS}
    return {name: value for name, value in facts.items() if value is not None}


def log_failure(
    log: logging.Logger, message: str, traceback: str | None, **facts: str | None
) -> None:
    """Log what an environment did as an error, with a traceback that is text already.

    It may come from another process, and an exception may raise when it is printed.

    Args:
        log: the logger.
        message: one line.
        traceback: as Python prints it.
        facts: session_id, episode_id and env, where they are known.
    """
    if log.isEnabledFor(logging.ERROR):
        record = log.makeRecord(
            log.name, logging.ERROR, __file__, 0, "%s", (message,), None, extra=facts
        )
        record.exc_text = traceback
        log.handle(record)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, exception, and the ids."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as one line of JSON."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry: dict[str, Any] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_facts(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        elif record.exc_text:
            entry["exception"] = record.exc_text
        return json.dumps(entry, default=str)


class MessageFormatter(logging.Formatter):
    """The message, and the lines of a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record's message."""
        return printable(super().format(record), lines=True)


class TextFormatter(logging.Formatter):
    """Time, level, logger and message, then ``session_id=…`` where there is one."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return a record's message and its facts, ``name=value`` each."""
        facts = "".join(f" {name}={value}" for name, value in _facts(record).items())
        return printable(super().formatMessage(record) + facts)

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as a line, and the lines of its traceback."""
        return printable(super().format(record), lines=True)


def configure_logging(
    level: str, format: Literal["text", "json"] = "text", stream: TextIO | None = None
) -> None:
    """Log to ``stream`` (standard error), for a process of its own.

    If the program has set up logging already, its handlers stay and only levels are set.

    Args:
        level: of this package's and uvicorn's records; those of others begin at warnings.
        format: of the lines.
        stream: where to.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(handler)
        root.setLevel(logging.WARNING)
    for name in ("openenv_async", "uvicorn"):
        logging.getLogger(name).setLevel(level.upper())
