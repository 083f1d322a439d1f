"""Log records as lines of text or JSON."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Iterator

import pytest

from openenv_async.telemetry.logs import (
    JsonFormatter,
    MessageFormatter,
    TextFormatter,
    configure_logging,
    log_failure,
)


def record(message: str = "it is %s", *args: object, **facts: object) -> logging.LogRecord:
    made = logging.LogRecord("openenv_async.x", logging.WARNING, __file__, 1, message, args, None)
    made.created, made.msecs = 1_700_000_000.25, 250.0
    for name, value in facts.items():
        setattr(made, name, value)
    return made


def test_a_line_of_json_says_it_all() -> None:
    line = JsonFormatter().format(record("it is %s", "late", session_id="s1", env="Echo"))
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "warning",
        "logger": "openenv_async.x",
        "message": "it is late",
        "session_id": "s1",
        "env": "Echo",
    }


def test_json_has_the_exception_raised_or_as_text() -> None:
    raised = record("failed")
    try:
        raise ValueError("on purpose")
    except ValueError as exc:
        raised.exc_info = (ValueError, exc, exc.__traceback__)
    assert "ValueError: on purpose" in json.loads(JsonFormatter().format(raised))["exception"]
    told = record("failed")
    told.exc_text = "Traceback of another process"
    assert json.loads(JsonFormatter().format(told))["exception"] == "Traceback of another process"
    assert "exception" not in json.loads(JsonFormatter().format(record("fine")))


def test_a_value_that_json_does_not_know_is_text() -> None:
    assert json.loads(JsonFormatter().format(record("x", worker={1})))["worker"] == "{1}"


def test_a_line_of_text_ends_with_the_facts() -> None:
    line = TextFormatter().format(record("ready", session_id="s1", episode_id=None, worker="w"))
    assert line.endswith("WARNING openenv_async.x: ready session_id=s1 worker=w")
    assert TextFormatter().format(record("ready")).endswith(": ready")


def test_control_characters_are_shown() -> None:
    """A message of an environment is one line, its traceback has its lines."""
    made = record("step() raised: %s", "a\nfake line\x1b[2J", session_id="\x07")
    made.exc_text = "Traceback:\n  x\x9b"
    line, *trace = TextFormatter().format(made).split("\n")
    assert line.endswith("step() raised: a\\nfake line\\x1b[2J session_id=\\x07")
    assert trace == ["Traceback:", "  x\\x9b"]
    assert MessageFormatter().format(record("a\x1b")) == "a\\x1b"


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def test_a_failure_is_logged_with_its_traceback_as_text() -> None:
    log, kept = logging.Logger("mine"), Kept()
    log.addHandler(kept)
    log_failure(log, "100 % of it failed", "Traceback: …", session_id="s1", env=None)
    [found] = kept.records
    assert (found.levelname, found.getMessage()) == ("ERROR", "100 % of it failed")
    assert found.exc_text == "Traceback: …"
    assert TextFormatter().format(found).endswith("failed session_id=s1\nTraceback: …")


def test_a_failure_is_not_made_where_nothing_reads_it() -> None:
    log, kept = logging.Logger("mine"), Kept()
    log.addHandler(kept)
    log.setLevel(logging.CRITICAL)
    log_failure(log, "failed", None)
    assert kept.records == []


@contextlib.contextmanager
def bare_logging() -> Iterator[logging.Logger]:
    """The root logger without handlers; all is put back as it was."""
    root = logging.getLogger()
    loggers = [root, logging.getLogger("openenv_async"), logging.getLogger("uvicorn")]
    handlers, levels = list(root.handlers), [each.level for each in loggers]
    root.handlers.clear()
    try:
        yield root
    finally:
        root.handlers[:] = handlers
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


@pytest.mark.parametrize("format", ["text", "json"])
def test_a_process_of_its_own_logs_to_the_stream(format: str) -> None:
    stream = io.StringIO()
    with bare_logging():
        configure_logging("info", "json" if format == "json" else "text", stream)
        logging.getLogger("openenv_async.a").info("ours")
        logging.getLogger("others").info("theirs")
        logging.getLogger("others").warning("loud")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    if format == "json":
        assert [json.loads(line)["message"] for line in lines] == ["ours", "loud"]
    else:
        assert lines[0].endswith("INFO openenv_async.a: ours")


def test_handlers_that_are_there_stay() -> None:
    kept, stream = Kept(), io.StringIO()
    with bare_logging() as root:
        root.addHandler(kept)
        root.setLevel(logging.ERROR)
        configure_logging("debug", stream=stream)
        assert root.handlers == [kept]
        assert root.level == logging.ERROR
        assert logging.getLogger("openenv_async").level == logging.DEBUG
        assert logging.getLogger("uvicorn").level == logging.DEBUG
        logging.getLogger("openenv_async").debug("x")
    assert [each.getMessage() for each in kept.records] == ["x"]
    assert stream.getvalue() == ""
