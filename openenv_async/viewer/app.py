"""The server of the page: on this machine alone, behind a path that nobody guesses.

Rules:

- It listens on a loopback address. Other pages of the same browser can reach that too: a request
  needs the path's random token, and a ``Host`` that is a loopback address, so that no name of
  somebody else's points here.
- The page loads nothing from elsewhere, and no script that is not one of its files
  (``Content-Security-Policy``); what files say goes to it as data.
- Sources are read by threads, one at a time each; a task of the server's reads on what was not read
  to its end, and what requests ask of a source waits for at most half a second of that.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final, Self, TypeVar

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from openenv_async.deadlines import wait_uncancelled
from openenv_async.errors import InvalidOption
from openenv_async.viewer.page import STATIC, linked_page, static_file
from openenv_async.viewer.sources import EpisodeSource

__all__ = ["ViewerServer"]

T = TypeVar("T")

_HOST: Final = "127.0.0.1"
_READ_SECONDS: Final = 0.3
"""Seconds that a source is read for at once."""
_INTERVAL: Final = 1.0
"""Seconds between two looks at sources that were read to their ends."""
_MAX_TEXT: Final = 1_000
_HEADERS: Final = [
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
        b" img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]


class ViewerServer:
    """A server of the page; ``async with`` begins and ends it.

    Args:
        sources: that are shown.
        port: to listen on; 0: one that is free.

    Attributes:
        url: of the page, once it was entered.

    Raises:
        OSError: the port is taken.
    """

    def __init__(self, sources: Sequence[EpisodeSource], *, port: int = 0) -> None:
        self._sources = list(sources)
        self._locks = [asyncio.Lock() for _ in self._sources]
        self._token = secrets.token_urlsafe(18)
        self._socket = socket.socket()
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((_HOST, port))
        except OSError:
            self._socket.close()
            raise
        self.url = f"http://{_HOST}:{self._socket.getsockname()[1]}/{self._token}/"
        config = uvicorn.Config(
            _Guarded(self._app()), log_level="warning", lifespan="off", access_log=False, ws="none"
        )
        self._server = uvicorn.Server(config)
        self._tasks: list[asyncio.Task[Any]] = []

    async def __aenter__(self) -> Self:
        # The task of the server is ended by ``__aexit__``; signals are the caller's.
        self._tasks = [
            asyncio.create_task(self._serve(), name="viewer server"),
            asyncio.create_task(self._read(), name="viewer reader"),
        ]
        self._socket.listen()  # who connects before uvicorn accepts waits in the socket's queue
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.should_exit = True
        self._server.force_exit = True
        serving, reading = self._tasks
        reading.cancel()
        try:
            await wait_uncancelled(serving, reading)
        finally:
            self._socket.close()
        for task in self._tasks:
            if not task.cancelled():
                task.result()

    async def ended(self) -> None:
        """Wait until the server has ended, which it does by itself only when it fails."""
        await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)

    async def _serve(self) -> None:
        await self._server._serve([self._socket])  # without its handlers of signals

    async def _read(self) -> None:
        """Read what is new, as long as the server runs."""
        while True:
            for number in range(len(self._sources)):
                await self._of(number, lambda source: source.refresh(_READ_SECONDS))
            if all(source.is_current for source in self._sources):
                await asyncio.sleep(_INTERVAL)

    async def _of(self, number: int, call: Callable[[EpisodeSource], T]) -> T:
        """Call a function with a source, in a thread, when nobody else has that source."""
        async with self._locks[number]:
            return await asyncio.to_thread(call, self._sources[number])

    # -- routes -----------------------------------------------------------------------------------

    def _app(self) -> Starlette:
        prefix = f"/{self._token}"
        routes = [
            Route(f"{prefix}/", self._page),
            Route(f"{prefix}/static/{{name:path}}", self._static),
            Route(f"{prefix}/sources", self._described),
            Route(f"{prefix}/index/{{source:int}}", self._index),
            Route(f"{prefix}/record/{{source:int}}/{{row:int}}", self._record),
            Route(f"{prefix}/search/{{source:int}}", self._search),
        ]
        return Starlette(routes=routes)

    async def _page(self, request: Request) -> Response:
        return HTMLResponse(linked_page())

    async def _static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in STATIC:
            return PlainTextResponse("there is no such file", 404)
        return Response(static_file(name), media_type=STATIC[name])

    async def _described(self, request: Request) -> Response:
        found = [
            await self._of(number, EpisodeSource.described) for number in range(len(self._sources))
        ]
        return JSONResponse(found)

    async def _index(self, request: Request) -> Response:
        number = request.path_params["source"]
        if number >= len(self._sources):
            return PlainTextResponse("there is no such source", 404)
        epoch, first = _whole(request, "epoch", -1), _whole(request, "first", 0)
        known = {
            name: int(count)
            for name, _, count in (
                part.partition(":") for part in request.query_params.get("known", "").split(",")
            )
            if count.isdecimal()
        }
        octets = await self._of(number, lambda source: source.columns.packed(epoch, first, known))
        return Response(octets, media_type="application/octet-stream")

    async def _record(self, request: Request) -> Response:
        number, row = request.path_params["source"], request.path_params["row"]
        if number >= len(self._sources):
            return PlainTextResponse("there is no such source", 404)
        first = max(0, _whole(request, "first", 0))
        try:
            octets = await self._of(number, lambda source: source.record(row, first))
        except InvalidOption as exc:
            return PlainTextResponse(exc.message, 404)
        return Response(octets, media_type="application/json")

    async def _search(self, request: Request) -> Response:
        number = request.path_params["source"]
        text = request.query_params.get("text", "")
        if number >= len(self._sources) or not 0 < len(text) <= _MAX_TEXT:
            return PlainTextResponse("there is no such source, or no text", 404)
        found = await self._of(number, lambda source: source.search(text))
        return JSONResponse({"rows": found.rows, "whole": found.whole})


def _whole(request: Request, name: str, default: int) -> int:
    try:
        return int(request.query_params.get(name, default))
    except ValueError:
        return default


class _Guarded:
    """An application that answers hosts of this machine alone, with the page's headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *_HEADERS]}
            await send(message)

        host = dict(scope.get("headers", ())).get(b"host", b"").decode("latin-1")
        name = host.rpartition(":")[0] or host
        if name not in (_HOST, "localhost") or scope["method"] not in ("GET", "HEAD"):
            refused = PlainTextResponse("only this machine's browser may read it", 403)
            await refused(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)
