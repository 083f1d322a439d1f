"""One session, its order, deadlines and ends, with an executor and a clock that the test moves."""

from __future__ import annotations

import asyncio
from math import inf
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from openenv_async import Limits, Timeouts
from openenv_async.engine import Session
from openenv_async.engine.interfaces import Call
from openenv_async.engine.requests import RunnerRequest, Unfinished
from openenv_async.errors import (
    EnvironmentDied,
    GoingAway,
    OpenEnvError,
    ProtocolError,
    SessionClosed,
    SessionLost,
)
from openenv_async.protocol.frames import (
    Begun,
    Close,
    Closed,
    Failed,
    Observation,
    Open,
    Opened,
    Partial,
    Reset,
    State,
    StateIs,
    Step,
    Waiting,
)
from tests.engine.scripted import KeepingSink, ScriptedExecutor, Stage
from tests.helpers import pack, token, unpack


@pytest.fixture
async def stage() -> Stage:  # async, so that it has the test's loop
    return Stage()


def step(seq: int, ack: int = 0, **fields: Any) -> Step:
    return Step(1, seq, ack, pack({}), **fields)


def codes(frames: list[Any]) -> list[Any]:
    """What came, briefly: (seq, code) of errors, (seq, kind) of the rest."""
    return [
        (frame.seq, frame.code if isinstance(frame, Failed) else type(frame).__name__)
        for frame in frames
    ]


def is_closing(session: Session) -> bool:
    return session.closing  # a call, because mypy remembers what a property was


# -- order --------------------------------------------------------------------------------


async def test_one_request_after_the_other(stage: Stage) -> None:
    session = stage.open()
    for seq in (1, 2, 3):
        session.submit(step(seq, seq - 1))
        stage.executor.finish(session)
        assert codes(stage.sink.take()) == [(seq, "Observation")]
    assert list(session.log.replies) == [3]


async def test_a_second_request_is_busy_and_uses_its_number(stage: Stage) -> None:
    session = stage.open()
    session.submit(step(1))
    session.submit(step(2))
    assert codes(stage.sink.take()) == [(2, "session_busy")]
    stage.executor.finish(session)
    session.submit(step(2))
    session.submit(step(3))
    assert codes(stage.sink.take()) == [(1, "Observation"), (2, "session_busy")]
    stage.executor.finish(session)
    assert codes(stage.sink.take()) == [(3, "Observation")]
    assert len(stage.executor.started) == 3  # open, 1 and 3


async def test_duplicates(stage: Stage) -> None:
    session = stage.open()
    session.submit(step(1))
    session.submit(step(1))
    assert stage.sink.take() == []
    stage.executor.finish(session)
    session.submit(step(1))
    first, again = stage.sink.take()
    assert first is again
    session.submit(step(3))
    session.submit(step(2, 1))
    stage.executor.finish(session)
    session.submit(step(1))
    assert codes(stage.sink.take()) == [
        (3, "protocol_error"),
        (2, "Observation"),
        (1, "protocol_error"),
    ]
    assert stage.engine.stats.duplicates == 2


async def test_renew_acknowledges_and_counts_as_activity(stage: Stage) -> None:
    session = stage.open()
    session.submit(step(1))
    stage.executor.finish(session)
    stage.clock.advance(5)
    session.renew(1)
    assert not session.log.replies
    assert session.active_at == stage.clock.now


# -- cancel -------------------------------------------------------------------------------


async def test_cancel_stops_and_the_next_one_waits(stage: Stage) -> None:
    session = stage.open()
    session.submit(step(1))
    session.cancel(1)
    session.cancel(1)
    assert stage.executor.interrupted == [session]
    session.submit(step(2))
    session.submit(step(3))
    assert codes(stage.sink.take()) == [(3, "session_busy")]
    stage.executor.finish(session)
    assert codes(stage.sink.take()) == [(1, "cancelled")]
    stage.executor.finish(session)
    assert codes(stage.sink.take()) == [(2, "Observation")]


async def test_cancel_of_what_waits(stage: Stage) -> None:
    session = stage.open()
    session.submit(step(1))
    session.cancel(1)
    session.submit(step(2))
    session.cancel(2)
    assert codes(stage.sink.take()) == [(2, "cancelled")]
    stage.executor.finish(session)
    assert codes(stage.sink.take()) == [(1, "cancelled")]
    assert not stage.executor.running


async def test_cancel_of_nothing(stage: Stage) -> None:
    session = stage.open()
    session.cancel(1)
    session.submit(step(1))
    session.cancel(2)
    session.cancel(0)
    assert stage.executor.interrupted == []
    stage.executor.finish(session)
    session.cancel(1)
    assert codes(stage.sink.take()) == [(1, "Observation")]


async def test_a_cancel_that_came_too_late_gives_the_result(stage: Stage) -> None:
    session = stage.open()
    stage.executor.can_interrupt = False
    session.submit(step(1))
    session.cancel(1)
    request = stage.executor.running.pop(session)
    assert isinstance(request, Step)
    session.complete(request, Observation(1, 1, pack("done")))
    assert codes(stage.sink.take()) == [(1, "Observation")]
    assert session.interrupted is None


# -- close --------------------------------------------------------------------------------


async def test_close(stage: Stage) -> None:
    session = stage.open()
    session.submit(Close(1, 1))
    assert session.closing
    session.submit(Close(1, 2))  # once more, while it closes
    stage.executor.finish(session)
    assert codes(stage.sink.take()) == [(2, "session_busy"), (1, "Closed")]
    assert not stage.engine.sessions
    session.submit(step(3))
    assert codes(stage.sink.take()) == [(3, "session_closed")]
    session.shut(SessionClosed("again"))
    session.die(EnvironmentDied("late"))
    assert session.check(stage.clock.now) is None
    assert stage.sink.take() == []


