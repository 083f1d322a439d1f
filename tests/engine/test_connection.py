"""The engine's side of one connection: batches in, batches out, and every refusal."""

from __future__ import annotations

import asyncio
from math import inf
from typing import Any

import msgspec
import pytest

from openenv_async import EngineOptions, Limits, Timeouts
from openenv_async.engine import Engine, ServerConnection
from openenv_async.protocol.codec import MsgpackCodec
from openenv_async.protocol.frames import (
    PROTOCOL_VERSION,
    Begun,
    Cancel,
    Chunk,
    Close,
    Closed,
    Credit,
    Failed,
    GoingAway,
    Hello,
    Observation,
    Open,
    Opened,
    Renew,
    Reset,
    State,
    StateIs,
    Step,
    Welcome,
)
from openenv_async.testing import ManualClock
from tests.engine.scripted import Stage
from tests.helpers import Counter, Format, Peer, make_engine, pack, token, unpack

FORMATS: list[Format] = ["msgpack", "json"]


class Big(Counter):
    """Observations of any size."""

    def step(self, action: dict[str, Any]) -> dict[str, Any]:
        return {"blob": "x" * action.get("size", 0)}


def is_cut(peer: Peer) -> bool:
    return peer.was_cut  # a call, because mypy remembers what an attribute was


@pytest.mark.parametrize("format", FORMATS)
async def test_a_batch_in_is_a_batch_out(format: Format) -> None:
    engine = make_engine(Counter)
    peer = Peer(engine, format)
    for number in range(1, 6):
        await peer.begin(number)
    steps = [Step(number, 2, 1, pack({"nonce": number}, format)) for number in range(1, 6)]
    peer.connection.receive(peer.codec.encode(steps))
    [message] = peer.connection.take()
    replies = peer.codec.decode(message)
    assert [unpack(reply.payload, format)["nonce"] for reply in replies] == [1, 2, 3, 4, 5]
    assert not peer.connection.pending
    assert peer.connection.take() == []
    await engine.aclose()


async def test_the_first_frame_must_be_hello() -> None:
    engine = make_engine(Counter)
    peer = Peer(engine, hello=False)
    peer.send(Open(1, token(1), token(2)))
    [failed] = peer.take()
    assert (failed.channel, failed.seq, failed.code) == (0, 0, "protocol_error")
    assert not engine.sessions
    peer.send()  # an empty message is fine
    peer.send(Hello(PROTOCOL_VERSION), Open(1, token(1), token(2)))
    welcome, opened = peer.take()
    assert isinstance(welcome, Welcome)
    assert opened == Opened(1)
    await engine.aclose()


async def test_versions() -> None:
    engine = make_engine(Counter)
    peer = Peer(engine, hello=False)
    peer.send(Hello(0))
    assert peer.take()[0].code == "version_mismatch"
    peer.send(Hello(99))  # a newer client may speak ours as well
    assert peer.take()[0].version == PROTOCOL_VERSION
    await engine.aclose()


@pytest.mark.parametrize("payload", [pack([1]), b"\xc1", pack({"a": [[[[[[[[[[1]]]]]]]]]]})])
async def test_a_hello_with_nonsense(payload: bytes) -> None:
    engine = make_engine(Counter)
    peer = Peer(engine, hello=False)
    peer.send(Hello(1, payload))
    assert peer.take()[0].code == "protocol_error"
    await engine.aclose()


async def test_what_the_welcome_says() -> None:
    options = EngineOptions(max_sessions=7, timeouts=Timeouts(step=5.0, idle=None))
    engine = make_engine(Counter, options=options)
    peer = Peer(engine)
    assert peer.welcome.epoch == engine.epoch
    said = unpack(peer.welcome.payload)
    assert said["environment"] == "Counter"
    assert said["max_sessions"] == 7
    assert said["timeouts"]["step"] == 5.0
    assert said["timeouts"]["idle"] is None
    assert said["capabilities"] == ["cancel", "tools", "columns", "columns_again"]
    assert said["uses_seed"] is True
    assert said["schema_hash"] == engine.spec.schema_hash
    assert make_engine(Counter).epoch != engine.epoch
    await engine.aclose()


