"""Several environments behind one address, each below a path of its own name.

Rules:

- Below ``/NAME`` is all that a server of that environment alone has: sessions, schemas, MCP,
  counters. Nothing is shared but the process, its loop and the token.
- At the root are a list of the environments, the server's health, and what concerns all of them:
  draining, readiness, and their metrics with the environment as a label.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute

from openenv_async.engine import EngineOptions
from openenv_async.engine.callers import Caller
from openenv_async.errors import InvalidOption, OpenEnvError
from openenv_async.models import Format
from openenv_async.server.app import HTTPEnvServer, UnknownPath
from openenv_async.server.auth import PROBES, Guard, caller_of
from openenv_async.server.callers import Callers
from openenv_async.server.drain import DrainRoutes, checked_seconds
from openenv_async.server.http_headers import accepted_format, body_response, error_response
from openenv_async.server.metrics import prometheus_text, visible_to
from openenv_async.server.not_found import Elsewhere, wants_page
from openenv_async.server.page import IndexPage
from openenv_async.server.page.routes import PAGE_FILES, PATH_NAME
from openenv_async.server.reload import Reload, WantedEnvironment, reloaded
from openenv_async.server.transport import Scope
from openenv_async.spec import EnvironmentSpec
from openenv_async.types import Limits
from openenv_async.version import __version__

__all__ = ["SeveralServers", "create_app_of_several"]

_OWN: Final = frozenset(
    {
        *("health", "ready", "drain", "reload", "metrics", "metrics.json", "stats"),
        *("login", "logout", *PAGE_FILES),
    }
)
_HEALTH: Final = ("wedged", "degraded", "ok")
"""Healths, the worst first."""
Handler = Callable[[Request, Format], Awaitable[Any]]


class SeveralServers:
    """Servers as one: what runs and stops them takes this for a single one.

    Args:
        servers: by the name that is in their paths.
        guard: of the root.

    Attributes:
        reload: reads again what is served, where that is a file's to say.
        wanted: the environments as that file had them last.
        serve_another: routes to one more server, or to the one of a name no more.
        make: makes a server.

    Raises:
        InvalidOption: a name cannot be part of a path, or is one that the root has.
    """

    def __init__(self, servers: Mapping[str, HTTPEnvServer], guard: Guard) -> None:
        _check_names(servers)
        self.servers = dict(servers)
        self.guard = guard
        self.callers = guard.callers
        self.drain = _SeveralDrains(self.servers)
        self.reload: Reload | None = None
        self.wanted: dict[str, WantedEnvironment] = {}
        self.serve_another: Callable[[str, HTTPEnvServer | None], None] = _unrouted
        self.make: Callable[..., HTTPEnvServer] = HTTPEnvServer
        self._going: set[str] = set()
        self._stacks: dict[str, contextlib.AsyncExitStack] = {}
        self._removals: set[asyncio.Task[None]] = set()
        self._admitted = 0

    @property
    def sessions(self) -> int:
        """The number of sessions that live in all of them."""
        return sum(server.sessions for server in self.servers.values())

    def is_visited(self) -> bool:
        """Return whether a client is connected, or has asked since this was last called."""
        visits = [server.is_visited() for server in self.servers.values()]
        admitted, self._admitted = self._admitted, self.guard.admitted
        return any(visits) or admitted != self._admitted

    def hurry(self) -> None:
        """Let ``aclose`` wait no longer for environments to close; called in the server's loop."""
        for server in self.servers.values():
            server.hurry()

    async def aclose(self, reason: str = "shutdown") -> None:
        """Tell the clients and close every session of each."""
        await asyncio.gather(*(server.aclose(reason) for server in self.servers.values()))

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:
        """Prepare each, and close them when the application stops."""
        try:
            for name, server in self.servers.items():
                await self._begin(name, server)
            yield
        finally:
            if self.reload is not None:
                await self.reload.aclose()
            for task in self._removals:
                task.cancel()
            if self._removals:
                await asyncio.wait(self._removals)
            for name in [*self._stacks]:
                await self._stacks.pop(name).aclose()

    async def _begin(self, name: str, server: HTTPEnvServer) -> None:
        stack = self._stacks[name] = contextlib.AsyncExitStack()
        await stack.enter_async_context(server.lifespan(None))

    # -- as what a reload changes -----------------------------------------------------------------

    def served(self) -> Mapping[str, WantedEnvironment]:
        """Return the environments that do not go, as they were wanted last."""
        return {name: each for name, each in self.wanted.items() if name not in self._going}

    def check_names(self, names: Collection[str]) -> None:
        """Check names of new environments.

        Raises:
            InvalidOption: one cannot be part of a path, or is still draining.
        """
        _check_names(names)
        for name in names:
            if name in self.servers:
                raise InvalidOption(
                    f"the environment {name!r} that was removed still drains: reload again when"
                    f" GET /{name}/drain does not answer any more",
                    option="name",
                )

    async def add(
        self, name: str, wanted: WantedEnvironment, spec: EnvironmentSpec, options: EngineOptions
    ) -> None:
        """Serve one more."""
        server = self.make(name, spec, options)
        await self._begin(name, server)
        server.engine.labels = wanted.labels
        self.wanted[name], self.servers[name] = wanted, server
        self.serve_another(name, server)

    def change(self, name: str, wanted: WantedEnvironment) -> list[str]:
        """Serve one with other numbers; return the settings that need a new start."""
        engine, before = self.servers[name].engine, self.wanted[name]
        names = {*before.fixed, *wanted.fixed}
        needs = [key for key in names if before.fixed.get(key) != wanted.fixed.get(key)]
        options = wanted.options(engine.spec)
        if engine.options.workers and options.max_sessions > engine.options.max_sessions:
            needs.append("max_sessions")  # each worker was made for its share
            options = dataclasses.replace(options, max_sessions=engine.options.max_sessions)
        engine.change(options)
        engine.labels = wanted.labels
        self.wanted[name] = dataclasses.replace(wanted, fixed=before.fixed)
        return sorted(needs)

    def remove(self, name: str) -> None:
        """Let the episodes of one end, and serve it no more."""
        self._going.add(name)
        finished = asyncio.Event()
        self.servers[name].drain.begin(None, finished.set)
        task = asyncio.create_task(self._removed(name, finished), name="openenv-removal")
        self._removals.add(task)
        task.add_done_callback(self._removals.discard)

    async def _removed(self, name: str, finished: asyncio.Event) -> None:
        await finished.wait()  # the drain has a deadline
        self.serve_another(name, None)
        del self.servers[name], self.wanted[name]
        self._going.discard(name)
        await self._stacks.pop(name).aclose()

    def shut_sessions(self, caller: Caller, reason: OpenEnvError) -> None:
        """Close the sessions of a caller."""
        for server in self.servers.values():
            server.shut_sessions(caller, reason)

    def stats(self) -> dict[str, Any]:
        """Return the reading of each by its name, and the worst of their healths."""
        readings = {name: server.stats for name, server in self.servers.items()}
        worst = min((_HEALTH.index(each["health"]) for each in readings.values()), default=-1)
        return {"health": _HEALTH[worst], "environments": readings}


