"""Clients in forked processes, in ``__del__``, and when the interpreter ends."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from openenv_async import (
    Environment,
    HTTPEnvClient,
    SyncEnvClient,
    create_app,
    serve,
)
from openenv_async.client.loop_thread import background_loop
from tests.helpers import until


class Plain(Environment[Any, Any, Any]):
    """An environment that returns each action."""

    isolation = "inline"

    def reset(self, seed: int = 0, level: Any = None) -> dict[str, Any]:
        self.steps = 0
        return {"seed": seed, "level": level}

    def step(self, action: Any) -> dict[str, Any]:
        self.steps += 1
        return {"steps": self.steps}

    def state(self) -> dict[str, Any]:
        return {"steps": self.steps}


class Counting(Environment[Any, Any, Any]):
    """An environment that tells the numbers it was sent in this session."""

    isolation = "inline"

    def reset(self) -> list[int]:
        self.taken: list[int] = []
        return []

    def step(self, action: int) -> list[int]:
        self.taken.append(action)
        return list(self.taken)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_a_forked_http_client_has_a_session_of_its_own() -> None:
    """Parent and child step at once, on a client that was open when the child was forked."""
    async with serve(Counting) as url:
        script = textwrap.dedent(
            """
            import os, sys
            from openenv_async import HTTPEnvClient
            env = HTTPEnvClient(sys.argv[1])
            env.reset(), env.step(1)
            child = os.fork()
            if child == 0:
                try:
                    env.step(90)
                except Exception as exc:
                    print("child", type(exc).__name__, flush=True)
                env.reset()
                print("child", env.step(91).observation, flush=True)
                env.close()
                os._exit(0)
            os.waitpid(child, 0)
            print("parent", env.step(2).observation, env.step(3).observation, flush=True)
            env.close()
            """
        )
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", script, url),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(60):
            out, _ = await process.communicate()
        assert out.decode().splitlines() == [
            "child EpisodeNotStarted",
            "child [91]",
            "parent [1, 2] [1, 2, 3]",
        ]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_does_not_end_the_server_that_its_parent_started() -> None:
    script = textwrap.dedent(
        """
        import os
        from openenv_async import AutoEnv
        env = AutoEnv.from_env("echo", provider="process")
        env.reset()
        child = os.fork()
        if child == 0:
            env.close()
            print("the child has closed it", flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        print(env.step({"message": "still there"}).observation.echo)
        env.close()
        """
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "the child has closed it" in done.stdout, done.stderr
    assert "still there" in done.stdout, done.stderr


@pytest.mark.parametrize(
    "make",
    [
        "SyncEnvClient(url)",
        "EnvClient(url).sync()",
        "HTTPEnvClient(url)",
        "HTTPEnvClient(url).sync()",
        "SyncEnvPool.from_url(url)",
        "GymEnv(url)",
        "GymVectorEnv(url, 2)",
    ],
)
async def test_closing_in_del_at_the_interpreters_end_returns(make: str) -> None:
    async with serve(Plain, action=int, observation=dict, state=dict) as url:
        script = textwrap.dedent(
            f"""
            import sys
            from openenv_async import EnvClient, HTTPEnvClient, SyncEnvClient, SyncEnvPool
            from gymnasium.spaces import Discrete, Text
            url = sys.argv[1]
            class Owner:
                def __init__(self, env):
                    self.env = env
                def __del__(self):
                    self.env.close()
                    print("closed", flush=True)
            def space(make):
                from openenv_async.integrations.gymnasium import GymEnv, GymVectorEnv
                return lambda *a: make(*a, action_space=Discrete(2), encode_action=int,
                    observation_space=Text(99), decode_observation=str)
            if "Gym" in {make!r}:
                from openenv_async.integrations import gymnasium as g
                GymEnv, GymVectorEnv = space(g.GymEnv), space(g.GymVectorEnv)
            owner = Owner({make})
            owner.env.open() if "Pool" in {make!r} else owner.env.reset()
            owner.itself = owner  # collected with the interpreter, not before
            sys.modules["keep"] = owner
            """
        )
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", script, url),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(60):
                out, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert (out.decode(), process.returncode) == ("closed\n", 0), err.decode()


class _Owner:
    """An object that closes its client when it is collected, in any thread."""

    def __init__(self, env: Any) -> None:
        self.env = env
        self.itself = self

    def __del__(self) -> None:
        self.env.close()


@pytest.mark.parametrize("make", [SyncEnvClient, HTTPEnvClient])
async def test_closing_in_del_on_the_background_thread_closes(make: Any) -> None:
    """The garbage collector runs wherever something is allocated, and so in that thread."""
    app = create_app(Plain)
    sessions = app.state.openenv.engine.sessions
    async with serve(app) as url:

        def play() -> None:
            owner = _Owner(make(url))
            owner.env.reset()
            del owner

        gc.disable()
        try:
            await asyncio.to_thread(play)
            assert len(sessions) == 1
            background_loop().loop.call_soon_threadsafe(gc.collect)
            await until(lambda: not sessions)
        finally:
            gc.enable()


def test_a_call_at_the_interpreters_end_is_refused() -> None:
    script = textwrap.dedent(
        """
        import sys
        from openenv_async import SyncEnvClient
        from openenv_async.errors import SessionClosed
        class Late:
            env = SyncEnvClient("http://127.0.0.1:1")
            closed = SessionClosed
            def __del__(self):
                try:
                    self.env.reset()
                except self.closed as exc:
                    print(exc, flush=True)
        late = Late()
        late.itself = late
        sys.modules["keep"] = late
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert "the interpreter is ending" in done.stdout, done.stderr
