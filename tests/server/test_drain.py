"""Draining over HTTP: asked for, asked for again, and told of."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from openenv_async.errors import GoingAway, InvalidOption
from openenv_async.server.drain import checked_seconds
from tests.behaviours.environments import client, served_process


async def ask(method: str, url: str, path: str, **settings: Any) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as http, http.request(method, url + path, **settings) as got:
        return got.status, await got.json()


async def test_it_is_asked_over_http_and_twice() -> None:
    async with served_process("Counted", "--param", "seconds=0.1") as (url, process):
        assert await ask("GET", url, "/ready") == (200, {"ready": True, "reason": None})
        status, about = await ask("GET", url, "/drain")
        assert (status, about["draining"], about["seconds"]) == (200, False, None)
        async with client(url) as env, client(url) as late:
            await env.reset()
            status, wrong = await ask("POST", url, "/drain", json={"seconds": -1})
            assert (status, wrong["error"]["code"]) == (422, "invalid_option")
            status, wrong = await ask("POST", url, "/drain", json={"second": 1})
            assert status == 422
            status, about = await ask("POST", url, "/drain", json={"seconds": 0.05})
            assert (status, about["draining"], about["playing"]) == (202, True, 1)
            status, about = await ask("POST", url, "/drain", json={"seconds": 60})
            assert about["seconds"] > 50
            status, about = await ask("GET", url, "/ready")
            assert (status, about["ready"]) == (503, False)
            assert (await ask("GET", url, "/health"))[0] == 200  # it lives all the same
            with pytest.raises(GoingAway):
                await late.reset()
            assert [await env.step({}) for _ in range(5)][-1].done
        async with asyncio.timeout(5):
            while not about.get("finished"):
                await asyncio.sleep(0.05)
                _, about = await ask("GET", url, "/drain")
        assert process.returncode is None  # it ends when it is told to


@pytest.mark.parametrize("wrong", [-1, True, "5", float("nan"), 1e10, None])
def test_seconds_are_a_number_of_seconds(wrong: Any) -> None:
    with pytest.raises(InvalidOption, match="seconds to drain must be a number from 0"):
        checked_seconds(wrong)
