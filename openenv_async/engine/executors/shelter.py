"""Protection of the sessions that share a process from what one of their environments does to it.

The end of the process, by ``os._exit`` or a segmentation fault, cannot be caught here; nor can a
change of what is global, such as the working directory. A session that may suffer from these needs
a process to itself (``isolation = "process"`` without ``workers``).
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import fcntl
import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any, Final

from openenv_async.event_loop import loop_factory

__all__ = [
    "after_call",
    "guard_streams",
    "guard_tasks",
    "ignore_signals",
    "run_forever",
]

log = logging.getLogger("openenv_async.worker")

_RESTORE: Final = 0.5
"""Seconds between two looks at the standard descriptors."""
_KEPT_ABOVE: Final = 200
"""File descriptors from here on are for copies of the standard ones."""
_IGNORED: Final = (
    "SIGHUP",
    "SIGINT",
    "SIGQUIT",
    "SIGTERM",
    "SIGALRM",
    "SIGVTALRM",
    "SIGPROF",
    "SIGUSR1",
    "SIGUSR2",
)


# -- the event loop -----------------------------------------------------------------------


def run_forever(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run ``main`` on a new event loop until it ends, whatever stops the loop before that."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        loop = runner.get_loop()
        task = loop.create_task(main(), name="openenv-worker")
        task.add_done_callback(lambda _: loop.stop())
        while not task.done():
            try:
                loop.run_forever()
            except BaseException:  # SystemExit or KeyboardInterrupt of an environment's task
                log.warning("the worker's event loop goes on after", exc_info=True)
        task.result()


def guard_tasks(loop: asyncio.AbstractEventLoop, owner: contextvars.ContextVar[Any]) -> None:
    """Let no session cancel a task of another one that lives, or of the engine.

    Args:
        loop: of the tasks.
        owner: the session on whose behalf code runs; unset where it is the engine's.
    """

    class GuardedTask(asyncio.Task[Any]):
        def __init__(
            self,
            coro: Any,
            *,
            loop: asyncio.AbstractEventLoop,
            context: contextvars.Context | None = None,
            **settings: Any,
        ) -> None:
            self._its_context = contextvars.copy_context() if context is None else context
            super().__init__(coro, loop=loop, context=self._its_context, **settings)

        def cancel(self, msg: Any | None = None) -> bool:
            by = owner.get(None)
            if by is not None:
                its = self._its_context.get(owner)
                if its is not by and (its is None or its.dead is None):
                    return False
            return super().cancel(msg)

    def make(loop: asyncio.AbstractEventLoop, coro: Any, **settings: Any) -> asyncio.Task[Any]:
        return GuardedTask(coro, loop=loop, **settings)

    loop.set_task_factory(make)


# -- the process --------------------------------------------------------------------------


def ignore_signals() -> None:
    """Do nothing on signals that end a process; programs started from here have their defaults.

    The server ends workers by their sockets and with SIGKILL.
    """
    for name in _IGNORED:
        signal.signal(getattr(signal, name), _ignore)


def _ignore(number: int, frame: FrameType | None) -> None:
    """A handler, because an ignored signal would stay ignored in programs started from here."""


class _KeptStream(io.TextIOWrapper):
    """A standard stream that cannot be closed, on a copy of its descriptor."""

    def close(self) -> None:
        """Flush it."""
        with contextlib.suppress(OSError, ValueError):
            self.flush()


_streams: dict[str, _KeptStream] = {}
_copies: dict[int, int] = {}
_pid: int | None = None


def guard_streams() -> None:
    """Keep standard output and error usable whatever environments do to them."""
    for fd in range(3):
        with contextlib.suppress(OSError):
            _copies[fd] = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _KEPT_ABOVE)
    for name, fd in (("stdout", 1), ("stderr", 2)):
        if fd in _copies:
            raw = io.FileIO(_copies[fd], "w", closefd=False)
            stream = _KeptStream(
                io.BufferedWriter(raw), encoding="utf-8", errors="backslashreplace",
                line_buffering=True,
            )  # fmt: skip
            _streams[name] = stream
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def restore_descriptors(loop: asyncio.AbstractEventLoop) -> None:
    """Reopen standard descriptors that were closed, now and from time to time."""
    for fd, copy in _copies.items():
        try:
            os.fstat(fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.dup2(copy, fd)
    loop.call_later(_RESTORE, restore_descriptors, loop)


def watch_forks() -> None:
    """Note which process this is, so that a child that comes back into the worker is ended."""
    global _pid
    _pid = os.getpid()


def after_call() -> None:
    """Put right what a call of an environment may have left.

    A child that it forked and that returned from the call as if it were the worker ends here.
    """
    if _pid is not None and os.getpid() != _pid:
        os._exit(1)
    for name, stream in _streams.items():
        there = getattr(sys, name, None)
        if there is not stream and (
            getattr(there, "closed", False) or not callable(getattr(there, "write", None))
        ):
            setattr(sys, name, stream)