async def test_close_stops_what_runs(stage: Stage) -> None:
    """A close was refused as busy, and its session leaked until its idle timeout."""
    session = stage.open()
    session.submit(step(1))
    session.submit(Close(1, 2))
    assert session.closing
    assert stage.executor.interrupted == [session]
    stage.executor.finish(session)
    stage.executor.finish(session)
    assert codes(stage.sink.take()) == [(1, "cancelled"), (2, "Closed")]
    assert not stage.engine.sessions


async def test_close_takes_the_place_of_what_waits(stage: Stage) -> None:
    session = stage.open()
    session.submit(step(1))
    session.cancel(1)
    session.submit(step(2))
    session.submit(Close(1, 3))
    assert codes(stage.sink.take()) == [(2, "session_closed")]
    stage.executor.finish(session)
    stage.executor.finish(session)
    assert codes(stage.sink.take()) == [(1, "cancelled"), (3, "Closed")]


async def test_close_does_not_wait_for_ever_for_what_cannot_be_stopped(stage: Stage) -> None:
    session = stage.open()
    stage.executor.can_interrupt = False
    session.submit(step(1, timeout=0))
    session.submit(Close(1, 2, 0, 3.0))
    stage.clock.advance(2.9)
    assert stage.sink.take() == []
    stage.clock.advance(0.2)
    assert stage.executor.abandoned == [session]
    assert codes(stage.sink.take()) == [
        (1, "deadline_exceeded"),
        (2, "session_closed"),
        (0, "session_closed"),
    ]
    assert not stage.engine.sessions


async def test_a_refused_close_leaves_the_session_open(stage: Stage) -> None:
    """A close with a wrong number freed the channel and leaked the session."""
    session = stage.open()
    session.submit(Close(1, 5))
    assert codes(stage.sink.take()) == [(5, "protocol_error")]
    assert not session.closing


async def test_close_while_it_is_being_built(stage: Stage) -> None:
    session = stage.ask()
    session.submit(Close(1, 1))
    stage.executor.finish(session)
    stage.executor.finish(session)
    assert stage.sink.take() == [Opened(1), Closed(1, 1)]


async def test_a_request_while_it_is_being_built(stage: Stage) -> None:
    session = stage.ask()
    session.submit(Reset(1, 1))
    assert codes(stage.sink.take()) == [(1, "session_busy")]
    session.cancel(0)
    assert stage.executor.interrupted == []


async def test_it_cannot_be_built(stage: Stage) -> None:
    session = stage.ask()
    session.submit(Close(1, 1))
    stage.executor.finish(session, Failed(1, 0, "environment_start_failed", "no"))
    assert codes(stage.sink.take()) == [(1, "session_closed"), (0, "environment_start_failed")]
    assert not stage.engine.sessions


# -- deadlines ----------------------------------------------------------------------------


async def test_a_deadline_interrupts_and_answers(stage: Stage) -> None:
    session = stage.open()
    session.submit(step(1, timeout=2.0))
    stage.clock.advance(1.9)
    assert stage.executor.interrupted == []
    stage.clock.advance(0.2)
    assert stage.executor.interrupted == [session]
    session.cancel(1)
    stage.executor.finish(session)
    [reply] = stage.sink.take()
    assert reply.code == "deadline_exceeded"
    detail = unpack(reply.payload)
    assert (detail["field"], detail["value"], detail["phase"]) == ("step", 2.0, "step")
    assert detail["session_id"] == token(1)
    session.submit(step(2, 1))
    stage.executor.finish(session)
    assert codes(stage.sink.take()) == [(2, "Observation")]
    assert stage.engine.stats.timeouts == 1


async def test_what_ignores_its_interruption_is_given_up(stage: Stage) -> None:
    session = stage.open()
    session.submit(step(1, timeout=2.0))
    stage.clock.advance(2.0 + stage.engine.options.interrupt_grace + 0.01)
    assert stage.executor.abandoned == [session]
    assert codes(stage.sink.take()) == [(1, "deadline_exceeded"), (0, "session_closed")]
    assert [type(reason) for reason in stage.sink.reasons] == [SessionClosed]
    assert not stage.engine.sessions
    session.complete(step(1), Observation(1, 1, pack("late")))
    assert stage.sink.take() == []


async def test_the_servers_own_deadline_and_none(stage: Stage) -> None:
    session = stage.open()
    session.submit(step(1))
    stage.clock.advance(59.9)
    assert not stage.executor.interrupted
    stage.clock.advance(0.2)
    assert stage.executor.interrupted == [session]
    stage.executor.finish(session)
    session.submit(step(2, timeout=0))  # none of the client's own: the server's holds
    stage.clock.advance(59.9)
    assert stage.executor.interrupted == [session]
    stage.clock.advance(0.2)
    assert stage.executor.interrupted == [session, session]
    stage.executor.finish(session)


async def test_a_build_past_its_deadline_is_given_up(stage: Stage) -> None:
    stage.executor.can_interrupt = False
    session = stage.ask(timeout=1.0)
    stage.clock.advance(1.1)
    assert stage.executor.abandoned == [session]
    [reply] = stage.sink.take()
    assert (reply.seq, reply.code) == (0, "deadline_exceeded")
    assert not stage.engine.sessions


async def test_a_close_past_its_deadline_frees_the_capacity(stage: Stage) -> None:
    session = stage.open()
    session.submit(Close(1, 1, 0, 1.0))
    stage.clock.advance(2.0)
    assert codes(stage.sink.take())[0] == (1, "deadline_exceeded")
    assert not stage.engine.sessions
    assert session.dead is not None


async def test_the_whole_episode_has_a_deadline() -> None:
    stage = Stage(timeouts=Timeouts(episode=10.0))
    session = stage.open()
    session.submit(Reset(1, 1))
    stage.executor.finish(session)
    stage.clock.advance(9.0)
    session.submit(step(2, 1))
    stage.executor.finish(session)
    assert codes(stage.sink.take()) == [(1, "Begun"), (2, "Observation")]
    session.submit(step(3, 2))
    stage.clock.advance(1.2)
    stage.executor.finish(session)
    session.submit(step(4, 3))
    for reply in stage.sink.take():
        assert reply.code == "deadline_exceeded"
        assert unpack(reply.payload)["field"] == "episode"
    session.submit(Reset(1, 5, 4))
    stage.executor.finish(session)
    assert codes(stage.sink.take()) == [(5, "Begun")]


