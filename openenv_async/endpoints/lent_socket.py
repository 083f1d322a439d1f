"""A socket's messages for a thread that waits on the socket itself.

The transport keeps its socket and pauses its reading; the thread reads and writes through a
duplicate of the descriptor. Whole messages are all it takes: anything else that comes is left to
the transport, with every byte that was read too far.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from openenv_async.endpoints.alertness import Alertness

__all__ = ["SocketMessages", "can_lend"]

_READ: Final = 1 << 16
"""Bytes that are read at once."""


def can_lend(transport: Any) -> bool:
    """Return whether the socket of a transport can be read and written by another thread now."""
    return (
        sys.platform != "win32"
        and transport.get_extra_info("sslcontext") is None
        and transport.get_extra_info("socket") is not None
        and not transport.is_closing()
        and transport.is_reading()
        and not transport.get_write_buffer_size()
    )


class SocketMessages:
    """The messages of a socket whose transport does not read meanwhile.

    Args:
        transport: of the loop's; its write buffer is empty, and it stands between two messages.
        framed: makes of a message the bytes that are written.
        place: tells where in the bytes that were read the message begins and ends that is next,
            the end may be after them; 0, 0 while that cannot be told; ``None`` where something
            else than a message is next.
        feed: takes bytes that were read too far.
        receive: takes the messages that are not the borrower's.
        ended: called when the transport is to be used again; gives the bytes that it was to write
            meanwhile.
    """

    def __init__(
        self,
        transport: Any,
        *,
        framed: Callable[[bytes], bytes],
        place: Callable[[bytes], tuple[int, int] | None],
        feed: Callable[[bytes], object],
        receive: Callable[[bytes | memoryview | str], None],
        ended: Callable[[], list[bytes]],
    ) -> None:
        self._transport = transport
        self._framed = framed
        self._place = place
        self._feed = feed
        self._receive = receive
        self._ended = ended
        self._read = b""  # and not taken as a message yet
        self._large: bytearray | None = None  # a message that is being read, ...
        self._filled = 0  # ... and the bytes of it, after those of its header in ``_read``
        self._unsent = b""
        self._fd = os.dup(transport.get_extra_info("socket").fileno())
        self._alertness = Alertness()
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        transport.pause_reading()

    def __del__(self) -> None:
        """A forked child has the descriptor too."""
        self._close()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    # -- the calling thread -----------------------------------------------------------------------

    def send(self, message: bytes) -> None:
        """Write a message; wait a moment if the peer does not read.

        Raises:
            OSError: the socket is gone, or takes no more now: the transport writes the rest.
        """
        frame = self._framed(message)
        try:
            sent = os.write(self._fd, frame)
        except BlockingIOError:
            sent = 0
        if sent < len(frame):
            self._unsent = frame[sent:]
            raise BlockingIOError("the peer reads slower than this side writes")

    def receive(self, timeout: float, is_due: bool = False) -> bytes | memoryview | None:
        """Return the next message, ``None`` if none came within ``timeout`` seconds.

        Args:
            timeout: of the wait.
            is_due: whether the peer answers as soon as it can: worth looking out for.

        Raises:
            OSError: the socket is gone, or something came that is not a message.
        """
        until = 0.0
        while True:
            if self._large is None:
                message = self._take()
                if message is not None:
                    return message
            if not (self._wait_alert(timeout) if is_due else self._poll.poll(timeout * 1000)):
                return None
            if self._large is None:
                more = os.read(self._fd, _READ)
                self._read = self._read + more if self._read else more
                count = len(more)
            else:
                count = os.readv(self._fd, [memoryview(self._large)[self._filled :]])
                self._filled += count
                if self._filled == len(self._large):
                    large, self._large, self._read = self._large, None, b""
                    return memoryview(large)
            if not count:
                raise ConnectionResetError("the server closed the connection")
            if not until:
                until = time.monotonic() + timeout
            elif (timeout := until - time.monotonic()) <= 0:
                return None

    def _wait_alert(self, timeout: float) -> bool:
        """Wait until there is something to read, if it was soon last time without sleeping."""
        alertness, poll = self._alertness, self._poll.poll
        looks = alertness.begin()
        while looks and alertness.goes_on():
            if poll(0):
                alertness.end()
                return True
        found = bool(poll(timeout * 1000))
        alertness.end()
        return found

    def _take(self) -> bytes | None:
        """A whole message of what was read; room for one that is large and has begun."""
        data = self._read
        if not data:
            return None
        place = self._place(data)
        if place is None:
            raise ConnectionAbortedError("something other than a message came")
        start, stop = place
        if not start:
            return None
        if stop <= len(data):
            self._read = data[stop:]
            return data[start:stop]
        if stop - start >= _READ:
            self._filled = len(data) - start
            self._large = bytearray(stop - start)
            self._large[: self._filled] = data[start:]
            self._read = data[:start]
        return None

    def wake(self) -> None:
        """Do nothing: nobody waits for long."""

    # -- the I/O thread ---------------------------------------------------------------------------

    def end(self, unread: list[bytes | memoryview | str], torn: bool) -> None:
        """Have the transport write what is left, and read on where this stopped."""
        self._close()
        transport = self._transport
        queued = self._ended()
        if torn:
            transport.abort()
            return
        if not transport.is_closing():
            for data in (self._unsent, *queued):
                if data:
                    transport.write(data)
        for message in unread:
            self._receive(message)
        rest = self._read
        if self._large is not None:
            rest += bytes(memoryview(self._large)[: self._filled])
        if transport.is_closing():
            return
        if rest:
            self._feed(rest)
        with contextlib.suppress(RuntimeError):  # closed by what was just delivered
            transport.resume_reading()
