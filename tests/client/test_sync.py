"""The blocking client: the async one's settings, hooks and types, and calls that wait."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from openenv_async import EnvClient, Environment, SyncEnvClient, Timeouts, serve
from openenv_async.client.loop_thread import LoopThread
from openenv_async.errors import InvalidAction, SessionClosed
from openenv_async.types import StepResult

URL = "http://127.0.0.1:1"


class Adding(Environment[int, int, dict[str, int]]):
    """Adds up; streams what it has on the way."""

    total = 0

    async def reset(self, *, start: int = 0, timeout: int = 0) -> int:
        self.total = start + timeout
        return self.total

    async def step(self, action: int) -> int:
        self.total += action
        return self.total

    async def step_stream(self, action: int) -> AsyncIterator[int | StepResult[int]]:
        for _ in range(2):
            yield self.total
        self.total += action
        yield StepResult(self.total, 1.0)

    async def state(self) -> dict[str, int]:
        return {"total": self.total}


class Client(SyncEnvClient[int, int, dict[str, Any]]):
    """Typed by a subclass, with a hook of its own."""

    def _serialize_action(self, action: int) -> Any:
        return action * 10


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server in a thread of its own: a blocking client would block a loop that serves."""
    thread = LoopThread()
    listening, stop = threading.Event(), asyncio.Event()
    urls: list[str] = []

    async def hold() -> None:
        async with serve(Adding) as address:
            urls.append(address)
            listening.set()
            await stop.wait()

    held = asyncio.run_coroutine_threadsafe(hold(), thread.loop)
    assert listening.wait(20)
    yield urls[0]
    thread.loop.call_soon_threadsafe(stop.set)
    held.result(20)
    thread.stop()


def test_an_episode(url: str) -> None:
    with SyncEnvClient[int, int, Any](url) as env:
        assert env.session_id is not None
        before = env.episode
        assert before is None
        assert env.reset(seed=3, episode_id="e", start=2).observation == 2
        assert env.episode is not None
        assert (env.episode.episode_id, env.episode.seed) == ("e", 3)
        assert env.step(5).observation == 7
        assert env.episode.step_count == 1
        assert env.state()["total"] == 7
        assert env.reset(reset_options={"timeout": 4}).observation == 4
    with pytest.raises(SessionClosed):
        env.reset()


def test_the_first_call_opens_and_opening_gives_the_client(url: str) -> None:
    env = SyncEnvClient[int, int, Any](url)
    assert env.connect() is env
    assert env.open() is env
    assert env.session_id is not None
    assert env.reset().observation == 0
    env.close()
    env.close()


def test_calls_have_deadlines(url: str) -> None:
    with SyncEnvClient[int, int, Any](url) as env:
        env.reset(timeout=5, reset_options={})
        for wrong in (
            lambda: env.step(1, timeout=-1),
            lambda: env.state(timeout=-1),
            lambda: next(env.stream_step(1, timeout=-1)),
            lambda: env.reset(timeout=-1),
        ):
            with pytest.raises(ValueError, match="timeout"):
                wrong()


def test_what_streams_comes_one_by_one(url: str) -> None:
    with SyncEnvClient[int, int, Any](url) as env:
        env.reset()
        results = list(env.stream_step(3))
        assert [result.observation for result in results] == [0, 0, 3]
        assert [result.reward for result in results] == [None, None, 1.0]
        stream = env.stream_step(4)
        assert next(stream).observation == 3
        stream.close()  # type: ignore[attr-defined]  # a generator
        assert env.step(1).observation in (4, 8)


def test_hooks_of_a_subclass_are_used(url: str) -> None:
    with Client(url) as env:
        env.reset()
        assert env.step(2).observation == 20
        assert type(env.client).__name__ == "Client"
        assert env.client.model_types()[:2] == (int, int)
    with SyncEnvClient[int, int, Any](url) as plain:
        plain.reset()
        assert plain.step(2).observation == 2
        with pytest.raises(InvalidAction):
            plain.step("x")  # type: ignore[arg-type]  # which is the point


def test_a_view_of_an_async_client_has_its_settings(url: str) -> None:
    client = EnvClient[int, int, Any](url, timeouts=Timeouts(step=3.0))
    env = client.sync()
    assert env.client is client
    assert env.settings is client.settings
    assert env.base_url == url
    with env:
        assert env.reset().observation == 0
        assert env.session_id == client.session_id


def test_settings_are_checked_at_once() -> None:
    with pytest.raises(TypeError, match="SyncEnvClient takes no argument 'tokn'"):
        SyncEnvClient(URL, tokn="x")  # type: ignore[call-arg]  # which is the point
    with pytest.raises(TypeError, match="timeouts must be"):
        SyncEnvClient(URL, timeouts=3)  # type: ignore[arg-type]  # which is the point
    with pytest.raises(ValueError, match="not a valid server address"):
        SyncEnvClient("here")
    assert SyncEnvClient.from_url(URL, token="t").settings.token == "t"


async def test_it_is_no_async_client() -> None:
    client: Any = Client(URL)
    with pytest.raises(TypeError, match="Client blocks: write `with Client"):
        async with client:
            pass


def test_a_pickled_client_opens_a_session_of_its_own(url: str) -> None:
    with SyncEnvClient(url, token="t") as env:
        env.reset()
        copied = pickle.loads(pickle.dumps(env))
        assert copied._made is None
        assert copied.settings == env.settings
        with copied:
            copied.reset()
            assert copied.session_id != env.session_id
    view = EnvClient[Any, Any, Any](url).sync()
    assert pickle.loads(pickle.dumps(view)).base_url == url


def test_a_container_is_started_by_the_first_call_and_not_before() -> None:
    env = SyncEnvClient.from_docker_image("image:1", 9000, network="none")
    assert env._made is None
    assert env._container == ("image:1", 9000, {"network": "none"})
    with pytest.raises(TypeError, match="nonsense"):
        SyncEnvClient.from_docker_image("image:1", nonsense=1).client  # noqa: B018  # which makes it
