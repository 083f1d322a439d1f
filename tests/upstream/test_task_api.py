"""The Task API: this server answers as the real upstream server does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from openenv_async import EnvClient, Environment, TaskTable, serve

pytestmark = pytest.mark.xdist_group("upstream")

SERVER = Path(__file__).parent / "task_server.py"
ROWS = [{"id": f"q{n}", "question": f"{n}?", "answer": "private"} for n in range(5)]


@dataclass
class Say:
    text: str


@dataclass
class Said:
    text: str = ""
    reward: float | None = None
    done: bool = False


class Sums(Environment[Say, Said, dict[str, Any]]):
    tasks = TaskTable({"train": ROWS, "odd": ROWS}, private=["answer"])

    def reset(self, question: str = "", answer: str = "") -> Said:
        return Said(question)

    def step(self, action: Say) -> Said:
        return Said(action.text, 1.0, True)


class Plain(Sums):
    @classmethod
    def tasks_for(cls, **params: Any) -> Any:
        return None


@contextlib.asynccontextmanager
async def theirs(python: str, name: str) -> AsyncIterator[str]:
    """The real server."""
    process = await asyncio.create_subprocess_exec(
        *(python, "-W", "ignore", str(SERVER), name),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(90):
            yield json.loads(await process.stdout.readline())["url"]
    finally:
        process.kill()
        await process.communicate()


ASKED: list[tuple[str, Any]] = [
    ("/list_environments", None),
    ("/Sums/splits", None),
    ("/sums/splits", None),
    ("/Sums/tasks", {"split": "train"}),
    ("/Sums/num_tasks", {"split": "train"}),
    ("/Sums/task", {"split": "train", "index": 3}),
    ("/Sums/task", {"split": "train", "index": 5}),
    ("/Sums/task", {"split": "train", "index": -1}),
    ("/Sums/task", {"split": "train"}),
    ("/Sums/task", {"index": 1}),
    ("/Sums/task_range", {"split": "train"}),
    ("/Sums/task_range", {"split": "train", "start": 1, "stop": 3}),
    ("/Sums/task_range", {"split": "train", "start": -2}),
    ("/Sums/task_range", {"split": "train", "start": None, "stop": -3}),
    ("/Sums/task_range", {"split": "train", "start": 9}),
    ("/other/splits", None),
    ("/other/tasks", {"split": "train"}),
]


async def answers(url: str, asked: list[tuple[str, Any]]) -> list[tuple[int, Any]]:
    """Status of each, and the body of those that are not refused."""
    found = []
    async with aiohttp.ClientSession() as http:
        for path, body in asked:
            method = "GET" if body is None else "POST"
            async with http.request(method, url + path, json=body) as response:
                good = response.status == 200
                found.append((response.status, await response.json() if good else None))
    return found


async def test_each_question_has_the_answer_of_the_real_server(upstream_python: str) -> None:
    async with theirs(upstream_python, "Sums") as url, serve(Sums) as own:
        wanted, found = await answers(url, ASKED), await answers(own, ASKED)
        for (path, body), one, other in zip(ASKED, found, wanted, strict=True):
            assert (path, body, one) == (path, body, other)
        assert [status for status, _ in wanted].count(200) == 11
        for each in (url, own):  # and both begin the episode that such a caller asks for
            async with EnvClient[Any, Any, Any](each, subprotocol="upstream") as env:
                result = await env.reset(split="train", index=4)
                assert result.observation["text"] == "4?"


async def test_without_tasks_both_answer_501(upstream_python: str) -> None:
    asked = [(path.replace("Sums", "Plain"), body) for path, body in ASKED[1:6]]
    async with theirs(upstream_python, "Plain") as url, serve(Plain) as own:
        wanted, found = await answers(url, asked[:1]), await answers(own, asked[:1])
        assert wanted == found == [(501, None)]
        for path, body in (asked[2], asked[3], asked[4]):
            one, other = await answers(url, [(path, body)]), await answers(own, [(path, body)])
            assert one == other == [(501, None)]
