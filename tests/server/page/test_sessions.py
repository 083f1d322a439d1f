"""Live sessions over HTTP: listed, followed, cancelled, closed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from openenv_async import EngineOptions, Environment, GenericEnvClient, create_app, serve
from openenv_async.errors import EnvironmentRaised, OperationCancelled, SessionClosed
from tests.engine.test_following import Paid
from tests.server.test_callers import named

RED, BLUE, BOSS = ({"Authorization": f"Bearer {name}"} for name in ("red", "blue", "boss"))
BEARER = {"Authorization": "Bearer t"}


class Slow(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """An environment whose steps last until they are stopped."""

    async def reset(self, seed: int | None = None) -> dict[str, Any]:
        return {}

    async def step(self, action: dict[str, Any]) -> Any:
        await asyncio.sleep(60)


@asynccontextmanager
async def served(
    cls: Any = Paid, **settings: Any
) -> AsyncIterator[tuple[str, GenericEnvClient, aiohttp.ClientSession]]:
    app = create_app(cls, local=False, **settings)
    token = settings.get("token")
    headers = {} if token is None else BEARER
    async with (
        serve(app) as url,
        GenericEnvClient(url, token=token) as env,
        aiohttp.ClientSession(headers=headers) as http,
    ):
        await env.reset(seed=5)
        yield url, env, http


async def get(http: aiohttp.ClientSession, url: str) -> Any:
    async with http.get(url) as reply:
        return await reply.json()


async def post(http: aiohttp.ClientSession, url: str, **headers: str) -> tuple[int, Any]:
    async with http.post(url, headers=headers) as reply:
        return reply.status, await reply.json()


async def messages(reply: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, Any]]:
    name = ""
    async for line in reply.content:
        if line.startswith(b"event: "):
            name = line[7:].decode().strip()
        elif line.startswith(b"data: "):
            yield name, json.loads(line[6:])


async def test_sessions_are_listed() -> None:
    async with served(options=EngineOptions(max_sessions=9)) as (url, env, http):
        listed = await get(http, f"{url}/sessions")
        (row,) = listed["sessions"]
        assert (listed["count"], listed["waiting"], listed["max_sessions"]) == (1, 0, 9)
        assert (row["state"], row["running"], row["requests"]) == ("playing", None, 1)
        assert (row["steps"], row["total"], row["error"]) == (None, None, None)
        assert row["seed"] == 5
        assert "secret" not in row
        await env.reset()
        await env.step({"pay": 2})
        await env.step({"pay": 3, "end": 1})
        (row,) = (await get(http, f"{url}/sessions"))["sessions"]
        assert (row["state"], row["steps"], row["reward"], row["total"]) == ("over", 2, 3.0, 5.0)
        await env.reset()
        with pytest.raises(EnvironmentRaised, match="as asked"):
            await env.step({"fail": 1})
        (row,) = (await get(http, f"{url}/sessions"))["sessions"]
        assert row["error"][0] == "environment_raised"
        assert "as asked" in row["error"][1]
        page = await (await http.get(url, headers={"Accept": "text/html"})).text()
        assert f"<code>{row['id'][:8]}</code>" in page
        assert (await get(http, f"{url}/sessions?start=1"))["sessions"] == []
        assert (await get(http, f"{url}/sessions?start=x"))["error"]["code"] == "invalid_option"


async def test_a_session_is_followed_step_by_step() -> None:
    async with served() as (url, env, http):
        (row,) = (await get(http, f"{url}/sessions"))["sessions"]
        async with (
            asyncio.timeout(10),
            http.get(f"{url}/sessions/{row['id']}/follow") as reply,
        ):
            assert reply.content_type == "text/event-stream"
            stream = messages(reply)
            _, first = await anext(stream)
            assert [event["operation"] for event in first["events"]] == ["reset"]
            await env.step({"pay": 2, "size": 3})
            _, told = await anext(stream)
            (event,) = told["events"]
            assert event["action"] == {"pay": 2, "size": 3}
            assert event["reward"] == 2.0
            assert event["observation"]["blob"] == {"__ndarray__": ["|u1", [3], "AAAA"]}
            for _ in range(120):
                await env.step({"pay": 1})
            skipped = 0
            seen: list[Any] = []
            while skipped + len(seen) < 120:
                _, told = await anext(stream)
                skipped += told["skipped"]
                seen += told["events"]
            assert seen[-1]["number"] == 122
            await env.close()
            async for name, told in stream:
                if name == "end":
                    assert told["code"] == "session_closed"


async def test_what_a_session_runs_is_cancelled_and_the_session_closed() -> None:
    async with served(Slow, token="t") as (url, env, http):
        (row,) = (await get(http, f"{url}/sessions"))["sessions"]
        one = f"{url}/sessions/{row['id']}"
        assert (await post(http, f"{one}/cancel"))[1] == {"status": "idle"}
        step = asyncio.create_task(env.step({}))
        status: Any = {"status": "idle"}
        async with asyncio.timeout(10):
            while status["status"] == "idle":
                _, status = await post(http, f"{one}/cancel")
        assert status == {"status": "cancelled", "operation": "step"}
        with pytest.raises(OperationCancelled):
            await step
        assert (await post(http, f"{one}/close")) == (200, {"status": "closing"})
        with pytest.raises(SessionClosed, match="operator"):
            await env.step({})
        status_code, wrong = await post(http, f"{one}/close")
        assert (status_code, wrong["error"]["code"]) == (404, "session_not_found")


async def test_without_a_token_nothing_is_told() -> None:
    async with served(token="t") as (url, _, http):
        (row,) = (await get(http, f"{url}/sessions"))["sessions"]
        one = f"/sessions/{row['id']}"
        async with aiohttp.ClientSession() as stranger:
            for path in ("/sessions", f"{one}/follow", "/history"):
                async with stranger.get(url + path) as reply:
                    assert reply.status == 401
            for path in ("cancel", "close"):
                assert (await post(stranger, f"{url}{one}/{path}"))[0] == 401


@pytest.mark.parametrize("verb", ["cancel", "close"])
async def test_without_a_token_a_browser_needs_the_pages_secret(verb: str) -> None:
    async with served() as (url, env, http):
        (row,) = (await get(http, f"{url}/sessions"))["sessions"]
        one = f"{url}/sessions/{row['id']}/{verb}"
        status, wrong = await post(http, one, Origin=url)
        assert (status, wrong["error"]["code"]) == (403, "origin_refused")
        page = await (await http.get(url, headers={"Accept": "text/html"})).text()
        secret = page.partition('name="openenv-csrf" content="')[2][:32]
        assert (await post(http, one, **{"X-OpenEnv-CSRF": secret}, Cookie="a=b"))[0] == 403
        assert (await post(http, one, Origin=url, **{"X-OpenEnv-CSRF": secret}))[0] == 200
        await env.close()


async def test_a_program_needs_no_secret() -> None:
    async with served() as (url, _, http):
        (row,) = (await get(http, f"{url}/sessions"))["sessions"]
        assert (await post(http, f"{url}/sessions/{row['id']}/close"))[0] == 200


async def test_a_caller_sees_and_ends_its_own_sessions_alone() -> None:
    app = create_app(Paid, name="Counter", callers=named(), local=False)
    async with (
        serve(app) as url,
        GenericEnvClient(url, token="red") as env,
        aiohttp.ClientSession(headers=RED) as red,
        aiohttp.ClientSession(headers=BLUE) as blue,
        aiohttp.ClientSession(headers=BOSS) as boss,
    ):
        await env.reset()
        (row,) = (await get(red, f"{url}/sessions"))["sessions"]
        assert [each["id"] for each in (await get(boss, f"{url}/sessions"))["sessions"]] == [
            row["id"]
        ]
        listed = await get(blue, f"{url}/sessions")
        assert (listed["count"], listed["sessions"]) == (0, [])
        page = await (await blue.get(url, headers={"Accept": "text/html"})).text()
        assert row["id"][:8] not in page
        one = f"{url}/sessions/{row['id']}"
        assert (await get(blue, f"{one}/follow"))["error"]["code"] == "session_not_found"
        for verb in ("cancel", "close"):
            assert (await post(blue, f"{one}/{verb}"))[0] == 404
        assert (await post(red, f"{one}/cancel"))[0] == 200
        assert (await post(boss, f"{one}/close"))[0] == 200


async def test_the_last_minutes() -> None:
    async with served() as (url, _, http):
        told = await get(http, f"{url}/history")
        assert set(told) == {*("at", "steps", "errors", "sessions", "waiting", "lag", "p50", "p99")}
