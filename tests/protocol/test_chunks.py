"""Large payloads in pieces: cut, mixed with others, put together, and bounded."""

from __future__ import annotations

import time
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openenv_async.errors import PayloadTooLarge, ProtocolError
from openenv_async.protocol.chunks import Assembler, ChunkQueue
from openenv_async.protocol.frames import Cancel, Chunk, Closed, Observation, Open, Reset, Step
from tests.helpers import Counter, Peer, make_engine, pack

SIZE = 10


def received(messages: list[list[Any]], assembler: Assembler) -> list[Any]:
    frames = []
    for message in messages:
        for frame in message:
            if isinstance(frame, Chunk):
                assembler.add(frame)
                continue
            payload = getattr(frame, "payload", None)
            if frame.channel in assembler.parts and payload is not None and not len(payload):
                assembler.fill(frame)
            frames.append(frame)
    return frames


@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.integers(1, 45), st.booleans()), min_size=1, max_size=12
    )
)
def test_what_is_cut_is_put_together_in_order(plan: list[tuple[int, int, bool]]) -> None:
    queue = ChunkQueue(SIZE)
    sent: dict[int, list[Any]] = {}
    for seq, (channel, size, with_payload) in enumerate(plan, 1):
        payload = bytes([seq]) * size
        frame: Any = Step(channel, seq, 0, payload) if with_payload else Cancel(channel, seq)
        length = size if with_payload else 0
        sent.setdefault(channel, [])
        if queue.takes(channel, length):
            queue.put(frame)
            sent[channel].append((type(frame), seq, payload if with_payload else None))
    messages = []
    while queue.channels:
        messages.append(queue.next())
        assert sum(isinstance(frame, Chunk) for frame in messages[-1]) <= 1
        assert all(len(frame.payload) <= SIZE for frame in messages[-1] if isinstance(frame, Chunk))
    got: dict[int, list[Any]] = {channel: [] for channel in sent}
    assembler = Assembler(1000, 1000)
    for frame in received(messages, assembler):
        whole = bytes(frame.payload) if isinstance(frame, Step) else None
        got[frame.channel].append((type(frame), frame.seq, whole))
    assert got == sent
    assert not assembler.parts
    assert assembler._size == 0


def test_channels_take_turns() -> None:
    queue = ChunkQueue(SIZE)
    for channel in (1, 2):
        queue.put(Observation(channel, 5, b"x" * 35))
    order = []
    while queue.channels:
        order.append(queue.next()[0].channel)  # type: ignore[attr-defined]  # every one has it
    assert order == [1, 2, 1, 2, 1, 2, 1, 2]


def test_small_frames_pass_unless_their_channel_waits() -> None:
    queue = ChunkQueue(SIZE)
    assert not queue.takes(1, SIZE)
    assert queue.takes(1, SIZE + 1)
    queue.put(Step(1, 1, 0, b"x" * 11))
    assert queue.takes(1, 0)
    assert not queue.takes(2, 0)
    queue.put(Closed(1, 2))
    queue.drop(1)
    assert not queue.channels
    queue.put(Closed(1, 2))
    queue.clear()
    assert not queue.channels


def test_pieces_of_another_request_replace_those_that_were_given_up() -> None:
    assembler = Assembler(100, 1000)
    assembler.add(Chunk(1, 2, b"old"))
    assembler.add(Chunk(1, 3, b"new"))
    with pytest.raises(ProtocolError, match="without the chunks"):
        assembler.fill(Step(1, 2, 0, b""))
    frame = Step(1, 3, 0, b"")
    assembler.fill(frame)
    assert frame.payload == b"new"
    with pytest.raises(ProtocolError):
        assembler.fill(Step(1, 3, 0, b""))


def test_one_payload_is_bounded() -> None:
    assembler = Assembler(25, inf)
    assembler.add(Chunk(1, 2, b"x" * 20))
    with pytest.raises(PayloadTooLarge) as caught:
        assembler.add(Chunk(1, 2, b"x" * 6))
    assert caught.value.detail == {"size": 26, "limit": 25}
    assert not any(parts.pieces for parts in assembler.parts.values())