async def test_idle_sessions_are_closed_and_busy_ones_are_not() -> None:
    stage = Stage(timeouts=Timeouts(idle=10.0, step=None))
    session = stage.open()
    stage.clock.advance(6)
    session.submit(step(1))
    stage.clock.advance(50)  # longer than idle, but at work
    assert not is_closing(session)
    stage.executor.finish(session)
    stage.sink.take()
    stage.clock.advance(9.5)
    assert not is_closing(session)
    stage.clock.advance(1.0)
    assert is_closing(session)
    stage.executor.finish(session)
    [reason] = stage.sink.reasons
    assert reason.detail["field"] == "idle"
    assert not stage.engine.sessions
    assert stage.engine.stats.expired == 1


async def test_without_an_idle_timeout() -> None:
    stage = Stage(timeouts=Timeouts(idle=None))
    session = stage.open()
    session.submit(step(1))
    stage.executor.finish(session)
    stage.clock.advance(1e6)
    assert not session.closing


# -- streaming ----------------------------------------------------------------------------


async def test_credit(stage: Stage) -> None:
    session = stage.open()
    session.submit(step(1, credit=2))
    session.begin_stream(2)
    assert session.emit(b"a", False)
    assert not session.emit(b"b", False)
    assert [frame.index for frame in stage.sink.take()] == [0, 1]
    session.add_credit(1, 0)
    session.add_credit(9, 5)
    assert stage.executor.credits == []
    session.add_credit(1, 2)
    assert stage.executor.credits == [2]
    assert session.stream is not None
    assert not session.stream.kept
    assert session.emit(b"c", True)
    stage.executor.finish(session)
    partial, last = stage.sink.take()
    assert isinstance(partial, Partial)
    assert (partial.index, partial.whole) == (2, True)
    assert isinstance(last, Observation)
    assert not session.emit(b"late", False) or stage.sink.take() == []


async def test_credit_is_bounded() -> None:
    stage = Stage(limits=Limits(max_credit=3))
    session = stage.open()
    session.submit(step(1, credit=100))
    session.begin_stream(100)
    session.add_credit(1, 10**9)
    assert [session.emit(b"a", False) for _ in range(4)] == [True, True, False, False]


# -- the door -----------------------------------------------------------------------------


async def test_a_stream_that_ends_before_its_request_comes_again_lacks_nothing(
    stage: Stage,
) -> None:
    session = stage.open()
    session.submit(step(1, credit=5))
    session.begin_stream(5)
    session.emit(b"a", False)
    stage.engine.lost(session, stage.sink, False)
    session.emit(b"b", False)
    sink = stage.new_sink()
    stage.ask(1, sink, resume=True)
    session.emit(b"c", False)
    stage.executor.finish(session)  # the client's repeated request is still on its way
    assert [
        frame.index if isinstance(frame, Partial) else type(frame).__name__ for frame in sink.take()
    ] == ["Opened", 0, 1, 2, "Observation"]


async def test_parked_and_resumed(stage: Stage) -> None:
    session = stage.open()
    session.submit(step(1, credit=5))
    session.begin_stream(5)
    session.emit(b"a", False)
    stage.engine.lost(session, stage.sink, False)
    session.emit(b"b", False)
    stage.executor.finish(session)
    stage.clock.advance(30)
    sink = stage.new_sink()
    again = stage.ask(1, sink, resume=True)
    assert again is session
    session.submit(step(1, credit=5))
    opened, *rest = sink.take()
    assert opened == Opened(1, True, 1)
    assert [type(frame) for frame in rest] == [Partial, Partial, Observation]
    stage.clock.advance(1000)
    assert not session.closing  # not parked any more
    assert len(stage.sink.take()) == 1


async def test_parked_for_too_long(stage: Stage) -> None:
    session = stage.open()
    stage.engine.lost(session, stage.sink, False)
    stage.clock.advance(61)
    assert session.closing
    assert stage.engine.stats.abandoned == 1
    refused = stage.new_sink()
    assert stage.ask(1, refused, resume=True) is None
    assert refused.take()[0].code == "session_lost"
    stage.executor.finish(session)
    assert not stage.engine.sessions
    assert stage.ask(1, refused, resume=True) is None
    assert refused.take()[0].code == "session_lost"


async def test_a_client_that_leaves_closes_its_sessions(stage: Stage) -> None:
    session = stage.open()
    session.submit(step(1))
    stage.engine.lost(session, stage.sink, True)
    assert stage.executor.interrupted == [session]
    stage.executor.finish(session)
    stage.executor.finish(session)
    assert not stage.engine.sessions
    assert stage.sink.take() == []
    stage.engine.lost(session, stage.sink, True)


async def test_another_connection_takes_over(stage: Stage) -> None:
    session = stage.open()
    other = stage.new_sink("json")
    assert stage.ask(1, other) is session
    [reason] = stage.sink.reasons
    assert reason.code == "session_lost"
    stage.engine.lost(session, stage.sink, True)  # the old one goes, which concerns nobody
    assert not session.closing
    session.submit(State(1, 1))
    stage.executor.finish(session, StateIs(1, 1, b"{}"))
    assert [type(frame) for frame in other.take()] == [Opened, StateIs]


async def test_a_reply_is_converted_for_a_transport_of_another_format(stage: Stage) -> None:
    session = stage.open()
    session.submit(step(1))
    other = stage.new_sink("json")
    stage.ask(1, other, resume=True)
    stage.executor.finish(session, Observation(1, 1, pack({"a": 1}), info=pack([2])))
    session.submit(Step(1, 1, 0, pack({}, "json")))
    opened, first, again = other.take()
    assert opened == Opened(1, True, 1)
    for frame in (first, again):
        assert (bytes(frame.payload), bytes(frame.info)) == (b'{"a":1}', b"[2]")
    session.submit(step(2))
    assert codes(other.take()) == []
    session.submit(step(3))
    [busy] = other.take()
    assert unpack(busy.payload, "json")["session_id"] == token(1)


