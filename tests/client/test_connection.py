"""The client's connection over a line that a test plays the server of."""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from math import inf
from typing import Any

import pytest

from openenv_async.client.connection import ClientConnection, environment_of
from openenv_async.errors import (
    ConnectFailed,
    ConnectionLost,
    DeadlineExceeded,
    InvalidModel,
    OpenEnvError,
    ProtocolError,
    ServerBusy,
    SessionClosed,
    SessionLost,
    Unauthorized,
    VersionMismatch,
)
from openenv_async.protocol.codec import MsgpackCodec, decode_map, encode_map
from openenv_async.protocol.frames import (
    PROTOCOL_VERSION,
    Failed,
    Frame,
    GoingAway,
    Hello,
    Open,
    Opened,
    Renew,
    State,
    StateIs,
    Step,
    Welcome,
)
from openenv_async.types import Limits, Timeouts
from tests.helpers import until
from tests.scheduling import explore, run

WELCOME = Welcome(PROTOCOL_VERSION, "epoch", encode_map({"timeouts": {"resume": 5.0}}, "msgpack"))
BUSY = Failed(0, 0, "server_busy", "come again", True, encode_map({}, "msgpack"))


class Line:
    """A transport; ``answer`` is called with it and each frame that the client sends."""

    subprotocol = "openenv.v1.msgpack"
    name = "memory"

    def __init__(
        self, connection: ClientConnection, answer: Callable[["Line", Frame], None]
    ) -> None:
        self.connection = connection
        self.congested = False
        self.closed = False
        self.leaving: bool | None = None
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
        self.closed, self.leaving = True, leaving


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


async def test_nothing_is_lent_before_the_sessions_are_taken_up_again() -> None:
    def holding(line: Line, frame: Frame) -> None:
        if not isinstance(frame, Hello):
            welcoming(line, frame)

    lines = Lines(welcoming, holding)
    connection = lines.connection
    await connection.start()
    await opened(connection)
    connection.lost(lines.made[0])
    assert connection.lend(lambda: None) is None
    await until(lambda: len(lines.made) == 2 and lines.made[1].sent)
    assert connection.lend(lambda: None) is None  # it has said hello only
    lines.made[1].say(WELCOME)
    await until(lambda: connection.up)
    loan = connection.lend(lambda: None)
    assert loan is not None
    assert [type(frame) for frame in lines.made[1].sent] == [Hello, Open]
    await loan.over()
    await connection.aclose()


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


# -- in a loop whose time jumps -------------------------------------------------------------


def silent(line: Line, frame: Frame) -> None:
    return


def greeting(**facts: Any) -> Callable[[Line, Frame], None]:
    """A server that says these facts of itself."""

    def answer(line: Line, frame: Frame) -> None:
        if isinstance(frame, Hello):
            version = facts.get("version", PROTOCOL_VERSION)
            told = {"timeouts": {"resume": 5.0}} | facts
            line.say(Welcome(version, facts.get("epoch", "epoch"), encode_map(told, "msgpack")))
        elif isinstance(frame, Open):
            line.say(Opened(frame.channel))

    return answer


def refusing(line: Line, frame: Frame) -> None:
    if isinstance(frame, Hello):
        line.say(BUSY)


def now() -> float:
    return asyncio.get_running_loop().time()


def test_a_handshake_that_is_not_answered_ends_in_time() -> None:
    async def scenario() -> None:
        lines = Lines(silent, connect=3.0)
        start = now()
        with pytest.raises(ConnectFailed, match="did not answer the handshake within 3 s"):
            await lines.connection.start()
        assert now() - start == 3.0
        assert lines.made[0].closed
        assert not lines.connection.up

    run(scenario)


def test_the_versions_must_be_the_same() -> None:
    async def scenario() -> None:
        for version in (PROTOCOL_VERSION + 1, PROTOCOL_VERSION - 1):
            lines = Lines(greeting(version=version))
            with pytest.raises(VersionMismatch, match=f"speaks protocol {version}"):
                await lines.connection.start()
            assert lines.made[0].closed

    run(scenario)


