"""VectorSessions: batches, lost connections, replaced sessions, and a thread that waits."""

from __future__ import annotations

import asyncio
import os
import pickle
import random
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from openenv_async import EngineOptions, Environment, GenericEnvClient, StepResult, Timeouts
from openenv_async.client.loop_thread import background_loop
from openenv_async.client.vector import Answer, ResetRequest, Slot, VectorSessions
from openenv_async.errors import (
    ConnectFailed,
    DeadlineExceeded,
    EnvironmentRaised,
    EpisodeNotStarted,
    InvalidAction,
    InvalidOption,
    OpenEnvError,
    ServerBusy,
    SessionBusy,
    SessionClosed,
    SessionLost,
)
from openenv_async.protocol.frames import Begun, Close, Observation, Open, Reset, State, Step
from openenv_async.server import create_app
from tests.client.fakes import Scripted
from tests.helpers import settle, until
from tests.integrations.serving import served

Dict = dict[str, Any]


class Adding(Environment[Dict, Dict, Dict]):
    """Ends at 3; raises at a negative number; waits for ``go_on`` when told to."""

    go_on = asyncio.Event()

    async def reset(self, seed: int = 0) -> Dict:
        self.total = 0
        return {"total": 0, "seed": seed}

    async def step(self, action: Dict) -> StepResult[Dict]:
        if action.get("wait"):
            await self.go_on.wait()
        if action["add"] < 0:
            raise RuntimeError("broken")
        self.total += action["add"]
        return StepResult({"total": self.total}, 1.0, terminated=self.total >= 3)

    async def state(self) -> Dict:
        return {"total": self.total}


def reset(sessions: VectorSessions, seed: int | None = None) -> list[Answer]:
    seeds = [None if seed is None else seed + i for i in range(sessions.count)]
    sessions.reset([ResetRequest(i, s, None) for i, s in enumerate(seeds)])
    return in_order(sessions)


def in_order(sessions: VectorSessions) -> list[Answer]:
    answers: list[Answer] = []
    while sessions.waiting:
        answers += sessions.take(1, timeout=60)
    return sorted(answers, key=lambda answer: answer.slot)


def step(sessions: VectorSessions, *numbers: int) -> list[Answer]:
    encode = sessions.wire.encode_action
    sessions.step(range(len(numbers)), [encode({"add": number}) for number in numbers])
    return in_order(sessions)


def totals(sessions: VectorSessions, answers: list[Answer]) -> list[int]:
    return [sessions.wire.decode_observation(a.frame.payload)["total"] for a in answers if a.frame]


def test_batches_go_out_and_come_back() -> None:
    with served(Adding) as url:
        sessions = VectorSessions(url, 3)
        assert not sessions.opened
        answers = reset(sessions, 40)
        assert [a.again for a in answers] == [True] * 3
        begun = [sessions.wire.decode_observation(a.frame.payload) for a in answers if a.frame]
        assert [each["seed"] for each in begun] == [40, 41, 42]
        assert totals(sessions, step(sessions, 1, 2, 0)) == [1, 2, 0]
        assert [state["total"] for state in sessions.states()] == [1, 2, 0]
        sessions.close()
        sessions.close()
        with pytest.raises(SessionClosed):
            sessions.open()


def test_an_end_is_followed_by_a_reset_where_wanted() -> None:
    with served(Adding) as url:
        sessions = VectorSessions(url, 2, same_step=True)
        reset(sessions, 1)
        first, second = step(sessions, 3, 1)
        assert second.final is None
        assert first.final is not None
        assert not isinstance(first.final, OpenEnvError)
        assert first.final.terminated
        assert totals(sessions, [first, second]) == [0, 1]
        sessions.close()


def test_a_cut_connection_is_resumed_and_nothing_is_stepped_twice() -> None:
    app = create_app(Adding)
    with served(app) as url:
        sessions = VectorSessions(url, 4)
        reset(sessions)
        encode = sessions.wire.encode_action
        for turn in range(1, 6):
            sessions.step(range(4), [encode({"add": 0 if slot else 1}) for slot in range(4)])
            if turn % 2:
                cut(sessions)
            answers = in_order(sessions)
            assert [a.error for a in answers] == [None] * 4
            if turn == 3:
                reset(sessions)
        assert [state["total"] for state in sessions.states()] == [2, 0, 0, 0]
        connection = sessions._connection
        assert connection is not None
        assert connection.reconnects == sessions.reconnects == 3
        sessions.close()


