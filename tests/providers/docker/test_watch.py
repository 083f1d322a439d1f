"""The watch over containers: events are a hint, looking decides."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from openenv_async.errors import ProviderError
from openenv_async.providers.docker import watch as module
from openenv_async.providers.docker.watch import Watch
from tests.providers.docker.fake_engine import FakeEngine


class Watched:
    def __init__(self) -> None:
        self.engine = FakeEngine()
        self.confirmed: list[str] = []
        self.strays: list[str] = []
        self.ticks = 0
        self.confirming = asyncio.Event()
        self.confirming.set()
        self.watch = Watch(
            self.engine.client(), "label", self.confirm, self.strays.append, self.tick
        )

    async def confirm(self, id: str) -> None:
        self.confirmed.append(id)
        await self.confirming.wait()

    def tick(self) -> None:
        self.ticks += 1

    async def until_looked(self, times: int = 1) -> None:
        seen = self.engine.looked
        async with asyncio.timeout(5):
            while self.engine.looked < seen + times:  # noqa: ASYNC110 # a fake's count
                await asyncio.sleep(0.001)
            for _ in range(5):
                await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def watched(monkeypatch: pytest.MonkeyPatch, interval: float) -> AsyncIterator[Watched]:
    monkeypatch.setattr(module, "_INTERVAL", interval)
    monkeypatch.setattr(module, "_PER_CONTAINER", 0.0)
    made = Watched()
    try:
        yield made
    finally:
        made.confirming.set()
        await made.watch.aclose()


async def test_an_event_of_a_container_of_ours_is_looked_into(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with watched(monkeypatch, 600.0) as made:
        made.confirming.clear()
        made.watch.add("a")
        for id in ("other", "a", "a"):
            made.engine.ended.put_nowait(id)
        for _ in range(20):
            await asyncio.sleep(0)
        assert made.confirmed == ["a"], "once at a time, and no other"
        made.confirming.set()
        for _ in range(5):
            await asyncio.sleep(0)
        made.watch.drop("a")
        made.engine.ended.put_nowait("a")
        for _ in range(10):
            await asyncio.sleep(0)
        assert made.confirmed == ["a"]


@pytest.mark.parametrize("state", ["created", "running", "paused", "restarting", "exited", "dead"])
async def test_a_list_that_shows_an_end_is_looked_into(
    monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    async with watched(monkeypatch, 0.0) as made:
        made.engine.listed = [{"Id": "a", "State": state, "Names": ["/n"]}]
        made.watch.add("a")
        await made.until_looked(2)
        assert bool(made.confirmed) is (state in ("exited", "dead"))
        assert made.strays == []
        assert made.ticks >= 1


async def test_one_that_is_not_listed_any_more_is_looked_into(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with watched(monkeypatch, 0.0) as made:
        made.watch.add("a")
        await made.until_looked()
        assert "a" in made.confirmed


async def test_one_that_is_not_ours_to_watch_is_a_stray(monkeypatch: pytest.MonkeyPatch) -> None:
    async with watched(monkeypatch, 0.0) as made:
        made.engine.listed = [
            {"Id": "b", "State": "running", "Names": ["/stray"]},
            {"Id": "c", "State": "running", "Names": []},
        ]
        made.watch.suspect()
        await made.until_looked()
        assert set(made.strays) == {"stray"}


async def test_without_containers_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with watched(monkeypatch, 0.0) as made:
        for _ in range(20):
            await asyncio.sleep(0)
        assert (made.engine.looked, made.ticks) == (0, 0)
        made.watch.add("a")
        await made.until_looked()
        made.watch.drop("a")
        while made.watch._some.is_set():  # noqa: ASYNC110 # it is cleared, not set
            await asyncio.sleep(0.001)
        looked = made.engine.looked
        for _ in range(20):
            await asyncio.sleep(0)
        assert made.engine.looked == looked


async def test_an_engine_that_fails_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with watched(monkeypatch, 0.0) as made:
        made.engine.failure = ProviderError("busy")
        made.watch.add("a")
        await made.until_looked(3)
        assert made.confirmed == []
        made.engine.failure = None
        await made.until_looked()
        assert "a" in made.confirmed


async def test_closing_stops_what_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    async with watched(monkeypatch, 600.0) as made:
        made.confirming.clear()
        made.watch.add("a")
        made.engine.ended.put_nowait("a")
        for _ in range(10):
            await asyncio.sleep(0)
        [confirming] = made.watch._confirming.values()
        await made.watch.aclose()
        assert confirming.cancelled()