def test_the_limits_that_a_server_announces_hold_where_they_make_sense() -> None:
    async def scenario() -> None:
        own = Limits()
        for facts, size, frames in (
            ({}, own.max_message_size, own.max_frames),
            ({"max_message_size": 5000, "max_frames": 3}, 5000, 3),
            ({"max_message_size": 1, "max_frames": 1}, 1, 1),
            ({"max_message_size": 0, "max_frames": 0}, own.max_message_size, own.max_frames),
            ({"max_message_size": "x", "max_frames": "x"}, own.max_message_size, own.max_frames),
        ):
            lines = Lines(greeting(**facts))
            await lines.connection.start()
            outbox = lines.connection.outbox
            assert (outbox._max_size, outbox._max_frames) == (size, frames)
            await lines.connection.aclose()

    run(scenario)


def test_an_idle_connection_renews_its_lease_three_times_in_its_length() -> None:
    async def scenario() -> None:
        lines = Lines(greeting(timeouts={"lease": 9.0}))
        await lines.connection.start()
        await asyncio.sleep(10.0)
        [line] = lines.made
        assert line.sent.count(Renew(0)) == 4  # at once, and after 3, 6 and 9 seconds
        await lines.connection.aclose()
        await asyncio.sleep(10.0)
        assert line.sent.count(Renew(0)) == 4

    run(scenario)


def test_a_server_without_a_lease_gets_no_renewals() -> None:
    async def scenario() -> None:
        for told in ({}, {"lease": 0}, {"lease": None}, {"lease": -1.0}):
            lines = Lines(greeting(timeouts=told))
            await lines.connection.start()
            await asyncio.sleep(1000.0)
            assert lines.made[0].sent[1:] == []
            await lines.connection.aclose()

    run(scenario)


def test_a_deadline_on_a_lost_connection_says_why_it_does_not_come_back() -> None:
    async def scenario() -> None:
        nowhere = "nothing listens at 127.0.0.1:1: start the server, or check host and port"
        lines = Lines(greeting(timeouts={"resume": 30.0}))
        await lines.connection.start()
        await opened(lines.connection)
        (channel,) = lines.connection._channels.values()
        assert "it is overloaded, or the network is stuck" in lines.connection.silence()

        async def redial(connection: ClientConnection) -> Any:
            raise ConnectFailed(nowhere, phase="connect")

        lines.connection._redial = redial
        lines.connection.lost(lines.made[0])
        with pytest.raises(DeadlineExceeded) as raised:
            await channel.call(Step(channel.number, channel.next_seq(), 0, b"a"), 7.0)
        assert raised.value.message == (
            f"no answer within the deadline: the connection to {lines.connection.where} was lost"
            f" 12 s ago and cannot be made again: {nowhere}"
        )
        await asyncio.sleep(20.0)
        assert isinstance(lines.connection.error, SessionLost)
        assert "overloaded" in lines.connection.silence()

    run(scenario)


def test_dialling_again_pauses_longer_each_time_until_the_sessions_are_gone() -> None:
    """The pause is 0.05 s, doubled each time up to 2 s, give or take a half."""

    async def scenario() -> None:
        dialled: list[float] = []

        def noted(line: Line, frame: Frame) -> None:
            dialled.append(now())
            refusing(line, frame)

        lines = Lines(greeting(timeouts={"resume": 30.0}), *[noted] * 100)
        await lines.connection.start()
        await opened(lines.connection)
        start = now()
        lines.connection.lost(lines.made[0])
        await asyncio.sleep(31.0)
        assert isinstance(lines.connection.error, SessionLost)
        assert "no connection could be made for 30 s" in str(lines.connection.error)
        assert dialled[-1] - start == pytest.approx(30.0)
        pauses = [after - before for before, after in itertools.pairwise(dialled)]
        for number, pause in enumerate(pauses[:-1]):
            delay = min(0.05 * 2**number, 2.0)
            assert 0.5 * delay - 1e-6 <= pause <= 1.5 * delay + 1e-6
        assert all(line.closed for line in lines.made[1:])
        assert lines.connection.reconnects == 0
        await lines.connection.aclose()

    explore(5, scenario)


