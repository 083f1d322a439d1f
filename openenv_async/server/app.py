"""The ASGI application: one engine behind WebSocket, HTTP and upstream's dialect."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, Router, WebSocketRoute

from openenv_async.endpoints.local import LOCAL_FOLDER_VARIABLE
from openenv_async.engine import Engine, EngineOptions
from openenv_async.engine.callers import Caller
from openenv_async.engine.connection import ServerConnection
from openenv_async.errors import InvalidOption, OpenEnvError, Unauthorized
from openenv_async.models import Format
from openenv_async.protocol.codec import SUBPROTOCOLS
from openenv_async.protocol.local import LOCAL_HEADER
from openenv_async.server.auth import Guard
from openenv_async.server.callers import Callers
from openenv_async.server.drain import DRAIN_SECONDS, Drain
from openenv_async.server.home import HomeLoop, is_test_client
from openenv_async.server.http import http_routes
from openenv_async.server.http_headers import MEDIA, encode_body, error_body
from openenv_async.server.http_sessions import HttpSessions
from openenv_async.server.keywords import read_keywords
from openenv_async.server.local import LOCAL_EXTENSION, LocalListener
from openenv_async.server.mcp import IDLE_TIMEOUT, McpEndpoint, checked_access
from openenv_async.server.mcp.sharing import Sharing
from openenv_async.server.metrics import LoopWatch, read_stats
from openenv_async.server.not_found import (
    Elsewhere,
    front_page,
    no_such_path,
    route_path,
    route_words,
    wants_page,
)
from openenv_async.server.page import ServerPage
from openenv_async.server.page.sessions import SessionViews
from openenv_async.server.reload import Reload, WantedEnvironment, reloaded
from openenv_async.server.transport import Receive, Scope, Send
from openenv_async.server.upstream import RpcSocket, UpstreamSocket
from openenv_async.server.upstream_rpc import UpstreamRpc
from openenv_async.server.websocket import NativeSocket
from openenv_async.spec import EnvironmentSpec
from openenv_async.types import MAX_SECONDS

__all__ = ["HTTPEnvServer", "UnknownPath", "create_app", "routes_in"]

PLAYING_ROUTES: Final = frozenset({"/open", "/reset", "/step", "/close", "/state"})
"""Routes that a server in production mode does not have."""
_KEYWORDS: Final = (
    *("action", "observation", "state", "params", "options", "name", "token", "admin_token"),
    *("callers", "allowed_origins", "allowed_hosts", "local", "agent_access", "agent_token"),
    *("agent_idle_timeout", "drain_seconds", "stateless_http", "mode"),
)
"""Keyword arguments of a server, for messages."""
_MODES: Final = ("simulation", "production")
_MODE: Final = "OPENENV_MODE"
_STATELESS: Final = "OPENENV_STATELESS_HTTP"
_SPACE_HOST: Final = "SPACE_HOST"
_LOCAL_HEADER: Final = LOCAL_HEADER.encode()


class HTTPEnvServer:
    """A server of one environment; ``router`` mounts into a Starlette or FastAPI application.

    Args:
        env: an ``Environment`` class, a zero-argument factory, an instance, or an
            ``EnvironmentSpec``, which settles the rest. An instance serves one session at a
            time.
        action, observation, state: model types; read from the environment when not given.
        params: constructor arguments.
        options: capacity, deadlines, sizes.
        name: overrides the environment's name.
        token: what every request on every transport must show; ``None`` lets everybody in.
        admin_token: that of an administrator, who alone may drain the server and see all sessions
            then; without one, who has the token may.
        callers: whose tokens are good, in place of these two.
        allowed_origins: origins of web pages, other than this server's own, that may connect.
        allowed_hosts: names under which it may be asked without a token, beside addresses and
            names that only a local network knows; ``*`` for any.
        local: whether clients on this machine are served over a Unix socket in place of TCP, on
            systems that have abstract ones (Linux).
        stateless_http: HTTP calls that name no session have an environment each, as upstream's
            server has it; ``None``: as the variable ``OPENENV_STATELESS_HTTP`` says, else not.
        mode: ``simulation``, or ``production`` for a server without the HTTP routes that play;
            ``None``: as the variable ``OPENENV_MODE`` says, else ``simulation``.
        agent_access: what agents may see and set over MCP beside what the environment's class says:
            any of ``reward``, ``info``, ``state``, ``seed``, ``task`` and ``options``.
        agent_token: what agents may show in place of the token, good for MCP at ``/mcp`` alone.
        agent_idle_timeout: seconds after which a session ends that agents play over MCP, if nobody
            uses it, nor holds a stream of events of it; ``None`` for no such limit.
        drain_seconds: that episodes have to end when the server is asked to drain, and by a request
            that does not say.
        upstream: ``action_cls``, ``observation_cls``, ``state_cls``, ``env_name`` and
            ``max_concurrent_envs``, OpenEnv's names for some of these.

    Raises:
        ValueError: there is no such access, or the agents' token is the only one, or the timeout is
            not positive.
        TypeError: ``env`` is not an environment, or there is no such argument.
        OperationUnsupported: it needs an isolation that cannot be given.
    """

    def __init__(
        self,
        env: Any,
        action: Any = None,
        observation: Any = None,
        state: Any = None,
        *,
        params: Mapping[str, Any] | None = None,
        options: EngineOptions | None = None,
        name: str | None = None,
        token: str | None = None,
        admin_token: str | None = None,
        callers: Callers | None = None,
        allowed_origins: Collection[str] = (),
        allowed_hosts: Collection[str] = (),
        local: bool = True,
        agent_access: Collection[str] = (),
        agent_token: str | None = None,
        agent_idle_timeout: float | None = IDLE_TIMEOUT,
        drain_seconds: float = DRAIN_SECONDS,
        stateless_http: bool | None = None,
        mode: str | None = None,
        **upstream: Any,
    ) -> None:
        read = read_keywords(
            upstream,
            {
                "action": action,
                "observation": observation,
                "state": state,
                "name": name,
                "options": options,
            },
            _KEYWORDS,
        )
        action, observation, state = read["action"], read["observation"], read["state"]
        name, options = read["name"], read["options"]
        self.spec = (
            env
            if isinstance(env, EnvironmentSpec)
            else EnvironmentSpec(env, action, observation, state, params=params, name=name)
        )
        self.engine = Engine(self.spec, options)
        space = os.environ.get(_SPACE_HOST)  # the name that a Space's proxy passes on
        hosts = [*allowed_hosts, *([space] if space else [])]
        callers = callers or Callers(token, admin_token)
        self.guard = Guard(None, allowed_origins, hosts, agent_token, callers)
        self.guard.environment = self.spec.name
        self.watch = LoopWatch(self.engine)
        self._views = SessionViews(self.engine, self.guard, self.watch.history)
        self.drain = Drain(self.engine, self._connections, drain_seconds)
        self._sockets: set[NativeSocket] = set()
        self._local: LocalListener | None = None
        if local:
            folder = os.environ.get(LOCAL_FOLDER_VARIABLE)  # a container's, from its provider
            self._local = LocalListener(
                self.websocket,
                has_token=not self.guard.open,
                connect_timeout=self.engine.options.timeouts.connect,
                max_size=self.engine.options.limits.max_message_size,
                folder=Path(folder) if folder else None,
            )
        self.reload: Reload | None = None
        self._home: HomeLoop | None = None
        self._is_alive = False
        self._admitted = 0
        own_access: Collection[str] = getattr(self.spec.cls, "agent_access", ())
        access = checked_access(own_access) | checked_access(agent_access)
        self._rpc = UpstreamRpc(self.engine, HttpSessions(self.engine))
        if agent_idle_timeout is not None and not 0 < agent_idle_timeout <= MAX_SECONDS:
            raise ValueError(
                f"agent_idle_timeout must be a positive number of seconds, at most {MAX_SECONDS:g},"
                f" or None for no limit, got {agent_idle_timeout!r:.60}"
            )
        self.mcp = McpEndpoint(
            self.engine,
            self.guard,
            access,
            self._elsewhere,
            self._rpc.response,
            agent_idle_timeout,
        )
        self.routes: list[BaseRoute] = [
            *self._http_routes(stateless_http, mode),
            *(
                Route(path, self.mcp, methods=self.mcp.methods, include_in_schema=False)
                for path in ("/mcp", "/mcp/{session}")
            ),
            WebSocketRoute("/ws", _WebSocketEndpoint(self), name="ws"),
            WebSocketRoute("/mcp", _WebSocketEndpoint(self, RpcSocket), name="ws_mcp"),
        ]

    def _http_routes(self, stateless: bool | None, mode: str | None) -> list[BaseRoute]:
        """The routes of HTTP that the server's mode has.

        Raises:
            ValueError: there is no such mode.
        """
        if stateless is None:
            stateless = os.environ.get(_STATELESS, "").lower() in ("1", "true", "yes")
        sharing = Sharing(self.engine, self.mcp.sessions)
        routes = http_routes(
            self.engine,
            self.guard,
            self.watch,
            self.drain,
            self._elsewhere,
            sharing,
            self._views,
            self._reload,
            stateless,
        )
        return routes_in(mode or os.environ.get(_MODE) or _MODES[0], routes)

    def register_routes(self, app: Any, mode: str | None = None) -> None:
        """Add the environment's routes to an application, and have the engine live as long as it.

        Args:
            app: a FastAPI or Starlette application.
            mode: ``production`` for an application without the HTTP routes that play; ``None`` or
                ``simulation`` for all routes that this server has.

        Raises:
            ValueError: there is no such mode.
        """
        app.router.routes.extend(routes_in(mode or _MODES[0], self.routes))
        app.state.openenv = self
        own = app.router.lifespan_context

        @contextlib.asynccontextmanager
        async def both(application: Any) -> AsyncIterator[Any]:
            async with self.lifespan(application), own(application) as state:
                yield state

        app.router.lifespan_context = both

    @functools.cached_property
    def router(self) -> Any:
        """The routes with their lifespan; FastAPI's ``include_router`` takes it as well.

        It is an ``APIRouter`` where FastAPI is loaded, which takes no other kind.
        """
        if "fastapi" not in sys.modules:
            return Router(self.routes, lifespan=self.lifespan)
        from fastapi import APIRouter

        return APIRouter(routes=self.routes, lifespan=self.lifespan)

    def other_routes(self, root: str = "./") -> list[BaseRoute]:
        """Make routes for an application that serves nothing else.

        They are the page, and typed answers to every path and method that nothing takes.

        Args:
            root: the way from the page to the root of the server, where it serves several.
        """
        methods = {
            route.path.replace(":path}", "}"): next(iter(sorted(route.methods or ())))
            for route in self.routes
            if isinstance(route, Route)
        }
        known = {"/ws": "GET", **methods}
        every = dict(known)
        for route in self.routes:
            if isinstance(route, Route):
                path = route.path.replace(":path}", "}")
                taken = {*(route.methods or ()), *every[path].split(", ")} - {"HEAD"}
                every[path] = ", ".join(sorted(taken))
        page = ServerPage(self.engine, self.guard, self._views, "/step" in known, root)

        def front(request: Request) -> Response:
            if wants_page(request):
                return page.response(route_words(every), request)
            return front_page(self.spec, known, request)

        elsewhere = Elsewhere(front, self.guard, known, page.login.form)
        return [
            *page.login.routes(),
            Route("/{path:path}", elsewhere, include_in_schema=False),
            WebSocketRoute("/{path:path}", UnknownPath(self.guard, list(known))),
        ]

    def _elsewhere(self, scope: Scope) -> HomeLoop | None:
        """The loop that the engine lives in, if it cannot live in the running one."""
        if self._home is None and not self._is_alive and is_test_client(scope):
            self._home = HomeLoop()
        return self._home

    async def websocket(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        only: type[RpcSocket] | None = None,
    ) -> None:
        """The ``/ws`` endpoint: native when a known subprotocol is offered, else upstream's.

        Args:
            scope, receive, send: the connection, as ASGI has it.
            only: the dialect of an endpoint that has one.
        """
        home = self._elsewhere(scope)
        if home is None:
            await self._websocket(scope, receive, send, only)
        else:
            there = home.receiver(receive), home.sender(send)
            await home.run(self._websocket(scope, *there, only))

    async def _websocket(
        self, scope: Scope, receive: Receive, send: Send, only: type[RpcSocket] | None
    ) -> None:
        event = await receive()
        if event["type"] != "websocket.connect":
            return
        try:
            self.guard.check(scope)
            self.engine.resources.take_descriptors(1, "another connection")
        except OpenEnvError as exc:
            await _refuse(exc, scope, send)
            return
        self.watch.start()
        stats = self.engine.stats
        stats.connections += 1
        stats.connections_opened += 1
        is_local = LOCAL_EXTENSION in scope["extensions"]
        if is_local:
            stats.local_connections += 1
            stats.local_connections_opened += 1
        try:
            if only is None:
                await self._serve(scope, receive, send)
            else:
                await only(self.engine, self._rpc, scope, receive, send).run()
        finally:
            stats.connections -= 1
            if is_local:
                stats.local_connections -= 1

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        chosen = next((s for s in scope["subprotocols"] if s in SUBPROTOCOLS), None)
        if chosen is None:
            await UpstreamSocket(self.engine, self._rpc, scope, receive, send).run()
            return
        offer = None if self._local is None else self._local.offer(scope)
        headers = () if offer is None else ((_LOCAL_HEADER, offer),)
        socket = NativeSocket(self.engine, chosen, scope, receive, send, headers)
        self._sockets.add(socket)
        try:
            await socket.run()
        finally:
            self._sockets.discard(socket)

    # -- as what a reload changes: the tokens alone ------------------------------------------------

    @property
    def callers(self) -> Callers:
        """The callers whose tokens are good."""
        return self.guard.callers

    def served(self) -> Mapping[str, WantedEnvironment]:
        """Return nothing: the one environment stays."""
        return {}

    def check_names(self, names: Collection[str]) -> None:
        """Check names of new environments.

        Raises:
            InvalidOption: there are some.
        """
        if names:
            raise InvalidOption(
                f"this server has one environment, at its root, and cannot serve"
                f" {', '.join(names)}: start it again",
                option="environments",
            )

    async def add(
        self, name: str, wanted: WantedEnvironment, spec: EnvironmentSpec, options: EngineOptions
    ) -> None:
        """Serve one more, which this server cannot."""
        raise AssertionError("check_names refuses it")

    def change(self, name: str, wanted: WantedEnvironment) -> list[str]:
        """Serve one with other numbers; there are none to change."""
        raise AssertionError("none is served by a name")

    def remove(self, name: str) -> None:
        """Serve one no more; there is none."""
        raise AssertionError("none is served by a name")

    def shut_sessions(self, caller: Caller, reason: OpenEnvError) -> None:
        """Close the sessions of a caller."""
        for session in [*self.engine.sessions.values()]:
            if session.caller is caller:
                session.shut(reason)

    async def _reload(self, request: Request, format: Format) -> Any:
        return await reloaded(self.reload, request, format)

    @property
    def sessions(self) -> int:
        """The number of sessions that live."""
        return len(self.engine.sessions)

    @property
    def stats(self) -> dict[str, Any]:
        """A reading of what the server knows about itself."""
        self.watch.start()
        return read_stats(self.engine, self.watch)

    def is_visited(self) -> bool:
        """Return whether a client is connected, or has asked since this was last called."""
        admitted, self._admitted = self._admitted, self.guard.admitted
        return bool(self.engine.stats.connections) or admitted != self._admitted

    def _connections(self) -> Iterator[ServerConnection]:
        return (socket.connection for socket in self._sockets)

    async def aclose(self, reason: str = "shutdown") -> None:
        """Tell the clients and close every session."""
        if self._home is not None:
            await self._home.run(self._aclose(reason))
        else:
            await self._aclose(reason)

    def hurry(self) -> None:
        """Let ``aclose`` wait no longer for environments to close; called in the server's loop."""
        self.engine.hurry()

    async def _aclose(self, reason: str) -> None:
        self.watch.stop()
        await self.drain.aclose()
        if self.reload is not None:
            await self.reload.aclose()
        if self._local is not None:
            self._local.close()
        for connection in self._connections():
            connection.going_away(reason, self.engine.options.close_grace)
        await self.mcp.aclose()
        await self.engine.aclose(reason)

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Any) -> AsyncIterator[None]:
        """Prepare the engine, and close it when the application stops."""
        await self.engine.prepare()
        self._is_alive = True
        if self._home is None:
            self.watch.start()
            if self._local is not None:
                await self._local.start()
        try:
            yield
        finally:
            self._is_alive = False
            await self.aclose()
            if self._local is not None:
                await self._local.aclose()


