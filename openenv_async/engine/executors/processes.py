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
- The rows of a column frame stay together: those of one worker reach it as one frame, and what the
  workers answer goes on as one. An answer waits for those of the others for a moment at most.
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
from openenv_async.protocol.column_parts import StepParts, joined
from openenv_async.protocol.columns import (
    channels_of,
    pack_channels,
    pack_numbers,
    replies_of,
    seqs_of,
)
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


_MAX_SHARES: Final = 8
"""Sets of sessions of a worker that are remembered."""
_PATIENCE: Final = 0.002
"""Seconds for which replies to rows wait for those of other workers."""


@lru_cache(maxsize=64)
def _channels_of(packed: bytes) -> list[int]:
    """Return the channels of replies: mostly those of the frame before."""
    return channels_of(packed, MAX_PIPE_MESSAGE)


class _Slot:
    """The whereabouts of a session: its worker, its channel and last request number there.

    Attributes:
        passed: the rows that its last request came with, if it came with others.
        row: which of them it is.
    """

    __slots__ = ("channel", "format", "passed", "row", "seq", "worker")

    def __init__(self, worker: Child, channel: int) -> None:
        self.worker = worker
        self.channel = channel
        self.seq = 0
        self.format: Any = "msgpack"
        self.passed: _Passed | None = None
        self.row = 0


class _Share:
    """The rows of a batch that are one worker's; the same for all batches of these sessions.

    Attributes:
        rows: which they are.
        packed: their channels on its pipe.
        places: in the frame that they came in: intp [rows].
        seqs: the numbers that the last of them had, packed.
        passed: the batch that waits for the answer to all of them.
    """

    __slots__ = ("packed", "passed", "places", "rows", "seqs", "slots", "worker")

    def __init__(self, batch: RowBatch, worker: Child, rows: list[int]) -> None:
        import numpy as np

        self.worker = worker
        self.rows = rows
        self.slots: list[Any] = [batch.calls[row].slot for row in rows]
        self.packed = pack_channels([slot.channel for slot in self.slots])
        self.places = np.array([batch.places[row] for row in rows])
        self.seqs = b""
        self.passed: _Passed | None = None


