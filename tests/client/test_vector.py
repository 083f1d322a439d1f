"""VectorSessions: batches, lost connections, replaced sessions, and a thread that waits."""

from __future__ import annotations

import asyncio
import pickle
import threading
from typing import Any

import pytest

from openenv_async import EngineOptions, Environment, GenericEnvClient, StepResult, Timeouts
from openenv_async.client.loop_thread import background_loop
from openenv_async.client.vector import Answer, ResetRequest, VectorSessions
from openenv_async.errors import (
    ConnectFailed,
    DeadlineExceeded,
    EnvironmentRaised,
    EpisodeNotStarted,
    OpenEnvError,
    ServerBusy,
    SessionBusy,
    SessionClosed,
    SessionLost,
)
from openenv_async.server import create_app
from tests.helpers import until
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
        assert connection.reconnects == 3
        sessions.close()


def cut(sessions: VectorSessions) -> None:
    connection = sessions._connection
    assert connection is not None

    async def abort() -> None:
        transport: Any = connection._transport
        if transport is not None:
            transport._socket.transport.abort()

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
