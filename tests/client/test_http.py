from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.routing import Route

from openenv_async import Environment, Timeouts, create_app, serve
from openenv_async.client.http import EitherResult, EitherState, HTTPEnvClient
from openenv_async.engine import EngineOptions
from openenv_async.errors import (
    ConnectFailed,
    DeadlineExceeded,
    EnvironmentRaised,
    EpisodeEnded,
    EpisodeNotStarted,
    InvalidAction,
    InvalidOption,
    OperationUnsupported,
    PayloadTooLarge,
    ServerBusy,
    SessionBusy,
    SessionClosed,
    SessionLost,
    TargetNotFound,
)
from openenv_async.types import EpisodeInfo, Limits
from tests.helpers import gated, until


@dataclass
class Action:
    message: str = ""


@dataclass
class Observation:
    echo: str
    pixels: NDArray[np.uint8] | None = None
    reward: float | None = None
    done: bool = False


@dataclass
class State:
    steps: int


class Echo(Environment[Action, Observation, State]):
    isolation = "inline"

    def __init__(self) -> None:
        self.steps = 0

    def reset(self, seed: int | None = None, level: int = 1) -> Observation:
        self.steps = 0
        return Observation(f"level {level} seed {seed}")

    def step(self, action: Action) -> Observation:
        if action.message == "boom":
            raise ValueError("boom in step")
        self.steps += 1
        pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
        return Observation(action.message, pixels, float("nan"), action.message == "end")

    def state(self) -> State:
        return State(self.steps)


class Client(HTTPEnvClient[Action, Observation, State]):
    pass


class Generic(HTTPEnvClient[dict[str, Any], dict[str, Any], dict[str, Any]]):
    pass


@pytest.fixture
def sync_url() -> Iterator[str]:
    """A server of ``Echo`` in a thread with a loop of its own."""
    started: list[str] = []
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def main() -> None:
        async with serve(Echo) as url:
            started.append(url)
            ready.set()
            await stop.wait()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(main())

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(10)
    try:
        yield started[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)


async def test_an_episode_awaited() -> None:
    async with serve(Echo) as url, Client(url) as env:
        assert env.session_id is not None
        began = await env.reset(seed=5, level=3)
        assert began.observation == Observation("level 3 seed 5")
        assert env.episode is not None
        assert env.episode.seed == 5
        result = await env.step(Action("hi"))
        assert result.observation.echo == "hi"
        seen = result.observation
        assert seen.pixels is not None
        assert seen.pixels.dtype == np.uint8
        assert seen.pixels.shape == (2, 3)
        assert result.reward is not None
        assert seen.reward is not None
        assert np.isnan([result.reward, seen.reward]).all()
        assert await env.state() == State(1)
        assert env.episode == EpisodeInfo(env.episode.episode_id, 5, 1)
        assert (await env.step(Action("end"))).terminated
        with pytest.raises(EpisodeEnded):
            await env.step(Action("more"))


async def test_errors_come_back_as_their_class() -> None:
    async with serve(Echo) as url, Client(url) as env:
        with pytest.raises(EpisodeNotStarted):
            await env.step(Action())
        with pytest.raises(InvalidOption, match="no option 'volume'"):
            await env.reset(volume=11)
        await env.reset()
        with pytest.raises(EnvironmentRaised, match="boom in step") as caught:
            await env.step(Action("boom"))
        assert caught.value.session_id == env.session_id
        assert caught.value.phase == "step"
        async with Generic(url) as generic:
            await generic.reset()
            with pytest.raises(InvalidAction):
                await generic.step({"note": "unknown"})
        assert (await env.step(Action("still here"))).observation.echo == "still here"


def test_the_seeds_snippet_blocks_without_a_loop(sync_url: str) -> None:
    env = Client(base_url=sync_url)
    result = env.reset()
    assert result.observation is not None
    result = env.step(Action(message="test"))
    assert not result.done
    assert env.state() == State(1)
    env.close()
    with pytest.raises(SessionClosed):
        env.reset()


def test_with_blocks(sync_url: str) -> None:
    with Client.from_url(sync_url) as env:
        assert env.reset(seed=1).observation.echo == "level 1 seed 1"
    with Client(sync_url).sync() as blocking:
        assert blocking.reset(seed=2).observation.echo == "level 1 seed 2"
        assert blocking.step(Action("x")).observation.echo == "x"
        assert blocking.state() == State(1)
        assert blocking.session_id is not None
        with pytest.raises(OperationUnsupported):
            next(blocking.stream_step(Action()))


