"""The routes of the page: the document, its static files, and the form that takes the token.

Rules:

- The document needs the token, as everything does; without one the form is shown in its place. The
  form, the style sheet and the script say nothing of the environment, and need none.
- A token comes by a form of the server's own page, and goes into a cookie without a path: the
  browser keeps it to the folder of the form's address, whatever prefix a proxy puts before it.
- With several environments the form of each sends to the root, so that one login is for all.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Final
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from openenv_async.engine import Engine
from openenv_async.errors import OpenEnvError, OriginRefused, Unauthorized
from openenv_async.schemas.refs import resolved
from openenv_async.server.auth import Guard, cookie_value, is_same_origin, page_cookie
from openenv_async.server.history import percentile
from openenv_async.server.http_headers import accepted_format, error_response, read_body
from openenv_async.server.page import html
from openenv_async.server.page.sessions import SessionRow, SessionViews
from openenv_async.server.page.words import about_of, fields_of
from openenv_async.spec import EnvironmentSpec
from openenv_async.version import __version__

__all__ = ["PAGE_FILES", "PATH_NAME", "IndexPage", "Login", "ServerPage"]

PATH_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
"""Names of environments that share a server."""
_MAX_FORM: Final = 16 * 1024
PAGE_FILES: Final = {
    "page.css": "text/css",
    "page.js": "text/javascript",
    "page.svg": "image/svg+xml",
}
"""Static files by name, with their types."""
_PHASES: Final = {"queue": "Queue", "env": "Environment", "serialize": "Codec"}
_MOST_ABOUT: Final = 160
_READ_ONLY: Final = (("observation", "Observation"), ("state", "State"))


class Login:
    """The form that takes a token, and the static files.

    Args:
        guard: who may see the page.
        title: of the form.
        root: the way from the page to the server's root, where the form is sent to.
    """

    def __init__(self, guard: Guard, title: str, root: str = "./") -> None:
        self._guard = guard
        self._title = title
        self.root = root

    def routes(self) -> list[Route]:
        """Return the routes, for an application that serves nothing else."""
        return [
            Route("/login", self._login, methods=["POST"], include_in_schema=False),
            Route("/logout", self._logout, methods=["POST"], include_in_schema=False),
            *(
                Route(f"/{name}", _static(name, media), include_in_schema=False)
                for name, media in PAGE_FILES.items()
            ),
        ]

    def form(self, request: Request, error: str | None = None) -> Response:
        """Return the form, with the reason why a token was refused."""
        path = str(request.scope.get("root_path", "")) if self.root != "./" else ""
        return self._form(path.rpartition("/")[2], error)

    def _form(self, below: str, error: str | None) -> Response:
        about = f"This server, openenv_async {__version__}, asks for a token."
        body = html.login_form(self._title, about, error, self.root, below)
        response = html.page_response(body, Unauthorized.http_status)
        response.headers["WWW-Authenticate"] = "Bearer"
        return response

    async def _login(self, request: Request) -> Response:
        headers = dict(request.scope["headers"])
        below = ""
        try:
            _check_form(headers)
            fields = parse_qs((await read_body(request, _MAX_FORM)).decode("latin-1"))
            token = fields.get("token", [""])[0].strip()
            below = fields.get("below", [""])[0]
            shown = [(b"authorization", f"Bearer {token}".encode())]
            kept = [pair for pair in request.scope["headers"] if pair[0] != b"authorization"]
            self._guard.check({**request.scope, "headers": [*kept, *shown]})
        except Unauthorized:
            return self._form(below, "This token is not valid here.")
        except OpenEnvError as exc:
            return error_response(request, exc, accepted_format(request))
        to = f"./{below}/" if PATH_NAME.fullmatch(below) else "./"
        response = RedirectResponse(to, 303)
        response.set_cookie(
            page_cookie(headers),
            cookie_value(token),
            path=None,
            secure=_is_secure(request),
            httponly=True,
            samesite="strict",
        )
        return response

    async def _logout(self, request: Request) -> Response:
        headers = dict(request.scope["headers"])
        try:
            _check_form(headers)
        except OpenEnvError as exc:
            return error_response(request, exc, accepted_format(request))
        response = RedirectResponse("./", 303)
        response.set_cookie(
            page_cookie(headers),
            "",
            max_age=0,
            path=None,
            secure=_is_secure(request),
            httponly=True,
            samesite="strict",
        )
        return response


def _check_form(headers: Mapping[bytes, bytes]) -> None:
    """Check that a form was sent by the server's own page.

    Raises:
        OriginRefused: another page's, or none.
    """
    if not is_same_origin(headers):
        raise OriginRefused(
            "this form must be sent by the server's own page: programs send the token"
            " as Authorization: Bearer TOKEN"
        )


def _is_secure(request: Request) -> bool:
    """Return whether the browser came by TLS, which a proxy may have ended."""
    return request.url.scheme == "https" or request.headers["origin"].startswith("https:")


def _static(name: str, media: str) -> Callable[[Request], Response]:
    content = files("openenv_async.server.page").joinpath("static", name).read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    headers = {
        "ETag": tag,
        "Cache-Control": "no-cache",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Content-Security-Policy": "default-src 'none'",
    }

    def answer(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=media, headers=headers)

    return answer


class ServerPage:
    """The page of one environment.

    Args:
        engine: what is shown.
        guard: who may see it.
        views: its live sessions.
        plays: whether the server has the routes that play.
        root: the way to the server's root: ``../`` where it serves several environments.

    Attributes:
        login: the form for those without a token.
    """

    def __init__(
        self,
        engine: Engine,
        guard: Guard,
        views: SessionViews,
        plays: bool = True,
        root: str = "./",
    ) -> None:
        self._engine = engine
        self._views = views
        self._guard = guard
        self._plays = plays
        self._root = root
        self.login = Login(guard, engine.spec.name, root)

    def response(self, routes: Mapping[str, tuple[str, str]], request: Request) -> Response:
        """Return the page.

        Args:
            routes: the method of each path, and a word on it.
            request: a browser's.
        """
        spec = self._engine.spec
        parts = [
            html.section("overview", "The environment", self._overview(request)),
            html.section("play", "Play by hand", self._play(request)),
            html.section("sessions", "Sessions", self._sessions(request)),
            html.section("metrics", "Metrics", self._metrics()),
            html.section("schemas", "Schemas", self._schemas()),
            html.section(
                "api",
                "Routes",
                f"<details><summary>All {len(routes)}</summary>{_routes(routes)}</details>",
            ),
        ]
        names = ("overview", "play", "sessions", "metrics", "schemas", "api")
        labels = ("Overview", "Play", "Sessions", "Metrics", "Schemas", "Routes")
        links = "".join(
            f'<a href="#{name}">{label}</a>' for name, label in zip(names, labels, strict=True)
        )
        up = "" if self._root == "./" else f'<a href="{self._root}" class="up">All environments</a>'
        out = "" if self._guard.open else html.logout_form(self._root)
        head = (
            f'<header class="top"><div class="bar"><h1>{html.text(spec.name)}'
            f" <small>{html.text(spec.version)}</small></h1>{up}{out}</div>"
            f'<nav aria-label="Sections">{links}</nav></header>'
        )
        body = f"{head}<main>{''.join(parts)}</main>{_footer()}"
        return html.page_response(html.document(spec.name, body, csrf=self._guard.csrf))

    def _overview(self, request: Request) -> str:
        engine, spec = self._engine, self._engine.spec
        cls = spec.cls
        parts = [html.paragraphs(spec.description)]
        timeouts, limits = engine.options.timeouts, engine.options.limits
        author = getattr(cls, "author", None)
        address = getattr(cls, "documentation_url", None)
        about = [
            *([("Author", html.text(author))] if author else ()),
            *([("Documentation", html.text(address))] if address else ()),
            ("Isolation", html.text(spec.contract.isolation)),
            ("Sessions at most", _number(engine.max_sessions)),
            ("Waiting at most", _number(engine.options.max_waiting)),
            ("A step may take", _seconds(timeouts.step)),
            ("A reset may take", _seconds(timeouts.reset)),
            ("Closed when idle for", _seconds(timeouts.idle)),
            ("A message at most", f"{limits.max_message_size / 2**20:g} MiB"),
        ]
        if spec.tasks is not None:
            splits = ", ".join(map(str, spec.tasks.splits))
            about.append(("Task splits", html.text(splits)))
        parts.append(html.facts(about))
        parts.append(f"<h3>Connect</h3>{_connect(_address(request))}")
        readme = getattr(cls, "readme_content", None)
        if isinstance(readme, str) and readme.strip():
            shown = html.text(readme.strip())
            parts.append(
                "<details><summary>README</summary>"
                f'<pre class="wrap" tabindex="0">{shown}</pre></details>'
            )
        return "".join(parts)

    def _play(self, request: Request) -> str:
        address = html.text(_address(request))
        if not self._plays:
            return '<p class="quiet">This server is in production mode, without routes to play.</p>'
        return (
            f'<noscript><p class="quiet">Playing on the page needs JavaScript. In a terminal:'
            f" <code>openenv-async play {address}</code></p></noscript>"
            '<div id="player"></div>'
        )

    def _sessions(self, request: Request) -> str:
        engine = self._engine
        count, rows = self._views.rows(request)
        waits = ""
        if engine.waiting:
            waits = f", the first for {engine.longest_wait:.1f} s"
        about = html.facts(
            [
                ("Live", f"{_number(engine.active)} of {engine.max_sessions:,}"),
                ("Waiting for capacity", f"{_number(engine.waiting)}{waits}"),
                ("Going away", html.text(engine.draining or "no")),
            ]
        )
        table = html.table(
            ("Session", "State", "Age", "Steps", "Reward", "Return", "Last error"),
            [_session_cells(row) for row in rows],
            name="Live sessions",
            empty="No session is open.",
        )
        more = (
            f"<p class='quiet'>The first {len(rows)} of {count:,}.</p>" if count > len(rows) else ""
        )
        return (
            f'<div id="live">{about}{table}{more}</div><noscript><p><a href="./#sessions">Refresh'
            "</a></p></noscript>"
        )

    def _metrics(self) -> str:
        engine = self._engine
        stats = engine.stats
        errors = sum(stats.errors.values())
        about = html.facts(
            [
                ("Up for", _duration(time.time() - engine.started_at)),
                ("Steps", _number(stats.steps)),
                ("Sessions opened", _number(stats.opened)),
                ("Errors", _number(errors)),
                ("Refused", _number(stats.refused)),
                ("Timeouts", _number(stats.timeouts)),
            ]
        )
        rows = []
        for phase, found in engine.timer.histograms.items():
            shown = [percentile(found.counts, quantile) for quantile in (0.5, 0.99)]
            cells = (
                "" if one is None else f'<span class="number">{_short(one)}</span>' for one in shown
            )
            rows.append((_PHASES[phase], *cells, _number(found.count)))
        latency = html.table(
            ("Part of a step", "Median", "99th percentile", "Steps timed"),
            rows,
            name="Latency by part of a step",
            empty="",
        )
        codes = html.table(
            ("Error", "Times"),
            [
                (f"<code>{html.text(code)}</code>", _number(times))
                for code, times in sorted(stats.errors.items(), key=lambda pair: -pair[1])
            ],
            name="Errors by code",
            empty="No request failed.",
        )
        return (
            f'{about}<div id="plots"></div><h3>Latency</h3>{latency}<h3>Errors</h3>{codes}'
            '<p><a href="./metrics">Prometheus</a> · <a href="./stats">JSON</a></p>'
        )

    def _schemas(self) -> str:
        schema = self._engine.spec.schema
        parts = []
        for kind, label in (("action", "Action"), *_READ_ONLY):
            about = html.paragraphs(about_of(schema[kind]))
            rows = html.field_table(fields_of(schema[kind]), f"Fields of {kind}")
            parts.append(f"<h3>{label}</h3>{about}{rows}")
        reset = resolved(schema["reset"], schema["reset"])
        rows = html.field_table(fields_of(reset), "Arguments of reset")
        parts.append(f"<h3>Reset</h3>{rows}")
        parts.append('<p>As JSON Schemas: <a href="./schema">schema</a></p>')
        return "".join(parts)


class IndexPage:
    """The page of a server of several environments.

    Args:
        guard: who may see it.

    Attributes:
        login: the form for those without a token.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self.login = Login(guard, "Environments")

    def response(self, environments: Mapping[str, tuple[EnvironmentSpec, Engine]]) -> Response:
        """Return the page: a row for each environment, with a link to its own."""
        rows = [
            (
                f'<a href="./{html.text(name)}/">{html.text(name)}</a>',
                html.text(spec.version),
                html.text(_first(spec.description)),
                f'<span class="number">{len(engine.sessions):,} of {engine.max_sessions:,}</span>',
                f'<span class="number">{engine.stats.steps:,}</span>',
            )
            for name, (spec, engine) in environments.items()
        ]
        heads = ("Name", "Version", "Description", "Sessions", "Steps")
        listing = html.table(heads, rows, name="Environments", empty="None is served.")
        title = f"{len(rows)} environments"
        out = "" if self._guard.open else html.logout_form("./")
        head = f'<header class="top"><div class="bar"><h1>{title}</h1>{out}</div></header>'
        about = '<p><a href="./">Refresh</a> · <a href="./metrics">Metrics of all</a></p>'
        body = f"{head}<main><section>{listing}{about}</section></main>{_footer()}"
        return html.page_response(html.document(title, body))


