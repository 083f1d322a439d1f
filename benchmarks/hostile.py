"""The cost, to the server and another client, of a peer that sends nonsense or does not read.

``python -m benchmarks.hostile``: for each case a server in a process of its own, a client in
another that steps all the time, and the attack. It prints the longest step of that client while
the attack ran (beside the longest of as long a time before it), and how much the server grew.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from openenv_async import EnvClient, Environment, serve

MEGABYTE: Final = 1_000_000
LARGE: Final = 4 * MEGABYTE
_SETTLE: Final = 0.5
_TOKENS: Final = [f"{number:032x}" for number in range(1000)]


class Blob(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """Observations of any size."""

    isolation = "inline"

    def reset(self) -> dict[str, Any]:
        return {}

    def step(self, action: dict[str, Any]) -> dict[str, Any]:
        return {"blob": "x" * action.get("size", 0)}


# -- processes -----------------------------------------------------------------------------------


async def serve_until_told() -> None:
    """The server process: prints its address, ends with its standard input."""
    async with serve(Blob) as url:
        print(url, flush=True)
        await asyncio.to_thread(sys.stdin.read)


async def step_until_told(url: str) -> None:
    """The other client's process: prints its longest step, in seconds, for each line it reads."""
    longest = 0.0

    async def step() -> None:
        nonlocal longest
        async with EnvClient[Any, Any, Any](url) as env:
            await env.reset()
            print("ready", flush=True)
            while True:
                began = time.perf_counter()
                await env.step({})
                longest = max(longest, time.perf_counter() - began)
                await asyncio.sleep(0.001)

    stepping = asyncio.create_task(step())
    while await asyncio.to_thread(sys.stdin.readline):
        print(longest, flush=True)
        longest = 0.0
    stepping.cancel()
    await asyncio.wait([stepping])


@contextlib.asynccontextmanager
async def process(*args: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process of this module; it ends with its standard input."""
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.hostile", *args),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield started
    finally:
        assert started.stdin is not None
        started.stdin.close()
        await started.wait()


async def line(child: asyncio.subprocess.Process) -> str:
    """The next line that a child prints."""
    assert child.stdout is not None
    return (await child.stdout.readline()).decode().strip()


async def longest_step(child: asyncio.subprocess.Process) -> float:
    """The longest step of the other client since it was asked last, in seconds."""
    assert child.stdin is not None
    child.stdin.write(b"\n")
    return float(await line(child))


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    text = Path(f"/proc/{pid}/statm").read_text(encoding="ascii")
    return int(text.split()[1]) * 4096


# -- attacks -------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def socket(url: str, *subprotocols: str) -> AsyncIterator[ClientConnection]:
    """A WebSocket of which nothing is read ahead."""
    async with connect(
        url.replace("http", "ws") + "/ws",
        subprotocols=[Subprotocol(name) for name in subprotocols] or None,
        compression=None,
        ping_interval=None,
        max_size=None,
        max_queue=1,
    ) as opened:
        try:
            yield opened
        finally:
            opened.transport.abort()


def packed(frames: list[Any]) -> bytes:
    """Frames in msgpack, their payloads packed by themselves."""
    return msgspec.msgpack.encode(frames)


async def nonsense(url: str, message: bytes | str, subprotocol: str) -> None:
    """Send one message of broken frames and read what is said to it."""
    async with socket(url, *([subprotocol] if subprotocol else [])) as opened:
        hello: list[Any] = [[0, 1, None]]
        if subprotocol:
            await opened.send(packed(hello) if isinstance(message, bytes) else json.dumps(hello))
        await opened.send(message)
        with contextlib.suppress(ConnectionClosed, TimeoutError):
            async with asyncio.timeout(2 * _SETTLE):
                while True:
                    await opened.recv()


async def body(url: str, payload: bytes) -> None:
    """Send one HTTP body to /reset."""
    host, port = url.split("//")[1].split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST /reset HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(payload)
    )
    writer.write(payload)
    with contextlib.suppress(OSError):
        await writer.drain()
        await reader.read()
    writer.close()


async def unread(url: str, subprotocol: str, sessions: int) -> None:
    """Ask for large observations over native frames, and read none of them."""
    text = subprotocol.endswith("json")

    def payload(value: Any) -> Any:
        return value if text else msgspec.msgpack.encode(value)

    def message(frames: list[Any]) -> bytes | str:
        return json.dumps(frames) if text else packed(frames)

    channels = range(1, sessions + 1)
    async with socket(url, subprotocol) as opened:
        await opened.send(message([[0, 1, None]]))
        opens: list[Any] = [[1, n, _TOKENS[n], _TOKENS[n + 500]] for n in channels]
        await opened.send(message(opens + [[2, n, 1] for n in channels]))
        async with asyncio.timeout(5):
            await opened.recv()
        opened.transport.pause_reading()
        with contextlib.suppress(TimeoutError, ConnectionClosed):
            async with asyncio.timeout(4 * _SETTLE):
                for seq in range(2, 200):
                    steps = [[3, n, seq, seq - 1, payload({"size": LARGE})] for n in channels]
                    await opened.send(message(steps))
                await asyncio.sleep(4 * _SETTLE)


async def unread_upstream(url: str) -> None:
    """The same in upstream's dialect."""
    async with socket(url) as opened:
        await opened.send('{"type": "reset", "data": {}}')
        await opened.recv()
        opened.transport.pause_reading()
        with contextlib.suppress(TimeoutError, ConnectionClosed):
            async with asyncio.timeout(4 * _SETTLE):
                for _ in range(200):
                    await opened.send(json.dumps({"type": "step", "data": {"size": LARGE}}))
                await asyncio.sleep(4 * _SETTLE)


async def unread_http(url: str) -> None:
    """The same over HTTP: requests one after another on a connection, no reply read."""
    host, port = url.split("//")[1].split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 16)
    writer.write(b"POST /reset HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\n\r\n{}")
    head = await reader.readuntil(b"\r\n\r\n")
    name = next(part for part in head.split(b"\r\n") if part.lower().startswith(b"x-openenv-ses"))
    step = json.dumps({"action": {"size": LARGE}}).encode()
    request = b"POST /step HTTP/1.1\r\nHost: 127.0.0.1\r\n%s\r\nContent-Length: %d\r\n\r\n%s" % (
        name,
        len(step),
        step,
    )
    transport: Any = writer.transport
    transport.pause_reading()
    for _ in range(200):
        writer.write(request)
    await asyncio.sleep(4 * _SETTLE)
    transport.abort()