def test_all_of_a_connection_are_bounded() -> None:
    assembler = Assembler(1000, 3000)
    for channel in range(1, 3):
        assembler.add(Chunk(channel, 1, b"x" * 1000))
    with pytest.raises(PayloadTooLarge):
        assembler.add(Chunk(3, 1, b"x" * 1000))
    assembler.drop(1)
    assembler.add(Chunk(3, 1, b"x" * 1000))
    assembler.clear()
    assert assembler._size == 0


def test_a_flood_of_empty_or_tiny_pieces_is_bounded_and_linear() -> None:
    assembler = Assembler(1_000_000, 4_000_000)
    began = time.thread_time()
    for piece in (b"", b"x"):
        with pytest.raises(PayloadTooLarge):
            flood(assembler, piece)
        assembler.clear()
    assert time.thread_time() - began < 5


def flood(assembler: Assembler, piece: bytes) -> None:
    for _ in range(1_000_000):
        assembler.add(Chunk(1, 1, piece))


def test_the_bytes_that_wait_are_counted_exactly() -> None:
    queue = ChunkQueue(SIZE)
    assert queue.size == 0
    queue.put(Step(1, 1, 0, b"x" * 25))
    queue.put(Closed(1, 2))
    queue.put(Step(1, 3, 0, b"y" * 10))  # just a chunk: it is not cut
    queue.put(Step(2, 1, 0, b"z" * 11))
    assert queue.size == 46
    left = []
    while queue.channels:
        frames = queue.next()
        left.append((type(frames[0]).__name__, len(frames), queue.size))
    assert left == [
        ("Chunk", 1, 36),
        ("Chunk", 1, 26),
        ("Chunk", 1, 26 - 10),
        ("Chunk", 2, 26 - 10 - 1),
        ("Chunk", 2, 10),
        ("Closed", 1, 10),
        ("Step", 1, 0),
    ]


def test_what_is_dropped_counts_no_more() -> None:
    queue = ChunkQueue(SIZE)
    queue.put(Step(1, 1, 0, b"x" * 25))
    queue.put(Closed(1, 2))
    queue.put(Step(2, 1, 0, b"y" * 15))
    [chunk] = queue.next()
    assert isinstance(chunk, Chunk)
    assert (chunk.channel, chunk.seq, bytes(chunk.payload)) == (1, 1, b"x" * 10)
    queue.drop(1)
    assert (queue.size, list(queue.channels)) == (15, [2])
    queue.drop(1)
    assert queue.size == 15
    queue.clear()
    assert (queue.size, bool(queue.channels)) == (0, False)


def test_an_opening_in_pieces_has_no_number() -> None:
    queue = ChunkQueue(SIZE)
    queue.put(Open(3, "a" * 32, "b" * 32, payload=b"x" * 15))
    [chunk] = queue.next()
    last, opening = queue.next()
    assert isinstance(chunk, Chunk)
    assert isinstance(last, Chunk)
    assert isinstance(opening, Open)
    assert (chunk.seq, last.seq, opening.payload) == (0, 0, b"")
    assembler = Assembler(100, 1000)
    assembler.add(chunk)
    assembler.add(last)
    assert assembler.complete(opening)
    assert opening.payload == b"x" * 15


def test_the_limits_of_an_assembler_are_reached_and_not_passed() -> None:
    """Each piece costs 64 bytes of memory beside its own."""
    assembler = Assembler(25, inf)
    assembler.add(Chunk(1, 2, b"x" * 20))
    assembler.add(Chunk(1, 2, b"x" * 5))
    frame = Step(1, 2, 0, b"")
    assert assembler.fill(frame)
    assert len(frame.payload) == 25
    assembler = Assembler(1000, 200)
    assembler.add(Chunk(1, 1, b"x" * 36))  # 100
    assembler.add(Chunk(2, 1, b"x" * 36))
    assembler.drop(2)
    assembler.add(Chunk(2, 1, b"x" * 35))
    with pytest.raises(PayloadTooLarge):
        assembler.add(Chunk(3, 1, b""))
    assembler.drop(2)
    assembler.add(Chunk(3, 1, b"x" * 36))


