"""Upstream's clients: awaited and blocking, with its hooks, keywords and errors."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from openenv_async import Environment, serve
from openenv_async.client.loop_thread import background_loop
from openenv_async.compat.upstream.client_types import StepResult
from openenv_async.compat.upstream.clients import (
    EnvClient,
    GenericAction,
    GenericEnvClient,
    convert_to_ws_url,
    hf_space_subdomain,
)
from openenv_async.compat.upstream.types import Action, Observation, State
from openenv_async.errors import ConnectFailed, DeadlineExceeded, EnvironmentRaised

NOBODY = "http://127.0.0.1:1"


class Say(Action):
    text: str


class Said(Observation):
    text: str = ""
    seed: int | None = None


class Echo(Environment[Say, Said, dict[str, Any]]):
    """Repeat what is said; be silent for the text ``hush``, and fail for ``fail``."""

    def __init__(self) -> None:
        self.said: list[str] = []

    async def reset(self, *, seed: int | None = None, timeout: str = "", **options: Any) -> Said:
        self.said = []
        return Said(text=f"ready {timeout}".strip(), seed=seed, metadata={"level": 1})

    async def step(self, action: Say) -> Said:
        if action.text == "fail":
            raise RuntimeError("it failed")
        if action.text == "hush":
            await asyncio.Event().wait()
        self.said.append(action.text)
        return Said(text=action.text, reward=float(len(self.said)), done=action.text == "bye")

    async def state(self) -> dict[str, Any]:
        return {"said": self.said}


class EchoClient(EnvClient[Say, Said, State]):
    def _step_payload(self, action: Say) -> dict[str, Any]:
        return {"text": action.text}

    def _parse_result(self, payload: dict[str, Any]) -> StepResult[Said]:
        observation = Said(**payload["observation"], reward=payload["reward"], done=payload["done"])
        return StepResult(observation, payload["reward"], payload["done"], payload.get("metadata"))

    def _parse_state(self, payload: dict[str, Any]) -> State:
        return State(**payload)

    async def twice(self, text: str) -> StepResult[Said]:
        await self.step(Say(text=text))
        last: StepResult[Said] = await self.step(Say(text=text))
        return last


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The address of a server that runs in the background thread."""
    stop = asyncio.Event()

    async def run(ready: asyncio.Future[str]) -> None:
        async with serve(Echo) as address:
            ready.set_result(address)
            await stop.wait()

    async def begin() -> tuple[asyncio.Task[None], str]:
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(run(ready))
        return task, await ready

    async def end(task: asyncio.Task[None]) -> None:
        stop.set()
        await task

    task, address = background_loop().run(begin())
    yield address
    background_loop().run(end(task))


async def test_awaited(url: str) -> None:
    async with EchoClient(url) as env:
        first = await env.reset(seed=7)
        assert (first.observation.text, first.observation.seed) == ("ready", 7)
        assert first.metadata == {"level": 1}
        result = await env.step(Say(text="hi"), timeout_s=5.0)
        assert (result.observation.text, result.reward, result.done) == ("hi", 1.0, False)
        assert (await env.twice("ho")).reward == 3.0
        state = await env.state()
        assert state.model_dump() == {
            "episode_id": state.episode_id,
            "step_count": 3,
            "said": ["hi", "ho", "ho"],
        }
        assert (await env.step(Say(text="bye"))).done


def test_blocking(url: str) -> None:
    env = EchoClient(url)
    assert env.reset(timeout="soon").observation.text == "ready soon"
    assert env.step(Say(text="hi")).observation.reward == 1.0
    assert env.state().step_count == 1
    env.close()
    env.close()
    assert env.reset().observation.text == "ready", "a closed client opens another session"
    env.disconnect()
    with env:
        assert env.reset().reward is None


def test_a_blocking_view_has_the_async_methods_too(url: str) -> None:
    client = EchoClient(url)
    with client.sync() as env:
        env.reset()
        assert env.twice("hi").reward == 2.0
        assert env.base_url == url
        assert env.async_client is client
        assert client.sync() is env
        other = env.new_session()
        assert (other.reset().reward, other.step(Say(text="a")).reward) == (None, 1.0)
        assert env.state().step_count == 2
    assert other.async_client._inner is None, "it was closed with its parent"


