"""Servers of targets: started, found, watched, and ended by their owner and nobody else."""

from __future__ import annotations

import asyncio
import functools
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # it has none
import pytest

from openenv_async import (
    Environment,
    EnvPool,
    GenericEnvClient,
    SyncEnvPool,
    resolve,
    serve,
)
from openenv_async.client.loop_thread import background_loop
from openenv_async.errors import (
    ConnectFailed,
    EnvironmentStartFailed,
    ProviderError,
    Unauthorized,
    WorkerDied,
    WorkerStartFailed,
    WrongTarget,
)
from openenv_async.providers.process import ProcessProvider
from openenv_async.server import create_app
from openenv_async.spec import EnvironmentSpec
from openenv_async.targets.served import InProcessProvider, Server
from tests.targets.environments import Move, Tiny, TinyEnv, TinyGym

pytest.importorskip("echo_env")
TINY = "tests.targets.environments:Tiny"


async def played(server: Server) -> int:
    """The process in which an episode ran."""
    async with TinyEnv(server.url, token=server.token) as env:
        pid = (await env.reset()).observation.pid
        assert not (await env.step(Move())).done
        assert (await env.step(Move())).terminated
    return pid


async def test_a_class_is_served_in_this_process_with_a_token_of_its_own() -> None:
    async with resolve(Tiny).serve({"goal": 2}) as server:
        assert await played(server) == os.getpid() == server.pid
        with pytest.raises(Unauthorized):
            await GenericEnvClient(server.url).open()
        assert server.cause_of_death is None
    with pytest.raises(ConnectFailed):
        await GenericEnvClient(server.url, token=server.token).open()


async def test_a_name_is_served_by_a_process_whose_death_is_told() -> None:
    async with resolve(TINY).serve() as server:
        assert server.pid is not None
        assert await played(server) == server.pid != os.getpid()
        assert isinstance(server.died(), ConnectFailed)
        os.kill(server.pid, signal.SIGKILL)
        assert server._worker is not None
        await server._worker.exited
        cause: Any = server.cause_of_death
        assert cause.exit_code == -signal.SIGKILL
        assert "SIGKILL" in cause.reason
        assert isinstance(server.died(), WorkerDied)
    assert not psutil.pid_exists(server.pid)


async def test_the_log_of_a_server_can_be_read() -> None:
    async with resolve("tests.targets.loud:Loud").serve() as server:
        assert "here I am" in await server.log_tail()


async def test_a_server_that_does_not_start_leaves_nothing() -> None:
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(WorkerStartFailed, match="gaol"):
        async with resolve(TINY).serve({"gaol": 1}):
            raise AssertionError("it started")
    assert set(psutil.Process().children(recursive=True)) <= before


async def test_what_runs_is_given_as_it_is() -> None:
    async with serve(Tiny, token="secret") as url:
        given: list[Any] = [
            TinyEnv(url, token="secret"),
            functools.partial(TinyEnv, url, token="secret"),
            [(url, "secret")],
            EnvPool.from_url(url, token="secret"),
        ]
        for each in given:
            async with resolve(each).serve() as server:
                assert (server.url, server.token) == (url, "secret")
                await played(server)
        async with resolve(url).serve(token="secret") as server:
            assert (server.url, server.token) == (url, "secret")
        await GenericEnvClient(url, token="secret").open()  # it runs on


async def test_the_workers_of_a_pool_and_of_a_provider_stay_their_owners() -> None:
    async with ProcessProvider(TINY) as provider:
        async with resolve(provider).serve() as server:
            await played(server)
        assert not provider._workers
    async with EnvPool(InProcessProvider(EnvironmentSpec(Tiny))) as pool:
        async with resolve(pool).serve() as server:
            await played(server)
        async with pool.session() as env:
            assert (await env.reset()).observation["total"] == 0


def test_a_blocking_pool_has_a_server() -> None:
    async def look() -> str:
        async with resolve(pool).serve() as server:
            return server.url

    with SyncEnvPool(InProcessProvider(EnvironmentSpec(Tiny))) as pool:
        assert background_loop().run(look()) == pool.pool.workers[0].url


async def test_clients_without_an_address_have_no_server() -> None:
    class Duck:
        async def reset(self) -> None: ...

    with pytest.raises(WrongTarget, match="makes clients without a base_url"):
        async with resolve(lambda: Duck()).serve():
            raise AssertionError("it has one")
    with pytest.raises(WrongTarget, match="annotate what it returns, -> Tiny"):
        async with resolve(lambda: Tiny()).serve():
            raise AssertionError("it has one")


