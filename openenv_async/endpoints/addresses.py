"""Addresses of servers: whether one is any, and which lie on this machine.

To those on this machine no proxy ever applies.
"""

from __future__ import annotations

import inspect
import ipaddress
import re
import socket
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit, urlunsplit

from openenv_async.endpoints.tokens import check_token
from openenv_async.errors import InvalidOption, shown

__all__ = [
    "Address",
    "checked_addresses",
    "checked_url",
    "is_here",
    "is_loopback",
    "is_on_bridge",
    "told_url",
]

Address: TypeAlias = str | tuple[str, str | None]
"""A URL, or a URL and the token of its server."""

_ROUTES: Final = Path("/proc/net/route")
_SCHEMES: Final = ("http", "https", "ws", "wss")
_HOST_AND_PORT: Final = re.compile(r"[\w.-]+:\d{1,5}", re.ASCII)
_INTERFACES: Final = Path("/sys/class/net")


def checked_url(url: Any, what: str = "base_url") -> str:
    """The address of a server.

    Raises:
        TypeError: it is not text.
        InvalidOption: it is not an address.
    """
    if not isinstance(url, str):
        if not inspect.isclass(url) and hasattr(url, "base_url"):
            raise TypeError(
                f"{what} must be the address of a server, got a client of {url.base_url}: give"
                " its base_url; env.sync() is the blocking view of an async client"
            )
        if inspect.isclass(url) or hasattr(url, "step"):
            name = url.__name__ if inspect.isclass(url) else type(url).__name__
            raise TypeError(
                f"{what} must be the address of a server, http://HOST:PORT, got the environment"
                f" {name}: connect({name}) plays on it in this process, serve({name}) gives an"
                " address"
            )
        raise TypeError(
            f"{what} must be the address of a server as text, http://HOST:PORT, got {shown(url)}"
        )
    if hint := _fault(url):
        raise InvalidOption(f"{url!r} is not a valid server address{hint}")
    return url


def checked_addresses(addresses: Iterable[Any], what: str) -> list[Address]:
    """Return the addresses of several servers: URLs, or pairs of URL and token.

    A tuple of a URL and of text that is not one is such a pair itself. No message has the text of
    an address but a host and port, since it may be a token in the wrong place.

    Raises:
        TypeError: one is neither.
        InvalidOption: one is not an address.
    """
    checked: list[Address] = []
    for number, each in enumerate([addresses] if _is_pair(addresses) else addresses, 1):
        url, token = each if isinstance(each, tuple) and len(each) == 2 else (each, None)
        if not isinstance(each, str | tuple | list | set | dict):
            checked_url(each, f"number {number} of {what}")
        if not isinstance(url, str) or not isinstance(token, str | None):
            raise TypeError(
                f"number {number} of {what} must be a URL, or a pair of URL and token,"
                f" got {shown(each, secret=True)}"
            )
        if _fault(url):
            cure = url if _HOST_AND_PORT.fullmatch(url) else "HOST:PORT"
            raise InvalidOption(
                f"number {number} of {what} is not a valid server address: write http://{cure}"
                " (or https), and a URL with its token as (URL, TOKEN)"
            )
        if token is not None:
            check_token(token)
        checked.append(each)
    return checked


def told_url(url: str) -> str:
    """Return an address for messages: without a user's name, a password and a query."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def _is_pair(given: Any) -> bool:
    return (
        isinstance(given, tuple)
        and len(given) == 2
        and all(isinstance(part, str) for part in given)
        and not _fault(given[0])
        and bool(_fault(given[1]))
    )


def _fault(url: str) -> str:
    """Return what to say of text that is not the address of a server, or nothing."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as exc:
        return f" ({exc}): write http://HOST:PORT (or https)"
    if parts.scheme in _SCHEMES and host and not any(character.isspace() for character in url):
        return ""
    return f": {_address_hint(url)}"


def _address_hint(url: str) -> str:
    """The remedy for an address that is not valid."""
    plain = url.strip()
    if not plain:
        return "it is empty, write http://HOST:PORT"
    if plain != url:
        return f"it has white space around it, write {plain!r}"
    scheme, separator, rest = plain.partition("://")
    if not separator:
        scheme, rest = "", plain.lstrip("/")
    host = rest.partition("/")[0]
    if not host or scheme in _SCHEMES or " " in host or not host.strip(":."):
        return "write http://HOST:PORT (or https)"
    if not separator and host.partition(":")[2].isdigit():
        return f"it has no scheme, write http://{rest}"
    if not separator and ":" in host:
        return "write http://HOST:PORT (an environment, module:Class, is for serve and AutoEnv)"
    if not separator and "." not in host and host != "localhost":
        return (
            f"write http://HOST:PORT (or https); AutoEnv.from_env({plain!r}) finds environments by"
            " name"
        )
    return f"write http://{host if ':' in host else f'{host}:8000'} (or https)"


def is_here(url: str) -> bool:
    """Return whether a URL's host is this machine or one of its containers."""
    host = urlsplit(url).hostname or ""
    return is_loopback(url) or is_on_bridge(host)


def is_loopback(url: str) -> bool:
    """Return whether a URL's host is a name or address of this machine that others do not reach."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_on_bridge(address: str) -> bool:
    """Return whether packets to an IPv4 address go straight to a bridge of this machine (Linux).

    The Engine's networks of the kind ``bridge`` are such, and what answers there is a container.
    """
    try:
        wanted = struct.unpack("!I", socket.inet_pton(socket.AF_INET, address))[0]
        lines = _ROUTES.read_text().splitlines()[1:]
    except OSError:  # no IPv4 address, or not on Linux
        return False
    best, interface = -1, ""
    for line in lines:
        name, destination, gateway, _, _, _, _, mask, *_ = line.split()
        bits = _address(mask)
        if wanted & bits == _address(destination) and bits > best:
            best, interface = bits, "" if _address(gateway) else name
    return bool(interface) and (_INTERFACES / interface / "bridge").is_dir()


def _address(field: str) -> int:
    """An address as the kernel's table has it: hex, in this machine's byte order."""
    number: int = struct.unpack("!I", struct.pack("=I", int(field, 16)))[0]
    return number
