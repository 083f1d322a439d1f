"""One session's place on a connection: numbers, the call that waits, and what is not answered."""

from __future__ import annotations

import asyncio
from math import inf
from typing import Any

import pytest

from openenv_async.client.channel import Channel, StreamedStep
from openenv_async.client.outbox import Outbox
from openenv_async.errors import (
    ConnectionLost,
    DeadlineExceeded,
    InvalidModel,
    SessionClosed,
    SessionLost,
)
from openenv_async.protocol.codec import frame_codec
from openenv_async.protocol.frames import (
    Cancel,
    Close,
    Credit,
    Observation,
    Open,
    Opened,
    Partial,
    Reset,
    State,
    Step,
)
from openenv_async.types import Limits
from tests.client.fakes import FakeConnection, FakeLoop, FakeTransport, channel_of
from tests.scheduling import run

GRACE = 5.0
"""Seconds after the server's deadline at which the client stops waiting."""


def made(number: int = 3) -> tuple[FakeConnection, Channel]:
    connection = FakeConnection()
    return connection, channel_of(connection, number)


def step(channel: Channel, **fields: Any) -> Step:
    return Step(channel.number, channel.next_seq(), channel.acked, b"a", **fields)


async def test_a_call_is_sent_and_waited_for_under_its_number() -> None:
    connection, channel = made()
    request = step(channel)
    future = channel.call(request, 10.0)
    assert connection.sent == [request]
    assert (request.channel, request.seq) == (3, 1)
    assert (channel.future, channel.waited, channel.asked) == (future, 1, request)
    assert channel.due == connection.loop.time() + 10.0 + GRACE
    assert connection.deadlines.watched == [(channel, channel.due)]
    assert channel.unanswered() == {1: request}
    assert channel.settle(1)
    assert not channel.settle(1)
    assert channel.unanswered() == {}


async def test_a_call_without_a_deadline_is_not_watched() -> None:
    connection, channel = made()
    channel.call(step(channel), 10.0)
    channel.settle(1)
    channel.call(step(channel), None)
    assert channel.due == inf
    assert len(connection.deadlines.watched) == 1
    assert channel.check(connection.loop.time() + 1e9) is None


async def test_a_later_deadline_is_not_watched_anew() -> None:
    connection, channel = made()
    channel.call(step(channel), 10.0)
    channel.settle(1)
    connection.loop.clock.advance(1.0)
    channel.call(step(channel), 10.0)
    assert len(connection.deadlines.watched) == 1
    channel.settle(2)
    channel.call(step(channel), 1.0)
    assert [when for _, when in connection.deadlines.watched] == [1015.0, 1007.0]


async def test_a_call_on_what_is_over_meets_the_error() -> None:
    connection, channel = made()
    error = SessionLost("gone")
    channel.fail(error)
    connection.error = ConnectionLost("lost")
    with pytest.raises(SessionLost, match="gone") as raised:
        await channel.call(step(channel), 1.0)
    assert raised.value is not error  # a traceback of its own
    channel.error = None
    with pytest.raises(ConnectionLost, match="lost"):
        await channel.call(step(channel), 1.0)
    assert connection.sent == []


async def test_a_close_ends_the_call_that_runs() -> None:
    _connection, channel = made()
    running = channel.call(step(channel), 1.0)
    closing = channel.call(Close(3, channel.next_seq(), 0), 1.0)
    with pytest.raises(SessionClosed, match="while this call was running"):
        await running
    assert channel.future is closing
    assert list(channel.unanswered()) == [1, 2]


async def test_a_call_that_is_given_up_is_cancelled_and_still_kept() -> None:
    connection, channel = made()
    first = step(channel)
    channel.call(first, 1.0)
    channel.cancel(1)
    assert [channel.future] == [None]
    assert connection.sent == [first, Cancel(3, 1)]
    second = step(channel)
    waiting = channel.call(second, 1.0)
    assert channel.unanswered() == {1: first, 2: second}
    channel.cancel(1)  # once more, while another one waits
    assert channel.future is waiting
    assert connection.sent[-1] == Cancel(3, 1)
    assert channel.settle(1)
    assert channel.unanswered() == {2: second}
    channel.cancel(1)
    channel.cancel(9)
    assert len(connection.sent) == 4  # nothing more to cancel


async def test_credit_is_told_and_kept_for_another_transport() -> None:
    connection, channel = made()
    request = step(channel, credit=4)
    channel.call(request, 1.0)
    channel.grant(1, 2)
    assert request.credit == 6
    assert connection.sent[-1] == Credit(3, 1, 2)
    channel.cancel(1)
    channel.call(step(channel), 1.0)
    channel.grant(1, 3)
    assert request.credit == 9


