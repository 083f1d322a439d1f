"""Processes that bear a worker's mark are ended, and no others."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from openenv_async import guard
from openenv_async.engine.executors import offspring
from openenv_async.engine.executors.offspring import (
    MARK_VARIABLE,
    Sweeper,
    end_marked,
    new_mark,
)

SLEEPER = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"]


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def start(processes: list[subprocess.Popen[bytes]], mark: str | None) -> subprocess.Popen[bytes]:
    env = dict(os.environ) if mark is None else {**os.environ, MARK_VARIABLE: mark}
    process = subprocess.Popen(SLEEPER, env=env, stdout=subprocess.PIPE, start_new_session=True)
    processes.append(process)
    assert process.stdout is not None
    process.stdout.readline()  # its variables are its own now
    return process


def test_marks_are_all_different() -> None:
    assert len({new_mark() for _ in range(100)}) == 100


def test_only_what_bears_the_mark_ends(started: list[subprocess.Popen[bytes]]) -> None:
    mark, other = new_mark(), new_mark()
    marked = [start(started, mark) for _ in range(2)]
    spared = [start(started, other), start(started, None), start(started, mark + "0")]
    assert end_marked({mark}) == 2
    assert [process.wait(10) for process in marked] == [-9, -9]
    assert all(process.poll() is None for process in spared)
    assert end_marked({mark, other}) == 1
    assert end_marked(set()) == 0


def test_a_process_does_not_end_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mark = new_mark()
    for name in (str(os.getpid()), "self", "123456789"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "environ").write_bytes(f"A=1\0{MARK_VARIABLE}={mark}\0".encode())
    (tmp_path / "77").mkdir()  # it has ended meanwhile
    monkeypatch.setattr(guard, "_PROC", tmp_path)
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append((pid, number)))
    assert end_marked({mark}) == 1
    assert killed == [(123456789, 9)]


def test_a_system_without_processes_to_look_at_ends_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(guard, "_PROC", tmp_path / "none")
    assert end_marked({new_mark()}) == 0


async def test_a_sweep_ends_what_is_left(started: list[subprocess.Popen[bytes]]) -> None:
    mark = new_mark()
    process = start(started, mark)
    await Sweeper().sweep(mark)
    assert process.wait(10) == -9


async def test_sweeps_that_come_during_one_share_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    searches: list[set[str]] = []
    gate = threading.Event()

    def search(marks: set[str]) -> int:
        searches.append(marks)
        gate.wait(10)
        return 0

    monkeypatch.setattr(offspring, "end_marked", search)
    sweeper = Sweeper()
    sweeps = [asyncio.ensure_future(sweeper.sweep(mark)) for mark in ("a", "b", "c")]
    await asyncio.sleep(0)
    assert not any(sweep.done() for sweep in sweeps)
    gate.set()
    await asyncio.wait_for(asyncio.gather(*sweeps), 10)
    assert searches == [{"a"}, {"b", "c"}]
    await asyncio.wait_for(sweeper.sweep("d"), 10)
    assert searches[2:] == [{"d"}]


async def test_without_a_thread_the_search_is_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    searches: list[set[str]] = []
    monkeypatch.setattr(threading.Thread, "start", refuse)
    monkeypatch.setattr(offspring, "end_marked", searches.append)
    await asyncio.wait_for(Sweeper().sweep("a"), 10)
    assert searches == [{"a"}]


async def test_a_sweep_that_is_cancelled_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    monkeypatch.setattr(offspring, "end_marked", lambda marks: int(gate.wait(10)))
    sweeper = Sweeper()
    first, second = (asyncio.ensure_future(sweeper.sweep(mark)) for mark in ("a", "b"))
    await asyncio.sleep(0)
    first.cancel()
    second.cancel()
    third = asyncio.ensure_future(sweeper.sweep("c"))
    await asyncio.sleep(0)
    gate.set()
    await asyncio.wait_for(third, 10)
    assert first.cancelled()
    assert second.cancelled()
