"""A connection that sends frames as they are given, right or wrong."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from openenv_async.client.websocket import websocket_url
from openenv_async.endpoints.addresses import is_here
from openenv_async.errors import error_from_wire
from openenv_async.models import PayloadCodec
from openenv_async.protocol.codec import decode_map, frame_codec
from openenv_async.protocol.frames import (
    PROTOCOL_VERSION,
    Begun,
    Failed,
    Frame,
    Hello,
    Open,
    Opened,
    Reset,
    Welcome,
)
from openenv_async.renamed import renamed_attributes

__all__ = ["RawConnection"]

_PATIENCE = 10.0


class RawConnection:
    """One ``openenv.v1`` connection without any rules of its own."""

    def __init__(self, socket: ClientConnection, subprotocol: str) -> None:
        self._socket = socket
        self._codec = frame_codec(subprotocol, "client", 1 << 30)
        self._any: PayloadCodec[Any] = PayloadCodec(Any, self._codec.format)
        self._inbox: deque[Any] = deque()
        self._outbox: list[bytes] = []
        self.server: dict[str, Any] = {}
        self.epoch = ""

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(
        cls, url: str, subprotocol: str, token: str | None = None, hello: bool = True
    ) -> AsyncIterator[RawConnection]:
        """Connect; with ``hello`` the greetings are exchanged."""
        address = websocket_url(url)
        async with connect(
            address,
            subprotocols=[Subprotocol(subprotocol)],
            additional_headers={} if token is None else {"Authorization": f"Bearer {token}"},
            compression=None,
            max_size=None,
            ping_interval=None,
            proxy=None if is_here(address) else True,
        ) as socket:
            connection = cls(socket, subprotocol)
            if hello:
                connection.send(Hello(PROTOCOL_VERSION))
                welcome = await connection.receive_ok()
                assert isinstance(welcome, Welcome), welcome
                connection.epoch = welcome.epoch
                connection.server = decode_map(welcome.payload, connection.format)
            yield connection

    @property
    def format(self) -> str:
        """The format of payloads."""
        return self._codec.format

    def payload(self, value: Any) -> bytes:
        """Return a value as a payload."""
        return self._any.encode(value)

    def value(self, payload: bytes | memoryview | None) -> Any:
        """Return the value that a payload holds."""
        return None if payload is None else self._any.decode(payload)

    def send(self, *frames: Frame) -> None:
        """Send one message; it leaves with the next ``receive``."""
        self._outbox.append(self._codec.encode(frames))

    def send_items(self, frames: list[Any]) -> None:
        """Send one message of arrays, which need not be frames. Payloads are given as values."""
        self._outbox.append(self._any.encode(frames))

    def send_bytes(self, message: bytes) -> None:
        """Send one message of any bytes."""
        self._outbox.append(message)

    async def receive(self) -> Any:
        """Return the next frame."""
        outbox, self._outbox = self._outbox, []
        for message in outbox:
            await self._socket.send(message, text=self._codec.text)
        while not self._inbox:
            async with asyncio.timeout(_PATIENCE):
                self._inbox.extend(self._codec.decode(await self._socket.recv()))
        return self._inbox.popleft()

    async def receive_ok(self) -> Any:
        """Return the next frame; raise the error that a Failed carries."""
        frame = await self.receive()
        if isinstance(frame, Failed):
            detail = decode_map(frame.payload, self.format)
            raise error_from_wire(frame.code, frame.message, frame.retryable, detail)
        return frame

    async def begin(self, channel: int = 1) -> tuple[str, str]:
        """Open a session on a channel, reset it, and return its id and secret."""
        session, secret = secrets.token_hex(16), secrets.token_hex(16)
        self.send(Open(channel, session, secret))
        opened = await self.receive_ok()
        assert isinstance(opened, Opened), opened
        self.send(Reset(channel, 1))
        begun = await self.receive_ok()
        assert isinstance(begun, Begun), begun
        return session, secret


__getattr__ = renamed_attributes(__name__, {"RawWire": "RawConnection"})
