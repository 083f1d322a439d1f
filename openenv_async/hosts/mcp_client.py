"""A client of one MCP server: the handshake of both generations, tools and their calls.

A client of its own, not the official library: that one's releases exclude each other (OpenEnv
0.10.0 needs one below 2, verifiers 0.4.0 one exactly), so what hosts a server could not stand
beside them; and it bounds no message, starts a program without a deadline, and tells of a program
that ended at its start only that the connection was closed.

Rules:

- ``initialize`` comes first (revisions up to 2025-11-25): with it a server knows a session, which
  keeps episodes apart. A server that refuses it is asked with ``server/discover`` (2026-07-28),
  after which every request carries the client's facts itself.
- One request at a time. A reply to another one, and a notification that means nothing here, is
  passed over. Questions of the server are refused, but for ``ping``: nothing was offered to it.
- A call that is cancelled here is cancelled there. Until its end is known no other is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from openenv_async.errors import EnvironmentRaised
from openenv_async.hosts.tools import HostedTool
from openenv_async.protocol.json_rpc import RpcCode
from openenv_async.protocol.mcp import LATEST_WITH_SESSIONS, REVISIONS, REVISIONS_WITH_SESSIONS
from openenv_async.version import __version__

__all__ = [
    "STANDALONE",
    "ChannelClosed",
    "McpCallFailed",
    "McpChannel",
    "McpClient",
    "plain_list",
    "plain_mapping",
]

STANDALONE: Final = REVISIONS[-1]
"""The revision whose requests stand alone."""
_META: Final = "io.modelcontextprotocol/"
_CLIENT: Final = {"name": "openenv-async", "version": __version__}
_MAX_PAGES: Final = 100
_MAX_TOOLS: Final = 2000
_CANCEL_GRACE: Final = 2.0
"""Seconds that the end of a cancelled call is waited for before the next one."""


class ChannelClosed(Exception):
    """The server is gone; the text says how."""


class McpCallFailed(Exception):
    """A request was answered with an error.

    Attributes:
        code: of JSON-RPC.
        message: the server's own words.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self.message = message


