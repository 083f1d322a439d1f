"""HTTP to an engine: a request goes out, and its response is read as it comes.

Rules:

- An engine that is reached directly and without TLS gets connections of this module's own
  (``DirectHTTP``): a client for everything costs a call more than all else that a gateway does
  for it. TLS, and proxies of the environment variables, are aiohttp's (``ForeignHTTP``).
- A response ends as RFC 9112, section 6.3, says. Anything but HTTP/1 is an error, never guessed at,
  and so is a body in a coding that was not asked for.
- A connection is used again once its response is there to the end. A caller that closes a response
  before ends its connection.
- A request that an idle connection lost at once, before any byte of its response, is sent again,
  once, on a new connection: the engine was closing it. All else that is lost may have been acted
  on.
- Each connection has one timer for all of its deadlines. It is set anew only for one that is
  earlier; where it is too early, it looks when the next one is.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from typing import Any, Final, Literal, Protocol, Self, TypeAlias, cast
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

from openenv_async.client.endpoint import Sockets
from openenv_async.endpoints.addresses import is_here

__all__ = ["DirectHTTP", "EngineHTTP", "ForeignHTTP", "RequestFailed", "Response", "http_to"]

_MAX_HEAD: Final = 65_536
_MAX_LINE: Final = 4096
"""Bytes of the line before a chunk, and of one behind the last."""
_MAX_WAITING: Final = 131_072
"""Bytes of a response that wait for its reader before no more is read."""
_State: TypeAlias = Literal["head", "counted", "until close", "chunk size", "chunk end", "trailer"]
_IDLE: Final = 15.0
"""Seconds that a connection waits for the next request."""
_RACE: Final = 1.0
"""Seconds within which a kept connection ends that was being closed as a request was sent."""
_STATUS: Final = re.compile(rb"HTTP/1\.([01]) ([1-9]\d\d)(?: .*)?", re.DOTALL)
_BEGINNING: Final = b"HTTP/1."
_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?", re.DOTALL)
_OWN: Final = frozenset(("connection", "content-length", "transfer-encoding"))
"""Headers that say where a request ends."""


class RequestFailed(Exception):
    """A request got no whole response; the text says what the engine did, such as ``is gone``."""


class Response(Protocol):
    """A response whose head has come.

    Attributes:
        status: of HTTP.
    """

    status: int

    @property
    def headers(self) -> Mapping[str, str]:
        """Values by name, written ``Like-This``."""
        ...

    @property
    def is_at_end(self) -> bool:
        """True once nothing more comes."""
        ...

    async def read(self, until: float) -> bytes:
        """Return the next bytes of the body, as they come; none at its end.

        Args:
            until: monotonic time in seconds.

        Raises:
            TimeoutError: none has come by then.
            RequestFailed: the body is cut, or is not what its head says.
        """
        ...

    def close(self) -> None:
        """Read no more. Idempotent."""
        ...


class EngineHTTP(Protocol):
    """Requests to one engine, of one event loop.

    Attributes:
        loop: its event loop.
    """

    loop: asyncio.AbstractEventLoop

    async def request(
        self, url: str, headers: Mapping[str, str], data: bytes | None, until: float
    ) -> Response:
        """Return the response to a POST; without data to a GET.

        Args:
            url: of the engine, with a path.
            headers: besides those of every request.
            data: the body.
            until: monotonic time in seconds.

        Raises:
            TimeoutError: it has not begun by then.
            RequestFailed: there is none.
            ValueError: it cannot be sent, since the URL is not valid, or a header.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections. Idempotent."""
        ...


async def http_to(url: str, headers: Mapping[str, str], connect: float) -> EngineHTTP:
    """Return what sends requests to an engine.

    Args:
        url: of the engine.
        headers: of every request.
        connect: seconds for a connection.
    """
    parts = urlsplit(url)
    is_direct = is_here(url) or not _has_proxy(parts.hostname or "")
    if parts.scheme == "http" and is_direct:
        return DirectHTTP(url, headers, connect)
    return await ForeignHTTP.open(url, headers, connect)


def _has_proxy(host: str) -> bool:
    """Return whether the environment names a proxy for a host."""
    return "http" in getproxies() and not proxy_bypass(host)


def _is_late(seconds: float) -> RequestFailed:
    return RequestFailed(f"took no connection within {seconds:g} s")


def _is_unreachable(exc: OSError) -> RequestFailed:
    return RequestFailed(f"cannot be reached ({exc.strerror or exc}): start it, or correct its URL")


# -- connections of our own -----------------------------------------------------------------------


class DirectHTTP:
    """Requests to one ``http://`` origin over connections that are kept.

    Args:
        url: of the engine.
        headers: of every request.
        connect: seconds for a connection.
    """

    def __init__(self, url: str, headers: Mapping[str, str], connect: float) -> None:
        self.loop = asyncio.get_running_loop()
        parts = urlsplit(url)
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._host = parts.hostname or ""
        self._port = parts.port or 80
        self._connect_timeout = connect
        self._heads: dict[tuple[str, bool], bytes] = {}
        plain = {"Host": parts.netloc, "Accept": "*/*", "User-Agent": "openenv-async"}
        own = {name: value for name, value in headers.items() if name.lower() not in _OWN}
        named = {name.lower() for name in own}
        self._headers = own | {k: v for k, v in plain.items() if k.lower() not in named}
        self.idle: dict[_Connection, None] = {}
        self.open: set[_Connection] = set()
        self.is_closed = False
        self._closing: asyncio.Future[None] | None = None

    async def request(
        self, url: str, headers: Mapping[str, str], data: bytes | None, until: float
    ) -> Response:
        """Return the response to a request, as ``EngineHTTP`` says."""
        head = self._head(url, data is not None)
        more = _written(headers) if headers else b""
        if data is None:
            request = b"%b%b\r\n" % (head, more)
        else:
            request = b"%b%bContent-Length: %d\r\n\r\n%b" % (head, more, len(data), data)
        if self.idle:
            connection, _ = self.idle.popitem()  # the last one that was used
            sent = time.monotonic()
            response = connection.send(request)
            try:
                return await response.begun(until)
            except RequestFailed:
                if connection.has_answered or time.monotonic() - sent > _RACE:
                    raise
        response = (await self._connected(until)).send(request)
        return await response.begun(until)

    async def _connected(self, until: float) -> _Connection:
        seconds = min(self._connect_timeout, until - time.monotonic())
        try:
            async with asyncio.timeout(seconds) as limit:
                made = self.loop.create_connection(self._made, self._host, self._port)
                return (await made)[1]
        except TimeoutError as exc:
            if not limit.expired():  # the system's own
                raise _is_unreachable(exc) from exc
            if seconds < self._connect_timeout:
                raise
            raise _is_late(self._connect_timeout) from None
        except OSError as exc:
            raise _is_unreachable(exc) from exc

    def _made(self) -> _Connection:
        return _Connection(self)

    def _head(self, url: str, has_data: bool) -> bytes:
        """Return the beginning of requests to a URL, without the headers that differ."""
        head = self._heads.get((url, has_data))
        if head is None:
            path = url.removeprefix(self._origin)
            if path[:1] != "/":
                raise ValueError(f"{url!r} does not begin with {self._origin}/")
            target = quote(path, safe="/%:@!$&'()*+,;=~?")
            method = "POST" if has_data else "GET"
            head = f"{method} {target} HTTP/1.1\r\n".encode() + _written(self._headers)
            self._heads[url, has_data] = head  # a few: of the paths that engines are asked for
        return head

    async def aclose(self) -> None:
        """Close the connections. Idempotent. From any loop and thread."""
        self.is_closed = True
        if self.loop is asyncio.get_running_loop():
            if self.open:
                if self._closing is None:
                    self._closing = self.loop.create_future()
                self._abort()
                await asyncio.wait([self._closing])
        elif self.loop.is_running():
            self.loop.call_soon_threadsafe(self._abort)

    def _abort(self) -> None:
        for each in list(self.open):
            each.abort()

    def lost(self, connection: _Connection) -> None:
        """A connection is gone."""
        self.idle.pop(connection, None)
        self.open.discard(connection)
        if not self.open and self._closing is not None:
            self._closing.set_result(None)
            self._closing = None


def _written(headers: Mapping[str, str]) -> bytes:
    """Return headers as they are sent.

    Raises:
        ValueError: one would be something else.
    """
    lines = []
    for name, value in headers.items():
        if not _NAME.fullmatch(name.encode()):
            raise ValueError(f"{name!r} is not the name of a header")
        if "\n" in value or "\r" in value or "\0" in value:
            raise ValueError(f"the value of the header {name} has a line end in it")
        lines.append(f"{name}: {value}\r\n")
    return "".join(lines).encode()


class _Connection(asyncio.Protocol):
    """One connection; it has one response at a time.

    Attributes:
        has_answered: something came since the last request.
        loop: its event loop.
        deadline: monotonic time in seconds at which what is waited for is late.
    """

    def __init__(self, http: DirectHTTP) -> None:
        self.has_answered = False
        self.deadline = 0.0
        self._http = http
        self._response: _DirectResponse | None = None
        self._transport: asyncio.Transport
        self._is_paused = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self.loop = http.loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._http.open.add(self)
        if self._http.is_closed:  # while this one was being made
            self.abort()

    def send(self, request: bytes) -> _DirectResponse:
        """Send a request; return its response, of which nothing has come."""
        self.has_answered = False
        response = _DirectResponse(self)
        if self in self._http.open:
            self._response = response
            self._transport.write(request)
        else:  # it was lost as soon as it was made
            response.lost(None)
        return response

    def data_received(self, data: bytes) -> None:
        response = self._response
        if response is None:  # nothing was asked
            self.abort()
            return
        self.has_answered = True
        try:
            response.take(data)
        except ValueError as exc:
            response.fail(f"does not speak HTTP ({exc})")
            self.abort()
            return
        if response.is_whole:
            self._response = None
            if response.is_last:
                self.abort()
            else:
                self.resume()
                self._http.idle[self] = None
                self.watch(time.monotonic() + _IDLE)
        elif response.waiting > _MAX_WAITING:
            self._is_paused = True
            self._transport.pause_reading()
        response.wake()

    def resume(self) -> None:
        """Read on."""
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()

    def eof_received(self) -> None:
        self._http.idle.pop(self, None)  # it closes

    def connection_lost(self, exc: Exception | None) -> None:
        self._http.lost(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        response, self._response = self._response, None
        if response is not None:
            response.lost(exc)

    def abort(self) -> None:
        """Close the connection."""
        self._http.idle.pop(self, None)
        self._transport.abort()

    def end(self, response: _DirectResponse) -> None:
        """Close the connection if a response is not there to its end."""
        if self._response is response:
            self._response = None
            self.abort()

    def watch(self, deadline: float) -> None:
        """Expect something by a time."""
        self.deadline = deadline
        if self._timer is None or deadline < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._set(deadline)

    def _set(self, deadline: float) -> None:
        self._timer_at = deadline
        left = max(deadline - time.monotonic(), 0.0)
        self._timer = self.loop.call_later(left, self._look)

    def _look(self) -> None:
        self._timer = None
        if time.monotonic() < self.deadline:
            self._set(self.deadline)
        elif self._response is not None:
            self._response.late()
        else:
            self.abort()


class _DirectResponse:
    """The response to one request, which may go on to come.

    Attributes:
        status: 0 until its head has come.
        waiting: bytes that wait for the reader.
        is_whole: it is there to its end.
        is_last: the connection serves no further request.
    """

    __slots__ = (
        "_connection",
        "_error",
        "_left",
        "_parts",
        "_rest",
        "_state",
        "_waiter",
        "headers",
        "is_last",
        "is_whole",
        "status",
        "waiting",
    )

    def __init__(self, connection: _Connection) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.waiting = 0
        self.is_whole = False
        self.is_last = False
        self._connection = connection
        self._state: _State = "head"
        self._left = 0
        self._rest = b""
        self._parts: list[bytes] = []
        self._error: RequestFailed | None = None
        self._waiter: asyncio.Future[None] | None = None

    # -- its reader ---------------------------------------------------------------------------

    @property
    def is_at_end(self) -> bool:
        return self.is_whole and not self._parts

    async def begun(self, until: float) -> Self:
        """Wait for its head, and return it.

        Raises:
            TimeoutError: it has not come by then.
            RequestFailed: it does not.
        """
        try:
            while not self.status:
                await self._more(until)
        except BaseException:
            self.close()
            raise
        return self

    async def read(self, until: float) -> bytes:
        while not self._parts and not self.is_whole:
            await self._more(until)
        parts, self._parts = self._parts, []
        self.waiting = 0
        if not self.is_whole:
            self._connection.resume()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _more(self, until: float) -> None:
        if self._error is not None:
            raise self._error
        connection = self._connection
        self._waiter = connection.loop.create_future()
        connection.watch(until)
        try:
            await self._waiter
        finally:
            self._waiter = None

    def close(self) -> None:
        self._connection.end(self)

    # -- its connection -----------------------------------------------------------------------

    def wake(self) -> None:
        """Have the reader look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def late(self) -> None:
        """Have the reader wait no longer."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(TimeoutError())

    def fail(self, what: str) -> None:
        """Have the reader fail when it has read what there is."""
        self._error = RequestFailed(what)
        self.wake()

    def lost(self, exc: Exception | None) -> None:
        """Nothing more comes: its connection is gone."""
        if self._state == "until close" and exc is None:
            self.is_whole = True
            self.wake()
        else:
            why = "" if exc is None else f" ({exc})"
            self.fail(f"cut its answer{why}" if self.status else f"closed the connection{why}")

    def take(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            ValueError: they are none of a response.
        """
        if self._rest:
            data, self._rest = self._rest + data, b""
        at = self._take_head(data) if self._state == "head" else 0
        while at < len(data) and not self.is_whole:
            if self._left:
                part = data[at : at + self._left] if at or self._left < len(data) else data
                self._left -= len(part)
                self._add(part)
                at += len(part)
            elif self._state == "until close":
                self._add(data[at:])
                return
            else:
                end = data.find(b"\r\n", at)
                if end < 0 or end - at > _MAX_LINE:
                    if len(data) - at > _MAX_LINE:
                        raise ValueError(f"a line of a chunk has more than {_MAX_LINE} bytes")
                    self._rest = data[at:]
                    return
                self._take_line(data[at:end])
                at = end + 2
            if self._state == "counted" and not self._left:
                self.is_whole = True
        if at < len(data):
            self.is_last = True  # something follows that nobody asked for

    def _add(self, part: bytes) -> None:
        self._parts.append(part)
        self.waiting += len(part)

    def _take_line(self, line: bytes) -> None:
        """Take a line of a body in chunks."""
        if self._state == "chunk end":
            if line:
                raise ValueError("a chunk is longer than it says")
            self._state = "chunk size"
        elif self._state == "trailer":
            self.is_whole = not line
        else:
            size = _SIZE.fullmatch(line)
            if size is None:
                raise ValueError(f"{line[:40]!r} is not the size of a chunk")
            self._left = int(size[1], 16)
            self._state = "chunk end" if self._left else "trailer"

    def _take_head(self, data: bytes) -> int:
        """Take the head if it is there, and return where the body begins."""
        at = 0
        while True:
            end = data.find(b"\r\n\r\n", at)
            if end < 0 or end - at > _MAX_HEAD:
                if len(data) - at > _MAX_HEAD:
                    raise ValueError(f"its head has more than {_MAX_HEAD} bytes")
                begun = data[at : at + len(_BEGINNING)]
                if not _BEGINNING.startswith(begun):
                    raise ValueError(f"it begins with {begun!r}")
                self._rest = data[at:]
                return len(data)
            status = self._read_head(data[at:end])
            at = end + 4
            if status >= 200:
                self.status = status
                return at
            if status == 101:
                raise ValueError("it changes to another protocol")

    def _read_head(self, head: bytes) -> int:
        """Read a head, and how the body after it ends; return its status."""
        first, *lines = head.split(b"\r\n")
        found = _STATUS.fullmatch(first)
        if found is None:
            raise ValueError(f"it begins with {first[:40]!r}")
        headers: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(b":")
            if not colon or not _NAME.fullmatch(name):
                raise ValueError(f"{line[:40]!r} is not a header")
            key, text = name.decode().title(), value.strip(b" \t").decode("latin-1")
            headers[key] = f"{headers[key]}, {text}" if key in headers else text
        self.headers = headers
        status = int(found[2])
        if status < 200:
            return status
        coding = headers.get("Content-Encoding", "identity")
        if coding.lower() != "identity":
            raise ValueError(f"its body is in the coding {coding!r}, which was not asked for")
        options = headers.get("Connection", "").lower()
        self.is_last = "close" in options or (found[1] == b"0" and "keep-alive" not in options)
        self._state, length = "counted", headers.get("Content-Length")
        if status in (204, 304):
            self.is_whole = True
        elif (coding := headers.get("Transfer-Encoding", "")) != "":
            if coding.lower() != "chunked":
                raise ValueError(f"its transfer coding is {coding!r}")
            self._state = "chunk size"
            self.is_last = self.is_last or length is not None
        elif length is not None:
            if not (length.isascii() and length.isdigit() and len(length) < 16):
                raise ValueError(f"its length is {length[:40]!r}")
            self._left = int(length)
            self.is_whole = not self._left
        else:
            self._state = "until close"
            self.is_last = True
        return status


