"""The local connection: a Unix socket in place of a WebSocket, for two ends on one machine.

A client that meets a server over TCP asks for it in its upgrade request, and the server's answer
tells where. Over the Unix socket both write records: first a greeting each, then messages as a
WebSocket would carry them, and at last an end.

Rules of this file:

- A server tells a name, never a path or an address, so that it cannot send a client to a socket of
  somebody else. The name is 32 hex digits, made at random for each run of the server.
- The name leads to an abstract socket, which another machine or container does not have, or to a
  folder of the user who runs the client.
- The server also tells the address that it sees the client at. A client that knows itself by
  another one has reached the server through something between them, and stays with that.
- The key that the server tells has to be shown in the greeting: who did not pass the checks of the
  WebSocket's request does not get in here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from openenv_async.errors import ProtocolError

__all__ = [
    "ABSTRACT_PREFIX",
    "END_ABNORMAL",
    "END_GOING_AWAY",
    "END_NORMAL",
    "END_POLICY",
    "END_PROTOCOL",
    "END_TOO_LONG",
    "LOCAL_HEADER",
    "LOCAL_SUBPROTOCOL",
    "LOCAL_VERSION",
    "ClientGreeting",
    "LocalOffer",
    "ServerGreeting",
    "abstract_address",
    "end_body",
    "read_end",
    "read_greeting",
    "write_greeting",
]

LOCAL_HEADER: Final = "openenv-local"
"""The header of the upgrade request, whose value is the version, and of the answer."""
LOCAL_VERSION: Final = "1"
LOCAL_SUBPROTOCOL: Final = "openenv.v1.msgpack"
"""The subprotocol of all messages of a local connection."""
ABSTRACT_PREFIX: Final = "\0openenv-"
END_NORMAL: Final = 1000
"""The codes of an end are those of a WebSocket's close frame (RFC 6455, section 7.4.1)."""
END_GOING_AWAY: Final = 1001
END_PROTOCOL: Final = 1002
END_POLICY: Final = 1008
END_TOO_LONG: Final = 1009
END_ABNORMAL: Final = 1006
_MAX_REASON: Final = 1024
_HEX: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class LocalOffer:
    """A server's word of where its Unix socket is.

    Attributes:
        name: of the socket: 32 hex digits.
        key: that the greeting has to show: 32 hex digits.
        seen_at: host and port at which the server sees the client.
    """

    name: str
    key: str
    seen_at: tuple[str, int]

    def header(self) -> str:
        """Return the value of the header that tells it."""
        host, port = self.seen_at
        return f"{LOCAL_VERSION} {self.name} {self.key} {host} {port}"

    @classmethod
    def read(cls, header: str | None) -> LocalOffer | None:
        """Read a header: ``None`` for one of another version, or that cannot be read."""
        parts = (header or "").split(" ")
        if len(parts) != 5 or parts[0] != LOCAL_VERSION:
            return None
        _, name, key, host, port = parts
        if not (_HEX.fullmatch(name) and _HEX.fullmatch(key)):
            return None
        if not (port.isascii() and port.isdigit() and len(port) <= 5):
            return None
        return cls(name, key, (host, int(port)))


def abstract_address(name: str) -> str:
    """Return the address of the abstract socket that a name leads to."""
    return ABSTRACT_PREFIX + name


class ClientGreeting(msgspec.Struct, omit_defaults=True):
    """The first record of a client.

    Attributes:
        key: of the offer.
        headers: those of the upgrade request, the access token among them.
        wants: names of what the server may grant.
    """

    key: str
    headers: dict[str, str] = {}
    wants: list[str] = []


class ServerGreeting(msgspec.Struct, omit_defaults=True):
    """The first record of a server: it takes the client, or does not.

    Descriptors that the server passes come with its first byte.

    Attributes:
        status: 101 if it does; else of HTTP, and nothing follows.
        body: with another status than 101, what a refused WebSocket is answered with.
        grants: of what the client wants, by name, with what it has to know.
    """

    status: int = 101
    body: bytes = b""
    grants: dict[str, Any] = {}


_encode: Final = msgspec.msgpack.Encoder().encode
_client: Final = msgspec.msgpack.Decoder(ClientGreeting)
_server: Final = msgspec.msgpack.Decoder(ServerGreeting)


def write_greeting(greeting: ClientGreeting | ServerGreeting) -> bytes:
    """Return the body of a greeting's record: a map in MessagePack."""
    return _encode(greeting)


def read_greeting(body: bytes | memoryview, of_client: bool) -> Any:
    """Read the greeting of the client or of the server; unknown keys are ignored.

    Raises:
        ProtocolError: it is none.
    """
    try:
        return (_client if of_client else _server).decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise ProtocolError(f"not a greeting of a local connection: {exc}") from None


def end_body(code: int, reason: str = "") -> bytes:
    """Return the body of the record that ends a connection: 2 bytes of code, and the reason."""
    return code.to_bytes(2, "big") + reason.encode()[:_MAX_REASON]


def read_end(body: bytes | memoryview) -> tuple[int, str]:
    """Return the code and the reason of an end; one without a code is abnormal."""
    if len(body) < 2:
        return END_ABNORMAL, ""
    data = bytes(body)
    return int.from_bytes(data[:2], "big"), data[2 : 2 + _MAX_REASON].decode(errors="replace")