def test_what_coming_back_resumes_and_sends_again() -> None:
    async def scenario() -> None:
        lines = Lines(welcoming, refusing, welcoming)
        connection = lines.connection
        await connection.start()
        channel = connection.channel()
        await channel.call(Open(channel.number, channel.id, channel.secret), 5.0)
        request = State(channel.number, channel.next_seq(), 0)
        waiting = channel.call(request, 5.0)
        connection.lost(lines.made[0])
        assert not connection.up
        connection.lost(lines.made[0])  # told twice
        await asyncio.sleep(1.0)
        assert (connection.up, connection.reconnects, len(lines.made)) == (True, 1, 3)
        resumed = Open(channel.number, channel.id, channel.secret, True, 0)
        assert lines.made[2].sent[1:3] == [resumed, request]
        lines.made[2].say(StateIs(channel.number, 1, b"\x80", "e", 1, 0))
        assert isinstance(await waiting, StateIs)
        await connection.aclose()
        assert lines.made[2].closed

    explore(10, scenario)


def test_a_server_that_was_restarted_has_lost_its_sessions() -> None:
    async def scenario() -> None:
        lines = Lines(welcoming, greeting(epoch="another"))
        connection = lines.connection
        await connection.start()
        channel = connection.channel()
        await channel.call(Open(channel.number, channel.id, channel.secret), 5.0)
        fresh = connection.channel()
        opening = Open(fresh.number, fresh.id, fresh.secret)
        lines.made[0]._answer = silent
        waiting = fresh.call(opening, 5.0)
        connection.lost(lines.made[0])
        await asyncio.sleep(1.0)
        assert isinstance(channel.error, SessionLost)
        assert "the server was restarted" in str(channel.error)
        assert channel.error.session_id == channel.id
        assert "last_acknowledged_request" in channel.error.detail
        assert await waiting == Opened(fresh.number)  # it was not open yet: it is opened there
        assert connection.channel_count == 1
        asked = [frame for frame in lines.made[1].sent if isinstance(frame, Open)]
        assert asked == [opening]  # and not for the session that is lost
        await connection.aclose()

    explore(10, scenario)


def test_a_transport_that_swallows_everything_is_replaced_when_an_answer_is_late() -> None:
    async def scenario() -> None:
        lines = Lines(welcoming, welcoming)
        connection = lines.connection
        await connection.start()
        await opened(connection)
        heard = connection.heard_at
        assert connection.doubt(heard, now()) < heard  # something came since
        assert [connection.up] == [True]
        await asyncio.sleep(1.0)
        assert connection.doubt(now(), now()) == now()
        assert [connection.up] == [False]
        doubted = now()
        await asyncio.sleep(1.0)
        assert (connection.up, lines.made[0].closed, len(lines.made)) == (True, True, 2)
        assert connection.doubt(connection.heard_at, now()) == doubted
        await connection.aclose()

    explore(10, scenario)


def test_a_connection_is_full_at_the_number_that_its_server_says() -> None:
    async def scenario() -> None:
        lines = Lines(greeting(max_channels=2))
        await lines.connection.start()
        numbers = [lines.connection.channel().number for _ in range(2)]
        assert numbers == [1, 2]
        with pytest.raises(ServerBusy, match="2 sessions are on this connection already"):
            lines.connection.channel()
        channel = lines.connection._channels[1]
        lines.connection.forget(channel)
        assert isinstance(channel.error, SessionClosed)
        assert lines.connection.channel().number == 3
        await lines.connection.aclose()

    run(scenario)


