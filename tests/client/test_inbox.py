"""The frames that come in: each for its channel, each reply for its caller."""

from __future__ import annotations

from typing import Any

import numpy as np

from openenv_async.client.channel import Channel
from openenv_async.client.inbox import Inbox
from openenv_async.errors import (
    InvalidModel,
    OpenEnvError,
    PayloadTooLarge,
    ProtocolError,
    SessionLost,
    error_from_wire,
)
from openenv_async.protocol.codec import BadFrame
from openenv_async.protocol.columns import apart, pack_channels, pack_numbers
from openenv_async.protocol.frames import (
    Begun,
    Chunk,
    Closed,
    Failed,
    GoingAway,
    Observation,
    ObservationColumns,
    Open,
    Opened,
    Partial,
    Step,
    Waiting,
    Welcome,
)
from openenv_async.types import Limits
from tests.client.fakes import FakeConnection, channel_of


class FakeOutbox:
    answered = 99


class Scene:
    """An inbox with one channel, number 3."""

    def __init__(self, **limits: Any) -> None:
        self.connection = FakeConnection()
        self.channel: Channel = channel_of(self.connection, 3)
        self.channels = {3: self.channel}
        self.own: list[Any] = []
        outbox: Any = FakeOutbox()
        self.outbox = outbox
        self.inbox = Inbox(self.channels, Limits(**limits), outbox, self.own.append, self.error)

    def error(self, frame: Failed) -> OpenEnvError:
        return error_from_wire(frame.code, frame.message, frame.retryable, {})

    def step(self) -> Any:
        channel = self.channel
        return channel.call(Step(3, channel.next_seq(), channel.acked, b"a"), 1.0)

    def deliver(self, *frames: Any) -> None:
        self.inbox.deliver(frames)


async def test_a_reply_goes_to_its_caller_and_acknowledges_its_request() -> None:
    scene = Scene()
    future = scene.step()
    reply = Observation(3, 1, b"o")
    scene.deliver(reply)
    assert await future is reply
    assert (scene.channel.acked, scene.channel.unanswered()) == (1, {})
    assert [scene.channel.future] == [None]
    assert (scene.outbox.answered, scene.inbox.late_replies) == (1, 0)
    for kind in (Begun(3, 2, b"o", "e", 1), Closed(3, 3)):
        future = scene.step()
        scene.deliver(kind)
        assert await future is kind


async def test_the_callers_that_a_message_wakes_are_counted() -> None:
    scene = Scene()
    other = channel_of(scene.connection, 4)
    scene.channels[4] = other
    first, second = scene.step(), other.call(Step(4, other.next_seq(), 0, b"a"), 1.0)
    scene.deliver(Observation(3, 1, b"o"), Observation(4, 1, b"o"))
    assert scene.outbox.answered == 2
    assert first.done()
    assert second.done()
    scene.deliver(Observation(4, 1, b"o"))
    assert scene.outbox.answered == 0


async def test_the_callers_whose_replies_came_in_columns_are_counted() -> None:
    scene = Scene()
    other = channel_of(scene.connection, 4)
    scene.channels[4] = other
    calls = scene.step(), other.call(Step(4, other.next_seq(), 0, b"a"), 1.0)
    rows, seqs = pack_channels([3, 4]), pack_numbers([1, 1])
    rewards = np.zeros(2).tobytes()
    scene.deliver(ObservationColumns(rows, seqs, apart([b"o", b"o"]), rewards, bytes(2)))
    assert [call.done() for call in calls] == [True, True]
    assert scene.outbox.answered == 2


async def test_a_reply_that_nobody_waits_for_is_late_and_acknowledged() -> None:
    scene = Scene()
    scene.step()
    scene.channel.cancel(1)
    second = scene.step()
    assert list(scene.channel.unanswered()) == [1, 2]
    scene.deliver(Observation(3, 1, b"late"))
    assert not second.done()
    assert (scene.channel.acked, list(scene.channel.unanswered())) == (1, [2])
    assert (scene.inbox.late_replies, scene.outbox.answered) == (1, 0)
    scene.deliver(Observation(3, 2, b"o"))
    assert second.done()
    scene.deliver(Observation(3, 1, b"again"))
    assert (scene.channel.acked, scene.inbox.late_replies) == (2, 2)


async def test_a_reply_for_a_caller_that_was_cancelled_wakes_nobody() -> None:
    scene = Scene()
    future = scene.step()
    future.cancel()
    scene.deliver(Observation(3, 1, b"o"))
    assert (scene.outbox.answered, scene.inbox.late_replies) == (0, 0)
    assert [scene.channel.future] == [None]


async def test_an_error_goes_to_its_caller_with_what_it_is_about() -> None:
    scene = Scene()
    future = scene.step()
    scene.deliver(Failed(3, 1, "invalid_model", "wrong"))
    error = future.exception()
    assert isinstance(error, InvalidModel)
    assert (error.session_id, error.request_id) == (scene.channel.id, 1)
    assert scene.inbox.late_replies == 0
    scene.deliver(Failed(3, 1, "invalid_model", "again"))
    assert scene.inbox.late_replies == 1
    assert 3 in scene.channels


