"""An Engine's messages while it builds, as lines."""

from __future__ import annotations

from typing import Any

import pytest

from openenv_async.providers.docker.progress import BuildLog, transfer_line


def test_the_engines_stream_becomes_lines() -> None:
    lines: list[str] = []
    log = BuildLog(lines.append)
    log.feed({"status": "Pulling from library/x", "id": "latest"})
    log.feed({"status": "Downloading", "progressDetail": {"current": 1}, "id": "a"})
    log.feed({"stream": "Step 1/2 : RUN a \\\n"})
    log.feed({"stream": "\x1b[31mre"})
    log.feed({"stream": "d\x1b[0m\n0 %\r100 %\n ---> Running in 1\n"})
    log.feed({"aux": {"ID": "sha256:1"}})
    log.feed({"stream": "end"})
    log.finish()
    assert lines == ["latest: Pulling from library/x", "Step 1/2 : RUN a \\", "red", "100 %", "end"]
    assert list(log.tail) == ["red", "100 %", "end"]
    assert log.image_id == "sha256:1"
    assert log.step == "step 1 of 2 (RUN a \\)"


def test_the_tail_is_that_of_the_current_step() -> None:
    log = BuildLog(lambda line: None)
    log.feed({"stream": "Step 1/2 : RUN a\nfirst\n"})
    assert list(log.tail) == ["first"]
    log.feed({"stream": "Step 2/2 : RUN   b   c\n"})
    assert list(log.tail) == []
    assert log.step == "step 2 of 2 (RUN b c)"
    for number in range(50):
        log.feed({"stream": f"{number}\n"})
    assert list(log.tail) == [str(number) for number in range(10, 50)]


def test_what_is_no_line_is_left_out() -> None:
    lines: list[str] = []
    log = BuildLog(lines.append)
    messages: list[dict[str, Any]] = [
        {"stream": "\n  \n"},
        {"stream": "Removing intermediate container 1\n"},
        {"aux": "text"},
        {"aux": {"Other": 1}},
        {"other": 1},
        {"status": ""},
    ]
    for message in messages:
        log.feed(message)
    log.finish()
    log.finish()
    assert (lines, log.image_id, log.step) == ([], None, "")


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ({"status": "Pushed", "id": "a"}, "a: Pushed"),
        ({"status": "Done"}, "Done"),
        ({"status": "Done", "progressDetail": {}}, "Done"),
        ({"status": "Pushing", "progressDetail": {"current": 1}, "id": "a"}, None),
        ({"status": "", "id": "a"}, None),
        ({}, None),
    ],
)
def test_a_line_for_a_layer(message: dict[str, Any], line: str | None) -> None:
    assert transfer_line(message) == line
