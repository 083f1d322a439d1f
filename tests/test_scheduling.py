"""The loop for tests of races finds planted races, always in the same way."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from tests.scheduling import (
    Deadlock,
    Interruption,
    LeftBehind,
    PermutedLoop,
    cancel_at_every_await,
    explore,
    run,
)


class Slots:
    """A counter of slots that looks, waits and then takes: two callers may take the last one."""

    def __init__(self, free: int) -> None:
        self.free = free

    async def take(self) -> bool:
        if not self.free:
            return False
        await asyncio.sleep(0)
        self.free -= 1
        return True


async def check_then_await() -> None:
    slots = Slots(1)

    async def late() -> bool:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return await slots.take()

    await asyncio.gather(slots.take(), late())
    assert slots.free == 0


def test_a_seed_finds_the_check_before_an_await_which_asyncios_order_hides() -> None:
    run(check_then_await, seed=0)
    with pytest.raises(AssertionError) as raised:
        explore(50, check_then_await)
    [note] = raised.value.__notes__
    seed = int(note.partition("seed=")[2].rstrip(")"))
    for _ in range(3):
        with pytest.raises(AssertionError):
            run(check_then_await, seed)


def test_a_seed_is_one_order_and_another_seed_another() -> None:
    async def orders() -> list[int]:
        seen: list[int] = []

        async def note(number: int) -> None:
            for _ in range(3):
                await asyncio.sleep(0)
                seen.append(number)

        await asyncio.gather(*map(note, range(4)))
        return seen

    assert run(orders, 0) == [0, 1, 2, 3] * 3
    assert run(orders, 7) == run(orders, 7)
    assert len({tuple(run(orders, seed)) for seed in range(20)}) > 15


def test_callbacks_keep_their_order_and_tasks_come_between() -> None:
    async def mixed() -> list[str]:
        seen: list[str] = []
        loop = asyncio.get_running_loop()

        async def note() -> None:
            seen.append("task")

        task = asyncio.create_task(note())
        for number in range(3):
            loop.call_soon(seen.append, str(number))
        await task
        await asyncio.sleep(1)
        return seen

    orders = {tuple(run(mixed, seed)) for seed in range(40)}
    assert len(orders) > 2
    for order in orders:
        assert [item for item in order if item != "task"] == ["0", "1", "2"]


def test_time_jumps_to_the_next_timer_and_stands_still_otherwise() -> None:
    async def sleeping() -> float:
        loop = asyncio.get_running_loop()
        start = loop.time()
        await asyncio.gather(asyncio.sleep(3600), asyncio.sleep(10))
        for _ in range(100):
            await asyncio.sleep(0)
        return loop.time() - start

    assert run(sleeping) == pytest.approx(3600)


def test_timers_of_one_time_fire_in_any_order() -> None:
    async def timers() -> list[int]:
        loop = asyncio.get_running_loop()
        seen: list[int] = []
        for number in range(3):
            loop.call_later(1.0, seen.append, number)
        await asyncio.sleep(2.0)
        return seen

    assert len({tuple(run(timers, seed)) for seed in range(1, 40)}) == 6


def test_a_loop_that_was_blocked_meets_all_timers_at_once() -> None:
    async def blocked() -> list[float]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, PermutedLoop)
        start = loop.time()
        fired: list[float] = []
        loop.call_later(1.0, lambda: fired.append(loop.time() - start))
        loop.call_later(2.0, lambda: fired.append(loop.time() - start))
        loop.clock.advance(10.0)
        await asyncio.sleep(1.0)
        return fired

    assert run(blocked) == [10.0, 10.0]


def test_a_deadlock_is_an_error_with_the_stacks() -> None:
    async def waits_for_ever() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Deadlock, match="waits_for_ever"):
        run(waits_for_ever)


def test_a_circle_without_time_is_an_error() -> None:
    async def spins() -> None:
        while True:  # noqa: ASYNC110 - that is the error
            await asyncio.sleep(0)

    with pytest.raises(Deadlock, match="no end after 500 turns"):
        run(spins, max_turns=500)


def test_what_a_scenario_leaves_behind_is_an_error() -> None:
    kept: list[object] = []

    async def leaves_a_task() -> None:
        kept.append(asyncio.create_task(asyncio.sleep(5), name="left"))
        await asyncio.sleep(0)

    async def leaves_a_timer() -> None:
        asyncio.get_running_loop().call_later(5, kept.append, 1)

    async def leaves_an_error() -> None:
        async def fails() -> None:
            raise ValueError("never retrieved")

        asyncio.create_task(fails())  # noqa: RUF006
        await asyncio.sleep(1)

    with pytest.raises(LeftBehind, match="tasks go on"):
        run(leaves_a_task)
    with pytest.raises(LeftBehind, match="timers were not cancelled"):
        run(leaves_a_timer)
    with pytest.raises(LeftBehind, match="never retrieved"):
        run(leaves_an_error)


def test_a_function_for_a_thread_runs_in_a_turn_of_its_own() -> None:
    async def threads() -> list[int]:
        async def fails() -> None:
            with pytest.raises(ValueError, match="invalid"):
                await asyncio.to_thread(int, "x")

        await fails()
        return [await asyncio.to_thread(int, "7")]

    assert run(threads, 3) == [7]


# -- cancellation ---------------------------------------------------------------------------


class Pool:
    """Slots handed to waiters, with the bugs that a test asks for."""

    def __init__(self, *, forgets_grant: bool = False, skips_clean_up: bool = False) -> None:
        self.held = 0
        self.cleaned = 0
        self.waiter: asyncio.Future[None] | None = None
        self._forgets_grant = forgets_grant
        self._skips_clean_up = skips_clean_up

    async def acquire(self) -> None:
        waiter = self.waiter = asyncio.get_running_loop().create_future()
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and not self._forgets_grant:
                self.held -= 1
            raise

    def grant(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.held += 1
            self.waiter.set_result(None)

    async def use(self) -> None:
        self.held += 1
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            try:
                await asyncio.sleep(0)  # here a second cancellation comes
            finally:
                self.held -= not self._skips_clean_up
            self.held -= self._skips_clean_up
            raise
        self.held -= 1


async def _granted(pool: Pool, interruption: Interruption) -> None:
    asyncio.get_running_loop().call_later(1.0, pool.grant)
    task = await interruption(pool.acquire())
    await asyncio.sleep(2.0)
    assert pool.held == (0 if task.cancelled() else 1)


def test_a_waiter_is_cancelled_in_the_turn_it_is_granted() -> None:
    assert cancel_at_every_await(lambda stop: _granted(Pool(), stop)) > 6
    with pytest.raises(AssertionError) as raised:
        cancel_at_every_await(lambda stop: _granted(Pool(forgets_grant=True), stop))
    assert "granted" in raised.value.__notes__[0]
    assert "Pool.acquire" in raised.value.__notes__[0]


async def _used(pool: Pool, interruption: Interruption) -> None:
    await interruption(pool.use())
    assert pool.held == 0


def test_a_second_cancellation_comes_during_the_clean_up() -> None:
    cancel_at_every_await(lambda stop: _used(Pool(), stop))
    cancel_at_every_await(lambda stop: _used(Pool(skips_clean_up=True), stop), twice=False)
    with pytest.raises(AssertionError) as raised:
        cancel_at_every_await(lambda stop: _used(Pool(skips_clean_up=True), stop))
    assert "again=1" in raised.value.__notes__[0]


def test_a_swallowed_cancellation_is_an_error() -> None:
    async def swallows() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(1)

    async def scenario(interruption: Interruption) -> None:
        await interruption(swallows())

    with pytest.raises(AssertionError, match="a cancellation was swallowed"):
        cancel_at_every_await(scenario)


def test_every_await_is_reached() -> None:
    reached: set[str] = set()

    async def three() -> None:
        for _ in range(3):
            await asyncio.sleep(1)

    async def scenario(interruption: Interruption) -> None:
        task = await interruption(three())
        assert task.cancelled() == bool(interruption.thrown)
        reached.add(f"{interruption.when} {interruption.at}")

    assert cancel_at_every_await(scenario, seeds=[0]) >= 6
    assert {f"{when} {at}" for when in ("waiting", "granted") for at in (1, 2, 3)} <= reached
    assert {"turn 1", "turn 5"} <= reached


def test_a_turn_reaches_the_awaits_of_a_task_that_is_waited_for() -> None:
    held = 0

    async def inner() -> None:
        nonlocal held
        held += 1
        await asyncio.sleep(1)
        await asyncio.sleep(1)  # cancelled here it does not give back
        held -= 1

    async def outer() -> None:
        nonlocal held
        task = asyncio.create_task(inner())
        try:
            await task
        except asyncio.CancelledError:
            held -= not task.done() or task.cancelled()
            raise

    async def scenario(interruption: Interruption) -> None:
        nonlocal held
        held = 0
        await interruption(outer())
        assert held in (0, -1)

    cancel_at_every_await(scenario)
