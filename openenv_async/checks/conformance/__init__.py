"""The conformance suite: what every server of the protocol promises, over every transport.

Each behaviour is one named check: an async function with a docstring that says what is promised.
A ``Transport`` opens sessions in one way: native MessagePack, native JSON, upstream's dialect,
HTTP, or in process, and those that carry less: upstream's JSON-RPC, MCP, and upstream's HTTP
without a session. A server of ``openenv_async.testing:ConformanceEnvironment`` is put through
all of them; any other server through the generic ones, with actions drawn from its schema.

``await run(url)`` checks a server, ``openenv-async conformance URL`` prints the result.
"""

from openenv_async.checks.conformance.subject import Subject
from openenv_async.checks.conformance.suite import CHECKS, Suite, run
from openenv_async.checks.registry import Check, CheckFailed, Result, Skipped
from openenv_async.checks.transports import (
    Conversation,
    HTTPTransport,
    InProcessTransport,
    McpTransport,
    NativeTransport,
    OneCallTransport,
    Transport,
    UpstreamRpcTransport,
    UpstreamTransport,
)
from openenv_async.renamed import renamed_attributes

__all__ = [
    "CHECKS",
    "Check",
    "CheckFailed",
    "Conversation",
    "HTTPTransport",
    "InProcessTransport",
    "McpTransport",
    "NativeTransport",
    "OneCallTransport",
    "Result",
    "Skipped",
    "Subject",
    "Suite",
    "Transport",
    "UpstreamRpcTransport",
    "UpstreamTransport",
    "run",
]

__getattr__ = renamed_attributes(
    __name__,
    {
        "Door": "openenv_async.checks.transports.Transport",
        "HTTPDoor": "openenv_async.checks.transports.HTTPTransport",
        "MemoryDoor": "openenv_async.checks.transports.InProcessTransport",
        "NativeDoor": "openenv_async.checks.transports.NativeTransport",
        "UpstreamDoor": "openenv_async.checks.transports.UpstreamTransport",
    },
)
