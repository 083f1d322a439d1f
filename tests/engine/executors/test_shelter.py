"""Each guard of a shared worker by itself: loop, tasks, signals, streams and forks."""

from __future__ import annotations

import asyncio
import contextvars
import signal
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from openenv_async.engine.executors import shelter
from openenv_async.engine.executors.shelter import guard_tasks, run_forever

owner: contextvars.ContextVar[Any] = contextvars.ContextVar("owner")


class Session:
    def __init__(self) -> None:
        self.dead: object | None = None


def isolated(code: str) -> str:
    """The output of Python code in a process of its own, which must end well."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_loop_goes_on_whatever_stops_it() -> None:
    turns: list[str] = []

    def leave() -> None:
        raise SystemExit(3)

    def interrupt() -> None:
        raise KeyboardInterrupt

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for stop in (loop.stop, leave, interrupt):
            loop.call_soon(stop)
            await asyncio.sleep(0.01)
            turns.append("on")

    run_forever(main)
    assert turns == ["on"] * 3


def test_what_main_raises_is_raised() -> None:
    async def main() -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        run_forever(main)


async def cancelled_by(who: Any, whose: Any) -> bool:
    """Whether code of ``who`` can cancel a task of ``whose``; ``None`` is the engine."""
    loop = asyncio.get_running_loop()
    guard_tasks(loop, owner)
    try:
        context = contextvars.copy_context()
        if whose is not None:
            context.run(owner.set, whose)
        task = loop.create_task(asyncio.sleep(10), context=context)
        await asyncio.sleep(0)
        by = contextvars.copy_context()
        if who is not None:
            by.run(owner.set, who)
        did: bool = by.run(task.cancel)
        await asyncio.sleep(0)
        assert task.cancelled() or not did
        contextvars.Context().run(task.cancel)
        await asyncio.wait([task])
        return did
    finally:
        loop.set_task_factory(None)


async def test_no_session_cancels_a_task_of_another() -> None:
    one, other = Session(), Session()
    assert await cancelled_by(one, one)
    assert not await cancelled_by(one, other)
    assert not await cancelled_by(one, None)  # the engine's
    assert await cancelled_by(None, one)
    assert await cancelled_by(None, None)
    other.dead = "closed"
    assert await cancelled_by(one, other)


async def test_a_task_belongs_to_the_context_it_was_made_in() -> None:
    loop = asyncio.get_running_loop()
    guard_tasks(loop, owner)
    try:
        one = Session()
        token = owner.set(one)
        task = loop.create_task(asyncio.sleep(10), name="named")
        owner.reset(token)
        assert task.get_name() == "named"
        other = contextvars.copy_context()
        other.run(owner.set, Session())
        assert other.run(task.cancel) is False
        assert task.cancel() is True
        await asyncio.wait([task])
    finally:
        loop.set_task_factory(None)


def test_signals_that_end_processes_do_nothing_here_and_all_in_programs() -> None:
    names = shelter._IGNORED
    assert {"SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGALRM"} <= set(names)
    out = isolated(
        """
        import os, signal, subprocess, sys
        from openenv_async.engine.executors import shelter
        shelter.ignore_signals()
        for name in shelter._IGNORED:
            os.kill(os.getpid(), getattr(signal, name))
        child = subprocess.Popen([sys.executable, "-c", "import time; print(1, flush=True);"
            "time.sleep(60)"], stdout=subprocess.PIPE)
        child.stdout.readline()
        child.send_signal(signal.SIGTERM)
        print("alive", child.wait(10))
        """
    )
    assert out == f"alive {-signal.SIGTERM}\n"


def test_standard_streams_survive_what_is_done_to_them() -> None:
    out = isolated(
        """
        import os, sys
        from openenv_async.engine.executors import shelter
        shelter.guard_streams()
        for number, spoil in enumerate((
            lambda: sys.stdout.close(),
            lambda: setattr(sys, "stdout", None),
            lambda: setattr(sys, "stdout", object()),
            lambda: delattr(sys, "stdout"),
            lambda: sys.__stdout__.close(),
        )):
            spoil()
            shelter.after_call()
            print("still here", number)
        import io
        own = sys.stdout = io.StringIO()
        shelter.after_call()
        assert sys.stdout is own  # it can be written to: that is the environment's affair
        own.close()
        shelter.after_call()
        print("and here")
        os.close(1)
        print("on a copy")
        """
    )
    assert out.splitlines() == [
        *(f"still here {number}" for number in range(5)),
        "and here",
        "on a copy",
    ]


def test_closed_descriptors_are_reopened_now_and_later() -> None:
    out = isolated(
        """
        import asyncio, os
        from openenv_async.engine.executors import shelter
        shelter._RESTORE = 0.01
        shelter.guard_streams()

        async def main():
            for fd in (1, 2):
                os.close(fd)
                shelter.restore_descriptors(asyncio.get_running_loop())
                os.fstat(fd)
            os.close(1)
            while True:
                try:
                    os.fstat(1)
                    break
                except OSError:
                    await asyncio.sleep(0.005)
            os.write(1, b"back")

        asyncio.run(asyncio.wait_for(main(), 10))
        """
    )
    assert out == "back"


def test_a_fork_that_comes_back_from_a_call_ends() -> None:
    out = isolated(
        """
        import os
        from openenv_async.engine.executors import shelter
        shelter.after_call()  # nothing is watched yet
        pid = os.fork()
        if pid == 0:
            shelter.after_call()
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        shelter.watch_forks()
        shelter.after_call()
        pid = os.fork()
        if pid == 0:
            shelter.after_call()
            os._exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        """
    )
    assert out == "1\n"
