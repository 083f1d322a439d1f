"""BatchedPolicy: who is put together, when the model is called, and what its errors do."""

from __future__ import annotations

import asyncio
import threading
import types
from typing import Any

import pytest

from openenv_async import serve
from openenv_async.rollouts import BatchedPolicy, Turn, collect_all
from openenv_async.testing import ManualClock
from tests.helpers import until
from tests.rollouts.environments import Counting
from tests.scheduling import run


class Gate:
    """A model that works until it is let go on; batches in the order of their calls."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.began = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)

    def __call__(self, observations: list[Any]) -> list[Any]:
        self.batches.append(observations)
        self.began.release()
        assert self.go_on.acquire(timeout=60)
        return [10 * value for value in observations]


async def began(gate: Gate) -> None:
    await until(lambda: gate.began.acquire(blocking=False))


async def test_what_comes_while_the_model_works_is_the_next_batch() -> None:
    gate = Gate()
    async with BatchedPolicy(gate, max_wait=0.0, max_batch=3) as policy:
        first = policy(1)
        await began(gate)
        later = [policy(value) for value in (2, 3, 4, 5)]
        gate.go_on.release()
        await began(gate)
        assert await first == 10
        gate.go_on.release(2)
        assert await asyncio.gather(*later) == [20, 30, 40, 50]
    assert gate.batches == [[1], [2, 3, 4], [5]]
    assert (policy.calls, policy.decisions) == (3, 5)
    assert policy.busy_time() > 0


async def test_a_full_batch_does_not_wait() -> None:
    async with BatchedPolicy(lambda values: values, max_wait=3600.0, max_batch=4) as policy:
        assert await asyncio.gather(*(policy(value) for value in range(4))) == [0, 1, 2, 3]
    assert policy.calls == 1


async def test_an_incomplete_batch_is_called_after_its_wait() -> None:
    sizes: list[int] = []

    async def model(values: list[int], turns: list[Turn]) -> list[int]:
        sizes.append(len(values))
        return [value + turn.t for value, turn in zip(values, turns, strict=True)]

    def turn(t: int) -> Turn:
        return Turn(0, t, None, None)  # type: ignore[arg-type]  # only its number is read

    async with BatchedPolicy(model, max_wait=0.01, max_batch=64, turns=True) as policy:
        calls = (policy(value, turn(value)) for value in range(5))
        assert await asyncio.gather(*calls) == [0, 2, 4, 6, 8]
    assert sizes == [5]


async def test_an_asynchronous_model_serves_several_batches_at_a_time() -> None:
    at_once = most = 0
    both = asyncio.Event()

    async def model(values: list[int]) -> list[int]:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        if at_once == 2:
            both.set()
        await both.wait()
        at_once -= 1
        return values

    async with BatchedPolicy(model, max_wait=0.0, max_batch=2, max_calls=2) as policy:
        assert await asyncio.gather(*(policy(value) for value in range(4))) == [0, 1, 2, 3]
    assert most == 2


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_what_the_model_raises_reaches_every_episode_of_its_batch(kind: str) -> None:
    def model(values: list[Any]) -> list[Any]:
        if "bad" in values:
            raise ArithmeticError("no weights")
        return values[:1] if "few" in values else values

    async def as_async(values: list[Any]) -> list[Any]:
        return model(values)

    async with BatchedPolicy(model if kind == "sync" else as_async, max_batch=2) as policy:
        for found in await asyncio.gather(policy("bad"), policy(1), return_exceptions=True):
            assert isinstance(found, ArithmeticError)
        for found in await asyncio.gather(policy("few"), policy(1), return_exceptions=True):
            assert "1 actions for 2" in str(found)
        assert await asyncio.gather(*(policy(value) for value in (1, 2))) == [1, 2]
    with pytest.raises(RuntimeError, match="closed"):
        await policy(1)


async def test_closing_waits_for_the_call_and_cancels_what_waits() -> None:
    gate = Gate()
    policy = BatchedPolicy(gate, max_wait=0.0)
    running = policy(1)
    await began(gate)
    waiting = policy(2)
    closing = asyncio.create_task(policy.aclose())
    await asyncio.sleep(0)
    assert waiting.cancelled()
    assert not closing.done()
    gate.go_on.release()
    await closing
    assert await running == 10
    await policy.aclose()


async def test_episodes_share_calls() -> None:
    async with (
        serve(Counting) as url,
        BatchedPolicy(lambda seen: [{"amount": 1}] * len(seen), max_batch=8) as policy,
    ):
        outcomes = await collect_all(url, policy, episodes=16, concurrency=16)
    assert [outcome.episode_return for outcome in outcomes] == [3.0] * 16
    assert policy.decisions == 48
    assert policy.calls < 24


async def test_the_environments_step_while_the_model_works() -> None:
    """Shows 6, the mechanism: with two batches of episodes the next one is always there."""
    gate = Gate()

    def model(seen: list[Any]) -> list[Any]:
        gate([0] * len(seen))
        return [{"amount": 1}] * len(seen)

    async with serve(Counting) as url, BatchedPolicy(model, max_batch=4, max_wait=3600) as policy:
        playing = asyncio.create_task(collect_all(url, policy, episodes=16, concurrency=8))
        for number in range(12):  # 16 episodes of 3 steps, 4 at a time
            await began(gate)
            if number < 10:
                await until(lambda: len(policy._waiting) == 4)
            gate.go_on.release()
        outcomes = await playing
    assert [outcome.episode_return for outcome in outcomes] == [3.0] * 16
    assert [len(batch) for batch in gate.batches] == [4] * 12


def test_settings_that_make_no_sense_are_told() -> None:
    with pytest.raises(ValueError, match="max_batch"):
        BatchedPolicy(list, max_batch=0)
    with pytest.raises(ValueError, match="max_wait"):
        BatchedPolicy(list, max_wait=-1.0)


# -- in virtual time ----------------------------------------------------------------------------


class Model:
    """An asynchronous model that takes its time; notes when each batch was called."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.calls: list[tuple[float, list[Any]]] = []

    async def __call__(self, values: list[Any]) -> list[Any]:
        self.calls.append((round(elapsed(), 6), values))
        await asyncio.sleep(self.seconds)
        return values


