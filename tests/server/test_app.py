"""The seed's snippets, and other ways of putting an environment into an application."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from openenv_async import EnvClient, Environment, HTTPEnvClient, HTTPEnvServer, create_app, serve
from openenv_async.errors import ServerBusy
from openenv_async.testing import ConformanceEnvironment
from tests.server.clients import asking


@dataclass
class MyAction:
    command: str
    value: int = 0


@dataclass
class MyObservation:
    result: str
    done: bool = False
    reward: float = 0.0


@dataclass
class MyState:
    step_count: int = 0
    episode_reward: float = 0.0


class MyEnvironment(Environment[MyAction, MyObservation, MyState]):
    def __init__(self) -> None:
        self._state = MyState()

    def reset(self) -> MyObservation:
        self._state = MyState()
        return MyObservation(result="Environment reset", done=False)

    def step(self, action: MyAction) -> MyObservation:
        self._state.step_count += 1
        return MyObservation(
            result=f"Processed: {action.command}", done=self._state.step_count >= 100, reward=1.0
        )

    def state(self) -> MyState:
        return self._state


class MyEnv(HTTPEnvClient[MyAction, MyObservation, MyState]):
    """Client for MyEnvironment."""

    @classmethod
    def from_url(cls, url: str) -> MyEnv:  # type: ignore[override]  # as OpenEnv's pages print it
        return cls(base_url=url)

    def _parse_observation(self, data: dict[str, Any]) -> MyObservation:
        return MyObservation(**data)

    def _parse_state(self, data: dict[str, Any]) -> MyState:
        return MyState(**data)

    def _serialize_action(self, action: MyAction) -> dict[str, Any]:
        return {"command": action.command, "value": action.value}


class MySocketEnv(EnvClient[MyAction, MyObservation, MyState]):
    pass


def make() -> MyEnvironment:
    return MyEnvironment()


def seeds_app() -> FastAPI:
    app = FastAPI(title="My Environment")

    # Create environment and wrap in HTTP server
    env = MyEnvironment()
    server = HTTPEnvServer(env, MyAction, MyObservation, MyState)

    # Mount routes
    app.include_router(server.router)

    # Health check
    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    return app


async def play(url: str) -> None:
    """The same episode by both clients, one after the other."""
    for client in (MyEnv.from_url(url), MySocketEnv(url)):
        async with client as env:
            assert (await env.reset()).observation.result == "Environment reset"
            result = await env.step(MyAction("go"))
            assert result.observation.result == "Processed: go"
            assert result.reward == 1.0
            assert await env.state() == MyState(1)


async def test_the_fastapi_snippet_of_openenv() -> None:
    async with serve(seeds_app()) as url:
        await play(url)
        async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
            assert (await http.get("/health")).status_code == 200
            assert (await http.get("/openapi.json")).json()["info"]["title"] == "My Environment"


async def test_an_instance_serves_one_session_at_a_time() -> None:
    async with serve(seeds_app()) as url, MyEnv(url) as first:
        await first.reset()
        with pytest.raises(ServerBusy, match="class instead of an instance"):
            await MyEnv(url).reset()


@pytest.mark.parametrize("env", [MyEnvironment, make, functools.partial(MyEnvironment)])
async def test_a_class_or_a_factory_serves_many(env: Any) -> None:
    async with serve(env) as url, MyEnv(url) as first, MyEnv(url) as second:
        await first.reset()
        await second.reset()
        await first.step(MyAction("go"))
        assert (await first.state()).step_count == 1
        assert (await second.state()).step_count == 0


@pytest.mark.parametrize("prefix", ["", "/arena"])
async def test_the_routers_lifespan_closes_the_engine(prefix: str) -> None:
    server = HTTPEnvServer(MyEnvironment)
    app = FastAPI()
    app.include_router(server.router, prefix=prefix)
    async with serve(app) as url:
        client = MyEnv(url + prefix)
        await client.reset()
        assert len(server.engine.sessions) == 1
        await play(url + prefix)
    assert not server.engine.sessions
    assert server.engine.draining is not None
    await client.close()


async def test_starlette_mounts_keep_their_cookies_apart() -> None:
    app = Starlette(
        routes=[
            Mount("/one", app=create_app(MyEnvironment)),
            Mount("/two", app=HTTPEnvServer(MyEnvironment).router),
        ]
    )
    async with serve(app) as url:
        await play(url + "/one")
        await play(url + "/two")
        async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
            await http.post("/one/reset")
            await http.post("/two/reset")
            go = {"action": {"command": "go"}}
            for _ in range(2):
                assert (await http.post("/one/step", json=go)).status_code == 200
            assert (await http.get("/two/state")).json()["step_count"] == 0
            assert (await http.get("/one/state")).json()["step_count"] == 2


def paths(app: Any) -> set[str]:
    return {route.path for route in app.routes}


def test_a_server_in_production_mode_has_no_routes_that_play(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    playing = {"/open", "/reset", "/step", "/close", "/state"}
    assert playing <= paths(create_app(MyEnvironment))
    assert playing <= paths(create_app(MyEnvironment, mode="simulation"))
    production = paths(create_app(MyEnvironment, mode="Production"))
    assert not playing & production
    assert {"/ws", "/mcp", "/health", "/schema", "/metadata"} <= production
    monkeypatch.setenv("OPENENV_MODE", "production")
    assert not playing & paths(create_app(MyEnvironment))
    assert playing <= paths(create_app(MyEnvironment, mode="simulation"))
    with pytest.raises(ValueError, match=r"'demo'.*simulation.*production"):
        create_app(MyEnvironment, mode="demo")


async def test_a_variable_turns_http_without_sessions_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENENV_STATELESS_HTTP", "1")
    for stateless, status in ((None, 200), (False, 409)):
        app = create_app(MyEnvironment, stateless_http=stateless)
        async with asking(app) as client:
            assert (await client.get("/state")).status_code == status
        await app.state.openenv.aclose()


def test_routes_in_an_application_of_somebody_elses() -> None:
    app = Starlette()
    server = HTTPEnvServer(ConformanceEnvironment, stateless_http=True)
    server.register_routes(app)
    with TestClient(app) as client:
        assert client.get("/health").json() == {"status": "healthy"}
        assert client.post("/reset", json={}).status_code == 200
    assert not server.engine.sessions


def test_routes_of_production_mode() -> None:
    app = Starlette()
    HTTPEnvServer(ConformanceEnvironment).register_routes(app, mode="production")
    with TestClient(app) as client:
        assert client.get("/health").status_code == 200
        assert client.post("/reset", json={}).status_code == 404
    with pytest.raises(ValueError, match="Invalid mode: 'chaos'"):
        HTTPEnvServer(ConformanceEnvironment).register_routes(Starlette(), mode="chaos")