async def test_channels() -> None:
    engine = make_engine(Counter, limits=Limits(max_channels=2))
    peer = Peer(engine)
    peer.send(Reset(5, 1))
    assert peer.take()[0].code == "session_not_found"
    for channel in (0, -1):
        peer.send(Open(channel, token(1), token(2)))
        [failed] = peer.take()
        assert (failed.code, failed.channel, failed.seq) == ("protocol_error", channel, 0)
    await peer.begin(1)
    peer.send(Open(1, token(8), token(9)))
    assert peer.take()[0].code == "protocol_error"
    await peer.begin(2)
    peer.send(Open(3, token(8), token(9)))
    [failed] = peer.take()
    assert "max_channels" in failed.message
    peer.send(Close(1, 2))
    assert peer.take() == [Closed(1, 2)]
    assert isinstance(await peer.begin(3), Begun)
    assert len(engine.sessions) == 2
    await engine.aclose()


async def test_frames_for_nobody_do_nothing() -> None:
    engine = make_engine(Counter)
    peer = Peer(engine)
    await peer.begin()
    peer.send(
        Cancel(9, 1), Credit(9, 1, 1), Renew(9, 1), Cancel(1, 1), Credit(1, 1, 1), Renew(1, 1)
    )
    assert peer.take() == []
    assert not engine.sessions[token(1)].log.replies
    await engine.aclose()


async def test_bad_frames_are_answered_where_they_were_meant() -> None:
    engine = make_engine(Counter)
    peer = Peer(engine)
    await peer.begin()
    peer.send_raw(msgspec.msgpack.encode([[99, 1, 5], [4, 1, 2, 1], [6, 1, "x"]]))
    first, state, second = peer.take()
    assert (first.code, first.channel, first.seq) == ("protocol_error", 1, 5)
    assert isinstance(state, StateIs)
    assert (second.code, second.channel, second.seq) == ("protocol_error", 1, 0)
    assert engine.stats.bad_frames == 2
    peer.send_raw(b"\xc1")
    assert (peer.inbox[0].channel, peer.inbox[0].code) == (0, "protocol_error")
    await engine.aclose()


async def test_a_refused_close_keeps_its_channel() -> None:
    """The channel was freed before the close was looked at: the session leaked."""
    engine = make_engine(Counter)
    peer = Peer(engine)
    await peer.begin()
    peer.send(Close(1, 99))
    assert peer.take()[0].code == "protocol_error"
    peer.send(Step(1, 2, 1, pack({})))
    assert isinstance(peer.take()[0], Observation)
    peer.close()
    assert not engine.sessions
    await engine.aclose()


# -- sizes --------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
async def test_messages_keep_to_the_batch_size(format: Format) -> None:
    engine = make_engine(Big, limits=Limits(max_batch_size=2000))
    peer = Peer(engine, format)
    for number in range(1, 11):
        await peer.begin(number)
    payload = pack({"size": 500}, format)
    steps = [Step(number, 2, 1, payload) for number in range(1, 11)]
    steps[4] = Step(5, 2, 1, pack({"size": 5000}, format))
    peer.connection.receive(peer.codec.encode(steps))
    messages = []
    while peer.connection.pending:
        messages += peer.connection.take()
    assert len(messages) > 3
    frames = [frame for message in messages for frame in peer.codec.decode(message)]
    assert sorted(frame.channel for frame in frames) == list(range(1, 11))
    for message in messages:
        assert len(message) <= 2000 or len(peer.codec.decode(message)) == 1
    await engine.aclose()


