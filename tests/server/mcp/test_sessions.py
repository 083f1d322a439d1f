"""Sessions that agents play: handles, their life and their end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from openenv_async import EngineOptions, Timeouts
from openenv_async.engine import Engine
from openenv_async.errors import EpisodeNotStarted, ServerBusy, SessionClosed, SessionNotFound
from openenv_async.server.mcp.sessions import IDLE_TIMEOUT, AgentSessions
from openenv_async.spec import EnvironmentSpec
from tests.helpers import until
from tests.server.mcp.agent import Maze


@asynccontextmanager
async def sessions(
    env: Any = Maze,
    options: EngineOptions | None = None,
    idle_timeout: float | None = IDLE_TIMEOUT,
) -> AsyncIterator[AgentSessions]:
    engine = Engine(EnvironmentSpec(env), options)
    made = AgentSessions(engine, idle_timeout)
    engine.deadlines  # noqa: B018  # starts the engine
    try:
        yield made
    finally:
        await engine.aclose()


async def test_handles_are_not_names_of_the_engine() -> None:
    async with sessions() as made:
        one, other = made.new(), made.new()
        await one.reset(None, {}, 1)
        assert one.session is not None
        assert one.handle not in (one.session.id, one.session.secret)
        assert len({one.handle, other.handle}) == 2
        assert len(one.handle) >= 32
        assert made.find(one.handle) is one
        with pytest.raises(SessionNotFound):
            made.find(one.session.id)
        assert other.session is None  # it takes no capacity
        assert made.engine.active == 1


async def test_a_session_that_is_closed_while_it_opens_is_not_left_behind() -> None:
    entered, leave = threading.Event(), threading.Event()

    class Slow(Maze):
        isolation = "thread"  # type: ignore[assignment]  # its constructor waits

        def __init__(self) -> None:
            super().__init__()
            entered.set()
            leave.wait()

    async with sessions(Slow) as made:
        session = made.new()
        opening = asyncio.create_task(session.reset(None, {}, 1))
        await until(entered.is_set)
        session.close()
        leave.set()
        with pytest.raises(SessionClosed, match="closed by its client"):
            await opening
        await until(lambda: made.engine.active == 0)


async def test_there_are_only_so_many_handles() -> None:
    async with sessions(options=EngineOptions(max_sessions=2)) as made:
        for _ in range(68):
            made.new()
        with pytest.raises(ServerBusy, match="68 clients of MCP"):
            made.new()
        next(iter(made)).close()
        made.new()


async def test_a_session_that_ended_is_told_of_and_opened_again() -> None:
    options = EngineOptions(timeouts=Timeouts(idle=0.05))
    async with sessions(options=options) as made:
        session = made.new()
        await session.reset(None, {}, 1)
        await until(lambda: made.engine.active == 0)
        with pytest.raises(EpisodeNotStarted, match="was idle for"):
            await session.step(b"\x80", 2)
        await session.reset(None, {}, 3)
        assert made.engine.active == 1


async def test_a_handle_that_nobody_uses_ends() -> None:
    options = EngineOptions(timeouts=Timeouts(idle=0.05))
    async with sessions(options=options) as made:
        unused = made.new()
        used = made.new()
        await used.reset(None, {}, 1)
        await until(lambda: not made.has(unused))


@pytest.mark.parametrize("limit", [600.0, 20.0, None])
async def test_a_session_that_nobody_uses_ends_before_others(limit: float | None) -> None:
    async with sessions(idle_timeout=limit) as made:
        session, watched = made.new(), made.new()
        await session.reset(None, {}, 1)
        await watched.reset(None, {}, 1)
        watched.streaming()  # which shows that its client is there
        used, own = made.engine.clock(), made.engine.options.timeouts.idle
        assert own is not None
        due = session.check(used)
        assert due == pytest.approx(used + min(limit or own, own), abs=10)
        assert due is not None
        assert session.check(due - 15) is not None
        assert made.has(session)
        ended = session.check(due + 15) is None
        assert ended == (limit is not None) == (not made.has(session))
        assert watched.check(due + 15) is not None
        assert made.has(watched)
        await until(lambda: made.engine.active == (1 if ended else 2))


async def test_the_last_of_several_streams_counts() -> None:
    async with sessions() as made:
        session = made.new()
        await session.reset(None, {}, 1)
        first, second = session.streaming(), session.streaming()
        session.stream_ended(first)
        later = made.engine.clock() + 1e6
        assert session.check(later) is not None
        session.stream_ended(second)
        assert session.check(made.engine.clock()) is not None
        assert made.has(session)
        assert session.check(later) is None
        assert not made.has(session)
        await until(lambda: made.engine.active == 0)


async def test_a_client_that_asks_again_is_not_gone() -> None:
    async with sessions() as made:
        session = made.new()
        stream = session.streaming()
        session.stream_ended(stream)
        resume = made.engine.options.timeouts.resume
        assert resume is not None
        gone_at = made.engine.clock() + resume
        await session.reset(None, {}, 1)
        next_look = session.check(gone_at - 1)
        assert next_look is not None
        assert made.has(session)
        session.check(gone_at + resume)
        assert not made.has(session)


async def test_a_closed_session_lets_its_streams_end() -> None:
    async with sessions() as made:
        session = made.new()
        stream = session.streaming()
        session.close()
        assert stream.is_set()
        assert not made.has(session)


async def test_without_tasks_none_is_drawn() -> None:
    async with sessions() as made:
        with pytest.raises(AssertionError):
            await made.drawn_task()