async def test_an_opening_is_answered_once() -> None:
    _connection, channel = made()
    future = channel.call(Open(3, channel.id, channel.secret), 1.0)
    assert channel.waited == 0
    channel.waiting = (2, 3)
    opened = Opened(3)
    channel.on_opened(opened)
    assert channel.opened
    assert [channel.waiting, channel.future] == [None, None]
    assert await future is opened
    running = channel.call(step(channel), 1.0)
    channel.on_opened(opened)  # the session was resumed
    assert channel.future is running
    assert not running.done()


async def test_an_opening_that_nobody_waits_for_is_no_error() -> None:
    _, channel = made()
    future = channel.call(Open(3, channel.id, channel.secret), 1.0)
    future.cancel()
    channel.on_opened(Opened(3))
    assert channel.opened
    _, channel = made()
    channel.call(Open(3, channel.id, channel.secret), 1.0)
    channel.cancel(0)
    channel.on_opened(Opened(3))
    assert channel.opened


async def test_an_opening_that_was_given_up_answers_no_later_call() -> None:
    _, channel = made()
    channel.call(Open(3, channel.id, channel.secret), 1.0)
    channel.cancel(0)
    running = channel.call(step(channel), 1.0)
    channel.on_opened(Opened(3))
    assert channel.opened
    assert channel.future is running
    assert not running.done()
    assert list(channel.unanswered()) == [1]


async def test_errors_are_for_their_own_request() -> None:
    _, channel = made()
    first = channel.call(step(channel), 1.0)
    channel.cancel(1)
    second = channel.call(step(channel), 1.0)
    assert not channel.on_failed(1, InvalidModel("first"))
    assert not first.done()
    assert not second.done()
    assert (channel.acked, list(channel.unanswered())) == (1, [2])
    error = InvalidModel("second")
    assert channel.on_failed(2, error)
    assert (channel.acked, channel.future, channel.unanswered()) == (2, None, {})
    with pytest.raises(InvalidModel, match="second"):
        await second
    assert not channel.on_failed(1, error)
    assert channel.acked == 2


async def test_an_error_for_a_caller_that_was_cancelled_is_dropped() -> None:
    _, channel = made()
    future = channel.call(step(channel), 1.0)
    future.cancel()
    assert channel.on_failed(1, InvalidModel("late"))
    assert channel.future is None


async def test_a_request_that_cannot_be_sent_gives_its_number_back() -> None:
    _, channel = made()
    future = channel.call(step(channel), 1.0)
    assert channel.refuse(1, InvalidModel("too large")) is None
    assert channel.seq == 0
    with pytest.raises(InvalidModel) as raised:
        await future
    assert raised.value.session_id == channel.id
    first = channel.call(step(channel), 1.0)
    channel.cancel(1)
    channel.call(step(channel), 1.0)
    channel.acked = 5
    assert channel.refuse(1, InvalidModel("too large")) == State(3, 1, 5)
    assert channel.seq == 2
    assert list(channel.unanswered()) == [2]
    assert not first.done()
    assert channel.refuse(0, InvalidModel("an opening")) is None
    assert channel.seq == 2


async def test_the_end_of_a_session() -> None:
    connection, channel = made()
    future = channel.call(step(channel), 1.0)
    channel.cancel(1)
    waiting = channel.call(step(channel), 1.0)
    channel.lose(ConnectionLost("died"))
    assert connection.forgotten == [channel]
    assert channel.unanswered() == {}
    assert not future.done()
    with pytest.raises(ConnectionLost, match="died"):
        await waiting
    assert isinstance(channel.error, ConnectionLost)
    channel.fail(ConnectionLost("again"))  # nobody waits


async def test_losing_a_session_keeps_the_reason_whatever_forgetting_says() -> None:
    connection, channel = made()
    connection.forget = lambda channel: channel.fail(SessionClosed("by this side"))  # type: ignore[method-assign]
    channel.lose(ConnectionLost("died"))
    assert isinstance(channel.error, ConnectionLost)


async def test_closing_soon_asks_and_forgets() -> None:
    connection, channel = made()
    channel.acked = 4
    channel.close_soon()
    assert connection.sent == [Close(3, 1, 4)]
    assert connection.forgotten == [channel]
    channel.error = SessionLost("gone")
    channel.close_soon()
    assert len(connection.sent) == 1
    assert connection.forgotten == [channel, channel]