@pytest.mark.parametrize("format", FORMATS)
async def test_a_reply_over_the_clients_limit_fails_alone(format: Format) -> None:
    engine = make_engine(Big)
    peer = Peer(engine, format, max_message_size=10_000)
    for number in (1, 2, 3):
        await peer.begin(number)
    sizes = {1: 100, 2: 11_000, 3: 100}
    peer.send(*(Step(n, 2, 1, pack({"size": size}, format)) for n, size in sizes.items()))
    replies = {reply.channel: reply for reply in peer.take()}
    assert isinstance(replies[1], Observation)
    assert isinstance(replies[3], Observation)
    failed = replies[2]
    assert isinstance(failed, Failed)
    assert (failed.seq, failed.code) == (2, "payload_too_large")
    assert peer.detail(failed)["limit"] == 10_000
    peer.send(Step(2, 3, 2, pack({"size": 10}, format)))
    assert isinstance(peer.take()[0], Observation)
    await engine.aclose()


@pytest.mark.parametrize("format", FORMATS)
async def test_many_small_replies_over_the_clients_limit_are_split(format: Format) -> None:
    engine = make_engine(Big)
    peer = Peer(engine, format, max_message_size=3000)
    for number in range(1, 9):
        await peer.begin(number)
    payload = pack({"size": 1000}, format)
    peer.connection.receive(peer.codec.encode([Step(n, 2, 1, payload) for n in range(1, 9)]))
    messages = []
    while peer.connection.pending:
        messages += peer.connection.take()
    assert all(len(message) <= 3000 for message in messages)
    frames = [frame for message in messages for frame in peer.codec.decode(message)]
    assert [type(frame) for frame in frames] == [Observation] * 8
    await engine.aclose()


async def test_a_reply_in_pieces() -> None:
    engine = make_engine(Big, limits=Limits(chunk_size=1000))
    peer = Peer(engine)
    await peer.begin(1)
    await peer.begin(2)
    peer.connection.receive(
        peer.codec.encode([Step(1, 2, 1, pack({"size": 3500})), Step(2, 2, 1, pack({}))])
    )
    frames: list[Any] = []
    while peer.connection.pending:
        for message in peer.connection.take():
            assert len(message) < 1300
            frames += peer.codec.decode(message)
    pieces = [frame for frame in frames if type(frame).__name__ == "Chunk"]
    assert unpack(b"".join(bytes(piece.payload) for piece in pieces)) == {"blob": "x" * 3500}
    last = frames[-1]
    assert (last.channel, last.seq, bytes(last.payload)) == (1, 2, b"")
    small = next(frame for frame in frames if frame.channel == 2)
    assert frames.index(small) < frames.index(last)
    peer.connection.lost()
    assert not peer.connection.pending
    await engine.aclose()


async def test_pieces_that_are_too_much_fail_their_request() -> None:
    from openenv_async.protocol.frames import Chunk

    engine = make_engine(Counter, limits=Limits(max_message_size=1000))
    peer = Peer(engine)
    await peer.begin()
    for _ in range(3):
        peer.send(Chunk(1, 2, b"x" * 400))
    [failed] = peer.take()
    assert (failed.channel, failed.seq, failed.code) == (1, 2, "payload_too_large")
    peer.send(Step(1, 2, 1, pack({})))
    assert isinstance(peer.take()[0], Observation)
    peer.send(Chunk(1, 5, b"x"), Step(1, 3, 2, b""))
    assert peer.take()[0].code == "protocol_error"
    await engine.aclose()


# -- life ---------------------------------------------------------------------------------


async def test_a_silent_client_is_cut_and_any_frame_keeps_it() -> None:
    clock = ManualClock()
    timeouts = Timeouts(lease=30.0, resume=10.0, write=5.0)
    engine = make_engine(Counter, clock=clock, options=EngineOptions(timeouts=timeouts))
    peer = Peer(engine)
    await peer.begin()
    for _ in range(10):
        clock.advance(25)
        peer.send(Renew(0))
    assert not is_cut(peer)
    clock.advance(31)
    assert is_cut(peer)
    assert engine.stats.cut == 1
    clock.advance(11)
    assert not engine.sessions
    await engine.aclose()