async def test_sync_blocks_inside_a_running_loop(sync_url: str) -> None:
    env = Client(sync_url).sync()
    assert env.reset(seed=4).observation.echo == "level 1 seed 4"
    env.close()


def test_two_loops_one_session_and_nothing_left_open(sync_url: str) -> None:
    env = Client(sync_url)

    async def begin() -> None:
        await env.reset()
        await env.step(Action("one"))

    async def go_on() -> State:
        await env.step(Action("two"))
        state: State = await env.state()
        return state

    asyncio.run(begin())
    gc.collect()  # an unclosed socket would warn, and a warning is an error
    assert asyncio.run(go_on()) == State(2)
    env.close()
    gc.collect()


async def test_hooks_see_plain_data() -> None:
    class Hooked(HTTPEnvClient[Action, Observation, State]):
        def _serialize_action(self, action: Action) -> dict[str, Any]:
            return {"message": action.message.upper()}

        def _parse_observation(self, data: dict[str, Any]) -> Observation:
            return Observation("parsed " + data["echo"])

        def _parse_state(self, data: dict[str, Any]) -> State:
            return State(data["steps"] + 100)

    async with serve(Echo) as url, Hooked(url) as env:
        await env.reset()
        assert (await env.step(Action("hi"))).observation == Observation("parsed HI")
        assert await env.state() == State(101)


async def test_a_dict_state_carries_the_engines_facts() -> None:
    async with serve(Echo) as url, Generic(url) as env:
        await env.reset(episode_id="ep")
        assert await env.state() == {"steps": 0, "episode_id": "ep", "step_count": 0}


async def test_capacity() -> None:
    async with serve(Echo, options=EngineOptions(max_sessions=1)) as url:
        first, second = Client(url), Client(url)
        await first.open()
        with pytest.raises(ServerBusy) as caught:
            await second.open()
        assert caught.value.retryable
        await first.close()
        await second.reset()
        await second.close()


async def test_what_a_cancelled_open_left_is_closed() -> None:
    options = EngineOptions(max_sessions=1, max_waiting=1)
    app = create_app(Echo, options=options)
    engine = app.state.openenv.engine
    async with serve(app, options=options) as url, Client(url) as first:
        await first.reset()
        for leave in (True, False):
            second = Client(url)
            opening = asyncio.ensure_future(second.open())
            await until(lambda: engine.waiting == 1)
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
            assert second.session_id is None
            if leave:
                await second.close()
                await until(lambda: engine.waiting == 0)
        opening = asyncio.ensure_future(second.open())
        await asyncio.sleep(0)
        await first.close()
        await opening
        assert engine.stats.opened == 2
        await second.close()
        assert not engine.sessions


async def test_deadlines_are_sent() -> None:
    env, gate = gated()
    async with serve(env) as url, Generic(url, timeouts=Timeouts(step=0.05)) as client:
        await client.reset()
        with pytest.raises(DeadlineExceeded) as caught:
            await client.step({})
        assert caught.value.detail["field"] == "step"
        assert gate.cancelled == 1
        gate.opened.set()
        assert (await client.step({}, timeout=10)).observation == {"steps": 1}


async def test_a_second_call_is_refused_here() -> None:
    env, gate = gated()
    async with serve(env) as url, Generic(url) as client:
        await client.reset()
        first = asyncio.ensure_future(client.step({}))
        await gate.entered.wait()
        with pytest.raises(SessionBusy):
            await client.step({})
        gate.opened.set()
        assert (await first).observation == {"steps": 1}


async def test_a_cancelled_call_is_cancelled_there_and_the_next_one_works() -> None:
    env, gate = gated()
    async with serve(env) as url, Generic(url) as client:
        await client.reset()
        call = asyncio.ensure_future(client.step({}))
        await gate.entered.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        gate.entered.clear()
        following = asyncio.ensure_future(client.step({"again": True}))
        await gate.entered.wait()
        assert gate.cancelled == 1
        gate.opened.set()
        assert (await following).observation == {"steps": 1}


async def test_no_server() -> None:
    async with serve(Echo) as url:
        pass
    with pytest.raises(ConnectFailed):
        await Client(url).reset()
    with pytest.raises(ValueError, match="not a valid server address"):
        Client("localhost:8000")


async def test_another_server() -> None:
    async with serve(Starlette()) as url:
        with pytest.raises(ConnectFailed, match="is not an openenv_async server"):
            await Client(url + "/elsewhere").reset()
    async with serve(Echo) as url:
        with pytest.raises(TargetNotFound, match="leave out /elsewhere"):
            await Client(url + "/elsewhere").reset()


