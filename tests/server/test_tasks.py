"""The HTTP routes of tasks, and upstream's Task API."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from openenv_async import EngineOptions, serve
from openenv_async.tasks import TaskTable
from openenv_async.types import Limits
from tests.helpers import Counter
from tests.quiz import MARKER, Quiz


@contextlib.asynccontextmanager
async def asking(environment: Any = Quiz, **settings: Any) -> AsyncIterator[Any]:
    """A function that asks a served environment, and gives status and body."""
    async with serve(environment, **settings) as url, aiohttp.ClientSession() as http:

        async def ask(path: str, body: Any = None) -> tuple[int, Any]:
            method = "GET" if body is None else "POST"
            async with http.request(method, url + path, json=body) as response:
                text = await response.text()
                assert MARKER not in text
                return response.status, await response.json()

        yield ask


async def test_splits_and_pages() -> None:
    async with asking() as ask:
        assert await ask("/tasks") == (200, {"splits": {"train": 2500, "test": 20}})
        assert await ask("/tasks/test?start=19") == (
            200,
            {
                "count": 20,
                "tasks": [
                    {"id": "test-19", "index": 19, "data": {"question": "test 19?", "level": 1}}
                ],
            },
        )
        status, page = await ask("/tasks/train")
        assert (status, page["count"], len(page["tasks"])) == (200, 2500, 1000)
        assert await ask("/tasks/train?start=3&stop=3") == (200, {"count": 2500, "tasks": []})
        status, about = await ask("/metadata")
        assert about["splits"] == ["train", "test"]
        status, schema = await ask("/schema")
        assert "task_id" in schema["reset"]["properties"]
        status, front = await ask("/")
        assert "/tasks" in front["routes"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/tasks/dev", "no split 'dev'"),
        ("/tasks/a/b", "no split 'a/b'"),
        ("/tasks/test?start=-1", "start must be a whole number"),
        ("/tasks/test?stop=1e3", "stop must be a whole number"),
        ("/tasks/test?start=99999999999", "start must be a whole number"),
    ],
)
async def test_a_question_that_makes_no_sense_is_refused(path: str, expected: str) -> None:
    async with asking() as ask:
        status, body = await ask(path)
    assert status == 422
    assert expected in body["error"]["message"]


async def test_upstreams_task_api() -> None:
    async with asking() as ask:
        assert await ask("/list_environments") == (200, ["Quiz"])
        assert await ask("/quiz/splits") == (
            200,
            [{"name": "train", "type": "train"}, {"name": "test", "type": "test"}],
        )
        assert await ask("/Quiz/num_tasks", {"split": "train"}) == (200, {"num_tasks": 2500})
        row = {"id": "test-5", "index": 5, "question": "test 5?", "level": 2}
        assert await ask("/Quiz/task", {"split": "test", "index": 5}) == (200, {"task": row})
        status, body = await ask("/Quiz/task_range", {"split": "test", "start": 5, "stop": 6})
        assert (status, body) == (200, {"tasks": [row]})
        status, body = await ask("/Quiz/task_range", {"split": "test", "start": -15, "stop": -14})
        assert body == {"tasks": [row]}
        status, body = await ask("/Quiz/task_range", {"split": "train"})
        assert [row["index"] for row in body["tasks"]] == [*range(2500)]
        status, body = await ask("/Quiz/tasks", {"split": "train"})
        assert (len(body["tasks"]), body["env_name"]) == (1000, "Quiz")

        for index in (20, -1):
            status, body = await ask("/Quiz/task", {"split": "test", "index": index})
            assert status == 400
            assert "none with the index" in body["error"]["message"]
        status, body = await ask("/Quiz/num_tasks", {"split": "dev"})
        assert (status, body["error"]["message"]) == (
            400,
            "Quiz has no split 'dev': it has train, test",
        )
        for path, fields in (
            ("/Quiz/num_tasks", {}),
            ("/Quiz/task", {"split": "test"}),
            ("/Quiz/task", {"split": "test", "index": "5"}),
            ("/Quiz/task_range", {"split": 1}),
            ("/Quiz/task_range", {"split": "test", "start": True}),
        ):
            assert (await ask(path, fields))[0] == 422
        status, body = await ask("/other/num_tasks", {"split": "test"})
        assert status == 404
        assert "this one is Quiz" in body["error"]["message"]


async def test_an_environment_without_tasks_answers_501() -> None:
    async with asking(Counter) as ask:
        name = (await ask("/list_environments"))[1][0]
        asked: list[tuple[str, Any]] = [("/tasks", None), ("/tasks/train", None)]
        asked += [(f"/{name}/splits", None), (f"/{name}/task", {"split": "a", "index": 0})]
        asked += [(f"/{name}/{each}", {"split": "a"}) for each in ("tasks", "num_tasks")]
        asked += [(f"/{name}/task_range", {"split": "a"})]
        for path, body in asked:
            status, answer = await ask(path, body)
            assert (path, status) == (path, 501)
            assert "declares no tasks" in answer["error"]["message"]
        assert "splits" not in (await ask("/metadata"))[1]


async def test_more_tasks_than_a_message_holds_are_refused() -> None:
    class Long(Quiz):
        tasks = TaskTable({"train": [{"id": n, "text": "x" * 50_000} for n in range(10)]})

    options = EngineOptions(limits=Limits(max_message_size=200_000))
    async with asking(Long, options=options) as ask:
        status, body = await ask("/Long/task_range", {"split": "train"})
        assert status == 413
        assert "ask for fewer at once" in body["error"]["message"]
        status, body = await ask("/Long/task_range", {"split": "train", "start": 0, "stop": 3})
        assert (status, len(body["tasks"])) == (200, 3)
