"""Test clients, whose event loops come and go, play whole episodes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from openenv_async import Environment, create_app
from openenv_async.server import HTTPEnvServer
from tests.helpers import Counter


class Waiting(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """Its session's task must live from one request to the next."""

    async def reset(self) -> dict[str, Any]:
        self.count = 0
        return {}

    async def step(self, action: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(0.001)
        self.count += 1
        return {"count": self.count}


class Threaded(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """Its steps run in a thread."""

    isolation = "thread"

    def reset(self) -> dict[str, Any]:
        self.count = 0
        return {}

    def step(self, action: dict[str, Any]) -> dict[str, Any]:
        self.count += 1
        return {"count": self.count}


@pytest.mark.parametrize("env", [Counter, Waiting, Threaded])
@pytest.mark.parametrize("mounted", [False, True])
def test_a_test_client_without_a_lifespan(env: Any, mounted: bool) -> None:
    """Each of its requests has an event loop of its own, closed after it."""
    app: Any = create_app(env)
    prefix = ""
    if mounted:
        app, prefix = FastAPI(), "/env"
        app.include_router(HTTPEnvServer(env).router, prefix=prefix)
    client = TestClient(app)
    assert client.get(f"{prefix}/health").status_code == 200
    assert client.post(f"{prefix}/reset").status_code == 200
    for count in (1, 2, 3):
        reply = client.post(f"{prefix}/step", json={"action": {}})
        assert reply.json()["observation"]["count"] == count
    with client.websocket_connect(f"{prefix}/ws") as socket:
        socket.send_json({"type": "reset", "data": {}})
        assert socket.receive_json()["type"] == "observation"
        socket.send_json({"type": "step", "data": {}})
        assert socket.receive_json()["data"]["observation"]["count"] == 1
    assert client.post(f"{prefix}/close").status_code == 200


def test_a_test_client_with_a_lifespan() -> None:
    app = create_app(Waiting)
    with TestClient(app) as client:
        client.post("/reset")
        assert client.post("/step", json={"action": {}}).status_code == 200
    assert not app.state.openenv.engine.sessions
