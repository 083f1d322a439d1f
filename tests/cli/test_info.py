"""``openenv-async info``: what an environment or a server takes and gives."""

from __future__ import annotations

import asyncio
import json

import pytest

from openenv_async import serve
from openenv_async.cli.info import field_rows
from tests.checks.validation.broken import Good
from tests.cli.commands import (
    invoke,
)

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