async def test_a_connection_that_never_says_hello_is_cut() -> None:
    clock = ManualClock()
    options = EngineOptions(timeouts=Timeouts(connect=3.0, lease=30.0))
    engine = make_engine(Counter, clock=clock, options=options)
    peer, greeted = Peer(engine, hello=False), Peer(engine, hello=False)
    peer.connection.expect_hello()
    greeted.connection.expect_hello()
    greeted.send(Hello(PROTOCOL_VERSION))
    for _ in range(4):
        clock.advance(0.9)
        peer.send_raw(b"\x90")  # an empty message is no greeting
    assert is_cut(peer)
    clock.advance(25)
    assert not is_cut(greeted)
    clock.advance(10)
    assert is_cut(greeted)
    await engine.aclose()


async def test_a_loop_that_is_always_late_finds_its_dead_all_the_same() -> None:
    """Each look was put off because it came late: for ever, on a loop that is busy."""
    clock = ManualClock()
    engine = make_engine(Counter, clock=clock, options=EngineOptions(timeouts=Timeouts(lease=4.0)))
    peer = Peer(engine)
    await peer.begin()
    for _ in range(12):
        clock.now += 0.9  # the timer of ``advance`` comes this late
        clock.advance(0.001)
    assert is_cut(peer)
    await engine.aclose()


async def test_a_client_that_takes_no_data_is_cut() -> None:
    clock = ManualClock()
    engine = make_engine(Counter, clock=clock, options=EngineOptions(timeouts=Timeouts(write=5.0)))
    peer = Peer(engine)
    await peer.begin()
    peer.connection.sending_since = clock.now
    clock.advance(4.5)
    peer.send(Renew(0))
    assert not is_cut(peer)
    clock.advance(5.6)
    assert is_cut(peer)
    await engine.aclose()


@pytest.mark.parametrize("returns", [True, False])
async def test_a_client_cut_for_not_reading_has_the_time_of_resume(returns: bool) -> None:
    """Unlike one whose lease ran out: it may be alive, with its replies still to come."""
    clock = ManualClock()
    times = Timeouts(write=5.0, resume=60.0)
    engine = make_engine(Counter, clock=clock, options=EngineOptions(timeouts=times))
    peer = Peer(engine)
    await peer.begin()
    peer.connection.sending_since = clock.now
    peer.connection.receive(peer.codec.encode([Step(1, 2, 1, pack({"nonce": 2}))]))
    clock.advance(10)
    assert is_cut(peer)
    clock.advance(45)
    assert len(engine.sessions) == 1
    if returns:
        peer = Peer(engine)
        peer.send(Open(1, token(1), token(1001), True, 1))
        peer.send(Step(1, 2, 1, pack({"nonce": 2})))
        opened, kept = peer.take()
        assert (opened.resumed, kept.seq) == (True, 2)
        assert unpack(kept.payload)["count"] == 1
    clock.advance(20)
    assert len(engine.sessions) == returns
    assert engine.stats.abandoned == (not returns)
    await engine.aclose()


async def test_going_away_is_announced() -> None:
    engine = make_engine(Counter)
    peer = Peer(engine)
    await peer.begin()
    peer.connection.going_away("maintenance", 5.0)
    assert peer.take() == [GoingAway("maintenance", 5.0)]
    await engine.aclose()
    ended, *_ = peer.take()
    assert (ended.channel, ended.seq, ended.code) == (1, 0, "going_away")


async def test_replies_outside_of_receive_wake_the_carrier() -> None:
    from openenv_async.testing import ConformanceEnvironment

    engine = make_engine(ConformanceEnvironment)
    peer = Peer(engine)
    peer.send(Open(1, token(1), token(2)))
    assert peer.take() == []
    assert await peer.next() == Opened(1)
    await engine.aclose()


