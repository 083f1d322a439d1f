"""The Unix socket of a server, beside its TCP port, for clients on the same machine.

Each connection to it is served as a WebSocket is, by the same code: its greeting stands for the
upgrade request, its records for messages. So the token, limits, deadlines and metrics are those of
WebSockets.

Rules:

- The socket is an abstract one, which no file stands for: nothing is left of it, however the
  process ends. A server in a container has the one that its provider made, in a folder that is
  mounted for it.
- The peer's user is that of the server, or root. In a container another user may come in with the
  server's token: users have other numbers there, and the folder is one user's.
- The greeting is to come within ``Timeouts.connect``.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import re
import secrets
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final, cast

from openenv_async.endpoints.local import take_listener
from openenv_async.errors import OriginRefused, ProtocolError
from openenv_async.protocol.local import (
    END_ABNORMAL,
    END_GOING_AWAY,
    END_NORMAL,
    END_POLICY,
    END_PROTOCOL,
    END_TOO_LONG,
    LOCAL_HEADER,
    LOCAL_SUBPROTOCOL,
    LOCAL_VERSION,
    ClientGreeting,
    LocalOffer,
    ServerGreeting,
    abstract_address,
    end_body,
    read_end,
    read_greeting,
    write_greeting,
)
from openenv_async.protocol.records import (
    MAX_GREETING,
    Record,
    RecordCutter,
    RecordFault,
    message_record,
    record,
)
from openenv_async.server.transport import Message, Receive, Scope, Send, TransportUser

__all__ = ["LOCAL_EXTENSION", "LocalListener", "LocalSocket"]

log = logging.getLogger("openenv_async.server")

LOCAL_EXTENSION: Final = "openenv.local"
"""The extension of a scope whose connection is local: its ``LocalSocket``."""
_BACKLOG: Final = 4096
_GIVE_TIMEOUT: Final = 1.0
_CREDENTIALS: Final = struct.Struct("3i")
_HEX: Final = re.compile(r"[0-9a-f]{32}")

Serve = Callable[[Scope, Receive, Send], Awaitable[None]]


class LocalListener:
    """The Unix socket and its connections, owned by a server.

    Args:
        serve: the WebSocket endpoint, called with each connection that greeted.
        has_token: whether the endpoint asks for a token.
        connect_timeout: seconds that a peer has to greet; ``None``: for ever.
        max_size: bytes of the longest message taken.
        folder: where a provider gives the socket; ``None`` for an abstract one.

    Attributes:
        name: that the offer tells; empty until there is a socket.
    """

    def __init__(
        self,
        serve: Serve,
        *,
        has_token: bool,
        connect_timeout: float | None,
        max_size: int,
        folder: Path | None = None,
    ) -> None:
        self.name = ""
        self.serve = serve
        self.connect_timeout = connect_timeout
        self.max_size = max_size
        self._admits_others = folder is not None and has_token
        self._folder = folder
        self._key = ""
        self._server: asyncio.Server | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self.greeting: set[LocalSocket] = set()

    async def start(self) -> None:
        """Listen, if this system and the folder allow it; if not, say why, and do without."""
        if sys.platform != "linux" or self._server is not None:
            return
        try:
            name, listener = await asyncio.to_thread(self._bind)
        except OSError as exc:
            log.warning("there is no Unix socket for local connections, TCP is used: %s", exc)
            return
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(
            lambda: LocalSocket(self), sock=listener, backlog=_BACKLOG
        )
        self.name, self._key = name, secrets.token_hex(16)

    def _bind(self) -> tuple[str, socket.socket]:
        """Return the socket's name and the socket, bound.

        Raises:
            OSError: it cannot be had.
        """
        if self._folder is not None:
            if not _HEX.fullmatch(self._folder.name):
                raise OSError(f"{self._folder} is not called by 32 hex digits")
            return self._folder.name, take_listener(self._folder, _GIVE_TIMEOUT)
        name = secrets.token_hex(16)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            listener.bind(abstract_address(name))
        except BaseException:
            listener.close()
            raise
        return name, listener

    def offer(self, scope: Scope) -> bytes | None:
        """Return the header that tells a client of the socket, if it asked and there is one."""
        if not self.name:
            return None
        asked = next((value for key, value in scope["headers"] if key == _HEADER), None)
        client = scope.get("client")
        if asked != _VERSION or not client or len(client) != 2:
            return None
        return LocalOffer(self.name, self._key, (client[0], client[1])).header().encode()

    def admits(self, pid_uid_gid: tuple[int, int, int]) -> bool:
        """Return whether a peer of this user may come in."""
        return self._admits_others or pid_uid_gid[1] in (0, os.geteuid())

    def is_key(self, shown: str) -> bool:
        """Return whether a greeting shows the key; compared in constant time."""
        return hmac.compare_digest(shown.encode(), self._key.encode())

    def close(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.name = ""

    async def aclose(self) -> None:
        """Close, and end every connection."""
        self.close()
        for connection in [*self.greeting]:
            connection.drop()
        tasks = [*self.tasks]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


_HEADER: Final = LOCAL_HEADER.encode()
_VERSION: Final = LOCAL_VERSION.encode()


class LocalSocket(asyncio.Protocol):
    """One connection: its own ``Transport``, and what an ASGI server is to the endpoint.

    Attributes:
        wants: names of what the client would be granted.
        on_note: called with the body of each note of the client.
        congested: see ``Transport``.
    """

    def __init__(self, listener: LocalListener) -> None:
        self._listener = listener
        self._cutter = RecordCutter(self._take, MAX_GREETING)
        self._transport: asyncio.Transport
        self._user: TransportUser | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._events: asyncio.Queue[Message] = asyncio.Queue()
        self._status = 500
        self._body = b""
        self._grants: dict[str, Any] = {}
        self._descriptors: list[int] = []
        self._is_over = False
        self._is_held = False
        self.wants: Sequence[str] = ()
        self.on_note: Callable[[bytes], None] | None = None
        self.congested = False

    # -- the loop's side ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Expect a greeting, if the peer is of a user that may come in."""
        self._transport = cast(asyncio.Transport, transport)
        raw = transport.get_extra_info("socket")
        size = _CREDENTIALS.size
        peer = _CREDENTIALS.unpack(raw.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
        listener = self._listener
        if not listener.admits(peer):
            self._refuse(OriginRefused(f"a peer of the user {peer[1]} may not connect here"))
            return
        listener.greeting.add(self)
        if listener.connect_timeout is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(listener.connect_timeout, self.drop)

    def data_received(self, data: bytes) -> None:
        """Take bytes as they come."""
        if not self._cutter.feed(data) and not self._is_over:
            if self._cutter.fault is RecordFault.TOO_LONG:
                self._end(END_TOO_LONG, f"a record over {self._cutter.max_size} bytes")
            else:
                self._end(END_PROTOCOL, "not a record")

    def pause_writing(self) -> None:
        """The write buffer is full."""
        self.congested = True
        if self._user is not None:
            self._user.congestion(True)

    def resume_writing(self) -> None:
        """The write buffer has room again."""
        self.congested = False
        if self._user is not None:
            self._user.congestion(False)

    def connection_lost(self, exc: Exception | None) -> None:
        """The peer is gone, or this side ended it."""
        self._over(END_ABNORMAL)
        self._ungreeted()
        self._cutter.close()

    # -- inside -------------------------------------------------------------------------------

    def _take(self, kind: Record, body: bytes | memoryview) -> None:
        if kind is Record.MESSAGE and self._user is not None:
            self._user.take(body)
        elif self._is_over:
            return
        elif kind is Record.NOTE and self._user is not None:
            if self.on_note is not None:
                self.on_note(bytes(body))
        elif kind is Record.END:
            self._over(read_end(body)[0])
            self._transport.close()
        elif kind is Record.GREETING and self._task is None:
            self._on_greeting(body)
        else:
            self._end(END_PROTOCOL, f"a record of kind {int(kind)} out of turn")

    def _on_greeting(self, body: bytes | memoryview) -> None:
        listener = self._listener
        try:
            greeting: ClientGreeting = read_greeting(body, of_client=True)
            if not listener.is_key(greeting.key):
                raise OriginRefused("the greeting does not show the key of this server")
        except (ProtocolError, OriginRefused) as exc:
            self._refuse(exc)
            return
        self._ungreeted()
        self._cutter.max_size = listener.max_size
        self.wants = greeting.wants
        headers = [
            (name.lower().encode("latin-1", "replace"), value.encode("latin-1", "replace"))
            for name, value in greeting.headers.items()
        ]
        extensions = {
            "openenv.transport": self,
            LOCAL_EXTENSION: self,
            "websocket.http.response": {},
        }
        scope = {
            "type": "websocket",
            "path": "/ws",
            "scheme": "ws",
            "headers": headers,
            "subprotocols": [LOCAL_SUBPROTOCOL],
            "extensions": extensions,
        }
        self._events.put_nowait({"type": "websocket.connect"})
        self._task = asyncio.create_task(self._serve(scope), name="openenv-local")
        listener.tasks.add(self._task)
        self._task.add_done_callback(listener.tasks.discard)

    async def _serve(self, scope: Scope) -> None:
        try:
            await self._listener.serve(scope, self._events.get, self._send)
        except Exception:
            log.exception("a local connection failed")
        finally:
            for descriptor in self._descriptors:
                os.close(descriptor)
            if self.congested:
                self._over(END_GOING_AWAY)
                self._transport.abort()  # closing would wait until the peer has read
            else:
                self._end(END_GOING_AWAY, "the server ends the connection")
                self._transport.close()

    async def _send(self, message: Message) -> None:
        """Take what the endpoint says about the connection itself."""
        kind = message["type"]
        if kind == "websocket.accept":
            self._greet(ServerGreeting(grants=self._grants))
        elif kind == "websocket.close":
            self._end(message.get("code", END_NORMAL), message.get("reason") or "")
        elif kind == "websocket.http.response.start":
            self._status = message["status"]
        elif kind == "websocket.http.response.body":
            self._body += message.get("body", b"")
            if not message.get("more_body"):
                self._greet(ServerGreeting(self._status, self._body))
                self._over(END_NORMAL)
                self._transport.close()

    def _greet(self, greeting: ServerGreeting) -> None:
        """Write the greeting; it is the first that is written, so descriptors can go with it."""
        data = record(Record.GREETING, write_greeting(greeting))
        descriptors, self._descriptors = self._descriptors, []
        try:
            if descriptors and not self._transport.is_closing():
                data = data[self._send_descriptors(data, descriptors) :]
        except OSError:
            self._transport.abort()
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        if data:
            self._transport.write(data)

    def _send_descriptors(self, data: bytes, descriptors: Sequence[int]) -> int:
        fileno = self._transport.get_extra_info("socket").fileno()
        with socket.socket(fileno=os.dup(fileno)) as raw:
            return socket.send_fds(raw, [data], descriptors)

    def _refuse(self, error: OriginRefused | ProtocolError) -> None:
        log.info("refused a local connection: %s", error)
        self._ungreeted()
        self._over(END_POLICY)
        self._transport.write(
            record(
                Record.GREETING,
                write_greeting(ServerGreeting(error.http_status, error.message.encode())),
            )
        )
        self._transport.close()

    def _end(self, code: int, reason: str) -> None:
        """Say why, and end."""
        if not self._is_over:
            self._transport.write(record(Record.END, end_body(code, reason)))
            self._over(code)
            self._transport.close()

    def _over(self, code: int) -> None:
        """Nothing more is taken or said: tell the endpoint."""
        if not self._is_over:
            self._is_over = True
            self._events.put_nowait({"type": "websocket.disconnect", "code": code})

    def _ungreeted(self) -> None:
        """Expect a greeting no more."""
        self._listener.greeting.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def drop(self) -> None:
        """End without a word."""
        self._transport.abort()

    # -- the user's side ----------------------------------------------------------------------

    def grant(self, name: str, told: Any, descriptors: Sequence[int] = ()) -> None:
        """Grant what the client wants; to be called before the connection is accepted.

        Args:
            name: one of ``wants``.
            told: what the client has to know, as plain values.
            descriptors: passed to the client, in this order after those of earlier grants; owned
                by the connection from now on, which closes them.
        """
        self._grants[name] = told
        self._descriptors += descriptors

    def note(self, body: bytes) -> None:
        """Send a note; nothing happens when the connection is gone."""
        if not self._is_over:
            self._transport.write(record(Record.NOTE, body))

    def attach(self, user: TransportUser) -> None:
        """Hand every message to ``user`` from now on."""
        self._user = user

    def write(self, message: bytes, text: bool) -> None:
        """Send a message soon; nothing happens when the connection is gone."""
        if not self._is_over:
            self._transport.writelines(message_record(message))

    def hold(self) -> None:
        """Read no more."""
        if not self._is_held and not self._transport.is_closing():
            self._is_held = True
            self._transport.pause_reading()

    def release(self) -> None:
        """Read again."""
        if self._is_held and not self._transport.is_closing():
            self._is_held = False
            self._transport.resume_reading()

    async def settled(self) -> None:
        """Nothing to wait for: no message comes by ``receive``."""

    def abort(self, task: asyncio.Task[None]) -> None:
        """Drop the connection; that ends ``task``."""
        self._transport.abort()

    async def aclose(self) -> None:
        """Let go of the user."""
        self._user = None