async def test_the_first_call_in_a_loop_may_be_awaited_or_read(url: str) -> None:
    awaited, read = EchoClient(url), EchoClient(url)
    assert (await awaited.reset()).observation.text == "ready"
    await awaited.close()
    first = read.reset()
    assert "to be awaited or read" in repr(first)
    assert first.observation.text == "ready"
    assert bool(first)
    assert repr(first).startswith("StepResult")
    assert read.step(Say(text="hi")).reward == 1.0
    read.close()


async def test_one_client_is_called_in_one_way(url: str) -> None:
    async with EchoClient(url) as env:
        with pytest.raises(RuntimeError, match="already being used in async mode"):
            env.sync().reset()
    blocking = EchoClient(url).sync()
    await asyncio.to_thread(blocking.reset)
    with pytest.raises(RuntimeError, match="already being used in sync mode"):
        async with blocking.async_client:
            pass
    await asyncio.to_thread(blocking.close)


def test_a_client_goes_on_in_another_loop(url: str) -> None:
    env = EchoClient(url)

    async def reset() -> Any:
        return await env.reset()

    assert asyncio.run(reset()).observation.text == "ready"
    assert env.reset().observation.text == "ready"
    env.close()


async def test_errors_are_those_of_upstream(url: str) -> None:
    async with EchoClient(url, message_timeout_s=0.2) as env:
        await env.reset()
        with pytest.raises(RuntimeError, match=r"it failed.*\(code: EXECUTION_ERROR\)") as caught:
            await env.step(Say(text="fail"))
        assert isinstance(caught.value.__cause__, EnvironmentRaised)
        with pytest.raises(TimeoutError) as late:
            await env.step(Say(text="hush"))
        assert isinstance(late.value, DeadlineExceeded)
        assert (await env.reset()).observation.text == "ready"
    async with GenericEnvClient(url) as plain:
        await plain.reset()
        with pytest.raises(RuntimeError, match=r"\(code: VALIDATION_ERROR\)"):
            await plain.step({"words": 1})
    with pytest.raises(ConnectionError) as nobody:
        await EchoClient(NOBODY).connect()
    assert isinstance(nobody.value, ConnectFailed)


def test_the_keywords_are_upstreams() -> None:
    env = EchoClient(
        NOBODY + "/",
        connect_timeout_s=3.0,
        message_timeout_s=4.0,
        max_message_size_mb=1.5,
        websocket_ping_interval_s=None,
        websocket_ping_timeout_s=None,
        mode="Production",
        headers={"X-Team": "a"},
    )
    inner = asyncio.run(env._opened())
    assert (inner.timeouts.connect, inner.timeouts.step) == (3.0, 4.0)
    assert inner.limits.max_message_size == 1.5 * 2**20
    assert inner.settings.headers == {"X-Team": "a"}
    assert env.base_url == NOBODY
    with pytest.raises(AttributeError, match="make another client"):
        env._mode = "simulation"
    with pytest.raises(ValueError, match="either base_url or provider"):
        EchoClient()
    with pytest.raises(TypeError, match="abstract"):
        EnvClient(NOBODY)  # type: ignore[abstract]  # the mistake that is tested


def test_the_mode_may_be_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENENV_CLIENT_MODE", "production")
    assert EchoClient(NOBODY)._mode == "production"
    assert EchoClient(NOBODY, mode="simulation")._mode == "simulation"
    with pytest.raises(ValueError, match="Invalid mode: 'fast'"):
        EchoClient(NOBODY, mode="fast")


def test_dicts_without_models(url: str) -> None:
    with GenericEnvClient(url) as env:
        env.reset()
        actions: list[Any] = [GenericAction(text="a"), {"text": "a"}, Say(text="a")]
        for action in actions:
            result = env.step(action)
            assert result.observation["text"] == "a"
        assert env.state()["said"] == ["a", "a", "a"]
    assert repr(GenericAction(text="a", far=1)) == "GenericAction(text='a', far=1)"


