"""Access control: the token and the origin, checked before anything is accepted or read.

Rules:

- With a token set, every request on every transport needs it: ``Authorization: Bearer TOKEN``, or
  on a WebSocket the subprotocol ``openenv.bearer.TOKEN`` (browsers cannot set headers there). Never
  in the URL, which ends up in logs.
- A request with an ``Origin`` header comes from a web page. It is let in when its origin is on
  the allow-list, or the page was served from this very host and port. A host *name* counts for
  that only with a token: without one, a page whose name was made to point here (DNS rebinding)
  would look the same.
- Without a token the ``Host`` of every request must be an address or a name that no foreign name
  server answers for (``localhost``, a name without a dot, one below ``.local`` or ``.internal``),
  or on the list of allowed hosts: a page whose name was made to point here sends its own, and is
  of the same origin then.
- A request may show another token in its place, that is good for what it asks for and nothing
  else: that of a session that is lent to agents. The route that answers must keep to that.
- Tokens are compared in constant time, and an answer says nothing of why it refuses.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Collection, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from openenv_async.endpoints.tokens import check_token
from openenv_async.errors import OriginRefused, Unauthorized

__all__ = ["BEARER_SUBPROTOCOL", "Guard"]

BEARER_SUBPROTOCOL: Final = "openenv.bearer."


class Guard:
    """The check of ASGI scopes.

    Args:
        token: what clients must show; ``None`` lets everybody in.
        allowed_origins: origins (``https://host[:port]``) of web pages that may connect; ``*``
            allows any.
        allowed_hosts: names that a request without a token may ask for; ``*`` allows any. Those
            of ``allowed_origins`` are among them.

    Attributes:
        admitted: how many requests were let through.

    Raises:
        ValueError: the token is empty or cannot be sent in a header.
    """

    def __init__(
        self,
        token: str | None = None,
        allowed_origins: Collection[str] = (),
        allowed_hosts: Collection[str] = (),
    ) -> None:
        self._token = None if token is None else check_token(token).encode()
        self.admitted = 0
        if isinstance(allowed_origins, str):  # whose characters would be taken for origins
            raise TypeError(
                f"allowed_origins must be a list of origins, got {allowed_origins!r}:"
                f" write [{allowed_origins!r}]"
            )
        self._origins = frozenset(origin.rstrip("/").lower() for origin in allowed_origins)
        hosts = [*allowed_hosts, *(_name(origin.partition("://")[2]) for origin in self._origins)]
        self._hosts = frozenset(host.strip().rstrip(".").lower() for host in hosts)
        self._any_host = "*" in self._hosts or "*" in self._origins

    @property
    def open(self) -> bool:
        """True if no token is needed."""
        return self._token is None

    def check(self, scope: Mapping[str, Any], lent: str | None = None) -> bool:
        """Let a request through; return whether it may do all that it asks for.

        Args:
            scope: of the request.
            lent: a token that is as good for this request, but for what it was lent for alone.

        Returns:
            False where the request needs the server's token and showed only ``lent``.

        Raises:
            OriginRefused: it comes from a web page that is not allowed, or asks for a host that
                needs a token.
            Unauthorized: the token is missing or wrong.
        """
        headers: dict[bytes, bytes] = dict(scope.get("headers", ()))
        origin = headers.get(b"origin")
        if origin is not None and not self._allows(origin.decode("latin-1"), headers):
            raise OriginRefused("requests from this origin are not allowed: see --allow-origin")
        if self._token is None and not self._any_host:
            self._check_host(headers.get(b"host"))
        is_whole = self._token is None or _shows(
            self._token, headers, scope.get("subprotocols", ())
        )
        if not is_whole and (lent is None or not _shows(lent.encode(), headers, ())):
            raise Unauthorized("a valid token is needed: send it as Authorization: Bearer TOKEN")
        self.admitted += 1
        return is_whole

    def _check_host(self, header: bytes | None) -> None:
        if header is None or header in _USUAL_HOSTS:
            return  # no browser leaves it out
        name = _name(header.decode("latin-1").lower())
        if not (_is_local(name) or name in self._hosts):
            raise OriginRefused(
                f"requests for the host {name[:80]!r} are not answered without a token, since a"
                " web page can make its name point here (DNS rebinding): ask for the server's"
                " address, allow the name (--allow-host; allowed_hosts=), or set a token"
            )

    def _allows(self, origin: str, headers: Mapping[bytes, bytes]) -> bool:
        if "*" in self._origins or origin.rstrip("/").lower() in self._origins:
            return True
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if not host or origin.lower().partition("://")[2] != host:
            return False
        return self._token is not None or _is_no_name(host)


_USUAL_HOSTS: Final = frozenset({b"127.0.0.1", b"localhost"})
_LOCAL_DOMAINS: Final = (".localhost", ".local", ".internal")


def _shows(token: bytes, headers: Mapping[bytes, bytes], subprotocols: Collection[str]) -> bool:
    scheme, _, shown = headers.get(b"authorization", b"").partition(b" ")
    good = scheme.lower() == b"bearer" and hmac.compare_digest(shown.strip(), token)
    for offered in subprotocols:
        if offered.startswith(BEARER_SUBPROTOCOL):
            rest = offered.removeprefix(BEARER_SUBPROTOCOL).encode()
            good |= hmac.compare_digest(rest, token)
    return good


def _name(host: str) -> str:
    """The name or address in a ``Host``, without a port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return host


def _is_local(name: str) -> bool:
    """Return whether a name is an address, or one that public name servers never answer for."""
    if ("." not in name and ":" not in name) or name.endswith(_LOCAL_DOMAINS):
        return True
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True


def _is_no_name(host: str) -> bool:
    """Return whether a ``Host`` is an address or localhost: no name server of others has it."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name == "localhost" or name.endswith(".localhost"):
            return True
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
