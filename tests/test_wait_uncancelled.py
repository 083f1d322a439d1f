"""Waiting that a cancellation does not cut short."""

from __future__ import annotations

import asyncio

import pytest

from openenv_async.deadlines import wait_uncancelled


async def test_cancelled_often_it_waits_and_is_cancelled_then() -> None:
    go = asyncio.Event()
    tasks = [asyncio.create_task(go.wait()) for _ in range(2)]
    waiting = asyncio.create_task(wait_uncancelled(*tasks))
    for _ in range(3):
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.sleep(0)
        assert not waiting.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert [task.result() for task in tasks] == [True, True]


async def test_what_the_tasks_raise_stays_with_them() -> None:
    async def fails() -> None:
        raise ValueError("mine")

    async def ends() -> None:
        await asyncio.Event().wait()

    failing, ending = asyncio.create_task(fails()), asyncio.create_task(ends())
    await asyncio.sleep(0)
    ending.cancel()
    await wait_uncancelled(failing, ending)
    assert isinstance(failing.exception(), ValueError)
    assert ending.cancelled()


async def test_nothing_to_wait_for() -> None:
    await wait_uncancelled()
