"""Sources of tasks: rows of any kind, their ids and columns, order, position and retirement."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import re
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openenv_async import Environment, OutcomeStatus, StepResult, serve
from openenv_async.engine.options import EngineOptions
from openenv_async.errors import (
    ConnectionLost,
    InvalidOption,
    InvalidTasks,
    OpenEnvError,
    PayloadTooLarge,
)
from openenv_async.pool import EnvPool, SyncEnvPool
from openenv_async.rollouts import (
    EpisodeGroup,
    Mixture,
    Retire,
    Summary,
    TaskSet,
    Turn,
    collect,
    collect_all,
    rollout,
    schedule,
    stream,
    stream_groups,
)
from openenv_async.rollouts.schedule import Schedule
from openenv_async.rollouts.tasks import Draw, TaskSource, as_source, as_task
from openenv_async.tasks import TaskTable
from openenv_async.types import Limits, Task
from tests.helpers import until

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
        data_set.to_pandas(),
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
    assert {len(digest) for digest in digests} == {16}


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


async def test_a_function_is_called_for_every_task() -> None:
    async def goal(env: Any, task: Task) -> int:
        result = await env.reset(**task.reset_options)
        if task.id == "t3":
            raise RuntimeError("unlucky")
        return int(result.observation["goal"])

    def blocking(url: str) -> list[Any]:
        with SyncEnvPool.from_url(url) as pool:
            return list(
                pool.map(
                    lambda env, task: env.reset(**task.reset_options).observation["goal"],
                    tasks=ROWS,
                    concurrency=2,
                )
            )

    source = TaskSet(Rows(ROWS))
    async with serve(Sums) as url, EnvPool.from_url(url) as pool:
        found = {made.item.id: made async for made in pool.map(goal, tasks=source, concurrency=2)}
        both: dict[str, Any] = {"items": [1], "tasks": ROWS}
        neither: dict[str, Any] = {}
        for wrong in (both, neither):
            with pytest.raises(TypeError, match="over items or over tasks=: give one of them"):
                pool.map(goal, **wrong)
        made = await asyncio.to_thread(blocking, url)
    assert {name: each.value for name, each in found.items()} == {
        "t1": 1, "t2": 2, "t3": None, "t4": 4, "t5": 5,
    }  # fmt: skip
    assert str(found["t3"].error) == "unlucky"
    assert source.position()["finished"] == 5
    assert sorted((each.item.id, each.value) for each in made) == [
        (row["id"], row["goal"]) for row in ROWS
    ]


async def test_map_gives_the_results_before_an_error_of_the_tasks() -> None:
    def rows() -> Iterator[Any]:
        yield from ROWS[:3]
        raise RuntimeError("the generator broke")

    seen: list[str] = []

    async def play(pool: Any) -> None:
        async def name(env: Any, task: Task) -> str:
            return task.id

        async for made in pool.map(name, tasks=rows()):
            seen.append(made.unwrap())  # noqa: PERF401 # what came before the error is wanted

    async with serve(Sums) as url, EnvPool.from_url(url) as pool:
        with pytest.raises(InvalidTasks, match="the generator broke"):
            await play(pool)
    assert sorted(seen) == ["t1", "t2", "t3"]


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


# -- order and position ----------------------------------------------------------------------------


def test_an_order_is_shuffled_by_its_seed_anew_in_each_pass() -> None:
    rows = [{"id": number} for number in range(50)]
    plain = [str(number) for number in range(50)]
    passes = ids(TaskSet(rows, shuffle=3, epochs=2))
    assert passes == ids(TaskSet(rows, shuffle=3, epochs=2)) != ids(TaskSet(rows, shuffle=4))
    assert sorted(passes[:50]) == sorted(passes[50:]) == sorted(plain)
    assert passes[:50] != passes[50:] != plain
    assert ids(TaskSet(rows, epochs=None), 120) == (plain * 3)[:120]


def test_a_sampler_says_the_order_and_may_repeat() -> None:
    class Sampler:
        def __init__(self, rows: Any) -> None:
            self.data_source = rows

        def __iter__(self) -> Iterator[int]:
            return iter((4, 0, 0, 2))

    assert ids(TaskSet(ROWS, sampler=(4, 0, 0, 2))) == ["t5", "t1", "t1", "t3"]
    assert ids(as_source(Sampler(ROWS))) == ["t5", "t1", "t1", "t3"]
    assert ids(TaskSet(ROWS, sampler=Sampler(ROWS), epochs=2)) == ["t5", "t1", "t1", "t3"] * 2


def test_a_source_goes_on_where_it_stands_and_begins_anew_after_its_end() -> None:
    for rows in (ROWS, Rows(ROWS)):
        source = TaskSet(rows)
        first = drawn(source, 2)
        source.finish(first[0], None)
        source.give_back(first[1:])
        assert ids(source) == ["t2", "t3", "t4", "t5"]
        for draw in list(source._open.values()):
            source.finish(draw, None)
        assert ids(source) == [row["id"] for row in ROWS]
        assert ids(source.restart(), 1) == ["t1"]


async def test_a_number_of_episodes_that_is_all_there_are_is_an_end_too() -> None:
    mixture = Mixture({"a": TaskSet(ROWS), "b": TaskSet(Rows(ROWS[:2]), epochs=2)})
    async with serve(Sums) as url:
        for source, count in ((TaskSet(ROWS), 5), (TaskSet(Rows(ROWS)), 5), (mixture, 9)):
            for _ in range(3):
                outcomes = await collect_all(url, move, tasks=source, episodes=count)
                assert len(outcomes) == count
        resumed = TaskSet(ROWS).resume(TaskSet(ROWS).resume(position_at_the_end()).position())
        assert await collect_all(url, move, tasks=resumed) == []
        assert len(await collect_all(url, move, tasks=resumed)) == 5
        generator = TaskSet(iter(ROWS))
        assert len(await collect_all(url, move, tasks=generator)) == 5
        with pytest.raises(InvalidTasks, match="list_iterator is used up, it can be iterated over"):
            await collect_all(url, move, tasks=generator)


def position_at_the_end() -> dict[str, Any]:
    source = TaskSet(ROWS)
    for draw in drawn(source):
        source.finish(draw, None)
    return source.position()


def sources() -> list[Any]:
    return [
        lambda: TaskSet(ROWS),
        lambda: TaskSet(ROWS, shuffle=1, epochs=3),
        lambda: TaskSet(Rows(ROWS), epochs=3),
        lambda: TaskSet(ROWS, sampler=(4, 0, 0, 2), epochs=2),
        lambda: Mixture({"a": ROWS, "b": TaskSet(Rows(ROWS), epochs=2)}, weights=[2, 1], seed=3),
        lambda: Mixture(
            {"a": TaskSet(ROWS, shuffle=1, epochs=2), "b": TaskSet(ROWS[:2])},
            weights={"a": 1, "b": 9},
        ),
        lambda: Mixture({"m": Mixture({"a": ROWS, "b": Rows(ROWS[:3])}), "c": ROWS}),
    ]


@pytest.mark.parametrize("make", sources())
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_after_resume_the_same_draws_follow(make: Callable[[], TaskSource], data: Any) -> None:
    """Draws that were not finished come first, in order; then those that would have come."""
    whole = [named(draw) for draw in drawn(make(), 40)]
    source = make()
    count = data.draw(st.integers(0, min(30, len(whole))))
    begun = drawn(source, count)
    finished = data.draw(st.sets(st.integers(0, count - 1))) if count else set()
    for number in data.draw(st.permutations(sorted(finished))):
        source.hand_out(begun[number])
        source.finish(begun[number], 1.0)
    position = json.loads(json.dumps(source.position()))
    assert position["finished"] == len(finished)
    again = make().resume(position)
    expected = [whole[number] for number in range(count) if number not in finished] + whole[count:]
    found = [named(draw) for draw in drawn(again, 40)]
    assert found[: len(expected)] == expected
    twice = make().resume(json.loads(json.dumps(make().resume(position).position())))
    assert [named(draw) for draw in drawn(twice, 40)] == found


def named(draw: Draw) -> tuple[str, ...]:
    """The names of the sources of a draw, and the id of its task."""
    names = []
    while draw.inner is not None:
        names.append(str(draw.source))
        draw = draw.inner
    return (*names, draw.task.id)


def test_a_mixture_draws_by_weight_and_seed() -> None:
    def made(seed: int) -> list[str]:
        mixture = Mixture({"math": ROWS, "code": ROWS, "off": ROWS}, weights=[3, 1, 0], seed=seed)
        return [str(draw.source) for draw in drawn(mixture, 2000)]

    assert made(1) == made(1) != made(2)
    assert 1400 < made(1).count("math") < 1600
    assert made(1).count("off") == 0


def test_a_source_that_is_at_its_end_is_left_out_of_a_mixture() -> None:
    mixture = Mixture({"a": TaskSet(ROWS), "b": TaskSet(ROWS[:2], epochs=2)})
    assert mixture.left() is None
    found = [named(draw) for draw in drawn(mixture)]
    assert sorted(found) == sorted(
        [("a", row["id"]) for row in ROWS] + [("b", row["id"]) for row in ROWS[:2] * 2]
    )
    prepared = Mixture({"a": TaskSet(ROWS), "b": TaskSet(ROWS[:2], epochs=2)})
    prepared.prepare()
    assert prepared.left() == 9


async def test_a_run_over_a_mixture_goes_on_from_its_position() -> None:
    """A run that is left in the middle, and its continuation, play what one run plays."""

    def mixture() -> Mixture:
        return Mixture(
            {"a": TaskSet(ROWS, epochs=2), "b": TaskSet(Rows(ROWS), epochs=3)}, weights=[1, 2]
        )

    whole = sorted(named(draw) for draw in drawn(mixture()))
    source = mixture()
    finished: list[EpisodeGroup[Any, Any]] = []
    async with serve(Sums) as url:
        async with stream_groups(url, move, tasks=source, group_size=2, concurrency=6) as groups:
            async for group in groups:
                finished.append(group)
                if len(finished) == 11:
                    break
        position = json.loads(json.dumps(source.position()))
        assert position["finished"] == 11
        again = mixture().resume(position)
        async with stream_groups(url, move, tasks=again, group_size=2, concurrency=6) as groups:
            finished += [group async for group in groups]
    assert len(finished) == len(whole) == 25
    counts = Counter(g.episodes[0].outcome.task.id for g in finished if g.episodes[0].outcome.task)
    assert counts == Counter(name[-1] for name in whole)
    assert again.position()["finished"] == 25


# -- retirement ------------------------------------------------------------------------------------


def visited(source: TaskSource, means: dict[str, float | None], most: int = 200) -> list[str]:
    """The ids in the order of the draws, each visit with the mean return of its task."""
    found: list[str] = []
    source.prepare()
    while len(found) < most and (draw := source.draw()) is not None:
        found.append(draw.task.id)
        source.finish(draw, means[draw.task.id])
    return found


def test_tasks_that_are_solved_or_hopeless_are_retired_by_rule() -> None:
    means: dict[str, float | None] = {"t1": 1.0, "t2": 0.0, "t3": 0.5, "t4": None, "t5": 0.95}
    source = TaskSet(ROWS, epochs=10, retire=Retire(solved=0.95, hopeless=0.0, window=4))
    counts = Counter(visited(source, means))
    assert counts == {"t1": 4, "t2": 4, "t3": 10, "t4": 10, "t5": 4}
    assert source.retired == ["t1", "t2", "t5"]
    assert source.left() is None


def test_a_visit_of_another_kind_begins_the_row_anew() -> None:
    rule = Retire(solved=1.0, window=3)
    source = TaskSet(ROWS[:1], epochs=None, retire=rule)
    source.prepare()
    for mean in (1.0, 1.0, 0.0, 1.0, None, 1.0):
        draw = source.draw()
        assert draw is not None
        source.finish(draw, mean)
        assert source.retired == []
    draw = source.draw()
    assert draw is not None
    source.finish(draw, 1.0)
    assert source.retired == ["t1"]
    assert source.draw() is None


def test_the_retired_are_part_of_the_position() -> None:
    def mixture() -> Mixture:
        return Mixture({"a": ROWS[:2], "b": ROWS}, retire=Retire(solved=1.0, window=2))

    means: dict[str, float | None] = {
        **dict.fromkeys(("t1", "t2", "t3"), 1.0),
        "t4": 0.0,
        "t5": 0.5,
    }
    source = mixture()
    visited(source, means, 60)
    assert sorted(source.retired) == ["a/t1", "a/t2", "b/t1", "b/t2", "b/t3"]
    again = mixture().resume(json.loads(json.dumps(source.position())))
    assert again.retired == source.retired
    assert {*visited(again, means, 30)} == {"t4", "t5"}
    assert mixture().restart().retired == []


async def test_a_run_without_end_ends_when_all_tasks_are_retired() -> None:
    source = TaskSet(ROWS, epochs=None, retire=Retire(solved=1.0, window=2))
    async with (
        serve(Sums) as url,
        stream_groups(url, move, tasks=source, group_size=2, concurrency=4) as groups,
    ):
        found = [group.episodes[0].outcome.task async for group in groups]
    played = Counter(task.id for task in found if task)
    assert sorted(played) == sorted(source.retired) == [row["id"] for row in ROWS]
    assert min(played.values()) >= 2
    assert len(found) < 30  # those under way when the last one is retired are played to their end
    assert source.position()["open"] == []


# -- what is refused -------------------------------------------------------------------------------


def test_rows_that_are_not_tasks_are_refused_by_name(tmp_path: Path) -> None:
    cases: list[tuple[Any, str]] = [
        ([], "the list has no rows: there are no tasks in it"),
        (iter([]), "has no rows: there are no tasks in it"),
        ([{"id": 1}, 3], r"row 1 of the list is 3 \(int\): a row is a mapping .* TaskSet\(rows, s"),
        (iter(["train"]), "row 0 of list_iterator is 'train': a row is a mapping"),
        ([{"id": ""}], "row 0 of the list has the id '': an id is a text or an integer"),
        ([{"id": 1.5}], r"has the id 1.5 \(float\)"),
        ([{"id": None}], "has the id None"),
        ([{"id": True}], r"has the id True \(bool\)"),
        ([{3: 1}], r"row 0 of the list has the column 3 \(int\): names of columns are text"),
        ([{"q": object()}], "row 0 of the list has no id, and none can be made of what is in it"),
        ([{"id": 1}, {"id": "1"}], "row 0 of the list and row 1 of the list have the same id '1'"),
        (iter([{"q": 1}, {"q": 1}]), "row 0 and row 1 of list_iterator have the same id '[0-9a-f]"),
        ([Task("a", {}), Task("a", {})], "have the same id 'a'"),
        ([Task("a", 3)], r"row 0 of the list has 3 \(int\) for its columns"),  # type: ignore[arg-type]  # it is wrong
        (TaskSet(ROWS, private=("answr",)), "no column 'answr'; it has id, goal"),
        (TaskSet(iter(ROWS), private=("answr",)), "no column 'answr'; it has id, goal"),
        (TaskSet(ROWS, columns=["goals"]), "no column 'goals'; it has id, goal"),
        (TaskSet(ROWS, id="uid"), "row 0 of the list has no column 'uid' for its id; it has id, g"),
        (TaskSet(ROWS, sampler=[9]), "the sampler gave row 9, and the list has 5 rows"),
        (TaskSet(ROWS, sampler=["a"]), "a sampler gives numbers of rows, this one gave 'a'"),  # type: ignore[list-item]  # it is wrong
    ]
    for given_, message in cases:
        assert re.search(message, str(failure(given_))), (str(failure(given_)), message)


def test_arguments_that_make_no_sense_are_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "tasks.csv").write_text("id\n1\n")
    (tmp_path / "folder.jsonl").mkdir()

    async def rows() -> Any:
        yield {}

    cases: list[tuple[Callable[[], Any], str]] = [
        (lambda: as_source(3), r"tasks are a file, a data set, .* not 3 \(int\)"),
        (lambda: TaskSet(ROWS, private=["goal"], id="goal"), "its column cannot be private"),
        (lambda: TaskSet(ROWS, private=["task_id"]), "its column cannot be private"),
        (lambda: as_source(rows()), "is async: give an iterable"),
        (lambda: as_source(tmp_path / "no.jsonl"), r"no.jsonl' is not there"),
        (lambda: as_source(tmp_path / "folder.jsonl"), "is a folder"),
        (lambda: as_source(tmp_path / "tasks.csv"), "are read from .jsonl and .parquet, not from"),
        (lambda: as_source(""), "the name of a file or split of tasks is empty"),
        (lambda: as_source({"train": ROWS}), "choose one of its splits"),
        (lambda: TaskSet(ROWS, columns="goal"), "columns= must be a list of names of columns, got"),
        (lambda: TaskSet(ROWS, columns={"a": "x", "b": "x"}), "two columns are to be the option"),
        (lambda: TaskSet(ROWS, private="answer"), "private= must be a list"),
        (lambda: TaskSet(ROWS, epochs=0), "epochs must be at least 1"),
        (lambda: TaskSet(ROWS, shuffle=-1), "shuffle must be from 0"),
        (lambda: TaskSet(ROWS, shuffle=1, sampler=[1]), "a sampler has an order already"),
        (lambda: TaskSet(iter(ROWS), shuffle=1), "of unknown length cannot be changed"),
        (lambda: TaskSet(iter(ROWS), epochs=2), "can be iterated over once only"),
        (lambda: TaskSet(ROWS, retire=3), "retire must be a Retire"),  # type: ignore[arg-type]  # it is wrong
        (lambda: Retire(), "a rule needs solved= or hopeless="),
        (lambda: Retire(solved=0.0, hopeless=0.0), r"hopeless \(0\) must be less than solved"),
        (lambda: Retire(solved=math.nan), "solved must be finite"),
        (lambda: Retire(solved=1.0, window=0), "window must be at least 1"),
        (lambda: Mixture({}), "a mixture needs at least one source"),
        (lambda: Mixture({"a": iter(ROWS)}), "the source 'a' can be iterated over once only"),
        (lambda: Mixture([ROWS]), "a mixture is of tasks by name"),  # type: ignore[arg-type]  # it is wrong
        (lambda: Mixture({"a": ROWS}, weights=[0]), "must not all be zero"),
        (
            lambda: Mixture({"a": ROWS}, weights=[-1]),
            "the weight of 'a' must be finite and not neg",
        ),
        (lambda: Mixture({"a": ROWS}, weights=[math.inf]), "must be finite"),
        (lambda: Mixture({"a": ROWS}, weights=[math.nan]), "must be finite"),
        (lambda: Mixture({"a": ROWS}, weights={"b": 1}), "weights are of b, and the sources are a"),
        (lambda: Mixture({"a": ROWS}, weights=[1, 2]), "2 weights for 1 sources"),
    ]
    for make, message in cases:
        with pytest.raises((ValueError, TypeError), match=message):
            make()


def test_a_position_of_other_tasks_is_refused(tmp_path: Path) -> None:
    position = TaskSet(ROWS).position()
    prepared = TaskSet(ROWS)
    drawn(prepared, 2)
    there = prepared.position()
    assert ids(TaskSet(ROWS).resume(position), 2) == ["t1", "t2"]
    cases: list[tuple[Callable[[], Any], str]] = [
        (lambda: drawn(TaskSet(ROWS[:4]).resume(there)), "the position is of other tasks: of 5-"),
        (lambda: drawn(TaskSet(ROWS, shuffle=1).resume(there)), "the position is of other tasks"),
        (lambda: prepared.resume({**there, "tasks": "x"}), "the position is of other tasks: of x"),
        (lambda: TaskSet(ROWS).resume(3), "not the position of a TaskSet"),  # type: ignore[arg-type]  # it is wrong
        (lambda: TaskSet(ROWS).resume({**there, "epoch": -1}), "its epoch is -1"),
        (lambda: TaskSet(ROWS).resume({**there, "open": 3}), "this position is broken"),
        (lambda: Mixture({"a": ROWS}).resume(there), "not the position of a Mixture"),
        (
            lambda: Mixture({"a": ROWS}).resume(Mixture({"b": ROWS}).position()),
            "of a mixture of b, and this one is of a",
        ),
        (
            lambda: Mixture({"a": ROWS}).resume(Mixture({"a": ROWS}, seed=2).position()),
            "with the seed 2, and this one has 0",
        ),
        (
            lambda: drawn(TaskSet(iter(ROWS[:1])).resume({**there, "tasks": None})),
            "2 rows of list_iterator were drawn, and it has 1",
        ),
    ]
    for make, message in cases:
        with pytest.raises(InvalidTasks, match=message):
            make()


async def test_a_column_that_is_not_an_option_is_refused_before_anything_is_played() -> None:
    rows = [{"id": "a", "goal": 1}, {"id": "b", "goal": 1, "level": 3}]
    async with serve(Sums) as url:
        for given_, where in ((rows, "row 1 of the list"), (iter(rows), "row 1 of list_iterator")):
            with pytest.raises(InvalidTasks) as caught:
                await collect_all(url, move, tasks=given_)
            assert str(caught.value) == (
                f"{where} has the column 'level', which is not an option of reset: it has answer,"
                " episode_id, goal, seed; choose or rename columns (--column,"
                " TaskSet(rows, columns=...))"
            )


async def test_a_refused_task_names_its_row() -> None:
    rows = [{"id": "a", "goal": 1}, {"id": "b", "goal": "many"}]
    async with serve(Sums) as url:
        outcomes = await collect_all(url, move, tasks=rows)
    error = outcomes[1].error
    assert isinstance(error, OpenEnvError)
    assert error.detail["row"] == "row 1 of the list"
    assert outcomes[1].trajectory is not None
    assert (outcomes[1].trajectory.error_detail or {})["row"] == "row 1 of the list"
    assert "row 1 of the list, the task 'b'" in error.__notes__


async def test_a_task_that_is_too_large_to_send_names_its_row_and_is_not_played_again() -> None:
    limits = Limits(max_message_size=1 << 16)
    rows = TaskSet([{"id": n, "answer": "x" * (1 << 17 if n == 1 else 1)} for n in range(3)])
    async with serve(Sums, options=EngineOptions(limits=limits)) as url:
        outcomes = await collect_all(url, move, tasks=rows, retry="always")
    assert [str(o.status) for o in outcomes] == ["completed", "task_error", "completed"]
    error = outcomes[1].error
    assert isinstance(error, PayloadTooLarge)
    assert error.detail["row"] == "row 1 of the list"
    assert (rows.finished, outcomes[1].attempts) == (3, 1)


# -- tasks of the environment ----------------------------------------------------------------------


class Own(Sums):
    """An environment with tasks of its own, whose answers stay with it."""

    tasks = TaskTable(
        {
            "train": [{"id": f"n{n}", "goal": n, "answer": f"secret {n}"} for n in range(1, 8)],
            "test": [{"id": "x", "goal": 2, "answer": "secret x"}],
        },
        private=("answer",),
    )
    answers: ClassVar[list[str | None]] = []

    def reset(self, seed: int | None = None, goal: int = 3, answer: str | None = None) -> Seen:
        self.answers.append(answer)
        return super().reset(seed, goal, answer)


async def test_a_split_is_played_by_ids_and_its_answers_stay_at_the_server() -> None:
    Own.answers.clear()
    async with serve(Own) as url:
        outcomes = await collect_all(url, move, tasks="train", group_size=2)
        async with EnvPool.from_url(url) as pool:
            pooled = await collect_all(pool, move, tasks=TaskSet("test", epochs=3))
        mixed = await collect_all(url, move, tasks=Mixture({"a": "test", "b": ROWS}), episodes=20)
    here = await collect_all(Own, move, tasks="test")
    assert [(o.task and o.task.id, o.steps) for o in outcomes] == [
        (f"n{number}", number) for number in range(1, 8) for _ in range(2)
    ]
    assert Own.answers[:14].count(None) == 0
    assert {*Own.answers} >= {f"secret {number}" for number in range(1, 8)}
    assert [o.task and o.task.id for o in pooled] == ["x"] * 3
    assert {o.task.id for o in mixed if o.task} == {"x", *(row["id"] for row in ROWS)}
    assert [(o.task and o.task.id, o.steps) for o in here] == [("x", 2)]
    for outcome in [*outcomes, *pooled, *mixed, *here]:
        assert outcome.status is OutcomeStatus.COMPLETED
        assert "secret" not in repr((outcome, outcome.trajectory))
        assert outcome.task is not None
        assert not outcome.task.private


async def test_a_split_that_there_is_not_is_told_with_those_there_are() -> None:
    async with serve(Own) as url:
        with pytest.raises(InvalidTasks, match="no split of that name: its splits are train, test"):
            await collect_all(url, move, tasks="valid")
    async with serve(Sums) as url:
        with pytest.raises(InvalidTasks, match="there is no file 'train', and no split of that"):
            await collect_all(url, move, tasks="train")


# -- the loop --------------------------------------------------------------------------------------


async def longest_stall(work: Awaitable[Any]) -> tuple[Any, float]:
    """The result of work, and the longest time in which the loop did nothing else."""
    worst, last = 0.0, time.perf_counter()

    async def watch() -> None:
        nonlocal worst, last
        while True:
            await asyncio.sleep(0)
            now = time.perf_counter()
            worst, last = max(worst, now - last), now

    watching = asyncio.ensure_future(watch())
    try:
        return await work, worst
    finally:
        watching.cancel()


async def test_neither_a_large_file_nor_a_slow_iterable_blocks_the_loop(tmp_path: Path) -> None:
    """Read in the loop, a file would hold it for as long as the reading takes."""
    path = jsonl(tmp_path / "large.jsonl", [{"id": n, "q": "x" * 200} for n in range(100_000)])
    begun = time.perf_counter()
    await asyncio.to_thread(TaskSet(path).prepare)
    reading = time.perf_counter() - begun
    held = threading.Event()

    def slow() -> Iterator[Any]:
        yield {"id": 1}
        held.wait(0.5)  # nobody sets it
        yield {"id": 2}

    async def first(source: Any, count: int) -> list[str]:
        made = Schedule(episodes=None, source=as_source(source))
        await made.open(None)
        found: list[str] = []
        while len(found) < count and await made.ready():
            planned = made.take()
            assert planned is not None
            assert planned.task is not None
            found.append(planned.task.id)
        await made.aclose()
        return found

    found, stall = await longest_stall(first(path, 50))
    assert found == [str(number) for number in range(50)]
    assert reading > 0.3
    assert stall < reading / 4
    found, stall = await longest_stall(first(slow(), 2))
    assert found == ["1", "2"]
    assert stall < 0.25


# -- policies and readers that fail ----------------------------------------------------------------


async def test_what_a_deadline_cuts_off_is_played_by_the_next_run() -> None:
    async def endless(observation: Any) -> dict[str, int]:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    source = TaskSet(ROWS)
    async with serve(Sums) as url:
        cut = await collect_all(
            url, endless, tasks=source, group_size=2, concurrency=3, deadline=0.3
        )
        assert [(o.task and o.task.id, o.member, str(o.status)) for o in cut] == [
            (f"t{group + 1}", member, "cancelled") for group in range(5) for member in range(2)
        ]
        assert source.finished == 0
        outcomes = await collect_all(url, move, tasks=source, group_size=2, concurrency=3)
    assert [o.task.id for o in outcomes if o.task] == [f"t{n}" for n in range(1, 6) for _ in "ab"]
    assert source.finished == 5


async def test_a_policy_that_raises_before_its_first_action_costs_its_own_episode() -> None:
    class Moody:
        def for_episode(self, index: int) -> Callable[[Any], Any]:
            if index == 1:
                raise RuntimeError("not today")
            return move

    moody: Any = Moody()
    async with serve(Sums) as url:
        outcomes = await collect_all(url, moody, tasks=ROWS, concurrency=1)
        async with stream(url, moody, tasks=ROWS, failures=True) as episodes:
            streamed = sorted([(e.outcome.index, str(e.outcome.status)) async for e in episodes])
        with pytest.raises(RuntimeError, match="not today"):
            await rollout(url, moody, index=1)
    statuses = ["completed", "policy_error", "completed", "completed", "completed"]
    assert [str(outcome.status) for outcome in outcomes] == statuses
    assert streamed == list(enumerate(statuses))


async def test_what_ended_is_handed_over_before_the_error_of_on_progress() -> None:
    calls = 0

    def show(summary: Any) -> None:
        nonlocal calls
        calls += 1
        raise RuntimeError("no terminal")

    seen: list[int] = []
    ended = asyncio.Event()
    begun = 0

    async def policy(observation: Any) -> dict[str, int]:
        nonlocal begun
        begun += 1
        if begun < 3:
            await ended.wait()
        ended.set()
        return {"amount": 5}

    summary = Summary()

    async def play(url: str) -> None:
        async for outcome in collect(
            url, policy, tasks=ROWS[:3], concurrency=3, on_progress=show, summary=summary
        ):
            seen.append(outcome.index)
            await until(lambda: summary.episodes == 3)

    async with serve(Sums) as url:
        with pytest.raises(RuntimeError, match="no terminal"):
            await play(url)
    assert sorted(seen) == [0, 1, 2]
    assert calls == 1


async def test_an_episode_that_is_played_again_keeps_its_task_and_seed() -> None:
    asked: list[tuple[Any, Any]] = []

    class Flaky:
        async def reset(self, seed: int, goal: int) -> StepResult[Any]:
            asked.append((goal, seed))
            if asked.count((goal, seed)) == 1 and goal % 2:
                raise ConnectionLost("gone", phase="reset")
            return StepResult({}, None)

        async def step(self, action: Any) -> StepResult[Any]:
            return StepResult({}, 1.0, terminated=True)

    outcomes = await collect_all(
        lambda: Flaky(), move, tasks=ROWS, seeds=7, concurrency=1, retry="unstarted"
    )
    assert [(o.task and o.task.id, o.attempts) for o in outcomes] == [
        ("t1", 2), ("t2", 1), ("t3", 2), ("t4", 1), ("t5", 2),
    ]  # fmt: skip
    assert asked.count((3, 9)) == 2
    assert {*asked} == {(number, 6 + number) for number in range(1, 6)}


async def test_a_client_of_another_kind_that_refuses_a_column_costs_its_own_episode() -> None:
    class Plain:
        async def reset(self, goal: int = 1) -> StepResult[Any]:
            return StepResult({}, None)

        async def step(self, action: Any) -> StepResult[Any]:
            return StepResult({}, 1.0, terminated=True)

    rows = [{"id": "a", "goal": 1}, {"id": "b", "level": 1}, {"id": "c", "goal": 1}]
    outcomes = await collect_all(lambda: Plain(), move, tasks=rows, concurrency=1)
    assert [str(o.status) for o in outcomes] == ["completed", "task_error", "completed"]
    assert outcomes[1].error is not None
    assert "row 1 of the list, the task 'b'" in outcomes[1].error.__notes__
    with pytest.raises(TypeError, match="cannot be called with"):
        await collect_all(lambda: Plain(), move, tasks=rows[1:2])


async def test_one_task_is_played_without_asking_for_the_options_of_reset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A trainer may play thousands of groups, each of one task, on a pool."""
    asked: list[Any] = []
    ask = schedule._reset_options

    async def note(sessions: Any) -> Any:
        asked.append(await ask(sessions))
        return asked[-1]

    monkeypatch.setattr(schedule, "_reset_options", note)
    async with serve(Sums) as url:
        async with EnvPool.from_url(url) as pool:
            outcomes = await pool.group(move, 2, task={"id": "a", "goal": 2})
            assert [o.steps for o in outcomes] == [2, 2]
            with pytest.raises(InvalidOption, match="level"):
                await pool.group(move, 2, task={"id": "a", "level": 2})
        assert asked == []
        await collect_all(url, move, tasks=ROWS)
        assert asked == [{"seed", "episode_id", "goal", "answer"}]