Attack = Callable[[str], Awaitable[None]]


def attacks() -> Iterator[tuple[str, int, Attack]]:
    """Name, bytes of the message (0 where there is no one message), and the attack."""
    small: dict[str, list[Any]] = {
        "numbers": [0] * 200_000,
        "empty frames": [[]] * 200_000,
        "unknown frames": [[99]] * 100_000,
        "a frame of maps": [[{}] * 200_000],
        "steps of nobody": [[3, 7, 1, 0, b"\xc0"]] * 25_000,
    }
    for what, frames in small.items():
        binary = packed(frames)[: 8 * 200_000]
        yield f"{what}, msgpack", len(binary), _nonsense(binary, "openenv.v1.msgpack")
        if what != "steps of nobody":
            text = json.dumps(frames[: 1 if len(frames) == 1 else 60_000], separators=(",", ":"))
            yield f"{what}, JSON", len(text), _nonsense(text, "openenv.v1.json")
    maps = json.dumps({"type": "step", "data": {"a": [{}] * 1_000_000}}, separators=(",", ":"))
    yield "3 MB of maps, upstream's", len(maps), _nonsense(maps, "")
    reset = json.dumps({"a": [{}] * 1_000_000}, separators=(",", ":")).encode()
    yield "3 MB of maps, HTTP", len(reset), lambda url: body(url, reset)
    for sessions in (1, 4):
        for format in ("msgpack", "json"):
            name = f"unread, {format}, {sessions} sessions"
            yield name, 0, _unread(f"openenv.v1.{format}", sessions)
    yield "unread, upstream's", 0, unread_upstream
    yield "unread, HTTP", 0, unread_http


def _nonsense(message: bytes | str, subprotocol: str) -> Attack:
    return lambda url: nonsense(url, message, subprotocol)


def _unread(subprotocol: str, sessions: int) -> Attack:
    return lambda url: unread(url, subprotocol, sessions)


async def measure(attack: Attack) -> tuple[float, float, int]:
    """Longest step before and during the attack, in seconds, and bytes that the server grew."""
    async with process("--serve") as server:
        url = await line(server)
        async with process("--step", url) as other:
            await line(other)
            await asyncio.sleep(2 * _SETTLE)
            await longest_step(other)
            await asyncio.sleep(4 * _SETTLE)
            before = await longest_step(other)
            baseline = most = resident(server.pid)
            attacking = asyncio.ensure_future(attack(url))
            while not attacking.done():
                most = max(most, resident(server.pid))
                await asyncio.sleep(0.005)
            await attacking
            await asyncio.sleep(_SETTLE)
            most = max(most, resident(server.pid))
            return before, await longest_step(other), most - baseline


def main() -> None:
    """Run the cases, or be one of their processes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--step", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    args = parser.parse_args()
    if args.serve:
        asyncio.run(serve_until_told())
        return
    if args.step:
        asyncio.run(step_until_told(args.step))
        return
    sys.stdout.write("| case | message, KB | longest step before, ms | during, ms | growth, MB |\n")
    sys.stdout.write("|---|---|---|---|---|\n")
    for name, size, attack in attacks():
        if args.only in name:
            before, during, growth = asyncio.run(measure(attack))
            sys.stdout.write(
                f"| {name} | {size / 1000:.0f} | {before * 1000:.1f} | {during * 1000:.1f}"
                f" | {growth / MEGABYTE:.1f} |\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
