"""Where a client's session is: what closing does while it is being opened."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from openenv_async import GenericEnvClient, Limits, Timeouts
from openenv_async.client.connection import ClientConnection
from openenv_async.engine import Engine
from openenv_async.errors import SessionClosed
from openenv_async.pool import EnvPool
from openenv_async.targets.in_process import dial_memory
from tests.helpers import Counter, make_engine, settle
from tests.pool.workers import LoopProvider


class Dialling(GenericEnvClient):
    """Its connection is made once ``go`` is set."""

    engine: Engine
    go: asyncio.Event

    async def _connect(self) -> ClientConnection:
        await self.go.wait()
        return await dial_memory(self.engine, "openenv.v1.msgpack", Limits(), Timeouts())


@pytest.mark.parametrize("share", [True, False])
async def test_closing_a_client_that_is_being_opened_leaves_no_session(share: bool) -> None:
    engine = make_engine(Counter)
    client = Dialling("memory:", share=share)
    client.engine, client.go = engine, asyncio.Event()
    begun = asyncio.create_task(client.reset())
    await settle()
    await client.close()
    client.go.set()
    with pytest.raises(SessionClosed, match="this client was closed"):
        await begun
    await settle()
    assert client.session_id is None
    assert not engine.sessions
    await engine.aclose()


async def test_closing_a_lease_that_is_being_opened_leaves_no_slot() -> None:
    """Wherever the opening was."""
    provider = LoopProvider()
    async with EnvPool(provider, sessions_per_worker=1, max_workers=1) as pool:
        async with pool.session() as first:
            await first.reset()
        for turns in range(0, 30, 2):
            env = pool.session()
            begun = asyncio.create_task(env.reset())
            await settle(turns)
            await env.close()
            async with asyncio.timeout(10):
                with contextlib.suppress(SessionClosed):  # unless it was over before that
                    await begun
            assert pool.statistics().sessions == 0
            assert env.session_id is None
        async with pool.session() as other:  # there is just one slot
            await other.reset()
            assert provider.sessions == 1