async def test_what_cannot_be_converted_is_an_error_of_that_call(stage: Stage) -> None:
    session = stage.open()
    session.submit(step(1))
    other = stage.new_sink("plain")
    stage.ask(1, other, resume=True)
    numpy = pytest.importorskip("numpy")
    payload = stage.engine.codecs("msgpack").encode_any({"z": numpy.zeros(2, "c16")})
    stage.executor.finish(session, Observation(1, 1, payload))
    assert codes(other.take()[1:]) == [(1, "invalid_observation")]


async def test_the_wrong_secret(stage: Stage) -> None:
    session = stage.open()
    sink = stage.new_sink()
    assert stage.engine.open(Open(1, token(1), token(5)), sink) is None
    assert sink.take()[0].code == "session_not_found"
    assert session.sink is stage.sink


async def test_its_environment_dies(stage: Stage) -> None:
    idle, busy, building = stage.open(1), stage.open(2), stage.ask(3)
    busy.submit(Step(2, 1, 0, pack({})))
    for session in (idle, busy, building):
        session.die(EnvironmentDied("killed", exit_code=-9))
    frames = stage.sink.take()
    assert [(f.channel, f.seq, f.code) for f in frames] == [
        (1, 0, "environment_died"),
        (2, 1, "environment_died"),
        (2, 0, "environment_died"),
        (3, 0, "environment_died"),
    ]
    for frame, phase in zip(frames, (None, "step", "step", "open"), strict=True):
        detail = unpack(frame.payload)
        assert (detail["exit_code"], detail.get("phase")) == (-9, phase)
    assert not stage.engine.sessions


# -- capacity -----------------------------------------------------------------------------


async def test_full_and_waiting() -> None:
    stage = Stage(max_sessions=1, max_waiting=2)
    first = stage.open(1)
    second, third = stage.ask(2), stage.ask(3)
    assert stage.ask(4) is None
    frames = stage.sink.take()
    assert frames[:2] == [Waiting(2, 1, 1), Waiting(3, 2, 2)]
    assert frames[2].code == "server_busy"
    assert (stage.engine.active, stage.engine.waiting) == (1, 2)
    stage.clock.advance(20)
    assert {type(frame) for frame in stage.sink.take()} <= {Waiting}
    second.submit(Close(2, 1))  # leaves the queue
    assert Closed(2, 1) in stage.sink.take()
    first.submit(Close(1, 1))
    stage.executor.finish(first)
    stage.executor.finish(third)
    assert [type(frame) for frame in stage.sink.take()] == [Closed, Opened]
    assert (stage.engine.active, stage.engine.waiting) == (1, 0)


async def test_waiting_has_a_deadline_and_ends_with_its_connection() -> None:
    stage = Stage(max_sessions=1, max_waiting=5)
    stage.open(1)
    stage.ask(2, timeout=3.0)
    gone = stage.ask(3)
    sink = stage.new_sink()
    parked = stage.ask(4, sink)
    stage.sink.take()
    stage.clock.advance(3.1)
    busy = [frame for frame in stage.sink.take() if isinstance(frame, Failed)]
    assert [(frame.channel, frame.code) for frame in busy] == [(2, "server_busy")]
    stage.engine.lost(gone, stage.sink, True)
    assert gone.dead is not None
    stage.engine.lost(parked, sink, False)
    stage.clock.advance(100)
    assert parked.dead is not None
    assert stage.engine.waiting == 0


async def test_building_has_what_waiting_left_of_the_deadline() -> None:
    stage = Stage(max_sessions=1, max_waiting=1)
    first = stage.open(1)
    second = stage.ask(2, timeout=10.0)
    stage.clock.advance(8)
    first.submit(Close(1, 1))
    stage.executor.finish(first)
    assert stage.engine.waiting == 0
    stage.sink.take()
    stage.clock.advance(1.9)
    assert not stage.executor.interrupted
    stage.clock.advance(0.15)
    assert stage.executor.interrupted == [second]
    stage.executor.finish(second, Failed(2, 0, "operation_cancelled", "stopped"))
    assert codes(stage.sink.take()) == [(0, "deadline_exceeded")]


async def test_a_session_that_could_not_be_built_is_not_kept() -> None:
    """One that fails at once, without its executor waiting for anything."""

    class Failing(ScriptedExecutor):
        def start(self, call: Call, request: RunnerRequest) -> None:
            call.complete(request, Failed(1, 0, "environment_start_failed", "no"))

    stage = Stage()
    stage.executor = Failing()
    ended: list[Session] = []
    closed = stage.engine.closed

    def close(session: Session, error: OpenEnvError) -> OpenEnvError:
        ended.append(session)
        return closed(session, error)

    stage.engine.closed = close  # type: ignore[method-assign]  # to get hold of the session
    assert stage.ask(1) is None
    assert codes(stage.sink.take()) == [(0, "environment_start_failed")]
    assert [session.scheduled for session in ended] == [inf]  # no clock looks at it


async def test_the_engine_goes_away() -> None:
    stage = Stage(max_sessions=2, max_waiting=2)
    idle, busy = stage.open(1), stage.open(2)
    busy.submit(Step(2, 1, 0, pack({})))
    waiting = stage.ask(3)
    stage.sink.take()
    closing = asyncio.ensure_future(stage.engine.aclose("maintenance"))
    await asyncio.sleep(0)
    assert waiting.dead is not None
    assert stage.ask(4) is None
    assert [frame.code for frame in stage.sink.take()] == ["going_away", "going_away"]
    idle.submit(Reset(1, 1))
    assert codes(stage.sink.take()) == [(1, "going_away")]
    stage.executor.finish(busy)
    stage.executor.finish(busy)
    stage.executor.finish(idle)
    await closing
    assert stage.executor.closed
    assert {type(reason) for reason in stage.sink.reasons} == {GoingAway}
    assert codes(stage.sink.take())[0][0] == 1


