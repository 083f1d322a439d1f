"""Pictures of environments, over every transport, sync and async, good and bad ones."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import httpx
import numpy as np
import pytest

from openenv_async import (
    Environment,
    GenericEnvClient,
    HTTPEnvClient,
    connect,
    serve,
)
from openenv_async.errors import (
    EnvironmentRaised,
    EpisodeNotStarted,
    InvalidObservation,
    OperationUnsupported,
)
from openenv_async.hosts.gymnasium import host_of_id


class Draws(Environment[int, int, dict[str, Any]]):
    """An environment that draws as often as it has stepped; what it is told to draw comes next."""

    isolation: ClassVar[Any] = "inline"

    def __init__(self) -> None:
        self.steps = 0
        self.drawn: Any = None

    def reset(self, what: str = "picture") -> int:
        self.what = what
        self.steps = 0
        return 0

    def step(self, action: int) -> int:
        self.steps += 1
        return self.steps

    def render(self) -> Any:
        match self.what:
            case "picture":
                return np.full((4, 6, 3), self.steps, np.uint8)
            case "gray":
                return np.full((4, 6), self.steps, np.uint8)
            case "text":
                return f"X{self.steps}"
            case "raises":
                raise RuntimeError("no paint")
            case "floats":
                return np.zeros((4, 6, 3))
        return None


class DrawsInThread(Draws):
    isolation = "thread"


class DrawsAsync(Draws):
    isolation = None

    async def reset(self, what: str = "picture") -> int:  # type: ignore[override]  # async
        return super().reset(what)

    async def render(self) -> Any:
        return super().render()


@pytest.mark.parametrize("cls", [Draws, DrawsInThread, DrawsAsync])
@pytest.mark.parametrize("subprotocol", ["openenv.v1.msgpack", "openenv.v1.json"])
async def test_a_picture_and_a_text(cls: Any, subprotocol: str) -> None:
    async with serve(cls) as url, GenericEnvClient(url, subprotocol=subprotocol) as env:
        await env.reset()
        await env.step(1)
        picture = await env.render()
        assert (picture.dtype, picture.shape, picture.max()) == (np.uint8, (4, 6, 3), 1)
        await env.reset(what="gray")
        assert (await env.render()).shape == (4, 6)
        await env.reset(what="text")
        assert await env.render() == "X0"
        assert (await env.step(1)).observation == 1
        assert (await env.state())["step_count"] == 1


async def test_in_process_and_blocking() -> None:
    async with connect(Draws) as env:
        await env.reset()
        assert (await env.render()).shape == (4, 6, 3)

    def blocking(url: str) -> None:
        for make in (GenericEnvClient(url).sync, HTTPEnvClient[Any, Any, Any](url).sync):
            with make() as env:
                env.reset(what="text")
                assert env.render() == "X0"

    async with serve(Draws) as url:
        await asyncio.to_thread(blocking, url)


async def test_over_http_as_a_body_or_a_png() -> None:
    async with serve(Draws) as url:
        async with HTTPEnvClient[Any, Any, Any](url) as env:
            await env.reset()
            assert (await env.render()).shape == (4, 6, 3)
        async with httpx.AsyncClient(base_url=url) as http:
            begun = await http.post("/reset", json={})
            session = {"X-OpenEnv-Session": begun.headers["x-openenv-session"]}
            await http.post("/step", json={"action": 1}, headers=session)
            told = await http.get("/render", headers=session)
            assert told.json()["step_count"] == 1
            assert "frame" in told.json()
            png = await http.get("/render", headers={**session, "Accept": "image/png"})
            assert png.headers["content-type"] == "image/png"
            assert png.content.startswith(b"\x89PNG")
            await http.post("/reset", json={"what": "text"}, headers=session)
            text = await http.get("/render", headers={**session, "Accept": "image/png"})
            assert text.headers["content-type"].startswith("text/plain")
            assert text.text == "X0"
            http.cookies.clear()
            assert (await http.get("/render")).status_code >= 400  # no session is named


@pytest.mark.parametrize(
    ("what", "error", "said"),
    [
        ("raises", EnvironmentRaised, "render.. of Draws raised RuntimeError: no paint"),
        ("floats", InvalidObservation, r"float64 array \[4, 6, 3\]: it must be a uint8 array"),
        ("nothing", InvalidObservation, "NoneType"),
    ],
)
async def test_a_render_that_fails_leaves_the_episode(what: str, error: Any, said: str) -> None:
    async with serve(Draws) as url, GenericEnvClient(url) as env:
        await env.reset(what=what)
        with pytest.raises(error, match=said):
            await env.render()
        assert (await env.step(1)).observation == 1


class Blind(Environment[int, int, dict[str, Any]]):
    def reset(self) -> int:
        return 0

    def step(self, action: int) -> int:
        return 0


class NeedsArguments(Blind):
    def render(self, mode: str) -> str:
        return mode


@pytest.mark.parametrize("cls", [Blind, NeedsArguments])
async def test_an_environment_without_pictures(cls: Any) -> None:
    async with serve(cls) as url, GenericEnvClient(url) as env:
        await env.reset()
        with pytest.raises(OperationUnsupported, match="no render"):
            await env.render()
        async with httpx.AsyncClient(base_url=url) as http:
            begun = await http.post("/reset", json={})
            session = {"X-OpenEnv-Session": begun.headers["x-openenv-session"]}
            told = await http.get("/render", headers=session)
        assert told.json()["error"]["code"] == "unsupported"


async def test_a_gymnasium_environment_draws_where_its_session_was_opened_so() -> None:
    async with serve(host_of_id("FrozenLake-v1")) as url:
        async with GenericEnvClient(url) as env:
            await env.reset(seed=1)
            with pytest.raises(OperationUnsupported, match="'render_mode': 'rgb_array'"):
                await env.render()
        async with GenericEnvClient(url, options={"render_mode": "ansi"}) as env:
            with pytest.raises(EpisodeNotStarted):
                await env.render()
            await env.reset(seed=1)
            assert "FF" in await env.render()
