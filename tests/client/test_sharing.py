"""Sessions that their client lends to agents."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import numpy as np
import pytest

from openenv_async import EngineOptions, EnvClient, Environment, EnvPool, Limits, connect, serve
from openenv_async.client.endpoint import Sockets
from openenv_async.client.models import wire_models
from openenv_async.client.sharing import SharedSession
from openenv_async.errors import (
    DeadlineExceeded,
    OpenEnvError,
    OperationUnsupported,
    PayloadTooLarge,
    SessionBusy,
)
from tests.helpers import until
from tests.server.mcp.agent import (
    SECRET,
    STATELESS,
    WITH_SESSIONS,
    Agent,
    Maze,
    Move,
    Seen,
    served,
)


class Client(EnvClient[Move, Seen, dict[str, Any]]):
    pass


GENERATIONS = pytest.mark.parametrize("revision", [STATELESS, WITH_SESSIONS])


def agent_at(url: str, revision: str, http: httpx.AsyncClient) -> Agent:
    return Agent(http, revision, url)


@GENERATIONS
async def test_an_agent_steps_and_the_client_gets_the_rewards(revision: str) -> None:
    async with served() as (http, server), Client(str(http.base_url)) as env:
        await env.reset(level=5)
        async with await env.share() as shared:
            assert shared.url.startswith(str(http.base_url).rstrip("/") + "/mcp/")
            agent = agent_at(shared.url, revision, http)
            await agent.begin()
            names = [tool["name"] for tool in (await agent.ask("tools/list"))["tools"]]
            assert names == ["observe", "step"]
            seen = (await agent.call("observe"))["structuredContent"]
            assert seen["observation"]["place"] == 0
            for name in ("reset", "close", "state"):
                refused = await agent.send("tools/call", {"name": name, "arguments": {}})
                answer = refused.json()
                assert "error" in answer or answer["result"]["isError"], name
            await agent.call("step", to=2)
            failed = await agent.call("step", to=13)
            assert "there is a wall" in failed["content"][0]["text"]
            await agent.call("step", to=9)
            assert "987654" not in "".join(agent.texts)

            first, last = await shared.results()
            assert (first.observation.place, first.reward, first.done) == (2, SECRET, False)
            assert np.all(first.observation.picture == 2)
            assert last.done
            assert last.info == {"score": SECRET}
            assert await shared.results() == []

            assert (await env.state())["level"] == 5  # the client's own numbers are untouched
            await env.reset(level=6)
            assert (await env.step(Move(1))).observation.place == 1
            assert (await agent.call("observe"))["structuredContent"]["observation"]["place"] == 1
            url = shared.url
        gone = await agent_at(url, revision, http).send("tools/list")
        assert gone.status_code == 404
        assert not (await env.step(Move(1))).done
        assert server.engine.active == 1


async def test_a_server_that_is_late_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served() as (http, _), Client(str(http.base_url)) as env:
        await env.reset()
        async with await env.share() as shared:
            ask = shared._ask
            late = 0

            async def late_at_times(method: str, path: str, reply: Any) -> Any:
                nonlocal late
                if late and path.startswith("/share?"):
                    late -= 1
                    await ask(method, path, reply)  # the answer is lost on its way
                    raise DeadlineExceeded("late", field="share")
                return await ask(method, path, reply)

            monkeypatch.setattr(shared, "_ask", late_at_times)
            agent = agent_at(shared.url, STATELESS, http)
            await agent.call("step", to=1)
            await agent.call("step", to=9)
            late = 2
            assert [step.result.observation.place async for step in shared.taken()] == [1, 9]
            await env.reset()
            await agent.call("step", to=4)
            late = 3
            with pytest.raises(DeadlineExceeded):
                await anext(shared.taken())
            assert late == 0
            assert [step.result.observation.place for step in await shared.rest()] == [4]


async def test_steps_come_as_they_are_taken() -> None:
    async with served() as (http, _), Client(str(http.base_url)) as env:
        await env.reset()
        async with await env.share() as shared:
            agent = agent_at(shared.url, STATELESS, http)
            results = shared.steps()
            for place in (1, 4, 9):
                reading = asyncio.ensure_future(anext(results))
                await agent.call("step", to=place)
                assert (await reading).observation.place == place
            with pytest.raises(StopAsyncIteration):
                await anext(results)


async def test_each_step_is_told_with_its_action_and_its_time() -> None:
    async with served() as (http, _), Client(str(http.base_url)) as env:
        await env.reset()
        async with await env.share() as shared:
            agent = agent_at(shared.url, STATELESS, http)
            before = time.time()
            await agent.call("step", to=4)
            await agent.call("step", to=9)
            first, last = [step async for step in shared.taken()]
            assert (first.action, last.action) == (Move(4), Move(9))
            assert (first.result.observation.place, last.result.done) == (4, True)
            assert before - 0.1 < first.taken_at <= last.taken_at < time.time() + 0.1
            assert await shared.rest() == []


async def test_an_action_that_the_clients_model_does_not_take_is_told_as_plain_data() -> None:
    async with served() as (http, _), EnvClient[bool, Seen, Any](str(http.base_url)) as env:
        await env.reset()
        async with await env.share() as shared:
            await agent_at(shared.url, STATELESS, http).call("step", to=4)
            [step] = await shared.rest()
            assert step.action == {"to": 4}


async def test_a_leased_session_is_shared() -> None:
    async with serve(Maze) as url, EnvPool(url, client=Client) as pool, pool.session() as env:
        await env.reset()
        async with await env.share() as shared, httpx.AsyncClient() as http:
            await agent_at(shared.url, WITH_SESSIONS, http).call("step", to=3)
            [result] = await shared.results()
            assert result.reward == SECRET


async def test_a_session_of_a_worker_of_the_pools_own_is_shared() -> None:
    async with EnvPool.from_env("echo", max_workers=1) as pool, pool.session() as env:
        await env.reset()
        async with await env.share() as shared, httpx.AsyncClient() as http:
            http.headers["authorization"] = f"Bearer {shared.token}"
            await agent_at(shared.url, STATELESS, http).call("echo_message", message="hello")
            [result] = await shared.results()
            assert result.observation.echo == "Echo: hello"


class Slow(Environment[Move, Seen, dict[str, Any]]):
    entered: asyncio.Event
    leave: asyncio.Event
    cancelled = 0

    async def reset(self) -> Seen:
        return Seen(0)

    async def step(self, action: Move) -> Seen:
        self.entered.set()
        try:
            if action.to == 1:
                await self.leave.wait()
        except asyncio.CancelledError:
            type(self).cancelled += 1
            raise
        return Seen(action.to)


async def test_client_and_agent_take_no_steps_at_the_same_time() -> None:
    class Own(Slow):
        entered = asyncio.Event()
        leave = asyncio.Event()

    async with served(Own) as (http, server), Client(str(http.base_url)) as env:
        await env.reset()
        shared = await env.share()
        agent = agent_at(shared.url, STATELESS, http)
        running = asyncio.create_task(agent.call("step", to=1))
        await Own.entered.wait()
        with pytest.raises(SessionBusy):
            await env.step(Move(2))
        Own.leave.set()
        assert not (await running)["isError"]
        Own.entered.clear()
        Own.leave.clear()
        stepping = asyncio.create_task(env.step(Move(1)))
        await Own.entered.wait()
        assert "try again" in (await agent.call("step", to=2))["content"][0]["text"]
        Own.leave.set()
        assert (await stepping).observation.place == 1

        Own.entered.clear()
        Own.leave.clear()
        left = asyncio.create_task(agent.call("step", to=1))
        await Own.entered.wait()
        left.cancel()
        await until(lambda: Own.cancelled == 1)
        assert (await env.step(Move(2))).observation.place == 2

        Own.entered.clear()
        last = asyncio.create_task(agent.call("step", to=1))
        await Own.entered.wait()
        await env.close()
        assert (await last)["isError"]
        await until(lambda: server.engine.active == 0)
        assert (await agent.call("step", to=1))["isError"]
        await shared._endpoint.aclose()


async def test_a_share_is_the_clients_own_to_give() -> None:
    async with served() as (http, _), Client(str(http.base_url)) as env:
        await env.reset()
        assert env.session_id is not None
        for name in ("0" * 32, "1" * 32):
            headers = {"X-OpenEnv-Session": f"{env.session_id}.{name}"}
            for method in ("POST", "GET", "DELETE"):
                refused = await http.request(method, "/share", headers=headers)
                assert refused.status_code == 404
        one, other = await env.share(), await env.share()
        assert one.url == other.url
        await one.aclose()
        with pytest.raises(OperationUnsupported, match="not shared"):
            await other.results()
        await other.aclose()


async def test_no_socket_is_left_of_a_share_that_the_server_refuses() -> None:
    async with served() as (http, _), Client(str(http.base_url)) as env:
        await env.reset()
        shared = await env.share()
        refused = SharedSession[Seen](
            env.base_url, env.settings, f"{'0' * 32}.{'1' * 32}", wire_models(env, "msgpack")
        )
        before = sockets_here()
        assert [sockets._users for sockets in before] == [1]
        with pytest.raises(OpenEnvError):
            await refused.open()
        assert [sockets._users for sockets in before] == [1]
        await env.close()
        with pytest.raises(OpenEnvError):
            await shared.aclose()
        assert sockets_here() == []


def sockets_here() -> list[Sockets]:
    loop = asyncio.get_running_loop()
    return [sockets for (of, _), sockets in Sockets._open.items() if of is loop]


@GENERATIONS
async def test_an_agent_needs_the_token_of_what_is_shared_and_no_other(revision: str) -> None:
    async with (
        served(token="t0ken") as (server, _),
        Client(str(server.base_url), token="t0ken") as env,
        Client(str(server.base_url), token="t0ken") as beside,
        httpx.AsyncClient(base_url=server.base_url) as http,
    ):
        await env.reset()
        await beside.reset()
        async with await env.share() as shared, await beside.share() as others:
            refused = await agent_at(shared.url, revision, http).send("tools/list")
            assert refused.status_code == 401

            http.headers["authorization"] = f"Bearer {shared.token}"
            agent = agent_at(shared.url, revision, http)
            await agent.begin()
            await agent.call("step", to=2)
            [result] = await shared.results()
            assert result.reward == SECRET

            for url in ("/mcp", others.url, f"/mcp?session={shared.url.rpartition('/')[2]}"):
                assert (await agent_at(url, revision, http).send("tools/list")).status_code == 401
            name = {"X-OpenEnv-Session": f"{env._channel.id}.{env._channel.secret}"}  # type: ignore[union-attr]
            upstreams = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
            for method, path, body in (
                ("POST", shared.url, upstreams),  # in upstream's dialect, which tells rewards
                ("POST", "/mcp", upstreams),
                ("DELETE", shared.url, None),
                ("GET", "/share", None),
                ("POST", "/reset", {}),
                ("GET", "/state", None),
                ("GET", "/metadata", None),
            ):
                answer = await http.request(method, path, json=body, headers=name)
                assert answer.status_code == 401, (method, path)
            url = shared.url
        assert (await agent_at(url, revision, http).send("tools/list")).status_code == 401


async def test_results_that_nobody_reads_are_bounded() -> None:
    options = EngineOptions(limits=Limits(max_retained_size=4096))
    async with served(options=options) as (http, _), Client(str(http.base_url)) as env:
        await env.reset()
        async with await env.share() as shared:
            agent = agent_at(shared.url, STATELESS, http)
            for _ in range(12):
                await agent.call("step", to=1)
            with pytest.raises(PayloadTooLarge, match="results of shared steps were dropped"):
                await shared.results()
            kept = await shared.results()
            assert 0 < len(kept) < 12
            assert await shared.results() == []


async def test_a_session_in_process_has_no_address() -> None:
    async with connect(Maze, client=Client) as env:
        await env.reset()
        with pytest.raises(OperationUnsupported, match="has no address"):
            await env.share()