def test_a_refused_payload_is_told_of_once_and_its_frame_is_dropped() -> None:
    assembler = Assembler(10, 1000)
    with pytest.raises(PayloadTooLarge) as raised:
        assembler.add(Chunk(1, 2, b"x" * 11))
    assert raised.value.detail == {"size": 11, "limit": 10}
    for _ in range(3):
        assembler.add(Chunk(1, 2, b"x" * 11))  # no second error, and nothing is kept
    assert assembler._size == 0
    assert not assembler.complete(Step(1, 2, 0, b""))
    assert not assembler.parts
    with pytest.raises(ProtocolError):
        assembler.complete(Step(1, 2, 0, b""))


def test_frames_without_pieces_pass_an_assembler() -> None:
    assembler = Assembler(10, 1000)
    assembler.add(Chunk(1, 2, b"piece"))
    assert assembler.complete(Cancel(1, 2))
    assert assembler.complete(Closed(1, 2))
    assert assembler.complete(Step(1, 2, 0, b"whole"))
    assert 1 in assembler.parts  # they are for the frame that is empty
    frame = Step(1, 2, 0, b"")
    assert assembler.complete(frame)
    assert frame.payload == b"piece"


def test_the_number_of_a_refused_payload_may_be_used_again() -> None:
    assembler = Assembler(10, 1000)
    for seq, gone in ((3, False), (2, True)):
        with pytest.raises(PayloadTooLarge):
            assembler.add(Chunk(1, 2, b"x" * 11))
        assert assembler.complete(Step(1, seq, 0, b"small"))
        assert (1 not in assembler.parts) == gone
        assembler.clear()


# -- what a small change would break ----------------------------------------------------------


def test_a_payload_of_whole_chunks_ends_with_its_last() -> None:
    queue = ChunkQueue(SIZE)
    queue.put(Step(1, 1, 0, b"x" * (2 * SIZE)))
    assert [len(queue.next()) for _ in range(2)] == [1, 2]
    assert (queue.size, queue.channels) == (0, {})


def test_what_was_given_up_or_refused_takes_no_room() -> None:
    assembler = Assembler(100, 1000)
    assembler.add(Chunk(1, 2, b"old"))
    assembler.add(Chunk(1, 3, b"newer"))
    assert assembler._size == 64 + 5
    with pytest.raises(PayloadTooLarge):
        assembler.add(Chunk(1, 3, b"x" * 96))
    assert assembler._size == 0
    assembler.drop(1)
    assert (assembler._size, assembler.parts) == (0, {})


def test_each_piece_costs_64_bytes_beside_its_own() -> None:
    assembler = Assembler(1000, 200)
    assembler.add(Chunk(1, 1, b"x" * 36))
    with pytest.raises(PayloadTooLarge):
        assembler.add(Chunk(2, 1, b"x" * 37))
    assembler.add(Chunk(3, 1, b"x" * 36))


def test_an_opening_that_was_refused_may_come_again_in_one_piece() -> None:
    assembler = Assembler(10, 1000)
    with pytest.raises(PayloadTooLarge):
        assembler.add(Chunk(3, 0, b"x" * 11))
    assert assembler.complete(Open(3, "a" * 32, "b" * 32, payload=b"small"))
    assert not assembler.parts


# -- with an engine -----------------------------------------------------------------------


async def test_an_action_in_pieces() -> None:
    engine = make_engine(Counter)
    peer = Peer(engine)
    await peer.begin()
    action = pack({"nonce": "x" * 100})
    peer.send(Chunk(1, 2, action[:40]))
    peer.send(Chunk(1, 2, action[40:]), Step(1, 2, 1, b""))
    reply = await peer.next()
    assert isinstance(reply, Observation), reply
    await engine.aclose()


async def test_pieces_before_a_greeting_or_a_close_are_no_harm() -> None:
    """Found by the fuzzer: a Hello has no channel to look pieces up by."""
    from openenv_async.protocol.frames import Close, Hello, Welcome

    engine = make_engine(Counter)
    peer = Peer(engine)
    await peer.begin()
    peer.send(Chunk(1, 2, b"abc"), Hello(1), Close(1, 2, 1))
    first, second = peer.take()
    assert isinstance(first, Welcome)
    assert isinstance(second, Closed)
    peer.send(Chunk(7, 1, b"abc"), Reset(7, 1, 0, b""))
    [reply] = peer.take()
    assert reply.code == "session_not_found"
    await engine.aclose()
