"""Access control: the token and the origin, checked before anything is accepted or read.

Rules:

- With a token set, every request on every transport needs it: ``Authorization: Bearer TOKEN``, or
  on a WebSocket the subprotocol ``openenv.bearer.TOKEN`` (browsers cannot set headers there). Never
  in the URL, which ends up in logs.
- Agents may have a token of their own. It opens what is for agents alone, which is for the endpoint
  to say; anywhere else it is refused, and says so: who has it is known.
- A request with an ``Origin`` header comes from a web page. It is let in when its origin is on
  the allow-list, or the page was served from this very host and port. A host *name* counts for
  that only with a token: without one, a page whose name was made to point here (DNS rebinding)
  would look the same.
- Without a token the ``Host`` of every request must be an address or a name that no foreign name
  server answers for (``localhost``, a name without a dot, one below ``.local`` or ``.internal``),
  or on the list of allowed hosts: a page whose name was made to point here sends its own, and is
  of the same origin then.
- The page keeps the token in a cookie, which counts only over HTTP and only without a header
  ``Authorization``. A request with it that may change something must come from the page itself: its
  ``Origin`` is this very host, and a header has a secret that only the page was told.
- A request may show another token in its place, that is good for what it asks for and nothing
  else: that of a session that is lent to agents. The route that answers must keep to that.
- ``caller_of`` tells the holder of the token. It sees its own sessions alone unless it is an
  administrator; a token for some environments opens those alone.
- Probes of an orchestrator (``PROBES``) carry no token and get an answer that says nothing but
  whether the server lives, and takes sessions. Foreign hosts and pages are refused there, too.
- Tokens are compared in constant time, and an answer says nothing of why it refuses.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import enum
import hashlib
import hmac
import ipaddress
import secrets
import time
from collections.abc import Collection, Iterable, Mapping, MutableMapping
from typing import Any, Final
from urllib.parse import urlsplit

from openenv_async.endpoints.tokens import check_token
from openenv_async.engine.callers import OWNER, Caller
from openenv_async.errors import AgentRefused, CallerError, OriginRefused, Unauthorized
from openenv_async.server.callers import AGENTS, NOBODY, Callers

__all__ = [
    "BEARER_SUBPROTOCOL",
    "CSRF_HEADER",
    "PROBES",
    "Grant",
    "Guard",
    "caller_of",
    "cookie_value",
    "is_same_origin",
    "page_cookie",
    "refused_to",
]

BEARER_SUBPROTOCOL: Final = "openenv.bearer."
CSRF_HEADER: Final = "X-OpenEnv-CSRF"
"""The header of requests of the page that change something."""
_PAGE_COOKIE: Final = "openenv_token"
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_CALLER: Final = "openenv.caller"
"""The key of a scope under which the caller is found whose token it shows."""
PROBES: Final = frozenset({"/health", "/ready"})
"""Paths that tell no more than a connection that is taken does."""


class Grant(enum.Enum):
    """The use that the token of a request is good for.

    Attributes:
        ALL: everything; also where the server asks for no token.
        AGENTS: MCP, as it is for agents.
        LENT: MCP in the one session that the request names.
    """

    ALL = enum.auto()
    AGENTS = enum.auto()
    LENT = enum.auto()


class Guard:
    """The check of ASGI scopes.

    Args:
        token: what clients must show; ``None`` lets everybody in.
        allowed_origins: origins (``https://host[:port]``) of web pages that may connect; ``*``
            allows any.
        allowed_hosts: names that a request without a token may ask for; ``*`` allows any. Those
            of ``allowed_origins`` are among them.
        agent_token: what agents may show in place of the token.
        callers: whose tokens are good, in place of ``token``.

    Attributes:
        admitted: how many requests were let through, those of agents apart.
        csrf: the secret that the page sends back, new with every server.
        callers: whose tokens are good.
        environment: the name of what lies behind, for callers who may use some only; ``None``: no
            environment in particular.

    Raises:
        ValueError: a token is empty or cannot be sent in a header, or that of agents is the only
            one, or the same.
    """

    def __init__(
        self,
        token: str | None = None,
        allowed_origins: Collection[str] = (),
        allowed_hosts: Collection[str] = (),
        agent_token: str | None = None,
        callers: Callers | None = None,
    ) -> None:
        self.callers = Callers(token) if callers is None else callers
        self.environment: str | None = None
        self._agent_token = None if agent_token is None else check_token(agent_token).encode()
        if self._agent_token is not None and self.open:
            raise ValueError(
                "an agents' token keeps nothing from agents while the server asks for none: give"
                " it a token as well (--token-file or OPENENV_TOKEN; token=)"
            )
        if self._agent_token is not None and self.callers.find([self._agent_token]) is not None:
            raise ValueError("the agents' token must be another one than the server's own")
        self.admitted = 0
        self.csrf: Final = secrets.token_hex(16)
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
        return self.callers.open

    def check(self, scope: MutableMapping[str, Any]) -> Caller:
        """Let a request of a client through, and of nobody less; return whose it is.

        Raises:
            AccessRefused: the caller may not use this environment.
            OriginRefused: it comes from a web page that is not allowed, or asks for a host that
                needs a token.
            Unauthorized: the token is missing or wrong.
            AgentRefused: it is that of agents.
        """
        grant = self.admit(scope)
        if grant is not Grant.ALL:
            raise refused_to(grant)
        return caller_of(scope)

    def check_probe(self, scope: MutableMapping[str, Any]) -> None:
        """Let a probe through, which need not show a token; one that it shows counts as ever.

        Raises:
            OriginRefused: as by ``check``.
        """
        with contextlib.suppress(Unauthorized, AgentRefused):
            self.check(scope)

    def admit(self, scope: MutableMapping[str, Any], lent: str | None = None) -> Grant:
        """Let a request through, of agents as well; return what its token is good for.

        Args:
            scope: of the request.
            lent: a token that is as good for this request, but for what it was lent for alone.

        The caller is in the scope from then on: see ``caller_of``.

        Raises:
            AccessRefused: the caller may not use this environment.
            OriginRefused, Unauthorized: as by ``check``.
        """
        headers: dict[bytes, bytes] = dict(scope.get("headers", ()))
        origin = headers.get(b"origin")
        if origin is not None and not self._allows(origin.decode("latin-1"), headers):
            raise OriginRefused("requests from this origin are not allowed: see --allow-origin")
        if self.open and not self._any_host:
            self._check_host(headers.get(b"host"))
        if self.open:
            self.admitted += 1
            scope[_CALLER] = OWNER
            return Grant.ALL
        shown = _shown(headers, scope.get("subprotocols", ()))
        caller = self.callers.find(shown)
        if caller is None:
            caller = self.callers.find(_in_cookies(scope, headers))
            if caller is not None and scope["method"] not in _SAFE_METHODS:
                self.check_page(scope)
        if caller is not None:
            if not caller.is_valid(time.time()):
                raise Unauthorized(f"the token {caller.name!r:.80} has expired: ask for another")
            caller.check_environment(self.environment)
            self.admitted += 1
            scope[_CALLER] = caller
            return Grant.ALL
        if lent is not None and _is_in(lent.encode(), _shown(headers, ())):
            scope[_CALLER] = AGENTS
            return Grant.LENT
        if self._agent_token is not None and _is_in(self._agent_token, shown):
            scope[_CALLER] = AGENTS
            return Grant.AGENTS
        raise Unauthorized("a valid token is needed: send it as Authorization: Bearer TOKEN")

    def check_page(self, scope: Mapping[str, Any]) -> None:
        """Let a request of the page that changes something through, and no other page's.

        A request of a program has neither an origin nor cookies, and needs its token alone.

        Raises:
            OriginRefused: it comes from elsewhere, or without the page's secret.
        """
        headers: dict[bytes, bytes] = dict(scope.get("headers", ()))
        if b"authorization" in headers:
            return  # which no page of others can make a browser send
        if not ({b"origin", b"sec-fetch-site", b"cookie"} & headers.keys()):
            return
        shown = headers.get(CSRF_HEADER.lower().encode(), b"")
        if not (is_same_origin(headers) and hmac.compare_digest(shown, self.csrf.encode())):
            raise OriginRefused(
                "what changes something must be asked for by the server's own page, with its"
                f" secret in {CSRF_HEADER}: load the page again, or send the token as"
                " Authorization: Bearer TOKEN"
            )

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
        if not is_same_origin(headers):
            return False
        host = headers[b"host"].decode("latin-1").lower()
        return not self.open or _is_no_name(host)


def caller_of(scope: Mapping[str, Any]) -> Caller:
    """Return whose token a request shows that was let in; the owner where none is asked for.

    ``caller_of(request.scope).may_see(session)`` says whether it may see, follow, cancel and close
    a session; ``check_admin("…")`` refuses everybody but administrators.
    """
    caller: Caller = scope.get(_CALLER, NOBODY)
    return caller


def is_same_origin(headers: Mapping[bytes, bytes]) -> bool:
    """Return whether a request comes from a page of the host and port that it asks."""
    host = headers.get(b"host", b"").lower()
    return bool(host) and headers.get(b"origin", b"").lower().partition(b"://")[2] == host


def page_cookie(headers: Mapping[bytes, bytes]) -> str:
    """Return the name of the cookie that keeps the page's token, another for each host and port.

    Cookies know no ports, so servers on one machine share them.
    """
    return f"{_PAGE_COOKIE}_{hashlib.sha256(headers.get(b'host', b'').lower()).hexdigest()[:8]}"


def cookie_value(token: str) -> str:
    """Return a token as the page's cookie has it."""
    return base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")


def refused_to(grant: Grant) -> CallerError:
    """Make the error for a token that does not open what is asked for."""
    if grant is Grant.LENT:
        return Unauthorized(
            "this token plays one session over MCP: all else needs the server's own"
        )
    return AgentRefused(
        "this is the agents' token, which is good for the Model Context Protocol at /mcp alone:"
        " everything else needs the server's own token"
    )


_USUAL_HOSTS: Final = frozenset({b"127.0.0.1", b"localhost"})
_LOCAL_DOMAINS: Final = (".localhost", ".local", ".internal")


def _shown(headers: Mapping[bytes, bytes], subprotocols: Collection[str]) -> list[bytes]:
    """Return the tokens that a request shows."""
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    shown = [token.strip()] if scheme.lower() == b"bearer" else []
    offered = [each for each in subprotocols if each.startswith(BEARER_SUBPROTOCOL)]
    return shown + [each.removeprefix(BEARER_SUBPROTOCOL).encode() for each in offered]


def _is_in(token: bytes, shown: Iterable[bytes]) -> bool:
    """Return whether a token is among those shown; compared in constant time."""
    good = False
    for each in shown:
        good |= hmac.compare_digest(each, token)
    return good


def _in_cookies(scope: Mapping[str, Any], headers: Mapping[bytes, bytes]) -> list[bytes]:
    """Return the tokens in cookies of an HTTP request without ``Authorization``.

    There may be several of the name, for paths one below the other.
    """
    if scope.get("type") != "http" or b"authorization" in headers or b"cookie" not in headers:
        return []
    prefix = f"{page_cookie(headers)}=".encode()
    pairs = [
        each.strip()
        for name, value in scope["headers"]
        if name == b"cookie"
        for each in value.split(b";")
    ]
    return [_decoded(pair.removeprefix(prefix)) for pair in pairs if pair.startswith(prefix)]


def _decoded(value: bytes) -> bytes:
    try:
        return base64.urlsafe_b64decode(value + b"=" * (-len(value) % 4))
    except binascii.Error:
        return b""


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
