"""Sources of tasks: rows of any kind, their ids and columns, order, position and retirement."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from openenv_async import Environment, OutcomeStatus, StepResult, serve
from openenv_async.errors import InvalidTasks
from openenv_async.pool import EnvPool, SyncEnvPool
from openenv_async.rollouts import (
    TaskSet,
    Turn,
    collect,
    collect_all,
    rollout,
    stream,
    stream_groups,
)
from openenv_async.rollouts.tasks import Draw, TaskSource, as_source, as_task
from openenv_async.types import Task

ROWS: list[dict[str, Any]] = [{"id": f"t{number}", "goal": number} for number in range(1, 6)]


def drawn(source: TaskSource, count: int | None = None) -> list[Draw]:
    """The next draws, all of them by default."""
    source.prepare()
    return list(itertools.islice(iter(source.draw, None), count))


def ids(source: TaskSource, count: int | None = None) -> list[str]:
    return [draw.task.id for draw in drawn(source, count)]


def failure(source: Any) -> InvalidTasks:
    with pytest.raises(InvalidTasks) as caught:
        drawn(as_source(source))
    return caught.value


class Rows:
    """An iterable that begins anew each time, without a length."""

    def __init__(self, rows: Iterable[Any]) -> None:
        self.rows = list(rows)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows)


# -- what rows are ---------------------------------------------------------------------------------


def jsonl(path: Path, rows: Iterable[Any] = ROWS) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def parquet(path: Path) -> Path:
    import pyarrow as pa  # type: ignore[import-untyped]  # it has none
    from pyarrow import parquet as pq

    pq.write_table(pa.Table.from_pylist(ROWS), path)
    return path


def hugging_face() -> Any:
    datasets = pytest.importorskip("datasets")
    return datasets.Dataset.from_list(ROWS)


def test_rows_of_any_kind_are_the_same_tasks(tmp_path: Path) -> None:
    data_set = hugging_face()
    kinds: list[Any] = [
        ROWS,
        tuple(ROWS),
        iter(ROWS),
        Rows(ROWS),
        (dict(row) for row in ROWS),
        [Task(row["id"], {"goal": row["goal"]}) for row in ROWS],
        jsonl(tmp_path / "tasks.jsonl"),
        str(tmp_path / "tasks.jsonl"),
        parquet(tmp_path / "tasks.parquet"),
        data_set,
        data_set.to_iterable_dataset(),
    ]
    for kind in kinds:
        tasks = [draw.task for draw in drawn(as_source(kind))]
        assert [(task.id, dict(task.data)) for task in tasks] == [
            (row["id"], {"goal": row["goal"]}) for row in ROWS
        ], kind


def test_an_id_is_a_column_or_a_digest_of_the_content() -> None:
    assert ids(TaskSet([{"task_id": 7, "goal": 1}])) == ["7"]
    assert ids(TaskSet([{"uid": "x", "id": "y"}], id="uid")) == ["x"]
    digests = [
        ids(TaskSet([row], private=[name for name in ("answer",) if name in row]))[0]
        for row in (
            {"question": "1+1", "answer": "2"},
            {"answer": "2", "question": "1+1"},
            {"question": "1+1", "answer": "3"},
            {"question": "1+1"},
        )
    ]
    assert digests[0] == digests[1]
    assert len({*digests}) == 3
    assert digests[0] == "5a2d3b0ba7e3a0c4" or len(digests[0]) == 16


def test_columns_are_chosen_renamed_and_private() -> None:
    rows = [{"uid": 1, "question": "q", "answer": "a", "level": 3}]
    task = drawn(TaskSet(rows, columns={"question": "prompt"}, private=("answer",), id="uid"))[0]
    assert task.task == Task("1", {"prompt": "q"}, {"answer": "a"})
    assert "'a'" not in repr(task.task)
    named = drawn(TaskSet(rows, columns=("uid", "question"), id="uid"))[0].task
    assert named == Task("1", {"uid": 1, "question": "q"})
    both = {"question": "prompt", "answer": "target"}
    renamed = drawn(TaskSet(rows, columns=both, private=["answer"]))[0].task
    assert (renamed.data, renamed.private) == ({"prompt": "q"}, {"target": "a"})


def test_a_task_of_a_split_is_reset_by_its_id_alone() -> None:
    assert Task("a", {"q": 1}, {"x": 2}).reset_options == {"q": 1, "x": 2}
    assert Task("a", {"q": 1}, split="test").reset_options == {"task_id": "a", "split": "test"}
    assert as_task({"id": "a", "q": 1}) == Task("a", {"q": 1})


# -- playing ---------------------------------------------------------------------------------------


@dataclass
class Move:
    amount: int = 1


@dataclass
class Seen:
    goal: int
    seed: int | None = None


class Sums(Environment[Move, Seen, dict[str, Any]]):
    """Ends at its goal; knows an answer that it does not show."""

    isolation = "inline"

    def reset(self, seed: int | None = None, goal: int = 3, answer: str | None = None) -> Seen:
        if goal < 0:
            raise ValueError("a goal is not negative")
        self.goal, self.total, self.answer = goal, 0, answer
        return Seen(goal, seed)

    def step(self, action: Move) -> StepResult[Seen]:
        self.total += action.amount
        return StepResult(Seen(self.goal), 1.0, terminated=self.total >= self.goal)


def move(observation: Any) -> dict[str, int]:
    return {"amount": 1}


async def test_each_episode_has_its_task_in_outcome_and_record() -> None:
    rows = [{"id": "a", "goal": 2, "answer": "secret"}, {"id": "b", "goal": 4, "answer": "secret"}]
    seen: list[Any] = []

    def policy(observation: Any, turn: Turn) -> Any:
        seen.append(turn.task)
        return {"amount": 1}

    async with serve(Sums) as url:
        outcomes = await collect_all(url, policy, tasks=TaskSet(rows, private=("answer",)), seeds=7)
    assert [(o.task and o.task.id, o.steps, o.group, o.member) for o in outcomes] == [
        ("a", 2, 0, 0), ("b", 4, 1, 0),
    ]  # fmt: skip
    assert [o.episode and o.episode.seed for o in outcomes] == [7, 8]
    records = [o.trajectory for o in outcomes if o.trajectory]
    assert [(r.task_id, r.task, r.reset_options) for r in records] == [
        ("a", {"goal": 2}, {"goal": 2}), ("b", {"goal": 4}, {"goal": 4}),
    ]  # fmt: skip
    assert {task.private.get("answer") for task in seen} == {None}


async def test_a_group_shares_task_and_seed() -> None:
    async with serve(Sums) as url:
        outcomes = await collect_all(url, move, tasks=ROWS, group_size=3)
    assert [(o.task and o.task.id, o.group, o.member) for o in outcomes] == [
        (f"t{group + 1}", group, member) for group in range(5) for member in range(3)
    ]
    seeds = [o.episode.seed for o in outcomes if o.episode]
    assert all(seeds[3 * group] == seed for group in range(5) for seed in seeds[3 * group :][:3])
    assert len({*seeds}) == 5


async def test_every_way_to_play_takes_tasks() -> None:
    async with serve(Sums) as url:
        one = await rollout(url, move, task={"id": "x", "goal": 2})
        assert (one.task and one.task.id, one.steps) == ("x", 2)
        async with stream(url, move, tasks=ROWS, group_size=2) as episodes:
            found = sorted([e.outcome.task.id async for e in episodes if e.outcome.task])
        assert found == sorted([row["id"] for row in ROWS] * 2)
        async with stream_groups(url, move, tasks=ROWS, group_size=2, seed=5) as groups:
            made = {group.index: group async for group in groups}
        assert sorted(made) == [0, 1, 2, 3, 4]
        for group in made.values():
            assert {e.outcome.task.id for e in group.episodes if e.outcome.task} == {
                f"t{group.index + 1}"
            }
        async with EnvPool.from_url(url) as pool:
            played = await pool.rollout(move, task=Task("y", {"goal": 1}))
            assert (played.task and played.task.id, played.steps) == ("y", 1)
            members = await pool.group(move, 3, task={"id": "z", "goal": 2}, seed=4)
            assert [(o.task and o.task.id, o.group, o.member) for o in members] == [
                ("z", 0, member) for member in range(3)
            ]
            collected = [o async for o in pool.collect(move, tasks=ROWS)]
            assert len(collected) == 5
        assert await asyncio.to_thread(blocking_ids, url) == [row["id"] for row in ROWS]


def blocking_ids(url: str) -> list[str]:
    with SyncEnvPool.from_url(url) as pool:
        return sorted(o.task.id for o in pool.collect(move, tasks=ROWS) if o.task)


async def test_a_task_that_reset_refuses_costs_its_own_episode() -> None:
    rows = [{"id": "a", "goal": 1}, {"id": "b", "goal": "many"}, {"id": "c", "goal": 1}]
    async with serve(Sums) as url:
        outcomes = await collect_all(url, move, tasks=rows, concurrency=1)
    assert [str(o.status) for o in outcomes] == ["completed", "task_error", "completed"]


async def test_an_iterable_that_raises_ends_it_after_what_was_begun() -> None:
    def rows() -> Iterator[Any]:
        yield from ROWS[:3]
        raise RuntimeError("the generator broke")

    outcomes = []

    async def play(url: str) -> None:
        async for outcome in collect(url, move, tasks=rows()):
            outcomes.append(outcome)  # noqa: PERF401 # what came before the error is wanted

    async with serve(Sums) as url:
        with pytest.raises(InvalidTasks, match="row 3 of generator cannot be read: RuntimeError"):
            await play(url)
    assert sorted(o.task.id for o in outcomes if o.task) == ["t1", "t2", "t3"]
    assert {o.status for o in outcomes} == {OutcomeStatus.COMPLETED}
