"""Many sessions on one connection, driven in batches by a thread without an event loop.

A future and an await per session cost more than the step itself: here a batch of requests
crosses to the I/O thread once, leaves in one message, and one wake-up tells that enough replies
are there. From a server that takes column frames the calling thread borrows the connection's
messages (see ``lending``): a batch is one frame each way, and no thread is woken.

Rules:

- A *slot* is room for one session. It answers every request exactly once: with a frame, or
  with the error that took its place.
- A slot whose session failed gets a new one with its next reset; so does every slot when the
  connection is gone for good.
- The calling thread owns what it is handed (``take``); until then it belongs to the I/O thread.
  Between them stand one lock, one event and ``call_soon_threadsafe``.
- With ``same_step`` an episode's end is followed by the next one's reset at once: the slot answers
  with both frames. A server that can begins the next episode itself, in the step that ends one,
  with the seed that was drawn for that; where it does not, the reset is asked for.
- A loan is ended before anything is asked of the I/O thread. Requests made during the loan that are
  not answered are awaited there from then on, frame by frame.
"""

from __future__ import annotations

import asyncio
import operator
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from openenv_async.client.arguments import (
    checked_count,
    checked_seed,
    checked_timeout,
)
from openenv_async.client.channel import Channel
from openenv_async.client.connection import ClientConnection
from openenv_async.client.env import EnvClient, GenericEnvClient
from openenv_async.client.lending import PATIENCE, Loan
from openenv_async.client.loop_thread import background_loop, close_blocking, on_background_thread
from openenv_async.client.models import WireModels, wire_models
from openenv_async.client.vector_columns import AnswerColumns, LentRows, final_of
from openenv_async.endpoints.addresses import checked_url
from openenv_async.errors import (
    CallerError,
    DeadlineExceeded,
    EpisodeNotStarted,
    InvalidOption,
    OpenEnvError,
    SessionBusy,
    SessionClosed,
    shown,
)
from openenv_async.protocol.columns import apart, rows_of
from openenv_async.protocol.frames import Begun, Close, Observation, Reset, State, Step

__all__ = ["Answer", "ResetRequest", "VectorSessions"]

_MOST_PASSED: Final = 64
"""Batches that go without a loan after loans that brought nothing, at most."""


class ResetRequest:
    """A reset of one slot.

    Attributes:
        slot: which.
        seed: as for ``EnvClient.reset``.
        options: the reset's own options, encoded.
    """

    __slots__ = ("options", "seed", "slot")

    def __init__(self, slot: int, seed: int | None, options: bytes | None) -> None:
        self.slot = slot
        self.seed = seed
        self.options = options


class Answer:
    """The answer of a slot.

    Attributes:
        slot: which.
        frame: the reply; ``None`` when there is none.
        final: with ``same_step``: the reply, or the error, that ended the episode before the
            one that ``frame`` begins.
        error: why there is no ``frame``.
        again: whether it answers a reset.
    """

    __slots__ = ("again", "error", "final", "frame", "slot")

    def __init__(
        self,
        slot: int,
        frame: Observation | Begun | None,
        final: Observation | OpenEnvError | None,
        error: OpenEnvError | None,
        again: bool,
    ) -> None:
        self.slot = slot
        self.frame = frame
        self.final = final
        self.error = error
        self.again = again


class Slot:
    """Room for one session; the receiver of its replies."""

    __slots__ = (
        *("again", "broken", "channel", "final", "next_seed", "number"),
        *("owner", "rng", "seeded"),
    )

    def __init__(self, owner: VectorSessions, number: int) -> None:
        self.owner = owner
        self.number = number
        self.channel: Channel | None = None
        self.broken = False
        self.again = False
        self.final: Observation | OpenEnvError | None = None
        self.rng: random.Random | None = None
        self.next_seed: int | None = None  # drawn, and not used yet
        self.seeded: bool  # set when a session is opened

    def done(self) -> bool:
        return False

    def set_result(self, frame: Any, /) -> None:
        owner = self.owner
        if owner.same_step and (frame.terminated or frame.truncated) and type(frame) is Observation:
            self.final = frame
            owner.reset_slot(self, None, None)
            return
        if type(frame) is Begun and frame.final is not None:  # by the server, in the same step
            self.final, self.again = final_of(frame), True
            owner.begun_again(self)
        owner.deliver(Answer(self.number, frame, self.final, None, self.again))

    def set_exception(self, error: Any, /) -> None:
        owner = self.owner
        if not isinstance(error, CallerError) or isinstance(error, SessionClosed):
            self.broken = True
        if owner.same_step and self.broken and self.final is None and not self.again:
            self.final = error
            owner.reset_slot(self, None, None)
            return
        owner.deliver(Answer(self.number, None, self.final, error, self.again))


