"""AsyncWriter: in order, with backpressure, errors told, nothing lost."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openenv_async import Outcome, OutcomeStatus
from openenv_async.errors import InvalidModel
from openenv_async.rollouts import (
    AsyncWriter,
    StreamedEpisode,
    Trajectory,
    TrajectoryWriter,
    Transition,
    open_writer,
    read_trajectories,
)
from openenv_async.rollouts.writing import _size_of


class Gate(TrajectoryWriter):
    """A writer that writes when it is let, and refuses episodes with a wrong index."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header = {}
        self.open = threading.Event()
        self.began = threading.Semaphore(0)
        self.written: list[int] = []
        self.threads: set[int] = set()
        self.closed = 0
        self.close_error: Exception | None = None

    def write(self, episode: Any) -> None:
        self.threads.add(threading.get_ident())
        self.began.release()
        assert self.open.wait(60)
        if episode.index < 0:
            raise InvalidModel(f"episode {episode.index} cannot be written")
        self.written.append(episode.index)

    def close(self) -> None:
        self.closed += 1
        if self.close_error is not None:
            raise self.close_error


def episode(index: int) -> Outcome:
    return Outcome(index, OutcomeStatus.COMPLETED)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
async def test_an_episode_is_on_the_disk_when_write_returns(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"file.{suffix}"
    async with AsyncWriter(open_writer(path)) as writer:
        for index in range(3):
            await writer.write(episode(index))
            assert [t.index for t in read_trajectories(path)] == list(range(index + 1))
        for index in range(3, 9):
            await writer.write_soon(episode(index))
    assert [t.index for t in read_trajectories(path)] == list(range(9))
    assert os.listdir(tmp_path) == [path.name]


async def test_another_thread_writes_in_order(tmp_path: Path) -> None:
    gate = Gate(tmp_path / "file")
    async with AsyncWriter(gate) as writer:
        writes = [asyncio.create_task(writer.write(episode(index))) for index in range(20)]
        await asyncio.to_thread(gate.began.acquire)
        assert not any(task.done() for task in writes)
        gate.open.set()
        await asyncio.gather(*writes)
    assert gate.written == list(range(20))
    assert gate.closed == 1
    assert len(gate.threads) == 1
    assert threading.get_ident() not in gate.threads


@pytest.mark.parametrize("limits", [{"max_waiting": 2}, {"max_waiting_size": 128}])
async def test_a_full_queue_holds_the_next_back(tmp_path: Path, limits: dict[str, Any]) -> None:
    gate = Gate(tmp_path / "file")
    async with AsyncWriter(gate, **limits) as writer:
        for index in range(2):
            await writer.write_soon(episode(index))
        third = asyncio.create_task(writer.write_soon(episode(2)))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(third), 0.05)
        gate.open.set()
        await third
    assert gate.written == [0, 1, 2]


async def test_one_episode_of_any_size_is_taken(tmp_path: Path) -> None:
    gate = Gate(tmp_path / "file")
    gate.open.set()
    async with AsyncWriter(gate, max_waiting_size=1) as writer:
        await writer.write_soon(episode(0))
        await writer.write_soon(episode(1))
    assert gate.written == [0, 1]


async def test_an_error_is_told_to_who_waits_else_at_the_next_write(tmp_path: Path) -> None:
    gate = Gate(tmp_path / "file")
    gate.open.set()
    async with AsyncWriter(gate) as writer:
        with pytest.raises(InvalidModel, match="episode -1"):
            await writer.write(episode(-1))
        await writer.write_soon(episode(-2))
        await writer.write(episode(3))
        with pytest.raises(InvalidModel, match="episode -2"):
            await writer.write_soon(episode(4))  # which is taken
        await writer.write_soon(episode(5))
    assert gate.written == [3, 4, 5]


async def test_an_error_that_nobody_heard_of_is_told_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate(tmp_path / "file")
    gate.open.set()
    gate.close_error = OSError("no space")
    writer = AsyncWriter(gate)
    await writer.write_soon(episode(-1))
    with pytest.raises(InvalidModel, match="episode -1"):
        await writer.aclose()
    assert "no space" in caplog.text
    await writer.aclose()
    assert gate.closed == 1
    with pytest.raises(ValueError, match="is closed: open another"):
        await writer.write(episode(1))


