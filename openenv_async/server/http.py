"""The HTTP transport: upstream's routes, with an episode that lives across calls.

Rules:

- A session is named by the header ``X-OpenEnv-Session: <id>.<secret>`` or by a cookie whose name
  is the server's own, since two servers on one host share a client's cookies. ``/reset`` without
  one opens a session; ``/open`` does just that, also under an id that the client made, so that
  asking again is the same request.
- ``X-OpenEnv-Seq`` numbers the requests of a session: a repeated number gets the reply that was
  kept. Without it the next number is taken. Replies carry the highest number taken.
- ``X-OpenEnv-Timeout`` is the deadline in seconds, 0 for none.
- Every field of a reset's body but ``seed`` and ``episode_id`` is an option of the environment; the
  options may also stand in a map of their own, ``options``, if none of them has that name.
- A stateless server makes an environment for each ``/reset``, ``/step`` and ``/state`` that names
  no session, and closes it before the answer, as upstream does.
- ``Content-Type`` and ``Accept`` choose the format: JSON as upstream's, msgpack, or tagged JSON.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route

from openenv_async.engine import Engine, Session
from openenv_async.errors import (
    InvalidModel,
    InvalidOption,
    OpenEnvError,
    OperationCancelled,
    SessionClosed,
)
from openenv_async.models import Format
from openenv_async.models.observed import png
from openenv_async.protocol import frames
from openenv_async.protocol.upstream import (
    Fields,
    read_fields,
    read_reset,
    result_body,
    scalar,
    state_body,
)
from openenv_async.schemas.refs import resolved
from openenv_async.server.auth import PROBES, Guard, caller_of
from openenv_async.server.drain import Drain, DrainRoutes
from openenv_async.server.home import HomeLoop
from openenv_async.server.http_headers import (
    COOKIE,
    COOKIE_SCOPE,
    SEQ_HEADER,
    accepted_format,
    body_response,
    encode_body,
    error_response,
    forget,
    named,
    new_name,
    read_body,
    refuse_extra,
    request_timeout,
    richer,
    sent_format,
    session_name,
    step_timeout,
)
from openenv_async.server.http_sessions import NOBODY, HttpSessions
from openenv_async.server.mcp.sharing import Sharing
from openenv_async.server.metrics import LoopWatch, prometheus_text, read_stats, visible_to
from openenv_async.server.openapi import describe, page
from openenv_async.server.page.sessions import SessionViews
from openenv_async.server.tasks import TaskRoutes
from openenv_async.server.transport import Scope

__all__ = ["http_routes"]

_MODELS: Final = ("action", "observation", "state")
Handler = Callable[[Request], Awaitable[Response]]


def http_routes(
    engine: Engine,
    guard: Guard,
    watch: LoopWatch,
    drain: Drain,
    home: Callable[[Scope], HomeLoop | None],
    sharing: Sharing,
    views: SessionViews,
    reload: Callable[[Request, Format], Awaitable[Any]],
    stateless: bool = False,
) -> list[Route]:
    """The routes of one engine, for any Starlette or FastAPI router.

    Args:
        engine: what answers.
        guard: who may ask.
        watch: of the loop.
        drain: of the server.
        home: the loop that a request must be carried to, if it is not the running one.
        sharing: lends sessions to agents.
        views: shows live sessions.
        reload: reads again what is served.
        stateless: a call that names no session has an environment of its own.
    """
    calls = _SessionRoutes(engine, stateless)
    about = _DescriptionRoutes(engine, watch)
    draining = DrainRoutes(drain, engine.options.limits.max_message_size)
    tasks = TaskRoutes(engine, calls.fields)
    table: tuple[tuple[str, str, Callable[[Request, Format], Awaitable[Any]]], ...] = (
        ("POST", "/open", calls.open),
        ("POST", "/reset", calls.reset),
        ("POST", "/step", calls.step),
        ("POST", "/close", calls.close),
        ("GET", "/state", calls.state),
        ("GET", "/render", calls.render),
        ("POST", "/share", sharing.lend),
        ("GET", "/share", sharing.results),
        ("DELETE", "/share", sharing.take_back),
        ("GET", "/sessions", views.listing),
        ("GET", "/sessions/{session}/follow", views.follow),
        ("POST", "/sessions/{session}/cancel", views.cancel),
        ("POST", "/sessions/{session}/close", views.close),
        ("GET", "/history", views.history),
        ("GET", "/schema", about.schema),
        ("GET", "/metadata", about.metadata),
        ("GET", "/tasks", tasks.splits),
        ("GET", "/tasks/{split:path}", tasks.page),
        ("GET", "/health", about.health),
        ("GET", "/ready", draining.ready),
        ("GET", "/drain", draining.get),
        ("POST", "/drain", draining.post),
        ("POST", "/reload", reload),
        ("GET", "/stats", about.stats),
        ("GET", "/metrics.json", about.stats),
        ("GET", "/metrics", about.metrics),
        ("GET", "/openapi.json", about.openapi),
        ("GET", "/docs", about.page),
        ("GET", "/redoc", about.page),
        ("GET", "/list_environments", tasks.environments),
        ("GET", "/{env}/splits", tasks.upstream_splits),
        ("POST", "/{env}/tasks", tasks.upstream_tasks),
        ("POST", "/{env}/num_tasks", tasks.upstream_count),
        ("POST", "/{env}/task", tasks.upstream_task),
        ("POST", "/{env}/task_range", tasks.upstream_range),
    )
    return [
        Route(
            path,
            _carried(
                _endpoint(handler, guard.check_probe if path in PROBES else guard.check, engine),
                home,
            ),
            methods=[method],
            name=path[1:],
        )
        for method, path, handler in table
    ]


def _carried(endpoint: Handler, home: Callable[[Scope], HomeLoop | None]) -> Handler:
    """An endpoint that runs in the engine's loop, wherever it is called."""

    async def carried(request: Request) -> Response:
        loop = home(request.scope)
        if loop is None:
            return await endpoint(request)
        there = Request(request.scope, loop.receiver(request.receive))
        return await loop.run(endpoint(there))

    return carried


