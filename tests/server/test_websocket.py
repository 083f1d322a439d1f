"""One native WebSocket over a transport in memory: slices, batches, holding, cutting, closing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from openenv_async import EngineOptions, Limits, Timeouts, VectorEnvironment, VectorRows
from openenv_async.endpoints.alertness import Alertness
from openenv_async.engine import Engine
from openenv_async.protocol.codec import FrameCodec, encode_map, frame_codec
from openenv_async.protocol.columns import apart, pack_channels
from openenv_async.protocol.frames import (
    PROTOCOL_VERSION,
    Begun,
    Failed,
    Hello,
    Observation,
    ObservationColumns,
    Open,
    Opened,
    Reset,
    Step,
    StepColumns,
    Welcome,
)
from openenv_async.server.transport import Message
from openenv_async.server.websocket import NativeSocket
from tests.helpers import Counter, make_engine, pack, token

PROTOCOL = "openenv.v1.msgpack"


class Transport:
    """A transport in memory, whose peer reads as the test says."""

    def __init__(self) -> None:
        self.congested = False
        self.written: list[bytes] = []
        self.held: list[bool] = []
        self.user: Any = None
        self.is_closed = False

    def attach(self, user: Any) -> None:
        self.user = user

    def write(self, message: bytes, text: bool) -> None:
        assert not text
        self.written.append(message)

    def hold(self) -> None:
        self.held.append(True)

    def release(self) -> None:
        self.held.append(False)

    async def settled(self) -> None: ...

    def abort(self, task: asyncio.Task[None]) -> None:
        task.cancel()

    async def aclose(self) -> None:
        self.is_closed = True


class Wire:
    """The test's end of one socket."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.transport = Transport()
        self.codec: FrameCodec = frame_codec(PROTOCOL, "client", 1 << 30)
        self.incoming: asyncio.Queue[Message] = asyncio.Queue()
        self.sent: list[Message] = []
        scope = {"headers": [], "extensions": {"openenv.transport": self.transport}}
        self.socket = NativeSocket(engine, PROTOCOL, scope, self.incoming.get, self.send)
        self.task = asyncio.create_task(self.socket.run())

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    def give(self, *frames: Any) -> int:
        """One message to the server, past ASGI; its size."""
        message = self.codec.encode(frames)
        self.transport.user.take(message)
        return len(message)

    def taken(self) -> list[list[Any]]:
        """The frames of each message since the last time."""
        messages, self.transport.written = self.transport.written, []
        return [list(self.codec.decode(message)) for message in messages]

    async def greet(self, sessions: int = 1) -> None:
        await turns()
        self.give(Hello(PROTOCOL_VERSION, encode_map({}, "msgpack")))
        for channel in range(1, sessions + 1):
            self.give(Open(channel, token(channel), token(channel)), Reset(channel, 1, 0))
        await turns()
        frames = [frame for message in self.taken() for frame in message]
        assert isinstance(frames[0], Welcome)
        assert [type(frame) for frame in frames[1:]] == [Opened, Begun] * sessions


async def turns(count: int = 8) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def steps(count: int, first: int = 2) -> list[Step]:
    return [Step(1, number, number - 1, pack({})) for number in range(first, first + count)]


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    engine = make_engine(Counter, options=EngineOptions(timeouts=Timeouts(resume=None)))
    made = Wire(engine)
    yield made
    made.task.cancel()
    await asyncio.wait([made.task])
    await engine.aclose()


async def test_a_socket_is_accepted_with_its_subprotocol(wire: Wire) -> None:
    await turns()
    assert wire.sent == [{"type": "websocket.accept", "subprotocol": PROTOCOL}]


async def test_a_message_of_steps_is_answered_at_once_in_one(wire: Wire) -> None:
    await wire.greet(3)
    wire.give(*[Step(channel, 2, 1, pack({})) for channel in (1, 2, 3)])
    [message] = wire.taken()  # in the same loop turn
    assert [type(frame) for frame in message] == [Observation] * 3


async def test_a_long_message_is_answered_in_slices(wire: Wire) -> None:
    await wire.greet(20)
    wire.give(*[Step(channel, 2, 1, pack({})) for channel in range(1, 21)])
    assert [len(message) for message in wire.taken()] == [16, 4]


async def test_bytes_are_counted_both_ways(wire: Wire) -> None:
    await wire.greet()
    stats = wire.engine.stats
    before = stats.bytes_in, stats.bytes_out
    size = wire.give(*steps(1))
    assert stats.bytes_in - before[0] == size
    assert stats.bytes_out - before[1] == sum(map(len, wire.transport.written))


async def test_messages_through_asgi_are_taken_too(wire: Wire) -> None:
    await wire.greet()
    message = wire.codec.encode(steps(1))
    await wire.incoming.put({"type": "websocket.receive", "bytes": message})
    await turns()
    [[reply]] = wire.taken()
    assert isinstance(reply, Observation)


async def test_of_a_peer_that_does_not_read_no_more_is_taken(wire: Wire) -> None:
    await wire.greet()
    wire.transport.congested = True
    wire.transport.user.congestion(True)
    for number in range(2, 2 + 64):
        wire.give(Step(1, number, number - 1, pack({})))
    await turns(20)
    assert wire.taken() == []
    assert wire.transport.held[:1] == [True]
    wire.transport.congested = False
    wire.transport.user.congestion(False)
    await turns(400)
    numbers = [frame.seq for message in wire.taken() for frame in message]
    assert numbers == list(range(2, 66))
    assert wire.transport.held[-1] is False


