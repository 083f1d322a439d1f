"""Random work through random faults, ending in an audit: what ran against what was seen.

Every session plays a random script over one of several connections that a ``ChaosProxy`` cuts,
delays, pauses, splits and half-closes, all from one seed. In the end each step that a client got
a reply for was executed once, in order, with that reply; each that failed did so with a type
that says what is known of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

import pytest

from openenv_async import Timeouts
from openenv_async.errors import DeadlineExceeded, OperationCancelled
from tests.behaviours.environments import (
    Ledger,
    LedgerAsync,
    LedgerStream,
    LedgerThread,
    client,
    gather,
    reconnects,
    served,
)
from tests.chaos import ChaosProxy
from tests.helpers import until

SESSIONS = 64
CONNECTIONS = 8
SECONDS = 4.0


class Player:
    """One session, and what it saw."""

    def __init__(self, number: int, one: Any, seed: int, streams: bool) -> None:
        self.label = f"s{number}"
        self.one = one
        self.random = random.Random(seed * 1000 + number)
        self.streams = streams
        self.episode = 0
        self.sent = 0
        self.seen: dict[str, list[tuple[int, int, int]]] = {}
        self.unsure: dict[str, list[int]] = {}

    async def play(self, ending: asyncio.Event) -> None:
        while not ending.is_set():
            roll = self.random.random()
            if roll < 0.05:
                await self.begin()
            elif roll < 0.10:
                state = await self.one.state()
                assert state["step_count"] >= len(self.seen[self.name])
            elif roll < 0.16:
                await self.cancelled_step()
            elif roll < 0.30 and self.streams:
                await self.stream()
            else:
                await self.step()
            await asyncio.sleep(0)

    @property
    def name(self) -> str:
        return f"{self.label}/{self.episode}"

    async def begin(self) -> None:
        self.episode += 1
        self.seen[self.name], self.unsure[self.name] = [], []
        await self.one.reset(label=self.name)

    def action(self) -> dict[str, int]:
        self.sent += 1
        return {"n": self.sent}

    def saw(self, action: dict[str, int], observation: dict[str, int]) -> None:
        assert observation["n"] == action["n"]  # not the reply of another request
        self.seen[self.name].append((action["n"], observation["count"], observation["digest"]))

    async def step(self) -> None:
        action = self.action()
        self.saw(action, (await self.one.step(action)).observation)

    async def cancelled_step(self) -> None:
        action = self.action()
        call = asyncio.ensure_future(self.one.step(action))
        for _ in range(self.random.randrange(4)):
            await asyncio.sleep(0)
        call.cancel()
        try:
            self.saw(action, (await call).observation)
        except (asyncio.CancelledError, OperationCancelled, DeadlineExceeded):
            self.unsure[self.name].append(action["n"])

    async def stream(self) -> None:
        partials = self.random.randrange(150)
        action = {**self.action(), "partials": partials}
        async with contextlib.aclosing(self.one.stream_step(action)) as stream:
            items = [item.observation async for item in stream]
        assert [item["index"] for item in items[:-1]] == list(range(partials))
        self.saw(action, items[-1])


async def torment(proxy: ChaosProxy, ending: asyncio.Event) -> None:
    """One fault after the other until ``ending``."""
    draw = proxy.random
    while not ending.is_set():
        fault = draw.randrange(8)
        before = (proxy.delay, proxy.segment, proxy.coalesce, proxy.cut_rate)
        with contextlib.ExitStack() as stack:
            if fault == 0:
                stack.enter_context(proxy.outage())
            elif fault == 1:
                stack.enter_context(proxy.pause())
            elif fault == 2:
                proxy.cut()
            elif fault == 3:
                proxy.delay = (0.0, 0.01)
            elif fault == 4:
                proxy.segment = draw.randrange(1, 200)
            elif fault == 5:
                proxy.coalesce = 0.005
            elif fault == 6:
                proxy.cut_rate = 0.05
            else:
                proxy.half_close(draw.choice(["up", "down"]))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ending.wait(), draw.uniform(0.02, 0.2))
        proxy.delay, proxy.segment, proxy.coalesce, proxy.cut_rate = before


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("env", [Ledger, LedgerThread, LedgerAsync, LedgerStream])
async def test_nothing_lost_repeated_or_mismatched(env: Any, seed: int) -> None:
    Ledger.executed.clear()
    async with (
        served(env, timeouts=Timeouts(lease=20.0)) as (url, engine),
        ChaosProxy(url, seed=seed) as proxy,
    ):
        loop = asyncio.get_running_loop()
        made = [client(proxy.url, share=f"c{n % CONNECTIONS}") for n in range(SESSIONS)]
        players = [Player(n, one, seed, env is LedgerStream) for n, one in enumerate(made)]
        await gather(player.begin() for player in players)
        ending, over = asyncio.Event(), asyncio.Event()
        playing = [asyncio.create_task(player.play(ending)) for player in players]
        storm = asyncio.create_task(torment(proxy, over))
        end = loop.time() + SECONDS
        await until(lambda: loop.time() > end or any(t.done() for t in playing), SECONDS + 5)
        over.set()
        await storm
        ending.set()
        await asyncio.wait_for(gather(playing), 30)

        lost = repeated = mismatched = seen = 0
        for player in players:
            for name, steps in player.seen.items():
                executed = Ledger.executed.get(name, [])
                repeated += len(executed) - len(set(executed))
                expected = replayed(executed)
                for step in steps:
                    lost += step[0] not in expected
                    mismatched += step[0] in expected and expected[step[0]] != step[1:]
                known = {step[0] for step in steps} | set(player.unsure[name])
                mismatched += len(set(executed) - known)
                seen += len(steps)
        assert (lost, repeated, mismatched) == (0, 0, 0)
        assert seen > SESSIONS * 10
        assert reconnects(made) > CONNECTIONS
        assert engine.stats.resumed > SESSIONS
        assert engine.stats.opened == SESSIONS
        await gather(c.close() for c in made)
        assert not engine.sessions


def replayed(executed: list[int]) -> dict[int, tuple[int, int]]:
    """What each step of this history must have answered."""
    env = Ledger()
    env.label = "audit"
    Ledger.executed["audit"] = []
    answers = (env.step({"n": n}) for n in executed)
    return {answer["n"]: (answer["count"], answer["digest"]) for answer in answers}