def test_a_lone_session_waits_in_the_call_and_is_stepped_once() -> None:
    """Whether the answer is there in time, came with a lost connection, or is an error."""
    with served(create_app(Adding)) as url:
        sessions = VectorSessions(url, 1)
        with pytest.raises(EpisodeNotStarted):
            sessions.step_alone(b"")
        reset(sessions)
        one, none = (sessions.wire.encode_action({"add": number}) for number in (1, 0))

        def step_alone(action: bytes) -> Answer:
            return sessions.step_alone(action) or sessions.take(1, timeout=60)[0]

        for turn in range(12):
            if turn % 4 == 3:
                cut(sessions)
            answer = step_alone(one if turn in (3, 8) else none)
            assert (answer.slot, answer.error, sessions.waiting) == (0, None, 0)
        assert [state["total"] for state in sessions.states()] == [2]
        assert sessions.reconnects
        broken = step_alone(sessions.wire.encode_action({"add": -1}))
        assert isinstance(broken.error, EnvironmentRaised)
        reset(sessions)
        assert totals(sessions, [step_alone(one)]) == [1]
        sessions.close()


def test_the_steps_that_were_executed() -> None:
    Adding.go_on = asyncio.Event()
    with served(Adding) as url:
        sessions = VectorSessions(url, 3)
        assert sessions.reconnects == 0
        reset(sessions)
        step(sessions, 1, 2, 0)
        sessions.step([1], [sessions.wire.encode_action({"add": 1})])
        sessions.take(1)
        assert sessions.step_counts([1, 0]) == [2, 1]
        with pytest.raises(InvalidOption, match="slots are 0 to 2"):
            sessions.step_counts([3])
        sessions.step([2], [sessions.wire.encode_action({"add": 0, "wait": True})])
        count, busy = sessions.step_counts([0, 2])
        assert count == 1
        assert isinstance(busy, SessionBusy)
        background_loop().loop.call_soon_threadsafe(Adding.go_on.set)
        sessions.take(1, timeout=60)
        sessions.close()


def cut(sessions: VectorSessions) -> None:
    connection = sessions._connection
    assert connection is not None

    async def abort() -> None:
        transport: Any = connection._transport
        if transport is not None:
            await transport.aclose(leaving=False)

    background_loop().run(abort())


def test_a_failed_session_is_replaced_with_its_next_reset() -> None:
    app = create_app(Adding)
    with served(app) as url:
        sessions = VectorSessions(url, 2)
        reset(sessions, 1)
        broken, whole = step(sessions, -1, 1)
        assert isinstance(broken.error, EnvironmentRaised)
        assert whole.error is None
        sessions.step([1], [sessions.wire.encode_action({"add": 0})], resets=[0])
        again, whole = in_order(sessions)
        assert again.again
        assert totals(sessions, [again, whole]) == [0, 1]
        assert app.state.openenv.engine.stats.opened == 3
        sessions.close()


def test_a_server_that_is_gone_fails_every_slot_and_a_new_one_is_found() -> None:
    options = EngineOptions(timeouts=Timeouts(resume=None))
    with served(Adding, options=options) as url:
        sessions = VectorSessions(GenericEnvClient(url, timeouts=Timeouts(connect=5.0)), 2)
        reset(sessions)
    answers = step(sessions, 1, 1)
    assert all(isinstance(a.error, OpenEnvError) for a in answers)
    assert all(isinstance(a.error, ConnectFailed) for a in reset(sessions))
    port = int(url.rpartition(":")[2])
    with served(Adding, port=port):
        assert totals(sessions, reset(sessions)) == [0, 0]
        assert totals(sessions, step(sessions, 1, 2)) == [1, 2]
        sessions.close()


def test_opening_fails_as_a_whole_and_leaves_nothing() -> None:
    app = create_app(Adding, options=EngineOptions(max_sessions=2, timeouts=Timeouts(open=0.2)))
    with served(app) as url:
        sessions = VectorSessions(GenericEnvClient(url, timeouts=Timeouts(open=0.2)), 3)
        with pytest.raises((ServerBusy, DeadlineExceeded)):
            reset(sessions)
        assert not sessions.opened
        background_loop().run(until(lambda: not app.state.openenv.engine.sessions))
        some = VectorSessions(url, 2)
        reset(some)
        some.close()
    with pytest.raises(ConnectFailed):
        VectorSessions("http://127.0.0.1:1", 1).open()


