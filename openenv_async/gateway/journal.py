"""The journal of a gateway: the calls that were answered, on disk before the answer is out.

Rules:

- A call is *answered* once ``answered`` returns, and only then the end of its answer leaves. From
  then on neither the end of the process nor ``kill -9`` loses it, whatever the policy of syncing;
  what the end of the machine loses, the policy says (``FSYNC``).
- The end of an answer leaves once ``leaving`` returns: what its client may have had is known after
  ``kill -9``. The end of the machine may lose such a note with the last ones of any policy.
- Files are only appended to, each is of a limited size, and each opening begins a new one. A file
  is understood without the others: it says again what a session is, and its messages, before it
  refers to them. So a file can be dropped as soon as no open session has calls in it.
- A frame has its length and a checksum. A last frame without its end, as a crash leaves it, is
  removed; damage with whole frames after it is an error that names the place, unless ``repair``
  says to go on with what can be read. A damaged file is never written to, and never dropped.
- A write that fails leaves no part of a frame behind, and the next one begins a new file: there is
  nothing to do but to make room.
- One process writes, and holds a lock that ends with it.

Layout: ``calls-NNNNNN.journal`` and ``lock``, readable by their owner alone. Keys of sessions are
in it as digests.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Self, TypeAlias

import msgspec

from openenv_async.errors import JournalFailed
from openenv_async.gateway.calls import CallRecord, Delivery
from openenv_async.gateway.histories import (
    Histories,
    History,
    PackedCall,
    Shared,
    SharedMessage,
)
from openenv_async.rollouts.run_journal import lock_file, sync_folder

__all__ = [
    "FSYNC",
    "Fsync",
    "Journal",
    "JournalContents",
    "KeptSession",
    "SessionFacts",
    "read_journal",
]

log = logging.getLogger("openenv_async.gateway")

Fsync: TypeAlias = Literal["answer", "second", "never"]
FSYNC: Final[dict[Fsync, str]] = {
    "answer": "an answer leaves after its record is synced: the end of the machine loses none",
    "second": "the file is synced every second: the end of the machine loses the last second",
    "never": "the system syncs when it likes: the end of the machine loses half a minute or more",
}
"""Policies of syncing, and what each one loses when the machine ends. None loses anything when
only the gateway does."""
_MAX_SEGMENT: Final = 64 * 1024 * 1024
_SYNC_INTERVAL: Final = 1.0
_MAX_NOTES: Final = 10_000
"""Notes of deliveries that wait until there is room on the disk."""
_MAX_CLOSING: Final = 16
_LOCK: Final = "lock"
_NAME: Final = re.compile(r"calls-(\d{6,})\.journal")
_MAGIC: Final = b"\xc1OJ1"
_HEAD: Final = struct.Struct("<4sIIBB")
"""Magic, length of the body, checksum of all after it, kind, length of the session's id."""
_CHECKED_FROM: Final = 12
_MAX_BODY: Final = 1 << 31
_PACK: Final = msgspec.msgpack.Encoder().encode
_UNPACK: Final = msgspec.msgpack.Decoder().decode
_JSON: Final = msgspec.json.Encoder().encode
_SESSION, _CALL, _DELIVERY, _ENDED, _UNREAD = range(1, 6)


class SessionFacts(msgspec.Struct, kw_only=True):
    """The facts of a session that outlive the process.

    Attributes:
        id: of the session.
        key_digest: of its key, which is nowhere else.
        opened_at: Unix time in seconds.
        settings: the budget, limits and whatever else it was opened with, as JSON values.
    """

    id: str
    key_digest: str = ""
    opened_at: float = 0.0
    settings: dict[str, Any] = {}


_FACTS: Final = msgspec.json.Decoder(SessionFacts)