async def test_what_does_not_close_within_the_grace_is_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = Stage(close_grace=0.01)
    stage.open(1)
    await stage.engine.aclose()
    assert "did not close within" in caplog.text
    assert stage.executor.closed


@pytest.mark.parametrize("stubborn", [False, True])
async def test_a_loop_that_is_always_late_has_deadlines_all_the_same(stubborn: bool) -> None:
    """Each look was put off because it came late: for ever, on a loop that is busy."""
    stage = Stage(timeouts=Timeouts(step=1.0), interrupt_grace=0.5)
    session = stage.open()
    stage.executor.can_interrupt = not stubborn
    session.submit(step(1))
    for _ in range(8):
        stage.clock.now += 0.4  # the timer of ``advance`` comes this late
        stage.clock.advance(0.001)
    assert stage.executor.interrupted == [session]
    assert stage.executor.abandoned == [session]
    assert codes(stage.sink.take())[0] == (1, "deadline_exceeded")


async def test_a_late_look_is_put_off_once() -> None:
    stage = Stage(timeouts=Timeouts(step=1.0))
    session = stage.open()
    session.submit(step(1))
    stage.clock.now += 1.5
    stage.clock.advance(0.001)
    assert not stage.executor.interrupted  # its reply may lie unread
    stage.executor.finish(session)
    assert [seq for seq, _ in codes(stage.sink.take())] == [1]
    assert session.dead is None


async def test_a_parked_session_that_waits_for_capacity_is_forgotten() -> None:
    stage = Stage(
        max_sessions=1, max_waiting=5, timeouts=Timeouts(open=None, resume=5.0, idle=None)
    )
    stage.open(1)
    parked, other = stage.ask(2, sink := stage.new_sink()), stage.ask(3)
    stage.engine.lost(parked, sink, False)
    stage.clock.advance(4.9)
    assert (parked.dead, stage.engine.waiting) == (None, 2)
    stage.clock.advance(0.2)
    assert isinstance(parked.dead, SessionLost)
    assert parked.dead.message == "its client did not come back in time"
    assert (other.dead, stage.engine.waiting) == (None, 1)


async def test_a_waiting_client_hears_its_position_again() -> None:
    stage = Stage(max_sessions=1, max_waiting=5)
    stage.open(1)
    stage.ask(2)
    assert stage.sink.take() == [Waiting(2, 1, 1)]
    stage.clock.advance(0.9)
    assert stage.sink.take() == []
    stage.clock.advance(0.2)
    assert stage.sink.take() == [Waiting(2, 1, 1)]
    stage.clock.advance(1.0)
    assert stage.sink.take() == [Waiting(2, 1, 1)]


async def test_failed_steps_are_steps_too() -> None:
    stage = Stage(timeouts=Timeouts(step=1.0), interrupt_grace=0.5)
    session = stage.open()
    session.submit(Reset(1, 1))
    stage.executor.finish(session)
    assert stage.engine.stats.steps == 0
    session.submit(step(2))
    stage.executor.finish(session)
    session.submit(step(3))
    stage.executor.finish(session, Failed(1, 3, "environment_raised", "no"))
    assert stage.engine.stats.steps == 2
    assert stage.engine.stats.errors == {"environment_raised": 1}
    session.submit(State(1, 4))
    stage.executor.finish(session, Failed(1, 4, "environment_raised", "no"))
    assert stage.engine.stats.steps == 2
    session.submit(step(5))
    stage.executor.can_interrupt = False
    stage.clock.advance(1.1)
    assert session.dead is not None
    assert stage.engine.stats.steps == 3


async def test_a_session_knows_its_episode_for_the_log() -> None:
    stage = Stage()
    session = stage.open()
    assert session.episode_id is None
    session.submit(Reset(1, 1))
    stage.executor.finish(session, Begun(1, 1, b"\x80", "the episode", 5))
    assert session.episode_id == "the episode"


async def test_a_number_is_checked_before_anything_waits_for_its_answer() -> None:
    stage = Stage()
    session = stage.open()
    session.check_number(step(1))  # nothing has it
    session.submit(step(1))
    session.check_number(step(1))  # the running one
    with pytest.raises(ProtocolError, match="request 1 was another one"):
        session.check_number(State(1, 1))
    stage.executor.finish(session)
    session.check_number(step(1))  # the answered one
    with pytest.raises(ProtocolError, match="request 1 was another one"):
        session.check_number(State(1, 1))
    session.check_number(State(1, 2))


async def test_a_direct_step_is_called_by_the_session() -> None:
    """Its executor hears of all but steps."""
    stage = Stage()
    session = stage.open()
    stage.executor.direct = True
    session.submit(Reset(1, 1))
    stage.executor.finish(session)
    replies: list[Any] = [Observation(1, 2, b"o"), KeyboardInterrupt()]

    class Runner:
        episode_id: str | None = None
        trouble = None

        def handle(self, request: Any, codecs: Any) -> Any:
            assert codecs is session.codecs
            reply = replies.pop(0)
            if isinstance(reply, BaseException):
                raise reply
            return reply

        def raised(self, request: Any, exc: BaseException, codecs: Any) -> Any:
            return Failed(1, request.seq, "environment_raised", type(exc).__name__)

    runner: Any = Runner()
    session.runner = runner
    stage.sink.take()
    due = session.due
    session.submit(step(2))
    session.submit(step(3))
    first, second = stage.sink.take()
    assert (first.seq, bytes(first.payload)) == (2, b"o")
    assert (second.seq, second.message) == (3, "KeyboardInterrupt")
    assert [type(request) for request in stage.executor.started] == [Open, Reset]
    assert session.due == due  # nothing could look at it


# -- what a small change would break --------------------------------------------------------


async def test_the_first_credit_is_bounded_too() -> None:
    stage = Stage(limits=Limits(max_credit=2))
    session = stage.open()
    session.submit(step(1, credit=100))
    session.begin_stream(100)
    assert [session.emit(b"a", False) for _ in range(3)] == [True, False, False]


