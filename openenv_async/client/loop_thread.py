"""The one background thread whose event loop carries every blocking client of a process.

Rules:

- It is a daemon: it runs until the interpreter ends, and from then on nobody may wait for it. A
  caller at that time, such as a ``__del__`` of a module's variable, is refused; one that only wants
  to close has nothing left to do, since its sockets go with the process.
- A forked process has no copy of the thread and starts one of its own.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import sys
import threading
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from openenv_async.errors import ConnectFailed, SessionClosed
from openenv_async.event_loop import new_event_loop

__all__ = ["LoopThread", "background_loop", "close_blocking", "on_background_thread"]

T = TypeVar("T")

_BLOCKED_LOOP: Final = (
    ": this blocking client was called in a running event loop, which stands still meanwhile; a"
    " server in the same loop needs an async client, or the call in asyncio.to_thread"
)


class LoopThread:
    """An event loop in a daemon thread. It lives as long as the process, unless stopped."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.loop = new_event_loop()
        self._closing: set[asyncio.Task[object]] = set()
        self._thread = threading.Thread(target=self._run, name="openenv-io", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def stop(self) -> None:
        """End the thread and close its loop, on which nothing may run any more."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    @property
    def is_here(self) -> bool:
        """Return whether the caller runs in this thread."""
        return threading.current_thread() is self._thread

    def close(self, closing: Coroutine[Any, Any, object]) -> asyncio.Task[object] | None:
        """Run what closes something, and wait for it where this is not the thread that runs it.

        The garbage collector may call a ``__del__`` in any thread, in this one as well.
        """
        if not self.is_here:
            self.run(closing)
            return None
        task = self.loop.create_task(closing, name="openenv-close")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        return task

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there and wait for its result.

        An interrupt of the waiting thread (Ctrl-C) cancels the coroutine.

        Raises:
            RuntimeError: called from the background thread itself, where it would wait for ever.
            SessionClosed: the interpreter is ending.
        """
        if sys.is_finalizing():
            coroutine.close()
            raise SessionClosed(_ENDING)
        if self.is_here:
            coroutine.close()
            raise RuntimeError(
                "a blocking client was called on its own I/O thread: use the async client there"
            )
        future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise
        except ConnectFailed as exc:
            if exc.detail.get("timed_out") and asyncio._get_running_loop() is not None:
                exc.message += _BLOCKED_LOOP
                exc.args = (exc.message,)
            raise
        except BaseException:
            future.cancel()
            raise


_ENDING: Final = "the interpreter is ending: close blocking clients before that"
_lock = threading.Lock()
_current: LoopThread | None = None


def background_loop() -> LoopThread:
    """This process's loop thread; a forked child gets one of its own.

    Raises:
        SessionClosed: the interpreter is ending, and starts no thread any more.
    """
    global _current
    with _lock:
        if _current is None or _current.pid != os.getpid():
            if sys.is_finalizing():
                raise SessionClosed(_ENDING)
            _current = LoopThread()
        return _current


def on_background_thread() -> bool:
    """Return whether the caller runs in the background thread; none is started for the question."""
    return _current is not None and _current.is_here


def close_blocking(closing: Coroutine[Any, Any, object]) -> asyncio.Task[object] | None:
    """Run what closes something, and wait for it; nothing is done once the interpreter is ending.

    Called from the background thread itself, by a ``__del__``, it goes on after this returns.

    Args:
        closing: a coroutine that has not begun.
    """
    if sys.is_finalizing():
        closing.close()
        return None
    return background_loop().close(closing)


def _renew_lock() -> None:
    """A thread of the parent may have held the lock when this process was forked."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)