class KeptSession:
    """A session as the journal has it.

    Attributes:
        facts: what it was opened with.
        calls: by number; a later record replaces an earlier one.
        histories: of its calls.
        ended: it was ended.
    """

    def __init__(self, facts: SessionFacts, shared: Shared) -> None:
        self.facts = facts
        self.calls: dict[int, PackedCall] = {}
        self.histories = Histories(shared)
        self.ended = False

    @property
    def records(self) -> list[CallRecord]:
        """The whole records, in the order of their numbers."""
        return [self.histories.unpack(self.calls[number]) for number in sorted(self.calls)]


class JournalContents(NamedTuple):
    """The readable content of a journal.

    Attributes:
        sessions: by id.
        damage: places that could not be read, each with its file.
        cut: bytes of frames that had no end.
    """

    sessions: dict[str, KeptSession]
    damage: list[str]
    cut: int


class Journal:
    """A folder that has each call of each session before its answer is out.

    Use ``Journal.open``, and ``await journal.aclose()`` at the end. Of one event loop.

    Attributes:
        path: of the folder.
        fsync: when the file is synced; see ``FSYNC``.
        recovered: sessions that were open when the process ended before, by id.
        damage: places that could not be read when it was opened with ``repair``.
        cut: bytes of frames without an end, which were removed.
        size: bytes of all files.
    """

    def __init__(
        self,
        path: Path,
        lock: int,
        *,
        fsync: Fsync,
        segment_size: int,
        retention: float | None,
        max_size: int | None,
        repair: bool,
        clock: Callable[[], float],
    ) -> None:
        self.path = path
        self.fsync: Fsync = fsync
        self.shared = Shared()
        self._lock: int | None = lock
        self._segment_size = segment_size
        self._retention = retention
        self._max_size = max_size
        self._clock = clock
        reader = _Reader(self.shared)
        paths = _segments(path)
        for number in sorted(paths):
            reader.scan(number, paths[number])
        if reader.damage and not repair:
            raise JournalFailed(
                f"the journal at {path} is damaged: {'; '.join(reader.damage[:3])}; copy the"
                " folder, then open it with repair (--repair-journal), which goes on with what"
                " can be read, or give another folder"
            )
        for number in sorted(paths):
            reader.read(number, paths[number], wanted=reader.open_sessions)
        self.damage = reader.damage
        self.cut = reader.cut
        self.recovered = reader.sessions
        self._sessions = dict(reader.sessions)
        self._segments: dict[int, _Segment] = reader.segments
        for number, segment in list(self._segments.items()):
            if segment.is_damaged:
                continue
            if segment.torn:
                _cut(paths[number], segment.size)
            if not segment.size:
                paths[number].unlink()
                del self._segments[number]
        if self.cut:
            log.warning(
                "%d bytes of the journal at %s had no end, and are removed: they are of calls"
                " that were not answered",
                self.cut,
                path,
            )
        self.size = sum(each.size for each in self._segments.values())
        self._number = max(paths, default=-1) + 1
        self._file: int | None = None
        self._notes: list[bytes] = []
        self._flushing = False
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: list[asyncio.Future[None]] = []
        self._syncing: asyncio.Task[None] | None = None
        self._closing: list[Future[OSError | None]] = []
        self._thread = ThreadPoolExecutor(1, "openenv-gateway-journal")
        self._closed = False

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        fsync: Fsync = "second",
        segment_size: int = _MAX_SEGMENT,
        retention: float | None = None,
        max_size: int | None = None,
        repair: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> Self:
        """Open a journal, or begin one.

        Args:
            path: of a folder of its own; made when it is not there.
            fsync: ``answer``, ``second`` or ``never``; see ``FSYNC``.
            segment_size: bytes after which the next file is begun.
            retention: seconds that files are kept after the last session in them has ended;
                ``None``: for ever, or until ``max_size`` needs their room.
            max_size: bytes of all files; ended sessions are dropped for it, the oldest first.
            repair: go on with what can be read of a journal that is damaged.
            clock: Unix time in seconds.

        Raises:
            JournalFailed: the folder cannot be written to, another process does, it is not a
                journal, or it is damaged.
        """
        if fsync not in FSYNC:
            raise JournalFailed(f"fsync is {fsync!r}: give one of {', '.join(FSYNC)}")
        path = Path(path)
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            others = sorted(
                each.name
                for each in path.iterdir()
                if each.name != _LOCK and not _NAME.fullmatch(each.name)
            )
            if others:
                raise JournalFailed(
                    f"{path} has other files in it, {others[0]!r} for one: give the journal a"
                    " folder of its own"
                )
            path.chmod(0o700)
            lock = lock_file(path / _LOCK, 0o600)
        except BlockingIOError as exc:
            raise JournalFailed(
                f"the journal at {path} is being written by {exc.strerror}: end it, or give"
                " another folder"
            ) from None
        except JournalFailed:
            raise
        except OSError as exc:
            raise JournalFailed(f"no journal can be kept at {path}: {exc}") from exc
        try:
            return cls(
                path,
                lock,
                fsync=fsync,
                segment_size=segment_size,
                retention=retention,
                max_size=max_size,
                repair=repair,
                clock=clock,
            )
        except BaseException as exc:
            os.close(lock)
            if isinstance(exc, OSError) and not isinstance(exc, JournalFailed):
                raise JournalFailed(f"the journal at {path} cannot be read: {exc}") from exc
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Write and sync what is left, and give the lock back. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        try:
            if self._notes:
                with contextlib.suppress(JournalFailed):  # it says that an answer arrived
                    self._begin_segment()
                    self._write([])
            if self._syncing is not None:
                await self._syncing
        finally:
            self._retire()
            await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)
            lock, self._lock = self._lock, None
            if lock is not None:
                os.close(lock)

    # -- what happened ------------------------------------------------------------------------

    async def opened(self, facts: SessionFacts) -> KeptSession:
        """Note that a session was opened.

        Raises:
            JournalFailed: it could not be written; the session is not there.
        """
        kept = KeptSession(facts, self.shared)
        self._sessions[facts.id] = kept
        try:
            await self._written(lambda: [self._session_frame(kept)], facts.id)
        except BaseException:
            self._sessions.pop(facts.id, None)
            raise
        return kept

    async def answered(self, record: CallRecord, packed: PackedCall | None = None) -> None:
        """Note a call, with its answer or with the error that it ended in.

        A record of a number that is there already replaces it.

        Args:
            record: whole.
            packed: the same, as the session's own ``Histories`` made it, if they did.

        Raises:
            JournalFailed: it could not be written, or its session is not in the journal. The
                answer is not out then; try again when there is room.
        """
        kept = self._sessions.get(record.session)
        if kept is None:
            raise JournalFailed(
                f"session {record.session} is not in the journal at {self.path}: it was ended, or"
                " not opened"
            )
        call = kept.histories.pack(record) if packed is None else packed
        await self._written(lambda: self._call_frames(kept, call), record.session, call)

    def leaving(self, session: str, number: int) -> None:
        """Note that the end of an answer leaves now: its client may have it whole from then on.

        The note is in the file once this returns, so that no end of the process takes it back.

        Raises:
            JournalFailed: it could not be written. The end must not leave then; try again when
                there is room.
        """
        kept = self._sessions.get(session)
        if kept is None:
            return  # ended meanwhile: nobody can ask again
        self._write_now(lambda: [_frame(_DELIVERY, session, _PACK((number, "whole")))])
        call = kept.calls.get(number)
        if call is not None:
            call.deliveries.append("whole")

    def delivered(self, session: str, number: int, delivery: Delivery) -> None:
        """Note how an answer went out whose end did not leave.

        If there is no room, it is written with what comes next.
        """
        kept = self._sessions.get(session)
        if kept is None:
            return  # ended meanwhile
        call = kept.calls.get(number)
        if call is not None:
            call.deliveries.append(delivery)
        self._note(_frame(_DELIVERY, session, _PACK((number, delivery))))

    def unread(self, session: str, number: int, place: int) -> None:
        """Note that the delivery ``place`` of a call, ``whole`` as it seemed, was ``broken``."""
        kept = self._sessions.get(session)
        if kept is None:
            return
        call = kept.calls.get(number)
        if call is not None:
            _break(call, place)
        self._note(_frame(_UNREAD, session, _PACK((number, place))))

    async def ended(self, session: str) -> None:
        """Note that a session was ended; its calls stay on disk as ``retention`` says.

        Raises:
            JournalFailed: it could not be written; the session is still there.
        """
        kept = self._sessions.get(session)
        if kept is None:
            return
        now = self._clock()
        await self._written(lambda: [_frame(_ENDED, session, _PACK(now))], session)
        kept.ended = True
        self._sessions.pop(session, None)
        self.recovered.pop(session, None)
        kept.histories.clear()
        for segment in self._segments.values():
            if session in segment.sessions:
                segment.sessions.discard(session)
                segment.ended_at = now
        self._drop_old()

    # -- frames -------------------------------------------------------------------------------

    def _session_frame(self, kept: KeptSession) -> bytes:
        return _frame(_SESSION, kept.facts.id, _JSON(kept.facts))

    def _call_frames(self, kept: KeptSession, call: PackedCall) -> list[bytes]:
        """The frames of a call in the file that is being written.

        They refer to what the file has already; new messages get its next numbers.
        """
        segment = self._segments[self._number]
        frames = []
        if kept.facts.id not in segment.sessions:
            frames.append(self._session_frame(kept))
        new: list[History] = []
        node = call.history
        while node.parent is not None and node.place[0] != self._number:
            new.append(node)
            node = node.parent
        begin = -1 if node.parent is None else node.place[1]
        first, messages = segment.nodes, segment.messages
        items: list[int | bytes] = []
        for node in reversed(new):
            last = node.last
            assert last is not None  # of the empty history alone
            if last.place[0] == self._number:
                items.append(last.place[1])
            else:
                items.append(_JSON(last.value))
                last.place = (self._number, segment.messages)
                segment.messages += 1
            node.place = (self._number, segment.nodes)
            segment.nodes += 1
        tools: int | tuple[int, bytes]
        if call.tools.place[0] == self._number:
            tools = call.tools.place[1]
        else:
            tools = (segment.tools, call.tools.encoded)
            call.tools.place = (self._number, segment.tools)
            segment.tools += 1
        base, prompt, shared = call.base, call.prompt, call.shared
        number = -1
        if base is not None:
            if base.place == self._number and kept.calls.get(base.number) is base:
                number = base.number
            else:
                prompt, shared = _PACK(call.prompt_ids()), 0
        body = (
            call.number,
            call.deliveries,
            (begin, first, messages, items),
            tools,
            call.rest,
            prompt,
            call.completion,
            call.logprobs,
            (number, shared),
        )
        frames.append(_frame(_CALL, kept.facts.id, _PACK(body)))
        call.size = sum(map(len, frames))
        return frames

    # -- writing ------------------------------------------------------------------------------

    async def _written(
        self,
        frames: Callable[[], list[bytes]],
        session: str,
        call: PackedCall | None = None,
    ) -> None:
        """Write frames now, and return when they are as safe as the policy says."""
        self._write_now(frames)
        self._has_written(session, call)
        if self.fsync == "answer":
            synced = asyncio.get_running_loop().create_future()
            self._waiting.append(synced)
            if self._syncing is None:
                self._syncing = asyncio.create_task(self._sync_waiting())
            await synced

    def _write_now(self, frames: Callable[[], list[bytes]]) -> None:
        """Write frames, which are made once it is known to which file they go."""
        if self._closed:
            raise JournalFailed(f"the journal at {self.path} is closed")
        self._begin_segment()
        self._write(frames())

    def _has_written(self, session: str, call: PackedCall | None) -> None:
        self._segments[self._number].sessions.add(session)
        if call is not None:
            call.place = self._number
            self._sessions[session].calls[call.number] = call

    def _note(self, frame: bytes) -> None:
        """Write a note soon: with what is written next, or in the next turn of the loop."""
        if len(self._notes) < _MAX_NOTES:
            self._notes.append(frame)
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """Write the notes that wait."""
        self._flushing = False
        if not self._notes or self._closed:
            return
        try:
            self._write_now(list)
        except JournalFailed as exc:
            log.warning("%s", exc.message)

    def _write(self, frames: list[bytes]) -> None:
        """Write notes and frames to the file; nothing of them is left there if that fails."""
        file, segment = self._file, self._segments[self._number]
        assert file is not None
        data = b"".join([*self._notes, *frames])
        try:
            left = data
            while written := os.write(file, left):
                if written == len(left):
                    break
                left = left[written:]
        except OSError as exc:
            self._abandon_segment()
            raise JournalFailed(
                f"the journal at {self.path} cannot be written: {exc.strerror or exc}; what was"
                " answered before is there: make room, and ask again",
                retryable=True,
            ) from exc
        self._notes.clear()
        segment.size += len(data)
        self.size += len(data)
        if self.fsync == "second" and self._timer is None and not self._closed:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(_SYNC_INTERVAL, self._sync_soon)

    def _begin_segment(self) -> None:
        """See to it that there is a file to write to, with room for more."""
        if self._file is not None:
            if self._segments[self._number].size < self._segment_size:
                return
            self._retire()
        moved = self._make_room()
        path = _segment_path(self.path, self._number)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        try:
            self._file = os.open(path, flags, 0o600)
        except OSError as exc:
            raise JournalFailed(
                f"the journal at {self.path} cannot be written: {exc.strerror or exc}",
                retryable=True,
            ) from exc
        self._segments[self._number] = _Segment()
        if self.fsync != "never":
            self._thread.submit(_sync_folder, self.path)
        for number in moved:
            self._move(number)

    def _retire(self) -> None:
        """Have the file synced and closed by the thread, after what it does now."""
        file, self._file = self._file, None
        if file is not None:
            self._number += 1
            self._closing.append(self._thread.submit(_close, file, self.fsync != "never"))
            del self._closing[:-_MAX_CLOSING]

    def _abandon_segment(self) -> None:
        """End the file after its last whole frame; the next write begins another."""
        file, self._file = self._file, None
        assert file is not None
        segment = self._segments[self._number]
        with contextlib.suppress(OSError):  # reading removes what is left
            os.ftruncate(file, segment.size)
        if not segment.size:
            del self._segments[self._number]
            with contextlib.suppress(OSError):
                _segment_path(self.path, self._number).unlink()
        self._number += 1
        self._thread.submit(_close, file, self.fsync != "never")

    # -- syncing ------------------------------------------------------------------------------

    async def _sync_waiting(self) -> None:
        """Sync the file for those who wait, again as long as there are some."""
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting, []
                closing, self._closing = self._closing, []
                error = await loop.run_in_executor(self._thread, _sync, self._file)
                for closed in closing:  # before: the thread does one thing after the other
                    error = error or closed.result()
                if error is not None:
                    self._retire()
                    self._closing.clear()  # it fails again, and they are told already
                for future in waiting:
                    if future.done():
                        continue  # cancelled
                    if error is None:
                        future.set_result(None)
                    else:
                        failed = JournalFailed(
                            f"the journal at {self.path} cannot be synced: {error}",
                            retryable=True,
                        )
                        failed.__cause__ = error
                        future.set_exception(failed)
        finally:
            self._syncing = None

    def _sync_soon(self) -> None:
        """Have the file synced by the thread."""
        self._timer = None
        if self._file is not None:
            self._thread.submit(_sync_logged, self._file, self.path)

    # -- room ---------------------------------------------------------------------------------

    def _drop_old(self) -> None:
        """Drop the oldest files as long as all of their sessions ended long enough ago."""
        if self._retention is None:
            return
        oldest_kept = self._clock() - self._retention
        for number, segment in sorted(self._segments.items()):
            if number == self._number and self._file is not None:
                return
            if segment.is_damaged:
                continue
            if segment.sessions or segment.ended_at > oldest_kept:
                return
            self._drop(number)

    def _drop(self, number: int) -> None:
        segment = self._segments.pop(number)
        self.size -= segment.size
        with contextlib.suppress(OSError):
            _segment_path(self.path, number).unlink()

    def _make_room(self) -> list[int]:
        """Drop the oldest files until there is room for a new one.

        The order matters: the end of a session is in no file before its calls, so that none comes
        to life again.

        Returns:
            Files to be dropped besides, of which the few calls of open sessions move.
        """
        if self._max_size is None:
            return []
        moved: list[int] = []
        size = self.size
        for number, segment in sorted(self._segments.items()):
            if size < self._max_size or segment.is_damaged:
                break
            if segment.sessions:
                left = sum(call.size for _, call in self._open_calls(number))
                if left > segment.size // 2:
                    break
                size -= segment.size - left
                moved.append(number)
            elif moved:
                size -= segment.size
                moved.append(number)
            else:
                size -= segment.size
                self._drop(number)
        if size >= self._max_size:
            raise JournalFailed(
                f"the journal at {self.path} has {self.size} bytes, and may have"
                f" {self._max_size}: end sessions, or raise max_size (--journal-max-size)",
                retryable=True,
            )
        return moved

    def _open_calls(self, number: int) -> list[tuple[KeptSession, PackedCall]]:
        """The calls of open sessions that are in a file, each session's in order."""
        return [
            (kept, kept.calls[each])
            for session in self._segments[number].sessions
            for kept in [self._sessions[session]]
            for each in sorted(kept.calls)
            if kept.calls[each].place == number
        ]

    def _move(self, number: int) -> None:
        """Write the calls of open sessions of a file to the current one, and drop the file."""
        for session in self._segments[number].sessions:
            kept = self._sessions[session]
            self._write([self._session_frame(kept)])
            self._has_written(session, None)
        for kept, call in self._open_calls(number):
            self._write(self._call_frames(kept, call))
            self._has_written(kept.facts.id, call)
        segment = self._segments.pop(number)
        self.size -= segment.size
        path = _segment_path(self.path, number)
        self._thread.submit(_drop_after_sync, self._file, path)


