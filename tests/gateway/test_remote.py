"""A gateway of another process as agents here use it."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from openenv_async import serve
from openenv_async.errors import ConnectFailed, OpenEnvError, SessionNotFound, Unauthorized
from openenv_async.gateway.agents import CommandAgent
from openenv_async.gateway.gateway import Gateway
from openenv_async.gateway.remote import RemoteGateway
from openenv_async.gateway.sessions import Budget
from openenv_async.rollouts import collect_all
from tests.gateway.scripted import ROUTES, Client, ScriptedEngine, eventually, gated
from tests.gateway.test_agents import SMALL, gateway_of, saying
from tests.rollouts.environments import Counting


async def test_an_agent_plays_through_it_and_its_rows_are_here() -> None:
    async with (
        gateway_of(saying("1", "2", "end"), admin_token="admin") as served,
        RemoteGateway(served.url, "admin") as gateway,
    ):
        agent = CommandAgent([*SMALL, "{prompt}"], gateway=gateway, budget=Budget(calls=9))
        [outcome] = await collect_all(Counting, agent=agent, episodes=1)
        assert served.sessions() == []
    assert (outcome.status, outcome.episode_return) == ("completed", 3.0)
    assert (outcome.model_calls, outcome.model_tokens) == (3, 36)
    [row] = agent.rows(outcome)
    assert (row.relation, row.reward, row.calls) == ("main", 3.0, [0, 1, 2])


async def test_a_spent_budget_is_told_by_it() -> None:
    async with (
        gateway_of(saying("1"), admin_token="admin") as served,
        RemoteGateway(served.url + "/", "admin") as gateway,
    ):
        session = await gateway.open(budget=Budget(calls=1))
        url = f"{session.openai_base_url}/chat/completions"
        body = {"model": "any", "messages": [{"role": "user", "content": "hi"}]}
        headers = {"authorization": f"Bearer {session.key}"}
        async with aiohttp.request("POST", url, json=body, headers=headers) as response:
            assert response.status == 200
        await gateway.end(session)
        assert session.exhausted is not None
        assert "all its 1 calls" in session.exhausted
        assert (session.spent.calls, len(session.records)) == (1, 1)
        await gateway.end(session)  # its calls are here
        session.is_read = False
        with pytest.raises(SessionNotFound):
            await gateway.end(session)


async def test_a_call_that_ends_with_its_session_is_read() -> None:
    async with (
        Gateway(
            ScriptedEngine(gated(asyncio.Event())), routes=ROUTES, admin_token="admin"
        ) as served,
        RemoteGateway(served.url, "admin") as gateway,
    ):
        session = await gateway.open()
        async with Client(served.url, session.key) as client:
            await client.send("/plain", b'{"say": "hi"}')
            [kept] = served.sessions()
            await eventually(lambda: bool(kept.running))
            await gateway.end(session)
            assert (await client.reply()).json["error"] == "session_closed"
        assert [record.error and record.error[0] for record in session.records] == [
            "session_closed"
        ]
        assert session.spent.calls == 0


async def test_a_session_whose_calls_cannot_be_read_is_closed_and_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with (
        Gateway(ScriptedEngine(), routes=ROUTES, admin_token="admin") as served,
        RemoteGateway(served.url, "admin") as gateway,
    ):
        session = await gateway.open()
        async with Client(served.url, session.key) as client:
            assert (await client.ask({"say": "hi"})).status == 200
            asked = gateway._ask

            async def cut(method: str, path: str, body: Any = None) -> bytes:
                if method == "GET":
                    raise ConnectFailed("the line is cut")
                return await asked(method, path, body)

            monkeypatch.setattr(gateway, "_ask", cut)
            with pytest.raises(ConnectFailed):
                await gateway.end(session)
            assert (await client.ask({"say": "more"})).status == 401
        monkeypatch.setattr(gateway, "_ask", asked)
        await gateway.end(session)
        assert len(session.records) == 1
        assert served.sessions() == []


async def test_it_says_why_it_cannot_be_used() -> None:
    async with gateway_of(saying("1"), admin_token="admin") as served:
        for token in (None, "wrong"):
            with pytest.raises(Unauthorized, match="OPENENV_GATEWAY_TOKEN"):
                await RemoteGateway(served.url, token).__aenter__()
    with pytest.raises(ConnectFailed, match=r"cannot be reached \(.*\): start it"):
        await RemoteGateway("http://127.0.0.1:1", "admin").__aenter__()


async def test_a_server_that_is_something_else_is_told_apart() -> None:
    async with serve(Counting) as url, RemoteGateway(url, "admin") as gateway:
        with pytest.raises(OpenEnvError, match="/sessions"):  # what it has statistics of is another
            await gateway.open()