def _endpoint(
    handler: Callable[[Request, Format], Awaitable[Any]],
    check: Callable[[Scope], object],
    engine: Engine,
) -> Handler:
    """A handler's body or error as a response.

    Args:
        handler: gives the body.
        check: refuses who may not ask.
        engine: of the server.
    """
    cookie = f"{COOKIE}_{engine.epoch[:8]}"

    async def endpoint(request: Request) -> Response:
        request.scope[COOKIE_SCOPE] = cookie
        format = accepted_format(request)
        try:
            check(request.scope)
            result = await handler(request, format)
            response = result if isinstance(result, Response) else body_response(result, format)
        except OpenEnvError as exc:
            response = error_response(request, exc, format)
        except ClientDisconnect:
            return Response(status_code=OperationCancelled.http_status)  # nobody reads it
        session: Session | None = getattr(request.state, "session", None)
        if session is not None:
            response.headers[SEQ_HEADER] = str(session.log.taken)
        if not isinstance(response, StreamingResponse):
            engine.sent(len(response.body), caller_of(request.scope))
        return response

    return endpoint


class _SessionRoutes:
    """The handlers that need a session. Each gives a body for the accepted format."""

    def __init__(self, engine: Engine, stateless: bool) -> None:
        self._engine = engine
        self._stateless = stateless
        self._sessions = HttpSessions(engine)

    async def open(self, request: Request, format: Format) -> Response:
        sent = sent_format(request)
        fields = await self.fields(request, sent)
        resume = scalar(fields, "resume", sent)
        options = fields.pop("options", None)
        refuse_extra(fields)
        name = session_name(request) or new_name()
        payload = (
            None
            if options is None
            else self._sessions.payload("any", bytes(options), sent, "msgpack")
        )
        session, opened = await self._sessions.open(
            name, "msgpack", payload, resume is True, request
        )
        body = {
            "session": ".".join(name),
            "resumed": opened.resumed,
            "seq": opened.seq,
            "epoch": self._engine.epoch,
        }
        if "timeout" in self._engine.spec.contract.reset_options:
            body["reset_options"] = ["timeout"]  # which is an argument of clients as well
        return named(body_response(body, format), request, session)

    async def reset(self, request: Request, format: Format) -> Response:
        sent = sent_format(request)
        fields = await self.fields(request, sent)
        seed, episode_id, options = read_reset(fields, sent)
        options = self._all_options(options, sent)
        once = self._is_once(request)
        if once:
            for unknown in self._engine.spec.unknown_options(options):
                del options[unknown]  # as upstream does
        payload = encode_body(options, sent) if options else None
        timeout = request_timeout(request)

        def frame(seq: int, ack: int, wire: Format) -> frames.Request:
            data = None if payload is None else self._sessions.payload("any", payload, sent, wire)
            return frames.Reset(0, seq, ack, data, seed, episode_id, timeout)

        if once:
            reply = await self._once(request, frame, sent, format)
            assert isinstance(reply, frames.Begun)
            return body_response(result_body(reply, format), format)
        name = session_name(request)
        if name is None:
            wire = richer(sent, format)
            session, _ = await self._sessions.open(new_name(), wire, None, False, request)
        else:
            session = self._sessions.find(request, name)
        try:
            reply = await self._sessions.call(session, request, frame, sent, format)
        except OpenEnvError as exc:
            # The session exists all the same: let the caller keep it.
            return named(error_response(request, exc, format), request, session)
        except (ClientDisconnect, asyncio.CancelledError):
            if name is None:
                session.shut(SessionClosed(NOBODY))
            raise
        assert isinstance(reply, frames.Begun)
        return named(body_response(result_body(reply, format), format), request, session)

    async def _once(
        self,
        request: Request,
        frame: Callable[[int, int, Format], frames.Request],
        sent: Format,
        format: Format,
    ) -> frames.Frame:
        """Call an environment that is made for it."""
        async with self._sessions.for_one_call(request, richer(sent, format)) as session:
            return await self._sessions.call(
                session, request, frame, sent, format, is_upstream=True
            )

    def _is_once(self, request: Request) -> bool:
        return self._stateless and session_name(request) is None

    def _all_options(self, options: Fields, sent: Format) -> Fields:
        """A reset's options, those in the map ``options`` among them.

        Raises:
            InvalidOption: one is in both places.
        """
        if "options" not in self._engine.spec.unknown_options(options):
            return options  # there is none, or the environment has an option of this name
        nested = read_fields(bytes(options.pop("options")), sent)
        for name in nested:
            if name in options:
                raise InvalidOption(
                    f"the option {name!r:.80} is in the body twice, beside 'options' and in it:"
                    " send it once",
                    option=name,
                )
        return {**options, **nested}

    async def step(self, request: Request, format: Format) -> Any:
        sent = sent_format(request)
        fields = await self.fields(request, sent)
        action = fields.pop("action", None)
        timeout = step_timeout(fields, sent)
        scalar(fields, "request_id", sent)  # upstream's; ours is the header
        if action is None:
            raise InvalidModel("Field required: action", type="missing", loc=["body", "action"])
        once = self._is_once(request)
        if not once:  # upstream takes more, for environments whose step() does
            refuse_extra(fields)
        seconds = request_timeout(request) if timeout is None else timeout
        payload = bytes(action)

        def frame(seq: int, ack: int, wire: Format) -> frames.Request:
            data = self._sessions.payload("action", payload, sent, wire)
            return frames.Step(0, seq, ack, data, seconds)

        if once:
            reply = await self._once(request, frame, sent, format)
        else:
            session = self._sessions.named(request, "step")
            reply = await self._sessions.call(session, request, frame, sent, format)
        assert isinstance(reply, frames.Observation)
        return result_body(reply, format)

    async def state(self, request: Request, format: Format) -> Any:
        return state_body(await self._state(request, format, render=False), format)

    async def render(self, request: Request, format: Format) -> Any:
        """The picture of a session as a body; as a PNG where that is accepted, a text as text."""
        if "image/png" not in request.headers.get("accept", ""):
            return state_body(await self._state(request, format, render=True), format)
        reply = await self._state(request, "msgpack", render=True)
        picture = self._engine.spec.codec("any", "msgpack").decode(reply.payload)
        no_store = {"cache-control": "no-store"}
        if isinstance(picture, str):
            return Response(picture, media_type="text/plain", headers=no_store)
        body = await asyncio.to_thread(png, picture)
        return Response(body, media_type="image/png", headers=no_store)

    async def _state(self, request: Request, format: Format, *, render: bool) -> frames.StateIs:
        timeout = request_timeout(request)

        def frame(seq: int, ack: int, _: Format) -> frames.Request:
            return frames.State(0, seq, ack, timeout, render)

        if self._is_once(request) and not render:
            reply = await self._once(request, frame, format, format)
        else:
            session = self._sessions.named(request, "render" if render else "state")
            reply = await self._sessions.call(session, request, frame, format, format)
        assert isinstance(reply, frames.StateIs)
        return reply

    async def close(self, request: Request, format: Format) -> Response:
        sent = sent_format(request)
        refuse_extra(await self.fields(request, sent))
        session = self._sessions.named(request, "close")
        timeout = request_timeout(request)
        await self._sessions.call(
            session,
            request,
            lambda seq, ack, _: frames.Close(0, seq, ack, timeout),
            sent,
            format,
        )
        response = body_response({"status": "closed"}, format)
        forget(response, request)
        return response

    async def fields(self, request: Request, sent: Format) -> Fields:
        """The top level of the body."""
        limit = self._engine.options.limits.max_containers
        return read_fields(await self._read(request), sent, limit)

    async def _read(self, request: Request) -> bytes:
        body = await read_body(request, self._engine.options.limits.max_message_size)
        self._engine.received(len(body), caller_of(request.scope))
        return body


