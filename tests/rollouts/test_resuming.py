"""Runs that stop and go on: each episode once, whatever stopped them."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from openenv_async import Outcome, OutcomeStatus, StepResult
from openenv_async.errors import (
    ConnectionLost,
    InvalidTasks,
    RunError,
    RunInUse,
    RunMismatch,
    RunNotWritten,
)
from openenv_async.rollouts import (
    EpisodeKey,
    Retire,
    RunFolder,
    TaskSet,
    VersionedPolicy,
    collect,
    collect_all,
    stream,
    stream_groups,
)
from tests.rollouts.environments import Counting, Move, Seen

ROWS: list[dict[str, Any]] = [
    {"id": f"task-{number}", "goal": 1 + number % 3} for number in range(10)
]


def one(observation: Any) -> dict[str, int]:
    return {"amount": 1}


def two(observation: Any) -> dict[str, int]:
    return {"amount": 2}


async def part(path: Path, count: int, **options: Any) -> list[Outcome]:
    """The first outcomes of a run that is left then."""
    found = []
    async with contextlib.aclosing(collect(Counting, one, run=path, **options)) as outcomes:
        async for outcome in outcomes:
            found.append(outcome)
            if len(found) == count:
                break
    return found


async def test_only_what_is_missing_is_played(tmp_path: Path) -> None:
    path = tmp_path / "run"
    options: dict[str, Any] = {"tasks": ROWS, "group_size": 2, "concurrency": 3}
    first = await part(path, 7, **options)
    before = RunFolder.view(path)
    assert len(first) == 7 <= len(before.keys) < 20
    rest = await collect_all(Counting, one, run=path, **options)
    with RunFolder.open(path) as folder:
        outcomes = list(folder.outcomes())
        assert len(rest) == 20 - len(before.keys)
        assert Counter((each.task.id, each.member) for each in outcomes if each.task) == {
            (row["id"], member): 1 for row in ROWS for member in (0, 1)
        }
        assert not {each.index for each in rest} & {each.index for each in before.outcomes()}
        assert all(each.steps == int(str(each.task.data["goal"])) for each in outcomes if each.task)
        assert (folder.status().wanted, folder.status().missing) == (20, 0)
    assert await collect_all(Counting, one, run=path, **options) == []


async def test_an_outcome_is_on_disk_before_it_is_delivered(tmp_path: Path) -> None:
    path = tmp_path / "run"
    async for outcome in collect(Counting, one, run=path, episodes=12, seeds=3, concurrency=4):
        found = RunFolder.view(path).outcome(EpisodeKey(f"#{outcome.index}"))
        assert found is not None
        assert found.episode == outcome.episode
        assert found.trajectory is not None
        assert found.trajectory.run == RunFolder.view(path).id


async def test_a_run_may_be_made_longer(tmp_path: Path) -> None:
    path = tmp_path / "run"
    assert len(await collect_all(Counting, one, run=path, episodes=5, seeds=10)) == 5
    more = await collect_all(Counting, one, run=path, episodes=8, seeds=10)
    assert [each.episode.seed for each in more if each.episode] == [15, 16, 17]
    assert [each.index for each in more] == [5, 6, 7]


async def test_what_was_cancelled_is_played_again(tmp_path: Path) -> None:
    path = tmp_path / "run"
    outcomes = await collect_all(
        Counting, one, run=path, episodes=30, concurrency=2, min_episodes=4
    )
    statuses = Counter(each.status for each in outcomes)
    assert len(outcomes) == 30
    assert statuses[OutcomeStatus.CANCELLED] > 0
    kept = len(RunFolder.view(path).keys)
    assert kept == 30 - statuses[OutcomeStatus.CANCELLED]
    rest = await collect_all(Counting, one, run=path, episodes=30)
    assert len(rest) == 30 - kept
    assert RunFolder.view(path).status().missing == 0


async def test_one_that_is_lost_is_played_again_and_then_abandoned(tmp_path: Path) -> None:
    begun: Counter[str] = Counter()

    class Losing:
        """A client whose episodes of one task are always lost, and of another once."""

        async def reset(self, **options: Any) -> Any:
            self.task = str(options["name"])
            begun[self.task] += 1
            return StepResult(Seen(0))

        async def step(self, action: Any) -> Any:
            lost = self.task == "b" or (self.task == "c" and begun["c"] == 1)
            if lost:
                raise ConnectionLost("gone", phase="step")
            return StepResult(Seen(1), 1.0, terminated=True)

    tasks = [{"id": each, "name": each} for each in "abc"]
    outcomes = await collect_all(lambda: Losing(), one, run=tmp_path / "run", tasks=tasks)
    by_task = {each.task.id: each for each in outcomes if each.task}
    assert begun == {"a": 1, "b": 3, "c": 2}
    assert by_task["b"].status is OutcomeStatus.INFRA_ERROR
    assert (by_task["b"].attempts, by_task["c"].attempts) == (3, 2)
    with RunFolder.open(tmp_path / "run") as folder:
        assert dict(folder.status().results) == {"abandoned": 1, "degraded": 1, "good": 1}
        assert await collect_all(lambda: Losing(), one, run=folder, tasks=tasks) == []
    with RunFolder.open(tmp_path / "run", retry_failed=True) as folder:
        again = await collect_all(lambda: Losing(), one, run=folder, tasks=tasks)
        assert [each.task.id for each in again if each.task] == ["b"]


async def test_a_server_that_is_down_uses_up_no_attempts(tmp_path: Path) -> None:
    tasks = [{"id": each, "goal": 1} for each in "abc"]
    for _ in range(4):
        outcomes = await collect_all(
            "http://127.0.0.1:9", one, run=tmp_path / "run", tasks=tasks, token="t"
        )
        assert {each.status for each in outcomes} == {OutcomeStatus.INFRA_ERROR}
    status = RunFolder.view(tmp_path / "run").status()
    assert (status.finished, status.lost_attempts, status.missing) == (0, 0, 3)


# -- another run ----------------------------------------------------------------------------------


async def test_a_run_of_something_else_is_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "run"
    options: dict[str, Any] = {"tasks": ROWS, "max_steps": 5}
    await part(path, 3, concurrency=1, max_ahead=1, **options)
    kept = RunFolder.view(path).keys

    class Other(Counting):
        def step(self, action: Move) -> Any:
            return super().step(action)

        def reset(self, seed: int | None = None, goal: int | None = None, **more: Any) -> Seen:
            return super().reset(seed, goal)

    changed = [*ROWS[:9], {"id": "task-9", "goal": 7}]
    others: list[tuple[str, Any, Any, dict[str, Any]]] = [
        ("other policies: .*one.*two", Counting, two, options),
        ("other settings: max_steps was 5", Counting, one, {**options, "max_steps": 6}),
        ("other tasks: .*rows was 10 .*is 9", Counting, one, {**options, "tasks": ROWS[:9]}),
        ("other tasks: .*digest", Counting, one, {**options, "tasks": changed}),
        ("other tasks: group_size was 1", Counting, one, {**options, "group_size": 2}),
        ("other environments: name was 'Counting'", Other, one, options),
    ]
    for message, environment, policy, given in others:
        with pytest.raises(RunMismatch, match=message):
            await collect_all(environment, policy, run=path, **given)
    assert RunFolder.view(path).keys == kept
    with RunFolder.open(path, force=True) as folder:
        rest = await collect_all(Counting, two, run=folder, **options)
    assert len(rest) == 10 - len(kept)
    assert [each["part"] for each in RunFolder.view(path).manifest["changes"]] == ["policy"]


async def test_tasks_that_are_read_as_they_go_are_compared_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "run"
    await collect_all(Counting, one, run=path, tasks=iter(ROWS[:4]))
    changed = [{**ROWS[0], "goal": 9}, *ROWS[1:]]
    with pytest.raises(RunMismatch, match="the columns of task 'task-0' are not those"):
        await collect_all(Counting, one, run=path, tasks=iter(changed))
    rest = await collect_all(Counting, one, run=path, tasks=iter(ROWS))
    assert [each.task.id for each in rest if each.task] == [f"task-{n}" for n in range(4, 10)]


async def test_what_cannot_be_a_run_is_refused_before_anything_is_played(tmp_path: Path) -> None:
    no_path: Any = 3
    file = tmp_path / "runs.jsonl"
    file.touch()
    with pytest.raises(RunError, match="is a file"):
        await collect_all(Counting, one, run=file, episodes=1)
    with pytest.raises(TypeError, match="run must be a RunFolder or the path of one, got int"):
        await collect_all(Counting, one, run=no_path, episodes=1)
    with RunFolder.create(tmp_path / "run"), pytest.raises(RunInUse, match="is being written by"):
        await collect_all(Counting, one, run=tmp_path / "run", episodes=1)


async def test_a_full_disk_ends_the_run_and_nothing_that_was_delivered_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    real, room = os.write, 6

    def full(file: int, data: Any) -> int:
        nonlocal room
        if b"openenv_run" in bytes(data):
            room -= 1
            if room < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, data)

    delivered: list[int] = []

    async def deliver() -> None:
        async for outcome in collect(Counting, one, run=path, episodes=40, concurrency=1):
            delivered.append(outcome.index)  # noqa: PERF401  # those before the error count

    with monkeypatch.context() as patch:
        patch.setattr("openenv_async.rollouts.run_journal.os.write", full)
        with pytest.raises(RunNotWritten, match="No space left"):
            await deliver()
    assert set(delivered) == {outcome.index for outcome in RunFolder.view(path).outcomes()}
    assert 6 <= len(delivered) < 40
    rest = await collect_all(Counting, one, run=path, episodes=40)
    assert sorted([*delivered, *(each.index for each in rest)]) == list(range(40))


# -- streams --------------------------------------------------------------------------------------


async def test_a_group_with_members_of_before_and_now_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "run"
    options: dict[str, Any] = {"tasks": ROWS, "concurrency": 5}
    with RunFolder.create(path) as folder:
        played = [*range(5), 8, 17, 18, 19]
        await collect_all(Counting, one, run=folder, group_size=4, only=played, **options)
    before = RunFolder.view(path)
    whole = {row["id"] for row in ROWS if sum(key.task == row["id"] for key in before.keys) == 4}
    assert len(before.keys) == 9
    assert whole == {"task-0"}
    groups = [
        group async for group in stream_groups(Counting, one, run=path, group_size=4, **options)
    ]
    ids = []
    for group in groups:
        tasks = [each.outcome.task for each in group.episodes]
        ids.append(tasks[0].id if tasks[0] else "")
        assert {task.id for task in tasks if task} == {ids[-1]}
        assert [each.member for each in group.episodes] == [0, 1, 2, 3]
        assert {each.outcome.group for each in group.episodes} == {group.index}
        goal = float(ROWS[group.index]["goal"])
        assert group.returns == [goal] * 4
    assert sorted(ids) == sorted({row["id"] for row in ROWS} - whole)
    after = RunFolder.view(path)
    assert len(after.keys) == len(set(after.keys)) == 40


async def test_a_seed_that_was_drawn_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "run"
    async with stream_groups(Counting, one, run=path, group_size=2, groups=6) as groups:
        first = await anext(groups)
    seed = RunFolder.view(path).manifest["seed"]
    rest = [group async for group in stream_groups(Counting, one, run=path, group_size=2, groups=6)]
    for group in (first, *rest):
        seeds = {each.outcome.episode.seed for each in group.episodes if each.outcome.episode}
        assert seeds == {seed + group.index}
    assert len(RunFolder.view(path).keys) == 12


async def test_the_versions_of_a_policy_are_on_disk(tmp_path: Path) -> None:
    policy = VersionedPolicy(one, version=5)
    async with stream(Counting, policy, run=tmp_path / "run", episodes=3, seed=1) as episodes:
        async for episode in episodes:
            assert episode.versions == (5, 5, 5)
    for outcome in RunFolder.view(tmp_path / "run").outcomes():
        assert outcome.trajectory is not None
        assert outcome.trajectory.policy_versions == (5, 5, 5)
        assert outcome.group == outcome.index


# -- processes that are killed --------------------------------------------------------------------


SCRIPT = """
import asyncio, sys
from openenv_async.rollouts import collect
from tests.rollouts.test_resuming import Counting, one

