"""Answers to what clients ask of an environment's tasks."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest

from openenv_async.engine.listing import TaskListing
from openenv_async.errors import OperationUnsupported
from openenv_async.spec import EnvironmentSpec
from openenv_async.tasks import TaskTable
from tests.helpers import Counter
from tests.quiz import Quiz, quiz_rows


async def test_a_page_is_cut_to_its_limit_but_has_one_task() -> None:
    listing = TaskListing(EnvironmentSpec(Quiz))

    async def page(limit: int) -> Any:
        octets = await listing.payload("train", 10, 400, "json", limit)
        assert len(octets) <= limit or limit == 1
        return json.loads(octets)

    found = await page(2000)
    assert found["count"] == 2500
    assert [row["index"] for row in found["tasks"]] == [*range(10, 10 + len(found["tasks"]))]
    assert 10 < len(found["tasks"]) < 40
    assert [row["id"] for row in (await page(1))["tasks"]] == ["train-10"]


async def test_one_thread_at_a_time_reads() -> None:
    begun, go = threading.Event(), threading.Event()
    reading: list[int] = []

    def rows() -> Any:
        reading.append(threading.active_count())
        begun.set()
        assert go.wait(10)
        return quiz_rows("train", 2)

    class Slow(Quiz):
        tasks = TaskTable({"train": rows}, private=["answer"])

    listing = TaskListing(EnvironmentSpec(Slow))
    asked = [asyncio.ensure_future(listing.payload(None, 0, 0, "json")) for _ in range(20)]
    await asyncio.to_thread(begun.wait, 10)
    before = threading.active_count()
    await asyncio.sleep(0)
    assert threading.active_count() == before  # 19 wait for it without one
    go.set()
    assert {json.loads(octets)["splits"]["train"] for octets in await asyncio.gather(*asked)} == {2}


async def test_without_tasks_there_is_nothing_to_ask() -> None:
    listing = TaskListing(EnvironmentSpec(Counter))
    with pytest.raises(OperationUnsupported, match="declares no tasks"):
        await listing.ask(lambda book: book.splits)
