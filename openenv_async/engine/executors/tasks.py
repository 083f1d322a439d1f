"""Async environments: each session is one task with an inbox.

The task builds, calls and closes its environment, so the environment may hold task groups and
cancel scopes across calls. No scope or timeout of ours is open around its code: a deadline or a
cancel frame cancels the task, and the task takes the cancellation back once the call has ended.

A cancellation that nobody here asked for is the environment's own doing, and the error of its
call; but one that comes while the loop stands is the end of the program. However the task ends,
the request that it was at is answered.

A request wakes its task at once, inside the reader that brought it, so that a step which waits for
nothing is answered in the message that answers its neighbours. From within another task the wake-up
goes through the loop: only one task can be the current one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, Final

from openenv_async.engine.executors.threads import COSTLY, LONGEST_PAUSE, PAUSE
from openenv_async.engine.interfaces import Call
from openenv_async.engine.requests import RunnerReply, RunnerRequest, Unfinished
from openenv_async.errors import EnvironmentDied, exception_name
from openenv_async.protocol.frames import Close, Open, Step

__all__ = ["TaskExecutor", "call_of_task"]

call_of_task: ContextVar[Call] = ContextVar("call_of_task")
"""The session on whose behalf a task runs; unset in the engine's own."""

_STOPPED: Final = (asyncio.CancelledError, GeneratorExit)


class _SessionTask(asyncio.Task[None]):
    """The task of one session. No other session can cancel it while this one lives.

    Attributes:
        call: the session.
        is_over: the program ended it, as ``asyncio.run`` does at its end.
    """

    __slots__ = ("call", "is_over")  # a dict each would be a twentieth of an idle session

    def __init__(
        self, run: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop, call: Call | None
    ) -> None:
        super().__init__(run, loop=loop, name="openenv-session")
        self.call = call
        self.is_over = False

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel as ``asyncio.Task`` does."""
        if asyncio._get_running_loop() is None:
            self.is_over = True
        by, call = call_of_task.get(None), self.call
        if by is not None and call is not None and by is not call and call.dead is None:
            return False
        return super().cancel(msg)


class _Slot:
    """The task of one session and the future it waits on.

    Attributes:
        inbox: the future; missing while a call runs.
        wake: the task's own wake-up, which it leaves with every future that it waits on.
        context: its context.
    """

    __slots__ = ("context", "credit", "inbox", "task", "wake")

    def __init__(self, inbox: asyncio.Future[RunnerRequest | Unfinished]) -> None:
        self.inbox = inbox
        self.wake: Callable[[asyncio.Future[Any]], object] | None = None
        self.context: Context | None = None
        self.credit: asyncio.Future[None] | None = None
        self.task: _SessionTask | None = None

    def learn_wake(self) -> Callable[[asyncio.Future[Any]], object] | None:
        """Note the task's wake-up, once it waits; ``None`` before that, and where none is told."""
        for wake, context in getattr(self.inbox, "_callbacks", None) or ():
            self.wake, self.context = wake, context
        return self.wake


