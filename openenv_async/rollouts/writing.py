"""Trajectories written by a thread, so that the event loop waits for no disk and no encoder."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sys
import threading
from collections.abc import Callable, Sized
from dataclasses import dataclass, field
from typing import Any, Final, Self

from openenv_async.deadlines import wait_uncancelled
from openenv_async.rollouts.checking import check_count
from openenv_async.rollouts.files import Episode, TrajectoryWriter
from openenv_async.rollouts.groups import StreamedEpisode
from openenv_async.rollouts.record import Trajectory
from openenv_async.types import Outcome

__all__ = ["AsyncWriter"]

log = logging.getLogger("openenv_async.rollouts")

_UNKNOWN_SIZE: Final = 64


@dataclass(eq=False, slots=True)
class _Submitted:
    """An episode that the thread is to write.

    Attributes:
        size: bytes that its observations have, about.
        asked: takes the result; ``None`` where nobody waits for it.
    """

    episode: Episode
    size: int
    asked: asyncio.Future[None] | None = None


@dataclass(eq=False, slots=True)
class _Waiting:
    """Episodes that were submitted and are not written yet."""

    count: int = 0
    size: int = 0
    room: asyncio.Event = field(default_factory=asyncio.Event)


class AsyncWriter:
    """A writer of trajectories for ``async`` code: a thread of its own encodes and writes.

    ``async with AsyncWriter(open_writer("runs.parquet")) as writer: await writer.write(outcome)``

    Episodes are written in the order in which they were submitted. One that was submitted must not
    be changed until it is written. It is for one event loop.

    Args:
        writer: is closed with this one.
        max_waiting: episodes that may wait to be written.
        max_waiting_size: bytes that their observations may have, about; one episode always waits.
        on_error: called with the error of each episode of ``write_soon`` that could not be written,
            which is raised later otherwise; must not block.
    """

    def __init__(
        self,
        writer: TrajectoryWriter,
        *,
        max_waiting: int = 256,
        max_waiting_size: int = 64 * 1024 * 1024,
        on_error: Callable[[Exception], None] | None = None,
    ) -> None:
        self.writer = writer
        self._max_waiting = check_count("max_waiting", max_waiting)
        self._max_size = check_count("max_waiting_size", max_waiting_size)
        self._queue: queue.SimpleQueue[_Submitted | None] = queue.SimpleQueue()
        self._waiting = _Waiting()
        self._errors: list[Exception] = []
        self._on_error = on_error or self._errors.append
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Future[Exception | None] | None = None
        self._closing: asyncio.Task[Exception | None] | None = None

    async def write(self, episode: Episode) -> None:
        """Write an episode; it is on the disk when this returns.

        Cancelled, it is written all the same.

        Raises:
            InvalidModel: a part of it has no form in a file; nothing of it is written.
            OSError: the disk is full, or gone; nothing of it is written.
            TypeError: it is not an episode.
        """
        asked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await self._submit(episode, asked)
        await asked

    async def write_soon(self, episode: Episode) -> None:
        """Submit an episode, and wait only while too many are not written yet.

        Raises:
            InvalidModel, OSError, TypeError: an earlier one could not be written; this one was
                submitted all the same.
        """
        await self._submit(episode, None)
        if self._errors:
            raise self._errors.pop(0)

    async def aclose(self) -> None:
        """Write what waits and close the file. Idempotent; cancelled, it ends first.

        Raises:
            Exception: the first error of an episode that nobody was told of, or that of closing.
        """
        errors = await self._close()
        if errors:
            for error in errors[1:]:
                log.error("an episode could not be written: %s", error)
            raise errors[0]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        if exc is None:
            await self.aclose()
            return
        for error in await self._close():  # what ended the block is raised
            log.error("an episode could not be written: %s", error)

    # -- on the loop --------------------------------------------------------------------------

    async def _submit(self, episode: Episode, asked: asyncio.Future[None] | None) -> None:
        if self._closing is not None:
            raise ValueError(f"the writer of {self.writer.path} is closed: open another")
        waiting = self._waiting
        size = _size_of(episode)
        while waiting.count >= self._max_waiting or (
            waiting.count and waiting.size + size > self._max_size
        ):
            waiting.room.clear()
            await waiting.room.wait()
        self._start()
        waiting.count += 1
        waiting.size += size
        self._queue.put(_Submitted(episode, size, asked))

    def _start(self) -> None:
        if self._loop is not None:
            return
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        name = f"writer of {self.writer.path.name}"
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def _written(self, submitted: _Submitted, error: Exception | None) -> None:
        """Note that an episode was written, or why not."""
        waiting, asked = self._waiting, submitted.asked
        waiting.count -= 1
        waiting.size -= submitted.size
        waiting.room.set()
        if asked is None or asked.cancelled():
            if error is not None:
                self._on_error(error)
        elif error is None:
            asked.set_result(None)
        else:
            asked.set_exception(error)

    async def _close(self) -> list[Exception]:
        """Close; return the errors that nobody was told of."""
        if self._closing is None:
            self._start()
            self._closing = asyncio.create_task(self._wait_for_end())
            self._queue.put(None)
        await wait_uncancelled(self._closing)
        errors = list(self._errors)
        self._errors.clear()
        return errors

    async def _wait_for_end(self) -> None:
        assert self._ended is not None
        error = await self._ended
        if error is not None:
            self._errors.append(error)

    # -- on the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        """Write until there is nothing more, then close."""
        loop = self._loop
        assert loop is not None
        assert self._ended is not None
        while (submitted := self._queue.get()) is not None:
            error = None
            try:
                self.writer.write(submitted.episode)
            except Exception as exc:
                error = exc
            if not _call(loop, self._written, submitted, error):
                break  # nobody is there any more who could be told
            del submitted
        try:
            self.writer.close()
        except Exception as exc:
            _call(loop, self._ended.set_result, exc)
        else:
            _call(loop, self._ended.set_result, None)


def _call(loop: asyncio.AbstractEventLoop, function: Any, *arguments: Any) -> bool:
    """Call a function on a loop; return whether the loop is still there."""
    with contextlib.suppress(RuntimeError):  # it was closed
        loop.call_soon_threadsafe(function, *arguments)
        return True
    return False


def _size_of(episode: Episode) -> int:
    """Return how many bytes an episode has, about: its first observation times its steps."""
    outcome = episode.outcome if isinstance(episode, StreamedEpisode) else episode
    trajectory = outcome.trajectory if isinstance(outcome, Outcome) else outcome
    if not isinstance(trajectory, Trajectory) or not trajectory.transitions:
        return _UNKNOWN_SIZE
    return _bytes_of(trajectory.transitions[0].observation) * len(trajectory.transitions)


def _bytes_of(value: Any) -> int:
    size = getattr(value, "nbytes", None)
    if isinstance(size, int):
        return size + _UNKNOWN_SIZE
    if isinstance(value, dict):
        return _UNKNOWN_SIZE + sum(map(_bytes_of, value.values()))
    if isinstance(value, str | bytes) and isinstance(value, Sized):
        return sys.getsizeof(value)
    if isinstance(value, list | tuple):
        return _UNKNOWN_SIZE + (len(value) * _bytes_of(value[0]) if value else 0)
    return _UNKNOWN_SIZE