async def test_a_step_sent_again_carries_the_credit_that_was_lost(stage: Stage) -> None:
    session = stage.open()
    session.submit(step(1, credit=2))
    session.submit(step(1, credit=3))  # before it streams
    assert stage.executor.credits == [1]
    session.begin_stream(2)
    session.emit(b"a", False)
    session.emit(b"b", False)
    session.submit(step(1, credit=3))
    session.submit(step(1, credit=3))
    session.submit(step(1, credit=2))
    assert stage.executor.credits == [1, 1]
    assert session.stream is not None
    assert (session.stream.granted, len(session.stream.kept)) == (1, 1)
    session.submit(step(1, credit=4))
    assert stage.executor.credits == [1, 1, 1]
    assert session.stream.granted == 2


async def test_nothing_is_emitted_without_a_stream(stage: Stage) -> None:
    session = stage.open()
    session.submit(step(1))
    assert session.emit(b"a", False) is False
    assert stage.sink.take() == []


async def test_an_episode_is_over_at_its_deadline_and_not_after_it() -> None:
    stage = Stage(timeouts=Timeouts(episode=8.0))
    session = stage.open()
    session.submit(Reset(1, 1))
    stage.executor.finish(session)
    stage.clock.advance(8.0)
    session.submit(step(2, 1))
    begun, late = stage.sink.take()
    assert isinstance(begun, Begun)
    assert (late.seq, late.code) == (2, "deadline_exceeded")
    assert "the episode of Nothing took longer than its deadline of 8 s" in late.message
    assert stage.engine.stats.timeouts == 1


@pytest.mark.parametrize("request_", [Close(1, 2, 0, 3.0), State(1, 2, 0, 3.0)])
async def test_what_is_no_step_has_its_own_time_after_the_episode(request_: Any) -> None:
    """The state of an episode that was over for long was interrupted at once."""
    stage = Stage(timeouts=Timeouts(episode=10.0))
    session = stage.open()
    session.submit(Reset(1, 1))
    stage.executor.finish(session)
    stage.clock.advance(11.0)
    stage.sink.take()
    session.submit(request_)
    stage.clock.advance(2.9)
    assert stage.executor.interrupted == []
    stage.clock.advance(0.2)
    assert stage.executor.interrupted == [session]
    stage.executor.finish(session)
    [late] = [frame for frame in stage.sink.take() if frame.seq]
    assert "its deadline of 3 s" in late.message


async def test_a_step_is_interrupted_at_the_end_of_its_episode() -> None:
    stage = Stage(timeouts=Timeouts(episode=10.0))
    session = stage.open()
    session.submit(Reset(1, 1))
    stage.executor.finish(session)
    session.submit(step(2))
    stage.clock.advance(9.9)
    assert stage.executor.interrupted == []
    stage.clock.advance(0.2)
    assert stage.executor.interrupted == [session]


async def test_a_session_that_was_never_asked_is_idle_in_time() -> None:
    stage = Stage(timeouts=Timeouts(idle=10.0, open=60.0))
    session = stage.open()
    stage.clock.advance(9.9)
    assert not is_closing(session)
    stage.clock.advance(0.2)
    assert is_closing(session)


async def test_waiting_for_capacity_ends_before_the_next_news() -> None:
    stage = Stage(max_sessions=1, max_waiting=1)
    stage.open(1)
    waiting = stage.ask(2, timeout=0.5)
    stage.clock.advance(0.4)
    assert waiting.dead is None
    stage.clock.advance(0.15)
    assert waiting.dead is not None


async def test_a_request_while_it_waits_for_capacity_is_busy() -> None:
    stage = Stage(max_sessions=1, max_waiting=1)
    stage.open(1)
    waiting = stage.ask(2)
    stage.sink.take()
    waiting.submit(Reset(2, 1))
    assert codes(stage.sink.take()) == [(1, "session_busy")]
    assert (waiting.dead, stage.engine.waiting) == (None, 1)


async def test_a_call_that_is_stopped_for_the_end_says_why(stage: Stage) -> None:
    session = stage.open()
    session.submit(step(1))
    session.shut(GoingAway("maintenance"))
    assert stage.executor.interrupted == [session]
    stage.executor.finish(session)
    assert codes(stage.sink.take()) == [(1, "going_away")]
    assert isinstance(session.current, Close)


async def test_a_call_that_ended_before_it_could_be_stopped_has_its_result(stage: Stage) -> None:
    session = stage.open()
    session.submit(step(1))
    session.shut(GoingAway("maintenance"))
    stage.executor.finish(session, Observation(1, 1, pack("done")))
    assert codes(stage.sink.take()) == [(1, "Observation")]


async def test_the_engines_own_close_is_answered_to_nobody(stage: Stage) -> None:
    """It has number 0: it cannot be cancelled, refused or answered."""
    session = stage.open()
    session.submit(step(1))
    session.shut(GoingAway("first"))
    session.shut(SessionClosed("second"))
    session.cancel(0)
    assert stage.executor.interrupted == [session]
    assert stage.sink.take() == []
    stage.executor.finish(session)
    [answer] = stage.sink.take()
    assert (answer.seq, answer.message) == (1, "first")
    stage.executor.finish(session)
    assert [(frame.seq, frame.message) for frame in stage.sink.take()] == [(0, "first")]


async def test_it_dies_while_the_engine_closes_it(stage: Stage) -> None:
    session = stage.open()
    session.shut(GoingAway("maintenance"))
    session.die(EnvironmentDied("killed"))
    assert codes(stage.sink.take()) == [(0, "going_away")]


async def test_it_is_abandoned_before_the_engines_own_close_began(stage: Stage) -> None:
    session = stage.open()
    stage.executor.can_interrupt = False
    session.submit(step(1, timeout=1.0))
    session.shut(GoingAway("maintenance"))
    stage.clock.advance(1.1)
    assert stage.executor.abandoned == [session]
    assert codes(stage.sink.take()) == [(1, "going_away"), (0, "going_away")]
    assert stage.engine.stats.errors == {"going_away": 1}


