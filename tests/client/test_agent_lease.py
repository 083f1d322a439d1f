"""Leases: both sides of a session as an agent is given them, and the record of its steps."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from openenv_async import EnvClient, EnvPool, connect, serve
from openenv_async.client.agent_lease import AgentLease
from openenv_async.errors import (
    ConnectFailed,
    EnvironmentRaised,
    OpenEnvError,
    ResponderUnavailable,
    SessionClosed,
    SessionLost,
    Unauthorized,
)
from tests.server.mcp.agent import SECRET, STATELESS, Agent, Maze, Move, Seen, served


class Client(EnvClient[Move, Seen, dict[str, Any]]):
    pass


@dataclass
class Access:
    id: str
    key: str
    openai_base_url: str = "http://127.0.0.1:1/v1"
    anthropic_base_url: str = "http://127.0.0.1:1"


@dataclass
class NotingGateway:
    """A gateway without a server, which notes its sessions."""

    open_sessions: list[Any] = field(default_factory=list)
    budgets: list[Any] = field(default_factory=list)
    is_down: bool = False
    failures: list[Exception] = field(default_factory=list)
    ended: int = 0

    async def open(self, *, budget: Any = None) -> Access:
        if self.is_down:
            raise ResponderUnavailable("no gateway")
        session = Access("s1", "key-1")
        self.open_sessions.append(session)
        self.budgets.append(budget)
        return session

    async def end(self, session: Any) -> None:
        self.ended += 1
        if self.failures:
            raise self.failures.pop(0)
        self.open_sessions.remove(session)


def leased(env: Any, **options: Any) -> AgentLease[Any, Any]:
    return AgentLease(env, **options)


async def play(lease: AgentLease[Any, Any], *places: int) -> None:
    """Walk about over MCP with what the lease gives."""
    assert lease.mcp is not None
    async with httpx.AsyncClient(headers={"authorization": f"Bearer {lease.mcp.token}"}) as http:
        agent = Agent(http, STATELESS, lease.mcp.url)
        for place in places:
            await agent.call("step", to=place)


async def test_a_pool_leases_both_sides_and_takes_both_back() -> None:
    gateway = NotingGateway()
    async with (
        serve(Maze, token="secret") as url,
        EnvPool.of(url, token="secret", client=Client) as pool,
    ):
        async with pool.lease(gateway=gateway, budget="ten calls") as lease:
            assert lease.model is gateway.open_sessions[0]
            assert gateway.budgets == ["ten calls"]
            begun = await lease.reset(level=4)
            assert lease.last is begun
            await play(lease, 3, 9)
            await lease.changed(1)
            steps = await lease.settle()
            assert [step.action for step in steps] == [Move(3), Move(9)]
            assert [step.result.reward for step in steps] == [SECRET, SECRET]
            assert lease.is_over
            assert lease.mcp is None
        assert gateway.open_sessions == []
        assert pool.statistics().sessions == 0
        with pytest.raises(SessionClosed):
            await lease.open()


@pytest.mark.parametrize(
    ("failures", "asked", "is_ended"),
    [
        ([ConnectFailed("no gateway")] * 2, 3, True),
        ([ConnectFailed("no gateway")] * 9, 3, False),
        ([Unauthorized("another token")] * 9, 1, False),
    ],
)
async def test_a_key_that_cannot_be_ended_is_tried_again_and_told(
    failures: list[Exception],
    asked: int,
    is_ended: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("openenv_async.client.agent_lease._PAUSES", (0.0, 0.0))
    gateway = NotingGateway(failures=[*failures])
    async with connect(Maze) as env:
        lease = await leased(env, gateway=gateway, owned=False).open()
        try:
            await lease.end_model()
        except OpenEnvError:
            assert not is_ended
        assert gateway.ended == asked
        assert (gateway.open_sessions == []) is is_ended
        assert ("its key is good until" in caplog.text) is not is_ended
        await lease.aclose()
        assert gateway.ended == asked


async def test_a_key_is_ended_whose_end_was_cancelled() -> None:
    class SlowGateway(NotingGateway):
        async def end(self, session: Any) -> None:
            if not self.ended:
                self.ended += 1
                await asyncio.Event().wait()
            await super().end(session)

    gateway = SlowGateway()
    async with connect(Maze) as env:
        lease = await leased(env, gateway=gateway, owned=False).open()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(lease.end_model(), 0.01)
        await lease.aclose()
    assert gateway.open_sessions == []


async def test_steps_over_mcp_and_in_this_process_are_one_record() -> None:
    async with served() as (http, _), leased(Client(str(http.base_url))) as lease:
        await lease.reset()
        await play(lease, 4)
        await lease.changed(0)
        await lease.step(Move(5))
        await play(lease, 9)
        taken = await lease.settle()
        assert [getattr(step.action, "to", None) for step in taken] == [4, 5, 9]
        await lease.reset()
        assert lease.taken == []
        assert lease.mcp is not None
        await play(lease, 7)
        assert [getattr(step.action, "to", None) for step in await lease.settle()] == [7]


async def test_a_session_in_this_process_has_no_address() -> None:
    async with connect(Maze) as env, leased(env, owned=False) as lease:
        await lease.reset()
        assert lease.mcp is None
        await lease.step({"to": 9})
        assert lease.is_over
        assert [step.action for step in await lease.settle()] == [{"to": 9}]


@pytest.mark.parametrize("by", ["mcp", "itself"])
async def test_a_step_in_which_the_environment_failed_is_the_leases_failure(by: str) -> None:
    async with served() as (http, _), leased(Client(str(http.base_url))) as lease:
        await lease.reset()
        if by == "mcp":
            await play(lease, 2, 13, 3)
        else:
            await lease.step(Move(2))
            with pytest.raises(EnvironmentRaised):
                await lease.step(Move(13))
        with pytest.raises(EnvironmentRaised, match="there is a wall"):
            await lease.settle()


async def test_a_session_that_ends_under_its_agent_is_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("openenv_async.server.mcp.sessions._LOOK", 0.05)
    async with served() as (http, server), leased(Client(str(http.base_url))) as lease:
        await lease.reset()
        await play(lease, 2)
        await lease.changed(0)
        for session in list(server.engine.sessions.values()):
            session.shut(SessionLost("its server went down"))
        await asyncio.wait_for(lease.changed(1), 10)
        assert lease.failure is not None
        with pytest.raises(type(lease.failure)):
            await lease.settle()


async def test_nothing_stays_open_where_a_side_cannot_be_had() -> None:
    gateway = NotingGateway(is_down=True)
    async with served() as (http, server):
        with pytest.raises(ResponderUnavailable):
            await AgentLease(Client(str(http.base_url)), gateway=gateway).open()
        assert server.engine.active == 0
    gateway = NotingGateway()
    with pytest.raises(OSError, match="connect"):
        await AgentLease(Client("http://127.0.0.1:1"), gateway=gateway).open()
    assert gateway.open_sessions == []
