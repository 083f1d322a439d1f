"""Applications that are made under upstream's names."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from openenv_async.compat.upstream.exceptions import ConcurrencyConfigurationError
from openenv_async.compat.upstream.interfaces import Environment
from openenv_async.compat.upstream.serving import (
    HTTPEnvServer,
    create_app,
    create_fastapi_app,
)
from openenv_async.compat.upstream.types import Action, ConcurrencyConfig, Observation, State


class Say(Action):
    text: str


class Said(Observation):
    text: str


class Echo(Environment[Say, Said, State]):
    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        super().__init__()
        self._state = State()

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Said:
        self._state = State(episode_id=episode_id)
        return Said(text="ready")

    def step(self, action: Say, timeout_s: float | None = None, **kwargs: Any) -> Said:
        self._state.step_count += 1
        return Said(text=action.text, reward=1.0)

    @property
    def state(self) -> State:
        return self._state


class Lonely(Echo):
    SUPPORTS_CONCURRENT_SESSIONS = False


def test_an_application_serves_the_environment() -> None:
    app = create_app(Echo, Say, Said, env_name="echo")
    assert isinstance(app, FastAPI)

    @app.get("/config")
    def config() -> dict[str, int]:
        return {"size": 3}

    with TestClient(app) as client:
        assert client.get("/health").json()["status"] == "healthy"
        assert client.get("/config").json() == {"size": 3}
        assert client.post("/reset", json={}).json()["observation"] == {"text": "ready"}
        stepped = client.post("/step", json={"action": {"text": "hi"}}).json()
        assert (stepped["observation"], stepped["reward"]) == ({"text": "hi"}, 1.0)
        assert client.get("/state").json()["step_count"] == 0, "each call has a new environment"
        with client.websocket_connect("/ws") as socket:
            socket.send_json({"type": "reset"})
            assert "data" in socket.receive_json()
        assert client.get("/nothing").status_code == 404


def test_production_hides_the_routes_of_simulation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENENV_MODE", "production")
    app = create_fastapi_app(Echo, Say, Said)
    paths = {getattr(route, "path", None) for route in app.routes}
    assert {"/health", "/schema", "/ws"} <= paths
    assert not {"/reset", "/step", "/state"} & paths
    paths = {
        getattr(r, "path", None) for r in create_app(Echo, Say, Said, mode="Simulation").routes
    }
    assert {"/reset", "/step", "/state"} <= paths
    with pytest.raises(ValueError, match=r"Invalid mode: 'fast'.*production"):
        create_app(Echo, Say, Said, mode="fast")


def test_the_lifespan_of_the_application_is_kept() -> None:
    began: list[str] = []

    async def lifespan(_: Any) -> AsyncIterator[None]:
        began.append("own")
        yield

    app = FastAPI(lifespan=contextlib.asynccontextmanager(lifespan))
    server = HTTPEnvServer(Echo, Say, Said)
    server.register_routes(app)
    with TestClient(app) as client, client.websocket_connect("/ws") as socket:
        socket.send_json({"type": "reset"})
        assert "data" in socket.receive_json()
        assert server.active_sessions == 1
        (session_id,) = server.server.engine.sessions
        info = server.get_session_info(session_id)
        assert info is not None
        assert (info.environment_type, info.step_count) == ("Echo", 0)
        assert info.created_at <= info.last_activity_at
        assert server.get_session_info("another") is None
        assert server.get_capacity_status().is_at_capacity
    assert began == ["own"]


def test_several_sessions_need_the_declaration() -> None:
    assert HTTPEnvServer(Echo, Say, Said, 8).max_concurrent_envs == 8
    assert HTTPEnvServer(lambda: Echo(), Say, Said, 8).is_concurrency_safe
    with pytest.raises(ConcurrencyConfigurationError, match="Lonely does not declare"):
        HTTPEnvServer(Lonely, Say, Said, max_concurrent_envs=2)
    assert HTTPEnvServer(Lonely, Say, Said).max_concurrent_envs == 1


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match="pass the class in place of an instance"):
        HTTPEnvServer(Echo(), Say, Said)  # type: ignore[arg-type]  # the mistake that is tested
    with pytest.raises(ValueError, match="Cannot specify both"):
        HTTPEnvServer(Echo, Say, Said, 2, ConcurrencyConfig())


def test_the_idle_limit_is_the_engines() -> None:
    config = ConcurrencyConfig(max_concurrent_envs=3, session_timeout=5.0)
    options = HTTPEnvServer(Echo, Say, Said, concurrency_config=config).server.engine.options
    assert (options.max_sessions, options.timeouts.idle) == (3, 5.0)


def test_a_gradio_page_is_said_to_be_left_out(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "openenv_async.compat")
    create_app(Echo, Say, Said, "echo", gradio_builder=lambda *_: None, title_override="Echo")
    assert "the Gradio page of echo is not served" in caplog.text


def test_without_fastapi_starlette_serves(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    app: Any = create_app(Echo, Say, Said)
    assert type(app) is not FastAPI

    assert app.get("/config")(len) is len
    assert "is not served, since it takes FastAPI" in caplog.text
    monkeypatch.undo()
    with TestClient(app) as client:
        assert client.get("/health").status_code == 200
