"""Large payloads in pieces, so that one of them delays nobody else.

Rules:

- A payload longer than ``chunk_size`` is sent ahead of its frame as ``Chunk`` frames, each in a
  message of its own; then the frame follows with an empty payload, which no object encodes to.
- Frames of one channel keep their order; between two chunks, frames of others may go.
- A receiver gathers at most the size it announced, and a server only so much for all channels
  of a connection together.
- A payload that is refused as too large stays so until its frame has passed: what still comes of
  it is dropped, and the frame with it, since its request is answered already.
- In JSON nothing is cut: there a payload is part of its frame.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

import msgspec

from openenv_async.errors import ProtocolError
from openenv_async.protocol.codec import too_large
from openenv_async.protocol.frames import Chunk, Frame

__all__ = ["Assembler", "ChunkQueue"]

_PIECE_COST: Final = 64
"""Bytes of memory that a piece takes beside its own: a flood of empty ones is bounded too."""


class _Sending:
    __slots__ = ("at", "frame")

    def __init__(self, frame: Any) -> None:
        self.frame = frame
        self.at = 0


class ChunkQueue:
    """Frames with large payloads that wait to be sent, and what must stay behind them.

    Args:
        chunk_size: bytes of payload per chunk.

    Attributes:
        size: bytes of payload that wait.
        channels: frames that wait, by channel; always the same object, empty when none waits.
    """

    def __init__(self, chunk_size: int) -> None:
        self._chunk_size = chunk_size
        self.channels: dict[int, deque[_Sending]] = {}
        self.size = 0

    def takes(self, channel: int, size: int) -> bool:
        """Return whether a frame with a payload of ``size`` bytes must go through this queue."""
        return size > self._chunk_size or channel in self.channels

    def put(self, frame: Any) -> None:
        """Queue a frame behind those of its channel."""
        self.channels.setdefault(frame.channel, deque()).append(_Sending(frame))
        self.size += _left(frame, 0)

    def next(self) -> list[Frame]:
        """The frames of the next message, from the channel that waited longest."""
        channel, waiting = next(iter(self.channels.items()))
        del self.channels[channel]
        sending = waiting[0]
        frame, payload = sending.frame, getattr(sending.frame, "payload", None)
        if payload is None or (sending.at == 0 and len(payload) <= self._chunk_size):
            frames = [frame]
            self.size -= _left(frame, 0)
        else:
            end = sending.at + self._chunk_size
            part = memoryview(payload)[sending.at : end]
            frames = [Chunk(channel, getattr(frame, "seq", 0), part)]
            sending.at = end
            self.size -= len(part)
            if end >= len(payload):
                frames.append(msgspec.structs.replace(frame, payload=b""))
        if len(frames) == 2 or not isinstance(frames[0], Chunk):
            waiting.popleft()
        if waiting:
            self.channels[channel] = waiting  # behind the other channels
        return frames

    def drop(self, channel: int) -> None:
        """Forget what waits on a channel."""
        for sending in self.channels.pop(channel, ()):
            self.size -= _left(sending.frame, sending.at)

    def clear(self) -> None:
        """Forget everything."""
        self.channels.clear()
        self.size = 0


def _left(frame: Any, at: int) -> int:
    """Bytes of a frame's payload from ``at`` on."""
    payload = getattr(frame, "payload", None)
    return 0 if payload is None else len(payload) - at


class _Parts:
    __slots__ = ("cost", "pieces", "refused", "seq", "size")

    def __init__(self, seq: int) -> None:
        self.seq = seq
        self.refused = False
        self.size = 0
        self.cost = 0
        self.pieces: list[bytes | memoryview] = []


class Assembler:
    """The payloads of received frames, put together.

    Args:
        limit: bytes of one payload.
        total: bytes that may be held for all channels together.

    Attributes:
        parts: what has come, by channel; empty most of the time.
    """

    def __init__(self, limit: int, total: float) -> None:
        self._limit = limit
        self._total = total
        self._size = 0
        self.parts: dict[int, _Parts] = {}

    def add(self, chunk: Chunk) -> None:
        """Keep one piece.

        Raises:
            PayloadTooLarge: there are too many; those of the channel are dropped. It is raised
                once for a payload.
        """
        parts = self.parts.get(chunk.channel)
        if parts is None or parts.seq != chunk.seq:
            self.drop(chunk.channel)  # its frame never came: the sender gave it up
            parts = self.parts[chunk.channel] = _Parts(chunk.seq)
        if parts.refused:
            return
        cost = len(chunk.payload) + _PIECE_COST
        size = parts.size + len(chunk.payload)
        if size > self._limit or self._size + cost > self._total:
            self.drop(chunk.channel)
            refused = self.parts[chunk.channel] = _Parts(chunk.seq)
            refused.refused = True
            raise too_large(size, self._limit)
        self._size += cost
        parts.cost += cost
        parts.size = size
        parts.pieces.append(chunk.payload)

    def complete(self, frame: Any) -> bool:
        """Give a frame the payload that came in pieces; others of the channel are left alone.

        Returns:
            Whether the frame is to be handled: not where its payload was refused.

        Raises:
            ProtocolError: its payload is empty, and there are no pieces of it.
        """
        payload = getattr(frame, "payload", None)
        if payload is None:
            return True
        if not len(payload):
            return self.fill(frame)
        channel = getattr(frame, "channel", 0)
        parts = self.parts.get(channel)
        if parts is not None and parts.refused and parts.seq == getattr(frame, "seq", 0):
            self.drop(channel)  # its number is used again, for a payload that is not cut
        return True

    def fill(self, frame: Any) -> bool:
        """Give a frame that came with an empty payload the pieces that came before it.

        Returns:
            Whether it has them: not where they were refused.

        Raises:
            ProtocolError: there are none.
        """
        channel = getattr(frame, "channel", 0)
        parts = self.parts.get(channel)
        if parts is None or parts.seq != getattr(frame, "seq", 0):
            raise ProtocolError("an empty payload without the chunks that belong to it")
        self.drop(channel)
        if parts.refused:
            return False
        frame.payload = b"".join(parts.pieces)
        return True

    def drop(self, channel: int) -> None:
        """Forget the pieces of a channel."""
        parts = self.parts.pop(channel, None)
        if parts is not None:
            self._size -= parts.cost

    def clear(self) -> None:
        """Forget everything."""
        self.parts.clear()
        self._size = 0
