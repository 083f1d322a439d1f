"""``openenv-async conformance``: results as JSON and as tables, and exit codes."""

from __future__ import annotations

import asyncio
import json
import sys

from openenv_async import serve
from openenv_async.checks.conformance import CHECKS
from openenv_async.checks.registry import Result
from tests.checks.conformance.test_suite import Breaks, Game, failed


async def command(*arguments: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "openenv_async.cli", "conformance", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_the_command() -> None:
    async with serve(Game) as url:
        code, out, err = await command(url, "--json")
        assert code == 0, err
        results = [Result(each.pop("name"), each.pop("door"), **each) for each in json.loads(out)]
        assert failed(results) == {}
        assert len(results) == 8 * len(CHECKS)
        for option in ("--transport", "--door"):  # the latter is its old name
            code, out, err = await command(url, option, "http", "--verbose")
            assert code == 0, err
            assert "http" in out
            assert "native" not in out
        code, _, err = await command(url, "--transport", "window")
        assert code == 2
        assert "native msgpack" in err
        code, _, _ = await command(url, "--check", "nonsense")
        assert code == 2
    async with serve(Breaks) as url:
        code, out, _ = await command(url, "--check", "a_whole_episode_runs")
        assert code == 1
        assert "no such cell" in " ".join(out.split())
    code, _, err = await command("http://127.0.0.1:9")
    assert code == 1
    assert len(err.strip().splitlines()) == 1
    code, _, _ = await command("not-a-url")
    assert code == 2