def _first(description: str) -> str:
    """Return the first sentences of a description."""
    first = " ".join(description.partition("\n\n")[0].split())
    return first if len(first) <= _MOST_ABOUT else f"{first[: _MOST_ABOUT - 1].rstrip()}…"


def _session_cells(row: SessionRow) -> tuple[str, ...]:
    """Return the cells of a session, as HTML; the script makes the same."""
    error = "" if row.error is None else f"<code>{html.text(row.error[0])}</code>"
    return (
        f"<code>{html.text(row.id[:8])}</code>",
        html.text(row.state if row.running is None else f"{row.state}, {row.running}"),
        _duration(row.age),
        "" if row.steps is None else _number(row.steps),
        "" if row.reward is None else f'<span class="number">{row.reward:g}</span>',
        "" if row.total is None else f'<span class="number">{row.total:g}</span>',
        error,
    )


def _footer() -> str:
    return f"<footer>openenv_async {html.text(__version__)}</footer>"


def _routes(routes: Mapping[str, tuple[str, str]]) -> str:
    rows = [
        (
            f"<code>{html.text(method)}</code>",
            f'<a href=".{path}">{path}</a>' if _is_link(path, method) else f"<code>{path}</code>",
            html.text(about),
        )
        for path, (method, about) in routes.items()
    ]
    return html.table(("Method", "Path", "Purpose"), rows, name="Routes", empty="None.")


