"""Which addresses lie on this machine. To those no proxy ever applies."""

from __future__ import annotations

import ipaddress
import socket
import struct
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

__all__ = ["is_here", "is_loopback", "is_on_bridge"]

_ROUTES: Final = Path("/proc/net/route")
_INTERFACES: Final = Path("/sys/class/net")


def is_here(url: str) -> bool:
    """Whether a URL's host is this machine or one of its containers."""
    host = urlsplit(url).hostname or ""
    return is_loopback(url) or is_on_bridge(host)


def is_loopback(url: str) -> bool:
    """Whether a URL's host is this machine by a name or address that others do not reach."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_on_bridge(address: str) -> bool:
    """Whether packets to an IPv4 address go straight to a bridge of this machine (Linux).

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
