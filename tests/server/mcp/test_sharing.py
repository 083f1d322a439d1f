"""The routes by which a session is lent to agents; ``tests/client/test_sharing.py`` plays."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from openenv_async import EngineOptions, Timeouts
from tests.helpers import until
from tests.server.mcp.agent import SECRET, STATELESS, WITH_SESSIONS, Agent, Maze, Move, Seen, served


async def test_a_session_over_http_is_lent_and_told_of_in_plain_json() -> None:
    async with served() as (http, _):
        begun = await http.post("/reset", json={"level": 2})
        name = {"X-OpenEnv-Session": begun.headers["X-OpenEnv-Session"]}
        assert (await http.get("/share", headers=name)).status_code == 501
        lent = (await http.post("/share", headers=name)).json()
        assert lent["path"] == f"/mcp/{lent['handle']}"
        agent = Agent(http, STATELESS, lent["path"])
        waiting = asyncio.ensure_future(http.get("/share?after=0&wait=10", headers=name))
        await agent.call("step", to=3)
        told = (await waiting).json()
        assert (told["first"], told["is_over"]) == (0, False)
        [result] = told["results"]
        assert result["reward"] == SECRET
        assert result["observation"]["field_of"] == [1.5, "NaN"]
        assert told["actions"] == [{"to": 3}]
        assert len(told["ages"]) == 1
        for wrong in ("after=x", "after=-1", "wait=nan", "after=1e99"):
            assert (await http.get(f"/share?{wrong}", headers=name)).status_code == 422
        assert (await http.get("/share?after=1", headers=name)).json()["results"] == []
        await http.delete("/share", headers=name)
        assert (await http.delete("/share", headers=name)).json() == {"status": "closed"}
        assert (await agent.send("ping")).status_code == 404


async def test_a_handle_of_a_session_that_ended_ends(monkeypatch: Any) -> None:
    monkeypatch.setattr("openenv_async.server.mcp.sessions._LOOK", 0.05)
    options = EngineOptions(timeouts=Timeouts(idle=0.2))
    async with served(options=options) as (http, server):
        begun = await http.post("/reset", json={})
        name = {"X-OpenEnv-Session": begun.headers["X-OpenEnv-Session"]}
        await http.post("/share", headers=name)
        assert len(server.mcp.sessions) == 1
        await until(lambda: len(server.mcp.sessions) == 0)
        assert server.engine.active == 0


async def test_calls_that_wait_end_with_the_handle() -> None:
    class Slow(Maze):
        isolation = None  # type: ignore[assignment]  # it is async
        entered = asyncio.Event()
        places: ClassVar[list[int]] = []

        async def reset(self, seed: int | None = None, level: int = 1) -> Any:
            return Seen(0)

        async def step(self, action: Move) -> Any:
            self.places.append(action.to)
            self.entered.set()
            await asyncio.Event().wait()

    async with served(Slow) as (http, server):
        begun = await http.post("/reset", json={})
        name = {"X-OpenEnv-Session": begun.headers["X-OpenEnv-Session"]}
        lent = (await http.post("/share", headers=name)).json()
        agent = Agent(http, WITH_SESSIONS, lent["path"])
        first = asyncio.create_task(agent.call("step", to=1))
        await Slow.entered.wait()
        rest = [asyncio.create_task(agent.call("step", to=n)) for n in (2, 3)]
        [session] = server.mcp.sessions
        await until(lambda: len(session.calls) == 3)
        await http.delete("/share", headers=name)
        results = [await task for task in (first, *rest)]
        assert all(each["isError"] for each in results)
        assert Slow.places == [1]


async def test_an_agent_that_left_in_mid_call_may_come_again() -> None:
    class Slow(Maze):
        isolation = None  # type: ignore[assignment]  # it is async
        entered = asyncio.Event()
        left = asyncio.Event()
        leave = asyncio.Event()

        async def reset(self, seed: int | None = None, level: int = 1) -> Any:
            return Seen(0)

        async def step(self, action: Move) -> Any:
            self.entered.set()
            if action.to == 1:
                try:
                    await asyncio.Event().wait()
                finally:
                    self.left.set()
                    await self.leave.wait()
            return Seen(action.to)

    async with served(Slow) as (http, server):
        begun = await http.post("/reset", json={})
        name = {"X-OpenEnv-Session": begun.headers["X-OpenEnv-Session"]}
        lent = (await http.post("/share", headers=name)).json()
        agent = Agent(http, STATELESS, lent["path"])
        first = asyncio.create_task(agent.call("step", to=1))
        await Slow.entered.wait()
        first.cancel()
        await Slow.left.wait()
        told = await agent.call("step", to=2)  # the first is still being stopped
        assert told["isError"]
        Slow.leave.set()
        await until(lambda: all(s.current is None for s in server.engine.sessions.values()))
        assert not (await agent.call("step", to=2))["isError"]
