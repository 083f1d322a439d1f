"""Environments in worker processes: killed when they hang, replaced when they die.

The server process owns every socket, number and deadline; a worker runs an engine of its own
and is spoken to with the same frames, payloads undecoded, over a Unix socket.

By default a session has a process to itself, so that it shares neither working directory nor
environment variables nor module globals with another. With ``workers`` set, that many processes
share the sessions.

Rules:

- A call past its deadline is abandoned. A process with no other session is killed, for nothing
  else stops code that does not want to stop. One with others abandons the call, and is killed only
  when the thread they all share gives no sign of life.
- The rows of a column frame stay together: those of one worker reach it as one frame.
- A worker in which too many abandoned calls still run takes no new sessions; it ends with its
  last one, and another one is started for it.
"""

from __future__ import annotations

import asyncio
import logging
from functools import lru_cache
from typing import Any, Final

import msgspec

from openenv_async.engine.executors.child import EXIT_GRACE, Child
from openenv_async.engine.executors.offspring import Sweeper
from openenv_async.engine.executors.pipe import MAX_PIPE_MESSAGE
from openenv_async.engine.interfaces import Call, RowBatch
from openenv_async.engine.options import EngineOptions
from openenv_async.engine.requests import RunnerReply, RunnerRequest, failed, operation, transcode
from openenv_async.engine.resources import Resources
from openenv_async.engine.rows import RowReplies
from openenv_async.engine.runner import TracedRunner, bad_action
from openenv_async.engine.statistics import EngineStats, TimedCodecs
from openenv_async.errors import OpenEnvError, ProtocolError, ResourceLimit, ServerError
from openenv_async.protocol.column_parts import readdressed, steps_of_rows
from openenv_async.protocol.columns import channels_of, replies_of, seqs_of
from openenv_async.protocol.frames import (
    Cancel,
    Close,
    Credit,
    Failed,
    ObservationColumns,
    Open,
    Opened,
    Partial,
    Step,
)
from openenv_async.spec import EnvironmentSpec

__all__ = ["ProcessExecutor"]

log = logging.getLogger("openenv_async.worker")

_DESCRIPTORS: Final = 10
"""File descriptors that a worker takes while it is spawned; it keeps four."""


@lru_cache(maxsize=64)
def _channels_of(packed: bytes) -> list[int]:
    """Return the channels of replies: mostly those of the frame before."""
    return channels_of(packed, MAX_PIPE_MESSAGE)


class _Slot:
    """The whereabouts of a session: its worker, its channel and last request number there.

    Attributes:
        batch: the rows that its last request came with, if it came with others.
        row: which of them it is.
    """

    __slots__ = ("batch", "channel", "format", "row", "seq", "worker")

    def __init__(self, worker: Child, channel: int) -> None:
        self.worker = worker
        self.channel = channel
        self.seq = 0
        self.format: Any = "msgpack"
        self.batch: RowBatch | None = None
        self.row = 0