class _WebSocketEndpoint:
    """A WebSocket endpoint as an ASGI application, which routers take as it is."""

    def __init__(self, server: HTTPEnvServer, only: type[RpcSocket] | None = None) -> None:
        self._server = server
        self._only = only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._server.websocket(scope, receive, send, self._only)


class UnknownPath:
    """The WebSocket endpoint of every path without one: refuses, with the paths there are."""

    def __init__(self, guard: Guard, known: Collection[str]) -> None:
        self._guard = guard
        self._known = known

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (await receive())["type"] != "websocket.connect":
            return
        try:
            self._guard.check(scope)
            raise no_such_path(route_path(scope), self._known)
        except OpenEnvError as exc:
            await _refuse(exc, scope, send)


def routes_in(mode: str, routes: Iterable[BaseRoute]) -> list[BaseRoute]:
    """Return those of a server's routes that a mode has.

    Args:
        mode: as ``HTTPEnvServer`` takes it, in any case; a member of an enumeration of texts may be
            given.
        routes: of a server.

    Raises:
        ValueError: there is no such mode.
    """
    text = str(getattr(mode, "value", mode)).lower()
    if text not in _MODES:
        raise ValueError(f"Invalid mode: {text!r:.80}. Must be one of: {list(_MODES)}")
    hidden = () if text == _MODES[0] else PLAYING_ROUTES
    return [route for route in routes if getattr(route, "path", None) not in hidden]


