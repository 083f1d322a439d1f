"""A connection that shares memory with its client: what lies there, and for how long."""

from __future__ import annotations

import gc
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from openenv_async import EngineOptions, Environment, Limits
from openenv_async.client.shared import SharedCodec
from openenv_async.endpoints.segments import Segment, map_segment
from openenv_async.engine import Engine
from openenv_async.engine.shared import SharedConnection
from openenv_async.models import PayloadCodec
from openenv_async.protocol.blocks import SHARED_MEMORY, is_reference, pack_loans
from openenv_async.protocol.codec import encode_map, frame_codec
from openenv_async.protocol.columns import apart, pack_channels, pack_numbers, replies_of
from openenv_async.protocol.frames import (
    PROTOCOL_VERSION,
    Chunk,
    Failed,
    Frame,
    Hello,
    Observation,
    Open,
    Release,
    Reset,
    Step,
    StepColumns,
)
from tests.helpers import Format, Peer, make_engine, pack, token

SIZE = 1 << 20


@dataclass
class Film:
    """One picture of two cameras, and a caption."""

    front: np.ndarray
    back: np.ndarray
    caption: str = ""


class Camera(Environment[dict[str, Any], Film, dict[str, Any]]):
    """Films as many bytes as it is asked for, always into the same array."""

    isolation = "inline"

    def __init__(self) -> None:
        self._film = np.zeros(2 * SIZE, np.uint8)

    def reset(self) -> Film:
        return Film(self._film[:1], self._film[:1])

    def step(self, action: dict[str, Any]) -> Film:
        self._film[:] = action["mark"]
        size = action.get("size", 20_000)
        back = self._film[: 2 * size : 2] if action.get("strided") else self._film[:size]
        return Film(self._film[:size], back, action.get("caption", ""))

    def state(self) -> dict[str, Any]:
        return {"log": "x" * 20_000}


class ThreadCamera(Camera):
    isolation = "thread"  # type: ignore[assignment]  # another one on purpose
    thread_safe = True


class ProcessCamera(Camera):
    isolation = "process"  # type: ignore[assignment]  # another one on purpose


ANY: PayloadCodec[Any] = PayloadCodec(Any, "msgpack")
FILM: PayloadCodec[Film] = PayloadCodec(Film, "msgpack")


class SharedPeer(Peer):
    """A raw client whose connection shares memory with it."""

    def __init__(
        self, engine: Engine, size: int = SIZE, maps: bool = True, limit: int = 1 << 30
    ) -> None:
        super().__init__(engine, hello=False)
        segment = Segment.create(size)
        assert segment is not None
        memory = map_segment([segment.take_fd()], 1 << 30)
        assert memory is not None
        server_codec = frame_codec("openenv.v1.msgpack", "server", limit)
        self.shared = SharedCodec(1 << 30, memory)
        self.raw: list[Any] = []
        self.connection: SharedConnection = SharedConnection(
            engine, server_codec, self._wake, self._cut, segment=segment
        )
        offer: dict[str, Any] = {"max_message_size": limit}
        self.send(Hello(PROTOCOL_VERSION, encode_map(offer | {SHARED_MEMORY: maps}, "msgpack")))
        self.welcome = self.inbox.pop(0)

    @property
    def returns(self) -> int:
        """Return how many loans this end would give back now."""
        return len(self.shared._ended)

    def collect(self) -> None:
        for message in self.connection.take():
            self.raw += self.codec.decode(message)
            self.inbox += self.shared.decode(message)
        self._arrived.set()

    def send(self, *frames: Frame) -> None:
        if self.shared.has_returns:
            frames = (self.shared.take_release(), *frames)
        super().send(*frames)

    async def film(self, seq: int, **action: Any) -> Film:
        """The picture of one step."""
        self.send(Step(1, seq, seq - 1, pack({"mark": seq, **action})))
        reply = await self.next()
        assert isinstance(reply, Observation), reply
        return FILM.decode(reply.payload)


@pytest.mark.parametrize("camera", [Camera, ThreadCamera, ProcessCamera])
async def test_large_arrays_arrive_as_views_of_the_servers_memory(camera: type[Camera]) -> None:
    engine = make_engine(camera)
    peer = SharedPeer(engine)
    await peer.begin()
    film = await peer.film(2, caption="one")
    assert (film.front == 2).all()
    assert (film.back == 2).all()
    assert film.front.shape == (20_000,)
    assert film.caption == "one"
    assert not film.front.flags.writeable
    assert is_reference(peer.raw[-1].payload)
    assert engine.stats.shared_payloads == 1
    assert engine.stats.shared_bytes > 40_000
    strided = await peer.film(3, strided=True)
    assert (strided.back == 3).all()
    assert (film.front == 2).all()
    await engine.aclose()


@dataclass
class Views:
    """Pictures that are stacked, for nothing else is beside them."""

    front: np.ndarray
    back: np.ndarray