async def test_an_environment_in_this_process_has_one_worker() -> None:
    async with InProcessProvider(EnvironmentSpec(Tiny), max_sessions=1) as provider:
        assert await provider.room() == 1
        worker = await provider.start()
        assert await provider.room() == 0
        with pytest.raises(ProviderError, match="has one worker"):
            await provider.start()
        copy = pickle.loads(pickle.dumps(provider))
        assert await copy.room() == 1
        await worker.aclose()
        await worker.aclose()
        assert not worker.exited.done()
        assert await provider.room() == 1


async def test_a_server_in_this_process_that_ends_is_told() -> None:
    async with InProcessProvider(EnvironmentSpec(Tiny)) as provider:
        worker = await provider.start()
        worker._holder._loop.call_soon_threadsafe(worker._holder._stop.set)
        ended = await asyncio.wait_for(worker.exited, 10)
        assert ended.reason == "its server in this process ended"


class Fails(Environment[Any, Any, Any]):
    def __init__(self) -> None:
        raise RuntimeError("no licence")

    def reset(self) -> dict[str, Any]:
        return {}

    def step(self, action: Any) -> dict[str, Any]:
        return {}


async def test_an_environment_that_cannot_be_built_is_told_when_it_is_opened() -> None:
    async with resolve(Fails).serve() as server:
        with pytest.raises(EnvironmentStartFailed, match="no licence"):
            await GenericEnvClient(server.url, token=server.token).open()


async def test_starting_in_this_process_can_be_cancelled() -> None:
    provider = InProcessProvider(EnvironmentSpec(Tiny))
    with pytest.raises(TimeoutError):
        await provider.start(timeout=0.0)
    assert await provider.room() == 1


def test_what_nobody_closed_is_closed_at_exit(tmp_path: Path) -> None:
    script = tmp_path / "leaves.py"
    script.write_text(
        "import asyncio\n"
        "from tests.targets.environments import Tiny\n"
        "from openenv_async.targets.served import InProcessProvider\n"
        "from openenv_async.spec import EnvironmentSpec\n"
        "from openenv_async import GenericEnvClient\n"
        "class Told(Tiny):\n"
        "    def close(self): print('closed', flush=True)\n"
        "async def main():\n"
        "    worker = await InProcessProvider(EnvironmentSpec(Told)).start()\n"
        "    client = await GenericEnvClient(worker.url, token=worker.token)\n"
        "    await client.reset()\n"
        "asyncio.run(main())\n"
    )
    environ = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    said = subprocess.run(
        [sys.executable, script], env=environ, capture_output=True, text=True, timeout=60
    )
    assert said.stdout.split() == ["closed"], said.stderr
    assert said.returncode == 0


def test_a_forked_copy_leaves_the_server_alone() -> None:
    async def main() -> None:
        async with resolve(Tiny).serve() as server:
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    assert server._worker is not None
                    asyncio.events._set_running_loop(None)
                    asyncio.run(server._worker.aclose())
                    code = 0
                finally:
                    os._exit(code)
            ended = await asyncio.to_thread(os.waitpid, child, 0)
            assert os.waitstatus_to_exitcode(ended[1]) == 0
            await played(server)

    asyncio.run(main())


async def test_a_copied_server_is_its_address() -> None:
    async with resolve(Tiny).serve() as server:
        copy = pickle.loads(pickle.dumps(server))
        assert (copy.url, copy.token, copy.pid) == (server.url, server.token, server.pid)
        assert copy.cause_of_death is None
        assert await copy.log_tail() == ""
        assert server.token is not None
        assert server.token not in repr(server)


async def test_serve_takes_whatever_names_an_environment() -> None:
    for given in (Tiny, TINY, "echo", "environments/echo", Path("environments/echo"), TinyGym):
        async with serve(given) as url, GenericEnvClient(url) as env:
            await env.reset(seed=1)
    async with serve(TINY, params={"goal": 1}) as url, GenericEnvClient(url) as env:
        await env.reset()
        assert (await env.step({"amount": 1})).terminated
    async with serve(create_app(Tiny)) as url, GenericEnvClient(url) as env:
        await env.reset()
    async with serve(Tiny, params={"goal": 1}) as url, GenericEnvClient(url) as env:
        await env.reset()
        assert (await env.step({"amount": 1})).terminated
    for wrong in ("http://127.0.0.1:1", ["http://127.0.0.1:1"], "docker://x", TinyEnv("http://x")):
        with pytest.raises(WrongTarget, match="serve needs an environment itself"):
            async with serve(wrong):
                raise AssertionError("it is served")
