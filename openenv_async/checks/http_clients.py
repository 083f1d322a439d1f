"""The smallest clients of the dialects in which each call is one HTTP request of its own.

Upstream's JSON-RPC, MCP with and without sessions, and upstream's HTTP without a session.
"""

from __future__ import annotations

import itertools
import json
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Self

from openenv_async.checks.registry import Skipped
from openenv_async.client.refusals import read_failure
from openenv_async.endpoints.addresses import is_here
from openenv_async.errors import EpisodeNotStarted, OpenEnvError, SessionNotFound
from openenv_async.protocol.codec import read_json_reward
from openenv_async.protocol.json_rpc import RpcCode
from openenv_async.schemas.legal import ACTION_MASK, LEGAL_ACTIONS
from openenv_async.types import EpisodeInfo, StepResult

if TYPE_CHECKING:
    import aiohttp

__all__ = ["McpSession", "OneCallSession", "RpcSession", "UntypedError"]

_PATIENCE: Final = 60.0
"""Seconds that one request may take."""
_VERSION: Final = "MCP-Protocol-Version"
_SESSION_ID: Final = "Mcp-Session-Id"
_META: Final = "io.modelcontextprotocol"
_HANDLES: Final = ("openenv_session", "session")
"""Arguments that name a session; the first where the environment has one of the other's name."""
_OF_THE_SESSION: Final = frozenset({"reset", "state", "close", "observe"})


