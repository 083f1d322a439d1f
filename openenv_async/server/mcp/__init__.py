"""Every served environment as an MCP server: its tools, episodes and pictures for any agent.

The SDK's own server side is not used. It keeps a task group and streams for each session, where
this server has thousands; it comes in two major versions, of which environments and their peers
need one or the other; and the part that is needed here (requests, results, one stream of events)
is small beside what it would have to be told about sessions, capacity and deadlines, which the
engine has already. The clients of that SDK, of FastMCP and of the inspector are what the tests use.
"""

from __future__ import annotations

from openenv_async.server.mcp.endpoint import McpEndpoint
from openenv_async.server.mcp.offer import checked_access
from openenv_async.server.mcp.sessions import IDLE_TIMEOUT

__all__ = ["IDLE_TIMEOUT", "McpEndpoint", "checked_access"]