def _check_names(names: Iterable[str]) -> None:
    """Check names of environments.

    Raises:
        InvalidOption: one cannot be part of a path, or is one that the root has.
    """
    for name in names:
        if not PATH_NAME.fullmatch(name) or name in _OWN:
            raise InvalidOption(
                f"an environment cannot be served as {name!r:.80}: a name has letters, digits,"
                f" '_', '-' and '.', and is none of {', '.join(sorted(_OWN))}",
                option="name",
            )


def _unrouted(name: str, server: HTTPEnvServer | None) -> None:
    """Nothing routes to these servers."""


class _SeveralDrains:
    """The draining of several servers as one."""

    def __init__(self, servers: Mapping[str, HTTPEnvServer]) -> None:
        self._servers = servers

    def begin(
        self, seconds: float | None = None, finished: Callable[[], None] | None = None
    ) -> None:
        if seconds is not None:
            seconds = checked_seconds(seconds)  # before the first of them begins
        left = set(self._servers)

        def ended(name: str) -> None:
            left.discard(name)
            if not left and finished is not None:
                finished()

        for name, server in self._servers.items():
            server.drain.begin(seconds, functools.partial(ended, name))

    async def status(self) -> dict[str, Any]:
        found = [await server.drain.status() for server in self._servers.values()]
        return {
            "draining": all(each["draining"] for each in found),
            "finished": all(each["finished"] for each in found),
            "seconds": max((each["seconds"] or 0.0 for each in found), default=0.0),
            **{key: sum(each[key] for each in found) for key in ("lost", "playing", "sessions")},
        }