async def test_an_error_of_any_text_arrives() -> None:
    """Lone surrogates, as file names have them, ended the connection's message."""

    class Odd(Counter):
        def step(self, action: dict[str, Any]) -> dict[str, Any]:
            raise FileNotFoundError(2, "No such file", "caf\udce9.txt")

    for format in FORMATS:
        engine = make_engine(Odd)
        peer = Peer(engine, format)
        await peer.begin()
        reply = await peer.stepped(2, {})
        assert reply.code == "environment_raised"
        assert "caf" in reply.message
        assert "caf" in peer.detail(reply)["text"]
        await engine.aclose()


async def test_connections_are_apart() -> None:
    engine = make_engine(Counter)
    one, other = Peer(engine), Peer(engine)
    await one.begin(1)
    await other.begin(2)
    other.send(Step(1, 2, 1, pack({})))
    assert other.take()[0].code == "session_not_found"
    one.close()
    assert list(engine.sessions) == [token(2)]
    assert isinstance(await other.stepped(2, {}, 2), Observation)
    other.send(State(2, 3, 2))
    assert unpack(other.take()[0].payload) == {"count": 1}
    await engine.aclose()
    await asyncio.sleep(0)


# -- by itself ----------------------------------------------------------------------------


def bare(engine: Engine, woken: list[int] | None = None) -> ServerConnection:
    codec = MsgpackCodec("server", engine.options.limits.max_message_size)
    wakes = [] if woken is None else woken
    return ServerConnection(engine, codec, lambda: wakes.append(1), lambda: None)


async def test_what_waits_to_be_taken_is_measured() -> None:
    engine = make_engine(Counter, limits=Limits(chunk_size=100))
    connection = bare(engine)
    assert (connection.pending, connection.unsent) == (False, 0)
    connection.send(Closed(1, 1))
    connection.send(Observation(1, 2, b"x" * 100), 100)
    assert connection.unsent == 2 * 512 + 100
    connection.send(Observation(2, 1, b"y" * 101), 101)
    connection.send(Closed(2, 2))  # behind the large one of its channel
    assert connection.unsent == 2 * 512 + 100 + 101
    assert (len(connection.ready), list(connection.large)) == (2, [2])
    connection.take_batch()
    assert (connection.ready, connection.unsent, connection.pending) == ([], 101, True)
    [piece] = connection.take_piece()
    assert connection.unsent == 1
    assert [len(connection.take()) for _ in range(3)] == [1, 1, 0]
    assert (connection.pending, connection.unsent) == (False, 0)
    assert len(piece) > 100
    await engine.aclose()


async def test_one_wake_for_each_batch_that_begins_outside_of_receive() -> None:
    engine = make_engine(Counter)
    woken: list[int] = []
    connection = bare(engine, woken)
    for seq in (1, 2, 3):
        connection.send(Closed(1, seq))
    assert woken == [1]
    connection.take()
    connection.send(Closed(1, 4))
    assert woken == [1, 1]
    codec = MsgpackCodec("client", 1 << 20)
    connection.receive(codec.encode([Hello(PROTOCOL_VERSION)]))  # answered, and taken right after
    assert woken == [1, 1]
    await engine.aclose()


async def test_pieces_of_all_channels_are_bounded_together() -> None:
    """Four payloads of the greatest size, and no fifth."""
    engine = make_engine(Counter, limits=Limits(max_message_size=2000, chunk_size=1000))
    connection = bare(engine)
    codec = MsgpackCodec("client", 1 << 20)
    connection.receive(codec.encode([Hello(PROTOCOL_VERSION)]))
    connection.take()
    for channel in range(1, 5):
        for _ in range(2):
            connection.receive(codec.encode([Chunk(channel, 1, b"x" * 900)]))
    assert connection.take() == []
    connection.receive(codec.encode([Chunk(5, 1, b"x" * 900)]))
    [message] = connection.take()
    [failed] = codec.decode(message)
    assert (failed.channel, failed.seq, failed.code) == (5, 1, "payload_too_large")
    await engine.aclose()


