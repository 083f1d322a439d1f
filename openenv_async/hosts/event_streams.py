"""Server-sent events, read from the bytes of a stream as the HTML standard has them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Event", "EventStream", "EventTooLarge"]


class EventTooLarge(Exception):
    """Raised when an event has more bytes than are taken; the stream cannot be read on."""


class Event(NamedTuple):
    """One event: its name, empty where it has none, and its data."""

    name: str
    data: bytes


class EventStream:
    """A stream of events.

    Args:
        limit: bytes of one event.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._name = ""
        self._data: list[bytes] = []
        self._line: list[bytes] = []
        self._data_size = self._line_size = 0
        self._after_return = False

    def feed(self, part: bytes) -> Iterator[Event]:
        """Take the next bytes and yield the events that end in them.

        Raises:
            EventTooLarge: one is.
        """
        if self._after_return and part:  # LF after CR ends no further line
            part = part.removeprefix(b"\n")
            self._after_return = False
        if not part:
            return
        self._after_return = part.endswith(b"\r")
        *lines, rest = part.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            self._add(line)
            yield from self._ended()
        self._add(rest)

    def _add(self, part: bytes) -> None:
        self._line.append(part)
        self._line_size += len(part)
        if self._data_size + self._line_size > self._limit:
            raise EventTooLarge(f"an event has more than {self._limit} bytes")

    def _ended(self) -> Iterator[Event]:
        """Read the line that has ended; a blank one ends the event."""
        line = b"".join(self._line)
        self._line.clear()
        self._line_size = 0
        if not line:
            if self._name or self._data:
                yield Event(self._name, b"\n".join(self._data))
            self._name, self._data_size = "", 0
            self._data.clear()
            return
        field, _, value = line.partition(b":")  # a comment has no field's name
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
            self._data_size += len(value) + 1
        elif field == b"event":
            self._name = value.decode("utf-8", "replace")
