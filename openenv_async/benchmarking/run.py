"""One run: a closed loop, and what it measured."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from openenv_async.benchmarking.latencies import Latencies
from openenv_async.benchmarking.load import Load, action_schema, sessions
from openenv_async.benchmarking.traces import RecordedEpisode
from openenv_async.benchmarking.usage import ServerMeter, Usage, own_rss
from openenv_async.client.arguments import reset_arguments
from openenv_async.client.env import GenericEnvClient
from openenv_async.deadlines import wait_uncancelled
from openenv_async.errors import OpenEnvError, ServerError
from openenv_async.event_loop import loop_name, version_of
from openenv_async.schemas.sample import sample
from openenv_async.types import Timeouts

__all__ = ["Report", "bench"]

_ACTIONS: Final = 256


@dataclass(frozen=True, slots=True)
class Report:
    """The result of one run.

    Attributes:
        steps: answered while the clock ran, failures not counted.
        failures: steps and resets that raised, by error code.
        success_rate: steps among steps and failures.
        latency_ms: p50, p90, p99 and max of a step, from the call to its result.
        open_seconds: to open all sessions at once.
        method: how it was measured, for people.
        transport: of the connections: WebSocket or Unix socket.
    """

    target: str
    sessions: int
    connections: int
    seconds: float
    warmup: float
    steps: int
    episodes: int
    failures: dict[str, int]
    success_rate: float
    steps_per_second: float
    latency_ms: dict[str, float]
    open_seconds: float
    client: Usage
    server: Usage
    method: str
    transport: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True)
class _Measured:
    """Readings of the clock and of what both sides had used by then."""

    elapsed: float
    client_cpu: float
    before: tuple[float, int] | None
    after: tuple[float, int] | None


class _Run:
    """State that the sessions of one run share."""

    def __init__(self, actions: list[Any], trace: Sequence[RecordedEpisode] | None) -> None:
        self.actions = actions
        self.trace = trace
        self.stopped = asyncio.Event()
        self.measuring = False
        self.latencies = Latencies()
        self.episodes = 0
        self.failures: Counter[str] = Counter()

    async def play(self, client: GenericEnvClient, offset: int) -> None:
        clock, actions, latencies = time.perf_counter, self.actions, self.latencies
        turn, stopped = offset, self.stopped.is_set
        while not stopped():
            try:
                result = await client.reset()
                if self.measuring:
                    self.episodes += 1
                while not (result.done or stopped()):
                    action = actions[turn % _ACTIONS]
                    turn += 1
                    began = clock()
                    result = await client.step(action)
                    if self.measuring:
                        latencies.add(clock() - began)
            except OpenEnvError as exc:
                if self.measuring:
                    self.failures[exc.code] += 1
                await asyncio.sleep(0.01)  # a server that refuses must not be hammered

    async def play_trace(self, client: GenericEnvClient, offset: int) -> None:
        clock, latencies, trace = time.perf_counter, self.latencies, self.trace
        assert trace is not None
        turn, stopped = offset, self.stopped.is_set
        while not stopped():
            episode = trace[turn % len(trace)]
            turn += 1
            try:
                arguments = reset_arguments(episode.reset_options, seed=episode.seed)
                result = await client.reset(**arguments)
                if self.measuring:
                    self.episodes += 1
                for seconds, action in episode.steps:
                    if seconds:
                        await asyncio.sleep(seconds)
                    if result.done or stopped():
                        break
                    began = clock()
                    result = await client.step(action)
                    if self.measuring:
                        latencies.add(clock() - began)
            except OpenEnvError as exc:
                if self.measuring:
                    self.failures[exc.code] += 1
                await asyncio.sleep(0.01)

    @contextlib.asynccontextmanager
    async def playing(
        self, clients: Sequence[GenericEnvClient]
    ) -> AsyncIterator[list[asyncio.Task[None]]]:
        """All of them play until the block ends."""
        play = self.play if self.trace is None else self.play_trace
        players = [
            asyncio.create_task(play(client, number * 17)) for number, client in enumerate(clients)
        ]
        try:
            yield players
        finally:
            self.stopped.set()
            for player in players:
                player.cancel()
            await wait_uncancelled(*players)


async def bench(
    url: str,
    load: Load,
    *,
    target: str | None = None,
    action: Callable[[random.Random], Any] | None = None,
    trace: Sequence[RecordedEpisode] | None = None,
    token: str | None = None,
    pid: int | None = None,
    timeouts: Timeouts | None = None,
    on_progress: Callable[[str, float, int], None] | None = None,
) -> Report:
    """Put ``load`` on the server at ``url``.

    Args:
        url: of the server.
        load: how much, for how long.
        target: what it serves, for the report.
        action: draws one action; by default from the server's action schema.
        trace: recorded episodes that the sessions play in turn, in place of such actions.
        token: access token.
        pid: of the server when it runs on this machine; then its children are counted too.
        timeouts: deadlines of the calls.
        on_progress: called ten times a second with the phase (``open``, ``warm-up``,
            ``measure``), the share of it that is over, and the steps measured so far.

    Raises:
        OpenEnvError: the sessions cannot be opened.
        ServerError: not one step was answered.
    """
    actions = [] if trace is not None else await _actions(url, load.seed, action, token)
    run = _Run(actions, trace)
    say = on_progress or (lambda phase, share, steps: None)
    say("open", 0.0, 0)
    began = time.perf_counter()
    async with sessions(url, load, "bench", token=token, timeouts=timeouts) as clients:
        opened = time.perf_counter() - began
        async with run.playing(clients) as players:
            await _watch(players, load.warmup, lambda share: say("warm-up", share, 0))
            server = ServerMeter(url, token, pid)
            measured = await _measure(run, players, load.seconds, server, say)
        connection = clients[0].connection
        transport = None if connection is None else connection.transport
    report = _report(target or url, load, run, opened, measured, server)
    return dataclasses.replace(report, transport=transport)


async def _actions(
    url: str, seed: int, action: Callable[[random.Random], Any] | None, token: str | None
) -> list[Any]:
    """Drawn before the clock starts."""
    rng = random.Random(seed)
    if action is not None:
        return [action(rng) for _ in range(_ACTIONS)]
    schema = await action_schema(url, token)
    return [sample(schema, rng) for _ in range(_ACTIONS)]


async def _measure(
    run: _Run,
    players: list[asyncio.Task[None]],
    seconds: float,
    server: ServerMeter,
    say: Callable[[str, float, int], None],
) -> _Measured:
    before = await server.read()
    cpu, start = time.process_time(), time.perf_counter()
    run.measuring = True
    await _watch(players, seconds, lambda share: say("measure", share, run.latencies.count))
    run.measuring = False
    elapsed, cpu = time.perf_counter() - start, time.process_time() - cpu
    return _Measured(elapsed, cpu, before, await server.read())


async def _watch(
    players: list[asyncio.Task[None]], seconds: float, say: Callable[[float], None]
) -> None:
    """Let time pass; a player that ends has met a bug, which is raised."""
    start = time.perf_counter()
    while (left := seconds - (time.perf_counter() - start)) > 0:
        say(1 - left / seconds)
        done, _ = await asyncio.wait(
            players, timeout=min(left, 0.1), return_when=asyncio.FIRST_COMPLETED
        )
        for player in done:
            player.result()
    if seconds:
        say(1.0)


def _report(
    target: str, load: Load, run: _Run, opened: float, measured: _Measured, server: ServerMeter
) -> Report:
    elapsed, cpu = measured.elapsed, measured.client_cpu
    steps = run.latencies.count
    if not steps:
        codes = ", ".join(sorted(run.failures)) or "none came in time"
        raise ServerError(f"not one step of {target} was answered: {codes}")
    return Report(
        target=target,
        sessions=load.sessions,
        connections=load.connections,
        seconds=round(elapsed, 3),
        warmup=load.warmup,
        steps=steps,
        episodes=run.episodes,
        failures=dict(run.failures),
        success_rate=steps / (steps + run.failures.total()),
        steps_per_second=steps / elapsed,
        latency_ms={
            "p50": run.latencies.quantile(0.5) * 1e3,
            "p90": run.latencies.quantile(0.9) * 1e3,
            "p99": run.latencies.quantile(0.99) * 1e3,
            "max": run.latencies.longest * 1e3,
        },
        open_seconds=opened,
        client=Usage(
            cpu * 1e6 / steps,
            cpu / elapsed,
            own_rss(),
            "this process",
            [loop_name(asyncio.get_running_loop()), version_of("websockets")],
        ),
        server=server.usage(measured.before, measured.after, steps, elapsed),
        method=(
            f"closed loop: each of {load.sessions} sessions takes its next step when the last"
            f" one was answered{'' if run.trace is None else ' and its think time is over'},"
            f" over {load.connections} connection(s); {load.warmup:g} s of"
            f" warm-up dropped, {elapsed:.1f} s measured; latency by the client, from the call"
            " to its result, its own event loop included; client CPU and memory by this"
            f" process, the server's by {server.measured_by}"
        ),
    )