async def main():
    tasks = [{"id": f"task-{n}", "goal": 1 + n % 40} for n in range(60)]
    stream = collect(Counting, one, run=sys.argv[1], tasks=tasks, group_size=4, concurrency=16)
    async for outcome in stream:
        print(outcome.task.id, outcome.member, outcome.steps, flush=True)

asyncio.run(main())
"""


def test_a_process_that_is_killed_loses_nothing_that_it_told(tmp_path: Path) -> None:
    path = tmp_path / "run"
    told: Counter[tuple[str, int]] = Counter()
    kills = 0
    for wanted in (1, 7, 30, 60, 90, 1000):
        with subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(path)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for count, line in enumerate(process.stdout, 1):
                if not line.endswith("\n"):
                    break  # it was killed while it told this
                task, member, _ = line.split()
                told[task, int(member)] += 1
                if count == wanted:
                    process.send_signal(signal.SIGKILL)
                    kills += 1
        kept = {(key.task, key.member) for key in RunFolder.view(path).keys}
        assert set(told) <= kept
    assert kills >= 3
    every = {(f"task-{n}", member) for n in range(60) for member in range(4)}
    outcomes = list(RunFolder.view(path).outcomes())
    assert Counter((each.task.id, each.member) for each in outcomes if each.task) == dict.fromkeys(
        every, 1
    )
    assert set(told.values()) == {1}  # nothing was told twice
    for each in outcomes:
        assert each.task is not None
        assert each.steps == each.task.data["goal"] == each.episode_return


async def test_a_finished_run_needs_no_session(tmp_path: Path) -> None:
    path = tmp_path / "run"
    made = 0

    def client() -> Playing:
        nonlocal made
        made += 1
        return Playing()

    options: dict[str, Any] = {"tasks": ROWS, "group_size": 2, "run": path}
    assert len(await collect_all(client, one, **options)) == 20
    assert made > 0
    made = 0
    assert await collect_all(client, one, **options) == []
    assert made == 0


class Playing:
    """A client that ends each episode with its first step."""

    async def reset(self, **options: Any) -> StepResult[Seen]:
        return StepResult(Seen(0))

    async def step(self, action: Any) -> StepResult[Seen]:
        return StepResult(Seen(1), 1.0, terminated=True)


async def test_two_collections_do_not_play_one_run_at_once(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run") as folder:
        async with contextlib.aclosing(
            collect(Counting, one, run=folder, episodes=4, concurrency=1)
        ) as outcomes:
            await anext(outcomes)
            with pytest.raises(RunInUse, match="another collection of this process"):
                await collect_all(Counting, one, run=folder, episodes=4)
        assert len(await collect_all(Counting, one, run=folder, episodes=4)) < 4
        assert folder.status().missing == 0


async def test_a_run_that_has_enough_plays_no_more(tmp_path: Path) -> None:
    options: dict[str, Any] = {"run": tmp_path / "run", "episodes": 20, "concurrency": 2}
    await collect_all(Counting, one, min_episodes=5, **options)
    kept = len(RunFolder.view(tmp_path / "run").keys)
    assert 5 <= kept < 20
    again = await collect_all(Counting, one, min_episodes=5, **options)
    assert {each.status for each in again} == {OutcomeStatus.CANCELLED}
    assert len(again) == 20 - kept
    await collect_all(Counting, one, min_episodes=kept + 3, **options)
    assert kept + 3 <= len(RunFolder.view(tmp_path / "run").keys) < 20


async def test_what_was_played_before_counts_for_the_retirement_of_tasks(tmp_path: Path) -> None:
    """Solved tasks stay retired; without their returns they would be given three times each."""

    def tasks() -> TaskSet:
        return TaskSet(ROWS, epochs=3, retire=Retire(solved=1.0, window=1))

    path = tmp_path / "run"
    first = await collect_all(Counting, one, run=path, tasks=tasks(), concurrency=1, episodes=10)
    assert len(first) == 10
    source = tasks()
    assert await collect_all(Counting, one, run=path, tasks=source, concurrency=1) == []
    assert sorted(source.retired) == sorted(row["id"] for row in ROWS)


async def test_after_a_refused_start_the_mended_tasks_are_played_in_the_same_folder(
    tmp_path: Path,
) -> None:
    rows = [{"id": "a", "gaol": 1}, {"id": "b", "goal": 2}]
    with pytest.raises(InvalidTasks, match="'gaol', which is not an option of reset"):
        await collect_all(Counting, one, tasks=rows, run=tmp_path / "run")
    rows[0] = {"id": "a", "goal": 1}
    outcomes = await collect_all(Counting, one, tasks=rows, run=tmp_path / "run")
    assert [outcome.steps for outcome in outcomes] == [1, 2]
    assert await collect_all(Counting, one, tasks=rows, run=tmp_path / "run") == []
