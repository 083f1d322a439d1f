"""The sessions of a run: they play, and audit what they played."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from typing import Any, Final

from openenv_async.benchmarking import Latencies
from openenv_async.benchmarking.chaos.audit import Audit
from openenv_async.client.env import GenericEnvClient
from openenv_async.errors import (
    DeadlineExceeded,
    EnvironmentDied,
    EnvironmentRaised,
    GoingAway,
    OpenEnvError,
    ServerError,
    SessionClosed,
    SessionLost,
    TransportError,
)
from openenv_async.schemas.sample import sample

__all__ = ["AUDIT", "EPISODE", "LOST", "LoadSession", "Run"]

LOST: Final = (SessionLost, SessionClosed, EnvironmentDied, GoingAway, TransportError, ServerError)
"""Errors of a session that is gone."""
EPISODE: Final = 200
"""Steps of an episode at most."""
AUDIT: Final = 20
"""Steps after which an episode is asked for its count."""


class LoadSession:
    """A session that plays episodes and audits each."""

    def __init__(self, run: Run, number: int, client: GenericEnvClient) -> None:
        self._run = run
        self._client = client
        self._name = f"chaos-{number}-"
        self._sent = 0
        self._seen = 0
        self._unsure = 0
        self._audited = 0

    async def play(self) -> None:
        """Play episodes until the run stops."""
        run, audit = self._run, self._run.audit
        while not run.stopped.is_set():
            try:
                await self._episode()
            except LOST as exc:
                audit.typed_lost[exc.code] += 1
                audit.unaudited += self._seen
                self._seen = 0
                await asyncio.sleep(run.random.uniform(0.01, 0.1))
            except OpenEnvError as exc:
                audit.untyped[exc.code] += 1
                await asyncio.sleep(0.1)

    async def _episode(self) -> None:
        """Play one episode; every few steps ask for its number of steps."""
        run = self._run
        self._seen = self._unsure = self._audited = 0
        result = await self._client.reset()
        run.audit.episodes += 1
        for turn in range(1, EPISODE + 1):
            try:
                result = await self._step()
            except DeadlineExceeded:
                self._unsure += 1
            except EnvironmentRaised:
                pass  # it did not like the action: no step of the episode
            over = result.done or run.stopped.is_set()
            if over or turn % AUDIT == 0:
                await self._ask()
            if over:
                return

    async def _ask(self) -> None:
        """Compare what the environment executed since the last time with what was seen."""
        await self._client.state()
        assert self._client.episode is not None
        executed = self._client.episode.step_count - self._audited
        self._run.audit.compare(self._seen, executed, self._unsure)
        self._audited += executed
        self._seen = self._unsure = 0

    async def _step(self) -> Any:
        run = self._run
        self._sent += 1
        name = f"{self._name}{self._sent}."
        action, field_name = run.action()
        if field_name is not None:
            action = {**action, field_name: name}
        began = time.perf_counter()
        result = await self._client.step(action)
        run.latencies.add(time.perf_counter() - began)
        self._seen += 1
        if field_name is not None:
            run.audit.check_name(name, result.observation)
        return result


class Run:
    """State that the sessions of one run share.

    Attributes:
        lock: held while threads count.
    """

    def __init__(self, schema: Any, seed: int) -> None:
        self.lock = threading.Lock()
        self.random = random.Random(seed)
        self.stopped = asyncio.Event()
        self.latencies = Latencies()
        self.audit = Audit()
        self._actions = [sample(schema, self.random) for _ in range(256)]

    def action(self) -> tuple[Any, str | None]:
        """Return an action, and its first field that may hold any text."""
        action = self.random.choice(self._actions)
        if isinstance(action, dict):
            for name, value in action.items():
                if isinstance(value, str):
                    return action, name
        return action, None
