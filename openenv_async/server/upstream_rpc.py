"""Upstream's MCP: JSON-RPC over ``POST /mcp``, a WebSocket at ``/mcp`` and messages on ``/ws``.

Rules:

- The methods are ``openenv/session/create`` and ``close``, ``tools/list`` and ``tools/call``.
- A session is named by a handle, which is as hard to guess as its id and secret, since it is these.
  It counts to capacity and ends with ``Timeouts.idle``. A call over HTTP that names none has a new
  environment, closed before the answer.
- Over a socket every call is of the socket's own session.
- A call of a tool is a step: an action that the tool makes of its arguments, or, where the action
  has the fields ``tool_name`` and ``arguments`` and the environment declares no tools, OpenEnv's
  ``CallToolAction``. Such an environment also lists its tools by a step.
- Steps need no episode here, as everywhere in upstream's dialect.
- Each answer has the status 200; what went wrong is an error of JSON-RPC.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from openenv_async.engine import Engine, Session
from openenv_async.engine.callers import Caller
from openenv_async.errors import InvalidAction, OpenEnvError, SessionBusy, UnreadableReply
from openenv_async.hosts import LISTS_TOOLS
from openenv_async.models import Format
from openenv_async.protocol import frames
from openenv_async.protocol.json_rpc import (
    RpcCode,
    RpcFailure,
    RpcRequest,
    checked,
    decoded,
    read_request,
    rpc_error,
    rpc_result,
)
from openenv_async.protocol.upstream import refusal_of
from openenv_async.schemas.tools import ONE_TOOL, called_by_name
from openenv_async.server.auth import caller_of
from openenv_async.server.http_headers import body_response, new_name, request_timeout
from openenv_async.server.http_sessions import HttpReplySink, HttpSessions
from openenv_async.spec import EnvironmentSpec
from openenv_async.types import Tool

__all__ = ["RpcPeer", "UpstreamRpc", "handle_of"]

MakeFrame = Callable[[int, int, Format], frames.Request]

_HANDLE: Final = re.compile(r"([0-9a-f]{32})\.([0-9a-f]{32})")
_NO_MCP: Final = "Environment does not support MCP"
_encode: Final = msgspec.json.Encoder(enc_hook=str).encode
_decode: Final = msgspec.json.Decoder().decode


def handle_of(session: Session) -> str:
    """The name under which clients of upstream's dialect call a session."""
    return f"{session.id}.{session.secret}"


class RpcPeer(Protocol):
    """The sender of a request.

    Attributes:
        own: the session of its socket; ``None`` over HTTP.
        caller: who sent it.
    """

    own: Session | None
    caller: Caller

    async def call(self, session: Session, frame: MakeFrame) -> frames.Frame:
        """Run one request of a session.

        Raises:
            OpenEnvError: it failed.
        """
        ...


class _HttpPeer:
    """The sender of one ``POST``."""

    def __init__(self, sessions: HttpSessions, request: Request) -> None:
        self.own: Session | None = None
        self.request: Final = request
        self.caller = caller_of(request.scope)
        self._sessions = sessions

    async def call(self, session: Session, frame: MakeFrame) -> frames.Frame:
        return await self._sessions.call_in_turn(session, self.request, frame)


