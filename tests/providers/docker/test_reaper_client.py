"""The owner's end of the reaper."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from typing import Any, ClassVar

import pytest

from openenv_async.providers.docker import reaper_client as module
from openenv_async.providers.docker.address import EngineAddress
from openenv_async.providers.docker.reaper_client import ReaperClient, reaper_client


class Pipe:
    """A reaper's standard input that keeps what was said."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.broken = False
        self.closed = False

    def write(self, data: bytes) -> int:
        if self.broken:
            raise BrokenPipeError
        self.lines.append(json.loads(data))
        return len(data)

    def fileno(self) -> int:
        return os.open(os.devnull, os.O_RDONLY)

    def close(self) -> None:
        self.closed = True


class Process:
    """A reaper that never runs."""

    made: ClassVar[list[Process]] = []

    def __init__(self, command: list[str], **options: Any) -> None:
        self.command = command
        self.options = options
        self.stdin = Pipe()
        self.pid = 1000 + len(self.made)
        self.returncode: int | None = None
        self.made.append(self)

    def poll(self) -> int | None:
        return self.returncode

    def kill(self) -> None:
        self.returncode = -signal.SIGKILL

    def wait(self) -> int | None:
        return self.returncode


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[Process]:
    Process.made = []
    monkeypatch.setattr(subprocess, "Popen", Process)
    monkeypatch.setattr(os, "set_blocking", lambda descriptor, blocking: os.close(descriptor))
    return Process.made


def address(url: str) -> EngineAddress:
    return EngineAddress(url, "the test", "none")


def client(url: str = "unix:///fake.sock") -> ReaperClient:
    return ReaperClient(address(url))


def test_a_reaper_is_told_its_engine_and_every_container(processes: list[Process]) -> None:
    made = client()
    made.add("early", "http://127.0.0.1:1", "t1", 10.0)
    assert (processes, made.reaper_pid) == ([], None)
    made.ensure()
    made.ensure()
    [process] = processes
    assert made.reaper_pid == process.pid
    assert process.options["start_new_session"]
    made.add("late", "http://[::1]:2", "t2", 40.0)
    made.drop("early")
    made.drop("early")
    start, *rest = process.stdin.lines
    assert start["pid"] == os.getpid()
    assert start["label"].startswith("openenv_async.run=")
    early = {"add": "early", "token": "t1", "every": 2.0, "host": "127.0.0.1", "port": 1}
    late = {"add": "late", "token": "t2", "every": 8.0, "host": "::1", "port": 2}
    assert rest == [early, late, {"drop": "early"}]


@pytest.mark.parametrize("end", ["died", "broken"])
def test_one_that_is_gone_is_replaced_and_told_again(
    processes: list[Process], end: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = client()
    made.ensure()
    made.add("a", "http://127.0.0.1:1", "t", 10.0)
    if end == "died":
        processes[0].returncode = 1
        made.ensure()
    else:
        processes[0].stdin.broken = True
        made.add("b", "http://127.0.0.1:2", "t", 10.0)
    assert len(processes) == 2
    assert processes[0].stdin.closed
    names = [line.get("add") for line in processes[1].stdin.lines]
    assert names == [None, "a"] + (["b"] if end == "broken" else [])
    assert "another one takes over" in caplog.text
    assert made.reaper_pid == processes[1].pid


def test_an_engine_that_no_reaper_reaches_is_told_once(
    processes: list[Process], caplog: pytest.LogCaptureFixture
) -> None:
    made = client("npipe:////./pipe/docker_engine")
    made.ensure()
    made.ensure()
    assert processes == []
    assert caplog.text.count("no reaper for an Engine at npipe://") == 1


def test_without_a_reaper_the_leases_are_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise OSError("too many processes")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    made = client()
    made.ensure()
    made.add("a", "http://127.0.0.1:1", "t", 10.0)
    assert made.reaper_pid is None
    assert "no reaper could be started (too many processes)" in caplog.text


async def test_goodbye_ends_a_real_one() -> None:
    made = client(f"unix:///nonexistent-{os.getpid()}.sock")
    made.ensure()
    process = made._process
    assert process is not None
    assert process.poll() is None
    begun = time.monotonic()
    await made.goodbye()
    assert process.returncode is not None
    assert time.monotonic() - begun < 30
    assert made.reaper_pid is None
    await made.goodbye()


def test_a_process_has_one_client_for_each_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_reaper_clients", {})
    first = reaper_client(address("unix:///a.sock"))
    assert reaper_client(address("unix:///a.sock")) is first
    assert reaper_client(address("unix:///b.sock")) is not first
    first.pid = -1
    assert reaper_client(address("unix:///a.sock")) is not first


def test_a_forked_child_lets_go_of_the_parent_s_reaper(processes: list[Process]) -> None:
    made = client()
    made.ensure()
    made.abandon()
    assert processes[0].stdin.closed
    assert processes[0].returncode == 0
    assert made.reaper_pid is None
    made.abandon()