class Provider:
    """A provider of containers that has a server already."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.calls: list[Any] = []

    def start_container(self, image: str = "", **options: Any) -> str:
        self.calls.append((image, options))
        return self.url

    def wait_for_ready(self, base_url: str, timeout_s: float = 30.0) -> None:
        if base_url == NOBODY:
            raise TimeoutError("nobody answers")
        self.calls.append("ready")

    def stop_container(self) -> None:
        self.calls.append("stopped")


class Runtime:
    """A provider of servers without containers that has one already."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.calls: list[Any] = []

    def start(self, **options: Any) -> str:
        self.calls.append(options)
        return self.url

    def wait_for_ready(self, timeout_s: float = 30.0) -> None:
        if self.url == NOBODY:
            raise TimeoutError("nobody answers")
        self.calls.append("ready")

    def stop(self) -> None:
        self.calls.append("stopped")


def test_a_provider_starts_the_server_and_is_stopped(url: str) -> None:
    provider, runtime = Provider(url), Runtime(url)
    for each in (provider, runtime):
        env = EchoClient(provider=each)
        before = env.base_url
        assert env.reset().observation.text == "ready"
        assert (before, env.base_url) == (None, url)
        env.close()
        env.close()
    assert provider.calls == [("", {}), "ready", "stopped"]
    assert runtime.calls == [{}, "ready", "stopped"]
    with EchoClient(url, provider=provider) as env:
        env.reset()
    assert provider.calls[3:] == ["stopped"]
    for unready in (Provider(NOBODY), Runtime(NOBODY)):
        with pytest.raises(TimeoutError):
            EchoClient(provider=unready).reset()
        assert unready.calls[-1] == "stopped"
    with pytest.raises(TypeError, match="int has neither"):
        EchoClient(provider=3).reset()


async def test_a_container_of_an_image(url: str) -> None:
    provider: Any = Provider(url)
    env = await EchoClient.from_docker_image("echo:1", provider, env_vars={"A": "b"})
    assert (await env.reset()).observation.text == "ready"
    await env.close()
    assert provider.calls == [("echo:1", {"env_vars": {"A": "b"}}), "ready", "stopped"]
    async with EchoClient.from_docker_image("echo:1", provider) as env:
        assert (await env.reset()).observation.text == "ready"
    lost: Any = Provider(NOBODY)
    with pytest.raises(TimeoutError):
        await EchoClient.from_docker_image("echo:1", lost)
    assert lost.calls[-1] == "stopped"


def test_a_container_for_blocking_calls(url: str) -> None:
    provider: Any = Provider(url)
    with EchoClient.from_docker_image("echo:1", provider).sync() as env:
        assert env.reset().observation.text == "ready"
    started: Any = EchoClient.from_docker_image("echo:1", provider)
    with started as client:
        assert client.reset().observation.text == "ready"
    started = EchoClient.from_docker_image("echo:1", provider)
    assert started.reset().observation.text == "ready"
    started.close()
    opened = asyncio.run(EchoClient.from_docker_image("echo:1", provider))
    assert opened.reset().observation.text == "ready"
    opened.close()
    assert provider.calls.count("stopped") == 4


def test_a_space(url: str) -> None:
    provider: Any = Provider(url)
    EchoClient.from_env("Team/Echo_Env", provider=provider, tag="v2", env_vars={}).sync().close()
    assert provider.calls[0] == ("registry.hf.space/team-echo-env:v2", {"env_vars": {}})
    runtime: Any = Runtime(url)
    EchoClient.from_env("a/b", use_docker=False, provider=runtime, port=1).sync().close()
    assert runtime.calls == [{"port": 1}, "ready", "stopped"]
    lost: Any = Runtime(NOBODY)
    with pytest.raises(TimeoutError):
        EchoClient.from_env("a/b", use_docker=False, provider=lost).sync()
    assert lost.calls[-1] == "stopped"
    with pytest.raises(ValueError, match="needs a provider"):
        EchoClient.from_env("a/b", use_docker=False)


async def test_a_coroutine_that_was_begun_is_closed_as_one(url: str) -> None:
    provider: Any = Provider(url)
    starting = EchoClient.from_docker_image("echo:1", provider)
    starting.send(None)
    starting.close()
    with pytest.raises(RuntimeError):
        starting.throw(RuntimeError("over"))


def test_addresses() -> None:
    addresses = ("http://a/", "https://a/b", "ws://a", "a:1")
    expected = ["ws://a", "wss://a/b", "ws://a", "ws://a:1"]
    assert [convert_to_ws_url(each) for each in addresses] == expected
    assert hf_space_subdomain("Team/Echo_Env") == "team-echo-env"
