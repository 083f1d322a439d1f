"""A process that outlives its owner for a moment, to remove what the owner left behind.

Run by path, ``python -I -S reaper.py``, with the standard library alone: it has to be small, and to
work while everything else of its owner does not. Rules:

- Its standard input is a pipe that the owner holds. Lines of JSON come in: where the Engine is and
  what the run is called, then containers as they come and go. The pipe ends when the owner does,
  however it went; so that forked children that hold it too do not matter, the owner's pid is
  watched as well.
- While the owner lives, it renews the leases of the containers, also when the owner's event loop is
  stuck. A container that nobody renews ends by itself, even if owner and reaper go together.
- When the owner is gone, it removes every container with the label of this run through the
  Engine's API, several times over: a ``create`` may still be under way in the Engine. Then it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import ssl
import sys
import urllib.parse
from collections.abc import Coroutine, Iterable
from typing import Any

LONGEST_INTERVAL = 8.0
RENEW_TIMEOUT = 6.0
CALL_TIMEOUT = 20.0
PASSES = (0.0, 0.3, 0.7, 1.0, 2.0, 3.0, 4.0)
"""Seconds before each look at what is left, after an owner that did not say goodbye."""
AT_ONCE = 8


class Reaper:
    """The work of this process, see the module."""

    def __init__(self, start: dict[str, Any]) -> None:
        self.url: str = start["engine"]
        self.tls: dict[str, Any] = start.get("tls") or {}
        self.label: str = start["label"]
        self.owner: int = start["pid"]
        self.identity = identity(self.owner)
        self.containers: dict[str, dict[str, Any]] = {}
        self.goodbye = False

    # -- while the owner lives --

    async def watch(self, reader: asyncio.StreamReader) -> None:
        """Return when the owner is gone."""
        renewing = asyncio.ensure_future(self.renew())
        watching = asyncio.ensure_future(self.watch_pid())
        reading = asyncio.ensure_future(self.read(reader))
        await asyncio.wait([watching, reading], return_when=asyncio.FIRST_COMPLETED)
        for task in (renewing, watching, reading):
            task.cancel()
        await asyncio.wait([renewing, watching, reading])

    async def read(self, reader: asyncio.StreamReader) -> None:
        while True:
            line = await reader.readline()
            if not line.endswith(b"\n"):
                return
            message = json.loads(line)
            if "add" in message:
                self.containers[message["add"]] = message
            elif "drop" in message:
                self.containers.pop(message["drop"], None)
            elif "goodbye" in message:
                self.goodbye = True
                return

    async def watch_pid(self) -> None:
        while self.identity is not None and identity(self.owner) == self.identity:  # noqa: ASYNC110 - a process
            await asyncio.sleep(1.0)

    async def renew(self) -> None:
        while True:
            await gather(AT_ONCE, [self.renew_one(c) for c in list(self.containers.values())])
            every = [container["every"] for container in self.containers.values()]
            await asyncio.sleep(min([LONGEST_INTERVAL, *every]) if every else 1.0)

    async def renew_one(self, container: dict[str, Any]) -> None:
        """Ask with the token: any answered request renews.

        The answer does not matter, and must not: one bad server does not harm the others.
        """
        with contextlib.suppress(OSError):
            async with asyncio.timeout(RENEW_TIMEOUT):
                reader, writer = await asyncio.open_connection(container["host"], container["port"])
                try:
                    await ask(writer, "GET", "/health", container["token"])
                    await reader.read(1)
                finally:
                    writer.transport.abort()

    # -- when it is gone --

    async def clean_up(self) -> None:
        for pause in (0.0,) if self.goodbye else PASSES:
            await asyncio.sleep(pause)
            try:
                names = await self.left()
            except (OSError, ValueError, EOFError):
                continue
            await gather(AT_ONCE, [self.remove(name) for name in names])

    async def left(self) -> list[str]:
        filters = urllib.parse.quote(json.dumps({"label": [self.label]}))
        _, body = await self.call("GET", f"/containers/json?all=1&filters={filters}")
        return [container["Id"] for container in json.loads(body)]

    async def remove(self, name: str) -> None:
        with contextlib.suppress(OSError, ValueError, EOFError):
            await self.call("DELETE", f"/containers/{name}?force=1&v=1")

    async def call(self, method: str, path: str) -> tuple[int, bytes]:
        async with asyncio.timeout(CALL_TIMEOUT):
            scheme, _, rest = self.url.partition("://")
            if scheme == "unix":
                reader, writer = await asyncio.open_unix_connection(rest)
            else:
                where = urllib.parse.urlsplit(f"//{rest}")
                port = where.port or (2376 if scheme == "https" else 2375)
                trust = trusted(**self.tls) if scheme == "https" else None
                reader, writer = await asyncio.open_connection(where.hostname, port, ssl=trust)
            try:
                return await exchange(reader, writer, method, path)
            finally:
                writer.close()


async def exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: str, path: str
) -> tuple[int, bytes]:
    """One exchange: its status and body."""
    await ask(writer, method, path)
    head = await reader.readuntil(b"\r\n\r\n")
    return int(head.split(None, 2)[1]), await reader.read()


async def ask(
    writer: asyncio.StreamWriter, method: str, path: str, token: str | None = None
) -> None:
    """Send a request of HTTP/1.0, so that no answer comes in chunks."""
    lines = [f"{method} {path} HTTP/1.0", "Host: localhost"]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    writer.write("\r\n".join([*lines, "", ""]).encode())
    await writer.drain()


async def gather(at_once: int, coroutines: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run them, so many at once; none of them raises."""
    gate = asyncio.Semaphore(at_once)

    async def one(coroutine: Coroutine[Any, Any, None]) -> None:
        async with gate:
            await coroutine

    await asyncio.gather(*map(one, coroutines))


def trusted(ca: str = "", cert: str = "", key: str = "", verify: bool = True) -> ssl.SSLContext:
    """The settings of a connection, as ``address.EngineTls`` has them."""
    trust = ssl.create_default_context(cafile=ca or None)
    if not verify:
        trust.check_hostname = False
        trust.verify_mode = ssl.CERT_NONE
    if cert:
        trust.load_cert_chain(cert, key)
    return trust


def identity(pid: int) -> bytes | None:
    """Return what tells a process from a later one with its pid; ``None``: there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except ProcessLookupError:
        return None
    except OSError:
        if os.path.exists("/proc/self"):
            return None
    else:
        return None if fields[0] in (b"Z", b"X") else fields[19]
    with contextlib.suppress(PermissionError):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
    return b"alive"


async def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends with its owner, not with a terminal
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=2**20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    line = await reader.readline()
    if line.endswith(b"\n"):
        reaper = Reaper(json.loads(line))
        await reaper.watch(reader)
        await reaper.clean_up()


if __name__ == "__main__":
    asyncio.run(main())
