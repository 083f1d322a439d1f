"""The inside of a sandbox as this process can run it; ``test_agent_sandbox.py`` has the rest."""

from __future__ import annotations

import asyncio
import socket

from openenv_async.gateway.agent_inside import join


async def test_joined_connections_pass_on_what_comes_and_its_end() -> None:
    outer, inner = socket.socketpair()
    far_inner, far_outer = socket.socketpair()
    one = await asyncio.open_connection(sock=inner)
    other = await asyncio.open_connection(sock=far_inner)
    client = await asyncio.open_connection(sock=outer)
    server = await asyncio.open_connection(sock=far_outer)
    joining = asyncio.create_task(join(one, other))
    client[1].write(b"x" * 300_000)
    client[1].write_eof()
    assert len(await server[0].read()) == 300_000  # its end has come, and the way back is open
    server[1].write(b"answer")
    server[1].close()
    assert await client[0].read() == b"answer"
    await asyncio.wait_for(joining, 10)
    client[1].close()


async def test_a_connection_that_breaks_ends_the_other() -> None:
    outer, inner = socket.socketpair()
    far_inner, far_outer = socket.socketpair()
    one = await asyncio.open_connection(sock=inner)
    other = await asyncio.open_connection(sock=far_inner)
    joining = asyncio.create_task(join(one, other))
    outer.close()
    far_outer.setblocking(False)
    server = await asyncio.open_connection(sock=far_outer)
    assert await asyncio.wait_for(server[0].read(), 10) == b""
    server[1].close()
    await asyncio.wait_for(joining, 10)
