"""A sandbox of an agent's program: a network of its own that leads to its session and nowhere else.

The program runs in a user and network namespace (``unshare`` of util-linux). It has loopback, on
which the addresses of its session are as they were; nothing else can be reached, no other port of
this machine and no other machine. Its files are those of the user: what the user may not read, it
may not read.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from openenv_async.errors import AgentFailed
from openenv_async.gateway import agent_inside
from openenv_async.gateway.agent_settings import AgentAddresses

__all__ = ["Sandbox", "sandbox"]

_ADDRESSES: Final = ("openai_base_url", "anthropic_base_url", "mcp_url")
_HTTP: Final = 80


class Sandbox:
    """A sandbox that is ready for its program.

    Attributes:
        addresses: of the session, as they are inside.
        started: a file that is there once the program was started.
    """

    def __init__(self, addresses: AgentAddresses, ways: dict[str, str], started: Path) -> None:
        self.addresses = addresses
        self.started = started
        self._ways = ways

    def command(self, command: Sequence[str]) -> list[str]:
        """Return the command that runs another one inside."""
        unshare = shutil.which("unshare")
        if unshare is None:
            raise AgentFailed("a sandbox needs the program `unshare` of util-linux")
        inside = [sys.executable, "-I", "-S", agent_inside.__file__]
        ways = [json.dumps(self._ways), str(self.started)]
        own = ["--user", "--map-current-user", "--keep-caps", "--net"]
        return [unshare, *own, *inside, *ways, *command]

    def check_started(self, output: str) -> None:
        """Return if the program was started.

        Raises:
            AgentFailed: the system does not allow a sandbox, or there is no such program.
        """
        if not self.started.exists():
            lines = output.strip().splitlines() or ["it said nothing"]
            raise AgentFailed(f"the agent was not started in its sandbox: {lines[-1][:300]}")


@contextlib.asynccontextmanager
async def sandbox(addresses: AgentAddresses, folder: Path) -> AsyncIterator[Sandbox]:
    """Have the ways out of a sandbox open.

    Args:
        addresses: of the session, to which they lead.
        folder: for sockets.

    Raises:
        AgentFailed: an address is not of plain HTTP.
    """
    ways: dict[str, str] = {}
    ports: dict[tuple[str, int], int] = {}
    inside: dict[str, Any] = {}
    async with contextlib.AsyncExitStack() as stack:
        for name in _ADDRESSES:
            url = getattr(addresses, name)
            if not url:
                continue
            parts = urlsplit(url)
            if parts.scheme != "http" or parts.hostname is None:
                raise AgentFailed(f"a sandbox leads to addresses of plain HTTP, not to {url!r}")
            target = parts.hostname, parts.port or _HTTP
            if target not in ports:
                port = target[1]
                while str(port) in ways:  # of another host
                    port += 1
                ports[target] = port
                path = folder / f"{port}.sock"
                server = await asyncio.start_unix_server(_leading(*target), path)
                stack.push_async_callback(_close, server)
                ways[str(port)] = str(path)
            inside[name] = parts._replace(netloc=f"127.0.0.1:{ports[target]}").geturl()
        yield Sandbox(dataclasses.replace(addresses, **inside), ways, folder / "started")


def _leading(host: str, port: int) -> Callable[..., Awaitable[None]]:
    """Return what joins a connection of the sandbox with one to an address."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            other = await asyncio.open_connection(host, port)
        except OSError:
            writer.close()
            return
        await agent_inside.join((reader, writer), other)

    return connected


async def _close(server: asyncio.Server) -> None:
    server.close()
    await server.wait_closed()
