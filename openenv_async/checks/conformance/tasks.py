"""Tasks: listed over every transport, begun by their ids, their private part told to nobody."""

from __future__ import annotations

from typing import Final

from openenv_async.checks.conformance.subject import Subject
from openenv_async.checks.registry import check, require
from openenv_async.errors import InvalidOption

_PRIVATE: Final = "PRIVATE-part"
"""The beginning of every private column of the conformance environment."""
_REMEDY: Final = "docs/protocol.md, section 5: Tasks"


@check("conformance", "tasks", own=True, remedy=_REMEDY)
async def tasks_are_listed_without_their_private_part(subject: Subject) -> None:
    """Splits, counts, pages and single tasks are told, and nothing that is private."""
    async with subject.transport.session() as env:
        tasks = await env.tasks()
        require(await tasks.splits() == ["train", "test"], f"splits: {await tasks.splits()}")
        require(await tasks.count("train") == 40, f"count: {await tasks.count('train')}")
        listed = await tasks.range("train", 10, 99)
        ids = [task.id for task in listed]
        require(ids == [f"task-{n}" for n in range(10, 40)], f"range: {ids}")
        require(await tasks.get("train", 12) == listed[2], "get and range differ")
        require(listed[2].data == {"text": "text 12"}, f"data: {listed[2].data}")
        require(
            _PRIVATE not in repr([(t.data, t.private) for t in listed]), "a private part is told"
        )
        await subject.expect(InvalidOption, tasks.count("dev"))


@check("conformance", "choice", "state", own=True, remedy=_REMEDY)
async def a_task_begins_an_episode(subject: Subject) -> None:
    """A reset gets the columns of the task that it names, by id or by split and index."""
    async with subject.transport.session() as env:
        for options in ({"task_id": "task-3"}, {"split": "train", "index": 3}):
            result = await env.reset(**options)
            require(result.observation["text"] == "text 3", f"it shows {result.observation!r:.200}")
            shown = repr((result, await env.state()))
            require(_PRIVATE not in shown, "the private part of the task is shown")


@check("conformance", "choice", "options", own=True, remedy=_REMEDY)
async def a_task_that_is_not_there_is_refused(subject: Subject) -> None:
    """An unknown id, split or index, and an option that is a column, are refused by name."""
    async with subject.transport.session() as env:
        for options in (
            {"task_id": "task-99"},
            {"task_id": "task-3", "split": "dev"},
            {"split": "train", "index": 40},
            {"task_id": "task-3", "key": "mine"},
        ):
            error = await subject.expect(InvalidOption, env.reset(**options))
            require(_PRIVATE not in str(error), "the private part of a task is told")
        await env.reset(task_id="last")
