"""Records: what two processes of one machine write to a Unix socket.

A record is 4 bytes that say its kind, its length as 4 bytes, big-endian, and its body. Of the first
4 bytes three are always the same: other bytes mean that something else was written to the socket,
and after them nothing can be read.

Rules of this file:

- A length is checked before anything of the body is kept.
- A body that came in one piece is copied once if it is short, and never if it is long.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final

__all__ = [
    "HEADER_SIZE",
    "MAX_GREETING",
    "Record",
    "RecordCutter",
    "RecordFault",
    "message_place",
    "message_record",
    "read_header",
    "record",
    "record_header",
]

HEADER_SIZE: Final = 8
MAX_GREETING: Final = 64 * 1024
"""Bytes of the longest greeting, which is read before the peer is known."""
_MAGIC: Final = b"\x93OE"
_LONG: Final = 1 << 16
"""Bytes from which a body is not copied: it is a view of what was read, or written by itself."""


class Record(enum.IntEnum):
    """The kinds of records.

    A message is a batch of frames; a note is of the two processes about themselves. Of a local
    connection each side's first record is its greeting, and the last may be its end.
    """

    MESSAGE = 1
    NOTE = 2
    GREETING = 3
    END = 4


_KINDS: Final = {_MAGIC + bytes((kind,)): kind for kind in Record}
_MARKS: Final = {kind: mark for mark, kind in _KINDS.items()}
_MESSAGE: Final = _MARKS[Record.MESSAGE]


class RecordFault(enum.Enum):
    """The reason why nothing more can be read of a stream of records."""

    NO_RECORD = enum.auto()
    TOO_LONG = enum.auto()


def record_header(kind: Record, size: int) -> bytes:
    """Return the header of a record whose body has ``size`` bytes."""
    return _MARKS[kind] + size.to_bytes(4, "big")


def record(kind: Record, body: bytes) -> bytes:
    """Return a whole record."""
    return record_header(kind, len(body)) + body


def message_record(message: bytes) -> list[bytes]:
    """Return a message as a record, in one piece or, if that would copy much, two."""
    size = len(message)
    header = _MESSAGE + size.to_bytes(4, "big")
    return [header + message] if size < _LONG else [header, message]


def read_header(header: bytes) -> tuple[Record, int] | None:
    """Return the kind and the length that a header tells; ``None`` if it is none."""
    kind = _KINDS.get(header[:4])
    if kind is None or len(header) < HEADER_SIZE:
        return None
    return kind, int.from_bytes(header[4:HEADER_SIZE], "big")


def message_place(data: bytes, max_size: int) -> tuple[int, int] | None:
    """Return where the message begins and ends that ``data`` begins with.

    Args:
        data: bytes of a stream, from the start of a record.
        max_size: bytes of the longest message.

    Returns:
        Start and end of the body, which may be after that of ``data``; 0, 0 if it is too short to
        tell. ``None`` for another record, or none.
    """
    if len(data) < HEADER_SIZE:
        return (0, 0) if _MESSAGE.startswith(data[:4]) else None
    size = int.from_bytes(data[4:HEADER_SIZE], "big")
    if not data.startswith(_MESSAGE) or size > max_size:
        return None
    return HEADER_SIZE, HEADER_SIZE + size


def _nobody(kind: Record, body: bytes | memoryview) -> None:
    """Take a record of a stream that is over."""


class RecordCutter:
    """A reader of records from a stream that comes in pieces of any size.

    Args:
        take: called with the kind and the body of each record.
        max_size: bytes of the longest body that is taken; may be changed between two records.

    Attributes:
        fault: the reason why the stream cannot be read on, once there is one.
    """

    __slots__ = ("_kept", "_missing", "_take", "fault", "max_size")

    def __init__(self, take: Callable[[Record, bytes | memoryview], None], max_size: int) -> None:
        self._take = take
        self.max_size = max_size
        self.fault: RecordFault | None = None
        self._kept: list[bytes] = []
        self._missing = 0

    @property
    def is_between_records(self) -> bool:
        """Return whether the next byte begins a record."""
        return not self._kept and self.fault is None

    def close(self) -> None:
        """Let go of the receiver of records: the stream is over."""
        self._take = _nobody
        self._kept = []

    def feed(self, data: bytes) -> bool:
        """Take what was read; return whether more can be."""
        if self._kept:
            self._kept.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return self.fault is None
            data = b"".join(self._kept)
            self._kept = []
        at, end = 0, len(data)
        while at < end and self.fault is None:
            start = at + HEADER_SIZE
            if start > end:
                self._keep(data, at, HEADER_SIZE)
                break
            kind = Record.MESSAGE
            if data[at : at + 4] != _MESSAGE:
                found = _KINDS.get(data[at : at + 4])
                if found is None:
                    self.fault = RecordFault.NO_RECORD
                    break
                kind = found
            size = int.from_bytes(data[at + 4 : start], "big")
            if size > self.max_size:
                self.fault = RecordFault.TOO_LONG
                break
            at = start + size
            if at > end:
                self._keep(data, start - HEADER_SIZE, HEADER_SIZE + size)
                break
            self._take(kind, data[start:at] if size < _LONG else memoryview(data)[start:at])
        return self.fault is None

    def _keep(self, data: bytes, at: int, needed: int) -> None:
        rest = data[at:] if at else data
        self._kept.append(rest)
        self._missing = needed - len(rest)
