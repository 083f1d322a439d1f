"""``openenv-async rows``: what a gateway that runs has kept, on the command line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from openenv_async.gateway.gateway import Gateway
from tests.cli.commands import invoke, one_line
from tests.gateway.scripted import ROUTES, Client, ScriptedEngine

TOKEN = "admin-token"
AT_ONCE = {"OPENENV_GATEWAY_TOKEN": TOKEN}


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with Gateway(ScriptedEngine(), routes=ROUTES, admin_token=TOKEN) as gateway:
        yield gateway


async def printed(*arguments: str, **variables: str) -> list[Any]:
    result = await asyncio.to_thread(invoke, "rows", *arguments, **(variables or AT_ONCE))
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.output.splitlines()]


async def test_sessions_rows_and_calls_are_printed(gateway: Gateway) -> None:
    session = await gateway.open()
    other = await gateway.open()
    async with Client(gateway.url, session.key) as client:
        for word in ("one", "two"):
            assert (await client.ask({"say": word})).status == 200
    known = await printed(gateway.url)
    assert {each["id"]: each["spent"]["calls"] for each in known} == {session.id: 2, other.id: 0}
    rows = await printed(
        gateway.url, session.id, "--reward", "0.5", "--group", "g", "--member", "3"
    )
    kept = session.rows(reward=0.5, group="g", member=3)
    assert [row["completion_ids"] for row in rows] == [row.completion_ids for row in kept]
    assert {(row["reward"], row["group"], row["member"]) for row in rows} == {(0.5, "g", 3)}
    calls = await printed(gateway.url, session.id, "--calls")
    assert [call["number"] for call in calls] == [0, 1]
    assert await printed(gateway.url, other.id) == []
    assert session.is_open


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--calls",), "name the session"),
        (("--reward", "1"), "it is of rows"),
        (("s1", "--calls", "--group", "g"), "it is of rows"),
    ],
)
def test_options_of_something_else_are_refused(arguments: tuple[str, ...], why: str) -> None:
    result = invoke("rows", "http://127.0.0.1:1", *arguments, **AT_ONCE)
    assert result.exit_code == 2
    assert why in result.output


async def test_an_unknown_session_or_token_is_one_line(gateway: Gateway) -> None:
    result = await asyncio.to_thread(invoke, "rows", gateway.url, "nonesuch", **AT_ONCE)
    assert result.exit_code == 1
    assert "no session 'nonesuch'" in one_line(result.output)
    wrong = {"OPENENV_GATEWAY_TOKEN": "another"}
    result = await asyncio.to_thread(invoke, "rows", gateway.url, **wrong)
    assert result.exit_code == 1
    assert "--gateway-token-file" in one_line(result.output)