def test_secrets_of_sessions_are_their_own() -> None:
    async def scenario() -> None:
        lines = Lines(welcoming)
        await lines.connection.start()
        first, second = lines.connection.channel(), lines.connection.channel()
        tokens = {first.id, first.secret, second.id, second.secret}
        assert len(tokens) == 4
        assert all(len(token) == 32 and int(token, 16) >= 0 for token in tokens)
        heir = lines.connection.channel(first)
        assert (heir.id, heir.secret) == (first.id, first.secret)
        await lines.connection.aclose()

    run(scenario)


def test_what_a_server_says_of_the_connection_itself() -> None:
    async def scenario() -> None:
        lines = Lines(welcoming)
        connection = lines.connection
        await connection.start()
        await opened(connection)
        [channel] = connection._channels.values()
        waiting = channel.call(State(channel.number, channel.next_seq(), 0), 5.0)
        lines.made[0].say(GoingAway("maintenance", 3.0))
        assert connection.going_away is not None
        assert not waiting.done()
        lines.made[0].say(Failed(0, 0, "protocol_error", "too much", False, None))
        assert isinstance(waiting.exception(), ProtocolError)
        assert isinstance(channel.error, ProtocolError)
        await connection.aclose()

    run(scenario)


def test_closing_ends_every_call_and_what_dials() -> None:
    async def scenario() -> None:
        lines = Lines(welcoming, silent)
        connection = lines.connection
        await connection.start()
        await opened(connection)
        [channel] = connection._channels.values()
        waiting = channel.call(State(channel.number, channel.next_seq(), 0), 50.0)
        connection.lost(lines.made[0])
        await asyncio.sleep(0.01)
        await connection.aclose()
        assert isinstance(waiting.exception(), SessionClosed)
        assert isinstance(connection.error, SessionClosed)
        assert connection.channel_count == 0
        assert lines.made[1].closed
        await connection.aclose()

    explore(10, scenario)


def test_whatever_ends_a_connection_after_its_welcome_is_what_its_start_raises() -> None:
    """The welcome is there, and the task that waits for it has not run."""

    def garbling(line: Line, frame: Frame) -> None:
        welcoming(line, frame)
        line.connection.receive(b"\xc1")

    async def scenario() -> None:
        lines = Lines(garbling)
        with pytest.raises(ProtocolError, match="unreadable message"):
            await lines.connection.start()
        assert lines.made[0].closed

    run(scenario)


def test_what_a_connection_says_of_itself_before_and_after_its_start() -> None:
    async def scenario() -> None:
        lines = Lines(greeting(dialect="upstream"))
        connection = lines.connection
        assert (connection.up, connection.upstream, connection.format) == (False, False, "msgpack")
        assert connection.channel_count == 0
        await connection.start()
        assert (connection.up, connection.upstream, connection.epoch) == (True, True, "epoch")
        assert (connection.reconnects, connection.late_replies) == (0, 0)
        assert connection.heard_at == now()
        [line] = lines.made
        await asyncio.sleep(1.0)
        line.say(StateIs(9, 1, b"\x80", "e", 1, 0))
        assert (connection.late_replies, connection.heard_at) == (1, now())
        connection.channel()
        assert connection.channel_count == 1
        await connection.aclose()
        assert (line.closed, line.leaving) == (True, True)
        lines = Lines(greeting(dialect="another"))
        await lines.connection.start()
        assert not lines.connection.upstream
        await lines.connection.aclose()

    run(scenario)


def test_the_hello_says_how_much_this_side_takes() -> None:
    async def scenario() -> None:
        lines = Lines(welcoming)
        await lines.connection.start()
        hello = lines.made[0].sent[0]
        assert isinstance(hello, Hello)
        assert hello.version == PROTOCOL_VERSION
        told, limits = decode_map(hello.payload, "msgpack"), Limits()
        assert told.pop("client").startswith("openenv_async/")
        assert told == {
            "max_message_size": limits.max_message_size,
            "max_batch_size": limits.max_batch_size,
        }
        await lines.connection.aclose()

    run(scenario)


