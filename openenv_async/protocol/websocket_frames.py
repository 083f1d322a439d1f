"""Data frames of WebSockets (RFC 6455, section 5), cut from a stream and built.

Nearly all that passes over a connection of this runtime are whole messages of one frame, and a
session alone feels what each costs. Those are dealt with here, in a few operations; whatever else
comes (control frames, fragments, what breaks the rules) goes to the WebSocket library, which also
does the handshake and the closing. The library sees whole frames only, so it never loses its place.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import Final

try:
    from websockets.speedups import apply_mask
except ImportError:  # no compiled part for this platform
    from websockets.utils import apply_mask

__all__ = ["CutsFrames", "data_frame", "masked_data_frame", "message_place"]

_END_OF_HANDSHAKE: Final = b"\r\n\r\n"
"""The end of all that the library has read when it stands before the first frame."""
_TEXT: Final = 0x81
_BINARY: Final = 0x82
_FIN: Final = 0x80
_MASKED: Final = 0x80
_CONTROL: Final = 0x08
_SHORT: Final = 126
"""The first length that does not fit the second byte: two more follow, or eight."""
_MEDIUM: Final = 1 << 16


Deliver = Callable[[bytes | memoryview, bool], None]


class CutsFrames:
    """A mixin before a WebSocket library's protocol that cuts whole, unfragmented data frames.

    Frames of every other kind, and all that follows a broken one, are left to the library.
    """

    _cut_deliver: Deliver | None = None
    _at_first_frame = False

    def cut_frames(self, masked: bool, max_size: int, deliver: Deliver) -> None:
        """Begin with it, if the library stands between two frames.

        Args:
            masked: the peer masks its frames, as clients do and servers do not.
            max_size: bytes of the greatest payload; the library refuses a longer one.
            deliver: takes a message's payload, a large one not copied, and whether it is text.
        """
        if self._at_first_frame:
            self._cut_deliver = deliver
            self._cut_mask = _MASKED if masked else 0
            self._cut_max_size = max_size
            self._cut_kept: list[bytes] = []
            self._cut_missing = 0
            self._cut_fragmented = False
            self._cut_broken = False

    @property
    def is_between_frames(self) -> bool:
        """Return whether whole frames are cut, and what comes next begins one."""
        return self._cut_deliver is not None and not (
            self._cut_kept or self._cut_fragmented or self._cut_broken
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of the receiver of payloads."""
        super().connection_lost(exc)  # type: ignore[misc]  # the library's
        self._cut_deliver = None

    def data_received(self, data: bytes) -> None:
        """Take bytes as they come."""
        deliver = self._cut_deliver
        if deliver is None:
            self._at_first_frame = data.endswith(_END_OF_HANDSHAKE)
            super().data_received(data)  # type: ignore[misc]  # the library's
            return
        if self._cut_kept:
            self._cut_kept.append(data)
            self._cut_missing -= len(data)
            if self._cut_missing > 0:
                return
            data = b"".join(self._cut_kept)
            self._cut_kept.clear()
        at, end, mask = 0, len(data), self._cut_mask
        while at < end and not self._cut_broken:
            if end - at < 2:
                self._keep_frame(data, at, 2)
                return
            first, second = data[at], data[at + 1]
            start, length = at + 2, second & 0x7F
            if length >= _SHORT:
                start += 2 if length == _SHORT else 8
                if start > end:
                    self._keep_frame(data, at, start - at)
                    return
                length = int.from_bytes(data[at + 2 : start], "big")
            if second & _MASKED:
                start += 4
            stop = start + length
            if length > self._cut_max_size or second & _MASKED != mask:
                self._cut_broken = True
                break
            if stop > end:
                self._keep_frame(data, at, stop - at)
                return
            if first in (_BINARY, _TEXT) and not self._cut_fragmented:
                large = length >= _MEDIUM
                payload = memoryview(data)[start:stop] if large else data[start:stop]
                if mask:
                    payload = apply_mask(payload, data[start - 4 : start])
                deliver(payload, first == _TEXT)
            else:
                if not first & _CONTROL:
                    self._cut_fragmented = not first & _FIN
                super().data_received(data[at:stop])  # type: ignore[misc]  # the library's
            at = stop
        if at < end:
            super().data_received(data[at:])  # type: ignore[misc]  # the library's

    def _keep_frame(self, data: bytes, at: int, needed: int) -> None:
        self._cut_kept.append(data[at:])
        self._cut_missing = needed - (len(data) - at)


def message_place(data: bytes, max_size: int) -> tuple[int, int] | None:
    """Return where the binary message of a server begins and ends that ``data`` begins with.

    Args:
        data: what came from the server so far, from the start of a frame.
        max_size: bytes of the greatest payload.

    Returns:
        Start and end of the payload, which may be after that of ``data``; 0, 0 if it is too short
        to tell. ``None`` for another kind of frame, or a broken one: the library takes it.
    """
    if len(data) < 2:
        return 0, 0
    first, length, start = data[0], data[1], 2
    if first != _BINARY or length & _MASKED:
        return None
    if length >= _SHORT:
        start += 2 if length == _SHORT else 8
        if start > len(data):
            return 0, 0
        length = int.from_bytes(data[2:start], "big")
        if length > max_size:
            return None
    return start, start + length


def _header(size: int, text: bool, mask: int) -> bytes:
    """Return the header of a frame whose payload is not short."""
    first = _TEXT if text else _BINARY
    if size < _MEDIUM:
        return struct.pack("!BBH", first, mask | _SHORT, size)
    return struct.pack("!BBQ", first, mask | _SHORT + 1, size)


def data_frame(message: bytes, text: bool) -> list[bytes]:
    """A server's frame that holds ``message``, in one piece or, if that would copy much, two."""
    size = len(message)
    if size < _SHORT:
        return [bytes((_TEXT if text else _BINARY, size)) + message]
    header = _header(size, text, 0)
    return [header + message] if size < _MEDIUM else [header, message]


def masked_data_frame(message: bytes, text: bool) -> bytes:
    """A client's frame that holds ``message``."""
    size, key = len(message), os.urandom(4)
    if size < _SHORT:
        header = bytes((_TEXT if text else _BINARY, _MASKED | size))
    else:
        header = _header(size, text, _MASKED)
    return header + key + apply_mask(message, key)
