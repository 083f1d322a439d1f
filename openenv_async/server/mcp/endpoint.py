"""The route ``/mcp``: Streamable HTTP of both generations, and upstream's dialect beside them.

Rules:

- A session is named by the address (``/mcp/HANDLE`` or ``?session=HANDLE``), the header
  ``X-OpenEnv-Session``, ``Mcp-Session-Id`` in revisions that have it, else by an argument of every
  tool.
- Agents may have a token of their own, which opens this protocol and not OpenEnv's dialect.
- A call that fails is a result that says so, for the model to read; a request that cannot be taken
  is an error of the protocol.
- A call that asks for progress and takes long is answered by a stream of events; all others are
  answered by JSON.
- In revisions without sessions a caller that disconnects has cancelled its call; in the older ones
  it says so by ``notifications/cancelled``, and a call whose caller is gone runs to its end.
- The token of a session that is lent plays it by its address, and opens nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from openenv_async.engine import Engine
from openenv_async.engine.callers import Caller
from openenv_async.errors import (
    EpisodeNotStarted,
    InvalidAction,
    InvalidModel,
    OpenEnvError,
    ProtocolError,
    SessionNotFound,
    UnreadableReply,
)
from openenv_async.protocol.json_rpc import (
    RpcCode,
    RpcFailure,
    checked,
    read_request,
    rpc_error,
)
from openenv_async.protocol.mcp import (
    LATEST_WITH_SESSIONS,
    REVISIONS,
    REVISIONS_WITH_SESSIONS,
    SESSION_ID_HEADER,
    McpCall,
    McpCode,
    accepts_events,
    is_mcp,
    page_of,
    read_call,
    status_of,
)
from openenv_async.server.auth import Grant, Guard, caller_of, refused_to
from openenv_async.server.home import HomeLoop
from openenv_async.server.http_headers import SESSION_HEADER, error_response, read_body
from openenv_async.server.http_sessions import disconnected
from openenv_async.server.mcp.content import failure_result, frame_result, state_result, tell
from openenv_async.server.mcp.offer import Naming, Offer
from openenv_async.server.mcp.sessions import (
    IDLE_TIMEOUT,
    AgentSession,
    AgentSessions,
    LentSession,
)
from openenv_async.server.transport import Receive, Scope, Send

__all__ = ["McpEndpoint"]

_PAGE: Final = 100
"""Tools of one page of the list."""
_PROGRESS_AFTER: Final = 0.5
"""Seconds after which a call that asked for progress is told of it."""
_PROGRESS_EVERY: Final = 1.0
_PING_EVERY: Final = 15.0
"""Seconds between two comments in a stream of events, which proxies would cut otherwise."""
_STREAM_HEADERS: Final = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]
_URI: Final = "openenv://session/observation"
_URI_OF: Final = "openenv://session/{session}/observation"
_METHODS: Final = ("POST", "GET", "DELETE")
_encode: Final = msgspec.json.Encoder(enc_hook=str).encode

Otherwise = Callable[[bytes, Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class _Caller:
    """The session of a request, how it was named, and whose token it showed."""

    naming: Naming
    session: AgentSession | None
    holder: Caller


class McpEndpoint:
    """The route as an ASGI application.

    Args:
        engine: what answers.
        guard: who may ask.
        access: what agents may see and set.
        home: the loop that a request must be carried to, if it is not the running one.
        otherwise: answers a ``POST`` that is not of this protocol.
        idle_timeout: seconds after which a session ends that nobody uses; ``None`` for no limit.

    Attributes:
        methods: of HTTP, that the route takes.
    """

    methods: Final = _METHODS

    def __init__(
        self,
        engine: Engine,
        guard: Guard,
        access: frozenset[str],
        home: Callable[[Scope], HomeLoop | None],
        otherwise: Otherwise,
        idle_timeout: float | None = IDLE_TIMEOUT,
    ) -> None:
        self.sessions: Final = AgentSessions(engine, idle_timeout)
        self._engine = engine
        self._guard = guard
        self._access = access
        self._home = home
        self._otherwise = otherwise
        self._offering: asyncio.Task[Offer] | None = None
        self._unwatched: set[asyncio.Task[Any]] = set()
        self._server = {"name": engine.spec.name, "version": engine.spec.version}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        home = self._home(scope)
        if home is None:
            await self._serve(scope, receive, send)
        else:
            await home.run(self._serve(scope, home.receiver(receive), home.sender(send)))

    async def aclose(self) -> None:
        """End the streams, and the calls that nobody waits for."""
        self.sessions.end_streams()
        left = {*self._unwatched} | ({self._offering} if self._offering else set())
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        response: Response | None
        try:
            lent = self.sessions.token_of(request.path_params.get("session"))
            grant = self._guard.admit(scope, lent)
            match request.method:
                case "POST":
                    response = await self._post(request, send, grant)
                case "DELETE":
                    response = self._delete(request, grant)
                case _:
                    response = await self._get(request, send)
        except RpcFailure as failure:
            response = _failure(failure, status_of(failure.code, is_stateless=True))
        except OpenEnvError as exc:
            response = error_response(request, exc, "plain")
        except ClientDisconnect:
            return
        if response is not None:
            self._engine.sent(len(response.body), caller_of(scope))
            with contextlib.suppress(OSError):
                await response(scope, receive, send)

    # -- requests ---------------------------------------------------------------------------------

    async def _post(self, request: Request, send: Send, grant: Grant) -> Response | None:
        limits = self._engine.options.limits
        body = await read_body(request, limits.max_message_size)
        self._engine.received(len(body), caller_of(request.scope))
        try:
            rpc = read_request(checked(body, limits.max_containers))
        except RpcFailure as failure:
            if not is_mcp(request.headers, None):
                return await self._other(body, request, grant)
            return _failure(failure, status_of(failure.code, is_stateless=True))
        if not is_mcp(request.headers, rpc.method):
            return await self._other(body, request, grant)
        call = read_call(rpc, request.headers)
        caller = self._caller(request, call)
        if call.id is None:
            if call.method == "notifications/cancelled" and caller.session is not None:
                number = call.scalar("requestId")
                if isinstance(number, str | int):
                    caller.session.cancel(number)
            return Response(status_code=202)
        try:
            if call.method == "tools/call":
                return await self._called(call, caller, request, send)
            return await self._asked(call, caller)
        except RpcFailure as failure:
            failure.request_id = call.id
            return _failure(failure, status_of(failure.code, call.is_stateless))

    async def _other(self, body: bytes, request: Request, grant: Grant) -> Response:
        """Answer a request of OpenEnv's dialect, which tells rewards.

        Raises:
            Unauthorized, AgentRefused: it showed a token of agents.
        """
        if grant is not Grant.ALL:
            raise refused_to(grant)
        return await self._otherwise(body, request)

    def _caller(self, request: Request, call: McpCall) -> _Caller:
        """The session that a request names.

        Raises:
            RpcFailure: it should name one.
            SessionNotFound: there is none of this name.
        """
        named, holder = _named(request), caller_of(request.scope)
        if named is not None:
            session = self.sessions.find(named, holder)
            return _Caller(Naming.HELD if session.is_lent else Naming.BY_REQUEST, session, holder)
        if call.is_stateless:
            return _Caller(Naming.BY_HANDLE, None, holder)
        handle = request.headers.get(SESSION_ID_HEADER)
        if handle is not None:
            return _Caller(Naming.BY_REQUEST, self.sessions.find(handle, holder), holder)
        if call.method in ("initialize", "ping"):
            return _Caller(Naming.BY_REQUEST, None, holder)
        if call.method == "server/discover":
            return _Caller(Naming.BY_HANDLE, None, holder)
        raise RpcFailure(
            RpcCode.INVALID_REQUEST,
            f"the header {SESSION_ID_HEADER} is missing: send the one that initialize gave",
            request_id=call.id,
        )

    def _delete(self, request: Request, grant: Grant) -> Response:
        if grant is Grant.LENT:
            raise refused_to(grant)
        handle = request.headers.get(SESSION_ID_HEADER)
        if handle is None:
            raise ProtocolError(f"the header {SESSION_ID_HEADER} names the session to end")
        session = self.sessions.find(handle, caller_of(request.scope))
        if session.is_lent and grant is Grant.AGENTS:
            raise refused_to(grant)  # it is its client's to take back
        session.close()
        return Response(status_code=200)

    async def _get(self, request: Request, send: Send) -> Response | None:
        """Hold a stream of events open, by which the server learns when its client is gone."""
        handle = _named(request) or request.headers.get(SESSION_ID_HEADER)
        if handle is None or not accepts_events(request.headers):
            return Response(status_code=405, headers={"allow": ", ".join(_METHODS)})
        session = self.sessions.find(handle, caller_of(request.scope))
        stream = session.streaming()
        gone = asyncio.create_task(disconnected(request))
        ending = asyncio.create_task(stream.wait())
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
            while not gone.done() and not stream.is_set():
                await _more(send, b": ping\r\n\r\n")
                await asyncio.wait(
                    [gone, ending], timeout=_PING_EVERY, return_when=asyncio.FIRST_COMPLETED
                )
            await send({"type": "http.response.body", "body": b""})
        except OSError:
            pass  # it is gone
        finally:
            session.stream_ended(stream)
            for task in (gone, ending):
                task.cancel()
            await asyncio.wait([gone, ending])
        return None

    # -- what is asked ----------------------------------------------------------------------------

    async def _asked(self, call: McpCall, caller: _Caller) -> Response:
        body: dict[str, Any]
        headers: dict[str, str] = {}
        match call.method:
            case "initialize":
                session = caller.session
                if session is None:
                    session = self.sessions.new(caller.holder)
                    headers[SESSION_ID_HEADER] = session.handle
                asked = call.scalar("protocolVersion")
                known = asked in REVISIONS_WITH_SESSIONS
                body = {"protocolVersion": asked if known else LATEST_WITH_SESSIONS}
                body |= {**self._about(), "serverInfo": self._server}
            case "server/discover":
                body = {"supportedVersions": [*REVISIONS], **self._about()}
            case "ping":
                body = {}
            case "tools/list":
                listed = (await self._offer()).listed(caller.naming)
                page = page_of(call, len(listed), _PAGE)
                body = {"tools": listed[page.start : page.stop]}
                if page.next_cursor is not None:
                    body["nextCursor"] = page.next_cursor
            case "resources/list":
                body = {"resources": []}
                if caller.naming is not Naming.BY_HANDLE:
                    body["resources"] = [{"uri": _URI, **_ABOUT_OBSERVATION}]
            case "resources/templates/list":
                body = {"resourceTemplates": []}
                if caller.naming is Naming.BY_HANDLE:
                    body["resourceTemplates"] = [{"uriTemplate": _URI_OF, **_ABOUT_OBSERVATION}]
            case "resources/read":
                body = self._resource(call, caller)
            case _:
                raise RpcFailure(
                    RpcCode.METHOD_NOT_FOUND, f"there is no method {call.method[:80]!r}"
                )
        return Response(
            _encode(call.result(body, self._server)),
            media_type="application/json",
            headers=headers,
        )

    def _about(self) -> dict[str, Any]:
        spec = self._engine.spec
        return {
            "capabilities": {"tools": {"listChanged": False}, "resources": {}},
            "instructions": (
                f"{spec.description}\n\nThis is an environment: each call of a tool is one step of"
                " an episode, until a result says that it is done."
            ),
        }

    async def _offer(self) -> Offer:
        """The tools, made once, in a thread: an author's code may take its time."""
        if self._offering is None or (
            self._offering.done()
            and (self._offering.cancelled() or self._offering.exception() is not None)
        ):
            making = asyncio.to_thread(Offer, self._engine.spec, self._access)
            self._offering = asyncio.create_task(making)
        return await asyncio.shield(self._offering)

    def _resource(self, call: McpCall, caller: _Caller) -> dict[str, Any]:
        """The last observation.

        Raises:
            RpcFailure: there is none of this address.
        """
        uri, session = call.text("uri"), caller.session
        if session is None:
            before, _, after = _URI_OF.partition("{session}")
            handle = uri.removeprefix(before).removesuffix(after)
            if uri == f"{before}{handle}{after}":
                with contextlib.suppress(SessionNotFound):
                    session = self.sessions.find(handle, caller.holder)
        elif uri != _URI:
            session = None
        if session is None or session.last is None:
            code = RpcCode.INVALID_PARAMS if call.is_stateless else McpCode.NOT_FOUND
            raise RpcFailure(code, f"there is no resource {uri[:200]!r}", {"uri": uri[:200]})
        return session.last.resource(uri)

    # -- calls ------------------------------------------------------------------------------------

    async def _called(
        self, call: McpCall, caller: _Caller, request: Request, send: Send
    ) -> Response | None:
        """Run a call, and answer it by JSON or a stream; ``None`` where that was done already."""
        work = asyncio.create_task(self._run(call, caller))
        gone = asyncio.create_task(disconnected(request))
        tells = call.progress_token is not None and accepts_events(request.headers)
        try:
            await asyncio.wait(
                [work, gone],
                timeout=_PROGRESS_AFTER if tells else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if work.done():
                return Response(_encode(work.result()), media_type="application/json")
            if not gone.done():
                await self._told(call, work, gone, send)
            if not work.done() and not call.is_stateless:
                self._unwatched.add(work)  # it runs to its end
                work.add_done_callback(self._finished)
            return None
        finally:
            gone.cancel()
            if not work.done() and work not in self._unwatched:
                work.cancel()
            await asyncio.wait([gone] if work in self._unwatched else [gone, work])

    def _finished(self, work: asyncio.Task[Any]) -> None:
        self._unwatched.discard(work)
        if not work.cancelled():
            work.exception()  # nobody is there to be told

    async def _told(
        self,
        call: McpCall,
        work: asyncio.Task[dict[str, Any]],
        gone: asyncio.Task[None],
        send: Send,
    ) -> None:
        """Tell of the progress of a call until it is over, then its result."""
        loop = asyncio.get_running_loop()
        began = loop.time() - _PROGRESS_AFTER
        with contextlib.suppress(OSError):
            await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
            while not work.done():
                params = {
                    "progressToken": call.progress_token,
                    "progress": round(loop.time() - began, 3),
                    "message": "seconds since the call began",
                }
                note = {"jsonrpc": "2.0", "method": "notifications/progress", "params": params}
                await _more(send, _event(note))
                await asyncio.wait(
                    [work, gone], timeout=_PROGRESS_EVERY, return_when=asyncio.FIRST_COMPLETED
                )
                if gone.done():
                    return
            await _more(send, _event(work.result()))
            await send({"type": "http.response.body", "body": b""})

    async def _run(self, call: McpCall, caller: _Caller) -> dict[str, Any]:
        """The response to a call of a tool; what goes wrong in it is told in the result."""
        try:
            return call.result(await self._use(call, caller), self._server)
        except RpcFailure as failure:
            failure.request_id = call.id
            return rpc_error(failure)
        except OpenEnvError as exc:
            return call.result(failure_result(exc.message), self._server)

    async def _use(self, call: McpCall, caller: _Caller) -> dict[str, Any]:
        """Use a tool.

        Raises:
            RpcFailure: there is no such tool.
            OpenEnvError: the call failed.
        """
        offer = await self._offer()
        name, arguments = call.text("name"), call.object("arguments")
        assert call.id is not None
        session, naming = caller.session, caller.naming
        if naming is Naming.BY_HANDLE:
            handle = arguments.pop(offer.handle, None)
            if handle is not None or name != offer.reset:
                named = handle if isinstance(handle, str) else ""
                session = self.sessions.find(named, caller.holder)
        if session is not None and session.is_lent and name in (offer.reset, offer.observe):
            if name == offer.observe:
                return self._seen(offer, session)
            raise UnreadableReply("the client that holds this session begins its episodes")
        if name == offer.reset and naming is not Naming.HELD:
            return await self._reset(offer, caller, session, arguments, call.id)
        assert session is not None
        tool = offer.tools.get(name)
        if tool is not None:
            try:
                payload = self._payload(tool.action(arguments))
                reply = await session.step(payload, call.id)
            except (InvalidAction, InvalidModel, UnreadableReply) as exc:
                session.refused(exc)
                raise
            session.last = tell(offer, reply, tool)
            return session.last.result()
        if name == offer.state and "state" in self._access:
            return state_result(offer, await session.state(call.id))
        if name == offer.render and offer.render_mode is not None:
            return frame_result(offer, await session.state(call.id))
        if name == offer.close and naming is Naming.BY_HANDLE:
            session.close()
            return {"content": [{"type": "text", "text": "The session is closed."}]}
        raise RpcFailure(RpcCode.INVALID_PARAMS, f"Unknown tool: {name[:80]}")

    def _seen(self, offer: Offer, session: AgentSession) -> dict[str, Any]:
        """The last observation of a session that is lent.

        Raises:
            EpisodeNotStarted: there is none.
        """
        assert isinstance(session, LentSession)
        reply = session.last_reply()
        if reply is not None:
            session.last = tell(offer, reply)
        if session.last is None:
            raise EpisodeNotStarted("no observation is kept: take a step", phase="step")
        return session.last.result()

    async def _reset(
        self,
        offer: Offer,
        caller: _Caller,
        session: AgentSession | None,
        arguments: dict[str, Any],
        call_id: str | int,
    ) -> dict[str, Any]:
        refused = offer.refused(arguments)
        if refused is not None:
            raise UnreadableReply(f"{offer.reset} takes no argument {refused[:80]!r}")
        seed = arguments.pop("seed", None)
        if self._needs_task(arguments):
            arguments |= await self.sessions.drawn_task()
        self.sessions.options = offer.session_options
        is_new = session is None
        if session is None:
            session = self.sessions.new(caller.holder)
        try:
            reply = await session.reset(seed, arguments, call_id)
            is_told = caller.naming is Naming.BY_HANDLE
            told = tell(offer, reply, handle=session.handle if is_told else None)
        except BaseException:
            if is_new:
                session.close()  # its caller never learns the handle
            raise
        session.last = told
        return told.result()

    def _needs_task(self, options: dict[str, Any]) -> bool:
        """Return whether an episode cannot begin without a task that the agent does not name."""
        spec = self._engine.spec
        if spec.tasks is None or spec.names_task(options):
            return False
        return any(
            parameter.default is parameter.empty and name not in options
            for name, parameter in spec.contract.reset_options.items()
        )

    def _payload(self, action: Any) -> bytes:
        """An action as the session takes it; one that is not of the type is for it to refuse."""
        spec = self._engine.spec
        plain = _encode(action)
        try:
            return spec.codec("action", "msgpack").encode(
                spec.codec("action", "plain").decode(plain)
            )
        except OpenEnvError:
            return spec.codec("any", "msgpack").encode(action)


_ABOUT_OBSERVATION: Final = {
    "name": "observation",
    "description": "the last observation of the episode, with its pictures",
    "mimeType": "application/json",
}


def _named(request: Request) -> str | None:
    """The handle in the address or the header, if there is one."""
    path: str | None = request.path_params.get("session")
    return path or request.query_params.get("session") or request.headers.get(SESSION_HEADER)


def _failure(failure: RpcFailure, status: int) -> Response:
    return Response(_encode(rpc_error(failure)), status, media_type="application/json")


def _event(message: dict[str, Any]) -> bytes:
    return b"event: message\r\ndata: " + _encode(message) + b"\r\n\r\n"


async def _more(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})
