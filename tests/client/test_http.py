from __future__ import annotations

import asyncio
import gc
import math
import os
import pickle
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.routing import Route

from openenv_async import Environment, Timeouts, create_app, serve
from openenv_async.client.endpoint import MEDIA
from openenv_async.client.http import EitherResult, EitherState, HTTPEnvClient
from openenv_async.client.loop_thread import background_loop
from openenv_async.engine import EngineOptions
from openenv_async.errors import (
    ConnectFailed,
    ConnectionLost,
    DeadlineExceeded,
    EnvironmentRaised,
    EpisodeEnded,
    EpisodeNotStarted,
    InvalidAction,
    InvalidOption,
    OpenEnvError,
    OperationUnsupported,
    PayloadTooLarge,
    ServerBusy,
    SessionBusy,
    SessionClosed,
    SessionLost,
    TargetNotFound,
)
from openenv_async.types import EpisodeInfo, Limits
from tests.helpers import gated, settle, until


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


# -- the requests of a session --------------------------------------------------------------------


class Answers:
    """An endpoint whose requests meet the next answer; without one, what the server would say.

    Attributes:
        sent: method, path, body, number and timeout of each request.
        headers_of: the headers of each.
        events: errors, or replies with the number that was taken, for the next requests.
    """

    url = "http://127.0.0.1:1"

    def __init__(self) -> None:
        self.headers: dict[str, str] = {"Accept": MEDIA, "X-Key": "1"}
        self.sent: list[tuple[str, str, Any, int | None, float | None]] = []
        self.headers_of: list[dict[str, str]] = []
        self.events: list[BaseException | tuple[int | None, Any]] = []
        self.moves: list[tuple[str, str | None]] = []
        self.closed = 0
        self.left = 0
        self.hold: asyncio.Event | None = None

    async def exchange(
        self, method: str, path: str, data: bytes | None, headers: dict[str, str], timeout: Any
    ) -> tuple[Any, bytes]:
        number = headers.get("X-OpenEnv-Seq")
        body = None if data is None else msgspec.msgpack.decode(data)
        self.sent.append((method, path, body, None if number is None else int(number), timeout))
        self.headers_of.append(headers)
        if self.hold is not None:
            await self.hold.wait()
        event = self.events.pop(0) if self.events else (None, USUAL[path])
        if isinstance(event, BaseException):
            raise event
        taken, reply = event
        told = number if taken is None else str(taken)
        failed = "error" in reply
        response = SimpleNamespace(
            status=400 if failed else 200,
            content_type=MEDIA,
            headers={} if told is None else {"X-OpenEnv-Seq": told},
        )
        return response, msgspec.msgpack.encode(reply)

    def move(self, url: str, token: str | None) -> None:
        self.moves.append((url, token))

    def leave_sockets(self) -> None:
        self.left += 1

    async def aclose(self) -> None:
        self.closed += 1

    @property
    def paths(self) -> list[str]:
        return [path for _, path, *_ in self.sent]

    @property
    def numbers(self) -> list[int | None]:
        return [number for _, _, _, number, _ in self.sent]


RESULT = {"observation": {"n": 1}, "reward": 0.5, "truncated": True, "episode_id": "e", "seed": 7}
USUAL: dict[str, Any] = {
    "/open": {"seq": 0, "reset_options": ["level"]},
    "/reset": RESULT,
    "/step": {**RESULT, "info": {"why": "x"}},
    "/state": {"state": {"a": 1}, "episode_id": "f", "step_count": 9},
    "/close": {},
}


def failing(code: str) -> tuple[int | None, Any]:
    return None, {"error": {"code": code, "message": "said"}}


def scripted(**settings: Any) -> tuple[Generic, Answers]:
    client, answers = Generic("http://127.0.0.1:1", **settings), Answers()
    endpoint: Any = answers
    client._session.endpoint = endpoint
    return client, answers


ALL = Timeouts(open=15.0, reset=11.0, step=12.0, state=13.0, close=14.0)


async def test_every_request_as_it_is_sent() -> None:
    client, answers = scripted(timeouts=ALL, options={"size": 2})
    await client.reset(seed=3, level=4)
    name = client.session_id
    await client.step({"go": 1})
    await client.state()
    await client.close()
    reset = {"level": 4, "seed": 3, "episode_id": None}
    assert answers.sent == [
        ("POST", "/open", {"resume": False, "options": {"size": 2}}, None, 15.0),
        ("POST", "/reset", reset, 1, 11.0),
        ("POST", "/step", {"action": {"go": 1}}, 2, 12.0),
        ("GET", "/state", None, 3, 13.0),
        ("POST", "/close", {}, 4, 14.0),
    ]
    assert name is not None
    for headers, seconds in zip(answers.headers_of, (15, 11, 12, 13, 14), strict=True):
        session, _, secret = headers["X-OpenEnv-Session"].partition(".")
        assert (session, len(secret)) == (name, 32)
        assert secret != name
        assert headers["X-OpenEnv-Timeout"] == f"{seconds}.000000"
        assert (headers["Accept"], headers["X-Key"]) == (MEDIA, "1")
    assert [headers.get("Content-Type") for headers in answers.headers_of] == [
        *[MEDIA] * 3,
        *[None, MEDIA],
    ]
    assert (answers.closed, client.session_id) == (1, None)


