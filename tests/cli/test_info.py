"""``openenv-async info``: what an environment or a server takes and gives."""

from __future__ import annotations

import asyncio
import json

import pytest

from openenv_async import serve
from openenv_async.cli.info import field_rows
from openenv_async.tasks import TaskTable
from tests.checks.validation.broken import Good
from tests.cli.commands import (
    invoke,
)
from tests.quiz import MARKER, Quiz

pytest.importorskip("echo_env")
GOOD = "tests.checks.validation.broken:Good"


def test_info_of_a_name() -> None:
    result = invoke("info", "echo")
    assert result.exit_code == 0
    for part in ("echo_env.client:EchoEnv", "message", "string", "timestamp", "number", "inline"):
        assert part in result.output


def test_info_of_a_class_as_json() -> None:
    report = json.loads(invoke("info", GOOD, "--json").output)
    assert report["name"] == "Good"
    assert report["environment"] == "tests.checks.validation.broken:Good"
    assert set(report["schema"]) == {"action", "observation", "state", "reset"}


async def test_info_of_a_server() -> None:
    async with serve(Good) as url:
        result = await asyncio.to_thread(invoke, "info", url)
    assert result.exit_code == 0, result.output
    for part in ("Good", "max sessions", "1024", "openenv_async/", "array of integer"):
        assert part in result.output


def test_info_says_whether_legal_actions_are_told() -> None:
    for target, told in (
        ("tests.legal_games:Corridor", "told with each result; others are refused"),
        ("tests.legal_games:Bits", "told with each result; others may be taken"),
        (GOOD, None),
    ):
        result = invoke("info", target)
        assert result.exit_code == 0, result.output
        assert ("legal actions" in result.output) == (told is not None)
        assert told is None or told in " ".join(result.output.split())


def test_a_row_for_each_field() -> None:
    schema = {
        "type": "object",
        "properties": {
            "n": {"type": "integer", "description": "how\n many"},
            "mode": {"enum": ["a", "b"], "default": "a"},
        },
        "required": ["n"],
    }
    assert field_rows(schema) == [
        ("n", "integer", "how many"),
        ("mode", '"a" | "b"', '= "a"'),
    ]
    assert field_rows({"type": "number"}) == [("(value)", "number", "")]
    assert field_rows({}) == field_rows(None) == []


async def test_info_lists_the_splits_and_how_many_tasks_they_have() -> None:
    async with serve(Quiz) as url:
        served = await asyncio.to_thread(invoke, "info", url)
        as_json = await asyncio.to_thread(invoke, "info", url, "--json")
    own = invoke("info", "tests.quiz:Quiz")
    own_json = invoke("info", "tests.quiz:Quiz", "--json")
    for result in (served, own):
        assert "train 2500, test 20" in result.output
    for result in (as_json, own_json):
        assert json.loads(result.output)["tasks"] == {"train": 2500, "test": 20}
        assert MARKER not in result.output
    assert json.loads(invoke("info", GOOD, "--json").output)["tasks"] is None


class Unread(Quiz):
    """A quiz whose file is not there."""

    tasks = TaskTable({"train": "/no/such.jsonl"})


async def test_info_tells_why_tasks_cannot_be_listed() -> None:
    async with serve(Unread) as url:
        served = await asyncio.to_thread(invoke, "info", url, "--json")
    for result in (served, invoke("info", "tests.cli.test_info:Unread", "--json")):
        assert result.exit_code == 0
        assert "No such file" in json.loads(result.output)["tasks"]["error"]