class Uncaptioned(Environment[dict[str, Any], Views, dict[str, Any]]):
    """Films without captions."""

    isolation = "inline"

    def __init__(self) -> None:
        self._camera = Camera()

    def reset(self) -> Views:
        film = self._camera.reset()
        return Views(film.front, film.back)

    def step(self, action: dict[str, Any]) -> Views:
        film = self._camera.step(action)
        return Views(film.front, film.back)


@pytest.mark.parametrize("camera", [Camera, Uncaptioned, ThreadCamera])
async def test_a_column_of_any_size_is_one_payload(camera: Any) -> None:
    limits = Limits(chunk_size=50_000)
    engine = make_engine(camera, options=EngineOptions(limits=limits))
    peer = SharedPeer(engine)
    channels = range(1, 5)
    for n in channels:
        await peer.begin(n)
    peer.raw.clear()
    for seq in (2, 3):
        actions = apart([pack({"mark": 10 * seq + n}) for n in channels])
        peer.send(StepColumns(pack_channels(channels), pack_numbers([seq] * 4), actions))
        frames: list[Any] = []
        while sum(len(frame.flags) for frame in frames) < len(channels):
            frames.append(await peer.next())
        replies = [reply for frame in frames for reply in replies_of(frame)]
        for reply in replies:
            film = ANY.decode(reply.payload)
            assert (film["front"] == 10 * seq + reply.channel).all()
            assert (film["back"] == 10 * seq + reply.channel).all()
    assert {reply.channel for reply in replies} == {*channels}
    if camera is not ThreadCamera:  # whose threads may divide the rows
        assert len(peer.raw) == 2
    assert all(is_reference(frame.payload) for frame in peer.raw)
    await engine.aclose()


async def test_a_column_without_room_comes_in_parts() -> None:
    engine = make_engine(Camera, options=EngineOptions(limits=Limits(chunk_size=50_000)))
    peer = SharedPeer(engine, size=20_000)
    channels = range(1, 5)
    peer.send(*(Open(n, token(n), token(n + 1000)) for n in channels))
    peer.send(*(Reset(n, 1, 0) for n in channels))
    peer.inbox.clear()
    actions = apart([pack({"mark": n}) for n in channels])
    peer.send(StepColumns(pack_channels(channels), pack_numbers([2] * 4), actions))
    replies = [reply for frame in peer.inbox for reply in replies_of(frame)]
    assert [FILM.decode(reply.payload).back[-1] for reply in replies] == [*channels]
    assert len(peer.inbox) > 1
    assert engine.stats.shared_full
    await engine.aclose()


async def test_small_payloads_are_in_their_frames() -> None:
    engine = make_engine(Camera)
    peer = SharedPeer(engine)
    await peer.begin()
    film = await peer.film(2, size=1000)
    assert film.front.nbytes == 1000
    assert not engine.stats.shared_payloads
    await engine.aclose()


async def test_what_is_no_array_is_shared_too() -> None:
    engine = make_engine(Camera)
    peer = SharedPeer(engine)
    await peer.begin()
    film = await peer.film(2, size=1, caption="x" * 30_000)
    assert film.caption == "x" * 30_000
    assert is_reference(peer.raw[-1].payload)
    assert peer.returns == 0
    del film  # whose text was copied, and whose small arrays were not
    assert peer.returns == 1
    await engine.aclose()


async def test_a_client_that_maps_nothing_gets_its_payloads_by_the_socket() -> None:
    engine = make_engine(Camera)
    peer = SharedPeer(engine, maps=False)
    await peer.begin()
    assert ((await peer.film(2)).front == 2).all()
    assert not engine.stats.shared_payloads
    await engine.aclose()