async def test_a_close_without_a_deadline_of_its_own_waits() -> None:
    stage = Stage(timeouts=Timeouts(close=None, step=None, idle=None))
    session = stage.open()
    session.submit(step(1))
    session.shut(GoingAway("maintenance"))
    stage.clock.advance(1e4)
    assert stage.executor.interrupted == [session]
    stage.executor.finish(session)
    stage.clock.advance(1e4)
    stage.executor.finish(session)
    assert not stage.engine.sessions


async def test_closing_something_that_cannot_be_late_sets_no_deadline(stage: Stage) -> None:
    session = stage.open()
    stage.executor.timed = False
    session.due = inf
    session.submit(step(1))
    session.submit(Close(1, 2, 0, 3.0))
    assert session.due == inf
    stage.clock.advance(4)
    assert stage.executor.abandoned == []


async def test_a_cancelled_call_is_interrupted_again_at_its_deadline(stage: Stage) -> None:
    session = stage.open()
    session.submit(step(1, timeout=2.0))
    session.cancel(1)
    stage.clock.advance(2.1)
    assert stage.executor.interrupted == [session, session]
    assert stage.executor.abandoned == []
    stage.clock.advance(0.3)
    assert stage.executor.abandoned == []
    stage.clock.advance(0.2)
    assert stage.executor.abandoned == [session]


async def test_the_grace_of_an_interruption_is_postponed_by_itself() -> None:
    """A loop that was blocked at the deadline, and again at the end of the grace."""
    stage = Stage(timeouts=Timeouts(step=1.0), interrupt_grace=0.5)
    session = stage.open()
    session.submit(step(1))
    stage.clock.now += 1.5
    stage.clock.advance(0.15)
    assert stage.executor.interrupted == [session]
    stage.clock.now += 0.9
    stage.clock.advance(0.001)
    assert stage.executor.abandoned == []  # its reply may lie unread
    stage.clock.advance(0.2)
    assert stage.executor.abandoned == [session]


async def test_a_parked_session_that_does_not_close_is_abandoned(stage: Stage) -> None:
    session = stage.open()
    stage.executor.can_interrupt = False
    stage.engine.lost(session, stage.sink, False)
    stage.clock.advance(61)
    assert is_closing(session)
    stage.clock.advance(60)
    assert stage.executor.abandoned == [session]
    assert stage.engine.stats.abandoned == 1
    assert not stage.engine.sessions


async def test_a_deadline_says_whose_it_was(stage: Stage) -> None:
    session = stage.open()
    for seq, timeout, whose, seconds in (
        (1, 2.0, "client", 2.1),
        (2, None, "server", 60.1),
        (3, 90.0, "server", 60.1),
    ):
        session.submit(step(seq, seq - 1, timeout=timeout))
        stage.clock.advance(seconds)
        stage.executor.finish(session)
        [late] = stage.sink.take()
        assert f"raise Timeouts.step of the {whose} or" in late.message


async def test_a_session_goes_on_over_another_channel(stage: Stage) -> None:
    session = stage.open()
    session.submit(step(1, credit=5))
    session.begin_stream(5)
    session.emit(b"a", False)
    stage.sink.take()
    opening = Open(7, token(1), token(1001), True)
    assert stage.engine.open(opening, stage.sink) is session
    assert [reason.code for reason in stage.sink.reasons] == ["session_lost"]
    lost, opened, again = stage.sink.take()
    assert (lost.channel, opened.channel, again.channel) == (1, 7, 7)
    assert stage.engine.open(opening, stage.sink) is session  # sent twice: nobody took it over
    assert len(stage.sink.reasons) == 1
    stage.sink.take()
    stage.executor.finish(session)
    session.submit(Step(7, 1, 0, pack({}), credit=5))
    frames = stage.sink.take()
    assert [(type(frame), frame.channel) for frame in frames] == [
        (Observation, 7),
        (Partial, 7),
        (Observation, 7),
    ]


async def test_a_sink_is_told_the_size_of_each_payload(stage: Stage) -> None:
    class Measuring(KeepingSink):
        def send(self, frame: Any, size: int = 0) -> None:
            sizes.append((type(frame).__name__, size))

    sizes: list[tuple[str, int]] = []
    session = stage.ask(1, Measuring(stage.engine.codecs("msgpack")))
    stage.executor.finish(session)
    session.submit(step(1, credit=2))
    session.begin_stream(2)
    session.emit(b"abc", False)
    stage.executor.finish(session, Observation(1, 1, b"x" * 300))
    assert session.log.size == 300 + 512
    session.submit(step(1, credit=2))
    session.submit(State(1, 2, 1))
    stage.executor.finish(session, StateIs(1, 2, b"x" * 20))
    session.submit(Close(1, 3, 2))
    stage.executor.finish(session)
    assert sizes == [
        ("Opened", 0),
        ("Partial", 3),
        ("Observation", 300),
        ("Partial", 3),
        ("Observation", 300),
        ("StateIs", 20),
        ("Closed", 0),
    ]


async def test_an_awaitable_of_a_session_that_ended_is_dropped(stage: Stage) -> None:
    closed: list[int] = []

    class Pending:
        def close(self) -> None:
            closed.append(1)

    session = stage.open()
    session.submit(step(1))
    session.die(EnvironmentDied("killed"))
    stage.sink.take()
    pending: Any = Pending()
    session.complete(step(1), Unfinished(step(1), pending))
    assert closed == [1]
    assert stage.sink.take() == []


# -- everything at once -------------------------------------------------------------------


KINDS = ("reset", "step", "state", "close")