class _DescriptionRoutes:
    """The handlers, over one engine. Each gives a body for the accepted format."""

    def __init__(self, engine: Engine, watch: LoopWatch) -> None:
        self._engine = engine
        self._watch = watch

    async def schema(self, request: Request, format: Format) -> Any:
        """The schemas, those of models as plain objects, which upstream's callers look into."""
        made = self._engine.spec.schema
        told = {kind: resolved(made[kind], made[kind]) for kind in _MODELS}
        return {**made, **told, "reset_observation": told["observation"]}

    async def metadata(self, request: Request, format: Format) -> Any:
        spec = self._engine.spec
        optional = ("readme_content", "author", "documentation_url")
        return {
            "name": spec.name,
            "description": spec.description,
            "version": spec.version,
            **({} if spec.tasks is None else {"splits": [*spec.tasks.splits]}),
            **{key: getattr(spec.cls, key, None) for key in optional},
        }

    async def health(self, request: Request, format: Format) -> Any:
        return {"status": "healthy"}

    async def openapi(self, request: Request, format: Format) -> Any:
        return describe(self._engine.spec)

    async def page(self, request: Request, format: Format) -> Response:
        return HTMLResponse(page(self._engine.spec))

    async def stats(self, request: Request, format: Format) -> Any:
        return visible_to(caller_of(request.scope), self._stats())

    async def metrics(self, request: Request, format: Format) -> Response:
        told = visible_to(caller_of(request.scope), self._stats())
        text, media = prometheus_text({None: told})
        return Response(text, media_type=media)

    def _stats(self) -> dict[str, Any]:
        self._watch.start()
        return read_stats(self._engine, self._watch)
