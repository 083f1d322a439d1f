"""Load under faults, and the audit after it: what ran against what the clients saw.

Sessions play through a ``ChaosProxy`` that cuts, pauses and delays; with a server of this
machine its workers are killed and its process is stopped for moments, too. Every few steps an
episode is asked for its state: the steps that the environment executed, counted where it lives,
must be the steps that the client saw. An action that has a text carries a number of its own;
where the environment says it back, a reply to another request shows at once.

An episode that died with its worker, or whose session is lost for good, cannot be asked. It must
have said so by its type, and is counted apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from openenv_async.benchmarking import Latencies, Load
from openenv_async.chaos.proxy import ChaosProxy
from openenv_async.client.env import EnvClient
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
from openenv_async.schema_sampling import sample
from openenv_async.types import Timeouts

__all__ = ["Audit", "ChaosReport", "run_chaos"]

_LOST: Final = (SessionLost, SessionClosed, EnvironmentDied, GoingAway, TransportError, ServerError)
"""What a session that is gone may say."""
_EPISODE: Final = 200
_AUDIT: Final = 20
"""Steps after which an episode is asked for its count."""
_KILL_INTERVAL: Final = 5.0


@dataclass(slots=True)
class Audit:
    """Steps and sessions, counted on both sides.

    Attributes:
        seen: steps that clients got a reply for, and could ask about.
        executed: steps that environments executed in these.
        lost: replies for steps that never ran.
        repeated: steps that ran without a reply, or more than once.
        mismatched: replies that belong to another request.
        unsure: steps whose deadline passed: they may have run, once.
        checked_by_name: replies that said the request's own number back.
        episodes: that were begun.
        resumed: how often a session went on after its connection was lost.
        typed_lost: sessions that are gone, by the code they said so with.
        unaudited: steps seen in these.
        untyped: errors that say nothing of the session's fate, by code.
    """

    seen: int = 0
    executed: int = 0
    lost: int = 0
    repeated: int = 0
    mismatched: int = 0
    unsure: int = 0
    checked_by_name: int = 0
    episodes: int = 0
    resumed: int = 0
    typed_lost: Counter[str] = field(default_factory=Counter)
    unaudited: int = 0
    untyped: Counter[str] = field(default_factory=Counter)

    @property
    def passed(self) -> bool:
        """Whether everything was executed and seen exactly once."""
        wrong = self.lost + self.repeated + self.mismatched + self.untyped.total()
        return wrong == 0 and self.seen > 0


@dataclass(frozen=True, slots=True)
class ChaosReport:
    """The result of one run. ``faults`` counts what was done, by name."""

    target: str
    sessions: int
    connections: int
    seconds: float
    steps_per_second: float
    latency_ms: dict[str, float]
    faults: dict[str, int]
    audit: Audit

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        audit = {item.name: getattr(self.audit, item.name) for item in dataclasses.fields(Audit)}
        for name in ("typed_lost", "untyped"):
            audit[name] = dict(audit[name])
        report = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return {**report, "audit": audit, "passed": self.audit.passed}


class _Client(EnvClient[Any, Any, Any]):
    """A client of one of several shared connections."""

    lane = 0

    def _key(self) -> Hashable:
        return (super()._key(), "chaos", self.lane)


class _Player:
    """One session: plays episodes and audits each."""

    def __init__(self, run: _Run, number: int, client: _Client) -> None:
        self._run = run
        self._client = client
        self._name = f"chaos-{number}-"
        self._sent = 0
        self._seen = 0
        self._unsure = 0
        self._audited = 0

    async def play(self) -> None:
        run, audit = self._run, self._run.audit
        while not run.stopped.is_set():
            try:
                await self._episode()
            except _LOST as exc:
                audit.typed_lost[exc.code] += 1
                audit.unaudited += self._seen
                self._seen = 0
                await asyncio.sleep(run.random.uniform(0.01, 0.1))
            except OpenEnvError as exc:
                audit.untyped[exc.code] += 1
                await asyncio.sleep(0.1)

    async def _episode(self) -> None:
        """One episode; every few steps it is asked how many it had."""
        run = self._run
        self._seen = self._unsure = self._audited = 0
        result = await self._client.reset()
        run.audit.episodes += 1
        for turn in range(1, _EPISODE + 1):
            try:
                result = await self._step()
            except DeadlineExceeded:
                self._unsure += 1
            except EnvironmentRaised:
                pass  # it did not like the action: no step of the episode
            over = result.done or run.stopped.is_set()
            if over or turn % _AUDIT == 0:
                await self._ask()
            if over:
                return

    async def _ask(self) -> None:
        """What the environment executed since the last time, against what was seen."""
        audit = self._run.audit
        await self._client.state()
        assert self._client.episode is not None
        executed = self._client.episode.step_count - self._audited
        seen, unsure = self._seen, self._unsure
        self._audited += executed
        self._seen = self._unsure = 0
        audit.seen += seen
        audit.executed += executed
        audit.unsure += unsure
        audit.lost += max(0, seen - executed)
        audit.repeated += max(0, executed - seen - unsure)

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
            text = repr(result.observation)
            if name in text:
                run.audit.checked_by_name += 1
            elif "chaos-" in text:
                run.audit.mismatched += 1
        return result


class _Run:
    """What the sessions of one run share."""

    def __init__(self, schema: Any, seed: int) -> None:
        self.random = random.Random(seed)
        self.stopped = asyncio.Event()
        self.latencies = Latencies()
        self.audit = Audit()
        self._actions = [sample(schema, self.random) for _ in range(256)]

    def action(self) -> tuple[Any, str | None]:
        """An action, and its first field that may hold any text."""
        action = self.random.choice(self._actions)
        if isinstance(action, dict):
            for name, value in action.items():
                if isinstance(value, str):
                    return action, name
        return action, None


async def run_chaos(
    url: str,
    load: Load,
    *,
    target: str | None = None,
    token: str | None = None,
    pid: int | None = None,
    schema: Any = None,
    on_progress: Callable[[str, float, int], None] | None = None,
) -> ChaosReport:
    """Play under faults for ``load.seconds``, then audit.

    Args:
        url: of the server.
        load: sessions, connections, seconds and the seed of actions and faults.
        target: what it serves, for the report.
        token: access token.
        pid: of the server when it runs on this machine: then its workers are killed and it is
            stopped for moments.
        schema: of the actions; by default the server is asked.
        on_progress: called ten times a second with phase, share and steps so far.

    Raises:
        OpenEnvError: the sessions cannot be opened.
    """
    if schema is None:
        schema = (await _get_schema(url, token))["action"]
    run = _Run(schema, load.seed)
    timeouts = Timeouts(open=60.0, reset=60.0, step=60.0, state=60.0)
    faults: Counter[str] = Counter()
    async with ChaosProxy(url, load.seed) as proxy:
        clients = []
        for number in range(load.sessions):
            client = _Client(proxy.url, token=token, timeouts=timeouts)
            client.lane = number % load.connections
            clients.append(client)
        try:
            await asyncio.gather(*(client.open() for client in clients))
            players = [_Player(run, n, client) for n, client in enumerate(clients)]
            async with asyncio.TaskGroup() as group:
                for player in players:
                    group.create_task(player.play())
                began = time.monotonic()
                storm = group.create_task(_storm(proxy, pid, faults, run))
                while (passed := time.monotonic() - began) < load.seconds:
                    if on_progress is not None:
                        on_progress("chaos", passed / load.seconds, run.latencies.count)
                    await asyncio.sleep(min(0.1, load.seconds - passed))
                storm.cancel()
                elapsed = time.monotonic() - began
                run.stopped.set()  # every player finishes and audits its episode
            run.audit.resumed = sum(c.connection.reconnects for c in clients if c.connection)
        finally:
            await asyncio.gather(*(client.close() for client in clients), return_exceptions=True)
    latencies = run.latencies
    return ChaosReport(
        target=target or url,
        sessions=load.sessions,
        connections=load.connections,
        seconds=elapsed,
        steps_per_second=latencies.count / elapsed,
        latency_ms={
            "p50": latencies.quantile(0.5) * 1e3,
            "p99": latencies.quantile(0.99) * 1e3,
            "max": latencies.longest * 1e3,
        },
        faults=dict(faults),
        audit=run.audit,
    )


async def _storm(proxy: ChaosProxy, pid: int | None, faults: Counter[str], run: _Run) -> None:
    """One fault after the other, for ever."""
    draw = random.Random(proxy.random.random())
    kill_at = time.monotonic() + _KILL_INTERVAL
    try:
        while True:
            await asyncio.sleep(draw.uniform(0.1, 0.6))
            if pid is not None and time.monotonic() > kill_at:
                kill_at = time.monotonic() + _KILL_INTERVAL
                faults["worker kills"] += _kill_worker(pid, draw)
                continue
            match draw.randrange(6 if pid is not None else 5):
                case 0:
                    faults["disconnects"] += proxy.cut()
                case 1:
                    with proxy.outage():
                        faults["outages"] += 1
                        await asyncio.sleep(draw.uniform(0.1, 1.0))
                case 2:
                    with proxy.pause():
                        faults["pauses"] += 1
                        await asyncio.sleep(draw.uniform(0.05, 0.5))
                case 3:
                    faults["delays"] += 1
                    proxy.delay = (0.0, 0.02)
                    await asyncio.sleep(draw.uniform(0.1, 0.5))
                    proxy.delay = (0.0, 0.0)
                case 4:
                    faults["cuts between messages"] += 1
                    proxy.cut_rate = 0.01
                    await asyncio.sleep(draw.uniform(0.1, 0.5))
                    proxy.cut_rate = 0.0
                case _:
                    assert pid is not None
                    faults["server stops"] += 1
                    with _stopped(pid):
                        await asyncio.sleep(draw.uniform(0.05, 0.3))
    finally:
        proxy.delay, proxy.cut_rate = (0.0, 0.0), 0.0


@contextlib.contextmanager
def _stopped(pid: int) -> Any:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def _kill_worker(pid: int, draw: random.Random) -> int:
    """Kill one child process of the server; how many that were (Linux)."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if not children:
            return 0
        os.kill(int(draw.choice(children)), signal.SIGKILL)
    except OSError:
        return 0
    return 1


async def _get_schema(url: str, token: str | None) -> Any:
    from openenv_async.benchmarking import _get_json

    return await _get_json(url, "/schema", token)