class UpstreamRpc:
    """The methods, over one engine."""

    def __init__(self, engine: Engine, sessions: HttpSessions) -> None:
        self._engine = engine
        self._sessions = sessions
        self._known: Mapping[str, Tool] | None = None
        self._is_read = False
        self._reading = asyncio.Lock()

    async def answer(self, body: bytes, request: Request) -> dict[str, Any]:
        """The response to the body of a ``POST``."""
        return await self.respond(body, _HttpPeer(self._sessions, request))

    async def response(self, body: bytes, request: Request) -> Response:
        """The same, as HTTP has it."""
        return body_response(await self.answer(body, request), "plain")

    async def respond(self, message: bytes | str | None, peer: RpcPeer) -> dict[str, Any]:
        """The response to one request; ``None`` stands for a binary message of a socket."""
        number: str | int | None = None
        try:
            rpc = read_request(checked(message, self._engine.options.limits.max_containers))
            number = rpc.id
            return rpc_result(number, await self._run(rpc, peer))
        except RpcFailure as failure:
            failure.request_id = failure.request_id or number
            return rpc_error(failure)
        except OpenEnvError as exc:
            return rpc_error(failure_of(exc, number))

    def find(self, handle: str, caller: Caller) -> Session:
        """The session of a handle, for a caller who may see it.

        Raises:
            SessionBusy: its environment is still being built.
            OpenEnvError: there is none, or it is being closed.
        """
        match = _HANDLE.fullmatch(handle)
        name, secret = match.groups() if match else ("", "")
        session = self._engine.find(name, secret, caller)
        if isinstance(session.current, frames.Open):
            raise SessionBusy("the session is still initializing; retry shortly")
        return session

    def sink_of(self, session: Session) -> HttpReplySink:
        """The sink that the session's socket shares with HTTP.

        Raises:
            SessionBusy: it is used over another connection.
        """
        return self._sessions.sink_of(session, "plain")

    async def step(self, payload: bytes, peer: RpcPeer) -> frames.Observation | None:
        """The observation of a step whose action is upstream's for tools; ``None`` for another.

        Raises:
            OpenEnvError: the step failed, and not because of the arguments.
        """
        tools = await self._tools()
        if tools is None:
            return None  # they are the environment's own actions
        try:
            action = _decode(payload)
        except (msgspec.MsgspecError, ValueError):
            return None  # the session refuses it
        match action.get("type"):
            case "list_tools":
                listed = [described(tool) for tool in tools.values()]
                return _observed({"tools": listed})
            case "call_tool":
                return await self._called(tools, action, peer)
        return None

    async def _called(
        self, tools: Mapping[str, Tool], action: Mapping[str, Any], peer: RpcPeer
    ) -> frames.Observation:
        name, arguments = action.get("tool_name"), action.get("arguments", {})
        told: dict[str, Any] = {"tool_name": name, "result": None, "error": None}

        def refused(kind: str, message: str) -> frames.Observation:
            return _observed({**told, "error": {"error_type": kind, "message": message}})

        tool = tools.get(name) if isinstance(name, str) else None
        if tool is None:
            return refused("tool_not_found", f"Unknown tool: {name!r:.100}")
        if not isinstance(arguments, dict):
            return refused("invalid_args", "the arguments must be an object")
        assert peer.own is not None
        try:
            reply = await self._reply(peer.own, peer, tool.action(arguments))
        except UnreadableReply as exc:
            return refused("invalid_args", str(exc))
        except InvalidAction as exc:
            return refused("invalid_args", exc.message)
        told["result"] = call_result(tool.told(_decode(reply.payload)))
        return msgspec.structs.replace(reply, payload=_encode(told))

    async def _tools(self) -> Mapping[str, Tool] | None:
        """The environment's tools; ``None`` where it says by a step which it has."""
        if not self._is_read:
            async with self._reading:  # an author's code may take its time: one thread has it
                if not self._is_read:
                    self._known = await asyncio.to_thread(_tools_of, self._engine.spec)
                    self._is_read = True
        return self._known

    # -- the methods --------------------------------------------------------------------------

    async def _run(self, rpc: RpcRequest, peer: RpcPeer) -> Any:
        match rpc.method:
            case "openenv/session/create":
                return {"session_id": await self._create(peer)}
            case "openenv/session/close":
                return await self._close(rpc, peer)
        session = peer.own
        if session is None and "session_id" in rpc.params:
            session = self._named(rpc, peer)
        match rpc.method:
            case "tools/list":
                return {"tools": await self._list(session, peer)}
            case "tools/call":
                return await self._call(rpc, session, peer)
        raise RpcFailure(RpcCode.METHOD_NOT_FOUND, f"Method not found: {rpc.method:.100}")

    async def _create(self, peer: RpcPeer) -> str:
        session = peer.own
        if session is None:
            assert isinstance(peer, _HttpPeer)
            session, _ = await self._sessions.open(
                new_name(), "plain", None, False, peer.request, lenient=True
            )
            peer.request.state.session = None  # upstream's clients know it by the handle alone
        return handle_of(session)

    async def _close(self, rpc: RpcRequest, peer: RpcPeer) -> dict[str, Any]:
        handle = rpc.text("session_id")
        if not handle:
            raise RpcFailure(RpcCode.INVALID_PARAMS, "Invalid params - 'session_id' is required")
        session = self._named(rpc, peer)
        if session is peer.own:
            raise RpcFailure(
                RpcCode.INVALID_REQUEST,
                "Cannot close active WebSocket-managed session via MCP method: close the socket",
            )
        sink = session.sink
        if isinstance(sink, HttpReplySink) and sink.on_end is not None:
            sink.closes = True
            return {"session_id": handle, "closed": False, "closing": True}
        await self._closed(session, peer)
        return {"session_id": handle, "closed": True}

    async def _closed(self, session: Session, peer: RpcPeer) -> None:
        """Close a session, what runs on it included."""
        make: MakeFrame = lambda seq, ack, _: frames.Close(0, seq, ack)  # noqa: E731
        if isinstance(peer, _HttpPeer):  # it waits for no turn: it stops what runs
            await self._sessions.call(
                session, peer.request, make, "plain", "plain", is_upstream=True
            )
        else:
            await peer.call(session, make)

    def _named(self, rpc: RpcRequest, peer: RpcPeer) -> Session:
        """The session that a request names.

        Raises:
            RpcFailure: there is none.
        """
        handle = rpc.text("session_id") or ""
        try:
            return self.find(handle, peer.caller)
        except SessionBusy as exc:
            raise RpcFailure(RpcCode.INVALID_REQUEST, exc.message) from None
        except OpenEnvError:
            shown = handle.partition(".")[0][:40]
            raise RpcFailure(RpcCode.INVALID_PARAMS, f"Unknown session_id: {shown}") from None

    async def _list(self, session: Session | None, peer: RpcPeer) -> list[dict[str, Any]]:
        tools = await self._tools()
        if tools is not None:
            return [described(tool) for tool in tools.values()]
        observation = await self._step(session, peer, {"type": "list_tools"})
        listed = observation.get("tools") if isinstance(observation, dict) else None
        if not isinstance(listed, list):
            raise RpcFailure(RpcCode.INTERNAL_ERROR, _NO_MCP)
        return [
            {"inputSchema": tool.get("input_schema", {}), **tool}
            for tool in listed
            if isinstance(tool, dict)
        ]

    async def _call(self, rpc: RpcRequest, session: Session | None, peer: RpcPeer) -> Any:
        name = rpc.text("name")
        if not name:
            raise RpcFailure(RpcCode.INVALID_PARAMS, "Missing 'name' in params")
        arguments = decoded(rpc.params.get("arguments", msgspec.Raw(b"{}")))
        if not isinstance(arguments, dict):
            raise RpcFailure(RpcCode.INVALID_PARAMS, "'arguments' must be an object")
        tools = await self._tools()
        if tools is None:
            action = {"type": "call_tool", "tool_name": name, "arguments": arguments}
            return _result(await self._step(session, peer, action))
        tool = tools.get(name)
        if tool is None:
            raise RpcFailure(RpcCode.INTERNAL_ERROR, f"Unknown tool: {name!r:.100}")
        try:
            action = tool.action(arguments)
        except UnreadableReply as exc:
            raise RpcFailure(RpcCode.INTERNAL_ERROR, str(exc)) from None
        return call_result(tool.told(await self._step(session, peer, action)))

    async def _step(self, session: Session | None, peer: RpcPeer, action: Any) -> Any:
        """Return the observation of a step, decoded, on a new session where none is given."""
        if session is not None:
            return _decode((await self._reply(session, peer, action)).payload)
        assert isinstance(peer, _HttpPeer)
        async with self._sessions.for_one_call(peer.request, "plain") as session:
            return _decode((await self._reply(session, peer, action)).payload)

    async def _reply(self, session: Session, peer: RpcPeer, action: Any) -> frames.Observation:
        payload = _encode(action)
        timeout = request_timeout(peer.request) if isinstance(peer, _HttpPeer) else None
        make: MakeFrame = lambda seq, ack, _: frames.Step(0, seq, ack, payload, timeout)  # noqa: E731
        reply = await peer.call(session, make)
        assert isinstance(reply, frames.Observation)
        return reply