async def _refuse(error: OpenEnvError, scope: Scope, send: Send) -> None:
    """Turn a WebSocket away before it is accepted, with a status where the server can say one."""
    extensions = scope.get("extensions", {})
    if "websocket.http.response" not in extensions:
        code = 1008 if error.http_status < 500 else 1013
        await send({"type": "websocket.close", "code": code})
        return
    headers = [(b"content-type", MEDIA["plain"].encode())]
    if isinstance(error, Unauthorized):
        headers.append((b"www-authenticate", b"Bearer"))
    status = error.http_status
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    body = encode_body(error_body(error, error.message), "plain")
    await send({"type": "websocket.http.response.body", "body": body})
    if "openenv.refused" in extensions:
        extensions["openenv.refused"]()


def create_app(
    env: Any,
    action: Any = None,
    observation: Any = None,
    state: Any = None,
    *,
    params: Mapping[str, Any] | None = None,
    options: EngineOptions | None = None,
    name: str | None = None,
    token: str | None = None,
    admin_token: str | None = None,
    callers: Callers | None = None,
    allowed_origins: Collection[str] = (),
    allowed_hosts: Collection[str] = (),
    local: bool = True,
    agent_access: Collection[str] = (),
    agent_token: str | None = None,
    agent_idle_timeout: float | None = IDLE_TIMEOUT,
    drain_seconds: float = DRAIN_SECONDS,
    stateless_http: bool | None = None,
    mode: str | None = None,
    **upstream: Any,
) -> Starlette:
    """An ASGI application that serves ``env``; any ASGI server runs it.

    The arguments are those of ``HTTPEnvServer``, which is at ``app.state.openenv``.
    """
    server = HTTPEnvServer(
        env,
        action,
        observation,
        state,
        params=params,
        options=options,
        name=name,
        token=token,
        admin_token=admin_token,
        callers=callers,
        allowed_origins=allowed_origins,
        allowed_hosts=allowed_hosts,
        local=local,
        agent_access=agent_access,
        agent_token=agent_token,
        agent_idle_timeout=agent_idle_timeout,
        drain_seconds=drain_seconds,
        stateless_http=stateless_http,
        mode=mode,
        **upstream,
    )
    app = Starlette(routes=[*server.routes, *server.other_routes()], lifespan=server.lifespan)
    app.state.openenv = server
    return app