async def test_an_error_of_the_block_is_the_one_that_is_raised(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate(tmp_path / "file")
    gate.open.set()

    async def failing() -> None:
        async with AsyncWriter(gate) as writer:
            await writer.write_soon(episode(-1))
            await writer.write_soon(episode(2))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await failing()
    assert (gate.written, gate.closed) == ([2], 1)
    assert "episode -1 cannot be written" in caplog.text


async def test_cancelled_it_writes_what_waits_and_closes(tmp_path: Path) -> None:
    gate = Gate(tmp_path / "file")

    async def main() -> None:
        async with AsyncWriter(gate) as writer:
            for index in range(5):
                await writer.write_soon(episode(index))
            await writer.write(episode(5))

    task = asyncio.create_task(main())
    await asyncio.to_thread(gate.began.acquire)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    gate.open.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gate.written[:5] == [0, 1, 2, 3, 4]
    assert gate.closed == 1


async def test_a_writer_that_wrote_nothing_closes_its_file(tmp_path: Path) -> None:
    gate = Gate(tmp_path / "file")
    async with AsyncWriter(gate):
        pass
    assert gate.closed == 1


async def test_a_hook_hears_of_each_episode_that_could_not_be_written(tmp_path: Path) -> None:
    gate = Gate(tmp_path / "file")
    gate.open.set()
    errors: list[Exception] = []
    async with AsyncWriter(gate, on_error=errors.append) as writer:
        for index in (-1, 2, -3):
            await writer.write_soon(episode(index))
    assert [str(error)[:10] for error in errors] == ["episode -1", "episode -3"]
    assert gate.written == [2]


async def _longest_stall(write: Callable[[Outcome], Awaitable[None]], outcomes: int) -> float:
    """Return how long the loop was held at most while episodes of 24 MB were written.

    In seconds of this process, which stand still while others have the machine.
    """
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        before = time.process_time()
        while True:
            await asyncio.sleep(0)
            now = time.process_time()
            longest = max(longest, now - before)
            before = now

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    for index in range(outcomes):
        frames = [np.full((1024, 1024, 6), index + t, np.uint8) for t in range(4)]
        steps = [Transition(t, {"frame": frame, "t": t}, 0) for t, frame in enumerate(frames)]
        await asyncio.sleep(0)
        trajectory: Trajectory[Any, Any] = Trajectory(index, transitions=steps)
        await write(Outcome(index, OutcomeStatus.COMPLETED, trajectory=trajectory))
    watching.cancel()
    return longest


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
async def test_the_loop_goes_on_while_megabytes_are_written(tmp_path: Path, suffix: str) -> None:
    """Measured beside the writer itself, which holds the loop for as long as it takes."""
    with open_writer(tmp_path / f"blocking.{suffix}") as blocking:

        async def write(outcome: Outcome) -> None:
            blocking.write(outcome)

        held = await _longest_stall(write, 2)
    async with AsyncWriter(open_writer(tmp_path / f"file.{suffix}")) as writer:
        free = min([await _longest_stall(writer.write, 2) for _ in range(3)])
    assert free < held / 3, f"{free * 1e3:.1f} ms instead of {held * 1e3:.1f} ms"
    read = list(read_trajectories(tmp_path / f"file.{suffix}"))
    assert [t.transitions[1].observation["frame"][0, 0, 0] for t in read] == [1, 2] * 3


@pytest.mark.parametrize("limits", [{"max_waiting": 0}, {"max_waiting_size": -1}])
def test_limits_are_checked(tmp_path: Path, limits: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(limits))} must be"):
        AsyncWriter(Gate(tmp_path / "file"), **limits)


def test_the_size_of_an_episode_is_about_that_of_its_observations() -> None:
    pixels = np.zeros((100, 100), np.uint8)
    for observation in (pixels, {"pixels": pixels}, [pixels], "x" * 10_000, b"x" * 10_000):
        trajectory = Trajectory(0, transitions=[Transition(t, observation, 0) for t in range(10)])
        outcome = Outcome(0, OutcomeStatus.COMPLETED, trajectory=trajectory)
        for each in (trajectory, outcome, StreamedEpisode(outcome, 0, 0, ())):
            assert 100_000 <= _size_of(each) < 110_000
    assert 0 < _size_of(episode(0)) < 1000