@pytest.mark.parametrize(
    ("timeout", "said"), [(math.inf, "0"), (1e-9, "0.000001"), (2.5, "2.500000")]
)
async def test_the_deadline_of_a_request_is_never_told_as_none(timeout: float, said: str) -> None:
    client, answers = scripted()
    await client.step({}, timeout=timeout)
    assert float(answers.headers_of[-1]["X-OpenEnv-Timeout"]) == float(said)
    assert answers.sent[-1][-1] == (None if timeout == math.inf else timeout)
    await client.state(timeout=timeout)
    assert float(answers.headers_of[-1]["X-OpenEnv-Timeout"]) == float(said)
    await client.reset(timeout=timeout)
    assert float(answers.headers_of[-1]["X-OpenEnv-Timeout"]) == float(said)


async def test_what_a_session_tells_of_its_episode() -> None:
    client, answers = scripted()
    await client.step({})
    before = client.episode
    assert before is None  # nobody began it here
    result = await client.reset()
    assert (result.observation, result.reward, result.info) == ({"n": 1}, 0.5, {})
    assert (result.terminated, result.truncated) == (False, True)
    assert client.episode == EpisodeInfo("e", 7, 0)
    assert (await client.step({})).info == {"why": "x"}
    assert client.episode is not None
    assert client.episode.step_count == 1
    assert await client.state() == {"a": 1, "episode_id": "f", "step_count": 9}
    assert client.episode == EpisodeInfo("f", 0, 9)
    answers.events = [(None, {"state": {"step_count": 1, "episode_id": "own"}})]
    assert await client.state() == {"step_count": 1, "episode_id": "own"}
    assert client.episode == EpisodeInfo("f", 0, 9)  # there was none to tell of
    plain = HTTPEnvClient[Any, Any, Any]("http://127.0.0.1:1")
    endpoint: Any = answers
    plain._session.endpoint = endpoint
    answers.events = [(None, USUAL["/open"]), (None, {"state": 5})]
    state: Any = await plain.state()
    assert state == 5


async def test_after_a_request_whose_fate_is_unknown_the_server_is_asked_how_far_it_got() -> None:
    client, answers = scripted()
    await client.reset()
    episode = client.episode
    answers.events = [ConnectionLost("lost")]
    with pytest.raises(ConnectionLost) as caught:
        await client.step({})
    assert (caught.value.session_id, caught.value.request_id) == (client.session_id, 2)
    answers.events = [(None, {"seq": 5, "reset_options": []})]
    await client.step({})
    await client.step({})
    assert answers.paths == ["/open", "/reset", "/step", "/open", "/step", "/step"]
    assert answers.numbers == [None, 1, 2, None, 6, 7]
    assert answers.sent[3][2] == {"resume": True}
    assert client.episode is episode


async def test_a_request_that_failed_there_took_its_number() -> None:
    client, answers = scripted()
    await client.open()
    for _ in range(2):
        answers.events = [failing("invalid_action")]
        with pytest.raises(InvalidAction) as caught:
            await client.step({})
    assert (caught.value.session_id, caught.value.request_id) == (client.session_id, 2)
    assert answers.numbers == [None, 1, 2]


async def test_a_request_that_is_too_large_takes_no_number() -> None:
    client, answers = scripted(limits=Limits(max_message_size=100))
    await client.open()
    with pytest.raises(PayloadTooLarge):
        await client.step({"a": "x" * 200})
    await client.step({"a": "x"})
    assert answers.numbers == [None, 1]
    exact = 100 - len(msgspec.msgpack.encode({"action": {"a": ""}}))
    await client.step({"a": "x" * (exact - 1)})  # text over 31 bytes has one more of length
    with pytest.raises(PayloadTooLarge):
        await client.step({"a": "x" * exact})
    assert answers.numbers == [None, 1, 2]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("session_not_found", SessionLost),
        ("session_lost", SessionLost),
        ("session_closed", SessionClosed),
    ],
)
async def test_a_session_that_is_gone_is_replaced_by_the_next_call(
    code: str, kind: type[OpenEnvError]
) -> None:
    client, answers = scripted()
    await client.reset()
    before = client.session_id
    answers.events = [failing(code)]
    with pytest.raises(kind) as caught:
        await client.step({})
    assert caught.value.session_id == before
    assert [client.session_id] == [None]
    await client.step({})
    assert client.session_id not in (None, before)
    assert client.episode is None
    assert answers.paths[3:] == ["/open", "/step"]
    assert answers.numbers[3:] == [None, 1]


