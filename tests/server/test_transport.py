"""The transport over plain ASGI: order, congestion, holding, and its end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from openenv_async.protocol.codec import WireMessage
from openenv_async.server.transport import AsgiTransport, Message

HIGH_WATER = 64 * 1024


class Peer:
    """The receiver of ASGI messages; it reads while ``reads`` is set."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.reads = asyncio.Event()
        self.reads.set()
        self.fails = False

    async def send(self, message: Message) -> None:
        await self.reads.wait()
        if self.fails:
            raise OSError("gone")
        self.sent.append(message)


class User:
    """The user of a transport, told of congestion."""

    def __init__(self) -> None:
        self.told: list[bool] = []

    def take(self, message: WireMessage) -> None:
        raise AssertionError(message)

    def congestion(self, congested: bool) -> None:
        self.told.append(congested)


async def turns(count: int = 6) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.fixture
async def joined() -> Any:
    peer, user = Peer(), User()
    transport = AsgiTransport(peer.send)
    transport.attach(user)
    yield peer, user, transport
    await transport.aclose()


async def test_messages_leave_in_their_order_as_text_or_bytes(joined: Any) -> None:
    peer, user, transport = joined
    transport.write(b"one", True)
    transport.write(b"two", False)
    assert peer.sent == []
    await turns()
    assert peer.sent == [
        {"type": "websocket.send", "text": "one"},
        {"type": "websocket.send", "bytes": b"two"},
    ]
    assert user.told == [True, False]
    assert not transport.congested


async def test_a_message_read_is_answered_before_the_next_is_read(joined: Any) -> None:
    peer, _, transport = joined
    transport.write(b"one", False)
    await transport.settled()
    assert [message["bytes"] for message in peer.sent] == [b"one"]


async def test_a_peer_that_reads_slowly_is_told_of_once(joined: Any) -> None:
    peer, user, transport = joined
    peer.reads.clear()
    transport.write(b"x" * HIGH_WATER, False)
    assert not transport.congested  # as much may wait
    transport.write(b"y", False)
    transport.write(b"z", False)
    assert transport.congested
    assert user.told == [True]
    await turns()
    assert user.told == [True]
    peer.reads.set()
    await turns()
    assert user.told == [True, False]
    assert len(peer.sent) == 3
    transport.write(b"x" * HIGH_WATER, False)
    assert not transport.congested  # what was sent does not count any more


async def test_two_senders_do_not_mix(joined: Any) -> None:
    """The reader's task and the writer's both send; a message is sent by one of them."""
    peer, _, transport = joined
    peer.reads.clear()
    transport.write(b"one", False)
    await turns()  # the writer waits in send
    transport.write(b"two", False)
    await asyncio.wait_for(transport.settled(), 5)  # the reader leaves it to the writer
    assert peer.sent == []
    peer.reads.set()
    await turns()
    assert [message["bytes"] for message in peer.sent] == [b"one", b"two"]


async def test_a_held_transport_reads_no_more_until_it_is_released(joined: Any) -> None:
    _, _, transport = joined
    transport.hold()
    reading = asyncio.ensure_future(transport.settled())
    await turns()
    assert not reading.done()
    transport.release()
    await asyncio.wait_for(reading, 5)


async def test_a_peer_that_is_gone_ends_the_writer_in_silence(joined: Any) -> None:
    peer, user, transport = joined
    peer.fails = True
    transport.write(b"one", False)
    await turns()
    assert transport._writer.done()
    assert transport._writer.exception() is None
    assert user.told == [True, False]


async def test_aborting_cancels_the_reader() -> None:
    transport = AsgiTransport(Peer().send)
    reader = asyncio.ensure_future(asyncio.sleep(60))
    transport.abort(reader)
    await asyncio.wait([reader])
    assert reader.cancelled()


async def test_after_its_end_nothing_is_sent_and_nobody_told() -> None:
    peer, user = Peer(), User()
    transport = AsgiTransport(peer.send)
    transport.attach(user)
    peer.reads.clear()
    transport.write(b"one", False)
    await turns()
    await transport.aclose()
    assert transport._writer is not None
    assert transport._writer.done()
    peer.reads.set()
    await turns()
    assert peer.sent == []
    assert user.told == [True]
    await AsgiTransport(peer.send).aclose()  # one that never began