# -- connections of aiohttp -----------------------------------------------------------------------


class ForeignHTTP:
    """Requests to an engine that aiohttp sends: over TLS, or through a proxy.

    Made by ``ForeignHTTP.open``.
    """

    def __init__(self, sockets: Sockets, headers: Mapping[str, str], connect: float) -> None:
        self.loop = sockets.loop
        self._sockets: Sockets | None = sockets
        self._headers = headers
        self._connect_timeout = connect

    @classmethod
    async def open(cls, url: str, headers: Mapping[str, str], connect: float) -> Self:
        """Return one that sends to an engine; the arguments are those of ``http_to``."""
        return cls(await Sockets.acquire(not is_here(url)), headers, connect)

    async def request(
        self, url: str, headers: Mapping[str, str], data: bytes | None, until: float
    ) -> Response:
        """Return the response to a request, as ``EngineHTTP`` says."""
        import aiohttp

        assert self._sockets is not None
        begun, is_again = time.monotonic(), False
        while True:
            made = self._sockets.note_new()
            try:
                async with asyncio.timeout(until - time.monotonic()):
                    response = await self._sockets.client.request(
                        "GET" if data is None else "POST",
                        url,
                        data=data,
                        headers={**self._headers, **headers},
                        allow_redirects=False,
                        timeout=aiohttp.ClientTimeout(sock_connect=self._connect_timeout),
                    )
                return _ForeignResponse(response)
            except aiohttp.ConnectionTimeoutError:
                raise _is_late(self._connect_timeout) from None
            except aiohttp.ClientConnectorError as exc:
                raise _is_unreachable(exc) from exc
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as exc:
                has_begun = not isinstance(getattr(exc, "message", ""), str)
                is_late = time.monotonic() - begun > _RACE
                if made or is_again or has_begun or is_late:
                    raise RequestFailed(f"closed the connection ({exc!r})") from exc
                is_again = True  # it was closed as it was taken: nobody read the request
            except aiohttp.InvalidURL as exc:
                raise ValueError(str(exc)) from exc
            except aiohttp.ClientError as exc:
                raise RequestFailed(f"does not speak HTTP ({exc!r})") from exc

    async def aclose(self) -> None:
        """Give the connections back. Idempotent."""
        sockets, self._sockets = self._sockets, None
        if sockets is not None:
            await sockets.release()


class _ForeignResponse:
    def __init__(self, response: Any) -> None:
        self.status: int = response.status
        self.headers: Mapping[str, str] = response.headers
        self._response = response

    @property
    def is_at_end(self) -> bool:
        return bool(self._response.content.at_eof())

    async def read(self, until: float) -> bytes:
        import aiohttp

        try:
            async with asyncio.timeout(until - time.monotonic()):
                data: bytes = await self._response.content.readany()
        except TimeoutError:
            raise
        except (aiohttp.ClientError, OSError) as exc:
            raise RequestFailed(f"cut its answer ({exc!r})") from exc
        return data

    def close(self) -> None:
        self._response.close()
