"""The client's side of upstream's dialect: its messages, and replies as frames."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from openenv_async import GenericEnvClient, Timeouts
from openenv_async.client.upstream import UpstreamTransport
from openenv_async.errors import (
    EnvironmentRaised,
    EnvironmentStartFailed,
    InvalidAction,
    OpenEnvError,
    OperationUnsupported,
    ProtocolError,
    ServerBusy,
    SessionLost,
)
from openenv_async.types import EpisodeInfo
from tests.helpers import until

SEEN = {"observation": {"text": "a"}, "reward": 0.5, "done": False}


class Upstream:
    """A server of the dialect: notes what it is sent and answers with the next reply.

    A reply is a message, a text that is sent as it is, ``None`` for silence, or a function of the
    socket.
    """

    def __init__(self, *replies: Any) -> None:
        self.replies = list(replies)
        self.messages: list[dict[str, Any]] = []
        self.sockets = 0
        self.open = 0

    async def talk(self, socket: ServerConnection) -> None:
        self.sockets += 1
        self.open += 1
        try:
            async for text in socket:
                message = json.loads(text)
                self.messages.append(message)
                if message["type"] == "close":
                    return
                reply = self.replies.pop(0)
                if callable(reply):
                    await reply(socket)
                elif reply is not None:
                    await socket.send(reply if isinstance(reply, str) else json.dumps(reply))
        finally:
            self.open -= 1

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        async with serve(self.talk, "127.0.0.1", 0) as server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def observation(**changes: Any) -> dict[str, Any]:
    return {"type": "observation", "data": {**SEEN, **changes}}


def error(code: str | None, message: str = "no", **more: Any) -> dict[str, Any]:
    return {"type": "error", "data": {"message": message, "code": code, **more}}


async def test_an_episode_is_said_in_upstreams_words() -> None:
    replies = observation(reward=None), observation(), observation(done=True)
    server = Upstream(*replies, {"type": "state", "data": {"n": 1}})
    async with server.listening() as url, GenericEnvClient(url) as env:
        assert (await env.reset(seed=5, episode_id="e", level=2)).reward is None
        assert env.episode == EpisodeInfo("e", 5, 0)
        result = await env.step({"go": 1})
        assert (result.observation, result.reward, result.terminated) == ({"text": "a"}, 0.5, False)
        result = await env.step({"go": 2})
        assert (result.terminated, result.truncated, result.info) == (True, False, {})
        assert await env.state() == {"n": 1, "episode_id": "e", "step_count": 2}
        assert env.episode == EpisodeInfo("e", 5, 2)
    assert server.messages == [
        {"type": "reset", "data": {"level": 2, "seed": 5, "episode_id": "e"}},
        {"type": "step", "data": {"go": 1}},
        {"type": "step", "data": {"go": 2}},
        {"type": "state"},
        {"type": "close"},
    ]


async def test_a_seed_and_a_name_are_made_up_and_reported() -> None:
    server = Upstream(observation(), observation())
    async with server.listening() as url, GenericEnvClient(url) as env:
        seeds, names = [], []
        for _ in range(2):
            await env.reset()
            assert env.episode is not None
            seeds.append(env.episode.seed)
            names.append(env.episode.episode_id)
        sent = [message["data"] for message in server.messages]
    assert [each["seed"] for each in sent] == seeds
    assert [each["episode_id"] for each in sent] == names
    assert len(set(names)) == 2
    assert all(len(name) == 16 for name in names)
    assert all(0 <= seed < 2**31 for seed in seeds)


async def test_steps_are_counted_from_the_reset() -> None:
    state = {"type": "state", "data": {}}
    server = Upstream(observation(), observation(), observation(), state)
    async with server.listening() as url, GenericEnvClient(url) as env:
        await env.reset()
        await env.step({})
        await env.reset()
        assert (await env.state())["step_count"] == 0


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("EXECUTION_ERROR", EnvironmentRaised),
        ("INVALID_JSON", ProtocolError),
        ("UNKNOWN_TYPE", OperationUnsupported),
        ("VALIDATION_ERROR", InvalidAction),
        ("SOMETHING_ELSE", EnvironmentRaised),
        (None, EnvironmentRaised),
    ],
)
async def test_an_error_has_its_class_and_the_session_goes_on(
    code: str | None, kind: type[OpenEnvError]
) -> None:
    server = Upstream(observation(), error(code, "why", extra=1), observation())
    async with server.listening() as url, GenericEnvClient(url) as env:
        await env.reset()
        with pytest.raises(OpenEnvError, match="why") as caught:
            await env.step({})
        assert type(caught.value) is kind
        assert caught.value.detail["upstream"] == {"extra": 1}
        assert (await env.step({})).reward == 0.5
        assert server.sockets == 1


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("CAPACITY_REACHED", ServerBusy),
        ("FACTORY_ERROR", EnvironmentStartFailed),
        ("SESSION_ERROR", SessionLost),
    ],
)
async def test_an_error_of_the_session_ends_it(code: str, kind: type[OpenEnvError]) -> None:
    server = Upstream(observation(), error(code), observation())
    async with server.listening() as url, GenericEnvClient(url) as env:
        await env.reset()
        for _ in range(2):
            with pytest.raises(OpenEnvError) as caught:
                await env.step({})
            assert type(caught.value) is kind
        await env.reset()
        assert server.sockets == 2


@pytest.mark.parametrize(
    "reply",
    [
        "{",
        "[]",
        '{"type": "observation"}',
        '{"data": {}}',
        '{"type": "observation", "data": []}',
        '{"type": "observation", "data": {}}',
        json.dumps(observation(reward="much")),
        json.dumps(observation(reward=[])),
        json.dumps(observation(done=1)),
        json.dumps(observation(done="no")),
    ],
)
async def test_an_unreadable_reply_is_the_servers_fault(reply: str) -> None:
    server = Upstream(observation(), reply)
    async with server.listening() as url, GenericEnvClient(url) as env:
        await env.reset()
        with pytest.raises(ProtocolError, match="unreadable reply"):
            await env.step({})


@pytest.mark.parametrize(
    ("sent", "reward"),
    [(None, None), (True, 1.0), (3, 3.0), ("Infinity", float("inf")), ("-Infinity", -float("inf"))],
)
async def test_rewards_are_numbers_however_they_are_written(sent: Any, reward: Any) -> None:
    server = Upstream(observation(reward=sent, done=None))
    async with server.listening() as url, GenericEnvClient(url) as env:
        result = await env.reset()
        assert result.reward == reward
        assert result.done is False


async def test_a_reward_that_is_not_a_number_is_that_of_the_environment() -> None:
    server = Upstream(observation(reward="NaN"))
    async with server.listening() as url, GenericEnvClient(url) as env:
        reward = (await env.reset()).reward
        assert reward is not None
        assert math.isnan(reward)


async def test_a_deadline_loses_the_episode_and_says_so() -> None:
    server = Upstream(observation(), None, observation())
    async with server.listening() as url, GenericEnvClient(url) as env:
        await env.reset()
        with pytest.raises(OpenEnvError, match=r"step\(\) took longer than its deadline of 0.1 s"):
            await env.step({}, timeout=0.1)
        with pytest.raises(SessionLost, match="after a deadline"):
            await env.step({})
        await until(lambda: server.open == 0)
        await env.reset()
        assert server.sockets == 2


async def test_no_deadline_is_none() -> None:
    async def late(socket: ServerConnection) -> None:
        await asyncio.sleep(0.05)
        await socket.send(json.dumps(observation()))

    server = Upstream(late)
    async with (
        server.listening() as url,
        GenericEnvClient(url, timeouts=Timeouts(reset=None)) as env,
    ):
        assert (await env.reset()).reward == 0.5


async def test_a_socket_that_closes_loses_the_session() -> None:
    async def close(socket: ServerConnection) -> None:
        await socket.close()

    server = Upstream(observation(), close)
    async with server.listening() as url, GenericEnvClient(url) as env:
        await env.reset()
        with pytest.raises(SessionLost, match="closed the socket"):
            await env.step({})


async def test_what_the_server_said_before_it_closed_is_read() -> None:
    async def busy(socket: ServerConnection) -> None:
        await socket.send(json.dumps(error("CAPACITY_REACHED", "full")))
        await socket.close()

    server = Upstream(observation(), busy)
    async with server.listening() as url, GenericEnvClient(url) as env:
        await env.reset()
        with pytest.raises(ServerBusy, match="full"):
            await env.step({})


async def test_each_session_has_a_socket_and_the_first_takes_the_one_there_is() -> None:
    server = Upstream(observation(), observation())
    async with server.listening() as url, GenericEnvClient(url) as one:
        assert server.sockets == 1
        async with GenericEnvClient(url) as other:
            assert one.connection is other.connection
            assert server.sockets == 2
            await one.reset()
            await other.reset()
            transport: Any = one.connection._transport if one.connection else None
            assert isinstance(transport, UpstreamTransport)
            assert sorted(transport._links) == [1, 2]
        await until(lambda: sorted(transport._links) == [1])
        await until(lambda: server.open == 1)
    await until(lambda: server.open == 0)


async def test_a_cancelled_step_frees_the_caller_and_its_reply_is_dropped() -> None:
    go = asyncio.Event()

    async def later(socket: ServerConnection) -> None:
        await go.wait()
        await socket.send(json.dumps(observation(reward=1)))

    replies: list[Any | Callable[..., Any]] = [observation(), later, observation(reward=2)]
    server = Upstream(*replies)
    async with server.listening() as url, GenericEnvClient(url) as env:
        await env.reset()
        step = asyncio.create_task(env.step({}))
        await until(lambda: len(server.messages) == 2)
        step.cancel()
        with pytest.raises(asyncio.CancelledError):
            await step
        go.set()
        assert (await env.step({})).reward == 2


async def test_a_spare_socket_that_no_session_took_is_closed() -> None:
    server = Upstream()
    async with server.listening() as url:
        client = GenericEnvClient(url)
        connection = await client._connect()
        assert server.open == 1
        await connection.aclose()
        await until(lambda: server.open == 0)