class ProcessExecutor:
    """Worker processes, and the sessions in them.

    Args:
        spec: what the workers run.
        options: the engine's; without ``workers`` each session has a process to itself.
        recipe: the result of ``make_recipe``.
        stats: the engine's counters.
        resources: asked before a process is started.
    """

    timed = True
    direct = False

    def __init__(
        self,
        spec: EnvironmentSpec,
        options: EngineOptions,
        recipe: bytes,
        stats: EngineStats,
        resources: Resources,
    ) -> None:
        self._spec = spec
        self._options = options
        self._stats = stats
        self._resources = resources
        self._recipe = recipe
        self._workers: set[Child] = set()
        self._shared = options.workers
        self._numbers = 0
        self._sweeper = Sweeper()

    # -- requests -----------------------------------------------------------------------------

    def start(self, call: Call, request: RunnerRequest) -> None:
        """Pass a request on to the session's worker."""
        format = call.codecs.format
        try:
            inner = transcode(self._spec, request, format, "msgpack")
            if call.slot is None:
                worker = self._pick_worker()
                call.slot = _Slot(worker, worker.adopt(call))
        except (OpenEnvError, ValueError) as exc:
            error = exc if isinstance(exc, OpenEnvError) else ProtocolError(str(exc))
            if isinstance(request, Step):
                error = bad_action(error)
            error.add_context(env=self._spec.name, phase=operation(request))
            call.complete(request, failed(request, error, format))
            return
        slot = call.slot
        assert isinstance(slot, _Slot)
        slot.format = format
        if isinstance(request, Step) and request.credit:
            call.begin_stream(request.credit)
        if inner is request:
            inner = msgspec.structs.replace(request)
        inner.channel = slot.channel
        inner.timeout = 0  # this process watches the clock
        if isinstance(inner, Open):
            if isinstance(call.runner, TracedRunner):
                inner.traceparent, inner.tracestate = call.runner.trace
        else:
            slot.seq += 1
            inner.seq, inner.ack = slot.seq, slot.seq - 1
        slot.worker.send(inner)

    def start_rows(self, batch: RowBatch) -> None:
        """Pass the rows of each worker on in one frame, their actions unread."""
        of_workers: dict[Child, list[int]] = {}
        for row, call in enumerate(batch.calls):
            slot = call.slot
            assert isinstance(slot, _Slot)
            of_workers.setdefault(slot.worker, []).append(row)
        for worker, rows in of_workers.items():
            if len(rows) == 1:
                self.start(batch.calls[rows[0]], batch.requests[rows[0]])
            else:
                self._pass_on(worker, batch, rows)

    def _pass_on(self, worker: Child, batch: RowBatch, rows: list[int]) -> None:
        """Send rows to the worker of their sessions."""
        import numpy as np

        slots: list[Any] = [batch.calls[row].slot for row in rows]
        channels, seqs = [slot.channel for slot in slots], [slot.seq + 1 for slot in slots]
        try:
            if len(rows) == batch.count:
                frame = readdressed(batch.frame, channels, seqs)
            else:
                places = np.array([batch.places[row] for row in rows])
                frame = steps_of_rows(batch.frame, batch.count, places, channels, seqs)
        except ProtocolError:  # each row tells what of it cannot be read
            for row in rows:
                self.start(batch.calls[row], batch.requests[row])
            return
        frame.timeout = frame.reset_timeout = None  # this process watches the clock
        for row, slot in zip(rows, slots, strict=True):
            slot.seq += 1
            slot.format = "msgpack"
            slot.batch, slot.row = batch, row
        worker.send(frame)

    def _rows_returned(self, worker: Child, frame: ObservationColumns) -> None:
        """Replies came back from a worker as one frame.

        Raises:
            ProtocolError: it is malformed.
        """
        channels = _channels_of(frame.channels)
        count, batch = len(channels), None
        rows: list[int] = []
        sessions = worker.sessions
        for channel, seq in zip(channels, seqs_of(frame.seqs, count), strict=True):
            call = sessions.get(channel)
            slot: Any = None if call is None else call.slot
            if slot is None or slot.seq != seq or slot.batch is not (batch or slot.batch):
                break
            batch = slot.batch
            if batch is None:
                break
            rows.append(slot.row)
        if batch is not None and len(rows) == count:
            if type(batch.codecs) is TimedCodecs:
                batch.codecs.replied()
            batch.complete(RowReplies(rows, frame))
            return
        for reply in replies_of(frame):
            call = worker.sessions.get(reply.channel)
            if call is not None:
                self._returned(call, reply)

    def _returned(self, call: Call, frame: Any) -> None:
        """A frame came back from a worker."""
        slot, request = call.slot, call.current
        assert isinstance(slot, _Slot)
        if request is None or call.dead is not None:
            return
        if isinstance(frame, Partial):
            self._show(call, slot, request, frame)
            return
        seq = 0 if isinstance(frame, Opened) else getattr(frame, "seq", -1)
        if seq != (0 if isinstance(request, Open) else slot.seq):
            return
        reply: RunnerReply = frame
        if slot.format != "msgpack":
            try:
                reply = transcode(self._spec, frame, "msgpack", slot.format)
            except OpenEnvError as exc:
                reply = failed(request, exc, slot.format)
        if not isinstance(request, Open):
            reply.seq = request.seq
        if isinstance(request, Close) or (isinstance(request, Open) and isinstance(reply, Failed)):
            self._leave(slot)
        if type(call.codecs) is TimedCodecs:
            call.codecs.replied()
        call.complete(request, reply)

    def _unsent(self, call: Call, frame: Any, error: OpenEnvError) -> None:
        """A frame could not be sent: the worker does not miss its number."""
        slot, request = call.slot, call.current
        assert isinstance(slot, _Slot)
        if not isinstance(frame, RunnerRequest) or request is None:
            return
        seq = 0 if isinstance(frame, Open) else frame.seq
        self._returned(call, failed(frame, error, "msgpack"))
        if not isinstance(frame, Open) and slot.seq == seq:
            slot.seq -= 1

    def _show(self, call: Call, slot: _Slot, request: RunnerRequest, partial: Partial) -> None:
        if partial.seq != slot.seq:
            return  # of a step that was abandoned
        try:
            payload = transcode(self._spec, partial, "msgpack", slot.format).payload
        except OpenEnvError as exc:
            slot.worker.send(Cancel(slot.channel, slot.seq))
            call.complete(request, failed(request, exc, slot.format))
            return
        call.emit(bytes(payload), partial.whole)

    def interrupt(self, call: Call) -> bool:
        """Pass a cancellation on; a worker whose loop is blocked will not see it."""
        slot = call.slot
        if isinstance(slot, _Slot) and not isinstance(call.current, Open):
            slot.worker.send(Cancel(slot.channel, slot.seq))
        return True

    def credited(self, call: Call, units: int) -> None:
        """Pass credit on."""
        slot = call.slot
        if isinstance(slot, _Slot):
            units = min(units, self._options.limits.max_credit)
            slot.worker.send(Credit(slot.channel, slot.seq, units))

    def abandon(self, call: Call) -> None:
        """Abandon the call inside its worker, or kill a worker with no other session."""
        slot = call.slot
        assert isinstance(slot, _Slot)
        worker = slot.worker
        worker.sessions.pop(slot.channel, None)
        if worker.sessions:
            worker.abandon(call)
        else:
            worker.kill(ServerError("it hung past a deadline and was killed"))

    # -- workers ------------------------------------------------------------------------------

    def _pick_worker(self) -> Child:
        """The worker for a new session: the emptiest one, or a new one.

        Raises:
            ResourceLimit: too few file descriptors are left for a new one.
        """
        alive = [worker for worker in self._workers if not (worker.retired or worker.full)]
        if self._shared is not None and len(alive) >= self._shared:
            return min(alive, key=lambda worker: len(worker.sessions))
        try:
            self._resources.take_descriptors(_DESCRIPTORS, "another process")
        except ResourceLimit:
            if self._shared is not None and alive:
                return min(alive, key=lambda worker: len(worker.sessions))
            raise
        self._stats.workers_started += 1
        self._numbers += 1
        worker = Child(
            self._numbers,
            self._recipe,
            self._spec.name,
            self._options.worker_silence,
            self._sweeper,
            self._returned,
            self._rows_returned,
            self._unsent,
            self._reported,
            self._ended,
        )
        self._workers.add(worker)
        return worker

    def _leave(self, slot: _Slot) -> None:
        worker = slot.worker
        worker.sessions.pop(slot.channel, None)
        if self._shared is None or (worker.stuck and not worker.sessions):
            worker.retire()

    def _reported(self, worker: Child) -> None:
        """A worker has told how many abandoned calls still run in it."""
        limit = self._options.limits.max_abandoned_calls
        if worker.stuck > limit and not worker.full:
            worker.full = True
            log.warning(
                "%d calls past their deadlines still run in a worker (max_abandoned_calls is %d):"
                " it takes no new sessions and ends with its last",
                worker.stuck,
                limit,
                extra={"worker": worker.number},
            )
        if worker.stuck and not worker.sessions and not worker.retired:
            worker.retire()

    @property
    def worker_count(self) -> int:
        """Worker processes now, those included that are starting or ending."""
        return len(self._workers)

    def _ended(self, worker: Child) -> None:
        """A worker is gone: every session that lived there is over, at once."""
        if worker.kill_reason is not None or not worker.retired:
            self._stats.workers_died += 1
            log.warning(
                "a worker is gone, code %s", worker.exit_code, extra={"worker": worker.number}
            )
        worker.retired = True
        calls, worker.sessions = worker.sessions, {}
        self._workers.discard(worker)
        for call in calls.values():
            call.die(worker.closed_reason())

    async def aclose(self) -> None:
        """End every worker and wait for it."""
        workers = list(self._workers)
        for worker in workers:
            worker.retire()
        if workers:
            await asyncio.wait([worker.life for worker in workers], timeout=EXIT_GRACE + 3)
        for worker in list(self._workers):
            worker.kill(ServerError("the server is closing"))
