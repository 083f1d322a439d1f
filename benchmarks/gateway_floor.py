"""A proxy that forwards bytes and looks at none: the floor of what any gateway adds to a call.

``python -m benchmarks.gateway_floor HOST PORT`` listens at a free port of 127.0.0.1, prints its URL
as a line of JSON, and opens a connection to HOST and PORT for each that it takes, on the event loop
that gateways run on. A call takes longer by two wake-ups of a process and two more sends.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import cast

from openenv_async.event_loop import loop_factory

__all__ = ["main"]


class _End(asyncio.Protocol):
    """One of two connections; what comes from one is sent on the other."""

    other: _End | None = None
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            self.other.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None:
            self.other.transport.close()


class _Taken(_End):
    """A connection of a client; its first request waits until there is one to the engine."""

    def __init__(self, host: str, port: int) -> None:
        self._engine = host, port
        self._early: list[bytes] = []
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self._early.append(data)
        else:
            self.other.transport.write(data)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, other = await loop.create_connection(_End, *self._engine)
        except OSError:
            self.transport.abort()
            return
        other.other, self.other = self, other
        other.transport.writelines(self._early)
        self._early.clear()
        if self.transport.is_closing():
            other.transport.close()


async def _run(host: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Taken(host, port), "127.0.0.1", 0, backlog=4096)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    sys.stdout.write(json.dumps({"url": url}) + "\n")
    sys.stdout.flush()
    async with server:
        await asyncio.to_thread(sys.stdin.read)


def main() -> None:
    """Forward until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway_floor")
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    args = parser.parse_args()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_run(args.host, args.port))


if __name__ == "__main__":
    main()
