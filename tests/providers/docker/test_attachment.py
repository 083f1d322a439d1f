"""A provider's connection to its Engine, for as long as one event loop runs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from openenv_async.errors import ProviderError
from openenv_async.providers.docker import attachment as module
from openenv_async.providers.docker.owner import STARTED, this_owner
from tests.providers.docker.fake_engine import FakeEngine, attached


class Images:
    """Answers for ``ensure_image``, and how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    async def __call__(self, *arguments: Any) -> dict[str, Any]:
        self.asked += 1
        return await asyncio.shield(self.answer)


async def test_one_request_for_the_image_serves_all(monkeypatch: pytest.MonkeyPatch) -> None:
    images = Images()
    monkeypatch.setattr(module, "ensure_image", images)
    async with attached(None, FakeEngine()) as at:
        calls = [asyncio.create_task(at.image("i", "missing", None)) for _ in range(3)]
        await asyncio.sleep(0)
        calls[0].cancel()
        await asyncio.sleep(0)
        images.answer.set_result({"Id": "x"})
        assert await asyncio.gather(*calls[1:]) == [{"Id": "x"}] * 2
        assert calls[0].cancelled()
        assert await at.image("i", "missing", None) == {"Id": "x"}
        assert images.asked == 1


async def test_an_image_that_was_not_found_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = Images()
    monkeypatch.setattr(module, "ensure_image", images)
    async with attached(None, FakeEngine()) as at:
        images.answer.set_exception(ProviderError("busy"))
        for _ in range(2):
            with pytest.raises(ProviderError, match="busy"):
                await at.image("i", "missing", None)
        images.answer = asyncio.get_running_loop().create_future()
        images.answer.set_result({})
        assert await at.image("i", "missing", None) == {}
        assert images.asked == 3


async def test_orphans_are_swept_at_the_beginning(caplog: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine()
    labels = this_owner().labels(1.0) | {STARTED: "before"}
    engine.listed = [{"Id": "a", "Names": ["/a"], "Labels": labels}]
    async with attached(None, engine) as at:
        await asyncio.wait([at._sweeping])
    assert engine.removed == ["a"]
    assert "removed 1 containers whose owners are gone" in caplog.text


async def test_a_sweep_that_fails_hurts_nothing() -> None:
    engine = FakeEngine()
    engine.failure = ProviderError("busy")
    async with attached(None, engine) as at:
        await at._sweeping
    assert engine.removed == []


async def test_closing_waits_for_starts_and_removals_and_closes_once() -> None:
    engine = FakeEngine()
    async with attached(None, engine) as at:
        engine.held.clear()
        at.removals.begin("b")
        with at.start_of("a"):
            assert at.starting == {"a"}
            closing = asyncio.create_task(at.aclose())
            for _ in range(10):
                await asyncio.sleep(0)
            assert not closing.done()
        for _ in range(10):
            await asyncio.sleep(0)
        assert not closing.done(), "a removal is under way"
        engine.held.set()
        await closing
        assert at.starting == set()
        assert engine.removed == ["b"]
        assert engine.closed == 1
    assert engine.closed == 1


def test_a_loop_that_ends_closes_the_sockets() -> None:
    engines: list[FakeEngine] = []

    async def begin() -> None:
        engines.append(FakeEngine())
        module.Attachment(
            engines[0].client(),
            type("W", (), {"suspect": lambda self: None})(),
            lambda name: None,
            1,
        )
        await asyncio.sleep(0)

    asyncio.run(begin())
    assert engines[0].closed == 1
