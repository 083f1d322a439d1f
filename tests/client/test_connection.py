"""The client's connection over a line that a test plays the server of."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from openenv_async.client.connection import ClientConnection
from openenv_async.errors import ConnectFailed, ConnectionLost, OpenEnvError, ProtocolError
from openenv_async.protocol.codec import MsgpackCodec, encode_map
from openenv_async.protocol.frames import (
    PROTOCOL_VERSION,
    Failed,
    Frame,
    Hello,
    Open,
    Opened,
    Renew,
    Welcome,
)
from openenv_async.types import Limits, Timeouts

WELCOME = Welcome(PROTOCOL_VERSION, "epoch", encode_map({"timeouts": {"resume": 5.0}}, "msgpack"))
BUSY = Failed(0, 0, "server_busy", "come again", True, encode_map({}, "msgpack"))


class Line:
    """A transport; ``answer`` is called with it and each frame that the client sends."""

    subprotocol = "openenv.v1.msgpack"

    def __init__(
        self, connection: ClientConnection, answer: Callable[["Line", Frame], None]
    ) -> None:
        self.connection = connection
        self.congested = False
        self.closed = False
        self.sent: list[Frame] = []
        self._answer = answer
        self._codec = MsgpackCodec("server", 1 << 20)
        self._room = asyncio.Event()

    def send(self, message: bytes, text: bool) -> None:
        frames: Sequence[Frame] = self._codec.decode(message)
        self.sent += frames
        for frame in frames:
            asyncio.get_running_loop().call_soon(self._answer, self, frame)

    def say(self, *frames: Frame) -> None:
        self.connection.receive(self._codec.encode(frames))

    async def drained(self) -> None:
        await self._room.wait()

    async def aclose(self, leaving: bool = True) -> None:
        self.closed = True


def welcoming(line: Line, frame: Frame) -> None:
    if isinstance(frame, Hello):
        line.say(WELCOME)
    elif isinstance(frame, Open):
        line.say(Opened(frame.channel))


class Lines:
    """What is dialled: one line after the other, each with its way to answer."""

    def __init__(self, *answers: Callable[[Line, Frame], None], **timeouts: Any) -> None:
        self.made: list[Line] = []
        self._answers = list(answers)
        self.connection = ClientConnection("here", Limits(), Timeouts(**timeouts), self._dial)

    async def _dial(self, connection: ClientConnection) -> Line:
        line = Line(connection, self._answers.pop(0))
        self.made.append(line)
        return line


async def opened(connection: ClientConnection) -> None:
    """Open a session, for whose sake the connection comes back."""
    channel = connection.channel()
    await channel.call(Open(channel.number, channel.id, channel.secret), 5.0)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_peer_that_hangs_up_right_after_its_welcome() -> None:
    """Both come before the task that waits for the welcome has run."""

    def answer(line: Line, frame: Frame) -> None:
        welcoming(line, frame)
        line.connection.lost(line)

    lines = Lines(answer)
    with pytest.raises(ConnectFailed, match="closed the connection"):
        await lines.connection.start()
    assert not lines.connection.up


async def test_an_unreadable_message_closes_the_line() -> None:
    lines = Lines(welcoming)
    await lines.connection.start()
    lines.connection.receive(b"\xc1")
    assert isinstance(lines.connection.error, ProtocolError)
    await lines.connection.aclose()
    assert lines.made[0].closed


async def test_an_unreadable_welcome_is_not_waited_for() -> None:
    def answer(line: Line, frame: Frame) -> None:
        line.connection.receive(b"\xc1")

    lines = Lines(answer, connect=600.0)
    async with asyncio.timeout(10):
        with pytest.raises(ProtocolError, match="unreadable message"):
            await lines.connection.start()
    assert lines.made[0].closed


async def test_a_line_that_was_refused_on_coming_back_is_closed() -> None:
    def refusing(line: Line, frame: Frame) -> None:
        line.say(BUSY)

    lines = Lines(welcoming, refusing, welcoming)
    connection = lines.connection
    await connection.start()
    await opened(connection)
    connection.lost(lines.made[0])
    async with asyncio.timeout(10):
        while not connection.up:  # noqa: ASYNC110 - nothing sets an event when it is back
            await asyncio.sleep(0.001)
    await connection.aclose()
    assert [line.closed for line in lines.made[1:]] == [True, True]


async def test_closing_while_the_peer_reads_nothing_leaves_no_task() -> None:
    lines = Lines(welcoming, close=0.01)
    connection = lines.connection
    await connection.start()
    [line] = lines.made
    before = asyncio.all_tasks()
    line.congested = True
    connection.outbox.send(Renew(0))
    await settle()
    assert len(asyncio.all_tasks() - before) == 1  # it waits for room
    connection.outbox.send(Renew(0))
    await connection.aclose()
    assert asyncio.all_tasks() == before
    assert line.sent[-2:] == [Renew(0), Renew(0)]  # what was queued did leave


async def test_without_sessions_a_lost_line_ends_the_connection() -> None:
    lines = Lines(welcoming)
    await lines.connection.start()
    lines.connection.lost(lines.made[0])
    error: OpenEnvError | None = lines.connection.error
    assert isinstance(error, ConnectionLost)
    await lines.connection.aclose()