class VectorSessions:
    """``count`` sessions of one server, called in batches and answered as they finish.

    Opens with the first reset. Calls come from one thread at a time; any thread but the I/O
    thread may call.

    Args:
        client: where to and with which settings: an ``EnvClient`` that is not used otherwise.
        count: how many sessions.
        same_step: follow an end by a reset at once.
        resume_options: encoded options of the resets that follow an end in a session whose
            first reset was seeded, where the environment can go on drawing from the generator
            it has; without them the seeds of later episodes are drawn from the first one.
    """

    def __init__(
        self,
        client: EnvClient[Any, Any, Any] | str,
        count: int,
        *,
        same_step: bool = False,
        resume_options: dict[str, Any] | None = None,
    ) -> None:
        self.count = checked_count(count, "the number of sessions", 1, ValueError)
        if not isinstance(client, EnvClient):
            client = GenericEnvClient(checked_url(client, "client"))
        self.client = client
        self.same_step = same_step
        self._resume_options = resume_options
        self._resume_payload: bytes | None = None
        self._start_over()

    def _start_over(self) -> None:
        self._pid = os.getpid()
        self._slots = [Slot(self, number) for number in range(self.count)]
        self._connection: ClientConnection | None = None
        self._wire: WireModels | None = None
        self._connecting: asyncio.Task[ClientConnection] | None = None
        self._reviving: set[asyncio.Task[None]] = set()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._answers: list[Answer] = []
        self._wanted = 0
        self._waiting = 0
        self._closed = False
        self._takes_columns = False
        self.asks_ahead = False
        self._loan: Loan | None = None
        self._rows: LentRows | None = None
        self._parts: list[Answer | AnswerColumns] = []
        self._passed = self._to_pass = 0

    def __getstate__(self) -> dict[str, Any]:
        """The settings: a copy opens sessions of its own."""
        names = ("client", "count", "same_step", "_resume_options", "_resume_payload")
        return {name: self.__dict__[name] for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start_over()

    # -- the calling thread -----------------------------------------------------------------------

    @property
    def wire(self) -> WireModels:
        """Encodes and decodes payloads in the connection's format.

        Raises:
            EpisodeNotStarted: nothing is open yet.
        """
        if self._wire is None:
            raise EpisodeNotStarted("step() before reset(): call reset() first")
        return self._wire

    @property
    def opened(self) -> bool:
        """True if the sessions are open."""
        return self._connection is not None

    @property
    def waiting(self) -> int:
        """Requests without an answer taken yet."""
        return self._waiting

    def open(self) -> None:
        """Connect and open every session; idempotent.

        Raises:
            ConnectFailed, Unauthorized, ServerBusy, EnvironmentStartFailed: it did not work.
        """
        if self._closed:
            raise SessionClosed("these sessions were closed: make new ones")
        if self._pid != os.getpid():
            self._start_over()  # forked: the sessions are the parent's
        if self._connection is None:
            background_loop().run(self._open())

    def reset(self, requests: Sequence[ResetRequest]) -> None:
        """Ask for resets; ``take`` gives their answers.

        Raises:
            InvalidOption: a request is wrong; none is sent then.
        """
        requests = list(requests)
        for request in requests:
            if not isinstance(request, ResetRequest):
                raise InvalidOption(f"reset() takes ResetRequests, got {shown(request)}")
            request.slot = self._checked_slots([request.slot])[0]
            request.seed = checked_seed(request.seed)
            if not isinstance(request.options, bytes | None):
                raise InvalidOption(
                    "the options of a ResetRequest must be encoded (wire.encode_any) or None,"
                    f" got {shown(request.options)}"
                )
        self.open()
        self._end_loan()
        self._post(self._send_resets, requests)

    def step(
        self, slots: Sequence[int], actions: Sequence[bytes], resets: Sequence[int] = ()
    ) -> None:
        """Ask for one step of each of ``slots``; ``take`` gives their answers.

        Args:
            slots: which sessions.
            actions: encoded actions, one for each slot.
            resets: slots that begin an episode instead, in the same message.

        Raises:
            InvalidOption: a slot does not exist, or has no action; nothing is sent then.
        """
        if len(slots) != len(actions):
            raise InvalidOption(
                f"step() takes one action a slot, got {len(actions)} for {len(slots)}"
            )
        slots, resets = self._checked_slots(slots), self._checked_slots(resets)
        self._check_begun()
        alone = len(slots) == 1 and not resets
        if alone and self._borrowed() and self._ask_row(slots[0], actions[0]):
            return
        if not self._borrowed() or not self._ask(slots, apart(actions), resets):
            self._post(self._send_steps, slots, actions, resets)

    def step_columns(
        self, column: bytes, slots: Sequence[int] | None = None, begins: Any = None
    ) -> None:
        """Ask for one step, or one reset, of each of ``slots``; ``take_columns`` gives the answers.

        Args:
            column: the actions of those that step, as a column of the protocol.
            slots: which sessions; all of them, in order, when ``None``.
            begins: bool [rows], the rows that begin an episode instead; ``None``: none does.

        Raises:
            InvalidOption: a slot does not exist; nothing is sent then.
            ProtocolError: there are not as many actions.
        """
        if slots is not None:
            slots = self._checked_slots(slots)
        self._check_begun()
        if self._borrowed() and self._ask_rows(slots, begins, column):
            return
        each = range(self.count) if slots is None else slots
        steps, resets = list(each), []
        if begins is not None:
            steps = [slot for slot, begin in zip(each, begins, strict=True) if not begin]
            resets = [slot for slot, begin in zip(each, begins, strict=True) if begin]
        self._post(self._send_steps, steps, rows_of(column, len(steps)), resets)

    @property
    def takes_columns(self) -> bool:
        """True if actions may be given as columns, and are not dearer so."""
        return self._takes_columns

    def _check_begun(self) -> None:
        if self._connection is None or self._pid != os.getpid():
            raise EpisodeNotStarted("step() before reset(): call reset() first")

    def _checked_slots(self, slots: Sequence[int]) -> Sequence[int]:
        """The slots, all of which exist; a wrong one would be lost on the I/O thread."""
        try:
            found = list(map(operator.index, slots))
        except TypeError:
            found = [-1]
        if found and not 0 <= min(found) <= max(found) < self.count:
            raise InvalidOption(f"slots are 0 to {self.count - 1}, got {shown(slots)}")
        return found

    def _post(self, send: Any, *requests: Any) -> None:
        if self._closed or sys.is_finalizing():
            raise SessionClosed("these sessions were closed: make new ones")
        counted = requests[0] if len(requests) == 1 else (*requests[0], *requests[2])
        self._waiting += len(counted)
        background_loop().loop.call_soon_threadsafe(send, *requests)

    def take(self, count: int, timeout: float | None = None) -> list[Answer]:
        """The first ``count`` answers, and what else is there by then.

        Every request has its deadline, so it returns also without ``timeout``.

        Raises:
            DeadlineExceeded: there were not as many within ``timeout`` seconds; those there
                are can be taken later.
            InvalidOption: an argument is of the wrong type.
        """
        answers: list[Answer] = []
        for part in self.take_columns(count, timeout):
            if isinstance(part, AnswerColumns):
                answers += part.apart()
            else:
                answers.append(part)
        return answers

    def take_columns(
        self, count: int, timeout: float | None = None
    ) -> list[Answer | AnswerColumns]:
        """The answers that ``take`` gives, those together that came together.

        Raises:
            DeadlineExceeded, InvalidOption: as by ``take``.
        """
        count = checked_count(count, "take(count=…)", 0, InvalidOption)
        if timeout is not None:
            timeout = checked_timeout(timeout, "take")
        if count > self._waiting:
            raise SessionBusy(
                f"{count} answers were asked for, but only {self._waiting} requests were sent"
            )
        until = None if timeout is None else time.monotonic() + timeout
        wanted = missing = count - (_answered(self._parts) if self._parts else 0)
        is_late = False
        if not count and self._waiting:
            self._look()
        while (rows := self._rows) is not None:
            wanted = missing - (_answered(rows.entries) if rows.entries else 0)
            loan = self._loan
            if wanted - len(self._answers) <= 0 or loan is None or loan.ended:
                break
            left = PATIENCE if until is None else until - time.monotonic()
            if left < 0:
                if is_late:
                    raise self._late(count, timeout)
                is_late, left = True, 0.0  # what is there already counts
            self._receive(loan, rows, min(left, PATIENCE))
        if wanted > 0:
            self._wait(wanted, count, timeout, until)
        answers: list[Answer] = []
        if self._answers:
            with self._lock:
                answers, self._answers = self._answers, []
                self._wanted = 0
        parts, self._parts = self._parts, []
        if rows is not None:
            parts, rows.entries = parts + rows.entries, []
        self._waiting -= _answered(parts) + len(answers)
        return [*parts, *answers]

    def _look(self) -> None:
        """Take the messages that are there already, if they are lent."""
        rows, loan, before = self._rows, self._loan, -1
        while rows is not None and loan is not None and not loan.ended:
            if not rows.left or len(rows.entries) == before:
                return
            before = len(rows.entries)
            self._receive(loan, rows, 0.0)

    def _wait(self, wanted: int, count: int, timeout: float | None, until: float | None) -> None:
        """Wait until the I/O thread has ``wanted`` answers."""
        with self._lock:
            if len(self._answers) < wanted:
                self._wanted = wanted
                self._wake.clear()
            else:
                self._wake.set()
        left = None if until is None else max(until - time.monotonic(), 0.0)
        if not self._wake.wait(left):
            raise self._late(count, timeout)

    def _late(self, count: int, timeout: float | None) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"{self.client.base_url} gave fewer than {count} answers within {timeout:g} s"
        )

    # -- the calling thread, which has borrowed the messages --------------------------------------

    def _borrowed(self) -> bool:
        """Return whether the calling thread has the messages; it borrows them where it may."""
        loan = self._loan
        if loan is not None and not loan.ended:
            return True
        if not self._takes_columns or self._closed or sys.is_finalizing():
            return False
        if self._passed < self._to_pass:
            self._passed += 1
            return False
        self._passed = 0
        self._to_pass = min(2 * self._to_pass + 1, _MOST_PASSED)  # until an answer comes
        if self._rows is not None:
            self._parts += self._rows.entries
            self._rows = None
        self._loan = background_loop().run(self._borrow())
        return self._loan is not None

    def _ask(self, slots: Sequence[int], column: bytes, resets: Sequence[int]) -> bool:
        """Ask for steps and for resets, which go to their places where the slots are in order."""
        import numpy as np

        each = np.array([*slots, *resets], np.int64)
        begins = np.zeros(len(each), np.bool_)
        begins[len(slots) :] = True
        if resets and (np.diff(each[: len(slots)]) > 0).all():
            order = np.argsort(each, kind="stable")
            each, begins = each[order], begins[order]
        return self._ask_rows(each, begins if resets else None, column)

    def _ask_rows(self, slots: Any, begins: Any, column: bytes) -> bool:
        """Ask by a column frame; the loan is ended where that cannot be."""
        rows, loan = self._lent()
        each = rows.of(slots)

        def made() -> bytes | None:
            message = rows.requests(each, begins, column) if self._may_ask(each, rows) else None
            if message is None:
                loan.end_in_call()
            return message

        return self._send_lent(loan, made, len(each))

    def _may_ask(self, each: Any, rows: LentRows) -> bool:
        """Return whether every slot has a session that is free, and is asked once."""
        return (
            bool(len(each))
            and not rows.is_busy(each)
            and (each is rows.everyone or len({*each.tolist()}) == len(each))
        )

    def _ask_row(self, slot: int, action: bytes) -> bool:
        """Ask for one step in a frame of its own: columns of one row cost more than they save."""
        rows, loan = self._lent()
        return self._send_lent(loan, lambda: rows.request(slot, action), 1)

    def _lent(self) -> tuple[LentRows, Loan]:
        """Return the rows and the loan that there are."""
        assert self._rows is not None
        assert self._loan is not None
        return self._rows, self._loan

    def _send_lent(self, loan: Loan, made: Callable[[], bytes | None], count: int) -> bool:
        """Send a message of ``count`` requests, which is made with the lock of the loan held.

        Returns:
            Whether they are under way; also if the transport sends them when the loan has ended.
        """
        sent = False
        with loan.lock:
            if loan.ended:
                return False
            try:
                loan.uses += 1
                message = made()
                if message is not None:
                    sent = True
                    self._waiting += count
                    loan.messages.send(message)
            except OSError:
                loan.end_in_call()
            except BaseException:
                loan.end_in_call(torn=True)
                raise
        if loan.wanted:
            loan.give_back()
        return sent

    def step_alone(self, action: bytes) -> Answer | None:
        """Ask for one step of the only session, and wait a moment for the answer.

        Returns:
            ``None`` if it has not come alone: ``take`` gives it.
        """
        if self.count != 1 or self._waiting:
            self.step((0,), (action,))
            return None
        self._check_begun()
        if not self._borrowed():
            self._post(self._send_steps, (0,), (action,), ())
            return None
        if not self._ask_row(0, action):
            self.step((0,), (action,))
            return None
        rows, loan = self._lent()
        self._receive(loan, rows, PATIENCE, is_due=True)
        if len(rows.entries) != 1 or type(rows.entries[0]) is not Answer:
            return None
        answer = rows.entries.pop()
        self._waiting -= 1
        return answer  # type: ignore[return-value]  # an Answer

    def _receive(self, loan: Loan, rows: LentRows, timeout: float, is_due: bool = False) -> None:
        """Take one message, if one comes in time."""
        with loan.lock:
            if loan.ended:
                return
            try:
                loan.uses += 1
                message = loan.messages.receive(timeout, is_due)
                now = time.monotonic()
                if message is None:
                    if loan.wanted or now - max(rows.sent_at, loan.heard_at) >= PATIENCE:
                        loan.end_in_call()
                else:
                    loan.heard_at = now
                    taken = rows.take(message)
                    if taken is False:
                        loan.end_in_call(message)
                    else:
                        self._to_pass = 0
                    if isinstance(taken, bytes):
                        loan.messages.send(taken)
            except OSError:
                loan.end_in_call()
            except BaseException:
                loan.end_in_call(torn=True)
                raise
        if loan.wanted:
            loan.give_back()

    def _end_loan(self) -> None:
        """Leave the messages to the I/O thread, if they are lent."""
        if self._loan is not None:
            self._loan.give_back()

    def states(self) -> list[Any]:
        """The state of every session, decoded; none of them may be busy."""
        self.open()
        self._end_loan()
        return background_loop().run(self._states())

    def step_counts(self, slots: Sequence[int]) -> list[int | OpenEnvError]:
        """Return how many steps each environment has executed in its episode, or its error.

        Raises:
            InvalidOption: a slot does not exist.
        """
        slots = self._checked_slots(slots)
        self.open()
        self._end_loan()
        return background_loop().run(self._step_counts(slots))

    @property
    def connection(self) -> ClientConnection | None:
        """Return the connection of the sessions; ``None`` before the first reset."""
        return self._connection

    @property
    def reconnects(self) -> int:
        """Return how often the sessions went on after their connection was lost."""
        return 0 if self._connection is None else self._connection.reconnects

    def close(self) -> None:
        """Close every session and the connection; idempotent, never raises for lost ones."""
        if self._closed:
            return
        self._closed = True
        if self._connection is not None and self._pid == os.getpid():
            if self._loan is not None and not on_background_thread():
                self._loan.give_back()
            close_blocking(self._close())

    # -- the I/O thread ---------------------------------------------------------------------------

    def _send_steps(
        self, slots: Sequence[int], actions: Sequence[bytes], resets: Sequence[int]
    ) -> None:
        seconds = self.client.timeouts.step
        timeout = seconds or 0.0
        own = self._slots
        for number, action in zip(slots, actions, strict=True):
            slot = own[number]
            slot.again = False
            slot.final = None
            channel = slot.channel
            if channel is None:
                slot.set_exception(EpisodeNotStarted("step() before reset(): call reset() first"))
                continue
            if channel.future is not None:
                self.deliver(Answer(number, None, None, _busy(number), False))
                continue
            channel.seq = seq = channel.seq + 1
            channel.steps += 1
            channel.post(Step(channel.number, seq, channel.acked, action, timeout), slot, seconds)
        for number in resets:
            own[number].final = None
            self.reset_slot(own[number], None, None)

    def _send_resets(self, requests: Sequence[ResetRequest]) -> None:
        for request in requests:
            slot = self._slots[request.slot]
            slot.final = None
            if slot.channel is not None and slot.channel.future is not None:
                self.deliver(Answer(request.slot, None, None, _busy(request.slot), True))
                continue
            if request.seed is not None:
                slot.rng, slot.next_seed = random.Random(request.seed), None
            self.reset_slot(slot, request.seed, request.options)

    def reset_slot(self, slot: Slot, seed: int | None, options: bytes | None) -> None:
        """Begin an episode, in a new session if the old one failed."""
        slot.again = True
        channel = slot.channel
        if channel is None or slot.broken or channel.error is not None:
            task = asyncio.ensure_future(self._revive(slot, seed, options))
            self._reviving.add(task)
            task.add_done_callback(self._reviving.discard)
            return
        seed, options = self.drawn(slot, seed, options)
        seconds = self.client.timeouts.reset
        number, seq, acked = channel.number, channel.next_seq(), channel.acked
        request = Reset(number, seq, acked, options, seed, None, seconds or 0.0)
        channel.post(request, slot, seconds)

    def drawn(
        self, slot: Slot, seed: int | None = None, options: bytes | None = None
    ) -> tuple[int | None, bytes | None]:
        """Seed and options of a slot's next reset: a seeded run goes on as it must."""
        if seed is not None:
            slot.seeded = True
        elif slot.rng is not None:
            if slot.seeded and options is None and self._resume_payload is not None:
                options = self._resume_payload
            else:
                seed, slot.next_seed = slot.next_seed, None
                seed = slot.rng.getrandbits(31) if seed is None else seed
                slot.seeded = True
        return seed, options

    def ahead(self, slot: Slot) -> tuple[int | None, bytes | None]:
        """Seed and options of a slot's next reset, which may follow unasked or not."""
        if slot.rng is None or (slot.seeded and self._resume_payload is not None):
            return None, None if slot.rng is None else self._resume_payload
        if slot.next_seed is None:
            slot.next_seed = slot.rng.getrandbits(31)
        return slot.next_seed, None

    def begun_again(self, slot: Slot) -> None:
        """Take notice that the server has begun an episode with what ``ahead`` gave."""
        if slot.next_seed is not None:
            slot.next_seed, slot.seeded = None, True

    async def _borrow(self) -> Loan | None:
        """Lend the messages to the calling thread; ``None`` while something rare goes on."""
        connection = self._connection
        if (
            connection is None
            or connection.error is not None
            or self._connecting is not None
            or self._reviving
            or not all(map(_may_be_lent, self._slots))
        ):
            return None
        rows: LentRows | None = None

        def restore() -> None:
            assert rows is not None
            rows.restore()

        loan = connection.lend(restore)
        if loan is not None:
            size = min(connection.outbox.max_size, connection.limits.max_batch_size)
            assert connection.codec is not None
            rows = LentRows(self, connection.codec, size, connection.error_of)
            self._rows = rows
        return loan

    async def _revive(self, slot: Slot, seed: int | None, options: bytes | None) -> None:
        """Open a new session for a slot, then reset it."""
        channel, slot.channel = slot.channel, None
        if channel is not None:
            channel.close_soon()
        try:
            await self._open_slot(slot)
        except OpenEnvError as exc:
            self.deliver(Answer(slot.number, None, slot.final, exc, True))
        else:
            self.reset_slot(slot, seed, options)

    def deliver(self, answer: Answer) -> None:
        with self._lock:
            answers = self._answers
            answers.append(answer)
            if len(answers) >= self._wanted:
                self._wake.set()

    async def _open(self) -> None:
        await self._connected()
        opening = [asyncio.ensure_future(self._open_slot(slot)) for slot in self._slots]
        try:
            await asyncio.gather(*opening)
        except BaseException:
            for task in opening:
                task.cancel()
            await asyncio.wait(opening)
            await self._close()
            raise

    async def _connected(self) -> ClientConnection:
        """The connection; a new one when the old is gone for good. One dials for all."""
        connection = self._connection
        if connection is not None and connection.error is None:
            return connection
        if self._connecting is None:
            self._connecting = asyncio.ensure_future(self._dial(connection))
            self._connecting.add_done_callback(self._dialled)
        return await asyncio.shield(self._connecting)

    async def _dial(self, old: ClientConnection | None) -> ClientConnection:
        if old is not None:
            await old.aclose()
        return await self.client._connect()

    def _dialled(self, task: asyncio.Task[ClientConnection]) -> None:
        self._connecting = None
        if not task.cancelled() and task.exception() is None:
            self._connection = task.result()
            self._wire = wire_models(
                self.client, self._connection.format, self._connection.upstream
            )
            self._takes_columns = getattr(self._connection, "takes_columns", False)
            self.asks_ahead = self.same_step and getattr(self._connection, "begins_again", False)
            if self._resume_options is not None:
                self._resume_payload = self.wire.encode_any(self._resume_options)

    async def _open_slot(self, slot: Slot) -> None:
        connection = await self._connected()
        channel = connection.channel()
        try:
            await channel.call(self.client._opening_of(channel), self.client.timeouts.open)
        except BaseException:
            channel.close_soon()
            raise
        slot.channel = channel
        slot.broken = slot.seeded = False

    async def _states(self) -> list[Any]:
        for slot in self._slots:
            if slot.channel is None or slot.channel.future is not None:
                raise _busy(slot.number)
        replies = await asyncio.gather(*map(self._state, self._slots))
        return [self.wire.decode_state(reply.payload) for reply in replies]

    async def _step_counts(self, slots: Sequence[int]) -> list[int | OpenEnvError]:
        calls = [self._state(self._slots[number]) for number in slots]
        counts: list[int | OpenEnvError] = []
        for reply in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(reply, BaseException):
                if not isinstance(reply, OpenEnvError):
                    raise reply
                counts.append(reply)
            else:
                counts.append(reply.step_count)
        return counts

    async def _state(self, slot: Slot) -> Any:
        """The state of a slot's environment, as it came."""
        channel, seconds = slot.channel, self.client.timeouts.state
        if channel is None or channel.future is not None:
            raise _busy(slot.number)
        request = State(channel.number, channel.next_seq(), channel.acked, seconds or 0.0)
        return await channel.call(request, seconds)

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if self._loan is not None and connection is not None and connection.loan is self._loan:
            await self._loan.over()
        tasks: list[asyncio.Future[Any]] = [*self._reviving]
        if self._connecting is not None:
            tasks.append(self._connecting)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        seconds = self.client.timeouts.close
        closing = []
        for slot in self._slots:
            channel, slot.channel = slot.channel, None
            if channel is not None and channel.error is None and channel.connection.up:
                request = Close(channel.number, channel.next_seq(), channel.acked, seconds or 0.0)
                channel.future = None  # its caller has gone
                closing.append(channel.call(request, seconds))
        if closing:
            await asyncio.gather(*closing, return_exceptions=True)
        if connection is not None:
            await connection.aclose()


def _answered(parts: Sequence[Answer | AnswerColumns]) -> int:
    """Return how many slots are answered."""
    return sum(len(part) if isinstance(part, AnswerColumns) else 1 for part in parts)


def _may_be_lent(slot: Slot) -> bool:
    channel = slot.channel
    return (
        channel is not None
        and not slot.broken
        and channel.opened
        and channel.error is None
        and not channel.earlier
        and channel.future in (None, slot)
    )


def _busy(number: int) -> OpenEnvError:
    return SessionBusy(
        f"environment {number} is still busy with its last call: take its answer first"
    )
