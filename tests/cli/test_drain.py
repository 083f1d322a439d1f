"""``openenv-async drain``: the episodes of a server end, and none begins."""

from __future__ import annotations

import asyncio

from openenv_async import GenericEnvClient, serve
from tests.behaviours.environments import CountedAsync
from tests.cli.commands import invoke


async def test_it_waits_until_the_last_episode_has_ended() -> None:
    async with serve(CountedAsync, params={"seconds": 0.3}) as url, GenericEnvClient(url) as env:
        await env.reset()
        draining = asyncio.ensure_future(
            asyncio.to_thread(invoke, "drain", url, "--seconds", "30", "--wait")
        )
        while not (await env.step({})).done:
            pass
        await env.close()
        result = await draining
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].startswith("draining: 1 episodes have ")
    assert lines[-1] == "drained: no episode is under way"


async def test_episodes_that_do_not_end_in_time_are_counted() -> None:
    async with serve(CountedAsync) as url, GenericEnvClient(url) as env:
        await env.reset()
        result = await asyncio.to_thread(invoke, "drain", url, "--seconds", "0.2", "--wait")
    assert result.exit_code == 1
    assert "error: 1 episodes did not end in time and are lost" in result.output


def test_a_server_that_is_not_there() -> None:
    result = invoke("drain", "http://127.0.0.1:9")
    assert result.exit_code == 1
    assert "does not answer" in result.output