def test_waiting_has_a_deadline_and_goes_on_after_it() -> None:
    Adding.go_on = asyncio.Event()
    with served(Adding) as url:
        sessions = VectorSessions(url, 2)
        reset(sessions)
        encode = sessions.wire.encode_action
        sessions.step([0, 1], [encode({"add": 1, "wait": True}), encode({"add": 2})])
        (quick,) = sessions.take(1, timeout=60)
        assert quick.slot == 1
        with pytest.raises(DeadlineExceeded, match="fewer than 1"):
            sessions.take(1, timeout=0.05)
        sessions.step([0], [encode({"add": 1})])
        (busy,) = sessions.take(1, timeout=60)
        assert isinstance(busy.error, SessionBusy)
        with pytest.raises(SessionBusy, match="only 1 requests"):
            sessions.take(2)
        background_loop().loop.call_soon_threadsafe(Adding.go_on.set)
        (slow,) = sessions.take(1, timeout=60)
        assert totals(sessions, [slow]) == [1]
        sessions.close()


def test_calls_before_the_first_reset_are_told() -> None:
    sessions = VectorSessions("http://127.0.0.1:1", 1)
    with pytest.raises(EpisodeNotStarted):
        sessions.step([0], [b""])
    with pytest.raises(EpisodeNotStarted):
        _ = sessions.wire
    sessions.close()
    with pytest.raises(ValueError, match="at least 1"):
        VectorSessions("http://127.0.0.1:1", 0)


def test_another_thread_and_a_copy_can_call_it() -> None:
    with served(Adding) as url:
        sessions = VectorSessions(url, 1)
        reset(sessions)
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.extend(totals(sessions, step(sessions, 2))))
        thread.start()
        thread.join(60)
        assert found == [2]
        copy = pickle.loads(pickle.dumps(sessions))
        assert totals(copy, reset(copy)) == [0]
        assert totals(sessions, step(sessions, 0)) == [2]
        copy.close()
        sessions.close()


def test_a_lost_session_says_so() -> None:
    """Closed by the server's idle deadline: an error first, a new session with the reset."""
    options = EngineOptions(timeouts=Timeouts(idle=0.2))
    app = create_app(Adding, options=options)
    with served(app) as url:
        sessions = VectorSessions(url, 1)
        reset(sessions)

        background_loop().run(until(lambda: not app.state.openenv.engine.sessions))
        (answer,) = step(sessions, 1)
        assert isinstance(answer.error, SessionLost | SessionClosed)
        assert answer.frame is None
        assert totals(sessions, reset(sessions)) == [0]
        sessions.close()


# -- one slot -------------------------------------------------------------------------------------


class Owner:
    """A keeper of one slot, which remembers what the slot asks of it."""

    def __init__(self, same_step: bool) -> None:
        self.same_step = same_step
        self.answers: list[Answer] = []
        self.resets: list[tuple[Any, ...]] = []
        made: Any = self
        self.slot = Slot(made, 7)

    def deliver(self, answer: Answer) -> None:
        self.answers.append(answer)

    def reset_slot(self, *asked: Any) -> None:
        self.resets.append(asked)


STEPPED = Observation(1, 1, b"o")
ENDED = Observation(1, 1, b"o", terminated=True)
STOPPED = Observation(1, 1, b"o", truncated=True)
BEGUN_AT_ITS_END = Begun(1, 1, b"o", "e", 3, terminated=True)


@pytest.mark.parametrize("same_step", [True, False])
@pytest.mark.parametrize("frame", [STEPPED, ENDED, STOPPED, BEGUN_AT_ITS_END])
def test_a_reply_is_delivered_or_begins_the_next_episode(same_step: bool, frame: Any) -> None:
    owner = Owner(same_step)
    slot = owner.slot
    assert not slot.done()
    slot.again, slot.final = False, None
    slot.set_result(frame)
    if same_step and frame in (ENDED, STOPPED):
        assert owner.resets == [(slot, None, None)]
        assert owner.answers == []
        slot.again = True
        slot.set_result(BEGUN_AT_ITS_END)
        [answer] = owner.answers
        assert (answer.frame, answer.final, answer.again) == (BEGUN_AT_ITS_END, frame, True)
    else:
        [answer] = owner.answers
        assert owner.resets == []
        assert (answer.frame, answer.final, answer.again) == (frame, None, False)
    assert (answer.slot, answer.error) == (7, None)
    assert not slot.broken


