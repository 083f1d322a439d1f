"""Reward and end that an upstream server says beside it stand in a typed client's observation."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, TypedDict

import msgspec
import pydantic
import pytest
from websockets.asyncio.server import ServerConnection, serve

from openenv_async import EnvClient, GenericEnvClient
from openenv_async.errors import InvalidAction, InvalidModel, ProtocolError


@dataclass
class Seen:
    text: str
    reward: float = 0.0
    done: bool = False


class StructSeen(msgspec.Struct, frozen=True):
    text: str
    reward: float | None = 0.0
    done: bool = False


class PydanticSeen(pydantic.BaseModel):
    text: str
    reward: float = 0.0
    done: bool = False


class OpenSeen(pydantic.BaseModel, extra="allow"):
    text: str
    reward: float = 0.0
    done: bool = False


class DictSeen(TypedDict):
    text: str
    reward: float | None
    done: bool


@dataclass
class TextOnly:
    text: str


@contextlib.asynccontextmanager
async def upstream(*replies: dict[str, Any]) -> AsyncIterator[str]:
    """A server of upstream's dialect that gives one reply after the other."""

    async def talk(socket: ServerConnection) -> None:
        for reply in replies:
            await socket.recv()
            kind = "error" if "code" in reply else "observation"
            await socket.send(json.dumps({"type": kind, "data": reply}))
        await socket.wait_closed()

    async with serve(talk, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def client_of(kind: Any) -> Any:
    """A client class whose observations are of a type."""
    return type("Client", (EnvClient,), {"observation_type": kind})


def reply(reward: Any, done: Any) -> dict[str, Any]:
    return {"observation": {"text": "a"}, "reward": reward, "done": done}


@pytest.mark.parametrize("kind", [Seen, StructSeen, PydanticSeen, OpenSeen, DictSeen])
async def test_reward_and_done_are_what_the_server_sent(kind: Any) -> None:
    replies = reply(None, False), reply(0.25, False), reply(True, True), reply("-Infinity", True)
    async with upstream(*replies) as url, client_of(kind)(url) as env:
        got = [await env.reset(), *[await env.step({}) for _ in replies[1:]]]
    for result, reward, done in zip(
        got, [None, 0.25, 1.0, -math.inf], [False, False, True, True], strict=True
    ):
        observation: Any = result.observation
        if isinstance(observation, dict):
            observation = Seen(**observation)
        assert (observation.reward, observation.done, observation.text) == (reward, done, "a")
        assert (result.reward, result.done) == (reward, done)


async def test_a_type_without_the_fields_and_a_dict_stay_as_they_are() -> None:
    for kind in (TextOnly, dict):
        async with upstream(reply(0.5, True)) as url, client_of(kind)(url) as env:
            result: Any = await env.reset()
        assert result.observation == (TextOnly("a") if kind is TextOnly else {"text": "a"})
        assert (result.reward, result.done) == (0.5, True)


async def test_what_the_observation_says_itself_is_kept() -> None:
    told = {"observation": {"text": "a", "reward": 7.0}, "reward": 0.5, "done": False}
    async with upstream(told) as url, EnvClient[Any, Seen, Any](url) as env:
        assert (await env.reset()).observation == Seen("a", 7.0)


@dataclass
class NamedAlike:
    text: str
    reward: str = "no"
    done: list[str] = field(default_factory=list)


async def test_a_field_that_only_has_such_a_name_is_data() -> None:
    class Client(EnvClient[Any, NamedAlike, Any]):
        pass

    replies = (
        {"observation": {"text": "a"}, "reward": None, "done": False},
        {
            "observation": {"text": "b", "reward": "much", "done": ["x"]},
            "reward": 1.0,
            "done": True,
        },
    )
    async with upstream(*replies) as url, Client(url) as env:
        assert (await env.reset()).observation == NamedAlike("a")
        result = await env.step({})
        assert result.observation == NamedAlike("b", "much", ["x"])
        assert (result.reward, result.terminated) == (1.0, True)


async def test_hooks_of_a_clients_own_get_them_too() -> None:
    class Own(EnvClient[Any, Seen, Any]):
        def _parse_observation(self, data: dict[str, Any]) -> Seen:
            return Seen(**data)

    async with upstream(reply(0.5, True)) as url, Own(url) as env:
        assert (await env.reset()).observation == Seen("a", 0.5, True)


@pytest.mark.parametrize(("reward", "done"), [("5", False), ([], False), (1.0, "false"), (1.0, 1)])
async def test_a_reward_or_end_that_is_none_is_refused(reward: Any, done: Any) -> None:
    async with upstream(reply(reward, done)) as url, GenericEnvClient(url) as env:
        with pytest.raises(ProtocolError, match=r"reward|done"):
            await env.reset()


async def test_an_error_of_the_server_stays_what_it_is() -> None:
    wrong = {"code": "VALIDATION_ERROR", "message": "no such move"}
    async with upstream(reply(None, False), wrong) as url, GenericEnvClient(url) as env:
        await env.reset()
        with pytest.raises(InvalidAction, match="no such move"):
            await env.step({})


async def test_metadata_that_is_empty_needs_no_field() -> None:
    told = {"observation": {"text": "a", "metadata": {}}, "reward": None, "done": False}
    full = {**told, "observation": {"text": "a", "metadata": {"k": 1}}}
    async with upstream(told, full) as url, client_of(Seen)(url) as env:
        assert (await env.reset()).observation == Seen("a", None)  # type: ignore[arg-type] # as sent
        with pytest.raises(InvalidModel, match="metadata"):
            await env.step({})
