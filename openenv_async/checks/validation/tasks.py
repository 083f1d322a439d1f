"""Tasks that an environment declares: listed alike, playable, their private part kept."""

from __future__ import annotations

import random
from typing import Any, Final

from openenv_async.checks.conformance.episodes import comparable
from openenv_async.checks.registry import CheckFailed, Skipped, check, require
from openenv_async.checks.validation.candidate import Candidate, Session, answered
from openenv_async.client.tasks import ServedTasks
from openenv_async.errors import InvalidAction, InvalidOption, OpenEnvError, OperationUnsupported
from openenv_async.types import Task

_MANY: Final = 5_000
"""Tasks of a split that are read."""
_TRIED: Final = 5
"""Tasks of a split that are played."""
_STEPS: Final = 5
_MARKERS: Final[tuple[Any, ...]] = ("MARKER-of-a-private-value", 7_090_909_075, 7_090_909_075.5)
"""Values for a private column, of the types that it may have."""


async def _tasks(candidate: Candidate, env: Session) -> ServedTasks:
    """The tasks of a candidate.

    Raises:
        Skipped: it declares none.
        CheckFailed: they cannot be read.
    """
    if candidate.is_upstream:
        raise Skipped("tasks are not looked for on servers of upstream's dialect")
    try:
        return await env.tasks()
    except OperationUnsupported:
        raise Skipped("the environment declares no tasks") from None
    except OpenEnvError as exc:
        raise CheckFailed(exc.message) from exc


async def _some(tasks: ServedTasks, split: str) -> list[Task]:
    """Return the first and some other tasks of a split."""
    count = await tasks.count(split)
    places = {0, count - 1, *random.Random(0).sample(range(count), min(count, _TRIED))}
    return [await tasks.get(split, place) for place in sorted(places)[:_TRIED] if place >= 0]


@check(
    "behaviour",
    remedy="let count(), get() and range() read the same rows, and give every row an id of its own",
)
async def tasks_are_listed_alike(candidate: Candidate) -> None:
    """Counts, pages and single tasks agree, ids are unique in a split, and they last."""
    async with candidate.session() as env:
        tasks = await _tasks(candidate, env)
        for split in await tasks.splits():
            try:
                await _listed_alike(tasks, split)
            except OpenEnvError as exc:
                raise CheckFailed(f"the split {split!r}: {exc.message}") from exc


async def _listed_alike(tasks: ServedTasks, split: str) -> None:
    count = await tasks.count(split)
    listed = await tasks.range(split, 0, _MANY)
    require(
        len(listed) == min(count, _MANY),
        f"the split {split!r} counts {count} tasks and lists {len(listed)}",
    )
    ids = [task.id for task in listed]
    seen: set[str] = set()
    for task_id in ids:
        require(task_id not in seen, f"the id {task_id!r} is twice in the split {split!r}")
        seen.add(task_id)
    for place in random.Random(0).sample(range(len(listed)), min(len(listed), _TRIED)):
        one = await tasks.get(split, place)
        require(
            one.id == ids[place] and comparable(one.data) == comparable(listed[place].data),
            f"task {place} of the split {split!r} is {one.id!r} by itself, and {ids[place]!r} in"
            " its page",
        )
    again = [task.id for task in await tasks.range(split, 0, _MANY)]
    require(ids == again, f"the ids of the split {split!r} are others when it is read again")


@check(
    "behaviour",
    remedy="let reset() take the columns of every task, and draw from the seed alone",
)
async def tasks_begin_episodes(candidate: Candidate) -> None:
    """Every task that is tried begins an episode by its id, and the same one by the same seed."""
    async with candidate.session() as env:
        tasks = await _tasks(candidate, env)
        for split in await tasks.splits():
            for task in await _some(tasks, split):
                options = {"task_id": task.id, "split": split, "seed": 5}
                one = await answered(env, "reset", **options)
                other = await answered(env, "reset", **options)
                require(
                    candidate.turn(one) == candidate.turn(other),
                    f"the task {task.id!r} of {split!r} begins in two ways with one seed",
                )


@check(
    "behaviour",
    remedy="keep private columns out of observations, info and state() until the episode has ended",
)
async def private_columns_stay_private(candidate: Candidate) -> None:
    """A value planted in a private column is in nothing that the environment shows meanwhile."""
    names = candidate.findings.get("private_columns")
    if names is not None and not names:
        raise Skipped("its tasks have no private columns")
    if names is None:
        raise Skipped(
            "no private columns are known: they are of environments named by path or name"
        )
    async with candidate.session() as env:
        tasks = await _tasks(candidate, env)
        for split in await tasks.splits():
            for task in (await _some(tasks, split))[:1]:
                for name in names:
                    await _keeps(candidate, env, task, name)


async def _keeps(candidate: Candidate, env: Session, task: Task, name: str) -> None:
    takes = candidate.schema.get("reset", {}).get("properties", {})
    columns = {column: value for column, value in task.data.items() if column in takes}
    for marker in _MARKERS:
        try:
            result = await env.reset(seed=5, **columns, **{name: marker})
        except InvalidOption:
            continue  # it is of another type
        except OpenEnvError as exc:
            raise Skipped(f"reset() takes no made-up value for {name!r}: {exc.message}") from exc
        rng = random.Random(5)
        for step in range(_STEPS):
            if result.done:
                return
            shown = repr((result.observation, result.info, await env.state()))
            require(
                str(marker) not in shown,
                f"the private column {name!r} can be seen"
                f" {'after reset()' if step == 0 else f'after {step} steps'}",
            )
            try:
                result = await answered(env, "step", candidate.action(rng))
            except InvalidAction:
                continue
        return