def _is_link(path: str, method: str) -> bool:
    return "GET" in method and path not in ("/ws", "/mcp", "/state", "/share") and "{" not in path


def _address(request: Request) -> str:
    """Return the address of the server as far as it knows it; the script knows it better."""
    scope = request.scope
    host = request.headers.get("host") or "127.0.0.1:8000"
    root = str(scope.get("root_path", "")).rstrip("/")
    return f"{scope.get('scheme', 'http')}://{host}{root}"


def _connect(address: str) -> str:
    shown = html.text(address)
    python = html.text(
        "from openenv_async import GenericEnvClient\n\n"
        f'async with GenericEnvClient("{address}") as env:\n'
        "    result = await env.reset(seed=1)\n"
        "    result = await env.step(action)\n"
    )
    return (
        f'<pre tabindex="0" data-address="{shown}"><code>{python}</code></pre>'
        f'<pre tabindex="0" data-address="{shown}"><code>openenv-async play {shown}\n'
        f"openenv-async rollout {shown} --episodes 10</code></pre>"
    )


def _number(value: float) -> str:
    return f'<span class="number">{value:,}</span>'


def _duration(seconds: float) -> str:
    """Return a time in the two units that say most."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        said = f"{days} d {hours} h"
    elif hours:
        said = f"{hours} h {minutes} min"
    elif minutes:
        said = f"{minutes} min {rest} s"
    else:
        said = f"{seconds:.0f} s"
    return f'<span class="number">{said}</span>'


def _short(seconds: float) -> str:
    """Return the duration of a part of a step."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.3g} µs"
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _seconds(value: float | None) -> str:
    return "any time" if value is None else f'<span class="number">{value:g}</span> s'
