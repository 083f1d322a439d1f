"""Requests that do not get through, and the sockets that the clients of a loop share."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from openenv_async import HTTPEnvClient, serve
from openenv_async.client.endpoint import Endpoint, Sockets, taken_number
from openenv_async.client.loop_thread import background_loop
from openenv_async.client.settings import ClientSettings
from openenv_async.errors import ConnectFailed, ConnectionLost, OpenEnvError
from openenv_async.types import Limits, Timeouts
from tests.helpers import until
from tests.rollouts.environments import Counting


class Failing(Endpoint):
    """Attempts fail one after another, in this way."""

    def __init__(self, *errors: Exception) -> None:
        settings = ClientSettings(limits=Limits(max_message_size=1), timeouts=Timeouts(connect=0.5))
        super().__init__("http://127.0.0.1:1", settings)
        self.errors = list(errors)

    async def _client(self) -> Any:
        return self

    def request(self, *args: Any, **settings: Any) -> Any:
        raise self.errors.pop(0)


@pytest.mark.parametrize(
    ("errors", "raised"),
    [
        ([aiohttp.ConnectionTimeoutError()], ConnectFailed),
        ([aiohttp.ServerDisconnectedError()] * 4, ConnectionLost),
        # The first attempt may have arrived: so this is not a failure to connect.
        (
            [aiohttp.ServerDisconnectedError(), *[aiohttp.ConnectionTimeoutError()] * 3],
            ConnectionLost,
        ),
    ],
)
async def test_only_a_first_attempt_fails_to_connect(
    errors: list[Exception], raised: type[OpenEnvError], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openenv_async.client.endpoint._PAUSES", (0.0,) * 4)
    endpoint = Failing(*errors)
    with pytest.raises(raised) as caught:
        await endpoint.exchange("POST", "/step", b"", {}, 1.0)
    assert type(caught.value) is raised
    assert not endpoint.errors


def test_a_server_without_a_token_is_sent_none() -> None:
    endpoint = Failing()
    endpoint.move("http://127.0.0.1:2", "secret")
    assert endpoint.headers["Authorization"] == "Bearer secret"
    endpoint.move("http://127.0.0.1:3", None)
    assert "Authorization" not in endpoint.headers


@pytest.mark.parametrize(
    ("text", "number"), [("7", 7), ("", None), ("-1", None), ("9" * 5000, None)]
)
def test_numbers_that_servers_say(text: str, number: int | None) -> None:
    response: Any = SimpleNamespace(headers={"X-OpenEnv-Seq": text})
    assert taken_number(response) == number


# -- sockets --------------------------------------------------------------------------------------


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


async def test_a_client_that_comes_while_the_last_one_closes_gets_others() -> None:
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
