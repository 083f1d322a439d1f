"""An MCP server at a URL: Streamable HTTP, one session of it an episode.

Rules:

- A request is a POST; its reply is JSON, or an event stream in which other messages may come first.
- The id of a session that the server gives with its handshake goes with every later request, and is
  ended with DELETE. A server that does not know it any more is gone.
- A redirect is followed within the origin only: headers may have secrets.
- A reply has a bound, an event of a stream the same one.
- Streams that the server opens on its own (GET) are not asked for.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

import aiohttp
import msgspec

from openenv_async.endpoints.addresses import is_here, told_url
from openenv_async.hosts.event_streams import EventStream, EventTooLarge
from openenv_async.hosts.mcp_client import STANDALONE, ChannelClosed

__all__ = ["HttpChannel"]

_SESSION: Final = "Mcp-Session-Id"
_CLOSE_TIMEOUT: Final = 2.0
"""Seconds that the end of a session may take."""
_REDIRECTS: Final = (307, 308)
_MAX_REDIRECTS: Final = 3
_TAIL_LINES: Final = 50
_SHOWN: Final = 300
_MAX_ANSWERS: Final = 16
"""Most answers on their way to a server that asks; others are left out."""
_PLAIN: Final = re.compile(r"(?![ ]|=\?base64\?)[\x20-\x7e]*(?<! )")
"""Texts that a header takes as they are."""
_decode: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder().encode


class HttpChannel:
    """The way to a server that runs.

    Args:
        url: its address.
        headers: sent with every request, such as ``Authorization``.
        limit: bytes of one reply.
    """

    def __init__(self, url: str, headers: Mapping[str, str], limit: int) -> None:
        self.take: Callable[[dict[str, Any]], dict[str, Any] | None] = lambda message: None
        self.exit_code: int | None = None
        self._logged: deque[str] = deque(maxlen=_TAIL_LINES)
        self._url = url
        self._limit = limit
        self._told = told_url(url)
        self._session_id: str | None = None
        self._revision: str | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._http = aiohttp.ClientSession(
            headers={**headers, "Accept": "application/json, text/event-stream"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=30.0),
            trust_env=not is_here(url),
            read_bufsize=2**16,
        )

    @property
    def log_tail(self) -> str:
        """The last lines that the server logged here."""
        return "\n".join(self._logged)

    def note(self, line: str) -> None:
        """Keep a line that the server logs."""
        self._logged.append(line[:_SHOWN])

    async def request(self, message: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
        """Send a request and return its reply."""
        self._revision = names.get("MCP-Protocol-Version", self._revision)
        try:
            async with self._posted(message, names) as answer:
                return await self._reply(message, answer)
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            reason = " ".join(str(exc).split()) or type(exc).__name__
            raise ChannelClosed(f"{self._told} cannot be reached: {reason:.300}") from None

    async def notify(self, message: dict[str, Any]) -> None:
        """Send a notification; that it does not arrive is told by the next request."""
        with contextlib.suppress(aiohttp.ClientError, OSError, ValueError, ChannelClosed):
            async with self._posted(message, {}):
                pass

    async def abandon(self, message: dict[str, Any]) -> None:
        """Tell the server that nobody waits for a request, whose stream has ended already."""
        if self._revision != STANDALONE:  # there the end of the stream says it
            self._later(self.notify(message))

    async def settled(self, timeout: float) -> bool:
        """Return ``False``: the end of a call whose stream was left is not told to anybody."""
        return False

    async def aclose(self) -> None:
        """End the session and close the sockets."""
        background = [*self._background]
        for task in background:
            task.cancel()
        number, self._session_id = self._session_id, None
        try:
            if background:
                await asyncio.wait(background)
            if number is not None:
                with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                    async with (
                        asyncio.timeout(_CLOSE_TIMEOUT),
                        self._http.delete(self._url, headers={_SESSION: number}),
                    ):
                        pass
        finally:
            await self._http.close()

    # -- one exchange -------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _posted(
        self, message: dict[str, Any], names: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = {"Content-Type": "application/json"}
        headers |= {name: _header_value(value) for name, value in names.items()}
        if self._revision is not None:
            headers["MCP-Protocol-Version"] = self._revision
        if self._session_id is not None:
            headers[_SESSION] = self._session_id
        body = _encode(message)
        for _ in range(_MAX_REDIRECTS):
            async with self._http.post(
                self._url, data=body, headers=headers, allow_redirects=False
            ) as answer:
                if answer.status not in _REDIRECTS:
                    yield answer
                    return
                self._follow(answer.headers.get("Location", ""))
        raise ChannelClosed(f"{self._told} redirects without an end")

    def _follow(self, location: str) -> None:
        target = urljoin(self._url, location)
        if urlsplit(target)[:2] != urlsplit(self._url)[:2]:
            raise ChannelClosed(
                f"{self._told} redirects to {told_url(target)}: give that address, if it is right"
            )
        self._url = target

    async def _reply(
        self, message: Mapping[str, Any], answer: aiohttp.ClientResponse
    ) -> dict[str, Any]:
        if answer.status == 404 and self._session_id is not None:
            raise ChannelClosed(f"{self._told} does not know the session any more")
        self._session_id = answer.headers.get(_SESSION, self._session_id)
        if answer.content_type == "text/event-stream":
            try:
                found = await self._of_events(message, answer)
            except EventTooLarge:
                return self._too_large()
            if found is not None:
                return found
            raise ChannelClosed(f"{self._told} ended its stream before it answered")
        body = bytearray()
        async for part in answer.content.iter_chunked(2**16):
            body += part
            if len(body) > self._limit:
                return self._too_large()
        found = self._sorted(message, bytes(body))
        if found is not None:
            return found
        shown = " ".join(body[:_SHOWN].decode(errors="replace").split())
        raise ChannelClosed(f"{self._told} answers {answer.status} {answer.reason}: {shown}")

    async def _of_events(
        self, message: Mapping[str, Any], answer: aiohttp.ClientResponse
    ) -> dict[str, Any] | None:
        """Return the reply among the events of a stream; ``None`` where it ends without one."""
        stream = EventStream(self._limit)
        async for part in answer.content.iter_any():
            for event in stream.feed(part):
                found = self._sorted(message, event.data)
                if found is not None:
                    return found
        return None

    def _sorted(self, message: Mapping[str, Any], text: bytes) -> dict[str, Any] | None:
        """Return the reply that a text is; take other messages."""
        try:
            read = _decode(text)
        except (msgspec.DecodeError, RecursionError):
            return None
        for each in read if isinstance(read, list) else [read]:
            if not isinstance(each, dict) or each.get("jsonrpc") != "2.0":
                continue
            if "method" not in each:
                if each.get("id") == message["id"] or (each.get("id") is None and "error" in each):
                    return each
                continue
            own = self.take(each)
            if own is not None and len(self._background) < _MAX_ANSWERS:
                self._later(self.notify(own))
        return None

    def _too_large(self) -> dict[str, Any]:
        text = f"the result is larger than {self._limit} bytes (max_result_size)"
        return {"error": {"code": 0, "message": text}}

    def _later(self, sending: Any) -> None:
        task = asyncio.get_running_loop().create_task(sending, name="openenv-mcp-notify")
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _header_value(text: str) -> str:
    """Return a text as a header takes it: in Base64 where it is not plain (revision 2026-07-28)."""
    if _PLAIN.fullmatch(text):
        return text
    return f"=?base64?{base64.b64encode(text.encode()).decode()}?="
