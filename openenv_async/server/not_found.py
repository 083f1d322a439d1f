"""Replies to paths without a route: the front page, and typed errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from openenv_async.errors import CallerError, OpenEnvError, TargetNotFound, Unauthorized
from openenv_async.server.auth import Guard
from openenv_async.server.http_headers import (
    accepted_format,
    body_response,
    error_body,
    error_response,
)
from openenv_async.server.transport import Receive, Scope, Send
from openenv_async.spec import EnvironmentSpec
from openenv_async.version import __version__

__all__ = [
    "Elsewhere",
    "front_page",
    "no_such_path",
    "route_path",
    "route_words",
    "wants_page",
]

_METHOD_NOT_ALLOWED: Final = 405
_UPGRADE_REQUIRED: Final = 426
_SOCKET: Final = "/ws"
_ABOUT: Final[dict[str, str]] = {
    "/ws": "WebSocket: openenv.v1, or upstream OpenEnv's dialect",
    "/mcp": "for agents: the environment as an MCP server",
    "/mcp/{session}": "the same, for one session",
    "/open": "open a session",
    "/reset": "begin an episode",
    "/step": "take a step",
    "/state": "the environment's state",
    "/share": "lend the session to agents",
    "/close": "close the session",
    "/sessions": "live sessions",
    "/sessions/{session}/follow": "the steps of one as they happen, as server-sent events",
    "/sessions/{session}/cancel": "cancel what one runs",
    "/sessions/{session}/close": "close one",
    "/history": "the last five minutes, a sample a second",
    "/schema": "JSON Schemas of actions, observations and state",
    "/metadata": "name, version and description",
    "/tasks": "splits of the environment's tasks",
    "/tasks/{split}": "tasks of a split, ?start=&stop=",
    "/list_environments": "upstream's Task API",
    "/{env}/splits": "the same: splits",
    "/{env}/tasks": "the same: tasks of a split",
    "/{env}/num_tasks": "the same: how many",
    "/{env}/task": "the same: one task",
    "/{env}/task_range": "the same: some tasks",
    "/health": "whether the server runs",
    "/ready": "whether new sessions may come",
    "/drain": "let episodes end, and begin none",
    "/reload": "read again what is served, and to whom",
    "/stats": "counters, as JSON",
    "/metrics.json": "the same",
    "/metrics": "counters, in Prometheus' format",
    "/openapi.json": "the HTTP routes, as OpenAPI",
    "/docs": "the same, as a page",
    "/redoc": "the same page",
}


def route_path(scope: Scope) -> str:
    """The path below the place where the application is mounted."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path.removeprefix(root) if path == root or path.startswith(f"{root}/") else path


def no_such_path(path: str, known: Iterable[str]) -> TargetNotFound:
    """The error of a path where nothing is."""
    hint = next((route for route in known if path.endswith(route)), None)
    remedy = ""
    if hint is not None:
        remedy = f": leave out {path.removesuffix(hint)[:100]} in the server's address"
    return TargetNotFound(
        f"no such path: {path:.200}; this server has {', '.join(known)}{remedy}", path=path[:200]
    )


class Elsewhere:
    """The application for every path without a route of its own.

    Args:
        front: makes the answer to ``GET /``.
        guard: who may ask.
        known: the method of each path, the WebSocket's ``GET`` included.
        form: makes the answer to a browser that asks for ``/`` without a token.
    """

    def __init__(
        self,
        front: Callable[[Request], Response],
        guard: Guard,
        known: Mapping[str, str],
        form: Callable[[Request], Response],
    ) -> None:
        self._front = front
        self._form = form
        self._guard = guard
        self._known = known

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        format = accepted_format(request)
        response: Response
        try:
            self._guard.check(scope)
            response = self._answer(request, route_path(scope))
        except OpenEnvError as exc:
            is_front = route_path(scope) in ("", "/") and request.method in ("GET", "HEAD")
            if isinstance(exc, Unauthorized) and is_front and wants_page(request):
                response = self._form(request)
            else:
                response = error_response(request, exc, format)
        await response(scope, receive, send)

    def _answer(self, request: Request, path: str) -> Response:
        known, method = self._known, request.method
        if path in ("", "/"):
            if method in ("GET", "HEAD"):
                return self._front(request)
            return self._wrong(
                request, _METHOD_NOT_ALLOWED, f"/ takes GET, not {method}", Allow="GET"
            )
        if path == _SOCKET:
            return self._wrong(
                request,
                _UPGRADE_REQUIRED,
                f"{path} takes WebSockets, and this request has no 'Upgrade: websocket' header: a"
                " proxy in between must pass the headers Upgrade and Connection on"
                " (nginx: proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade;"
                ' proxy_set_header Connection "upgrade";)',
                Upgrade="websocket",
                Connection="Upgrade",
            )
        if path in known:
            right = known[path]
            text = f"{path} takes {right}, not {method}"
            return self._wrong(request, _METHOD_NOT_ALLOWED, text, Allow=right)
        shorter = path.rstrip("/")
        if shorter in known:
            target = request.url.replace(path=request.url.path.rstrip("/"))
            return RedirectResponse(str(target))
        raise no_such_path(path, known)

    def _wrong(self, request: Request, status: int, text: str, **headers: str) -> Response:
        """An error of the caller with a status of its own."""
        error = CallerError(text)
        response = body_response(error_body(error, text), accepted_format(request), status)
        response.headers.update(headers)
        return response


def route_words(known: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return the methods of each path with a word on it."""
    return {path: (method, _ABOUT.get(path, "")) for path, method in known.items()}


def front_page(spec: EnvironmentSpec, known: Mapping[str, str], request: Request) -> Response:
    """Return what is served at an address, for every caller that is not a browser."""
    told: dict[str, Any] = {
        "environment": spec.name,
        "version": spec.version,
        "server": f"openenv_async/{__version__}",
        "routes": {
            path: f"{method} {about}".rstrip()
            for path, (method, about) in route_words(known).items()
        },
    }
    return body_response(told, accepted_format(request))


def wants_page(request: Request) -> bool:
    """Return whether a browser asks."""
    return "text/html" in request.headers.get("accept", "")
