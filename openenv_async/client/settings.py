"""ClientSettings: all that a client is made with, as one value that can be copied and sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Self, TypedDict

from openenv_async.client.arguments import is_sendable, refuse_unknown
from openenv_async.endpoints.tls import Trust
from openenv_async.endpoints.tokens import check_token
from openenv_async.errors import shown
from openenv_async.types import Limits, Timeouts

__all__ = ["LIMITS", "SETTINGS", "TIMEOUTS", "ClientKeywords", "ClientSettings"]

TIMEOUTS: Final = Timeouts()
LIMITS: Final = Limits()
_SUBPROTOCOLS: Final = ("openenv.v1.msgpack", "openenv.v1.json", "upstream")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ClientSettings:
    """The settings of a client, apart from the address of its server.

    Every client has its own under ``settings``; ``EnvClient.with_settings(url, settings)`` makes
    another client with the same ones, and ``settings.replace(…)`` changes some of them first.
    Pickles, unless ``ssl`` is an ``SSLContext``. Its ``repr`` shows neither the token nor the
    values of headers.

    Attributes:
        token: the server's access token.
        timeouts: deadlines; those of reset, step, state and close are sent with each request.
        limits: sizes this side accepts.
        options: constructor options of the environment, where it opens any to clients.
        share: whether to share a connection with other clients of this address and loop; with a
            string only with those that give the same. Without meaning over HTTP.
        subprotocol: ``openenv.v1.msgpack``, ``openenv.v1.json`` or ``upstream``; ``None`` for the
            first that the server speaks. Without meaning over HTTP.
        headers: more headers of the connection request, or of every request over HTTP.
        ssl: trusted authorities at https and wss: an ``ssl.SSLContext``, or the path of a file of
            certificates (PEM); ``None`` for those of the system.
        local: whether to use a Unix socket where the server is on this machine and offers one.
            Without meaning over HTTP and TLS, and with other subprotocols than
            ``openenv.v1.msgpack``.

    Raises:
        TypeError, ValueError: a setting is of the wrong kind; the message names it.
    """

    token: str | None = None
    timeouts: Timeouts = TIMEOUTS
    limits: Limits = LIMITS
    options: Mapping[str, Any] | None = None
    share: bool | str = True
    subprotocol: str | None = None
    headers: Mapping[str, str] | None = None
    ssl: Trust = None
    local: bool = True

    def __post_init__(self) -> None:
        token: Any = self.token
        options: Any = self.options
        if token is not None:
            if not isinstance(token, str):
                raise TypeError(f"token must be text or None, got {shown(token, secret=True)}")
            check_token(token)
        if not isinstance(self.timeouts, Timeouts):
            raise TypeError(
                f"timeouts must be a Timeouts, such as Timeouts(step=5), got {shown(self.timeouts)}"
            )
        if not isinstance(self.limits, Limits):
            raise TypeError(f"limits must be a Limits, got {shown(self.limits)}")
        if options is not None:
            if not isinstance(options, Mapping) or not all(isinstance(k, str) for k in options):
                raise TypeError(
                    "options must be a dict from constructor arguments of the environment to their"
                    f" values, got {shown(options)}"
                )
            object.__setattr__(self, "options", dict(options))
        if self.headers is not None:
            _check_headers(self.headers)
            object.__setattr__(self, "headers", dict(self.headers))
        if self.ssl is not None and not isinstance(self.ssl, str):
            _check_trust(self.ssl)
        if not isinstance(self.local, bool):
            raise TypeError(f"local must be True or False, got {shown(self.local)}")
        if not isinstance(self.share, bool | str):
            raise TypeError(
                f"share must be True, False or the name of a group, got {shown(self.share)}"
            )
        if self.subprotocol is not None and self.subprotocol not in _SUBPROTOCOLS:
            raise ValueError(
                f"subprotocol must be one of {', '.join(_SUBPROTOCOLS)} or None,"
                f" got {shown(self.subprotocol)}"
            )

    def __repr__(self) -> str:
        told = {name: repr(value) for name, value in self.arguments().items()}
        if "token" in told:
            told["token"] = "…"
        if self.headers:
            told["headers"] = f"{{{', '.join(f'{name!r}: …' for name in self.headers)}}}"
        return f"ClientSettings({', '.join(f'{name}={text}' for name, text in told.items())})"

    def arguments(self) -> dict[str, Any]:
        """Return the settings that are not the usual ones, as keyword arguments of a client."""
        given = ((item, getattr(self, item.name)) for item in fields(self))
        return {item.name: value for item, value in given if value != item.default}

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some settings changed.

        Raises:
            TypeError, ValueError: a name is unknown, or a value of the wrong kind.
        """
        unknown = [name for name in changes if name not in SETTINGS]
        if unknown:
            refuse_unknown("ClientSettings.replace", unknown, SETTINGS)
        return type(self)(**{**{name: getattr(self, name) for name in SETTINGS}, **changes})


class ClientKeywords(TypedDict, total=False):
    """The settings of a client, as the keyword arguments of what makes one."""

    token: str | None
    timeouts: Timeouts | None
    limits: Limits | None
    options: Mapping[str, Any] | None
    share: bool | str
    subprotocol: str | None
    headers: Mapping[str, str] | None
    ssl: Trust
    local: bool


SETTINGS: Final = tuple(item.name for item in fields(ClientSettings))
"""The names of a client's settings: its keyword arguments."""


def _check_headers(headers: Any) -> None:
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers must be a dict from names to text, got {shown(headers)}")
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"headers must be a dict from names to text; {shown(name)} is not so")
        if not name or any(ord(c) < 33 or ord(c) > 126 or c == ":" for c in name):
            raise ValueError(f"headers has {name!r}, which is not a header's name")
        if any(c in value for c in "\r\n\0") or not is_sendable(value):
            raise ValueError(f"the value of {name!r} in headers must be one line of text")


def _check_trust(trust: Any) -> None:
    from ssl import SSLContext

    if not isinstance(trust, SSLContext):
        raise TypeError(
            f"ssl must be an ssl.SSLContext, the path of a PEM file as text, or None,"
            f" got {shown(trust)}"
        )
