"""The engine's side of a connection whose large payloads lie in memory that both ends share.

Rules:

- An observation with large arrays is encoded straight into the shared memory: its elements are
  copied once. Every other large payload is copied there when it is sent.
- A kept reply keeps its place until it is acknowledged. Its payload is octets like any
  other, and on another connection it is sent so.
- Payloads for which there is no room travel in their frames, and the log says so once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from openenv_async.endpoints.segments import Segment
from openenv_async.engine.connection import ServerConnection
from openenv_async.engine.engine import Engine
from openenv_async.engine.requests import Codecs
from openenv_async.protocol.blocks import (
    LEAST_SHARED,
    REFERENCE_SIZE,
    SHARED_MEMORY,
    Lender,
    unpack_loans,
)
from openenv_async.protocol.codec import JsonCodec, MsgpackCodec, decode_map
from openenv_async.protocol.frames import Hello, Payload, Release
from openenv_async.spec import EnvironmentSpec

__all__ = ["SharedCodecs", "SharedConnection"]

log = logging.getLogger("openenv_async.server")

_MUCH: Final = 200_000
"""Bytes after which the replies so far are sent, so that the client looks at them meanwhile."""


class SharedCodecs(Codecs):
    """The payload codecs of one environment for one connection that shares memory."""

    __slots__ = ()

    def __init__(self, spec: EnvironmentSpec, lender: Lender) -> None:
        super().__init__(spec, "msgpack")
        self.place = lender.place
        self.encode_observation = spec.codec("observation", "msgpack").placed(
            lender.place, LEAST_SHARED
        )


class SharedConnection(ServerConnection):
    """A connection of MessagePack that has a segment of shared memory.

    Args:
        engine, codec, wake, cut, refuse: as those of ``ServerConnection``.
        segment: which the client was sent; it is used once the client says that it mapped it.
    """

    def __init__(
        self,
        engine: Engine,
        codec: MsgpackCodec | JsonCodec,
        wake: Callable[[], None],
        cut: Callable[[], None],
        refuse: Callable[[str], None] | None = None,
        *,
        segment: Segment,
    ) -> None:
        super().__init__(engine, codec, wake, cut, refuse)
        self._lender = Lender(segment.memory)
        self._is_full = False
        self._written = 0

    @property
    def loans(self) -> int:
        """Payloads that the client uses now."""
        return self._lender.loans

    @property
    def free(self) -> int:
        """Bytes of the segment that nobody needs, about."""
        return self._lender.table.free

    def is_shared(self, payload: Payload) -> bool:
        """Return whether a payload lies in memory that the client maps, and is sent from there."""
        return len(payload) <= self._peer_max_size and self._lender.has(payload)

    def _send_large(self, frame: Any, size: int) -> None:
        """Queue a frame with its payload in shared memory, or else as other connections do."""
        if size < LEAST_SHARED or size > self._peer_max_size:
            super()._send_large(frame, size)
            return
        stats = self.engine.stats
        reference = self._lender.refer(frame.payload)
        if reference is None:
            stats.shared_full += 1
            self._tell_full()
            super()._send_large(frame, size)
            return
        stats.shared_payloads += 1
        stats.shared_bytes += size
        self._written += size
        if self._written >= _MUCH:
            self._written, self._much = 0, True
        sent = frame.__copy__()  # the one that is kept stays
        sent.payload = reference
        if self.large:  # what waits on its channel goes first
            super()._send_large(sent, REFERENCE_SIZE)
        else:
            self.ready.append(sent)
            self._ready_size += REFERENCE_SIZE

    def lost(self, left: bool = False) -> None:
        """End, as other connections do, and let go of the segment."""
        sessions = () if left else tuple(self._channels.values())
        super().lost(left)
        for session in sessions:
            # It may wait for its client for long: one reply must not keep all the memory.
            for kept in session.log.replies.values():
                reply: Any = kept.reply
                if type(getattr(reply, "payload", None)) is memoryview:
                    reply.payload = bytes(reply.payload)
        self._lender.close()

    def _tell_full(self) -> None:
        if self._is_full:
            return
        self._is_full = True
        table = self._lender.table
        log.warning(
            "the shared memory of a connection is full (Limits.max_shared_size, %d bytes), its"
            " client still uses %d payloads: large ones go by the socket until it lets go of some;"
            " copy the arrays that are kept",
            table.size,
            self.loans,
        )

    def _on_hello(self, frame: Hello) -> None:
        super()._on_hello(frame)
        offered = decode_map(frame.payload, self.codec.format)
        if offered.get(SHARED_MEMORY) is True and self.codec.format == "msgpack":
            self._small_size = min(self._small_size, LEAST_SHARED - 1)
            self.codecs = SharedCodecs(self.engine.spec, self._lender)

    def _on_release(self, frame: Release) -> None:
        loans: Any = frame.loans
        self._lender.give_back(unpack_loans(loans))
