"""``ps``, ``gc`` and ``logs``, against a real Engine."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

from openenv_async.cli import main
from openenv_async.providers.docker.owner import RUN, STARTED, this_owner
from tests.providers.engines import BASE, docker, docker_tests, provider
from tests.providers.fixtures import engine as engine

pytestmark = docker_tests

CHATTER = ("sh", "-c", "echo one; echo two; exec sleep 600")


async def run(*arguments: str, **options: Any) -> Result:
    """A command; it makes an event loop of its own, so in another thread."""
    return await asyncio.to_thread(CliRunner().invoke, main, arguments, **options)


async def test_ps_says_whose_they_are() -> None:
    async with provider(BASE, command=CHATTER) as containers:
        worker = await containers.start()
        listed = await run("ps", "--json")
        assert listed.exit_code == 0
        rows = [json.loads(line) for line in listed.output.splitlines()]
        (mine,) = [row for row in rows if row["name"] == worker.name]
        assert mine["run"] == this_owner().run
        assert mine["owner"] == "alive"
        assert mine["orphan"] is False
        assert mine["id"] == worker.container_id
        table = await run("ps")
        assert worker.name in table.output


async def test_gc_takes_the_orphans_only() -> None:
    async with provider(BASE, command=CHATTER) as containers:
        worker = await containers.start()
        labels = {**this_owner().labels(600), RUN: "orphaned", STARTED: "long ago"}
        flags = [f"--label={name}={value}" for name, value in labels.items()]
        orphan = await asyncio.to_thread(docker, "create", *flags, BASE, "true")
        first = await run("gc", "--dry-run")
        assert first.exit_code == 0
        done = await run("gc")
        assert done.exit_code == 0
        left = docker("ps", "-aq", "--no-trunc").split()
        assert orphan not in left
        assert worker.container_id in left


async def test_gc_asks_before_it_takes_what_is_in_use() -> None:
    async with provider(BASE, command=CHATTER) as containers:
        worker = await containers.start()
        mine = this_owner().run
        refused = await run("gc", "--run", mine, input="n\n")
        assert refused.exit_code == 130
        assert worker.container_id in docker("ps", "-q", "--no-trunc").split()
        done = await run("gc", "--run", mine, "--yes")
        assert done.exit_code == 0
        assert worker.container_id not in docker("ps", "-aq", "--no-trunc").split()


async def test_logs() -> None:
    async with provider(BASE, command=CHATTER) as containers:
        worker = await containers.start()
        async with asyncio.timeout(60):
            while "two" not in (await run("logs", worker.name[:20])).output:
                pass
        shown = await run("logs", worker.name[:20], "--tail", "1")
        assert shown.output.strip() == "two"
        missing = await run("logs", "never-was")
        assert missing.exit_code == 1
        assert "see openenv-async ps" in missing.stderr


@pytest.mark.parametrize("command", [("ps",), ("gc",), ("logs", "x")])
async def test_no_engine_is_one_line(command: tuple[str, ...]) -> None:
    failed = await run(*command, "--engine", "unix:///nowhere/engine.sock")
    assert failed.exit_code == 1
    assert "no Docker Engine answers" in failed.stderr
    assert len(failed.stderr.strip().splitlines()) == 1