def _tools_of(spec: EnvironmentSpec) -> dict[str, Tool] | None:
    """Return the tools of an environment, unless it lists them by a step, as OpenEnv's MCP ones."""
    if getattr(spec.cls, LISTS_TOOLS, False):
        return None
    by_name = called_by_name(Tool("any"), spec.schema["action"])
    if spec.declared_tools is None and "tool_name" in by_name.constants:
        return None
    return {tool.name: tool for tool in spec.tools(ONE_TOOL)}


def _observed(observation: dict[str, Any]) -> frames.Observation:
    """The observation of what needed no step."""
    return frames.Observation(0, 0, _encode(observation), None, False, False, None)


def failure_of(error: OpenEnvError, number: str | int | None) -> RpcFailure:
    """An error as JSON-RPC has it in upstream's dialect."""
    refusal = refusal_of(error)
    is_servers = refusal.code in ("CAPACITY_REACHED", "FACTORY_ERROR")
    code = RpcCode.SERVER_ERROR if is_servers else RpcCode.INTERNAL_ERROR
    message = error.message if refusal.code == "VALIDATION_ERROR" else refusal.message
    return RpcFailure(code, message, refusal.beside if is_servers else None, number)


def described(tool: Tool) -> dict[str, Any]:
    """A tool as upstream's clients read it, those made for older and newer ``mcp`` alike."""
    schema = dict(tool.parameters)
    return {
        "name": tool.name,
        "description": tool.description,
        "inputSchema": schema,
        "input_schema": schema,
    }


def call_result(told: Any) -> dict[str, Any]:
    """The result of a tool, in the form that upstream's server passes on."""
    text = told if isinstance(told, str) else _encode(told).decode()
    return {
        "content": [{"type": "text", "text": text, "annotations": None, "meta": None}],
        "structured_content": told if isinstance(told, dict) else {"result": told},
        "meta": None,
        "data": told,
        "is_error": False,
    }


def _result(observation: Any) -> Any:
    """Return the result in the observation of a ``CallToolAction``.

    Raises:
        RpcFailure: that the tool failed, or it is no such observation.
    """
    if not isinstance(observation, dict) or "tool_name" not in observation:
        raise RpcFailure(RpcCode.INTERNAL_ERROR, _NO_MCP)
    error = observation.get("error")
    if error:
        text = error.get("message") if isinstance(error, dict) else error
        raise RpcFailure(RpcCode.INTERNAL_ERROR, str(text))
    return observation.get("result")
