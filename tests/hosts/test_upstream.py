"""Environments of OpenEnv's applications, as environments of this runtime."""

from __future__ import annotations

import contextlib
import functools
import inspect
import pickle
import threading
from collections.abc import AsyncIterator
from typing import Any, Literal

import httpx
import pytest
from pydantic import BaseModel

from openenv_async import EnvClient, connect, serve
from openenv_async.compat.upstream import mcp_types
from openenv_async.compat.upstream.interfaces import Environment
from openenv_async.compat.upstream.types import Action, EnvironmentMetadata, Observation, State
from openenv_async.errors import EnvironmentRaised, InvalidAction, WrongTarget
from openenv_async.hosts.upstream import AppCall, host_of_call
from openenv_async.schemas.refs import resolved
from openenv_async.spec import EnvironmentSpec
from tests.server.mcp.agent import STATELESS, Agent


class Press(Action):
    key: str


class Screen(Observation):
    text: str = ""


class Keys(State):
    text: str = ""


class Typewriter(Environment[Press, Screen, Keys]):
    """A typewriter that ends at the full stop."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self, start: str = "") -> None:
        super().__init__()
        self.start = start
        self.text = start
        self.threads = {threading.get_ident()}

    def reset(
        self, seed: int | None = None, episode_id: str | None = None, prefix: str = "", **more: Any
    ) -> Screen:
        self.threads.add(threading.get_ident())
        self.text = self.start + prefix
        return Screen(text=self.text)

    def step(self, action: Any, timeout_s: float | None = None, **more: Any) -> Any:
        assert isinstance(action, Press)
        self.threads.add(threading.get_ident())
        self.text += action.key
        return Screen(text=self.text, reward=0.5, done=action.key == ".", metadata={"n": 1})

    @property
    def state(self) -> Keys:
        return Keys(text=self.text, step_count=7)


def make_typewriter():  # type: ignore[no-untyped-def]  # what the test is about
    return Typewriter("> ")


def spec_of(env: Any, action: Any = Press, observation: Any = Screen, **more: Any) -> Any:
    return EnvironmentSpec(host_of_call(AppCall(env, action, observation, **more)))


@pytest.mark.parametrize(
    "env", [make_typewriter, functools.partial(Typewriter, "> "), lambda: Typewriter("> ")]
)
async def test_factories_without_annotations_and_partials_are_served(env: Any) -> None:
    async with connect(spec_of(env)) as client:
        begun = await client.reset(prefix="a")
        result = await client.step({"key": "b"})
        ended = await client.step({"key": "."})
        state = await client.state()
    assert begun.observation == {"text": "> a", "metadata": {}}
    assert (result.observation["text"], result.reward, result.done) == ("> ab", 0.5, False)
    assert result.observation["metadata"] == {"n": 1}
    assert ended.terminated
    assert not ended.truncated
    assert (state["text"], state["step_count"]) == ("> ab.", 7)


async def test_an_action_is_of_the_application_s_class_whatever_step_declares() -> None:
    async with connect(spec_of(Typewriter)) as client:
        await client.reset()
        with pytest.raises(InvalidAction, match="key"):
            await client.step({"keys": "b"})
        assert (await client.step({"key": "b"})).observation["text"] == "b"


async def test_all_calls_of_a_session_come_from_one_thread_with_the_constructor() -> None:
    made: list[Typewriter] = []

    def make() -> Typewriter:
        made.append(Typewriter())
        return made[-1]

    async with connect(spec_of(make)) as client:
        for _ in range(5):
            await client.reset()
            await client.step({"key": "a"})
    assert [len(each.threads) for each in made] == [1]


async def test_one_thread_is_shared_by_all_where_the_class_asks_for_it() -> None:
    made: list[Typewriter] = []

    class Affine(Typewriter):
        REQUIRES_SINGLE_THREAD_EXECUTOR = True

        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    spec = spec_of(Affine, max_sessions=2)
    async with connect(spec) as one, connect(spec) as two:
        for client in (one, two, one, two):
            await client.reset()
            await client.step({"key": "a"})
    assert len(made) == 2
    assert len(made[0].threads | made[1].threads) == 1


class Awaited(Typewriter):
    """Plays in coroutines, and inside of a session that it holds open."""

    log: list[str] = []  # noqa: RUF012  # of the test

    async def step_async(self, action: Any, timeout_s: float | None = None, **more: Any) -> Any:
        self.log.append("step_async")
        return self.step(action)

    def step(self, action: Any, timeout_s: float | None = None, **more: Any) -> Any:
        assert not self.log or self.log[-1] == "step_async"
        return super().step(action)

    @contextlib.asynccontextmanager
    async def mcp_session(self) -> AsyncIterator[None]:
        self.log.append("enter")
        yield
        self.log.append("leave")

    def close(self) -> None:
        self.log.append("close")


async def test_coroutines_are_awaited_inside_of_the_session_that_the_environment_holds() -> None:
    Awaited.log.clear()
    async with connect(spec_of(Awaited)) as client:
        assert (await client.reset(prefix="x")).observation["text"] == "x"
        assert (await client.step({"key": "y"})).observation["text"] == "xy"
    assert Awaited.log == ["enter", "step_async", "leave", "close"]


async def test_a_session_that_could_not_be_entered_is_entered_by_the_next_call() -> None:
    class Reluctant(Awaited):
        tries = 0

        @contextlib.asynccontextmanager
        async def mcp_session(self) -> AsyncIterator[None]:
            type(self).tries += 1
            if self.tries == 1:
                raise RuntimeError("the tools are not up yet")
            async with super().mcp_session():
                yield

    Awaited.log.clear()
    async with connect(spec_of(Reluctant)) as client:
        with pytest.raises(EnvironmentRaised, match="not up yet"):
            await client.reset()
        await client.reset()
        await client.step({"key": "y"})
    assert Awaited.log == ["enter", "step_async", "leave", "close"]
    assert Reluctant.tries == 2


def test_an_environment_that_was_made_to_be_seen_tells_its_metadata_itself() -> None:
    made: list[Typewriter] = []

    class Empty(Typewriter):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

        def __len__(self) -> int:
            return 0

        def get_metadata(self) -> Any:
            return EnvironmentMetadata(name="empty", description="Nothing in it", version="2.0")

    assert spec_of(lambda: Empty()).version == "2.0"
    assert len(made) == 1


async def test_a_reset_in_coroutines_gives_the_options() -> None:
    class Late(Typewriter):
        async def reset_async(self, seed: int | None = None, suffix: str = "!") -> Screen:  # type: ignore[override]  # what the test is about
            return Screen(text=f"{seed}{suffix}")

    spec = spec_of(Late)
    assert "suffix" in spec.contract.reset_options
    assert "prefix" not in spec.contract.reset_options
    async with connect(spec) as client:
        assert (await client.reset(seed=3, suffix="?")).observation["text"] == "3?"


async def test_tool_calls_and_the_list_of_tools_are_actions_by_their_type() -> None:
    class Tools(Typewriter):
        def step(self, action: Any, timeout_s: float | None = None, **more: Any) -> Any:
            if isinstance(action, mcp_types.ListToolsAction):
                return mcp_types.ListToolsObservation(tools=[])
            assert isinstance(action, mcp_types.CallToolAction)
            return mcp_types.CallToolObservation(
                tool_name=action.tool_name, result=action.arguments, reward=1.0
            )

    call = mcp_types.CallToolAction
    async with connect(spec_of(Tools, call, mcp_types.CallToolObservation)) as client:
        await client.reset()
        listed = await client.step({"type": "list_tools"})
        assert listed.observation["tools"] == []
        told = await client.step({"type": "call_tool", "tool_name": "t", "arguments": {"a": 1}})
        assert (told.observation["result"], told.reward) == ({"a": 1}, 1.0)
        with pytest.raises(InvalidAction):
            await client.step({"type": "call_tool"})


class Caller(Typewriter):
    """Its actions are calls of tools, and it holds a session for them."""

    def step(self, action: Any, timeout_s: float | None = None, **more: Any) -> Any:
        if isinstance(action, mcp_types.ListToolsAction):
            return mcp_types.ListToolsObservation(tools=[])
        assert isinstance(action, mcp_types.CallToolAction)
        return mcp_types.CallToolObservation(tool_name=action.tool_name, result=self.start)

    @contextlib.asynccontextmanager
    async def mcp_session(self) -> AsyncIterator[None]:
        yield


def caller() -> Caller:
    return Caller("made")


@pytest.mark.parametrize("env", [Caller, functools.partial(Caller, ""), caller])
async def test_an_environment_of_tools_needs_no_application(env: Any) -> None:
    models = mcp_types.CallToolAction, mcp_types.CallToolObservation
    spec = EnvironmentSpec(env, *models)
    copy = pickle.loads(pickle.dumps(spec))  # as worker processes get it
    for each in (spec, copy):
        assert each.name == spec.name
        assert set(each.schema["action"]["properties"]) >= {"tool_name", "arguments"}
        async with connect(each) as client:
            await client.reset()
            assert (await client.step({"type": "list_tools"})).observation["tools"] == []
            told = await client.step({"type": "call_tool", "tool_name": "t", "arguments": {}})
            assert told.observation["result"] == ("made" if env is caller else "")


async def test_tools_that_a_step_lists_are_those_of_agents() -> None:
    class Tools(Awaited):
        def reset(self, *args: Any, **more: Any) -> Any:
            return Observation(metadata={"status": "ready"})  # without what the declared one needs

        async def step_async(self, action: Any, timeout_s: float | None = None, **more: Any) -> Any:
            if isinstance(action, mcp_types.ListToolsAction):
                schema = {"type": "object", "properties": {"text": {"type": "string"}}}
                tool = mcp_types.Tool(name="say", description="Say it.", input_schema=schema)
                return mcp_types.ListToolsObservation(tools=[tool])
            return mcp_types.CallToolObservation(
                tool_name=action.tool_name, result=action.arguments["text"], reward=0.25
            )

    Awaited.log.clear()
    spec = spec_of(Tools, mcp_types.CallToolAction, mcp_types.CallToolObservation)
    async with serve(spec) as url, httpx.AsyncClient(base_url=url) as http:
        agent = Agent(http, STATELESS)
        listed = (await agent.ask("tools/list"))["tools"]
        assert [tool["name"] for tool in listed] == ["reset", "say", "close"]
        assert Awaited.log == ["enter", "leave", "close"]
        begun = (await agent.call("reset"))["structuredContent"]
        said = (await agent.call("say", text="hi"))["structuredContent"]
        assert said["observation"]["result"] == "hi"
        for tool, given in ((listed[0], begun), (listed[1], said)):
            shape = resolved(
                tool["outputSchema"]["properties"]["observation"], tool["outputSchema"]
            )
            assert set(shape.get("required", ())) <= set(given["observation"])
            assert set(given["observation"]) <= set(shape["properties"])
        async with EnvClient[Any, Any, Any](url) as env:
            await env.reset()
            assert [tool.name for tool in await env.list_tools()] == ["say"]


async def test_truncation_of_an_observation_s_own_is_an_end_that_is_no_termination() -> None:
    class Timed(Screen):
        truncated: bool = False

    class Clock(Typewriter):
        def step(self, action: Any, timeout_s: float | None = None, **more: Any) -> Any:
            late = action.key == "late"
            return Timed(truncated=True, done=late)

    async with connect(spec_of(Clock, Press, Timed)) as client:
        await client.reset()
        first = await client.step({"key": "a"})
        assert not first.done  # only `done` ends an episode
        last = await client.step({"key": "late"})
        assert (last.terminated, last.truncated) == (False, True)


@pytest.mark.parametrize(
    ("several", "asked", "served"),
    [(False, None, 1), (False, 4, 1), (True, 4, 4), (True, None, None)],
)
def test_sessions_at_once_are_what_class_and_application_say(
    several: bool, asked: int | None, served: int | None
) -> None:
    class Some(Typewriter):
        SUPPORTS_CONCURRENT_SESSIONS = several

    assert spec_of(Some, max_sessions=asked).max_sessions == served


def test_schemas_are_those_of_the_models_and_metadata_the_environment_s_own() -> None:
    class Told(Typewriter):
        def get_metadata(self) -> Any:
            class Metadata(BaseModel):
                name: str = "told"
                description: str = "writes"
                version: Literal["2.5"] = "2.5"

            return Metadata()

    spec = spec_of(Told, name="typing")
    assert spec.schema["action"]["required"] == ["key"]
    assert "text" in spec.schema["observation"]["properties"]
    assert (spec.name, spec.description, spec.version) == ("typing", "writes", "2.5")


def test_metadata_that_cannot_be_had_costs_the_description_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Shy(Typewriter):
        def get_metadata(self) -> Any:
            raise OSError("no page")

    assert spec_of(Shy).version == "1.0.0"
    assert "no page" in caplog.text


def test_what_makes_no_environment_is_refused_by_name() -> None:
    with pytest.raises(WrongTarget, match="does not make an environment"):
        spec_of(lambda: object())


async def test_what_an_environment_raises_is_its_own_failure() -> None:
    class Broken(Typewriter):
        def step(self, action: Any, timeout_s: float | None = None, **more: Any) -> Any:
            raise RuntimeError("jammed")

    async with connect(spec_of(Broken)) as client:
        await client.reset()
        with pytest.raises(EnvironmentRaised, match="jammed"):
            await client.step({"key": "a"})


def test_the_options_of_reset_keep_their_annotations() -> None:
    host = host_of_call(AppCall(Typewriter, Press, Screen))
    assert list(inspect.signature(host.reset).parameters) == [
        *("self", "seed", "episode_id", "prefix", "more")
    ]
