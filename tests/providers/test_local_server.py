"""A server process of one's own: it is there, and then it is not."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it has none
import pytest

from openenv_async import EnvClient, GenericEnvClient
from openenv_async.errors import ServerError
from openenv_async.providers.local_server import LocalServer
from openenv_async.rollouts import rollout

COUNTING = "tests.rollouts.environments:Counting"
ROOT = Path(__file__).parents[1]

STUBBORN = """
import signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
from openenv_async import Environment

class Stubborn(Environment[int, int, int]):
    isolation = "inline"
    def reset(self): return 0
    def step(self, action):
        while True: time.sleep(0.1)
"""


class IntEnv(EnvClient[int, int, int]):
    pass


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


async def test_it_serves_and_ends() -> None:
    async with LocalServer(COUNTING, {"goal": 2}, arguments=["--max-sessions", "5"]) as server:
        assert server.environment == "Counting"
        assert psutil.pid_exists(server.pid)
        async with GenericEnvClient(server.url) as env:
            await env.reset()
            assert (await env.step({"amount": 2})).terminated
        pid = server.pid
    assert not psutil.pid_exists(pid)
    await server.aclose()


def servers() -> list[psutil.Process]:
    """Children that serve; multiprocessing may have left its resource tracker running."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "serve" in child.cmdline():
                found.append(child)
    return found


async def test_what_does_not_start_says_why() -> None:
    with pytest.raises(ServerError, match="did not start: there is no environment 'nothing-here'"):
        async with LocalServer("nothing-here"):
            pass
    with pytest.raises(ServerError, match="did not start"):
        async with LocalServer(COUNTING, {"color": [1, "×"]}):
            pass


async def test_what_starts_too_slowly_is_killed() -> None:
    server = LocalServer(COUNTING, start_timeout=0.001)
    with pytest.raises(ServerError, match=r"did not listen within 0\.001 s"):
        await server.__aenter__()
    assert not servers()


async def test_cancelling_the_start_leaves_nothing() -> None:
    for turns in (0, 1, 2, 5, 20, 200):
        task = asyncio.create_task(LocalServer(COUNTING).__aenter__())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not servers()


async def test_what_does_not_stop_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    async with LocalServer("stubborn:Stubborn", stop_timeout=0.5) as server:
        env = await IntEnv(server.url).open()
        await env.reset()
        stuck = asyncio.create_task(env.step(1))
        await asyncio.sleep(0)
    assert not psutil.pid_exists(server.pid)
    stuck.cancel()
    await asyncio.wait([stuck])
    await env.close()


async def test_what_it_writes_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "chatty.py").write_text(
        STUBBORN + "\nfor i in range(99): print('line', i, file=sys.stderr)\n1 / 0\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    with pytest.raises(ServerError, match="ZeroDivisionError") as caught:
        await LocalServer("chatty:Stubborn").__aenter__()
    assert caught.value.log_tail is not None
    assert len(caught.value.log_tail.splitlines()) == 50


async def test_lines_are_taken_as_they_come_and_those_of_before() -> None:
    taken: list[str] = []
    played = asyncio.Event()

    def take(line: str) -> None:
        taken.append(line)
        if line.startswith("playing"):
            played.set()

    async with LocalServer("tests.cli.failing_worlds:OneInTen") as server:
        end = server.listen(take)
        await rollout(server.url, lambda seen: {}, seed=1)
        await played.wait()
        end()
        end()
        await rollout(server.url, lambda seen: {}, seed=2)
    assert taken[0] == "the module is imported"
    assert [line for line in taken if line.startswith("playing")] == ["playing 1"]
