"""Numbers, frames and payloads are bounded before they cost anything; neighbours are unharmed."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openenv_async import EngineOptions, Limits
from openenv_async.protocol.codec import BadFrame, frame_codec
from openenv_async.protocol.frames import (
    CLIENT_FRAMES,
    PAYLOAD_FIELDS,
    Begun,
    Chunk,
    Failed,
    Observation,
    Opened,
    Partial,
    StateIs,
    Step,
)
from tests.helpers import Counter, Format, Peer, make_engine, pack, token, unpack, until

FORMATS: list[Format] = ["msgpack", "json"]

wild = (
    st.sampled_from([2**63, 2**64 - 1, -(2**63), 2**31, -1, 0, 1, 1e308, -1e308, 0.5])
    | st.sampled_from([math.nan, math.inf, -math.inf])
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=6)
    | st.none()
    | st.booleans()
    | st.lists(st.integers(0, 5), max_size=3)
    | st.dictionaries(st.text(max_size=3), st.integers(0, 5), max_size=3)
)


@st.composite
def spoiled(draw: st.DrawFn, format: Format) -> list[Any]:
    """A frame for channel 1 of which one field is anything."""
    valid: list[list[Any]] = [
        [1, 2, token(2), token(3), False, 0, None, 5.0],
        [2, 1, 2, 1, {}, 7, "episode", 1.5],
        [3, 1, 2, 1, {"nonce": 1}, 2.0, 3],
        [4, 1, 2, 1, 2.0],
        [5, 1, 2, 1, 2.0],
        [6, 1, 2],
        [7, 1, 2, 9],
        [8, 1, 1],
    ]
    frame = draw(st.sampled_from(valid))
    cls = next(c for c in CLIENT_FRAMES if c.__struct_config__.tag == frame[0])
    if format == "msgpack":
        for i, name in enumerate(cls.__struct_fields__[: len(frame) - 1]):
            if name in PAYLOAD_FIELDS and frame[i + 1] is not None:
                frame[i + 1] = pack(frame[i + 1])
    at = draw(st.integers(0, len(frame) - 1))
    value = draw(wild if format == "msgpack" else wild | st.integers(-(10**300), 10**300))
    return [*frame[:at], value, *frame[at + 1 :]]


class Bench:
    """Engines with two sessions on a connection, in this process or in workers."""

    def __init__(self, format: Format, workers: int | None) -> None:
        self.runner = asyncio.Runner()
        self.format = format
        self.runner.run(self._start(workers))

    async def _start(self, workers: int | None) -> None:
        options = EngineOptions(workers=workers, max_sessions=100_000)
        self.engine = make_engine(Counter, options=options)
        self.peer = Peer(self.engine, self.format)
        for channel in (500, 501):
            await self.peer.begin(channel)
        self.seq = 1

    def attack(self, frame: list[Any]) -> None:
        self.runner.run(self._attack(frame))

    async def _attack(self, frame: list[Any]) -> None:
        """A spoiled frame between two good ones in a message: these are answered."""
        format, peer = self.format, self.peer
        assert isinstance(await peer.open(1), Opened)
        self.seq += 1
        payload = pack({"nonce": self.seq}, format)
        body: Any = payload if format == "msgpack" else {"nonce": self.seq}
        good = [[3, channel, self.seq, self.seq - 1, body] for channel in (500, 501)]
        encode = msgspec.msgpack.encode if format == "msgpack" else msgspec.json.encode
        peer.send_raw(encode([good[0], frame, good[1]]))
        seen: dict[int, Any] = {}
        while len(seen) < 2:
            reply = await peer.next()
            if reply.channel in (500, 501):
                seen[reply.channel] = reply
        for reply in seen.values():
            assert isinstance(reply, Observation), reply
            assert unpack(reply.payload, format)["nonce"] == self.seq
        for channel, session in list(peer.connection._channels.items()):
            if channel not in (500, 501):
                del peer.connection._channels[channel]
                self.engine.lost(session, peer.connection, True)
        await until(lambda: len(self.engine.sessions) == 2)
        peer.connection._bad = 0
        peer.take()

    def close(self) -> None:
        self.runner.run(self.engine.aclose())
        self.runner.close()


@pytest.fixture(params=[None, 1], ids=["here", "in a worker"])
def bench(request: pytest.FixtureRequest, format: Format) -> Iterator[Bench]:
    made = Bench(format, request.param)
    yield made
    made.close()


@pytest.mark.parametrize("format", FORMATS)
def test_a_frame_with_any_field_spoiled_costs_its_neighbours_nothing(
    format: Format, bench: Bench
) -> None:
    @settings(max_examples=150, deadline=None)
    @given(frame=spoiled(format))
    def attack(frame: list[Any]) -> None:
        bench.attack(frame)
        assert bench.engine.stats.workers_died == 0

    attack()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
async def test_a_deadline_that_is_no_number_of_seconds(format: Format, number: float) -> None:
    """A NaN in the heap of deadlines ended those of everybody."""
    if format == "json":
        pytest.skip("JSON cannot say it")
    engine = make_engine(Counter)
    peer = Peer(engine)
    await peer.begin()
    for frame in ([2, 1, 2, 1, None, None, None, number], [3, 1, 2, 1, pack({}), number]):
        peer.send_raw(msgspec.msgpack.encode([frame]))
        [failed] = peer.take()
        assert (failed.seq, failed.code) == (2, "protocol_error")
        assert "float" in failed.message
    peer.send_raw(msgspec.msgpack.encode([[1, 2, token(2), token(3), False, 0, None, number]]))
    assert peer.take()[0].code == "protocol_error"
    await engine.aclose()


@pytest.mark.parametrize("place", ["seq", "ack", "seed", "credit", "channel"])
async def test_numbers_past_64_bits_in_json(place: str) -> None:
    engine = make_engine(Counter)
    peer = Peer(engine, "json")
    await peer.begin()
    fields: dict[str, Any] = {"channel": 1, "seq": 3, "ack": 1, "seed": 1, "credit": 0}
    fields[place] = 2**64
    at = fields["channel"], fields["seq"], fields["ack"]
    frame = (
        [2, *at, {}, fields["seed"]] if place == "seed" else [3, *at, {}, None, fields["credit"]]
    )
    peer.send_raw(msgspec.json.encode([[4, 1, 2, 1], frame]))
    state, failed = peer.take()
    assert isinstance(state, StateIs)
    assert isinstance(failed, Failed), failed
    assert failed.code == "protocol_error"
    await engine.aclose()


# -- frames and containers ------------------------------------------------------------------------


def encode(format: Format, value: Any) -> bytes:
    return msgspec.msgpack.encode(value) if format == "msgpack" else msgspec.json.encode(value)


BROKEN: dict[str, Any] = {
    "numbers": [0] * 66_000,
    "empty frames": [[]] * 66_000,
    "short frames": [[99]] * 50_000,
    "as many as a message may have": [[99, "x" * 10]] * 16_000,
    "maps": [{}] * 66_000,
    "a frame of maps": [[{}] * 66_000],
    "a frame of numbers": [[3] + [0] * 66_000],
    "a frame of texts": [[3] + ["ab"] * 66_000],
    "a field of texts": [[3, 1, 2, ["ab"] * 66_000]],
    "a field of lists": [[3, 1, 2, [[]] * 66_000]],
    "frames for nobody": [[8, 7]] * 50_000,
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("what", BROKEN)
async def test_a_message_of_broken_frames_costs_little(format: Format, what: str) -> None:
    """It was decoded whole, and answered frame by frame."""
    import time
    import tracemalloc

    engine = make_engine(Counter)
    peer = Peer(engine, format)
    await peer.begin()
    message = encode(format, BROKEN[what])
    tracemalloc.start()
    try:
        peer.connection.receive(message)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 * len(message)
    peer.collect()
    assert len(peer.take()) <= engine.options.limits.max_bad_frames + 2
    other = Peer(engine, format)
    began = time.thread_time()
    other.connection.receive(message)
    assert time.thread_time() - began < 0.5
    await engine.aclose()


@pytest.mark.parametrize("format", FORMATS)
async def test_too_many_frames_are_refused_at_once_and_the_limit_is_named(format: Format) -> None:
    engine = make_engine(Counter, limits=Limits(max_frames=10))
    peer = Peer(engine, format)
    await peer.begin()
    peer.send_raw(encode(format, [[4, 1, 2, 1]] + [[8, 1, 0]] * 10))
    [failed] = peer.take()
    assert (failed.channel, failed.code) == (0, "protocol_error")
    assert "max_frames" in failed.message
    peer.send_raw(encode(format, [[4, 1, 2, 1]] + [[8, 1, 0]] * 9))
    assert isinstance(peer.take()[0], StateIs)
    await engine.aclose()


@pytest.mark.parametrize("format", FORMATS)
async def test_a_long_payload_is_not_counted_as_frames(format: Format) -> None:
    engine = make_engine(Counter, limits=Limits(max_frames=10))
    peer = Peer(engine, format)
    await peer.begin()
    nonce = ["a,b", "[[,,]]", {"x": [1, 2, 3, '"']}] * 40
    assert unpack((await peer.stepped(2, {"nonce": nonce})).payload, format)["nonce"] == nonce
    await engine.aclose()


@pytest.mark.parametrize("format", FORMATS)
async def test_a_connection_that_sends_nonsense_is_closed_and_told_why(format: Format) -> None:
    engine = make_engine(Counter, limits=Limits(max_bad_frames=5))
    peer = Peer(engine, format)
    reasons: list[str] = []
    peer.connection._refuse = reasons.append
    await peer.begin()
    peer.send_raw(encode(format, [[99]] * 3 + [[4, 1, 2, 1]]))
    assert [type(frame) for frame in peer.take()] == [Failed] * 3 + [StateIs]
    peer.send_raw(encode(format, [[99]] * 9))
    replies = peer.take()
    assert len(replies) == 4
    assert replies[-1].channel == 0
    assert "max_bad_frames" in replies[-1].message
    assert len(reasons) == 1
    peer.send_raw(encode(format, [[4, 1, 3, 1]]))
    assert not peer.take()
    await engine.aclose()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("cut", [False, True])
async def test_containers_of_a_payload_are_bounded_and_the_session_goes_on(
    format: Format, cut: bool
) -> None:
    if cut and format == "json":
        pytest.skip("in JSON nothing is cut")
    engine = make_engine(Counter, limits=Limits(max_containers=100))
    peer = Peer(engine, format)
    await peer.begin()
    payload = pack({"nonce": [{}] * 100}, format)
    if cut:
        peer.send(Chunk(1, 2, payload[:50]))
        peer.send(Chunk(1, 2, payload[50:]), Step(1, 2, 1, b""))
    else:
        peer.send(Step(1, 2, 1, payload))
    [failed] = peer.take()
    assert (failed.seq, failed.code) == (2, "payload_too_large")
    assert "max_containers" in failed.message
    for seq, nonce in ((3, [{}] * 98), (4, ["[" * 50] * 50), (5, ["\x90" * 50, "{}" * 200])):
        peer.send(Step(1, seq, 1, pack({"nonce": nonce}, format)))
        [reply] = peer.take()
        assert unpack(reply.payload, format)["nonce"] == nonce
    await engine.aclose()


# -- payloads in pieces ----------------------------------------------------------------------------


async def test_the_tail_of_a_payload_that_was_refused_is_no_action() -> None:
    """The tail was put together, ran, and the number had two answers."""
    engine = make_engine(Counter, limits=Limits(max_message_size=1000))
    peer = Peer(engine)
    await peer.begin()
    tail = pack({"nonce": "tail"})
    for piece in (b"x" * 900, b"x" * 900, tail):
        peer.send(Chunk(1, 2, piece))
    peer.send(Step(1, 2, 1, b""))
    [failed] = peer.take()
    assert (failed.seq, failed.code) == (2, "payload_too_large")
    assert engine.stats.steps == 0
    peer.send(Step(1, 3, 1, pack({"nonce": 1})))
    assert isinstance(peer.take()[0], Observation)
    assert engine.stats.steps == 1
    await engine.aclose()


async def test_what_is_refused_in_a_reply_of_many_pieces_fails_its_call_alone() -> None:
    """The client's side of the same."""
    from openenv_async.protocol.chunks import Assembler

    assembler = Assembler(10, math.inf)
    assembler.add(Chunk(1, 2, b"x" * 8))
    with pytest.raises(Exception, match="limit"):
        assembler.add(Chunk(1, 2, b"x" * 8))
    assembler.add(Chunk(1, 2, b"tail"))
    assert not assembler.complete(Observation(1, 2, b""))
    assembler.add(Chunk(1, 3, b"whole"))
    frame = Partial(1, 3, 0, b"")
    assert assembler.complete(frame)
    assert frame.payload == b"whole"


# -- rewards --------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("reward", [None, 0.0, -1.5, math.nan, math.inf, -math.inf, 1e308])
def test_a_reward_travels_exactly(format: Format, reward: float | None) -> None:
    server = frame_codec(f"openenv.v1.{format}", "server", 1 << 20)
    client = frame_codec(f"openenv.v1.{format}", "client", 1 << 20)
    sent = [
        Observation(1, 2, pack({}, format), reward),
        Begun(1, 2, pack({}, format), "e", 1, reward),
    ]
    for frame in client.decode(server.encode(sent)):
        assert not isinstance(frame, BadFrame)
        assert repr(frame.reward) == repr(reward)


def test_no_other_text_is_a_reward() -> None:
    client = frame_codec("openenv.v1.json", "client", 1 << 20)
    [frame] = client.decode('[[36,1,2,{},"nan"]]')
    assert isinstance(frame, BadFrame)
