"""Nothing is lost on the wire, by any transport, with any kind of model."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openenv_async import (
    EnvClient,
    Environment,
    HTTPEnvClient,
    StepResult,
    serve,
)
from openenv_async.errors import InvalidAction


@dataclass
class DataInner:
    number: int = 0
    note: str | None = None


@dataclass
class DataModel:
    text: str = ""
    value: float | None = None
    flag: bool = False
    inner: DataInner = field(default_factory=DataInner)
    items: list[DataInner] = field(default_factory=list)
    table: dict[str, float | None] = field(default_factory=dict)


class StructInner(msgspec.Struct):
    number: int = 0
    note: str | None = None


class StructModel(msgspec.Struct):
    text: str = ""
    value: float | None = None
    flag: bool = False
    inner: StructInner = msgspec.field(default_factory=StructInner)
    items: list[StructInner] = []
    table: dict[str, float | None] = {}


class PydanticInner(pydantic.BaseModel):
    number: int = 0
    note: str | None = None


class PydanticModel(pydantic.BaseModel):
    text: str = ""
    value: float | None = None
    flag: bool = False
    inner: PydanticInner = PydanticInner()
    items: list[PydanticInner] = []
    table: dict[str, float | None] = {}


class Echo(Environment[Any, Any, Any]):
    """Gives the action back as the observation; reward and info are taken from ``told``."""

    isolation = "inline"
    told: tuple[float | None, dict[str, Any]] = (None, {})

    def reset(self) -> Any:
        return StepResult(None)

    def step(self, action: Any) -> Any:
        reward, info = Echo.told
        return StepResult(action, reward, info=info)


MODELS: dict[str, Any] = {
    "dict": dict[str, Any],
    "dataclass": DataModel,
    "struct": StructModel,
    "pydantic": PydanticModel,
}
INNER = {"dataclass": DataInner, "struct": StructInner, "pydantic": PydanticInner}
TRANSPORTS = ["msgpack", "json", "http", "stream"]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
floats = st.floats(allow_nan=False, allow_infinity=False, width=64)
numbers = st.integers(-(2**63), 2**63 - 1)
trees = st.recursive(
    st.none() | st.booleans() | numbers | floats | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)


def values(kind: str) -> st.SearchStrategy[Any]:
    if kind == "dict":
        return st.dictionaries(texts, trees, max_size=4)
    inner = st.builds(INNER[kind], number=numbers, note=st.none() | texts)
    return st.builds(
        MODELS[kind],
        text=texts,
        value=st.none() | floats,
        flag=st.booleans(),
        inner=inner,
        items=st.lists(inner, max_size=3),
        table=st.dictionaries(texts, st.none() | floats, max_size=3),
    )


class Bench:
    """A server and a client of each transport for one kind of model, on a loop of its own."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.runner = asyncio.Runner()
        self.stack = contextlib.AsyncExitStack()
        self.clients: dict[str, Any] = {}
        self.runner.run(self._open())

    async def _open(self) -> None:
        model = MODELS[self.kind]
        # None for the first observation: every model is optional here.
        url = await self.stack.enter_async_context(serve(Echo, model, model | None, Any))
        types = {"action_type": model, "observation_type": model | None, "state_type": Any}
        client: Any = type("Client", (EnvClient,), types)
        http: Any = type("HTTP", (HTTPEnvClient,), types)
        made = {
            "msgpack": client(url),
            "json": client(url, subprotocol="openenv.v1.json"),
            "http": http(url),
            "stream": client(url, share=False),
        }
        for name, each in made.items():
            self.clients[name] = await self.stack.enter_async_context(each)
            await each.reset()

    def echo(self, transport: str, value: Any) -> StepResult[Any]:
        return self.runner.run(self._echo(transport, value))

    async def _echo(self, transport: str, value: Any) -> StepResult[Any]:
        client = self.clients[transport]
        if transport != "stream":
            result: StepResult[Any] = await client.step(value)
            return result
        [result] = [item async for item in client.stream_step(value)]
        return result

    def close(self) -> None:
        self.runner.run(self.stack.aclose())
        self.runner.close()


@pytest.fixture(scope="module", params=list(MODELS))
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = Bench(request.param)
    yield made
    made.close()


@pytest.mark.parametrize("transport", TRANSPORTS)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_what_goes_in_comes_out(bench: Bench, transport: str, data: st.DataObject) -> None:
    value = data.draw(values(bench.kind))
    reward = data.draw(st.none() | floats)
    info = data.draw(st.dictionaries(texts, trees, max_size=2))
    Echo.told = (reward, info)
    result = bench.echo(transport, value)
    assert type(result.observation) is type(value)
    assert result.observation == value
    assert repr(result.reward) == repr(reward)  # None is not 0.0, and 0.0 is not -0.0
    assert result.info == info


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_none_is_not_zero(bench: Bench, transport: str) -> None:
    for reward in (None, 0.0):
        Echo.told = (reward, {"value": reward})
        value = {"value": reward} if bench.kind == "dict" else MODELS[bench.kind](value=reward)
        result = bench.echo(transport, value)
        back = result.observation
        found = back["value"] if isinstance(back, dict) else back.value
        for each in (found, result.reward, result.info["value"]):
            assert each is None if reward is None else each == 0.0
    Echo.told = (None, {})


@pytest.mark.parametrize("subprotocol", ["openenv.v1.msgpack", "openenv.v1.json"])
@pytest.mark.parametrize("kind", ["dataclass", "struct", "pydantic"])
async def test_unknown_fields_are_refused_nested_ones_too(kind: str, subprotocol: str) -> None:
    Echo.told = (None, {})
    async with (
        serve(Echo, MODELS[kind], Any, Any) as url,
        EnvClient[Any, Any, Any](url, subprotocol=subprotocol) as env,
        HTTPEnvClient[Any, Any, Any](url) as http,
    ):
        for client in (env, http):
            await client.reset()
            for wrong in (
                {"text": "x", "txet": "y"},
                {"inner": {"number": 1, "numbre": 2}},
                {"items": [{"number": 1}, {"extra": None}]},
            ):
                with pytest.raises(InvalidAction, match=r"txet|numbre|extra"):
                    await client.step(wrong)


async def test_unknown_fields_of_a_dict_are_kept() -> None:
    Echo.told = (math.pi, {"a": [None]})
    async with serve(Echo, dict[str, Any], Any, Any) as url, EnvClient[Any, Any, Any](url) as env:
        await env.reset()
        action = {"anything": {"goes": [None, 0, 0.0, False, ""]}}
        assert (await env.step(action)).observation == action