async def test_the_time_of_congestion_is_kept_for_the_write_deadline(wire: Wire) -> None:
    await wire.greet()
    connection = wire.socket.connection
    assert connection.sending_since == float("inf")
    wire.transport.user.congestion(True)
    assert connection.sending_since <= wire.engine.clock()
    wire.transport.user.congestion(False)
    assert connection.sending_since == float("inf")


async def test_a_peer_that_leaves_closes_its_sessions_and_one_that_vanishes_may_resume() -> None:
    for code, left in ((1000, 0), (1006, 1)):
        engine = make_engine(Counter)
        wire = Wire(engine)
        await wire.greet()
        await wire.incoming.put({"type": "websocket.disconnect", "code": code})
        await asyncio.wait_for(wire.task, 5)
        await turns()
        assert len(engine.sessions) == left, code
        assert wire.transport.is_closed
        await engine.aclose()


async def test_a_cut_ends_the_socket_without_a_close_frame(wire: Wire) -> None:
    await wire.greet()
    wire.socket._cut()
    await asyncio.wait_for(wire.task, 5)
    assert [message["type"] for message in wire.sent] == ["websocket.accept"]
    wire.socket._cut()  # a second time it is over already
    assert wire.transport.is_closed


async def test_nonsense_is_refused_with_its_reason() -> None:
    engine = make_engine(Counter, limits=Limits(max_bad_frames=2))
    wire = Wire(engine)
    await wire.greet()
    for _ in range(4):
        wire.transport.user.take(b"\xc1")
    await asyncio.wait_for(wire.task, 5)
    close = wire.sent[-1]
    assert (close["type"], close["code"]) == ("websocket.close", 1008)
    assert 0 < len(close["reason"]) <= 123
    frames = [frame for message in wire.taken() for frame in message]
    assert {type(frame) for frame in frames} == {Failed}
    await engine.aclose()


async def test_a_cancelled_server_is_cancelled() -> None:
    engine = make_engine(Counter)
    wire = Wire(engine)
    await wire.greet()
    wire.task.cancel()
    await asyncio.wait([wire.task])
    assert wire.task.cancelled()
    assert wire.transport.is_closed
    await engine.aclose()


async def test_a_peer_that_vanishes_while_it_is_accepted() -> None:
    engine = make_engine(Counter)
    wire = Wire(engine)

    async def gone(message: Message) -> None:
        raise OSError("gone")

    wire.socket._send = gone
    await asyncio.wait_for(wire.task, 5)
    assert wire.transport.is_closed
    await engine.aclose()


class Pair(VectorEnvironment[list[int], NDArray[np.int64], dict[str, int]]):
    """Two counters."""

    isolation = "inline"
    num_envs = 2

    def reset(self, seed: int | None = None) -> VectorRows[NDArray[np.int64]]:
        return VectorRows(np.zeros(2, np.int64))

    def step(self, action: list[int]) -> VectorRows[NDArray[np.int64]]:
        return VectorRows(np.array(action))

    def state(self) -> dict[str, int]:
        return {}


class Looks(Alertness):
    """Alertness that looks out for so many turns."""

    __slots__ = ("left", "looks")

    def __init__(self, looks: bool) -> None:
        super().__init__(2)
        self.looks = looks
        self.left = 3

    def begin(self) -> bool:
        super().begin()
        return self.looks

    def goes_on(self) -> bool:
        self.left -= 1
        return self.left > 0


@pytest.mark.parametrize("looks", [True, False])
async def test_after_a_step_of_a_vector_the_loop_stays_awake_for_a_moment(looks: bool) -> None:
    engine = make_engine(Pair)
    wire = Wire(engine)
    alertness = wire.socket._alertness = Looks(False)
    await wire.greet()
    alertness.looks = looks
    wire.give(Step(1, 2, 1, pack([1, 1])))
    wire.give(Step(1, 3, 2, pack([1, 1])))
    assert [type(frame) for [frame] in wire.taken()] == [Observation] * 2
    await turns()
    assert alertness.left == (0 if looks else 3)
    assert not wire.socket._is_turning
    wire.task.cancel()
    await asyncio.wait([wire.task])
    await engine.aclose()


async def test_the_loop_stays_awake_after_columns_and_not_after_steps_one_by_one() -> None:
    engine = make_engine(type("Inline", (Counter,), {"isolation": "inline"}))
    wire = Wire(engine)
    alertness = wire.socket._alertness = Looks(True)
    await wire.greet()
    wire.give(Step(1, 2, 1, pack({})))
    await turns()
    assert alertness.left == 3
    column = apart([pack({})])
    wire.give(StepColumns(pack_channels([1]), (3).to_bytes(8, "little"), column))
    await turns()
    assert alertness.left == 0
    assert not wire.socket._is_turning
    kinds = [type(frame) for message in wire.taken() for frame in message]
    assert kinds == [Observation, ObservationColumns]
    wire.task.cancel()
    await asyncio.wait([wire.task])
    await engine.aclose()


async def test_the_loop_does_not_turn_beside_a_vector_in_a_thread() -> None:
    engine = make_engine(type("Pair", (Pair,), {"isolation": "thread"}))
    wire = Wire(engine)
    await turns()
    assert wire.socket._alertness is None
    wire.task.cancel()
    await asyncio.wait([wire.task])
    await engine.aclose()
