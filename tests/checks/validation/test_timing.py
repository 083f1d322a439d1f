"""The checks of time and load, each broken by an environment."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from openenv_async import serve
from openenv_async.checks.validation import timing, validate
from openenv_async.checks.validation.timing import _held
from tests.checks.validation.broken import BROKEN, Good
from tests.checks.validation.caught import MODULE, broken_in, is_caught, names_of


@broken_in(timing)
async def test_each_broken_environment_is_caught_by_its_check(cls: Any) -> None:
    await is_caught(cls)


def test_every_check_catches_one() -> None:
    assert names_of(timing) - set(BROKEN.values()) == {"cancelling_is_honoured"}


async def test_a_call_that_cannot_be_cancelled_is_caught() -> None:
    [cls] = [cls for cls in BROKEN if cls.__name__ == "GoesOnAfterItsDeadline"]
    async with serve(cls) as url:
        results = await validate(url, names=["cancelling_is_honoured"], timeout=0.5)
    assert results[-1].status == "failed"
    assert "went on after being cancelled" in results[-1].reason


async def test_a_step_that_can_be_given_up_passes() -> None:
    async with serve(PatientEnvironment) as url:
        results = await validate(url, names=["deadlines_are_honoured", "cancelling_is_honoured"])
    assert [result.status for result in results] == ["passed"] * 3


class PatientEnvironment(Good):
    """Async, and it lets itself be cancelled."""

    async def step(self, action: Any) -> Any:
        await asyncio.sleep(0.2)
        return super().step(action)


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="it reads /proc")
async def test_what_is_closed_is_not_counted_as_left_behind() -> None:
    results = await validate(f"{MODULE}:Good", names=["closing_releases"])
    assert results[-1].status == "passed"


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="it reads /proc")
def test_what_a_process_holds_is_counted() -> None:
    before = _held(os.getpid())
    read, write = os.pipe()
    try:
        after = _held(os.getpid())
    finally:
        os.close(read)
        os.close(write)
    assert after["files"] == before["files"] + 2
    assert after["threads"] >= 1
    assert after["processes"] >= 1
    assert _held(2**22 + 1) == {"files": 0, "threads": 0, "processes": 1}