@pytest.mark.parametrize("code", ["session_not_found", "session_closed"])
async def test_a_reset_begins_anew_where_there_was_a_session(code: str) -> None:
    client, answers = scripted()
    await client.reset()
    before = client.session_id
    answers.events = [failing(code)]
    await client.reset(seed=4)
    assert client.session_id not in (None, before)
    assert answers.paths[2:] == ["/reset", "/open", "/reset"]
    assert answers.sent[2][2] == answers.sent[4][2]
    answers.events = [failing(code), (None, USUAL["/open"]), failing(code)]
    with pytest.raises((SessionLost, SessionClosed)):
        await client.reset()
    client, answers = scripted()
    answers.events = [(None, USUAL["/open"]), failing(code)]
    with pytest.raises((SessionLost, SessionClosed)):
        await client.reset()  # its own new session: another one would fare no better
    assert answers.paths == ["/open", "/reset"]


async def test_an_opening_that_fails_leaves_nothing() -> None:
    client, answers = scripted()
    answers.events = [failing("server_busy"), ConnectionLost("lost")]
    names = []
    for kind in (ServerBusy, ConnectionLost):
        with pytest.raises(kind) as caught:
            await client.open()
        assert caught.value.phase == "open"
        names.append(caught.value.session_id)
        assert client.session_id is None
    await client.close()
    assert answers.paths == ["/open", "/open"]  # and nothing to close
    assert None not in names
    assert names[0] != names[1]


async def test_an_opening_that_was_cancelled_is_asked_for_again_or_closed() -> None:
    for close in (False, True):
        client, answers = scripted()
        answers.events = [asyncio.CancelledError()]
        with pytest.raises(asyncio.CancelledError):
            await client.open()
        assert client.session_id is None
        if close:
            await client.close()
            assert answers.paths == ["/open", "/close"]
            assert len({headers["X-OpenEnv-Session"] for headers in answers.headers_of}) == 1
            continue
        await client.open()
        first, second = (headers["X-OpenEnv-Session"] for headers in answers.headers_of)
        assert first == second
        await client.close()
        await client.close()
        assert answers.paths == ["/open", "/open", "/close"]


async def test_a_resumption_that_fails_keeps_the_session_unless_it_is_gone() -> None:
    for error, kept in ((ConnectionLost("lost"), True), (SessionLost("gone"), False)):
        client, answers = scripted()
        await client.open()
        name = client.session_id
        answers.events = [ConnectionLost("lost"), error]
        for _ in range(2):
            with pytest.raises(type(error) if len(answers.events) == 1 else ConnectionLost):
                await client.step({})
        assert client.session_id == (name if kept else None)


async def test_closing_ends_all_whatever_the_server_says() -> None:
    for event in (failing("session_not_found"), ConnectionLost("lost"), asyncio.CancelledError()):
        client, answers = scripted()
        await client.open()
        answers.events = [event]
        if isinstance(event, asyncio.CancelledError):
            with pytest.raises(asyncio.CancelledError):
                await client.close()
        else:
            await client.close()
        assert (client.session_id, answers.closed) == (None, 1)
        with pytest.raises(SessionClosed, match="make a new one"):
            await client.step({})
        assert answers.paths == ["/open", "/close"]


async def test_a_client_that_is_closed_while_it_resets_opens_nothing_again() -> None:
    client, answers = scripted()
    await client.reset()
    answers.hold = asyncio.Event()
    answers.events = [failing("session_closed"), failing("session_closed")]
    resetting: Any = asyncio.ensure_future(client._session.reset())
    await settle()
    closing: Any = asyncio.ensure_future(client._session.close())
    await settle()
    answers.hold.set()
    await closing
    with pytest.raises(SessionClosed):
        await resetting
    assert answers.paths == ["/open", "/reset", "/reset", "/open"]
    assert answers.sent[3][2] == {"resume": True}  # how far it got, before it is closed


async def test_one_call_at_a_time_and_a_failed_one_is_over() -> None:
    client, answers = scripted()
    await client.open()
    answers.hold = asyncio.Event()
    running: Any = asyncio.ensure_future(client._session.step({}))
    await settle()
    session = client._session
    for call in (session.open(), session.reset(), session.step({}), session.state()):
        with pytest.raises(SessionBusy, match="while another call") as caught:
            await call
        assert caught.value.session_id == client.session_id
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    answers.hold = None
    answers.events = [ConnectionLost("lost")]
    for kind in (ConnectionLost, None):
        if kind is not None:
            with pytest.raises(kind):
                await client.step({})
        else:
            await client.step({})


