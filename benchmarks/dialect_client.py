"""A client that costs next to nothing, in upstream's dialect and in MCP, for either server.

Each session has a connection of its own with one request in flight. Requests are made before the
clock starts and written from the callback that received the reply, without a task or a future; each
reply is searched for what it must contain, and the first and the last of each session are read
whole. Nothing is imported beside the standard library and uvloop.

    ws: ``/ws``, upstream's messages of reset and step.
    rpc: ``POST /mcp``, ``tools/call`` of JSON-RPC in a session of ``openenv/session/create``.
    rpc-ws: the same over a WebSocket at ``/mcp``.
    mcp: ``POST /mcp``, ``tools/call`` of MCP 2025-11-25 in a session of ``initialize``.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import time
from array import array
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

from benchmarks.driver import MESSAGE, Usage, client_parser, report, run_and_print

TOOL: Final = "echo_message"
"""The tool that both servers have."""
EXPECTED: Final = MESSAGE.encode()
_REVISION: Final = "2025-11-25"
_BOTH_TYPES: Final = "application/json, text/event-stream"
_CALL: Final = {"name": TOOL, "arguments": {"message": MESSAGE}}


class Connection(asyncio.Protocol):
    """A connection with one request in flight.

    Attributes:
        answered: called with each reply.
        failed: called when there will be none.
    """

    def __init__(self) -> None:
        self.answered: Callable[[bytes], None] = _unasked
        self.failed: Callable[[Exception], None] = _ignored
        self._buffer = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.failed(exc or ConnectionError("the server closed a connection"))

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        try:
            while (message := self.cut()) is not None:
                self.answered(message)
        except RuntimeError as exc:
            self.failed(exc)

    def cut(self) -> bytes | None:
        """Take the next whole message off the buffer, if there is one."""
        raise NotImplementedError

    def framed(self, content: bytes) -> bytes:
        """A request as it is written."""
        raise NotImplementedError

    def write(self, framed: bytes) -> None:
        self._transport.write(framed)

    async def ask(self, content: dict[str, Any]) -> dict[str, Any]:
        """Send one request and return the reply, read."""
        return await self.ask_framed(self.framed(json.dumps(content).encode()))

    async def ask_framed(self, framed: bytes) -> dict[str, Any]:
        reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.answered, self.failed = reply.set_result, reply.set_exception
        self.write(framed)
        message = await reply
        self.answered, self.failed = _unasked, _ignored
        result: dict[str, Any] = json.loads(message)
        return result

    def close(self) -> None:
        self.answered, self.failed = _unasked, _ignored
        self._transport.close()


def _unasked(message: bytes) -> None:
    raise RuntimeError(f"a message that nobody asked for: {message[:200]!r}")


def _ignored(error: Exception) -> None:
    """Forget an error of a connection on which nobody waits."""


class HttpConnection(Connection):
    """HTTP/1.1, kept alive.

    Attributes:
        headers: of every request.
        said: the head of the last reply.
    """

    def __init__(self, host: str) -> None:
        super().__init__()
        self.headers = {"Host": host, "Content-Type": "application/json"}
        self.said = b""

    def cut(self) -> bytes | None:
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return None
        size = int(_header(head, b"content-length") or 0)
        if len(rest) < size:
            return None
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"refused: {self._buffer[:500]!r}")
        self.said, self._buffer = head, rest[size:]
        return rest[:size]

    def framed(self, content: bytes) -> bytes:
        head = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        return (
            f"POST /mcp HTTP/1.1\r\n{head}Content-Length: {len(content)}\r\n\r\n".encode() + content
        )


def _header(head: bytes, name: bytes) -> bytes:
    """The value of a header; empty where it is missing."""
    start = head.lower().find(b"\r\n" + name + b":")
    if start < 0:
        return b""
    return head[start + len(name) + 3 :].partition(b"\r\n")[0].strip()


class SocketConnection(Connection):
    """A WebSocket without extensions."""

    def __init__(self, host: str, path: str) -> None:
        super().__init__()
        self.upgraded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._host = host
        self._path = path

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        key = base64.b64encode(os.urandom(16)).decode()
        self.write(
            f"GET {self._path} HTTP/1.1\r\nHost: {self._host}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def cut(self) -> bytes | None:
        if not self.upgraded.done():
            head, found, rest = self._buffer.partition(b"\r\n\r\n")
            if not found:
                return None
            if not head.startswith(b"HTTP/1.1 101"):
                raise RuntimeError(f"refused: {head[:500]!r}")
            self.upgraded.set_result(None)
            self._buffer = rest
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        start, size = 2, buffer[1] & 0x7F
        if size == 126:
            start, size = 4, int.from_bytes(buffer[2:4])
        elif size == 127:
            start, size = 10, int.from_bytes(buffer[2:10])
        if len(buffer) < start + size:
            return None
        content, self._buffer = buffer[start : start + size], buffer[start + size :]
        if buffer[0] == 0x81:
            return content
        if buffer[0] == 0x89:  # a ping
            self.write(_frame(0x8A, content))
            return self.cut()
        raise RuntimeError(f"neither a text nor a ping: {buffer[:200]!r}")

    def framed(self, content: bytes) -> bytes:
        return _frame(0x81, content)


def _frame(first: int, content: bytes) -> bytes:
    """A frame of a client, under a mask of zeros."""
    size = len(content)
    assert size < 1 << 16
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2)
    return bytes([first]) + length + bytes(4) + content


# -- the ways ----------------------------------------------------------------------------------


class PlayedSession:
    """One session and the request of its steps.

    Args:
        connection: its own.
        step: the content of a request.
        read: returns the message that a reply repeats.
    """

    def __init__(
        self, connection: Connection, step: dict[str, Any], read: Callable[[Any], Any]
    ) -> None:
        self.connection = connection
        self.request = connection.framed(json.dumps(step).encode())
        self._read = read

    async def check(self) -> None:
        """Take one step, and read its reply whole."""
        reply = await self.connection.ask_framed(self.request)
        if self._read(reply) != MESSAGE:
            raise RuntimeError(f"not what was asked for: {reply}")


def _host_and_port(url: str) -> tuple[str, int]:
    address = urlsplit(url)
    assert address.hostname is not None
    assert address.port is not None
    return address.hostname, address.port


async def _socket(url: str, path: str) -> SocketConnection:
    address = urlsplit(url)
    _, connection = await asyncio.get_running_loop().create_connection(
        lambda: SocketConnection(address.netloc, path), *_host_and_port(url)
    )
    await connection.upgraded
    return connection


async def _http(url: str) -> HttpConnection:
    address = urlsplit(url)
    _, connection = await asyncio.get_running_loop().create_connection(
        lambda: HttpConnection(address.netloc), *_host_and_port(url)
    )
    return connection


def _rpc(method: str, params: dict[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


async def _play_ws(url: str) -> PlayedSession:
    connection = await _socket(url, "/ws")
    await connection.ask({"type": "reset", "data": {}})

    def read(reply: Any) -> Any:
        assert reply["type"] == "observation"
        assert reply["data"]["reward"] == 1.0
        assert reply["data"]["done"] is False
        return reply["data"]["observation"]["message"]

    return PlayedSession(connection, {"type": "step", "data": {"message": MESSAGE}}, read)


def _read_data(reply: Any) -> Any:
    return reply["result"]["data"]


async def _play_rpc(url: str) -> PlayedSession:
    connection = await _http(url)
    created = await connection.ask(_rpc("openenv/session/create", {}))
    params = {"session_id": created["result"]["session_id"], **_CALL}
    return PlayedSession(connection, _rpc("tools/call", params), _read_data)


async def _play_rpc_ws(url: str) -> PlayedSession:
    return PlayedSession(await _socket(url, "/mcp"), _rpc("tools/call", _CALL), _read_data)


async def _play_mcp(url: str) -> PlayedSession:
    connection = await _http(url)
    connection.headers["Accept"] = _BOTH_TYPES
    client = {"name": "benchmark", "version": "1"}
    about = {"protocolVersion": _REVISION, "capabilities": {}, "clientInfo": client}
    await connection.ask(_rpc("initialize", about))
    connection.headers["Mcp-Session-Id"] = _header(connection.said, b"mcp-session-id").decode()
    connection.headers["MCP-Protocol-Version"] = _REVISION
    await connection.ask(_rpc("tools/call", {"name": "reset", "arguments": {}}))

    def read(reply: Any) -> Any:
        assert reply["result"]["isError"] is False
        return reply["result"]["structuredContent"]["result"]

    return PlayedSession(connection, _rpc("tools/call", _CALL), read)


WAYS: Final = {"ws": _play_ws, "rpc": _play_rpc, "rpc-ws": _play_rpc_ws, "mcp": _play_mcp}


# -- the load ----------------------------------------------------------------------------------


async def _while_well(ending: asyncio.Future[Any], seconds: float) -> None:
    """Wait, unless a session fails before the time is up."""
    await asyncio.wait([ending], timeout=seconds)
    if ending.done():
        ending.result()


async def measure(args: argparse.Namespace) -> dict[str, float]:
    """Let sessions step for a while, and return the figures."""
    opening = WAYS[args.mode]
    # All at once: uvicorn ends a connection on which nothing was asked for five seconds.
    sessions = await asyncio.gather(*(opening(args.url) for _ in range(args.sessions)))
    try:
        return await _measured(args, sessions)
    finally:
        for session in sessions:
            session.connection.close()


async def _measured(args: argparse.Namespace, sessions: list[PlayedSession]) -> dict[str, float]:
    await asyncio.gather(*(session.check() for session in sessions))
    latencies = array("d")
    loop = asyncio.get_running_loop()
    stopped = [loop.create_future() for _ in sessions]
    ending = asyncio.gather(*stopped)
    stopping = False

    def start(session: PlayedSession, end: asyncio.Future[None]) -> None:
        write, request, clock = session.connection.write, session.request, time.perf_counter
        record, begin = latencies.append, clock()

        def answered(message: bytes) -> None:
            nonlocal begin
            if EXPECTED not in message:
                raise RuntimeError(f"not what was asked for: {message[:500]!r}")
            now = clock()
            record(now - begin)
            begin = now
            if stopping:
                end.set_result(None)
            else:
                write(request)

        session.connection.answered, session.connection.failed = answered, end.set_exception
        write(request)

    for session, end in zip(sessions, stopped, strict=True):
        start(session, end)
    await _while_well(ending, args.warmup)
    start_of_window = Usage.now(args.server_pid)
    del latencies[:]
    await _while_well(ending, args.seconds)
    end_of_window = Usage.now(args.server_pid)
    measured = sorted(latencies)
    stopping = True
    async with asyncio.timeout(30):
        await ending
    await asyncio.gather(*(session.check() for session in sessions))
    return {
        **report(start_of_window, end_of_window, len(measured), args.server_pid is not None),
        "p50_us": measured[len(measured) // 2] * 1e6,
        "p99_us": measured[len(measured) * 99 // 100] * 1e6,
    }


def main() -> None:
    args = client_parser(__doc__, list(WAYS)).parse_args()
    run_and_print(measure(args), uvloop=True)


if __name__ == "__main__":
    main()