@pytest.mark.parametrize(
    ("error", "broken"),
    [
        (InvalidAction("no"), False),
        (SessionBusy("no"), False),
        (SessionClosed("gone"), True),
        (SessionLost("gone"), True),
        (EnvironmentRaised("it"), True),
    ],
)
def test_an_error_breaks_the_session_unless_the_call_was_wrong(
    error: OpenEnvError, broken: bool
) -> None:
    for same_step in (False, True):
        owner = Owner(same_step)
        slot = owner.slot
        slot.set_exception(error)
        assert slot.broken is broken
        if same_step and broken:
            assert (owner.resets, owner.answers) == ([(slot, None, None)], [])
            assert slot.final is error
            continue
        [answer] = owner.answers
        assert owner.resets == []
        assert (answer.slot, answer.frame, answer.final) == (7, None, None)
        assert (answer.error, answer.again) == (error, False)


def test_a_reset_that_fails_is_not_followed_by_another() -> None:
    error = SessionLost("gone")
    for final, again in ((None, True), (ENDED, True), (ENDED, False)):
        owner = Owner(True)
        owner.slot.final, owner.slot.again = final, again
        owner.slot.set_exception(error)
        [answer] = owner.answers
        assert owner.resets == []
        assert (answer.error, answer.final, answer.again) == (error, final, again)


# -- the I/O thread, which is the test's own loop here --------------------------------------------


class Client(GenericEnvClient):
    """A client on scripted connections, each of which is made anew."""

    def __init__(self, **settings: Any) -> None:
        super().__init__("memory:", **settings)
        self.made: list[Scripted] = []
        self.refusing: list[OpenEnvError] = []
        self.dialling: asyncio.Event | None = None
        self.kind = Scripted

    async def _connect(self) -> Any:
        connection = self.kind()
        connection.refusing = self.refusing
        self.made.append(connection)
        if self.dialling is not None:
            await self.dialling.wait()
        return connection


ALL = Timeouts(open=15.0, reset=11.0, step=12.0, state=13.0, close=14.0)
NONE = Timeouts(open=None, reset=None, step=None, state=None, close=None)


async def opened(client: Client, count: int = 2, **options: Any) -> tuple[VectorSessions, Scripted]:
    sessions = VectorSessions(client, count, **options)
    await sessions._open()
    return sessions, client.made[-1]


def asked(*requests: tuple[int, int | None, bytes | None]) -> list[ResetRequest]:
    return [ResetRequest(*request) for request in requests]


async def given(sessions: VectorSessions) -> list[Answer]:
    """The answers there are when nothing goes on any more."""
    await settle(20)
    answers, sessions._answers = sessions._answers, []
    return sorted(answers, key=lambda answer: answer.slot)


async def seeds(sessions: VectorSessions, seed: int | None, resets: int) -> list[Any]:
    """What the resets carry that follow a first one with ``seed``."""
    connection: Any = sessions._connection
    sessions._send_resets(asked((0, seed, None)))
    await given(sessions)
    for _ in range(resets):
        sessions._send_resets(asked((0, None, None)))
        await given(sessions)
    return [(frame.seed, frame.payload) for frame in connection.sent_of(Reset)]


async def test_without_a_seed_every_reset_draws_its_own() -> None:
    sessions, _ = await opened(Client(), resume_options={"go": "on"})
    assert await seeds(sessions, None, 2) == [(None, None)] * 3
    await sessions._close()


async def test_a_seed_determines_those_of_all_later_episodes() -> None:
    sessions, _ = await opened(Client())
    drawn = random.Random(5)
    expected = [5, drawn.getrandbits(31), drawn.getrandbits(31)]
    assert await seeds(sessions, 5, 2) == [(seed, None) for seed in expected]
    await sessions._close()