def test_sizes_of_another_type_are_not_taken_from_a_server() -> None:
    async def scenario() -> None:
        own = Limits()
        lines = Lines(greeting(max_message_size=5000.5, max_frames=-1))
        await lines.connection.start()
        outbox = lines.connection.outbox
        assert (outbox._max_size, outbox._max_frames) == (own.max_message_size, own.max_frames)
        await lines.connection.aclose()

    run(scenario)


def test_an_older_transport_that_is_lost_changes_nothing() -> None:
    async def scenario() -> None:
        lines = Lines(welcoming)
        connection = lines.connection
        await connection.start()
        connection.lost(Line(connection, silent))
        assert (connection.up, connection.error) == (True, None)
        await connection.aclose()
        error = connection.error
        connection.lost(lines.made[0])
        assert connection.error is error

    run(scenario)


def test_a_connection_comes_back_for_the_sake_of_a_session_or_a_request() -> None:
    """A channel that nothing was asked of is not worth it; the next one dials itself."""

    async def scenario() -> None:
        for asked in (False, True):
            lines = Lines(welcoming, welcoming)
            connection = lines.connection
            await connection.start()
            lines.made[0]._answer = silent
            channel = connection.channel()
            opening = None
            if asked:
                request = Open(channel.number, channel.id, channel.secret)
                opening = channel.call(request, 5.0)
            connection.lost(lines.made[0])
            await asyncio.sleep(1.0)
            assert connection.up is asked
            if opening is None:
                assert isinstance(channel.error, ConnectionLost)
                assert "the connection to here was lost" in str(channel.error)
            else:
                assert opening.done()
            await connection.aclose()

    run(scenario)


def test_a_server_that_keeps_no_sessions_is_not_come_back_to() -> None:
    async def scenario() -> None:
        told: Any
        for told in ({}, {"resume": 0}, {"resume": -1.0}, {"resume": "5"}, {"resume": None}, []):
            lines = Lines(greeting(timeouts=told), welcoming)
            await lines.connection.start()
            await opened(lines.connection)
            [channel] = lines.connection._channels.values()
            lines.connection.lost(lines.made[0])
            assert isinstance(lines.connection.error, ConnectionLost)
            assert isinstance(channel.error, ConnectionLost)
            assert len(lines.made) == 1
            await lines.connection.aclose()

    run(scenario)


def test_a_refusal_that_time_does_not_cure_ends_the_coming_back() -> None:
    def unauthorized(line: Line, frame: Frame) -> None:
        if isinstance(frame, Hello):
            line.say(Failed(0, 0, "unauthorized", "another token", False, None))

    async def scenario() -> None:
        lines = Lines(welcoming, unauthorized, welcoming)
        connection = lines.connection
        await connection.start()
        await opened(connection)
        [channel] = connection._channels.values()
        connection.lost(lines.made[0])
        await asyncio.sleep(1.0)
        assert isinstance(connection.error, Unauthorized)
        assert isinstance(channel.error, Unauthorized)
        assert len(lines.made) == 2
        assert lines.made[1].closed
        await connection.aclose()

    run(scenario)


def test_sessions_that_are_lost_together_have_an_error_each() -> None:
    async def scenario() -> None:
        lines = Lines(greeting(timeouts={"resume": 1.0}), *[refusing] * 50)
        connection = lines.connection
        await connection.start()
        await opened(connection)
        await opened(connection)
        first, second = connection._channels.values()
        first.acked, second.acked = 3, 4
        connection.lost(lines.made[0])
        await asyncio.sleep(5.0)
        errors = [channel.error for channel in (first, second)]
        assert all(isinstance(error, SessionLost) for error in errors)
        told = [error.detail["last_acknowledged_request"] for error in errors if error is not None]
        assert told == [3, 4]
        await connection.aclose()

    run(scenario)