@pytest.mark.parametrize(
    ("timeouts", "interval"),
    [
        (Timeouts(lease=None, write=None), 5.0),
        (Timeouts(lease=8.0, write=None), 2.0),
        (Timeouts(lease=None, write=4.0), 1.0),
        (Timeouts(lease=100.0, write=100.0), 5.0),
    ],
)
async def test_a_peer_is_looked_at_several_times_before_its_deadline(
    timeouts: Timeouts, interval: float
) -> None:
    engine = make_engine(Counter, timeouts=timeouts)
    connection = bare(engine)
    codec = MsgpackCodec("client", 1 << 20)
    connection.receive(codec.encode([Hello(PROTOCOL_VERSION)]))
    now = connection.seen_at
    assert connection.check(now) == pytest.approx(now + interval)
    connection.lost()
    assert connection.check(now) is None
    await engine.aclose()


@pytest.mark.parametrize(
    ("connect", "lease", "seconds"), [(3.0, 9.0, 3.0), (None, 9.0, 9.0), (None, None, None)]
)
async def test_a_greeting_has_its_own_deadline(
    connect: float | None, lease: float | None, seconds: float | None
) -> None:
    engine = make_engine(Counter, timeouts=Timeouts(connect=connect, lease=lease, write=None))
    connection = bare(engine)
    connection.expect_hello()
    made = connection.seen_at
    assert connection.scheduled == pytest.approx(inf if seconds is None else made + seconds)
    if seconds is not None:
        assert connection.check(made + seconds - 0.01) is not None
        assert connection.check(made + seconds) is None
        assert engine.stats.cut == 1
    await engine.aclose()


async def test_what_a_client_reads_is_never_more_than_the_server_writes() -> None:
    engine = make_engine(Counter, limits=Limits(max_message_size=1 << 20))
    codec = MsgpackCodec("client", 1 << 20)
    for asked, wanted in ((5000, 5000), (1 << 30, 1 << 20), (0, 1 << 20), (-5, 1 << 20)):
        connection = bare(engine)
        connection.receive(
            codec.encode([Hello(PROTOCOL_VERSION, pack({"max_message_size": asked}))])
        )
        assert connection._peer_max_size == wanted
    await engine.aclose()


async def test_nonsense_is_refused_once_and_nothing_is_read_after_it() -> None:
    engine = make_engine(Counter, limits=Limits(max_bad_frames=2))
    refused: list[str] = []
    server = MsgpackCodec("server", 1 << 20)
    connection = ServerConnection(engine, server, lambda: None, lambda: None, refused.append)
    codec = MsgpackCodec("client", 1 << 20)
    connection.receive(codec.encode([Hello(PROTOCOL_VERSION)]))
    connection.take()
    for _ in range(2):
        connection.receive(b"\xc1")
    assert refused == []
    for _ in range(3):
        connection.receive(b"\xc1")
    assert refused == ["more than 2 frames that cannot be read (Limits.max_bad_frames)"]
    assert engine.stats.bad_frames == 3
    replies = [frame for message in connection.take() for frame in codec.decode(message)]
    assert "the connection is closed: more than 2 frames" in replies[-1].message
    connection.receive(codec.encode([Open(1, token(1), token(2))]))
    assert connection.take() == []
    assert not engine.sessions
    await engine.aclose()


# -- what a small change would break --------------------------------------------------------


def greeted(engine: Engine, **offer: Any) -> tuple[ServerConnection, MsgpackCodec]:
    """A connection that has said Hello, and the client's codec."""
    connection = bare(engine)
    codec = MsgpackCodec("client", 1 << 30)
    connection.receive(codec.encode([Hello(PROTOCOL_VERSION, pack(offer))]))
    connection.take()
    return connection, codec


def taken(connection: ServerConnection, codec: MsgpackCodec) -> list[Any]:
    return [frame for message in connection.take() for frame in codec.decode(message)]