async def test_an_error_of_the_session_ends_it_and_its_channel_is_gone_first() -> None:
    scene = Scene()
    future = scene.step()
    scene.channel.acked, scene.channel.steps = 7, 5
    scene.deliver(Failed(3, 0, "session_lost", "restarted"))
    error = future.exception()
    assert isinstance(error, SessionLost)
    assert error.request_id is None
    assert error.detail["last_acknowledged_step"] == 5
    assert scene.channels == {}
    assert isinstance(scene.channel.error, SessionLost)
    scene = Scene()
    future = scene.step()
    scene.deliver(Failed(3, 0, "invalid_model", "refused"))
    error = future.exception()
    assert isinstance(error, InvalidModel)
    assert "last_acknowledged_step" not in error.detail


async def test_a_frame_that_cannot_be_read_is_the_error_of_its_request() -> None:
    scene = Scene()
    future = scene.step()
    scene.deliver(BadFrame(3, 1, ProtocolError("malformed")))
    assert "malformed" in str(future.exception())


async def test_partials_are_for_the_step_that_is_waited_for() -> None:
    scene = Scene()
    scene.step()
    seen: list[Any] = []
    scene.deliver(Partial(3, 1, 0, b"p"))  # nobody looks
    scene.channel.sink = seen.append
    partial = Partial(3, 1, 1, b"p")
    scene.deliver(partial, Partial(3, 2, 0, b"p"))
    assert seen == [partial]


async def test_an_opening_is_told_of_its_place_and_its_end() -> None:
    scene = Scene()
    opening = scene.channel.call(Open(3, "a" * 32, "b" * 32), 1.0)
    scene.deliver(Waiting(3, 2, 5))
    assert scene.channel.waiting == (2, 5)
    scene.deliver(Opened(3))
    assert opening.done()
    assert scene.channel.opened


async def test_payloads_in_pieces_are_put_together() -> None:
    scene = Scene()
    future = scene.step()
    scene.deliver(Chunk(3, 1, b"ab"))
    scene.deliver(Chunk(3, 1, b"cd"), Observation(3, 1, b""))
    assert (await future).payload == b"abcd"
    other = channel_of(scene.connection, 4)
    scene.channels[4] = other
    first, second = scene.step(), other.call(Step(4, other.next_seq(), 0, b"a"), 1.0)
    scene.deliver(Chunk(3, 2, b"ab"), Observation(4, 1, b"whole"), Observation(3, 2, b""))
    assert (await second).payload == b"whole"
    assert (await first).payload == b"ab"


async def test_a_payload_in_too_many_pieces_is_the_error_of_its_request() -> None:
    scene = Scene(max_message_size=2048)
    future = scene.step()
    for _ in range(3):
        scene.deliver(Chunk(3, 1, b"x" * 1000))
    assert isinstance(future.exception(), PayloadTooLarge)
    scene.deliver(Observation(3, 1, b""))
    assert scene.inbox.late_replies == 0  # it was answered already
    after = scene.step()
    scene.deliver(Observation(3, 2, b"o"))
    assert after.done()


async def test_pieces_of_a_transport_that_is_gone_are_forgotten() -> None:
    scene = Scene()
    future = scene.step()
    scene.deliver(Chunk(3, 1, b"half"))
    scene.inbox.clear()
    scene.deliver(Chunk(3, 1, b"all"), Observation(3, 1, b""))
    assert (await future).payload == b"all"


async def test_frames_of_the_connection_and_of_channels_that_are_gone() -> None:
    scene = Scene()
    own = [Welcome(1, "epoch"), GoingAway("stop", 1.0), Failed(0, 0, "protocol_error", "bad")]
    scene.deliver(*own)
    assert scene.own == own
    assert scene.inbox.late_replies == 0
    scene.deliver(Closed(9, 1))  # as one expects
    assert scene.inbox.late_replies == 0
    scene.deliver(Observation(9, 1, b"o"), Failed(9, 1, "protocol_error", "bad"))
    assert scene.inbox.late_replies == 2
    assert scene.own == own


async def test_what_follows_a_refused_payload_in_its_message_is_delivered() -> None:
    scene = Scene(max_message_size=2048)
    future = scene.step()
    other = channel_of(scene.connection, 4)
    scene.channels[4] = other
    following = other.call(Step(4, other.next_seq(), 0, b"a"), 1.0)
    for _ in range(3):
        scene.deliver(Chunk(3, 1, b"x" * 1000))
    scene.deliver(Observation(3, 1, b""), Observation(4, 1, b"o"))
    assert isinstance(future.exception(), PayloadTooLarge)
    assert following.done()


async def test_frames_of_the_connection_are_no_channels_whatever_its_number() -> None:
    """Also between the pieces of a payload, where frames of channels are looked through."""
    scene = Scene()
    first = channel_of(scene.connection, 1)
    scene.channels[1] = first
    future = first.call(Step(1, first.next_seq(), 0, b"a"), 1.0)
    own = [GoingAway("stop", 1.0), Welcome(1, "epoch")]
    scene.deliver(own[0], Chunk(1, 1, b"ab"), own[1], Chunk(1, 1, b"cd"))
    assert scene.own == own
    scene.deliver(Observation(1, 1, b""))
    assert (await future).payload == b"abcd"
    assert scene.inbox.late_replies == 0
