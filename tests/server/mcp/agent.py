"""An agent's side of MCP, byte by byte, and an environment that has what agents must not see."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import httpx
import numpy as np
from numpy.typing import NDArray

from openenv_async import EngineOptions, Environment, StepResult, create_app, serve
from openenv_async.server.app import HTTPEnvServer

STATELESS = "2026-07-28"
WITH_SESSIONS = "2025-11-25"
SECRET = 987654.25
"""A reward that must be nowhere in what an agent is sent."""


@dataclass
class Move:
    """Move somewhere.

    Attributes:
        to: the place.
    """

    to: int


@dataclass
class Seen:
    """A view of the maze.

    Attributes:
        place: where the agent is.
        picture: of it.
        field_of: numbers of it.
        metadata: for the trainer.
    """

    place: int
    picture: NDArray[np.uint8] | None = None
    field_of: NDArray[np.float32] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    reward: float | None = None
    done: bool = False


class Maze(Environment[Move, Seen, dict[str, Any]]):
    """Somewhere to move about."""

    isolation = "inline"
    version = "3.1.0"
    opened: ClassVar[int] = 0
    closed: ClassVar[int] = 0

    def __init__(self) -> None:
        type(self).opened += 1
        self.level = 0

    def reset(self, seed: int | None = None, level: int = 1) -> Any:
        self.level = level
        seen = Seen(0, metadata={"reward": SECRET, "level": level})
        return StepResult(seen, info={"score": SECRET, "legal_actions": [{"to": 1}]})

    def step(self, action: Move) -> Any:
        if action.to == 13:
            raise LookupError("there is a wall")
        picture = np.full((24, 32, 3), action.to, np.uint8) if action.to == 2 else None
        numbers = np.array([1.5, np.nan], np.float32) if action.to == 3 else None
        seen = Seen(action.to, picture, numbers, {"reward": SECRET}, SECRET, action.to == 9)
        return StepResult(seen, SECRET, terminated=action.to == 9, info={"score": SECRET})

    def state(self) -> dict[str, Any]:
        return {"hidden": SECRET, "level": self.level}

    def close(self) -> None:
        type(self).closed += 1


class Agent:
    """A client of one revision, that keeps what every response was."""

    def __init__(self, http: httpx.AsyncClient, revision: str, path: str = "/mcp") -> None:
        self.http = http
        self.revision = revision
        self.path = path
        self.session_id: str | None = None
        self.handle: str | None = None
        self.texts: list[str] = []
        self._ids = itertools.count(1)

    @property
    def is_stateless(self) -> bool:
        return self.revision == STATELESS

    def request(
        self, method: str, params: Mapping[str, Any] | None = None, number: Any = None
    ) -> tuple[dict[str, str], dict[str, Any]]:
        """The headers and the body of a request."""
        headers = {"accept": "application/json, text/event-stream"}
        body: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": dict(params or {})}
        if not method.startswith("notifications/"):
            body["id"] = next(self._ids) if number is None else number
        if method != "initialize":
            headers["mcp-protocol-version"] = self.revision
        if self.session_id is not None:
            headers["mcp-session-id"] = self.session_id
        if self.is_stateless:
            headers["mcp-method"] = method
            named = body["params"].get("name") or body["params"].get("uri")
            if named is not None:
                headers["mcp-name"] = named
            body["params"]["_meta"] = {
                "io.modelcontextprotocol/protocolVersion": self.revision,
                "io.modelcontextprotocol/clientCapabilities": {},
                **body["params"].get("_meta", {}),
            }
        return headers, body

    async def send(
        self, method: str, params: Mapping[str, Any] | None = None, number: Any = None
    ) -> httpx.Response:
        headers, body = self.request(method, params, number)
        response = await self.http.post(self.path, json=body, headers=headers)
        self.texts.append(response.text)
        return response

    async def ask(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """The result of a request that succeeds."""
        response = await self.send(method, params)
        assert response.status_code == 200, response.text
        return response.json()["result"]

    async def begin(self) -> Any:
        """Do what comes before the first call in this revision."""
        if self.is_stateless:
            return await self.ask("server/discover")
        response = await self.send(
            "initialize",
            {
                "protocolVersion": self.revision,
                "capabilities": {},
                "clientInfo": {"name": "t", "version": "1"},
            },
        )
        self.session_id = response.headers.get("mcp-session-id")
        accepted = await self.send("notifications/initialized")
        assert (accepted.status_code, accepted.text) == (202, "")
        return response.json()["result"]

    async def call(self, name: str, **arguments: Any) -> Any:
        """The result of a tool's call, with the handle where there is one."""
        if self.handle is not None:
            arguments = {"session": self.handle, **arguments}
        result = await self.ask("tools/call", {"name": name, "arguments": arguments})
        if name == "reset" and not result["isError"]:
            self.handle = result["structuredContent"].get("session")
        return result


@asynccontextmanager
async def served(
    env: Any = Maze, options: EngineOptions | None = None, **settings: Any
) -> AsyncIterator[tuple[httpx.AsyncClient, HTTPEnvServer]]:
    """A server, and an HTTP client of it."""
    app = create_app(env, options=options, **settings)
    token = settings.get("token")
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    async with (
        serve(app) as url,
        httpx.AsyncClient(base_url=url, headers=headers, timeout=20) as http,
    ):
        yield http, app.state.openenv


@asynccontextmanager
async def playing(
    revision: str, env: Any = Maze, options: EngineOptions | None = None, **settings: Any
) -> AsyncIterator[tuple[Agent, HTTPEnvServer]]:
    """An agent that has begun."""
    async with served(env, options, **settings) as (http, server):
        agent = Agent(http, revision)
        await agent.begin()
        yield agent, server


def events(text: str) -> list[Any]:
    """The messages of a stream of events."""
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