async def test_a_generator_is_gone_on_with_where_the_environment_can() -> None:
    go_on = msgspec.msgpack.encode({"go": "on"})
    sessions, connection = await opened(Client(), resume_options={"go": "on"})
    assert await seeds(sessions, 5, 1) == [(5, None), (None, go_on)]
    own = msgspec.msgpack.encode({"level": 3})
    sessions._send_resets(asked((0, None, own)))  # its options are not replaced
    await given(sessions)
    drawn = random.Random(5)
    last = connection.sent_of(Reset)[-1]
    assert (last.seed, last.payload) == (drawn.getrandbits(31), own)
    sessions._slots[0].broken = True  # a new session has no generator yet
    for _ in range(2):
        sessions._send_resets(asked((0, None, None)))
        await given(sessions)
    told = [(frame.seed, frame.payload) for frame in connection.sent_of(Reset)[-2:]]
    assert told == [(drawn.getrandbits(31), None), (None, go_on)]
    await sessions._close()


@pytest.mark.parametrize(("timeouts", "sent"), [(ALL, [15, 11, 12, 13, 14]), (NONE, [0] * 5)])
async def test_every_request_of_a_slot_has_its_deadline(
    timeouts: Timeouts, sent: list[float]
) -> None:
    sessions, connection = await opened(Client(timeouts=timeouts), 1)
    sessions._send_resets(asked((0, None, None)))
    await given(sessions)
    sessions._send_steps([0], [b"a"], [])
    await given(sessions)
    await sessions._states()
    await sessions._close()
    assert [frame.timeout for frame in connection.frames] == sent
    assert [type(frame) for frame in connection.frames] == [Open, Reset, Step, State, Close]
    assert [frame.seq for frame in connection.frames[1:]] == [1, 2, 3, 4]


async def test_steps_and_resets_of_one_message() -> None:
    sessions, connection = await opened(Client(), 3)
    sessions._slots[2].again = True
    sessions._slots[2].final = sessions._slots[0].final = ENDED  # of an earlier call
    connection.channels[2].acked = 6
    sessions._send_steps([2, 1], [b"x", b"y"], [0])
    answers = await given(sessions)
    assert [(answer.slot, answer.again) for answer in answers] == [
        (0, True),
        (1, False),
        (2, False),
    ]
    assert [type(answer.frame) for answer in answers] == [Begun, Observation, Observation]
    assert [answer.final for answer in answers] == [None] * 3
    assert [(frame.channel, frame.payload, frame.ack) for frame in connection.sent_of(Step)] == [
        (3, b"x", 6),
        (2, b"y", 0),
    ]
    assert [channel.steps for channel in connection.channels] == [0, 1, 1]
    await sessions._close()


async def test_a_slot_that_is_busy_says_so_and_keeps_its_call() -> None:
    sessions, connection = await opened(Client())
    connection.silent = True
    sessions._send_steps([0], [b"x"], [])
    running = connection.channels[0].future
    assert running is not None
    sessions._send_steps([0, 1], [b"x", b"y"], [])
    sessions._send_resets(asked((0, 1, None), (1, None, None)))
    answers = await given(sessions)
    assert [(answer.slot, answer.again) for answer in answers] == [(0, False), (0, True), (1, True)]
    for answer in answers:
        assert isinstance(answer.error, SessionBusy)
        assert f"environment {answer.slot} is still busy" in answer.error.message
        assert answer.final is None
    assert connection.channels[0].future is running
    assert sessions._slots[0].rng is None
    with pytest.raises(SessionBusy, match="environment 0 is still busy"):
        await sessions._states()
    connection.silent = False
    await sessions._close()


async def test_a_slot_without_a_session_is_reset_first() -> None:
    sessions, connection = await opened(Client())
    sessions._slots[1].channel = None
    sessions._send_steps([1, 0], [b"x", b"y"], [])
    whole, missing = await given(sessions)
    assert isinstance(missing.error, EpisodeNotStarted)
    assert not missing.again
    assert isinstance(whole.frame, Observation)
    with pytest.raises(SessionBusy, match="environment 1"):
        await sessions._states()
    sessions._send_resets(asked((1, None, None)))
    [answer] = await given(sessions)
    assert isinstance(answer.frame, Begun)
    assert len(connection.sent_of(Open)) == 3
    await sessions._close()


async def test_an_end_is_followed_by_a_reset_in_the_same_turn() -> None:
    sessions, connection = await opened(Client(), 1, same_step=True)
    sessions._send_steps([0], [b"x"], [])  # scripted steps are terminated
    [answer] = await given(sessions)
    assert isinstance(answer.final, Observation)
    assert isinstance(answer.frame, Begun)
    assert answer.again
    sessions._send_resets(asked((0, None, None)))
    [answer] = await given(sessions)
    assert answer.final is None
    assert len(connection.sent_of(Reset)) == 2
    await sessions._close()