class Sessions(RuleBasedStateMachine):
    """A client that sends anything, an executor that ends when it likes, a network that breaks.

    The model: every number that was taken is answered once, by the first reply that was sent
    for it; whoever repeats a request gets that reply again or is told that it is stale, and
    whoever sends another one under its number is refused.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stage = Stage(timeouts=Timeouts(step=10.0, idle=None, resume=30.0))
        self.session: Session = self.stage.open()
        self.sink: KeepingSink | None = self.stage.sink
        self.taken = 0
        self.kinds: dict[int, str] = {}
        self.answered: dict[int, Any] = {}
        self.repeated: dict[int, int] = {}

    def collect(self, repeats: int | None = None) -> None:
        """Check what came: first answers, and repeats only of ``repeats``."""
        if self.sink is None:
            return
        for frame in self.sink.take():
            if isinstance(frame, Opened) or frame.seq == 0:
                continue
            if frame.seq > self.taken or (isinstance(frame, Failed) and "stale" in frame.message):
                assert frame.code == "protocol_error"
            elif frame.seq in self.answered:
                known = self.answered[frame.seq]
                assert frame.seq == repeats or known is None
                if known is not None:
                    assert frame == known
                self.answered[frame.seq] = frame
            else:
                self.answered[frame.seq] = frame

    @property
    def over(self) -> bool:
        return self.session.dead is not None

    def request(self, seq: int, kind: str, ack: int) -> Any:
        match kind:
            case "reset":
                return Reset(1, seq, ack)
            case "state":
                return State(1, seq, ack)
            case "close":
                return Close(1, seq, ack, 5.0)
            case _:
                return step(seq, ack)

    @precondition(lambda self: self.sink is not None)
    @rule(kind=st.sampled_from(["reset", "step", "state"]), lag=st.integers(0, 4))
    def new(self, kind: str, lag: int) -> None:
        self.taken += 1
        self.kinds[self.taken] = kind
        self.session.submit(self.request(self.taken, kind, max(0, self.taken - 1 - lag)))
        self.collect()

    @precondition(lambda self: self.sink is not None and self.taken)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        seq = data.draw(st.integers(1, self.taken))
        self.session.submit(self.request(seq, self.kinds[seq], 0))
        self.collect(seq)

    @precondition(lambda self: self.sink is not None and self.taken)
    @rule(data=st.data())
    def mistake(self, data: st.DataObject) -> None:
        """Another request under a number that is taken."""
        seq = data.draw(st.integers(1, self.taken))
        others: list[Any] = [
            self.request(seq, kind, 0) for kind in KINDS if kind != self.kinds[seq]
        ]
        if self.kinds[seq] == "step":
            others.append(Step(1, seq, 0, pack({"other": 1})))
        if self.kinds[seq] == "reset":
            others += [Reset(1, seq, seed=7), Reset(1, seq, episode_id="x")]
            others.append(Reset(1, seq, payload=pack({"x": 1})))
        self.collect()
        self.session.submit(data.draw(st.sampled_from(others)))
        assert self.sink is not None
        [refused] = self.sink.take()
        assert (refused.seq, refused.code) == (seq, "protocol_error")

    @precondition(lambda self: self.sink is not None)
    @rule(ahead=st.integers(2, 9))
    def gap(self, ahead: int) -> None:
        self.session.submit(self.request(self.taken + ahead, "close", 0))
        self.collect()

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.session.cancel(data.draw(st.integers(0, self.taken + 2)))
        self.collect()

    @precondition(lambda self: self.session in self.stage.executor.running)
    @rule()
    def finish(self) -> None:
        self.stage.executor.finish(self.session)
        self.collect()

    @rule(seconds=st.floats(0.1, 8.0), stubborn=st.booleans())
    def wait(self, seconds: float, stubborn: bool) -> None:
        self.stage.executor.can_interrupt = not stubborn
        self.stage.clock.advance(seconds)
        self.collect()

    @precondition(lambda self: self.sink is not None)
    @rule(left=st.booleans())
    def lose(self, left: bool) -> None:
        self.collect()
        assert self.sink is not None
        self.stage.engine.lost(self.session, self.sink, left)
        self.sink = None

    @precondition(lambda self: self.sink is None)
    @rule()
    def resume(self) -> None:
        sink = self.stage.new_sink()
        found = self.stage.ask(1, sink, resume=True)
        if found is None:
            [refusal] = sink.take()
            assert refusal.code in ("session_lost", "session_closed")
            assert self.over or self.session.closing
            return
        assert found is self.session
        self.sink = sink
        [opened] = [frame for frame in sink.frames if isinstance(frame, Opened)]
        assert opened.seq == self.taken
        # What was not answered before the connection broke is asked again.
        for seq in range(1, self.taken + 1):
            if seq not in self.answered:
                self.session.submit(self.request(seq, self.kinds[seq], 0))
                self.collect(seq)

    @precondition(lambda self: self.sink is not None)
    @rule()
    def close(self) -> None:
        self.taken += 1
        self.kinds[self.taken] = "close"
        self.session.submit(self.request(self.taken, "close", 0))
        self.collect()

    @invariant()
    def numbers_agree(self) -> None:
        assert self.session.log.taken == self.taken

    @invariant()
    def an_idle_session_owes_nothing(self) -> None:
        """Whatever was taken is answered, or its reply is kept for a client that is away."""
        idle = self.session.current is None or self.over
        if idle and self.session.deferred is None:
            for seq in range(1, self.taken + 1):
                log = self.session.log
                assert seq in self.answered or seq in log.replies or seq <= log.acked

    @invariant()
    def capacity_agrees(self) -> None:
        assert (token(1) in self.stage.engine.sessions) != self.over


Sessions.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestSessions = Sessions.TestCase


async def test_a_close_that_takes_too_long_is_told_its_own_deadline() -> None:
    stage = Stage(timeouts=Timeouts(close=2.0), interrupt_grace=0.5)
    session = stage.open()
    stage.executor.can_interrupt = False
    session.submit(Close(1, 1))
    stage.engine.closing(session, GoingAway("the server is going away"))
    stage.clock.advance(2.1)
    [failed] = [frame for frame in stage.sink.take() if frame.seq == 1]
    assert failed.code == "deadline_exceeded"
    assert "close() of" in failed.message
