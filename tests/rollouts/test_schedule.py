"""The schedule: numbers, groups, seeds and tasks of episodes, in the order in which they begin."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import pytest

from openenv_async import Environment, Outcome, OutcomeStatus, StepResult
from openenv_async.errors import InvalidTasks
from openenv_async.rollouts import Retire, Summary, TaskSet, collect_all
from openenv_async.rollouts.schedule import Planned, Schedule

ROWS = [{"id": f"t{number}", "goal": number} for number in range(5)]


def scheduled(schedule: Schedule) -> list[Planned]:
    """All episodes of a schedule without tasks."""
    found = []
    while (planned := schedule.take()) is not None:
        found.append(planned)
    return found


async def drained(schedule: Schedule) -> list[Planned]:
    """All episodes of a schedule, each once its task is there."""
    found = []
    while await schedule.ready():
        planned = schedule.take()
        if planned is not None:  # else those that were there are not wanted
            found.append(planned)
    return found


def ended(planned: Planned, value: float | None = 1.0, status: str = "completed") -> Outcome:
    return Outcome(planned.index, OutcomeStatus(status), episode_return=value)


def test_without_groups_episodes_have_numbers_and_seeds_only() -> None:
    found = scheduled(Schedule(episodes=3, seeds=7))
    assert found == [Planned(0, seed=7), Planned(1, seed=8), Planned(2, seed=9)]
    assert [each.seed for each in scheduled(Schedule(episodes=2))] == [None, None]
    assert [each.seed for each in scheduled(Schedule(episodes=2, seeds=[4, 1]))] == [4, 1]


def test_a_group_has_one_seed_and_members() -> None:
    found = scheduled(Schedule(episodes=6, group_size=3, seeds=7))
    assert [(each.group, each.member, each.seed) for each in found] == [
        (0, 0, 7), (0, 1, 7), (0, 2, 7), (1, 0, 8), (1, 1, 8), (1, 2, 8),
    ]  # fmt: skip
    drawn = [scheduled(Schedule(episodes=4, group_size=2)) for _ in range(20)]
    assert all(a.seed == b.seed and c.seed == d.seed != a.seed for a, b, c, d in drawn)
    assert len({found[0].seed for found in drawn}) > 1


def test_what_is_played_again_comes_first_as_it_was() -> None:
    schedule = Schedule(episodes=3, seeds=7)
    first = schedule.take()
    assert first is not None
    schedule.again(first)
    assert [(each.index, each.seed, each.attempts) for each in scheduled(schedule)] == [
        (0, 7, 2), (1, 8, 1), (2, 9, 1),
    ]  # fmt: skip


async def test_each_group_has_the_next_task() -> None:
    schedule = Schedule(episodes=None, group_size=2, source=TaskSet(ROWS))
    await schedule.open(None)
    assert schedule.total == 10
    found = await drained(schedule)
    assert [each.task.id for each in found if each.task] == [
        f"t{number}" for number in range(5) for _ in range(2)
    ]
    assert not schedule.left()
    await schedule.aclose()


async def test_episodes_limit_the_tasks() -> None:
    schedule = Schedule(episodes=4, group_size=2, source=TaskSet(ROWS))
    await schedule.open(None)
    assert len(await drained(schedule)) == schedule.total == 4
    await schedule.aclose()


async def test_the_seed_of_a_task_comes_first() -> None:
    rows = [{"id": "a", "seed": 3}, {"id": "b"}]
    schedule = Schedule(episodes=None, seeds=7, source=TaskSet(rows))
    await schedule.open(None)
    assert [each.seed for each in await drained(schedule)] == [None, 8]
    await schedule.aclose()


async def test_what_is_not_wanted_is_passed_over() -> None:
    tasks = TaskSet(ROWS)
    schedule = Schedule(
        episodes=None,
        group_size=2,
        source=tasks,
        wanted=lambda planned: planned.index != 1 and planned.group != 3,
    )
    await schedule.open(None)
    found = await drained(schedule)
    assert [each.index for each in found] == [0, 2, 3, 4, 5, 8, 9]
    for each in found:
        schedule.handed_over(ended(each))
    assert tasks.finished == 5
    await schedule.aclose()


async def test_a_task_is_finished_when_its_group_was_handed_over_with_results() -> None:
    tasks = TaskSet(ROWS)
    schedule = Schedule(episodes=None, group_size=2, source=tasks)
    await schedule.open(None)
    found = await drained(schedule)
    for each in found[:5]:
        schedule.handed_over(ended(each))
    assert (tasks.handed_out, tasks.finished) == (5, 2)
    schedule.handed_over(ended(found[6], None, "infra_error"))
    schedule.handed_over(ended(found[7]))
    schedule.handed_over(ended(found[8]))
    schedule.handed_over(ended(found[9], None, "policy_error"))
    assert (tasks.handed_out, tasks.finished) == (5, 3)
    await schedule.aclose()

    again = Schedule(episodes=None, source=tasks)
    await again.open(None)
    assert [each.task.id for each in await drained(again) if each.task] == ["t2", "t3"]
    await again.aclose()


@pytest.mark.parametrize(
    "returns",
    [(math.inf, -math.inf), (math.inf, math.inf), (1.7e308, 1.7e308), (1e200, -1e200)],
    ids=["infinite", "one infinity", "sum", "square"],
)
async def test_returns_of_any_size_lose_no_outcome_and_retire_by_what_is_finite(
    returns: tuple[float, float],
) -> None:
    class Pays(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
        isolation = "inline"

        def reset(self, goal: int = 0) -> dict[str, Any]:
            return {}

        def step(self, action: dict[str, Any]) -> StepResult[dict[str, Any]]:
            return StepResult({}, action["pay"], True)

    tasks = TaskSet(ROWS, retire=Retire(solved=1e300, window=1))
    summary = Summary()
    outcomes = await collect_all(
        Pays,
        lambda observation, turn: {"pay": returns[turn.index % 2]},
        tasks=tasks,
        group_size=2,
        summary=summary,
    )
    assert [outcome.episode_return for outcome in outcomes] == [*returns] * len(ROWS)
    assert len(tasks.retired) == (len(ROWS) if returns[1] == 1.7e308 else 0)
    assert json.loads(json.dumps(summary.as_dict(), allow_nan=False))["returns"] == 2 * len(ROWS)


async def test_the_rest_of_tasks_that_are_known_by_id() -> None:
    schedule = Schedule(episodes=None, group_size=2, source=TaskSet(ROWS), ahead=1)
    await schedule.open(None)
    assert await schedule.ready()
    taken = schedule.take()
    assert taken is not None
    rest = list(schedule.rest())
    assert [(each.index, each.task.id) for each in [taken, *rest] if each.task] == [
        (number, f"t{number // 2}") for number in range(10)
    ]
    await schedule.aclose()


async def test_an_error_of_the_tasks_ends_them_and_is_kept() -> None:
    def rows() -> Any:
        yield from ROWS[:2]
        raise OSError("the disk is gone")

    ends: list[bool] = []
    schedule = Schedule(episodes=None, source=TaskSet(rows()))
    schedule.on_end = lambda: ends.append(schedule.left())
    await schedule.open(None)
    assert schedule.total is None
    assert len(await drained(schedule)) == 2
    assert ends in ([], [False])
    assert isinstance(schedule.error, InvalidTasks)
    assert "row 2 of generator cannot be read: OSError: the disk is gone" in str(schedule.error)
    await schedule.aclose()


@pytest.mark.parametrize("ahead", [1, 3, 64])
async def test_tasks_are_read_ahead_but_not_too_far(ahead: int) -> None:
    read: list[int] = []

    def rows() -> Any:
        for number in range(200):
            read.append(number)
            yield {"id": number}

    schedule = Schedule(episodes=None, source=TaskSet(rows()), ahead=ahead)
    await schedule.open(None)
    for number in range(100):
        assert await schedule.ready()
        planned = schedule.take()
        assert planned is not None
        assert planned.task is not None
        assert planned.task.id == str(number)
        assert len(read) <= number + 1 + ahead
    await schedule.aclose()


async def test_an_iterable_that_hangs_keeps_nobody() -> None:
    release = asyncio.Event()
    hangs = asyncio.Event()
    loop = asyncio.get_running_loop()

    def rows() -> Any:
        yield {"id": 1}
        loop.call_soon_threadsafe(hangs.set)
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result()
        yield {"id": 2}

    tasks = TaskSet(rows())
    schedule = Schedule(episodes=None, source=tasks, ahead=4)
    await schedule.open(None)
    assert await schedule.ready()
    assert schedule.take() is not None
    await hangs.wait()
    assert tasks.position()["open"] == [[0, 0]]
    await schedule.aclose()
    release.set()

    again = Schedule(episodes=None, source=tasks)  # what was read too late is not lost
    await again.open(None)
    assert [each.task.id for each in await drained(again) if each.task] == ["1", "2"]
    await again.aclose()
