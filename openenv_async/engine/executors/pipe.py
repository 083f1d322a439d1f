"""Messages over a Unix socket between the server process and a worker process.

They are records: messages of frames, and notes, which the two processes exchange about themselves;
anything else is garbage that something in the process wrote, and ends the connection. Both ends
are asyncio protocols: what was sent in one loop turn leaves in one write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, cast

import msgspec

from openenv_async.endpoints.lent_socket import SocketMessages, can_lend
from openenv_async.protocol.codec import MsgpackCodec, Role
from openenv_async.protocol.frames import Frame
from openenv_async.protocol.records import (
    HEADER_SIZE,
    Record,
    RecordCutter,
    message_place,
    read_header,
    record,
)

__all__ = ["HEADER_SIZE", "MAX_PIPE_MESSAGE", "Pipe", "PipeCodec", "body_size"]

MAX_PIPE_MESSAGE: Final = 2**31
"""A longer announced message means that the other end writes garbage."""
_KINDS: Final = (Record.MESSAGE, Record.NOTE)
_UNSENDABLE: Final = (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError)


class PipeCodec(MsgpackCodec):
    """Frames of the pipe: one that cannot be encoded does not cost the others of its batch.

    Args:
        role, max_size: as for ``MsgpackCodec``.
        refused: called with a frame that cannot be encoded and the reason; what it returns is
            sent instead.
    """

    def __init__(
        self, role: Role, max_size: int, refused: Callable[[Frame, Exception], Frame | None]
    ) -> None:
        super().__init__(role, max_size)
        self._refused = refused
        self._encode_all = self.encode
        self.encode = self._encode

    def _encode(self, frames: Sequence[Frame]) -> bytes:
        try:
            return self._encode_all(frames)
        except _UNSENDABLE:
            return self._encode_all([good for frame in frames if (good := self._good(frame))])

    def _good(self, frame: Frame) -> Frame | None:
        try:
            self._encode_all([frame])
        except _UNSENDABLE as exc:
            return self._refused(frame, exc)
        return frame


def body_size(header: bytes) -> int | None:
    """The length that a header announces; ``None`` when it is none."""
    kind, size = read_header(header) or (None, 0)
    return size if kind in _KINDS and size <= MAX_PIPE_MESSAGE else None


class Pipe(asyncio.Protocol):
    """One end.

    Args:
        on_message: called with each message.
        on_lost: called once when the other end is gone or wrote garbage.
        on_note: called with each note.
    """

    def __init__(
        self,
        on_message: Callable[[bytes], None],
        on_lost: Callable[[], None],
        on_note: Callable[[bytes], None],
    ) -> None:
        self._on_message = on_message
        self._on_lost = on_lost
        self._on_note = on_note
        self._cutter = RecordCutter(self._take, MAX_PIPE_MESSAGE)
        self.is_garbled = False
        self._transport: asyncio.Transport | None = None
        self.paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        if not self.is_garbled and not self._cutter.feed(data):
            self._garbled()

    def _take(self, kind: Record, body: bytes | memoryview) -> None:
        if self.is_garbled:
            return
        if kind is Record.MESSAGE:
            self._on_message(bytes(body))
        elif kind is Record.NOTE:
            self._on_note(bytes(body))
        else:
            self._garbled()

    def _garbled(self) -> None:
        self.is_garbled = True
        self.close()

    @property
    def connected(self) -> bool:
        """True while there is a transport to write to."""
        return self._transport is not None

    def lend(self) -> SocketMessages | None:
        """Lend the messages to another thread until it ends that; ``None`` if it cannot be now.

        Nothing may be sent meanwhile.
        """
        transport = self._transport
        if transport is None or not self._cutter.is_between_records or not can_lend(transport):
            return None
        return SocketMessages(
            transport,
            framed=lambda message: record(Record.MESSAGE, message),
            place=lambda data: message_place(data, MAX_PIPE_MESSAGE),
            feed=self.data_received,
            receive=cast(Callable[[bytes | memoryview | str], None], self._on_message),
            ended=list,
        )

    def send(self, message: bytes) -> None:
        """Write a message; nothing happens when the other end is gone."""
        self._write(Record.MESSAGE, message)

    def note(self, note: bytes) -> None:
        """Write a note; nothing happens when the other end is gone."""
        self._write(Record.NOTE, note)

    def _write(self, kind: Record, body: bytes) -> None:
        transport = self._transport
        if transport is not None and not transport.is_closing():
            transport.write(record(kind, body))

    def pause_writing(self) -> None:
        """Called by the loop."""
        self.paused = True

    def resume_writing(self) -> None:
        """Called by the loop."""
        self.paused = False

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self._on_lost()

    def close(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.abort()
