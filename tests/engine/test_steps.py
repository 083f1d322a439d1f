"""Steps that come in a row: nothing in one that is remarkable costs the others a thing."""

from __future__ import annotations

from typing import Any

import pytest

from openenv_async import EngineOptions, Limits, StepResult, Timeouts
from openenv_async.engine import Engine
from openenv_async.engine.session import Session
from openenv_async.errors import SessionClosed
from openenv_async.protocol.frames import Failed, Frame, Observation, State, StateIs, Step
from openenv_async.testing import ManualClock
from tests.helpers import Counter, Format, Peer, make_engine, pack, token, unpack


def step(channel: int, seq: int, format: Format = "msgpack", **action: Any) -> Step:
    return Step(channel, seq, seq - 1, pack(action, format))


@pytest.fixture
def long_way(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The channels of the steps that ``Session.submit`` took."""
    channels: list[int] = []
    submit = Session.submit

    def noted(self: Session, request: Any) -> None:
        if type(request) is Step:
            channels.append(request.channel)
        submit(self, request)

    monkeypatch.setattr(Session, "submit", noted)
    return channels


@pytest.mark.parametrize("format", ["msgpack", "json"])
async def test_a_step_that_nothing_is_remarkable_about_is_taken_here(
    format: Format, long_way: list[int]
) -> None:
    engine = make_engine(Counter)
    peer = Peer(engine, format)
    for number in (1, 2):
        await peer.begin(number)
    peer.send(*(step(number, 2, format, nonce=number) for number in (1, 2)))
    assert [unpack(reply.payload, format)["nonce"] for reply in peer.take()] == [1, 2]
    assert long_way == []
    assert engine.stats.steps == 2
    for number in (1, 2):
        session = engine.sessions[token(number)]
        assert (session.current, session.log.taken, session.log.acked) == (None, 2, 1)
        kept = session.log.get(2)
        assert kept is not None
        assert isinstance(kept.reply, Observation)
        assert kept.format == format
        assert kept.size == len(bytes(kept.reply.payload))
        assert session.log.size == kept.size + 512  # its message and the action count too
    await engine.aclose()


async def test_remarkable_ones_among_them_answer_for_themselves(long_way: list[int]) -> None:
    engine = make_engine(Counter, limits=Limits(chunk_size=5000))
    peer = Peer(engine)
    for number in range(1, 9):
        await peer.begin(number)
    peer.send(step(3, 2, nonce="first"))
    first = peer.take()
    frames: list[Frame] = [
        step(1, 2, nonce="plain"),
        step(2, 2, fail="on purpose"),
        step(3, 2, nonce="first"),  # again
        step(4, 3),  # a gap
        State(1, 3, 2),
        step(99, 2),  # no session
        step(5, 2, nonce="x" * 4200),
        Step(6, 2, 1, b"\xc1"),
        step(7, 2, end=True),
        step(8, 2, nonce="last"),
    ]
    peer.send(*frames)
    replies = peer.take()
    assert [(reply.channel, type(reply)) for reply in replies] == [
        (1, Observation),
        (2, Failed),
        (3, Observation),
        (4, Failed),
        (1, StateIs),
        (99, Failed),
        (5, Observation),
        (6, Failed),
        (7, Observation),
        (8, Observation),
    ]
    assert replies[2] == first[0]
    assert [reply.code for reply in replies if isinstance(reply, Failed)] == [
        "environment_raised",
        "protocol_error",
        "session_not_found",
        "invalid_action",
    ]
    assert replies[8].terminated
    assert long_way == [3, 4, 5]  # the others differ only in what came of them
    assert engine.stats.steps == 7
    assert engine.stats.duplicates == 1
    await engine.aclose()


async def test_a_reply_of_much_work_lets_others_go_first() -> None:
    class Large(Counter):
        def step(self, action: dict[str, Any]) -> dict[str, Any]:
            return {"text": "x" * action["size"]}

    engine = make_engine(Large, limits=Limits(chunk_size=1000))
    peer = Peer(engine)
    for number in (1, 2, 3):
        await peer.begin(number)
    frames = [step(1, 2, size=10), step(2, 2, size=5000), step(3, 2, size=10)]
    assert peer.connection.handle(frames, 0, 3) == 2
    ready: list[Any] = peer.connection.ready
    assert [frame.channel for frame in ready] == [1]
    assert set(peer.connection.large) == {2}
    assert peer.connection.handle(frames, 2, 3) == 3
    assert [frame.channel for frame in ready] == [1, 3]
    await engine.aclose()


async def test_a_session_that_the_step_itself_shuts_ends_after_it() -> None:
    engines: list[Engine] = []

    class Shutting(Counter):
        def step(self, action: dict[str, Any]) -> dict[str, Any]:
            if action.get("shut"):
                engines[0].sessions[token(1)].shut(SessionClosed("from within"))
            return super().step(action)

    engine = make_engine(Shutting)
    engines.append(engine)
    peer = Peer(engine)
    for number in (1, 2):
        await peer.begin(number)
    peer.send(step(1, 2, shut=True), step(2, 2, nonce="after"))
    ended = [reply for reply in peer.take() if reply.channel == 1]
    assert [type(reply) for reply in ended] == [Observation, Failed]
    assert ended[-1].code == "session_closed"
    assert token(1) not in engine.sessions
    assert engine.sessions[token(2)].log.taken == 2
    await engine.aclose()


async def test_an_episode_with_a_deadline_goes_the_long_way(long_way: list[int]) -> None:
    clock = ManualClock()
    engine = make_engine(Counter, clock=clock, options=EngineOptions(timeouts=Timeouts(episode=10)))
    peer = Peer(engine)
    await peer.begin()
    peer.send(step(1, 2))
    clock.advance(11)
    peer.send(step(1, 3))
    assert [type(reply) for reply in peer.take()] == [Observation, Failed]
    assert long_way == [1, 1]
    await engine.aclose()


async def test_a_session_is_idle_from_the_end_of_a_slow_step_on() -> None:
    clock = ManualClock()

    class Slow(Counter):
        def step(self, action: dict[str, Any]) -> dict[str, Any]:
            clock.now += action["seconds"]
            return super().step(action)

    engine = make_engine(Slow, clock=clock, options=EngineOptions(timeouts=Timeouts(idle=5)))
    peer = Peer(engine)
    for number in (1, 2):
        await peer.begin(number)
    peer.send(step(1, 2, seconds=0.0), step(2, 2, seconds=8.0))
    assert {engine.sessions[token(number)].active_at for number in (1, 2)} == {clock.now}
    clock.advance(4.9)
    assert len(engine.sessions) == 2
    clock.advance(0.2)
    assert not engine.sessions
    await engine.aclose()


async def test_info_and_end_come_with_the_observation() -> None:
    class Told(Counter):
        def step(self, action: dict[str, Any]) -> StepResult[dict[str, Any]]:  # type: ignore[override]  # beside it
            return StepResult({"at": 1}, 0.5, False, True, {"why": "limit"})

    engine = make_engine(Told)
    peer = Peer(engine)
    await peer.begin()
    peer.send(step(1, 2), step(1, 3))
    told, late = peer.take()
    assert (told.reward, told.terminated, told.truncated) == (0.5, False, True)
    assert unpack(told.info) == {"why": "limit"}
    assert late.code == "episode_ended"
    await engine.aclose()
