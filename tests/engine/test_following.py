"""Sessions that somebody looks at, over every way in which a step is answered."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import numpy as np
import pytest

from openenv_async import (
    EngineOptions,
    Environment,
    GenericEnvClient,
    StepResult,
    create_app,
    serve,
)
from openenv_async.engine import Engine, Session
from openenv_async.engine.following import FollowedLog
from openenv_async.environment import Isolation
from openenv_async.errors import OpenEnvError, ResourceLimit
from openenv_async.protocol.frames import ObservationColumns
from openenv_async.protocol.replies import ReplyLog
from tests.engine.odd_rows import RESET
from tests.engine.test_columns import Side
from tests.helpers import until


class Paid(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """An environment that pays as asked."""

    isolation: ClassVar[Isolation | None] = "inline"

    def reset(self, seed: int | None = None) -> dict[str, Any]:
        return {"paid": 0}

    def step(self, action: dict[str, Any]) -> StepResult[dict[str, Any]]:
        if "fail" in action:
            raise RuntimeError("as asked")
        blob = {"blob": np.zeros(action.get("size", 0), np.uint8)}
        return StepResult({"paid": action["pay"], **blob}, float(action["pay"]), "end" in action)


class PaidInThread(Paid):
    isolation = "thread"


class PaidInProcess(Paid):
    isolation = "process"


@asynccontextmanager
async def played(
    cls: type[Paid] = Paid, **options: Any
) -> AsyncIterator[tuple[Engine, Session, GenericEnvClient]]:
    app = create_app(cls, options=EngineOptions(**options), local=False)
    server = app.state.openenv
    async with serve(app) as url, GenericEnvClient(url) as env:
        await env.reset(seed=3)
        (session,) = server.engine.sessions.values()
        yield server.engine, session, env


@pytest.mark.parametrize("cls", [Paid, PaidInThread, PaidInProcess])
async def test_every_answer_is_an_event(cls: type[Paid]) -> None:
    options = {"workers": 1} if cls is PaidInProcess else {}
    async with played(cls, **options) as (engine, session, env):
        with engine.following.follow(session) as record:
            assert [event.operation for event in record.events] == ["reset"]
            await env.step({"pay": 2})
            with pytest.raises(OpenEnvError):
                await env.step({"fail": 1})
            await env.reset(seed=4)
            await env.step({"pay": 2})
            await env.step({"pay": 3, "end": 1})
            events = list(record.events)
        assert [event.operation for event in events[1:]] == [
            *("step", "step", "reset", "step", "step")
        ]
        assert [event.number for event in events] == [1, 2, 3, 4, 5, 6]
        assert [event.total for event in events] == [None, None, None, None, 2.0, 5.0]
        assert [event.step for event in events] == [None, None, None, 0, 1, 2]
        assert events[2].reply["code"] == "environment_raised"
        assert events[3].reply["seed"] == 4
        assert events[5].reply["terminated"] is True
        codec = engine.spec.codec("any", events[5].format)
        assert events[5].action is not None
        assert codec.decode(events[5].action) == {"pay": 3, "end": 1}
        assert events[5].observation is not None
        assert codec.decode(events[5].observation)["paid"] == 3
        assert session.last_error is not None
        assert session.last_error[0] == "environment_raised"


async def test_rows_of_a_column_frame_are_events_of_their_sessions() -> None:
    side = Side(True)
    side.open()
    side.ask([(n, 1, RESET, 0) for n in range(1, 5)], 0)
    sessions = list(side.engine.sessions.values())
    follow = side.engine.following.follow
    with follow(sessions[0]) as one, follow(sessions[3]) as other:
        for seq in (2, 3):
            side.ask([(n, seq, 0, 0) for n in range(1, 5)], 0)
        replies = side.peer.take()
        assert isinstance(replies[-1], ObservationColumns)
        for record in (one, other):
            events = list(record.events)
            assert [event.operation for event in events] == ["reset", "step", "step"]
            assert events[1].reply["reward"] is not None
            assert events[1].observation
            assert events[1].action is not None
    side.ask([(n, 4, 0, 0) for n in range(1, 5)], 0)
    side.ask([(n, 4, 0, 0) for n in range(1, 5)], 0)  # sent again: the replies were kept
    assert side.engine.stats.duplicates == 4
    await side.engine.aclose()


async def test_nobody_looks_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openenv_async.engine.following._LOOK_TTL", 0.02)
    async with played() as (engine, session, env):
        assert type(session.log) is ReplyLog
        log = session.log
        assert engine.following.look(session) is not None
        assert type(session.log) is FollowedLog
        assert session.log is log
        await until(lambda: not engine.following.records)
        assert type(session.log) is ReplyLog
        await env.step({"pay": 1})  # exactly once goes on
        assert session.log.taken == 2


async def test_a_look_keeps_no_events_but_the_return() -> None:
    async with played() as (engine, session, env):
        record = engine.following.look(session)
        assert record is not None
        await env.reset()
        await env.step({"pay": 4})
        assert (record.total, record.steps, len(record.events)) == (4.0, 1, 0)


async def test_what_is_kept_is_bounded() -> None:
    async with played() as (engine, session, env):
        with engine.following.follow(session) as record:
            for _ in range(300):
                await env.step({"pay": 1})
            assert len(record.events) == 256
            assert record.count == 301
            for _ in range(3):
                await env.step({"pay": 1, "size": 100_000})
            kept = [event.observation is not None for event in record.events][-4:]
            assert kept == [True, False, False, True]
            assert record.events[-2].size > 100_000
            await env.step({"pay": 1, "size": 5_000_000})
            assert record.events[-1].observation is None


async def test_only_so_many_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openenv_async.engine.following._MAX_FOLLOWERS", 1)
    async with played() as (engine, session, _):
        with engine.following.follow(session):
            with pytest.raises(ResourceLimit, match="followed"):
                engine.following.check_room()
            with pytest.raises(ResourceLimit), engine.following.follow(session):
                pass
        engine.following.check_room()


async def test_the_end_of_a_session_is_seen() -> None:
    async with played() as (engine, session, env):
        with engine.following.follow(session) as record:
            await env.close()
            await until(lambda: session.dead is not None)
            assert record.ended
        assert engine.following.look(session) is record
