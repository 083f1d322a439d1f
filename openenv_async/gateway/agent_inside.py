"""The inside of an agent's sandbox: it has loopback, and ports there that lead to given sockets.

Run by its path, in a network namespace of its own: ``agent_inside.py WAYS STARTED COMMAND…``, where
WAYS is JSON of ports and paths of Unix sockets. A connection to ``127.0.0.1:PORT`` talks to the
other side of the socket. STARTED is a file that is made once the command was started; its exit code
is this program's. It imports nothing but the standard library.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import json
import signal
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeAlias

_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 0x1
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_CHUNK: Final = 65_536

Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def _raise_loopback() -> None:
    """Switch the namespace's own loopback on."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        asked = struct.pack("16sh14s", b"lo", 0, b"")
        flags = struct.unpack("16sh14s", fcntl.ioctl(probe, _SIOCGIFFLAGS, asked))[1]
        fcntl.ioctl(probe, _SIOCSIFFLAGS, struct.pack("16sh14s", b"lo", flags | _IFF_UP, b""))


def _drop_capabilities() -> None:
    """Let the command have none of what raised the loopback."""
    ctypes.CDLL(None).prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what comes until its end, and the end as well."""
    try:
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except OSError:
        writer.close()


async def join(one: Streams, other: Streams) -> None:
    """Join two connections until both have ended."""
    try:
        await asyncio.gather(_pump(one[0], other[1]), _pump(other[0], one[1]))
    finally:
        for _, writer in (one, other):
            writer.close()


async def _main(ways: dict[str, str], started: Path, command: list[str]) -> int:
    def leading(path: str) -> Callable[..., Awaitable[None]]:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                other = await asyncio.open_unix_connection(path)
                await join((reader, writer), other)
            except OSError:
                writer.close()
            except asyncio.CancelledError:  # by the end of the loop; Python 3.11 would print it
                writer.close()

        return connected

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # the command has it too, and may clean up
    _raise_loopback()
    for port, path in ways.items():
        await asyncio.start_server(leading(path), "127.0.0.1", int(port))
    _drop_capabilities()
    try:
        process = await asyncio.create_subprocess_exec(*command)
    except OSError as exc:
        sys.stderr.write(f"{exc}\n")
        return 127
    await asyncio.to_thread(started.touch)
    code = await process.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(asyncio.run(_main(json.loads(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])))