class UntypedError(Exception):
    """A call failed, and the dialect has no word for how."""

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class _Session:
    """The requests that the dialects share, and errors in the forms that servers give them."""

    episode: EpisodeInfo | None = None

    def __init__(self, url: str, token: str | None) -> None:
        self._url = url.rstrip("/")
        self._token = token
        self._http: aiohttp.ClientSession | None = None
        self._numbers = itertools.count(1)

    async def __aenter__(self) -> Self:
        import aiohttp

        headers = {} if self._token is None else {"Authorization": f"Bearer {self._token}"}
        self._http = aiohttp.ClientSession(
            headers=headers,
            trust_env=not is_here(self._url),
            timeout=aiohttp.ClientTimeout(total=_PATIENCE),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        try:
            await self._open()
        except BaseException:
            await self._http.close()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the session, if one is open, and close the sockets."""
        http = self._http
        if http is None or http.closed:
            return
        try:
            await self._end()
        finally:
            await http.close()

    async def _open(self) -> None:
        """Begin the session, in dialects that have a call for it."""

    async def _end(self) -> None:
        """End the session, in dialects that have a call for it."""

    async def _send(
        self,
        method: str,
        path: str,
        message: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[Any, Mapping[str, str]]:
        """Send one request; return the body and the headers of its answer.

        Raises:
            OpenEnvError: the server refused it, and says why.
            UntypedError: it refused it in another way.
        """
        assert self._http is not None
        data = None if message is None else json.dumps(message)
        sent = {"Content-Type": "application/json", **(headers or {})}
        async with self._http.request(method, self._url + path, data=data, headers=sent) as reply:
            body = await reply.read()
        failure = read_failure(body)
        if failure is not None:
            raise failure
        try:
            found = json.loads(body) if body else {}
        except ValueError:
            found = None
        of_json_rpc = isinstance(found, dict) and "jsonrpc" in found
        if found is None or (reply.status >= 400 and not of_json_rpc):
            raise UntypedError(f"status {reply.status}: {body[:300].decode(errors='replace')}")
        return found, reply.headers

    async def _ask(
        self,
        method: str,
        params: dict[str, Any],
        headers: Mapping[str, str] | None = None,
        path: str = "/mcp",
    ) -> tuple[Any, Mapping[str, str]]:
        """Make one call of JSON-RPC; return its result, and the headers of the answer.

        Raises:
            OpenEnvError, UntypedError: it failed.
        """
        number = next(self._numbers)
        message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        body, answered = await self._send("POST", path, message, headers)
        if not isinstance(body, dict) or body.get("id") != number:
            raise UntypedError(f"the answer to request {number} is {body!r:.200}")
        if "error" in body:
            raise UntypedError(str(body["error"].get("message")), body["error"].get("code"))
        return body["result"], answered


class _ToolSession(_Session):
    """A session whose steps are calls of the one tool that the environment's actions make."""

    _tool: tuple[str, bool] | None = None

    async def _listed(self) -> list[Any]:
        """The tools that the server offers."""
        raise NotImplementedError

    async def _called(self, action: Any) -> tuple[str, Any]:
        """Return the tool and the arguments that make an action.

        Raises:
            Skipped: the actions are not those of one tool.
        """
        if self._tool is None:
            tools = [each for each in await self._listed() if each["name"] not in _OF_THE_SESSION]
            if [each["name"] for each in tools] not in (["step"], ["act"]):
                raise Skipped("the environment's actions are not the arguments of one tool")
            [tool] = tools
            taken = {*tool["inputSchema"].get("properties", {})} - {*_HANDLES}
            self._tool = (tool["name"], taken == {"action"})
        name, is_whole = self._tool
        if is_whole and not (isinstance(action, dict) and "action" in action):
            return name, {"action": action}
        return name, action


class RpcSession(_ToolSession):
    """A session of ``openenv/session/create``, and ``tools/call`` in it.

    The dialect has no reset, and tells neither a reward nor an end: an episode is a session.
    """

    _id: str | None = None

    async def _open(self) -> None:
        self._id = (await self._ask("openenv/session/create", {}))[0]["session_id"]

    async def _end(self) -> None:
        if self._id is not None:
            await self._ask("openenv/session/close", {"session_id": self._id})
            self._id = None

    async def _listed(self) -> list[Any]:
        found, _ = await self._ask("tools/list", {"session_id": self._id})
        return list(found["tools"])

    async def reset(self, **options: Any) -> StepResult[Any]:
        """Begin a new session in place of this one, which shows no observation."""
        await self._end()
        await self._open()
        return StepResult(None)

    async def step(self, action: Any, *, timeout: float | None = None) -> StepResult[Any]:
        """Call the tool that the action is."""
        name, arguments = await self._called(action)
        params = {"session_id": self._id, "name": name, "arguments": arguments}
        found, _ = await self._ask("tools/call", params)
        if found.get("is_error"):
            raise UntypedError(repr(found.get("content"))[:300])
        return StepResult(found["data"])

    async def use_unknown(self) -> None:
        """Use a session that never was.

        Raises:
            SessionNotFound: the server says so.
        """
        handle = f"{secrets.token_hex(16)}.{secrets.token_hex(16)}"
        try:
            await self._ask("tools/call", {"session_id": handle, "name": "act", "arguments": {}})
        except UntypedError as exc:
            if exc.code == RpcCode.INVALID_PARAMS and "session_id" in str(exc):
                raise SessionNotFound(str(exc)) from None
            raise


class McpSession(_ToolSession):
    """A session of MCP, as an agent has it: neither rewards nor the state are told.

    Args:
        url: of the server.
        token: access token.
        revision: of the protocol; up to 2025-11-25 with sessions, from 2026-07-28 on without.
    """

    def __init__(self, url: str, token: str | None, revision: str) -> None:
        super().__init__(url, token)
        self._revision = revision
        self._has_sessions = revision < "2026-07-28"
        self._id: str | None = None
        self._handle: dict[str, str] = {}

    async def _open(self) -> None:
        if not self._has_sessions:
            return
        about = {"name": "openenv-async conformance", "version": "1"}
        params = {"protocolVersion": self._revision, "capabilities": {}, "clientInfo": about}
        found, answered = await self._request("initialize", params)
        if found["protocolVersion"] != self._revision:
            raise UntypedError(f"asked for {self._revision}, got {found['protocolVersion']!r}")
        self._id = answered.get(_SESSION_ID)
        note = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        await self._send("POST", "/mcp", note, self._headers("notifications/initialized", {}))

    async def _end(self) -> None:
        if self._id is not None:
            await self._send("DELETE", "/mcp", None, self._headers("", {}))
            self._id = None
        elif self._handle:
            await self._use("close", {})
            self._handle = {}

    def _headers(self, method: str, params: Mapping[str, Any]) -> dict[str, str]:
        headers = {"Accept": "application/json, text/event-stream"}
        if method != "initialize":
            headers[_VERSION] = self._revision
        if self._id is not None:
            headers[_SESSION_ID] = self._id
        if not self._has_sessions:
            headers["Mcp-Method"] = method
            if "name" in params:
                headers["Mcp-Name"] = params["name"]
        return headers

    async def _request(
        self, method: str, params: dict[str, Any], path: str = "/mcp"
    ) -> tuple[Any, Mapping[str, str]]:
        if not self._has_sessions:
            about = {f"{_META}/protocolVersion": self._revision, f"{_META}/clientCapabilities": {}}
            params = {**params, "_meta": about}
        return await self._ask(method, params, self._headers(method, params), path)

    async def _use(self, name: str, arguments: Any) -> dict[str, Any]:
        """Call a tool and return its structured content.

        Raises:
            OpenEnvError, UntypedError: it failed.
        """
        if isinstance(arguments, dict):
            arguments = {**self._handle, **arguments}
        found, _ = await self._request("tools/call", {"name": name, "arguments": arguments})
        if found.get("isError"):
            raise UntypedError(found["content"][0]["text"])
        return dict(found.get("structuredContent") or {})

    async def _listed(self) -> list[Any]:
        return list((await self._request("tools/list", {}))[0]["tools"])

    async def reset(
        self,
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> StepResult[Any]:
        """Begin an episode; the seed is the trainer's, and not sent."""
        told = await self._use("reset", options)
        if self._id is None:
            name = next((name for name in _HANDLES if name in told), None)
            if name is None:
                raise UntypedError(f"reset gave no handle of the session: {[*told]}")
            self._handle = {name: told[name]}
        return _of_agents(told)

    async def step(self, action: Any, *, timeout: float | None = None) -> StepResult[Any]:
        """Call the tool that the action is."""
        return _of_agents(await self._use(*await self._called(action)))

    async def use_unknown(self) -> None:
        """Use a session that never was, by its address.

        Raises:
            SessionNotFound: the server says so.
        """
        await self._request("tools/list", {}, f"/mcp/{secrets.token_hex(32)}")


def _of_agents(told: dict[str, Any]) -> StepResult[Any]:
    stopped = bool(told.get("truncated"))
    info: dict[str, Any] = {
        name: told[name] for name in (LEGAL_ACTIONS, ACTION_MASK) if name in told
    }
    return StepResult(
        told.get("observation"), None, bool(told["done"]) and not stopped, stopped, info=info
    )


class OneCallSession(_Session):
    """Upstream's HTTP without a session: each call has an environment of its own."""

    async def _open(self) -> None:
        try:
            await self._send("GET", "/state")
        except EpisodeNotStarted:
            raise Skipped("calls without a session need `serve --stateless-http`") from None
        except (OpenEnvError, UntypedError):
            return  # the checks find out

    async def reset(
        self,
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> StepResult[Any]:
        """Begin an episode, which no other call is of."""
        given = {"seed": seed, "episode_id": episode_id}
        message = {**options, **{name: each for name, each in given.items() if each is not None}}
        return _of_upstream((await self._send("POST", "/reset", message))[0])

    async def step(self, action: Any, *, timeout: float | None = None) -> StepResult[Any]:
        """Take one action."""
        return _of_upstream((await self._send("POST", "/step", {"action": action}))[0])

    async def state(self) -> Any:
        """Return the state of a new environment."""
        return (await self._send("GET", "/state"))[0]


def _of_upstream(body: Any) -> StepResult[Any]:
    return StepResult(body["observation"], read_json_reward(body["reward"]), bool(body["done"]))