async def test_a_large_reply_ends_a_share_of_the_work_and_no_other_does() -> None:
    engine = make_engine(Big, limits=Limits(chunk_size=1000))
    connection, codec = greeted(engine)
    for channel in (1, 2, 3):
        connection.receive(
            codec.encode([Open(channel, token(channel), token(9)), Reset(channel, 1)])
        )
    connection.take()
    sizes = {1: 1000, 2: 1500, 3: 10}
    frames = connection.decode(
        codec.encode([Step(n, 2, 1, pack({"size": size - 10})) for n, size in sizes.items()])
    )
    assert connection.handle(frames, 0, 3) == 2
    assert connection.handle(frames, 2, 3) == 3
    again = connection.decode(codec.encode([Step(n, 3, 1, pack({"size": 10})) for n in (1, 2, 3)]))
    connection._large.clear()
    connection.ready.clear()
    assert connection.handle(again, 0, 2) == 2
    assert connection.handle(again, 2, 3) == 3
    await engine.aclose()


async def test_what_is_left_behind_by_a_connection_is_let_go() -> None:
    engine = make_engine(Counter, limits=Limits(chunk_size=100))
    connection, codec = greeted(engine)
    connection.send(Observation(1, 1, b"x" * 500), 500)
    connection.receive(codec.encode([Chunk(1, 1, b"x" * 50)]))
    assert connection.pending
    connection.lost()
    assert connection.take() == []
    assert (connection.unsent, connection._assembler._size) == (0, 0)
    await engine.aclose()


async def test_what_waits_is_measured_after_a_part_of_it_was_taken() -> None:
    engine = make_engine(Counter, limits=Limits(max_batch_size=300))
    connection, _ = greeted(engine)
    for seq in range(1, 5):
        connection.send(Observation(1, seq, b"x" * 100), 100)
    connection.send(Closed(1, 5))
    connection.take_batch()
    left = connection.ready
    payloads = sum(isinstance(frame, Observation) for frame in left)
    assert 1 < len(left) < 5
    assert connection.unsent == 512 * len(left) + 100 * payloads
    await engine.aclose()


@pytest.mark.parametrize("less", [0, 1])
async def test_a_message_may_be_as_large_as_the_client_reads(less: int) -> None:
    engine = make_engine(Counter)
    connection, codec = greeted(engine)
    frames = [Observation(1, 1, b"x" * 50), Observation(2, 7, b"x" * 500)]
    for count in (1, 2):
        limit = len(connection.codec.encode(frames[-count:]))
        if count == 2:
            limit = len(connection.codec.encode(frames[1:]))
        connection._peer_max_size = limit - less
        for frame in frames[-count:]:
            connection.send(frame, len(frame.payload))
        last = taken(connection, codec)[-1]
        assert isinstance(last, Failed) == bool(less)
        assert (last.channel, last.seq) == (2, 7)
        if isinstance(last, Failed):
            assert unpack(last.payload)["size"] == limit
    await engine.aclose()


@pytest.mark.parametrize(("size", "refused"), [(500, False), (501, True)])
async def test_a_payload_in_pieces_is_bounded_by_what_the_client_reads(
    size: int, refused: bool
) -> None:
    engine = make_engine(Counter, limits=Limits(chunk_size=100))
    connection, codec = greeted(engine, max_message_size=500)
    connection.send(Observation(1, 2, b"x" * size), size)
    [*_, last] = frames = taken(connection, codec)
    assert isinstance(frames[0], Failed if refused else Chunk)
    assert (last.channel, last.seq) == (1, 2)
    await engine.aclose()


async def test_a_silent_client_is_cut_in_time_and_its_sessions_with_it() -> None:
    clock = ManualClock()
    engine = make_engine(Counter, clock=clock, timeouts=Timeouts(lease=30.0, write=None))
    peer = Peer(engine)
    await peer.begin()
    clock.advance(29.9)
    assert not is_cut(peer)
    clock.advance(0.11)
    assert is_cut(peer)
    assert not engine.sessions  # it will not come back
    assert engine.stats.abandoned == 0
    await engine.aclose()