@pytest.mark.parametrize("how", ["broken", "error"])
async def test_a_session_that_failed_is_closed_and_replaced_by_a_reset(how: str) -> None:
    client = Client()
    sessions, connection = await opened(client)
    slot, old = sessions._slots[0], connection.channels[0]
    if how == "broken":
        slot.broken = True
    else:
        old.fail(SessionLost("gone"))
    sessions._send_resets(asked((0, 9, b"\x80")))
    [answer] = await given(sessions)
    assert isinstance(answer.frame, Begun)
    assert answer.again
    [request] = connection.sent_of(Reset)
    assert (request.channel, request.seed, request.payload) == (3, 9, b"\x80")
    assert old in connection.forgotten
    assert [frame.channel for frame in connection.sent_of(Close)] == [1] * (how == "broken")
    assert slot.channel is connection.channels[2]
    assert not slot.broken
    assert sessions._reviving == set()
    slot.broken = True
    client.refusing.append(ServerBusy("full"))
    slot.final = None
    sessions._send_resets(asked((0, None, None)))
    [answer] = await given(sessions)
    assert isinstance(answer.error, ServerBusy)
    assert (answer.frame, answer.final, answer.again) == (None, None, True)
    assert [slot.channel] == [None]
    assert connection.channels[3] in connection.forgotten
    await sessions._close()
    assert len(client.made) == 1


async def test_opening_fails_as_a_whole_and_closes_what_was_opened() -> None:
    client = Client()
    client.refusing.append(ServerBusy("full"))
    sessions = VectorSessions(client, 3)
    with pytest.raises(ServerBusy):
        await sessions._open()
    [connection] = client.made
    assert connection.closed == 1
    assert not sessions.opened
    assert [slot.channel for slot in sessions._slots] == [None] * 3
    closed = {frame.channel for frame in connection.sent_of(Close)}
    assert closed | {channel.number for channel in connection.channels if channel.error} == {
        1,
        2,
        3,
    }


async def test_openings_that_go_on_end_before_an_opening_that_failed_is_told() -> None:
    class Stalling(Scripted):
        def answer(self, frame: Any) -> None:
            if frame.channel == 1:
                super().answer(frame)

        async def aclose(self) -> None:
            assert {channel.number for channel in self.forgotten} == {1, 2, 3}
            await super().aclose()

    client = Client()
    client.kind = Stalling
    client.refusing.append(ServerBusy("full"))
    with pytest.raises(ServerBusy):
        await VectorSessions(client, 3)._open()
    assert client.made[0].closed == 1
    assert [frame.channel for frame in client.made[0].sent_of(Close)] == [2, 3]


async def test_one_dials_for_all_and_a_connection_that_is_gone_is_replaced() -> None:
    client = Client()
    sessions, first = await opened(client, resume_options={"a": 1})
    assert len(client.made) == 1
    same: Any = await sessions._connected()
    assert same is first
    first.error = SessionLost("gone")
    sessions._resume_payload = b"old"
    made: list[Any] = await asyncio.gather(*(sessions._connected() for _ in range(3)))
    assert made == [client.made[1]] * 3
    assert (first.closed, len(client.made)) == (1, 2)
    assert sessions._resume_payload == msgspec.msgpack.encode({"a": 1})
    assert sessions._connecting is None
    await sessions._close()
    assert (first.closed, client.made[1].closed) == (1, 1)


async def test_a_caller_that_is_cancelled_leaves_the_dial_to_the_others() -> None:
    client = Client()
    client.dialling = asyncio.Event()
    sessions = VectorSessions(client, 1)
    callers = [asyncio.ensure_future(sessions._connected()) for _ in range(2)]
    await settle()
    callers[0].cancel()
    await settle()
    client.dialling.set()
    connection: Any = await callers[1]
    assert connection is client.made[0]
    assert len(client.made) == 1
    await sessions._close()