def read_journal(path: str | Path) -> JournalContents:
    """Read a journal, also one that is being written or is damaged, and ended sessions too.

    Raises:
        JournalFailed: there is none.
    """
    path = Path(path)
    paths = _segments(path)
    if not paths:
        raise JournalFailed(f"there is no journal at {path}")
    reader = _Reader(Shared())
    for number in sorted(paths):
        reader.scan(number, paths[number])
    for number in sorted(paths):
        reader.read(number, paths[number], wanted=None)
    return JournalContents(reader.sessions, reader.damage, reader.cut)


class _Segment:
    """A file of a journal: its size, and what a writer has put there.

    ``sessions`` are the open ones that have frames in it; ``ended_at`` is of the last that ended.
    """

    def __init__(self) -> None:
        self.size = 0
        self.torn = 0
        self.is_damaged = False
        self.sessions: set[str] = set()
        self.ended_at = 0.0
        self.nodes = self.messages = self.tools = 0


class _Frame(NamedTuple):
    offset: int
    kind: int
    session: str
    body: memoryview


class _Reader:
    """A reader of the files of a journal, in their order: ``scan`` all, then ``read`` all."""

    def __init__(self, shared: Shared) -> None:
        self.sessions: dict[str, KeptSession] = {}
        self.segments: dict[int, _Segment] = {}
        self.damage: list[str] = []
        self.cut = 0
        self.open_sessions: set[str] = set()
        self._shared = shared
        self._ended: dict[str, float] = {}

    def scan(self, number: int, path: Path) -> None:
        """Check a file, and note which sessions are in it and which ended."""
        segment = self.segments[number] = _Segment()
        data = path.read_bytes()
        ended: list[str] = []
        holes: list[tuple[int, int]] = []
        for frame in _frames(data, holes):
            if frame.kind == _ENDED:
                ended.append(frame.session)
                self._ended[frame.session] = _UNPACK(frame.body)
            elif frame.session not in self._ended:
                segment.sessions.add(frame.session)
                self.open_sessions.add(frame.session)
        segment.size = len(data)
        if holes and holes[-1][1] == len(data):
            begin, end = holes.pop()
            segment.torn = end - begin
            segment.size = begin
            self.cut += segment.torn
        for begin, end in holes:
            segment.is_damaged = True
            self.damage.append(f"bytes {begin} to {end} of {path.name}")
        for session in ended:
            self.open_sessions.discard(session)
            for each in self.segments.values():
                if session in each.sessions:
                    each.sessions.discard(session)
                    each.ended_at = max(each.ended_at, self._ended[session])

    def read(self, number: int, path: Path, wanted: set[str] | None) -> None:
        """Read the sessions of a file: all, or those that are wanted."""
        segment = self.segments[number]
        if wanted is not None and not segment.sessions:
            return
        nodes: dict[int, History] = {}
        messages: dict[int, SharedMessage] = {}
        tools: dict[int, SharedMessage] = {}
        for frame in _frames(path.read_bytes()[: segment.size], []):
            try:
                if frame.kind == _CALL:
                    call = self._read_call(frame, nodes, messages, tools, wanted)
                    if call is not None:
                        call.place, call.size = number, len(frame.body)
                elif wanted is None or frame.session in wanted:
                    self._read_other(frame)
            except (KeyError, ValueError, TypeError, msgspec.MsgspecError) as exc:
                self.damage.append(
                    f"the frame at byte {frame.offset} of {path.name}, of session"
                    f" {frame.session}: {type(exc).__name__} {exc}"
                )

    def _read_other(self, frame: _Frame) -> None:
        kept = self.sessions.get(frame.session)
        if frame.kind == _SESSION:
            if kept is None:
                facts = _FACTS.decode(frame.body)
                self.sessions[frame.session] = KeptSession(facts, self._shared)
        elif kept is None:
            return  # of a session whose file was dropped
        elif frame.kind == _DELIVERY:
            number, delivery = _UNPACK(frame.body)
            if number in kept.calls:
                kept.calls[number].deliveries.append(delivery)
        elif frame.kind == _UNREAD:
            number, place = _UNPACK(frame.body)
            if number in kept.calls:
                _break(kept.calls[number], place)
        elif frame.kind == _ENDED:
            kept.ended = True

    def _read_call(
        self,
        frame: _Frame,
        nodes: dict[int, History],
        messages: dict[int, SharedMessage],
        tools: dict[int, SharedMessage],
        wanted: set[str] | None,
    ) -> PackedCall | None:
        """Read a call; of one that is not wanted only what others may refer to."""
        body = _UNPACK(frame.body)
        number, deliveries, path, its_tools, rest, prompt, completion, logprobs, base = body
        begin, first, first_message, items = path
        held = []
        for item in items:
            if isinstance(item, int):
                held.append(messages[item])
            else:
                message = self._shared.message(msgspec.json.decode(item))
                messages[first_message] = message
                first_message += 1
                held.append(message)
        if not isinstance(its_tools, int):
            place, encoded = its_tools
            tools[place] = self._shared.tools(msgspec.json.decode(encoded), encoded)
            its_tools = place
        if wanted is not None and frame.session not in wanted:
            return None
        kept = self.sessions[frame.session]
        node = kept.histories.root if begin < 0 else nodes[begin]
        for each in held:
            node = node.after(each)
            nodes[first] = node
            first += 1
        base_number, shared = base
        call = PackedCall(
            number,
            node,
            tools[its_tools],
            rest,
            deliveries,
            prompt=prompt,
            completion=completion,
            logprobs=logprobs,
            base=None if base_number < 0 else kept.calls[base_number],
            shared=shared,
        )
        if prompt is not None and completion is not None:
            node.call = call
        kept.calls[number] = call
        return call


