"""The frames that leave: those of one turn in one message, bounded and in order."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from openenv_async.client.outbox import Outbox
from openenv_async.errors import InvalidModel, OpenEnvError, PayloadTooLarge
from openenv_async.protocol.codec import frame_codec
from openenv_async.protocol.frames import Cancel, Chunk, Renew, State, Step
from openenv_async.types import Limits
from tests.client.fakes import FakeTransport


class Scene:
    """An outbox of this loop that is attached to a transport."""

    def __init__(
        self,
        format: str = "msgpack",
        *,
        peer_size: int = 1 << 30,
        peer_frames: int = sys.maxsize,
        instead: bool = False,
        **limits: Any,
    ) -> None:
        self.refused: list[tuple[Any, OpenEnvError]] = []
        self.instead = instead
        self.outbox = Outbox(asyncio.get_running_loop(), Limits(**limits), self.refuse)
        self.transport = FakeTransport(format)
        codec = frame_codec(self.transport.subprotocol, "client", 1 << 30)
        self.outbox.attach(self.transport, codec, peer_size, peer_frames)

    def refuse(self, frame: Any, error: OpenEnvError) -> Any:
        self.refused.append((frame, error))
        return State(frame.channel, frame.seq) if self.instead else None

    def send(self, *frames: Any) -> None:
        for frame in frames:
            self.outbox.send(frame)


def steps(*sizes: int) -> list[Any]:
    return [Step(1, seq, 0, b"x" * size) for seq, size in enumerate(sizes, 1)]


async def turns(count: int = 1) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_the_frames_of_a_turn_leave_in_one_message() -> None:
    scene = Scene()
    frames = steps(3, 4)
    scene.send(*frames)
    assert scene.transport.messages == []
    await turns()
    assert scene.transport.messages == [frames]
    scene.send(Renew(1))
    await turns()
    assert scene.transport.messages == [frames, [Renew(1)]]
    await turns(3)
    assert len(scene.transport.messages) == 2


async def test_a_message_leaves_at_once_when_all_who_were_woken_have_asked_again() -> None:
    scene = Scene()
    first, second, third = steps(1, 2, 3)
    scene.outbox.answered = 2
    scene.send(first)
    assert scene.transport.messages == []
    scene.send(second)
    assert scene.transport.messages == [[first, second]]
    scene.send(third)
    assert len(scene.transport.messages) == 1
    await turns()
    assert scene.transport.messages == [[first, second], [third]]
    await turns(2)
    assert len(scene.transport.messages) == 2  # the turn's own message was not sent as well


async def test_without_a_transport_everything_is_dropped() -> None:
    scene = Scene()
    assert [scene.outbox.attached] == [True]
    scene.send(*steps(1))
    scene.outbox.detach()
    assert [scene.outbox.attached] == [False]
    scene.send(*steps(1))
    await turns(2)
    codec = frame_codec(scene.transport.subprotocol, "client", 1 << 30)
    scene.outbox.attach(scene.transport, codec, 1 << 30)
    scene.send(Renew(1))
    await turns()
    assert scene.transport.frames == [Renew(1)]


async def test_pieces_that_wait_are_dropped_with_their_transport() -> None:
    scene = Scene(chunk_size=65536)
    scene.send(Step(1, 1, 0, b"x" * 150_000))
    await turns()
    scene.outbox.detach()
    codec = frame_codec(scene.transport.subprotocol, "client", 1 << 30)
    scene.outbox.attach(scene.transport, codec, 1 << 30)
    scene.transport.messages.clear()
    scene.send(Step(1, 1, 0, b"x"))
    await turns(4)
    assert scene.transport.messages == [[Step(1, 1, 0, b"x")]]


async def test_text_goes_as_text() -> None:
    for format in ("json", "msgpack"):
        scene = Scene(format)
        scene.send(Renew(1))
        await turns()
        assert scene.transport.texts == [format == "json"]


async def test_a_congested_transport_is_waited_for() -> None:
    scene = Scene()
    scene.transport.congested = True
    first, second, third = steps(1, 2, 3)
    scene.send(first)
    await turns()
    assert scene.transport.messages == [[first]]
    assert scene.outbox.blocked is not None
    scene.outbox.answered = 1
    scene.send(second, third)
    await turns(5)
    assert scene.transport.messages == [[first]]
    scene.transport.take()
    await turns(3)
    assert scene.transport.messages == [[first], [second, third]]
    assert [scene.outbox.blocked] == [None]


async def test_a_transport_that_breaks_while_it_is_congested_is_no_error_here() -> None:
    scene = Scene()
    scene.transport.congested = scene.transport.broken = True
    scene.send(*steps(1))
    await turns()
    waiting = scene.outbox.blocked
    assert waiting is not None
    scene.transport.take()
    await waiting
    assert scene.outbox.blocked is None


async def test_detaching_ends_what_waits_for_the_transport() -> None:
    scene = Scene()
    scene.transport.congested = True
    scene.send(*steps(1))
    await turns()
    waiting = scene.outbox.blocked
    assert waiting is not None
    scene.outbox.detach()
    assert scene.outbox.blocked is None
    await asyncio.wait([waiting])
    assert waiting.cancelled()


async def test_draining_writes_at_once_and_gives_a_congested_transport_some_time() -> None:
    scene = Scene()
    scene.send(*steps(1))
    await scene.outbox.drain(1.0)
    assert len(scene.transport.messages) == 1
    scene.transport.congested = True
    scene.send(*steps(2))
    await scene.outbox.drain(0.01)
    assert len(scene.transport.messages) == 2
    draining = asyncio.ensure_future(scene.outbox.drain(None))
    await turns(3)
    assert not draining.done()
    scene.transport.take()
    await draining


async def test_a_large_payload_goes_in_pieces_one_a_turn_and_others_between() -> None:
    scene = Scene(chunk_size=65536)
    large, small = Step(1, 1, 0, b"x" * 150_000), Step(1, 2, 0, b"y")
    exact = Step(2, 1, 0, b"z" * 65536)
    scene.send(large, small, exact)
    await turns()
    assert [type(frame) for frame in scene.transport.frames] == [Step, Chunk]
    assert scene.transport.frames[0] == exact
    scene.send(Cancel(3, 1))
    await turns()
    assert scene.transport.messages[2] == [Cancel(3, 1)]
    await turns(4)
    pieces = [frame for frame in scene.transport.frames if type(frame) is Chunk]
    assert [len(piece.payload) for piece in pieces] == [65536, 65536, 150_000 - 2 * 65536]
    assert scene.transport.frames[-2:] == [Step(1, 1, 0, b""), small]


async def test_a_piece_that_left_before_the_turn_ended_is_that_turns_piece() -> None:
    scene = Scene(chunk_size=65536)
    scene.outbox.answered = 2
    scene.send(Renew(1), Step(1, 1, 0, b"x" * 300_000))
    assert [type(frame) for frame in scene.transport.frames] == [Renew, Chunk]
    await turns()
    assert [type(frame) for frame in scene.transport.frames] == [Renew, Chunk, Chunk]
    await turns(5)
    assert len(scene.transport.frames) == 7


async def test_in_json_nothing_goes_in_pieces() -> None:
    scene = Scene("json", chunk_size=65536)
    scene.send(Step(1, 1, 0, b'"' + b"x" * 150_000 + b'"'))
    await turns()
    [step] = scene.transport.frames
    assert len(step.payload) == 150_002


async def test_pieces_wait_for_a_congested_transport() -> None:
    scene = Scene(chunk_size=65536)
    scene.transport.congested = True
    scene.send(Step(1, 1, 0, b"x" * 150_000))
    await turns(4)
    assert len(scene.transport.messages) == 1
    scene.transport.take()
    await turns(8)
    assert scene.transport.frames[-1] == Step(1, 1, 0, b"")


async def test_a_message_is_split_where_it_would_be_too_large() -> None:
    scene = Scene(max_batch_size=3000)
    frames = steps(1000, 1000, 1000, 1000)
    scene.send(*frames)
    await turns()
    assert scene.transport.frames == frames
    assert len(scene.transport.messages) > 1
    assert all(size <= 3000 for size in scene.transport.sizes)


async def test_a_peer_that_takes_few_frames_gets_few_at_once() -> None:
    scene = Scene(peer_frames=2)
    frames = steps(1, 1, 1, 1, 1)
    scene.send(*frames[:2])
    await turns()
    scene.send(*frames)
    await turns()
    assert [len(message) for message in scene.transport.messages] == [2, 2, 2, 1]


async def test_what_the_peer_does_not_take_is_refused_and_the_rest_goes() -> None:
    for instead in (False, True):
        scene = Scene(peer_size=2000, instead=instead)
        small, large, last = Step(1, 1, 0, b"x"), Step(1, 2, 0, b"y" * 3000), Step(1, 3, 0, b"z")
        scene.send(small, large, last)
        await turns()
        assert scene.transport.frames == [small, *([State(1, 2)] if instead else []), last]
        [(frame, error)] = scene.refused
        assert frame is large
        assert isinstance(error, PayloadTooLarge)
        assert error.detail["limit"] == 2000


async def test_the_greatest_message_that_the_peer_takes_goes() -> None:
    scene = Scene()
    scene.send(*steps(500))
    await turns()
    [size] = scene.transport.sizes
    for peer_size, refused in ((size, 0), (size - 1, 1)):
        scene = Scene(peer_size=peer_size)
        scene.send(*steps(500))
        await turns()
        assert len(scene.refused) == refused
        assert len(scene.transport.messages) == 1 - refused


async def test_a_payload_in_pieces_that_is_too_large_is_refused_before_it_is_cut() -> None:
    for instead in (False, True):
        scene = Scene(peer_size=100_000, chunk_size=65536, instead=instead)
        scene.send(Step(1, 1, 0, b"x" * 100_001), Step(1, 2, 0, b"x" * 100_000))
        await turns(5)
        [(frame, error)] = scene.refused
        assert (frame.seq, error.detail["limit"]) == (1, 100_000)
        kinds = [type(frame) for frame in scene.transport.frames]
        assert kinds == [*([State] if instead else []), Chunk, Chunk, Step]


async def test_the_own_limit_holds_as_well_as_the_peers() -> None:
    scene = Scene(max_message_size=2000, max_batch_size=1000)
    scene.send(*steps(3000))
    await turns()
    [(_, error)] = scene.refused
    assert error.detail["limit"] == 2000


async def test_what_no_message_can_carry_is_refused_and_the_rest_goes() -> None:
    for instead in (False, True):
        scene = Scene(instead=instead)
        bad: Any = Step(1, 2, 0, b"x", 10**40)
        scene.send(Renew(1), bad, Renew(2))
        await turns()
        assert scene.transport.frames == [Renew(1), *([State(1, 2)] if instead else []), Renew(2)]
        [(frame, error)] = scene.refused
        assert frame is bad
        assert isinstance(error, InvalidModel)
        assert "cannot be encoded" in error.message