async def test_closing_ends_what_dials_and_what_is_being_opened() -> None:
    client = Client()
    client.dialling = asyncio.Event()
    sessions = VectorSessions(client, 1)
    dialling = asyncio.ensure_future(sessions._connected())
    await settle()
    await sessions._close()
    with pytest.raises(asyncio.CancelledError):
        await dialling
    client.dialling = None
    sessions, connection = await opened(client, 2)
    connection.silent = True
    sessions._slots[1].broken = True
    sessions._send_resets(asked((1, None, None)))
    await settle()
    assert len(sessions._reviving) == 1
    closing = asyncio.ensure_future(sessions._close())
    await settle()
    assert sessions._reviving == set()
    connection.answer(connection.sent_of(Close)[-1])
    await closing
    assert [frame.channel for frame in connection.sent_of(Close)] == [2, 3, 1]
    assert connection.closed == 1


async def test_closing_takes_the_calls_that_run_and_passes_over_what_is_gone() -> None:
    sessions, connection = await opened(Client(), 4)
    connection.silent = True
    sessions._send_steps([0], [b"x"], [])
    connection.silent = False
    connection.channels[1].fail(SessionLost("gone"))
    sessions._slots[2].channel = None
    await sessions._close()
    assert [frame.channel for frame in connection.sent_of(Close)] == [1, 4]
    assert sessions._answers == []  # the caller has gone
    assert not sessions.opened
    sessions, connection = await opened(Client(), 2)
    connection.up = False
    await sessions._close()
    assert connection.sent_of(Close) == []
    assert connection.closed == 1


async def test_a_close_that_is_refused_does_not_keep_the_others_from_closing() -> None:
    class Refusing(Scripted):
        def answer(self, frame: Any) -> None:
            if type(frame) is Close and frame.channel == 1:
                self.channels[0].on_failed(frame.seq, EnvironmentRaised("in its close"))
            else:
                super().answer(frame)

    client = Client()
    sessions, connection = await opened(client)
    connection.__class__ = Refusing
    await sessions._close()
    assert len(connection.sent_of(Close)) == 2
    assert connection.closed == 1


async def test_states_are_those_of_all_in_order() -> None:
    sessions, connection = await opened(Client(), 2)
    assert [sessions.opened] == [True]
    assert await sessions._states() == [{"n": 1}] * 2
    assert [frame.channel for frame in connection.sent_of(State)] == [1, 2]
    await sessions._close()