class TaskExecutor:
    """One task per session; they end with their sessions or with ``aclose``."""

    timed = True
    direct = False

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._abandoned: set[asyncio.Task[None]] = set()
        self._tasks: set[_SessionTask] = set()
        self._on_end = self._ended  # one bound method for all
        self._context = copy_context()
        self._closing = False
        self._openings: deque[tuple[Call, Open]] = deque()
        self._is_opening = False

    def start(self, call: Call, request: RunnerRequest | Unfinished) -> None:
        """Hand the request to the session's task, which an Open creates."""
        slot: Any = call.slot
        if slot is None:
            slot = call.slot = self._begun(call)
            if type(request) is Open:
                self._openings.append((call, request))
                if not self._is_opening:
                    self._open_next()
                return
        inbox, wake = slot.inbox, slot.wake
        if wake is None:
            wake = slot.learn_wake()
        if (
            wake is not None
            and asyncio.current_task(self._loop) is None
            and inbox.remove_done_callback(wake)  # else the task is on its way to the request
        ):
            inbox.set_result(request)
            slot.context.run(wake, inbox)
            return
        try:
            inbox.set_result(request)
        except asyncio.InvalidStateError:  # cancelled by what the environment left running
            slot.inbox = self._loop.create_future()
            slot.inbox.set_result(request)

    def _begun(self, call: Call) -> _Slot:
        """Begin the task of a session."""
        slot = _Slot(self._loop.create_future())
        slot.task = task = _SessionTask(self._run(call, slot), self._loop, call)
        self._tasks.add(task)
        task.add_done_callback(self._on_end, context=self._context)  # else each has a copy
        return slot

    def _open_next(self) -> None:
        """Let the next session construct its environment, which it does in its first turn.

        One at a time, and what takes long is followed by a pause for the others.
        """
        self._is_opening = False
        while self._openings and not self._is_opening:
            call, request = self._openings.popleft()
            if call.dead is None:  # else it was abandoned meanwhile
                self._is_opening, since = True, self._loop.time()
                self.start(call, request)
                self._loop.call_soon(self._opened, since)

    def _opened(self, since: float) -> None:
        cost = self._loop.time() - since
        if cost < COSTLY or not self._openings:
            self._open_next()
        else:
            self._loop.call_later(min(cost * PAUSE, LONGEST_PAUSE), self._open_next)

    def _ended(self, task: _SessionTask) -> None:
        """Go on after the task of a session: one that did not end by itself ends its session."""
        self._tasks.discard(task)
        call = task.call
        assert call is not None
        exc = None if task.cancelled() else task.exception()  # looked at, or Python logs it
        if call.dead is None and not self._closing and not task.is_over:
            name = call.runner.spec.name
            why = "cancelled" if exc is None else f"ended by {exception_name(exc)}"
            call.die(EnvironmentDied(f"the task of {name} was {why}: open a new session", env=name))

    async def _run(self, call: Call, slot: _Slot) -> None:
        call_of_task.set(call)
        while True:
            try:
                request = await slot.inbox
            except asyncio.CancelledError:
                # A cancel may come in the loop turn of its request, before this task took it.
                waiting = call.current
                if call.interrupted is None or waiting is None:
                    if not self._is_own(slot):
                        raise  # the engine is closing, or the program
                    _take_back_cancellation()  # of what the environment started and left
                    if slot.inbox.cancelled():
                        slot.inbox = self._loop.create_future()
                    continue
                request = waiting
                reply: RunnerReply | Unfinished = call.interruption(request)
                _take_back_cancellation()
            else:
                del slot.inbox  # done with: there is none while a call runs
                if type(request) is Step and not request.credit:
                    try:
                        reply = await call.runner.step_async(request, call.codecs)
                    except _STOPPED as exc:
                        reply = self._stopped(call, slot, request, exc)
                    if call.interrupted is not None:
                        _take_back_cancellation()
                else:
                    reply = await self._perform(call, slot, request)
                    if isinstance(request, Unfinished):
                        request = request.request
            slot.inbox = self._loop.create_future()
            call.complete(request, reply)
            if isinstance(request, Close) and type(reply) is not Unfinished:
                return
            if call.dead is not None:  # it was abandoned, and has ended after all
                await self._perform(call, slot, Close(0, 0))
                return

    async def _perform(
        self, call: Call, slot: _Slot, asked: RunnerRequest | Unfinished
    ) -> RunnerReply | Unfinished:
        codecs = call.codecs
        if isinstance(asked, Step) and asked.credit:
            call.begin_stream(asked.credit)

        async def emit(payload: bytes, whole: bool) -> None:
            if not call.emit(payload, whole):
                slot.credit = self._loop.create_future()
                await slot.credit

        request = asked.request if isinstance(asked, Unfinished) else asked
        try:
            if isinstance(asked, Unfinished):
                return await call.runner.finish(asked, codecs)
            return await call.runner.handle_async(asked, codecs, emit)
        except _STOPPED as exc:
            return self._stopped(call, slot, request, exc)
        finally:
            slot.credit = None
            if call.interrupted is not None:
                _take_back_cancellation()

    def _is_own(self, slot: _Slot) -> bool:
        """Return whether the environment itself brought a cancellation about, not a session."""
        return not self._closing and slot.task is not None and not slot.task.is_over

    def _stopped(
        self, call: Call, slot: _Slot, request: RunnerRequest, exc: BaseException
    ) -> RunnerReply:
        """The reply of a call that ended with a cancellation, or as a coroutine that is dropped.

        Raises:
            CancelledError, GeneratorExit: the engine is closing, or the loop is gone.
        """
        if call.interrupted is not None and isinstance(exc, asyncio.CancelledError):
            return call.interruption(request)
        if not self._is_own(slot) or _current_task() is not slot.task:
            raise exc
        _take_back_cancellation()
        return call.runner.raised(request, exc, call.codecs)

    def credited(self, call: Call, units: int) -> None:
        """Let a stream go on that waits for credit."""
        slot = call.slot
        if isinstance(slot, _Slot) and slot.credit is not None and not slot.credit.done():
            slot.credit.set_result(None)

    def interrupt(self, call: Call) -> bool:
        """Cancel the call that is running."""
        slot = call.slot
        if not isinstance(slot, _Slot) or slot.task is None or isinstance(call.current, Open):
            return False
        slot.task.cancel()
        return True

    def abandon(self, call: Call) -> None:
        """The task ignores cancellation; it is cancelled once more and awaited at the end."""
        slot = call.slot
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

        A task that ignores cancellation is disowned: the loop's own last cancellation would
        wait for it for ever, and the process would never end.
        """
        self._closing = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            _, unresponsive = await asyncio.wait(tasks, timeout=1.0)
            for task in unresponsive:
                asyncio._unregister_task(task)  # documented for loops of third parties


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no loop runs: a coroutine is being dropped
        return None


def _take_back_cancellation() -> None:
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()