class McpChannel(Protocol):
    """A way to one server.

    Attributes:
        take: is given each message that the server sends of its own, and returns what to answer.
    """

    take: Callable[[dict[str, Any]], dict[str, Any] | None]

    @property
    def log_tail(self) -> str:
        """The last lines that the server wrote and that are not messages."""
        ...

    @property
    def exit_code(self) -> int | None:
        """Exit code of the server's program, once that has ended."""
        ...

    def note(self, line: str) -> None:
        """Keep a line that the server logs, beside the others."""
        ...

    async def request(self, message: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
        """Return the reply of a request.

        Args:
            message: the request.
            names: what HTTP tells of it in headers.

        Raises:
            ChannelClosed: the server is gone, or its reply cannot be read.
        """
        ...

    async def notify(self, message: dict[str, Any]) -> None:
        """Send a notification."""
        ...

    async def abandon(self, message: dict[str, Any]) -> None:
        """Tell the server that nobody waits for a request."""
        ...

    async def settled(self, timeout: float) -> bool:
        """Return whether the end of what was abandoned is known, or gets known in time."""
        ...

    async def aclose(self) -> None:
        """End it. Idempotent."""
        ...


class McpClient:
    """The client.

    Args:
        channel: the way to the server; the client closes it.
        whose: the environment's name, for errors.

    Attributes:
        tools: by name, as listed last.
        server: the name and version that the server gives itself.
        revision: of the protocol.
        instructions: what the server says of its use.
    """

    def __init__(self, channel: McpChannel, whose: str) -> None:
        self.tools: dict[str, HostedTool] = {}
        self.server = ""
        self.revision = ""
        self.instructions = ""
        self._channel = channel
        self._whose = whose
        self._number = 0
        self._tells_changes = False
        self._changed = False
        self._unsettled: str | None = None
        channel.take = self._take

    async def begin(self) -> None:
        """Shake hands and list the tools.

        Raises:
            ChannelClosed: the server is gone.
            McpCallFailed: it refuses.
        """
        try:
            told = await self._request(
                "initialize",
                {
                    "protocolVersion": LATEST_WITH_SESSIONS,
                    "capabilities": {},
                    "clientInfo": _CLIENT,
                },
            )
        except McpCallFailed as refusal:
            await self._discover(refusal)
        else:
            revision = told.get("protocolVersion")
            if revision not in REVISIONS_WITH_SESSIONS:
                raise ChannelClosed(f"it speaks MCP {revision!r:.40}, which is not known here")
            self.revision = revision
            self._know(told, told.get("serverInfo"))
            await self._channel.notify(_notification("notifications/initialized"))
        await self.list_tools()

    async def _discover(self, refusal: McpCallFailed) -> None:
        """Ask a server that refuses the handshake for the revision without one."""
        self.revision = STANDALONE
        try:
            told = await self._request("server/discover", {})
        except McpCallFailed:
            raise refusal from None
        if STANDALONE not in plain_list(told.get("supportedVersions")):
            raise refusal
        self._know(told, plain_mapping(told.get("_meta")).get(f"{_META}serverInfo"))

    def _know(self, told: Mapping[str, Any], server: Any) -> None:
        about = plain_mapping(server)
        self.server = f"{about.get('name', '')} {about.get('version', '')}".strip()[:200]
        instructions = told.get("instructions")
        self.instructions = instructions if isinstance(instructions, str) else ""
        capabilities = plain_mapping(told.get("capabilities"))
        says = plain_mapping(capabilities.get("tools")).get("listChanged") is True
        self._tells_changes = says and self.revision != STANDALONE

    async def list_tools(self) -> None:
        """List the tools anew, all pages of them.

        Raises:
            ChannelClosed, McpCallFailed: as for ``call``.
        """
        self._changed = False
        found: dict[str, HostedTool] = {}
        cursor: Any = None
        for _ in range(_MAX_PAGES):
            page = await self._request("tools/list", {} if cursor is None else {"cursor": cursor})
            for each in plain_list(page.get("tools")):
                tool = _tool(each)
                if tool is not None and len(found) < _MAX_TOOLS:
                    found[tool.name] = tool
            cursor = page.get("nextCursor")
            if not cursor:
                break
        self.tools = found

    async def refresh(self, *, doubted: bool = False) -> bool:
        """List the tools anew if the server said that they changed; return whether they did.

        Args:
            doubted: a call does not fit what is known. A server that tells no changes is asked.
        """
        if not self._changed and not (doubted and not self._tells_changes):
            return False
        before = self.tools
        await self.list_tools()
        return before != self.tools

    async def call(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Call a tool and return its result, which may say that it failed.

        Raises:
            ChannelClosed: the server is gone.
            McpCallFailed: it answers with an error of the protocol.
            EnvironmentRaised: a call before it was cancelled, and has not ended.
        """
        if self._unsettled is not None:
            if not await self._channel.settled(_CANCEL_GRACE):
                raise EnvironmentRaised(
                    f"the call of {self._unsettled!r} was cancelled and its end is not known, so"
                    f" {self._whose} takes no other one: reset() begins anew",
                    env=self._whose,
                )
            self._unsettled = None
        names = {"Mcp-Name": name} | self._mirrored(name, arguments)
        return await self._request(
            "tools/call", {"name": name, "arguments": dict(arguments)}, names
        )

    def _mirrored(self, name: str, arguments: Mapping[str, Any]) -> dict[str, str]:
        """The arguments that a server wants in headers too, by the schema of the tool."""
        tool = self.tools.get(name)
        properties = plain_mapping(plain_mapping(tool and tool.parameters).get("properties"))
        found: dict[str, str] = {}
        for key, schema in properties.items():
            header, value = plain_mapping(schema).get("x-mcp-header"), arguments.get(key)
            if isinstance(header, str) and isinstance(value, bool | int | str):
                text = str(value).lower() if isinstance(value, bool) else str(value)
                found[f"Mcp-Param-{header}"] = text
        return found

    async def _request(
        self, method: str, params: dict[str, Any], names: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        self._number += 1
        headers: dict[str, str] = {}
        if self.revision:
            headers["MCP-Protocol-Version"] = self.revision
        if self.revision == STANDALONE:
            headers |= {"Mcp-Method": method, **(names or {})}
            params["_meta"] = {
                f"{_META}protocolVersion": STANDALONE,
                f"{_META}clientInfo": _CLIENT,
                f"{_META}clientCapabilities": {},
            }
        message = {"jsonrpc": "2.0", "id": self._number, "method": method, "params": params}
        try:
            reply = await self._channel.request(message, headers)
        except asyncio.CancelledError:
            if method == "tools/call":
                self._unsettled = str(params["name"])
                cancelled = {"requestId": self._number, "reason": "its deadline has passed"}
                await self._channel.abandon(_notification("notifications/cancelled", cancelled))
            raise
        error = reply.get("error")
        if error is not None:
            about = plain_mapping(error)
            code, text = about.get("code"), about.get("message")
            raise McpCallFailed(code if isinstance(code, int) else 0, str(text)[:4000])
        result = reply.get("result")
        if not isinstance(result, dict):
            raise ChannelClosed(f"its reply to {method} has no result")
        if result.get("resultType", "complete") != "complete":
            raise McpCallFailed(0, f"it answers {method} with a question, which nobody can answer")
        return result

    def _take(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """Take what the server sends of its own; return the answer to a request."""
        method, number = message.get("method"), message.get("id")
        if number is None:
            params = plain_mapping(message.get("params"))
            if method == "notifications/tools/list_changed":
                self._changed = True
            elif method == "notifications/message":
                self._channel.note(f"{params.get('level', 'info')}: {params.get('data')}")
            return None
        if method == "ping":
            return {"jsonrpc": "2.0", "id": number, "result": {}}
        error = {
            "code": RpcCode.METHOD_NOT_FOUND,
            "message": f"{method} is not offered by this client",
        }
        return {"jsonrpc": "2.0", "id": number, "error": error}

    async def aclose(self) -> None:
        """End the connection, and the server if it was started for it."""
        await self._channel.aclose()


def _notification(method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": method} | ({} if params is None else {"params": params})


def _tool(told: Any) -> HostedTool | None:
    """Return a tool as it is listed; ``None`` for what is not one."""
    about = plain_mapping(told)
    name = about.get("name")
    if not isinstance(name, str) or not name:
        return None
    description = about.get("description")
    return HostedTool(
        name,
        description if isinstance(description, str) else "",
        {"type": "object", **plain_mapping(about.get("inputSchema"))},
    )


def plain_mapping(value: Any) -> Mapping[str, Any]:
    """Return a JSON object; an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def plain_list(value: Any) -> Sequence[Any]:
    """Return a JSON array; an empty one for anything else."""
    return value if isinstance(value, list) else []