# -- the calling thread ---------------------------------------------------------------------------


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What would be posted to the I/O thread; each opening is noted as ``("run",)``."""
    posted: list[tuple[Any, ...]] = []

    def post(send: Callable[..., None], *requests: Any) -> None:
        posted.append((send.__name__, *requests))

    def run(coroutine: Any) -> None:
        coroutine.close()
        posted.append(("run",))

    thread = SimpleNamespace(loop=SimpleNamespace(call_soon_threadsafe=post), run=run)
    monkeypatch.setattr("openenv_async.client.vector.background_loop", lambda: thread)
    return posted


def unopened(count: int = 3) -> VectorSessions:
    return VectorSessions("http://127.0.0.1:1", count)


def ready(count: int = 3) -> VectorSessions:
    """Sessions with a connection that nothing is sent on."""
    sessions = unopened(count)
    connection: Any = object()
    sessions._connection = connection
    return sessions


def test_requests_are_counted_until_their_answers_are_taken(here: list[Any]) -> None:
    sessions = ready()
    sessions.step([0, 2], [b"a", b"b"], [1])
    assert sessions.waiting == 3
    sessions.reset(asked((0, 3, None), (1, None, b"x")))
    assert sessions.waiting == 5
    (name, slots, actions, resets), (other, requests) = here
    assert (name, slots, actions, resets) == ("_send_steps", [0, 2], [b"a", b"b"], [1])
    assert (other, [request.slot for request in requests]) == ("_send_resets", [0, 1])
    for number in range(3):
        sessions.deliver(Answer(number, None, None, None, False))
    assert [answer.slot for answer in sessions.take(2)] == [0, 1, 2]
    assert sessions.waiting == 2
    assert sessions.take(0) == []
    with pytest.raises(SessionBusy, match="3 answers were asked for, but only 2 requests"):
        sessions.take(3)


def test_a_taker_is_woken_by_the_answer_that_it_waits_for(here: list[Any]) -> None:
    sessions = ready()
    sessions.step([0, 1, 2], [b""] * 3)
    sessions.deliver(Answer(0, None, None, None, False))
    with pytest.raises(DeadlineExceeded, match=r"fewer than 2 answers within 0\.001 s"):
        sessions.take(2, timeout=0.001)
    assert not sessions._wake.is_set()
    sessions.deliver(Answer(1, None, None, None, False))
    assert sessions._wake.is_set()
    assert [answer.slot for answer in sessions.take(2, timeout=5)] == [0, 1]
    with pytest.raises(DeadlineExceeded):
        sessions.take(1, timeout=0.001)  # those taken do not count again
    sessions.deliver(Answer(2, None, None, None, False))
    assert [answer.slot for answer in sessions.take(1, timeout=5)] == [2]
    assert (sessions.waiting, sessions._wanted) == (0, 0)


@pytest.mark.parametrize("slot", [-1, 3, "0", None, 1.0])
def test_a_slot_that_there_is_not_is_refused_and_nothing_is_sent(
    here: list[Any], slot: Any
) -> None:
    sessions = ready()
    calls: list[Callable[[], None]] = [
        lambda: sessions.step([0, slot], [b"", b""]),
        lambda: sessions.step([0], [b""], [slot]),
        lambda: sessions.reset(asked((0, None, None), (slot, None, None))),
    ]
    for call in calls:
        with pytest.raises(InvalidOption, match="slots are 0 to 2"):
            call()
    assert (here, sessions.waiting) == ([], 0)


@pytest.mark.parametrize(
    ("request_", "part"),
    [
        ("reset", "takes ResetRequests"),
        (ResetRequest(0, -1, None), "seed"),
        (ResetRequest(0, None, {"a": 1}), "must be encoded"),  # type: ignore[arg-type]  # refused
    ],
)
def test_a_wrong_reset_is_refused_and_nothing_is_sent(
    here: list[Any], request_: Any, part: str
) -> None:
    sessions = ready()
    with pytest.raises(InvalidOption, match=part):
        sessions.reset([ResetRequest(1, 3, b"x"), request_])
    assert (here, sessions.waiting) == ([], 0)


def test_each_slot_needs_an_action(here: list[Any]) -> None:
    sessions = ready()
    with pytest.raises(InvalidOption, match="one action a slot, got 1 for 2"):
        sessions.step([0, 1], [b""])
    sessions.step([], [])
    assert sessions.waiting == 0


def test_a_reset_opens_and_a_step_does_not(here: list[Any]) -> None:
    sessions = unopened()
    sessions.reset(asked((0, None, None)))
    assert [name for name, *_ in here] == ["run", "_send_resets"]
    with pytest.raises(EpisodeNotStarted, match="call reset"):
        sessions.step([0], [b""])
    assert len(here) == 2
    sessions = ready()
    sessions.open()
    assert len(here) == 2


def test_a_forked_process_has_no_sessions_and_closes_none(here: list[Any]) -> None:
    sessions = ready()
    sessions._waiting = 2
    sessions._pid = os.getpid() + 1
    with pytest.raises(EpisodeNotStarted):
        sessions.step([0], [b""])
    sessions.close()
    assert here == []
    sessions = ready()
    sessions._waiting = 2
    sessions._pid = os.getpid() + 1
    sessions.open()
    assert (here, sessions.waiting, sessions._pid) == ([("run",)], 0, os.getpid())


def test_closed_sessions_take_no_call(here: list[Any]) -> None:
    sessions = unopened()
    sessions.close()
    for call in (sessions.open, sessions.states, lambda: sessions.reset([])):
        with pytest.raises(SessionClosed, match="make new ones"):
            call()
    sessions = ready()
    sessions._closed = True
    with pytest.raises(SessionClosed, match="make new ones"):
        sessions.step([0], [b""])
    assert (here, sessions.waiting) == ([], 0)


def test_a_copy_has_the_settings_and_nothing_else() -> None:
    sessions = VectorSessions(
        GenericEnvClient("http://127.0.0.1:1", token="t"),
        2,
        same_step=True,
        resume_options={"a": 1},
    )
    sessions._waiting, sessions._closed = 3, True
    copy = pickle.loads(pickle.dumps(sessions))
    assert (copy.count, copy.same_step, copy._resume_options) == (2, True, {"a": 1})
    assert (copy.client.settings.token, copy.waiting, copy._closed) == ("t", 0, False)
    assert [slot.number for slot in copy._slots] == [0, 1]
    assert not VectorSessions("http://127.0.0.1:1", 1).same_step
