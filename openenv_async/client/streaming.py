"""A streamed step: what the environment shows while it works, then its reply."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final

from openenv_async.client.channel import Channel
from openenv_async.protocol.frames import Partial, Step

__all__ = ["CREDIT", "StreamedStep"]

CREDIT: Final = 64
"""Partial observations that the server may send ahead of the consumer."""


class StreamedStep:
    """A step under way whose partial observations are taken one by one.

    Args:
        channel: of the session; no other call may run on it.
        request: the step, with its credit.
        timeout: seconds the server was given, ``None`` for no deadline.

    Attributes:
        reply: the final observation, or the error.
    """

    def __init__(self, channel: Channel, request: Step, timeout: float | None) -> None:
        self._channel = channel
        self._seq = request.seq
        self._credit = request.credit
        self._arrived: deque[Partial] = deque()
        self._wake = asyncio.Event()
        self._expected = 0
        self._used = 0
        channel.sink = self._take
        self.reply: asyncio.Future[Any] = channel.call(request, timeout)
        self.reply.add_done_callback(lambda _: self._wake.set())

    def _take(self, partial: Partial) -> None:
        if partial.index == self._expected:  # others come twice, after a reconnect
            self._expected += 1
            self._arrived.append(partial)
            self._wake.set()

    async def next(self) -> Partial | None:
        """The next partial observation, or ``None`` once all were taken and the reply is there."""
        if self._used * 2 >= self._credit:
            self._channel.grant(self._seq, self._used)
            self._used = 0
        while not self._arrived:
            if self.reply.done():
                return None
            self._wake.clear()
            await self._wake.wait()
        self._used += 1
        return self._arrived.popleft()

    def close(self) -> None:
        """Take no more; cancels the step if it is still running."""
        if self._channel.sink == self._take:
            self._channel.sink = None
        if not self.reply.done():
            self.reply.cancel()
            self._channel.cancel(self._seq)
        elif not self.reply.cancelled():
            self.reply.exception()  # whoever leaves early does not want to know