async def test_an_engine_that_is_closed_looks_at_nobody() -> None:
    clock = ManualClock()
    engine = make_engine(Counter, clock=clock)
    peer = Peer(engine)
    await peer.begin()
    assert clock.armed
    await engine.aclose()
    assert not clock.armed


async def test_a_channel_is_refused_with_the_reason() -> None:
    engine = make_engine(Counter)
    peer = Peer(engine)
    await peer.begin(1)
    for channel, reason in ((0, "is reserved"), (1, "is taken")):
        peer.send(Open(channel, token(5), token(6)))
        assert peer.take()[0].message == f"channel {channel} {reason}: choose another"
    await engine.aclose()


async def test_channels_of_dead_sessions_are_forgotten_now_and_then() -> None:
    stage = Stage()
    connection, codec = greeted(stage.engine)

    def open_one(number: int) -> Any:
        connection.receive(codec.encode([Open(number, token(number), token(9))]))
        return stage.engine.sessions[token(number)]

    for number in range(1, 51):
        stage.executor.finish(open_one(number))
    for number in range(51, 400):
        failed = Failed(number, 0, "environment_start_failed", "no")
        stage.executor.finish(open_one(number), failed)
        assert len(connection._channels) <= (64 if number < 65 else 100)
    assert connection._prune_at == 100
    assert set(range(1, 51)) <= set(connection._channels)


async def test_dead_sessions_take_no_channel_of_the_limit() -> None:
    stage = Stage(limits=Limits(max_channels=2))
    connection, codec = greeted(stage.engine)
    for number in range(1, 6):
        connection.receive(codec.encode([Open(number, token(number), token(9))]))
        stage.executor.finish(
            stage.engine.sessions[token(number)],
            Failed(number, 0, "environment_start_failed", "no"),
        )
    codes = [frame.code for frame in taken(connection, codec)]
    assert codes == ["environment_start_failed"] * 5


async def test_pieces_for_no_session_count_as_bad_frames() -> None:
    engine = make_engine(Counter, limits=Limits(max_message_size=1000))
    peer = Peer(engine)
    await peer.begin()
    for channel, bad in ((1, 0), (7, 1)):
        for _ in range(2):
            peer.send(Chunk(channel, 2, b"x" * 600))
        assert engine.stats.bad_frames == bad
    assert [frame.code for frame in peer.take()] == ["payload_too_large"] * 2
    await engine.aclose()


async def test_a_payload_of_too_many_containers_is_answered_where_it_was_meant() -> None:
    engine = make_engine(Counter, limits=Limits(max_containers=100))
    peer = Peer(engine)
    many = pack({"a": [{}] * 150})
    peer.send(Open(3, token(3), token(4), payload=many), Hello(PROTOCOL_VERSION, many))
    assert [(frame.channel, frame.seq, frame.code) for frame in peer.take()] == [
        (3, 0, "payload_too_large"),
        (0, 0, "payload_too_large"),
    ]
    assert engine.stats.bad_frames == 0  # they can be read
    await engine.aclose()


@pytest.mark.parametrize(("asked", "wanted"), [(1, 1), ("5000", 1 << 20), (None, 1 << 20)])
async def test_any_positive_number_is_what_a_client_reads(asked: Any, wanted: int) -> None:
    engine = make_engine(Counter, limits=Limits(max_message_size=1 << 20))
    connection = bare(engine)
    codec = MsgpackCodec("client", 1 << 20)
    connection.receive(codec.encode([Hello(PROTOCOL_VERSION, pack({"max_message_size": asked}))]))
    assert connection._peer_max_size == wanted
    await engine.aclose()


async def test_a_stream_is_a_capability() -> None:
    from openenv_async.testing import ConformanceEnvironment

    engine = make_engine(ConformanceEnvironment)
    peer = Peer(engine)
    told = unpack(peer.welcome.payload)["capabilities"]
    assert told == ["cancel", "stream", "tasks", "tools", "columns", "columns_again"]
    await engine.aclose()