async def test_the_secret_of_a_session_follows_no_redirection() -> None:
    def moved(request: Request) -> RedirectResponse:
        return RedirectResponse(f"{url}{request.url.path}", 307)

    everywhere = Starlette(routes=[Route("/{path:path}", moved, methods=["GET", "POST"])])
    async with serve(Echo) as url, serve(everywhere) as there:
        with pytest.raises(ConnectFailed, match=rf"redirection to {url}/open: give the address"):
            await Client(there).reset()


async def test_too_large_is_not_sent_and_costs_nothing() -> None:
    async with (
        serve(Echo, options=EngineOptions(limits=Limits(max_message_size=1000))) as url,
        Client(url) as env,
        Client(url, limits=Limits(max_message_size=500)) as small,
    ):
        for client in (env, small):
            await client.reset()
            with pytest.raises(PayloadTooLarge):
                await client.step(Action("x" * 2000))
            assert (await client.step(Action("ok"))).observation.echo == "ok"


async def test_a_reset_after_the_session_was_lost_begins_anew() -> None:
    app = create_app(Echo)
    async with serve(app) as url:
        env = Client(url)
        await env.reset()
        before = env.session_id
        engine = app.state.openenv.engine
        engine.sessions[before].shut(SessionClosed("by the test"))
        await _until_gone(engine)
        with pytest.raises(SessionLost):
            await env.step(Action())
        await env.reset()
        assert env.session_id not in (None, before)
        engine.sessions[env.session_id].shut(SessionClosed("by the test"))
        await _until_gone(engine)
        assert (await env.reset(seed=3)).observation.echo == "level 1 seed 3"
        await env.close()
        assert not engine.sessions


async def _until_gone(engine: Any) -> None:
    while engine.sessions:  # noqa: ASYNC110 - nothing here could set an event
        await asyncio.sleep(0)


# -- lost connections -------------------------------------------------------------------------


@asynccontextmanager
async def losing(url: str, lose: Callable[[int], str]) -> AsyncIterator[str]:
    """A relay of one exchange per connection; ``lose(n)`` is "request", "reply" or ""."""
    host, port = url.removeprefix("http://").split(":")
    count = 0

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        count += 1
        fate = lose(count)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = 0
            for line in head.lower().split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            body = await reader.readexactly(length)
            if fate == "request":
                return
            up_reader, up_writer = await asyncio.open_connection(host, int(port))
            close = head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
            up_writer.write(close + body)
            answer = await up_reader.read(-1)
            up_writer.close()
            await up_writer.wait_closed()
            if fate == "reply":
                return
            writer.write(answer)
            await writer.drain()
        finally:
            writer.close()
            await writer.wait_closed()

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("fate", ["request", "reply"])
async def test_what_was_lost_runs_exactly_once(fate: str) -> None:
    app = create_app(Echo)
    async with (
        serve(app) as url,
        losing(url, lambda n: fate if n % 2 else "") as lossy,
        Client(lossy) as env,
    ):
        await env.reset(seed=1)
        for n in range(1, 4):
            assert (await env.step(Action(f"{n}"))).observation.echo == f"{n}"
            assert await env.state() == State(n)
        assert app.state.openenv.engine.stats.opened == 1
        assert app.state.openenv.engine.stats.steps == 3


def test_proxies_are_for_other_hosts(sync_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with Client(sync_url) as env:
        assert env.reset(seed=1).observation.echo == "level 1 seed 1"


def test_headers_and_token() -> None:
    env = Client("http://127.0.0.1:1", token="secret", headers={"X-Team": "a"})
    assert env._session.endpoint.headers["Authorization"] == "Bearer secret"
    assert env._session.endpoint.headers["X-Team"] == "a"
    assert Client("wss://host/env/ws")._session.endpoint.url == "https://host/env"


def test_types_of_results_are_found_behind_what_is_awaited() -> None:
    class Hinted(HTTPEnvClient[Any, Any, Any]):
        def step(self, action: int, *, timeout: float | None = None) -> EitherResult[str]:
            raise NotImplementedError

        def state(self, *, timeout: float | None = None) -> EitherState[State]:
            raise NotImplementedError

    assert HTTPEnvClient.model_types() == (Any, Any, Any)
    assert Client.model_types() == (Action, Observation, State)
    assert Hinted.model_types() == (int, str, State)
