"""The background thread of blocking clients: one a process, never waited for by itself."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from openenv_async.client import loop_thread
from openenv_async.client.loop_thread import (
    LoopThread,
    background_loop,
    close_blocking,
    on_background_thread,
)
from openenv_async.errors import ConnectFailed, SessionClosed


@pytest.fixture
def thread() -> Iterator[LoopThread]:
    made = LoopThread()
    yield made
    made.stop()


async def value(result: Any) -> Any:
    await asyncio.sleep(0)
    return result


def test_a_coroutine_runs_in_the_thread_and_its_result_comes_back(thread: LoopThread) -> None:
    async def where() -> int:
        return threading.get_ident()

    assert thread.run(where()) != threading.get_ident()
    assert thread.run(value(3)) == 3
    assert not thread.is_here
    assert thread._thread.daemon


def test_stopping_ends_thread_and_loop() -> None:
    thread = LoopThread()
    thread.stop()
    assert thread.loop.is_closed()
    assert not thread._thread.is_alive()


def test_an_error_is_raised_in_the_caller(thread: LoopThread) -> None:
    async def failing() -> None:
        raise LookupError("no")

    with pytest.raises(LookupError, match="no"):
        thread.run(failing())

    async def cancelled() -> None:
        raise asyncio.CancelledError

    with pytest.raises(concurrent.futures.CancelledError):
        thread.run(cancelled())


def test_its_own_thread_may_not_wait_for_it(thread: LoopThread) -> None:
    async def waiting() -> bool:
        assert thread.is_here
        with pytest.raises(RuntimeError, match="on its own I/O thread"):
            thread.run(value(1))
        return True

    assert thread.run(waiting())


def test_an_interrupt_of_the_caller_cancels_the_coroutine(
    thread: LoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    class Interrupted:
        def __init__(self, future: Any) -> None:
            self.cancel = future.cancel

        def result(self) -> None:
            thread_began.wait(5)
            raise KeyboardInterrupt

    thread_began = threading.Event()
    original = asyncio.run_coroutine_threadsafe

    def submit(coroutine: Any, loop: Any) -> Any:
        future = original(coroutine, loop)
        loop.call_soon_threadsafe(thread_began.set)
        return Interrupted(future)

    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", submit)
    with pytest.raises(KeyboardInterrupt):
        thread.run(endless())
    assert ended.wait(5)


async def test_a_blocked_loop_is_named_as_the_cause_of_a_timeout(thread: LoopThread) -> None:
    async def failing(timed_out: bool) -> None:
        raise ConnectFailed("no answer", timed_out=timed_out)

    with pytest.raises(ConnectFailed, match=r"^no answer: this blocking client was called in a"):
        thread.run(failing(True))
    with pytest.raises(ConnectFailed, match=r"^no answer$"):
        thread.run(failing(False))
    with pytest.raises(ConnectFailed, match=r"^no answer$"):
        await asyncio.to_thread(thread.run, failing(True))


def test_closing_waits_elsewhere_and_goes_on_in_the_thread(thread: LoopThread) -> None:
    closed: list[int] = []

    async def closing(number: int) -> None:
        await asyncio.sleep(0)
        closed.append(number)

    assert thread.close(closing(1)) is None
    assert closed == [1]

    async def inside() -> None:
        task = thread.close(closing(2))
        assert task is not None
        assert thread._closing == {task}
        assert closed == [1]
        await task
        await asyncio.sleep(0)
        assert thread._closing == set()

    thread.run(inside())
    assert closed == [1, 2]


def test_a_process_has_one() -> None:
    assert background_loop() is background_loop()
    assert not on_background_thread()

    async def inside() -> bool:
        return on_background_thread()

    assert background_loop().run(inside())
    assert close_blocking(value(1)) is None


def test_nothing_is_started_to_ask_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_thread, "_current", None)
    assert not on_background_thread()
    assert loop_thread._current is None


def test_another_process_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    before = background_loop()
    monkeypatch.setattr(loop_thread, "_current", before)
    monkeypatch.setattr(before, "pid", os.getpid() + 1)
    made = background_loop()
    try:
        assert made is not before
        assert made.pid == os.getpid()
    finally:
        made.stop()


def test_nothing_begins_while_the_interpreter_ends(
    thread: LoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "is_finalizing", lambda: True)
    monkeypatch.setattr(loop_thread, "_current", None)
    for start in (lambda: thread.run(value(1)), background_loop):
        with pytest.raises(SessionClosed, match="the interpreter is ending"):
            start()
    closing: Any = value(1)
    assert close_blocking(closing) is None
    assert closing.cr_frame is None  # closed, so that nothing warns of it


def test_a_forked_process_gets_a_new_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    before = loop_thread._lock
    monkeypatch.setattr(loop_thread, "_lock", before)
    with before, contextlib.suppress(AttributeError):
        loop_thread._renew_lock()
        assert loop_thread._lock is not before
        assert not loop_thread._lock.locked()
