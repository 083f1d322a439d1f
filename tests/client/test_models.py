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
from openenv_async.client.models import wire_models
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


# -- codecs and hooks -----------------------------------------------------------------------------


class Typed(EnvClient[TextOnly, Seen, DictSeen]):
    pass


class Ints(EnvClient[int, int, int]):
    pass


class Hooked(EnvClient[int, str, str]):
    """Every hook is its own."""

    def _serialize_action(self, action: int) -> dict[str, Any]:
        return {"by": action}

    def _parse_observation(self, data: dict[str, Any]) -> str:
        return f"observation {data}"

    def _parse_state(self, data: dict[str, Any]) -> str:
        return f"state {data}"


URL = "http://127.0.0.1:1"


@pytest.mark.parametrize("format", ["msgpack", "json"])
def test_payloads_are_of_the_types_of_the_client(format: Any) -> None:
    encode: Any = {"msgpack": msgspec.msgpack.encode, "json": msgspec.json.encode}[format]
    decode: Any = {"msgpack": msgspec.msgpack.decode, "json": msgspec.json.decode}[format]
    wire = wire_models(Typed(URL), format)
    assert (wire.format, wire.upstream) == (format, False)
    assert decode(wire.encode_action(TextOnly("a"))) == {"text": "a"}
    assert wire.decode_observation(encode({"text": "a"})) == Seen("a")
    state = {"text": "a", "reward": None, "done": True}
    assert wire.decode_state(encode(state)) == state
    with pytest.raises(InvalidModel):
        wire.decode_state(encode({"text": 5}))
    assert wire.decode_any(wire.encode_any({"x": [1]})) == {"x": [1]}


def test_each_hook_stands_for_one_codec() -> None:
    hooks = ("_serialize_action", "_parse_observation", "_parse_state")
    for chosen in (*[(hook,) for hook in hooks], hooks):
        kind: Any = type("Some", (Ints,), {name: getattr(Hooked, name) for name in chosen})
        assert kind.overrides_hooks()
        wire = wire_models(kind(URL), "json")
        action = b'{"by":3}' if hooks[0] in chosen else b"3"
        observation = "observation 4" if hooks[1] in chosen else 4
        state = "state 5" if hooks[2] in chosen else 5
        assert wire.encode_action(3) == action
        assert wire.decode_observation(b"4") == observation
        assert wire.decode_state(b"5") == state
    assert not Typed.overrides_hooks()


def test_codecs_are_made_once_for_a_class() -> None:
    class Own(EnvClient[int, int, int]):
        pass

    class Below(Own):
        observation_type = str

    first = wire_models(Own(URL), "msgpack")
    assert wire_models(Own(URL), "msgpack") is first
    others = [
        wire_models(Own(URL), "json"),
        wire_models(Own(URL), "msgpack", True),
        wire_models(Below(URL), "msgpack"),
    ]
    assert len({id(wire) for wire in (first, *others)}) == 4
    assert [wire.format for wire in others] == ["json", "msgpack", "msgpack"]
    assert [wire.upstream for wire in others] == [False, True, False]
    assert Below.model_types() == (int, str, int)
    with pytest.raises(InvalidModel):
        others[2].decode_observation(b"\x01")


def test_codecs_of_an_instance_are_its_own_where_its_types_or_hooks_are() -> None:
    one, two = EnvClient[int, int, int](URL), EnvClient[str, str, str](URL)
    assert one.instance_types() == (int, int, int)
    assert two.instance_types() == (str, str, str)
    assert wire_models(one, "json").decode_observation(b"1") == 1
    assert wire_models(two, "json").decode_observation(b'"a"') == "a"
    plain: EnvClient[Any, Any, Any] = EnvClient(URL)
    assert plain.instance_types() == (Any, Any, Any)
    assert wire_models(plain, "json").decode_observation(b'"b"') == "b"
    hooked = Hooked(URL)
    assert wire_models(hooked, "json") is not wire_models(hooked, "json")
    given: Any = Ints(URL)
    given.__orig_class__ = EnvClient[str, str, str]  # its class says it already
    assert given.instance_types() == (int, int, int)


# -- observations of upstream's dialect -----------------------------------------------------------


def put_back(kind: Any, observation: Any, reward: Any = None, done: bool = False) -> Any:
    wire = wire_models(client_of(kind)(URL), "msgpack", True)
    return wire.decode_observation(msgspec.msgpack.encode([observation, reward, done]))


@dataclass(frozen=True)
class FrozenSeen:
    text: str
    reward: float = 0.0


@dataclass
class WithMetadata:
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)


def test_an_observation_that_is_no_object_is_as_it_was_sent() -> None:
    assert put_back(int, 5, 1.0, True) == 5
    assert put_back(list[int], [1, 2], 1.0) == [1, 2]
    assert put_back(Any, "text") == "text"


def test_no_reward_is_none_also_in_a_field_for_numbers() -> None:
    frozen = put_back(FrozenSeen, {"text": "a"})
    assert (frozen.text, frozen.reward) == ("a", None)
    assert put_back(FrozenSeen, {"text": "a"}, 2.0) == FrozenSeen("a", 2.0)

    class Numbers(TypedDict):
        text: str
        reward: float

    assert put_back(Numbers, {"text": "a"}) == {"text": "a", "reward": None}

    class Strict(msgspec.Struct, frozen=True):
        text: str
        reward: float

    struct = put_back(Strict, {"text": "a"})
    assert (struct.text, struct.reward) == ("a", None)


@pytest.mark.parametrize(
    ("observation", "reward"), [({"text": 5}, 1.0), ({"text": 5}, None), ({"text": "a"}, "x")]
)
def test_what_does_not_fit_is_refused_whatever_the_reward(observation: Any, reward: Any) -> None:
    with pytest.raises(InvalidModel):
        put_back(Seen, observation, reward)


def test_metadata_goes_where_there_is_room_for_it() -> None:
    for metadata in ({}, {"k": 1}):
        told = {"text": "a", "metadata": metadata}
        assert put_back(WithMetadata, told) == WithMetadata("a", metadata)
        assert put_back(Any, told) == told
        assert put_back(dict[str, Any], told) == told
    assert put_back(TextOnly, {"text": "a", "metadata": None}) == TextOnly("a")
    with pytest.raises(InvalidModel, match="metadata"):
        put_back(TextOnly, {"text": "a", "metadata": {"k": 1}})


def test_hooks_get_both_even_where_the_type_has_neither() -> None:
    wire = wire_models(Hooked(URL), "msgpack", True)
    sent = msgspec.msgpack.encode([{"text": "a", "metadata": {}}, 1.5, True])
    seen = wire.decode_observation(sent)
    assert "'reward': 1.5" in seen
    assert "'done': True" in seen
    assert "metadata" not in seen


def test_hooks_of_upstreams_client_are_refused_by_name() -> None:
    from openenv_async import EnvClient

    body = {"_parse_result": lambda self, payload: payload}
    with pytest.raises(TypeError, match=r"Mine\._parse_result is a hook.*compat\.upstream"):
        type("Mine", (EnvClient,), body)