def test_no_pause_of_the_dialling_goes_beyond_the_end_of_the_sessions() -> None:
    async def scenario() -> None:
        lines = Lines(greeting(timeouts={"resume": 0.02}), *[refusing] * 50)
        await lines.connection.start()
        await opened(lines.connection)
        start = now()
        lines.connection.lost(lines.made[0])
        while lines.connection.error is None:  # noqa: ASYNC110 - it sets no event
            await asyncio.sleep(0.001)
        assert now() - start < 0.024
        assert len(lines.made) == 3  # at once, and a last time at the end
        await lines.connection.aclose()

    explore(5, scenario)


def test_a_transport_that_swallows_everything_is_left_without_a_word() -> None:
    """The session must live on: the server ends it when its client says that it leaves."""

    async def scenario() -> None:
        lines = Lines(welcoming, welcoming)
        connection = lines.connection
        assert connection.doubt(now() + 1, now()) < now()  # there is no transport yet
        await connection.start()
        await opened(connection)
        assert connection.doubt(now() + 1.0, now()) == now()
        assert connection.doubt(now() + 1.0, now() + 5.0) == now()  # none any more
        await asyncio.sleep(1.0)
        assert (lines.made[0].closed, lines.made[0].leaving) == (True, False)
        assert connection.reconnects == 1
        await connection.aclose()
        assert connection._closing == set()

    run(scenario)


def test_closing_waits_until_an_abandoned_transport_is_closed_too() -> None:
    class Slow(Line):
        async def aclose(self, leaving: bool = True) -> None:
            await asyncio.sleep(3.0)
            await super().aclose(leaving)

    async def scenario() -> None:
        made: list[Slow] = []

        async def redial(connection: ClientConnection) -> Line:
            made.append(Slow(connection, welcoming))
            return made[-1]

        connection = ClientConnection("here", Limits(), Timeouts(), redial)
        await connection.start()
        await opened(connection)
        connection.doubt(now() + 1.0, now())
        await asyncio.sleep(1.0)
        await connection.aclose()
        assert [line.closed for line in made] == [True, True]

    run(scenario)


def test_a_connection_that_is_closed_while_it_dials_closes_what_it_gets() -> None:
    class Slow(Line):
        async def aclose(self, leaving: bool = True) -> None:
            await asyncio.sleep(1.0)
            await super().aclose(leaving)

    async def scenario() -> None:
        made: list[Slow] = []
        go = asyncio.Event()

        async def redial(connection: ClientConnection) -> Line:
            await go.wait()
            made.append(Slow(connection, silent))
            return made[-1]

        connection = ClientConnection("here", Limits(), Timeouts(connect=3.0), redial)
        starting = asyncio.create_task(connection.start())
        await settle()
        await connection.aclose()
        go.set()
        with pytest.raises(ConnectFailed):
            await starting
        assert [line.closed for line in made] == [True]

    run(scenario)


def test_the_heartbeat_ends_with_its_transport_and_begins_with_the_next() -> None:
    async def scenario() -> None:
        answer = greeting(timeouts={"lease": 9.0, "resume": 5.0})
        lines = Lines(answer, answer)
        connection = lines.connection
        await connection.start()
        await opened(connection)
        await asyncio.sleep(1.0)
        connection.lost(lines.made[0])
        await asyncio.sleep(7.0)
        assert [line.sent.count(Renew(0)) for line in lines.made] == [1, 3]
        await connection.aclose()

    run(scenario)


def test_a_channel_takes_over_the_numbers_of_the_one_that_was_left_behind() -> None:
    async def scenario() -> None:
        lines = Lines(welcoming)
        connection = lines.connection
        await connection.start()
        left = connection.channel()
        left.seq, left.acked, left.steps = 5, 4, 3
        heir = connection.channel(left)
        assert (heir.seq, heir.acked, heir.steps) == (5, 4, 3)
        assert heir.number != left.number
        await connection.aclose()

    run(scenario)