def elapsed() -> float:
    """Seconds since the scenario began."""
    return asyncio.get_running_loop().time() - ManualClock().now


@pytest.fixture
def virtual(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = types.SimpleNamespace(perf_counter=lambda: asyncio.get_running_loop().time())
    monkeypatch.setattr("openenv_async.rollouts.batching.time", clock)


@pytest.mark.usefixtures("virtual")
def test_a_batch_is_called_when_its_first_observation_has_waited_long_enough() -> None:
    async def scenario() -> None:
        model = Model()
        async with BatchedPolicy(model, max_wait=2.0, max_batch=3) as policy:
            first = policy("a")
            await asyncio.sleep(1.5)
            second = policy("b")
            assert [await first, await second] == ["a", "b"]
            await asyncio.sleep(10.0)
            third = policy("c")
            assert await third == "c"
        assert model.calls == [(2.0, ["a", "b"]), (14.0, ["c"])]

    run(scenario)


@pytest.mark.usefixtures("virtual")
def test_what_is_left_over_begins_to_wait_anew() -> None:
    async def scenario() -> None:
        model = Model()
        async with BatchedPolicy(model, max_wait=2.0, max_batch=2) as policy:
            first = policy("a")
            await asyncio.sleep(1.0)
            rest = [policy(value) for value in "bc"]
            assert await asyncio.gather(first, *rest) == ["a", "b", "c"]
        assert model.calls == [(1.0, ["a", "b"]), (3.0, ["c"])]

    run(scenario)


@pytest.mark.usefixtures("virtual")
def test_a_busy_model_is_called_again_once_it_is_free() -> None:
    async def scenario() -> None:
        model = Model(seconds=5.0)
        async with BatchedPolicy(model, max_wait=1.0, max_batch=2, max_calls=2) as policy:
            answers = [policy(value) for value in range(7)]
            assert await asyncio.gather(*answers) == list(range(7))
            assert (policy.calls, policy.decisions) == (4, 7)
        assert model.calls == [(0.0, [0, 1]), (0.0, [2, 3]), (5.0, [4, 5]), (6.0, [6])]

    run(scenario)


@pytest.mark.usefixtures("virtual")
def test_busy_time_counts_overlapping_calls_once() -> None:
    async def scenario() -> None:
        async with BatchedPolicy(Model(3.0), max_wait=0.0, max_batch=1, max_calls=2) as policy:
            first = policy("a")
            await asyncio.sleep(1.0)
            second = policy("b")
            assert policy.busy_time() == 1.0
            await first
            assert policy.busy_time() == 3.0
            await second
            assert policy.busy_time() == 4.0
            await asyncio.sleep(5.0)
            assert policy.busy_time() == 4.0

    run(scenario)


@pytest.mark.usefixtures("virtual")
def test_cancelled_episodes_are_in_no_batch() -> None:
    async def scenario() -> None:
        model = Model()
        async with BatchedPolicy(model, max_wait=1.0, max_batch=8) as policy:
            first, second, third = (policy(value) for value in "abc")
            second.cancel()
            assert [await first, await third] == ["a", "c"]
            lonely = policy("d")
            lonely.cancel()
            await asyncio.sleep(2.0)
            assert (policy.calls, policy.decisions) == (1, 2)
        assert [values for _, values in model.calls] == [["a", "c"]]

    run(scenario)


@pytest.mark.usefixtures("virtual")
def test_closing_cancels_a_call_and_the_timer_of_the_next() -> None:
    async def scenario() -> None:
        model = Model(seconds=60.0)
        policy = BatchedPolicy(model, max_wait=0.0, max_batch=1, max_calls=1)
        running, waiting = policy("a"), policy("b")
        await asyncio.sleep(1.0)
        await policy.aclose()
        assert running.cancelled()
        assert waiting.cancelled()
        assert elapsed() == 1.0
        with pytest.raises(RuntimeError, match="closed"):
            await policy("c")
        idle = BatchedPolicy(model, max_wait=9.0)
        timed = idle("a")
        await asyncio.sleep(1.0)
        await idle.aclose()
        assert timed.cancelled()
        assert len(model.calls) == 1

    run(scenario)


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_actions_are_copied_before_the_next_call(kind: str) -> None:
    buffer = [{"move": 0}]

    def model(values: list[int]) -> list[dict[str, int]]:
        buffer[0]["move"] = values[0]
        return buffer

    async def as_async(values: list[int]) -> list[dict[str, int]]:
        return model(values)

    async with BatchedPolicy(
        model if kind == "sync" else as_async, max_wait=0.0, max_batch=1
    ) as policy:
        assert await asyncio.gather(*(policy(value) for value in range(5))) == [
            {"move": value} for value in range(5)
        ]


@pytest.mark.parametrize(
    ("made", "error", "message"),
    [(3, TypeError, "not iterable"), ([], ValueError, "0 actions for 1 observations")],
)
async def test_answers_that_are_no_batch_are_errors(
    made: Any, error: type[Exception], message: str
) -> None:
    async with BatchedPolicy(lambda values: made, max_wait=0.0) as policy:
        with pytest.raises(error, match=message):
            await policy(1)


async def test_the_end_of_an_iterator_is_an_error_that_a_future_takes() -> None:
    def model(values: list[Any]) -> list[Any]:
        raise StopIteration

    async with BatchedPolicy(model, max_wait=0.0) as policy:
        with pytest.raises(RuntimeError, match="StopIteration"):
            await policy(1)


async def test_closing_ends_as_many_threads_as_there_may_be_calls() -> None:
    def threads() -> int:
        return sum(each.name.startswith("openenv-policy") for each in threading.enumerate())

    before = threads()
    policy = BatchedPolicy(lambda values: values, max_wait=0.0, max_calls=3)
    assert threads() == before  # none before the first observation
    assert await policy(1) == 1
    assert threads() == before + 3
    await policy.aclose()
    await until(lambda: threads() == before)


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(TypeError, match="fn must be callable"):
        BatchedPolicy(3)  # type: ignore[arg-type]  # the point
    with pytest.raises(ValueError, match="max_calls"):
        BatchedPolicy(list, max_calls=0)
    with pytest.raises(ValueError, match="max_wait must be a number"):
        BatchedPolicy(list, max_wait=float("nan"))