async def test_progress_is_told_with_the_error() -> None:
    _, channel = made()
    channel.acked, channel.steps = 7, 5
    error = SessionLost("gone")
    channel.add_progress(error)
    assert error.detail["last_acknowledged_request"] == 7
    assert error.detail["last_acknowledged_step"] == 5


async def test_what_is_sent_on_a_new_transport() -> None:
    _, channel = made()
    opening = Open(3, channel.id, channel.secret)
    channel.call(opening, 1.0)
    assert channel.resumption() == [opening]
    channel.on_opened(Opened(3))
    channel.acked = 1
    resume = Open(3, channel.id, channel.secret, True, 1)
    assert channel.resumption() == [resume]
    first = step(channel)
    channel.call(first, 1.0)
    assert channel.resumption() == [resume, first]
    channel.cancel(1)
    assert channel.resumption() == [resume, first, Cancel(3, 1)]
    second = Reset(3, channel.next_seq(), 1)
    channel.call(second, 1.0)
    assert channel.resumption() == [resume, first, Cancel(3, 1), second]


async def test_credit_granted_while_a_step_waits_to_be_sent_again_counts_once() -> None:
    connection, channel = made()
    channel.on_opened(Opened(3))
    channel.call(step(channel, credit=4), 1.0)
    _, again = channel.resumption()
    channel.grant(1, 2)
    assert isinstance(again, Step)
    assert again.credit == 4
    assert connection.sent[-1] == Credit(3, 1, 2)


async def test_an_opening_that_was_given_up_is_not_cancelled_by_number() -> None:
    _, channel = made()
    opening = Open(3, channel.id, channel.secret)
    channel.call(opening, 1.0)
    channel.cancel(0)
    assert channel.resumption() == [opening]


async def test_a_channel_goes_on_where_another_stopped() -> None:
    _, old = made()
    request = step(old)
    old.call(request, 1.0)
    old.acked, old.steps = 4, 3
    _, new = made(8)
    new.succeed(old)
    assert (new.seq, new.acked, new.steps) == (1, 4, 3)
    assert new.unanswered() == {1: request}


# -- deadlines ------------------------------------------------------------------------------


async def test_a_server_that_is_late_with_its_own_deadline_is_given_up() -> None:
    connection, channel = made()
    future = channel.call(step(channel), 10.0)
    due = connection.loop.time() + 10.0 + GRACE
    assert channel.check(due - 0.001) == due
    assert not future.done()
    assert channel.check(due) is None
    assert connection.doubted == [(due - GRACE, due)]
    assert connection.sent[-1] == Cancel(3, 1)
    assert (channel.future, channel.due) == (None, inf)
    with pytest.raises(DeadlineExceeded, match="did not answer within the deadline") as raised:
        await future
    assert raised.value.session_id == channel.id
    assert raised.value.request_id == 1
    assert channel.check(due + 1) is None


async def test_a_loop_that_was_blocked_looks_again_a_second_later() -> None:
    _connection, channel = made()
    future = channel.call(step(channel), 10.0)
    due = channel.due
    assert channel.check(due + 1.0) is None  # no later than a second: it is the server
    assert future.done()
    future.exception()
    future = channel.call(step(channel), 10.0)
    due = channel.due
    late = due + 1.001
    assert channel.check(late) == late + 1.0
    assert not future.done()
    assert channel.check(late + 1.0) is None
    assert future.done()
    assert isinstance(future.exception(), DeadlineExceeded)


class TurningLoop(FakeLoop):
    """The time, and the turns of the running loop."""

    def call_soon(self, callback: Any, *args: Any) -> asyncio.Handle:
        return asyncio.get_running_loop().call_soon(callback, *args)


async def test_a_step_has_its_whole_time_though_others_computed_in_its_turn() -> None:
    connection: Any = FakeConnection()
    connection.loop = loop = TurningLoop()
    connection.clock = loop.time
    connection.outbox = outbox = Outbox(connection.loop, Limits(), lambda frame, error: None)
    transport = FakeTransport()
    outbox.attach(transport, frame_codec(transport.subprotocol, "client", 1 << 30), 1 << 30)
    early, late = (channel_of(connection, number) for number in (1, 2))
    begun = loop.time()
    early.step(b"a", asyncio.Future(), 4.0)
    loop.clock.advance(60.0)  # the caller of the second chooses its action meanwhile
    late.step(b"a", asyncio.Future(), 4.0)
    await asyncio.sleep(0)
    assert [len(message) for message in transport.messages] == [2]
    assert early.due == begun + 4.0 + GRACE
    assert late.due == begun + 60.0 + 4.0 + GRACE


