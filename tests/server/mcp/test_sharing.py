"""The routes by which a session is lent to agents; ``tests/client/test_sharing.py`` plays."""

from __future__ import annotations

import asyncio
from typing import Any

from openenv_async import EngineOptions, Timeouts
from tests.helpers import until
from tests.server.mcp.agent import SECRET, STATELESS, Agent, served


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
