"""No bleeding between sessions: isolation is declared, and kept."""

from __future__ import annotations

import os
import random

import pytest

from openenv_async import Environment
from openenv_async.server import create_app
from tests.behaviours import environments
from tests.behaviours.environments import Commanded, CommandedProcess, Dict, clients, gather, served


async def test_process_isolation_keeps_everything_apart() -> None:
    async with served(CommandedProcess) as (url, _), clients(url, 3) as (bad, one, two):
        begun = await gather(c.reset() for c in (bad, one, two))
        assert len({r.observation["pid"] for r in begun} | {os.getpid()}) == 4
        before = (await one.step({"do": "look"})).observation["result"]
        await bad.step({"do": "pollute"})
        seen = (await bad.step({"do": "look"})).observation["result"]
        assert seen["environ"] == seen["module"] == "yes"
        assert seen["cwd"] != before["cwd"]
        assert seen["random"] == random.Random(1).random()
        for clean in (one, two):
            look = (await clean.step({"do": "look"})).observation["result"]
            assert look["cwd"] == before["cwd"] == os.getcwd()
            assert look["environ"] is None
            assert look["module"] == "no"
            assert look["random"] != seen["random"]
            assert "polluted-by-a-session" not in os.listdir(look["cwd"])
        await bad.close()
        await bad_again(url)
    assert environments.POLLUTED == "no"
    assert "POLLUTED" not in os.environ


async def bad_again(url: str) -> None:
    """A session after the polluted one finds a process of its own."""
    async with clients(url, 1) as (fresh,):
        await fresh.reset()
        look = (await fresh.step({"do": "look"})).observation["result"]
        assert look["environ"] is None
        assert look["module"] == "no"


def test_threads_refuse_what_is_not_safe_in_them() -> None:
    class Unsafe(Commanded):
        isolation = "thread"
        thread_safe = False

    with pytest.raises(TypeError, match="thread_safe"):
        create_app(Unsafe)


def test_what_is_not_thread_safe_gets_a_process_by_default() -> None:
    app = create_app(environments.UnsafeByDefault)
    assert app.state.openenv.engine.spec.contract.isolation == "process"


async def test_each_session_of_an_unsafe_environment_has_a_process_of_its_own() -> None:
    async with served(environments.UnsafeByDefault) as (url, _), clients(url, 3) as made:
        begun = await gather(c.reset() for c in made)
        assert len({r.observation["pid"] for r in begun} | {os.getpid()}) == 4


def test_an_instance_is_never_shared() -> None:
    class Instance(Environment[Dict, Dict, Dict]):
        def reset(self) -> Dict:
            return {}

        def step(self, action: Dict) -> Dict:
            return {}

    assert create_app(Instance()).state.openenv.engine.max_sessions == 1
