"""Sockets of HTTP clients: shared by a loop's clients, closed with the last of them."""

from __future__ import annotations

import asyncio
from typing import Any

from openenv_async import HTTPEnvClient, serve
from openenv_async.client.endpoint import Sockets
from openenv_async.client.loop_thread import background_loop
from tests.helpers import until
from tests.rollouts.environments import Counting


def held_by(loop: asyncio.AbstractEventLoop) -> int:
    return sum(key[0] is loop for key in Sockets._open)


async def test_clients_of_a_loop_share_them_and_the_last_one_closes() -> None:
    one, two = await Sockets.acquire(False), await Sockets.acquire(False)
    assert one is two
    client = one.client
    await one.release()
    assert (client.closed, held_by(one.loop)) == (False, 1)
    await two.release()
    assert (client.closed, held_by(one.loop)) == (True, 0)


async def test_who_comes_while_the_last_one_closes_gets_others() -> None:
    async with serve(Counting) as url:
        closing = await Sockets.acquire(False)
        async with closing.client.get(url + "/health") as reply:
            await reply.read()  # the connection is kept, and closing it takes a while
        releasing = asyncio.create_task(closing.release())
        await asyncio.sleep(0)
        assert closing._users == 0
        assert not releasing.done()
        others = await Sockets.acquire(False)
        async with others.client.get(url + "/health") as reply:
            assert reply.status == 200
        await releasing
        assert await Sockets.acquire(False) is others
        await others.release()
        await others.release()
        assert others.client.closed


async def test_a_client_that_changes_loops_leaves_nothing_in_the_first() -> None:
    background = background_loop()
    before = held_by(background.loop)
    async with serve(Counting) as url:
        env = HTTPEnvClient[Any, Any, Any](url)
        blocking = env.sync()
        for _ in range(2):
            await asyncio.to_thread(blocking.reset)
            assert held_by(background.loop) == before + 1
            await env.step({"amount": 1})
            await until(lambda: held_by(background.loop) == before)
        await env.close()
    assert held_by(asyncio.get_running_loop()) == 0