def create_app_of_several(
    envs: Mapping[str, EnvironmentSpec],
    options: Mapping[str, EngineOptions] | None = None,
    *,
    token: str | None = None,
    admin_token: str | None = None,
    callers: Callers | None = None,
    labels: Mapping[str, Mapping[str, str]] | None = None,
    allowed_origins: Collection[str] = (),
    allowed_hosts: Collection[str] = (),
    **server: Any,
) -> Starlette:
    """Return an ASGI application with several environments, each at ``/NAME``.

    Args:
        envs: by the name that is in their paths.
        options: of those that are not served with the usual ones.
        token, admin_token, callers: as of ``HTTPEnvServer``, for the root as well.
        labels: of their own in metrics, by the name of the environment.
        allowed_origins, allowed_hosts: likewise.
        server: more of its keyword arguments, the same for each.

    Raises:
        InvalidOption: a name cannot be part of a path.
    """
    callers = callers or Callers(token, admin_token)
    server |= {"allowed_origins": allowed_origins, "allowed_hosts": allowed_hosts}

    def make(name: str, env: EnvironmentSpec, options: EngineOptions | None) -> HTTPEnvServer:
        made = HTTPEnvServer(env, options=options, callers=callers, **server)
        made.guard.environment = name
        made.engine.labels = (labels or {}).get(name, {})
        return made

    servers = {name: make(name, env, (options or {}).get(name)) for name, env in envs.items()}
    guard = Guard(None, allowed_origins, allowed_hosts, callers=callers)
    several = SeveralServers(servers, guard)
    max_size = Limits().max_message_size
    drain = DrainRoutes(several.drain, max_size)

    async def health(request: Request, format: Format) -> Any:
        return {"status": "healthy"}

    async def reload(request: Request, format: Format) -> Any:
        return await reloaded(several.reload, request, format)

    async def stats(request: Request, format: Format) -> Any:
        told, caller = several.stats(), caller_of(request.scope)
        readings = told["environments"]
        return told | {"environments": {n: visible_to(caller, readings[n]) for n in readings}}

    async def metrics(request: Request, format: Format) -> Response:
        caller = caller_of(request.scope)
        told = several.stats()["environments"]
        readings: dict[str | None, Any] = {name: visible_to(caller, told[name]) for name in told}
        text, media = prometheus_text(readings)
        return Response(text, media_type=media)

    table: tuple[tuple[str, str, Handler], ...] = (
        ("GET", "/health", health),
        ("GET", "/ready", drain.ready),
        ("GET", "/drain", drain.get),
        ("POST", "/drain", drain.post),
        ("POST", "/reload", reload),
        ("GET", "/stats", stats),
        ("GET", "/metrics.json", stats),
        ("GET", "/metrics", metrics),
    )
    known = {path: method for method, path, _ in table}
    page = IndexPage(guard)
    index = functools.partial(_index, several.servers, page)
    elsewhere = Elsewhere(index, guard, known, page.login.form)
    paths = [*known]
    app = Starlette(
        routes=[
            *(
                Route(path, functools.partial(_answer, handler, check), methods=[method])
                for method, path, handler in table
                for check in (guard.check_probe if path in PROBES else guard.check,)
            ),
            *page.login.routes(),
            Route("/{path:path}", elsewhere, include_in_schema=False),
            WebSocketRoute("/{path:path}", UnknownPath(guard, paths)),
        ],
        lifespan=several.lifespan,
    )
    app.state.openenv = several

    def route(name: str, server: HTTPEnvServer | None) -> None:
        """Route to one more, or to one less."""
        routes, socket = app.router.routes, f"/{name}/ws"
        if server is None:
            routes[:] = [each for each in routes if getattr(each, "path", None) != f"/{name}"]
            paths.remove(socket)
            return
        below = Mount(f"/{name}", routes=[*server.routes, *server.other_routes("../")])
        front = Route(f"/{name}", functools.partial(_below, name), include_in_schema=False)
        routes[:0] = [below, front]
        paths.append(socket)

    for name, each in several.servers.items():
        route(name, each)
    several.serve_another, several.make = route, make
    return app


async def _answer(handler: Handler, check: Callable[[Scope], object], request: Request) -> Response:
    """Return a handler's body or error as a response."""
    format = accepted_format(request)
    try:
        check(request.scope)
        result = await handler(request, format)
    except OpenEnvError as exc:
        return error_response(request, exc, format)
    return result if isinstance(result, Response) else body_response(result, format)


async def _below(name: str, request: Request) -> Response:
    """Send a browser on to the front page of an environment."""
    return RedirectResponse(f"./{name}/")


def _index(servers: Mapping[str, HTTPEnvServer], page: IndexPage, request: Request) -> Response:
    """Return which environments are served: a page for browsers, JSON for everything else."""
    if wants_page(request):
        return page.response({name: (each.spec, each.engine) for name, each in servers.items()})
    told = {
        "server": f"openenv_async/{__version__}",
        "environments": {
            name: {
                "path": f"/{name}",
                "version": server.spec.version,
                "description": server.spec.description,
                "sessions": server.sessions,
                "max_sessions": server.engine.max_sessions,
            }
            for name, server in servers.items()
        },
    }
    return body_response(told, accepted_format(request))