async def test_an_answer_is_waited_for_on_another_transport() -> None:
    connection, channel = made()
    future = channel.call(step(channel), 10.0)
    now = channel.due
    connection.suspected_at = now - 1.0  # a transport was abandoned for it a second ago
    assert channel.check(now) == now - 1.0 + GRACE == channel.due
    assert not future.done()
    connection.suspected_at = now - GRACE
    channel.due = now
    assert channel.check(now) is None
    assert isinstance(future.exception(), DeadlineExceeded)


async def test_nothing_is_due_when_nobody_waits_or_all_is_over() -> None:
    _connection, channel = made()
    assert channel.check(1e9) is None
    future = channel.call(step(channel), 10.0)
    channel.error = SessionLost("gone")
    assert channel.check(channel.due) is None
    assert not future.done()
    channel.error = None
    future.cancel()
    assert channel.check(channel.due) is None  # its caller has gone: no error for it


# -- streams --------------------------------------------------------------------------------


def streaming(credit: int) -> tuple[FakeConnection, Channel, StreamedStep]:
    connection, channel = made()
    return connection, channel, StreamedStep(channel, step(channel, credit=credit), 10.0)


def show(channel: Channel, index: int) -> None:
    assert channel.sink is not None
    channel.sink(Partial(3, 1, index, b"x"))


async def test_partials_come_once_and_in_order() -> None:
    connection, channel, stream = streaming(8)
    for index in (0, 1, 0, 1, 2, 4):  # after a reconnect they come again; one is missing
        show(channel, index)
    reply = Observation(3, 1, b"end")
    stream.reply.set_result(reply)
    got = []
    while (partial := await stream.next()) is not None:
        got.append(partial.index)
    assert got == [0, 1, 2]
    stream.close()
    assert channel.sink is None
    assert len(connection.sent) == 1


async def test_credit_is_given_back_when_half_of_it_is_used() -> None:
    connection, channel, stream = streaming(4)
    for index in range(4):
        show(channel, index)
    for granted in ([], [], [2], [2]):
        await stream.next()
        assert [frame.units for frame in connection.sent if type(frame) is Credit] == granted
    stream.close()


async def test_a_stream_waits_for_what_comes_next_or_for_its_end() -> None:
    _connection, channel, stream = streaming(8)
    waiting = asyncio.ensure_future(stream.next())
    await asyncio.sleep(0)
    assert not waiting.done()
    show(channel, 0)
    partial = await waiting
    assert partial is not None
    waiting = asyncio.ensure_future(stream.next())
    await asyncio.sleep(0)
    stream.reply.set_result(Observation(3, 1, b"end"))
    assert await waiting is None
    stream.close()


async def test_leaving_a_stream_cancels_its_step() -> None:
    connection, channel, stream = streaming(8)
    other = channel.sink = lambda partial: None
    stream.close()
    assert channel.sink is other  # another call's
    assert stream.reply.cancelled()
    assert connection.sent[-1] == Cancel(3, 1)
    stream.close()
    connection, channel, stream = streaming(8)
    stream.reply.set_exception(InvalidModel("failed"))
    stream.close()  # an error that nobody wants is retrieved
    assert type(connection.sent[-1]) is Step


def test_an_error_that_nobody_asks_for_is_not_reported_by_the_loop() -> None:
    async def scenario() -> None:
        for error in (InvalidModel("failed"), None):
            _connection, channel, stream = streaming(8)
            if error is None:
                stream.reply.set_result(Observation(3, 1, b"end"))
            else:
                stream.reply.set_exception(error)
            stream.close()
            stream.close()
            channel.future = None

    run(scenario)


async def test_partials_that_wait_are_taken_before_the_end_is_told() -> None:
    _connection, channel, stream = streaming(8)
    waiting = asyncio.ensure_future(stream.next())
    await asyncio.sleep(0)
    show(channel, 0)
    show(channel, 1)
    stream.reply.set_result(Observation(3, 1, b"end"))
    first = await waiting
    second = await stream.next()
    assert first is not None
    assert second is not None
    assert (first.index, second.index) == (0, 1)
    assert await stream.next() is None
    assert await stream.next() is None
    stream.close()


async def test_a_close_after_the_answer_of_the_last_call_disturbs_nothing() -> None:
    _connection, channel = made()
    running = channel.call(step(channel), 1.0)
    running.set_result(None)  # taken by a caller that has not run yet
    channel.call(Close(3, channel.next_seq(), 0), 1.0)
    assert running.exception() is None
    assert channel.scheduled == channel.due