async def test_a_forked_process_leaves_the_session_to_its_parent() -> None:
    client, answers = scripted()
    await client.reset()
    session = client._session
    for call in (session.step({}), session.reset(), session.state(), session.open()):
        before = session.session_id
        session._pid, session._is_busy = os.getpid() + 1, True
        answers.sent.clear()
        await call
        assert answers.paths[0] == "/open"
        assert answers.sent[0][2] == {"resume": False}
        assert session.session_id not in (None, before)
    assert answers.left == 4
    session._pid = os.getpid() + 1
    session._unopened = ("a", "b")
    answers.sent.clear()
    await client.close()
    assert (answers.sent, answers.closed, client.episode) == ([], 1, None)


async def test_a_client_is_opened_by_awaiting_it_or_by_its_block() -> None:
    client, answers = scripted()
    assert await client is client
    opening: Any = client.open()
    assert await opening is client
    async with client as env:
        assert env is client
        assert answers.paths == ["/open"]
    assert answers.paths == ["/open", "/close"]


def test_a_client_may_be_closed_by_the_garbage_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    """In whatever thread it runs, and at the end of the interpreter, when nothing can be done."""
    client, answers = scripted()

    async def collected() -> None:
        client.close()

    background_loop().run(collected())
    background_loop().run(settle())
    assert answers.closed == 1
    client, answers = scripted()
    client.close()
    assert answers.closed == 1
    client, answers = scripted()
    monkeypatch.setattr(sys, "is_finalizing", lambda: True)
    client.close()
    assert answers.closed == 0


async def test_options_of_a_reset_are_those_that_the_environment_declares() -> None:
    client, answers = scripted()
    answers.events = [(None, {"seq": 0, "reset_options": ["timeout"]})]
    with pytest.raises(InvalidOption, match="ambiguous"):
        await client.reset(timeout=3)
    assert answers.paths == ["/open"]
    await client.reset(timeout=3, reset_options={"timeout": 4})
    assert answers.sent[-1][2:] == ({"timeout": 4, "seed": None, "episode_id": None}, 1, 3.0)
    for wrong in ({"seed": -1}, {"episode_id": ""}, {"timeout": 0}):
        with pytest.raises(InvalidOption):
            await client.reset(**wrong)
    assert len(answers.sent) == 2


class FakeContainer:
    """A container that is always there; every error is explained as ``OperationUnsupported``."""

    def __init__(self) -> None:
        self.starts = 0
        self.closed = 0
        self.explained: list[OpenEnvError] = []

    async def start(self) -> Any:
        self.starts += 1
        return SimpleNamespace(url="http://127.0.0.1:2", token="t")

    async def explain(self, error: OpenEnvError) -> OpenEnvError:
        self.explained.append(error)
        return OperationUnsupported("explained")

    async def aclose(self) -> None:
        self.closed += 1


async def test_a_client_with_a_container_is_moved_to_it_and_its_end_is_the_error() -> None:
    client, answers = scripted()
    container = FakeContainer()
    own: Any = container
    client._session._container = own
    await client.open()
    await client.step({})
    assert (container.starts, answers.moves) == (1, [("http://127.0.0.1:2", "t")])
    answers.events = [ConnectionLost("lost")]
    with pytest.raises(OperationUnsupported, match="explained"):
        await client.step({})
    assert [error.phase for error in container.explained] == ["step"]
    answers.events = [ConnectionLost("lost"), asyncio.CancelledError()]
    with pytest.raises(OperationUnsupported):
        await client.step({})
    with pytest.raises(asyncio.CancelledError):
        await client.close()
    assert container.closed == 1


def test_a_pickled_client_has_its_settings_and_a_session_of_its_own() -> None:
    client = Generic("http://127.0.0.1:1", token="t")
    client._session.session_id, client._session.is_closed = "a", True
    copied = pickle.loads(pickle.dumps(client))
    assert (copied.base_url, copied.settings) == (client.base_url, client.settings)
    assert (copied.session_id, copied._session.is_closed) == (None, False)


async def test_a_client_with_a_container_starts_nothing_yet() -> None:
    timeouts = Timeouts(step=3.0)
    for make in (Generic.from_docker_image, Generic._from_docker):
        usual: Any = make("image:1")._container
        assert usual._provider.options.port == 8000
        client = make("image:1", 9000, timeouts=timeouts)
        assert client._container is not None
        owned: Any = client._container
        assert owned._provider.options.port == 9000
        assert client._session._container is client._container
        assert client.settings.timeouts is timeouts
        await client.close()


def test_what_only_type_checkers_know_of_does_nothing() -> None:
    result, state = EitherResult(1), EitherState[State]()
    for never in (result.__await__, state.__await__, lambda: state == 1):
        with pytest.raises(NotImplementedError):
            never()
    with pytest.raises(AttributeError, match="steps"):
        _ = state.steps