def _break(call: PackedCall, place: int) -> None:
    """Correct a delivery that seemed whole."""
    if place < len(call.deliveries):
        call.deliveries[place] = "broken"


def _frame(kind: int, session: str, body: bytes) -> bytes:
    name = session.encode()
    tail = bytes((kind, len(name))) + name + body
    return _HEAD.pack(_MAGIC, len(body), zlib.crc32(tail), kind, len(name)) + tail[2:]


def _frames(data: bytes, holes: list[tuple[int, int]]) -> Iterator[_Frame]:
    """Yield the whole frames of a file's data; add to ``holes`` what is between them."""
    view = memoryview(data)
    offset, hole = 0, -1
    while offset < len(data):
        frame, end = _frame_at(data, view, offset)
        if frame is None:
            if hole < 0:
                hole = offset
            following = data.find(_MAGIC, offset + 1)
            offset = len(data) if following < 0 else following
            continue
        if hole >= 0:
            holes.append((hole, offset))
            hole = -1
        yield frame
        offset = end
    if hole >= 0:
        holes.append((hole, len(data)))


def _frame_at(data: bytes, view: memoryview, offset: int) -> tuple[_Frame | None, int]:
    """The whole frame that begins at an offset, and its end; ``None`` if there is none."""
    if offset + _HEAD.size > len(data):
        return None, offset
    magic, length, checksum, kind, name_length = _HEAD.unpack_from(data, offset)
    begin = offset + _HEAD.size
    end = begin + name_length + length
    if magic != _MAGIC or length > _MAX_BODY or end > len(data):
        return None, offset
    if zlib.crc32(view[offset + _CHECKED_FROM : end]) != checksum:
        return None, offset
    session = data[begin : begin + name_length].decode()
    return _Frame(offset, kind, session, view[begin + name_length : end]), end


def _segments(folder: Path) -> dict[int, Path]:
    found = {}
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for path in folder.iterdir():
            if match := _NAME.fullmatch(path.name):
                found[int(match[1])] = path
    return found


def _segment_path(folder: Path, number: int) -> Path:
    return folder / f"calls-{number:06d}.journal"


def _cut(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)
        os.fsync(file.fileno())


def _sync(file: int | None) -> OSError | None:
    try:
        if file is not None:
            os.fdatasync(file)
    except OSError as exc:
        return exc
    return None


def _sync_logged(file: int, path: Path) -> None:
    if (error := _sync(file)) is not None:
        log.error("the journal at %s cannot be synced: %s", path, error)


def _sync_folder(path: Path) -> None:
    try:
        sync_folder(path)
    except OSError as exc:
        log.error("the journal at %s cannot be synced: %s", path, exc)


def _drop_after_sync(file: int | None, path: Path) -> None:
    """Remove a file once what was moved from it is safe."""
    if _sync(file) is None:
        with contextlib.suppress(OSError):
            path.unlink()


def _close(file: int, synced: bool) -> OSError | None:
    error = _sync(file) if synced else None
    if error is not None:
        log.error("a file of the journal cannot be synced: %s", error)
    os.close(file)
    return error
