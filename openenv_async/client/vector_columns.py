"""The rows of a vector while the calling thread has the messages: arrays, and a frame a batch.

Rules:

- A row awaits at most one answer, by the number in ``awaited``; 0: none.
- A request is in ``flights`` before anything counts it, and an answer in ``entries``: what counts
  them may be done again. So an interrupt between any two steps loses nothing.
- A message is taken as a whole or not at all. One with anything but answers that are awaited, or
  with a failure that ends a session, is left to the I/O thread.
- While all rows are asked and answered together they are in lockstep: one number stands for all,
  and no array is touched. Anything else ends that, until all numbers are the same again.
- With ``same_step`` a row that ended is answered when its next episode has begun; until then it is
  held. A step of all rows says how the next episodes begin, so that the server may begin them in
  the same step: then there is nothing to hold.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from openenv_async.client.shared import SharedCodec
from openenv_async.errors import CallerError, OpenEnvError, ProtocolError, SessionClosed
from openenv_async.protocol.codec import JsonCodec, MsgpackCodec
from openenv_async.protocol.columns import (
    AGAIN,
    TERMINATED,
    TRUNCATED,
    apart,
    finals_of,
    numbers_of,
    pack_channels,
    pack_numbers,
    ranges_of,
    replies_of,
    requests_of,
    rows_of,
    unaddressed,
)
from openenv_async.protocol.frames import (
    Begun,
    Failed,
    Frame,
    Observation,
    Reset,
    Step,
    StepColumns,
)

if TYPE_CHECKING:
    import numpy as np

    from openenv_async.client.vector import Answer, Slot, VectorSessions

    Array = np.ndarray[Any, np.dtype[Any]]

__all__ = ["AnswerColumns", "LentRows", "final_of"]

_MAX_CHANNEL: Final = 2**32 - 1
_FEW: Final = 4
"""Flights that are kept, answered or not."""


class _Columns(Frame, tag=43):
    """An ``ObservationColumns`` whose buffers are those of the message."""

    channels: bytes
    seqs: bytes
    payload: memoryview
    rewards: memoryview
    flags: memoryview
    infos: bytes | None = None
    begun: bytes | None = None
    finals: bytes | None = None


_decode: Final = msgspec.msgpack.Decoder(list[_Columns | Observation | Begun | Failed]).decode
_decode_infos: Final = msgspec.msgpack.Decoder(list[tuple[int, bytes]]).decode
_decode_final: Final = msgspec.msgpack.Decoder(Observation).decode


def final_of(frame: Begun) -> Observation | None:
    """Return the end of the episode before, where this answers the step that ended it.

    Raises:
        ProtocolError: it cannot be read.
    """
    if frame.final is None:
        return None
    try:
        return _decode_final(frame.final)
    except (msgspec.MsgspecError, ValueError) as exc:
        raise ProtocolError(f"malformed Begun: {exc}") from None


def _are_rows(infos: bytes | None, rows: int) -> bool:
    """Return whether all infos are of rows that there are."""
    return infos is None or all(0 <= row < rows for row, _ in _decode_infos(infos))


class AnswerColumns:
    """Answers of many slots, as they came.

    Attributes:
        slots: which: int64 [rows].
        again: whether each answers a reset: bool [rows]; ``None`` if none does.
        final: with ``same_step``: the answers that ended the episodes before, of all slots or of
            some, in order.
        frame: that they came in.
        is_whole: whether they are of all slots, in order.
        index: of the frame, the rows that are meant: int64 [rows]; ``None`` for all.
        payload: the observations of the frame as a column.
    """

    __slots__ = ("again", "final", "frame", "index", "is_whole", "slots")

    def __init__(
        self,
        frame: _Columns,
        slots: Array,
        again: Array | None,
        index: Array | None = None,
        final: AnswerColumns | None = None,
        is_whole: bool = False,
    ) -> None:
        self.is_whole = is_whole
        self.frame = frame
        self.slots = slots
        self.again = again
        self.index = index
        self.final = final

    def __len__(self) -> int:
        return len(self.slots)

    @property
    def payload(self) -> memoryview:
        """The observations of the frame as a column."""
        return self.frame.payload

    @property
    def frame_rows(self) -> int:
        """Rows of the frame, those that are not meant too."""
        return len(self.frame.flags)

    def rewards(self) -> Array:
        """Rewards: float64 [rows]; those without the flag of one mean nothing."""
        return self._some(self.frame.rewards, "<f8")

    def flags(self) -> Array:
        """Flags of the protocol: uint8 [rows]."""
        return self._some(self.frame.flags, "u1")

    def _some(self, column: memoryview, dtype: str) -> Array:
        import numpy as np

        values = np.frombuffer(column, dtype)
        return values if self.index is None else values[self.index]

    def infos(self) -> list[tuple[int, bytes]]:
        """Pairs of a row and its encoded info, for the rows that have one."""
        packed = self.frame.infos
        if packed is None:
            return []
        pairs = _decode_infos(packed)
        if self.index is None:
            return pairs
        place = {row: i for i, row in enumerate(self.index.tolist())}
        return [(place[row], info) for row, info in pairs if row in place]

    def observations(self) -> list[bytes]:
        """The observations, each encoded on its own."""
        each = rows_of(self.payload, self.frame_rows)
        return each if self.index is None else [each[row] for row in self.index.tolist()]

    def replies(self) -> list[Observation | Begun]:
        """The replies one by one."""
        read = replies_of if self.frame.channels else unaddressed
        replies: Any = read(self.frame)  # type: ignore[arg-type]  # has the same fields
        return replies if self.index is None else [replies[row] for row in self.index.tolist()]

    def apart(self) -> list[Answer]:
        """The answers one by one."""
        from openenv_async.client.vector import Answer

        rows = range(len(self.slots))
        again = [False for _ in rows] if self.again is None else self.again.tolist()
        final = self.final
        ends: dict[int, Any] = {}
        if final is not None:
            ends = dict(zip(final.slots.tolist(), final.replies(), strict=True))
        return [
            Answer(slot, reply, ends.get(slot), None, begins)
            for slot, reply, begins in zip(self.slots.tolist(), self.replies(), again, strict=True)
        ]

    def some(self, rows: Array) -> AnswerColumns:
        """Return some of the answers, by their places here."""
        index = rows if self.index is None else self.index[rows]
        again = None if self.again is None else self.again[rows]
        return AnswerColumns(self.frame, self.slots[rows], again, index)


class _Flight:
    """Requests that were sent together, or one by one before the loan.

    Attributes:
        slots, seqs: of each row.
        begins: whether each row begins an episode; ``None``: none does.
        frame: that was sent; ``None`` if they were sent one by one.
        single: the requests in that case, by slot.
        is_counted: whether the arrays say so.
        is_touched: whether some of its answers may have been taken.
    """

    __slots__ = ("begins", "frame", "is_counted", "is_touched", "seqs", "single", "slots")

    def __init__(
        self,
        slots: Array,
        seqs: Array,
        begins: Array | None,
        frame: StepColumns | None,
        single: dict[int, Any] | None = None,
    ) -> None:
        self.slots = slots
        self.seqs = seqs
        self.begins = begins
        self.frame = frame
        self.single = single
        self.is_counted = False
        self.is_touched = frame is None

    def requests(self) -> dict[int, Step | Reset]:
        """The requests one by one, by slot."""
        if self.frame is None:
            return self.single or {}
        each: Any = requests_of(self.frame, len(self.slots))
        return dict(zip(self.slots.tolist(), each, strict=True))


class LentRows:
    """The rows of a vector for as long as the calling thread has the messages.

    Made and restored by the I/O thread, used by the calling thread in between, with the lock of
    the loan held.

    Args:
        owner: whose slots they are; each has a session that is open.
        codec: of the connection.
        max_size: bytes of the largest message.
        error_of: makes the typed error of a ``Failed`` frame.

    Attributes:
        entries: answers that came, in order.
        left: rows that await an answer.
        sent_at: when a request was sent last, by ``time.monotonic``.
    """

    def __init__(
        self,
        owner: VectorSessions,
        codec: MsgpackCodec | JsonCodec,
        max_size: int,
        error_of: Callable[[Failed], OpenEnvError],
    ) -> None:
        import numpy as np

        self._np = np
        self._owner = owner
        self._encode = codec.encode
        self._shared = codec if isinstance(codec, SharedCodec) else None
        self._max_size = max_size
        self._error_of = error_of
        slots = owner._slots
        channels: list[Any] = [slot.channel for slot in slots]
        self._channels = np.array([channel.number for channel in channels], np.int64)
        self._slot_of = np.full(int(self._channels.max()) + 1, -1, np.int64)
        self.everyone = np.arange(len(slots))
        self._slot_of[self._channels] = self.everyone
        self._packed: dict[bytes, bytes] = {}
        self._slots_of: dict[bytes, Array] = {}
        self._all_packed = pack_channels(self._channels)
        self._seq = np.array([channel.seq for channel in channels], np.int64)
        self._steps = np.zeros(len(slots), np.int64)
        self._awaited = np.zeros(len(slots), np.int64)
        self._again = np.zeros(len(slots), np.bool_)
        self._flights: list[_Flight] = []
        self._held: dict[int, tuple[AnswerColumns, int]] = {}
        self.entries: list[AnswerColumns | Answer] = []
        self.left = 0
        self.sent_at = time.monotonic()
        self._ahead: tuple[bytes | None, bytes | None] | None = None
        self._even: int | None = channels[0].seq
        self._even_steps = 0
        self._whole: _Flight | None = None
        asked = [slot for slot, channel in zip(slots, channels, strict=True) if channel.future]
        for slot in slots:
            if slot not in asked:
                slot.final = None
        if asked or (self._seq != self._even).any():
            self._even = None
        if asked:
            self._adopt(asked)

    def _adopt(self, asked: list[Slot]) -> None:
        """Await the answers of requests that are under way."""
        np = self._np
        single: dict[int, Any] = {}
        for slot in asked:
            channel = slot.channel
            assert channel is not None
            single[slot.number] = channel.asked
            channel.future = channel.asked = None
        begins = np.array([slot.again for slot in asked], np.bool_)
        seqs = np.array([request.seq for request in single.values()], np.int64)
        slots = np.fromiter(single, np.int64)
        self._flights.append(_Flight(slots, seqs, begins, None, single))
        self._count(self._flights[0])

    # -- out --------------------------------------------------------------------------------------

    def of(self, slots: Any) -> Array:
        """Return slots as an array: int64 [rows]; ``None`` are all of them."""
        if slots is None:
            return self.everyone
        each: Array = self._np.asarray(slots, self._np.int64)
        is_whole = len(each) == len(self.everyone) and (each == self.everyone).all()
        return self.everyone if is_whole else each

    def is_busy(self, slots: Array) -> bool:
        """Return whether one of the slots awaits an answer."""
        return bool(self.left and self._awaited[slots].any())

    def requests(self, slots: Array, begins: Array | None, column: bytes) -> bytes | None:
        """Return the message that asks for one step, or one reset, of each slot.

        Args:
            slots: which, each of them once, and none that awaits an answer: int64 [rows].
            begins: bool [rows], the rows that begin an episode; ``None``: none does.
            column: the actions of the others.

        Returns:
            ``None`` where it would be too large.
        """
        if len(column) + 64 * len(slots) + 4096 > self._max_size:
            return None
        if begins is not None and not self._np.count_nonzero(begins):
            begins = None
        drawn = [] if begins is None else self._drawn(slots, begins)
        frames: list[Frame]
        if begins is None or not any(options != drawn[0][1] for _, options in drawn):
            frames = [self._frame(slots, begins, column, drawn)]
        else:
            frames = self._mixed(slots, begins, column, drawn)
        return self._message(frames)

    def request(self, slot: int, action: bytes) -> bytes | None:
        """Return the message that asks for one step of one slot, by a frame of its own.

        Returns:
            ``None`` where it would be too large, or the slot awaits an answer.
        """
        self._spread()
        if len(action) + 4096 > self._max_size or self._awaited[slot]:
            return None
        np = self._np
        seq = int(self._seq[slot]) + 1
        seconds = self._owner.client.timeouts.step or 0.0
        step = Step(int(self._channels[slot]), seq, seq - 1, action, seconds)
        slots = self.everyone if len(self.everyone) == 1 else np.array([slot], np.int64)
        flight = _Flight(slots, np.array([seq], np.int64), None, None, {slot: step})
        self._fly(flight)
        self._count(flight)
        self.sent_at = time.monotonic()
        return self._message([step])

    def _message(self, frames: list[Frame]) -> bytes:
        """The frames as a message, with what is given back of shared memory."""
        if self._shared is not None and self._shared.has_returns:
            frames.insert(0, self._shared.take_release())
        return self._encode(frames)

    def _fly(self, flight: _Flight) -> None:
        """Keep a flight, and of those before it at least the ones that await an answer."""
        if len(self._flights) > _FEW:
            self._flights = [
                each for each in self._flights if (self._awaited[each.slots] == each.seqs).any()
            ]
        self._flights.append(flight)

    def _drawn(self, slots: Array, begins: Array) -> list[tuple[int | None, bytes | None]]:
        """Seed and options of each row that begins."""
        owner, self._ahead = self._owner, None
        return [owner.drawn(owner._slots[slot]) for slot in slots[begins].tolist()]

    def _following(self) -> tuple[bytes | None, bytes | None]:
        """Seeds, packed, and options of the episodes that may begin with the next step.

        Their seeds are ``None`` where they do not have the same options.
        """
        if self._ahead is None:
            pairs = [self._owner.ahead(slot) for slot in self._owner._slots]
            seeds = pack_numbers([-1 if seed is None else seed for seed, _ in pairs])
            options = pairs[0][1]
            same = all(each == options for _, each in pairs)
            self._ahead = seeds if same else None, options
        return self._ahead

    def _mixed(
        self, slots: Array, begins: Array, column: bytes, drawn: list[tuple[int | None, Any]]
    ) -> list[Frame]:
        """A frame for the resets of each options, the first of them with the steps."""
        frames: list[Frame] = []
        for i, options in enumerate({options for _, options in drawn}):
            rows = begins.copy()
            rows[begins] = [each == options for _, each in drawn]
            kept = rows if i else rows | ~begins
            frames.append(
                self._frame(
                    slots[kept],
                    rows[kept],
                    apart(()) if i else column,
                    [pair for pair in drawn if pair[1] == options],
                )
            )
        return frames

    def _frame(
        self,
        slots: Array,
        begins: Array | None,
        column: bytes,
        drawn: list[tuple[int | None, bytes | None]],
    ) -> StepColumns:
        """A frame, which is a flight from now on.

        Args:
            slots, begins, column: of the rows.
            drawn: seeds of those that begin, and their options, which are the same.
        """
        even = self._even
        if even is not None and (slots is not self.everyone or self._whole is not None):
            self._spread()
            even = None
        if even is not None:
            seqs: Any = even + 1
            packed = seqs.to_bytes(8, "little")
        else:
            seqs = (self._seq if slots is self.everyone else self._seq[slots]) + 1
            packed = pack_numbers(seqs)
            if slots is self.everyone and not self.left and len(packed) == 8:
                even, self._flights = int(seqs[0]) - 1, []
                seqs = even + 1
        timeouts = self._owner.client.timeouts
        frame = StepColumns(self._channels_of(slots), packed, column, timeouts.step or 0.0)
        if begins is not None:
            frame.resets = begins.tobytes()
            seeds = [-1 if seed is None else seed for seed, _ in drawn]
            if max(seeds) >= 0:
                frame.seeds = self._np.array(seeds, "<i8").tobytes()
            frame.options = drawn[0][1]
            frame.reset_timeout = timeouts.reset or 0.0
        elif self._owner.asks_ahead and slots is self.everyone:
            frame.again, frame.options = self._following()
            frame.reset_timeout = timeouts.reset or 0.0
        flight = _Flight(slots, seqs, begins, frame)
        if even is not None:
            self._whole = flight
        else:
            self._fly(flight)
        self._count(flight)
        self.sent_at = time.monotonic()
        return frame

    def _spread(self) -> None:
        """End the lockstep: from now on the arrays count."""
        even, whole = self._even, self._whole
        if even is None:
            return
        self._seq[:] = even
        if whole is not None:
            whole.seqs = self._seq.copy()
            whole.is_counted = False
            self._flights.append(whole)
            self.left = 0
            self._even_steps -= 1
            if whole.begins is not None:
                self._steps += whole.begins
        self._even = self._whole = None
        if whole is not None:
            self._count(whole)

    def _channels_of(self, slots: Array) -> bytes:
        if slots is self.everyone:
            return self._all_packed
        key = slots.tobytes()
        packed = self._packed.get(key)
        if packed is None:
            if len(self._packed) > 64:
                self._packed.clear()
            packed = self._packed[key] = pack_channels(self._channels[slots])
        return packed

    def _count(self, flight: _Flight) -> None:
        """Await the answers of a flight; may be done twice."""
        if flight is self._whole:
            self._even = flight.seqs  # type: ignore[assignment]  # a number, in lockstep
            self.left = len(flight.slots)
            self._even_steps += 1
            if flight.begins is not None:
                self._steps -= flight.begins
            flight.is_counted = True
            return
        where: Any = slice(None) if flight.slots is self.everyone else flight.slots
        self._seq[where] = self._awaited[where] = flight.seqs
        self._again[where] = False if flight.begins is None else flight.begins
        if not flight.is_counted:
            self._steps[where] += 1 if flight.begins is None else ~flight.begins
            self.left += len(flight.slots)
            flight.is_counted = True

    # -- in ---------------------------------------------------------------------------------------

    def take(self, message: bytes | memoryview) -> bytes | bool:
        """Take the answers of a message.

        Returns:
            False if it is for the I/O thread; else true, or a message to send at once.
        """
        try:
            entries = self._entries(_decode(message))
            if entries is None:
                return False
            if self._shared is not None:
                for entry in entries:
                    if entry.frame is not None:
                        self._shared.resolve(entry.frame)
        except (msgspec.MsgspecError, ValueError, ProtocolError):
            return False
        ended: list[int] = []
        for entry in entries:
            if self._owner.same_step:
                ended += self._hold(entry)
            else:
                self._settle(entry)
        return self._begin_again(ended) if ended else True

    def _entries(self, frames: list[Any]) -> list[AnswerColumns | Answer] | None:
        """The answers of a message's frames; ``None`` if there is anything else in it."""
        if len(frames) == 1 and type(frames[0]) is _Columns:
            columns = self._flown(frames[0])
            if columns is None:
                self._spread()
                self._touch()
                columns = self._columns(frames[0])
            return None if columns is None else [columns]
        self._spread()
        self._touch()
        entries: list[AnswerColumns | Answer] = []
        awaited = self._awaited.tolist()
        for frame in frames:
            if type(frame) is _Columns:
                columns = self._columns(frame)
                if columns is None:
                    return None
                for slot in columns.slots.tolist():
                    if not awaited[slot]:
                        return None
                    awaited[slot] = 0
                entries.append(columns)
                continue
            slot = self._slot(frame.channel)
            if slot < 0 or not frame.seq or awaited[slot] != frame.seq:
                return None
            awaited[slot] = 0
            answer = self._row(slot, frame)
            if answer is None:
                return None
            entries.append(answer)
        return entries

    def _touch(self) -> None:
        """Look at each row of a frame from now on, for the flights that there are."""
        for flight in self._flights:
            flight.is_touched = True

    def _flown(self, frame: _Columns) -> AnswerColumns | None:
        """The answers of a frame, if they are those of a flight."""
        flight, flights = self._whole, self._flights
        if flight is not None:
            flights = [flight]
        for flight in flights:
            asked = flight.frame
            if (
                not flight.is_touched
                and asked is not None
                and frame.channels == asked.channels
                and frame.seqs == asked.seqs
            ):
                rows = len(flight.slots)
                if len(frame.flags) != rows or len(frame.rewards) != 8 * rows:
                    return None
                if not _are_rows(frame.infos, rows):
                    return None
                is_whole = flight.slots is self.everyone
                again, final = self._begun(frame, flight.slots, flight.begins)
                flight.is_touched = True
                return AnswerColumns(frame, flight.slots, again, None, final, is_whole)
        return None

    def _begun(
        self, frame: _Columns, slots: Array, again: Array | None
    ) -> tuple[Array | None, AnswerColumns | None]:
        """The rows that begin an episode, asked for or not, and the ends before the latter.

        Raises:
            ProtocolError: the ends cannot be read.
        """
        if frame.finals is None:
            return again, None
        finals: Any = finals_of(frame)  # type: ignore[arg-type]  # has the same fields
        flags = self._np.frombuffer(frame.flags, "u1")
        unasked = (flags & AGAIN) != 0
        if not _are_rows(finals.infos, len(finals.flags)):
            raise ProtocolError("a column frame has infos of ends that it has not")
        final = AnswerColumns(finals, slots[unasked], None)
        return unasked if again is None else unasked | again, final

    def _columns(self, frame: _Columns) -> AnswerColumns | None:
        """The answers of a frame, if each of them is awaited."""
        where: Any
        if frame.channels == self._all_packed:
            slots, where = self.everyone, slice(None)
        else:
            known = self._slots_of.get(frame.channels)
            if known is None:
                known = self._slots_by(frame.channels)
            if known is None:
                return None
            slots = where = known
        rows = len(slots)
        if len(frame.flags) != rows or len(frame.rewards) != 8 * rows:
            return None
        if (self._awaited[where] != numbers_of(frame.seqs, rows)).any():
            return None
        if not _are_rows(frame.infos, rows):
            return None
        asked = self._again[where]
        again, final = self._begun(frame, slots, asked.copy() if asked.any() else None)
        return AnswerColumns(frame, slots, again, None, final, slots is self.everyone)

    def _slots_by(self, packed: bytes) -> Array | None:
        """The slots of channels as they travel, if they are all of this vector."""
        ranges = ranges_of(packed, len(self.everyone))
        np = self._np
        channels = np.concatenate([np.arange(first, first + count) for first, count in ranges])
        if channels.max() >= len(self._slot_of):
            return None
        slots: Array = self._slot_of[channels]
        if slots.min() < 0:
            return None
        if len(self._slots_of) > 64:
            self._slots_of.clear()
        self._slots_of[packed] = slots
        return slots

    def _slot(self, channel: int) -> int:
        return int(self._slot_of[channel]) if 0 < channel < len(self._slot_of) else -1

    def _row(self, slot: int, frame: Any) -> Answer | None:
        """The answer of one row; ``None`` if its session has failed."""
        from openenv_async.client.vector import Answer

        again = bool(self._again[slot])
        if type(frame) is not Failed:
            final = final_of(frame) if type(frame) is Begun else None
            return Answer(slot, frame, final, None, again or final is not None)
        error = self._error_of(frame)
        if not isinstance(error, CallerError) or isinstance(error, SessionClosed):
            return None
        channel = self._owner._slots[slot].channel
        assert channel is not None
        error.add_context(session_id=channel.id, request_id=frame.seq)
        return Answer(slot, None, None, error, again)

    def _settle(self, entry: AnswerColumns | Answer) -> None:
        """Enter an answer; from then on its rows await nothing."""
        self.entries.append(entry)
        if self._whole is not None:
            self._whole = None  # which it answers: anything else would have ended the lockstep
            self.left = 0
            return
        rows: Any = entry.slots if isinstance(entry, AnswerColumns) else entry.slot
        self._awaited[slice(None) if rows is self.everyone else rows] = 0
        self.left -= len(entry) if isinstance(entry, AnswerColumns) else 1

    # -- episodes that follow in the same step ----------------------------------------------------

    def _hold(self, entry: AnswerColumns | Answer) -> list[int]:
        """Enter the answers that end no episode, hold the others; the slots of these."""
        slots = self._owner._slots
        if not isinstance(entry, AnswerColumns):
            frame, slot = entry.frame, slots[entry.slot]
            if type(frame) is Observation and (frame.terminated or frame.truncated):
                slot.final = frame
                self._held.pop(entry.slot, None)
                return [entry.slot]
            if entry.final is None:
                entry.final = self._final(entry.slot)
            else:
                self._note_begun(entry.slot)
            self._settle(entry)
            return []
        ended = (entry.flags() & (TERMINATED | TRUNCATED)) != 0
        if entry.final is not None:
            ended &= ~self._np.asarray(entry.again)
            for slot in entry.final.slots.tolist():
                self._note_begun(slot)
        elif entry.again is not None:
            self._settle_begun(entry)
            return []
        if not self._np.count_nonzero(ended):
            self._settle(entry)
            return []
        self._spread()
        rows = self._np.flatnonzero(ended)
        final = entry.some(rows)
        held: list[int] = final.slots.tolist()
        self._held.update({slot: (final, row) for row, slot in enumerate(held)})
        if len(rows) < len(entry):
            others = entry.some(self._np.flatnonzero(~ended))
            others.final = entry.final
            self._settle(others)
        return held

    def _note_begun(self, slot: int) -> None:
        """Take notice that the server has begun an episode unasked."""
        owned = self._owner._slots[slot]
        if owned.next_seed is not None:
            self._ahead = None
            self._owner.begun_again(owned)

    def _settle_begun(self, entry: AnswerColumns) -> None:
        """Enter answers of resets, with what ended the episodes before."""
        slots = entry.slots.tolist()
        held = [self._held.get(slot) for slot in slots]
        final = held[0][0] if held[0] is not None else None
        if final is not None and held == [(final, row) for row in range(len(final))]:
            entry.final = final
            self._settle(entry)
            for slot in slots:
                del self._held[slot]
        elif any(each is not None for each in held) or any(
            self._owner._slots[slot].final is not None for slot in slots
        ):
            for answer in entry.apart():
                answer.final = self._final(answer.slot)
                self._settle(answer)
        else:
            self._settle(entry)

    def _final(self, slot: int) -> Observation | OpenEnvError | None:
        """The end of the episode before the one that a slot begins."""
        held = self._held.pop(slot, None)
        if held is not None:
            columns, row = held
            final: Any = columns.replies()[row]
            return final  # type: ignore[no-any-return]  # an Observation
        found, self._owner._slots[slot].final = self._owner._slots[slot].final, None
        return found

    def _begin_again(self, ended: list[int]) -> bytes:
        """The message that resets slots whose episodes ended; they stay unanswered until then."""
        slots = self._np.array(ended, self._np.int64)
        self.left -= len(ended)  # the new flight counts them
        every = self._np.ones(len(ended), self._np.bool_)
        drawn = self._drawn(slots, every)
        return self._message(self._mixed(slots, every, apart(()), drawn))

    # -- the end of the loan ----------------------------------------------------------------------

    def restore(self) -> None:
        """Put the channels in order, on the I/O thread; it takes the answers that are awaited."""
        whole = self._whole
        if whole is not None:
            self._even = whole.seqs  # type: ignore[assignment]  # a number, in lockstep
            frame: Any = whole.frame
            taken = [entry.frame for entry in self.entries if isinstance(entry, AnswerColumns)]
            if any(
                each.seqs == frame.seqs and len(each.flags) == len(whole.slots) for each in taken
            ):
                self._whole = None
        self._spread()
        for flight in self._flights:
            if not flight.is_counted:
                self._count(flight)
        for entry in self.entries:
            rows: Any = entry.slots if isinstance(entry, AnswerColumns) else entry.slot
            self._awaited[rows] = 0
        self.left = 0
        awaited, seqs = self._awaited.tolist(), self._seq.tolist()
        requests: dict[int, Any] = {}
        for flight in self._flights:
            if (self._awaited[flight.slots] == flight.seqs).any():
                requests.update(flight.requests())
        again, steps = self._again.tolist(), self._steps.tolist()
        waited = time.monotonic() - self.sent_at
        unreset = []
        for slot in self._owner._slots:
            number, channel = slot.number, slot.channel
            assert channel is not None
            channel.steps += steps[number] + self._even_steps
            if not awaited[number]:
                channel.catch_up(seqs[number])
                continue
            request = requests[number]
            slot.again = again[number]
            if number in self._held:
                slot.final = self._final(number)
            if slot.final is not None and not slot.again:  # it ended, and was not reset yet
                channel.catch_up(seqs[number])
                unreset.append(slot)
                continue
            timeouts = self._owner.client.timeouts
            seconds = timeouts.reset if slot.again else timeouts.step
            channel.catch_up(seqs[number], request, slot, seconds, waited)
        for slot in unreset:
            self._owner.reset_slot(slot, None, None)
