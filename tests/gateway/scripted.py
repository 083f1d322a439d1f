"""A scripted engine, a plain dialect and a client that can leave, for tests of the gateway."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from openenv_async.errors import CallRefused, JournalFailed, OpenEnvError
from openenv_async.gateway.calls import Answer, Call, CallRecord, Dialect, EventWriter, Piece
from openenv_async.gateway.histories import PackedCall
from openenv_async.gateway.journal import Journal

Script = Callable[[Call, int], AsyncIterator[Piece | Answer]]


def answer(text: str = "hello", prompt: int = 3) -> Answer:
    return Answer(text=text, prompt_tokens=prompt, completion_tokens=len(text))


async def hello(call: Call, attempt: int) -> AsyncIterator[Piece | Answer]:
    """Say hello in three pieces."""
    for part in ("he", "ll", "o"):
        yield Piece(text=part)
    yield answer()


class ScriptedEngine:
    """An engine that plays a script; it counts what it is asked."""

    def __init__(self, script: Script = hello) -> None:
        self.script = script
        self.calls: list[Call] = []
        self.cut = 0

    async def sample(
        self, call: Call, *, session: str, attempt: int = 0
    ) -> AsyncIterator[Piece | Answer]:
        self.calls.append(call)
        try:
            async for part in self.script(call, attempt):
                yield part
        except asyncio.CancelledError:
            self.cut += 1
            raise


def gated(gate: asyncio.Event) -> Script:
    """Return a script that stops after its first piece until the gate is open."""

    async def script(call: Call, attempt: int) -> AsyncIterator[Piece | Answer]:
        yield Piece(text="he")
        await gate.wait()
        yield Piece(text="llo")
        yield answer()

    return script


class PlainDialect:
    """A dialect whose request is ``{"say": text}``; an event is a line."""

    name = "plain"

    def read(self, body: bytes, headers: Mapping[str, str]) -> Call:
        try:
            asked: dict[str, Any] = json.loads(body)
        except ValueError as exc:
            raise CallRefused("the request is not JSON") from exc
        messages = [{"role": "user", "content": asked["say"]}]
        thread = {"thread": asked["thread"]} if "thread" in asked else {}
        return Call(
            dialect="plain",
            messages=messages,
            is_streamed=asked.get("stream", False),
            asked_model=asked.get("model"),
            thread=thread,
        )

    def whole(self, call: Call, call_id: str, answer: Answer, created_at: float = 0.0) -> bytes:
        return json.dumps({"id": call_id, "text": answer.text}).encode()

    def events(self, call: Call, call_id: str, created_at: float) -> EventWriter:
        return _PlainEvents(call_id)

    def error(self, error: OpenEnvError) -> tuple[int, dict[str, str], bytes]:
        headers = {} if error.retryable else {"x-should-retry": "false"}
        if "retry_after" in error.detail:
            headers["retry-after"] = str(error.detail["retry_after"])
        status = error.detail.get("status", error.http_status)
        return status, headers, json.dumps({"error": error.code, "why": error.message}).encode()


class _PlainEvents:
    def __init__(self, call_id: str) -> None:
        self._call_id = call_id
        self._said = ""

    def begin(self) -> bytes:
        return f"begin {self._call_id}\n".encode()

    def piece(self, piece: Piece) -> bytes:
        self._said += piece.text
        return f"piece {piece.text}\n".encode()

    def end(self, answer: Answer) -> bytes:
        rest = answer.text.removeprefix(self._said)
        return (f"piece {rest}\n" if rest else "").encode() + b"end\n"

    def fail(self, error: OpenEnvError) -> bytes:
        return f"fail {error.code}\n".encode()


PLAIN: Dialect = PlainDialect()
ROUTES = {"/plain": PLAIN}


class Reply:
    """Status, headers and body of a reply; ``is_whole`` says that the body came to its end."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes, is_whole: bool) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.is_whole = is_whole

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One connection to a gateway, which asks one thing after the other and can leave."""

    def __init__(self, url: str, key: str) -> None:
        self._url = urlsplit(url)
        self._key = key

    async def __aenter__(self) -> Self:
        assert self._url.hostname is not None
        self._reader, self._writer = await asyncio.open_connection(
            self._url.hostname, self._url.port
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    async def send(
        self, path: str, body: bytes = b"", method: str = "POST", **headers: str
    ) -> None:
        """Send a request; headers by name with ``_`` for ``-``."""
        head = {"host": self._url.netloc, "content-length": str(len(body))}
        if self._key:
            head["authorization"] = f"Bearer {self._key}"
        head |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {head[name]}" for name in head)]
        self._writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await self._writer.drain()

    async def send_more(self, data: bytes) -> None:
        """Send the rest of a request."""
        self._writer.write(data)
        await self._writer.drain()

    async def line(self) -> bytes:
        """Return the next line that comes, of the head or of a chunk."""
        return await self._reader.readline()

    async def until(self, wanted: bytes) -> bytes:
        """Return what comes up to something."""
        return await self._reader.readuntil(wanted)

    async def rest(self) -> bytes:
        """Return all that comes until the connection ends."""
        return await self._reader.read()

    def pause(self) -> None:
        """Read nothing more."""
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]  # it reads as well

    def leave(self) -> None:
        """Drop the connection."""
        self._writer.transport.abort()

    async def reply(self) -> Reply:
        """Return the reply to the request that was sent."""
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        status = int(head[0].split()[1])
        pairs = (line.partition(": ") for line in head[1:] if line)
        headers = {name: value for name, _, value in pairs}
        if "content-length" in headers:
            size = int(headers["content-length"])
            return Reply(status, headers, await self._reader.readexactly(size), True)
        body = b""
        while size_line := await self._reader.readline():
            size = int(size_line, 16)
            body += (await self._reader.readexactly(size + 2))[:size]
            if not size:
                return Reply(status, headers, body, True)
        return Reply(status, headers, body, False)

    async def ask(self, body: Any, path: str = "/plain", **headers: str) -> Reply:
        """Send JSON and return the reply."""
        await self.send(path, json.dumps(body).encode(), **headers)
        return await self.reply()


class FullJournal(Journal):
    """A journal whose disk may be full."""

    is_full = False

    def __init__(self, path: Path) -> None:
        opened = Journal.open(path)
        self.__dict__ = opened.__dict__

    async def answered(self, record: CallRecord, packed: PackedCall | None = None) -> None:
        if self.is_full:
            raise JournalFailed("there is no room on the disk", retryable=True)
        await super().answered(record, packed)


async def eventually(holds: Callable[[], bool | Awaitable[bool]]) -> None:
    """Wait until something holds that another task or process brings about."""
    async with asyncio.timeout(10):
        while True:
            found = holds()
            if found if isinstance(found, bool) else await found:
                return
            await asyncio.sleep(0.001)
