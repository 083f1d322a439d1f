"""CPU time and memory of both sides."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from openenv_async.benchmarking.usage import ServerMeter, Usage, own_rss

SPIN = "import time\nprint(flush=True)\nwhile True: pass"


def rss_of(pid: int) -> int:
    """Kilobytes resident of one process."""
    done = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, check=True)
    return int(done.stdout)


def test_the_difference_of_two_readings() -> None:
    meter = ServerMeter("http://127.0.0.1:1", None, os.getpid())
    found = meter.usage((1.0, 5), (3.0, 7), steps=1000, elapsed=4.0)
    source = "this process from /proc, its child processes included"
    assert found == Usage(2000.0, 0.5, 7, source, [])
    assert meter.usage((1.0, 5), (3.0, 0), 1, 1.0).rss_bytes is None
    for before, after in ((None, (1.0, 1)), ((1.0, 1), None)):
        unknown = meter.usage(before, after, 1, 1.0)
        assert (unknown.cpu_us_per_step, unknown.cpu_share, unknown.rss_bytes) == (None, None, None)


async def test_a_server_of_this_machine_is_measured_with_its_children() -> None:
    alone = await ServerMeter("", None, os.getpid()).read()
    assert alone is not None
    script = (
        "import subprocess, sys\n"
        f"subprocess.Popen([sys.executable, '-c', {SPIN!r}], stdout=1)\n"
        "sys.stdin.read()\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        await process.stdout.readline()  # the child runs
        meter = ServerMeter("", None, process.pid)
        before = await meter.read()
        until = time.monotonic() + 30
        while True:
            after = await meter.read()
            assert before is not None
            assert after is not None
            if after[0] > before[0] + 0.05:
                break
            assert time.monotonic() < until
            await asyncio.sleep(0.02)
        own = rss_of(process.pid)
        assert after[1] > own * 1024, "the child's memory is counted too"
    finally:
        os.killpg(process.pid, 9)
        await process.communicate()


@pytest.mark.parametrize(
    ("stats", "reading"),
    [
        ({"cpu_seconds": 2, "rss_bytes": 7}, (2.0, 7)),
        ({"cpu_seconds": 2}, (2.0, 0)),
        ({"rss_bytes": 7}, None),
        ([], None),
    ],
)
async def test_another_server_says_it_itself(stats: Any, reading: Any) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response(stats)

    app = web.Application()
    app.router.add_get("/stats", answer)
    async with TestServer(app) as server:
        meter = ServerMeter(str(server.make_url("/")), None, None)
        assert await meter.read() == reading
        source = "itself (GET /stats)" if reading else "nobody: it has no GET /stats"
        assert meter.measured_by.startswith(source)


async def test_a_server_says_what_it_runs_on() -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"runs_on": ["uvloop 1", "httptools 2"]})

    app = web.Application()
    app.router.add_get("/stats", answer)
    async with TestServer(app) as server:
        for pid in (None, os.getpid()):
            meter = ServerMeter(str(server.make_url("/")), None, pid)
            await meter.read()
            usage = meter.usage((1.0, 5), (3.0, 7), steps=1000, elapsed=4.0)
            assert usage.runs_on == ["uvloop 1", "httptools 2"]


async def test_a_server_that_does_not_answer_or_a_process_that_is_gone() -> None:
    assert await ServerMeter("http://127.0.0.1:1", None, None).read() is None
    gone = ServerMeter("http://127.0.0.1:1", None, 2**22 + 7)
    assert gone.measured_by == "nobody: it has no GET /stats"
    assert await gone.read() is None


def test_memory_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    before = own_rss()
    assert before > 10 * 2**20
    held = bytearray(os.urandom(1)) * (64 * 2**20)
    assert own_rss() > before + 32 * 2**20
    del held
