"""The side of one session that request-and-reply doors have: each call waits for its own reply."""

from __future__ import annotations

import asyncio

from openenv_async.engine import Session
from openenv_async.engine.requests import Codecs
from openenv_async.errors import OpenEnvError, error_from_wire
from openenv_async.models import Format
from openenv_async.protocol.codec import decode_map
from openenv_async.protocol.frames import Failed, Frame, Opened, Partial, Waiting

__all__ = ["OPENING", "CallReplySink", "as_error"]

OPENING = 0
"""The number under which the answer to Open is waited for."""


class CallReplySink:
    """Resolves one future per request number."""

    def __init__(self, codecs: Codecs) -> None:
        self.codecs = codecs
        self._waiting: dict[int, asyncio.Future[Frame | OpenEnvError]] = {}

    def expect(self, seq: int) -> asyncio.Future[Frame | OpenEnvError]:
        """The future of the reply to ``seq``; callers that repeat a request share it."""
        future = self._waiting.get(seq)
        if future is None:
            future = self._waiting[seq] = asyncio.get_running_loop().create_future()
        return future

    def send(self, frame: Frame, size: int = 0) -> None:
        """Hand a reply to whoever waits for it."""
        if isinstance(frame, Partial | Waiting):
            return  # nobody asks for them here
        seq = OPENING if isinstance(frame, Opened) else getattr(frame, "seq", OPENING)
        self._resolve(seq, frame)

    def ended(self, session: Session, reason: OpenEnvError) -> None:
        """Whoever waits meets ``reason``."""
        for seq in list(self._waiting):
            self._resolve(seq, reason)

    def _resolve(self, seq: int, reply: Frame | OpenEnvError) -> None:
        future = self._waiting.pop(seq, None)
        if future is not None and not future.done():
            future.set_result(reply)


def as_error(reply: Failed, format: Format) -> OpenEnvError:
    """The typed error that a reply carries."""
    detail = decode_map(reply.payload, format)
    return error_from_wire(reply.code, reply.message, reply.retryable, detail)