async def test_views_that_are_kept_never_change_and_the_rest_goes_by_the_socket(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = make_engine(Camera)
    peer = SharedPeer(engine)
    await peer.begin()
    kept = [await peer.film(seq) for seq in range(2, 60)]
    for seq, film in enumerate(kept, 2):
        assert (film.front == seq).all()
        assert (film.back == seq).all()
    assert engine.stats.shared_payloads == SIZE // (40 * 1024)
    assert engine.stats.shared_full == 58 - engine.stats.shared_payloads
    [record] = [r for r in caplog.records if "max_shared_size" in r.getMessage()]
    assert record.levelno == logging.WARNING
    assert "copy the arrays" in record.getMessage()
    shared = engine.stats.shared_payloads
    part = kept[0].front[5:10]
    kept.clear()
    film = await peer.film(60)
    assert engine.stats.shared_payloads == shared + 1
    assert (part == 2).all()  # a view of a view keeps it
    assert peer.connection.loans == 2
    del film, part
    await engine.aclose()


async def test_memory_stays_flat_when_views_are_let_go() -> None:
    engine = make_engine(Camera)
    peer = SharedPeer(engine)
    await peer.begin()
    for seq in range(2, 200):
        film = await peer.film(seq)
        assert (film.front == seq % 256).all()
        assert peer.connection.loans <= 2
    assert engine.stats.shared_payloads == 198
    assert not engine.stats.shared_full
    assert SIZE - peer.connection.free <= 3 * 40 * 1024
    await engine.aclose()


async def test_a_reply_nobody_decodes_gives_its_loan_back() -> None:
    engine = make_engine(Camera)
    peer = SharedPeer(engine)
    await peer.begin()
    peer.send(Step(1, 2, 1, pack({"mark": 2})))
    await peer.next()  # and let go of
    assert peer.shared.has_returns
    await peer.film(3)
    assert peer.connection.loans == 1
    await engine.aclose()


async def test_a_reply_is_repeated_as_it_was_on_this_connection() -> None:
    engine = make_engine(Camera)
    peer = SharedPeer(engine)
    await peer.begin()
    step = Step(1, 2, 1, pack({"mark": 2}))
    peer.send(step)
    first = FILM.decode((await peer.next()).payload)
    assert (first.front == 2).all()
    del first
    peer.send(step)  # its loan has come back by now, and the reply is not acknowledged
    again = FILM.decode((await peer.next()).payload)
    assert (again.front == 2).all()
    assert engine.stats.duplicates == 1
    await engine.aclose()


@pytest.mark.parametrize("to", ["msgpack", "json", "shared"])
async def test_a_reply_is_repeated_on_another_connection(to: Any) -> None:
    engine = make_engine(Camera)
    peer = SharedPeer(engine)
    await peer.begin()
    step = Step(1, 2, 1, pack({"mark": 2}))
    peer.send(step)
    await peer.next()
    peer.connection.lost()
    other = SharedPeer(engine) if to == "shared" else Peer(engine, to)
    other.send(Open(4, token(1), token(1001), True, 1))
    await other.next()
    format: Format = "json" if to == "json" else "msgpack"
    other.send(Step(4, 2, 1, pack({"mark": 2}, format)))
    reply = await other.next()
    codec: PayloadCodec[Film] = PayloadCodec(Film, format)
    film = codec.decode(reply.payload)
    assert (film.front == 2).all()
    assert len(film.back) == 20_000
    assert engine.stats.duplicates == 1
    await engine.aclose()


async def test_views_outlive_the_connection() -> None:
    engine = make_engine(Camera)
    peer = SharedPeer(engine)
    await peer.begin()
    film = await peer.film(2)
    peer.connection.lost(left=True)
    await engine.aclose()
    del peer
    gc.collect()
    assert (film.front == 2).all()


async def test_a_payload_over_the_peers_limit_is_refused_as_ever() -> None:
    engine = make_engine(Camera)
    peer = SharedPeer(engine, limit=30_000)
    await peer.begin()
    peer.send(Step(1, 2, 1, pack({"mark": 2})))
    reply = await peer.next()
    assert isinstance(reply, Failed)
    assert reply.code == "payload_too_large"
    await engine.aclose()


async def test_a_payload_without_room_comes_in_pieces() -> None:
    engine = make_engine(Camera, limits=Limits(chunk_size=100_000))
    peer = SharedPeer(engine, size=64 * 1024)
    await peer.begin()
    peer.send(Step(1, 2, 1, pack({"mark": 2, "size": 150_000})))
    while peer.connection.pending:
        peer.collect()
    assert [type(frame) for frame in peer.take()] == [Chunk] * 4 + [Observation]
    assert engine.stats.shared_full == 1
    await engine.aclose()


@pytest.mark.parametrize("loans", [pack_loans([99]), b"", b"\1\2\3", pack_loans([1, 1])])
async def test_what_was_not_lent_cannot_be_given_back(loans: bytes) -> None:
    engine = make_engine(Camera)
    peer = SharedPeer(engine)
    await peer.begin()
    film = await peer.film(2)
    peer.send(Release(loans))
    if loans:
        failed = await peer.next()
        assert (failed.channel, failed.code) == (0, "protocol_error")
        assert engine.stats.bad_frames == 1
    assert (film.front == 2).all()
    assert ((await peer.film(3)).front == 3).all()  # and the session goes on
    await engine.aclose()


async def test_a_connection_without_shared_memory_takes_no_release() -> None:
    engine = make_engine(Camera)
    peer = Peer(engine)
    peer.send(Release(pack_loans([1])))
    failed = await peer.next()
    assert (failed.channel, failed.code) == (0, "protocol_error")
    assert "no shared memory" in failed.message
    await engine.aclose()


async def test_a_session_that_is_parked_does_not_hold_the_memory() -> None:
    engine = make_engine(Camera)
    peer = SharedPeer(engine)
    await peer.begin()
    peer.send(Step(1, 2, 1, pack({"mark": 2})))
    await peer.next()
    [session] = engine.sessions.values()
    kept = session.log.get(2)
    assert kept is not None
    reply: Any = kept.reply
    before = reply.payload
    assert isinstance(before, memoryview)
    peer.connection.lost()
    assert isinstance(reply.payload, bytes)
    assert reply.payload == before
    assert peer.connection.free == 0  # there is none any more
    await engine.aclose()
