"""Cancel reaches the server; a client that dies is noticed; a bad cancel hurts nobody."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time

from openenv_async import EngineOptions, EnvClient, GenericEnvClient, Timeouts, serve
from openenv_async.checks.conformance import NativeTransport
from openenv_async.protocol.frames import Observation, State, StateIs, Step
from openenv_async.server import HTTPEnvServer
from openenv_async.testing import ConformanceEnvironment

LONG = {"command": "sleep", "value": 60.0}


async def waiting_on(env: EnvClient[dict, dict, dict]) -> asyncio.Future:  # type: ignore[type-arg]  # brevity
    call = asyncio.ensure_future(env.step(LONG))
    await asyncio.sleep(0.05)
    assert not call.done()
    return call


async def test_a_cancelled_step_is_stopped_within_a_second() -> None:
    async with serve(ConformanceEnvironment) as url, GenericEnvClient(url) as env:
        await env.reset()
        call = await waiting_on(env)
        begun = time.perf_counter()
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await call
        state = await env.state()
        assert state["cancelled"] == 1
        assert time.perf_counter() - begun < 1


async def test_leaving_frees_the_slot_within_a_second() -> None:
    options = EngineOptions(max_sessions=1)
    async with serve(ConformanceEnvironment, options=options) as url:
        async with GenericEnvClient(url) as env:
            await env.reset()
            call = await waiting_on(env)
            call.cancel()
            await asyncio.wait([call])
        begun = time.perf_counter()
        while True:
            try:
                async with GenericEnvClient(url) as other:
                    await other.reset()
                break
            except Exception:
                assert time.perf_counter() - begun < 1


CLIENT = """
import asyncio, sys
from openenv_async import GenericEnvClient

async def main():
    async with GenericEnvClient(sys.argv[1]) as env:
        await env.reset()
        call = asyncio.ensure_future(env.step({"command": "sleep", "value": 60.0}))
        await asyncio.sleep(0.05)
        print("stepping", flush=True)
        await call

asyncio.run(main())
"""


async def test_a_killed_client_is_noticed_within_two_seconds() -> None:
    server = HTTPEnvServer(
        ConformanceEnvironment, options=EngineOptions(timeouts=Timeouts(resume=None))
    )
    from starlette.applications import Starlette

    app = Starlette(routes=server.router.routes, lifespan=server.router.lifespan_context)
    async with serve(app) as url:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CLIENT, url, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        async with asyncio.timeout(30):
            assert (await process.stdout.readline()).strip() == b"stepping"
        assert len(server.engine.sessions) == 1
        process.kill()
        begun = time.perf_counter()
        await process.wait()
        while server.engine.sessions:
            await asyncio.sleep(0.01)
            assert time.perf_counter() - begun < 2
        assert not ConformanceEnvironment.live


async def test_a_malformed_cancel_hurts_nobody() -> None:
    async with serve(ConformanceEnvironment) as url:
        transport = NativeTransport(url)
        async with transport.raw_connection() as victim, transport.raw_connection() as attacker:
            await victim.begin(1)
            await attacker.begin(1)
            payload = victim.payload({"command": "sleep", "value": 0.2})
            victim.send(Step(1, 2, 1, payload))
            for items in (
                [6],
                [6, 1],
                [6, "1", "2"],
                [6, None, None],
                [6, 10**15, 2],
                [6, -1, -1],
                [6, 1, 99],
                [6, [1], {"a": 1}],
            ):
                attacker.send_items([items])
            attacker.send(State(1, 2, 1))
            while not isinstance(await attacker.receive(), StateIs):
                pass
            assert isinstance(await victim.receive(), Observation)