def test_own_limits_hold_until_a_server_says_its_own() -> None:
    async def scenario() -> None:
        lines = Lines(welcoming)
        lines.connection.limits = Limits(max_channels=1)
        await lines.connection.start()
        lines.connection.channel()
        with pytest.raises(ServerBusy, match="1 sessions are on this connection already"):
            lines.connection.channel()
        await lines.connection.aclose()

    run(scenario)


def test_a_session_that_is_forgotten_is_watched_no_more() -> None:
    async def scenario() -> None:
        lines = Lines(welcoming)
        connection = lines.connection
        await connection.start()
        await opened(connection)
        [channel] = connection._channels.values()
        waiting = channel.call(State(channel.number, channel.next_seq(), 0), 5.0)
        connection.forget(channel)
        assert channel.scheduled == inf
        assert connection.channel_count == 0
        assert isinstance(waiting.exception(), SessionClosed)
        connection.forget(channel)
        await connection.aclose()

    run(scenario)


def test_a_request_that_cannot_be_sent_is_told_to_its_caller() -> None:
    async def scenario() -> None:
        lines = Lines(welcoming)
        connection = lines.connection
        await connection.start()
        await opened(connection)
        [channel] = connection._channels.values()
        bad: Any = State(channel.number, channel.next_seq(), 10**40)
        waiting = channel.call(bad, 5.0)
        connection.outbox.send(State(99, 1, 10**40))  # of nobody
        await settle()
        assert isinstance(waiting.exception(), InvalidModel)
        assert channel.seq == 0
        assert lines.made[0].sent[2:] == []
        await connection.aclose()

    run(scenario)


def test_an_error_of_the_connection_says_which_server_it_came_from() -> None:
    async def scenario() -> None:
        for payload, field in (
            (encode_map({"field": "x"}, "msgpack"), "x"),
            (b"\xc1", None),
            (None, None),
        ):
            lines = Lines(greeting(server="their 1.0"))
            connection = lines.connection
            await connection.start()
            await opened(connection)
            [channel] = connection._channels.values()
            lines.made[0].say(Failed(0, 0, "server_busy", "too much", True, payload))
            error = channel.error
            assert isinstance(error, ServerBusy)
            assert (error.server_version, error.retryable) == ("their 1.0", True)
            assert error.detail.get("field") == field
            await connection.aclose()

    run(scenario)


def test_a_second_welcome_is_no_error() -> None:
    async def scenario() -> None:
        def twice(line: Line, frame: Frame) -> None:
            if isinstance(frame, Hello):
                line.say(WELCOME, WELCOME)
                line.say(BUSY)  # the welcome was first

        lines = Lines(twice)
        await lines.connection.start()
        lines.made[0].say(WELCOME)
        assert [lines.connection.error] == [None]
        await lines.connection.aclose()

    run(scenario)


def test_the_first_error_of_a_connection_is_its_error() -> None:
    async def scenario() -> None:
        lines = Lines(welcoming)
        connection = lines.connection
        await connection.start()
        connection.receive(b"\xc1")
        await connection.aclose()
        assert isinstance(connection.error, ProtocolError)
        connection.receive(b"\xc1")
        assert [line.closed for line in lines.made] == [True]

    run(scenario)


def test_what_a_welcome_tells_of_the_environment() -> None:
    assert environment_of({}) is None
    assert environment_of({"server": "upstream", "dialect": "upstream"}) is None
    assert environment_of({"environment": "maze"}) == {"name": "maze"}
    told = {"environment": "maze", "environment_version": "1", "environment_params": {"size": 3}}
    assert environment_of({**told, "environment_package": None}) == {
        "name": "maze",
        "version": "1",
        "params": {"size": 3},
    }
