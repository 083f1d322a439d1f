"""Results wait for their reader, makers for room, and the end is noticed."""

from __future__ import annotations

import asyncio

import pytest

from openenv_async.rollouts.collection import Results
from tests.helpers import until


async def test_results_come_in_order_and_then_it_is_over() -> None:
    results: Results[str] = Results(10)
    for name in "abc":
        results.put(name)
    assert [await results.next(lambda: True) for _ in range(4)] == ["a", "b", "c", None]


async def test_makers_wait_for_a_slow_reader() -> None:
    results: Results[int] = Results(2)
    made: list[int] = []

    async def make() -> None:
        for number in range(6):
            made.append(number)
            results.put(number)
            await results.room()

    maker = asyncio.create_task(make())
    for read in range(6):
        most = min(6, read + 2)  # one is there to read, one more may wait
        await until(lambda: len(made) == most)  # noqa: B023  # it is awaited here
        await asyncio.sleep(0)
        assert len(made) == most
        assert await results.next(maker.done) == read
    await maker
    assert await results.next(maker.done) is None


async def test_a_reader_is_woken_to_learn_that_it_is_over() -> None:
    results: Results[int] = Results(1)
    over = False
    reader = asyncio.create_task(results.next(lambda: over))
    await asyncio.sleep(0)
    results.wake()
    await asyncio.sleep(0)
    assert not reader.done()
    over = True
    results.wake()
    assert await reader is None


async def test_why_it_is_over_may_be_an_error() -> None:
    results: Results[int] = Results(1)

    def failed() -> bool:
        raise LookupError("the maker")

    results.put(1)
    assert await results.next(failed) == 1, "what was made is handed over first"
    with pytest.raises(LookupError, match="the maker"):
        await results.next(failed)
