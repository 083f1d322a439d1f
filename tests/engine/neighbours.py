"""Environments that do bad things to the process that they share. Importable by workers."""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar

from openenv_async import Environment
from openenv_async.environment import Isolation

Dict = dict[str, Any]


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Panic(BaseException):
    """An error that an extension module may raise."""


RAISED: dict[str, BaseException | type[BaseException]] = {
    each.__name__: each
    for each in (
        Exception,
        Panic,
        SystemExit,
        KeyboardInterrupt,
        GeneratorExit,
        asyncio.CancelledError,
        StopIteration,
        StopAsyncIteration,
        MemoryError,
        Unprintable,
        TimeoutError,
    )
}


def _raise(error: Any) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


def close_standard_descriptors() -> None:
    os.closerange(0, 3)


def close_stdout() -> None:
    sys.stdout.close()
    sys.stderr.close()


def replace_stdout() -> None:
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - it is to be left behind, closed
    sys.stdout.close()


def spoil_stdout() -> None:
    setattr(sys, "stdout", "nothing to write to")  # noqa: B010 - of a wrong type


def print_megabytes() -> None:
    for _ in range(8):
        sys.stdout.write("x" * 99 + "\n" + "y" * (1 << 20))
    sys.stdout.flush()


def signal_itself() -> None:
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM, signal.SIGUSR1, signal.SIGINT):
        os.kill(os.getpid(), number)
    os.killpg(0, signal.SIGTERM)
    signal.setitimer(signal.ITIMER_REAL, 0.01)


def interrupt_main_thread() -> None:
    _thread.interrupt_main()


def start_threads() -> None:
    for _ in range(30):
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    threading.Thread(target=sys.exit, daemon=True).start()


def leave_children() -> None:
    for own_session in (False, True):
        subprocess.Popen(["sleep", "60"], start_new_session=own_session)


def recurse() -> None:
    recurse()


def fork_and_return() -> None:
    os.fork()


def seed_everything() -> None:
    random.seed(1)
    sys.setswitchinterval(0.01)


SYNC: dict[str, Callable[[], None]] = {
    **{f"raise {name}": _raise(error) for name, error in RAISED.items()},
    "close the standard descriptors": close_standard_descriptors,
    "close standard output": close_stdout,
    "replace standard output": replace_stdout,
    "spoil standard output": spoil_stdout,
    "print megabytes": print_megabytes,
    "signal itself": signal_itself,
    "interrupt the main thread": interrupt_main_thread,
    "start threads": start_threads,
    "leave children": leave_children,
    "recurse": recurse,
    "fork and return": fork_and_return,
    "change globals": seed_everything,
}


class Neighbour(Environment[Dict, Dict, Dict]):
    """Counts its steps and prints each; does the bad thing that it is told first."""

    isolation: ClassVar[Isolation | None] = "thread"
    session_options: ClassVar[frozenset[str]] = frozenset({"build"})

    def __init__(self, build: float = 0.0) -> None:
        self.count = 0
        time.sleep(build)

    def reset(self, *, seed: int | None = None) -> Dict:
        self.count = 0
        return {"pid": os.getpid(), "thread": threading.get_ident()}

    def step(self, action: Dict) -> Dict:
        sys.stdout.write(f"step {self.count}\n")
        if "sleep" in action:
            time.sleep(action["sleep"])
        if "spin" in action:
            ends = time.monotonic() + action["spin"]
            while time.monotonic() < ends:
                pass
        if "do" in action:
            SYNC[action["do"]]()
        self.count += 1
        main = threading.current_thread() is threading.main_thread()
        return {"count": self.count, "value": action.get("value"), "main": main}


class InlineNeighbour(Neighbour):
    isolation: ClassVar[Isolation | None] = "inline"


class ProcessNeighbour(Neighbour):
    isolation: ClassVar[Isolation | None] = "process"


class PreparedNeighbour(Neighbour):
    prepared: ClassVar[list[int]] = []

    @classmethod
    def prepare_process(cls, sessions: int, **params: Any) -> None:
        cls.prepared.append(sessions)

    def step(self, action: Dict) -> Dict:
        return {"prepared": self.prepared}


class UnsafeNeighbour(Neighbour):
    isolation: ClassVar[Isolation | None] = None
    thread_safe: ClassVar[bool] = False


class OwningNeighbour(Neighbour):
    owns_thread: ClassVar[bool] = True


# -- async ------------------------------------------------------------------------------


def cancel_every_task() -> None:
    for task in asyncio.all_tasks():
        if task is not asyncio.current_task():
            task.cancel()


def stop_the_loop() -> None:
    asyncio.get_running_loop().stop()


def exit_in_a_task() -> None:
    async def leave() -> None:
        sys.exit(5)

    async def interrupt() -> None:
        raise KeyboardInterrupt

    asyncio.get_running_loop().create_task(leave())
    asyncio.get_running_loop().create_task(interrupt())


def exit_in_a_callback() -> None:
    asyncio.get_running_loop().call_soon(sys.exit)


def break_exception_handler() -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: 1 / 0)
    loop.call_soon(_raise(KeyError("nothing")))


def take_signals() -> None:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, loop.stop)
    os.kill(os.getpid(), signal.SIGTERM)


def block_the_loop() -> None:
    time.sleep(0.7)


def hang() -> None:
    time.sleep(60)


ASYNC: dict[str, Callable[[], None]] = {
    **SYNC,
    "cancel every task": cancel_every_task,
    "stop the loop": stop_the_loop,
    "exit in a task": exit_in_a_task,
    "exit in a callback": exit_in_a_callback,
    "break the exception handler": break_exception_handler,
    "take signals": take_signals,
    "block the loop": block_the_loop,
}


class AsyncNeighbour(Environment[Dict, Dict, Dict]):
    """The same as a task."""

    def __init__(self) -> None:
        self.count = 0

    async def reset(self, *, seed: int | None = None) -> Dict:
        self.count = 0
        return {"pid": os.getpid()}

    async def step(self, action: Dict) -> Dict:
        sys.stdout.write(f"step {self.count}\n")
        if action.get("unresponsive"):
            ends = time.monotonic() + action["unresponsive"]
            while (left := ends - time.monotonic()) > 0:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(left)
        if "child" in action:
            await asyncio.create_task(asyncio.sleep(action["child"]))
        await asyncio.sleep(action.get("sleep", 0.001))
        if "do" in action:
            hang() if action["do"] == "hang" else ASYNC[action["do"]]()
        self.count += 1
        return {"count": self.count, "value": action.get("value")}
