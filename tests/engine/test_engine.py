"""The engine itself: options, capacity, finding sessions, and what conversion does to replies."""

from __future__ import annotations

from typing import Any

import pytest

from openenv_async import EngineOptions, Timeouts
from openenv_async.engine.requests import transcode
from openenv_async.errors import (
    EnvironmentDied,
    ServerBusy,
    SessionClosed,
    SessionLost,
    SessionNotFound,
)
from openenv_async.models import Format
from openenv_async.protocol.codec import encode_map
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
    StateIs,
    Step,
    Waiting,
)
from openenv_async.spec import EnvironmentSpec
from tests.engine.scripted import ScriptedExecutor, Stage
from tests.helpers import Counter, Peer, make_engine, pack, token, unpack


@pytest.mark.parametrize("wrong", [{"max_sessions": 0}, {"workers": 0}, {"max_threads": 0}])
def test_options_that_make_no_sense(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        EngineOptions(**wrong)  # type: ignore[arg-type]  # which of them is known to the test


async def test_capacity_is_given_back_however_a_session_ends() -> None:
    engine = make_engine(Counter, max_sessions=2)
    for number in range(1, 20):
        peer = Peer(engine)
        await peer.begin(1)
        await peer.begin(2)
        refused = await peer.open(3)
        assert refused.code == "server_busy"
        detail = peer.detail(refused)
        assert (detail["limit"], detail["active"]) == (2, 2)
        assert detail["setting"] == "max_sessions"
        peer.send(Close(1, 2))
        peer.take()
        peer.connection.lost(left=True)
        assert not engine.sessions, number
    assert engine.stats.opened == engine.stats.closed == 38
    assert engine.stats.refused == 19
    assert engine.stats.peak_sessions == 2
    await engine.aclose()


async def test_an_instance_serves_one_session_at_a_time() -> None:
    engine = make_engine(Counter())
    peer = Peer(engine)
    await peer.begin(1)
    refused = await peer.open(2)
    assert "instance" in refused.message
    peer.send(Close(1, 2))
    assert peer.take() == [Closed(1, 2)]
    assert isinstance(await peer.begin(2), Begun)
    await engine.aclose()


async def test_find() -> None:
    stage = Stage()
    session = stage.open(1)
    assert stage.engine.find(token(1), token(1001)) is session
    for wrong in (token(5), "", "é" * 32, "x" * 1000, "\udcff"):
        with pytest.raises(SessionNotFound):
            stage.engine.find(token(1), wrong)
        with pytest.raises(SessionNotFound):
            stage.engine.find(wrong, token(1001))
    session.shut(SessionClosed("enough"))
    with pytest.raises(SessionClosed, match="enough"):
        stage.engine.find(token(1), token(1001))
    sink = stage.new_sink()
    assert stage.ask(1, sink) is None  # nobody attaches to what is closing
    assert sink.take()[0].code == "session_closed"


async def test_a_waiting_client_may_come_back_to_its_place() -> None:
    stage = Stage(max_sessions=1, max_waiting=3)
    first = stage.open(1)
    waiting = stage.ask(2)
    stage.sink.take()
    sink = stage.new_sink()
    assert stage.ask(2, sink) is waiting  # its answer was lost, so it asks again
    assert not any(isinstance(frame, Opened) for frame in sink.take())
    stage.clock.advance(5)
    assert stage.engine.longest_wait == pytest.approx(5)
    first.submit(Close(1, 1))
    stage.executor.finish(first)
    stage.executor.finish(waiting)
    assert sink.take()[-1] == Opened(2)
    assert stage.engine.longest_wait == 0


async def test_a_full_queue_of_those_that_cannot_be_built() -> None:
    stage = Stage(max_sessions=1, max_waiting=5)
    first = stage.open(1)
    waiting = [stage.ask(number) for number in (2, 3, 4)]
    first.submit(Close(1, 1))
    stage.executor.finish(first)
    for session in waiting[:2]:
        stage.executor.finish(session, Failed(0, 0, "environment_start_failed", "no"))
    stage.executor.finish(waiting[2])
    assert (stage.engine.active, stage.engine.waiting) == (1, 0)


async def test_busy_says_what_to_do() -> None:
    error = make_engine(Counter, max_sessions=3).busy()
    assert isinstance(error, ServerBusy)
    assert error.retryable
    assert "max_sessions" in error.message


# -- conversion ---------------------------------------------------------------------------

SPEC = EnvironmentSpec(Counter)
FRAMES: dict[str, Any] = {
    "begun": lambda p: Begun(1, 1, p({"a": None}), "e", 5, info=p([1])),
    "observation": lambda p: Observation(1, 1, p({"a": 1.5}), 0.5, info=None),
    "partial": lambda p: Partial(1, 1, 0, p("text")),
    "whole": lambda p: Partial(1, 1, 0, p({"a": 1}), True),
    "state": lambda p: StateIs(1, 1, p({"count": 1})),
    "step": lambda p: Step(1, 1, 0, p({"n": 1})),
    "reset": lambda p: Reset(1, 1, 0, p({"x": 1})),
    "bare reset": lambda p: Reset(1, 1, 0, None),
    "open": lambda p: Open(1, "s", "t", payload=p({})),
}


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize(
    ("source", "target"), [("msgpack", "json"), ("json", "msgpack"), ("json", "json")]
)
def test_payloads_are_converted(name: str, source: Format, target: Format) -> None:
    frame = FRAMES[name](lambda value: pack(value, source))
    wanted = FRAMES[name](lambda value: pack(value, target))
    assert transcode(SPEC, frame, source, target) == wanted


def test_details_are_converted_and_what_has_none_stays() -> None:
    failed = Failed(1, 1, "code", "text", False, encode_map({"a": 1}, "msgpack"))
    back = transcode(SPEC, failed, "msgpack", "json")
    assert unpack(back.payload, "json") == {"a": 1}
    bare = Failed(1, 1, "code", "text")
    assert transcode(SPEC, bare, "msgpack", "json") == bare
    assert transcode(SPEC, Closed(1, 1), "msgpack", "json") == Closed(1, 1)


# -- traffic that a client may see ----------------------------------------------------------


async def test_a_lost_session_says_so_to_who_resumes_it() -> None:
    engine = make_engine(Counter)
    peer = Peer(engine)
    reply = await peer.open(1, resume=True)
    assert reply.code == SessionLost.code
    assert peer.detail(reply)["epoch"] == engine.epoch
    await engine.aclose()


async def test_dead_sessions_do_not_stay_listed() -> None:
    """Thousands that could not be built, all on one connection."""

    class Unbuildable(Counter):
        def __init__(self) -> None:
            raise OSError("no")

    engine = make_engine(Unbuildable)
    peer = Peer(engine)
    for number in range(1, 3000):
        assert (await peer.open(number)).code == "environment_start_failed"
    assert len(peer.connection._channels) < 2000
    assert not engine.sessions
    await engine.aclose()


async def test_reasons_of_sessions_that_ended_unseen_are_bounded() -> None:
    """The newest 1,024 are kept, for clients that come back."""
    stage = Stage(max_sessions=2)
    for number in range(1, 1026):
        session = stage.open(number)
        session.detach(stage.sink)
        session.die(EnvironmentDied(f"number {number}"))

    def told(number: int) -> str:
        sink = stage.new_sink()
        assert stage.ask(number, sink, resume=True) is None
        message: str = sink.take()[0].message
        return message

    assert told(1025) == "number 1025"
    assert told(2) == "number 2"
    assert "the server restarted, or it was away" in told(1)


@pytest.mark.parametrize("wrong", ["", "a" * 31, "a" * 33, "a" * 31 + "-", "ä" * 32])
async def test_a_session_is_named_by_32_letters_and_digits(wrong: str) -> None:
    stage = Stage()
    for names in ((wrong, token(2)), (token(1), wrong)):
        assert stage.engine.open(Open(1, *names), stage.sink) is None
        [failed] = stage.sink.take()
        assert failed.code == "protocol_error"
        assert "32 hex digits" in failed.message
    assert stage.engine.stats.refused == 2
    assert stage.engine.stats.errors == {"protocol_error": 2}


async def test_counters_of_sessions_follow_their_lives() -> None:
    stage = Stage(max_sessions=3)
    first, second = stage.open(1), stage.open(2)
    stats = stage.engine.stats
    assert (stats.opened, stats.closed, stats.peak_sessions) == (2, 0, 2)
    for session in (first, second):
        session.die(EnvironmentDied("gone"))
    stage.sink.take()
    stage.open(3)
    assert (stats.opened, stats.closed, stats.peak_sessions) == (3, 2, 2)
    assert stage.ask(3, stage.new_sink(), resume=True) is not None
    assert stats.resumed == 1
    stage.engine.count_error("an author's own code")
    stage.engine.count_error("an author's own code")
    assert stats.errors == {"other": 2}


# -- what a small change would break --------------------------------------------------------


async def test_an_opening_acknowledges_and_a_refusal_says_where() -> None:
    stage = Stage()
    session = stage.open(1)
    session.submit(Step(1, 1, 0, pack({})))
    stage.executor.finish(session)
    assert list(session.log.replies) == [1]
    stage.ask(1, stage.sink, resume=True, ack=1)
    assert list(session.log.replies) == []
    stage.sink.take()
    assert stage.engine.open(Open(1, token(1), token(5)), stage.sink) is None
    [refused] = stage.sink.take()
    detail = unpack(refused.payload)
    assert (detail["session_id"], detail["env"], detail["phase"]) == (token(1), "Nothing", "open")


async def test_those_behind_one_who_left_move_up() -> None:
    stage = Stage(max_sessions=1, max_waiting=5)
    stage.open(1)
    waiting = [stage.ask(number) for number in (2, 3, 4, 5)]
    stage.sink.take()
    assert [stage.engine.position_of(session) for session in waiting] == [
        Waiting(number, number - 1, 4) for number in (2, 3, 4, 5)
    ]
    waiting[1].submit(Close(3, 1))
    assert stage.engine.position_of(waiting[0]) == Waiting(2, 1, 3)
    assert stage.engine.position_of(waiting[2]) == Waiting(4, 3, 3)  # counted from above
    assert stage.engine.position_of(waiting[3]) == Waiting(5, 3, 3)
    assert stage.engine.stats.closed == 0  # it never had a place
    waiting[0].submit(Close(2, 1))
    assert stage.engine.position_of(waiting[2]) == Waiting(4, 1, 2)


async def test_nobody_is_let_in_while_the_engine_goes_away() -> None:
    stage = Stage(max_sessions=1, max_waiting=1)
    first, waiting = stage.open(1), stage.ask(2)
    stage.engine.draining = "maintenance"
    first.submit(Close(1, 1))
    stage.executor.finish(first)
    assert stage.executor.running == {}
    assert stage.engine.waiting == 1
    assert waiting.dead is None


async def test_any_number_that_cannot_be_built_waits_in_the_queue() -> None:
    """Each gives its place to the next, without a deeper call."""

    class Failing(ScriptedExecutor):
        def start(self, call: Any, request: Any) -> None:
            call.complete(request, Failed(1, 0, "environment_start_failed", "no"))

    stage = Stage(max_sessions=1, max_waiting=500)
    first = stage.open(1)
    for number in range(2, 502):
        assert stage.ask(number) is not None
    stage.sink.take()
    failing: Any = Failing()
    for session in stage.engine.sessions.values():
        if session is not first:
            session.executor = failing
    stage.clock.advance(0.5)
    first.die(EnvironmentDied("gone"))
    frames = stage.sink.take()
    assert [frame.code for frame in frames[:-1]] == ["environment_start_failed"] * 500
    assert not stage.engine.sessions
    assert stage.engine.stats.opened == 501
    assert stage.engine.waits.count == 500
    assert stage.engine.waits.sum == pytest.approx(250.0)


async def test_the_reason_of_an_end_is_told_with_the_right_secret_only() -> None:
    stage = Stage()
    session = stage.open(1)
    session.detach(stage.sink)
    session.die(EnvironmentDied("gone"))
    sink = stage.new_sink()
    assert stage.engine.open(Open(1, token(1), token(5), True), sink) is None
    assert stage.ask(1, sink, resume=True) is None
    assert [frame.code for frame in sink.take()] == ["session_lost", "environment_died"]


async def test_a_full_server_asks_for_a_second() -> None:
    assert make_engine(Counter).busy().detail["retry_after"] == 1.0


async def test_without_a_time_to_come_back_a_lost_session_is_closed() -> None:
    stage = Stage(timeouts=Timeouts(resume=None))
    session = stage.open(1)
    stage.engine.lost(session, stage.sink, False)
    assert session.closing


async def test_the_replies_of_a_session_are_given_back_with_it() -> None:
    stage = Stage()
    session = stage.open(1)
    for seq in (1, 2, 3):
        session.submit(Step(1, seq, 0, pack({})))
        stage.executor.finish(session)
    assert stage.engine.retained.size > 0
    session.die(EnvironmentDied("gone"))
    assert stage.engine.retained.size == 0