class _Passed:
    """A batch of rows that workers run.

    Attributes:
        left: rows that were not answered.
    """

    __slots__ = ("_batch", "_pieces", "_room", "_timer", "left")

    def __init__(self, batch: RowBatch, room: int) -> None:
        self._batch = batch
        self._room = room
        self._pieces: list[tuple[list[int], ObservationColumns]] = []
        self._timer: asyncio.TimerHandle | None = None
        self.left = len(batch.calls)

    def take(self, rows: list[int], frame: ObservationColumns) -> None:
        """Take replies to rows, which may wait for others."""
        self.left -= len(rows)
        if type(self._batch.codecs) is TimedCodecs:
            self._batch.codecs.replied()
        self._pieces.append((rows, frame))
        if self.left <= 0 or len(frame.payload) * len(self._batch.calls) > self._room * len(rows):
            self.hand_over()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_PATIENCE, self.hand_over)

    def miss(self) -> None:
        """Take notice that a row was answered on its own, or never will be."""
        self.left -= 1
        if self.left <= 0:
            self.hand_over()

    def hand_over(self) -> None:
        """Complete the rows whose replies are here."""
        pieces, self._pieces = self._pieces, []
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        whole = joined(pieces) if len(pieces) > 1 else None
        for rows, frame in pieces if whole is None else [whole]:
            self._batch.complete(RowReplies(rows, frame))


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

    # -- draining -----------------------------------------------------------------------------

    def drain(self, reason: str) -> None:
        """Have the sessions of every worker begin no further episode."""
        for worker in self._workers:
            worker.drain(reason)

    async def count_playing(self, patience: float) -> int:
        """Return how many sessions are in an episode.

        Args:
            patience: seconds after which all sessions of a worker count that did not answer.
        """
        asked = {worker.count_playing(): worker for worker in self._workers}
        if not asked:
            return 0
        done, late = await asyncio.wait(asked, timeout=patience)
        return sum(each.result() for each in done) + sum(len(asked[each].sessions) for each in late)

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
        slot.passed = None
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
        shares: list[_Share] | None = batch.note
        if shares is None:
            of_workers: dict[Child, list[int]] = {}
            for row, call in enumerate(batch.calls):
                slot = call.slot
                assert isinstance(slot, _Slot)
                of_workers.setdefault(slot.worker, []).append(row)
            shares = [_Share(batch, *of_one) for of_one in of_workers.items()]
            batch.note = shares
        passed = _Passed(batch, self._options.limits.chunk_size // 2)
        parts = StepParts(batch.frame, batch.count)
        for share in shares:
            if len(share.rows) > 1 and self._pass_on(share, parts, passed):
                continue
            for row in share.rows:
                passed.left -= 1
                self.start(batch.calls[row], batch.requests[row])

    def _pass_on(self, share: _Share, parts: StepParts, passed: _Passed) -> bool:
        """Send rows to the worker of their sessions; ``False`` if they cannot be cut out."""
        slots, worker = share.slots, share.worker
        share.seqs = pack_numbers([slot.seq + 1 for slot in slots])
        try:
            frame = parts.of(share.places, share.packed, share.seqs)
        except ProtocolError:  # each row tells what of it cannot be read
            return False
        frame.timeout = frame.reset_timeout = None  # this process watches the clock
        for row, slot in zip(share.rows, slots, strict=True):
            slot.seq += 1
            slot.format = "msgpack"
            slot.passed, slot.row = passed, row
        share.passed = passed
        worker.shares[share.packed] = share
        if len(worker.shares) > _MAX_SHARES:
            del worker.shares[next(iter(worker.shares))]
        worker.send(frame)
        return True

    def _rows_returned(self, worker: Child, frame: ObservationColumns) -> None:
        """Replies came back from a worker as one frame.

        Raises:
            ProtocolError: it is malformed.
        """
        share = worker.shares.get(bytes(frame.channels))
        if share is not None and share.passed is not None and frame.seqs == share.seqs:
            passed, share.passed = share.passed, None
            passed.take(share.rows, frame)
            return
        channels = _channels_of(frame.channels)
        count, whole = len(channels), None
        rows: list[int] = []
        sessions = worker.sessions
        for channel, seq in zip(channels, seqs_of(frame.seqs, count), strict=True):
            call = sessions.get(channel)
            slot: Any = None if call is None else call.slot
            if slot is None or slot.seq != seq or slot.passed is not (whole or slot.passed):
                break
            whole = slot.passed
            if whole is None:
                break
            rows.append(slot.row)
        if whole is not None and len(rows) == count:
            whole.take(rows, frame)
            return
        for reply in replies_of(frame):
            call = worker.sessions.get(reply.channel)
            if call is not None:
                self._returned(call, reply)

    def _returned(self, call: Call, frame: Any) -> None:
        """A frame came back from a worker."""
        slot, request = call.slot, call.current
        if request is None or call.dead is not None:
            return
        assert isinstance(slot, _Slot)
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
        passed, slot.passed = slot.passed, None
        call.complete(request, reply)
        if passed is not None:
            passed.miss()

    def _unsent(self, call: Call, frame: Any, error: OpenEnvError) -> None:
        """A frame could not be sent: the worker does not miss its number."""
        slot, request = call.slot, call.current
        if not isinstance(frame, RunnerRequest) or request is None or call.dead is not None:
            return
        assert isinstance(slot, _Slot)
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
        if slot.passed is not None:
            slot.passed.miss()
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
            slot = call.slot
            if isinstance(slot, _Slot) and slot.passed is not None:
                slot.passed.hand_over()  # what it answered before
                slot.passed.miss()
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
