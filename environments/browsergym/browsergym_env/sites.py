"""The web that a session may reach: own pages from a folder, and sites by their addresses.

Rules:

- A folder of pages is ``http://pages/``. Its files are read and given to the browser by this
  process; no server has them, and nothing outside the folder is read (``folders``).
- Sites are reached at the host and port of their addresses. Chromium itself resolves no other name
  or address, which holds for redirects, frames, sockets and workers too; requests of pages are
  looked at once more before they leave.
- Everything else fails as a name that does not resolve. An agent goes to ``http`` and ``https``
  addresses alone.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from playwright.async_api import Error, Route

from browsergym_env.actions import ActionError
from browsergym_env.folders import Folder
from openenv_async.errors import InvalidOption

__all__ = ["NO_NETWORK", "Sites", "read_addresses"]

NO_NETWORK: Final = "MAP * ~NOTFOUND"
"""Chromium's rule for resolving names of a browser that reaches nothing."""
_PAGES: Final = "http://pages"
_HOST: Final = re.compile(r"[a-z0-9][a-z0-9.-]*")
_NAME: Final = re.compile(r"[A-Za-z]\w*")
_PORTS: Final = {"http": 80, "https": 443}


class Sites:
    """Own pages and allowed sites.

    Args:
        pages: the folder of own pages, if there are any.
        addresses: the address of each site by its name.

    Raises:
        InvalidOption: there is neither, or an address is none.
    """

    def __init__(self, pages: Folder | None, addresses: Mapping[str, str]) -> None:
        if pages is None and not addresses:
            raise InvalidOption(
                "the benchmark sites needs pages=FOLDER, or sites such as"
                " {'shop': 'http://127.0.0.1:7770'}",
                option="benchmark",
            )
        self._pages = pages
        self._addresses = {}
        self._allowed: dict[tuple[str, int], str] = {}
        for name, address in addresses.items():
            host, port = _place(name, address)
            self._allowed[host, port] = name
            self._addresses[name.upper()] = address.rstrip("/")
        if pages is not None:
            self._addresses["PAGES"] = _PAGES

    @property
    def real_time(self) -> bool:
        """True if there are sites of the network, whose pages need the time of the world."""
        return bool(self._allowed)

    @property
    def rules(self) -> str:
        """Chromium's rules for resolving names: the allowed hosts and ports, and nothing else."""
        places = sorted(f"{host}:{port}" for host, port in self._allowed)
        return ", ".join([*(f"MAP {place} {place}" for place in places), NO_NETWORK])

    def filled(self, text: str) -> str:
        """Return a text with the addresses of sites in the place of ``__NAME__``."""
        for name, address in self._addresses.items():
            text = text.replace(f"__{name}__", address)
        return text

    def start(self, url: str) -> str:
        """Return the address of a start page; one without a scheme is of the folder of pages.

        Raises:
            InvalidOption: it is not of an allowed site.
        """
        if "://" not in url and self._pages is not None:
            url = f"{_PAGES}/{url.lstrip('/')}"
        try:
            return self.checked(url)
        except ActionError as exc:
            raise InvalidOption(f"the start page {exc}") from None

    def checked(self, url: str) -> str:
        """Return an address that the agent may go to.

        Raises:
            ActionError: it may not; the message lists where it may.
        """
        url = url.strip()
        if self._is_page(url) or self._is_allowed(url):
            return url
        there = ", ".join(self._addresses.values())
        raise ActionError(f"{url!r:.200} is not of an allowed site; there are: {there}")

    async def answer(self, route: Route) -> None:
        """Answer a request of a page: from the folder, by letting it go on, or with an error."""
        request = route.request
        try:
            if self._is_page(request.url):
                await self._give(route)
            elif self._is_allowed(request.url):
                await route.continue_()
            else:
                await route.abort("namenotresolved")
        except Error:
            return  # the page is gone

    async def _give(self, route: Route) -> None:
        if route.request.method not in ("GET", "HEAD"):
            await route.fulfill(
                status=405, content_type="text/plain", body="a folder takes no data"
            )
            return
        assert self._pages is not None
        path = unquote(urlsplit(route.request.url).path)
        if path.endswith("/"):
            path += "index.html"
        found = await asyncio.to_thread(self._pages.read, path)
        if found is None:
            await route.fulfill(status=404, content_type="text/plain", body="there is no such page")
            return
        content, media_type = found
        if media_type.startswith("text/"):
            media_type += "; charset=utf-8"
        headers = {"content-type": media_type, "cache-control": "no-store"}
        await route.fulfill(status=200, headers=headers, body=content)

    def _is_page(self, url: str) -> bool:
        return self._pages is not None and re.match(rf"{_PAGES}(?::80)?/", f"{url}/") is not None

    def _is_allowed(self, url: str) -> bool:
        try:
            parts = urlsplit(url)
            port = parts.port or _PORTS[parts.scheme]
        except (ValueError, KeyError):
            return False
        return parts.username is None and (parts.hostname or "", port) in self._allowed


def read_addresses(given: Any) -> dict[str, str]:
    """Return the sites of a setting: a dict, or ``NAME=ADDRESS`` separated by commas.

    Raises:
        InvalidOption: it is neither.
    """
    if isinstance(given, str):
        pairs = [part.strip().partition("=") for part in given.split(",") if part.strip()]
        given = {name.strip(): address.strip() for name, _, address in pairs}
    if not isinstance(given, Mapping) or not all(isinstance(each, str) for each in given.values()):
        raise InvalidOption(
            "sites must be addresses by name, such as shop=http://127.0.0.1:7770, got"
            f" {given!r:.200}",
            option="sites",
        )
    return dict(given)


def _place(name: str, address: str) -> tuple[str, int]:
    """Return host and port of a site's address."""
    try:
        parts = urlsplit(address)
        host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        host, port = "", None
    if not _NAME.fullmatch(name) or name.upper() == "PAGES":
        raise InvalidOption(
            f"{name!r:.80} is not the name of a site: use letters, digits and _, and not 'pages'",
            option="sites",
        )
    if port is None or _HOST.fullmatch(host) is None or parts.username is not None:
        raise InvalidOption(
            f"the site {name} has the address {address!r:.200}: write http://HOST:PORT, with a name"
            " or an IPv4 address",
            option="sites",
        )
    return host, port
