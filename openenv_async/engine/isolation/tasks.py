"""Async environments: each session is one task with an inbox.

The task builds, calls and closes its environment, so the environment may hold task groups and
cancel scopes across calls. No scope or timeout of ours is open around its code: a deadline or a
cancel frame cancels the task, and the task takes the cancellation back once the call has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from typing import Final

from openenv_async.engine.requests import HostReply, HostRequest
from openenv_async.engine.session import Session
from openenv_async.protocol.frames import Close, Open, Step

__all__ = ["TaskDriver", "session_of_task"]

session_of_task: ContextVar[Session] = ContextVar("session_of_task")
"""The session on whose behalf a task runs; unset in the engine's own."""

_STOPPED: Final = (asyncio.CancelledError, KeyboardInterrupt)


class _Slot:
    """The task of one session and the future it waits on."""

    __slots__ = ("credit", "inbox", "task")

    def __init__(self, inbox: asyncio.Future[HostRequest]) -> None:
        self.inbox = inbox
        self.credit: asyncio.Future[None] | None = None
        self.task: asyncio.Task[None] | None = None


class TaskDriver:
    """Owns one task per session; they end with their sessions or with ``aclose``."""

    timed = True

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._tasks: set[asyncio.Task[None]] = set()
        self._abandoned: set[asyncio.Task[None]] = set()

    def start(self, session: Session, request: HostRequest) -> None:
        """Hand the request to the session's task, which an Open creates."""
        slot = session.slot
        if slot is None:
            slot = session.slot = _Slot(self._loop.create_future())
            slot.task = self._loop.create_task(self._run(session, slot))
            self._tasks.add(slot.task)
            slot.task.add_done_callback(self._tasks.discard)
        assert isinstance(slot, _Slot)
        slot.inbox.set_result(request)

    async def _run(self, session: Session, slot: _Slot) -> None:
        session_of_task.set(session)
        while True:
            try:
                request = await slot.inbox
            except asyncio.CancelledError:
                # A cancel may come in the loop turn of its request, before this task took it.
                if session.interrupted is None or session.current is None:
                    raise  # the engine is closing
                request = session.current
                reply = session.interruption(request)
                _take_back_cancellation()
            else:
                if type(request) is Step and not request.credit:
                    try:
                        reply = await session.host.step_async(request, session.wire)
                    except _STOPPED as exc:
                        reply = _stopped(session, request, exc)
                    if session.interrupted is not None:
                        _take_back_cancellation()
                else:
                    reply = await self._perform(session, slot, request)
            slot.inbox = self._loop.create_future()
            session.complete(request, reply)
            if isinstance(request, Close):
                return
            if session.dead is not None:  # it was given up, and has ended after all
                await self._perform(session, slot, Close(0, 0))
                return

    async def _perform(self, session: Session, slot: _Slot, request: HostRequest) -> HostReply:
        wire = session.wire
        if isinstance(request, Step) and request.credit:
            session.begin_stream(request.credit)

        async def emit(payload: bytes, whole: bool) -> None:
            if not session.emit(payload, whole):
                slot.credit = self._loop.create_future()
                await slot.credit

        try:
            return await session.host.handle_async(request, wire, emit)
        except _STOPPED as exc:
            return _stopped(session, request, exc)
        finally:
            slot.credit = None
            if session.interrupted is not None:
                _take_back_cancellation()

    def credited(self, session: Session, units: int) -> None:
        """Let a stream go on that waits for credit."""
        slot = session.slot
        if isinstance(slot, _Slot) and slot.credit is not None and not slot.credit.done():
            slot.credit.set_result(None)

    def interrupt(self, session: Session) -> bool:
        """Cancel the call that is running."""
        slot = session.slot
        if not isinstance(slot, _Slot) or slot.task is None or isinstance(session.current, Open):
            return False
        slot.task.cancel()
        return True

    def abandon(self, session: Session) -> None:
        """The task ignores cancellation; it is cancelled once more and awaited at the end."""
        slot = session.slot
        if isinstance(slot, _Slot) and slot.task is not None:
            slot.task.cancel()
            self._abandoned.add(slot.task)
            slot.task.add_done_callback(self._abandoned.discard)

    @property
    def stuck(self) -> int:
        """Abandoned calls that have not ended."""
        return len(self._abandoned)

    def beat(self, answer: Callable[[], None]) -> None:
        """Call ``answer`` at once: the loop is not blocked."""
        answer()

    async def aclose(self) -> None:
        """Cancel what is left and wait for it, a second at most.

        A task that is deaf to cancellation is disowned: the loop's own last cancellation would
        wait for it for ever, and the process would never end.
        """
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            _, deaf = await asyncio.wait(tasks, timeout=1.0)
            for task in deaf:
                asyncio._unregister_task(task)  # documented for loops of third parties


def _stopped(session: Session, request: HostRequest, exc: BaseException) -> HostReply:
    """The reply of a call that ended with a cancellation, or in a way that ends programs.

    Raises:
        CancelledError: the engine is closing.
    """
    wire = session.wire
    if isinstance(exc, asyncio.CancelledError):
        if session.interrupted is not None:
            return session.interruption(request)
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise exc
        return session.host.raised(request, exc, wire)  # of a task of the environment's own
    return session.raised(request, exc)


def _take_back_cancellation() -> None:
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()
