"""A transport and a connection that do nothing but remember, for units of the client."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from typing import Any

import msgspec

from openenv_async.client.channel import Channel
from openenv_async.errors import OpenEnvError
from openenv_async.protocol.codec import frame_codec
from openenv_async.protocol.frames import (
    Begun,
    Cancel,
    Closed,
    Observation,
    Open,
    Opened,
    Reset,
    State,
    StateIs,
    Step,
)
from openenv_async.testing import ManualClock

__all__ = ["FakeConnection", "FakeLoop", "FakeTransport", "Scripted", "channel_of"]


class FakeTransport:
    """A transport that keeps what was sent; ``drained`` waits until it is not congested.

    Attributes:
        messages: the frames of each message.
        sizes: of the messages.
    """

    name = "fake"
    subprotocol = "openenv.v1.msgpack"

    def __init__(self, format: str = "msgpack") -> None:
        self.subprotocol = f"openenv.v1.{format}"
        self.congested = False
        self.messages: list[list[Any]] = []
        self.sizes: list[int] = []
        self.texts: list[bool] = []
        self.broken = False
        self._room = asyncio.Event()
        self._codec = frame_codec(self.subprotocol, "server", 1 << 30)

    @property
    def frames(self) -> list[Any]:
        """All frames that were sent."""
        return [frame for message in self.messages for frame in message]

    def send(self, message: bytes, text: bool) -> None:
        self.messages.append(list(self._codec.decode(message)))
        self.sizes.append(len(message))
        self.texts.append(text)

    async def drained(self) -> None:
        await self._room.wait()
        if self.broken:
            raise OSError("broken")

    def take(self) -> None:
        """The network takes what it was given."""
        self.congested = False
        self._room.set()

    async def aclose(self, leaving: bool = True) -> None:
        return


class FakeLoop:
    """The time, and futures of the running loop."""

    def __init__(self) -> None:
        self.clock = ManualClock()

    def time(self) -> float:
        return self.clock.now

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().create_future()


@dataclass
class _Sent:
    frames: list[Any] = field(default_factory=list)

    def send(self, frame: Any) -> None:
        self.frames.append(frame)


class _Watch:
    def __init__(self) -> None:
        self.watched: list[tuple[Any, float]] = []

    def watch(self, item: Any, when: float) -> None:
        self.watched.append((item, when))
        item.scheduled = when


class FakeConnection:
    """The connection of one channel.

    Attributes:
        sent: the frames of its outbox.
        doubted: the answers that were late.
        suspected_at: when a transport was last abandoned for them.
    """

    where = "fake"

    def __init__(self) -> None:
        self.loop = FakeLoop()
        self.outbox = _Sent()
        self.deadlines = _Watch()
        self.error: OpenEnvError | None = None
        self.forgotten: list[Any] = []
        self.doubted: list[tuple[float, float]] = []
        self.suspected_at = float("-inf")

    @property
    def sent(self) -> list[Any]:
        return self.outbox.frames

    def forget(self, channel: Any) -> None:
        self.forgotten.append(channel)

    def doubt(self, since: float, now: float) -> float:
        self.doubted.append((since, now))
        return self.suspected_at

    def silence(self) -> str:
        return "the server did not answer within the deadline"


def channel_of(connection: FakeConnection, number: int = 1) -> Channel:
    """A channel on a connection that remembers."""
    made: Any = connection
    return Channel(made, number, "a" * 32, "b" * 32)


class Scripted(FakeConnection):
    """A connection on which every request is answered in the next turn of the loop.

    Attributes:
        frames: that were sent.
        channels: those that were opened.
        silent: leave requests unanswered.
        refusing: errors for the next openings.
        left_behind: the channels that those that were opened had taken over.
    """

    def __init__(self) -> None:
        super().__init__()
        self.real: Any = asyncio.get_running_loop()
        self.loop: Any = self.real
        self.pid = os.getpid()
        self.frames: list[Any] = []
        self.channels: list[Channel] = []
        self.server: dict[str, Any] = {}
        self.silent = False
        self.refusing: list[OpenEnvError] = []
        self.format = "msgpack"
        self.upstream = False
        self.up = True
        self.closed = 0
        self.info: bytes | None = None
        self.state: Any = {"n": 1}
        self.outbox: Any = self
        self.small_size = -1  # of the outbox: every frame is to be sent by it
        self.clock = self.real.time
        self.left_behind: list[Channel | None] = []

    def channel(self, left_behind: Channel | None = None) -> Channel:
        self.left_behind.append(left_behind)
        self.channels.append(channel_of(self, len(self.channels) + 1))
        if left_behind is not None:
            self.channels[-1].succeed(left_behind)
        return self.channels[-1]

    def send(self, frame: Any) -> None:
        self.frames.append(frame)
        if not self.silent:
            self.real.call_soon(self.answer, frame)

    def sent_of(self, kind: type) -> list[Any]:
        return [frame for frame in self.frames if type(frame) is kind]

    def answer(self, frame: Any) -> None:
        channel, number = self.channels[frame.channel - 1], frame.channel
        payload = msgspec.msgpack.encode({"seen": 1})
        match frame:
            case Cancel():
                return
            case Open():
                if self.refusing:
                    channel.fail(self.refusing.pop())
                else:
                    channel.on_opened(Opened(number))
                return
            case Reset():
                reply: Any = Begun(number, frame.seq, payload, "e", 7, 0.5)
            case Step():
                reply = Observation(number, frame.seq, payload, 1.5, True, False, self.info)
            case State():
                state = msgspec.msgpack.encode(self.state)
                reply = StateIs(number, frame.seq, state, "f", None, 9)
            case _:
                reply = Closed(number, frame.seq)
        future, channel.future = channel.future, None
        channel.asked = None
        if future is not None and not future.done():
            future.set_result(reply)

    async def aclose(self) -> None:
        self.closed += 1
