"""The checks of tasks: kept over every transport, and broken by servers that tell too much."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from openenv_async.checks.conformance import CHECKS, InProcessTransport, Suite, tasks
from openenv_async.engine import Engine
from openenv_async.spec import EnvironmentSpec
from openenv_async.tasks import TaskTable
from openenv_async.testing import PRIVATE, ConformanceEnvironment
from tests.checks.conformance.over import passes, promises


@promises(tasks)
async def test_it_is_kept_over(name: str, transport: str) -> None:
    await passes(name, transport)


class Leaking(ConformanceEnvironment):
    """An environment that lists what is private."""

    tasks: ClassVar[TaskTable] = TaskTable(
        {
            "train": [{"id": f"task-{n}", "text": f"text {n}", "key": PRIVATE} for n in range(40)],
            "test": [{"id": "last", "text": "text of the last", "key": PRIVATE}],
        }
    )


class Showing(ConformanceEnvironment):
    """An environment that shows what is private."""

    async def reset(self, **options: Any) -> Any:
        return self._shown(options["text"], data=options["key"])


class Heedless(ConformanceEnvironment):
    """An environment to which every task and option is the same."""

    async def reset(self, **options: Any) -> Any:
        return self._shown("text 3")

    @classmethod
    def tasks_for(cls, **params: Any) -> Any:
        return None


@pytest.mark.parametrize(
    ("environment", "name", "reason"),
    [
        (Leaking, "tasks_are_listed_without_their_private_part", "data: "),
        (Showing, "a_task_begins_an_episode", "the private part of the task is shown"),
        (Heedless, "a_task_that_is_not_there_is_refused", "expected InvalidOption"),
    ],
)
async def test_a_broken_environment_is_caught(environment: Any, name: str, reason: str) -> None:
    assert PRIVATE.startswith(tasks._PRIVATE)
    spec = EnvironmentSpec(environment)
    engine = Engine(spec)
    try:
        suite = Suite(InProcessTransport(engine), own=True, schema=spec.schema)
        result = await suite.run_one(CHECKS[name])
    finally:
        await engine.aclose()
    assert result.status == "failed"
    assert reason in result.reason
