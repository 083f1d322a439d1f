"""The checks of tasks, each broken by an environment; and an environment that keeps them."""

from __future__ import annotations

from typing import Any

import pytest

from openenv_async import serve
from openenv_async.checks.validation import tasks, validate
from tests.checks.validation.broken import BROKEN, Good
from tests.checks.validation.caught import MODULE, broken_in, is_caught, names_of
from tests.quiz import MARKER

CAUGHT = {
    "ListsOtherTasksThanItGives": "by itself",
    "HasAnIdTwice": "is twice in the split 'all'",
    "ListsFewerTasksThanItCounts": "returned 19 tasks",
    "HasIdsThatDoNotLast": "are others when it is read again",
    "CannotReadItsTasks": "No such file",
    "HasATaskThatDoesNotFit": "the task 'a' of HasATaskThatDoesNotFit does not fit",
    "DrawsItsTaskAnew": "begins in two ways with one seed",
    "ShowsItsAnswer": "the private column 'answer' can be seen after reset()",
    "TellsItsAnswer": "the private column 'answer' can be seen after 1 steps",
}


@broken_in(tasks)
async def test_each_broken_environment_is_caught_by_its_check(cls: Any) -> None:
    assert CAUGHT[cls.__name__] in (await is_caught(cls)).reason


def test_every_check_catches_one() -> None:
    assert names_of(tasks) <= set(BROKEN.values())


async def found(target: Any) -> dict[str, tuple[str, str]]:
    """Return status and reason of each check of tasks."""
    results = await validate(target, names=names_of(tasks))
    names = names_of(tasks)
    return {each.name: (each.status, each.reason) for each in results if each.name in names}


@pytest.mark.parametrize(
    "target", [f"{MODULE}:WithTasks", "tests.quiz:Quiz", "tests.quiz:AsyncQuiz"]
)
async def test_what_keeps_them_passes(target: str) -> None:
    results = await found(target)
    assert {status for status, _ in results.values()} == {"passed"}, results
    assert MARKER not in str(results)


async def test_they_are_skipped_where_there_are_none() -> None:
    async with serve(Good) as url:
        results = await found(url)
    assert {status for status, _ in results.values()} == {"skipped"}
    assert "declares no tasks" in results["tasks_are_listed_alike"][1]
