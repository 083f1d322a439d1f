"""HTTP clients of applications, and an environment for them to play."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from openenv_async import (
    EngineOptions,
    Environment,
    StepResult,
    create_app,
    serve,
)

HEADER = "X-OpenEnv-Session"
SEQ = "X-OpenEnv-Seq"


@dataclass
class Inner:
    weight: int = 1


@dataclass
class Action:
    message: str
    inner: Inner = field(default_factory=Inner)


@dataclass
class Observation:
    echo: str
    frame: NDArray[np.float32] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    reward: float | None = None
    done: bool = False


class Echo(Environment[Action, Observation, dict[str, Any]]):
    """Says what it hears."""

    isolation = "inline"
    version = "2.5.0"
    author = "somebody"

    def __init__(self) -> None:
        self.steps = 0

    def reset(self, seed: int | None = None, level: int = 1) -> Observation:
        self.steps = 0
        return Observation(f"level {level}")

    def step(self, action: Action) -> Any:
        if action.message == "boom":
            raise ValueError("boom in step")
        self.steps += 1
        if action.message == "info":
            return StepResult(Observation("told"), 2.0, truncated=True, info={"why": "asked"})
        frame = np.array([1.5, np.nan], np.float32) if action.message == "frame" else None
        metadata = {"n": self.steps} if action.message == "meta" else {}
        return Observation(action.message, frame, metadata, 1.0, action.message == "end")

    def state(self) -> dict[str, Any]:
        return {"steps": self.steps, "step_count": None}


@asynccontextmanager
async def served(
    env: Any = Echo, options: EngineOptions | None = None
) -> AsyncIterator[tuple[httpx.AsyncClient, Any]]:
    """A client with a cookie jar, and the engine behind it."""
    app = create_app(env, options=options)
    async with serve(app) as url, httpx.AsyncClient(base_url=url, trust_env=False) as client:
        yield client, app.state.openenv.engine


def step(message: str, **inner: Any) -> dict[str, Any]:
    return {"action": {"message": message, **inner}}


def problem(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def asking(app: Any, **settings: Any) -> httpx.AsyncClient:
    """A client of ``app``; ``settings`` are httpx's."""
    base = settings.pop("base_url", "http://127.0.0.1")
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base, **settings)
